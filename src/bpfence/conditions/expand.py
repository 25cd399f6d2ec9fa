# SPDX-License-Identifier: Apache-2.0
"""A rule as it was written in, the exact condition of each of its events out.

Called by `native` (and by other dialects that offer groups or `follow: object`). This is where an event group gets
the tests that make each event what the group promises, where a rename looks at both names, and where fields that an event does
not carry become false. Pure: no text, no diagnostics.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from bpfence import abi
from bpfence.conditions.values import U64, conj, disj, negation
from bpfence.fields import EVENTS, GROUPS, KERNEL_FIELDS, applies
from bpfence.policy import COMPARISONS, CONTAINER_FIELD, FALSE, TRUE, And, Atom, Condition, Not, Op, Or, atoms

PROT_READ: Final = 1
PROT_WRITE: Final = 2
PROT_EXEC: Final = 4

SHORT_NAMES: Final = {short: event.name for event in EVENTS for short in event.short}
"""Short names of events; each is the name of one event only (tested)."""

_SHARED_WRITE: Final = And((Atom("file.shared", Op.RANGE, (1, 1)), Atom("file.prot", Op.ANYBITS, PROT_WRITE)))
_CODE_MAPPING: Final = Atom("file.prot", Op.ANYBITS, PROT_EXEC)
# On x86 what may be written can be read. A mapping without any protection can be read through /proc/self/mem.
_READ_MAPPING: Final = Atom("file.prot", Op.ANYBITS, PROT_READ | PROT_WRITE | PROT_EXEC)


def _families(*numbers: int) -> Condition:
    return Or(tuple(Atom("net.family", Op.RANGE, (number, number)) for number in numbers))


_INSIDE: Final = _families(1, 16, 38)  # AF_UNIX, AF_NETLINK, AF_ALG: the other side is on this host
_LEAVES: Final = Not(_INSIDE)
# An IP socket without a peer: connect(2) with AF_UNSPEC, which ends an association.
_REACHES: Final = And((_LEAVES, Or((Atom("net.peer.ip", Op.EXISTS), Not(_families(2, 10))))))

GROUP_TESTS: Final[Mapping[str, Mapping[str, Condition]]] = {
    "file.modify": {
        "file.open": Atom("file.access", Op.ANYBITS, abi.ACCESS_WRITE | abi.ACCESS_TRUNCATE | abi.ACCESS_CREATED),
        "file.permission": Atom("file.access", Op.ANYBITS, abi.ACCESS_WRITE),
        "file.mmap": _SHARED_WRITE,
        "file.mprotect": _SHARED_WRITE,
    },
    "file.read": {
        "file.open": Atom("file.access", Op.ANYBITS, abi.ACCESS_READ),
        "file.permission": Atom("file.access", Op.ANYBITS, abi.ACCESS_READ),
        "file.mprotect": _READ_MAPPING,
    },
    "exec.any": {"file.mmap": _CODE_MAPPING, "file.mprotect": _CODE_MAPPING},
    "net.egress": {"net.connect": _REACHES, "net.send": _LEAVES},
}
"""Per group and event, what else must hold; events without an entry belong to their group unconditionally."""

_BOTH_NAMES: Final = ("file.rename", "file.link")


def below(condition: Condition) -> Condition:
    """A test on a cgroup, widened to everything below it: otherwise a process could leave a scope by making a child cgroup."""
    if isinstance(condition, Or):
        return disj(below(part) for part in condition.parts)
    if isinstance(condition, Atom) and condition.op is Op.EQUALS and isinstance(condition.value, str):
        if condition.value == "/":
            return Atom(condition.field, Op.EXISTS)
        return disj((condition, Atom(condition.field, Op.PREFIX, condition.value + "/")))
    return condition


def limited_level(scope: Condition) -> dict[int, Condition]:
    """The level of the cgroup whose tasks a limit counts, as far as the scope tells it: level → condition.

    It is the topmost ancestor of the task's cgroup that is in the scope. Tasks in its children count too, as with pids.max: making child
    groups does not evade the limit. Empty where the level is not fixed, or too deep.
    """
    alternatives = _cgroups(scope)
    literal = {atom.value for atom in alternatives if atom.op is Op.EQUALS}
    by_level: dict[int, list[Condition]] = {}
    for atom in alternatives:
        by_level.setdefault(_level(atom, literal), []).append(atom)
    if any(not 0 < level <= abi.FORK_LEVELS for level in by_level):
        return {}
    return {level: disj(atoms_) for level, atoms_ in sorted(by_level.items())}


def limited(levels: Mapping[int, Condition], limit: int) -> Condition:
    """The condition that as many tasks as `limit` live below the cgroup of a level; without a level, below the task's own cgroup."""
    if len(levels) <= 1:  # the scope itself decides the rest
        levels = dict.fromkeys(levels or (0,), TRUE)
    counts = {level: Atom(f"process.fork.live{level or ''}", Op.RANGE, (limit, U64)) for level in levels}
    return disj(conj((condition, counts[level])) for level, condition in levels.items())


