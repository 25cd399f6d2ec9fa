# SPDX-License-Identifier: Apache-2.0
"""How many alerts of a workload are shown, and what is told of the others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bpfence.alerts.alert import Alert, StatusLine
from bpfence.dialects.kubearmor import throttle
from bpfence.dialects.kubearmor.options import Throttling
from bpfence.dialects.kubearmor.throttle import Pass, Throttle, ThrottledForm


class Rig:
    """A throttle with a clock that the test turns."""

    def __init__(self, alerts: int = 2, seconds: int = 30) -> None:
        self.now = 100.0
        self.said: list[str] = []
        self.throttle = Throttle(Throttling(alerts, seconds), self.said.append, lambda: self.now)

    def alerts(self, number: int, workload: str = "a") -> list[str]:
        return [self.throttle.decide(workload).value for _ in range(number)]


def test_one_too_many_in_a_second_begins_a_pause() -> None:
    rig = Rig()
    assert rig.alerts(5) == ["shown", "shown", "begins", "left out", "left out"]
    rig.now += 29.9
    assert rig.alerts(1) == ["left out"]
    rig.now += 0.2
    assert rig.alerts(3) == ["shown", "shown", "begins"]
    assert rig.said == ["KubeArmor's throttling: 3 alerts of a were left out after 2 in a second"]
    rig.throttle.finish()
    assert (len(rig.said), rig.throttle.left_out) == (1, 3)


def test_a_second_later_there_are_as_many_again() -> None:
    rig = Rig()
    for _ in range(5):
        assert rig.alerts(2) == ["shown", "shown"]
        rig.now += 1.0
    assert rig.said == []


def test_each_workload_has_its_own() -> None:
    rig = Rig()
    assert rig.alerts(4)[-1] == "left out"
    assert rig.alerts(2, "b") == ["shown", "shown"]


def test_the_end_tells_what_was_left_out() -> None:
    rig = Rig()
    rig.alerts(5)
    rig.throttle.finish()
    assert rig.said == ["KubeArmor's throttling: 2 alerts of a were left out after 2 in a second"]


def test_of_too_many_workloads_the_first_is_forgotten_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "MAX_WORKLOADS", 2)
    rig = Rig()
    rig.alerts(4)
    assert rig.alerts(1, "b") == rig.alerts(1, "c") == ["shown"]
    assert [text.split(" were")[0] for text in rig.said] == ["KubeArmor's throttling: 1 alerts of a"]


def test_the_form() -> None:
    form = ThrottledForm(Rig(alerts=1).throttle)
    alert = Alert(
        time="2026-01-31T10:00:00Z",
        policy="p",
        rule="r",
        severity="high",
        tags=(),
        action="deny",
        mode="enforce",
        event="file.open",
        message="no",
        errno="EACCES",
        seq=1,
        host="n",
        process=None,
        container={"id": "d"},
    )

    def shown(line: Any) -> dict[str, Any]:
        made = form(line)
        return dict(json.loads(made)) if made else {}

    first, second, third = shown(alert), shown(alert), shown(alert)
    assert (first["Type"], first["Operation"], "MaxAlertsPerSec" in first) == ("MatchedPolicy", "File", False)
    assert (second["Type"], second["Operation"], second["MaxAlertsPerSec"], second["DroppingAlertsInterval"]) == (
        "SystemEvent", "AlertThreshold", 1, 30,
    )  # fmt: skip
    assert (second["ContainerID"], third) == ("d", {})
    assert shown(StatusLine(time="2026-01-31T10:00:00Z", status="x", message="y", host="n"))["Message"] == "y"
    assert form.throttle.decide("d") is Pass.LEFT_OUT
