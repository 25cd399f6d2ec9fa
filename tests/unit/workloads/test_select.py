"""Which selectors select a container: what is known decides, what is not is up to the selector."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bpfence.policy import Label, Selector
from bpfence.workloads.model import Container, Pod
from bpfence.workloads.select import selected, selects

ID = "c" * 64
NGINX = Container(id=ID, cgroup=f"/system.slice/docker-{ID}.scope", name="web", image="nginx:1.27", runtime="docker", labels={"app": "web"})
POD = Container(
    id=ID,
    cgroup=f"/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope",
    name="app",
    image="registry.example.com/team/app:v2",
    runtime="containerd",
    labels={"io.kubernetes.container.name": "app"},
    pod=Pod("app-1", "shop", labels={"app": "shop", "track": "canary"}, service_account="shopper"),
)
BARE = Container(id=ID, cgroup=f"/docker/{ID}", runtime="docker")


@pytest.mark.parametrize(
    ("container", "asked", "expected"),
    [
        (NGINX, {"images": ("nginx",)}, True),
        (NGINX, {"images": ("httpd", "nginx:1.*")}, True),
        (NGINX, {"images": ("nginx:1.28",)}, False),
        (NGINX, {"names": ("w*",)}, True),
        (NGINX, {"names": ("db",)}, False),
        (NGINX, {"runtimes": ("Docker",)}, True),
        (NGINX, {"runtimes": ("podman",)}, False),
        (NGINX, {"namespaces": ("*",)}, False),
        (NGINX, {"images": ("nginx",), "names": ("db",)}, False),
        (NGINX, {"labels": (Label("app", "in", ("web",)),)}, True),
        (NGINX, {"labels": (Label("app", "notin", ("web",)),)}, False),
        (NGINX, {"labels": (Label("none", "notin", ("web",)),)}, True),
        (NGINX, {"labels": (Label("app", "exists"), Label("none", "absent"))}, True),
        (NGINX, {"labels": (Label("app", "absent"),)}, False),
        (POD, {"namespaces": ("shop",), "pods": ("app-*",), "service_accounts": ("shopper",)}, True),
        (POD, {"namespaces": ("prod",)}, False),
        (POD, {"labels": (Label("track", "in", ("canary", "stable")),)}, True),
        (POD, {"labels": (Label("io.kubernetes.container.name", "exists"),)}, False),
        (POD, {"images": ("registry.example.com/team/*",)}, True),
    ],
)
def test_what_is_known_decides(container: Container, asked: dict[str, Any], expected: bool) -> None:
    for unknown in (False, True):
        assert selects(Selector(**asked, unknown=unknown), container) is expected


@pytest.mark.parametrize(
    "asked",
    [
        {"images": ("nginx",)},
        {"names": ("web",)},
        {"namespaces": ("shop",)},
        {"labels": (Label("app", "exists"),)},
        {"labels": (Label("app", "absent"),)},
        {"images": ("nginx",), "runtimes": ("docker",)},
    ],
)
def test_what_is_not_known_is_up_to_the_selector(asked: dict[str, Any]) -> None:
    assert not selects(Selector(**asked), BARE)
    assert selects(Selector(**asked, unknown=True), BARE)


def test_what_excludes_for_certain_counts_whatever_is_unknown() -> None:
    assert not selects(Selector(images=("nginx",), runtimes=("podman",), unknown=True), BARE)


def test_a_pods_service_account_may_be_the_only_thing_unknown() -> None:
    assert POD.pod is not None
    partly = msgspec.structs.replace(POD, pod=msgspec.structs.replace(POD.pod, service_account=""))
    assert not selects(Selector(service_accounts=("shopper",)), partly)
    assert selects(Selector(service_accounts=("shopper",), unknown=True), partly)
    assert not selects(Selector(service_accounts=("shopper",), namespaces=("prod",), unknown=True), partly)


def test_a_container_where_pods_are_may_be_part_of_one_that_nobody_has_told_of() -> None:
    alone = msgspec.structs.replace(POD, pod=None)
    assert selects(Selector(namespaces=("shop",), unknown=True), alone)
    assert selects(Selector(labels=(Label("app", "exists"),), unknown=True), alone)


def test_an_image_by_its_digest_is_not_known_before_the_digest_is() -> None:
    digest = "sha256:" + "ab" * 32
    assert not selects(Selector(images=(f"nginx@{digest}",)), NGINX)
    assert selects(Selector(images=(f"nginx@{digest}",), unknown=True), NGINX)
    assert selects(Selector(images=(f"nginx@{digest}",)), msgspec.structs.replace(NGINX, image_digest=digest))
    assert not selects(
        Selector(images=(f"nginx@{digest}",), unknown=True), msgspec.structs.replace(NGINX, image_digest="sha256:" + "0" * 64)
    )


@pytest.mark.parametrize(
    "label", [Label("app", "in", ("web",)), Label("app", "notin", ("web",)), Label("app", "exists"), Label("app", "absent")]
)
def test_labels_that_nobody_has_told_of_are_not_known(label: Label) -> None:
    """containerd's bundles name the pod and the image, and no labels; Podman's files name the image."""
    assert POD.pod is not None
    of_pod = msgspec.structs.replace(POD, pod=msgspec.structs.replace(POD.pod, labels=None))
    alone = msgspec.structs.replace(NGINX, labels=None)
    for container in (of_pod, alone):
        for unknown in (False, True):
            assert selects(Selector(labels=(label,), unknown=unknown), container) is unknown
            assert selects(Selector(namespace_labels=(label,), unknown=unknown), of_pod) is unknown


def test_no_labels_may_be_told() -> None:
    assert POD.pod is not None
    of_pod = msgspec.structs.replace(POD, pod=msgspec.structs.replace(POD.pod, labels={}))
    for container in (of_pod, msgspec.structs.replace(NGINX, labels={})):
        for unknown in (False, True):
            assert not selects(Selector(labels=(Label("app", "exists"),), unknown=unknown), container)
            assert selects(Selector(labels=(Label("app", "notin", ("web",)),), unknown=unknown), container)


def test_labels_of_namespaces_are_known_where_they_are_told() -> None:
    asked = (Label("team", "in", ("a",)),)
    assert POD.pod is not None
    inside, outside = (
        msgspec.structs.replace(POD, pod=msgspec.structs.replace(POD.pod, namespace_labels=labels))
        for labels in ({"team": "a"}, {"kubernetes.io/metadata.name": "shop"})
    )
    for unknown in (False, True):
        selector = Selector(namespace_labels=asked, unknown=unknown)
        assert [selects(selector, one) for one in (inside, outside, POD, NGINX)] == [True, False, unknown, False]


def test_annotations_of_namespaces_are_known_where_they_are_told() -> None:
    selector = Selector(namespace_annotations=(Label("kubearmor-file-posture", "in", ("block",)),))
    assert POD.pod is not None
    for posture, found in (("block", True), ("audit", False), ("", False), (None, False)):
        told = None if posture is None else {"kubearmor-file-posture": posture}
        one = msgspec.structs.replace(POD, pod=msgspec.structs.replace(POD.pod, namespace_annotations=told))
        assert selects(selector, one) is found
        assert selects(msgspec.structs.replace(selector, unknown=True), one) is (found or posture is None)


def test_selected() -> None:
    one, other = Selector(images=("nginx",)), Selector(images=("httpd",))
    assert selected(NGINX, (one, other)) == {one}
