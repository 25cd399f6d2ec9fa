# SPDX-License-Identifier: Apache-2.0
"""List, watch, and again from where it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bpfence.k8s import client, watch
from bpfence.k8s.client import Page
from bpfence.k8s.watch import LONGEST_PAUSE, Watcher, backoff
from bpfence.workloads.texts import decode
from tests.unit.k8s.server import Answer, Asked, FakeServer, event, listed, thing, until

PAUSE = 0.01


class Kept:
    """A handler that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    def all(self, objects: list[str]) -> None:
        self.told.append(("all", sorted(objects)))

    def put(self, one: str) -> None:
        self.told.append(("put", one))

    def gone(self, one: str) -> None:
        self.told.append(("gone", one))


class Rig:
    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.server = FakeServer(self._respond)
        self.kept = Kept()
        self.said: list[str] = []
        page = Page("/things", {"fieldSelector": "a=b"})
        self.watcher: Watcher[str] = Watcher(self.server.api, page, _name, self.kept, title="things", report=self.said.append, pause=PAUSE)

    def _respond(self, _: Asked) -> Answer:
        return self.answers.pop(0) if self.answers else Answer(lines=[30])

    def versions(self) -> list[str]:
        return [asked.query.get("resourceVersion", "list") for asked in self.server.asked]

    def close(self) -> None:
        self.watcher.close()
        self.server.close()


def _name(data: bytes) -> str:
    return str(decode(data, dict[str, dict[str, Any]])["metadata"]["name"])


@pytest.fixture
def rigs() -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(*answers: Answer) -> Rig:
        made.append(Rig(*answers))
        return made[-1]

    yield make
    for rig in made:
        rig.close()


def test_all_of_them_page_by_page(rigs: Callable[..., Rig]) -> None:
    rig = rigs(listed("5", thing("a", "1"), more="next"), listed("7", thing("b", "2")))
    assert rig.watcher.list_once(60)
    assert rig.kept.told == [("all", ["a", "b"])]
    assert [asked.query.get("continue") for asked in rig.server.asked] == [None, "next"]
    assert all(asked.query["fieldSelector"] == "a=b" for asked in rig.server.asked)


