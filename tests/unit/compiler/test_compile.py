"""bpfence.compiler.compile as a whole: the walk over the image gives what the reference evaluator gives; errors; sizes and times."""

from __future__ import annotations

import functools
import gc
import itertools
import operator
import random
import resource
import struct
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfence import abi, evaluate, glob
from bpfence.compiler import diagram
from bpfence.compiler.compile import Compiled, Limits, compile_policies, with_generation
from bpfence.compiler.image import Sample, Walker, walk
from bpfence.conditions.containers import untold
from bpfence.errors import CompileError, Location
from bpfence.fields import EVENT_BY_NAME
from bpfence.policy import (
    COMPARISONS,
    CONTAINER_FIELD,
    TRUE,
    Action,
    And,
    Atom,
    Condition,
    Event,
    Label,
    Not,
    Op,
    Or,
    Policy,
    PolicySet,
    Probe,
    Rule,
    Selector,
    Threshold,
    Way,
    When,
)
from tests.unit.compiler.random_policies import ATOMS, COMPARED, PATHS, events, policy_sets, sample

SETTINGS = settings(deadline=None, max_examples=120)


class Answer:
    """All groups' verdicts put together as the kernel does: the greatest action wins."""

    def __init__(self, compiled: Compiled, walker: Walker, event: str, values: Sample) -> None:
        walks = walker.walk(abi.CONSTANTS[EVENT_BY_NAME[event].id], values)
        found = [compiled.verdicts[walk.verdict] for walk in walks]
        self.rules = sorted(rule for verdict in found for rule in verdict.rules)
        self.action = max((verdict.action for verdict in found), default=Action.NONE)
        self.uncertain = any(verdict.uncertain for verdict in found)
        self.errors = {min((v for v in found if v.action == self.action), key=lambda v: v.first).error} if found else {0}


def answer(compiled: Compiled, event: Event) -> Answer:
    walker = Walker(compiled.image)
    return Answer(compiled, walker, str(event["event"]), sample(compiled, walker, event))


def check(policies: PolicySet, compiled: Compiled, event: Event) -> None:
    expected = evaluate.verdict(policies, event)
    got = answer(compiled, event)
    names = [(compiled.rules[n].policy, compiled.rules[n].name) for n in got.rules]
    assert sorted(names) == sorted((m.policy, m.rule) for m in expected.matches), event
    assert got.action == expected.action
    assert not got.uncertain
    assert got.errors == {expected.errno}


@SETTINGS
@given(policy_sets(), st.lists(events(), min_size=1, max_size=12))
def test_walk_agrees_with_the_reference(policies: PolicySet, samples: list[Event]) -> None:
    compiled = compile_policies(policies)
    for event in samples:
        check(policies, compiled, event)


@st.composite
def counting(draw: st.DrawFn) -> PolicySet:
    """Policies some of whose rules count."""
    made = []
    for policy in draw(policy_sets(max_rules=4)).policies:  # at most 12 of the 16 that may count
        rules = tuple(
            msgspec.structs.replace(rule, threshold=Threshold(draw(st.integers(2, 4)), 3_600_000, "host"))
            if rule.action is not Action.ALLOW and draw(st.integers(0, 2))
            else rule
            for rule in policy.rules
        )
        made.append(msgspec.structs.replace(policy, rules=rules))
    return PolicySet(tuple(made))


def test_counts_as_the_reference_does() -> None:
    reached = 0

    @settings(deadline=None, max_examples=80)
    @given(counting(), st.lists(events(), min_size=1, max_size=4))
    def compare(policies: PolicySet, samples: list[Event]) -> None:
        nonlocal reached
        compiled = compile_policies(policies)
        rule_of = {counter: number for number, counter in compiled.counters.items()}
        counted = dict.fromkeys(rule_of, 0)
        counts, walker = evaluate.Counts(), Walker(compiled.image)
        for event in samples * 3:
            expected = evaluate.verdict(policies, event, counts)
            values = sample(compiled, walker, event)
            number = abi.CONSTANTS[EVENT_BY_NAME[str(event["event"])].id]
            asked = [step.dimension for one in walker.walk(number, values) for step in one.steps]
            told: dict[int, int] = {}
            for counter in {compiled.dims[d].slot & abi.COUNT_NUMBER_MASK for d in asked if compiled.dims[d].kind == abi.DIM_COUNT}:
                counted[counter] += 1
                rule, mode = compiled.rules[rule_of[counter]], compiled.modes[rule_of[counter]]
                assert rule.threshold
                enough = (
                    counted[counter] == rule.threshold.count if evaluate.tells(rule, mode) else counted[counter] >= rule.threshold.count
                )
                told[abi.NUM_COUNT_0 + counter] = rule.threshold.count if enough else 1
                reached += enough
            values = values._replace(nums={**values.nums, **told})
            again = [step.dimension for one in walker.walk(number, values) for step in one.steps]
            assert again == asked, "what else is asked depends on what is counted"
            got = Answer(compiled, walker, str(event["event"]), values)
            names = [(compiled.rules[n].policy, compiled.rules[n].name) for n in got.rules]
            assert sorted(names) == sorted((m.policy, m.rule) for m in expected.matches), event
            assert (got.action, got.errors) == (expected.action, {expected.errno})

    for _ in range(9):  # of 80 random examples it may be that none counts enough
        compare()
        if reached:
            break
    assert reached


