# SPDX-License-Identifier: Apache-2.0
"""Status and Events: of many nodes that do not undo each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bpfence.k8s import status as status_module
from bpfence.k8s.objects import Condition, Finding, NodeStatus, Status, Summary
from bpfence.k8s.status import Report, Writer, manager, said, summarised
from tests.unit.k8s.samples import made
from tests.unit.k8s.server import Answer, Asked, FakeServer, until

WRONG = Finding("spec.rules[0].on", "unknown event 'opn'", "did you mean 'open'?", "unknown-event")


def stored(*nodes: dict[str, Any], generation: int = 1, version: str = "1", **status: Any) -> Answer:
    metadata = {"name": "guard", "uid": "uid-guard", "generation": generation, "resourceVersion": version}
    return Answer(body={"metadata": metadata, "status": {"nodes": list(nodes), **status}})


class Rig:
    def __init__(self) -> None:
        self.server = FakeServer(self._respond)
        self.said: list[str] = []
        self.asked_before: list[int] = []
        """How much had been asked each time that something was about to be written."""
        self.writer = Writer(
            self.server.api, "n1", self.said.append, before=lambda: self.asked_before.append(len(self.server.asked)), pause=0.01
        )
        self.respond: Callable[[Asked], Answer] = lambda _: stored({"name": "n1", "observed": 1, "generation": 1})

    def _respond(self, asked: Asked) -> Answer:
        return self.respond(asked)

    def put(self, generation: int = 1, *findings: Finding, name: str = "guard") -> None:
        one = made(name=name)
        self.writer.put(one.key, Report(one, NodeStatus("n1", 1, generation, "2026-01-01T00:00:00Z", list(findings))))

    def asked(self, method: str, end: str = "") -> list[Asked]:
        return [asked for asked in self.server.asked if asked.method == method and asked.path.endswith(end)]


@pytest.fixture
def rig() -> Iterator[Rig]:
    one = Rig()
    yield one
    one.writer.close()
    one.server.close()


def test_a_node_applies_its_own_entry_and_then_the_sum(rig: Rig) -> None:
    rig.put()
    rig.writer.start()
    until(lambda: len(rig.server.asked) == 2)
    first, second = rig.server.asked
    assert rig.asked_before == [0]
    assert first.path == "/apis/bpfence.io/v1alpha1/namespaces/shop/securitypolicies/guard/status"
    assert first.query == {"fieldManager": "bpfence-n1", "force": "true"}
    assert first.body["metadata"] == {"name": "guard", "namespace": "shop", "uid": "uid-guard"}
    assert first.body["status"] == {"nodes": [{"name": "n1", "observed": 1, "generation": 1, "changed": "2026-01-01T00:00:00Z"}]}
    assert second.query["fieldManager"] == "bpfence-summary"
    assert second.body["metadata"]["resourceVersion"] == "1"
    assert second.body["status"]["summary"] == {"nodes": 1, "inForce": 1, "refused": 0, "text": "1/1"}
    assert {one["type"]: one["status"] for one in second.body["status"]["conditions"]} == {"Accepted": "True", "InForce": "True"}


def test_a_sum_that_stands_there_already_is_not_written(rig: Rig) -> None:
    def respond(asked: Asked) -> Answer:
        conditions = [
            {
                "type": "InForce",
                "status": "True",
                "reason": "InForce",
                "observedGeneration": 1,
                "lastTransitionTime": "t",
                "message": "in force on 1 of 1 nodes",
            },
            {"type": "Accepted", "status": "True", "reason": "Accepted", "observedGeneration": 1, "lastTransitionTime": "t"},
        ]
        entry = {"name": "n1", "observed": 1, "generation": 1}
        return stored(entry, conditions=conditions, summary={"nodes": 1, "inForce": 1, "refused": 0, "text": "1/1"})

    rig.respond = respond
    rig.put()
    rig.put(name="other")
    rig.writer.start()
    until(lambda: len(rig.server.asked) == 2)
    assert {asked.query["fieldManager"] for asked in rig.server.asked} == {"bpfence-n1"}


def test_a_sum_of_old_entries_is_made_again(rig: Rig) -> None:
    both = [{"name": "n1", "observed": 1, "generation": 1}, {"name": "n2", "observed": 1}]

    def respond(asked: Asked) -> Answer:
        if asked.query.get("fieldManager") == "bpfence-summary":
            return Answer(409, {"message": "changed"}) if asked.body["metadata"]["resourceVersion"] == "1" else stored(*both, version="3")
        return stored(*both, version="2") if asked.method == "GET" else stored(both[0])

    rig.respond = respond
    rig.put()
    rig.writer.start()
    until(lambda: len(rig.server.asked) == 4)
    assert rig.server.asked[-1].body["status"]["summary"]["text"] == "1/2"


def test_a_refused_policy_has_an_event_once_a_generation(rig: Rig) -> None:
    rig.put(0, WRONG)
    rig.writer.start()
    until(lambda: rig.asked("POST"))
    [event] = rig.asked("POST", "/api/v1/namespaces/shop/events")
    assert event.body["reason"] == "Refused"
    assert event.body["message"] == "spec.rules[0].on: unknown event 'opn'; did you mean 'open'?"
    assert event.body["involvedObject"]["uid"] == "uid-guard"
    rig.put(0, WRONG)
    rig.put(0, name="other")
    until(lambda: len(rig.asked("POST")) == 2)
    assert len({asked.body["metadata"]["name"] for asked in rig.asked("POST")}) == 2


def test_events_are_limited(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_module, "EVENTS", 2)
    for n in range(5):
        rig.put(0, name=f"p{n}")
    rig.writer.start()
    until(lambda: len(rig.asked("PATCH", "/p4/status")) == 2)
    assert len(rig.asked("POST")) <= 2


def test_what_cannot_be_written_is_tried_again_and_told_once(rig: Rig) -> None:
    answers = [Answer(500, {"message": "no"})] * 3
    rig.respond = lambda _: answers.pop() if answers else stored({"name": "n1", "observed": 1, "generation": 1})
    rig.put()
    rig.writer.start()
    until(lambda: len(rig.server.asked) == 5)
    assert len(rig.said) == 1


def test_a_policy_that_is_gone_is_let_go(rig: Rig) -> None:
    rig.respond = lambda asked: Answer(404, {"message": "gone"}) if "guard" in asked.path else stored()
    rig.put()
    rig.put(name="other")
    rig.writer.start()
    until(lambda: rig.asked("PATCH", "/other/status"))
    assert len(rig.asked("PATCH", "/guard/status")) == 1
    assert rig.said == []


def test_only_the_newest_word_is_written(rig: Rig) -> None:
    rig.put(0)
    rig.put(1)
    rig.put(name="dropped")
    rig.writer.drop(made(name="dropped").key)
    rig.writer.start()
    until(lambda: len(rig.server.asked) == 2)
    assert rig.server.asked[0].body["status"]["nodes"][0]["generation"] == 1


def test_the_sum_of_several_nodes() -> None:
    nodes = [NodeStatus("b", 2, 2), NodeStatus("a", 2, 1, findings=[WRONG]), NodeStatus("c", 1, 1)]
    made_of = summarised(Status(nodes), 2, "now")
    assert made_of.summary == Summary(3, 1, 1, "1/3")
    accepted, in_force = made_of.conditions
    assert accepted.status == in_force.status == "False"
    assert accepted.message.startswith("on a: spec.rules[0].on")
    assert "generation 1 of it stays in force" in accepted.message
    assert summarised(Status(nodes[::-1]), 2, "now") == made_of, "in whatever order they stand"


def test_a_condition_keeps_its_time_as_long_as_its_status() -> None:
    before = Status([NodeStatus("a", 1, 1)], [Condition("Accepted", "True", "x", last_transition_time="then")])
    assert summarised(before, 1, "now").conditions[0].last_transition_time == "then"
    assert summarised(Status([NodeStatus("a", 1)], before.conditions), 1, "now").conditions[0].last_transition_time == "now"


def test_nobody_has_told_of_the_newest_generation() -> None:
    assert [one.status for one in summarised(Status([NodeStatus("a", 1, 1)]), 2, "now").conditions] == ["Unknown", "Unknown"]


def test_a_node_that_is_gone_is_no_refusal() -> None:
    made_of = summarised(Status([NodeStatus("a", 2, 2), NodeStatus("gone", 1, 1)]), 2, "now")
    assert [one.status for one in made_of.conditions] == ["True", "Unknown"]
    assert made_of.conditions[1].message == "in force on 1 of 2 nodes; not heard of this generation from gone"


def test_many_mistakes_are_some_lines() -> None:
    assert len(said(NodeStatus("a", 1, findings=[WRONG] * 8)).splitlines()) == 6
    assert len(said(NodeStatus("a", 1, findings=[Finding("p" * 500, "m" * 500)] * 8))) <= 1000


def test_field_managers_fit() -> None:
    assert manager("n1") == "bpfence-n1"
    assert len(manager("n" * 253)) <= 128
