# SPDX-License-Identifier: Apache-2.0
"""Whole lines in, a file that others read meanwhile out.

Used by outputs and recordings. A batch is one write(2) on a descriptor in append mode, so lines of several writers do not mix. The file is
private (0600), never reached through a symbolic link in its last component, and opened anew when it was moved or removed.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

ROTATION_SECONDS: Final = 1.0


def _all(descriptor: int, data: bytes) -> int:
    """Writes everything; returns how much of it when an error cut it short, by way of the exception's `written`."""
    view = memoryview(data)
    done = 0
    while done < len(view):
        try:
            done += os.write(descriptor, view[done:])
        except OSError as error:
            error.written = done  # type: ignore[attr-defined]
            raise
    return done


class LineWriter:
    """Whole lines on a descriptor: after a write that was cut short, the next one begins on a new line."""

    def __init__(self) -> None:
        self._torn = False

    def write(self, descriptor: int, lines: Iterable[bytes]) -> None:
        """Write lines, given without their newlines."""
        data = b"".join(line + b"\n" for line in lines)
        if self._torn:
            data = b"\n" + data
        try:
            _all(descriptor, data)
        except OSError as error:
            written = getattr(error, "written", 0)
            if written:
                self._torn = data[written - 1] != 0x0A
            raise
        self._torn = False


class LinesFile:
    """Lines appended to the file that is at a path now, which is looked at once a second."""

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
        descriptor = os.open(self._path, flags, 0o600)
        found = os.fstat(descriptor)
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISCHR(found.st_mode)):
            os.close(descriptor)
            raise OSError(None, f"{self._path} is not a regular file")
        return descriptor, (found.st_dev, found.st_ino)

    def _moved(self) -> bool:
        now = self._monotonic()
        if self._descriptor >= 0 and now - self._checked < ROTATION_SECONDS:
            return False
        self._checked = now
        try:
            found = os.stat(self._path, follow_symlinks=False)
        except OSError:
            return True
        return (found.st_dev, found.st_ino) != self._identity

    def append(self, lines: Iterable[bytes]) -> None:
        """Append lines, given without their newlines."""
        if self._descriptor < 0 or self._moved():
            self.reopen()
        self._writer.write(self._descriptor, lines)

    def size(self) -> int:
        """Bytes in the file that is now at the path, looked at as `append` does."""
        if self._descriptor < 0 or self._moved():
            self.reopen()
        return os.fstat(self._descriptor).st_size

    def reopen(self) -> None:
        """Let go of the file and open what is at the path. When that fails, the next `append` tries again."""
        self.close()
        self._writer = LineWriter()
        self._descriptor, self._identity = self._open()

    def close(self) -> None:
        """Let go of the file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
