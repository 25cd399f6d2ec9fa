"""Groups, renames, objects, containers: what a rule becomes per event."""

from __future__ import annotations

import pytest

from bpfence.abi import ACCESS_APPEND, ACCESS_CREATE, ACCESS_CREATED, ACCESS_EXEC, ACCESS_READ, ACCESS_TRUNCATE, ACCESS_WRITE
from bpfence.conditions import expand
from bpfence.evaluate import holds
from bpfence.fields import EVENTS, GROUPS
from bpfence.policy import FALSE, TRUE, And, Atom, Condition, Event, Not, Op, Or

PASSWD = Atom("file.path", Op.EQUALS, "/etc/passwd")
ETC = Atom("file.path", Op.PREFIX, "/etc/")


def group(name: str, body: Condition, event: Event) -> bool:
    return holds(expand.event_conditions([name], TRUE, body)[str(event["event"])], event)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"event": "file.open", "file.access": ACCESS_READ}, False),
        ({"event": "file.open", "file.access": ACCESS_READ | ACCESS_WRITE}, True),
        ({"event": "file.open", "file.access": ACCESS_READ | ACCESS_CREATE}, False),
        ({"event": "file.open", "file.access": ACCESS_READ | ACCESS_CREATE | ACCESS_CREATED}, True),
        ({"event": "file.open", "file.access": ACCESS_READ | ACCESS_TRUNCATE}, True),
        ({"event": "file.open", "file.access": ACCESS_READ | ACCESS_APPEND}, False),
        ({"event": "file.setattr"}, True),
        ({"event": "file.permission", "file.access": ACCESS_WRITE}, True),
        ({"event": "file.permission", "file.access": ACCESS_READ}, False),
        ({"event": "file.mmap", "file.shared": 1, "file.prot": 3}, True),
        ({"event": "file.mmap", "file.shared": 0, "file.prot": 3}, False),
        ({"event": "file.mmap", "file.shared": 1, "file.prot": 1}, False),
        ({"event": "file.mprotect", "file.shared": 1, "file.prot": 2}, True),
        ({"event": "file.unlink"}, True),
        ({"event": "file.chmod"}, True),
    ],
)
def test_modify(event: Event, expected: bool) -> None:
    assert group("file.modify", PASSWD, {**event, "file.path": "/etc/passwd"}) is expected
    assert not group("file.modify", PASSWD, {**event, "file.path": "/etc/hosts"})


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"event": "file.open", "file.access": ACCESS_READ}, True),
        ({"event": "file.open", "file.access": ACCESS_WRITE}, False),
        ({"event": "file.mmap", "file.prot": 4}, True),
        ({"event": "file.mmap", "file.prot": 2}, True),
        ({"event": "file.mmap", "file.prot": 0}, True),
        ({"event": "file.mprotect", "file.prot": 2}, True),
        ({"event": "file.mprotect", "file.prot": 0}, False),
        ({"event": "file.permission", "file.access": ACCESS_READ}, True),
        ({"event": "file.permission", "file.access": ACCESS_EXEC}, False),
    ],
)
def test_read(event: Event, expected: bool) -> None:
    assert group("file.read", PASSWD, {**event, "file.path": "/etc/passwd"}) is expected


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"event": "process.exec"}, True),
        ({"event": "file.mmap", "file.prot": 5}, True),
        ({"event": "file.mmap", "file.prot": 3}, False),
        ({"event": "file.mprotect", "file.prot": 4}, True),
    ],
)
def test_exec_any(event: Event, expected: bool) -> None:
    assert group("exec.any", PASSWD, {**event, "file.path": "/etc/passwd"}) is expected


@pytest.mark.parametrize("event", ["file.rename", "file.link"])
def test_a_rename_is_looked_at_under_both_names(event: str) -> None:
    body = And((ETC, Not(Atom("file.path", Op.EQUALS, "/etc/motd"))))

    def hit(old: str, new: str) -> bool:
        return group("file.modify", body, {"event": event, "file.path": old, "file.new_path": new})

    assert hit("/etc/passwd", "/tmp/x")
    assert hit("/tmp/x", "/etc/passwd")
    assert not hit("/tmp/x", "/tmp/y")
    assert not hit("/etc/motd", "/tmp/y")
    # An excepted name does not excuse the other one.
    assert hit("/etc/motd", "/etc/passwd")
    assert hit("/etc/passwd", "/etc/motd")


def test_a_rule_that_names_both_paths_is_left_as_it_is() -> None:
    body = And((PASSWD, Atom("file.new_path", Op.PREFIX, "/tmp/")))
    assert not group("file.modify", body, {"event": "file.rename", "file.path": "/tmp/a", "file.new_path": "/etc/passwd"})
    assert expand.event_conditions(["file.rename"], TRUE, PASSWD)["file.rename"] == PASSWD


