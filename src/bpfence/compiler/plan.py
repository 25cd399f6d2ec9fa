# SPDX-License-Identifier: Apache-2.0
"""Clauses in, clauses that add where they would have multiplied out. Called by `compiler.compile_policies` between its first passes.

Three things multiply. What is done about each, and why no decision changes:

    texts that may stand anywhere   `families`: rules that differ in such a text alone do the same, so the first text that is found decides,
                                    and user space, which has the text, finds the others that match as well (`siblings`);
                                    their automaton has nothing to remember (Aho and Corasick 1975).
    tests of rules to be confirmed  `widened`: a rule that user space confirms may let through more: many texts become "one of them".
                                    What decides by itself is never widened.
    exceptions of the subject       `late`: a test of the subject that a rule need not pass, such as `unless exe`, is made below the rule's
                                    other tests, where only that rule is left, not first, where it would double all rules.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from bpfence import abi, glob
from bpfence.compiler import classes
from bpfence.compiler.automaton import ANY_OF, Pattern, inner_text, is_sticky
from bpfence.compiler.classes import Dimension, Test, Use
from bpfence.compiler.diagram import FALSE, TRUE, Clause, Conditions
from bpfence.compiler.lowering import Lowered
from bpfence.fields import EVENTS
from bpfence.policy import Action, Op, Rule, Value

FEW: Final = 16
"""Rules that differ in a text alone, and different exceptions of the subject: as many may multiply."""
CONFIRMED_RULES: Final = 32
CONFIRMED_TESTS: Final = 4
"""Rules that user space confirms; and where there are more, tests of a kind that may multiply."""
WIDENED_STATES: Final = 40_000
MAX_PARTS: Final = 4


class Family(msgspec.Struct, frozen=True):
    """Rules that differ in a text alone, of which the kernel tells the one whose text it finds first: the others that match as well are
    those whose text is in the value, too. `op`: of ANY_OF. `texts`: by the number of a rule, any of them.
    """

    field: str
    op: Op
    events: tuple[str, ...]
    texts: dict[int, tuple[str, ...]]

    def found(self, value: str | bytes) -> Iterator[int]:
        """The rules one of whose texts is in a value of the field, by the reference evaluator's own test."""
        data = glob.encode(value) if isinstance(value, str) else value
        folds = self.op is Op.ICONTAINS
        if folds:
            data = data.lower()
        for rule, texts in self.texts.items():
            for text in texts:
                wanted = glob.encode(text)
                if (wanted.lower() if folds else wanted) in data:
                    yield rule
                    break


class Planned(NamedTuple):
    """`clauses` over `tests`, by number; None: no clause has the test any more. `widened`: fields of which user space does some
    tests alone.
    """

    clauses: list[Clause]
    tests: list[tuple[Test, Use] | None]
    widened: tuple[str, ...]
    families: tuple[Family, ...] = ()


def plan(lowered: Lowered) -> Planned:
    """What the classes are made of."""
    planner = _Planner(lowered)
    planner.widen()
    planner.families()
    tests: list[tuple[Test, Use] | None] = list(planner.tests)
    if planner.clauses is not lowered.clauses:
        used = {test for clause in planner.clauses for test in lowered.conditions.tests(clause.condition)}
        tests = [entry if n in used else None for n, entry in enumerate(tests)]
    return Planned(planner.clauses, tests, tuple(planner.fields), tuple(planner.found))


def siblings(families: Sequence[Family], event: str, rules: Collection[int], value: Callable[[str], Value | None]) -> list[int]:
    """The rules that match beside `rules`, which the kernel is certain of, because they are of the same families. `value`: of a field."""
    found: set[int] = set()
    for family in families:
        if event in family.events and not family.texts.keys().isdisjoint(rules):
            text = value(family.field)
            if isinstance(text, (str, bytes)):
                found.update(family.found(text))
    return sorted(found.difference(rules))


