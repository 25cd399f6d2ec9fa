# SPDX-License-Identifier: Apache-2.0
"""Whole lines of bytes in, files and streams out.

Called by a `Sink` in its own thread. A place says how many lines it took, or raises the system's error where it took none. It keeps
nothing, counts nothing, and tries nothing again.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Final, Protocol

from bpfence.host.lines import LinesFile, LineWriter

Put = Callable[[memoryview], int]
STUCK_SECONDS: Final = 60.0
"""How many seconds after a rotation that has failed the next one is tried."""


class BusyError(OSError):
    """Lines cannot be taken now. `after`: seconds after which to try again at the soonest."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(None, reason)
        self.reason = reason
        self.after = after

    def __str__(self) -> str:
        return self.reason


class RefusedError(Exception):
    """The first `count` lines will never be taken."""

    def __init__(self, count: int, reason: str) -> None:
        super().__init__(reason)
        self.count = count


class PartlyError(Exception):
    """Of the first `count` lines, by their numbers from 0 on, `taken` went out and `refused` never will; the others are to be written
    again, not before `after` seconds where that is said. `reason`: of those that did not go out."""

    def __init__(self, *, count: int, taken: Sequence[int], refused: Sequence[int], reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.count = count
        self.taken = taken
        self.refused = refused
        self.after = after


class Place(Protocol):
    """Where lines go. All but `name` may raise OSError."""

    name: str

    def write(self, lines: Sequence[bytes]) -> int:
        """Write lines, given without their newlines; how many went out whole. Where none did: OSError; BlockingIOError for want of room."""

    def wait(self, seconds: float) -> None:
        """To be called after BlockingIOError: wait until there is room, at most so long."""

    def reopen(self) -> None:
        """Open again what may have been moved away (log rotation)."""

    def close(self) -> None:
        """Let go."""


class File:
    """`jsonl:PATH`: appended to the file that is now at the path, looked at once a second. OSError where it cannot be opened."""

    def __init__(self, path: Path) -> None:
        self.name = f"jsonl:{path}"
        self._file = LinesFile(path)

    @property
    def folder(self) -> Path:
        """Where the file is made anew after a rotation."""
        return self._file.folder

    def write(self, lines: Sequence[bytes]) -> int:
        """Append."""
        return self._file.append(lines)

    def wait(self, seconds: float) -> None:
        """Wait for room: a terminal may stand in the file's place."""
        self._file.wait(seconds)

    def reopen(self) -> None:
        """Open what is at the path now."""
        self._file.reopen()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


class Rotated(File):
    """The same, begun anew when it would become larger than `size` bytes, or when another period of `seconds` begins (0: never).

    What it was is then at PATH.1, what that was at PATH.2, and so on up to PATH.`keep`; what was there goes. Where files cannot be renamed
    that is told, and the file grows. `report` takes messages for people.
    """

    def __init__(
        self, path: Path, report: Callable[[str], None], *, size: int, seconds: int, keep: int, now: Callable[[], float] = time.time
    ) -> None:
        super().__init__(path)
        self._path = path
        self._report = report
        self._size, self._seconds, self._keep = size, seconds, keep
        self._now = now
        self._stuck_until = float("-inf")

    def write(self, lines: Sequence[bytes]) -> int:
        """Append as many lines as fit into this file, and at least one."""
        length = self._file.size()
        if self._due(length, len(lines[0]) + 1) and self._now() >= self._stuck_until:
            self._rotate()
            length = self._file.size()
        count = len(lines)
        if self._size and self._now() >= self._stuck_until:
            count = 0
            for line in lines:
                length += len(line) + 1
                if count and length > self._size:
                    break
                count += 1
        return super().write(lines[:count])

    def _due(self, length: int, more: int) -> bool:
        if not length:
            return False
        older = bool(self._seconds) and int(self._file.modified() // self._seconds) != int(self._now() // self._seconds)
        return older or bool(self._size and length + more > self._size)

    def _rotate(self) -> None:
        numbered = [self._path.with_name(f"{self._path.name}.{number}") for number in range(1, self._keep + 1)]
        try:
            for older, newer in zip(reversed(numbered[1:]), reversed(numbered[:-1]), strict=True):
                with contextlib.suppress(FileNotFoundError):
                    newer.rename(older)
            with contextlib.suppress(FileNotFoundError):
                self._path.rename(numbered[0]) if numbered else self._path.unlink()
        except OSError as error:
            self._stuck_until = self._now() + STUCK_SECONDS
            self._report(f"output {self.name} cannot be rotated: {error.strerror or error}; it goes on in the same file")
            return
        self._file.reopen()


class Stream:
    """Standard output or error. Others use it too, so it is not closed and its flags are not changed."""

    def __init__(self, stream: IO[str], name: str) -> None:
        self.name = name
        self._stream = stream
        self._writer = LineWriter()
        stream.flush()
        try:
            self._descriptor = stream.fileno()
        except OSError:  # a stream without a descriptor (io.UnsupportedOperation): a test's
            self._descriptor = -1
        self._own, self._put = _patient(self._descriptor)

    def write(self, lines: Sequence[bytes]) -> int:
        """Write as much as there is room for. Where the system cannot tell how much that is, wait for room."""
        if self._descriptor < 0:
            self._stream.write("".join([line.decode() + "\n" for line in lines]))
            return len(lines)
        return self._writer.write(self._put, lines)

    def wait(self, seconds: float) -> None:
        """Wait until the reader has read."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        poll.poll(seconds * 1000)

    def reopen(self) -> None:
        """There is nothing to open."""

    def close(self) -> None:
        """Close our own descriptor for it."""
        own, self._own = self._own, None
        if own is not None:
            own.close()


def _patient(descriptor: int) -> tuple[_Owned | socket.socket | None, Put]:
    """A function that writes to a descriptor without waiting for room, as write(2) does with O_NONBLOCK; and a descriptor that must be
    closed for it.

    The flag belongs to the open file, which others share (the shell, for one), so it is not set there: pipes and terminals are opened once
    more through proc(5). Anything else, and what cannot be opened, is written to as it is.
    """
    plain = partial(os.write, descriptor)
    with contextlib.suppress(OSError):
        mode = os.fstat(descriptor).st_mode if descriptor >= 0 else 0
        if stat.S_ISSOCK(mode):
            own = socket.socket(fileno=os.dup(descriptor))
            return own, lambda view: own.send(view, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        if stat.S_ISFIFO(mode) or (stat.S_ISCHR(mode) and os.isatty(descriptor)):
            opened = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            return _Owned(opened), partial(os.write, opened)
    return None, plain


class _Owned:
    """A descriptor that is closed once."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)
