# SPDX-License-Identifier: Apache-2.0
"""KubeArmor's JSON, from alerts, losses and statuses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bpfence.alerts.alert import Alert, StatusLine
from bpfence.dialects.kubearmor.show import HOOKS, line_as_json
from bpfence.fields import EVENT_BY_NAME

OWN = {
    "kind": "KubeArmorPolicy",
    "policy": "p",
    "namespace": "shop",
    "operation": "File",
    "severity": 7,
    "action": "Block",
    "message": "no",
}
PROCESS = {
    "pid": 42, "tid": 42, "ppid": 41, "exec_id": "0123456789", "name": "cat", "exe": "/usr/bin/cat", "args": ["cat", "/etc/shadow"],
    "cwd": "/root", "uid": 0, "tty": 0x8803, "ancestors": [{"pid": 41, "exe": "/usr/bin/bash"}],
}  # fmt: skip
IN_POD: dict[str, Any] = {
    "container": {"id": "d" * 64, "name": "main", "image": "docker.io/library/nginx:1.27", "digest": "sha256:ab"},
    "k8s": {"namespace": "shop", "pod": "web-0", "labels": {"tier": "x", "app": "web"}},
}


def shown(event: str = "file.open", **more: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "time": "2026-01-31T10:00:00.123456789Z", "policy": "KubeArmorPolicy/shop/p", "rule": "file.matchPaths[0]", "severity": "high",
        "tags": ("T1552", "x"), "action": "deny", "mode": "enforce", "event": event, "message": "no", "errno": "EACCES", "seq": 1,
        "host": "node1", "process": PROCESS, "file": {"path": "/etc/shadow"}, "dialect": {"kubearmor": OWN}, **IN_POD,
    }  # fmt: skip
    found: dict[str, Any] = json.loads(line_as_json(Alert(**{**given, **more})))
    return found


def test_an_alert_of_a_pod() -> None:
    assert shown() == {
        "Timestamp": 1769853600, "UpdatedTime": "2026-01-31T10:00:00.123456Z", "ClusterName": "default", "HostName": "node1",
        "NamespaceName": "shop", "PodName": "web-0", "Labels": "app=web,tier=x", "ContainerID": "d" * 64, "ContainerName": "main",
        "ContainerImage": "docker.io/library/nginx:1.27@sha256:ab", "HostPPID": 41, "HostPID": 42, "UID": 0,
        "ParentProcessName": "/usr/bin/bash", "ProcessName": "/usr/bin/cat", "PolicyName": "p", "Severity": "7", "Tags": "T1552,x",
        "ATags": ["T1552", "x"], "Message": "no", "Type": "MatchedPolicy", "Source": "/usr/bin/cat /etc/shadow", "Operation": "File",
        "Resource": "/etc/shadow", "Data": "lsm=FILE_OPEN",
        "EventData": {"Lsm": "FILE_OPEN"}, "Enforcer": "BPFLSM", "Action": "Block", "Result": "Permission denied",
        "Cwd": "/root", "TTY": "pts3", "ExecEvent": {"ExecID": "0123456789", "ExecutableName": "cat"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("owner", "found"),
    [
        ({"kind": "Deployment", "name": "web"}, {"Ref": "Deployment", "Name": "web", "Namespace": "shop"}),
        ({}, {"Ref": "Pod", "Name": "web-0", "Namespace": "shop"}),
        (None, None),
    ],
)
def test_what_keeps_a_pod_running(owner: dict[str, str] | None, found: dict[str, str] | None) -> None:
    pod = {**IN_POD["k8s"], **({"owner": owner} if owner is not None else {})}
    made = shown(k8s=pod)
    assert made.get("Owner") == found
    assert "Owner" not in shown(k8s=None)


def test_an_execution_is_of_the_program_that_would_run() -> None:
    found = shown("process.exec", file={"path": "/usr/bin/nmap"}, dialect={"kubearmor": {**OWN, "operation": "Process"}})
    assert [found[key] for key in ("ParentProcessName", "Source", "ProcessName", "Resource")] == ["/usr/bin/cat"] * 2 + [
        "/usr/bin/nmap"
    ] * 2
    assert (found["Operation"], found["Data"]) == ("Process", "lsm=SECURITY_BPRM_CHECK")


def test_what_is_only_reported() -> None:
    found = shown(action="audit", errno=None, dialect={"kubearmor": {**OWN, "action": "Audit"}})
    assert [found[key] for key in ("Action", "Result", "Enforcer")] == ["Audit", "Passed", "eBPF Monitor"]


def test_a_block_in_audit_mode() -> None:
    found = shown(action="audit", mode="audit", errno=None)
    assert [found[key] for key in ("Action", "Result", "Enforcer")] == ["Audit (Block)", "Passed", "eBPF Monitor"]


def test_the_host_and_its_process_ids() -> None:
    found = shown(dialect={"kubearmor": {**OWN, "kind": "KubeArmorHostPolicy"}}, container=None, k8s=None)
    assert [found[key] for key in ("Type", "PID", "PPID", "HostPID")] == ["MatchedHostPolicy", 42, 41, 42]
    assert not {"NamespaceName", "PodName", "ContainerID", "Labels"} & found.keys()


def test_containers_that_are_part_of_no_pod() -> None:
    found = shown(container={"id": "d", "labels": {"a": "b"}}, k8s=None)
    assert (found["NamespaceName"], found["Labels"]) == ("container_namespace", "a=b")


@pytest.mark.parametrize(
    ("event", "more", "resource"),
    [
        ("net.create", {"net": {"family": "inet", "type": "dgram", "protocol": "udp"}}, "domain=inet type=dgram protocol=udp"),
        (
            "net.connect",
            {"net": {"family": "inet", "peer": {"ip": "10.0.0.1", "port": 53}}},
            "sa_family=inet sin_port=53 sin_addr=10.0.0.1",
        ),
        ("process.capable", {"capability": "net_raw"}, "net_raw"),
    ],
)
def test_resources(event: str, more: dict[str, Any], resource: str) -> None:
    assert shown(event, **{"file": {}, **more})["Resource"] == resource


def test_alerts_of_other_languages() -> None:
    found = shown("net.connect", dialect={}, policy="guard", message="said", errno="EPERM", net={"family": "inet"}, file={})
    assert [found[key] for key in ("PolicyName", "Severity", "Operation", "Message", "Result")] == [
        "guard", "8", "Network", "said", "Operation not permitted",
    ]  # fmt: skip
    assert shown("kernel.bpf", dialect={})["Data"] == "event=kernel.bpf"


def test_a_status_is_a_message() -> None:
    line = StatusLine(time="2026-01-31T10:00:00.123456789Z", status="started", message="in force", host="node1")
    assert json.loads(line_as_json(line)) == {
        "Timestamp": 1769853600, "UpdatedTime": "2026-01-31T10:00:00.123456Z", "ClusterName": "default", "HostName": "node1",
        "Type": "Message", "Level": "INFO", "Message": "in force",
    }  # fmt: skip


def test_every_hook_is_of_an_event() -> None:
    assert HOOKS.keys() <= EVENT_BY_NAME.keys()


def test_what_was_only_asked_for_is_a_log() -> None:
    found = shown(kind="event", action="observe", mode=None, errno=None, policy="seen", dialect={})
    assert (found["Type"], found["Operation"], found["Resource"], found["Result"]) == ("ContainerLog", "File", "/etc/shadow", "Passed")
    assert (found["PodName"], found["ProcessName"], found["Source"]) == ("web-0", "/usr/bin/cat", "/usr/bin/cat /etc/shadow")
    assert not {"PolicyName", "Action", "Enforcer", "Severity", "Message"} & found.keys()
    assert shown(kind="event", action="observe", errno=None, dialect={}, container=None, k8s=None)["Type"] == "HostLog"
