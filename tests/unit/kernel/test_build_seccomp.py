# SPDX-License-Identifier: Apache-2.0
"""The binding of seccomp(2): what is declared, what the stub says, and what is built are one."""

from __future__ import annotations

import re
from pathlib import Path

import bpfence.kernel
from bpfence.kernel import build_seccomp
from bpfence.kernel._seccomp import lib

FOLDER = Path(bpfence.kernel.__file__).parent


def test_the_stub_names_everything_that_was_built() -> None:
    stub = (FOLDER / "_seccomp.pyi").read_text().partition("class _Lib:")[2]
    named = set(re.findall(r"^    (?:def )?(\w+)[(:]", stub, re.MULTILINE))
    assert named == set(dir(lib))


def test_every_declared_function_is_in_the_source() -> None:
    declared = set(re.findall(r"(bpfence_\w+)\(", build_seccomp.DECLARATIONS))
    source = (FOLDER / "seccomp.c").read_text()
    assert declared
    assert all(re.search(rf"^static [\w ]+\*?{name}\(", source, re.MULTILINE) for name in declared)


def test_it_links_no_library() -> None:
    """So that commands can be confined where libbpf and libseccomp are not installed."""
    assert not build_seccomp.make_builder()._assigned_source[-1].get("libraries")
