# SPDX-License-Identifier: Apache-2.0
"""Messages for people in, standard error out, whether or not anybody reads it.

Made by the commands that stay: `run`, `exec` and `seccomp supervise`. Until `start` a message is written at once, as any command does it.
From then on a sink's thread writes it, so that no message holds up its caller.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, Final

from bpfence.outputs.places import Stream
from bpfence.outputs.sink import Sink

NAME: Final = "standard error"
MAX_LINES: Final = 1024
CLOSE_SECONDS: Final = 0.2


def _say_nothing(_text: str) -> None:
    """Ignores a message: standard error cannot say that standard error is full."""


class MessageQueue:
    """A `report` that never waits. `shown` turns a message into the text that is written, without its last newline."""

    def __init__(self, stream: IO[str], shown: Callable[[str], str]) -> None:
        self._stream = stream
        self._shown = shown
        self._sink: Sink | None = None

    def __call__(self, text: str) -> None:
        """Tell a message."""
        self.put(self._shown(text))

    def put(self, text: str) -> None:
        """Write a text as it is, and a newline."""
        if self._sink is not None:
            self._sink.put([text.encode(getattr(self._stream, "encoding", None) or "utf-8", "backslashreplace")])
        else:
            self._stream.write(text + "\n")
            self._stream.flush()

    def start(self, caught_up: Callable[[Sink, int], None]) -> None:
        """From now on a thread writes. `caught_up`: see Sink."""
        if self._sink is None:
            self._sink = Sink(Stream(self._stream, NAME), _say_nothing, caught_up, max_lines=MAX_LINES)
        self._sink.start()

    @property
    def dropped(self) -> int:
        """How many could not be written."""
        return self._sink.dropped if self._sink is not None else 0

    def close(self) -> None:
        """Write what is waiting, as far as that takes no time. Where all went out, messages are written at once again; otherwise they are
        dropped."""
        if self._sink is not None and not self._sink.close(CLOSE_SECONDS, CLOSE_SECONDS):
            self._sink = None
