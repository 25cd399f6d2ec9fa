# SPDX-License-Identifier: Apache-2.0
"""Metrics: what is counted, that series stay few, and that nobody waits; promtool judges the text where it is installed."""

from __future__ import annotations

import http.client
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from bpfence.agent import metrics as module
from bpfence.agent.agent import Agent, Settings
from bpfence.agent.metrics import LATENCIES, MAX_SERIES, METRICS, OTHER, Meter
from bpfence.errors import KernelError
from bpfence.events.loss import Loss
from bpfence.kernel.measured import Measured
from bpfence.outputs.scrape import Scrapes
from tests.unit.agent.fakes import FakeKernel, Kept, reloaded, write_policy

MEASURED = Measured(
    counters={
        "denied": 7,
        "audited": 2,
        "killed": 1,
        "kill_refused": 0,
        "decisions_written": 10,
        "decisions_lost": 3,
        "uncertain_path": 4,
        "refused_memory": 5,
        "subject_computed": 99,
    },
    lost={"file.open": 3},
    skipped={"path_mkdir__file": 6},
    programs={"file_open__file": (1000, 2_500_000_000), "idle": (0, 0)},
    fill={"processes": (12, 262144)},
    pages=(1, 64),
)


class Rig:
    """An agent on a kernel made of lists, with metrics at a port."""

    def __init__(self, folder: Path) -> None:
        self.kernel = FakeKernel()
        self.engine = self.kernel.engine
        self.scrapes = Scrapes("127.0.0.1:0")
        self.policies = folder / "policies"
        self.policies.mkdir()
        write_policy(self.policies / "guard.yaml")
        settings = Settings(policies=(str(self.policies),), pin_dir=str(folder / "pins"), state_dir=folder / "state", drop_privileges=False)
        self.agent = Agent(settings, Kept(), report=lambda _: None, kernel=self.kernel, scrapes=self.scrapes)
        self.agent.start()
        self.agent.step(0)

    def say(self, number: int = 1, **header: Any) -> None:
        for _ in range(number):
            self.engine.say(**header)
        while self.engine.batches:
            self.agent.step(0)

    def text(self, accept: str = "") -> str:
        client = http.client.HTTPConnection(*self.scrapes.address, timeout=10)
        client.request("GET", "/metrics", headers={"Accept": accept})
        response = client.getresponse()
        assert response.status == 200
        return response.read().decode()

    def samples(self) -> dict[tuple[str, tuple[str, ...]], float]:
        """By name and the values of labels, in the order of the labels' names."""
        families = text_string_to_metric_families(self.text())
        return {(sample.name, tuple(sample.labels.values())): sample.value for family in families for sample in family.samples}


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(module, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(module, "KERNEL_SECONDS", 0.0)
    made = Rig(tmp_path)
    yield made
    made.agent.stop()


def test_what_an_agent_has_done_is_counted(rig: Rig) -> None:
    before = rig.samples()
    rig.say(3)
    found = rig.samples()
    assert found["bpfence_events_total", ("file.open",)] == 3
    assert found["bpfence_alerts_total", ("deny", "guard", "secret", "medium")] == 3
    assert found["bpfence_rule_matches_total", ("guard", "secret")] == 3
    assert found["bpfence_alert_latency_seconds_count", ()] == 3
    assert found["bpfence_alert_latency_seconds_bucket", ("+Inf",)] == 3
    assert found["bpfence_policies", ("enforce",)] == 1
    assert found["bpfence_rules", ()] == 1
    assert found["bpfence_swaps_total", ()] == 1
    assert found["bpfence_faults_total", ()] == 0
    assert ("bpfence_alerts_total", ("deny", "guard", "secret", "medium")) not in before
    assert found["process_resident_memory_bytes", ()] > 1 << 20


def test_what_the_kernel_has_counted(rig: Rig) -> None:
    rig.engine.measures = MEASURED
    found = rig.samples()
    wanted = {
        ("bpfence_decisions_total", ("denied",)): 7, ("bpfence_decisions_total", ("kill_refused",)): 0,
        ("bpfence_records_total", ("decisions",)): 10, ("bpfence_records_lost_total", ("file.open",)): 3,
        ("bpfence_uncertain_decisions_total", ("path",)): 4, ("bpfence_refused_acts_total", ("memory",)): 5,
        ("bpfence_kernel_counts_total", ("subject_computed",)): 99, ("bpfence_skipped_runs_total", ("path_mkdir__file",)): 6,
        ("bpfence_program_runs_total", ("file_open__file",)): 1000, ("bpfence_program_seconds_total", ("file_open__file",)): 2.5,
        ("bpfence_map_entries", ("processes",)): 12, ("bpfence_map_room", ("processes",)): 262144, ("bpfence_table_pages_room", ()): 64,
    }  # fmt: skip
    assert {key: found.get(key) for key in wanted} == wanted
    assert not any("idle" in labels for _, labels in found)


def test_a_kernel_that_is_busy_has_said_what_it_said_before(rig: Rig) -> None:
    rig.engine.measures = MEASURED
    rig.samples()
    rig.engine.measures = None
    assert rig.samples()["bpfence_decisions_total", ("denied",)] == 7


def test_reloads_are_counted_by_how_they_went(rig: Rig) -> None:
    assert reloaded(rig.agent)
    (rig.policies / "guard.yaml").write_text("kind: nonsense")
    assert not reloaded(rig.agent)
    found = rig.samples()
    assert found["bpfence_updates_total", ("reload", "ok")] == 1
    assert found["bpfence_updates_total", ("reload", "failed")] == 1
    assert found["bpfence_update_seconds_total", ("reload",)] > 0


def test_losses_are_counted_by_cause() -> None:
    meter = Meter()
    for _ in range(2):
        meter.loss(Loss({}, {"decisions": 2}, {"too short": 1}))
    assert (meter.missing, meter.undecodable) == ({"decisions": 4}, {"too short": 2})


def test_rules_by_the_thousand_share_a_series() -> None:
    meter = Meter()
    for number in range(MAX_SERIES + 500):
        meter._alert(("policy", f"rule {number}", "deny", "high"))
    meter._alert(("policy", "rule 0", "deny", "high"))
    assert len(meter.alerts) == MAX_SERIES + 1
    assert meter.alerts[OTHER, OTHER, "deny", "high"] == 500
    assert meter.alerts["policy", "rule 0", "deny", "high"] == 2


def test_matches_of_all_rules_add_up(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rig.agent, "matches", lambda: {("p", f"r{number}"): 2 for number in range(MAX_SERIES + 10)})
    found = {labels: count for (name, labels), count in rig.samples().items() if name == "bpfence_rule_matches_total"}
    assert len(found) == MAX_SERIES + 1
    assert sum(found.values()) == 2 * (MAX_SERIES + 10)
    assert found[OTHER, OTHER] == 20


def test_late_alerts_are_in_the_bucket_of_their_delay() -> None:
    meter = Meter()
    for seconds in (-1.0, 0.0, LATENCIES[0], 0.0011, 10.0, 11.0):
        meter._late(seconds)
    assert meter.latency[0] == 3
    assert meter.latency[2] == 1
    assert meter.latency[-2:] == [1, 1]
    assert meter.latency_sum == pytest.approx(21.0016)


def test_names_that_are_hostile_stay_in_their_quotes(rig: Rig) -> None:
    hostile = 'a"} 1\nevil{x="\\'
    rig.agent._counts.add((hostile, "\u202e\n"))
    found = rig.samples()
    assert not any(name.startswith("evil") for name, _ in found)
    [labels] = [labels for (name, labels) in found if name == "bpfence_rule_matches_total"]
    assert all(text.isprintable() for text in labels)


def test_nobody_makes_more_work_than_a_text_a_second(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FRESH_SECONDS", 60.0)
    made: list[int] = []
    monkeypatch.setattr(rig.agent, "measured", lambda: made.append(1))
    rig.text()
    for number in range(50):
        rig.text("application/openmetrics-text" if number % 2 else f"text/plain;q=0.{number}")
    assert len(made) <= 2


def test_the_loop_does_not_wait_for_a_kernel_that_is_slow(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    entered = threading.Event()

    def slow() -> None:
        entered.set()
        release.wait(30)

    monkeypatch.setattr(rig.agent, "measured", slow)
    asking = threading.Thread(target=rig.text)
    asking.start()
    try:
        assert entered.wait(10)
        began = time.monotonic()
        rig.say(5)
        assert time.monotonic() - began < 5
    finally:
        release.set()
        asking.join()
    assert rig.samples()["bpfence_events_total", ("file.open",)] == 5


def test_scrapes_beside_a_loop_at_work(rig: Rig) -> None:
    """Copies are taken while the loop counts."""
    done = threading.Event()
    faults: list[BaseException] = []

    def ask() -> None:
        try:
            while not done.is_set():
                rig.text()
        except BaseException as error:
            faults.append(error)

    asking = [threading.Thread(target=ask) for _ in range(3)]
    for thread in asking:
        thread.start()
    for number in range(300):
        rig.agent._meter._alert(("p", str(number), "deny", "high"))  # type: ignore[union-attr]
        rig.say()
    done.set()
    for thread in asking:
        thread.join()
    assert faults == []
    assert rig.samples()["bpfence_events_total", ("file.open",)] == 300


def test_every_metric_of_the_table_has_a_series(rig: Rig) -> None:
    """And none that is not in it, but those of the process."""
    rig.engine.measures = MEASURED
    rig.say()
    assert reloaded(rig.agent)
    told = {family.name for family in text_string_to_metric_families(rig.text()) if not family.name.startswith(("process_", "python_"))}
    assert told == {metric.name for metric in METRICS}


def test_openmetrics_is_had_for_the_asking(rig: Rig) -> None:
    rig.say()
    families = list(read_openmetrics(rig.text("application/openmetrics-text; version=1.0.0")))
    assert "bpfence_alerts" in {family.name for family in families}


def test_without_the_library_the_start_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    scrapes = Scrapes("127.0.0.1:0")
    try:
        with pytest.raises(KernelError) as caught:
            Agent(Settings(policies=()), Kept(), report=lambda _: None, kernel=FakeKernel(), scrapes=scrapes)
    finally:
        scrapes.close()
    assert "bpfence[metrics]" in caught.value.hint


def test_an_agent_that_nobody_asks_counts_nothing(tmp_path: Path) -> None:
    write_policy(tmp_path / "guard.yaml")
    agent = Agent(Settings(policies=(str(tmp_path),), drop_privileges=False), Kept(), report=lambda _: None, kernel=FakeKernel())
    agent.start()
    agent.step(0)
    assert agent._meter is None
    agent.stop()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian's package prometheus)")
def test_promtool_finds_nothing_wrong(rig: Rig) -> None:
    rig.engine.measures = MEASURED
    rig.say(2)
    judged = subprocess.run(["promtool", "check", "metrics"], input=rig.text(), capture_output=True, text=True, check=False)
    own = [line for line in (judged.stdout + judged.stderr).splitlines() if re.match("bpfence_|error", line)]
    assert own == []
