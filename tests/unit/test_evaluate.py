"""The reference semantics: each operation, absence, and how rules of several policies meet."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfence.evaluate import OBJECT_KEYS, Counts, Match, Verdict, holds, verdict
from bpfence.policy import FALSE, TRUE, Action, And, Atom, Condition, Event, Not, Op, Or, Policy, PolicySet, Rule, Threshold

T = TRUE
F = FALSE


@pytest.mark.parametrize(
    ("op", "value", "yes", "no"),
    [
        (Op.GLOB, "/a/*", ["/a/b", "/a/"], ["/a/b/c", "/a", "/b/c"]),
        (Op.GLOB, "/a/**", ["/a/b/c"], ["/a", "/ab"]),
        (Op.GLOB, "/{a,b}/?[0-9]", ["/a/x1", "/b/é2"], ["/c/x1", "/a/xy"]),
        (Op.STRGLOB, "a*z", ["a/z", "az"], ["a/", "xaz"]),
        (Op.EQUALS, "/a", ["/a", b"/a"], ["/a/", "/A"]),
        (Op.PREFIX, "/a", ["/a", "/ab"], ["/", "x/a"]),
        (Op.SUFFIX, ".so", ["x.so", ".so"], ["x.so.1"]),
        (Op.CONTAINS, "a b", ["xa by", "a b"], ["ab"]),
        (Op.WORDS, "-v\0a b", ["sh", "sh\0-v", "\0a b\0-v\0-v"], ["sh\0", "sh\0a", "sh\0-v\0a\0b"]),
        (Op.WORDS, "", ["sh", ""], ["sh\0", "sh\0-v"]),
        (Op.EXISTS, None, ["", "x", 0, b""], []),
        (Op.RANGE, (3, 5), [3, 4, 5], [2, 6]),
        (Op.RANGE, (1, 1), [1, True], [0, False]),
        (Op.ANYBITS, 0b110, [0b010, 0b1100, 0b111], [0, 0b001, 0b1000]),
        (Op.MASKED, (0b110, 0b100), [0b100, 0b101], [0b110, 0b010, 0]),
        (Op.CIDR, "10.0.0.0/8", ["10.1.2.3", b"\x0a\0\0\1", "::ffff:10.0.0.1"], ["11.0.0.0", "::10.0.0.1", "junk"]),
        (Op.CIDR, "2001:db8::/32", ["2001:db8::1"], ["2001:db9::", "10.0.0.1"]),
        (Op.CIDR, "::/0", ["::1"], ["0.0.0.0", "::ffff:1.2.3.4"]),
        (Op.CIDR, "192.0.2.7", ["192.0.2.7"], ["192.0.2.8"]),
    ],
)
def test_each_operation(op: Op, value: str | int | tuple[int, int] | None, yes: list[object], no: list[object]) -> None:
    for given_value in yes:
        assert holds(Atom("f", op, value), {"f": given_value}), given_value  # type: ignore[dict-item]
    for given_value in no:
        assert not holds(Atom("f", op, value), {"f": given_value}), given_value  # type: ignore[dict-item]


@pytest.mark.parametrize("op", list(Op))
def test_absent_is_false_whatever_the_test(op: Op) -> None:
    atom = Atom("file.path", op, (0, 9) if op in (Op.RANGE, Op.MASKED) else 1 if op is Op.ANYBITS else "x")
    assert not holds(atom, {})
    assert not holds(atom, {"file.path": None})  # type: ignore[dict-item]
    assert holds(Not(atom), {})


def test_a_list_field_needs_one_element() -> None:
    atom = Atom("process.ancestors.exe", Op.EQUALS, "/b")
    assert holds(atom, {"process.ancestors.exe": ("/a", "/b")})
    assert not holds(atom, {"process.ancestors.exe": ("/a",)})
    assert not holds(atom, {"process.ancestors.exe": ()})
    assert not holds(Atom("process.ancestors.exe", Op.EXISTS), {"process.ancestors.exe": ()})


def test_objects_are_told_apart_from_paths() -> None:
    atom = Atom("file.path", Op.OBJECT, "/etc/shadow")
    assert not holds(atom, {"file.path": "/etc/shadow"})
    assert holds(atom, {"file.path": "/tmp/link", OBJECT_KEYS["file.path"]: ("/etc/shadow",)})
    assert not holds(Atom("file.new_path", Op.OBJECT, "/etc/shadow"), {"file.object": ("/etc/shadow",)})


def test_bytes_that_are_no_utf8_match_their_surrogates() -> None:
    assert holds(Atom("f", Op.EQUALS, "/\udcff"), {"f": b"/\xff"})
    assert holds(Atom("f", Op.GLOB, "/?"), {"f": b"/\xff"})


def test_empty_conditions() -> None:
    assert holds(And(), {})
    assert not holds(Or(), {})


@pytest.mark.parametrize(("op", "value"), [(Op.RANGE, (0, 1)), (Op.EQUALS, "x"), (Op.CIDR, "10.0.0.0/8")])
def test_a_value_of_the_wrong_type_is_a_bug(op: Op, value: str | tuple[int, int]) -> None:
    wrong: object = "text" if op is Op.RANGE else 7
    with pytest.raises(TypeError):
        holds(Atom("f", op, value), {"f": wrong})  # type: ignore[dict-item]


LEAVES = st.sampled_from(["a", "b", "c"]).map(lambda name: Atom(name, Op.EXISTS))
CONDITIONS: st.SearchStrategy[Condition] = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: And(tuple(parts))),
        st.lists(inner, max_size=3).map(lambda parts: Or(tuple(parts))),
        inner.map(Not),
    ),
    max_leaves=12,
)


@given(st.lists(CONDITIONS, max_size=4), st.sets(st.sampled_from("abc")))
def test_de_morgan(parts: list[Condition], present: set[str]) -> None:
    event: Event = dict.fromkeys(present, "")
    assert holds(Not(And(tuple(parts))), event) == holds(Or(tuple(Not(p) for p in parts)), event)
    assert holds(Not(Or(tuple(parts))), event) == holds(And(tuple(Not(p) for p in parts)), event)


@given(st.integers(0, 2**32 - 1), st.integers(0, 32), st.integers(0, 2**32 - 1))
def test_cidr_is_a_comparison_of_leading_bits(base: int, length: int, address: int) -> None:
    network = ipaddress.ip_network((base, length), strict=False)
    shift = 32 - length
    expected = base >> shift == address >> shift
    assert holds(Atom("ip", Op.CIDR, str(network)), {"ip": str(ipaddress.ip_address(address))}) == expected
    assert holds(Atom("ip", Op.CIDR, str(network)), {"ip": address.to_bytes(4, "big")}) == expected


# ---- verdicts ----

EXEC: Event = {"event": "process.exec", "file.path": "/x"}


def rule(name: str, action: Action, condition: Condition = T, errno: int = 1, policy: str = "p") -> Rule:
    return Rule(policy=policy, name=name, events=("process.exec",), condition=condition, action=action, errno=errno)


def policy(*rules: Rule, name: str = "p", **more: object) -> Policy:
    return Policy(name=name, rules=rules, **more)  # type: ignore[arg-type]


def test_nothing_matches() -> None:
    assert verdict(PolicySet(), EXEC) == Verdict(Action.NONE, 0, ())
    assert verdict(PolicySet((policy(rule("r", Action.DENY, F)),)), EXEC) == Verdict(Action.NONE, 0, ())


def test_a_rule_on_another_event_does_not_match() -> None:
    assert verdict(PolicySet((policy(rule("r", Action.DENY)),)), {"event": "file.open"}).action == Action.NONE


def test_the_strictest_wins_and_gives_the_errno_and_all_are_reported() -> None:
    one = policy(rule("a", Action.AUDIT), rule("d", Action.DENY, errno=13), rule("d2", Action.DENY, errno=2))
    other = policy(rule("k", Action.KILL, errno=5, policy="q"), name="q")
    assert verdict(PolicySet((one,)), EXEC) == Verdict(
        Action.DENY, 13, (Match("p", "a", Action.AUDIT), Match("p", "d", Action.DENY), Match("p", "d2", Action.DENY))
    )
    both = verdict(PolicySet((one, other)), EXEC)
    assert (both.action, both.errno, len(both.matches)) == (Action.KILL, 5, 4)


def test_allow_exempts_from_its_own_default_only() -> None:
    allowing = policy(rule("ok", Action.ALLOW), default={"process.exec": Action.DENY})
    closed = policy(name="q", default={"process.exec": Action.DENY})
    denying = policy(rule("no", Action.DENY, policy="r"), name="r")
    assert verdict(PolicySet((allowing,)), EXEC) == Verdict(Action.NONE, 0, ())
    assert verdict(PolicySet((allowing, closed)), EXEC) == Verdict(Action.DENY, 1, (Match("q", "default", Action.DENY),))
    assert verdict(PolicySet((allowing, denying)), EXEC).action == Action.DENY


def test_a_default_needs_its_event_and_its_scope() -> None:
    scoped = policy(default={"process.exec": Action.DENY}, scope=Atom("process.uid", Op.RANGE, (5, 5)))
    assert verdict(PolicySet((scoped,)), {**EXEC, "process.uid": 5}).action == Action.DENY
    assert verdict(PolicySet((scoped,)), {**EXEC, "process.uid": 6}).action == Action.NONE
    assert verdict(PolicySet((scoped,)), {"event": "file.open", "process.uid": 5}).action == Action.NONE


def test_audit_mode_blocks_nothing_and_reports_the_same_rules() -> None:
    audited = policy(rule("k", Action.KILL), mode="audit", default={"process.exec": Action.DENY})
    assert verdict(PolicySet((audited,)), EXEC) == Verdict(
        Action.AUDIT, 0, (Match("p", "k", Action.AUDIT), Match("p", "default", Action.AUDIT))
    )
    enforcing = policy(rule("d", Action.DENY, errno=13, policy="q"), name="q")
    assert verdict(PolicySet((audited, enforcing)), EXEC)[:2] == (Action.DENY, 13)


def test_an_events_own_condition_takes_the_place_of_the_common_one() -> None:
    own = Rule(policy="p", name="r", events=("process.exec", "file.open"), condition=T, conditions={"file.open": F}, action=Action.DENY)
    assert verdict(PolicySet((policy(own),)), EXEC).action == Action.DENY
    assert verdict(PolicySet((policy(own),)), {"event": "file.open"}).action == Action.NONE


ACTIONS = st.sampled_from([Action.ALLOW, Action.AUDIT, Action.DENY, Action.KILL])
RULES = st.lists(st.tuples(ACTIONS, st.booleans()), max_size=4)


@given(st.lists(st.tuples(RULES, st.sampled_from(["enforce", "audit"]), st.sampled_from([Action.NONE, Action.DENY])), max_size=4))
def test_adding_a_policy_never_weakens_a_verdict(drawn: list[tuple[list[tuple[Action, bool]], str, Action]]) -> None:
    policies = []
    for n, (rules, mode, default) in enumerate(drawn):
        made = tuple(rule(f"r{i}", action, T if matches else F) for i, (action, matches) in enumerate(rules))
        policies.append(policy(*made, name=f"p{n}", mode=mode, default={"process.exec": default} if default else {}))
    verdicts = [verdict(PolicySet(tuple(policies[:n])), EXEC) for n in range(len(policies) + 1)]
    actions = [v.action for v in verdicts]
    assert actions == sorted(actions)
    for v in verdicts:
        assert v.action == max((m.action for m in v.matches), default=Action.NONE)
        assert (v.errno != 0) == (v.action >= Action.DENY)


@pytest.mark.parametrize(
    ("op", "field", "other", "yes", "no"),
    [
        (Op.SAME, "file.uid", "process.uid", [(1, 1), (0, False)], [(1, 2)]),
        (Op.DIFFERENT, "file.uid", "process.uid", [(1, 2)], [(1, 1)]),
        (Op.LESS, "file.uid", "process.uid", [(1, 2)], [(1, 1), (2, 1)]),
        (Op.SAME, "file.path", "process.exe", [("/a", b"/a"), ("", "")], [("/a", "/ab"), ("/A", "/a")]),
        (Op.DIFFERENT, "file.path", "process.exe", [("/a", "/ab"), ("/a", "")], [("/\udcff", b"/\xff")]),
        (Op.BEGINS, "file.path", "process.cwd", [("/ab", "/a"), ("/a", "/a"), ("/a", "")], [("/a", "/ab"), ("/b", "/a")]),
        (Op.ENDS, "process.exe", "process.name", [("/a/sh", "sh"), ("sh", "sh")], [("sh", "/a/sh"), ("/a/sh", "ash")]),
        (Op.SAME, "net.peer.ip", "net.local.ip", [("::ffff:10.0.0.1", "10.0.0.1"), (b"\x0a\0\0\1", "10.0.0.1")], [("::1", "10.0.0.1")]),
        (Op.DIFFERENT, "net.peer.ip", "net.local.ip", [("::1", "10.0.0.1")], [("::1", "0:0::1"), ("junk", "::1")]),
    ],
)
def test_each_comparison_of_two_fields(
    op: Op, field: str, other: str, yes: list[tuple[object, object]], no: list[tuple[object, object]]
) -> None:
    for expected, pairs in ((True, yes), (False, no)):
        for one, two in pairs:
            assert holds(Atom(field, op, other), {field: one, other: two}) is expected, (one, two)  # type: ignore[dict-item]
    one, two = yes[0]
    assert not holds(Atom(field, op, other), {field: one})  # type: ignore[dict-item]
    assert not holds(Atom(field, op, other), {other: two})  # type: ignore[dict-item]
    assert holds(Not(Atom(field, op, other)), {field: one, other: None})  # type: ignore[dict-item]


def acts_on(times: list[float], threshold: Threshold, action: Action = Action.DENY, mode: str = "enforce") -> list[bool]:
    """Which of events at these times, in seconds, a rule acts on."""
    rule = Rule(policy="p", name="r", events=("file.unlink",), action=action, threshold=threshold)
    policies, counts = PolicySet((Policy(name="p", mode=mode, rules=(rule,)),)), Counts()
    event: Event = {"event": "file.unlink", "process.pid": 1}
    return [bool(verdict(policies, event, counts, int(time * 1e9)).matches) for time in times]


def test_a_rule_acts_from_the_event_on_that_its_threshold_names() -> None:
    assert acts_on([0, 0, 0, 0], Threshold(3, 8000)) == [False, False, True, True]
    assert acts_on([0, 3.5, 7.9], Threshold(3, 8000)) == [False, False, True]
    assert acts_on([0, 3.5, 8], Threshold(3, 8000)) == [False, False, False]
    assert acts_on([0.9, 4, 8], Threshold(3, 8000)) == [False, False, False], "the first is of a step that is over"
    assert acts_on([0, 0, 0, 7, 14.5, 21], Threshold(3, 8000)) == [False, False, True, True, False, False]


def test_a_rule_that_tells_does_so_once_in_a_window() -> None:
    for action, mode in ((Action.AUDIT, "enforce"), (Action.DENY, "audit")):
        assert acts_on([0, 1, 2, 7.5, 8.5, 9, 10], Threshold(2, 8000), action, mode) == [False, True, False, False, False, True, False]


@pytest.mark.parametrize(
    ("by", "one", "other"),
    [
        ("process", {"process.pid": 1}, {"process.pid": 2}),
        ("exe", {"process.exe": "/a"}, {"process.exe": "/b"}),
        ("user", {"process.uid": 1}, {"process.uid": 2}),
        ("container", {"process.container": (), "process.cgroup": "/a"}, {"process.cgroup": "/a"}),
    ],
)
def test_each_subject_is_counted_by_itself(by: str, one: Event, other: Event) -> None:
    rule = Rule(policy="p", name="r", events=("file.unlink",), action=Action.DENY, threshold=Threshold(2, 1000, by))
    policies, counts = PolicySet((Policy(name="p", rules=(rule,)),)), Counts()
    answers = [verdict(policies, {"event": "file.unlink", **event}, counts).errno for event in (one, other, one, other)]
    assert answers == [0, 0, 1, 1]
    assert verdict(policies, {"event": "file.unlink", **one}).errno == 0, "without what happened before it is the first"
