# SPDX-License-Identifier: Apache-2.0
"""Random profiles, for the property tests of this package."""

from __future__ import annotations

from hypothesis import strategies as st

from bpfence.seccomp.model import ArchMap, Arg, ArgOp, MachineConditions, Profile, ProfileAction, ProfileFlag, ProfileRule
from bpfence.syscalls.architectures import Arch

NAMES = ("read", "write", "openat", "socket", "clone", "clone3", "personality", "ioctl", "mmap", "prctl", "futex", "statx", "cachestat")
VALUES = (0, 1, 2, 7, 8, 39, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 32, (1 << 32) + 7, (1 << 63), (1 << 64) - 1)

numbers = st.sampled_from(VALUES) | st.integers(0, (1 << 64) - 1)
actions = st.sampled_from(list(ProfileAction))
errnos = st.none() | st.integers(1, 40)


@st.composite
def arguments(draw: st.DrawFn) -> Arg:
    op = draw(st.sampled_from(list(ArgOp)))
    value = draw(numbers)
    second = draw(numbers) if op is ArgOp.MASKED_EQ else 0
    return Arg(draw(st.integers(0, 5)), op, value, second & value if draw(st.booleans()) else second)


@st.composite
def conditions(draw: st.DrawFn) -> MachineConditions:
    return MachineConditions(
        tuple(draw(st.lists(st.sampled_from(["CAP_SYS_ADMIN", "CAP_BPF", "CAP_CHOWN"]), max_size=2, unique=True))),
        tuple(draw(st.lists(st.sampled_from(["amd64", "arm64", "s390x"]), max_size=2, unique=True))),
        draw(st.none() | st.tuples(st.integers(1, 7), st.integers(0, 20))),
    )


@st.composite
def rules(draw: st.DrawFn, wanted: st.SearchStrategy[ProfileAction] = actions, conditional: bool = True) -> ProfileRule:
    action = draw(wanted)
    return ProfileRule(
        names=tuple(draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))),
        action=action,
        errno=draw(errnos) if action.carries_data else None,
        args=tuple(draw(st.lists(arguments(), max_size=3))),
        includes=draw(conditions()) if conditional else MachineConditions(),
        excludes=draw(conditions()) if conditional else MachineConditions(),
        comment=draw(st.sampled_from(["", "why"])),
    )


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    action = draw(actions)
    mapped = draw(st.booleans())
    listed = (Arch.X86_64, Arch.X86, Arch.X32, Arch.AARCH64)
    arches = tuple(draw(st.lists(st.sampled_from(listed), max_size=3, unique=True)))
    return Profile(
        default_action=action,
        default_errno=draw(errnos) if action.carries_data else None,
        architectures=() if mapped else arches,
        arch_map=(ArchMap(Arch.X86_64, (Arch.X86, Arch.X32)), ArchMap(Arch.AARCH64)) if mapped else (),
        flags=draw(st.none() | st.lists(st.sampled_from(list(ProfileFlag)), max_size=3, unique=True).map(tuple)),
        listener_path=draw(st.sampled_from(["", "/run/listener"])),
        rules=tuple(draw(st.lists(rules(), max_size=6))),
    )
