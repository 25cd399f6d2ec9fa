# SPDX-License-Identifier: Apache-2.0
"""What is shipped for Prometheus and Grafana: names that an agent has, judged by promtool and by a server that scrapes one."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bpfence.agent import metrics as module
from bpfence.agent.metrics import METRICS
from tests.unit.agent.test_metrics import MEASURED, Rig

ROOT = Path(__file__).resolve().parent.parent.parent
RULES = ROOT / "deploy" / "prometheus" / "bpfence.rules.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "bpfence.json"
PROMTOOL = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian's package prometheus)")


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def queries() -> list[str]:
    shown = [target["expr"] for panel in panels() for target in panel["targets"]]
    return [rule["expr"] for rule in rules()] + [
        expr.replace("$__rate_interval", "1m").replace("$__range", "5m").replace("$instance", ".*") for expr in shown
    ]


def test_only_metrics_that_there_are_and_their_labels_are_asked_for() -> None:
    known = {metric.name + ("_total" if metric.kind == "counter" else ""): set(metric.labels) for metric in METRICS}
    known["bpfence_alert_latency_seconds_bucket"] = {"le"}
    for expr in queries():
        for name, selector in re.findall(r"(bpfence_\w+)(?:\{([^}]*)\})?", expr):
            assert name in known, expr
            assert set(re.findall(r"(\w+)\s*[=!]~?", selector)) <= known[name] | {"instance", "job"}, expr
        grouped = {label for labels in re.findall(r" by \(([^)]*)\)", expr) for label in labels.split(", ")}
        used = {label for name, labels in known.items() if name in expr for label in labels}
        assert grouped <= used | {"instance", "le"}, expr


def test_panels_have_a_place_of_their_own() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in panels()}) == len(panels())


@PROMTOOL
def test_alert_rules_tell_the_ill_from_the_well() -> None:
    checked = subprocess.run(["promtool", "check", "rules", str(RULES)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tried = subprocess.run(
        ["promtool", "test", "rules", str(RULES.with_name("bpfence.test.yml"))], capture_output=True, text=True, check=False
    )
    assert tried.returncode == 0, tried.stdout + tried.stderr
    told = set(re.findall(r'alertname="(\w+)"', RULES.with_name("bpfence.test.yml").read_text()))
    assert told == {rule["alert"] for rule in rules()}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(module, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(module, "KERNEL_SECONDS", 0.0)
    made = Rig(tmp_path)
    made.engine.measures = MEASURED
    yield made
    made.agent.stop()


@pytest.fixture
def server(rig: Rig, tmp_path: Path) -> Iterator[str]:
    """A Prometheus that scrapes the agent every second."""
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed (Debian's package prometheus)")
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": "bpfence", "static_configs": [{"targets": ["{}:{}".format(*rig.scrapes.address)]}]}],
    }
    (tmp_path / "prometheus.yml").write_text(json.dumps(config))
    port = free_port()
    command = [
        "prometheus", f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(30)


def asked(server: str, query: str) -> Any:
    with urllib.request.urlopen(f"{server}/api/v1/query?{urllib.parse.urlencode({'query': query})}", timeout=10) as response:
        return json.load(response)["data"]["result"]


def test_a_server_scrapes_an_agent(rig: Rig, server: str) -> None:
    rig.say(3)
    end = time.monotonic() + 60
    found: Any = []
    while not found and time.monotonic() < end:
        rig.agent.step(0)
        try:
            found = asked(server, 'bpfence_alerts_total{policy="guard"}')
        except OSError:
            pass
        time.sleep(0.2)
    [sample] = found
    assert sample["value"][1] == "3"
    assert {name: sample["metric"][name] for name in ("rule", "action", "job")} == {"rule": "secret", "action": "deny", "job": "bpfence"}
    for query in queries():
        asked(server, query)  # an HTTP error where the server cannot take it
