# SPDX-License-Identifier: Apache-2.0
"""The binding: what the library answers, and its refusals."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from bpfence.errors import KernelError
from bpfence.seccomp import libseccomp
from bpfence.seccomp.libseccomp import FilterContext, RuleError, knows, name_of, number_of, version
from bpfence.seccomp.model import Arg, ArgOp, ProfileAction, ProfileVerdict
from bpfence.syscalls.architectures import ARCHES, Arch

ALLOW, KILL = ProfileVerdict(ProfileAction.ALLOW), ProfileVerdict(ProfileAction.KILL_THREAD)


def test_version_is_one_that_we_take() -> None:
    assert tuple(map(int, version().split("."))) >= libseccomp.OLDEST


def test_names_and_numbers() -> None:
    assert number_of(Arch.AARCH64, "read") == 63
    assert name_of(Arch.X86, 11) == "execve"
    assert name_of(Arch.X86_64, 100_000) is None
    assert number_of(Arch.X86_64, "no_such_call") is None
    assert number_of(Arch.X86_64, "réad") is None
    assert knows("socketcall")
    assert not knows("no_such_call")
    assert not knows("réad")


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("default", [ProfileVerdict(action) for action in ProfileAction])
def test_every_default_on_every_architecture(arch: Arch, default: ProfileVerdict) -> None:
    with FilterContext(default, arch, KILL) as context:
        assert len(context.program()) % 8 == 0


def test_a_rule_for_what_another_rule_decides_is_refused() -> None:
    arg = Arg(0, ArgOp.EQ, 1)
    with FilterContext(ProfileVerdict(ProfileAction.ERRNO, 1), Arch.X86_64, KILL) as context:
        context.add("read", ALLOW, [arg])
        with pytest.raises(RuleError) as caught:
            context.add("read", KILL, [arg])
    assert caught.value.errno == errno.EEXIST


def test_merged_filters_know_both_architectures() -> None:
    with FilterContext(KILL, Arch.X86_64, KILL) as one, FilterContext(KILL, Arch.X86, KILL) as other:
        alone = one.program()
        one.merge(other)
        assert len(one.program()) > len(alone)
        assert "i386" in one.pseudo_code() or "x86" in one.pseudo_code()


def test_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    libseccomp._library.cache_clear()
    monkeypatch.setattr(libseccomp, "LIBRARY", "libseccomp.so.none")
    with pytest.raises(KernelError) as caught:
        version()
    assert caught.value.missing == "libseccomp"
    assert "apt install" in caught.value.hint
    libseccomp._library.cache_clear()


def test_a_library_that_came_with_the_wheel_goes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    libseccomp._library.cache_clear()
    bundled = tmp_path / "libseccomp-bpfence.so.2"
    bundled.write_text("")
    monkeypatch.setattr(libseccomp, "BUNDLED", bundled)
    with pytest.raises(KernelError, match=str(bundled)):
        libseccomp.version()
    libseccomp._library.cache_clear()


def test_an_old_library(monkeypatch: pytest.MonkeyPatch) -> None:
    libseccomp._library.cache_clear()
    monkeypatch.setattr(libseccomp, "OLDEST", (99, 0, 0))
    with pytest.raises(KernelError, match="is older than 99"):
        version()
    libseccomp._library.cache_clear()


def test_a_failing_call_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fails:
        def __getattr__(self, name: str) -> Any:
            return lambda *_: -errno.EINVAL

    with FilterContext(KILL, Arch.X86_64, KILL) as context:
        real = context._library
        context._library = Fails()
        with pytest.raises(KernelError, match="Invalid argument"):
            context.tree()
        context._library = real
