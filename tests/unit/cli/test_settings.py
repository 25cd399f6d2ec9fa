# SPDX-License-Identifier: Apache-2.0
"""The configuration file: each mistake with its place, and what goes over it."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bpfence.cli import settings
from bpfence.cli.host import run
from bpfence.errors import PolicyError
from bpfence.outputs.specs import Spec


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "bpfence.yaml"
    path.write_text(text)
    return path


def test_settings_are_what_the_options_are(tmp_path: Path) -> None:
    text = f"""
policy: {tmp_path}
mode: audit
no-pin: true
max-processes: 1000
ready-file: /run/x
keep:
output:
  - jsonl:/x
  - {{to: unix:/y, severity: high, queue: {{lines: 5}}}}
"""
    found = {name: setting.value for name, setting in settings.read(written(tmp_path, text), run).items()}
    output = found.pop("output")
    assert found == {"policy": (str(tmp_path),), "mode": "audit", "no-pin": True, "max-processes": 1000, "ready-file": Path("/run/x")}
    assert output[0] == "jsonl:/x"
    assert isinstance(output[1], Spec)
    assert (output[1].severity, output[1].queue.lines) == ("high", 5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mod: audit", "1:1: error: there is no setting 'mod'"),
        ("mode: audit\nmode: enforce", "2:1: error"),
        ("mode: block", "1:7: error: mode: 'block' is not one of"),
        ("mode: [audit]", "1:7: error: mode takes a text or number here, not a list"),
        ("keep: yes", "1:7: error: keep is true or false"),
        ("max-processes: 3", "1:16: error: max-processes:"),
        ("policy: /nonexistent", "1:9: error: policy:"),
        ("output:\n- nope", "2:3: error: output: unknown output 'nope'"),
        ("output:\n- {to: unix:/x, severity: hgh}", "2:3: error: output: Invalid enum value 'hgh'"),
        ("config: x", "there is no setting 'config'"),
        ("- a", "1:1: error: the configuration is a map"),
        ("a: b\n---\nc: d", "more than one document"),
        ("mode: 'audit", "error"),
        ("mode: \x01", "U+0001"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(PolicyError) as caught:
        settings.read(written(tmp_path, text), run)
    assert said in str(caught.value)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(PolicyError) as caught:
        settings.read(written(tmp_path, "mod: audit\nkeep: yes\noutput: nope"), run)
    assert [one.location.line for one in caught.value.diagnostics] == [1, 2, 3]


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="cannot be read: Is a directory"):
        settings.read(tmp_path, run)


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    assert settings.read(written(tmp_path, "# nothing\n"), run) == {}


def test_the_environment_goes_over_the_file_and_options_over_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, "mode: audit\npin-dir: /file\nready-file: /file\noutput: [-, jsonl:/x]")
    monkeypatch.setenv("BPFENCE_PIN_DIR", "/environment")
    monkeypatch.setenv("BPFENCE_READY_FILE", "/environment")
    found = run.make_context("run", ["--config", str(path), "--ready-file", "/option"]).params
    assert (found["mode"], found["pin_dir"], found["ready_file"]) == ("audit", "/environment", Path("/option"))
    assert found["outputs"] == ("-", "jsonl:/x")
    assert run.make_context("run", ["--config", str(path), "--output", "rich"]).params["outputs"] == ("rich",)


def test_the_file_at_its_usual_place_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "CONFIG", tmp_path / "bpfence.yaml")
    assert run.make_context("run", []).params["mode"] is None
    written(tmp_path, "mode: audit")
    assert run.make_context("run", []).params["mode"] == "audit"


def test_options_keep_the_names_that_the_environment_had_for_them() -> None:
    assert settings.options(run)["node"].envvar == "NODE_NAME"
    assert settings.options(run)["mode"].envvar == "BPFENCE_MODE"


def test_help_and_completion_do_not_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "CONFIG", written(tmp_path, "nonsense"))
    assert isinstance(run.make_context("run", [], resilient_parsing=True), click.Context)
    assert CliRunner().invoke(run, ["--help"]).exit_code == 0