def test_what_counts_is_asked_behind_exceptions_that_are_made_late() -> None:
    threshold = Threshold(2, 1000)
    rules = [
        Rule(policy="p", name=f"r{n}", events=("file.open",), action=Action.DENY, threshold=threshold if n < 3 else None,
             condition=And((Atom("file.path", Op.EQUALS, f"/f{n}"), Not(Atom("process.exe", Op.EQUALS, f"/bin/{n}")))))
        for n in range(40)
    ]  # fmt: skip
    compiled = compile_policies(PolicySet((Policy(name="p", rules=tuple(rules)),)))
    walker = Walker(compiled.image)
    kinds = []
    for exe in ("/bin/1", "/bin/2"):
        event: Event = {"event": "file.open", "file.path": "/f1", "process.exe": exe}
        [one] = walker.walk(abi.EV_FILE_OPEN, sample(compiled, walker, event))
        kinds.append([compiled.dims[step.dimension].kind for step in one.steps])
    assert abi.DIM_COUNT not in kinds[0]
    assert kinds[1][-1] == abi.DIM_COUNT


def test_as_many_rules_count_as_there_are_counters() -> None:
    def policies(count: int) -> PolicySet:
        rules = (Rule(policy="p", name=f"r{n}", events=("file.open",), threshold=Threshold(2, 1000)) for n in range(count))
        return PolicySet((Policy(name="p", rules=tuple(rules)),))

    assert sorted(compile_policies(policies(abi.COUNTERS)).counters.values()) == list(range(abi.COUNTERS))
    with pytest.raises(CompileError, match="rules count"):
        compile_policies(policies(abi.COUNTERS + 1))


@pytest.mark.parametrize("mode", ["audit", "enforce"])
def test_a_rule_counts_for_containers_that_may_be_in_its_scope_as_well(mode: str) -> None:
    scope = Atom(CONTAINER_FIELD, Op.SELECTS, Selector(labels=(Label("app", "in", ("web",)),)))
    rule = Rule(policy="p", name="r", events=("file.open",), condition=scope, action=Action.DENY, threshold=Threshold(2, 1000))
    policy = Policy(name="p", mode=mode, scope=scope, doubt=untold(), rules=(rule,))
    assert set(compile_policies(PolicySet((policy,))).counters.values()) == ({0} if mode == "audit" else {0, 1})
    other = msgspec.structs.replace(policy, rules=(msgspec.structs.replace(rule, severity="high"),))
    with pytest.raises(CompileError, match="counts under the same name"):
        compile_policies(PolicySet((policy, other)))


def test_observing_rules_cannot_count() -> None:
    rule = Rule(policy="p", name="r", events=("file.open",), action=Action.OBSERVE, threshold=Threshold(2, 1000))
    with pytest.raises(CompileError, match="cannot count"):
        compile_policies(PolicySet((Policy(name="p", rules=(rule,)),)))


def compile_within(policies: PolicySet, limits: Limits) -> Compiled | None:
    """None when the limits are too tight; any other error is raised."""
    try:
        return compile_policies(policies, limits=limits)
    except CompileError as error:
        if {d.code for d in error.diagnostics} <= {"too-large", "pattern-too-large"}:
            return None
        raise


@settings(deadline=None, max_examples=60)
@given(policy_sets(), st.lists(events(), min_size=1, max_size=6), st.integers(100, 1500))
def test_splitting_changes_nothing(policies: PolicySet, samples: list[Event], edges: int) -> None:
    compiled = compile_within(policies, Limits(states=60, edges=edges, groups=8))
    if compiled is None:
        return
    for event in samples:
        check(policies, compiled, event)