def _cgroups(scope: Condition) -> list[Atom]:
    """The alternatives of the scope's test on the cgroup; none where it has no such test."""
    for part in scope.parts if isinstance(scope, And) else (scope,):
        choices = part.parts if isinstance(part, Or) else (part,)
        cgroups = [choice for choice in choices if isinstance(choice, Atom) and choice.field == "process.cgroup"]
        if len(cgroups) == len(choices):
            return cgroups
    return []


def _level(atom: Atom, literal: Collection[object]) -> int:
    """The level of the topmost cgroup that passes a test; 0 where it is not fixed."""
    path = str(atom.value).removesuffix("{,/**}")
    if atom.op is Op.PREFIX and path.endswith("/"):
        return path.count("/") - (path[:-1] in literal)
    if atom.op is Op.EQUALS or (atom.op is Op.GLOB and "**" not in path and not re.search(r"\{[^}]*/", path)):
        return path.count("/") if path != "/" else 0
    return 0


def events_of(written: str) -> tuple[str, ...]:
    """The full names of the events behind an event name, a short name or a group; empty where it is none."""
    if written in GROUPS:
        return GROUPS[written]
    name = SHORT_NAMES.get(written, written)
    return (name,) if any(event.name == name and not event.sensor for event in EVENTS) else ()


def event_conditions(on: Iterable[str], scope: Condition, body: Condition | Callable[[str], Condition]) -> dict[str, Condition]:
    """The condition of every event behind the names of `on`, scope included; FALSE where the event can never match. `body` may be another
    one for each event."""
    choices: dict[str, list[Condition]] = {}
    # By the object: what is asked for every event is mostly the same one.
    known: dict[int, tuple[Condition, Condition, set[str]]] = {}
    for written in on:
        for event in events_of(written):
            asked = body(event) if callable(body) else body
            if id(asked) not in known:
                known[id(asked)] = asked, _either_name(asked), {field for atom in atoms(asked) for field in atom.fields}
            _, either, fields = known[id(asked)]
            test = GROUP_TESTS.get(written, {}).get(event, TRUE)
            # `either` adds file.new_path, which both of its events carry.
            own = either if written == "file.modify" and event in _BOTH_NAMES else asked
            lacking = not all(_carries(event, field) for field in fields)
            choices.setdefault(event, []).append(conj((test, carried(own, event) if lacking else own)))
    # Most events of a group end up with the same condition, so each is put together only once.
    made: dict[tuple[Condition, ...], Condition] = {}
    each: dict[str, Condition] = {}
    for event, parts in choices.items():
        key = tuple(parts)
        if key not in made:
            made[key] = conj((scope, disj(parts)))
        each[event] = made[key]
    return each


def shared(each: Mapping[str, Condition]) -> tuple[Condition, dict[str, Condition]]:
    """The condition most events have, and those of the others."""
    common = Counter(each.values()).most_common(1)[0][0]
    return common, {event: condition for event, condition in each.items() if condition != common}


def carried(condition: Condition, event: str) -> Condition:
    """The condition with every atom on a field that `event` does not carry made false, as an absent value is."""
    match condition:
        case And(parts):
            return conj(carried(part, event) for part in parts)
        case Or(parts):
            return disj(carried(part, event) for part in parts)
        case Not(part):
            return negation(carried(part, event))
        case Atom():
            return condition if all(_carries(event, field) for field in condition.fields) else FALSE


def _carries(event: str, field: str) -> bool:
    """Whether an event has a field. Whoever acts may be in a container."""
    return field == CONTAINER_FIELD or applies(KERNEL_FIELDS[field], event)


def _either_name(body: Condition) -> Condition:
    """A test on the old name or the new one. Each has its own exceptions: an exception for one name does not excuse the other."""
    named = {field for atom in atoms(body) for field in atom.fields}
    if "file.path" not in named or "file.new_path" in named:
        return body
    return disj((body, _renamed(body)))


def _renamed(condition: Condition) -> Condition:
    match condition:
        case And(parts):
            return conj(_renamed(part) for part in parts)
        case Or(parts):
            return disj(_renamed(part) for part in parts)
        case Not(part):
            return negation(_renamed(part))
        case Atom(field, op, value):
            compared = "file.new_path" if op in COMPARISONS and value == "file.path" else value
            return Atom("file.new_path" if field == "file.path" else field, op, compared)


def follow(condition: Condition) -> tuple[Condition, int, list[Atom]]:
    """The condition with objects beside the paths that name them, the number of paths, and the path atoms that name no object.

    Exceptions (what stands under a Not) stay tests on names.
    """
    match condition:
        case And(parts) | Or(parts):
            done = [follow(part) for part in parts]
            build = conj if isinstance(condition, And) else disj
            return build(d[0] for d in done), sum(d[1] for d in done), [atom for d in done for atom in d[2]]
        case Atom(field, op, str(value)) if field in ("file.path", "file.new_path"):
            if op is Op.EQUALS:
                return disj((condition, Atom(field, Op.OBJECT, value))), 1, []
            if op is Op.PREFIX and value.endswith("/"):
                return disj((condition, Atom(field, Op.OBJECT, value + "**"))), 1, []
            return condition, 0, [condition]
    return condition, 0, []
