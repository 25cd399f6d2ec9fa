# SPDX-License-Identifier: Apache-2.0
"""Requests over HTTP: what they hold, and what comes of every kind of answer."""

from __future__ import annotations

import hashlib
import hmac
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from bpfence.outputs import sink, webhook
from bpfence.outputs.places import BusyError, RefusedError
from bpfence.outputs.sink import Sink
from bpfence.outputs.webhook import Webhook
from tests.unit.outputs.places import until
from tests.unit.outputs.servers import Hook, Request, certificate

FOREVER = 600.0
Answer = Callable[[Request], tuple[int, dict[str, str]]]


@pytest.fixture(autouse=True)
def haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink, "RETRY_SECONDS", 0.001)
    monkeypatch.setattr(sink, "MAX_RETRY_SECONDS", 0.01)


MADE: list[Webhook] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while MADE:
        MADE.pop().close()


@pytest.fixture
def hooks() -> Iterator[Callable[[Answer], Hook]]:
    made: list[Hook] = []

    def begin(answer: Answer) -> Hook:
        made.append(Hook(answer))
        return made[-1]

    yield begin
    for hook in made:
        hook.close()


def to(hook: Hook, **more: Any) -> Webhook:
    given = {"batch": 100, "kind": "application/json", "context": None, **more}
    MADE.append(Webhook("w", urlsplit(f"http://127.0.0.1:{hook.port}/in?x=1"), **given))
    return MADE[-1]


def numbered(number: int) -> list[bytes]:
    return [b'{"n":%d}' % one for one in range(number)]


def written(place: Webhook, lines: list[bytes]) -> tuple[Sink, list[str]]:
    said: list[str] = []
    made = Sink(place, said.append, lambda *_: None)
    made.put(lines)
    made.start()
    until(lambda: made.written + made.dropped == len(lines))
    assert made.close(FOREVER, FOREVER) == 0
    return made, said


def test_lines_go_in_batches(hooks: Callable[[Answer], Hook]) -> None:
    hook = hooks(lambda _: (204, {}))
    made, said = written(to(hook), numbered(250))
    assert (made.written, said) == (250, [])
    assert hook.lines() == numbered(250)
    assert [len(body.splitlines()) for _, _, body in hook.requests] == [100, 100, 50]
    path, headers, body = hook.requests[0]
    assert (path, headers["content-type"]) == ("/in?x=1", "application/x-ndjson")
    assert headers["x-bpfence-delivery"] == hashlib.sha256(body).hexdigest()[:32]


def test_one_line_a_request_is_that_line(hooks: Callable[[Answer], Hook]) -> None:
    """What falcosidekick takes."""
    hook = hooks(lambda _: (200, {}))
    written(to(hook, batch=1), numbered(2))
    assert [(headers["content-type"], body) for _, headers, body in hook.requests] == [
        ("application/json", b'{"n":0}'),
        ("application/json", b'{"n":1}'),
    ]


def test_a_batch_is_bounded_in_bytes(hooks: Callable[[Answer], Hook], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "MAX_BODY", 100)
    hook = hooks(lambda _: (200, {}))
    written(to(hook), [b"x" * 40] * 5 + [b"y" * 1000])
    assert [len(body) for _, _, body in hook.requests] == [82, 82, 41, 1001]


@pytest.mark.parametrize("status", [301, 401, 404, 500, 502, 503])
def test_what_may_pass_is_tried_again(hooks: Callable[[Answer], Hook], status: int) -> None:
    answers = [(status, {}), (status, {"Connection": "close"}), (200, {})]
    hook = hooks(lambda _: answers.pop(0))
    made, said = written(to(hook), numbered(3))
    assert (made.written, made.dropped) == (3, 0)
    assert len({headers["x-bpfence-delivery"] for _, headers, _ in hook.requests}) == 1
    assert f"the answer was {status}" in said[0]


