# SPDX-License-Identifier: Apache-2.0
"""Descriptors and times in, calls out: the loop in which the agent does all its work. An idle agent sleeps until something comes."""

from __future__ import annotations

import selectors
from collections.abc import Callable
from typing import Any


class Timer:
    """A time at which something is called, once; None: never. Times are those of the loop's clock, in seconds."""

    def __init__(self, then: Callable[[float], Any]) -> None:
        self.due: float | None = None
        self.then = then

    def by(self, moment: float) -> None:
        """Set it to this time, unless it is set to an earlier one."""
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
        """A timer that is not set. `then` is called with the time. The timer is reset before, so `then` may set it again."""
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
        """Wait for the next thing to do, at most `timeout` seconds, and do it."""
        for key, _ in self._selector.select(self.until_due(timeout)):
            key.data()
        now = self.now()
        for timer in self._timers:
            if timer.due is not None and now >= timer.due:
                timer.due = None
                timer.then(now)

    def close(self) -> None:
        """Close; nothing is called any more."""
        self._selector.close()
