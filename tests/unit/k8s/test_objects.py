# SPDX-License-Identifier: Apache-2.0
"""What is kept of objects."""

from __future__ import annotations

import json

import msgspec
import pytest

from bpfence.dialects.native.schema import CLUSTER_KIND
from bpfence.k8s import objects
from bpfence.k8s.objects import NodeStatus, namespace, own_status, pod, policies_path, policy, without_effect
from bpfence.workloads.model import Namespace, Pod
from bpfence.workloads.texts import BadAnswerError

POD = {
    "metadata": {"name": "web-1", "namespace": "shop", "uid": "u1", "labels": {"tier": "front"}, "annotations": {"a": "b"}},
    "spec": {"serviceAccountName": "web", "nodeName": "n1", "containers": []},
}


def test_a_pod() -> None:
    assert pod(json.dumps(POD).encode()) == ("u1", Pod("web-1", "shop", "u1", {"tier": "front"}, None, "web", "n1", owner=("", "")))


@pytest.mark.parametrize(
    ("owners", "hash_", "owner"),
    [
        ([{"kind": "ReplicaSet", "name": "web-5d8", "controller": True}], "5d8", ("Deployment", "web")),
        ([{"kind": "ReplicaSet", "name": "web-5d8", "controller": True}], "", ("ReplicaSet", "web-5d8")),
        ([{"kind": "ReplicaSet", "name": "web-5d8", "controller": True}], "9", ("ReplicaSet", "web-5d8")),
        ([{"kind": "X", "name": "x"}, {"kind": "DaemonSet", "name": "log", "controller": True}], "5d8", ("DaemonSet", "log")),
        ([{"kind": "X", "name": "x"}], "", ("", "")),
        (None, "", ("", "")),
    ],
)
def test_what_keeps_a_pod_running(owners: list[object] | None, hash_: str, owner: tuple[str, str]) -> None:
    meta = {**POD["metadata"], "ownerReferences": owners, "labels": {"pod-template-hash": hash_}}  # type: ignore[dict-item]
    assert pod(json.dumps({**POD, "metadata": meta}).encode())[1].owner == owner


STATIC = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("mirrored", "uid"), [(STATIC, STATIC), ("0b6d0f6c-7d1b-4c33-9a53-0f2f6a3f9a11", "u1"), (STATIC + "\n", "u1"), ("", "u1")]
)
def test_a_static_pod_is_known_by_the_uid_that_its_node_gave_it_and_no_other_pod_by_one_that_it_chose(mirrored: str, uid: str) -> None:
    mirror = {**POD, "metadata": {**POD["metadata"], "annotations": {"kubernetes.io/config.mirror": mirrored}}}  # type: ignore[dict-item]
    assert pod(json.dumps(mirror).encode())[0] == uid


@pytest.mark.parametrize("data", [b"{}", b"[]", b'{"metadata": {"name": 5}, "spec": {}}', b"\xff", b"[" * 100_000])
def test_what_is_no_pod(data: bytes) -> None:
    with pytest.raises(BadAnswerError):
        pod(data)


def test_a_namespace_without_labels_has_none() -> None:
    assert namespace(b'{"metadata": {"name": "shop"}}') == ("shop", Namespace())


def test_annotations_of_a_namespace_that_policies_ask_about() -> None:
    given = (
        b'{"metadata": {"name": "shop", "labels": {"a": "b"}, "annotations": {"kubearmor-file-posture": "block", "x/last-applied": "{}"}}}'
    )
    assert namespace(given) == ("shop", Namespace({"a": "b"}, {"kubearmor-file-posture": "block"}))


@pytest.mark.parametrize(
    ("value", "kept", "told"),
    [
        ("block", "block", ()), ("Block", "block", ()), ("AUDIT", "audit", ()), ("", "", ("''", "audit, block")),
        ("blocked", "blocked", ("shop", "kubearmor-network-posture: 'blocked'", "audit, block")),
    ],
)  # fmt: skip
def test_words_of_annotations(value: str, kept: str, told: tuple[str, ...]) -> None:
    given = msgspec.json.encode({"metadata": {"name": "shop", "annotations": {"kubearmor-network-posture": value, "kubearmor-x": "y"}}})
    name, found = namespace(given)
    assert found.annotations == {"kubearmor-network-posture": kept}
    texts = without_effect(name, found)
    assert len(texts) == bool(told)
    assert all(part in text for part in told for text in texts)


@pytest.mark.parametrize(
    ("value", "kept", "told"),
    [
        ("file,process", "process,file", False), ("None", "none", False), (" Network , dns,network", "network,dns", False),
        ("files", "files", True), ("", "", True), ("process,", "process,", True),
    ],
)  # fmt: skip
def test_lists_of_annotations(value: str, kept: str, told: bool) -> None:
    name, found = namespace(msgspec.json.encode({"metadata": {"name": "shop", "annotations": {"kubearmor-visibility": value}}}))
    assert found.annotations == {"kubearmor-visibility": kept}
    assert ["no list of process, file" in text for text in without_effect(name, found)] == [True] * told


def test_a_policy_and_what_this_node_has_said_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    status = {"nodes": [{"name": "n2"}, {"name": "n1", "observed": 3}], "conditions": [], "unknown": 1}
    data = json.dumps({"metadata": {"name": "a", "uid": "u", "generation": 3}, "spec": {"mode": "audit"}, "status": status}).encode()
    found = policy(CLUSTER_KIND, "n1", data)
    assert (found.key, found.policy_name, found.generation) == ("ClusterSecurityPolicy a", "a", 3)
    assert json.loads(found.spec) == {"mode": "audit"}
    assert found.own == NodeStatus("n1", 3)
    monkeypatch.setattr(objects, "MAX_SPEC", 5)
    assert policy(CLUSTER_KIND, "n1", data).spec == b""


def test_a_status_that_cannot_be_read_is_none() -> None:
    assert own_status(b"5", "n1") is None
    assert own_status(b"", "n1") is None


def test_paths() -> None:
    assert policies_path("SecurityPolicy", "shop", "a") == "/apis/bpfence.io/v1alpha1/namespaces/shop/securitypolicies/a"
    assert policies_path(CLUSTER_KIND) == "/apis/bpfence.io/v1alpha1/clustersecuritypolicies"


@pytest.mark.parametrize(
    ("beside", "namespace", "size", "fits"),
    [
        ([], "shop", 1, True),
        ([("shop", 1)] * objects.MAX_OF_NAMESPACE, "shop", 1, False),
        ([("shop", 1)] * objects.MAX_OF_NAMESPACE, "bank", 1, True),
        ([("shop", objects.MAX_SPECS_OF_NAMESPACE)], "shop", 1, False),
        ([("shop", objects.MAX_SPECS_OF_NAMESPACE)], "bank", 1, True),
        ([(f"n{n}", objects.MAX_SPECS_OF_NAMESPACE) for n in range(4)], "bank", 1, False),
        ([("", 1)] * objects.MAX_OBJECTS, "", 1, False),
        ([("", 1)] * objects.MAX_OF_NAMESPACE, "", 1, True),
    ],
)
def test_room_for_one_more(beside: list[tuple[str, int]], namespace: str, size: int, fits: bool) -> None:
    assert objects.has_room(beside, namespace, size) == fits
