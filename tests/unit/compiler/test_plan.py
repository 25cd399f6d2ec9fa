"""bpfence.compiler.plan: what adds where it would have multiplied decides as before, and lets through no less."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from bpfence import abi, evaluate
from bpfence.compiler import diagram, plan
from bpfence.compiler.compile import Compiled, compile_policies
from bpfence.compiler.explain import explain
from bpfence.compiler.image import Sample, Walker
from bpfence.evaluate import OBJECT_KEYS
from bpfence.fields import FIELD_BY_NAME, applies
from bpfence.policy import Action, And, Atom, Condition, Event, Not, Op, Or, Policy, PolicySet, Rule
from tests.unit.compiler.random_policies import ATOMS, CONDITIONS, WORDS, events, policy_sets, sample
from tests.unit.compiler.test_compile import SETTINGS, Answer, check


@pytest.fixture(autouse=True, scope="module")
def at_once() -> Iterator[None]:
    """Everything that is done where there are many, done where there are two."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in (
            (plan, "FEW", 1),
            (plan, "CONFIRMED_RULES", 0),
            (plan, "CONFIRMED_TESTS", 1),
            (diagram, "MANY", 1),
            (diagram, "MANY_CONFIRMED", 1),
        ):
            patch.setattr(module, name, value)
        yield


PARTS = st.sampled_from(("a", "b", "ab", "/b", "sh", " "))
TEXTS = st.builds(Atom, st.sampled_from(("process.args", "file.path")), st.just(Op.CONTAINS), PARTS)
SHAPES: st.SearchStrategy[Condition] = st.one_of(
    CONDITIONS,
    st.tuples(TEXTS, st.sampled_from((And(), Atom("file.access", Op.ANYBITS, 2), Atom("process.uid", Op.RANGE, (1, 1000))))).map(And),
    st.tuples(ATOMS, ATOMS.map(Not), st.one_of(TEXTS, TEXTS.map(Not))).map(And),
    st.tuples(
        st.builds(Atom, st.just("file.path"), st.just(Op.GLOB), st.sampled_from(("/a/**", "/b/?", "/a*"))),
        st.builds(Atom, st.just("process.exe"), st.just(Op.GLOB), st.sampled_from(("/a", "/b", "/ab"))).map(Not),
        st.builds(Atom, st.just("process.name"), st.just(Op.EQUALS), st.sampled_from(WORDS)).map(Not),
    ).map(And),
)


def opened(event: Event) -> Event:
    """An opening with what it can carry of an event."""
    fields = {key: field for field, key in OBJECT_KEYS.items()}
    kept = {name: value for name, value in event.items() if name != "event" and carried(fields.get(name, name))}
    return {**kept, "event": "file.open"}


def carried(name: str) -> bool:
    return applies(FIELD_BY_NAME[name], "file.open")


OPENED = events().map(opened)


@st.composite
def mixed(draw: st.DrawFn) -> PolicySet:
    """Rules that decide, and audit rules that user space confirms."""
    rules = []
    for number in range(draw(st.integers(2, 7))):
        action = draw(st.sampled_from((Action.AUDIT, Action.AUDIT, Action.DENY, Action.KILL)))
        rules.append(
            Rule(
                policy="p",
                name=f"r{number}",
                events=("file.open", "file.rename"),
                condition=draw(SHAPES),
                action=action,
                errno=draw(st.sampled_from((1, 1, 1, 13))),
                severity=draw(st.sampled_from(("medium", "medium", "high"))),
                confirm="x" if action is Action.AUDIT and draw(st.booleans()) else "",
            )
        )
    return PolicySet((Policy(name="p", rules=tuple(rules)),))


def split(policies: PolicySet, names: set[str]) -> tuple[set[str], set[str]]:
    """Names of rules that decide, and of those that user space confirms."""
    confirmed = {rule.name for _, rule in policies.rules() if rule.confirm}
    return names - confirmed, names & confirmed


def decided(policies: PolicySet, names: set[str]) -> tuple[Action, int]:
    """What rules that decide come to: the greatest action, and the errno of the first that has it."""
    found = [rule for _, rule in policies.rules() if rule.name in names]
    best = max((rule.action for rule in found), default=Action.NONE)
    return best, next((rule.errno for rule in found if rule.action is best), 0) if best >= Action.DENY else 0


