"""bpfence.compiler.cache: what is kept, and for how long."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfence.compiler import automaton as dfa
from bpfence.compiler import compile as compiling
from bpfence.compiler import core, determinise
from bpfence.compiler.automaton import Pattern
from bpfence.compiler.cache import Cache
from bpfence.compiler.compile import Compiled, compile_policies
from bpfence.compiler.determinise import TooManyStates
from bpfence.compiler.lowering import Last, _Lowering, lower_policies
from bpfence.errors import Location
from bpfence.policy import Action, And, Atom, Not, Op, PolicySet, When
from tests.unit.compiler import shapes


def test_what_was_used_least_recently_is_dropped() -> None:
    made: list[str] = []

    def text(value: str) -> str:
        return cache.get(value[0], lambda: made.append(value) or value)  # type: ignore[func-returns-value]

    cache = Cache[str](10, len)
    assert [text(value) for value in ("aaaa", "bbbb", "a", "cc", "b")] == ["aaaa", "bbbb", "aaaa", "cc", "bbbb"]
    assert text("dddd") == "dddd"
    assert text("a") == "a", "a was the oldest, and has been dropped"
    assert made == ["aaaa", "bbbb", "cc", "dddd", "a"]
    assert cache.used <= 10
    cache.clear()
    assert (len(cache), cache.used) == (0, 0)


def test_what_is_too_large_and_what_fails_is_not_kept() -> None:
    cache = Cache[str](10, len)
    assert cache.get("k", lambda: "x" * 6) == "x" * 6
    with pytest.raises(ZeroDivisionError):
        cache.get("k", lambda: str(1 // 0))
    assert len(cache) == 0


def test_the_same_patterns_are_one_automaton(monkeypatch: pytest.MonkeyPatch) -> None:
    patterns = [Pattern(Op.GLOB, f"/cached/{n}/**") for n in range(9)]
    first = dfa.build(patterns)
    with monkeypatch.context() as patch:
        patch.setattr(core, "build", pytest.fail)
        patch.setattr(determinise, "build", pytest.fail)
        assert dfa.build(list(patterns)) is first
    with pytest.raises(TooManyStates):
        dfa.build(patterns, 3)


def test_tables_do_not_depend_on_what_was_compiled_before(monkeypatch: pytest.MonkeyPatch) -> None:
    def cold(policies: PolicySet) -> Compiled:
        forget()
        return compile_policies(policies)

    monkeypatch.setattr(compiling, "CACHED_RULES", 0)
    before, changed = shapes.excepted(40), shapes.excepted(40, 7)
    other = PolicySet((msgspec.structs.replace(before.policies[0], mode="audit"),))
    (policy,) = before.policies
    errno = msgspec.structs.replace(policy.rules[3], errno=13)
    third = PolicySet((msgspec.structs.replace(policy, rules=(*policy.rules[:3], errno, *policy.rules[4:])),))
    expected = [cold(policies) for policies in (before, changed, other, third)]
    assert len(set(map(id, expected))) == 4
    cold(before)
    made = compiling.DIAGRAMS.used
    assert [compile_policies(policies) for policies in (before, changed)] == expected[:2]
    assert compiling.DIAGRAMS.used == made, "another path leaves the diagrams as they were"
    assert [compile_policies(policies) for policies in (other, third, before)] == [*expected[2:], expected[0]]
    assert expected[0].verdicts != expected[3].verdicts


EDIT = st.sampled_from(
    [
        "path",
        "exe",
        "event",
        "errno",
        "action",
        "when",
        "remove",
        "add",
        "mode",
        "name",
        "broad",
        "lineage",
        "paths",
        "down",
        "same",
        "default",
    ]
)


def edited(policies: PolicySet, edit: str, at: int) -> PolicySet:
    """The same with one rule another, or one more or less."""
    (policy,) = policies.policies
    rules = list(policy.rules)
    at %= max(1, len(rules))
    one = rules[at] if rules else shapes.excepted(1).policies[0].rules[0]
    change = msgspec.structs.replace
    match edit:
        case "path":
            one = change(one, condition=And((Atom("file.path", Op.GLOB, f"/srv/changed-{at}/**"), one.condition.parts[1])))  # type: ignore[union-attr]
        case "exe":
            one = change(one, condition=And((one.condition.parts[0], Not(Atom("process.exe", Op.GLOB, f"/usr/bin/new-{at}")))))  # type: ignore[union-attr]
        case "event":
            one = change(one, events=("file.open", "file.unlink"))
        case "errno":
            one = change(one, errno=13)
        case "action":
            one = change(one, action=Action.AUDIT)
        case "when":
            one = change(one, action=Action.AUDIT, when=When.SUCCESS)
        case "broad":
            one = change(one, condition=And((Atom("file.path", Op.GLOB, "/srv/**"), Atom("process.uid", Op.RANGE, (0, at)))))
        case "lineage":
            one = change(one, condition=And((*one.condition.parts, Atom("process.ancestors.exe", Op.GLOB, f"/usr/sbin/{at}"))))  # type: ignore[union-attr]
        case "name":
            one = change(one, name=f"other {at}", location=Location("f", at, 1))
        case "paths":
            rules = [
                change(rule, condition=And((Atom("file.path", Op.GLOB, f"/srv/{at}-{n // 2}/**"), *rule.condition.parts[1:])))  # type: ignore[union-attr]
                if n % 3 == 0
                else rule
                for n, rule in enumerate(rules)
            ]
            return PolicySet((change(policy, rules=tuple(rules)),))
        case "down":
            rules[at:] = [change(rule, location=Location("f", 1 + n + at)) for n, rule in enumerate(rules[at:])]
            return PolicySet((change(policy, rules=tuple(rules)),))
        case "same":
            one = change(one, condition=rules[0].condition if rules else one.condition)
        case "default":
            policy = change(policy, default={} if policy.default else {"file.open": Action.DENY})
        case "mode":
            policy = change(policy, mode="audit" if policy.mode == "enforce" else "enforce")
        case "remove":
            return PolicySet((change(policy, rules=tuple(rules[:at] + rules[at + 1 :])),))
        case "add":
            rules.insert(at, change(one, name=f"added {at}"))
            return PolicySet((change(policy, rules=tuple(rules)),))
    if rules:
        rules[at] = one
    return PolicySet((change(policy, rules=tuple(rules)),))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 25), st.lists(st.tuples(EDIT, st.integers(0, 30)), min_size=1, max_size=6))
def test_after_any_edits_tables_are_those_of_a_compiler_that_knows_nothing(count: int, edits: list[tuple[str, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiling, "CACHED_RULES", 0)
        policies = shapes.excepted(count)
        chain = [policies]
        for edit, at in edits:
            policies = edited(policies, edit, at)
            chain.append(policies)
        warm = [compile_policies(one) for one in chain]
        uses = [lowered_tests(one, warm=True) for one in chain]
        for one, made, used in zip(chain, warm, uses, strict=True):
            forget()
            assert compile_policies(one) == made
            assert lowered_tests(one, warm=False) == used, "places to blame, too"


def lowered_tests(policies: PolicySet, *, warm: bool) -> object:
    lowered = compiling.LOWERED.lower(policies, None) if warm else lower_policies(policies, None)
    return list(lowered.tests.items()), lowered._replace(conditions=lowered.conditions.shape(), tests={})  # type: ignore[arg-type]


def test_one_changed_rule_is_lowered_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = shapes.excepted(400), shapes.excepted(400, 7)
    last = Last()
    last.lower(before, None)
    lowered: list[str] = []
    rule = _Lowering.rule
    monkeypatch.setattr(_Lowering, "rule", lambda self, policy, one: lowered.append(one.name) or rule(self, policy, one))
    last.lower(after, None)
    assert lowered == ["r7", "r7"]


def forget() -> None:
    dfa.AUTOMATA.clear()
    compiling.DIAGRAMS.clear()
    compiling.LOWERED.clear()
