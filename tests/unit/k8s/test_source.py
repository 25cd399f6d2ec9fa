# SPDX-License-Identifier: Apache-2.0
"""A cluster for the agent: what there is, what changes, and what was known when the API server is away."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from bpfence.agent.feed import Outcome
from bpfence.dialects.native.schema import CLUSTER_KIND
from bpfence.errors import Diagnostic, Location
from bpfence.k8s import cache, objects, source
from bpfence.k8s.cache import load
from bpfence.k8s.objects import PolicyObject, version_of
from bpfence.k8s.source import Cluster
from bpfence.workloads.model import Container, Pod
from bpfence.workloads.registry import Registry
from tests.unit.k8s.samples import BROKEN, SECRET, armor, as_stored, made, spec
from tests.unit.k8s.server import Answer, Asked, FakeServer, event, listed, until

UID = "0b6d0f6c-7d1b-4c33-9a53-0f2f6a3f9a11"
CGROUP = f"/kubepods/besteffort/pod{UID}/{'ab' * 32}"


def pod(tier: str = "front") -> dict[str, Any]:
    metadata = {"name": "web-1", "namespace": "shop", "uid": UID, "labels": {"tier": tier}, "resourceVersion": "3"}
    return {"metadata": metadata, "spec": {"serviceAccountName": "web", "nodeName": "n1"}}


ANNOTATED = {"kubearmor-file-posture": "block"}


def shop(team: str = "a") -> dict[str, Any]:
    annotations = {"kubearmor-file-posture": "block", "other": "x"}
    return {"metadata": {"name": "shop", "labels": {"team": team}, "annotations": annotations, "resourceVersion": "4"}}


class Rig:
    """Lists by the ends of their paths; watches that say what they are told to."""

    def __init__(self, path: Path | None = None, languages: Mapping[str, Any] = MappingProxyType({})) -> None:
        self.away = False
        self.lists: dict[str, list[dict[str, Any]]] = {
            "/securitypolicies": [],
            "/clustersecuritypolicies": [],
            "/pods": [],
            "/namespaces": [],
            "/seccompprofiles": [],
            "/clusterseccompprofiles": [],
            "/kubearmorpolicies": [],
            "/kubearmorhostpolicies": [],
            "/kubearmorclusterpolicies": [],
            "/kubearmornetworkpolicies": [],
        }
        self.missing: set[str] = set()
        self.events: dict[str, list[Any]] = {}
        self.server = FakeServer(self._respond)
        self.said: list[str] = []
        self.changes = 0
        self.cluster = Cluster(self.server.api, "n1", self.said.append, path=path, pause=0.01, languages=languages)
        self.registry = Registry(lambda: None, lambda _: 7)
        self.registry.found("cgroups", [Container("ab" * 32, CGROUP)])

    def _respond(self, asked: Asked) -> Answer:
        if self.away:
            return Answer(503, {"message": "away"})
        if asked.method != "GET":
            return Answer(body={"metadata": {"name": "x", "uid": "other"}, "status": {}})
        end = "/" + asked.path.rpartition("/")[2]
        if end in self.missing:
            return Answer(404, {"message": "the server could not find the requested resource"})
        if "watch" in asked.query:
            return Answer(lines=[*self.events.pop(end, [0.05])])
        return listed("5", *self.lists[end])

    def hold(self, *policies: PolicyObject) -> None:
        for one in policies:
            self.lists["/clustersecuritypolicies" if one.kind == CLUSTER_KIND else "/securitypolicies"].append(as_stored(one))

    def written(self, name: str) -> list[Any]:
        """What was written into the status of a policy by this node."""
        return [
            asked.body
            for asked in self.server.asked
            if asked.path.endswith(f"/{name}/status") and asked.query.get("fieldManager") == "bpfence-n1"
        ]

    def changed(self) -> None:
        self.changes += 1

    def versions(self) -> dict[str, list[str]]:
        return {offer.key: [candidate.version for candidate in offer.candidates] for offer in self.cluster.offers()}

    def in_force(self, *policies: PolicyObject) -> None:
        self.cluster.told({one.key: Outcome(version_of(one), {}) for one in policies})

    def close(self) -> None:
        self.cluster.close()
        self.server.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    one = Rig(tmp_path / "state" / "kubernetes.json")
    yield one
    one.close()


def test_what_there_is_is_known_before_policies_are_in_force(rig: Rig) -> None:
    rig.hold(made(), made(namespace=""))
    rig.lists["/pods"], rig.lists["/namespaces"] = [pod()], [shop()]
    rig.cluster.pods.ask(rig.registry)
    rig.cluster.ask()
    assert list(rig.versions()) == ["ClusterSecurityPolicy guard", "SecurityPolicy shop/guard"]
    assert rig.registry.containers()[0].pod == Pod("web-1", "shop", UID, {"tier": "front"}, {"team": "a"}, "web", "n1", ANNOTATED, ("", ""))
    assert [asked.query.get("fieldSelector") for asked in rig.server.asked if asked.path.endswith("/pods")] == ["spec.nodeName=n1"]
    assert len(rig.server.asked) == 4, "asked once, whoever asks"


def test_changes_of_policies_are_told(rig: Rig) -> None:
    rig.hold(made())
    rig.cluster.ask()
    newer = made(spec(image="nginx"), generation=2)
    rig.events["/securitypolicies"] = [
        event("MODIFIED", as_stored(made(), nodes=[{"name": "n2"}])), event("MODIFIED", as_stored(newer)),
        event("ADDED", as_stored(made(name="other"))), event("DELETED", as_stored(made(name="other"))), 30,
    ]  # fmt: skip
    rig.cluster.start(rig.changed)
    until(lambda: rig.changes >= 3)
    assert rig.versions() == {newer.key: [version_of(newer)]}
    assert rig.changes == 3, "a status that another node writes changes nothing"


def test_annotations_without_effect_are_told_once(rig: Rig) -> None:
    odd, other, fine = shop(), shop(), shop()
    odd["metadata"]["annotations"] = {"kubearmor-file-posture": "off"}
    other["metadata"]["annotations"] = {"kubearmor-network-posture": "block\x1b"}
    fine["metadata"]["annotations"] = {"kubearmor-file-posture": "Audit"}
    rig.lists["/namespaces"] = [odd]
    rig.events = {"/namespaces": [event("MODIFIED", one) for one in (odd, other, odd, fine)] + [event("MODIFIED", shop("z")), 30]}
    rig.cluster.ask()
    rig.cluster.start(rig.changed)
    until(lambda: rig.cluster._namespaces["shop"].labels == {"team": "z"})
    first, second = rig.said
    assert "'off', which is none of audit, block" in first
    assert "block\\x1b" in second


def test_a_changed_label_reaches_the_registry(rig: Rig) -> None:
    rig.lists["/pods"], rig.lists["/namespaces"] = [pod()], [shop()]
    rig.events = {"/pods": [event("MODIFIED", pod("back")), 30], "/namespaces": [event("MODIFIED", shop("b")), 30]}
    rig.cluster.pods.ask(rig.registry)
    rig.cluster.start(rig.changed)
    wanted = Pod("web-1", "shop", UID, {"tier": "back"}, {"team": "b"}, "web", "n1", ANNOTATED, ("", ""))
    until(lambda: rig.registry.containers()[0].pod == wanted)


def test_what_was_in_force_stays_when_a_policy_is_broken(rig: Rig) -> None:
    rig.hold(made())
    rig.cluster.ask()
    rig.in_force(made())
    broken = made(BROKEN, generation=2)
    rig.cluster._put_policy(broken)
    assert rig.versions() == {broken.key: [version_of(made())]}
    rig.cluster.told({broken.key: Outcome(version_of(made()), {})})
    [report] = rig.cluster._writer._waiting.values()
    assert (report.status.observed, report.status.generation) == (2, 1)
    assert report.status.findings[0].path == 'spec.rules[0].match."file.pth"'
    assert "did you mean" in report.status.findings[0].hint
    assert "is refused" in rig.said[-1]


def test_a_policy_that_cannot_be_compiled_is_told_of(rig: Rig) -> None:
    rig.hold(made())
    rig.cluster.ask()
    why = Diagnostic(Location("SecurityPolicy shop/guard, spec.rules[0]"), "this kernel lacks it", code="unsupported")
    rig.cluster.told({made().key: Outcome("", {version_of(made()): (why,)})})
    [report] = rig.cluster._writer._waiting.values()
    assert report.refused
    assert report.status.findings[0].path == "spec.rules[0]"


def test_what_was_said_already_is_not_written_again(rig: Rig) -> None:
    entry = {"name": "n1", "observed": 1, "generation": 1, "changed": "2026-01-01T00:00:00Z"}
    rig.lists["/securitypolicies"] = [as_stored(made(), nodes=[entry])]
    rig.cluster.ask()
    rig.in_force(made())
    assert rig.cluster._writer._waiting == {}


def test_an_outcome_of_what_has_changed_since_says_nothing(rig: Rig) -> None:
    rig.hold(made(SECRET, generation=2))
    rig.cluster.ask()
    rig.in_force(made())
    assert rig.cluster._writer._waiting == {}


def test_another_by_the_same_name_has_no_past(rig: Rig) -> None:
    rig.hold(made())
    rig.cluster.ask()
    rig.in_force(made())
    other = made(BROKEN, uid="another")
    rig.cluster._put_policy(other)
    assert rig.versions() == {other.key: []}


def test_all_that_was_known_is_there_after_a_restart_without_the_api_server(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "state" / "kubernetes.json"
    rig.hold(made(), made(namespace=""))
    rig.lists["/pods"], rig.lists["/namespaces"] = [pod()], [shop(), {"metadata": {"name": "bank"}}]
    rig.cluster.pods.ask(rig.registry)
    rig.cluster.start(rig.changed)
    rig.in_force(made())
    rig.cluster._put_policy(made(BROKEN, generation=2))
    until(lambda: path.exists() and any(kept.good for kept in load(path, "n1").policies))
    assert list(load(path, "n1").namespaces) == ["shop"]
    later = Rig(path)
    later.away = True
    later.cluster.pods.ask(later.registry)
    assert later.versions() == {
        "ClusterSecurityPolicy guard": [version_of(made(namespace=""))],
        "SecurityPolicy shop/guard": [version_of(made())],
    }
    assert later.registry.containers()[0].pod == rig.registry.containers()[0].pod
    assert any("known from before" in text for text in later.said)
    later.close()


def test_what_a_status_says_is_kept_before_it_is_written(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that is killed has told of nothing that the next one does not know."""
    monkeypatch.setattr(cache, "SAVE_SECONDS", 60)
    path = tmp_path / "state" / "kubernetes.json"
    known: list[list[PolicyObject]] = []

    def respond(asked: Asked) -> Answer:
        if asked.method == "PATCH":
            known.append([kept.newest for kept in load(path, "n1").policies])
        return answers(asked)

    answers, rig.server.respond = rig.server.respond, respond
    rig.hold(made())
    rig.cluster.ask()
    rig.cluster.start(rig.changed)
    rig.in_force(made())
    until(lambda: known)
    assert known[0] == [made()]