def matched(compiled: Compiled, values: Sample) -> Answer:
    return Answer(compiled, Walker(compiled.image), "file.open", values)


@settings(SETTINGS, phases=(Phase.generate,), max_examples=400)
@given(mixed(), st.lists(OPENED, min_size=1, max_size=8))
def test_decisions_are_the_same_and_candidates_no_fewer(policies: PolicySet, samples: list[Event]) -> None:
    compiled = compile_policies(policies)
    walker = Walker(compiled.image)
    for event in samples:
        expected, wanted = split(policies, {match.rule for match in evaluate.verdict(policies, event).matches})
        found = matched(compiled, sample(compiled, walker, event))
        told, candidates = split(policies, {compiled.rules[n].name for n in found.rules})
        assert told <= expected
        assert decided(policies, told) == decided(policies, expected)
        beside = {compiled.rules[n].name for n in plan.siblings(compiled.families, "file.open", found.rules, event.get)}
        assert told | beside == expected, "every rule that matches is told"
        assert told.isdisjoint(beside)
        assert candidates >= wanted
        assert found.action == max((rule.action for _, rule in policies.rules() if rule.name in told | candidates), default=Action.NONE)
        if (best := decided(policies, expected))[0] >= Action.DENY:
            assert found.errors == {best[1]}


@settings(SETTINGS, phases=(Phase.generate,), max_examples=200)
@given(mixed(), OPENED, st.sampled_from((abi.STR_FILE_PATH, abi.STR_PROCESS_EXE, abi.STR_PROCESS_ARGS)))
def test_what_is_uncertain_is_decided_no_milder(policies: PolicySet, event: Event, slot: int) -> None:
    compiled = compile_policies(policies)
    values = sample(compiled, Walker(compiled.image), event)
    uncertain = matched(compiled, values._replace(strs={**values.strs, slot: None}))
    for text in (b"/a", b"/b", b"/ab", b"/a/b", b"sh", b"a b", b""):
        possible = matched(compiled, values._replace(strs={**values.strs, slot: text}))
        assert uncertain.action >= possible.action
        assert {n for n in possible.rules if compiled.rules[n].confirm} <= set(uncertain.rules)


@SETTINGS
@given(policy_sets(), st.lists(events(), min_size=1, max_size=8))
def test_what_is_made_late_changes_nothing(policies: PolicySet, samples: list[Event]) -> None:
    """Of random policies, none of which are a family."""
    compiled = compile_policies(policies)
    if any(dimension.name.endswith(")") and "first of" in dimension.name for dimension in compiled.dims):
        return
    for event in samples:
        check(policies, compiled, event)


def rules(*conditions: Condition, **changes: object) -> PolicySet:
    made = (Rule(policy="p", name=f"r{n}", events=("file.open",), condition=c, action=Action.DENY) for n, c in enumerate(conditions))
    return PolicySet((Policy(name="p", rules=tuple(msgspec.structs.replace(rule, **changes) for rule in made)),))


def contains(text: str) -> Atom:
    return Atom("file.path", Op.CONTAINS, text)


def names(policies: PolicySet) -> list[str]:
    return [dimension.name for dimension in compile_policies(policies).dims]


def test_a_family_has_an_automaton_of_its_own() -> None:
    assert names(rules(contains("a"), contains("b"))) == ["file.path (first of 1)"]
    write = Atom("file.access", Op.ANYBITS, 2)
    found = names(rules(contains("a"), contains("b"), And((contains("c"), write)), And((contains("d"), write))))
    assert found == ["file.access&0x2", "file.path (first of 1)", "file.path (first of 2)"]


