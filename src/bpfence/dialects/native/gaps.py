# SPDX-License-Identifier: Apache-2.0
"""A native policy that is well-formed in, the ways around what it enforces out.

Called by `native` once per policy, when all its rules are read. Each finding is an act that the policy seems to forbid and does not:
another way to the same end, or an exception that anybody can obtain. Only what is certain from the policy's text is told. Pure.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Final, NamedTuple

from bpfence import abi
from bpfence.conditions.containers import inside
from bpfence.conditions.values import branches
from bpfence.errors import Location
from bpfence.evaluate import holds
from bpfence.policy import Action, And, Atom, Condition, Event, Not, Op, Or, Policy, Rule, atoms
from bpfence.words import quoted

WORLD_WRITABLE: Final = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - nothing is written there
_WRITING: Final = abi.ACCESS_WRITE | abi.ACCESS_APPEND | abi.ACCESS_TRUNCATE | abi.ACCESS_CREATE | abi.ACCESS_CREATED
_REPLACING: Final = frozenset(("file.rename", "file.unlink", "file.link"))
_NOT_REPLACED: Final = ("/proc/", "/sys/", "/dev/")
"""Directories below which nobody puts another file in a file's place."""
CHOSEN: Final = frozenset(
    ("process.name", "process.args", "process.parent.name", "process.parent.args", "process.ancestors.name")
)  # fmt: skip
"""Fields whose values are chosen freely by whoever starts the program."""
_OF_RUNTIMES: Final = ("/var/lib/docker/", "/var/lib/containerd/", "/run/containerd/", "/var/lib/containers/", "/var/lib/kubelet/pods/")
"""Where runtimes keep the files of containers on the host."""
_NETWORKS: Final = ("net.peer.ip", "net.local.ip")
_ALL: Final = {"IPv4": "0.0.0.0/0", "IPv6": "::/0"}
_UDP: Final = 17
_DGRAM: Final = 2
_UNLIKELY: Final = "\x01"


class PolicyGap(NamedTuple):
    """One finding: its code, what is left open, and what to write."""

    place: Location
    code: str
    message: str
    hint: str


def gaps(policy: Policy, together: Together | None = None) -> Iterator[PolicyGap]:
    """All that is found in one policy, in the order of its rules. `together`: of a policy of which this one has but some rules."""
    together = together or Together(policy)
    for rule in policy.rules:
        for look in (_one_level, _open_only, _one_name, _one_family, _of_the_host, _always, _allowed_in_vain):
            yield from look(together, rule)
    yield from _datagrams(together)
    yield from _chosen_names(policy)


# ---- conditions ----


def required_atoms(condition: Condition) -> Iterator[Atom]:
    """The atoms that do not stand under a Not."""
    match condition:
        case Atom():
            yield condition
        case And(parts) | Or(parts):
            for part in parts:
                yield from required_atoms(part)


def _conjuncts(condition: Condition) -> tuple[Condition, ...]:
    return condition.parts if isinstance(condition, And) else (condition,)


def _denies(rule: Rule) -> bool:
    """Whether a rule denies all that it is about: one that counts lets the first through."""
    return rule.action >= Action.DENY and rule.threshold is None


def _enforcing(policy: Policy, rule: Rule) -> bool:
    return policy.mode == "enforce" and rule.action >= Action.DENY


class Together:
    """What all rules of a policy do, gathered once, so that a look at one rule need not go through all the others, of which there may be
    thousands.

    `denied`: the events of which a rule or a default denies something. `new_names`: whether a rule looks at the new name of a rename.
    `networks`: for each field, the whole address families that rules name.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        denying = [rule for rule in policy.rules if _denies(rule)]
        self.denied = {event for rule in denying for event in rule.events}
        self.denied |= {event for event, action in policy.default.items() if action >= Action.DENY}
        enforcing = [rule for rule in policy.rules if _enforcing(policy, rule)]
        self.new_names = any(atom.field == "file.new_path" for rule in denying for atom in _tests(rule, "file.rename"))
        self.networks = {field: {network for rule in enforcing for network in _all_of(rule, field)} for field in _NETWORKS}

    @cached_property
    def _denying(self) -> Mapping[tuple[str, str, str], list[tuple[int, Rule]]]:
        found: defaultdict[tuple[str, str, str], list[tuple[int, Rule]]] = defaultdict(list)
        for number, rule in enumerate(rule for rule in self.policy.rules if rule.action >= Action.DENY):
            for event in rule.events:
                field, heads = _heads(rule.condition_for(event))
                for head in heads:
                    found[event, field, head].append((number, rule))
        return found

    def denying(self, event: str, sample: Event) -> Iterator[Rule]:
        """The rules that may deny such an event, in order: those with a head with which one of the event's texts begins."""
        keys = [(event, "", "")]
        for field, text in sample.items():
            if isinstance(text, str):
                keys += [(event, field, text[:end]) for end in range(len(text) + 1)]
        by_number = {number: rule for key in keys for number, rule in self._denying.get(key, ())}
        return (by_number[number] for number in sorted(by_number))


