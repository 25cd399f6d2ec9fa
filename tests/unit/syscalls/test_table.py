# SPDX-License-Identifier: Apache-2.0
"""The table of system calls: against the headers of this machine, and the sets against the table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bpfence.syscalls import table as syscalls
from bpfence.syscalls.architectures import ARCHES, X32_BIT, Arch
from bpfence.syscalls.arguments import ARGUMENTS
from bpfence.syscalls.table import available, by_audit, multiplexed, name, number, numbers, signature

HEADERS = Path("/usr/include/x86_64-linux-gnu/asm")


@pytest.mark.parametrize(("file", "arch"), [("unistd_64.h", Arch.X86_64), ("unistd_32.h", Arch.X86), ("unistd_x32.h", Arch.X32)])
def test_numbers_are_those_of_the_kernels_headers(file: str, arch: Arch) -> None:
    if not (HEADERS / file).exists():
        pytest.skip(f"no {HEADERS / file}")
    found = re.findall(r"#define __NR_(\w+) \(?(?:__X32_SYSCALL_BIT \+ )?(\d+)\)?", (HEADERS / file).read_text())
    assert len(found) > 300
    for call, digits in found:
        assert number(arch, call) == int(digits) | (X32_BIT if arch is Arch.X32 else 0), call


def test_known_numbers_of_the_other_architectures() -> None:
    assert [number(arch, "execve") for arch in ARCHES] == [59, 11, X32_BIT | 520, 221, 11]
    assert [number(arch, "read") for arch in ARCHES] == [0, 3, X32_BIT, 63, 3]
    assert [number(arch, "listns") for arch in ARCHES] == [470, 470, X32_BIT | 470, 470, 470]
    assert number(Arch.AARCH64, "open") is None
    assert number(Arch.ARM, "breakpoint") == 0xF0001


@pytest.mark.parametrize("arch", ARCHES)
def test_names_and_numbers_are_one_to_one(arch: Arch) -> None:
    for call, found in numbers(arch).items():
        assert number(arch, name(arch, found) or "") == found, call


def test_by_audit() -> None:
    assert by_audit(0xC000003E, 59) == (Arch.X86_64, "execve")
    assert by_audit(0xC000003E, X32_BIT | 520) == (Arch.X32, "execve")
    assert by_audit(0x40000003, 11) == (Arch.X86, "execve")
    assert by_audit(0xC000003E, 5000) == (Arch.X86_64, None)
    with pytest.raises(ValueError, match="0x1234"):
        by_audit(0x1234, 0)


def test_multiplexers() -> None:
    assert multiplexed(Arch.X86, "socket") == ("socketcall", 1)
    assert multiplexed(Arch.X86, "shmat") == ("ipc", 21)
    assert multiplexed(Arch.X86_64, "socket") is None
    assert available(Arch.X86, "accept")
    assert number(Arch.X86, "accept") is None
    assert not available(Arch.X86_64, "socketcall")


def test_the_sets_hold_calls_only() -> None:
    sets = [*syscalls.FAMILIES, syscalls.DANGEROUS, syscalls.FALLS_BACK]
    mappings = [syscalls.LIBC_NEEDS, syscalls.IO_URING, syscalls.SINCE, syscalls.SOCKETCALL, syscalls.IPC, ARGUMENTS]
    for group in [*sets, *map(frozenset, mappings)]:
        assert [call for call in group if not syscalls.known(call)] == []
    assert {call for family in syscalls.FAMILIES for call in family if sum(call in other for other in syscalls.FAMILIES) > 1} == set()


def test_signature() -> None:
    found = signature("openat")
    assert found is not None
    assert found.arguments == (("dirfd", "dirfd"), ("path", "path"), ("flags", "open"), ("mode", "mode"))
    assert signature("chown32") == signature("chown")
    assert signature("clock_settime64") == signature("clock_settime")
    assert signature("fork") is not None
    assert signature("geteuid") is not None
    assert signature("no_such_call") is None