def test_an_output_waits_as_long_as_it_is_asked_to(hooks: Callable[[Answer], Hook]) -> None:
    answers = [(429, {"Retry-After": "1"}), (200, {})]
    hook = hooks(lambda _: answers.pop(0))
    began = time.monotonic()
    made, _ = written(to(hook), numbered(1))
    assert made.written == 1
    assert time.monotonic() - began >= 1


@pytest.mark.parametrize("status", [400, 413, 422])
def test_of_a_batch_that_is_refused_only_the_bad_line_is_lost(hooks: Callable[[Answer], Hook], status: int) -> None:
    hook = hooks(lambda request: (status if b'{"n":7}' in request[2] else 200, {}))
    made, said = written(to(hook, batch=10), numbered(30))
    assert (made.written, made.dropped) == (29, 1)
    accepted = [line for _, _, body in hook.requests if b'{"n":7}' not in body for line in body.splitlines()]
    assert accepted == [line for line in numbered(30) if line != b'{"n":7}']
    assert len(said) == 1
    assert f"refuses lines, which are dropped: the answer was {status}" in said[0]


def test_connections_that_end_between_requests_cost_nothing(hooks: Callable[[Answer], Hook]) -> None:
    hook = hooks(lambda _: (200, {"Connection": "close"}))
    made, said = written(to(hook, batch=1), numbered(20))
    assert (made.written, made.dropped, said) == (20, 0, [])


def test_what_is_no_answer(hooks: Callable[[Answer], Hook]) -> None:
    hook = hooks(lambda _: (200, {"X": "y" * 70_000}))
    with pytest.raises(OSError, match="no HTTP answer: LineTooLong"):
        to(hook).write([b"x"])


def test_a_long_answer_is_not_read_to_its_end(hooks: Callable[[Answer], Hook]) -> None:
    hook = hooks(lambda _: (200, {"Content-Length": "10000000000"}))
    place = to(hook)
    place._connected().timeout = 0.1
    with pytest.raises(TimeoutError):  # the rest that was promised did not come
        place.write([b"x"])


def test_requests_are_signed(hooks: Callable[[Answer], Hook]) -> None:
    hook = hooks(lambda _: (200, {}))
    to(hook, secret=lambda: b"key", token=lambda: b"word", now=lambda: 1234.5).write([b"x"])
    _, headers, body = hook.requests[0]
    assert headers["x-bpfence-timestamp"] == "1234"
    assert headers["x-bpfence-signature"] == "sha256=" + hmac.new(b"key", b"1234." + body, "sha256").hexdigest()
    assert headers["authorization"] == "Bearer word"


def test_both_sides_show_certificates(tmp_path: Path) -> None:
    ours, theirs = certificate(tmp_path, "ours"), certificate(tmp_path, "theirs")
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(*theirs)
    serving.load_verify_locations(ours[0])
    serving.verify_mode = ssl.CERT_REQUIRED
    hook = Hook(lambda _: (200, {}), serving)

    def context(own: bool, ca: str) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=ca)
        if own:
            made.load_cert_chain(*ours)
        return made

    url = urlsplit(f"https://localhost:{hook.port}/")
    for own, ca, works in ((True, theirs[0], True), (False, theirs[0], False), (True, ours[0], False)):
        place = Webhook("w", url, batch=1, kind="application/json", context=lambda own=own, ca=ca: context(own, ca))  # type: ignore[misc]
        if works:
            assert place.write([b"{}"]) == 1
        else:
            with pytest.raises(OSError):
                place.write([b"{}"])
        place.close()
    assert len(hook.requests) == 1
    hook.close()


def test_the_errors_say_what_the_answer_was(hooks: Callable[[Answer], Hook]) -> None:
    hook = hooks(lambda request: (503 if request[2] == b"busy\n" else 400, {"Retry-After": "7"}))
    with pytest.raises(BusyError) as busy:
        to(hook).write([b"busy"])
    assert (busy.value.after, str(busy.value)) == (7.0, "the answer was 503 Service Unavailable")
    with pytest.raises(RefusedError) as refused:
        to(hook).write([b"bad"])
    assert refused.value.count == 1