_PLAIN: Final = re.compile(r"[^*?\[{\\]*")


def _heads(condition: Condition) -> tuple[str, set[str]]:
    """A field and its heads: where the condition holds, the field's text begins with one of them. No field where that cannot be told."""
    for part in _conjuncts(condition):
        tests = part.parts if isinstance(part, Or) else (part,)
        heads = {(test.field, _head(test)) for test in tests if isinstance(test, Atom) and test.op in _WITH_HEAD}
        fields = {field for field, _ in heads}
        if len(fields) == 1 and all(isinstance(test, Atom) and test.op in _WITH_HEAD for test in tests):
            return fields.pop(), {head for _, head in heads}
    return "", {""}


_WITH_HEAD: Final = (Op.EQUALS, Op.PREFIX, Op.GLOB)


def _head(atom: Atom) -> str:
    text = str(atom.value)
    if atom.op is Op.GLOB:
        plain = _PLAIN.match(text)
        return plain.group().rstrip("/") if plain else ""
    return text


# ---- paths ----


def _one_level(together: Together, rule: Rule) -> Iterator[PolicyGap]:
    """`/tmp/*` does not match what lies in a directory below, and anybody can make one there."""
    if not _enforcing(together.policy, rule):
        return
    body = And(tuple(rule.condition_for(event) for event in rule.events))
    for directory in WORLD_WRITABLE:
        for atom in required_atoms(body):
            if atom.op is Op.GLOB and atom.field in ("file.path", "file.new_path") and f"{directory}/*" in branches(str(atom.value)):
                below = {atom.field: f"{directory}/{_UNLIKELY}/{_UNLIKELY}"}
                if not any(
                    other.field == atom.field and other.op is not Op.EXISTS and holds(other, below) for other in required_atoms(body)
                ):
                    what = f"'*' does not reach into directories: what lies in a directory below {directory} is not covered"
                    yield PolicyGap(rule.location, "one-level", what, f"write {directory}/**")
                    break


def _open_only(together: Together, rule: Rule) -> Iterator[PolicyGap]:
    """A file that must not be opened for writing can still be replaced."""
    if together.policy.mode != "enforce" or not _denies(rule) or "file.open" not in rule.events or together.denied & _REPLACING:
        return
    tests = list(required_atoms(rule.condition_for("file.open")))
    masks = [atom.value for atom in tests if atom.field == "file.access" and atom.op is Op.ANYBITS]
    paths = [str(atom.value) for atom in tests if atom.field == "file.path" and atom.op is not Op.EXISTS]
    writing = bool(masks) and all(isinstance(mask, int) and not mask & ~_WRITING for mask in masks)
    if writing and paths and not all(path.startswith(_NOT_REPLACED) for path in paths):
        what = "the file can still be changed without being opened for writing: renamed, removed, replaced by another, its mode changed"
        yield PolicyGap(
            rule.location, "open-only", what, "write `on: file.modify` without file.access: it covers all ways to change a file"
        )


def _one_name(together: Together, rule: Rule) -> Iterator[PolicyGap]:
    """A rename has two names, and the rule looks only at the old one."""
    if together.policy.mode != "enforce" or not _denies(rule) or "file.rename" not in rule.events or together.new_names:
        return
    path = next((atom for atom in _tests(rule, "file.rename") if atom.field == "file.path" and atom.op is not Op.EXISTS), None)
    if path is not None:
        what = f"file.path is the old name of a rename: putting another file in the place of {quoted(str(path.value))} is not covered"
        hint = "add a rule on rename with the same under file.new_path, or write `on: file.modify`, which looks at both names"
        yield PolicyGap(rule.location, "one-name", what, hint)


