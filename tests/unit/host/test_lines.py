# SPDX-License-Identifier: Apache-2.0
"""Lines appended to files that others move away."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bpfence.host import lines
from bpfence.host.lines import LinesFile


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
