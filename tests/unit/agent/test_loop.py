# SPDX-License-Identifier: Apache-2.0
"""Timers and descriptors, with a clock that stands still."""

from __future__ import annotations

import os

from bpfence.agent.loop import Loop


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_timer_fires_once_and_may_set_itself_again() -> None:
    clock, fired = Clock(), list[float]()
    loop = Loop(clock)
    timer = loop.timer(fired.append)
    again = loop.timer(lambda now: setattr(again, "due", now + 5))
    assert loop.until_due() is None
    timer.due, again.due = 101.0, 102.0
    assert loop.until_due() == 1.0
    loop.step(0)
    assert fired == []
    clock.now = 103.0
    assert loop.until_due() == 0.0
    loop.step(0)
    loop.step(0)
    assert (fired, again.due, timer.due) == ([103.0], 108.0, None)
    loop.close()


def test_a_timer_is_moved_forward_only() -> None:
    timer = Loop(Clock()).timer(lambda _: None)
    for moment, due in ((5.0, 5.0), (7.0, 5.0), (3.0, 3.0)):
        timer.by(moment)
        assert timer.due == due


def test_a_limit_on_waiting_is_kept() -> None:
    loop = Loop(Clock())
    loop.timer(lambda _: None).due = 150.0
    assert (loop.until_due(2.0), loop.until_due(90.0)) == (2.0, 50.0)


def test_what_is_readable_is_called() -> None:
    reader, writer = os.pipe()
    loop, read = Loop(Clock()), list[bytes]()
    loop.on_readable(reader, lambda: read.append(os.read(reader, 9)))
    loop.step(0)
    os.write(writer, b"x")
    loop.step()
    assert read == [b"x"]
    loop.close()
    os.close(reader)
    os.close(writer)
