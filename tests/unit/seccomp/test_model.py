# SPDX-License-Identifier: Apache-2.0
"""The parts of a profile: what conditions hold for, and what actions are to the kernel."""

from __future__ import annotations

import pytest

from bpfence.seccomp.model import Arg, ArgOp, ProfileAction, ProfileRule, ProfileVerdict


def test_return_values_are_the_kernels() -> None:
    assert ProfileVerdict(ProfileAction.ERRNO, 38).ret == 0x00050026
    assert ProfileVerdict(ProfileAction.KILL_PROCESS).ret == 0x80000000
    assert ProfileVerdict(ProfileAction.NOTIFY).ret == 0x7FC00000


def test_the_value_of_masked_eq_is_the_mask() -> None:
    arg = Arg(0, ArgOp.MASKED_EQ, 0xF0, 0x20)
    assert arg.holds(0x2F)
    assert not arg.holds(0x3F)


@pytest.mark.parametrize(("op", "held"), [("NE", {0, 2}), ("LT", {0}), ("LE", {0, 1}), ("EQ", {1}), ("GE", {1, 2}), ("GT", {2})])
def test_comparisons(op: str, held: set[int]) -> None:
    assert {n for n in range(3) if Arg(0, ArgOp[op], 1).holds(n)} == held


def test_verdicts_read_like_errno() -> None:
    assert str(ProfileVerdict(ProfileAction.ERRNO, 38)) == "ERRNO(ENOSYS)"
    assert str(ProfileVerdict(ProfileAction.ERRNO, 4000)) == "ERRNO(4000)"
    assert str(ProfileVerdict(ProfileAction.TRACE, 7)) == "TRACE(7)"
    assert str(ProfileVerdict(ProfileAction.ALLOW)) == "ALLOW"


def test_only_allow_and_log_permit() -> None:
    assert {action for action in ProfileAction if action.permits} == {ProfileAction.ALLOW, ProfileAction.LOG}
    assert {action for action in ProfileAction if action.carries_data} == {ProfileAction.ERRNO, ProfileAction.TRACE}


def test_a_rule_without_conditions_matches_everything() -> None:
    rule = ProfileRule(names=("read",), action=ProfileAction.ALLOW)
    assert rule.alternatives == ((),)
    assert rule.matches((1, 2, 3, 4, 5, 6))