def test_budgets_do_split() -> None:
    atoms = [Atom("process.args", Op.CONTAINS, f"word{n}.") for n in range(8)]
    rules = [
        Rule(policy="p", name=f"r{n}", events=("file.open",), action=Action.DENY, errno=n + 1,
             condition=And((atom, Atom("file.path", Op.GLOB, f"/d{n}/**"))))
        for n, atom in enumerate(atoms)
    ]  # fmt: skip
    policies = PolicySet((Policy(name="p", rules=tuple(rules)),))
    compiled = compile_policies(policies, limits=Limits(states=100, edges=1000))
    assert len(compiled.stats.groups) > 1
    assert len([d for d in compiled.dims if d.name.startswith("process.args (anywhere)")]) > 1
    for n in range(8):
        for other in range(8):
            check(policies, compiled, {"event": "file.open", "process.args": f"x word{n}. word1.", "file.path": f"/d{other}/f"})


@settings(deadline=None, max_examples=40)
@given(policy_sets())
def test_deterministic(policies: PolicySet) -> None:
    assert compile_policies(policies) == compile_policies(policies)


FILE_OPEN = abi.EV_FILE_OPEN
CERTAIN_PATHS = tuple(
    dict.fromkeys([
        *PATHS, "", *(prefix + "/".join(names) + suffix for prefix in ("", "/") for suffix in ("", "/") for depth in (1, 2, 3)
                      for names in itertools.product(("a", "b", "c", "x", "xb"), repeat=depth)), "/xc", "/b/xc", "/ab/b", "/éb",
    ])
)  # fmt: skip
"""A path for every set of the patterns below that some path is of, as far as the random conditions have them."""
TESTED_APART = {Op.EXISTS, Op.OBJECT, *COMPARISONS}
"""Tests with dimensions of their own: where these are uncertain too, what excludes each other may seem possible together."""


@SETTINGS
@given(st.lists(st.tuples(st.one_of(ATOMS, st.builds(Not, ATOMS)), ATOMS), min_size=1, max_size=4), events(), st.booleans())
def test_uncertain_is_the_join(conditions: list[tuple[Condition, Condition]], event: dict[str, object], absent: bool) -> None:
    """An uncertain path: the rules of all the paths there could be, no less; and no more than those of values and none."""
    path = [Atom("file.path", Op.GLOB, p) for p in ("/a/**", "/b/?", "**b", "/{a,b}/**")]
    rules = tuple(
        Rule(policy="p", name=f"r{n}", events=("file.open",), condition=And((Or((path[n], one)), other)), action=list(Action)[2 + n % 3])
        for n, (one, other) in enumerate(conditions)
        if not any(a.op in TESTED_APART for a in (one.part if isinstance(one, Not) else one, other) if isinstance(a, Atom))
    )
    policies = PolicySet((Policy(name="p", rules=rules),))
    compiled = compile_policies(policies)
    walker = Walker(compiled.image)
    values = sample(compiled, walker, {**event, "event": "file.open"})  # type: ignore[dict-item]
    slot = abi.STR_FILE_PATH
    uncertain = Answer(compiled, walker, "file.open", values._replace(strs={**values.strs, slot: None}))
    possible: set[int] = set()
    nothing = {s: v for s, v in values.strs.items() if s != slot}
    for strs in (nothing, *({**nothing, slot: glob.encode(p)} for p in CERTAIN_PATHS)):
        possible.update(Answer(compiled, walker, "file.open", values._replace(strs=strs)).rules)
    assert set(uncertain.rules) == possible
    assert uncertain.action == max((compiled.rules[rule].action for rule in possible), default=Action.NONE)
    certain = Answer(compiled, walker, "file.open", values._replace(strs=nothing))
    assert uncertain.uncertain or uncertain.rules == certain.rules


OF_PATHS = [Atom(one, op, other) for one, other, op in COMPARED if "file.path" in (one, other)]


@SETTINGS
@given(st.lists(st.tuples(st.sampled_from(OF_PATHS), st.booleans(), ATOMS), min_size=1, max_size=4), events(), st.booleans())
def test_where_a_text_is_uncertain_no_comparison_with_it_is_left_out(
    tests: list[tuple[Atom, bool, Atom]], event: dict[str, object], both: bool
) -> None:
    rules = tuple(
        Rule(policy="p", name=f"r{n}", events=("file.open",), condition=And((Not(test) if negated else test, other)), action=Action.DENY)
        for n, (test, negated, other) in enumerate(tests)
    )
    compiled = compile_policies(PolicySet((Policy(name="p", rules=rules),)))
    walker = Walker(compiled.image)
    values = sample(compiled, walker, {**event, "event": "file.open"})  # type: ignore[dict-item]
    slots = (abi.STR_FILE_PATH, abi.STR_PROCESS_EXE) if both else (abi.STR_FILE_PATH,)
    uncertain = Answer(compiled, walker, "file.open", values._replace(strs={**values.strs, **dict.fromkeys(slots)}))
    for texts in itertools.product(PATHS, repeat=len(slots)):
        strs = {**values.strs, **{slot: glob.encode(text) for slot, text in zip(slots, texts, strict=True)}}
        assert set(Answer(compiled, walker, "file.open", values._replace(strs=strs)).rules) <= set(uncertain.rules)


