# SPDX-License-Identifier: Apache-2.0
"""JSON lines in files and streams, whatever happens to the file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bpfence.events.alert import Composer, StatusLine
from bpfence.outputs import jsonl
from bpfence.outputs.jsonl import ROTATION_SECONDS, JsonLinesFile, JsonLinesStream


def line(text: str) -> StatusLine:
    return Composer("h", lambda: 0).status("test", text)


def messages(path: Path) -> list[str]:
    return [json.loads(text)["message"] for text in path.read_text().splitlines()]


def test_appends_privately(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for text in ("one", "two"):
        output = JsonLinesFile(path)
        output.write([line(text), line(text)])
        output.close()
    assert messages(path) == ["one", "one", "two", "two"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic"):
        JsonLinesFile(tmp_path / "link")
    assert (tmp_path / "target").read_text() == "precious"


def test_a_fifo_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError):
        JsonLinesFile(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(OSError, match="not a regular file"):
        JsonLinesFile(tmp_path / "fifo")
    os.close(reader)


def test_rotation_is_noticed(tmp_path: Path) -> None:
    now = [0.0]
    path = tmp_path / "a.jsonl"
    output = JsonLinesFile(path, lambda: now[0])
    output.write([line("old")])
    path.rename(tmp_path / "a.1")
    output.write([line("still old")])
    now[0] += ROTATION_SECONDS
    output.write([line("new")])
    assert messages(tmp_path / "a.1") == ["old", "still old"]
    assert messages(path) == ["new"]
    path.rename(tmp_path / "a.2")
    output.reopen()
    output.write([line("newer")])
    assert messages(path) == ["newer"]


def test_a_write_cut_short_does_not_join_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    output = JsonLinesFile(path)
    real = os.write
    rooms = [10, 0]

    def full(descriptor: int, data: bytes) -> int:
        if not (room := rooms.pop(0)):
            raise OSError(28, "No space left on device")
        return real(descriptor, bytes(data)[:room])

    monkeypatch.setattr(jsonl.os, "write", full)
    with pytest.raises(OSError, match="No space"):
        output.write([line("lost")])
    monkeypatch.undo()
    output.write([line("kept")])
    torn, whole = path.read_text().splitlines()
    assert len(torn) == 10
    assert json.loads(whole)["message"] == "kept"


def test_stream_writes_at_once(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as stream:
        JsonLinesStream(stream).write([line("now")])
        assert messages(tmp_path / "out") == ["now"]


def test_a_reader_that_went_away_is_an_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream, pytest.raises(BrokenPipeError):
        JsonLinesStream(stream).write([line("unread")])
