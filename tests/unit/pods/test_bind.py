# SPDX-License-Identifier: Apache-2.0
"""Bindings of seccomp profiles: whose containers get them, what gives way, and that a patch does nothing else."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfence.pods import standards
from bpfence.pods.bind import MAX_WARNING, MAX_WARNINGS, Binding, Mutation, mutate
from bpfence.pods.kinds import CONTAINERS
from bpfence.pods.manifest import read
from bpfence.policy import Label
from tests.unit.pods import random_manifests

WEB = Binding(profile="bpfence/shop/web.json", images=("nginx:1.*",))
PROFILE = {"type": "Localhost", "localhostProfile": "bpfence/shop/web.json"}


def pod(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p", "namespace": "shop", "labels": {"app": "web"}}, "spec": {"containers": list(containers), **spec}}


def nginx(**context: Any) -> dict[str, Any]:
    return {"name": "a", "image": "nginx:1.27", **({"securityContext": context} if context else {})}


def patched(document: dict[str, Any], mutation: Mutation) -> dict[str, Any]:
    """What the API server makes of a patch (RFC 6902)."""
    made = copy.deepcopy(document)
    for operation in mutation.patch:
        *way, last = [step.replace("~1", "/").replace("~0", "~") for step in operation["path"].split("/")[1:]]
        holder: Any = made
        for step in way:
            holder = holder[int(step)] if isinstance(holder, list) else holder[step]
        assert isinstance(holder, dict)
        if operation["op"] == "remove":
            del holder[last]
        else:
            assert operation["op"] == "add"
            holder[last] = copy.deepcopy(operation["value"])
    return made


@pytest.mark.parametrize(
    ("container", "spec", "patch"),
    [
        (nginx(), {}, [("/spec/containers/0/securityContext", {"seccompProfile": PROFILE})]),
        ({**nginx(), "securityContext": None}, {}, [("/spec/containers/0/securityContext", {"seccompProfile": PROFILE})]),
        (nginx(runAsUser=1), {}, [("/spec/containers/0/securityContext/seccompProfile", PROFILE)]),
        (nginx(seccompProfile={"type": "RuntimeDefault"}), {}, [("/spec/containers/0/securityContext/seccompProfile", PROFILE)]),
        (nginx(seccompProfile=PROFILE), {}, []),
        (nginx(), {"securityContext": {"seccompProfile": PROFILE}}, [("/spec/containers/0/securityContext", {"seccompProfile": PROFILE})]),
        ({"name": "a", "image": "redis:7"}, {}, []),
        (nginx(), {"os": {"name": "windows"}}, []),
        (nginx(privileged=True), {}, []),
        (nginx(seccompProfile={"type": "Unconfined"}), {}, []),
        (nginx(seccompProfile={"type": "Localhost", "localhostProfile": "mine.json"}), {}, []),
        (nginx(), {"securityContext": {"seccompProfile": {"type": "Unconfined"}}}, []),
    ],
)
def test_one_container(container: dict[str, Any], spec: dict[str, Any], patch: list[tuple[str, Any]]) -> None:
    found = mutate(pod(container, **spec), [WEB])
    assert list(found.patch) == [{"op": "add", "path": path, "value": value} for path, value in patch]


@pytest.mark.parametrize(
    ("replace", "written", "gives_way"),
    [
        ("none", None, True), ("none", "RuntimeDefault", False), ("none", "Unconfined", False), ("default", "RuntimeDefault", True),
        ("default", "Unconfined", False), ("all", "RuntimeDefault", True), ("all", "Unconfined", True), ("all", "odd", True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("level", ["pod", "container"])
def test_what_gives_way(replace: Any, written: str | None, gives_way: bool, level: str) -> None:
    context = {"seccompProfile": {"type": written}} if written else {}
    document = pod(nginx(), securityContext=context) if level == "pod" else pod(nginx(**context))
    found = mutate(document, [Binding(profile=WEB.profile, images=WEB.images, replace=replace)])
    assert bool(found.patch) == gives_way
    assert bool(found.warnings) != gives_way


@pytest.mark.parametrize(
    ("binding", "namespace", "selects"),
    [
        (Binding(profile="x"), "", True), (Binding(profile="x", namespace="shop"), "", True),
        (Binding(profile="x", namespace="web"), "", False),
        (Binding(profile="x", namespace="web"), "web", True), (Binding(profile="x", namespace="shop"), "web", False),
        (Binding(profile="x", labels=(Label("app", "in", ("web",)),)), "", True),
        (Binding(profile="x", labels=(Label("app", "absent"),)), "", False),
        (Binding(profile="x", images=("redis", "nginx")), "", True), (Binding(profile="x", images=("nginx:2.*",)), "", False),
        (Binding(profile="x", images=("nginx",), labels=(Label("tier", "exists"),)), "", False),
        (Binding(profile="x", images=("*",)), "", True),
    ],
)  # fmt: skip
def test_whom_a_binding_selects(binding: Binding, namespace: str, selects: bool) -> None:
    """The namespace of the request counts, whatever the pod says of itself."""
    assert bool(mutate(pod(nginx()), [binding], namespace).patch) == selects


def test_the_first_of_several_counts_and_is_told() -> None:
    found = mutate(pod(nginx()), [WEB, Binding(profile="other.json")])
    assert [one["value"]["seccompProfile"] for one in found.patch] == [PROFILE]
    assert found.warnings == ("several seccomp profiles are bound to 'a': it gets bpfence/shop/web.json",)
    assert mutate(pod(nginx()), [WEB, WEB]).warnings == ()


def test_every_kind_of_container() -> None:
    document = pod(nginx(), {"name": "b", "image": "redis"}, initContainers=[nginx()], ephemeralContainers=[nginx()])
    assert [one["path"] for one in mutate(document, [WEB]).patch] == [
        "/spec/initContainers/0/securityContext", "/spec/containers/0/securityContext", "/spec/ephemeralContainers/0/securityContext",
    ]  # fmt: skip


def test_of_a_pod_that_runs_only_new_ephemeral_containers() -> None:
    """The API server refuses changes of all others."""
    old = pod(nginx(), ephemeralContainers=[nginx()])
    new = pod(nginx(), ephemeralContainers=[nginx(), {**nginx(), "name": "debug"}])
    assert [one["path"] for one in mutate(new, [WEB], old=old).patch] == ["/spec/ephemeralContainers/1/securityContext"]
    assert mutate(old, [WEB], old=old).patch == ()


def test_annotations_that_say_something_else_go() -> None:
    """The API server refuses a pod whose annotation and field differ."""
    document = pod(nginx(), {"name": "b", "image": "redis"})
    notes = {
        "container.seccomp.security.alpha.kubernetes.io/a": "docker/default",
        "container.seccomp.security.alpha.kubernetes.io/b": "unconfined",
    }
    document["metadata"]["annotations"] = dict(notes)
    found = mutate(document, [WEB])
    assert found.patch[1] == {"op": "remove", "path": "/metadata/annotations/container.seccomp.security.alpha.kubernetes.io~1a"}
    after = patched(document, found)
    assert list(after["metadata"]["annotations"]) == ["container.seccomp.security.alpha.kubernetes.io/b"]
    assert mutate(after, [WEB]).patch == ()
    twice = pod(nginx(), initContainers=[nginx()])  # not a valid pod
    twice["metadata"]["annotations"] = dict(notes)
    patched(twice, mutate(twice, [WEB]))


def test_warnings_are_bounded() -> None:
    containers = [{"name": "n" * 300 + "\x1b", "image": "nginx:1.27", "securityContext": {"privileged": True}} for _ in range(50)]
    found = mutate(pod(*containers), [WEB])
    assert len(found.warnings) == MAX_WARNINGS
    assert all(len(warning) <= MAX_WARNING and warning.isprintable() for warning in found.warnings)


ODD = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)
BINDINGS = st.lists(
    st.builds(
        Binding,
        profile=st.sampled_from(["x.json", "y/z.json"]),
        images=st.sampled_from([(), ("*",), ("a", "b:1")]),
        labels=st.sampled_from([(), (Label("app", "in", ("x",)),), (Label("app", "absent"),)]),
        replace=st.sampled_from(["none", "default", "all"]),
    ),
    max_size=3,
)


@given(st.integers(0, 2**32), BINDINGS)
@settings(max_examples=200, deadline=None)
def test_random_pods(seed: int, bindings: list[Binding]) -> None:
    """A patch sets profiles of containers and nothing else, is made once, and weakens nothing that the standards see."""
    document = random_manifests.pod(Random(seed))
    found = mutate(document, bindings)
    json.dumps(found.patch)
    after = patched(document, found)
    assert mutate(after, bindings).patch == ()
    for kind in CONTAINERS:
        for one, was in zip(after["spec"].get(kind) or [], document["spec"].get(kind) or [], strict=True):
            context, before = one.get("securityContext") or {}, was.get("securityContext") or {}
            assert {key: value for key, value in context.items() if key != "seccompProfile"} == {
                key: value for key, value in before.items() if key != "seccompProfile"
            }
            assert {**one, "securityContext": 0} == {**was, "securityContext": 0}
            if context.get("seccompProfile") != before.get("seccompProfile"):
                assert context["seccompProfile"]["type"] == "Localhost"
    assert {key: value for key, value in after["spec"].items() if key not in CONTAINERS} == {
        key: value for key, value in document["spec"].items() if key not in CONTAINERS
    }
    (old,), (new,) = (read(json.dumps({"kind": "Pod", **each}).encode(), "f").workloads for each in (document, after))
    order = ["privileged", "baseline", "restricted"]
    assert order.index(standards.met(new)) >= order.index(standards.met(old))


@given(ODD, ODD, ODD, ODD, BINDINGS)
@settings(max_examples=200, deadline=None)
def test_anything_may_stand_in_a_pod(metadata: Any, spec: Any, context: Any, image: Any, bindings: list[Binding]) -> None:
    container = {"name": image, "image": image, "securityContext": context}
    for document in (
        {"metadata": metadata, "spec": spec},
        {"metadata": {"labels": metadata}, "spec": {"containers": spec, "initContainers": [container], "securityContext": context}},
        {"spec": {"containers": [container, spec], "os": context, "securityContext": {"seccompProfile": spec}}},
    ):
        mutate(document, bindings, "n")
        mutate(document, bindings, "n", old=document)
