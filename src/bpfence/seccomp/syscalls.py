# SPDX-License-Identifier: Apache-2.0
"""The name of a system call in, its number on an architecture out, and back."""

from __future__ import annotations

import enum
import os


class Arch(enum.Enum):
    """The architectures of profiles; the values are theirs. Go names are those of includes.arches and excludes.arches."""

    X86_64 = "SCMP_ARCH_X86_64"
    X86 = "SCMP_ARCH_X86"
    X32 = "SCMP_ARCH_X32"
    AARCH64 = "SCMP_ARCH_AARCH64"
    ARM = "SCMP_ARCH_ARM"
    MIPS = "SCMP_ARCH_MIPS"
    MIPS64 = "SCMP_ARCH_MIPS64"
    MIPS64N32 = "SCMP_ARCH_MIPS64N32"
    MIPSEL = "SCMP_ARCH_MIPSEL"
    MIPSEL64 = "SCMP_ARCH_MIPSEL64"
    MIPSEL64N32 = "SCMP_ARCH_MIPSEL64N32"
    PPC = "SCMP_ARCH_PPC"
    PPC64 = "SCMP_ARCH_PPC64"
    PPC64LE = "SCMP_ARCH_PPC64LE"
    RISCV64 = "SCMP_ARCH_RISCV64"
    S390 = "SCMP_ARCH_S390"
    S390X = "SCMP_ARCH_S390X"
    LOONGARCH64 = "SCMP_ARCH_LOONGARCH64"
    PARISC = "SCMP_ARCH_PARISC"
    PARISC64 = "SCMP_ARCH_PARISC64"

    @property
    def go_name(self) -> str:
        """As in includes.arches: amd64."""
        return _GO_NAMES.get(self, self.name.lower())

    @property
    def machine(self) -> str:
        """As uname -m says: x86_64."""
        return _MACHINES.get(self, self.name.lower())

    @staticmethod
    def native() -> Arch:
        """The architecture of this machine."""
        machine = os.uname().machine
        return next((arch for arch in Arch if arch.machine == machine), Arch.X86_64)


_GO_NAMES = {Arch.X86_64: "amd64", Arch.AARCH64: "arm64", Arch.LOONGARCH64: "loong64"}
_MACHINES = {Arch.X86: "i686", Arch.ARM: "armv7l"}