def _tests(rule: Rule, event: str) -> Iterator[Atom]:
    return required_atoms(rule.condition_for(event)) if event in rule.events else iter(())


def _selects(part: Condition) -> bool:
    return not isinstance(part, Not) and any(atom.op is Op.SELECTS for atom in atoms(part))


def _of_the_host(together: Together, rule: Rule) -> Iterator[PolicyGap]:
    """Processes in a container have their own names for files, and are never seen to use the host's names."""
    if not any(part == inside() or _selects(part) for part in _conjuncts(together.policy.scope)):
        return
    for atom in dict.fromkeys(atom for event in rule.events for atom in _tests(rule, event)):
        path = str(atom.value)
        if atom.field in ("file.path", "process.exe") and atom.op in (Op.EQUALS, Op.PREFIX, Op.GLOB) and path.startswith(_OF_RUNTIMES):
            what = f"{quoted(path)} is what the host calls a container's files: in a container they have this name only where it is mounted"
            yield PolicyGap(rule.location, "host-path", what, f"write {atom.field} as the container sees it, such as /etc/passwd")
            return


# ---- the network ----


def _one_family(together: Together, rule: Rule) -> Iterator[PolicyGap]:
    """All addresses of IPv4 are not the whole network."""
    if not _enforcing(together.policy, rule):
        return
    for field in _NETWORKS:
        everything = _all_of(rule, field)
        if len(everything) == 1 and not together.networks[field] - everything:
            missing = next(name for name, network in _ALL.items() if network not in everything)
            yield PolicyGap(rule.location, "one-family", f"{field} is any address but of {missing}", f"add {_ALL[missing]!r} to {field}")


def _all_of(rule: Rule, field: str) -> set[str]:
    values = {str(atom.value) for event in rule.events for atom in _tests(rule, event) if atom.field == field}
    return values & {*_ALL.values()}


def _datagrams(together: Together) -> Iterator[PolicyGap]:
    """Datagrams are sent without a connection."""
    policy = together.policy
    if policy.mode != "enforce" or "net.send" in together.denied:
        return
    hint = "deny send, too: `default: {connect: deny, send: deny}`, or `on: net.egress` in a rule"
    what = "datagrams (UDP, ping, raw) are sent without a connection, and are not denied"
    if policy.default.get("net.connect", Action.NONE) >= Action.DENY:
        yield PolicyGap(policy.location, "datagrams", f"the default denies connections: {what}", hint)
    for rule in policy.rules:
        if _denies(rule) and any(_is_datagram(atom) for atom in _tests(rule, "net.connect")):
            yield PolicyGap(rule.location, "datagrams", f"the rule denies connections of datagram sockets: {what}", hint)


def _is_datagram(atom: Atom) -> bool:
    number = {"net.protocol": _UDP, "net.type": _DGRAM}.get(atom.field)
    return number is not None and atom.op is Op.RANGE and atom.value == (number, number)


# ---- exceptions ----


def _chosen_names(policy: Policy) -> Iterator[PolicyGap]:
    """An exception by a name alone is open to everyone who gives that name to a program."""
    if policy.mode != "enforce":
        return
    for place, excepted in _exceptions(policy):
        if _chosen(excepted):
            field = next(atom.field for atom in atoms(excepted) if atom.field in CHOSEN)
            what = f"{field} is what whoever starts a program makes it: any program becomes the exception by being called so"
            yield PolicyGap(place, "chosen-name", what, f"test {_EXE_OF[field]}, or process.user, process.cgroup and the like beside it")


_EXE_OF: Final = {
    "process.name": "process.exe", "process.args": "process.exe", "process.parent.name": "process.parent.exe",
    "process.parent.args": "process.parent.exe", "process.ancestors.name": "process.ancestors.exe",
}  # fmt: skip


