# SPDX-License-Identifier: Apache-2.0
"""Policies in, numbered rules and their conditions over kernel tests out.

Called by `compiler.compile_policies` before anything else. Default postures become rules of their own (named "default"), so that
everything behind this module knows one kind of rule only: it matches or not, by itself. What the kernel cannot decide exactly is
collected here as errors, at the rule's place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import reduce
from hashlib import blake2b
from mmap import PROT_EXEC, PROT_READ
from operator import or_
from typing import Final, NamedTuple

import msgspec

from bpfence import abi, glob
from bpfence.compiler import classes
from bpfence.compiler.automaton import ANY_OF, Pattern
from bpfence.compiler.cache import CACHED_RULES
from bpfence.compiler.classes import Counter, Test, Unsupported, Use
from bpfence.compiler.diagram import FALSE, Clause, Conditions
from bpfence.compiler.image import ANY_NEEDED
from bpfence.errors import Diagnostic, Location
from bpfence.evaluate import tells
from bpfence.fields import EVENT_BY_NAME, FIELD_BY_NAME, applies
from bpfence.policy import (
    COUNTED_BY,
    DEFAULT_RULE,
    Action,
    And,
    Atom,
    Condition,
    Not,
    Op,
    Or,
    Policy,
    PolicySet,
    Rule,
    Threshold,
    When,
    atoms,
)


class Lowered(NamedTuple):
    """`rules` in order of their numbers, allow rules included; `modes` and `actions` (what the kernel does) go with it.

    `clauses` are the conditions of all rules but the allow ones; `tests` says where each test was first seen.
    """

    rules: list[Rule]
    modes: list[str]
    actions: list[Action]
    clauses: list[Clause]
    conditions: Conditions
    tests: dict[Test, Use]
    errors: list[Diagnostic]
    warnings: list[Diagnostic]


def lower_policies(policies: PolicySet, supported: Collection[str] | None) -> Lowered:
    """All rules of all policies; the caller raises `errors`."""
    return _lowered(policies, supported).out


def _lowered(policies: PolicySet, supported: Collection[str] | None) -> _Lowering:
    lowering = _Lowering(supported)
    for policy in policies.policies:
        lowering.policy(policy)
    return lowering


class Last:
    """What was lowered last. A policy set in which few rules have other literals, or stand elsewhere, becomes what it would have become by
    itself, without lowering the others: new tests have the numbers of those whose place they take.
    """

    def __init__(self) -> None:
        self._kept: _Kept | None = None

    def lower(self, policies: PolicySet, supported: Collection[str] | None) -> Lowered:
        """As `lower_policies`."""
        kept = self._kept
        found = None if kept is None else kept.changed(policies, supported)
        if found is None:
            found = _Kept(policies, supported, _lowered(policies, supported))
        self._kept = found
        return found.copy()

    def clear(self) -> None:
        """Keep nothing."""
        self._kept = None


CHANGED_SHARE: Final = 4
"""Of rules that have changed at most one in so many is lowered by itself."""


class _Kept:
    """A lowering as it was before anything was made of it. `first`: the rule in which each test is seen first; `uses`: how often it is."""

    def __init__(self, policies: PolicySet, supported: Collection[str] | None, made: _Lowering) -> None:
        self.policies = policies
        self.supported = made.supported
        self.out = made.out._replace(conditions=made.out.conditions.copy())
        self.number, self.uses, self.first = made.number, made.uses, made.first

    def copy(self) -> Lowered:
        out = self.out
        return out._replace(
            rules=list(out.rules),
            modes=list(out.modes),
            actions=list(out.actions),
            clauses=list(out.clauses),
            tests=dict(out.tests),
            conditions=out.conditions.copy(),
            errors=list(out.errors),
            warnings=list(out.warnings),
        )

    def changed(self, policies: PolicySet, supported: Collection[str] | None) -> _Kept | None:
        """The same of other policies; None where more has changed."""
        if self.supported != (None if supported is None else frozenset(supported)) or self.out.errors or self.out.warnings:
            return None
        pairs = _changed_rules(self.policies, policies)
        if pairs is None or CHANGED_SHARE * sum(old.condition != new.condition for _, _, old, new in pairs) > len(self.out.rules):
            return None
        replaced: dict[Test, tuple[Test, Use]] = {}
        for _, policy, old, new in pairs:
            found = self.replaced(policy, old, new)
            if found is None or not replaced.keys().isdisjoint(found) or not _taken(replaced).isdisjoint(_taken(found)):
                return None
            replaced |= found
        made = _Kept.__new__(_Kept)
        rules = list(self.out.rules)
        moved: dict[int, Location] = {}
        for number, _, old, new in pairs:
            rules[number] = new
            if old.location != new.location:
                moved[number] = new.location
        made.policies, made.supported, made.uses, made.first, made.number = policies, self.supported, self.uses, self.first, self.number
        made.out = self.out._replace(rules=rules)
        if replaced or moved:
            listed = [replaced.get(test, (test, use)) for test, use in self.out.tests.items()]
            for n, (rule, (test, use)) in enumerate(zip(self.first, listed, strict=True)):
                if rule in moved:
                    listed[n] = test, use._replace(location=moved[rule])
            made.out = made.out._replace(tests=dict(listed))
            made.number = {test: n for n, test in enumerate(made.out.tests)}
        return made

    def replaced(self, policy: Policy, old: Rule, new: Rule) -> dict[Test, tuple[Test, Use]] | None:
        """The tests of a rule that others take the place of; None where the rule has become another in more than its literals."""
        if (old.condition, old.conditions) == (new.condition, new.conditions):
            return {}
        before, after = (_Lowering(self.supported) for _ in range(2))
        before.rule(policy, old)
        after.rule(policy, new)
        if after.out.errors or after.out.warnings or (before.out.clauses, before.uses) != (after.out.clauses, after.uses):
            return None
        if (before.out.conditions.kind, before.out.conditions.parts) != (after.out.conditions.kind, after.out.conditions.parts):
            return None
        found: dict[Test, tuple[Test, Use]] = {}
        for n, (was, (test, use)) in enumerate(zip(before.out.tests, after.out.tests.items(), strict=True)):
            if was == test:
                if before.out.tests[was].field != use.field:
                    return None
            elif test in self.number or self.uses[self.number[was]] != before.uses[n]:
                return None
            else:
                found[was] = test, use
        return found


def _taken(replaced: Mapping[Test, tuple[Test, Use]]) -> set[Test]:
    return {test for test, _ in replaced.values()}


def _changed_rules(before: PolicySet, after: PolicySet) -> list[tuple[int, Policy, Rule, Rule]] | None:
    """Rules that are not the same in two policy sets, with their numbers and policies; None where more than conditions, places and what is
    told of a rule has changed, or there are defaults, which are rules made of others."""
    if len(before.policies) != len(after.policies):
        return None
    found: list[tuple[int, Policy, Rule, Rule]] = []
    number = 0
    for old, new in zip(before.policies, after.policies, strict=True):
        if old.default or new.default or old.mode != new.mode or len(old.rules) != len(new.rules):
            return None
        for one, other in zip(old.rules, new.rules, strict=True):
            if one is not other and one != other:
                if _kind(one) != _kind(other):
                    return None
                found.append((number, new, one, other))
            number += 1
    return found


def _kind(rule: Rule) -> tuple[object, ...]:
    return rule.events, rule.action, rule.when, rule.confirm, rule.threshold, rule.threshold and (rule.policy, rule.name)


def default_rules(policy: Policy) -> Iterator[Rule]:
    """The default postures of a policy as rules: inside the scope, and no allow rule of the policy matches."""
    by_action: dict[Action, list[str]] = {}
    for event, action in policy.default.items():
        if action > Action.ALLOW:
            by_action.setdefault(action, []).append(event)
    for action, events in by_action.items():
        conditions = {}
        for event in events:
            allowed = tuple(r.condition_for(event) for r in policy.rules if r.action is Action.ALLOW and event in r.events)
            conditions[event] = And((policy.scope, Not(Or(allowed))))
        yield Rule(
            policy=policy.name,
            name=DEFAULT_RULE,
            events=tuple(events),
            conditions=conditions,
            action=action,
            severity=policy.severity,
            tags=policy.tags,
            location=policy.location,
        )


def counter_of(rule: Rule, threshold: Threshold, mode: str) -> Test:
    """What a rule of a policy in such a mode counts. As long as its name and threshold stay the same, a reload keeps what was counted."""
    named = "\0".join((rule.policy, mode, rule.name, str(threshold.count), str(threshold.within), threshold.by))
    number = int.from_bytes(blake2b(named.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")
    by = 1 + COUNTED_BY.index(threshold.by)
    return Test(abi.DIM_COUNT, 0, Counter(number, threshold.count, threshold.within, by, tells(rule, mode)))


class _Lowering:
    def __init__(self, supported: Collection[str] | None) -> None:
        self.supported = None if supported is None else frozenset(supported)
        self.out = Lowered([], [], [], [], Conditions(), {}, [], [])
        self.number: dict[Test, int] = {}
        self.uses: list[int] = []
        self.first: list[int] = []
        self.blamed: set[tuple[str, Atom]] = set()
        self.where = Location("<none>")
        self.who = ("", "")

    def policy(self, policy: Policy) -> None:
        for rule in policy.rules:
            self.rule(policy, rule)
            if rule.action is Action.ALLOW and not any(policy.default.get(e, Action.NONE) > Action.ALLOW for e in rule.events):
                self.warn(
                    f"rule {rule.name!r} allows, but its policy has no default for {', '.join(rule.events)}: it has no effect",
                    "add a default posture for the event, or remove the rule",
                    "allow-without-default",
                )
        for rule in default_rules(policy):
            self.rule(policy, rule)

    def rule(self, policy: Policy, rule: Rule) -> None:
        out = self.out
        number = len(out.rules)
        enforced = policy.mode != "audit"
        out.rules.append(rule)
        out.modes.append(policy.mode)
        out.actions.append(rule.action if enforced or rule.action < Action.AUDIT else Action.AUDIT)
        self.where, self.who = rule.location, (policy.name, rule.name)
        errors = len(out.errors)
        if (rule.when != When.DECIDED or rule.confirm) and rule.action not in (Action.OBSERVE, Action.AUDIT):
            why = "what user space confirms" if rule.confirm else "what waits for the call's result"
            self.error(f"{why} cannot {rule.action.name.lower()}", "use action: audit")
        counted = self.counted(policy, rule)
        by_condition: dict[int, int] = {}
        for event, condition in self.by_event(rule, [e for e in rule.events if self.known(rule, e, enforced)]):
            bit = 1 << abi.CONSTANTS[EVENT_BY_NAME[event].id]
            condition = out.conditions.all_of((condition, *counted))
            by_condition[condition] = by_condition.get(condition, 0) | bit
        if len(out.errors) > errors:
            return
        if by_condition and all(condition == FALSE for condition in by_condition):
            hint = "its conditions contradict each other, or no event of the rule has the field"
            self.warn(f"rule {rule.name!r} can never match", hint, "unreachable-rule")
        elif rule.action > Action.ALLOW:
            out.clauses.extend(Clause(number, events, c) for c, events in by_condition.items() if c != FALSE)

    def counted(self, policy: Policy, rule: Rule) -> tuple[int, ...]:
        """The condition that a rule has counted enough; none of a rule that does not count."""
        threshold = rule.threshold
        if threshold is None:
            return ()
        if rule.confirm or rule.when != When.DECIDED or rule.action < Action.AUDIT:
            self.error(f"a rule to {rule.action.name.lower()}, or that user space confirms, cannot count", "use audit, deny or kill")
            return ()
        test = counter_of(rule, threshold, policy.mode)
        first = self.out.rules[self.first[self.number[test]]] if test in self.number else rule
        # A policy in audit mode and its doubts (`with_doubts`) are about different containers, and count as one.
        if msgspec.structs.replace(first, condition=rule.condition, conditions=rule.conditions) != rule:
            self.error("another rule of a policy of that name counts under the same name", "rename one of them")
        return (self.numbered(test, Use("", rule.location, apart=f"{policy.name}/{rule.name}")),)

    def known(self, rule: Rule, event: str, enforced: bool) -> bool:
        """Whether the rule can be decided on the event; otherwise says so."""
        blocks = rule.action >= Action.DENY and enforced
        acts = blocks or (rule.signal and enforced)
        found = EVENT_BY_NAME.get(event)
        if found is None:
            self.error(f"no event is called {event!r}", "see the list of events")
            return False
        if blocks and not found.blockable(rule.action is Action.KILL):
            self.error(f"{event} cannot be denied: {found.doc}", "use action: kill" if found.killable else "use action: audit")
            return False
        if self.supported is not None and event not in self.supported:
            text, hint = f"this kernel cannot report {event}", "see `bpfence doctor`"
            if found.sensor:
                hint = f"sensors need the helper bpf_get_attach_cookie, which Linux 5.15 brought; {hint}"
            if acts:
                self.error(f"{text}, so {rule.action.name.lower() if blocks else 'its signal'} cannot be enforced", hint)
            else:
                self.warn(text, hint, "event-unsupported")
            return False
        return True

    def by_event(self, rule: Rule, events: list[str]) -> Iterator[tuple[str, int]]:
        """The condition per event; events whose fields are alike share the work."""
        known: dict[tuple[int, tuple[str, ...]], int] = {}
        fields: dict[int, list[str]] = {}
        for event in events:
            condition = rule.condition_for(event)
            if id(condition) not in fields:
                fields[id(condition)] = list(dict.fromkeys(field for atom in atoms(condition) for field in atom.fields))
            absent = tuple(f for f in fields[id(condition)] if f in FIELD_BY_NAME and not applies(FIELD_BY_NAME[f], event))
            key = (id(condition), absent)
            if key not in known:
                known[key] = self.condition(condition, absent)
            yield event, known[key]

    def condition(self, condition: Condition, absent: tuple[str, ...]) -> int:
        store = self.out.conditions
        if isinstance(condition, Atom):
            test = None if _lacks(condition, absent) else self.lowered(condition)
            return FALSE if test is None else self.test(test, condition)
        if isinstance(condition, Not):
            return store.negate(self.condition(condition.part, absent))
        if isinstance(condition, And):
            return store.all_of([self.condition(part, absent) for part in condition.parts])
        alternatives = list(_alternatives(condition))
        numbers = [self.condition(part, absent) for part in alternatives if not isinstance(part, Atom)]
        found = [part for part in alternatives if isinstance(part, Atom) and not _lacks(part, absent)]
        return store.any_of([*numbers, *self.joined(found)])

    def joined(self, alternatives: list[Atom]) -> Iterator[int]:
        """Conditions for alternatives. Flags, object sets, ancestors and contained texts that are alternatives are one test, "any of
        these": as independent dimensions, or patterns of one automaton, they would multiply.
        """
        merged: dict[tuple[int, int, object], tuple[Test, Atom]] = {}
        for atom in alternatives:
            test = self.lowered(atom)
            if test is None:
                continue
            contained = test.value.op if isinstance(test.value, Pattern) and test.value.op in ANY_OF else None
            if test.kind not in (*classes.DESCENT, abi.DIM_BITS) and contained is None:
                yield self.test(test, atom)
                continue
            key = (test.kind, test.slot, contained or type(test.value))
            before = merged.get(key)
            merged[key] = (test if before is None else classes.either(before[0], test), atom)
        for test, atom in merged.values():
            yield self.test(test, atom)

    def lowered(self, atom: Atom) -> Test | None:
        """The test of an atom; None where it is never true, or cannot be made: then there is an error."""
        try:
            return classes.lower(atom)
        except Unsupported as reason:
            if (self.who[0], atom) not in self.blamed:
                self.blamed.add((self.who[0], atom))
                value = "" if atom.value is None else f" {atom.value!r}"
                self.error(f"{atom.field} {atom.op.value}{value} cannot be decided in the kernel: {reason}", "")
            return None

    def test(self, test: Test, atom: Atom) -> int:
        return self.numbered(test, Use(atom.field, self.where, atom.fields[-1]))

    def numbered(self, test: Test, use: Use) -> int:
        number = self.number.get(test)
        if number is None:
            number = self.number[test] = len(self.number)
            self.out.tests[test] = use
            self.uses.append(0)
            self.first.append(len(self.out.rules) - 1)
        self.uses[number] += 1
        return self.out.conditions.test(number)

    def error(self, message: str, hint: str) -> None:
        policy, rule = self.who
        text = f"policy {policy!r}, rule {rule!r}: {message}"
        self.out.errors.append(Diagnostic(self.where, text, hint, code="not-enforceable"))

    def warn(self, message: str, hint: str, code: str) -> None:
        self.out.warnings.append(Diagnostic(self.where, f"policy {self.who[0]!r}: {message}", hint, "warning", code))


def _lacks(atom: Atom, absent: tuple[str, ...]) -> bool:
    """Whether a field that the atom is about is among those that the event does not carry."""
    return bool(absent) and not set(atom.fields).isdisjoint(absent)


def _alternatives(condition: Or) -> Iterator[Condition]:
    """The parts of an Or, of an Or directly within it, and so on."""
    for part in condition.parts:
        if isinstance(part, Or):
            yield from _alternatives(part)
        else:
            yield part


_NEEDED_EVENTS: Final = {
    "file.open": abi.NEEDED_OPEN, "file.permission": abi.NEEDED_PERMISSION,
    "file.mmap": abi.NEEDED_MMAP, "file.mprotect": abi.NEEDED_MPROTECT,
}  # fmt: skip
_ANY_BITS: Final = ANY_NEEDED[0]
_MAPPED: Final = {abi.ACCESS_READ: PROT_READ, abi.ACCESS_WRITE: abi.NEEDED_SHARED, abi.ACCESS_EXEC: PROT_EXEC}
"""What a mapping has, where it is to have an access."""


def needed_bits(policies: PolicySet) -> tuple[int, ...]:
    """By abi.NEEDED_*: the bits of which an event must have one, or nothing holds that the policies say of it. Of most events that
    there are they say nothing, and then the kernel need not look further: they are about what is written, say, and most files are
    opened to be read.
    """
    return NEEDED.of(policies)


class _Needed:
    """`needed_bits`, with what it has found for the conditions of the last policies, where they were many: a reload brings most again."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, bool], tuple[Condition, int]] = {}  # by identity, which holds as long as the condition is kept

    def of(self, policies: PolicySet) -> tuple[int, ...]:
        known = self._kept
        made: dict[tuple[int, bool], tuple[Condition, int]] = {}
        found = _needed_bits(policies, known, made)
        self._kept = made if len(made) >= CACHED_RULES else {}
        return found


