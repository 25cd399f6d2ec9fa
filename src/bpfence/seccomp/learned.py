# SPDX-License-Identifier: Apache-2.0
"""System calls that a command was seen to make in, a least-privilege profile out.

Called by `bpfence seccomp learn`. Pure: the same calls give the same bytes. One run does not show all that the next one needs, even with
the same input: BY_CHANCE says which calls a profile has beyond those that were seen, and why.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

import msgspec

from bpfence.seccomp.model import EPERM, Arg, ArgOp, Profile, ProfileAction, ProfileRule
from bpfence.seccomp.runtimes import needs
from bpfence.syscalls.architectures import X32_BIT, Arch
from bpfence.syscalls.table import available, name

BY_CHANCE: Final[Mapping[str, tuple[str, ...]]] = {
    "the kernel makes it when a stopped or traced process goes on inside a wait": ("restart_syscall",),
    "the end of a signal handler, and whether a signal comes is chance": ("rt_sigreturn", "sigreturn"),
    "a command that was ended by a signal did not show how it ends": ("exit", "exit_group"),
    "a shell that starts the command asks for its folder where PWD does not say it, and waits for a child or its trap": (
        "getcwd", "rt_sigsuspend",
    ),
    "locks ask the kernel only when two threads meet": ("futex", "futex_time64"),
    "a spinning lock of a C library or runtime": ("sched_yield",),
    "made in the vDSO, and by the kernel where its clock source has none (another machine, a guest)": (
        "clock_gettime", "clock_gettime64", "clock_getres", "clock_getres_time64", "gettimeofday", "time", "getcpu", "getrandom",
    ),
    "what a program says when something goes wrong, to a descriptor that it has": ("write", "writev"),
    "how an allocator grows and shrinks depends on sizes, on the layout of memory and on how threads meet": (
        "brk", "mmap", "mmap2", "munmap", "mremap", "mprotect", "madvise",
    ),
}  # fmt: skip
"""Why → calls that every learned profile allows on the architectures that were seen. None of them gives the process access to anything
new."""

ORDINARY_FAMILIES: Final = frozenset({1, 2, 10, 16})
"""AF_UNIX, AF_INET, AF_INET6, AF_NETLINK. Where sockets are made at all, it is chance which of these are used: looking up a name tries what
the host has, and a message to the log is a socket. All others (AF_PACKET, AF_ALG, AF_VSOCK, …) are allowed only if they were used."""


class Seen(msgspec.Struct, frozen=True):
    """One call that was made: as the kernel numbers it, x32's without its bit."""

    arch: Arch
    number: int

    @property
    def name(self) -> str | None:
        """Its name; None where this version of bpfence does not know it."""
        return name(self.arch, self.number | X32_BIT if self.arch is Arch.X32 else self.number)


class Learned(msgspec.Struct, frozen=True):
    """A profile and what went into it: names that were seen, names that were added, and calls that could not be named."""

    profile: Profile
    seen: tuple[str, ...]
    by_chance: tuple[str, ...]
    by_runtime: tuple[str, ...]
    nameless: tuple[Seen, ...]


def learn(calls: Iterable[Seen], runtime: str = "", *, families: Collection[int] | None = None, machine: Arch | None = None) -> Learned:
    """A profile that allows these calls and what goes with them, and nothing else.

    A profile of the OCI form has one list of names for all its architectures: what was seen on one is allowed on all that were seen. The
    machine's own architecture always is among them. `runtime`: of `runtimes.runtime_names`, "" for none. `families`: those of the sockets
    that were made, None where they are not known: then, and where 32-bit calls were seen, sockets of every family are allowed.
    """
    made = set(calls)
    native = machine or Arch.native()
    arches = (native, *sorted({call.arch for call in made} - {native}, key=lambda arch: arch.value))
    seen = {name for call in made if (name := call.name) is not None}
    chance = {word for words in BY_CHANCE.values() for word in words if _exists(word, arches)} - seen
    needed = {word for word in needs(runtime) if _exists(word, arches)} if runtime else set()
    by_family = families is not None and "socket" in seen and all(arch.bits == 64 or arch is Arch.X32 for arch in arches)
    names = tuple(sorted((seen | chance | needed) - ({"socket"} if by_family else set())))
    rules = [ProfileRule(names=names, action=ProfileAction.ALLOW)]
    if by_family and families is not None:
        wanted = sorted(ORDINARY_FAMILIES | set(families))
        rules += [ProfileRule(names=("socket",), action=ProfileAction.ALLOW, args=(Arg(0, ArgOp.EQ, family),)) for family in wanted]
    profile = Profile(default_action=ProfileAction.ERRNO, default_errno=EPERM, architectures=arches, rules=tuple(rules))
    return Learned(
        profile,
        tuple(sorted(seen)),
        tuple(sorted(chance)),
        tuple(sorted(needed - seen - chance)),
        tuple(sorted((call for call in made if call.name is None), key=lambda call: (call.arch.value, call.number))),
    )


def _exists(word: str, arches: Collection[Arch]) -> bool:
    return any(available(arch, word) for arch in arches)
