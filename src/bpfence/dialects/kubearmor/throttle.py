# SPDX-License-Identifier: Apache-2.0
"""Alerts of many workloads in, those that KubeArmor's throttling lets through out.

A part of the form `kubearmor`, by the settings that KubeArmor has for it: after so many alerts of one container, or of the host, within
a second, one more tells that a pause begins, and no other is shown until it is over. What is left out is counted and told. Other outputs
show all alerts; bpfence's own limits are in `alerts.limit`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum
from typing import Final

import msgspec

from bpfence.alerts.alert import Alert, Line, whole
from bpfence.dialects.kubearmor.options import Throttling
from bpfence.dialects.kubearmor.show import line_as_json, threshold_as_json

WINDOW: Final = 1.0
MAX_WORKLOADS: Final = 4096
"""So many are remembered; beyond them the one that came first is forgotten, and what it has left out is told."""
HOST: Final = "the host"


class Pass(Enum):
    """What becomes of an alert."""

    SHOWN = "shown"
    BEGINS = "begins"
    LEFT_OUT = "left out"


class _State(msgspec.Struct):
    """Of one workload: when its second began (seconds), alerts since then, whether it is in a pause, and what was left out in that."""

    began: float
    alerts: int = 0
    paused: bool = False
    left_out: int = 0


class Throttle:
    """Decides about alerts in their order. `report` takes messages for people; `now`: seconds of a clock that does not go back.

    For one thread at a time.
    """

    def __init__(self, settings: Throttling, report: Callable[[str], None], now: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self.left_out = 0
        self._report = report
        self._now = now
        self._states: dict[str, _State] = {}

    def decide(self, workload: str) -> Pass:
        """What becomes of the next alert of a workload."""
        now = self._now()
        state = self._states.get(workload)
        if state is None:
            if len(self._states) >= MAX_WORKLOADS:
                first = next(iter(self._states))
                self._tell(first, self._states.pop(first))
            state = self._states[workload] = _State(now)
        if state.paused and now - state.began < self.settings.seconds:
            state.left_out += 1
            self.left_out += 1
            return Pass.LEFT_OUT
        if state.paused or now - state.began >= WINDOW:
            self._tell(workload, state)
            state = self._states[workload] = _State(now)
        state.alerts += 1
        if state.alerts <= self.settings.alerts:
            return Pass.SHOWN
        state.paused = True
        return Pass.BEGINS

    def finish(self) -> None:
        """Tell what was left out and not told yet."""
        for workload, state in self._states.items():
            self._tell(workload, state)
        self._states.clear()

    def _tell(self, workload: str, state: _State) -> None:
        if state.left_out:
            many = f"after {self.settings.alerts} in a second"
            self._report(f"KubeArmor's throttling: {state.left_out} alerts of {workload} were left out {many}")


class ThrottledForm:
    """The form `kubearmor` with throttling."""

    def __init__(self, throttle: Throttle) -> None:
        self.throttle = throttle

    def __call__(self, line: Line) -> bytes:
        """A line; nothing where it is an alert that is left out."""
        full = whole(line)
        if not isinstance(full, Alert) or full.kind == "event":
            return line_as_json(full)
        match self.throttle.decide(str((full.container or {}).get("id") or HOST)):
            case Pass.SHOWN:
                return line_as_json(full)
            case Pass.BEGINS:
                return threshold_as_json(full, self.throttle.settings.alerts, self.throttle.settings.seconds)
        return b""
