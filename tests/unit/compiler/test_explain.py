"""bpfence.compiler.explain: the route of an event is the reference's verdict, in words."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given, settings

from bpfence import evaluate
from bpfence.compiler.compile import compile_policies
from bpfence.compiler.explain import event_name, explain
from bpfence.errors import UsageError
from bpfence.policy import Action, And, Atom, Not, Op, Or, Policy, PolicySet, Rule, Value
from tests.unit.compiler.random_policies import events, policy_sets

RULE = Rule(
    policy="tmp",
    name="no-exec",
    events=("process.exec",),
    condition=And(
        (
            Not(Atom("process.exe", Op.GLOB, "/usr/bin/dpkg")),
            Atom("file.path", Op.GLOB, "/tmp/**"),
            Atom("process.uid", Op.RANGE, (1000, 65535)),
        )
    ),
    action=Action.DENY,
    errno=13,
)
COMPILED = compile_policies(PolicySet((Policy(name="tmp", rules=(RULE,)),)))


def test_a_route_in_words() -> None:
    route = explain(COMPILED, {"event": "exec", "file.path": "/tmp/x", "process.exe": "/usr/bin/sh", "process.uid": 1000})
    assert (route.event, route.action, route.errno, route.rules) == ("process.exec", "deny", 13, ("tmp/no-exec",))
    assert route.words == (
        "group 0:",
        '  process.exe: "/usr/bin/sh", as no rule asks for',
        "  process.uid: 1000, class 2 of 3",
        "  the subject is row 1",
        '  file.path: "/tmp/x", class 2 of 3',
        "  verdict 1: deny (tmp/no-exec)",
        "verdict: deny, errno 13, by tmp/no-exec",
    )
    assert msgspec.json.decode(msgspec.json.encode(route), type=type(route)) == route


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("file.path", "/tmp/\u00e4", '"/tmp/\u00e4"'),
        ("file.path", "/tmp/\udcff", '"/tmp/\udcff"'),
        ("net.peer.ip", "192.0.2.7", "192.0.2.7"),
        ("net.peer.ip", "::ffff:192.0.2.7", "192.0.2.7"),
        ("net.peer.ip", "2001:db8::1", "2001:db8::1"),
        ("process.uid", 1000, "1000"),
    ],
)
def test_values_are_shown_as_they_are_written(field: str, value: Value, shown: str) -> None:
    address = field == "net.peer.ip"
    event = "net.connect" if address else "process.exec"
    atom = (
        Or((Atom(field, Op.CIDR, "192.0.2.0/24"), Atom(field, Op.CIDR, "2001:db8::/32")))
        if address
        else Atom("file.path", Op.GLOB, "/tmp/*")
    )
    condition = And((atom, Atom("process.uid", Op.RANGE, (0, 4095))))
    rule = msgspec.structs.replace(RULE, events=(event,), condition=condition)
    route = explain(
        compile_policies(PolicySet((Policy(name="p", rules=(rule,)),))),
        {"event": event, "file.path": "/tmp/x", "net.peer.ip": "192.0.2.1", "process.uid": 1, field: value},
    )
    assert [line for line in route.words if line.startswith(f"  {field}: {shown}, class ")], route.words


def test_an_unconcerned_subject_ends_the_route() -> None:
    route = explain(COMPILED, {"event": "process.exec", "file.path": "/tmp/x", "process.exe": "/usr/bin/dpkg", "process.uid": 1000})
    assert route.action == "none"
    assert route.words[-3:] == ("  the subject is row 0: no rule concerns it", "  verdict 0: none", "verdict: none")
    assert [d.dimension for d in route.groups[0].decisions] == ["process.exe"]


@settings(deadline=None, max_examples=40)
@given(policy_sets(), events())
def test_agrees_with_the_reference(policies: PolicySet, event: Mapping[str, Value]) -> None:
    expected = evaluate.verdict(policies, event)
    route = explain(compile_policies(policies), event)
    assert (route.action, sorted(route.rules)) == (expected.action.name.lower(), sorted(f"{m.policy}/{m.rule}" for m in expected.matches))
    assert route.errno == expected.errno or len(route.groups) > 1


@pytest.mark.parametrize(
    "event",
    [
        {"event": "nothing"},
        {},
        {"event": "exec", "no.field": 1},
        {"event": "exec", "file.path": 1},
        {"event": "exec", "process.uid": "x"},
        {"event": "connect", "net.peer.ip": "10.0.0"},
        {"event": "exec", "process.ancestors.exe": (1,)},
    ],
)
def test_mistakes_are_usage_errors(event: dict[str, Value]) -> None:
    with pytest.raises(UsageError):
        explain(COMPILED, event)


def test_event_names() -> None:
    assert (event_name("open"), event_name("file.open")) == ("file.open", "file.open")


@pytest.mark.parametrize(
    ("values", "meaning", "action"),
    [
        ({"file.uid": 7, "process.uid": 0}, "process.uid against file.uid: less", "deny"),
        ({"file.uid": 7, "process.uid": 7}, "process.uid against file.uid: the same", "none"),
        ({"file.uid": 7, "process.uid": 8}, "process.uid against file.uid: greater", "deny"),
        ({"file.uid": 7}, "process.uid against file.uid: one of them is absent", "none"),
        ({"file.path": "/a", "process.exe": "/a"}, "process.exe against file.path: the same", "deny"),
        ({"file.path": "/a", "process.exe": "/ab"}, "process.exe against file.path: more than it", "none"),
        ({"file.path": "/ab", "process.exe": "/a"}, "process.exe against file.path: a part of it", "deny"),
        ({"file.path": "/b", "process.exe": "/a"}, "process.exe against file.path: different", "none"),
    ],
)
def test_two_fields_in_words(values: dict[str, Value], meaning: str, action: str) -> None:
    wanted = Or((Atom("file.uid", Op.DIFFERENT, "process.uid"), Atom("file.path", Op.BEGINS, "process.exe")))
    rule = Rule(policy="p", name="r", events=("file.open",), condition=wanted, action=Action.DENY)
    route = explain(compile_policies(PolicySet((Policy(name="p", rules=(rule,)),))), {"event": "file.open", **values})
    assert f"  {meaning}" in route.words
    assert route.action == action
