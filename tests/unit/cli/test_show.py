# SPDX-License-Identifier: Apache-2.0
"""Diagnostics with their source line, errors as text and as JSON."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from bpfence.cli.show import error_as_json, show_diagnostics, source_lines
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
