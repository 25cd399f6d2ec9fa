# SPDX-License-Identifier: Apache-2.0
"""What `make bench-quick` takes for a loss, and how delays are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import bench


@pytest.mark.parametrize(
    ("operation", "now", "before", "lost"),
    [
        ("pwrite", [1800, 1600], [1640, 1600], False),
        ("pwrite", [1805, 1600], [1640, 1600], True),
        ("start", [4.5], [4.0], True),
        ("start", [4.3], [4.0], False),
        ("gcc", [1022, 1000], [1020, 1000], False),
        ("gcc", [1024, 1000], [1020, 1000], True),
        ("gcc", [2024, 2000], [1020, 1000], False),
        ("sqlite", [1440, 1000], [1400, 1000], False),
        ("sqlite", [1441, 1000], [1400, 1000], True),
        ("redis", [1000, 1000], None, True),
    ],
)
def test_loses(operation: str, now: list[float], before: list[float] | None, lost: bool) -> None:
    assert bench.loses(operation, now, before) is lost


def test_a_loss_is_an_error_and_keeping_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    figures = tmp_path / "figures.json"
    monkeypatch.setattr(bench, "FIGURES", figures)
    assert bench.compare({"a setting": {"pwrite": [1700, 1600]}}, keep=False) == 1
    assert bench.compare({"a setting": {"pwrite": [1700, 1600]}}, keep=True) == 0
    assert bench.compare({"a setting": {"pwrite": [1700, 1600]}}, keep=False) == 0
    assert "WORSE" in capsys.readouterr().out
    assert bench.compare({"a setting": {"pwrite": [1900, 1600]}}, keep=False) == 1
    assert json.loads(figures.read_text()) == {"a setting": {"pwrite": [1700, 1600]}}
    assert "WORSE" in capsys.readouterr().out


def test_what_is_kept_can_be_compared() -> None:
    kept = json.loads(bench.FIGURES.read_text())
    assert kept
    assert set(kept) <= set(bench.QUICK)
    for figures in kept.values():
        assert not any(bench.loses(operation, figure, figure) for operation, figure in figures.items())


def test_waits_are_from_an_alerts_time_to_the_rest_of_its_line() -> None:
    def line(kind: str, time: str) -> bytes:
        return json.dumps({"kind": kind, "time": time}).encode() + b"\n"

    first, second = line("alert", "1970-01-01T00:00:01.000500000Z"), line("alert", "1970-01-01T00:00:01.5Z")
    read = [(1_001_000_000, first + second[:9]), (1_502_000_000, second[9:] + line("status", "1970-01-01T00:00:01Z"))]
    assert list(bench.waits(read)) == pytest.approx([0.5, 2.0])
