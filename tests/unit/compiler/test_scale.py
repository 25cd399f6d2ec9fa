"""How much is made of shapes that once multiplied: states, rows, groups, nodes. No seconds: benchmarks/compile.py measures those."""

from __future__ import annotations

import pytest

from bpfence.compiler.compile import Compiled, Limits, compile_policies
from bpfence.dialects.falco.load import load_files
from bpfence.dialects.falco.lower.policies import policies as lowered
from bpfence.policy import Action, And, Atom, Event, Op, PolicySet
from tests.unit.compiler import shapes
from tests.unit.compiler.test_compile import answer, check
from tests.unit.dialects.falco.trees import corpus


def states(compiled: Compiled) -> int:
    return sum(dimension.states for dimension in compiled.dims)


def nodes(compiled: Compiled) -> int:
    return sum(group.nodes for group in compiled.stats.groups)


def rows(compiled: Compiled) -> int:
    return sum(group.rows for group in compiled.stats.groups)


@pytest.mark.parametrize("count", [50, 200])
def test_contained_texts_add(count: int) -> None:
    """An Aho-Corasick automaton: at most a state for each byte of a text, and one diagram node for them all."""
    compiled = compile_policies(shapes.contained(count))
    assert states(compiled) <= 8 * count + 1
    assert (len(compiled.dims), len(compiled.stats.groups), nodes(compiled)) == (1, 1, 1)
    for number in (0, count - 1):
        found = answer(compiled, {"event": "file.open", "file.path": f"/x{shapes.word(number)}y"})
        assert (found.rules, found.action, found.errors) == ([number], Action.DENY, {1})
    both = answer(compiled, {"event": "file.open", "file.path": f"/{shapes.word(3)}/{shapes.word(1)}"})
    assert (both.rules, both.action) == ([3], Action.DENY), "the first one found decides; they do the same"
    assert answer(compiled, {"event": "file.open", "file.path": "/nothing"}).action == Action.NONE


def test_few_contained_texts_are_told_apart() -> None:
    policies = shapes.contained(10, "process.args")
    compiled = compile_policies(policies)
    assert states(compiled) < 40_000
    check(policies, compiled, {"event": "file.open", "process.args": " ".join(map(shapes.word, (2, 9, 5)))})


@pytest.mark.parametrize("count", [100, 400])
def test_exceptions_of_the_subject_add(count: int) -> None:
    """Each below its own path: one node for all paths and one for each exception, and one row for all programs."""
    policies = shapes.excepted(count)
    compiled = compile_policies(policies)
    assert (len(compiled.stats.groups), nodes(compiled), rows(compiled)) == (1, count + 1, 2)
    for path, exe in ((3, 3), (3, 4), (count - 1, 3)):
        event: Event = {
            "event": "file.open", "file.path": f"/srv/{shapes.word(path)}/data/f", "process.exe": f"/usr/bin/{shapes.word(exe)}",
        }  # fmt: skip
        check(policies, compiled, event)


def test_few_exceptions_stay_in_the_subject() -> None:
    """There they cost an event nothing."""
    compiled = compile_policies(shapes.excepted(8))
    assert rows(compiled) == 11


def falco(copies: int) -> PolicySet:
    found, _ = load_files([corpus()])
    (policy,) = lowered(found.rules)
    return shapes.altered(policy, copies)


@pytest.mark.parametrize(("copies", "groups"), [(1, 3), (3, 6), (6, 8)])
def test_altered_rules_of_falco_add(copies: int, groups: int) -> None:
    compiled = compile_policies(falco(copies))
    assert len(compiled.stats.groups) <= groups
    assert len(compiled.dims) <= 50
    assert states(compiled) < 70_000
    assert sum(group.edges for group in compiled.stats.groups) < 600_000
    assert bool(compiled.widened) == (copies > 1)
    reached = {rule for verdict in compiled.verdicts for rule in verdict.rules}
    assert reached == set(range(25 * copies))
    assert not compiled.unreachable


def test_what_decides_is_never_widened() -> None:
    """Beside many rules that user space confirms."""
    watching = falco(2).policies[0]
    rules = tuple(
        shapes.rule(n, And((Atom("process.args", Op.CONTAINS, text), Atom("process.name", Op.EQUALS, "sh"))))
        for n, text in enumerate((" -c ", "/dev/shm", "x"))
    )
    blocking = shapes.policies(rules).policies[0]
    compiled = compile_policies(PolicySet((watching, blocking)))
    assert compiled.widened
    first = 50
    for args, wanted in (("sh -c ls", [first]), ("sh /dev/shm/x", [first + 1, first + 2]), ("sh", []), ("sh ids", [])):
        found = answer(compiled, {"event": "file.open", "process.name": "sh", "process.args": args, "file.path": "/f"})
        assert [n for n in found.rules if n >= first] == wanted
        assert (found.action == Action.DENY) == bool(wanted)


def test_a_group_that_is_too_large_is_split_by_what_it_looks_at() -> None:
    policies = PolicySet((*shapes.excepted(60).policies, *shapes.contained(60, "process.cwd").policies))
    compiled = compile_policies(policies, limits=Limits(edges=1500))
    assert len(compiled.stats.groups) == 2