@pytest.mark.parametrize("field", ["process.exe", "process.ancestors.exe"])
def test_uncertain_subjects_deny(field: str) -> None:
    rule = Rule(policy="p", name="r", events=("file.open",), condition=Atom(field, Op.GLOB, "/a"), action=Action.DENY, errno=13)
    compiled = compile_policies(PolicySet((Policy(name="p", rules=(rule,)),)))
    walker = Walker(compiled.image)
    known = Sample({}, {abi.STR_PROCESS_EXE: b"/b"}, 0)
    assert Answer(compiled, walker, "file.open", known).action == Action.NONE
    unknown = Sample({}, {abi.STR_PROCESS_EXE: None}, None)
    verdict = Answer(compiled, walker, "file.open", unknown)
    assert (verdict.action, verdict.uncertain, verdict.errors) == (Action.DENY, True, {13})


def one_rule(condition: Condition = And(), **changes: object) -> PolicySet:  # noqa: B008
    values: dict[str, object] = {
        "policy": "p", "name": "r", "events": ("file.open",), "condition": condition, "action": Action.DENY, "location": Location("f", 3, 5)
    }  # fmt: skip
    rule = Rule(**(values | changes))  # type: ignore[arg-type]
    return PolicySet((Policy(name="p", rules=(rule,)),))


@pytest.mark.parametrize(
    ("policies", "words"),
    [
        (one_rule(events=("process.exit",)), ["process.exit", "cannot be denied", "audit"]),
        (one_rule(events=("file.chmod",)), ["kernel cannot report file.chmod", "deny cannot be enforced"]),
        (one_rule(events=("file.nothing",)), ["no event is called"]),
        (one_rule(Atom("no.field", Op.EQUALS, "x")), ["no.field", "no such field"]),
        (one_rule(Atom("file.path", Op.RANGE, (1, 2))), ["file.path range (1, 2)", "takes a string"]),
        (one_rule(Atom("file.path", Op.GLOB, "/[a")), ["file.path glob '/[a'", "never closed"]),
        (one_rule(Atom("file.uid", Op.GLOB, "x")), ["file.uid glob 'x'", "does not test a number"]),
        (one_rule(Atom("process.user", Op.EQUALS, "root")), ["process.user", "not resolved"]),
        (one_rule(Atom("process.exe", Op.OBJECT, "/bin/x")), ["process.exe object", "identity"]),
        (one_rule(Atom("process.ancestors.exe", Op.GLOB, "/{")), ["process.ancestors.exe", "never closed"]),
        (one_rule(Or((Atom("process.ancestors.exe", Op.GLOB, "/{"), Atom("process.ancestors.exe", Op.GLOB, "/x")))), ["never closed"]),
    ],
)
def test_what_the_kernel_cannot_decide_is_an_error_at_the_rule(policies: PolicySet, words: list[str]) -> None:
    with pytest.raises(CompileError) as caught:
        compile_policies(policies, supported_events={"file.open", "process.exit"})
    found = caught.value.diagnostics
    assert len(found) == 1
    assert found[0].location == Location("f", 3, 5)
    for word in [*words[:2], "rule 'r'"]:
        assert word in found[0].message
    assert all(word in str(found[0]) for word in words)


def test_audit_mode_may_name_what_cannot_be_denied() -> None:
    policies = one_rule(events=("process.exit",))
    audited = PolicySet((Policy(name="p", mode="audit", rules=policies.policies[0].rules),))
    compiled = compile_policies(audited)
    assert answer(compiled, {"event": "process.exit"}).action == Action.AUDIT
    assert compiled.verdicts[1].error == 0


def test_audit_on_an_unsupported_event_is_a_warning() -> None:
    compiled = compile_policies(one_rule(action=Action.AUDIT, events=("file.open", "file.chmod")), supported_events={"file.open"})
    assert [d.code for d in compiled.unreachable] == ["event-unsupported"]
    assert compiled.events == {"file.open"}


