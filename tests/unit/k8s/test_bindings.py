# SPDX-License-Identifier: Apache-2.0
"""Reviews of pods: what profiles are bound to them, and what a hostile one costs. tests/kubernetes has a real API server ask."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from bpfence.k8s import bindings as bindings_module
from bpfence.k8s.bindings import MAX_CONTAINERS, Bindings, review
from bpfence.workloads.texts import BadAnswerError
from tests.unit.k8s.server import Answer, FakeServer
from tests.unit.k8s.test_profiles import made, profile

ALL: list[dict[str, Any]] = [{"images": ["*"]}]


@pytest.fixture
def bindings() -> Iterator[Bindings]:
    server = FakeServer(lambda _: Answer(503, {}))
    one = Bindings(server.api, said.append)
    yield one
    one.close()
    server.close()
    said.clear()


said: list[str] = []


def hold(bindings: Bindings, *given: Any) -> None:
    for one in given:
        bindings._profiles.put(one)


def asked(pod: Any, operation: str = "CREATE", namespace: str = "shop", old: Any = None) -> bytes:
    request = {"uid": "42", "namespace": namespace, "operation": operation, "object": pod, "oldObject": old}
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).encode()


def answered(bindings: Bindings, pod: Any, **more: Any) -> dict[str, Any]:
    whole = json.loads(review(asked(pod, **more), bindings))
    assert (whole["kind"], whole["response"]["uid"]) == ("AdmissionReview", "42")
    found: dict[str, Any] = whole["response"]
    if "patch" in found:
        assert found["patchType"] == "JSONPatch"
        found["patch"] = json.loads(base64.b64decode(found["patch"]))
    return found


def pod(*images: str) -> dict[str, Any]:
    return {"metadata": {"name": "a"}, "spec": {"containers": [{"name": f"c{n}", "image": image} for n, image in enumerate(images)]}}


def given(response: dict[str, Any]) -> list[str]:
    return [operation["value"]["seccompProfile"]["localhostProfile"] for operation in response.get("patch", ())]


def test_a_pod_is_given_the_profile_of_its_namespace(bindings: Bindings) -> None:
    hold(bindings, made(profile(bindings=[{"images": ["nginx"]}])))
    response = answered(bindings, pod("redis", "nginx"))
    assert response["allowed"] is True
    assert [operation["path"] for operation in response["patch"]] == ["/spec/containers/1/securityContext"]
    assert given(response) == ["bpfence/shop/web.json"]
    assert answered(bindings, pod("nginx"), namespace="bank") == {"uid": "42", "allowed": True}
    assert answered(bindings, pod("nginx"), operation="DELETE") == {"uid": "42", "allowed": True}


def test_the_clusters_come_before_the_namespaces(bindings: Bindings) -> None:
    hold(bindings, made(profile(bindings=ALL), name="a"), made(profile(bindings=ALL), name="z", namespace=""))
    response = answered(bindings, pod("nginx"))
    assert given(response) == ["bpfence/z.json"]
    assert "several seccomp profiles" in response["warnings"][0]


def test_one_that_is_broken_is_bound_to_whom_it_was(bindings: Bindings) -> None:
    hold(bindings, made(profile(bindings=ALL)), made({"profile": 1}, generation=2), made({"profile": 1}, name="new"))
    assert given(answered(bindings, pod("nginx"))) == ["bpfence/shop/web.json"]
    assert len(said) == 2
    bindings._profiles.gone(made())
    assert "patch" not in answered(bindings, pod("nginx"))


def test_an_ephemeral_container(bindings: Bindings) -> None:
    hold(bindings, made(profile(bindings=ALL)))
    old = pod("nginx")
    new = {**old, "spec": {**old["spec"], "ephemeralContainers": [{"name": "d", "image": "busybox"}]}}
    response = answered(bindings, new, operation="UPDATE", old=old)
    assert [operation["path"] for operation in response["patch"]] == ["/spec/ephemeralContainers/0/securityContext"]


def test_a_namespace_has_so_many_tests(bindings: Bindings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bindings_module, "MAX_TESTS", 2)
    wide = [{"images": ["a", "b", "nginx"]}]
    hold(bindings, made(profile(bindings=wide), name="a"), made(profile(bindings=ALL), name="b"), made(profile(bindings=ALL), namespace=""))
    assert given(answered(bindings, pod("nginx"))) == ["bpfence/web.json"]
    assert [binding.profile for binding in bindings.of("shop")] == ["bpfence/web.json", "bpfence/shop/b.json"]
    assert "bound to nobody" in said[0]
    bindings.of("shop")
    assert len(said) == 1


def test_a_pod_of_many_containers_goes_nowhere_without_its_profiles(bindings: Bindings) -> None:
    crowd = pod(*["nginx"] * (MAX_CONTAINERS + 1))
    assert answered(bindings, crowd)["allowed"] is True
    hold(bindings, made(profile(bindings=ALL)))
    assert answered(bindings, crowd)["allowed"] is False
    one_more = {"metadata": {}, "spec": {**crowd["spec"], "ephemeralContainers": [{"name": "d", "image": "busybox"}]}}
    assert answered(bindings, one_more, operation="UPDATE", old=crowd)["allowed"] is True, "what is there is there"


@pytest.mark.parametrize(
    "broken", [{}, {"spec": None}, {"spec": {"containers": [1, {"image": 2, "name": []}]}}, {"spec": {"containers": {}}}]
)
def test_pods_of_any_shape(bindings: Bindings, broken: Any) -> None:
    hold(bindings, made(profile(bindings=ALL)))
    assert answered(bindings, broken)["allowed"] is True


@pytest.mark.parametrize("data", [b"", b"{}", b"[" * 100_000, asked([]), asked(None), asked({}).replace(b"AdmissionReview", b"Pod")])
def test_what_is_no_review(bindings: Bindings, data: bytes) -> None:
    hold(bindings, made(profile(bindings=ALL)))
    with pytest.raises(BadAnswerError):
        review(data, bindings)
