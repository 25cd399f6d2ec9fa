# SPDX-License-Identifier: Apache-2.0
"""Figures that are kept, and given out only while the sources are those that were measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import results
from benchmarks.results import Figure


def test_parts_become_one(tmp_path: Path) -> None:
    results.keep("one", {"a": Figure(1, "s"), "b": Figure(2, "instructions", 1)}, {"kernel": "6.12"}, tmp_path)
    results.keep("two", {"c": Figure(3, "MiB")}, folder=tmp_path)
    everything = results.kept(tmp_path)
    assert everything.figures == {"a": Figure(1, "s"), "b": Figure(2, "instructions", 1), "c": Figure(3, "MiB")}
    assert everything.about == {"kernel": "6.12"}
    assert set(results.kept(tmp_path, names=("two",)).figures) == {"c"}


def test_the_last_run_of_a_part_counts(tmp_path: Path) -> None:
    results.keep("one", {"a": Figure(1, "s"), "gone": Figure(1, "s")}, folder=tmp_path)
    results.keep("one", {"a": Figure(2, "s")}, folder=tmp_path)
    assert results.kept(tmp_path).figures == {"a": Figure(2, "s")}


def test_figures_of_other_sources_are_not_given_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results.keep("one", {"a": Figure(1, "s")}, folder=tmp_path)
    monkeypatch.setattr(results, "tree", lambda: "of another state")
    assert results.kept(tmp_path).figures == {}


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text('{"results": []}')
    (tmp_path / "cut.json").write_text('{"tree": "')
    assert results.kept(tmp_path).figures == {}


def test_the_state_of_the_sources_is_that_of_their_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "ROOT", tmp_path)
    source = tmp_path / "src" / "bpfence" / "a.py"
    source.parent.mkdir(parents=True)
    states = []
    for text, generated in (("1", ""), ("2", ""), ("2", "generated")):
        source.write_text(text)
        (source.parent / "_made.c").write_text(generated)
        results.tree.cache_clear()
        states.append(results.tree())
    results.tree.cache_clear()
    assert states[0] != states[1] == states[2]
