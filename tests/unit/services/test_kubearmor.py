# SPDX-License-Identifier: Apache-2.0
"""The service of KubeArmor's clients, asked by a client of the gRPC library."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bpfence.alerts.alert import Alert, StatusLine
from bpfence.dialects.kubearmor import wire
from bpfence.dialects.kubearmor.options import Throttling
from bpfence.dialects.kubearmor.throttle import Throttle, ThrottledForm
from bpfence.rpc import server as rpc
from bpfence.rpc.server import UnixServer
from bpfence.services.kubearmor import KubeArmorService
from tests.unit.services.watcher import Watcher

grpc = pytest.importorskip("grpc", reason="needs grpcio: pip install 'bpfence[grpc]'")

OWN = {
    "kind": "KubeArmorPolicy",
    "policy": "keys",
    "namespace": "shop",
    "operation": "File",
    "severity": 7,
    "action": "Block",
    "message": "no",
}


def alert(**more: Any) -> Alert:
    given: dict[str, Any] = {
        "time": "2026-01-31T10:00:00.123456789Z", "policy": "KubeArmorPolicy/shop/keys", "rule": "file.matchPaths[0]", "severity": "high",
        "tags": ("T1552", "x"), "action": "deny", "mode": "enforce", "event": "file.open", "message": "no", "errno": "EACCES", "seq": 1,
        "host": "node1", "process": {"pid": 42, "ppid": 41, "uid": 4294967294, "exe": "/usr/bin/cat", "exec_id": "ab", "name": "cat"},
        "file": {"path": "/etc/shadow"}, "dialect": {"kubearmor": OWN},
        "k8s": {"namespace": "shop", "pod": "web-0", "owner": {"kind": "Deployment", "name": "web"}}, "container": {"id": "d" * 64},
    }  # fmt: skip
    return Alert(**{**given, **more})


EVENT = alert(kind="event", action="observe", errno=None, dialect={}, process={"pid": 43, "uid": 7, "exe": "/usr/bin/ls"})
STATUS = StatusLine(time="2026-01-31T10:00:01Z", status="fault", severity="high", message="oops", host="node1")


class Rig:
    """The service, and what the agent's outputs give it."""

    def __init__(self, folder: Path) -> None:
        self.said: list[str] = []
        self.path = folder / "kubearmor" / "sock"
        self.service = KubeArmorService(UnixServer(self.path), self.said.append)
        self.service.ask()
        self.service.start(lambda: None)
        self.client = Watcher(f"unix://{self.path}")

    def tell(self, *lines: Any) -> None:
        for form, place in self.service.outputs:
            if shown := [made for line in lines if (made := form(line))]:
                place.write(shown)

    def close(self) -> None:
        self.client.channel.close()
        self.service.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.close()


def test_health(rig: Rig) -> None:
    assert rig.client.health_check(73) == 73
    assert rig.client.serving("") == rig.client.serving(wire.SERVICE) == wire.HEALTH_ENUMS["ServingStatus"]["SERVING"]
    with pytest.raises(grpc.RpcError) as error:
        rig.client.serving("other")
    assert error.value.code().name == "NOT_FOUND"


def test_each_stream_has_its_own_lines(rig: Rig) -> None:
    watching = rig.client.watching
    with watching("WatchAlerts", "all") as alerts, watching("WatchLogs", "system") as logs, watching("WatchMessages") as messages:
        rig.tell(STATUS, EVENT, alert())
        one, log, message = next(alerts), next(logs), next(messages)
    assert (one.HostPID, one.PolicyName, one.Severity, one.Tags, list(one.ATags)) == (42, "keys", "7", "T1552,x", ["T1552", "x"])
    assert (one.Type, one.Operation, one.Resource, one.Action, one.Result) == (
        "MatchedPolicy", "File", "/etc/shadow", "Block", "Permission denied",
    )  # fmt: skip
    assert (one.Timestamp, one.UpdatedTime, one.Enforcer, one.Data) == (
        1769853600, "2026-01-31T10:00:00.123456Z", "BPFLSM", "lsm=FILE_OPEN",
    )  # fmt: skip
    assert (one.Owner.Ref, one.Owner.Name, one.Owner.Namespace, one.ExecEvent.ExecID) == ("Deployment", "web", "shop", "ab")
    assert one.UID == -2
    assert (log.HostPID, log.UID, log.Type, log.Operation, log.Result, log.PodName) == (43, 7, "ContainerLog", "File", "Passed", "web-0")
    assert (message.Level, message.Message, message.Type, message.HostName) == ("ERROR", "oops", "Message", "node1")


