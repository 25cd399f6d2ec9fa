# SPDX-License-Identifier: Apache-2.0
"""Descriptors and moments in, calls out: the loop in which all work of the agent is done. An idle agent sleeps until something comes."""

from __future__ import annotations

import selectors
from collections.abc import Callable
from typing import Any


class Timer:
    """A moment at which something is called, once; None: never. Times are those of the loop's clock, in seconds."""

    def __init__(self, then: Callable[[float], Any]) -> None:
        self.due: float | None = None
        self.then = then

    def by(self, moment: float) -> None:
        """At this moment at the latest."""
        self.due = moment if self.due is None else min(moment, self.due)


class Loop:
    """`now`: a monotonic clock."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self._selector = selectors.DefaultSelector()
        self._timers: list[Timer] = []

    def on_readable(self, descriptor: int, then: Callable[[], Any]) -> None:
        """Have `then` called by `step` whenever `descriptor` is readable."""
        self._selector.register(descriptor, selectors.EVENT_READ, then)

    def timer(self, then: Callable[[float], Any]) -> Timer:
        """A timer that is not set. `then` is given the time, after the timer was taken back: it may set it again."""
        made = Timer(then)
        self._timers.append(made)
        return made

    def until_due(self, timeout: float | None = None) -> float | None:
        """Seconds until the next timer, at most `timeout`; None: nothing is due."""
        now = self.now()
        due = [timer.due - now for timer in self._timers if timer.due is not None]
        waits = [*due, *([] if timeout is None else [timeout])]
        return max(0.0, min(waits)) if waits else None

    def step(self, timeout: float | None = None) -> None:
        """Waits for the next thing to do, at most `timeout` seconds, and does it."""
        for key, _ in self._selector.select(self.until_due(timeout)):
            key.data()
        now = self.now()
        for timer in self._timers:
            if timer.due is not None and now >= timer.due:
                timer.due = None
                timer.then(now)

    def close(self) -> None:
        """Nothing is called any more."""
        self._selector.close()
