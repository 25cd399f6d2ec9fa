# SPDX-License-Identifier: Apache-2.0
"""The machines whose system calls are told apart: their names and numbers in profiles, in libseccomp, in the kernel's audit records."""

from __future__ import annotations

import enum
import platform
from typing import Final

X32_BIT: Final = 0x40000000
"""Set in the numbers of x32's calls."""


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
    M68K = "SCMP_ARCH_M68K"
    SH = "SCMP_ARCH_SH"
    SHEB = "SCMP_ARCH_SHEB"

    @property
    def go_name(self) -> str:
        """As in includes.arches: amd64."""
        return _GO_NAMES.get(self, self.name.lower())

    @property
    def machine(self) -> str:
        """As uname -m says: x86_64."""
        return _MACHINES.get(self, self.name.lower())

    @property
    def supported(self) -> bool:
        """Whether filters can be made and explained for it."""
        return self in ARCHES

    @property
    def token(self) -> int:
        """libseccomp's number: AUDIT_ARCH_*, apart from x32, which shares x86_64's and is told apart by bit 30 of call numbers."""
        return _TOKENS[self]

    @property
    def audit(self) -> int:
        """AUDIT_ARCH_* as the kernel puts it into struct seccomp_data."""
        return _TOKENS[Arch.X86_64 if self is Arch.X32 else self]

    @property
    def bits(self) -> int:
        """The width of arguments as filters see them. libseccomp takes x32's for 32 bits wide, too."""
        return 32 if self in (Arch.X86, Arch.X32, Arch.ARM) else 64

    @staticmethod
    def native() -> Arch:
        """The architecture of this machine."""
        machine = platform.machine()
        return next((arch for arch in Arch if arch.machine == machine), Arch.X86_64)


ARCHES: Final = (Arch.X86_64, Arch.X86, Arch.X32, Arch.AARCH64, Arch.ARM)
"""The architectures of the table, in the order of its columns."""

# include/uapi/linux/audit.h; x32's is libseccomp's own.
_TOKENS: Final = {
    Arch.X86_64: 0xC000003E, Arch.X86: 0x40000003, Arch.X32: 0x4000003E, Arch.AARCH64: 0xC00000B7, Arch.ARM: 0x40000028,
}  # fmt: skip
_GO_NAMES: Final = {Arch.X86_64: "amd64", Arch.AARCH64: "arm64", Arch.LOONGARCH64: "loong64"}
_MACHINES: Final = {Arch.X86: "i686", Arch.ARM: "armv7l"}