class _Planner:
    def __init__(self, lowered: Lowered) -> None:
        self.lowered = lowered
        self.conditions = lowered.conditions
        self.clauses = lowered.clauses
        self.tests = list(lowered.tests.items())
        self.number = {test: n for n, (test, _) in enumerate(self.tests)}
        self.fields: dict[str, None] = {}
        self.found: list[Family] = []

    # ---- what user space confirms ----

    def widen(self) -> None:
        """Where there are many, tests of rules that user space confirms become a few: "one of them"."""
        confirmed = [clause for clause in self.clauses if self.lowered.rules[clause.rule].confirm]
        if len({clause.rule for clause in confirmed}) <= CONFIRMED_RULES:
            return
        kinds: dict[tuple[object, ...], dict[int, None]] = {}
        for clause in confirmed:
            for number in sorted(self.conditions.tests(clause.condition)):
                if wider := _wider(self.tests[number][0]):
                    kinds.setdefault((wider.kind, wider.slot, wider.value.op if isinstance(wider.value, Pattern) else None), {})[number] = (
                        None
                    )
        replaced: dict[int, int] = {}
        for numbers in kinds.values():
            if len(numbers) > CONFIRMED_TESTS:
                replaced.update(self.joined(list(numbers)))
        if not replaced:
            return
        rewrite = _Weaken(self.conditions, replaced)
        changed: dict[int, Clause] = {}
        for at, clause in enumerate(self.clauses):
            condition = rewrite(clause.condition, True) if self.lowered.rules[clause.rule].confirm else clause.condition
            if condition != clause.condition:
                changed[at] = clause._replace(condition=condition)
        self.without_exceptions(changed)
        made = (changed.get(at, clause) for at, clause in enumerate(self.clauses))
        self.clauses = [clause for clause in made if clause.condition != FALSE]

    def without_exceptions(self, wider: dict[int, Clause]) -> None:
        """Rules that can no longer be told apart by what they ask for multiply by what each excepts: user space does that, too."""
        excepted: dict[int, dict[int, frozenset[int]]] = {}  # slot -> clause -> texts that it excepts there
        for at, clause in wider.items():
            by_slot: dict[int, list[int]] = {}
            for number in self.negative(clause.condition):
                test = self.tests[number][0]
                if isinstance(test.value, Pattern):
                    by_slot.setdefault(test.slot, []).append(number)
            for slot, numbers in by_slot.items():
                excepted.setdefault(slot, {})[at] = frozenset(numbers)
        for found in excepted.values():
            if len(set(found.values())) <= FEW:
                continue
            for at, numbered in found.items():
                drop = _Weaken(self.conditions, {number: self.conditions.test(number) for number in numbered})
                wider[at] = wider[at]._replace(condition=drop(wider[at].condition, True))
                self.fields.update(dict.fromkeys(self.tests[number][1].field for number in sorted(numbered)))

    def negative(self, condition: int) -> set[int]:
        """The tests that stand under a `not`."""
        found: set[int] = set()
        seen: set[tuple[int, bool]] = set()

        def look(part: int, negated: bool) -> int:
            if (part, negated) not in seen:
                seen.add((part, negated))
                if negated and (test := self.conditions.tested(part)) is not None:
                    found.add(test)
                self.conditions.mapped(part, lambda _: part, lambda inner, under_not: look(inner, negated is not under_not))
            return part

        look(condition, False)
        return found

    def joined(self, numbers: Sequence[int]) -> dict[int, int]:
        """For each of these tests a condition that follows from it: one of as many as fit into one automaton beside each other."""
        wider = [found for number in numbers if (found := _wider(self.tests[number][0]))]
        length = sum(len(value) for found in wider for value in _texts(found))
        parts = max(1, min(MAX_PARTS, len(numbers), int(math.log2(max(1, WIDENED_STATES / max(1, length))))))
        out: dict[int, int] = {}
        for part in range(parts):
            members = numbers[part * len(numbers) // parts : (part + 1) * len(numbers) // parts]
            use = self.tests[members[0]][1]
            test = functools.reduce(classes.either, wider[part * len(numbers) // parts : (part + 1) * len(numbers) // parts])
            self.fields[use.field] = None
            apart = f" (one of, {test.value.op.value})" if isinstance(test.value, Pattern) else ""
            condition = self.test(test, use._replace(apart=apart))
            out.update(dict.fromkeys(members, condition))
        return out

    def test(self, test: Test, use: Use) -> int:
        number = self.number.get(test)
        if number is None:
            number = self.number[test] = len(self.tests)
            self.tests.append((test, use))
        return self.conditions.test(number)

    # ---- rules that differ in a text alone ----

    def families(self) -> None:
        """Gives the texts of each family of rules an automaton of their own, in which the first that is found ends the search."""
        texts = {number for number, (test, _) in enumerate(self.tests) if isinstance(test.value, Pattern) and test.value.op in ANY_OF}
        if len(texts) <= FEW:
            return
        places: dict[int, list[Clause]] = {}
        for clause in self.clauses:
            for number in texts & self.conditions.tests(clause.condition):
                places.setdefault(number, []).append(clause)
        alike = self.alike()
        families: dict[tuple[object, ...], list[int]] = {}
        for number in sorted(places):
            keys = {self.family(clause, number, alike) for clause in places[number]}
            key = keys.pop() if len(keys) == 1 else None
            if key is not None:
                families.setdefault(key, []).append(number)
        for n, members in enumerate(found for found in families.values() if len(found) > FEW):
            of_rule: dict[int, tuple[str, ...]] = {}
            for number in members:
                test, use = self.tests[number]
                self.tests[number] = (test, use._replace(apart=f" (first of {n + 1})", first=True))
                of_rule.update({clause.rule: tuple(_texts(test)) for clause in places[number]})
            test, use = self.tests[members[0]]
            mask = places[members[0]][0].events
            assert isinstance(test.value, Pattern)
            events = tuple(event.name for event in EVENTS if mask >> abi.CONSTANTS[event.id] & 1)
            self.found.append(Family(use.field, test.value.op, events, dict(sorted(of_rule.items()))))

    def alike(self) -> frozenset[Action]:
        """The actions of which all rules give the same error: which of several is told first makes no difference to the caller."""
        errors: dict[Action, set[int]] = {}
        for rule, action in zip(self.lowered.rules, self.lowered.actions, strict=True):
            errors.setdefault(action, set()).add(rule.errno if action >= Action.DENY else 0)
        return frozenset(action for action, found in errors.items() if len(found) == 1)

    def family(self, clause: Clause, number: int, alike: Collection[Action]) -> tuple[object, ...] | None:
        """What the rules of a family have in common; None where the clause asks for more than "this text, and the rest"."""
        rule, action = self.lowered.rules[clause.rule], self.lowered.actions[clause.rule]
        test = self.conditions.test(number)
        rest = self.conditions.rest(clause.condition, test)
        if rest is None or rule.confirm or action not in alike or any(number in self.conditions.tests(part) for part in rest):
            return None
        tested = self.tests[number][0]
        assert isinstance(tested.value, Pattern)
        signal = 0 if self.lowered.modes[clause.rule] == "audit" else rule.signal  # only that of the first is sent
        return (tested.slot, tested.value.op, clause.events, rest, action, signal, *_told(rule))


def _told(rule: Rule) -> tuple[object, ...]:
    """What it makes a difference in, which of two rules is told."""
    return rule.severity, rule.when, rule.tags, rule.rate, rule.burst


def _wider(test: Test) -> Test | None:
    """Of a test that multiplies with others of its kind: what is true wherever it is, and can be joined with that of others. None of other
    tests.
    """
    if test.kind in classes.DESCENT:
        return test
    if not isinstance(test.value, Pattern) or not is_sticky(test.value):
        return None
    if test.value.op in ANY_OF or not (text := inner_text(test.value)):
        return test
    return test._replace(value=Pattern(Op.CONTAINS, text))


def _texts(test: Test) -> Iterable[str]:
    if isinstance(test.value, Pattern):
        return (test.value.value,) if isinstance(test.value.value, str) else test.value.value
    return (pattern.text for pattern in test.ancestors)


class _Weaken:
    """A condition that is true wherever another is: tests become what follows from them, and under a `not` are taken for false."""

    def __init__(self, conditions: Conditions, replaced: Mapping[int, int]) -> None:
        self.conditions = conditions
        self.replaced = replaced
        self.known: dict[tuple[int, bool], int] = {}

    def __call__(self, condition: int, wider: bool) -> int:
        key = (condition, wider)
        if key not in self.known:
            self.known[key] = self.conditions.mapped(
                condition,
                lambda test: (self.replaced[test] if wider else FALSE) if test in self.replaced else self.conditions.test(test),
                lambda part, negated: self(part, wider is not negated),
            )
        return self.known[key]


# ---- exceptions of the subject ----


def late(conditions: Conditions, clauses: Sequence[Clause], dimensions: Sequence[Dimension], tests: int) -> list[Clause]:
    """Moves what `unless` says of the subject below the rest, where rules say many different things there.

    `conditions` are bound: `tests` tests to `dimensions`, and then the same tests once more, to dimensions behind all the others.
    """
    moved: dict[int, list[int]] = {}  # dimension -> clauses
    signatures: dict[int, set[frozenset[int]]] = {}
    can = [d for d, dimension in enumerate(dimensions) if dimension.subject and dimension.kind == abi.DIM_STRING]
    others = [d for d, dimension in enumerate(dimensions) if not dimension.subject]
    for at, clause in enumerate(clauses):
        mask = conditions.mask[clause.condition]
        possible = [d for d in can if mask >> d & 1]
        if not possible:
            continue
        possible = [d for d in possible if not conditions.requires(clause.condition, d)]
        if not possible or not any(mask >> d & 1 and conditions.requires(clause.condition, d) for d in others):
            continue
        found = conditions.tests(clause.condition)
        for d in possible:
            moved.setdefault(d, []).append(at)
            signatures.setdefault(d, set()).add(frozenset(test for test in found if conditions.truth[test][0] == d))
    out = list(clauses)
    for d, members in sorted(moved.items()):
        if len(signatures[d]) <= FEW:
            continue
        swap = _Later(conditions, d, tests)
        for at in members:
            out[at] = out[at]._replace(condition=swap(out[at].condition))
    return out


class _Later:
    """A condition with its tests of one dimension made late."""

    def __init__(self, conditions: Conditions, dimension: int, tests: int) -> None:
        self.conditions = conditions
        self.dimension = dimension
        self.tests = tests
        self.known: dict[int, int] = {}

    def __call__(self, condition: int) -> int:
        if condition <= TRUE or not self.conditions.mask[condition] >> self.dimension & 1:
            return condition
        if condition not in self.known:
            self.known[condition] = self.conditions.mapped(
                condition,
                lambda test: self.conditions.test(test + self.tests if self.conditions.truth[test][0] == self.dimension else test),
                lambda part, _: self(part),
            )
        return self.known[condition]