def test_rules_of_one_family_send_the_same_signal() -> None:
    (policy,) = rules(*map(contains, "abcdef"), action=Action.AUDIT).policies
    signals = zip(policy.rules, (10, 15, 10, 15, 10, 15), strict=True)
    made = [msgspec.structs.replace(rule, signal=signal) for rule, signal in signals]
    enforced = msgspec.structs.replace(policy, rules=tuple(made[:4]))
    compiled = compile_policies(PolicySet((enforced, msgspec.structs.replace(policy, name="m", mode="audit", rules=tuple(made[4:])))))
    assert [sorted(family.texts) for family in compiled.families] == [[0, 2], [1, 3], [4, 5]]
    walked = Walker(compiled.image).walk(abi.EV_FILE_OPEN, Sample({}, {abi.STR_FILE_PATH: b"/fab"}))
    assert {compiled.verdicts[found.verdict].signals for found in walked} == {1 << 9 | 1 << 14}


@SETTINGS
@given(
    st.lists(
        st.tuples(
            st.sampled_from((Op.CONTAINS, Op.ICONTAINS)),
            st.lists(st.sampled_from(("a", "b", "ab", "B", "ä", "/a", "ba")), min_size=1, max_size=2),
            st.sampled_from((And(), Atom("process.uid", Op.RANGE, (0, 5)), Not(Atom("process.exe", Op.EQUALS, "/a")))),
        ),
        min_size=2,
        max_size=9,
    ),
    st.sampled_from((Action.AUDIT, Action.OBSERVE, Action.DENY)),
    st.sampled_from(("enforce", "audit")),
    st.text("abABä/", max_size=8),
    st.integers(0, 9),
    st.sampled_from(("/a", "/b")),
)
def test_every_rule_of_a_family_that_matches_is_told(
    made: list[tuple[Op, list[str], Condition]], action: Action, mode: str, path: str, uid: int, exe: str
) -> None:
    conditions = [And((Or(tuple(Atom("file.path", op, text) for text in texts)), rest)) for op, texts, rest in made]
    (policy,) = rules(*conditions, action=action).policies
    policies = PolicySet((msgspec.structs.replace(policy, mode=mode),))
    compiled = compile_policies(policies)
    event: Event = {"event": "file.open", "file.path": path, "process.uid": uid, "process.exe": exe}
    expected = {match.rule for match in evaluate.verdict(policies, event).matches}
    found = matched(compiled, sample(compiled, Walker(compiled.image), event))
    beside = plan.siblings(compiled.families, "file.open", found.rules, event.get)
    assert {compiled.rules[n].name for n in (*found.rules, *beside)} == expected
    assert plan.siblings(compiled.families, "file.unlink", found.rules, event.get) == []
    assert {rule.partition("/")[2] for rule in explain(compiled, event).rules} == expected


def test_no_more_rules_are_told_than_one_where_nothing_is_found() -> None:
    compiled = compile_policies(rules(contains("a"), contains("b"), action=Action.AUDIT))
    assert [family.texts for family in compiled.families] == [{0: ("a",), 1: ("b",)}]
    assert plan.siblings(compiled.families, "file.open", [], lambda _: "ab") == []
    assert plan.siblings(compiled.families, "file.open", [0], lambda _: None) == []
    assert plan.siblings(compiled.families, "file.open", [0], lambda _: b"ab") == [1]


@pytest.mark.parametrize(
    "policies",
    [
        rules(contains("a"), Not(contains("b"))),
        rules(contains("a"), And((contains("b"), Atom("process.uid", Op.RANGE, (0, 0))))),
        rules(contains("a"), contains("b"), Or((Atom("process.uid", Op.RANGE, (0, 0)), contains("a")))),
        rules(contains("a"), contains("b"), action=Action.AUDIT, confirm="x"),
    ],
)
def test_other_rules_are_no_family(policies: PolicySet) -> None:
    assert not any("first of" in name for name in names(policies))


def test_rules_that_give_different_errors_are_no_family() -> None:
    policies = rules(contains("a"), contains("b"))
    (policy,) = policies.policies
    other = msgspec.structs.replace(policy.rules[1], errno=13)
    assert names(PolicySet((msgspec.structs.replace(policy, rules=(policy.rules[0], other)),))) == ["file.path"]


def test_what_is_widened_is_said() -> None:
    conditions = (contains("a"), contains("b"))
    assert compile_policies(rules(*conditions)).widened == ()
    compiled = compile_policies(rules(*conditions, action=Action.AUDIT, confirm="x"))
    assert compiled.widened == ("file.path",)
