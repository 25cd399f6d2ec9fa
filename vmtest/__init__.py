"""A kernel's name and a command in, the command's exit code on that kernel out.

    VmtestError               every failure a user can cause or meet; ``exit_code`` is what the command line returns
    ├── UsageError            a kernel that is not in the table, a folder that does not exist
    ├── MissingToolError      a host program is absent; the message names the package
    ├── MirrorError           no mirror, no such suite, a bad signature or digest
    └── GuestError            the guest died, or never reported an exit code
        ├── NeverBeganError   it died while it booted, before its command began
        ├── EmulatorError     it died of code that the emulator should have forgotten
        └── GuestTimeoutError the guest was killed at its time limit

``python3 -m vmtest``, the tests under tests/kernel and the benchmarks call this package. It needs the standard library,
a few Debian tools and virtme-ng; it imports nothing of bpfence, so that it can test any build of it.
"""

from __future__ import annotations


class VmtestError(Exception):
    """A failure with a message for the user. ``exit_code``: 125, the code timeout(1) uses for its own failures."""

    exit_code = 125


class UsageError(VmtestError):
    """A request that no machine could fulfil as written."""

    exit_code = 2


class MissingToolError(VmtestError):
    """A program that this machine lacks."""

    exit_code = 3

    def __init__(self, program: str, remedy: str) -> None:
        super().__init__(f"{program} is missing on this machine; {remedy}")
        self.program = program


class MirrorError(VmtestError):
    """The mirror cannot be found, does not answer, or does not match its signature."""


class GuestError(VmtestError):
    """The guest ended without reporting the exit code of its command."""


class NeverBeganError(GuestError):
    """The guest ended before its command began: nothing that the command does can be the reason."""


class EmulatorError(GuestError):
    """The guest's kernel died because QEMU ran an instruction that the kernel had replaced before. ``exit_code``: 123, for callers who can
    boot again and go on. See ``guest.STALE``."""

    exit_code = 123


class GuestTimeoutError(GuestError):
    """The guest was still running at its time limit. ``exit_code``: 124, as in timeout(1)."""

    exit_code = 124
