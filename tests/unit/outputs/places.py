# SPDX-License-Identifier: Apache-2.0
"""Places that do what one tells them, and patience without a clock that a slow machine could miss."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence


def until(true: Callable[[], bool]) -> None:
    """Waits until something is so. How long that takes is the machine's affair; a test that hangs is ended by its timeout."""
    while not true():
        time.sleep(0.001)


class Fake:
    """A place. `open`: whether a write comes back; `faults`: what the next writes raise; `room`: how many lines one takes."""

    def __init__(self, name: str = "fake") -> None:
        self.name = name
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()
        self.faults: list[Exception] = []
        self.broken: Exception | None = None
        self.room = 1 << 30
        self.lines: list[bytes] = []
        self.writes: list[int] = []
        self.waits = 0
        self.closed = threading.Event()

    def write(self, lines: Sequence[bytes]) -> int:
        self.entered.set()
        self.open.wait()
        if self.faults:
            raise self.faults.pop(0)
        if self.broken:
            raise self.broken
        taken = list(lines[: self.room])
        self.lines += taken
        self.writes.append(len(taken))
        return len(taken)

    def wait(self, seconds: float) -> None:
        self.waits += 1
        time.sleep(0.001)

    def reopen(self) -> None:
        self.lines.append(b"REOPENED")

    def close(self) -> None:
        self.closed.set()

    def hang(self) -> None:
        """From now on no write comes back."""
        self.open.clear()
        self.entered.clear()
