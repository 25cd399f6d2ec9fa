# SPDX-License-Identifier: Apache-2.0
"""Lines in the form of Tetragon's export."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import UNSET

from bpfence.alerts.alert import Alert, Composer, Rendered, RuleInfo
from bpfence.dialects.tetragon import show, wire
from bpfence.dialects.tetragon.show import line_as_json
from bpfence.events.loss import Loss
from bpfence.events.process import Process
from bpfence.events.records import KernelEvent, decode
from bpfence.events.source import Observation
from bpfence.policy import Action
from tests.unit.events.samples import record

COMPOSER = Composer("node", lambda: 0)
TIME = "2026-01-01T00:00:00.000000001Z"
PROCESS: dict[str, Any] = {
    "pid": 7, "tid": 8, "ppid": 1, "exec_id": "0123abcd-1f", "name": "cat", "exe": "/usr/bin/cat", "args": ["cat", "a b", "c"], "cwd": "/",
    "uid": 0, "gid": 0, "start_time": "2026-01-01T00:00:00.000000000Z", "ancestors": [{"pid": 1, "exe": "/sbin/init"}],
}  # fmt: skip


def shown(event: str = "file.open", process: dict[str, Any] | None = PROCESS, dialect: Any = UNSET, **more: Any) -> dict[str, Any]:
    head: dict[str, Any] = {
        "time": TIME, "policy": "p", "rule": "r", "severity": "low", "tags": ("x",), "action": "deny", "mode": "enforce", "message": "m",
        "errno": None, "seq": 1, "host": "node",
    }  # fmt: skip
    made: dict[str, Any] = json.loads(line_as_json(Alert(**{**head, **more}, event=event, process=process, dialect=dialect)))
    has_its_place(made)
    return made


def has_its_place(made: dict[str, Any]) -> None:
    """In Tetragon's messages, to the last member."""
    json_format = pytest.importorskip("google.protobuf.json_format", reason="needs protobuf: pip install 'bpfence[grpc]'")
    json_format.ParseDict({**made, "time": "2026-01-01T00:00:00Z"}, wire.messages()["GetEventsResponse"]())


def test_a_match_of_a_tracing_policy() -> None:
    said = {
        "form": "process_lsm",
        "function_name": "file_open",
        "args": [],
        "action": "KPROBE_ACTION_POST",
        "policy_name": "p",
        "parent_exec_id": 30,
    }
    made = shown(dialect={"tetragon": said})
    assert list(made) == ["process_lsm", "node_name", "time"]
    event = made["process_lsm"]
    assert list(event) == ["process", "parent", "function_name", "args", "action", "policy_name"]
    assert (event["process"]["binary"], event["process"]["arguments"], event["process"]["tid"]) == ("/usr/bin/cat", '"a b" c', 8)
    assert event["process"]["parent_exec_id"] == event["parent"]["exec_id"] != event["process"]["exec_id"]
    assert event["parent"] | {"exec_id": ""} == {"exec_id": "", "pid": 1, "binary": "/sbin/init"}


def test_processes_begin_and_end() -> None:
    begun = shown("process.executed")["process_exec"]
    assert list(begun) == ["process", "parent"]
    assert begun["process"]["flags"] == "execve rootcwd"
    assert (
        shown("process.executed", {**PROCESS, "cwd": "/a", "args_truncated": True})["process_exec"]["process"]["flags"]
        == "execve truncArgs"
    )
    ended = shown("process.exit", {**PROCESS, "exit": {"code": 9}})["process_exit"]
    assert (ended["signal"], ended["time"]) == ("SIGKILL", TIME)
    assert shown("process.exit", {**PROCESS, "exit": {"code": 0x200}})["process_exit"]["status"] == 2


def test_the_end_of_a_process_as_the_agent_tells_it() -> None:
    rule = RuleInfo("processes", "ended", "audit", Action.OBSERVE, Action.OBSERVE)
    process = Process(7, 7, 1, "0123abcd-1f", "sh", "/bin/sh", ["sh", "-c", "exit 3"], "/", 0, 0, None, [])
    seen = Observation("process.exit", 0, {"event": "process.exit", "process.exit.code": 0x300}, process)
    ((_, alert),) = COMPOSER.alerts(seen, [(rule, False)])
    ended = json.loads(line_as_json(alert))["process_exit"]
    assert (ended["status"], ended["process"]["arguments"], ended["parent"]) == (3, '-c "exit 3"', {"pid": 1})