NEEDED: Final = _Needed()
_Known = dict[tuple[int, bool], tuple[Condition, int]]


def _needed_bits(policies: PolicySet, known: _Known, made: _Known) -> tuple[int, ...]:
    found = [0] * abi.NEEDED_EVENTS
    for policy in policies.policies:
        for event, number in _NEEDED_EVENTS.items():
            if event in policy.default:
                found[number] = _ANY_BITS
            for rule in policy.rules:
                if event in rule.events:
                    condition = rule.condition_for(event)
                    key = id(condition), event in ("file.mmap", "file.mprotect")
                    entry = made.get(key) or known.get(key)
                    if entry is None:
                        bits = _bits_of(condition, mapped=key[1]) & ~abi.NEEDED_PLACELESS
                        entry = condition, bits | (0 if _asks_for_a_place(condition) else abi.NEEDED_PLACELESS)
                    made[key] = entry
                    found[number] |= entry[1]
    return tuple(found)


def _bits_of(condition: Condition, *, mapped: bool) -> int:
    match condition:
        case Atom("file.access", Op.ANYBITS, int(mask)):
            return reduce(or_, (has for access, has in _MAPPED.items() if mask & access), 0) if mapped else mask
        case Atom("file.prot", Op.ANYBITS, int(mask)) if mapped and mask < abi.NEEDED_SHARED:
            return mask
        case Atom("file.shared", Op.RANGE, (1, 1)) if mapped:
            return abi.NEEDED_SHARED
        case And(parts) if parts:
            return min((_bits_of(part, mapped=mapped) for part in parts), key=lambda bits: (bits.bit_count(), -bits))
        case Or(parts):
            return reduce(or_, (_bits_of(part, mapped=mapped) for part in parts), 0)
    return _ANY_BITS


def _asks_for_a_place(condition: Condition) -> bool:
    """Whether only a file in the tree can meet a condition: what is in none, as a socket, has a name without '/', or none."""
    match condition:
        case Atom("file.path", Op.EQUALS | Op.PREFIX | Op.SUFFIX | Op.CONTAINS, str(text)):
            return "/" in text
        case Atom("file.path", Op.GLOB, str(text)):
            return _has_slash(glob.parse(text))
        case Atom("file.path", Op.OBJECT, str(text)):
            return not text.startswith(("/proc/", "/dev/"))
        case And(parts):
            return any(map(_asks_for_a_place, parts))
        case Or(parts):
            return all(map(_asks_for_a_place, parts))
    return False


def _has_slash(pieces: glob.Glob) -> bool:
    """Whether everything that a glob matches has a '/' in it."""
    return any(
        (isinstance(piece, glob.Text) and b"/" in piece.data) or (isinstance(piece, glob.Either) and all(map(_has_slash, piece.branches)))
        for piece in pieces
    )