def test_a_cache_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "k.json").write_text("nonsense")
    (tmp_path / "k.json").chmod(0o600)
    rig = Rig(tmp_path / "k.json")
    rig.cluster.ask()
    assert "cannot be understood" in rig.said[0]
    rig.close()


def test_more_than_there_is_room_for(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "MAX_OBJECTS", 2)
    rig.hold(*(made(name=f"p{n}") for n in range(4)))
    rig.cluster.ask()
    assert len(rig.versions()) == 2
    assert sum("left out" in text for text in rig.said) == 1
    rig.cluster._put_policy(made(namespace=""))
    assert len(rig.versions()) == 3, "those of a namespace leave room for those of the cluster"


@pytest.mark.parametrize("bound", ["MAX_SPECS", "MAX_OF_NAMESPACE"])
def test_what_one_namespace_may_have(rig: Rig, monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    monkeypatch.setattr(objects, bound, {"MAX_SPECS": len(made().spec) * 3, "MAX_OF_NAMESPACE": 2}[bound])
    rig.hold(*(made(name=f"p{n}") for n in range(4)), made(namespace="bank"))
    rig.cluster.ask()
    assert len(rig.versions()) == 3
    assert ("SecurityPolicy bank/guard" in rig.versions()) == (bound == "MAX_OF_NAMESPACE")


def test_a_bug_in_reading_one_costs_the_others_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: PolicyObject) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(source, "read", fails)
    rig.hold(made())
    rig.cluster.ask()
    assert rig.versions() == {made().key: []}


