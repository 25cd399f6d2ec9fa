"""bpfence.compiler.decided: diagrams are the reference's, node by node."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfence import abi
from bpfence.compiler import core, decided
from bpfence.compiler.classes import Dimension
from bpfence.compiler.decided import Diagrams
from bpfence.compiler.diagram import FALSE, MANY, MANY_CONFIRMED, TRUE, Builder, Clause, Conditions, Group, TooLarge
from tests.unit.compiler.test_diagram import TREES, number, store

pytestmark = pytest.mark.skipif(not core.BUILT, reason="the compiled core is not built")

CLASSES = 9
EVENTS = 70  # more than a word has bits


def dimension(n: int, *, subject: bool, joined: bool, column: int = -1) -> Dimension:
    return Dimension(f"d{n}", "file.path", abi.DIM_STRING, n, subject, joined, classes=CLASSES, column=column)


SMALL = [dimension(0, subject=True, joined=True), dimension(1, subject=False, joined=False), dimension(2, subject=False, joined=True)]


def built(
    conditions: Conditions,
    dimensions: Sequence[Dimension],
    subjects: int,
    severity: Sequence[int],
    clauses: Sequence[Clause],
    budget: int,
    confirmed: Sequence[int] = (),
    events: int = EVENTS,
) -> Group | None:
    """What both make of it; None: it is too large."""
    made: list[Group | None] = []
    for make in (Builder, Diagrams):
        try:
            made.append(make(conditions, dimensions, subjects, severity, events, budget, confirmed).build(clauses))
        except TooLarge:
            made.append(None)
    assert made[0] == made[1]
    return made[0]


@settings(deadline=None)
@given(
    st.lists(st.tuples(TREES, st.integers(1, (1 << EVENTS) - 1)), max_size=6), st.integers(1, 2), st.sampled_from((5, 200, 1000, 10_000))
)
def test_small_diagrams(rules: list[tuple[object, int]], subjects: int, budget: int) -> None:
    conditions = store()
    clauses = [Clause(n, mask, number(conditions, tree)) for n, (tree, mask) in enumerate(rules)]  # type: ignore[arg-type]
    dimensions = [SMALL[0], dimension(1, subject=subjects > 1, joined=False), SMALL[2]]
    built(conditions, dimensions, subjects, [n % 3 for n in range(len(rules))], clauses, budget)


def many(seed: int, rules: int) -> tuple[Conditions, list[Clause], random.Random]:
    """Clauses over five dimensions, the last of which is the first once more."""
    chance = random.Random(seed)
    tested = range(5) if rules <= MANY_CONFIRMED + 4 else (0, 3, 4)
    conditions = Conditions()
    tests = [(d, tuple(sorted(chance.sample(range(2, CLASSES), chance.randint(1, 4))))) for d in range(5) for _ in range(12)]
    conditions.bind(tests)

    def literal(d: int) -> int:
        test = conditions.test(12 * d + chance.randrange(12))
        return conditions.negate(test) if chance.random() < 0.3 else test

    clauses = []
    for rule in range(rules):
        chosen = chance.sample(tested, chance.randint(0, 3))
        alternatives = [literal(d) for d in chance.sample(tested, chance.choice((0, 0, 2)))]
        condition = conditions.all_of([*map(literal, chosen), *([conditions.any_of(alternatives)] if alternatives else [])])
        clauses.append(Clause(rule, chance.choice((1, 2, 3, 1 << 69, 1 << 69 | 1)), condition))
    return conditions, clauses, chance


@pytest.mark.parametrize("confirmed", ["none", "some", "all"])
@pytest.mark.parametrize("rules", [1, MANY_CONFIRMED + 4, MANY + 6])
@pytest.mark.parametrize("seed", range(3))
def test_diagrams_of_many_rules(seed: int, rules: int, confirmed: str) -> None:
    conditions, clauses, chance = many(seed, rules)
    dimensions = [dimension(n, subject=n < 2, joined=n != 1, column=0 if n == 4 else -1) for n in range(5)]
    severity = [chance.choice((2, 3, 3, 4)) for _ in clauses]
    chosen = [clause.rule for clause in clauses if confirmed == "all" or (confirmed == "some" and chance.random() < 0.5)]
    whole = built(conditions, dimensions, 2, severity, clauses, 300_000, chosen)
    assert whole is not None
    assert built(conditions, dimensions, 2, severity, clauses, whole.edges, chosen) == whole
    assert built(conditions, dimensions, 2, severity, clauses, whole.edges - 1, chosen) is None


@pytest.mark.parametrize("top", [1, 2, 3, MANY])
@pytest.mark.parametrize("seed", range(4))
def test_exceptions_of_what_is_uncertain(seed: int, top: int) -> None:
    """More than MANY rules that differ in what they except, which matters where it excepts all the most severe."""
    chance = random.Random(seed)
    rules = MANY + 6
    conditions = Conditions()
    conditions.bind([(n // 6, tuple(sorted(chance.sample(range(2, CLASSES), chance.choice((1, 2, 6)))))) for n in range(12)])
    clauses = []
    for rule in range(rules):
        parts = [conditions.test(chance.randrange(6))]
        if chance.random() < 0.9:
            excepted = conditions.test(6 + chance.randrange(6))
            parts.append(conditions.negate(excepted) if chance.random() < 0.8 else excepted)
        clauses.append(Clause(rule, 1, conditions.all_of(parts)))
    severity = [4 if rule < top else 3 for rule in range(rules)]
    dimensions = [dimension(0, subject=False, joined=True), dimension(1, subject=False, joined=True, column=0)]
    assert built(conditions, dimensions, 0, severity, clauses, 1_000_000) is not None


def test_conditions_that_are_decided() -> None:
    conditions = store()
    group = built(conditions, SMALL, 1, [4, 4], [Clause(0, 1, FALSE), Clause(1, 2, TRUE)], 1000)
    assert group is not None
    assert (group.nodes, [leaf.rules for leaf in group.leaves]) == ([], [(), (1,)])
    nothing = built(conditions, SMALL, 1, [4, 4], [], 1000)
    assert nothing is not None
    assert nothing.rows == [(~0,) * EVENTS]


def test_too_much_work_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    conditions, clauses, _ = many(1, 10)
    dimensions = [dimension(n, subject=n < 2, joined=True) for n in range(5)]
    monkeypatch.setattr("bpfence.compiler.diagram.WORK_PER_EDGE", 0)
    assert built(conditions, dimensions, 2, [1] * 10, clauses, 3_000_000) is None


def test_what_python_raises_comes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    conditions, clauses, _ = many(1, 5)
    dimensions = [dimension(n, subject=n < 2, joined=True) for n in range(5)]

    def split(condition: int) -> object:
        raise KeyError(condition)

    monkeypatch.setattr(conditions, "split", split)
    with pytest.raises(KeyError):
        Diagrams(conditions, dimensions, 2, [1] * 5, EVENTS, 1000).build(clauses)


@pytest.mark.parametrize(("rule", "first", "mask"), [(5, 0, 0), (0, 5, 0), (0, 0, 1)])
def test_what_is_no_clause_is_refused(rule: int, first: int, mask: int) -> None:
    def made(rule: int, first: int, mask: int) -> int:
        ffi, lib = decided.ffi, decided.lib
        rules, dimensions = ffi.new("struct bpfence_rule[5]"), ffi.new("struct bpfence_dimension[5]")
        diagrams = lib.bpfence_diagrams_new(5, dimensions, 2, 5, rules, EVENTS, 10, lib.diagrams_ask, ffi.NULL)
        diagrams = ffi.gc(diagrams, lib.bpfence_diagrams_free)
        assert not lib.bpfence_diagrams_mask(diagrams, ffi.new("uint64_t[4]"))
        return int(lib.bpfence_diagrams_clause(diagrams, rule, first, mask))

    assert made(4, 4, 0) == 0
    assert made(rule, first, mask) < 0
