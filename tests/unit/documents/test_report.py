"""Suggestions, and the one table of codes."""

from __future__ import annotations

import pytest

from bpfence.documents.report import MAX_OF_FILE, Report
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


@pytest.mark.parametrize(
    ("warnings", "errors", "told"),
    [(0, 0, None), (200, 0, None), (100, 100, None), (201, 0, "warning"), (300, 5, "warning"), (0, 201, "error"), (50, 300, "error")],
)
def test_of_many_findings_errors_are_kept(warnings: int, errors: int, told: str | None) -> None:
    report = Report({"a": "a", "too-many": "more"})
    report.add(Location("other"), "a", "of another file", "", "warning")
    for n in range(warnings + errors):
        report.add(Location("f", n + 1), "a", "x", "", "warning" if n < warnings else "error")
    report.cut(1, "f")
    other, *found = report.diagnostics
    assert other.message == "of another file"
    if told is None:
        assert len(found) == warnings + errors
        return
    *kept, last = found
    assert (len(kept), last.code, last.severity) == (MAX_OF_FILE, "too-many", told)
    assert sum(one.severity == "error" for one in kept) == min(errors, MAX_OF_FILE)
    assert f"{warnings + errors - MAX_OF_FILE} more findings" in last.message
    assert [one.location.line for one in kept] == sorted(one.location.line for one in kept)


def test_only_errors_count() -> None:
    report = Report()
    report.add(Location("f", 2), "useless", "b", severity="warning")
    report.add(Location("f", 1), "useless", "a")
    assert report.errors == 1
    report.sort(0)
    assert [d.message for d in report.diagnostics] == ["a", "b"]
