# SPDX-License-Identifier: Apache-2.0
"""Entries of nodes that are gone. tests/kubernetes has a real API server, whose server-side apply takes them out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bpfence.k8s import tidy
from bpfence.k8s.tidy import Tidier
from tests.unit.k8s.server import Answer, Asked, FakeServer, listed, until


class Rig:
    def __init__(self, every: float = 300.0) -> None:
        self.nodes = ["n1"]
        self.entries: list[Any] = [{"name": "n1", "observed": 1}, {"name": "n2", "observed": 1}]
        self.status = 200
        self.server = FakeServer(self._respond)
        self.said: list[str] = []
        self.tidier = Tidier(self.server.api, self.said.append, every=every, gone=10)

    def _respond(self, asked: Asked) -> Answer:
        if asked.path == "/api/v1/nodes":
            return listed("5", *({"metadata": {"name": name}} for name in self.nodes)) if self.status == 200 else Answer(self.status, {})
        metadata = {"name": "guard", "namespace": "shop", "uid": "u", "generation": 1, "resourceVersion": "7"}
        if asked.method == "PATCH":
            return Answer(self.status, {"metadata": {**metadata, "resourceVersion": "8"}, "status": {}})
        return listed(
            "5", *([{"metadata": metadata, "status": {"nodes": self.entries}}] if asked.path.endswith("/securitypolicies") else [])
        )

    def taken(self) -> list[Asked]:
        return [asked for asked in self.server.asked if asked.method == "PATCH" and asked.query["fieldManager"] != "bpfence-summary"]


@pytest.fixture
def rig() -> Iterator[Rig]:
    one = Rig()
    yield one
    one.tidier.close()
    one.server.close()


def test_a_node_is_gone_when_it_has_been_for_a_while(rig: Rig) -> None:
    assert rig.tidier.look(100) == rig.tidier.look(105) == 0
    rig.nodes = ["n1", "n2"]
    assert rig.tidier.look(112) == 0, "it is back"
    rig.nodes = ["n1"]
    assert rig.tidier.look(120) == 0
    assert rig.tidier.look(130) == 1
    [asked] = rig.taken()
    assert (asked.path, asked.query["fieldManager"]) == (
        "/apis/bpfence.io/v1alpha1/namespaces/shop/securitypolicies/guard/status",
        "bpfence-n2",
    )
    assert (asked.body["status"], asked.body["metadata"]["resourceVersion"], asked.body["metadata"]["uid"]) == ({}, "7", "u")


def test_a_cluster_without_nodes_is_none(rig: Rig) -> None:
    rig.nodes = []
    assert rig.tidier.look(0) == rig.tidier.look(100) == 0
    assert rig.tidier._missing == {}


def test_an_object_that_has_changed_is_left_for_the_next_time(rig: Rig) -> None:
    rig.tidier.look(0)
    rig.tidier._statuses.api = FakeServer(lambda _: Answer(409, {})).api
    rig.tidier.look(20)
    assert rig.said == []


def test_so_many_at_a_time(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tidy, "MAX_ENTRIES", 3)
    rig.entries = [{"name": f"old{n}"} for n in range(5)]
    rig.tidier.look(0)
    assert rig.tidier.look(20) == 3


@pytest.mark.parametrize("entries", [[1], {}, [{"observed": "x"}]])
def test_a_status_that_cannot_be_read(rig: Rig, entries: Any) -> None:
    rig.entries = entries
    assert rig.tidier.look(0) == rig.tidier.look(20) == 0


def test_a_failure_is_told_once() -> None:
    rig = Rig(every=0.01)
    rig.status = 403
    rig.tidier.start()
    until(lambda: len(rig.server.asked) > 3)
    rig.tidier.close()
    assert len(rig.said) == 1
    rig.server.close()
