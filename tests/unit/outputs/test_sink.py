# SPDX-License-Identifier: Apache-2.0
"""A queue and a thread before a place: what is given is written in order or counted, and whoever gives it never waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from bpfence.outputs import sink as sink_module
from bpfence.outputs.places import BusyError, PartlyError, RefusedError
from bpfence.outputs.sink import Sink
from tests.unit.outputs.places import Fake, until

FOREVER = 600.0


class Rig:
    """A sink before a fake place, and what it says."""

    def __init__(self, **bounds: int) -> None:
        self.place = Fake()
        self.said: list[str] = []
        self.told: list[int] = []
        self.sink = Sink(self.place, self.said.append, self._caught_up, **bounds)

    def _caught_up(self, sink: Sink, missing: int) -> None:
        assert sink is self.sink
        self.told.append(missing)
        sink.put([b"MISSING"], always=True)

    def put(self, first: int, last: int) -> None:
        """Numbered lines of ten bytes, one at a time."""
        for number in range(first, last):
            self.sink.put([b"%010d" % number])

    def numbers(self) -> list[int]:
        return [int(line) for line in self.place.lines if line.isdigit()]

    def close(self) -> int:
        return self.sink.close(FOREVER, FOREVER)


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig(max_lines=100)
    yield rig
    rig.place.open.set()
    rig.sink.close(0, 0)


def test_all_is_written_in_order(rig: Rig) -> None:
    rig.put(0, 50)
    assert not rig.sink.started
    assert rig.place.lines == []
    rig.sink.start()
    rig.sink.start()
    until(lambda: len(rig.place.lines) == 50)
    rig.put(50, 60)
    assert rig.close() == 0
    assert rig.numbers() == list(range(60))
    assert (rig.sink.dropped, rig.said, rig.told) == (0, [], [])
    assert rig.place.closed.is_set()


def test_of_a_write_that_went_well_in_part_only_the_rest_is_written_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_module, "RETRY_SECONDS", 0.001)
    rig.place.faults += [
        PartlyError(count=6, taken=[1, 4], refused=[2], reason="busy"),
        PartlyError(count=3, taken=[], refused=[0, 1, 2], reason="never"),
        PartlyError(count=2, taken=[0, 1], refused=[], reason=""),
        PartlyError(count=1, taken=[], refused=[], reason="busy"),
    ]
    rig.put(0, 10)
    rig.sink.start()
    until(lambda: rig.sink.written + rig.sink.dropped == 10)
    assert (rig.sink.written, rig.sink.dropped) == (6, 4)
    assert rig.numbers() == [8, 9]
    assert rig.sink.queue()[1:3] == (0, 0)
    assert rig.close() == 0
    assert [text for text in rig.said if "failed: busy" in text]
    assert [text for text in rig.said if "refuses lines, which are dropped: busy; it has lost 1 so far" in text]


def test_what_was_put_before_a_start_that_never_came_is_written_at_the_end(rig: Rig) -> None:
    rig.put(0, 3)
    assert rig.close() == 0
    assert rig.numbers() == [0, 1, 2]


def test_a_place_that_hangs_costs_what_does_not_fit(rig: Rig) -> None:
    rig.place.hang()
    rig.sink.start()
    rig.put(0, 1)
    rig.place.entered.wait()
    rig.put(1, 250)
    assert rig.sink.dropped == 150
    assert len(rig.said) == 1
    assert "takes no lines and its queue is full" in rig.said[0]
    rig.place.open.set()
    until(lambda: rig.place.lines[-1:] == [b"MISSING"])
    assert rig.numbers() == list(range(100)), "nothing is lost while there is room"
    assert rig.told == [150]
    until(lambda: len(rig.said) == 2)
    assert "works again; it has lost 150 lines so far" in rig.said[1]
    rig.put(250, 260)
    assert rig.close() == 0
    assert rig.place.lines[100:] == [b"MISSING", *(b"%010d" % number for number in range(250, 260))]
    assert len(rig.numbers()) + rig.sink.dropped == 260


def test_the_queue_is_bounded_in_bytes() -> None:
    rig = Rig(max_bytes=1000)
    rig.put(0, 100)
    assert rig.sink.dropped == 10  # eleven bytes each with their newlines
    rig.sink.put([b"x" * 10])
    rig.sink.put([b"x" * 9, b"x", b""])
    assert rig.sink.dropped == 13, "ten bytes are left: for nine and a newline"
    assert rig.close() == 0
    assert rig.numbers() == list(range(90))


def test_of_a_batch_that_does_not_fit_the_first_lines_are_kept(rig: Rig) -> None:
    rig.sink.put([b"%d" % number for number in range(130)])
    assert rig.sink.dropped == 30
    assert rig.close() == 0
    assert rig.numbers() == list(range(100))
    assert rig.told == [30]


def test_a_place_that_fails_is_tried_again_and_nothing_is_lost(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_module, "RETRY_SECONDS", 0.001)
    rig.place.faults = [OSError(28, "No space left on device"), OSError(28, "No space left on device"), RuntimeError("a bug")]
    rig.sink.start()
    rig.put(0, 50)
    until(lambda: len(rig.said) == 2)
    assert "No space left on device; its lines wait" in rig.said[0]
    assert "works again; it has lost 0 lines so far" in rig.said[1]
    assert rig.close() == 0
    assert rig.numbers() == list(range(50))
    assert len(rig.said) == 2


def test_a_place_is_tried_ever_more_seldom(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_module, "RETRY_SECONDS", 0.001)
    monkeypatch.setattr(sink_module, "MAX_RETRY_SECONDS", 0.004)
    rig = Rig()
    rig.place.faults = [OSError()] * 6
    rig.sink.start()
    rig.put(0, 1)
    pauses = []
    before = rig.sink._failed

    def failed(error: Exception) -> None:
        pauses.append(rig.sink._pause)
        before(error)

    rig.sink._failed = failed  # type: ignore[method-assign]
    until(lambda: rig.numbers() == [0])
    assert set(pauses) <= {0.001, 0.002, 0.004}
    assert sorted(pauses) == pauses
    assert rig.sink._pause == 0.001
    assert rig.close() == 0


def test_a_write_that_takes_some_lines(rig: Rig) -> None:
    rig.place.room = 7
    rig.put(0, 50)
    assert rig.close() == 0
    assert rig.numbers() == list(range(50))
    assert max(rig.place.writes) == 7


def test_want_of_room_is_waited_for_and_is_no_failure(rig: Rig) -> None:
    rig.place.broken = BlockingIOError()
    rig.sink.start()
    rig.put(0, 150)
    until(lambda: rig.place.waits > 3)
    assert rig.told == [], "what is missing is told where it can be read"
    rig.place.broken = None
    until(lambda: rig.told == [50])
    assert rig.close() == 0
    assert rig.numbers() == list(range(100))
    assert [text for text in rig.said if "failed" in text] == []


def test_what_is_given_at_once_is_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_module, "CHUNK_BYTES", 110)
    rig.put(0, 15)
    rig.sink.put([b"x" * 500])
    assert rig.close() == 0
    assert rig.place.writes == [10, 5, 1]


# ---- drops told ----


def test_drops_that_go_on_are_told_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_module, "TELL_SECONDS", FOREVER)
    rig = Rig(max_lines=10)
    rig.place.hang()
    rig.sink.start()
    rig.put(0, 15)
    rig.place.open.set()
    until(lambda: b"MISSING" in rig.place.lines)
    rig.place.hang()
    rig.put(15, 40)
    rig.place.open.set()
    until(lambda: not rig.sink._waiting)
    assert rig.told == [5]
    assert rig.close() == 0
    assert rig.told[0] == 5
    assert len(rig.told) == 2, "the rest is told at the end"
    assert len(rig.numbers()) + rig.sink.dropped == 40
    assert sum(rig.told) == rig.sink.dropped


def test_drops_are_told_when_that_is_due_without_another_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_module, "TELL_SECONDS", 0.05)
    rig = Rig(max_lines=10)
    for turn in range(3):
        rig.place.hang()
        rig.put(0, 15)
        rig.sink.start()
        rig.place.open.set()
        until(lambda turn=turn: len(rig.told) > turn)  # type: ignore[misc]
    assert rig.close() == 0
    assert sum(rig.told) == rig.sink.dropped


# ---- rotation ----


def test_the_place_is_opened_anew_behind_what_was_put_before(rig: Rig) -> None:
    rig.place.hang()
    rig.sink.start()
    rig.put(0, 1)
    rig.place.entered.wait()
    rig.put(1, 5)
    rig.sink.reopen()
    rig.put(5, 8)
    rig.sink.reopen()
    rig.place.open.set()
    assert rig.close() == 0
    assert rig.numbers() == list(range(8))
    assert rig.place.lines.index(b"REOPENED") == 5
    assert rig.place.lines.count(b"REOPENED") == 1, "one that waits is for both: it opens what is there then"


def test_a_place_that_fails_is_opened_anew_at_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_module, "RETRY_SECONDS", FOREVER)
    rig = Rig()
    rig.place.faults = [OSError(28, "full")]
    rig.sink.start()
    rig.put(0, 3)
    until(lambda: bool(rig.said))
    rig.sink.reopen()
    until(lambda: len(rig.numbers()) == 3)
    assert rig.place.lines[0] == b"REOPENED"
    assert rig.close() == 0


def test_a_place_that_cannot_be_opened_anew(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(13, "Permission denied")

    monkeypatch.setattr(sink_module, "RETRY_SECONDS", 0.001)
    monkeypatch.setattr(rig.place, "reopen", refuse)
    rig.sink.start()
    rig.sink.reopen()
    until(lambda: bool(rig.said))
    assert "Permission denied" in rig.said[0]
    rig.put(0, 3)
    assert rig.close() == 0
    assert rig.numbers() == [0, 1, 2]


# ---- the end ----


def test_a_place_that_hangs_is_left(rig: Rig) -> None:
    rig.place.hang()
    rig.sink.start()
    rig.put(0, 120)
    rig.place.entered.wait()
    assert rig.sink.close(0, 0) == 100
    assert rig.sink.dropped == 120
    rig.put(120, 122)
    assert rig.sink.dropped == 122
    rig.place.open.set()
    assert rig.sink._thread is not None
    rig.sink._thread.join()
    assert rig.sink.dropped == 122
    assert rig.place.closed.is_set()


def test_a_place_may_go_on_at_the_end_as_long_as_lines_go_out_but_not_for_ever(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(sink_module.time, "monotonic", lambda: now[0])
    rig.place.room = 1
    rig.put(0, 100)
    written = rig.sink._wrote

    def wrote(count: int) -> None:
        now[0] += 0.25  # less than a place may take for one, more than it may for all
        if now[0] > 110:
            rig.place.hang()
        written(count)

    rig.sink._wrote = wrote  # type: ignore[method-assign]
    left = rig.sink.close(0.5, 10)
    assert len(rig.numbers()) > 30
    assert left + len(rig.numbers()) == 100


def test_a_place_without_room_is_left_and_what_it_took_is_not_counted(rig: Rig) -> None:
    rig.place.room = 30
    rig.place.open.clear()
    rig.sink.start()
    rig.put(0, 100)
    rig.place.broken, rig.place.faults = BlockingIOError(), []
    rig.place.open.set()
    until(lambda: rig.place.waits > 0)
    left = rig.sink.close(0, 0)
    assert left + len(rig.numbers()) == 100
    assert rig.sink._thread is not None
    rig.sink._thread.join()


def test_a_place_that_fails_is_tried_once_more_at_the_end(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_module, "RETRY_SECONDS", FOREVER)
    rig = Rig()
    rig.place.broken = BrokenPipeError(32, "Broken pipe")
    rig.sink.start()
    rig.put(0, 5)
    until(lambda: bool(rig.said))
    assert rig.close() == 5
    again = Rig()
    again.place.faults = [OSError(28, "full")]
    again.sink.start()
    again.put(0, 5)
    until(lambda: bool(again.said))
    assert again.close() == 0
    assert again.numbers() == list(range(5))


def test_a_place_that_fails_to_close_says_so(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(122, "Disk quota exceeded")

    monkeypatch.setattr(rig.place, "close", refuse)
    assert rig.close() == 0
    assert "Disk quota exceeded" in rig.said[0]


def test_a_thread_that_cannot_be_had_is_asked_for_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        rig.sink.start()
        assert not rig.sink.started
    rig.put(0, 2)
    rig.sink.start()
    assert rig.close() == 0
    assert rig.numbers() == [0, 1]


def test_many_givers(rig: Rig) -> None:
    rig = Rig()
    rig.sink.start()
    givers = [threading.Thread(target=rig.put, args=(first, first + 2000)) for first in range(0, 8000, 2000)]
    for giver in givers:
        giver.start()
    for giver in givers:
        giver.join()
    assert rig.close() == 0
    assert sorted(rig.numbers()) == list(range(8000))
    for first in range(0, 8000, 2000):
        own = [number for number in rig.numbers() if first <= number < first + 2000]
        assert own == sorted(own)


def test_lines_that_a_place_refuses_are_counted_and_told_but_not_by_a_line(rig: Rig) -> None:
    rig.place.faults = [RefusedError(2, "too bad"), RefusedError(1, "still")]
    rig.put(0, 10)
    rig.sink.start()
    assert rig.close() == 0
    assert (rig.sink.written, rig.sink.dropped, rig.told) == (7, 3, [])
    assert rig.numbers() == list(range(3, 10))
    assert rig.said == ["output fake refuses lines, which are dropped: too bad; it has lost 2 so far"]


def test_a_place_is_left_alone_for_as_long_as_it_asks(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_module, "RETRY_SECONDS", 0.001)
    rig.place.faults = [BusyError("busy", 0.3)]
    rig.put(0, 1)
    rig.sink.start()
    began = time.monotonic()
    until(lambda: rig.sink.written == 1)
    assert time.monotonic() - began >= 0.25
    assert rig.said[0].startswith("output fake failed: busy; ")
