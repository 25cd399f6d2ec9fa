# SPDX-License-Identifier: Apache-2.0
"""Falco's rules as commands ask for them. As people see it: tests/unit/cli/test_languages.py."""

from __future__ import annotations

import pytest

from bpfence.dialects.falco.dialect import FALCO
from bpfence.documents.files import SourceFile
from bpfence.errors import PolicyError, UsageError
from bpfence.host.links import Links
from tests.unit.agent.falco_rig import RULES

FILES = [SourceFile("rules.yaml", RULES.encode())]


def test_a_check_counts_the_rules_of_each_file() -> None:
    found, summary = FALCO.tools().check([*FILES, SourceFile("more.yaml", b"- macro: m\n  condition: evt.type=open\n")], Links())
    assert [finding for finding in found if finding.severity == "error"] == []
    assert summary == [{"name": "rules.yaml", "mode": "falco", "rules": 3}, {"name": "more.yaml", "mode": "falco", "rules": 0}]


def test_events_meet_the_rules() -> None:
    line = b'{"type": "openat", "fields": {"fd.name": "/etc/shadow", "proc.name": "cat"}, "expect": ["Shadow by anyone"]}'
    tested, _ = FALCO.tools().test(FILES, [line])
    assert (tested.events, tested.expected, tested.mismatches, tested.faults) == (1, 1, 0, 0)
    shown, _ = FALCO.tools().test(FILES, [line], form="falco-text")
    assert len(shown.shown.parts) == 1


def test_what_does_not_go_together() -> None:
    with pytest.raises(UsageError, match="--mode"):
        FALCO.tools().test(FILES, [], mode="audit")
    with pytest.raises(UsageError, match="--event"):
        FALCO.tools().explain(FILES, Links(), event="{}")
    with pytest.raises(UsageError, match="no rule is named"):
        FALCO.tools().explain(FILES, Links(), names=["Nope"])
    with pytest.raises(PolicyError):
        FALCO.tools().exactly([SourceFile("x.yaml", b"- rule: x\n")], "audit")
