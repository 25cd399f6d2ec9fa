# SPDX-License-Identifier: Apache-2.0
"""Files as they are named on a command line: standard input becomes one, and is called by its name again in mistakes."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from bpfence import names
from bpfence.cli.given import STDIN, opened
from bpfence.errors import Diagnostic, Location, PolicyError


@pytest.fixture(autouse=True)
def stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"kind: X\n")))


def test_other_files_stay_as_they_are() -> None:
    with opened(["a.yaml", "b/"]) as given:
        assert given.files == ("a.yaml", "b/")
        found = [Diagnostic(Location("a.yaml", 1, 1), "text")]
        assert given.named(found) == found


def test_standard_input_is_a_file_for_as_long_as_it_is_read() -> None:
    with opened(["a.yaml", "-"]) as given:
        _, copy = given.files
        assert Path(copy).read_bytes() == b"kind: X\n"
        [told, other] = given.named([Diagnostic(Location(copy, 3, 7), "text"), Diagnostic(Location("a.yaml", 1, 1), "text")])
        assert (told.location.file, told.location.line, told.location.column) == (STDIN, 3, 7)
        assert other.location.file == "a.yaml"
    assert not Path(copy).exists()


def test_mistakes_that_end_the_command_call_it_by_its_name() -> None:
    with pytest.raises(PolicyError) as caught, opened(["-"]) as given:
        raise PolicyError([Diagnostic(Location(given.files[0], 2, 1), "text")])
    assert [diagnostic.location.file for diagnostic in caught.value.diagnostics] == [STDIN]


def test_names_are_symbols_only_where_that_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with opened(["a.yaml"], no_host=True):
        assert names.number("user", "nobody-has-this-name") is not None
    assert "user nobody-has-this-name" in capsys.readouterr().err
    with opened(["a.yaml"]):
        assert names.number("user", "nobody-has-this-name") is None
    assert capsys.readouterr().err == ""
