# SPDX-License-Identifier: Apache-2.0
"""Files as they are named on a command line: standard input is one, by its own name."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from bpfence import names
from bpfence.cli.given import STDIN, look, naming, read
from bpfence.documents.placed import MAX_BYTES
from bpfence.errors import PolicyError

FALCO = "- rule: a\n  desc: d\n  condition: evt.type=execve and\n  output: x\n  priority: INFO\n"


def given(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))


def test_standard_input_is_a_file_among_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, b"kind: X\n")
    (tmp_path / "rules.yaml").write_text(FALCO)
    found, unread = look([str(tmp_path / "rules.yaml"), "-"])
    assert {name: [source.file for source in sources] for name, sources in found.items()} == {
        "native": [STDIN],
        "falco": [str(tmp_path / "rules.yaml")],
    }
    assert (found["native"][0].data, unread) == (b"kind: X\n", [])


def test_no_more_of_standard_input_is_read_than_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, b"#" * (MAX_BYTES + 100))
    assert len(look(["-"])[0]["native"][0].data) == MAX_BYTES + 1


def test_what_is_not_read_is_told_or_ends_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert read([str(tmp_path)]) == {}
    assert "holds no policy" in capsys.readouterr().err
    with pytest.raises(PolicyError, match="cannot be read"):
        read([str(tmp_path / "none")])


def test_names_are_symbols_only_where_that_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with naming(no_host=True):
        assert names.number("user", "nobody-has-this-name") is not None
    assert "user nobody-has-this-name" in capsys.readouterr().err
    with naming(no_host=False):
        assert names.number("user", "nobody-has-this-name") is None
    assert capsys.readouterr().err == ""
