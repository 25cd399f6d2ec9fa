# SPDX-License-Identifier: Apache-2.0
"""Loki and Elasticsearch: what they are sent, and that each line is there once whatever they answer and however they die."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bpfence.alerts.alert import Line
from bpfence.outputs import sink
from bpfence.outputs.forms import FORMS
from bpfence.outputs.routes import open_outputs
from bpfence.outputs.specs import spec_of
from bpfence.outputs.stores import Bulk, for_bulk, for_loki
from tests.unit.outputs.places import until
from tests.unit.outputs.servers import Hook, Request
from tests.unit.outputs.stores import Elastic, LokiStore, Store
from tests.unit.outputs.test_choice import COMPOSER, LOSS, alert

ROOT = Path(__file__).resolve().parents[3]
KINDS = {"elastic": (Elastic, "/logs/bpfence"), "loki": (LokiStore, "")}
FOREVER = 600.0


@pytest.fixture(autouse=True)
def haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink, "RETRY_SECONDS", 0.001)
    monkeypatch.setattr(sink, "MAX_RETRY_SECONDS", 0.05)


@pytest.fixture
def hooks() -> Iterator[Callable[[Any], Hook]]:
    made: list[Hook] = []

    def begin(answer: Any) -> Hook:
        made.append(Hook(answer))
        return made[-1]

    yield begin
    for hook in made:
        hook.close()


def numbered(count: int) -> list[Line]:
    return [COMPOSER.status("test", f"line {number}") for number in range(count)]


def number(entry: str) -> int:
    return int(json.loads(entry)["message"].split()[1])


def to(kind: str, port: int, **more: Any) -> Any:
    return spec_of({"to": f"{kind}:http://127.0.0.1:{port}{KINDS[kind][1]}", **more})


def written(spec: Any, lines: list[Line], midway: Callable[[], None] = lambda: None) -> tuple[int, int, list[str]]:
    """Lines written and dropped, and what was said."""
    said: list[str] = []
    outputs = open_outputs([spec], said.append, close_seconds=FOREVER)
    outputs.start()
    outputs.write(lines)
    midway()
    until(lambda: outputs.queues()[0].written + outputs.queues()[0].dropped == len(lines))
    [queue] = outputs.queues()
    outputs.close()
    return queue.written, queue.dropped, said


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_line_is_there_once(kind: str, hooks: Callable[[Any], Hook], tmp_path: Path) -> None:
    store = KINDS[kind][0](tmp_path / "store")
    hook = hooks(store)
    assert written(to(kind, hook.port), numbered(250)) == (250, 0, [])
    assert [number(entry) for entry in store.entries.values()] == list(range(250))
    assert len(hook.requests) == 3
    store.close()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_side_that_flaps(kind: str, hooks: Callable[[Any], Hook], tmp_path: Path) -> None:
    """It hangs up, is busy, fails before it has stored and after that."""
    store = KINDS[kind][0](tmp_path / "store")
    turn = 0

    def answer(request: Request) -> tuple[Any, ...]:
        nonlocal turn
        turn += 1
        if turn % 6 == 0:
            return store(request)
        if turn % 6 == 1:
            store(request)
        return ((0, {}), (500, {}), (503, {"Connection": "close"}), (401, {}), (502, {}))[turn % 6 - 1]

    taken, lost, said = written(to(kind, hooks(answer).port, batch=20), numbered(200))
    assert (taken, lost) == (200, 0)
    assert sorted(number(entry) for entry in store.entries.values()) == list(range(200))
    assert store.again > 0
    assert "failed: " in said[0]
    store.close()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_side_that_is_killed(kind: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.unit.outputs.stores", kind, str(tmp_path / "store")]

    def begun(port: int) -> tuple[subprocess.Popen[str], int]:
        made = subprocess.Popen([*command, str(port)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert made.stdout is not None
        return made, int(made.stdout.readline())

    def ended(server: subprocess.Popen[str]) -> None:
        server.send_signal(signal.SIGKILL)
        server.communicate()

    server, port = begun(0)

    def midway() -> None:
        nonlocal server
        for _ in range(2):
            before = (tmp_path / "store").stat().st_size
            until(lambda: (tmp_path / "store").stat().st_size > before)  # noqa: B023
            ended(server)
            server, _ = begun(port)

    taken, lost, _ = written(to(kind, port, batch=10), numbered(2000), midway)
    ended(server)
    assert (taken, lost) == (2000, 0)
    store = Store(tmp_path / "store")
    assert Counter(number(entry) for entry in store.entries.values()) == Counter(range(2000))
    store.close()


def test_a_side_that_is_dead_holds_up_nothing_and_what_is_lost_is_counted() -> None:
    said: list[str] = []
    spec = to("elastic", 1, queue={"lines": 100})
    outputs = open_outputs([spec], said.append, close_seconds=0.0)
    outputs.start()
    for line in numbered(1000):
        outputs.write([line])
    outputs.close()
    [queue] = outputs.queues()
    assert (queue.written, queue.dropped) == (0, 1000)


def test_only_what_failed_is_sent_again(hooks: Callable[[Any], Hook], tmp_path: Path) -> None:
    """Of a _bulk each document has an answer: refused for ever, stored, or not now."""
    seen: Counter[int] = Counter()

    def turned_down(document: str) -> int:
        one = number(document)
        seen[one] += 1
        return 400 if one % 10 == 3 else 429 if one % 10 == 5 and seen[one] < 3 else 0

    store = Elastic(tmp_path / "store", turned_down)
    taken, lost, said = written(to("elastic", hooks(store).port, batch=20), numbered(100))
    assert (taken, lost) == (90, 10)
    assert sorted(number(entry) for entry in store.entries.values()) == [one for one in range(100) if one % 10 != 3]
    assert store.again == 0
    assert {one: count for one, count in seen.items() if count > 1} == {one: 3 for one in range(100) if one % 10 == 5}
    assert any("refuses lines, which are dropped: of a document the answer was 400 some_exception: badwords" in text for text in said)
    store.close()


def test_what_loki_turns_down_is_lost_alone(hooks: Callable[[Any], Hook], tmp_path: Path) -> None:
    store = LokiStore(tmp_path / "store", lambda line: 400 if number(line) == 7 else 0)
    taken, lost, said = written(to("loki", hooks(store).port, batch=10), numbered(30))
    assert (taken, lost) == (29, 1)
    assert sorted(number(entry) for entry in store.entries.values()) == [one for one in range(30) if one != 7]
    assert "refuses lines" in said[-1]
    store.close()


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"errors":true}', b'{"errors":true,"items":[{}]}', b'{"errors":1}', b"\xff"])
def test_what_is_no_answer_of_a_bulk(content: bytes, hooks: Callable[[Any], Hook], tmp_path: Path) -> None:
    store = Elastic(tmp_path / "store")
    answers = [(200, {}, content)]
    hook = hooks(lambda request: answers.pop() if answers else store(request))
    taken, lost, said = written(to("elastic", hook.port), numbered(3))
    assert (taken, lost, len(store.entries)) == (3, 0, 3)
    assert "the answer" in said[0]
    store.close()


def test_streams_of_loki(hooks: Callable[[Any], Hook], tmp_path: Path) -> None:
    store = LokiStore(tmp_path / "store")
    hook = hooks(store)
    lines = [alert(severity="high"), LOSS, alert(severity="low"), alert(severity="high")]
    assert written(to("loki", hook.port, tenant="team-a", redact=["args", "file"]), lines)[:2] == (4, 0)
    [(_, headers, body)] = hook.requests
    assert headers["x-scope-orgid"] == "team-a"
    streams = {(one["stream"]["kind"], one["stream"]["severity"]): one["values"] for one in json.loads(body)["streams"]}
    assert {key: len(values) for key, values in streams.items()} == {("alert", "high"): 2, ("loss", "high"): 1, ("alert", "low"): 1}
    assert {one["stream"]["service_name"] for one in json.loads(body)["streams"]} == {"bpfence"}
    moment, line = streams["alert", "low"][0]
    assert moment.startswith(str(100_000_000_000 + 5_000_000_001)[:3])
    assert "secret" not in line
    store.close()


def test_any_form_goes_to_loki_and_objects_to_elastic() -> None:
    for name in ("native", "falco", "falco-text", "tetragon", "kubearmor", "cef", "ocsf"):
        line = alert()
        labels, _, entry = for_loki_of(name)(line).partition(b"\0")
        assert json.loads(labels)["severity"] == "medium"
        assert json.loads(entry) == ["105000000001", FORMS[name]()(line).decode()]
    document = json.loads(for_bulk(lambda _: b'{"a":"\\u0000"}')(alert()))
    assert list(document) == ["@timestamp", "a"]
    assert for_bulk(lambda _: b"")(alert()) == for_loki(lambda _: b"", "h")(alert()) == b""


def for_loki_of(name: str) -> Any:
    return for_loki(FORMS[name](), "h")


@pytest.mark.parametrize(
    ("scheme", "sent"),
    [("", "Bearer a:b"), ("ApiKey", "ApiKey a:b"), ("Basic", "Basic " + base64.b64encode(b"a:b").decode())],
)
def test_who_we_are(scheme: str, sent: str, hooks: Callable[[Any], Hook], tmp_path: Path) -> None:
    (tmp_path / "word").write_text("a:b\n")
    store = Elastic(tmp_path / "store")
    hook = hooks(store)
    written(to("elastic", hook.port, **{"token-file": str(tmp_path / "word"), "token-scheme": scheme}), numbered(1))
    assert hook.requests[0][1]["authorization"] == sent
    store.close()


def test_names_show_no_paths() -> None:
    outputs = open_outputs(["elastic:https://h:9200/secret", "loki:http://[::1]:3100"], pytest.fail)
    assert [queue.name for queue in outputs.queues()] == ["elastic:https://h:9200", "loki:http://[::1]:3100"]
    assert isinstance(outputs._routes[0].sink.place, Bulk)
    outputs.close()
