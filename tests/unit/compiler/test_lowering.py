"""bpfence.compiler.lowering: numbering, default postures as rules, effective actions, conditions per event."""

from __future__ import annotations

import pytest

from bpfence import abi
from bpfence.compiler.cache import CACHED_RULES
from bpfence.compiler.diagram import TRUE
from bpfence.compiler.image import ANY_NEEDED
from bpfence.compiler.lowering import Last, _Needed, counter_of, default_rules, lower_policies, needed_bits
from bpfence.errors import Location
from bpfence.policy import Action, And, Atom, Condition, Not, Op, Or, Policy, PolicySet, Rule, Threshold

PATH = Atom("file.path", Op.GLOB, "/a")
UID = Atom("process.uid", Op.RANGE, (0, 0))
PROT = Atom("file.prot", Op.ANYBITS, 4)


def rule(name: str, condition: Condition = And(), *events: str, action: Action = Action.DENY) -> Rule:  # noqa: B008
    return Rule(policy="p", name=name, events=events or ("file.open",), condition=condition, action=action)


def lower(*rules: Rule, **values: object) -> object:
    return lower_policies(PolicySet((Policy(name="p", rules=rules, **values),)), None)  # type: ignore[arg-type]


def test_defaults_are_rules_behind_their_policys_own() -> None:
    allow = rule("a", PATH, "file.open", "process.exec", action=Action.ALLOW)
    policy = Policy(
        name="p",
        scope=UID,
        default={"file.open": Action.DENY, "process.exec": Action.DENY, "net.bind": Action.KILL, "file.link": Action.ALLOW},
        rules=(allow, rule("b", PATH)),
        location=Location("f", 1, 1),
        severity="high",
    )
    defaults = list(default_rules(policy))
    assert [(d.name, d.events, d.action, d.severity, d.location) for d in defaults] == [
        ("default", ("file.open", "process.exec"), Action.DENY, "high", Location("f", 1, 1)),
        ("default", ("net.bind",), Action.KILL, "high", Location("f", 1, 1)),
    ]
    assert defaults[0].condition_for("process.exec") == And((UID, Not(Or((PATH,)))))
    assert defaults[1].condition_for("net.bind") == And((UID, Not(Or())))
    lowered = lower_policies(PolicySet((policy, Policy(name="q", mode="audit", rules=(rule("c"),)))), None)
    assert [r.name for r in lowered.rules] == ["a", "b", "default", "default", "c"]
    assert lowered.modes == ["enforce"] * 4 + ["audit"]
    assert lowered.actions == [Action.ALLOW, Action.DENY, Action.DENY, Action.KILL, Action.AUDIT]
    assert sorted({clause.rule for clause in lowered.clauses}) == [1, 2, 3, 4]


def test_events_that_see_the_same_condition_share_a_clause() -> None:
    lowered = lower(rule("r", Or((And((PATH, PROT)), UID)), "file.open", "file.mmap", "file.unlink", "file.mprotect"))
    bits = [
        {name for name in ("EV_FILE_OPEN", "EV_FILE_MMAP", "EV_FILE_UNLINK", "EV_FILE_MPROTECT") if c.events >> abi.CONSTANTS[name] & 1}
        for c in lowered.clauses  # type: ignore[attr-defined]
    ]
    assert bits == [{"EV_FILE_OPEN", "EV_FILE_UNLINK"}, {"EV_FILE_MMAP", "EV_FILE_MPROTECT"}]


def test_a_negated_test_on_a_field_the_event_lacks_is_true() -> None:
    lowered = lower(rule("r", Not(PROT)))
    assert [c.condition for c in lowered.clauses] == [TRUE]  # type: ignore[attr-defined]


def test_the_place_of_a_test_is_its_first_rules() -> None:
    first = Rule(policy="p", name="r", events=("file.open",), condition=PATH, location=Location("f", 3, 1))
    second = Rule(policy="p", name="s", events=("file.open",), condition=PATH, location=Location("f", 9, 1))
    lowered = lower(first, second)
    assert [use.location.line for use in lowered.tests.values()] == [3]  # type: ignore[attr-defined]


def test_a_mistake_is_blamed_once_per_policy() -> None:
    bad = Atom("file.path", Op.GLOB, "/[")
    lowered = lower(rule("a", bad, action=Action.ALLOW), rule("b", bad), default={"file.open": Action.DENY}, scope=bad)
    assert len(lowered.errors) == 1  # type: ignore[attr-defined]


WRITES = Atom("file.access", Op.ANYBITS, abi.ACCESS_WRITE)
READS = Atom("file.access", Op.ANYBITS, abi.ACCESS_READ)


PLACELESS = abi.NEEDED_PLACELESS
BOTH = abi.ACCESS_WRITE | abi.ACCESS_READ
ANY_BITS = ANY_NEEDED[0]
SHARED = Atom("file.shared", Op.RANGE, (1, 1))
PROT_WRITE = Atom("file.prot", Op.ANYBITS, 2)
PROT_EXEC = Atom("file.prot", Op.ANYBITS, 4)


def needed(event: str, *conditions: Condition) -> int:
    """What `needed_bits` has for an event that one rule is about for each condition."""
    numbers = {
        "file.open": abi.NEEDED_OPEN,
        "file.permission": abi.NEEDED_PERMISSION,
        "file.mmap": abi.NEEDED_MMAP,
        "file.mprotect": abi.NEEDED_MPROTECT,
    }
    rules = tuple(rule(f"r{n}", one, event) for n, one in enumerate(conditions))
    return needed_bits(PolicySet((Policy(name="p", rules=rules),)))[numbers[event]]


