# SPDX-License-Identifier: Apache-2.0
"""Rules that the kernel decides completely: what they are, and that what a language adds to them stays when paths have other names."""

from __future__ import annotations

from typing import Any

from bpfence.conditions.links import Resolution, Resolver
from bpfence.dialects.decided import DecidedRules
from bpfence.dialects.facts import Facts
from bpfence.errors import Location
from bpfence.policy import Atom, Op, Policy, PolicySet, Rule


class OwnRules(DecidedRules):
    resolver = Resolver()

    def __init__(self, policy_set: PolicySet, word: str) -> None:
        super().__init__(policy_set)
        self.word = word


RULE = Rule(policy="p", name="r", events=("file.open",), condition=Atom("file.path", Op.EQUALS, "/bin/sleep"))
RULES = OwnRules(PolicySet((Policy(name="p", rules=(RULE,), location=Location("f", 3)),)), "own")


def found(path: str) -> Resolution:
    return Resolution(("/usr/bin/sleep",) if path == "/bin/sleep" else ())


def test_policies_and_where_they_stand() -> None:
    assert [policy.name for policy in RULES.policies(Facts())] == ["p"]
    assert [place.line for place in RULES.locations] == [3]
    assert list(RULES.smaller(RULES.policy_set.policies[0])) == [(RULES.policy_set.policies[0], ())]


def test_paths_stand_for_what_they_lead_to_and_all_else_stays() -> None:
    assert list(RULES.paths()) == ["/bin/sleep"]
    made, _ = RULES.resolved(found, "here")
    assert made.word == "own"
    assert "/usr/bin/sleep" in str(made.policy_set.policies[0].rules[0].condition)
    assert "/usr/bin/sleep" not in str(RULES.policy_set)


def test_each_language_resolves_by_itself() -> None:
    """What one has kept of its last load would be taken for the rules of another by the same names."""
    from bpfence.dialects.kubearmor.dialect import KubeArmorRules
    from bpfence.dialects.native.dialect import NativeRules
    from bpfence.dialects.tetragon.dialect import TetragonRules

    assert len({id(rules.resolver) for rules in (NativeRules, TetragonRules, KubeArmorRules, OwnRules)}) == 4


def test_rules_of_several_are_joined() -> None:
    other = OwnRules(PolicySet((Policy(name="q", rules=(), location=Location("g", 1)),)), "other")
    made = RULES.joined([other])
    assert (made.names(), made.word, RULES.names()) == (["p", "q"], "own", ["p"])


def test_rules_without_some_are_the_others() -> None:
    other = OwnRules(PolicySet((Policy(name="q", rules=(), location=Location("g", 1)),)), "other")
    joined = RULES.joined([other])
    made = joined.without({"p", "nobody"})
    assert (made.names(), made.word, joined.names()) == (["q"], "own", ["p", "q"])


def test_what_languages_say_of_rules_goes_with_them() -> None:
    from bpfence.dialects.tetragon.dialect import TetragonRules
    from bpfence.dialects.tetragon.lower.policies import Mode

    policies = tuple(Policy(name=name, rules=(), location=Location(name, 1)) for name in ("a", "b"))
    sensors: dict[tuple[str, str], Any] = {("a", "r"): "of a", ("b", "r"): "of b"}
    made = TetragonRules(PolicySet(policies), sensors, {"a": Mode.ENFORCE, "b": Mode.MONITOR}).without({"a"})
    assert (made.names(), made.said, dict(made.modes)) == (["b"], {("b", "r"): "of b"}, {"b": Mode.MONITOR})
