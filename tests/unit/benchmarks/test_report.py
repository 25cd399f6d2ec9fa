# SPDX-License-Identifier: Apache-2.0
"""Figures in, the table of targets and the page out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import report, results
from benchmarks.bench import OPERATIONS, SETTINGS
from benchmarks.results import Figure, under
from benchmarks.targets import CONCERNED, OTHER, TARGETS, Target


def every_figure() -> dict[str, Figure]:
    """One of each that the page asks for."""
    made = {target.name: Figure(1050, "instructions", 1000) for target in TARGETS}
    for setting in SETTINGS:
        subjects = ("",) if setting.paths is None else (CONCERNED, OTHER)
        made |= {under(setting.name, name, subject): Figure(200, "instructions", 100) for name in OPERATIONS for subject in subjects}
        made |= {under(setting.name, what): Figure(7.5, "MB") for what in ("start", "resident")}
    for kind in ("latency", "Falco latency", "storm latency"):
        made |= {f"{kind}, {what}": Figure(0.5, "ms") for what in ("p50", "p99", "most")}
    native = ("rules", "tried", "decode", "confirm", "render", "rules a second", "events", "read", "lower", "compile", "image")
    return made | {f"falco {name}": Figure(3, "ms") for name in native}


def test_a_row_says_what_is_added_and_whether_that_is_little_enough() -> None:
    targets = (
        Target("a", "row of a program", "percent", 2),
        Target("b", "an operation", "added", 250),
        Target("c", "time", "most", 0.5),
        Target("d", "rate", "least", 100_000),
        Target("e", "another", "most", 1),
    )
    figures = {
        "a": Figure(1_030_000, "instructions", 1_000_000), "b": Figure(1800, "instructions", 1600), "c": Figure(0.25, "s"),
        "d": Figure(99_999, "a second"),
    }  # fmt: skip
    assert list(report.target_rows(targets, figures)) == [
        ("row of a program", "1,030,000", "instructions", "1,000,000 (+3.00 %)", "≤ +2 %", "**no**"),
        ("an operation", "1,800", "instructions", "1,600 (+12.50 %, +200)", "≤ +250", "yes"),
        ("time", "0.25", "s", "", "≤ 0.5", "yes"),
        ("rate", "99,999", "a second", "", "≥ 100,000", "**no**"),
        ("another", "not measured", "", "", "≤ 1", ""),
    ]


def test_the_page_begins_with_the_targets() -> None:
    text = report.page(every_figure(), {"kernel": "6.12.1"})
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert [len(table.splitlines()) - 2 for table in tables] == [len(TARGETS), len(OPERATIONS), len(OPERATIONS), len(OPERATIONS)]
    assert "not measured" not in text
    assert "6.12.1" in text
    assert "## Falco's rules" in text


def test_without_falcos_rules_the_page_says_nothing_of_them() -> None:
    figures = {name: figure for name, figure in every_figure().items() if "falco" not in name.lower()}
    text = report.page(figures, {"kernel": "6.12.1"})
    assert "## Falco's rules" not in text
    assert "not measured" in text


def test_without_a_whole_run_the_page_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("as it was")
    monkeypatch.setattr(report, "REPORT", page)
    monkeypatch.setattr(report, "kept", lambda names: results.kept(tmp_path / "nothing", names))
    assert report.main() == 1
    assert page.read_text() == "as it was"


def test_the_page_as_it_is_explains_what_the_next_run_will() -> None:
    """What is written by hand is written in report.py: from the page the next run would take it away."""
    assert f"## Why some are missed\n\n{report.FLOORS}\n\n" in (Path(__file__).parents[3] / "docs" / report.REPORT.name).read_text()