@pytest.mark.parametrize(
    ("condition", "changes", "codes"),
    [
        (Or(), {}, ["unreachable-rule"]),
        (And((Atom("file.path", Op.EQUALS, "/a"), Atom("file.path", Op.PREFIX, "/b"))), {}, ["unreachable-rule"]),
        (And((Atom("file.uid", Op.RANGE, (1, 5)), Atom("file.uid", Op.RANGE, (6, 9)))), {}, ["unreachable-rule"]),
        (Atom("net.peer.port", Op.RANGE, (1, 5)), {}, ["unreachable-rule"]),
        (And(), {"action": Action.ALLOW}, ["allow-without-default"]),
        (And((Atom("file.uid", Op.RANGE, (1, 6)), Atom("file.uid", Op.RANGE, (6, 9)))), {}, []),
    ],
)
def test_rules_without_effect_are_reported(condition: Condition, changes: dict[str, object], codes: list[str]) -> None:
    compiled = compile_policies(one_rule(condition, **changes))
    assert [d.code for d in compiled.unreachable] == codes
    assert (compiled.events == frozenset()) == bool(codes)


@pytest.mark.parametrize(
    ("atoms", "code"),
    [
        ([Atom("file.mode", Op.ANYBITS, 1 + 2 * n) for n in range(70)], "too-many-dimensions"),
        ([And((Atom("file.path", Op.OBJECT, f"/{n}"),)) for n in range(65)], "too-many-bits"),
        ([And((Atom("process.ancestors.exe", Op.GLOB, f"/{n}"),)) for n in range(129)], "too-many-bits"),
        ([Atom("file.path", Op.GLOB, "**a" + "?" * 30)], "pattern-too-large"),
    ],
)
def test_limits_of_the_kernel_tables(atoms: list[Condition], code: str) -> None:
    with pytest.raises(CompileError) as caught:
        compile_policies(one_rule(And(tuple(Or((a, Atom("file.path", Op.EQUALS, "/x"))) for a in atoms))))
    assert caught.value.diagnostics[0].code == code
    assert caught.value.diagnostics[0].location == Location("f", 3, 5)


def test_too_large_names_the_costliest_rule() -> None:
    cheap = [Rule(policy="p", name=f"c{n}", events=("file.open",), condition=Atom("file.path", Op.GLOB, f"/x/{n}")) for n in range(40)]
    wide = Rule(policy="p", name="wide", events=("file.open",), condition=Atom("file.path", Op.GLOB, "/x/**"), location=Location("f", 9, 1))
    with pytest.raises(CompileError) as caught:
        compile_policies(PolicySet((Policy(name="p", rules=(*cheap, wide)),)), limits=Limits(edges=50, groups=1))
    assert caught.value.diagnostics[0].location == Location("f", 9, 1)
    assert "'wide'" in caught.value.diagnostics[0].message


