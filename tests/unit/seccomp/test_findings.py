# SPDX-License-Identifier: Apache-2.0
"""The list of findings, suggestions, and the codes' place in the reference."""

from __future__ import annotations

import pytest

from bpfence.errors import Location
from bpfence.seccomp.findings import Findings


def test_findings_are_counted_and_sorted() -> None:
    findings = Findings()
    findings.warn(Location("f", 9, 1), "empty", "later")
    findings.add(Location("f", 2, 1), "empty", "sooner")
    findings.note(Location("f", 3, 1), "empty", "between")
    assert findings.errors == 1
    assert [found.message for found in findings.sorted()] == ["sooner", "between", "later"]
    assert [found.severity for found in findings.sorted()] == ["error", "info", "warning"]


def test_the_same_warning_at_several_places_is_said_once() -> None:
    findings = Findings()
    for line in (9, 4, 4, 7):
        findings.warn(Location("f", line, 1), "empty", "again")
        findings.add(Location("f", line, 1), "empty", "wrong")
    found = [d for d in findings.sorted() if d.severity == "warning"]
    assert [(d.location.line, d.message) for d in found] == [(4, "again (also on line 7, 9)")]
    assert [d.location.line for d in findings.sorted() if d.severity == "error"] == [4, 7, 9], "each error has its place"


def test_a_code_that_is_not_in_the_list_is_a_bug() -> None:
    with pytest.raises(KeyError):
        Findings().add(Location("f"), "no-such-code", "x")
