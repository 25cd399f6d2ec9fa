# SPDX-License-Identifier: Apache-2.0
"""Lines in the form of Tetragon's export."""

from __future__ import annotations

import json
from typing import Any

from msgspec import UNSET

from bpfence.alerts.alert import Alert, Composer, RuleInfo
from bpfence.dialects.tetragon.show import line_as_json
from bpfence.events.loss import Loss
from bpfence.events.process import Process
from bpfence.events.source import Observation
from bpfence.policy import Action

COMPOSER = Composer("node", lambda: 0)
PROCESS: dict[str, Any] = {
    "pid": 7, "tid": 8, "ppid": 1, "exec_id": "0123abcd-1f", "name": "cat", "exe": "/usr/bin/cat", "args": ["cat", "a b", "c"], "cwd": "/",
    "uid": 0, "gid": 0, "start_time": "2026-01-01T00:00:00.000000000Z", "ancestors": [{"pid": 1, "exe": "/sbin/init"}],
}  # fmt: skip


def shown(event: str = "file.open", process: dict[str, Any] | None = PROCESS, dialect: Any = UNSET, **more: Any) -> dict[str, Any]:
    head: dict[str, Any] = {
        "time": "t", "policy": "p", "rule": "r", "severity": "low", "tags": ("x",), "action": "deny", "mode": "enforce", "message": "m",
        "errno": None, "seq": 1, "host": "node",
    }  # fmt: skip
    made: dict[str, Any] = json.loads(line_as_json(Alert(**{**head, **more}, event=event, process=process, dialect=dialect)))
    return made


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
    assert list(shown("process.executed")["process_exec"]) == ["process", "parent"]
    ended = shown("process.exit", {**PROCESS, "exit": {"code": 9}})["process_exit"]
    assert (ended["signal"], ended["time"]) == ("SIGKILL", "t")
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


def test_losses_and_statuses() -> None:
    loss = json.loads(line_as_json(COMPOSER.loss(Loss(events={"file.open": 3}, gaps={}, undecodable={}))))
    assert loss["rate_limit_info"] == {"number_of_dropped_process_events": "3"}
    status = json.loads(line_as_json(COMPOSER.status("started", "hello")))
    assert status["bpfence_status"] == {"status": "started", "message": "hello"}
