# SPDX-License-Identifier: Apache-2.0
"""Whole lines in, a file that others may read at the same time out.

Used by outputs and recordings. A batch is one write(2) on a descriptor in append mode, so that lines of several writers do not mix. The
file is private (0600), never reached through a symbolic link in its last component, and opened anew when it was moved or removed.
"""

from __future__ import annotations

import os
import select
import stat
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

ROTATION_SECONDS: Final = 1.0


class LineWriter:
    """Writes whole lines with write(2). After an error has cut a line short, the next one begins on a new line.

    A line that was cut for want of room (EAGAIN) is continued where it was cut, if it is the first that is given again.
    """

    def __init__(self) -> None:
        self._torn = False
        self._begun: tuple[bytes, int] | None = None

    def write(self, put: Callable[[memoryview], int], lines: Sequence[bytes]) -> int:
        """Write lines, given without their newlines; how many went out whole. OSError where none did. `put` is as write(2) to the place."""
        data = b"".join([line + b"\n" for line in lines])
        at, lead = 0, 0
        if self._begun is not None and lines and lines[0] == self._begun[0]:
            at = self._begun[1]
        elif self._torn:
            data, lead = b"\n" + data, 1
        view = memoryview(data)
        try:
            while at < len(view):
                at += put(view[at:])
        except OSError as error:
            whole = self._cut(lines, at - lead, going_on=isinstance(error, BlockingIOError))
            if not whole:
                raise
            return whole
        self._torn, self._begun = False, None
        return len(lines)

    def _cut(self, lines: Sequence[bytes], written: int, *, going_on: bool) -> int:
        """Note how much was written: that many bytes of these lines. Returns how many lines are complete. Less than 0 bytes: nothing has
        changed."""
        whole = 0
        if written >= 0:
            while whole < len(lines) and written > len(lines[whole]):
                written -= len(lines[whole]) + 1
                whole += 1
            self._torn = written > 0
            if self._torn and written == len(lines[whole]):  # all but its newline, which then comes first next time
                self._begun = None
                return whole + 1
            self._begun = (lines[whole], written) if self._torn and going_on else None
        return whole


class LinesFile:
    """Lines appended to the file that is at a path now. The path is looked at again once a second."""

    def __init__(self, path: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._monotonic = monotonic
        self._writer = LineWriter()
        self._descriptor, self._identity = self._open()
        self._checked = monotonic()

    @property
    def folder(self) -> Path:
        """Where the file is made anew after a rotation."""
        return self._path.absolute().parent

    def _open(self) -> tuple[int, tuple[int, int]]:
        # O_NONBLOCK: a FIFO put in the file's place must not stop us. It has no effect on regular files.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            descriptor = os.open(self._path, flags, 0o600)
        except BlockingIOError:  # tried again later: nothing is open yet whose room could be waited for
            raise OSError(None, f"{self._path}: another process has a lease on it") from None
        status = os.fstat(descriptor)
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISCHR(status.st_mode)):
            os.close(descriptor)
            raise OSError(None, f"{self._path} is not a regular file")
        return descriptor, (status.st_dev, status.st_ino)

    def _moved(self) -> bool:
        now = self._monotonic()
        if self._descriptor >= 0 and now - self._checked < ROTATION_SECONDS:
            return False
        self._checked = now
        try:
            status = os.stat(self._path, follow_symlinks=False)
        except OSError:
            return True
        return (status.st_dev, status.st_ino) != self._identity

    def append(self, lines: Sequence[bytes]) -> int:
        """Append lines, given without their newlines; how many went out whole. OSError where none did."""
        if self._descriptor < 0 or self._moved():
            self.reopen()
        return self._writer.write(partial(os.write, self._descriptor), lines)

    def wait(self, seconds: float) -> None:
        """To be called after BlockingIOError: wait until there is room in what is at the path, at most so long."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        poll.poll(seconds * 1000)

    def size(self) -> int:
        """Bytes in the file that is now at the path, looked at as `append` does."""
        if self._descriptor < 0 or self._moved():
            self.reopen()
        return os.fstat(self._descriptor).st_size

    def modified(self) -> float:
        """When that file was written last, in seconds since 1970; to be called after `size`."""
        return os.fstat(self._descriptor).st_mtime

    def reopen(self) -> None:
        """Let go of the file and open what is at the path. When that fails, the next `append` tries again.

        Where that is the same file, a line that was cut short is still its last.
        """
        before = self._identity
        self.close()
        self._descriptor, self._identity = self._open()
        if self._identity != before:
            self._writer = LineWriter()

    def close(self) -> None:
        """Let go of the file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
