# SPDX-License-Identifier: Apache-2.0
"""Whom policies are about."""

from __future__ import annotations

from typing import Any

import pytest

from bpfence.dialects.kubearmor.lower.scopes import Reach, missing
from bpfence.dialects.kubearmor.lower.scopes import reach as reach_of
from bpfence.dialects.kubearmor.model import KubeArmorPolicy
from bpfence.evaluate import verdict
from bpfence.policy import Action
from bpfence.workloads.model import Container
from tests.unit.dialects.kubearmor.corpus import CONTAINER, WEB, decided, document, lowered, pod, read

BLOCK: dict[str, Any] = {"process": {"matchPaths": [{"path": "/bin/sleep"}]}}
DOCKER = Container(CONTAINER, f"/docker/{CONTAINER}", name="web", image="nginx", runtime="docker", labels={"app": "web"})


def chosen(spec: dict[str, Any], *containers: Container | None, kind: str = "KubeArmorPolicy", **metadata: str) -> list[bool]:
    """Whether a policy denies something in some containers."""
    policies = lowered(document({**BLOCK, **spec}, kind, **metadata))
    found = [decided(policies, "process.exec", one, file__path="/bin/sleep").action for one in containers]
    assert set(found) <= {Action.DENY, Action.NONE}
    return [action is Action.DENY for action in found]


def test_pods_of_the_namespace_with_the_labels() -> None:
    assert chosen({}, WEB, pod(app="db"), pod(), pod("other", app="web"), DOCKER, None) == [True, False, False, False, False, False]
    assert chosen({"selector": {"matchLabels": {"app": "web", "tier": "x"}}}, WEB, pod(app="web", tier="x")) == [False, True]
    assert chosen({"selector": {}}, WEB, pod(), pod("other")) == [True, True, False]


def test_expressions() -> None:
    def label(operator: str, *values: str) -> dict[str, Any]:
        return {"selector": {"matchExpressions": [{"key": "label", "operator": operator, "values": list(values)}]}}

    containers = (WEB, pod(app="db"), pod(app="x"))
    assert chosen(label("In", "app=web", "app=db"), *containers) == [True, True, False]
    assert chosen(label("NotIn", "app=web", "app=db"), *containers) == [False, False, True]


def test_containers_by_name() -> None:
    by_name = {"selector": {"matchLabels": {"kubearmor.io/container.name": "[main, side]"}}}
    assert chosen(by_name, pod(name="main"), pod(name="side"), pod(name="mainly"), pod("other", name="main")) == [True, True, False, False]


def test_all_that_is_said_of_a_containers_name_is_required() -> None:
    name = "kubearmor.io/container.name"
    listed = {"key": "label", "operator": "In", "values": [f"{name}=[side, web]"]}
    both = {"selector": {"matchLabels": {name: "[main, side]"}, "matchExpressions": [listed]}}
    assert chosen(both, *(pod(name=one) for one in ("main", "side", "web"))) == [False, True, False]


def test_containers_that_are_part_of_no_pod() -> None:
    by_name = {"selector": {"matchLabels": {"kubearmor.io/container.name": "web"}}}
    assert chosen(by_name, DOCKER, pod(name="web"), None, namespace="container_namespace") == [True, False, False]
    assert chosen({}, DOCKER, WEB, namespace="container_namespace") == [True, False]
    assert chosen({"selector": {}}, DOCKER, WEB, namespace="container_namespace") == [True, False]


def test_cluster_policies() -> None:
    def of(*tests: tuple[str, str, list[str]]) -> dict[str, Any]:
        return {"selector": {"matchExpressions": [{"key": key, "operator": op, "values": values} for key, op, values in tests]}}

    containers = (pod("a"), pod("b"), pod("c", app="web"), DOCKER, None)
    kind = "KubeArmorClusterPolicy"
    assert chosen(of(("namespace", "In", ["a", "b"])), *containers, kind=kind) == [True, True, False, False, False]
    assert chosen(of(("namespace", "NotIn", ["a", "b"])), *containers, kind=kind) == [False, False, True, False, False]
    assert chosen(of(("namespace", "In", ["a", "c"]), ("namespace", "In", ["b", "c"])), *containers, kind=kind) == [
        False,
        False,
        True,
        False,
        False,
    ]
    assert chosen(of(("label", "In", ["app=web"])), *containers, kind=kind) == [False, False, True, False, False]


