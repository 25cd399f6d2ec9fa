# SPDX-License-Identifier: Apache-2.0
"""Outside every scope each act works that does not inside: so what stops it there is the policy. The others work inside already."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.kernel.cases import CGROUP, Case, Step
from tests.kernel.harness import Playground
from tests.kernel.test_cases import STEPS

STOPPED = [row for row in STEPS if row[2].fails != "ok"]


@pytest.mark.parametrize(("case", "step"), [(row[0], row[2]) for row in STOPPED], ids=[row[3] for row in STOPPED])
def test_act_works_outside(case: Case, step: Step, playground: Playground, need: Callable[[list[str]], None]) -> None:
    need([*case.requires, *step.requires])
    if step.requires and step.fails == "any":
        pytest.fail("a step whose result does not matter cannot ask for a feature")
    outcome = playground.act(case, step, cgroup=f"{CGROUP}/outside")
    if step.fails != "any":
        assert outcome.result == "ok", outcome
