# SPDX-License-Identifier: Apache-2.0
"""Rule conditions and dimensions in, decision diagrams out.

Called by `compiler.compile_policies`. `Conditions` is a store of hash-consed conditions over tests; `Builder` makes, for one group
of rules, a subject diagram (leaf: row, one root per event) and one diagram per row and event (leaf: the rules that match).

A diagram is built by partial evaluation. A state is the set of rules still undecided, each with what is left of its condition.
For the next dimension, a class changes only the rules that test one of the patterns true in it: all the others take the value
they have where nothing is true. So a dimension with thousands of classes costs the sum of what the classes touch, not the product.

Class 0 (uncertain): a rule may match when it matches for some class of the dimension. The child for class 0 keeps each rule with
its condition or-ed over the classes, and marks every leaf below as uncertain. For dimensions that never are uncertain the child
is one leaf: the most severe rule still possible.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from bpfence.compiler.classes import Dimension
from bpfence.policy import Action

FALSE: Final = 0
TRUE: Final = 1
_CONSTANT, _TEST, _NOT, _AND, _OR = range(5)
NO_DIMENSION: Final = 1 << 30


MANY: Final = 64
MANY_CONFIRMED: Final = 16
"""Rules that may match where a value is uncertain: of more, each one's exceptions are not told apart as long as others are as severe; of
those that user space confirms, nothing more is.
"""


class TooLarge(Exception):  # noqa: N818  control flow inside the compiler, answered by splitting the group
    """A group passes the budget of nodes and edges."""


WORK_PER_EDGE: Final = 100
"""Parts of conditions that may be looked at for each edge of the budget: one large condition may have few edges, and much to do for each.
Usual policies need less than a hundredth of it."""
Others = Mapping[int, Sequence[int]]
"""What a condition comes to in classes where that is not what it comes to without any true test: by that, each class once."""
Change = tuple[int, int]
"""A part of a condition, or a clause, and what it becomes."""
Block = tuple[tuple[Change, ...], Sequence[int]]
"""All changes that happen in some classes, and these."""


class Split(NamedTuple):
    """A condition taken apart by its first dimension: where no test is true, in other classes, and for some class."""

    base: int
    others: Others
    some: int


class Conditions:
    """Hash-consed conditions. A condition is a number; 0 is false, 1 is true; parts have smaller numbers than wholes."""

    def __init__(self) -> None:
        self.kind = [_CONSTANT, _CONSTANT]
        self.parts: list[tuple[int, ...]] = [(), ()]
        self.first: list[int] = [NO_DIMENSION, NO_DIMENSION]  # the first dimension tested
        self.mask: list[int] = [0, 0]  # bit d: dimension d is tested
        self.unique: dict[tuple[int, tuple[int, ...]], int] = {}
        self.truth: list[tuple[int, tuple[int, ...]]] = []  # per test: dimension, classes in which it is true
        self.splits: dict[int, Split] = {}
        self.partial: dict[tuple[int, int], tuple[int, Others]] = {}
        self.work = 0  # parts of conditions that were looked at to restrict them

    def copy(self) -> Conditions:
        """The same, before it was bound."""
        made = Conditions()
        made.kind, made.parts, made.first, made.mask = self.kind[:], self.parts[:], self.first[:], self.mask[:]
        made.unique = self.unique.copy()
        return made

    def bind(self, of_test: Sequence[tuple[int, tuple[int, ...]]]) -> None:
        """Gives every test its dimension and classes. Called once, after all rules are in."""
        self.truth = list(of_test)
        masks, first = self.mask, self.first
        for number, (kind, parts) in enumerate(zip(self.kind, self.parts, strict=True)):
            if kind == _TEST:
                first[number] = dimension = of_test[parts[0]][0]
                masks[number] = 1 << dimension
            elif kind != _CONSTANT:
                mask = 0
                for part in parts:
                    mask |= masks[part]
                masks[number] = mask
                first[number] = _lowest(mask)

    def test(self, number: int) -> int:
        return self._intern(_TEST, (number,))

    def negate(self, condition: int) -> int:
        if condition <= TRUE:
            return TRUE - condition
        if self.kind[condition] == _NOT:
            return self.parts[condition][0]
        return self._intern(_NOT, (condition,))

    def all_of(self, conditions: Iterable[int]) -> int:
        return self._combine(_AND, TRUE, FALSE, conditions)

    def any_of(self, conditions: Iterable[int]) -> int:
        return self._combine(_OR, FALSE, TRUE, conditions)

    def _combine(self, kind: int, neutral: int, absorbing: int, conditions: Iterable[int]) -> int:
        parts: set[int] = set()
        for condition in conditions:
            if condition == absorbing:
                return absorbing
            if condition == neutral:
                continue
            if self.kind[condition] == kind:
                parts.update(self.parts[condition])
            else:
                parts.add(condition)
        if not parts:
            return neutral
        if len(parts) == 1:
            return next(iter(parts))
        if any(self.kind[p] == _NOT and self.parts[p][0] in parts for p in parts):
            return absorbing
        return self._intern(kind, tuple(sorted(parts)))

    def _intern(self, kind: int, parts: tuple[int, ...]) -> int:
        found = self.unique.get((kind, parts))
        if found is None:
            found = self.unique[kind, parts] = len(self.kind)
            self.kind.append(kind)
            self.parts.append(parts)
            mask = self._mask(kind, parts) if self.truth else 0
            self.mask.append(mask)
            self.first.append(_lowest(mask))
        return found

    def _mask(self, kind: int, parts: tuple[int, ...]) -> int:
        if kind == _TEST:
            return 1 << self.truth[parts[0]][0]
        mask = 0
        for part in parts:
            mask |= self.mask[part]
        return mask

    def shape(self) -> tuple[object, ...]:
        """All that it holds, once bound: what diagrams depend on."""
        return self.kind, self.parts, self.truth

    def mapped(self, condition: int, test: Callable[[int], int], part: Callable[[int, bool], int]) -> int:
        """The condition with `test` of each test's number, and `part` of each part, which is told whether it stands under a `not`."""
        kind, parts = self.kind[condition], self.parts[condition]
        if kind == _CONSTANT:
            return condition
        if kind == _TEST:
            return test(parts[0])
        if kind == _NOT:
            return self.negate(part(parts[0], True))
        made = [part(inner, False) for inner in parts]
        return self.all_of(made) if kind == _AND else self.any_of(made)

    def tested(self, condition: int) -> int | None:
        """The number of the test that a condition is; None where it is more."""
        return self.parts[condition][0] if self.kind[condition] == _TEST else None

    def rest(self, condition: int, part: int) -> tuple[int, ...] | None:
        """What a condition asks for besides one part, all of which must be true; None where that is no such part of it."""
        if condition == part:
            return ()
        if self.kind[condition] != _AND or part not in self.parts[condition]:
            return None
        return tuple(other for other in self.parts[condition] if other != part)

    def tests(self, condition: int) -> set[int]:
        """Numbers of all tests of a condition."""
        seen: set[int] = set()
        found: set[int] = set()
        stack = [condition]
        while stack:
            at = stack.pop()
            if at in seen:
                continue
            seen.add(at)
            if self.kind[at] == _TEST:
                found.add(self.parts[at][0])
            else:
                stack += self.parts[at]
        return found

    def split(self, condition: int) -> Split:
        """By the first dimension of the condition."""
        found = self.splits.get(condition)
        if found is None:
            base, others = self._restrict(condition, self.first[condition])
            found = self.splits[condition] = Split(base, others, self.any_of((base, *others)))
        return found

    def without(self, condition: int, dimension: int) -> int:
        """What is left where no test of the dimension is true."""
        return self._restrict(condition, dimension)[0]

    def requires(self, condition: int, dimension: int) -> bool:
        """Whether a condition can plainly be true only where some test of the dimension is."""
        if not self.mask[condition] >> dimension & 1:
            return False
        kind, parts = self.kind[condition], self.parts[condition]
        if kind == _AND:
            return any(self.requires(part, dimension) for part in parts)
        return kind == _TEST or (kind == _OR and all(self.requires(part, dimension) for part in parts))

    def _restrict(self, condition: int, dimension: int) -> tuple[int, Others]:
        if not self.mask[condition] >> dimension & 1:
            return condition, {}
        key = (condition, dimension)
        found = self.partial.get(key)
        if found is None:
            found = self.partial[key] = self._restrict_new(condition, dimension)
        return found

    def _restrict_new(self, condition: int, dimension: int) -> tuple[int, Others]:
        kind, parts = self.kind[condition], self.parts[condition]
        self.work += len(parts)
        if kind == _TEST:
            true = self.truth[parts[0]][1]
            return FALSE, {TRUE: true} if true else {}
        if kind == _NOT:
            base, others = self._restrict(parts[0], dimension)
            return self.negate(base), {self.negate(value): classes for value, classes in others.items()}
        combine, neutral = (self.all_of, TRUE) if kind == _AND else (self.any_of, FALSE)
        bases: dict[int, int] = {}
        pieces: list[tuple[Change, Sequence[int]]] = []
        decided: set[int] = set()  # classes in which one part decides it all
        for part in parts:
            base, others = self._restrict(part, dimension)
            if base != neutral:
                bases[part] = base
            for value, classes in others.items():
                if value == TRUE - neutral:
                    decided.update(classes)
                else:
                    pieces.append(((part, value), classes))
        whole = combine(bases.values())
        out: dict[int, list[int]] = {}
        for changes, classes in refined(pieces):
            left = classes if decided.isdisjoint(classes) else [number for number in classes if number not in decided]
            if not left:
                continue
            replaced = dict(changes)
            self.work += len(bases)
            value = combine([*(b for p, b in bases.items() if p not in replaced), *replaced.values()])
            if value != whole:
                out.setdefault(value, []).extend(left)
        if decided and whole != TRUE - neutral:
            out.setdefault(TRUE - neutral, []).extend(decided)
        return whole, out


