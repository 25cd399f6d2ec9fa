# SPDX-License-Identifier: Apache-2.0
"""Diagnostics with their source line, errors as text and as JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path

import click
import pytest
from rich.console import Console

from bpfence.cli.show import error_as_json, met, out, show_diagnostics, show_usage, source_lines, table
from bpfence.errors import Diagnostic, KernelError, Location, PolicyError


def shown(found: Diagnostic, terminal: bool = True) -> str:
    stream = io.StringIO()
    console = Console(
        file=stream, force_terminal=terminal, color_system=None, width=400, markup=False, emoji=False, _environ={"TERM": "xterm"}
    )
    show_diagnostics([found], console)
    return stream.getvalue()


def test_a_terminal_shows_the_line_and_a_caret(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("one\n  on: opne\n")
    text = shown(Diagnostic(Location(str(path), 2, 7), "unknown event", "did you mean 'open'?", code="unknown-event"))
    assert text.splitlines() == [
        f"{path}:2:7: error: unknown event [unknown-event]", "    2 │   on: opne", "      │       ^", "  hint: did you mean 'open'?",
    ]  # fmt: skip
    assert "│" not in shown(Diagnostic(Location(str(path), 2, 7), "unknown event"), terminal=False)


@pytest.mark.parametrize(("content", "column", "before"), [("\x1bab", 3, r"\x1ba"), ("漢x", 2, "漢"), ("\tx", 2, " ")])
def test_the_caret_stands_below_the_place(tmp_path: Path, content: str, column: int, before: str) -> None:
    from rich.cells import cell_len

    path = tmp_path / "p.yaml"
    path.write_text(content)
    line, caret = source_lines(Diagnostic(Location(str(path), 1, column), "m"), {})
    assert line.plain.startswith(f"    1 │ {before}")
    assert caret.plain.index("^") == len("    1 │ ") + cell_len(before)


def test_long_lines_are_cut_around_the_place(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("a" * 5000 + "B" + "c" * 5000)
    line, caret = source_lines(Diagnostic(Location(str(path), 1, 5001), "m"), {})
    assert len(line.plain) < 250
    assert line.plain[caret.plain.index("^")] == "B"


@pytest.mark.parametrize(
    "place", [Location("/nonexistent", 1, 1), Location("/etc", 1, 1), Location("<text>"), Location("/etc/hostname", 9999, 1)]
)
def test_what_cannot_be_shown_is_left_out(place: Location) -> None:
    assert source_lines(Diagnostic(place, "m"), {}) == []


def test_errors_as_json() -> None:
    found = error_as_json(KernelError("no\x1b\ndetails", missing="lsm", hint="boot"))
    assert found == {"error": r"no\x1b", "missing": "lsm", "hint": "boot"}
    policy = error_as_json(PolicyError([Diagnostic(Location("f\x07", 1, 2), "m")]))
    assert policy["findings"][0]["file"] == r"f\x07"


@pytest.mark.parametrize(
    ("events", "expected", "mismatches", "words"),
    [
        (2, 2, 0, "2 events, all as expected"),
        (1, 1, 1, "1 event, 1 not as expected"),
        (3, 1, 0, "3 events, 1 as expected, 2 without `expect`"),
        (2, 0, 0, "2 events, without `expect`: nothing was compared"),
        (0, 0, 0, "0 events, without `expect`: nothing was compared"),
    ],
)
def test_how_many_events_were_as_expected(events: int, expected: int, mismatches: int, words: str) -> None:
    assert met(events, expected, mismatches) == words


def test_a_table_that_is_not_for_a_terminal_is_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 150
    out().print(table("", "", rows=[(long, "end of a line"), ("short", "end")]))
    assert capsys.readouterr().out == f"{long}  end of a line\n{'short':150}  end\n"


def test_on_a_terminal_a_long_word_is_folded_and_not_cut() -> None:
    console = Console(file=io.StringIO(), width=40)
    console.print(table("", "", rows=[("kernel", "unprivileged_bpf_disabled" * 3)]))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "…" not in shown
    assert "".join(shown.split()) == "kernel" + "unprivileged_bpf_disabled" * 3


def test_wrong_usage_is_told_as_every_other_error_is(capsys: pytest.CaptureFixture[str]) -> None:
    context = click.Context(click.Command("check"), info_name="bpfence check")
    error = click.UsageError("Missing argument 'FILES...'.", context)
    show_usage(error, as_json=False)
    assert capsys.readouterr().err == "error: Missing argument 'FILES...'.\nhint: see `bpfence check --help`\n"
    show_usage(error, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"error": "Missing argument 'FILES...'.", "hint": "see `bpfence check --help`"}
