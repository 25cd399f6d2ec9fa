# SPDX-License-Identifier: Apache-2.0
"""Objects of seccomp profiles: what is wrong with them, how many are taken, and what stays when one is broken. tests/kubernetes has a real
API server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from bpfence.k8s import objects, profiles
from bpfence.k8s.objects import PolicyObject
from bpfence.k8s.profiles import Profiles, file_of, read
from bpfence.seccomp.objects import CLUSTER_KIND, KIND
from tests.unit.k8s.samples import as_stored
from tests.unit.k8s.server import Answer, Asked, FakeServer, event, listed, until


def profile(*calls: str, **more: Any) -> dict[str, Any]:
    """The spec of an object."""
    rule = {"names": ["read", *calls], "action": "SCMP_ACT_ALLOW"}
    return {"profile": {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule]}, **more}


def made(spec: Any = None, name: str = "web", namespace: str = "shop", generation: int = 1, uid: str = "") -> PolicyObject:
    """A SeccompProfile; in no namespace: a ClusterSeccompProfile."""
    data = json.dumps(profile() if spec is None else spec).encode()
    return PolicyObject(KIND if namespace else CLUSTER_KIND, name, namespace, uid or f"uid-{name}", generation, data)


def errors(one: PolicyObject) -> list[tuple[str, str]]:
    found = read(one)
    wrong = [diagnostic for diagnostic in found.diagnostics if diagnostic.severity == "error"]
    assert (found.found is None) == bool(wrong)
    return [(str(diagnostic.location).removeprefix(f"{one.key}, "), diagnostic.message) for diagnostic in wrong]


def test_a_profile_and_whom_it_is_bound_to() -> None:
    found = read(made(profile(bindings=[{"images": ["nginx"]}]))).found
    assert found is not None
    assert (found.path, found.bindings[0].namespace) == ("bpfence/shop/web.json", "shop")
    assert json.loads(file_of(found))["syscalls"] == [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]
    assert errors(made(namespace="")) == []


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"profile": {"defaultAction": "SCMP_ACT_ERRNO", "syscals": []}}, "spec.profile.syscals"),
        ({"profile": {"defaultAction": "SCMP_ACT_ERNO"}}, "spec.profile.defaultAction"),
        (profile(bindings=[{"images": ["nginx", "a b"]}]), "spec.bindings[0].images[1]"),
        (profile(bindings=[{}]), "spec.bindings[0]"),
        (profile() | {"profile": None}, "spec.profile"),
        ({}, "spec"),
        ([], "spec"),
        ("x", "spec"),
    ],
)
def test_a_mistake_is_told_by_the_path_of_its_field(spec: Any, path: str) -> None:
    assert errors(made(spec))[0][0] == path


@pytest.mark.parametrize("spec", [b"", b"\xff", b"[" * 100_000, b'{"profile":' * 40 + b"1" + b"}" * 40])
def test_what_is_no_spec(spec: bytes) -> None:
    assert errors(PolicyObject(KIND, "web", "shop", "u", 1, spec))[0][0] == "spec"


def test_numbers_are_the_ones_that_are_meant() -> None:
    def compared(value: int | str) -> dict[str, Any]:
        args = [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}]
        return {"profile": {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["dup"], "action": "SCMP_ACT_ALLOW", "args": args}]}}

    found = read(made(compared("18446744073709551615"))).found
    assert found is not None
    assert json.loads(file_of(found))["syscalls"][0]["args"][0]["value"] == (1 << 64) - 1
    assert "may have been rounded" in errors(made(compared((1 << 53) + 2)))[0][1]


@pytest.mark.parametrize("namespace", ["shop", ""])
def test_no_profile_of_a_namespace_names_a_socket_of_the_node(namespace: str) -> None:
    spec = profile()
    spec["profile"] |= {"listenerPath": "/run/containerd/containerd.sock"}
    spec["profile"]["syscalls"].append({"names": ["mount"], "action": "SCMP_ACT_NOTIFY"})
    found = errors(made(spec, namespace=namespace))
    assert found == ([("spec.profile", "a profile of a namespace cannot hand calls over to a socket of the node")] if namespace else [])


def test_a_name_that_no_file_can_have() -> None:
    assert errors(made(name="a" * 240))[0][0] == "metadata.name"


class Rig:
    """Lists and watches of both kinds; what is made of a profile is the number of its calls."""

    def __init__(self) -> None:
        self.lists: dict[str, list[PolicyObject]] = {KIND: [], CLUSTER_KIND: []}
        self.events: dict[str, list[Any]] = {}
        self.server = FakeServer(self._respond)
        self.said: list[str] = []
        self.changed: list[str] = []
        self.profiles: Profiles[int] = Profiles(
            self.server.api, "n1", lambda found: len(found.profile.rules[0].names), self.changed.extend, self.said.append, pause=0.01
        )

    def _respond(self, asked: Asked) -> Answer:
        kind = CLUSTER_KIND if asked.path.endswith("/clusterseccompprofiles") else KIND
        if "watch" in asked.query:
            return Answer(lines=self.events.pop(kind, [30]))
        return listed("5", *(as_stored(one) for one in self.lists[kind]))

    def known(self) -> dict[str, int | None]:
        return {held.newest.key: held.good for held in self.profiles.all()}


@pytest.fixture
def rig() -> Iterator[Rig]:
    one = Rig()
    yield one
    one.profiles.close()
    one.server.close()


def test_those_of_the_cluster_come_first(rig: Rig) -> None:
    rig.lists = {KIND: [made(), made(name="api", namespace="bank")], CLUSTER_KIND: [made(name="z", namespace="")]}
    assert not rig.profiles.listed
    rig.profiles.start()
    until(lambda: rig.profiles.listed)
    assert list(rig.known()) == ["ClusterSeccompProfile z", "SeccompProfile bank/api", "SeccompProfile shop/web"]


def test_what_was_made_of_one_stays_when_it_is_broken(rig: Rig) -> None:
    rig.lists[KIND] = [made(profile("write"))]
    rig.events[KIND] = [event("MODIFIED", as_stored(made({"profile": 1}, generation=2))), 30]
    rig.profiles.start()
    until(lambda: (held := rig.profiles.get("SeccompProfile shop/web")) is not None and held.newest.generation == 2)
    held = rig.profiles.get("SeccompProfile shop/web")
    assert held is not None
    assert (held.made, held.good, held.newest.spec) == (None, 2, b"")


def test_another_by_the_same_name_is_another(rig: Rig) -> None:
    rig.profiles.put(made())
    rig.profiles.put(made({"profile": 1}, uid="other"))
    assert rig.known() == {"SeccompProfile shop/web": None}


def test_more_than_there_is_room_for(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "MAX_OF_NAMESPACE", 2)
    rig.lists[KIND] = [*(made(name=f"p{n}") for n in range(4)), made(namespace="bank")]
    rig.profiles.first = ("bpfence/shop/p3.json",)
    rig.profiles.start()
    until(lambda: rig.profiles.listed)
    assert list(rig.known()) == ["SeccompProfile bank/web", "SeccompProfile shop/p0", "SeccompProfile shop/p3"]
    assert rig.profiles.left("SeccompProfile shop/p1") is not None
    assert sum("left out" in text for text in rig.said) == 1


def test_who_was_left_out_comes_when_there_is_room(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "MAX_OBJECTS", 1)
    rig.lists[KIND] = [made(), made(name="later")]
    rig.events[KIND] = [0.3, event("DELETED", as_stored(made())), 30]
    rig.profiles.start()
    until(lambda: rig.profiles.listed)
    rig.lists[KIND] = [made(name="later")]
    until(lambda: list(rig.known()) == ["SeccompProfile shop/later"])
    assert rig.profiles.left("SeccompProfile shop/later") is None


def test_a_change_that_there_is_no_room_for_changes_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.profiles.put(made())
    monkeypatch.setattr(objects, "MAX_SPECS", len(made().spec))
    rig.profiles.put(made(profile("write", "close"), generation=2))
    held = rig.profiles.get("SeccompProfile shop/web")
    assert held is not None
    assert (held.made, held.good) == (None, 1)
    assert "no room" in held.diagnostics[0].message


def test_a_bug_in_reading_one_costs_the_others_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    real = profiles.read
    monkeypatch.setattr(profiles, "read", lambda one: real(one) if one.name == "web" else 1 // 0)
    rig.profiles.put(made(name="bad"))
    rig.profiles.put(made())
    assert rig.known() == {"SeccompProfile shop/bad": None, "SeccompProfile shop/web": 1}
