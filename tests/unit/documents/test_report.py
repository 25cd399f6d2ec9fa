"""Suggestions, and the one table of codes."""

from __future__ import annotations

import pytest

from bpfence.documents.report import Report
from bpfence.errors import Location
from bpfence.words import quoted, suggest


@pytest.mark.parametrize(
    ("word", "known", "hint"),
    [
        ("acton", ["action", "match"], "did you mean 'action'?"),
        ("SIGTREM", ["SIGTERM", "sigterm"], "did you mean 'SIGTERM'?"),
        ("path", ["process.exe", "file.path"], "did you mean 'file.path'?"),
        ("zzz", ["action"], "otherwise"),
        ("", ["action"], "otherwise"),
    ],
)
def test_suggest(word: str, known: list[str], hint: str) -> None:
    assert suggest(word, known, "otherwise") == hint


def test_quoted_text_is_short_and_harmless() -> None:
    assert quoted("\x1b[2J\n") == r"'\x1b[2J\n'"
    assert len(quoted("x" * 1000)) < 70


def test_a_code_must_be_in_the_table() -> None:
    with pytest.raises(KeyError):
        Report().add(Location("f"), "no-such-code", "x")


def test_only_errors_count() -> None:
    report = Report()
    report.add(Location("f", 2), "useless", "b", severity="warning")
    report.add(Location("f", 1), "useless", "a")
    assert report.errors == 1
    report.sort(0)
    assert [d.message for d in report.diagnostics] == ["a", "b"]
