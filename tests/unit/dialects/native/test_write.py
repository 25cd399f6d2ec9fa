# SPDX-License-Identifier: Apache-2.0
"""Policies written as files, and read back."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from bpfence.conditions.containers import inside
from bpfence.conditions.values import conj, negation
from bpfence.dialects.native.read import load_text
from bpfence.dialects.native.write import document
from bpfence.policy import TRUE, Action, Atom, Condition, Label, Op, Policy, Rule, Selector
from tests.unit.compiler.random_policies import CONDITIONS

PATH = Atom("file.path", Op.EQUALS, "/x")


def policy(condition: Condition = TRUE, event: str = "file.open", action: Action = Action.AUDIT, errno: int = 1) -> Policy:
    made = Rule(policy="p", name="r", events=(event,), condition=condition, action=action, errno=errno)
    return Policy(name="p", mode="audit", severity="high", tags=("a", "b c"), rules=(made,))


def test_what_is_written() -> None:
    text, problem = document(policy(Atom("file.path", Op.EQUALS, "/x"), action=Action.DENY, errno=13))
    assert problem == ""
    (read,) = load_text(text)[0].policies
    assert (read.name, read.mode, read.severity, read.tags) == ("p", "audit", "high", ("a", "b c"))
    assert (read.rules[0].action, read.rules[0].errno) == (Action.DENY, 13)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (policy(event="process.exit", action=Action.DENY), "can only be watched"),
        (policy(Atom("file.path", Op.GLOB, "/a\n")), ""),
        (policy(Atom("net.peer.port", Op.RANGE, (1, 1))), "the native format cannot say it"),
    ],
)
def test_what_the_format_cannot_say_is_told(made: Policy, reason: str) -> None:
    text, problem = document(made)
    assert bool(text) != bool(problem)
    assert reason in problem


@given(CONDITIONS)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_text_that_is_given_out_reads_back_without_errors(condition: Condition) -> None:
    text, problem = document(policy(condition))
    assert bool(text) != bool(problem)
    assert not [found for found in load_text(text)[1] if found.severity == "error"] if text else True


def test_scopes() -> None:
    chosen = Selector(namespaces=("shop",), names=("a", "b"), labels=(Label("app", "in", ("web",)),))
    for scope in (inside(), negation(inside()), Atom("process.container", Op.SELECTS, chosen)):
        rule = Rule(policy="p", name="r", events=("file.open",), condition=conj((scope, PATH)), action=Action.AUDIT)
        text, problem = document(Policy(name="p", scope=scope, rules=(rule,)))
        assert problem == ""
        [read] = load_text(text)[0].policies
        assert (read.scope, read.rules[0].condition) == (scope, conj((scope, PATH)))
    unsayable = Atom("process.container", Op.SELECTS, Selector(labels=(Label("app", "notin", ("web",)),)))
    assert document(Policy(name="p", scope=unsayable, rules=(rule,))) == ("", "the native format has no such scope")
