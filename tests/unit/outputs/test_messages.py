# SPDX-License-Identifier: Apache-2.0
"""Messages on a standard error that may have no reader."""

from __future__ import annotations

import io
import os

import pytest

from bpfence.outputs.messages import MAX_LINES, MessageQueue
from bpfence.outputs.sink import Sink
from tests.unit.outputs.places import until


def nothing(_: Sink, missing: int) -> None:
    raise AssertionError(missing)


def test_before_the_start_a_message_is_there_at_once() -> None:
    stream = io.StringIO()
    messages = MessageQueue(stream, lambda text: f"bpfence: {text}")
    messages("one")
    messages.put("two")
    assert stream.getvalue() == "bpfence: one\ntwo\n"
    messages.start(nothing)
    messages.start(nothing)
    messages("three")
    messages.close()
    assert stream.getvalue() == "bpfence: one\ntwo\nbpfence: three\n"
    messages("four")
    assert stream.getvalue().endswith("four\n")
    assert messages.dropped == 0


def test_a_stream_that_nobody_reads_makes_nobody_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bpfence.outputs.messages.CLOSE_SECONDS", 0.01)
    reader, writer = os.pipe()
    told: list[int] = []
    with os.fdopen(writer, "w", encoding="ascii") as stream:
        messages = MessageQueue(stream, lambda text: text)
        messages.start(lambda _, missing: told.append(missing))
        for number in range(MAX_LINES + 1000):
            messages(f"{number:0999}")
        dropped = messages.dropped
        assert dropped >= 1000 - 70, "a pipe takes less than seventy of them"
        found = b""
        while found.count(b"\n") < MAX_LINES + 1000 - dropped:
            found += os.read(reader, 1 << 20)
        until(lambda: sum(told) == dropped)
        for number in range(MAX_LINES + 100):
            messages(f"{number:0999}")
        before = messages.dropped
        messages.close()
        messages("too late")
        assert messages.dropped > before + 1
    os.close(reader)


def test_what_an_encoding_lacks_is_escaped() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w", encoding="ascii") as stream:
        messages = MessageQueue(stream, lambda text: text)
        messages.start(nothing)
        messages("ü")
        messages.close()
    assert os.read(reader, 100) == b"\\xfc\n"
    os.close(reader)
