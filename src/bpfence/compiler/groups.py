# SPDX-License-Identifier: Apache-2.0
"""Clauses in, groups of clauses that make diagrams of bearable size out.

Called by `compiler.compile_policies`. The kernel walks the diagrams of all groups and takes the greatest action, so which rule is in which
group changes no decision: rules that share no dimension add in two diagrams, and multiply in one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from bpfence import abi
from bpfence.compiler.classes import Dimension
from bpfence.compiler.diagram import FALSE, Clause, Conditions


class _Kind(NamedTuple):
    """Rules that look at the same wide dimensions: how many classes they tell apart in each, and at which events."""

    rules: list[int]
    counts: dict[int, int]
    events: int


def cost(conditions: Conditions, clause: Clause) -> int:
    """A measure of what a rule adds: the number of classes its tests are true in."""
    return sum(len(conditions.truth[test][1]) for test in conditions.tests(clause.condition))


class Affinity(NamedTuple):
    """What decides whether rules add up or multiply in one diagram, most telling first; sorting keeps alike rules together.

    `required`: wide subject dimensions (executables, say) without a pattern of which the rule cannot match: such rules are in few
    rows each, while the others are in nearly all rows. `lineage`: independent yes-or-no subjects, which multiply rows. Then the
    wide dimensions of the subject and of the event.
    """

    required: int
    lineage: int
    subject: int
    event: int


WIDE: Final = 8
PRODUCT_WORTH_SPLITTING: Final = 2_500
PRODUCT_WORTH_APART: Final = 20_000


def affinity(conditions: Conditions, dimensions: Sequence[Dimension], clause: Clause) -> Affinity:
    required = lineage = subject = event = 0
    mask = conditions.mask[clause.condition]
    for number, dimension in enumerate(dimensions):
        bit = mask & 1 << number
        if not bit:
            continue
        if dimension.subject and dimension.kind == abi.DIM_LINEAGE:
            lineage |= bit
        elif dimension.classes > WIDE and dimension.subject:
            subject |= bit
            if conditions.without(clause.condition, number) == FALSE:
                required |= bit
        elif dimension.classes > WIDE:
            event |= bit
    return Affinity(required, lineage, subject, event)


Parts = tuple[list[Clause], list[Clause]]


class Partition:
    """Splits groups of clauses; a rule stays whole. Affinities are computed once."""

    def __init__(self, conditions: Conditions, dimensions: Sequence[Dimension], clauses: Sequence[Clause]) -> None:
        self.conditions = conditions
        self.dimensions = dimensions
        self.of_rule: dict[int, Affinity] = {}
        for clause in clauses:
            found = affinity(conditions, dimensions, clause)
            self.of_rule[clause.rule] = min(found, self.of_rule.get(clause.rule, found))

    def first(self, clauses: Sequence[Clause]) -> list[list[Clause]]:
        """Groups to begin with: rules bound to certain executables, rules that ask for ancestors, and the rest are kept apart where
        together they would clearly multiply.
        """
        plain: list[Clause] = []
        descent: list[Clause] = []
        bound: list[Clause] = []
        for clause in clauses:
            found = self.of_rule[clause.rule]
            (bound if found.required else descent if found.lineage else plain).append(clause)
        bits = len({bit for c in descent for bit in range(64) if self.of_rule[c.rule].lineage >> bit & 1})
        free = [[*plain, *descent]]
        if min(1 << min(bits, 20), len(descent)) * len(plain) > PRODUCT_WORTH_SPLITTING:
            free = [plain, descent]
        if len({c.condition for c in bound}) * (len(plain) + len(descent)) > PRODUCT_WORTH_SPLITTING:
            parts = [*free, bound]
        elif len(free) > 1:
            parts = [plain, [*descent, *bound]]
        else:
            parts = [list(clauses)]
        return [part for part in parts if part]

    def halves(self, clauses: Sequence[Clause]) -> Parts:
        """Two parts of a group that was too large, cut where the most telling affinity differs, near the middle."""
        by_rule: dict[int, list[Clause]] = {}
        for clause in clauses:
            by_rule.setdefault(clause.rule, []).append(clause)
        keys = {rule: self.of_rule[rule] for rule in by_rule}
        order = sorted(by_rule, key=lambda rule: (keys[rule], rule))
        middle = len(order) // 2
        cut = middle
        for depth in range(1, len(Affinity._fields) + 1):
            cuts = [n for n in range(1, len(order)) if keys[order[n]][:depth] != keys[order[n - 1]][:depth]]
            if cuts:
                cut = min(cuts, key=lambda n: (abs(n - middle), n))
                break
        return [c for rule in order[:cut] for c in by_rule[rule]], [c for rule in order[cut:] for c in by_rule[rule]]

    def split(self, clauses: Sequence[Clause], most: int) -> list[list[Clause]]:
        """At most that many parts of a group that was too large; one where it cannot be split."""
        parts = self.spread(clauses, most) if most > 2 else []
        if len(parts) < 2:
            parts = [part for part in self.halves(clauses) if part]
        return parts

    def spread(self, clauses: Sequence[Clause], most: int) -> list[list[Clause]]:
        """Rules that look at the same dimensions stay together; those that would multiply with each other go to different parts."""
        by_rule: dict[int, list[Clause]] = {}
        for clause in clauses:
            by_rule.setdefault(clause.rule, []).append(clause)
        kinds: dict[frozenset[int], _Kind] = {}
        for rule, members in by_rule.items():
            counts: dict[int, int] = {}
            events = 0
            for clause in members:
                events |= clause.events
                for test in self.conditions.tests(clause.condition):
                    number, found = self.conditions.truth[test]
                    counts[number] = counts.get(number, 0) + len(found)
            wide = frozenset(number for number in counts if self.dimensions[number].classes > WIDE)
            kind = kinds.setdefault(wide, _Kind([], {}, 0))
            kind.rules.append(rule)
            for number in wide:
                kind.counts[number] = kind.counts.get(number, 0) + counts[number]
            kinds[wide] = kind._replace(events=kind.events | events)
        parts: list[list[_Kind]] = []
        for kind in sorted(kinds.values(), key=lambda kind: (-sum(kind.counts.values()), kind.rules[0])):
            costs = [sum(self.product(kind, other) for other in part) for part in parts]
            best = min(range(len(parts)), key=costs.__getitem__, default=-1)
            if best >= 0 and (costs[best] <= PRODUCT_WORTH_APART or len(parts) >= most):
                parts[best].append(kind)
            else:
                parts.append([kind])
        rules = [sorted(rule for kind in part for rule in kind.rules) for part in parts]
        return [[clause for rule in part for clause in by_rule[rule]] for part in rules]

    def product(self, one: _Kind, other: _Kind) -> int:
        """A measure of what two kinds of rules cost more in one diagram than in two: classes that only the one tells apart, times those
        that only the other does. Rules of different events only share the subject.
        """
        shared = one.events & other.events

        def own(of: _Kind, but: _Kind) -> int:
            return sum(n for d, n in of.counts.items() if d not in but.counts and (shared or self.dimensions[d].subject))

        return own(one, other) * own(other, one)