def test_an_event_named_beside_its_group_has_no_group_test() -> None:
    each = expand.event_conditions(["file.modify", "open"], TRUE, PASSWD)
    assert holds(each["file.open"], {"file.path": "/etc/passwd", "file.access": ACCESS_READ})
    assert not holds(each["file.permission"], {"file.path": "/etc/passwd", "file.access": ACCESS_READ})


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"event": "net.connect", "net.family": 2, "net.peer.ip": "10.0.0.1"}, True),
        ({"event": "net.connect", "net.family": 10}, False),  # AF_UNSPEC: the end of an association
        ({"event": "net.connect", "net.family": 40}, True),  # vsock has no such address
        ({"event": "net.connect", "net.family": 1, "net.unix.path": "/run/x"}, False),
        ({"event": "net.send", "net.family": 2, "net.peer.ip": "10.0.0.1"}, True),
        ({"event": "net.send", "net.family": 17}, True),
        ({"event": "net.send", "net.family": 1}, False),
        ({"event": "net.send", "net.family": 16}, False),
    ],
)
def test_egress(event: Event, expected: bool) -> None:
    assert group("net.egress", TRUE, event) is expected


def test_what_an_event_does_not_carry_is_absent() -> None:
    flags = Atom("file.flags", Op.ANYBITS, 1)
    assert expand.carried(And((PASSWD, flags)), "file.unlink") == FALSE
    assert expand.carried(And((PASSWD, Not(flags))), "file.unlink") == PASSWD
    assert expand.carried(Or((PASSWD, flags)), "file.unlink") == PASSWD
    assert expand.carried(flags, "file.open") == flags


def test_the_scope_holds_for_every_event() -> None:
    scope = Atom("process.uid", Op.RANGE, (5, 5))
    for name in GROUPS:
        for event, condition in expand.event_conditions([name], scope, TRUE).items():
            assert not holds(condition, {"event": event, "process.uid": 6, "file.access": 63, "file.prot": 7, "file.shared": 1})
            assert holds(condition, {"event": event, "process.uid": 5, "file.access": 63, "file.prot": 7, "file.shared": 1})


def test_shared_gives_back_the_same_conditions() -> None:
    each = {"a": PASSWD, "b": ETC, "c": PASSWD}
    common, others = expand.shared(each)
    assert common == PASSWD
    assert others == {"b": ETC}


def test_event_names() -> None:
    assert expand.events_of("exec") == ("process.exec",)
    assert expand.events_of("file.modify") == GROUPS["file.modify"]
    assert expand.events_of("nothing") == ()
    assert expand.events_of("") == ()
    for event in EVENTS:
        assert expand.events_of(event.name) == (() if event.sensor else (event.name,))


def test_every_group_test_is_on_an_event_of_its_group_and_on_fields_it_carries() -> None:
    for name, tests in expand.GROUP_TESTS.items():
        for event, condition in tests.items():
            assert event in GROUPS[name]
            assert expand.carried(condition, event) == condition


def test_follow_adds_objects_to_literal_paths_only() -> None:
    exe = Atom("process.exe", Op.EQUALS, "/bin/x")
    loose = Atom("file.path", Op.GLOB, "/home/*/x")
    motd = Atom("file.path", Op.EQUALS, "/etc/motd")
    condition, paths, left = expand.follow(And((Or((PASSWD, ETC, loose)), exe, Not(motd))))
    objects = Or((PASSWD, Atom("file.path", Op.OBJECT, "/etc/passwd"), ETC, Atom("file.path", Op.OBJECT, "/etc/**"), loose))
    assert condition == And((objects, exe, Not(motd)))
    assert (paths, left) == (2, [loose])
    assert expand.follow(Atom("file.path", Op.PREFIX, "/etc/pass"))[1] == 0


def test_a_cgroup_covers_what_is_below() -> None:
    cgroup = Atom("process.cgroup", Op.EQUALS, "/a")
    wide = expand.below(Or((cgroup, Atom("process.cgroup", Op.GLOB, "/b*"))))
    assert [p for p in ("/a", "/a/b", "/ab", "/b", "/b/c") if holds(wide, {"process.cgroup": p})] == ["/a", "/a/b", "/b"]
    assert holds(expand.below(Atom("process.cgroup", Op.EQUALS, "/")), {"process.cgroup": "/anything"})


@pytest.mark.parametrize("body", [Atom("file.path", Op.SAME, "process.exe"), Atom("process.exe", Op.SAME, "file.path")])
def test_a_comparison_is_made_with_both_names(body: Condition) -> None:
    event = {"event": "file.rename", "file.path": "/a", "file.new_path": "/b"}
    assert group("file.modify", body, {**event, "process.exe": "/a"})
    assert group("file.modify", body, {**event, "process.exe": "/b"})
    assert not group("file.modify", body, {**event, "process.exe": "/c"})


def test_a_comparison_is_false_where_an_event_lacks_one_of_the_fields() -> None:
    assert expand.carried(Atom("process.uid", Op.DIFFERENT, "file.uid"), "process.signal") == FALSE
    assert expand.carried(Not(Atom("target.uid", Op.LESS, "process.uid")), "file.open") == TRUE
    kept = Atom("process.uid", Op.DIFFERENT, "file.uid")
    assert expand.carried(kept, "file.open") == kept