def _exceptions(policy: Policy) -> Iterator[tuple[Location, Condition]]:
    denies = any(action >= Action.DENY for action in policy.default.values())
    scope = _conjuncts(policy.scope)
    if denies or any(rule.action >= Action.DENY for rule in policy.rules):
        yield from ((policy.location, part.part) for part in scope if isinstance(part, Not))
    for rule in policy.rules:
        if rule.action is Action.ALLOW and denies:
            own = tuple(part for event in rule.events for part in _conjuncts(rule.condition_for(event)) if part not in scope)
            yield rule.location, And(own)
        if rule.action >= Action.DENY:
            parts = dict.fromkeys(part for event in rule.events for part in _conjuncts(rule.condition_for(event)) if part not in scope)
            yield from ((rule.location, part.part) for part in parts if isinstance(part, Not))


def _chosen(condition: Condition) -> bool:
    """Whether the condition can be fulfilled by names alone."""
    match condition:
        case Atom(field=field, op=op):
            return field in CHOSEN and op is not Op.EXISTS
        case And(parts):
            return bool(parts) and all(_chosen(part) for part in parts)
        case Or(parts):
            return any(_chosen(part) for part in parts)
    return False


# ---- what has no effect ----


def _always(together: Together, rule: Rule) -> Iterator[PolicyGap]:
    """`name != a or name != b` is true of every name."""
    for part in _parts(rule.condition_for(rule.events[0])):
        tests = list(atoms(part)) if isinstance(part, Or) else []
        fields = {atom.field for atom in tests}
        if len(fields) == 1 and any(isinstance(inner, Not) for inner in _parts(part)):
            [field] = fields
            if all(holds(part, {field: value}) for value in _samples(tests)):
                what = f"these tests on {field}, joined by 'or', are true of every value: each value differs from one of them"
                yield PolicyGap(rule.location, "always-true", what, f"write `not {field} in (…)`, or join them by 'and'")


def _parts(condition: Condition) -> Iterator[Condition]:
    yield condition
    match condition:
        case And(parts) | Or(parts):
            for part in parts:
                yield from _parts(part)
        case Not(part):
            yield from _parts(part)


def _samples(tests: Sequence[Atom]) -> Iterator[str | int]:
    """The values of one field that stand on both sides of such a test."""
    for atom in tests:
        if isinstance(atom.value, tuple):
            yield from (max(0, bound + step) for bound in atom.value for step in (-1, 0, 1))
        elif isinstance(atom.value, str):
            yield from (atom.value, atom.value + _UNLIKELY, _UNLIKELY)
        elif isinstance(atom.value, int):
            yield from (0, atom.value)


def _allowed_in_vain(together: Together, rule: Rule) -> Iterator[PolicyGap]:
    """An allow rule does not undo a deny rule, not even one of its own policy."""
    if rule.action is not Action.ALLOW:
        return
    for event in rule.events:
        sample = _sample(rule.condition_for(event))
        denying = together.denying(event, sample) if sample else ()
        stronger = next((other for other in denying if holds(other.condition_for(event), sample)), None)
        if stronger is not None:
            what = f"rule {stronger.name} denies some of what this rule allows, and a deny is stronger: allow undoes only the default"
            yield PolicyGap(rule.location, "allow-denied", what, f"name the exception under `unless` of rule {stronger.name}")
            return


def _sample(condition: Condition) -> Event:
    """One event that a conjunction of plain tests is true of; empty where there is a test of another kind."""
    sample: dict[str, str | int] = {}
    for part in _conjuncts(condition):
        test = part.parts[0] if isinstance(part, Or) and part.parts else part
        if not isinstance(test, Atom) or test.field in sample:
            return {}
        value = _value(test)
        if value is None:
            return {}
        sample[test.field] = value
    return sample if holds(condition, sample) else {}


_VALUES: Final[dict[Op, Callable[[str], str]]] = {
    Op.EQUALS: lambda text: text, Op.PREFIX: lambda text: text + _UNLIKELY, Op.SUFFIX: lambda text: "/" + _UNLIKELY + text
}  # fmt: skip


def _value(atom: Atom) -> str | int | None:
    if atom.op is Op.RANGE and isinstance(atom.value, tuple):
        return atom.value[0]
    if atom.op is Op.ANYBITS and isinstance(atom.value, int):
        return atom.value
    return _VALUES[atom.op](atom.value) if atom.op in _VALUES and isinstance(atom.value, str) else None
