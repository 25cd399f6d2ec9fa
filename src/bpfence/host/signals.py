# SPDX-License-Identifier: Apache-2.0
"""Signals in, something to select on out. Called by the agent, and by what waits for a command."""

from __future__ import annotations

import signal
import socket
from collections import deque
from collections.abc import Collection


class Signals:
    """Signals as something to select on: caught while the context is open, and taken in the order they came."""

    def __init__(self, numbers: Collection[int]) -> None:
        self._numbers = numbers
        self._taken: deque[int] = deque()

    def __enter__(self) -> Signals:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._old_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._old = {number: signal.signal(number, self._note) for number in self._numbers}
        return self

    def _note(self, number: int, _frame: object) -> None:
        self._taken.append(number)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_fd)
        self._reader.close()
        self._writer.close()

    def fileno(self) -> int:
        """Readable when a signal has come."""
        return self._reader.fileno()

    def take(self) -> list[int]:
        """Signals that have come since the last call."""
        try:
            while self._reader.recv(4096):
                pass
        except BlockingIOError:
            pass
        taken = []
        while self._taken:
            taken.append(self._taken.popleft())
        return taken
