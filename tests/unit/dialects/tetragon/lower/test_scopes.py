# SPDX-License-Identifier: Apache-2.0
"""Whom policies are about."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bpfence.compiler.compile import compile_policies
from bpfence.compiler.workloads import selectors
from bpfence.dialects.tetragon.lower.policies import lower
from bpfence.dialects.tetragon.read.document import CODES, read_text
from bpfence.documents.report import Report
from bpfence.evaluate import verdict
from bpfence.policy import Action, Policy, PolicySet, with_doubts
from bpfence.workloads.model import Container, Pod
from bpfence.workloads.select import selected
from tests.unit.dialects.tetragon.texts import document, kprobe, on

ID = "0123456789abcdef" * 4


def pod(namespace: str = "shop", name: str = "main", **labels: str) -> Container:
    return Container(ID, f"/kubepods/{ID}", name=name, image="nginx", pod=Pod("web-0", namespace, labels=labels))


DOCKER = Container(ID, f"/docker/{ID}", name="main", image="nginx", runtime="docker", labels={"app": "web"})
UNTOLD = "a container that nobody has told of"
WEB, DB, OTHER = pod(app="web"), pod(app="db", name="side"), pod("other", app="web")
HOST = None


def made(namespace: str = "", **selecting: Any) -> Policy:
    refuses = {"matchActions": [{"action": "Override", "argError": -1}]}
    written = document(kprobes=[kprobe({**on(0, "Prefix", "/etc/"), **refuses})], **selecting)
    if namespace:
        written["kind"] = "TracingPolicyNamespaced"
        written["metadata"]["namespace"] = namespace
    [policy], found = read_text(json.dumps(written), "p.yaml")
    report = Report(CODES)
    lowered = lower(policy, report)
    assert (found, report.diagnostics) == ([], [])
    return lowered.policy


def decided(policy: Policy, where: Container | str | None) -> Action:
    policies = with_doubts(PolicySet((policy,)))
    given: dict[str, Any] = {"event": "file.permission", "process.cgroup": "/system.slice/cron.service", "process.exe": "/bin/x"}
    if isinstance(where, Container):
        given |= {"process.cgroup": where.cgroup, "process.container": tuple(selected(where, selectors(policies)))}
    elif where is not None:
        given |= {"process.cgroup": f"/kubepods/{ID}"}
    return verdict(policies, {**given, "file.path": "/etc/shadow", "file.memfd": 0, "file.access": 2}).action


def labels(**more: str) -> dict[str, Any]:
    return {"matchLabels": more}


def expression(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, **({"values": list(values)} if values else {})}]}


OF = "k8s:io.kubernetes.pod.namespace"
CASES: list[tuple[dict[str, Any], str, list[Container | None]]] = [
    ({}, "", [WEB, DB, OTHER, DOCKER, HOST]),
    ({"podSelector": labels()}, "", [WEB, DB, OTHER]),
    ({"podSelector": labels(app="web")}, "", [WEB, OTHER]),
    ({"podSelector": labels(app="web")}, "shop", [WEB]),
    ({}, "shop", [WEB, DB]),
    ({"podSelector": labels(**{OF: "other"})}, "", [OTHER]),
    ({"podSelector": expression(OF, "NotIn", "other")}, "", [WEB, DB]),
    ({"podSelector": expression("app", "NotIn", "web")}, "", [DB]),
    ({"podSelector": expression("tier", "DoesNotExist")}, "", [WEB, DB, OTHER]),
    ({"podSelector": expression("app", "Exists")}, "", [WEB, DB, OTHER]),
    ({"containerSelector": labels(name="side")}, "", [DB]),
    ({"containerSelector": expression("name", "NotIn", "side")}, "", [WEB, OTHER, DOCKER]),
    ({"containerSelector": labels(name="main"), "podSelector": labels(app="web")}, "", [WEB, OTHER]),
    ({"containerSelector": labels(repo="docker.io/library/nginx")}, "", [WEB, DB, OTHER, DOCKER]),
    ({"containerSelector": labels(repo="quay.io/nginx")}, "", []),
    ({"containerSelector": expression("repo", "NotIn", "docker.io/library/redis")}, "", [WEB, DB, OTHER, DOCKER]),
    ({"containerSelector": expression("repo", "NotIn", "nginx")}, "", []),
    ({"hostSelector": {}}, "", [HOST]),
    ({"hostSelector": {}, "podSelector": labels(app="db")}, "", [DB, HOST]),
]


@pytest.mark.parametrize(("selecting", "namespace", "chosen"), CASES)
def test_pods_containers_and_the_host(selecting: dict[str, Any], namespace: str, chosen: list[Container | None]) -> None:
    policy = made(namespace, **selecting)
    for where in (WEB, DB, OTHER, DOCKER, HOST):
        assert (decided(policy, where) is Action.DENY) == (where in chosen), where
    compile_policies(with_doubts(PolicySet((policy,))))


def test_sensors_are_in_the_scope_of_their_policy() -> None:
    kills = {"matchActions": [{"action": "Sigkill"}]}
    [policy], _ = read_text(json.dumps(document(kprobes=[kprobe(kills, call="vfs_fallocate")], podSelector=labels(app="web"))), "p.yaml")
    policies = with_doubts(PolicySet((lower(policy, Report(CODES)).policy,)))
    event = {"event": "sensor.kprobe", "sensor.number": policies.policies[0].probes[0].number, "process.exe": "/bin/x"}
    for where, action in ((WEB, Action.KILL), (DB, Action.NONE)):
        of = {"process.cgroup": where.cgroup, "process.container": tuple(selected(where, selectors(policies)))}
        assert verdict(policies, {**event, **of}).action is action
    compile_policies(policies)


def test_a_policy_audits_in_containers_that_nobody_has_told_of() -> None:
    policy = made(podSelector=labels(app="web"))
    assert [part.mode for part in with_doubts(PolicySet((policy,))).policies] == ["enforce", "audit"]
    assert decided(policy, UNTOLD) is Action.AUDIT
    assert decided(made(), UNTOLD) is Action.DENY
    assert decided(made(hostSelector={}), UNTOLD) is Action.NONE


def by_selector(*chosen: dict[str, Any], **selecting: Any) -> Policy:
    """A policy of which each selector refuses with an error of its own: 2, 3 …"""
    given = (
        {**on(0, "Prefix", "/etc/"), "matchWorkloads": one, "matchActions": [{"action": "Override", "argError": -error}]}
        for error, one in enumerate(chosen, 2)
    )
    [policy], found = read_text(json.dumps(document(kprobes=[kprobe(*given)], **selecting)), "p.yaml")
    report = Report(CODES)
    lowered = lower(policy, report)
    assert (found, report.diagnostics) == ([], [])
    return lowered.policy


def test_each_selector_has_workloads_of_its_own() -> None:
    policy = by_selector({"podSelector": labels(app="web")}, {"containerSelector": labels(name="side")}, {"hostSelector": {}})
    policies = with_doubts(PolicySet((policy,)))
    compile_policies(policies)
    for where, error in ((WEB, 2), (OTHER, 2), (DB, 3), (HOST, 4), (DOCKER, 0)):
        given: dict[str, Any] = {"event": "file.permission", "process.cgroup": "/system.slice/cron.service", "process.exe": "/bin/x"}
        if where is not None:
            given |= {"process.cgroup": where.cgroup, "process.container": tuple(selected(where, selectors(policies)))}
        found = verdict(policies, {**given, "file.path": "/etc/shadow", "file.memfd": 0, "file.access": 2})
        assert (found.action, found.errno if error else 0) == (Action.DENY if error else Action.NONE, error), where


def test_workloads_of_a_selector_are_within_those_of_the_policy() -> None:
    policy = by_selector({"podSelector": labels(app="web")}, podSelector=labels(**{OF: "shop"}))
    assert [decided(policy, where) for where in (WEB, OTHER, DB, HOST)] == [Action.DENY, *[Action.NONE] * 3]
    assert decided(policy, UNTOLD) is Action.AUDIT


def test_who_may_be_of_an_earlier_selector_is_refused_nothing_by_a_later_one() -> None:
    policy = by_selector({"podSelector": labels(app="web")}, {})
    assert decided(policy, UNTOLD) is Action.AUDIT
    assert [decided(policy, where) for where in (WEB, DB, HOST)] == [Action.DENY] * 3


@pytest.mark.parametrize("value", ["nginx:1", "nginx@sha256:" + "0" * 32, "ngin*", ""])
def test_what_is_no_repository_is_told(value: str) -> None:
    [policy], _ = read_text(json.dumps(document(kprobes=[kprobe()], containerSelector=labels(repo=value))), "p.yaml")
    report = Report(CODES)
    lower(policy, report)
    assert [found.message for found in report.diagnostics] == [f"{value!r} is no repository of images"]
