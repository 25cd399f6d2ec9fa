# SPDX-License-Identifier: Apache-2.0
"""Which rules of files are chosen. What the rules mean: test_resolution, read/, lower/."""

from __future__ import annotations

import pytest

from bpfence.dialects.falco.load import load_text, select

RULE = "- rule: {0}\n  desc: d\n  condition: evt.type=open\n  output: o\n  priority: {1}\n  tags: [{2}]\n"


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