def test_what_goes_away_while_nobody_looked_is_gone(rig: Rig) -> None:
    rig.hold(made())
    rig.lists["/pods"] = [pod()]
    rig.cluster.pods.ask(rig.registry)
    rig.lists = {path: [] for path in rig.lists}
    for watcher in rig.cluster._watchers:
        assert watcher.list_once(60)
    assert rig.versions() == {}
    assert rig.registry.containers()[0].pod is not None, "its container still runs"
    rig.registry.found("cgroups", [])
    rig.cluster._join(())
    rig.registry.found("cgroups", [Container("ab" * 32, CGROUP)])
    assert rig.registry.containers()[0].pod is None


def test_a_policy_that_there_is_no_room_for_has_a_status(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "MAX_OBJECTS", 1)
    rig.hold(made(), made(name="late"))
    rig.events["/securitypolicies"] = [0.3, event("DELETED", as_stored(made())), 30]
    rig.cluster.ask()
    rig.cluster.start(rig.changed)
    until(lambda: rig.written("late"))
    [entry] = rig.written("late")[0]["status"]["nodes"]
    assert (entry["observed"], "generation" in entry, entry["findings"][0]["code"]) == (1, False, "no-room")
    rig.lists["/securitypolicies"] = [as_stored(made(name="late"))]
    until(lambda: list(rig.versions()) == ["SecurityPolicy shop/late"])


