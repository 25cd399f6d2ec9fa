"""bpfence.compiler.diagram: the store of conditions, reduction, sharing, partitions."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfence import abi
from bpfence.compiler.classes import Dimension
from bpfence.compiler.diagram import FALSE, TRUE, Builder, Clause, Conditions, Group, Leaf, TooLarge, refined

# Tests 0..5 over three dimensions of four classes: 0 is uncertain, in 1 no test is true.
TRUTH = [(0, (2,)), (0, (2, 3)), (1, (2,)), (1, (3,)), (2, (2, 3)), (2, (3,))]

Tree = int | tuple[str, list["Tree"]]
TREES: st.SearchStrategy[Tree] = st.recursive(
    st.integers(0, 5), lambda inner: st.tuples(st.sampled_from(("and", "or", "not")), st.lists(inner, min_size=1, max_size=3)), max_leaves=8
)


@given(st.lists(st.lists(st.integers(1, 9), unique=True), max_size=6))
def test_blocks_are_the_classes_with_the_same_changes(happens: list[list[int]]) -> None:
    pieces = [((part, part + 100), classes) for part, classes in enumerate(happens)]
    expected: dict[int, list[tuple[int, int]]] = {}
    for change, classes in pieces:
        for number_of_class in classes:
            expected.setdefault(number_of_class, []).append(change)
    blocks = refined(pieces)
    assert {number_of_class: list(changes) for changes, classes in blocks for number_of_class in classes} == expected
    assert sum(len(classes) for _, classes in blocks) == len(expected)
    assert len({changes for changes, _ in blocks}) == len(blocks)


def store() -> Conditions:
    conditions = Conditions()
    conditions.bind(TRUTH)
    return conditions


def number(conditions: Conditions, tree: Tree) -> int:
    if isinstance(tree, int):
        return conditions.test(tree)
    kind, parts = tree
    numbers = [number(conditions, part) for part in parts]
    if kind == "not":
        return conditions.negate(numbers[0])
    return conditions.all_of(numbers) if kind == "and" else conditions.any_of(numbers)


def value(tree: Tree, classes: tuple[int, ...]) -> bool:
    if isinstance(tree, int):
        dimension, true = TRUTH[tree]
        return classes[dimension] in true
    kind, parts = tree
    values = [value(part, classes) for part in parts]
    return not values[0] if kind == "not" else all(values) if kind == "and" else any(values)


def follow(conditions: Conditions, condition: int, classes: tuple[int, ...]) -> int:
    while condition > TRUE:
        parts = conditions.split(condition)
        here = classes[conditions.first[condition]]
        condition = next((value for value, others in parts.others.items() if here in others), parts.base)
    return condition


@settings(deadline=None)
@given(TREES)
def test_splitting_a_condition_evaluates_it(tree: Tree) -> None:
    conditions = store()
    condition = number(conditions, tree)
    for classes in product((1, 2, 3), repeat=3):
        assert follow(conditions, condition, classes) == value(tree, classes)


@settings(deadline=None)
@given(TREES)
def test_some_is_true_when_some_class_is(tree: Tree) -> None:
    conditions = store()
    condition = number(conditions, tree)
    if condition <= TRUE:
        return
    first = conditions.first[condition]
    some = conditions.split(condition).some
    for classes in product((1, 2, 3), repeat=3):
        possible = any(value(tree, (*classes[:first], c, *classes[first + 1 :])) for c in (1, 2, 3))
        assert follow(conditions, some, classes) == possible


def test_conditions_are_simplified_and_shared() -> None:
    conditions = store()
    a, b = conditions.test(0), conditions.test(2)
    assert conditions.all_of([a, b]) == conditions.all_of([b, a, a, TRUE])
    assert conditions.any_of([a, conditions.any_of([b, a])]) == conditions.any_of([b, a])
    assert conditions.all_of([a, conditions.negate(a)]) == FALSE
    assert conditions.any_of([a, conditions.negate(a)]) == TRUE
    assert conditions.negate(conditions.negate(a)) == a
    assert (conditions.all_of([]), conditions.any_of([]), conditions.all_of([a, FALSE]), conditions.any_of([a, TRUE])) == (1, 0, 0, 1)


DIMENSIONS = [
    Dimension("s", "process.exe", abi.DIM_STRING, 0, True, True, classes=4),
    Dimension("n", "file.uid", abi.DIM_RANGE, 8, False, False, classes=4),
    Dimension("p", "file.path", abi.DIM_STRING, 6, False, True, classes=4),
]


def build(conditions: Conditions, clauses: list[Clause], budget: int = 10_000) -> Group:
    return Builder(conditions, DIMENSIONS, 1, [4] * 10, 2, budget).build(clauses)


def leaf_of(group: Group, event: int, classes: tuple[int, ...]) -> Leaf:
    at = group.subject
    while at >= 0:
        node = group.nodes[at]
        at = step(node, classes)
    at = group.rows[~at][event]
    while at >= 0:
        at = step(group.nodes[at], classes)
    return group.leaves[~at]


def step(node: object, classes: tuple[int, ...]) -> int:
    dimension, uncertain, default, children = node  # type: ignore[misc]
    chosen = classes[dimension]
    return uncertain if chosen == 0 else dict(children).get(chosen, default)


@settings(deadline=None)
@given(st.lists(st.tuples(TREES, st.integers(1, 3)), min_size=1, max_size=4))
def test_diagrams_hold_the_rules_that_match(rules: list[tuple[Tree, int]]) -> None:
    conditions = store()
    group = build(conditions, [Clause(n, mask, number(conditions, tree)) for n, (tree, mask) in enumerate(rules)])
    for event in (0, 1):
        for classes in product((1, 2, 3), repeat=3):
            expected = tuple(n for n, (tree, mask) in enumerate(rules) if mask >> event & 1 and value(tree, classes))
            assert leaf_of(group, event, classes) == Leaf(expected, False)
        for classes in product((0, 1, 2, 3), (1, 2, 3), (0, 1, 2, 3)):
            found = leaf_of(group, event, classes)
            choices = list(product(*((c,) if c else (1, 2, 3) for c in classes)))
            certain = {rule for choice in choices for rule in leaf_of(group, event, choice).rules}
            assert certain <= set(found.rules)
            if sum(c == 0 for c in classes) == 1:
                assert certain == set(found.rules)


@settings(deadline=None)
@given(st.lists(st.tuples(TREES, st.integers(1, 3)), min_size=1, max_size=4))
def test_nothing_is_stored_twice_or_in_vain(rules: list[tuple[Tree, int]]) -> None:
    conditions = store()
    group = build(conditions, [Clause(n, mask, number(conditions, tree)) for n, (tree, mask) in enumerate(rules)])
    assert len(set(group.nodes)) == len(group.nodes)
    assert len(set(group.leaves)) == len(group.leaves)
    assert len(set(group.rows)) == len(group.rows)
    for at, node in enumerate(group.nodes):
        assert node.children
        assert all(child != node.default for _, child in node.children)
        assert all(child < at for child in (node.default, node.uncertain, *(c for _, c in node.children)))


def test_a_class_that_cannot_occur_gets_the_most_severe_rule() -> None:
    conditions = store()
    clauses = [Clause(n, 1, conditions.all_of([conditions.test(2), conditions.test(4 + n)])) for n in (0, 1)]
    group = Builder(conditions, DIMENSIONS, 1, [2, 3], 2, 100).build(clauses)
    assert leaf_of(group, 0, (1, 0, 1)) == Leaf((1,), True)


@settings(deadline=None)
@given(st.lists(st.tuples(TREES, st.integers(1, 3)), min_size=1, max_size=4))
def test_a_cautious_rule_does_what_it_is_for_only_where_it_matches_in_any_case(rules: list[tuple[Tree, int]]) -> None:
    """Rules 0 and 2; the others are the twins that are not cautious."""
    conditions = store()
    clauses = [Clause(n, mask, number(conditions, tree)) for n, (tree, mask) in enumerate(rules)]
    group = Builder(conditions, DIMENSIONS, 1, [5] * 4, 2, 10_000, (), (0, 2), (1, 2)).build(clauses)
    plain = build(conditions, clauses)
    for event, classes in product((0, 1), product((0, 1, 2, 3), repeat=3)):
        found = leaf_of(group, event, classes)
        if 0 not in classes[1:]:
            assert found == leaf_of(plain, event, classes)
        choices = list(product(*((c,) if c else (1, 2, 3) for c in classes[1:])))
        alike = [set(leaf_of(plain, event, (classes[0], *choice)).rules) for choice in choices]
        assert set().union(*alike) <= set(found.rules)
        assert set(found.doubted) <= {0, 2} & set(found.rules)
        acting = {rule for rule in found.rules if rule in (0, 2)} - set(found.doubted)
        assert acting <= set.intersection(*alike), "what is not certain never acts"
        if classes[1:].count(0) == 1 and classes[0]:
            assert acting == {0, 2} & set.intersection(*alike), "and what is certain does"


def test_events_with_the_same_rules_share_a_diagram() -> None:
    conditions = store()
    group = build(conditions, [Clause(0, 3, conditions.test(4))])
    assert group.rows[~group.subject][0] == group.rows[~group.subject][1]
    assert len(group.nodes) == 1


def test_the_budget_counts_nodes_edges_and_rows() -> None:
    conditions = store()
    clauses = [Clause(n, 1, conditions.test(n)) for n in range(6)]
    size = build(conditions, clauses).edges
    assert build(conditions, clauses, size).edges == size
    with pytest.raises(TooLarge):
        build(conditions, clauses, size - 1)