def test_what_takes_too_long_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each class of the path leaves another condition, and each of these is taken apart by each user: few edges, and much to look at."""
    choices = [Or((Atom("file.uid", Op.RANGE, (n, n)), Atom("file.path", Op.EQUALS, f"/{n}"))) for n in range(100)]
    policies = one_rule(And(tuple(choices)))
    compile_policies(policies)
    monkeypatch.setattr(diagram, "WORK_PER_EDGE", 1)
    with pytest.raises(CompileError) as caught:
        compile_policies(policies)
    assert [d.code for d in caught.value.diagnostics] == ["too-large"]


def test_alternatives_on_ancestors_share_a_bit() -> None:
    names = [Atom("process.ancestors.exe", Op.GLOB, f"/usr/sbin/d{n}") for n in range(100)]
    policies = one_rule(Or((Or(tuple(names[:50])), *names[50:])))
    compiled = compile_policies(policies)
    assert len(compiled.dims) == 1
    for exe in ("/usr/sbin/d7", "/usr/sbin/x"):
        check(policies, compiled, {"event": "file.open", "process.ancestors.exe": ("/sbin/init", exe)})


def test_alternative_flags_and_objects_are_one_dimension_each() -> None:
    flags = [Atom("file.access", Op.ANYBITS, 1 << n) for n in (0, 2)]
    objects = [Atom("file.path", Op.OBJECT, f"/{n}") for n in range(9)]
    policies = one_rule(Or((*flags, *objects)))
    compiled = compile_policies(policies)
    assert [d.name for d in compiled.dims] == ["file.access&0x5", f"file.path is object {'|'.join(f'/{n}' for n in range(9))}"]
    for access, followed in ((1, ()), (2, ()), (2, ("/7",)), (4, ("/1", "/2"))):
        check(policies, compiled, {"event": "file.open", "file.access": access, "file.object": followed})


def test_features_say_what_the_image_needs() -> None:
    def features(condition: Condition, **changes: object) -> int:
        return Walker(compile_policies(one_rule(condition, **changes)).image).header["features"]

    assert features(Atom("file.path", Op.GLOB, "/a")) == 0
    assert features(Atom("file.path", Op.OBJECT, "/a")) == abi.IMAGE_NEEDS_OBJECTS
    assert features(Atom("process.ancestors.exe", Op.GLOB, "/a")) == abi.IMAGE_FORK_CHANGES
    assert features(Atom("process.parent.exe", Op.GLOB, "/a")) == abi.IMAGE_FORK_CHANGES
    assert features(Atom("process.cgroup", Op.GLOB, "/a")) == abi.IMAGE_SUBJECT_CGROUP
    assert features(Atom("process.gid", Op.RANGE, (1, 5))) == abi.IMAGE_SUBJECT_IDS


@pytest.mark.parametrize(
    ("moments", "report"),
    [
        ([When.DECIDED], abi.REPORT_DECISION),
        ([When.SUCCESS], abi.REPORT_SUCCESS),
        ([When.FAILURE], abi.REPORT_FAILURE),
        ([When.SUCCESS, When.FAILURE], abi.REPORT_SUCCESS | abi.REPORT_FAILURE),
        ([When.SUCCESS | When.FAILURE, When.DECIDED], abi.REPORT_SUCCESS | abi.REPORT_FAILURE | abi.REPORT_DECISION),
    ],
)
def test_verdicts_say_when_they_are_reported(moments: list[When], report: int) -> None:
    deny = Rule(policy="p", name="deny", events=("file.chmod",), action=Action.DENY)
    rules = [Rule(policy="p", name=f"r{n}", events=("file.open",), when=when) for n, when in enumerate(moments)]
    compiled = compile_policies(PolicySet((Policy(name="p", rules=(deny, *rules)),)))
    walker = Walker(compiled.image)
    (found,) = walk(compiled.image, FILE_OPEN, {}, {})
    at = 4 * (walker.header["verdicts_ref"] + found * abi.IMAGE_VERDICT_WORDS)
    assert abi.IMAGE_VERDICT_STRUCT.unpack_from(compiled.image, at)[2] == report | abi.TO_DECISIONS
    assert compiled.verdicts[found].action == Action.AUDIT
    assert [compiled.rules[n].when for n in compiled.verdicts[found].rules] == moments
    assert bool(walker.header["features"] & abi.IMAGE_DETAILS) == any(when != When.DECIDED for when in moments)


@pytest.mark.parametrize("more", [{"when": When.SUCCESS}, {"when": When.DECIDED | When.FAILURE}, {"confirm": "x"}])
def test_a_rule_that_waits_for_something_only_audits(more: dict[str, Any]) -> None:
    with pytest.raises(CompileError) as caught:
        compile_policies(one_rule(**more))
    assert "cannot deny" in caught.value.diagnostics[0].message


@pytest.mark.parametrize("event", ["process.executed", "file.dup", "kernel.fsconfig"])
def test_events_after_the_act_are_watched(event: str) -> None:
    both = When.SUCCESS | When.FAILURE
    found = compile_policies(one_rule(Atom("process.exe_flags", Op.ANYBITS, 8), events=(event,), action=Action.AUDIT, when=both))
    assert answer(found, {"event": event, "process.exe_flags": 12}).rules == [0]
    assert answer(found, {"event": event, "process.exe_flags": 4}).rules == []
    assert found.events == {event}


def test_nothing_compiles_to_nothing() -> None:
    compiled = compile_policies(PolicySet())
    assert (compiled.events, compiled.rules, len(compiled.verdicts)) == (frozenset(), (), 1)
    assert Walker(compiled.image).walk(FILE_OPEN, Sample({}, {})) == []
    assert len(compiled.image) == 65536, "a header, rounded up"


def test_generation_is_the_only_difference() -> None:
    policies = one_rule(Atom("file.path", Op.GLOB, "/a/**"))
    first = compile_policies(policies)
    assert with_generation(first.image, 7) == compile_policies(policies, generation=7).image
    assert Walker(with_generation(first.image, 7)).header["generation"] == 7


def test_the_collector_is_left_as_it_was() -> None:
    gc.disable()
    try:
        compile_policies(one_rule())
        assert not gc.isenabled()
    finally:
        gc.enable()
    compile_policies(one_rule())
    assert gc.isenabled()


def many_rules(count: int, seed: int = 1) -> PolicySet:
    """A fleet's worth of rules: paths of realistic depth, some with exceptions, users, lineage, some bound to one executable."""
    generator = random.Random(seed)
    words = ("usr", "bin", "lib", "etc", "var", "opt", "home", "srv", "data", "app", "node", "share", "local", "cache", "log", "www")

    def path() -> str:
        return "/" + "/".join(f"{generator.choice(words)}{generator.randrange(40)}" for _ in range(generator.randrange(3, 7)))

    rules = []
    for number in range(count):
        kind = generator.random()
        parts: list[Condition] = [Atom("file.path", Op.GLOB, path() + ("" if kind < 0.4 else "/**" if kind < 0.8 else "/*.conf"))]
        if generator.random() < 0.3:
            parts.append(Atom("file.access", Op.ANYBITS, 2))
        if generator.random() < 0.3:
            parts.append(Not(Atom("process.exe", Op.GLOB, generator.choice(("/usr/bin/dpkg", "/usr/bin/rpm", "/opt/**")))))
        if generator.random() < 0.1:
            parts.append(Atom("process.exe", Op.GLOB, path()))
        if generator.random() < 0.2:
            parts.append(Atom("process.uid", Op.RANGE, generator.choice(((0, 0), (1000, 65535)))))
        if generator.random() < 0.05:
            parts.append(Atom("process.ancestors.exe", Op.GLOB, generator.choice(("/usr/sbin/sshd", "/usr/sbin/nginx"))))
        names = generator.choice((("file.open",), ("file.open", "file.unlink", "file.rename"), ("process.exec",)))
        action = generator.choice((Action.AUDIT, Action.DENY))
        rules.append(Rule(policy="p", name=f"r{number}", events=names, condition=And(tuple(parts)), action=action))
    return PolicySet((Policy(name="p", rules=tuple(rules)),))