def test_pages_that_are_too_large_are_asked_for_in_parts(rigs: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_ANSWER", 1000)
    rig = rigs(listed("5", *(thing(f"{n}", "1", filling="x" * 100) for n in range(10))), listed("5", thing("a", "1")))
    assert rig.watcher.list_once(60)
    assert rig.kept.told == [("all", ["a"])]
    assert [asked.query["limit"] for asked in rig.server.asked] == ["256", "64"]


def test_of_more_than_there_is_room_for_the_rest_is_left_out(rigs: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "MAX_LISTED", 10)
    rig = rigs(listed("5", thing("a", "1"), more="next"))
    assert rig.watcher.list_once(60)
    assert rig.kept.told == [("put", "a")], "of the others it is not known whether they are there"
    assert "left out" in rig.said[0]


def test_then_each_change(rigs: Callable[..., Rig]) -> None:
    rig = rigs(
        listed("5", thing("a", "1")),
        Answer(lines=[event("ADDED", thing("b", "6")), event("MODIFIED", thing("a", "7")), event("DELETED", thing("b", "8"))]),
    )
    rig.watcher.start()
    until(lambda: len(rig.server.asked) == 3)
    assert rig.kept.told == [("all", ["a"]), ("put", "b"), ("put", "a"), ("gone", "b")]
    assert rig.versions() == ["list", "5", "8"], "a watch that the server ends goes on from its last version"


def test_a_bookmark_is_a_version_and_nothing_else(rigs: Callable[..., Rig]) -> None:
    rig = rigs(listed("5"), Answer(lines=[event("BOOKMARK", {"metadata": {"resourceVersion": "90"}})]))
    rig.watcher.start()
    until(lambda: len(rig.server.asked) == 3)
    assert rig.kept.told == [("all", [])]
    assert rig.versions()[-1] == "90"


def test_after_an_outage_it_goes_on_from_its_version(rigs: Callable[..., Rig]) -> None:
    rig = rigs(listed("5"), Answer(503, {"message": "no"}), Answer(503, {"message": "no"}), Answer(lines=[event("ADDED", thing("a", "6"))]))
    rig.watcher.start()
    until(lambda: ("put", "a") in rig.kept.told)
    assert rig.versions()[:4] == ["list", "5", "5", "5"]
    assert len(rig.said) == 1, "one reason is told once"


@pytest.mark.parametrize(
    "gone",
    [
        Answer(410, {"message": "too old"}),
        Answer(lines=[event("ERROR", {"kind": "Status", "code": 410, "message": "too old resource version"})]),
    ],
)
def test_a_version_that_is_gone_has_all_listed_again(rigs: Callable[..., Rig], gone: Answer) -> None:
    rig = rigs(listed("5", thing("a", "1")), gone, listed("50", thing("b", "40")))
    rig.watcher.start()
    until(lambda: len(rig.server.asked) == 4)
    assert rig.kept.told == [("all", ["a"]), ("all", ["b"])]
    assert rig.versions() == ["list", "5", "list", "50"]
    assert rig.said == []


@pytest.mark.parametrize("answer", [Answer(410, {}), Answer(lines=[])])
def test_a_server_that_ends_every_watch_at_once_is_not_asked_without_a_pause(rigs: Callable[..., Rig], answer: Answer) -> None:
    rig = rigs()
    rig.server.respond = lambda asked: answer if "watch" in asked.query else listed("5")
    rig.watcher._pause = 5.0
    rig.watcher.start()
    until(lambda: len(rig.server.asked) >= 2)
    assert not rig.watcher._closed.wait(1.0)
    assert len(rig.server.asked) <= 4


@pytest.mark.parametrize("line", [b"nonsense\n", b"[" * 100_000 + b"\n", b'{"type": 5}\n', b'{"type": "ADDED", "object": []}\n'])
def test_nonsense_costs_a_try(rigs: Callable[..., Rig], line: bytes) -> None:
    rig = rigs(listed("5"), Answer(lines=[line]), listed("5"), Answer(lines=[event("ADDED", thing("a", "6"))]))
    rig.watcher.start()
    until(lambda: ("put", "a") in rig.kept.told)


def test_one_object_that_cannot_be_read_costs_the_others_nothing(rigs: Callable[..., Rig]) -> None:
    rig = rigs(listed("5", {"metadata": 5}, thing("a", "1")))
    assert rig.watcher.list_once(60)
    assert rig.kept.told == [("all", ["a"])]
    assert "cannot be read" in rig.said[0]


DEEP = b"[" * 5000 + b"]" * 5000


def test_one_object_that_is_nested_deeply_costs_the_others_nothing(rigs: Callable[..., Rig]) -> None:
    """The API server takes more levels than are read."""
    deep = b'{"metadata": {"name": "deep", "resourceVersion": "6"}, "spec": {"scope": {"exe": %b}}}' % DEEP
    page = b'{"metadata": {"resourceVersion": "5"}, "items": [%b, {"metadata": {"name": "a"}}]}' % deep
    lines = [b'{"type": "ADDED", "object": %b}\n' % deep, event("ADDED", thing("b", "7"))]
    rig = rigs(Answer(body=page), Answer(lines=lines))
    rig.watcher.start()
    until(lambda: ("put", "b") in rig.kept.told)
    assert rig.kept.told == [("all", ["a", "deep"]), ("put", "deep"), ("put", "b")]


def test_a_line_that_cannot_be_understood_has_all_listed_again(rigs: Callable[..., Rig]) -> None:
    """Else the watch would go on from the version before it, and come upon it again."""
    rig = rigs(listed("5"), Answer(lines=[b"nonsense\n"]), listed("7", thing("a", "6")))
    rig.watcher.start()
    until(lambda: ("all", ["a"]) in rig.kept.told and len(rig.versions()) > 3)
    assert rig.versions()[:4] == ["list", "5", "list", "7"]


def test_what_cannot_be_listed_is_told(rigs: Callable[..., Rig]) -> None:
    rig = rigs(Answer(404, {"message": "no such kind"}))
    assert not rig.watcher.list_once(60)
    assert "no such kind" in rig.said[0]


def test_pauses_grow_to_a_bound() -> None:
    assert 0.25 <= backoff(1) <= 0.5
    assert all(LONGEST_PAUSE / 2 <= backoff(many) <= LONGEST_PAUSE for many in (10, 1000))
