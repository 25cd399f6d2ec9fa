# SPDX-License-Identifier: Apache-2.0
"""Kafka without a broker: keys, counts and what is said. With one: tests/e2e/test_kafka.py."""

from __future__ import annotations

import sys
from typing import Any

import msgspec
import pytest

from bpfence.errors import UsageError
from bpfence.outputs import kafka
from bpfence.outputs.kafka import Kafka, by_host, by_workload
from bpfence.outputs.places import BusyError, PartlyError
from bpfence.outputs.routes import open_outputs
from bpfence.outputs.specs import spec_of
from tests.unit.outputs.test_choice import LOSS, alert, in_pod
from tests.unit.outputs.test_stores import numbered


def test_keys() -> None:
    line = alert()
    contained = msgspec.structs.replace(line.alert, container={"id": "c1"})  # type: ignore[union-attr]
    for made, key in ((in_pod("shop"), b"shop/p"), (contained, b"c1"), (line, b"h"), (LOSS, b"h")):
        assert by_workload(lambda _: b"{}", "h")(made) == key + b"\0{}"
        assert by_host(lambda _: b"{}", "h")(made) == b"h\0{}"
    assert by_host(lambda _: b"", "h")(line) == by_workload(lambda _: b"", "h")(line) == b""


def test_a_broker_that_is_not_there_costs_what_does_not_fit(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(kafka, "SECONDS", 0.3)
    said: list[str] = []
    outputs = open_outputs([spec_of({"to": "kafka:127.0.0.1:1/t", "queue": {"lines": 100}})], said.append, close_seconds=1.0)
    outputs.start()
    for line in numbered(500):
        outputs.write([line])
    outputs.close()
    [queue] = outputs.queues()
    assert (queue.written, queue.dropped) == (0, 500)
    assert "lines are not acknowledged" in "".join(said)
    assert capfd.readouterr() == ("", ""), "librdkafka keeps to itself what it has to say"


def test_lines_under_way_are_not_produced_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "SECONDS", 0.05)
    place = Kafka("k", "127.0.0.1:1", "t", dict)
    for _ in range(3):
        with pytest.raises(BusyError, match="2 lines are not acknowledged"):
            place.write([b"k\0a", b"k\0b"])
    assert place._producer is not None
    assert len(place._producer) == 2
    place.reopen()
    with pytest.raises(BusyError, match="1 lines are not acknowledged"):
        place.write([b"k\0a"])
    place.close()
    place.close()


def test_what_the_library_takes_never_is_refused() -> None:
    place = Kafka("k", "127.0.0.1:1", "t", lambda: {"message.max.bytes": 1000})
    with pytest.raises(PartlyError) as partly:
        place.write([b"k\0" + b"x" * 2000])
    assert (partly.value.count, list(partly.value.taken), list(partly.value.refused)) == (1, [], [0])
    place.close()


def test_options_that_cannot_be() -> None:
    with pytest.raises(OSError, match="nonsense"):
        Kafka("k", "127.0.0.1:1", "t", lambda: {"nonsense": "x"}).write([b"k\0a"])


def test_without_the_library_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(UsageError, match=r"pip install 'bpfence\[kafka\]'"):
        open_outputs(["kafka:localhost:9092/t"], pytest.fail)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("kafka:localhost:9092", "unknown output"),
        ("kafka:localhost/t", "unknown output"),
        ("kafka:a:1,b:2,/t", "unknown output"),
        ("kafka:a:1/t opic", "unknown output"),
        ({"to": "unix:/x", "key": "host"}, "`key` is nothing to output"),
        ({"to": "kafka:a:1/t", "key": "workload", "redact": ["k8s.pod"]}, "shows what `redact` leaves out"),
        ({"to": "kafka:a:1/t", "tls": {"name": "x"}}, "the brokers' own names"),
        ({"to": "kafka:a:1/t", "tls": {"ca": "/nonexistent"}}, "cannot be used"),
        ({"to": "kafka:a:1/t", "batch": 5}, "`batch` is nothing to output"),
    ],
)
def test_mistakes(value: Any, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_outputs([spec_of(value)], pytest.fail)
    assert said in str(caught.value)


def test_more_than_one_broker() -> None:
    outputs = open_outputs(["kafka:a:1,[::1]:9092/bpfence.alerts"], pytest.fail)
    assert outputs.queues()[0].name == "kafka:a:1,[::1]:9092/bpfence.alerts"
    outputs.close()