@pytest.mark.parametrize(("count", "seconds", "mib"), [(1000, 4.0, 64), (10_000, 20.0, 64)])
def test_size_and_time(count: int, seconds: float, mib: int) -> None:
    """Processor time, twice (for 1,000 rules, whose figure is dominated by noise, four times) what the issue allows."""
    policies = many_rules(count)
    begin = time.process_time()
    compiled = compile_policies(policies)
    assert time.process_time() - begin < seconds
    assert len(compiled.image) < mib << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 1 << 20
    assert not compiled.unreachable
    generator = random.Random(2)
    for _ in range(50):
        rule = compiled.rules[generator.randrange(count)]
        found = rule.condition_for("file.open")
        assert isinstance(found, And)
        assert isinstance(found.parts[0], Atom)
        path = str(found.parts[0].value).replace("/**", "/x/y").replace("*.conf", "x.conf")
        event: Event = {
            "event": rule.events[0], "file.path": path, "process.exe": generator.choice(("/usr/bin/dpkg", "/usr/bin/cat")),
            "process.uid": generator.choice((0, 1000)), "file.access": 2,
        }  # fmt: skip
        check(policies, compiled, event)


@pytest.mark.parametrize(("field", "slot"), [("process.args", abi.STR_PROCESS_ARGS), ("process.parent.args", abi.STR_PARENT_ARGS)])
def test_arguments_match_as_the_kernel_keeps_them(field: str, slot: int) -> None:
    compiled = compile_policies(one_rule(Atom(field, Op.STRGLOB, "* --mark*")))
    for args, matches in ((b"cat --marked", True), (b"cat\0--marked", True), (b"cat\0marked", False)):
        (verdict,) = walk(compiled.image, abi.EV_FILE_OPEN, {}, {slot: args})
        assert bool(compiled.verdicts[verdict].rules) is matches, args


def test_a_sensor_of_several_policies_is_one() -> None:
    def of(name: str, *probes: Probe) -> Policy:
        return Policy(name=name, rules=(Rule(policy=name, name="r", events=("sensor.kprobe",), condition=TRUE),), probes=probes)

    maybe, needed, other = Probe(Way.KPROBE, "a", optional=True), Probe(Way.KPROBE, "a"), Probe(Way.KPROBE, "b")
    assert compile_policies(PolicySet((of("x", maybe), of("y", needed, other)))).probes == (needed, other)
    assert compile_policies(PolicySet((of("x", needed), of("y", maybe)))).probes == (needed,)


def test_two_sensors_with_one_number_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Probe, "number", 7)
    rule = Rule(policy="p", name="r", events=("sensor.kprobe",), condition=TRUE)
    policy = Policy(name="p", rules=(rule,), probes=(Probe(Way.KPROBE, "a"), Probe(Way.KPROBE, "b")))
    with pytest.raises(CompileError, match="sensors on a and b have the same number"):
        compile_policies(PolicySet((policy,)))


NUMBER, TEXT = Atom("sensor.number0", Op.RANGE, (5, 5)), Atom("sensor.text1", Op.GLOB, "x*")


