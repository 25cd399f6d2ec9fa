# SPDX-License-Identifier: Apache-2.0
"""Features of a kernel in, the programs to load on it and the events they serve out.

Called by `engine`. PROGRAMS is the one table of hooks; a kernel's drift is more variants in a row, chosen by looking at the attached
function's parameters in BTF, never by a version. Pure: nothing here touches the kernel.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

import msgspec

from bpfence.fields import EVENT_BY_NAME
from bpfence.kernel.features import Answer, Features
from bpfence.kernel.hooks import _SYSCALL, PROGRAMS, Kind, Row, Variant
from bpfence.syscalls.table import signature


class Choice(msgspec.Struct, frozen=True):
    """A program to load, what it is attached to, and the events it serves. `target` is the kernel function's name."""

    program: str
    target: str
    row: Row

    @property
    def events(self) -> tuple[str, ...]:
        return self.row.events


class Gap(msgspec.Struct, frozen=True):
    """A place that stays without a program, and why. `covered`: the events lose nothing by it."""

    hook: str
    events: tuple[str, ...]
    reason: str
    covered: bool = False
    program: str = ""


class Plan(msgspec.Struct, frozen=True):
    """What to load on one kernel in one flavour."""

    flavour: str
    choices: tuple[Choice, ...]
    gaps: tuple[Gap, ...]

    def for_events(self, events: Collection[str], results: Collection[str] = ()) -> tuple[Choice, ...]:
        """The tracking programs, those that `events` (full names) need, and those that give the results of `results`. KeyError: no such
        event.
        """
        wanted = {EVENT_BY_NAME[event].name for event in events}
        waiting = {EVENT_BY_NAME[event].name for event in results}
        return tuple(
            choice
            for choice in self.choices
            if choice.row.tracking or (waiting if choice.row.kind is Kind.RESULT else wanted).intersection(choice.events)
        )


_PLACEHOLDER: Final = "bpf_lsm_settime"
"""Where a program is for that is aimed at each hook anew, as long as it is at none: seldom called, and never attached to."""


def target_of(row: Row, flavour: str) -> str:
    """The kernel function whose call the program sees."""
    if row.kind is Kind.TRACEPOINT:
        return f"btf_trace_{row.hook}"
    if row.kind is Kind.ITERATOR:
        return f"bpf_iter_{row.hook}"
    if row.kind is Kind.SENSOR:
        return ""
    if row.kind is Kind.PLACED:
        return _PLACEHOLDER if flavour == "lsm" else row.function
    if row.kind in (Kind.START, Kind.RETURN, Kind.RESULT, Kind.TAIL):
        return row.function
    return f"bpf_lsm_{row.hook}" if flavour == "lsm" else row.function or f"security_{row.hook}"


def plan(features: Features, flavour: str, available: Iterable[str]) -> Plan:
    """Chooses one variant a row from the programs that the object has. Everything left out is a Gap with its reason."""
    programs = frozenset(available)
    choices: list[Choice] = []
    gaps: list[Gap] = []
    for row in PROGRAMS:
        target = target_of(row, flavour)
        if row.aid and flavour != "lsm":
            continue
        if row.instead_of and _usable(row.instead_of, flavour, features):
            continue
        if reason := _absent(row, target, features):
            gaps.append(Gap(row.hook, row.events, reason, _covered(row, flavour, features)))
            continue
        fitting = [variant for variant in row.variants if _fits(variant, row, target, features)]
        if not fitting:
            signature = ", ".join(features.functions[target])
            gaps.append(Gap(row.hook, row.events, f"{target}({signature}) is unknown to this version of bpfence"))
            continue
        built = [variant.program for variant in fitting if variant.program in programs]
        if built:
            choices.append(Choice(built[0], target, row))
        else:
            gaps.append(Gap(row.hook, row.events, f"the BPF object has no program {fitting[0].program}", program=fitting[0].program))
    return Plan(flavour, tuple(choices), tuple(gaps))


