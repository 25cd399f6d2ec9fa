# SPDX-License-Identifier: Apache-2.0
"""Findings: known codes, an order, a bound; the documentation has every code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bpfence.errors import Location
from bpfence.pods.findings import CODES, MAX_FINDINGS, Finding, Findings

ROOT = Path(__file__).resolve().parents[3]


def test_the_page_has_every_code() -> None:
    page = (ROOT / "docs" / "pods.md").read_text()
    assert sorted(re.findall(r"^\| `([a-z0-9-]+)` \|", page, re.M)) == sorted(CODES)


def test_order_and_bound() -> None:
    findings = Findings()
    for line in range(MAX_FINDINGS + 5, 0, -1):
        findings.add(Finding("privileged", "error", Location("f", line, 1), "what"))
    shown = findings.sorted("f")
    assert [finding.location.line for finding in shown[:-1]] == list(range(6, MAX_FINDINGS + 6))
    assert (shown[-1].code, shown[-1].severity) == ("too-many", "error")
    with pytest.raises(KeyError):
        findings.add(Finding("nonsense", "error", Location("f"), "what"))


def test_for_people() -> None:
    finding = Finding("privileged", "error", Location("f", 1, 2), "what", "why", "hint", "Privileged Containers", "baseline")
    assert str(finding.diagnostic()) == "f:1:2: error: what (baseline: Privileged Containers): why\n  hint: hint"
    assert Finding("privileged", "error", Location("f"), "what").diagnostic().message == "what"