def test_host_policies_are_about_what_runs_in_no_container() -> None:
    assert chosen({}, None, WEB, DOCKER, kind="KubeArmorHostPolicy") == [True, False, False]


def test_containers_that_nobody_has_told_of() -> None:
    """A container that nobody has told of may be of the policy: it is outside, or what would be denied is told."""
    unknown = {"event": "process.exec", "process.cgroup": f"/kubepods/{CONTAINER}", "file.path": "/bin/sleep"}

    assert verdict(lowered(document(BLOCK)), unknown).action is Action.NONE
    assert verdict(lowered(document(BLOCK), unknown="audit"), unknown).action is Action.AUDIT


@pytest.mark.parametrize(
    ("key", "value", "here"),
    [
        ("a", "b", True), ("a", "c", False), ("x", "y", False), ("kubearmor.io/hostname", "*", True),
        ("kubearmor.io/hostname", "one, node-1", True), ("kubearmor.io/hostname", "one,two", False),
        ("kubearmor.io/hostnamereg", "node-[0-9]", True), ("kubearmor.io/hostnamereg", "node", False),
        ("kubearmor.io/hostnamereg", "(", False),
    ],
)  # fmt: skip
def test_nodes(key: str, value: str, here: bool) -> None:
    policy = KubeArmorPolicy(kind="KubeArmorHostPolicy", name="p", node=((key, value),))
    assert (missing(policy, {"a": "b", "kubearmor.io/hostname": "node-1"}) is None) is here


def test_policies_that_are_never_about_the_same_workload() -> None:
    def reach(kind: str = "KubeArmorPolicy", namespace: str = "shop", **selector: Any) -> Reach:
        given = {"namespace": namespace} if kind == "KubeArmorPolicy" else {}
        [policy], _ = read(document({"selector": selector, "file": {"matchPaths": [{"path": "/a"}]}}, kind, **given))
        return reach_of(policy)

    def expression(key: str, *values: str, operator: str = "In") -> dict[str, Any]:
        return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}

    [host], _ = read(document({"file": {"matchPaths": [{"path": "/a"}]}}, "KubeArmorHostPolicy"))
    web, db = reach(matchLabels={"app": "web"}), reach(matchLabels={"app": "db"})
    either, cluster = reach(**expression("label", "app=web", "app=x")), "KubeArmorClusterPolicy"
    both = reach(matchLabels={"app": "web"}, **expression("label", "app=web", "app=x"))
    mixed = reach(**expression("label", "app=web", "tier=front"))
    for one, other, apart in (
        (both, either, False), (both, reach(matchLabels={"app": "x"}), True), (mixed, db, False),
        (either, reach(**expression("label", "app=x", "app=y")), False), (either, reach(**expression("label", "app=y", "app=z")), True),
        (web, web, False), (web, db, True), (web, either, False), (db, either, True),
        (web, reach(matchLabels={"tier": "front"}), False), (web, reach(namespace="bank", matchLabels={"app": "web"}), True),
        (web, reach(cluster, **expression("namespace", "bank")), True),
        (web, reach(cluster, **expression("namespace", "bank", "shop")), False),
        (web, reach(cluster, **expression("namespace", "shop", operator="NotIn")), False), (web, reach_of(host), True),
        (reach_of(host), reach_of(host), False),
        (reach(matchLabels={"kubearmor.io/container.name": "a"}), reach(matchLabels={"kubearmor.io/container.name": "[a, b]"}), False),
    ):  # fmt: skip
        assert one.apart(other) is other.apart(one) is apart, (one, other)
