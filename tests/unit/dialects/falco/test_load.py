# SPDX-License-Identifier: Apache-2.0
"""Which files are Falco's, and which of their rules are chosen. What the rules mean: test_resolution, read/, lower/."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpfence.dialects.falco.load import is_falco, load_text, select, split

RULE = "- rule: {0}\n  desc: d\n  condition: evt.type=open\n  output: o\n  priority: {1}\n  tags: [{2}]\n"
NATIVE = "apiVersion: bpfence.io/v1alpha1\nkind: SecurityPolicy\n"


@pytest.mark.parametrize(
    ("text", "falco"),
    [
        ("- rule: x\n", True),
        ("- {macro: x}\n", True),
        ('  - "list": x\n', True),
        ("- required_engine_version: 0.1\n", True),
        (NATIVE, False),
        (NATIVE + "spec:\n  rules:\n    - rule: x\n", False),
        ("", False),
    ],
)
def test_whose_a_text_is(text: str, falco: bool) -> None:
    assert is_falco(text.encode()) is falco


def test_a_directory_of_both_is_taken_apart(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(NATIVE)
    (tmp_path / "b.yaml").write_text("- rule: x\n")
    only = tmp_path / "only"
    only.mkdir()
    (only / "c.yaml").write_text(NATIVE)
    assert split([str(tmp_path), str(only)]) == ((str(tmp_path / "a.yaml"), str(only)), (str(tmp_path / "b.yaml"),))


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        ({}, ["a", "b"]),
        ({"names": ["a*"]}, ["a"]),
        ({"tags": ["t2"]}, ["b"]),
        ({"disabled": ["b"]}, ["a"]),
        ({"priority": "Error"}, ["b"]),
    ],
)
def test_rules_are_chosen(options: dict[str, object], chosen: list[str]) -> None:
    rules = load_text(RULE.format("a", "INFO", "t1") + RULE.format("b", "CRITICAL", "t2"))[0].rules
    assert [rule.name for rule in select(rules, **options)] == chosen  # type: ignore[arg-type]
