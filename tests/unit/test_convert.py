"""Falco rules written as native policies, and read back."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from bpfence.conditions.text import condition_text
from bpfence.convert import Converted, convert
from bpfence.dialects.falco.load import load_text
from bpfence.dialects.falco.lower.exact import exactly
from bpfence.dialects.falco.lower.rules import acts
from bpfence.dialects.native import read as native
from bpfence.dialects.native.write import document
from bpfence.policy import Action
from tests.unit.dialects.falco.native_view import conditions


def converted(*texts: str, mode: str = "audit") -> Converted:
    rules = []
    for text in texts:
        found, problems = load_text(text)
        assert not [problem for problem in problems if problem.severity == "error"], problems
        rules += found.rules
    return convert(exactly(rules, mode), document)


def rule(condition: str, name: str = "Some rule!", **more: str) -> str:
    text = f"- rule: {name}\n  desc: d\n  condition: {condition}\n  output: o\n  priority: CRITICAL\n"
    return text + "".join(f"  {key}: {value}\n" for key, value in more.items())


def test_a_rule_that_can_be_said_exactly() -> None:
    text = rule(
        "evt.type in (open, openat) and evt.is_open_write=true and fd.name startswith /etc/ and not proc.name in (a, b)", tags="[x]"
    )
    found = converted(text.replace("'", ""), mode="enforce")
    assert (found.converted, found.left_out) == (["Some rule!"], [])
    policies, problems = native.load_text(found.text)
    assert problems == []
    (policy,) = policies.policies
    assert (policy.name, policy.mode, policy.severity, policy.tags) == ("some-rule", "enforce", "critical", ("x",))
    (made,) = policy.rules
    assert (made.events, made.action) == (("file.open",), Action.AUDIT)
    assert condition_text(made.condition) == ("file.access = write and file.path startswith /etc/ and not process.name in (a, b)")


def test_a_rule_that_denies() -> None:
    found = converted(rule("evt.type=open and fd.name=/etc/shadow and fd.num>=0", bpfence="{action: deny, errno: EACCES}"))
    policies, problems = native.load_text(found.text)
    assert problems == []
    made = policies.policies[0].rules[0]
    assert (made.action, made.errno) == (Action.DENY, 13)


def test_one_rule_for_each_native_event() -> None:
    found = converted(rule("evt.type in (mkdir, rmdir)"), rule("evt.type=unlinkat", "Some rule."))
    policies, problems = native.load_text(found.text)
    assert [problem for problem in problems if problem.severity == "error"] == []
    assert [policy.name for policy in policies.policies] == ["some-rule", "some-rule-2"]
    assert [made.name for made in policies.policies[0].rules] == ["file-mkdir", "file-rmdir"]


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ("evt.type=open and proc.sid=1", "proc.sid is read in user space"),
        ("evt.type=open and fd.num>=0", "has returned"),
        ("evt.type=mprotect", "nothing reports mprotect"),
        ("evt.type=open and evt.type=creat", "never match"),
        ("evt.type=open and fd.name glob '/a?b*'", "native format"),
    ],
)
def test_what_is_left_out_is_reported(condition: str, reason: str) -> None:
    found = converted(rule(condition))
    assert (found.text, found.converted) == ("", [])
    assert any(reason in problem.message for problem in found.left_out)
    assert all(problem.location.line for problem in found.left_out)


def test_disabled_rules_are_not_written() -> None:
    assert converted(rule("evt.type=mkdir", enabled="false")) == Converted("", [], [])


@given(conditions)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_is_written_says_the_same_when_read_back(text: str) -> None:
    source = rule(repr("evt.type in (open, openat, openat2, connect) and " + text.replace("'", '"')), warn_evttypes="false")
    found, problems = load_text(source)
    assert not [problem for problem in problems if problem.severity == "error"]
    made = convert(exactly(found.rules), document)
    assert bool(made.text) != bool(made.left_out)
    if made.text:
        policies, wrong = native.load_text(made.text)
        assert not [problem for problem in wrong if problem.severity == "error"]
        assert {event for one in policies.policies[0].rules for event in one.events} == set(acts(found.rules[0]).conditions)