def test_native_rules_are_shown_as_hooks() -> None:
    event = shown("file.unlink")["process_lsm"]
    assert (event["function_name"], event["action"], event["policy_name"], event["tags"]) == (
        "file.unlink",
        "KPROBE_ACTION_OVERRIDE",
        "p",
        ["x"],
    )


def test_an_act_of_nobody_known() -> None:
    assert "process" not in shown(process=None)["process_lsm"]


def test_pods_and_containers() -> None:
    container = {"id": "0" * 64, "name": "web", "image": "nginx:1"}
    pod = {"namespace": "shop", "pod": "web-1", "labels": {"app": "web"}}
    process = shown(container=container, k8s=pod)["process_lsm"]["process"]
    assert process["docker"] == "0" * 31
    inner = {"id": "0" * 64, "name": "web", "image": {"name": "nginx:1"}}
    assert process["pod"] == {"namespace": "shop", "name": "web-1", "container": inner, "pod_labels": {"app": "web"}}
    more = {"runtime": "containerd", "privileged": True, "start": TIME, "digest": "sha256:1"}
    process = shown(container={**container, **more}, k8s={**pod, "owner": {"kind": "Deployment", "name": "web"}})["process_lsm"]["process"]
    assert (process["pod"]["workload"], process["pod"]["workload_kind"]) == ("web", "Deployment")
    assert process["pod"]["container"] == {
        "id": f"containerd://{'0' * 64}", "name": "web", "image": {"name": "nginx:1", "id": "sha256:1"}, "start_time": TIME,
        "security_context": {"privileged": True},
    }  # fmt: skip


def test_a_process_has_a_line_of_ancestors() -> None:
    further = [{"pid": 5, "exe": "/bin/sh"}, {"pid": 3, "exe": "/bin/login"}, {"pid": 1, "exe": "/sbin/init"}]
    process = {**PROCESS, "ppid": 5, "ancestors": further, "parent": {"name": "sh", "args": ["sh", "-c", "a b"]}}
    event = shown(process=process)["process_lsm"]
    assert event["parent"] == {"pid": 5, "binary": "/bin/sh", "arguments": '-c "a b"'}
    assert event["ancestors"] == [{"pid": 3, "binary": "/bin/login"}, {"pid": 1, "binary": "/sbin/init"}]
    assert "ancestors" not in shown()["process_lsm"]


def test_what_only_the_record_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "_HOST", {"mnt": 1, "pid": 3, "net": 3, "user": 4})
    made = decode("telemetry", record("process.executed", {"NUM_PROCESS_CAPS": 0b11}))
    assert isinstance(made, KernelEvent)
    seen = Observation("process.executed", 0, {}, record=made)
    alert = Alert(
        time=TIME,
        policy="p",
        rule="r",
        severity="low",
        tags=(),
        action="observe",
        mode="audit",
        message="m",
        errno=None,
        seq=1,
        host="node",
        event="process.executed",
        process=PROCESS,
    )
    line = json.loads(line_as_json(Rendered(b"", lambda _: alert, (seen,))))
    has_its_place(line)
    process = line["process_exec"]["process"]
    assert process["cap"] == {"effective": ["CAP_CHOWN", "DAC_OVERRIDE"]}
    assert process["ns"] == {
        "mnt": {"inum": 1, "is_host": True},
        "pid": {"inum": 2},
        "net": {"inum": 3, "is_host": True},
        "user": {"inum": 4, "is_host": True},
    }
    assert process["parent_exec_id"] == line["process_exec"]["parent"]["exec_id"]


def test_losses_and_statuses() -> None:
    loss = json.loads(line_as_json(COMPOSER.loss(Loss(events={"file.open": 3}, gaps={}, undecodable={}))))
    assert loss["rate_limit_info"] == {"number_of_dropped_process_events": "3"}
    status = json.loads(line_as_json(COMPOSER.status("started", "hello")))
    assert status["bpfence_status"] == {"status": "started", "message": "hello"}
