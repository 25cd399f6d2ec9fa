# SPDX-License-Identifier: Apache-2.0
"""The machines of the tables."""

from __future__ import annotations

from bpfence.syscalls.architectures import Arch


def test_architectures_have_the_names_of_go_and_of_uname() -> None:
    assert (Arch.X86_64.go_name, Arch.AARCH64.go_name, Arch.X86.go_name) == ("amd64", "arm64", "x86")
    assert Arch.X86_64.machine == "x86_64"
    assert Arch.native() in Arch
    assert Arch.X32.audit == Arch.X86_64.audit
    assert Arch.X32.token != Arch.X86_64.token
    assert not Arch.S390X.supported
    assert [arch for arch in Arch if arch.supported and arch.bits == 32] == [Arch.X86, Arch.X32, Arch.ARM]
