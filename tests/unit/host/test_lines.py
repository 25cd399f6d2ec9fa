# SPDX-License-Identifier: Apache-2.0
"""Lines appended to files that others move away."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from pathlib import Path

import pytest

from bpfence.host import lines
from bpfence.host.lines import LinesFile, LineWriter


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic"):
        LinesFile(tmp_path / "link")
    assert (tmp_path / "target").read_text() == "precious"


def test_a_fifo_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError):
        LinesFile(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(OSError, match="not a regular file"):
        LinesFile(tmp_path / "fifo")
    os.close(reader)


def test_a_file_under_a_lease_is_no_lack_of_room(tmp_path: Path) -> None:
    path = tmp_path / "out"
    file = LinesFile(path)
    file.append([b"one"])
    path.rename(tmp_path / "rotated")
    path.touch()
    holder = os.open(path, os.O_RDONLY)
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        try:
            fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except OSError as error:
            pytest.skip(f"the file system of {tmp_path} has no leases: {error}")
        for _ in range(2):
            with pytest.raises(OSError, match="lease") as caught:
                file.reopen()
            assert not isinstance(caught.value, BlockingIOError)
        fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        assert file.append([b"two"]) == 1
    finally:
        signal.signal(signal.SIGIO, before)
        os.close(holder)
    assert path.read_bytes() == b"two\n"


def test_a_write_cut_short_does_not_join_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    output = LinesFile(path)
    real = os.write
    rooms = [10, 0]

    def full(descriptor: int, data: bytes) -> int:
        if not (room := rooms.pop(0)):
            raise OSError(28, "No space left on device")
        return real(descriptor, bytes(data)[:room])

    monkeypatch.setattr(lines.os, "write", full)
    with pytest.raises(OSError, match="No space"):
        output.append([b"lost and lost"])
    monkeypatch.undo()
    output.append([b"kept"])
    torn, whole = path.read_text().splitlines()
    assert len(torn) == 10
    assert whole == "kept"


class Room:
    """A write(2) that takes so many bytes, then fails, over and over."""

    def __init__(self, *steps: int | OSError) -> None:
        self.steps = list(steps)
        self.data = b""

    def __call__(self, view: memoryview) -> int:
        step = self.steps.pop(0) if self.steps else len(view)
        if isinstance(step, OSError):
            raise step
        self.data += bytes(view[:step])
        return min(step, len(view))


FULL = OSError(28, "No space left on device")
LATER = BlockingIOError(11, "Resource temporarily unavailable")


@pytest.mark.parametrize(
    ("steps", "counts", "data"),
    [
        # A line that an error cut short is on a line of its own, and given again whole.
        ((5, FULL), (1, 2), b"one\nt\ntwo\nthree\n"),
        ((6, FULL, 1, FULL), (1, 0, 2), b"one\ntw\ntwo\nthree\n"),
        # Its newline alone was missing: it is whole.
        ((7, FULL), (2, 1), b"one\ntwo\nthree\n"),
        ((3, FULL, FULL), (1, 0, 2), b"one\ntwo\nthree\n"),
        # Cut between lines.
        ((8, FULL), (2, 1), b"one\ntwo\nthree\n"),
        ((FULL,), (0, 3), b"one\ntwo\nthree\n"),
        # For want of room: it goes on, however often.
        ((5, LATER), (1, 2), b"one\ntwo\nthree\n"),
        ((5, LATER, 1, LATER, LATER), (1, 0, 0, 2), b"one\ntwo\nthree\n"),
        ((7, LATER, LATER), (2, 0, 1), b"one\ntwo\nthree\n"),
        ((5, LATER, FULL, FULL), (1, 0, 0, 2), b"one\nt\ntwo\nthree\n"),
        # Short writes without an error.
        ((1, 1, 1, 1, 1), (3,), b"one\ntwo\nthree\n"),
    ],
)
def test_how_many_lines_went_out_is_known(steps: tuple[int | OSError, ...], counts: tuple[int, ...], data: bytes) -> None:
    room, writer, left = Room(*steps), LineWriter(), [b"one", b"two", b"three"]
    found = []
    while left:
        try:
            found.append(writer.write(room, left))
        except OSError:
            found.append(0)
        left = left[found[-1] :]
    assert tuple(found) == counts
    assert room.data == data


def test_another_line_after_one_that_was_cut_for_want_of_room_is_on_its_own() -> None:
    room, writer = Room(2, LATER), LineWriter()
    with pytest.raises(BlockingIOError):
        writer.write(room, [b"three"])
    assert writer.write(room, [b"four"]) == 1
    assert room.data == b"th\nfour\n"


@pytest.mark.parametrize("moved", [False, True])
def test_a_line_that_was_cut_is_not_continued_after_a_reopening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: bool) -> None:
    path = tmp_path / "out"
    file = LinesFile(path)
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) < 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[:4])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        file.append([b"0123456789"])
    monkeypatch.setattr(os, "write", write)
    if moved:
        path.rename(tmp_path / "out.1")
    file.reopen()
    assert file.append([b"0123456789"]) == 1
    assert path.read_bytes() == (b"0123456789\n" if moved else b"0123\n0123456789\n")
    file.close()
