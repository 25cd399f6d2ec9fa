# SPDX-License-Identifier: Apache-2.0
"""Falco rules that a policy can say exactly. tests/unit/test_convert.py goes on from here to files."""

from __future__ import annotations

from bpfence.dialects.falco.load import load_text
from bpfence.dialects.falco.lower.exact import exactly
from bpfence.policy import Action, Policy

RULE = "- rule: {name}\n  desc: d\n  condition: {condition}\n  output: o\n  priority: ERROR\n"


def lowered(*rules: tuple[str, str], more: str = "") -> list[object]:
    text = "".join(RULE.format(name=name, condition=condition) + more for name, condition in rules)
    return [found for _, found in exactly(load_text(text)[0].rules, "enforce")]


def test_one_policy_a_rule_with_a_rule_for_each_event() -> None:
    one, other = lowered(("Make!", "evt.type in (mkdir, rmdir)"), ("make", "evt.type=unlinkat"))
    assert isinstance(one, Policy)
    assert isinstance(other, Policy)
    assert (one.name, other.name, one.mode) == ("make", "make-2", "enforce")
    assert [rule.events for rule in one.rules] == [("file.mkdir",), ("file.rmdir",)]


def test_actions_of_enforcing_rules() -> None:
    (made,) = lowered(("x", "evt.type=mkdir"), more="  bpfence: {action: deny, errno: EACCES}\n")
    assert isinstance(made, Policy)
    assert (made.rules[0].action, made.rules[0].errno) == (Action.DENY, 13)


def test_why_there_is_none() -> None:
    assert [[d.message for d in found] for found in lowered(("x", "evt.type=open and evt.type=creat")) if isinstance(found, list)] == [
        ["x: it can never match"]
    ]
