# SPDX-License-Identifier: Apache-2.0
"""Every step of every kernel case: what happened to the act, and which alerts came."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.kernel.cases import TURNS, Case, Step, load_cases, step_id
from tests.kernel.harness import Range

STEPS = [
    (case, kind, step, step_id(case, kind, position, step))
    for case in sorted(load_cases(), key=lambda case: TURNS.index(case.turn))  # one after the other: a reload takes long under emulation
    for position, (kind, step) in enumerate(case.steps())
]


def agrees(alert: dict[str, Any], wanted: dict[str, str | int], case: Case, target: int) -> bool:
    """Whether an alert has every wanted value."""
    return all(str(alert.get(key)) == case.fill(str(value), target) for key, value in wanted.items())


def expected_alert(case: Case, step: Step) -> dict[str, str | int]:
    """What every attack's alert must say, and what the step adds."""
    wanted: dict[str, str | int] = {"kind": "alert", "mode": case.mode}
    if case.event:
        wanted["event"] = case.event
    if case.mode == "enforce" and step.fails not in ("ok", "any"):
        wanted["action"] = "kill" if step.fails == "killed" else "deny"
    return {**wanted, **step.alert}


@pytest.mark.parametrize(("case", "kind", "step"), [row[:3] for row in STEPS], ids=[row[3] for row in STEPS])
def test_step(case: Case, kind: str, step: Step, shooting: Range, need: Callable[[list[str]], None]) -> None:
    need([*case.requires, *step.requires])
    target = shooting.playground.target(case)
    outcome, alerts = shooting.act(case, step)
    if step.fails != "any":
        assert outcome.result == step.fails, f"{outcome}; alerts: {alerts}"
    if step.prints is not None:
        assert outcome.printed.strip() == step.prints
    if kind == "benign" and step.alerts is None:
        assert not alerts
        return
    if step.alerts is not None:
        assert len(alerts) == step.alerts, alerts
    wanted = expected_alert(case, step)
    if step.alerts != 0:
        assert any(agrees(alert, wanted, case, target) for alert in alerts), f"no alert has {wanted}; alerts: {alerts}"
