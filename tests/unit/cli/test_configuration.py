# SPDX-License-Identifier: Apache-2.0
"""`config check` and `config show`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bpfence.cli.main import cli


def call(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args], standalone_mode=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "bpfence.yaml"
    made.write_text("mode: audit\nkeep: true\noutput: [{to: unix:/x, severity: high}]\n")
    return made


def test_check(path: Path) -> None:
    assert "3 settings, no mistakes" in call("config", "check", path).stdout
    assert json.loads(call("config", "check", "--json", path).stdout)["settings"] == ["keep", "mode", "output"]
    path.write_text("mode: x\nkep: true\n")
    result = call("config", "check", path)
    assert result.return_value == 2
    assert "1:7: error" in result.stderr
    assert "did you mean 'keep'?" in result.stderr


def test_check_of_nothing(tmp_path: Path) -> None:
    result = call("config", "check", tmp_path / "none.yaml")
    assert result.return_value == 2
    assert "cannot be read" in result.stderr


def test_show(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPFENCE_PIN_DIR", "/sys/fs/bpf/x")
    found = json.loads(call("config", "show", "--json", "--", "--config", path, "--mode", "enforce").stdout)["settings"]
    assert {setting["name"]: (setting["value"], setting["from"]) for setting in found} == {
        "mode": ("enforce", "command line"),
        "pin-dir": ("/sys/fs/bpf/x", "environment"),
        "keep": (True, "file"),
        "output": ([{"to": "unix:/x", "severity": "high"}], "file"),
    }
    assert "command line" in call("config", "show", "--", "--config", path, "--mode", "enforce").stdout


def test_show_of_what_run_would_refuse(path: Path) -> None:
    assert "No such option" in str(call("config", "show", "--", "--nonsense").exception)
    path.write_text("mode: x\n")
    assert call("config", "show", "--", "--config", path).return_value == 2
