# SPDX-License-Identifier: Apache-2.0
"""Bugs of ours, told once and counted."""

from __future__ import annotations

from bpfence.alerts.faults import MAX_FAULT, Faults


def test_the_first_of_each_kind_is_told() -> None:
    faults = Faults()
    faults.add("r", "its condition could not be evaluated", KeyError("k"))
    faults.add("r", "its output could not be had", KeyError("k"))
    faults.add("", "an event could not be made", ValueError("v"))
    told = faults.take()
    assert [fault.rule for fault in told] == ["r", ""]
    assert "rule 'r': its condition could not be evaluated (KeyError: 'k')" in told[0].text
    assert (faults.take(), faults.counts.total()) == ([], 3)


def test_a_long_reason_is_cut() -> None:
    faults = Faults()
    faults.add("r", "x", ValueError("y" * 10_000))
    assert len(faults.take()[0].error) == MAX_FAULT