def test_an_entry_that_somebody_has_taken_out_is_written_again(rig: Rig) -> None:
    rig.hold(made())
    rig.cluster.ask()
    rig.in_force(made())
    rig.events["/securitypolicies"] = [
        event("MODIFIED", as_stored(made(), nodes=[{"name": "n1", "observed": 1, "generation": 1}])), 0.3,
        event("MODIFIED", as_stored(made(), nodes=[{"name": "n2"}])), 30,
    ]  # fmt: skip
    rig.cluster.start(rig.changed)
    until(lambda: len(rig.written("guard")) == 2)


def test_seccomp_profiles_are_put_in_place_and_known_after_a_restart(tmp_path: Path) -> None:
    rig = Rig()
    kubelet = tmp_path / "kubelet"
    kubelet.mkdir()
    clusters = [
        Cluster(rig.server.api, "n1", rig.said.append, path=tmp_path / "k.json", folder=kubelet / "seccomp", pause=0.01) for _ in range(2)
    ]
    profile = {"profile": {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}}
    metadata = {"name": "web", "namespace": "shop", "uid": "u", "generation": 1, "resourceVersion": "1"}
    rig.lists["/seccompprofiles"] = [{"metadata": metadata, "spec": profile}]
    clusters[0].ask()
    assert clusters[0].folders() == [tmp_path, kubelet / "seccomp"]
    assert (kubelet / "seccomp").is_dir(), "made while there is the right to"
    clusters[0].start(rig.changed)
    until((kubelet / "seccomp/bpfence/shop/web.json").exists)
    until(lambda: (tmp_path / "k.json").exists() and load(tmp_path / "k.json", "n1").profiles)
    clusters[0].close()
    rig.lists["/seccompprofiles"] = []
    clusters[1].ask()
    clusters[1].start(rig.changed)
    until(lambda: not (kubelet / "seccomp/bpfence").exists())
    clusters[1].close()
    rig.close()


# ---- other languages ----


def test_objects_of_another_language_where_they_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "state" / "kubernetes.json"
    one, wrong = armor(), armor(action="Blok", name="wrong")
    rig = Rig(path, {"kubearmor": None})
    try:
        rig.lists["/kubearmorpolicies"] = [as_stored(one), as_stored(wrong)]
        rig.cluster.ask()
        [offer] = [offer for offer in rig.cluster.offers() if offer.candidates]
        [candidate] = offer.candidates
        assert (offer.key, candidate.version, candidate.language) == (one.key, version_of(one), "kubearmor")
        rig.cluster.start(rig.changed)
        rig.cluster.told({one.key: Outcome(version_of(one), {}), wrong.key: Outcome("", {})})
        until(path.exists)
        until(lambda: len(load(path, "n1").policies) == 2)
        assert any("KubeArmorPolicy shop/wrong is refused" in text and "spec.action" in text for text in rig.said)
        rig.lists["/securitypolicies"] = [as_stored(made())]
        assert not [asked for asked in rig.server.asked if asked.method != "GET"], "their status is not ours"
    finally:
        rig.close()
    for languages, known in (({"kubearmor": None}, [one.key, wrong.key]), ({}, [])):
        again = Rig(path, languages)
        again.away = True
        again.cluster.ask()
        assert [offer.key for offer in again.cluster.offers()] == known
        again.close()


def test_kinds_that_the_cluster_does_not_have_keep_nothing_else_waiting() -> None:
    rig = Rig(languages={"kubearmor": None})
    rig.missing = {"/kubearmorpolicies", "/kubearmorhostpolicies", "/kubearmorclusterpolicies", "/kubearmornetworkpolicies"}
    rig.hold(made())
    rig.lists["/pods"] = [pod()]
    rig.cluster.pods.ask(rig.registry)
    assert list(rig.versions()) == ["SecurityPolicy shop/guard"]
    assert rig.registry.containers()[0].pod is not None
    assert "kubearmorpolicies cannot be watched just now" in rig.said[0]
    rig.close()
