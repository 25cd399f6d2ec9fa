"""bpfence.compiler.groups: which rules go into one diagram."""

from __future__ import annotations

from bpfence import abi
from bpfence.compiler.classes import Dimension
from bpfence.compiler.diagram import Clause, Conditions
from bpfence.compiler.groups import Partition

WIDE = [
    Dimension("s", "process.exe", abi.DIM_STRING, 0, True, True, classes=5000),
    Dimension("l", "process.ancestors.exe", abi.DIM_LINEAGE, 0, True, True),
    Dimension("p", "file.path", abi.DIM_STRING, 6, False, True, classes=5000),
]


def wide() -> tuple[Conditions, list[Clause]]:
    """Rules 0..99 on paths only, 100..199 on an executable and a path, 200..219 on an ancestor and a path."""
    conditions = Conditions()
    truth = [(0, (2 + n,)) for n in range(100)] + [(1, (2,))] + [(2, (2 + n,)) for n in range(220)]
    conditions.bind(truth)
    clauses = [Clause(n, 1, conditions.test(101 + n)) for n in range(100)]
    clauses += [Clause(100 + n, 1, conditions.all_of([conditions.test(n), conditions.test(201 + n)])) for n in range(100)]
    clauses += [Clause(200 + n, 1, conditions.all_of([conditions.test(100), conditions.test(301 + n)])) for n in range(20)]
    return conditions, clauses


def test_rules_that_multiply_begin_apart() -> None:
    conditions, clauses = wide()
    parts = Partition(conditions, WIDE, clauses).first(clauses)
    assert [{c.rule // 100 for c in part} for part in parts] == [{0, 2}, {1}]
    assert Partition(conditions, WIDE, clauses[:20]).first(clauses[:20]) == [clauses[:20]]
    assert Partition(conditions, WIDE, []).first([]) == []


def test_halves_keep_alike_rules_and_whole_rules_together() -> None:
    conditions, clauses = wide()
    extra = Clause(0, 2, clauses[0].condition)
    partition = Partition(conditions, WIDE, clauses)
    left, right = partition.halves([*clauses, extra])
    assert {c.rule // 100 for c in right} == {1}
    assert {c.rule // 100 for c in left} == {0, 2}
    assert extra in left
    left, right = partition.halves(left)
    assert {c.rule // 100 for c in right} == {2}
    left, right = partition.halves(clauses[:100])
    assert (len(left), len(right)) == (50, 50)
    assert partition.halves(clauses[:1]) == ([], clauses[:1])