def _usable(hook: str, flavour: str, features: Features) -> bool:
    return any(not _absent(row, target_of(row, flavour), features) for row in PROGRAMS if row.hook == hook)


def _covered(row: Row, flavour: str, features: Features) -> bool:
    """Whether the kernel has nothing to see here, or another hook sees it."""
    return row.optional or row.aid or any(_usable(other.hook, flavour, features) for other in PROGRAMS if other.instead_of == row.hook)


def _absent(row: Row, target: str, features: Features) -> str:
    """Why a row cannot be used on this kernel; "" where it can."""
    if row.kind not in (Kind.ITERATOR, Kind.SENSOR) and target not in features.functions:
        return f"this kernel has no {target}"
    if row.needs and features.answer(row.needs) is not Answer.YES:
        probe = features.probes.get(row.needs)
        return f"{row.needs}: {probe.answer.value if probe else 'not probed'}" + (f" ({probe.detail})" if probe and probe.detail else "")
    return ""


def _fits(variant: Variant, row: Row, target: str, features: Features) -> bool:
    return row.kind is not Kind.HOOK or variant.parameters is None or variant.parameters == len(features.functions[target])


def supported_events(plan: Plan, failed: Mapping[str, str]) -> dict[str, str]:
    """Every event by name: "" where all its places have a program, else why it cannot be relied on.

    `failed` are the chosen programs that did not load or attach, with the reason.
    """
    reasons: dict[str, str] = {}
    serving: dict[str, list[Choice]] = {}
    for choice in plan.choices:
        # Without the end of a call an event is reported all the same, at once.
        if choice.row.kind is not Kind.RESULT and not choice.row.aid:
            for name in choice.events:
                serving.setdefault(name, []).append(choice)
    for name in EVENT_BY_NAME:
        served = serving.get(name, [])
        problems = [f"{gap.hook}: {gap.reason}" for gap in plan.gaps if name in gap.events and not gap.covered]
        refused = [choice for choice in served if choice.program in failed]
        problems += [f"{choice.row.hook}: {choice.program} did not load: {failed[choice.program]}" for choice in refused]
        if not served and not problems:
            problems = [f"{gap.hook}: {gap.reason}" for gap in plan.gaps if name in gap.events] or ["nothing serves it"]
        reasons[name] = "; ".join(problems)
    return reasons


_CALL_OF_FUNCTION: Final = {"umount": "umount2"}
"""System calls whose function in the kernel has another name."""
_WITHIN: Final = {"net.recv": ("recvfrom", "recvmsg", "recvmmsg")}
"""Events that come with their result from a function within these calls."""


def calls() -> dict[str, frozenset[str]]:
    """Events by the system call (its name) that they are the work of, as far as its result is told: what the kernel's map `calls` holds."""
    found: dict[str, set[str]] = {}
    for row in PROGRAMS:
        if row.kind is Kind.RESULT:
            call = row.function.removeprefix(_SYSCALL)
            found.setdefault(_CALL_OF_FUNCTION.get(call, call), set()).update(row.events)
    for call, events in found.items():
        if "file.open" in events and call != "open_by_handle_at":  # a handle is no name that could be missing
            found[call].add("file.open_failed")
    for event, within in _WITHIN.items():
        for call in within:
            found.setdefault(call, set()).add(event)
    return {call: frozenset(events) for call, events in found.items()}


TEXT_KINDS: Final = ("path", "text")


def text_arguments(call: str) -> tuple[int, ...]:
    """Which arguments of a system call are names or other texts, counted from 1."""
    found = signature(call)
    return tuple(number for number, (_, kind) in enumerate(found.arguments if found else (), 1) if kind in TEXT_KINDS)


def sensed(attached: Collection[str]) -> frozenset[str]:
    """The system calls whose end is seen by one of the attached programs."""
    found = {row.function.removeprefix(_SYSCALL) for row in PROGRAMS if row.kind is Kind.RESULT and row.variants[0].program in attached}
    return frozenset(_CALL_OF_FUNCTION.get(call, call) for call in found)
