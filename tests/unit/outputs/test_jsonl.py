# SPDX-License-Identifier: Apache-2.0
"""JSON lines in files and streams, whatever happens to the file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bpfence.alerts.alert import Composer, StatusLine
from bpfence.host.lines import ROTATION_SECONDS
from bpfence.outputs.jsonl import JsonLinesFile, JsonLinesStream


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


def test_stream_writes_at_once(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as stream:
        JsonLinesStream(stream).write([line("now")])
        assert messages(tmp_path / "out") == ["now"]


def test_a_reader_that_went_away_is_an_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream, pytest.raises(BrokenPipeError):
        JsonLinesStream(stream).write([line("unread")])