def refined(pieces: Sequence[tuple[Change, Sequence[int]]]) -> list[Block]:
    """Changes, each with classes that it happens in -> the blocks of classes in which the same happens."""
    of_class: dict[int, int] = {}
    combinations: list[tuple[Change, ...]] = []
    apart = True
    for change, classes in pieces:
        if of_class.keys().isdisjoint(classes):
            of_class.update(dict.fromkeys(classes, len(combinations)))
            combinations.append((change,))
            continue
        apart = False
        following: dict[int, int] = {}
        for number in classes:
            before = of_class.get(number, -1)
            after = following.get(before, -1)
            if after < 0:
                after = following[before] = len(combinations)
                combinations.append((change,) if before < 0 else (*combinations[before], change))
            of_class[number] = after
    if apart:
        return [((change,), classes) for change, classes in pieces if classes]
    found: dict[int, list[int]] = {}
    for number, combination in of_class.items():
        if combination in found:
            found[combination].append(number)
        else:
            found[combination] = [number]
    return [(combinations[combination], classes) for combination, classes in found.items()]


def _lowest(mask: int) -> int:
    return (mask & -mask).bit_length() - 1 if mask else NO_DIMENSION


class Clause(NamedTuple):
    """What is left of a rule: its number, the events it is for (bit set), and its condition."""

    rule: int
    events: int
    condition: int