@pytest.mark.parametrize(
    ("condition", "number", "unread", "read"),
    [
        (NUMBER, 5, Action.KILL, Action.KILL),
        (Or((NUMBER, TEXT)), 5, Action.KILL, Action.KILL),
        (Or((NUMBER, TEXT)), 6, Action.AUDIT, Action.KILL),
        (And((NUMBER, TEXT)), 5, Action.AUDIT, Action.KILL),
        (And((NUMBER, Not(TEXT))), 5, Action.AUDIT, Action.NONE),
        (Or((NUMBER, Not(TEXT))), 5, Action.KILL, Action.KILL),
        (And((NUMBER, TEXT)), 6, Action.OBSERVE, Action.NONE),
        (And((NUMBER, Atom("file.path", Op.GLOB, "/a/**"))), 5, Action.KILL, Action.KILL),
    ],
)
def test_what_a_sensor_could_not_read_kills_nobody(condition: Condition, number: int, unread: Action, read: Action) -> None:
    """A path that could not be told does, as elsewhere. Beside it there is a rule that asks for the text and only tells."""
    rules = (
        Rule(policy="p", name="kill", events=("sensor.kprobe",), condition=condition, action=Action.KILL),
        Rule(policy="p", name="see", events=("sensor.kprobe",), condition=Atom("sensor.text1", Op.GLOB, "y*"), action=Action.OBSERVE),
    )
    compiled = compile_policies(PolicySet((Policy(name="p", rules=rules),)))

    def found(text: bytes | None, path: bytes | None) -> Action:
        strings = {abi.STR_SENSOR_1: text, abi.STR_FILE_PATH: path}
        verdicts = walk(compiled.image, abi.EV_SENSOR_KPROBE, {abi.NUM_SENSOR_0: number}, strings)
        return max((compiled.verdicts[verdict].action for verdict in verdicts), default=Action.NONE)

    assert found(None, None) == unread
    assert found(b"x-file", b"/a/b") == read


@pytest.mark.parametrize(("event", "uncounted"), [("sensor.kprobe", Action.AUDIT), ("sensor.lsm", Action.KILL), ("file.open", Action.KILL)])
def test_what_could_not_be_counted_kills_nobody_at_a_sensor_that_cannot_refuse(event: str, uncounted: Action) -> None:
    threshold = Threshold(3, 1000)
    rules = (
        Rule(policy="p", name="kill", events=(event,), action=Action.KILL, threshold=threshold),
        Rule(policy="p", name="other", events=("sensor.kprobe",), action=Action.KILL, threshold=threshold),
    )
    compiled = compile_policies(PolicySet((Policy(name="p", rules=rules),)))

    def found(counted: int | None) -> Action:
        number = abi.CONSTANTS[EVENT_BY_NAME[event].id]
        verdicts = walk(compiled.image, number, {abi.NUM_COUNT_0: counted}, {})
        return max((compiled.verdicts[verdict].action for verdict in verdicts), default=Action.NONE)

    assert [found(counted) for counted in (2, 3, None)] == [Action.NONE, Action.KILL, uncounted]


def test_signals_of_all_rules_are_sent_and_those_of_audit_mode_are_not() -> None:
    def policy(name: str, signal: int, condition: Condition, mode: str = "enforce") -> Policy:
        return Policy(
            name=name, mode=mode, rules=(Rule(policy=name, name="r", events=("sensor.kprobe",), condition=condition, signal=signal),)
        )

    policies = PolicySet((policy("a", 15, NUMBER), policy("b", 64, NUMBER), policy("c", 10, TEXT), policy("d", 12, NUMBER, "audit")))
    compiled = compile_policies(policies)

    def found(number: int, text: bytes | None) -> int:
        walked = walk(compiled.image, abi.EV_SENSOR_KPROBE, {abi.NUM_SENSOR_0: number}, {abi.STR_SENSOR_1: text})
        return functools.reduce(operator.or_, (compiled.verdicts[number].signals for number in walked), 0)

    def told(number: int, text: str) -> tuple[int, ...]:
        return evaluate.verdict(policies, {"event": "sensor.kprobe", "sensor.number0": number, "sensor.text1": text}).signals

    assert found(5, b"x-file") == 1 << 14 | 1 << 63 | 1 << 9
    assert told(5, "x-file") == (10, 15, 64)
    assert (found(5, b"y"), told(5, "y")) == (1 << 14 | 1 << 63, (15, 64))
    assert (found(6, b"y"), told(6, "y")) == (0, ())
    assert found(6, None) == 0, "what could not be read sends none"
    number = next(n for n, one in enumerate(compiled.verdicts) if one.signals >> 63)
    words = struct.unpack_from(f"<{len(compiled.image) // 4}I", compiled.image)
    header = abi.IMAGE_HEADER_OFFSETS["verdicts_ref"] // 4
    at = words[header] + number * abi.IMAGE_VERDICT_WORDS + 4
    assert words[at] | words[at + 1] << 32 == compiled.verdicts[number].signals
