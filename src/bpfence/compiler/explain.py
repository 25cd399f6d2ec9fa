# SPDX-License-Identifier: Apache-2.0
"""Compiled tables and a sample event in, the verdict and the way to it out.

Called by `bpfence explain --event`. The walk reads the image's bytes just as the kernel does (`image.Walker`), so what is shown is
what is loaded. A field that the event lacks is absent, as it would be in the kernel.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Final

import msgspec

from bpfence import abi, glob
from bpfence.compiler.classes import ANCESTOR_NAMES, OBJECT_SLOTS
from bpfence.compiler.compile import Compiled, Verdict
from bpfence.compiler.image import Sample, Step, Walker
from bpfence.compiler.plan import siblings
from bpfence.compiler.workloads import numbered_classes
from bpfence.errors import UsageError
from bpfence.evaluate import OBJECT_KEYS
from bpfence.fields import CONTAINER, EVENT_BY_NAME, EVENTS, FIELD_BY_NAME, Kind
from bpfence.policy import Selector, Value

_OBJECT_SLOTS: Final = {OBJECT_KEYS[field]: slot for field, slot in OBJECT_SLOTS.items()}
"""Keys of events that list the object sets a file belongs to, and the slot of each."""
_PAIRS: Final = {
    abi.DIM_NUMBERS: {abi.CLASS_LESS: "less", abi.CLASS_SAME: "the same", abi.CLASS_GREATER: "greater"},
    abi.DIM_TEXTS: {
        abi.CLASS_LESS: "a part of it", abi.CLASS_SAME: "the same", abi.CLASS_GREATER: "more than it", abi.CLASS_APART: "different",
    },
}  # fmt: skip
"""What the classes of two fields that are compared mean."""


class Decision(msgspec.Struct, frozen=True):
    """One node passed: the dimension and its class; `node` is the word offset in the image."""

    dimension: str
    class_number: int
    meaning: str
    node: int
    subject: bool


class GroupRoute(msgspec.Struct, frozen=True):
    """One group's walk: first the subject diagram, which ends in `row`, then the event's diagram."""

    row: int
    decisions: tuple[Decision, ...]
    verdict: int
    action: str
    rules: tuple[str, ...]
    uncertain: bool


class Route(msgspec.Struct, frozen=True):
    """The verdict of all groups together; `rules` as "policy/rule", `words` is the whole route line by line."""

    event: str
    action: str
    errno: int
    rules: tuple[str, ...]
    groups: tuple[GroupRoute, ...]
    words: tuple[str, ...]


def explain(compiled: Compiled, event: Mapping[str, Value | None]) -> Route:
    """The route of an event: field names to values, "event" to its name, as for the reference evaluator."""
    name = event_name(event.get("event"))
    walker = Walker(compiled.image)
    values = sample(compiled, walker, event)
    groups: list[GroupRoute] = []
    best = compiled.verdicts[0]
    words: list[str] = []
    for number, walk in enumerate(walker.walk(abi.CONSTANTS[EVENT_BY_NAME[name].id], values)):
        verdict = compiled.verdicts[walk.verdict]
        if (verdict.action, -verdict.first) > (best.action, -best.first):
            best = verdict
        decisions = tuple(_decision(compiled, step, values, n < walk.subject) for n, step in enumerate(walk.steps))
        beside = () if verdict.uncertain else siblings(compiled.families, name, verdict.rules, event.get)
        rules = tuple(f"{compiled.rules[n].policy}/{compiled.rules[n].name}" for n in sorted((*verdict.rules, *beside)))
        groups.append(GroupRoute(walk.row, decisions, walk.verdict, verdict.action.name.lower(), rules, verdict.uncertain))
        words += _words(number, groups[-1], verdict)
    matched = tuple(rule for group in groups for rule in group.rules)
    action, errno = best.action, best.error
    by = f", by {', '.join(matched)}" if matched else ""
    words.append(f"verdict: {action.name.lower()}" + (f", errno {errno}" if errno else "") + by)
    return Route(name, action.name.lower(), errno, matched, tuple(groups), tuple(words))


def event_name(written: object) -> str:
    """The full name of an event given by full or short name."""
    for found in EVENTS:
        if written == found.name or written in found.short:
            return found.name
    raise UsageError(f"no event is called {written!r}")


def sample(compiled: Compiled, walker: Walker, event: Mapping[str, Value | None]) -> Sample:
    """The slots of an event. UsageError where a value does not fit its field."""
    nums: dict[int, int | None] = {abi.NUM_WORKLOAD: abi.WORKLOAD_UNKNOWN}
    strs: dict[int, bytes | None] = {}
    lineage = names = 0
    for name, value in event.items():
        if name == "event" or value is None:
            continue
        if name in _OBJECT_SLOTS:
            paths = value if isinstance(value, tuple | list) else (value,)
            nums[_OBJECT_SLOTS[name]] = sum(1 << bit for bit, path in enumerate(compiled.objects) if path in paths)
            continue
        if name == CONTAINER.name:
            told = frozenset(one for one in value if isinstance(one, Selector)) if isinstance(value, tuple) else frozenset()
            nums[abi.NUM_WORKLOAD] = numbered_classes(compiled.workloads).get(told, abi.WORKLOAD_PENDING)
            continue
        field = FIELD_BY_NAME.get(name)
        if field is None:
            raise UsageError(f"no field is called {name!r}")
        if field.kind is Kind.STRINGS:
            for one in value if isinstance(value, tuple | list) else (value,):
                if name == ANCESTOR_NAMES:
                    names |= walker.names(_bytes(name, one))
                else:
                    lineage |= walker.lineage(_bytes(name, one))
        elif field.slot in abi.STR_SLOT:
            strs[abi.STR_SLOT[field.slot]] = _address(name, value) if field.kind is Kind.ADDRESS else _bytes(name, value)
        elif field.slot in abi.NUM_SLOT:
            if not isinstance(value, int):
                raise UsageError(f"{name} is a number, not {value!r}")
            nums[abi.NUM_SLOT[field.slot]] = int(value)
    return Sample(nums, strs, lineage, names)


def _bytes(name: str, value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise UsageError(f"{name} is a string, not {value!r}")
    return glob.encode(value)


def _address(name: str, value: object) -> bytes:
    try:
        address = ipaddress.ip_address(value)  # type: ignore[arg-type]
    except ValueError:
        raise UsageError(f"{name} is an address, not {value!r}") from None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).packed


def _decision(compiled: Compiled, step: Step, values: Sample, subject: bool) -> Decision:
    dimension = compiled.dims[step.dimension]
    if dimension.kind in _PAIRS:
        meaning = _PAIRS[dimension.kind].get(step.number, "one of them is absent" if step.number == abi.CLASS_NONE else "unknown")
    elif dimension.kind in (abi.DIM_STRING, abi.DIM_RANGE):
        slots: Mapping[int, object] = values.strs if dimension.kind == abi.DIM_STRING else values.nums
        value = slots.get(dimension.slot)
        meaning = "absent" if value is None else _shown(dimension.field, value)
        if step.number != abi.CLASS_NONE:
            meaning += f", class {step.number} of {dimension.classes}"
        elif value is not None:
            meaning += ", as no rule asks for"
    else:
        meaning = "yes" if step.number == 2 else "no"
    return Decision(dimension.name, step.number, meaning, step.node, subject)


def _shown(field: str, value: object) -> str:
    """A slot's value as people write it. Bytes that are no UTF-8 stand as surrogate escapes, for `printable` to show."""
    if not isinstance(value, bytes):
        return repr(value)
    known = FIELD_BY_NAME.get(field)
    if known is not None and known.kind is Kind.ADDRESS:
        return str(ipaddress.ip_address(value))
    return f'"{value.decode("utf-8", "surrogateescape")}"'


def _words(number: int, group: GroupRoute, verdict: Verdict) -> list[str]:
    lines = [f"group {number}:"]
    for subject in (True, False):
        lines += [f"  {d.dimension}: {d.meaning}" for d in group.decisions if d.subject is subject]
        if subject:
            lines.append(f"  the subject is row {group.row}" + (": no rule concerns it" if group.row == 0 else ""))
    lines.append(f"  verdict {group.verdict}: {group.action}" + (f" ({', '.join(group.rules)})" if group.rules else ""))
    if verdict.uncertain:
        lines[-1] += ", uncertain"
    return lines