class Node(NamedTuple):
    """A decision: `children[c]` where class c has an entry, `default` for other classes, `uncertain` for class 0.

    A child >= 0 is a node; a leaf is ~number: of `Group.leaves` in event diagrams, of `Group.rows` in the subject diagram.
    """

    dimension: int
    uncertain: int
    default: int
    children: tuple[tuple[int, int], ...]


class Leaf(NamedTuple):
    """The rules that match, ascending; `uncertain`: may match. `doubted`: those of them that only tell."""

    rules: tuple[int, ...]
    uncertain: bool
    doubted: tuple[int, ...] = ()


class Group(NamedTuple):
    """The diagrams of one group of rules. Children come before parents. Leaf 0 is no rule, row 0 has no rule for any event."""

    rules: tuple[int, ...]
    nodes: list[Node]
    leaves: list[Leaf]
    rows: list[tuple[int, ...]]  # diagram per event number
    subject: int
    edges: int


class Builder:
    """Builds one group. `severity[rule]` orders rules for the leaf of classes that cannot occur; `confirmed`: those user space confirms.

    `cautious`: rules that do what they are for only where they match whatever a dimension of `doubtful` may be; where they may match they
    tell. In the diagrams a rule that may is one with another number: its own and that of all rules.
    """

    def __init__(
        self,
        conditions: Conditions,
        dimensions: Sequence[Dimension],
        subjects: int,
        severity: Sequence[int],
        n_events: int,
        budget: int,
        confirmed: Collection[int] = (),
        cautious: Collection[int] = (),
        doubtful: Collection[int] = (),
    ) -> None:
        self.conditions = conditions
        self.dimensions = dimensions
        self.subjects = subjects
        self.n_rules = len(severity)
        self.severity = [*severity, *([int(Action.AUDIT)] * (len(severity) if cautious else 0))]
        self.confirmed = confirmed
        self.cautious = cautious
        self.doubtful = doubtful if cautious else ()
        self.n_events = n_events
        self.budget = budget
        self.most_work = conditions.work + WORK_PER_EDGE * budget
        self.clauses: list[Clause] = []
        self.first: list[int] = []  # per clause: first dimension of its condition
        self.clause_number: dict[Clause, int] = {}
        self.parts: dict[int, tuple[int, int, tuple[tuple[Change, Sequence[int]], ...]]] = {}
        self.together: dict[tuple[int, ...], tuple[dict[int, int], list[int], list[Block]]] = {}
        self.of_event: dict[int, tuple[int, int]] = {}
        self.nodes: list[Node] = []
        self.node_number: dict[Node, int] = {}
        self.leaves: list[Leaf] = [Leaf((), False)]
        self.leaf_number: dict[Leaf, int] = {self.leaves[0]: 0}
        nothing = (~0,) * n_events
        self.rows: list[tuple[int, ...]] = [nothing]
        self.row_number: dict[tuple[int, ...], int] = {nothing: 0}
        self.event_memo: dict[tuple[tuple[int, ...], bool], int] = {}
        self.subject_memo: dict[tuple[tuple[int, ...], bool], int] = {}
        self.edges = 0

    def build(self, clauses: Iterable[Clause]) -> Group:
        """TooLarge when it passes the budget."""
        self.begin()
        clauses = list(clauses)
        state = tuple(sorted({self.clause(c) for c in clauses if c.condition != FALSE}))
        subject = self.subject(state, False)
        rules = tuple(sorted({clause.rule for clause in clauses}))
        of = self.columns()
        nodes = [node if of[node.dimension] == node.dimension else node._replace(dimension=of[node.dimension]) for node in self.nodes]
        return Group(rules, nodes, self.leaves, self.rows, subject, self.edges)

    def begin(self) -> None:
        self.most_work = self.conditions.work + WORK_PER_EDGE * self.budget

    def columns(self) -> list[int]:
        """By the number of a dimension that of the one which it is."""
        return [number if dimension.column < 0 else dimension.column for number, dimension in enumerate(self.dimensions)]

    def clause(self, clause: Clause) -> int:
        number = self.clause_number.get(clause)
        if number is None:
            number = self.clause_number[clause] = len(self.clauses)
            self.clauses.append(clause)
            self.first.append(self.conditions.first[clause.condition])
        return number

    def spend(self, edges: int) -> None:
        self.edges += edges
        if self.edges > self.budget:
            raise TooLarge

    def subject(self, state: tuple[int, ...], uncertain: bool) -> int:
        key = (state, uncertain)
        found = self.subject_memo.get(key)
        if found is None:
            dimension = min(map(self.first.__getitem__, state), default=NO_DIMENSION)
            if dimension >= self.subjects:
                found = ~self.row(state, uncertain)
            else:
                found = self.decide(dimension, state, uncertain, True)
            self.subject_memo[key] = found
        return found

    def event(self, state: tuple[int, ...], uncertain: bool) -> int:
        if not state:
            return ~0
        key = (state, uncertain)
        found = self.event_memo.get(key)
        if found is None:
            dimension = min(map(self.first.__getitem__, state))
            if dimension == NO_DIMENSION:
                found = ~self.leaf({self.clauses[c].rule for c in state}, uncertain)
            else:
                found = self.decide(dimension, state, uncertain, False)
            self.event_memo[key] = found
        return found

    def decide(self, dimension: int, state: tuple[int, ...], uncertain: bool, subject: bool) -> int:
        """The node of a state by its next dimension; its only child where all classes lead to the same."""
        descend = self.subject if subject else self.event
        first = self.first
        kept = [number for number in state if first[number] != dimension]
        undecided = tuple(number for number in state if first[number] == dimension)
        bases, some, blocks = self.together.get(undecided) or self.take_together(undecided)
        if dimension in self.doubtful:
            some = self.doubted(undecided)
        if uncertain and self.may_join(state, dimension, bases, blocks, (*kept, *some)):
            return descend(tuple(sorted({*kept, *some})), True)
        rest = {*kept, *bases.values()}
        default = descend(tuple(sorted(rest)), uncertain)
        children: list[tuple[int, int]] = []
        for changes, classes in blocks:
            child = descend(_changed(kept, rest, bases, changes), uncertain)
            if child != default:
                children += [(number_of_class, child) for number_of_class in classes]
        if not children:
            return default
        if self.dimensions[dimension].joined or dimension in self.doubtful:
            joined = descend(tuple(sorted({*kept, *some})), True)
        elif subject:
            joined = ~self.row((*kept, *some), True, bound=True)
        else:
            joined = self.bound((*kept, *some))
        return self.node(Node(dimension, joined, default, tuple(sorted(children))))

    def may_join(
        self,
        state: Sequence[int],
        dimension: int,
        bases: Mapping[int, int],
        blocks: Sequence[Block],
        joined: Sequence[int],
    ) -> bool:
        """Whether what is uncertain already need not be told apart by one more dimension."""
        if self.cautious and any(self.clauses[number].rule in self.cautious for number in state):
            return False
        if len(state) > MANY_CONFIRMED and all(self.clauses[number].rule in self.confirmed for number in state):
            return True
        return len(state) > MANY and self.dimensions[dimension].column >= 0 and not self.matters(bases, blocks, joined)

    def matters(self, bases: Mapping[int, int], blocks: Sequence[Block], joined: Sequence[int]) -> bool:
        """Whether for some class none of the most severe rules of all is left, so that what is uncertain would be decided otherwise."""
        severity = [self.severity[self.clauses[number].rule] for number in joined]
        top = max(severity, default=0)
        most = severity.count(top)

        def gone(pairs: Iterable[tuple[int, int]]) -> int:
            return sum(new < 0 and self.severity[self.clauses[number].rule] == top for number, new in pairs)

        never = gone((number, bases.get(number, -1)) for number in {number for pairs, _ in blocks for number, _ in pairs})
        return never >= most or any(gone(pairs) >= most for pairs, _ in blocks)

    def doubted(self, undecided: tuple[int, ...]) -> list[int]:
        """What clauses are where a class is doubtful: of a cautious rule one for what all classes agree on, and one that tells."""
        found = []
        for number in undecided:
            rule, events, condition = self.clauses[number]
            possible = (self.parts.get(number) or self.take_apart(number))[1]
            if rule not in self.cautious:
                found.append(possible)
                continue
            parts = self.conditions.split(condition)
            certain = self.conditions.all_of((parts.base, *parts.others))
            found += [
                self.clause(Clause(of, events, what))
                for of, what in ((rule, certain), (rule + self.n_rules, FALSE if certain == parts.some else parts.some))
                if what != FALSE
            ]
        return [number for number in found if number >= 0]

    def take_together(self, undecided: tuple[int, ...]) -> tuple[dict[int, int], list[int], list[Block]]:
        """Clauses by their first dimension, which is the same: what each is where nothing is true, what they are for some class, and the
        blocks of classes where they are something else, by their lowest class.
        """
        bases: dict[int, int] = {}
        some: list[int] = []
        pieces: list[tuple[Change, Sequence[int]]] = []
        for number in undecided:
            base, possible, others = self.parts.get(number) or self.take_apart(number)
            if base >= 0:
                bases[number] = base
            if possible >= 0:
                some.append(possible)
            pieces += others
        found = self.together[undecided] = bases, some, sorted(refined(pieces), key=_first_class)
        return found

    def take_apart(self, number: int) -> tuple[int, int, tuple[tuple[Change, Sequence[int]], ...]]:
        """`Conditions.split` of a clause, in clauses; -1 is false. ((this clause, the clause it becomes), in these classes)."""
        rule, events, condition = self.clauses[number]
        parts = self.conditions.split(condition)
        if self.conditions.work > self.most_work:
            raise TooLarge

        def clause(condition: int) -> int:
            return -1 if condition == FALSE else self.clause(Clause(rule, events, condition))

        others = tuple(((number, clause(value)), classes) for value, classes in parts.others.items())
        found = self.parts[number] = (clause(parts.base), clause(parts.some), others)
        return found

    def node(self, node: Node) -> int:
        number = self.node_number.get(node)
        if number is None:
            self.spend(3 + len(node.children))
            number = self.node_number[node] = len(self.nodes)
            self.nodes.append(node)
        return number

    def leaf(self, rules: Collection[int], uncertain: bool) -> int:
        doubted = {rule - self.n_rules for rule in rules if rule >= self.n_rules}.difference(rules) if self.doubtful else set[int]()
        leaf = Leaf(tuple(sorted({rule % self.n_rules for rule in rules} if self.doubtful else rules)), uncertain, tuple(sorted(doubted)))
        number = self.leaf_number.get(leaf)
        if number is None:
            self.spend(1 + len(leaf.rules) // 8)
            number = self.leaf_number[leaf] = len(self.leaves)
            self.leaves.append(leaf)
        return number

    def bound(self, state: Sequence[int]) -> int:
        """The most severe rule of a state: stands for classes that cannot occur, so that they could never allow."""
        if not state:
            return ~0
        rules = {self.clauses[number].rule for number in state}
        return ~self.leaf((max(rules, key=lambda rule: (self.severity[rule], -rule)),), True)

    def take_from_events(self, number: int) -> tuple[int, int]:
        """The events of a clause, and it as a clause of one event's diagram."""
        rule, events, condition = self.clauses[number]
        found = self.of_event[number] = events, self.clause(Clause(rule, 0, condition))
        return found

    def row(self, state: Sequence[int], uncertain: bool, bound: bool = False) -> int:
        """The subject's row: per event the diagram of the rules that are for it."""
        by_events: dict[int, list[int]] = {}
        for number in state:
            events, bare = self.of_event.get(number) or self.take_from_events(number)
            by_events.setdefault(events, []).append(bare)
        roots = [~0] * self.n_events
        known: dict[tuple[int, ...], int] = {}
        for event in _bits(by_events):
            key = tuple(mask for mask in by_events if mask >> event & 1)
            root = known.get(key)
            if root is None:
                clauses = tuple(sorted({number for mask in key for number in by_events[mask]}))
                root = known[key] = self.bound(clauses) if bound else self.event(clauses, uncertain)
            roots[event] = root
        row = tuple(roots)
        found = self.row_number.get(row)
        if found is None:
            self.spend(self.n_events)
            found = self.row_number[row] = len(self.rows)
            self.rows.append(row)
        return found


def _bits(masks: Iterable[int]) -> Iterator[int]:
    """The numbers of the bits that some mask has, ascending."""
    whole = 0
    for mask in masks:
        whole |= mask
    while whole:
        yield _lowest(whole)
        whole &= whole - 1


def _first_class(block: Block) -> int:
    return min(block[1])


def _changed(kept: Sequence[int], rest: set[int], bases: Mapping[int, int], changes: Iterable[tuple[int, int]]) -> tuple[int, ...]:
    """`rest` with these clauses no longer as in `bases`."""
    if not bases:
        return tuple(sorted({*rest, *(new for _, new in changes if new >= 0)}))
    replaced = dict(changes)
    if replaced.keys().isdisjoint(bases):
        return tuple(sorted({*rest, *(new for new in replaced.values() if new >= 0)}))
    state = {base for number, base in bases.items() if number not in replaced}
    state.update(kept)
    state.update(new for new in replaced.values() if new >= 0)
    return tuple(sorted(state))
