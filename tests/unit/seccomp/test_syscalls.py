# SPDX-License-Identifier: Apache-2.0
"""Architectures, names and numbers of system calls."""

from __future__ import annotations

from bpfence.seccomp.syscalls import Arch


def test_architectures_have_the_names_of_go_and_of_uname() -> None:
    assert (Arch.X86_64.go_name, Arch.AARCH64.go_name, Arch.X86.go_name) == ("amd64", "arm64", "x86")
    assert Arch.X86_64.machine == "x86_64"
    assert Arch.native() in Arch
