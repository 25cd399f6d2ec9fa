# SPDX-License-Identifier: Apache-2.0
"""Which events of one act are told: sequences as the kernel reports them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bpfence import abi
from bpfence.alerts.acts import OPENS, USES, Acts
from bpfence.alerts.alert import RuleInfo
from bpfence.events.records import KernelEvent, decode
from bpfence.fields import EVENT_BY_NAME, GROUPS
from bpfence.policy import Action, Threshold
from tests.unit.events.samples import observation, record

READ, WRITE, EXEC = abi.ACCESS_READ, abi.ACCESS_WRITE, abi.ACCESS_EXEC
MADE = abi.ACCESS_WRITE | abi.ACCESS_CREATED
CUT = abi.ACCESS_WRITE | abi.ACCESS_TRUNCATE


def rule(*events: str, action: Action = Action.AUDIT) -> RuleInfo:
    return RuleInfo("p", "r", "enforce", action, action, events=events)


def told(sequence: list[Any], given: RuleInfo, acts: Acts | None = None) -> list[int]:
    """The positions of the events that are told; an event is (name, access, more fields and header values)."""
    acts = acts or Acts()
    found = []
    for n, (name, access, *more) in enumerate(sequence):
        changes: dict[str, Any] = more[0] if more else {}
        header = {key: value for key, value in changes.items() if "." not in key}
        fields = {"file.path": "/f", "file.ino": 7, "file.fstype": "ext4"} if not name.startswith("net.") else {"file.path": None}
        fields |= {"file.access": access} | {key: value for key, value in changes.items() if "." in key}
        decoded = decode("decisions", record(name, **header))
        assert isinstance(decoded, KernelEvent)
        if acts.is_new(observation(name, fields=fields, record=decoded), given):
            found.append(n)
    return found


@pytest.mark.parametrize(
    ("group", "sequence", "expected"),
    [
        # cat: an open, a read, the read that finds the end
        ("file.read", [("file.open", READ), ("file.permission", READ), ("file.permission", READ)], [0]),
        # a library: mapped, then protected
        ("file.read", [("file.open", READ), ("file.permission", READ), ("file.mmap", READ | EXEC), ("file.mprotect", 0)], [0]),
        # the same file once more is another act
        ("file.read", [("file.open", READ), ("file.permission", READ), ("file.open", READ), ("file.permission", READ)], [0, 2]),
        # two descriptors from before the policy
        ("file.read", [("file.permission", READ), ("file.permission", READ), ("file.permission", READ, {"file.ino": 8})], [0, 2]),
        # other processes, and the next one under the same number
        (
            "file.read",
            [("file.open", READ), ("file.permission", READ, {"pid": 9}), ("file.permission", READ, {"start_time": 5})],
            [0, 1, 2],
        ),
        # echo > f, where f was not there
        ("file.modify", [("file.create", 0), ("file.open", MADE), ("file.permission", WRITE), ("file.permission", WRITE)], [0]),
        # echo > f, where it was: cut by the open; ftruncate(2) afterwards is an act of its own
        ("file.modify", [("file.open", CUT), ("file.truncate", 0), ("file.permission", WRITE), ("file.truncate", 0)], [0, 3]),
        # made, removed and made again
        ("file.modify", [("file.create", 0), ("file.open", MADE), ("file.unlink", 0), ("file.create", 0), ("file.open", MADE)], [0, 2, 3]),
        # another name, another mode: acts
        ("file.modify", [("file.open", WRITE), ("file.chmod", 0), ("file.chmod", 0), ("file.rename", 0)], [0, 1, 2, 3]),
        # a program that is executed is mapped by the kernel; one that is only mapped is told once
        ("exec.any", [("process.exec", EXEC), ("file.mmap", READ | EXEC), ("file.mprotect", EXEC)], [0]),
        ("exec.any", [("file.mmap", READ | EXEC), ("file.mprotect", EXEC)], [0]),
        # what cannot be told apart is told
        ("file.read", [("file.permission", READ, {"file.path": None, "file.ino": None})] * 2, [0, 1]),
        # a file without a path has a number
        ("file.read", [("file.open", READ, {"file.path": None}), ("file.permission", READ, {"file.path": None})], [0]),
    ],
)
def test_one_act_is_told_once(group: str, sequence: list[Any], expected: list[int]) -> None:
    assert told(sequence, rule(*GROUPS[group])) == expected


def test_a_new_kind_of_use_is_told() -> None:
    both = rule("file.open", "file.permission")
    assert told([("file.permission", READ), ("file.permission", WRITE), ("file.permission", READ)], both) == [0, 1]
    assert told([("file.open", READ), ("file.permission", WRITE)], both) == [0, 1]


def test_a_connection_and_what_is_sent_over_it() -> None:
    peer = {"net.peer.ip": "192.0.2.1", "net.peer.port": 443, "net.type": 1, "net.protocol": 6}
    send, datagram = ("net.send", 0, peer), ("net.send", 0, {**peer, "net.protocol": 17})
    assert told([("net.connect", 0, peer), send, send, ("net.connect", 0, peer)], rule(*GROUPS["net.egress"])) == [0, 3]
    assert told([("net.connect", 0, peer), datagram, datagram], rule(*GROUPS["net.egress"])) == [0, 1, 2]  # each message is an act


def test_who_asks_for_every_use_gets_it() -> None:
    assert told([("file.permission", READ)] * 3, rule("file.permission")) == [0, 1, 2]
    assert told([("net.send", 0, {"net.peer.ip": "192.0.2.1"})] * 2, rule("net.send")) == [0, 1]


def test_denials_are_always_told() -> None:
    sequence = [("file.open", READ), ("file.permission", READ), ("file.permission", READ)]
    assert told(sequence, rule(*GROUPS["file.read"], action=Action.DENY)) == [0, 1, 2]


def test_rules_that_count_are_always_told() -> None:
    reads: list[Any] = [("file.open", READ), ("file.permission", READ), ("file.permission", READ)]
    given = msgspec.structs.replace(rule(*GROUPS["file.read"]), threshold=Threshold(2, 1000))
    assert told(reads, given) == [0, 1, 2]


def test_rules_do_not_speak_for_each_other() -> None:
    acts = Acts()
    one = rule(*GROUPS["file.read"])
    assert told([("file.open", READ)], one, acts) == [0]
    assert told([("file.permission", READ)], msgspec.structs.replace(one, rule="other"), acts) == [0]
    assert told([("file.permission", READ)], one, acts) == []
    acts.clear()
    assert told([("file.permission", READ)], one, acts) == [0]


def test_what_is_remembered_is_bounded() -> None:
    acts = Acts(limit=10)
    files = [("file.open", READ, {"file.ino": n}) for n in range(100)]
    assert len(told(files, rule(*GROUPS["file.read"]), acts)) == 100
    assert len(acts._told) == 10
    later = [("file.permission", READ, {"file.ino": 99}), ("file.permission", READ, {"file.ino": 1})]
    assert told(later, rule(*GROUPS["file.read"]), acts) == [1]


def test_the_table_names_events() -> None:
    assert {*OPENS, *USES, *(opener for openers in USES.values() for opener in openers)} <= EVENT_BY_NAME.keys()