@pytest.mark.parametrize(
    ("conditions", "bits"),
    [
        ((), 0),
        ((And((WRITES, PATH)),), abi.ACCESS_WRITE),
        ((And((WRITES, UID)),), abi.ACCESS_WRITE | PLACELESS),
        ((And((WRITES, PATH)), And((PATH, READS))), BOTH),
        ((Or((WRITES, And((READS, PATH)))),), BOTH | PLACELESS),
        ((And((Or((WRITES, READS)), WRITES, PATH)),), abi.ACCESS_WRITE),
        ((PATH,), ANY_BITS & ~PLACELESS),
        ((And(()),), ANY_BITS),
        ((Or((WRITES, PATH)),), ANY_BITS),
        ((And((Not(WRITES), PATH)),), ANY_BITS & ~PLACELESS),
        ((And((WRITES, Not(PATH))),), abi.ACCESS_WRITE | PLACELESS),
        ((Or(()),), 0),
    ],
)
@pytest.mark.parametrize("event", ["file.open", "file.permission"])
def test_the_access_without_which_no_rule_holds(event: str, conditions: tuple[Condition, ...], bits: int) -> None:
    assert needed(event, *conditions) == bits


@pytest.mark.parametrize("event", ["file.mmap", "file.mprotect"])
@pytest.mark.parametrize(
    ("conditions", "bits"),
    [
        ((), 0),
        ((And((PROT_EXEC, PATH)),), 4),
        ((And((SHARED, PROT_WRITE, PATH)),), abi.NEEDED_SHARED),
        ((And((PROT_WRITE, PATH)),), 2),
        ((And((SHARED, PROT_WRITE, PATH)), And((PROT_EXEC, PATH))), abi.NEEDED_SHARED | 4),
        ((And((WRITES, PATH)),), abi.NEEDED_SHARED),
        ((And((READS, PATH)),), 1),
        ((And((Atom("file.access", Op.ANYBITS, abi.ACCESS_EXEC), PATH)),), 4),
        ((And((Atom("file.shared", Op.RANGE, (0, 0)), PATH)),), ANY_BITS & ~PLACELESS),
        ((And((Atom("file.shared", Op.RANGE, (0, 1)), PATH)),), ANY_BITS & ~PLACELESS),
        ((And((Atom("file.prot", Op.ANYBITS, abi.NEEDED_SHARED), PATH)),), ANY_BITS & ~PLACELESS),
        ((And((Not(PROT_EXEC), PATH)),), ANY_BITS & ~PLACELESS),
    ],
)
def test_the_protection_without_which_no_rule_holds(event: str, conditions: tuple[Condition, ...], bits: int) -> None:
    assert needed(event, *conditions) == bits


@pytest.mark.parametrize(
    ("op", "text", "place"),
    [
        (Op.EQUALS, "/a", True),
        (Op.EQUALS, "TCP", False),
        (Op.SUFFIX, "/a", True),
        (Op.SUFFIX, "a", False),
        (Op.CONTAINS, "CP", False),
        (Op.GLOB, "/a*", True),
        (Op.GLOB, "*", False),
        (Op.GLOB, "{/a,/b}/c", True),
        (Op.GLOB, "{/a,b}", False),
        (Op.GLOB, "{/a,{/b,c}}", False),
        (Op.GLOB, "{/a,{/b,/c}}", True),
        (Op.GLOB, "[!]/]*", False),
        (Op.GLOB, "{[!}]*,/x}", False),
        (Op.GLOB, "**/a", True),
        (Op.OBJECT, "/a", True),
        (Op.OBJECT, "/proc/1/fd/2", False),
        (Op.OBJECT, "/dev/stdin", False),
    ],
)
def test_what_only_a_file_in_the_tree_can_be_called(op: Op, text: str, place: bool) -> None:
    assert bool(needed("file.permission", Atom("file.path", op, text)) & PLACELESS) is not place


def test_a_default_looks_at_every_event() -> None:
    default = dict.fromkeys(("file.open", "file.permission", "file.mmap", "file.mprotect"), Action.DENY)
    assert needed_bits(PolicySet((Policy(name="p", default=default),))) == ANY_NEEDED


def test_what_is_needed_by_many_rules_is_what_each_says_now() -> None:
    before = [rule(f"r{n}", Atom("file.access", Op.ANYBITS, abi.ACCESS_WRITE)) for n in range(CACHED_RULES)]
    reading = And((Atom("file.access", Op.ANYBITS, abi.ACCESS_READ), Atom("file.path", Op.GLOB, "/srv/*")))
    after = [*before[:500], rule("r500", reading), *before[501:]]
    one = _Needed()
    found = []
    for rules in (before, after, before, before[:1], after):
        policies = PolicySet((Policy(name="p", rules=tuple(rules)),))
        assert one.of(policies) == _Needed().of(policies)
        found.append(one.of(policies))
    assert found[0] == found[2] == found[3] != found[1] == found[4]


def test_a_counter_goes_by_the_name_that_its_policy_has_now() -> None:
    threshold = Threshold(2, 1000)

    def named(name: str) -> PolicySet:
        return PolicySet((Policy(name=name, rules=(Rule(policy=name, name="r", events=("file.open",), threshold=threshold),)),))

    last = Last()
    for name in ("before", "after"):
        (rule,) = named(name).policies[0].rules
        assert list(last.lower(named(name), None).tests) == [counter_of(rule, threshold, "enforce")]
