# SPDX-License-Identifier: Apache-2.0
"""The agent is reloaded, killed, started again: what it enforced is enforced all the time, and no alert is lost."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from bpfence.agent.metrics import KERNEL_SECONDS
from bpfence.kernel import libbpf
from bpfence.kernel.engine import PIN_DIR
from tests.kernel.cases import Case, Step
from tests.kernel.harness import Range, cgroup_folder, run_act


def attack_of(cases: list[Case], name: str) -> tuple[Case, Step]:
    case = next(case for case in cases if case.name == name)
    return case, next(step for kind, step in case.steps() if kind == "attack")


def test_reload_leaves_no_gap(shooting: Range, cases: list[Case]) -> None:
    case, attack = attack_of(cases, "open-by-path")
    shooting.load_alone(case)
    shooting.agent.settle()
    results: list[str] = []
    done = threading.Event()

    def keep_trying() -> None:
        while not done.is_set():
            results.append(shooting.playground.act(case, attack).result)

    thread = threading.Thread(target=keep_trying)
    thread.start()
    try:
        while len(results) < 4:  # which takes more reloads where they are quick beside an act
            shooting.agent.reload()
            shooting.agent.reload()
    finally:
        done.set()
        thread.join()
    assert set(results) == {"EPERM"}
    shooting.agent.settle()


def test_reload_brings_and_takes_policies(shooting: Range) -> None:
    case = Case(
        name="added-later",
        event="file.open",
        files={"f": "x"},
        attack=[["open", "{dir}/f"]],
        rules=[{"name": "r", "on": "open", "match": {"file.path": "{dir}/f"}, "action": "deny"}],
    )
    step = case.steps()[0][1]
    assert shooting.playground.act(case, step).result == "ok"
    path = shooting.agent.write_policy(case.name, case.policy())
    shooting.agent.reload()
    outcome, alerts = shooting.act(case, step)
    assert outcome.result == "EPERM"
    assert [alert["rule"] for alert in alerts] == ["r"]
    path.unlink()
    shooting.agent.reload()
    outcome, alerts = shooting.act(case, step)
    assert (outcome.result, alerts) == ("ok", [])


def test_a_broken_policy_leaves_the_old_set_in_force(shooting: Range, cases: list[Case]) -> None:
    case, attack = attack_of(cases, "open-by-path")
    shooting.load_alone(case)
    path = shooting.agent.policies / "broken.yaml"
    path.write_text("apiVersion: bpfence.io/v1alpha1\nkind: SecurityPolicy\nmetadata: {name: broken}\nspec: {rulez: []}\n")
    process = shooting.agent.process
    assert process is not None
    try:
        process.send_signal(signal.SIGHUP)
        outcome, alerts = shooting.act(case, attack)
        assert outcome.result == "EPERM"
        assert alerts
        while not any(record.get("status") == "reload-failed" for record in shooting.agent.seen):  # it reads beside the loop
            assert process.poll() is None
            time.sleep(0.05)
            shooting.agent.poll()
    finally:
        path.unlink()
    shooting.agent.reload()
    assert "broken.yaml" in shooting.agent.log()


def test_a_killed_agent_leaves_enforcement_and_its_successor_finds_the_alerts(shooting: Range, cases: list[Case]) -> None:
    case, attack = attack_of(cases, "open-by-path")
    shooting.load_alone(case)
    shooting.agent.settle()
    assert shooting.agent.stop(signal.SIGKILL) == -signal.SIGKILL
    for _ in range(3):
        assert shooting.playground.act(case, attack).result == "EPERM"
    shooting.agent.start()
    assert shooting.playground.act(case, attack).result == "EPERM"
    records = shooting.agent.settle()
    assert len([record for record in records if record.get("policy") == case.name and record.get("kind") == "alert"]) == 4


def test_metrics_of_what_the_kernel_counts(shooting: Range, cases: list[Case], tmp_path: Path) -> None:
    """By an agent that has given up its privileges, while the kernel keeps statistics of programs."""
    case, attack = attack_of(cases, "open-by-path")
    shooting.load_alone(case)
    shooting.agent.stop()
    statistics = Path("/proc/sys/kernel/bpf_stats_enabled")
    statistics.write_text("1")
    shooting.agent.start("--metrics", f"unix:{tmp_path}/metrics.sock")
    try:
        before = scraped(tmp_path / "metrics.sock")
        assert shooting.act(case, attack)[0].result == "EPERM"
        time.sleep(KERNEL_SECONDS)
        after = scraped(tmp_path / "metrics.sock")
    finally:
        statistics.write_text("0")
        shooting.agent.stop()
        shooting.agent.start()
    assert after['bpfence_decisions_total{action="denied"}'] > before['bpfence_decisions_total{action="denied"}']
    assert after[f'bpfence_rule_matches_total{{policy="{case.name}",rule="{case.policy()["spec"]["rules"][0]["name"]}"}}'] == 1
    assert after["bpfence_kernel_statistics"] == 1
    runs = {
        name.partition('"')[2].partition('"')[0]: value for name, value in after.items() if name.startswith("bpfence_program_runs_total")
    }
    assert any("file_open" in name for name in runs)
    assert all(after[f'bpfence_program_seconds_total{{program="{name}"}}'] > 0 for name in runs)
    assert 0 < after['bpfence_map_entries{map="processes"}'] <= after['bpfence_map_room{map="processes"}']
    assert 0 < after["bpfence_table_pages"] <= after["bpfence_table_pages_room"]
    assert after["bpfence_alert_latency_seconds_count"] > 0


def scraped(place: Path) -> dict[str, float]:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(place))
        client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        text = b"".join(iter(lambda: client.recv(65536), b"")).decode()
    samples = (line.rpartition(" ") for line in text.partition("\r\n\r\n")[2].splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in samples}


def test_what_another_version_has_loaded_goes_when_ours_is_in_force(shooting: Range, cases: list[Case]) -> None:
    case, attack = attack_of(cases, "open-by-path")
    shooting.load_alone(case)
    shooting.agent.stop()
    older = Path(PIN_DIR) / "aba5640da7ad286b-0123456789abcdef-lsm"
    older.parent.mkdir(mode=0o700, exist_ok=True)  # a stop has taken it away
    older.mkdir(mode=0o700)
    page = libbpf.new_page("control", 4096, memoryview(bytes(4096)))
    libbpf.pin(page, older / "map_control")
    os.close(page)
    shooting.agent.start()
    assert "another version of bpfence has put in force (ABI 1)" in shooting.agent.log()
    assert not older.exists()
    assert shooting.act(case, attack)[0].result == "EPERM"


@pytest.mark.parametrize("depth", [8, 64, 190])
def test_deep_paths_are_resolved(shooting: Range, cases: list[Case], depth: int) -> None:
    case = next(case for case in cases if case.name == "exec-by-directory")
    shooting.load_alone(case)
    deep = case.directory / "drop" / "/".join(f"d{i}" for i in range(depth))
    deep.mkdir(parents=True, exist_ok=True)
    tool = deep / "tool"
    tool.write_bytes((case.directory / "bin" / "tool").read_bytes())
    tool.chmod(0o755)
    assert run_act(["exec", str(tool)], cgroup_folder(case.cgroup)).result == "EPERM"
    alerts = [record for record in shooting.agent.settle() if record.get("policy") == case.name]
    assert [alert["file.path"] for alert in alerts] == [str(tool)]