def test_on_the_wire_fields_have_kubearmors_numbers(rig: Rig) -> None:
    """Numbers as KubeArmor's clients read them, not by our table: PolicyName 13, Action 22, ATags 30, of a log Type 13 and Result 18."""
    from google.protobuf import unknown_fields

    def numbers(message: Any) -> dict[int, Any]:
        raw = wire.messages()["NonceMessage"].FromString(b"")
        raw.MergeFromString(b"".join((b"", message.SerializeToString())))
        return {field.field_number: field.data for field in unknown_fields.UnknownFieldSet(raw)}

    with rig.client.watching("WatchAlerts", "policy") as alerts, rig.client.watching("WatchLogs", "all") as logs:
        rig.tell(alert(), EVENT)
        one, log = numbers(next(alerts)), numbers(next(logs))
    assert {n: one[n] for n in (5, 9, 13, 14, 22, 23, 28)} == {
        5: b"shop", 9: 42, 13: b"keys", 14: b"7", 22: b"Block", 23: b"Permission denied", 28: b"BPFLSM",
    }  # fmt: skip
    assert {n: log[n] for n in (5, 9, 13, 15, 18)} == {5: b"shop", 9: 43, 13: b"ContainerLog", 15: b"File", 18: b"Passed"}


@pytest.mark.parametrize(("method", "choice"), [("WatchAlerts", "system"), ("WatchLogs", "policy"), ("WatchAlerts", "")])
def test_a_filter_for_other_lines_ends_the_stream(rig: Rig, method: str, choice: str) -> None:
    with rig.client.watching(method, choice) as stream:
        assert list(stream) == []


def test_nobody_is_shown_lines_that_nobody_asked_for(rig: Rig) -> None:
    assert [form(alert()) for form, _ in rig.service.outputs] == [b"", b"", b""]


def test_a_client_that_is_slow_is_told_what_it_lacks(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rig.service.outputs[1][1], "_room", (1, rpc.MAX_BYTES))
    with rig.client.watching("WatchAlerts", "all") as alerts:
        while not rig.service.outputs[1][1]:
            pass
        rig.service.outputs[1][1].write([rig.service.outputs[1][0](alert())] * 3)
        got = [next(alerts), next(alerts)]
    assert [(one.Type, one.Operation) for one in got] == [("MatchedPolicy", "File"), ("SystemEvent", "AlertThreshold")]
    assert got[1].Message.startswith("2 lines are missing")
    assert len(rig.said) == 1


def test_alerts_may_be_throttled(rig: Rig) -> None:
    rig.service.throttle(ThrottledForm(Throttle(Throttling(1, 3600), rig.said.append)))
    with rig.client.watching("WatchAlerts", "all") as alerts, rig.client.watching("WatchLogs", "all") as logs:
        rig.tell(alert(), alert(), alert(), EVENT, alert(container={"id": "e" * 64}))
        got = [next(alerts) for _ in range(3)]
        assert next(logs).HostPID == 43
    assert [(one.Type, one.MaxAlertsPerSec, one.DroppingAlertsInterval, one.ContainerID[0]) for one in got] == [
        ("MatchedPolicy", 0, 0, "d"),
        ("SystemEvent", 1, 3600, "d"),
        ("MatchedPolicy", 0, 0, "e"),
    ]


def test_a_place_that_cannot_be_had_is_told_and_costs_nothing_else(rig: Rig) -> None:
    other = KubeArmorService(UnixServer(Path("/proc/none/sock")), rig.said.append)
    other.start(lambda: None)
    assert "nobody is answered there" in rig.said[0]
    other.close()
