# SPDX-License-Identifier: Apache-2.0
"""`range` over a stage that is a folder."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bpfence.cli import range as command
from bpfence.cli.main import cli
from bpfence.range.cases import BY_NAME, CASES, Act, Case
from bpfence.range.stage import Stage


def call(*args: str) -> Result:
    return CliRunner().invoke(cli, ("range", *args), standalone_mode=False)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stage:
    """Two cases in a folder: one attack that fails, and one that works beside work that does not."""
    stage = Stage(tmp_path, tmp_path, None, True)

    @contextlib.contextmanager
    def here() -> Iterator[Stage]:
        yield stage

    (tmp_path / "home").mkdir()
    cases = (
        Case("denied", "", ("T1003 OS Credential Dumping",), "", Act("reads", "printf 'no\\033[2J'; exit 1"), Act("", "true")),
        Case("works", "", ("T1001 Data Obfuscation", "T1002 Data Compressed"), "", Act("writes", "true"), Act("", "exit 1")),
    )
    monkeypatch.setattr(command, "staged", here)
    monkeypatch.setattr(command, "CASES", cases)
    monkeypatch.setattr(command, "BY_NAME", {case.name: case for case in cases})
    return stage


def test_list() -> None:
    text = call("list").stdout
    assert all(name in text for name in BY_NAME)
    assert [case["name"] for case in json.loads(call("list", "--json").stdout)["cases"]] == [case.name for case in CASES]


def test_show() -> None:
    text = call("show", "install-script", "container-shell").stdout
    assert "cat ~/.ssh/id_ed25519" in text
    assert "by a shell named npm" in text
    assert "in a container" in text
    (case,) = json.loads(call("show", "persistence", "--json").stdout)["cases"]
    assert case["attack"]["over"] == "/etc/profile.d"


def test_a_case_that_there_is_not() -> None:
    for way in ("show", "run"):
        result = call(way, "x\x1b")
        assert result.return_value == 2
        assert "there is no case 'x\\x1b'" in result.stderr


@pytest.mark.usefixtures("stage")
def test_run_without_alerts() -> None:
    result = call("run")
    assert result.return_value == 1
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["denied", "stopped", "reads:", "no\\x1b[2J"]
    assert lines[1].split() == ["works", "worked", "writes:", "exit", "code", "0"]
    assert lines[2].split()[0] == "broken"
    assert [line.split()[0] for line in lines[4:7]] == ["T1001", "T1002", "T1003"]
    assert "2 cases: 1 stopped, 1 worked" in result.stdout
    assert "worked: it worked; whether it was seen is not known" in result.stderr
    assert call("run", "denied").return_value == 0


def test_run_with_alerts_as_json(stage: Stage) -> None:
    alerts = stage.folder / "alerts"
    alerts.touch()
    result = call("run", "--alerts", str(alerts), "--wait", "0", "--json")
    verdicts = [(case["name"], case["attack"]["verdict"], case["ordinary"]["verdict"]) for case in json.loads(result.stdout)["cases"]]
    assert verdicts == [("denied", "failed", "works"), ("works", "missed", "broken")]
