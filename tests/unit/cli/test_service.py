# SPDX-License-Identifier: Apache-2.0
"""bpfence as a service: what is written into another system's tree, and what systemd is told of this one's."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bpfence.cli import service
from bpfence.cli.main import cli
from bpfence.host import units

TRUE = "/usr/bin/true"


def call(*words: object) -> Result:
    return CliRunner().invoke(cli, ["service", *map(str, words)], standalone_mode=False)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What systemd is told; it agrees."""
    said: list[tuple[str, ...]] = []
    monkeypatch.setattr(service, "_systemctl", lambda *words: said.append(words) or "")
    return said


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """This machine's root, which is a folder."""
    monkeypatch.setattr(service, "_at", lambda root, path: tmp_path / path.relative_to("/"))
    return tmp_path


def test_the_unit_is_shown_and_whether_it_stands(here: Path) -> None:
    text = call("show", "--program", TRUE).output
    assert "\nExecStart=/usr/bin/true run\n" in text
    told = json.loads(call("show", "--program", TRUE, "--json").output)
    assert (told["unit"], told["path"]) == (text, "/etc/systemd/system/bpfence.service")


@pytest.mark.parametrize(("version", "kind"), [(252, "Type=notify\n"), (253, "Type=notify-reload\n"), (0, "Type=notify\n")])
def test_the_unit_is_for_the_systemd_that_is_here(monkeypatch: pytest.MonkeyPatch, version: int, kind: str) -> None:
    monkeypatch.setattr(service, "_version", lambda: version)
    assert kind in call("show").output


def test_it_is_installed_and_taken_away(here: Path, asked: list[tuple[str, ...]]) -> None:
    result = call("install", "--now", "--program", TRUE)
    unit, config = here / "etc/systemd/system/bpfence.service", here / "etc/bpfence/bpfence.yaml"
    assert result.output.splitlines() == [f"written: {unit}", f"written: {config}"]
    assert asked == [("daemon-reload",), ("enable", "--now", "bpfence.service")]
    assert units.is_ours(unit)
    assert (here / "etc/bpfence/policies").is_dir()
    config.write_text("mode: audit\n")
    again = call("install", "--program", TRUE)
    assert "systemctl start bpfence" in again.output
    assert config.read_text() == "mode: audit\n"
    assert call("uninstall").return_value == 0
    assert asked[-2:] == [("disable", "--now", "bpfence.service"), ("daemon-reload",)]
    assert not unit.exists()
    assert config.exists()
    assert call("uninstall").return_value == 2


def test_another_system_is_written_and_this_one_is_told_nothing(tmp_path: Path, asked: list[tuple[str, ...]]) -> None:
    program = tmp_path / "usr/bin/bpfence"
    program.parent.mkdir(parents=True)
    program.write_text("")
    assert call("install", "--root", tmp_path, "--program", program).return_value == 0
    assert "\nExecStart=/usr/bin/bpfence run\n" in (tmp_path / "etc/systemd/system/bpfence.service").read_text()
    assert json.loads(call("uninstall", "--root", tmp_path, "--json").output) == {
        "removed": [f"{tmp_path}/etc/systemd/system/bpfence.service"]
    }
    assert asked == []


@pytest.mark.parametrize("link", ["etc", "etc/systemd/system", "etc/bpfence/bpfence.yaml", "etc/bpfence/policies"])
def test_links_of_another_system_do_not_lead_into_this_one(tmp_path: Path, asked: list[tuple[str, ...]], link: str) -> None:
    root, own = tmp_path / "image", tmp_path / "own"
    (root / link).parent.mkdir(parents=True)
    (root / link).symlink_to(own)
    refused = call("install", "--root", root, "--program", TRUE)
    assert (refused.return_value, "leads out of" in refused.stderr) == (2, True)
    if "systemd" in link:
        assert "leads out of" in call("uninstall", "--root", root).stderr
    assert not own.exists()


def test_this_system_is_known_however_it_is_written(here: Path, asked: list[tuple[str, ...]]) -> None:
    assert call("install", "--root", "//", "--program", TRUE).return_value == 0
    assert asked == [("daemon-reload",), ("enable", "bpfence.service")]


def test_what_is_somebody_elses_stays(here: Path, asked: list[tuple[str, ...]]) -> None:
    unit = here / "etc/systemd/system/bpfence.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Unit]\n")
    for words in (("install", "--program", TRUE), ("uninstall",)):
        refused = call(*words)
        assert (refused.return_value, "somebody else's" in refused.stderr) == (2, True)
    unit.unlink()
    packaged = here / "usr/lib/systemd/system/bpfence.service"
    packaged.parent.mkdir(parents=True)
    packaged.write_text("")
    assert "systemctl enable --now bpfence" in call("install", "--program", TRUE).stderr
    assert "goes with the package" in call("uninstall").stderr
    assert asked == []


def test_a_program_that_others_can_change_does_not_become_a_service(here: Path, asked: list[tuple[str, ...]], tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    program = tmp_path / "bpfence"
    program.write_text("")
    refused = call("install", "--program", program)
    assert refused.return_value == 2
    assert "can be changed by others" in refused.stderr
    assert asked == []


def test_neither_does_one_that_they_can_put_another_in_the_place_of(
    here: Path, asked: list[tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv = tmp_path / "venv"
    venv.mkdir()
    venv.chmod(0o777)
    (venv / "python").symlink_to(TRUE)  # as a virtual environment has it
    assert "can be changed by others" in call("install", "--program", venv / "python").stderr
    monkeypatch.setattr(sys, "argv", ["-m"])
    monkeypatch.setattr(sys, "executable", str(venv / "python"))
    assert "can be changed by others" in call("install").stderr
    monkeypatch.setattr(units, "interpreter", lambda _: venv / "python")
    assert "can be changed by others" in call("install", "--program", TRUE).stderr
    assert asked == []


def test_systemd_may_refuse(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_systemctl", lambda *words: f"systemctl {words[0]}: no" if words[0] == "enable" else "")
    refused = call("install", "--program", TRUE)
    assert (refused.return_value, "systemctl enable: no" in refused.stderr) == (3, True)


def test_no_systemd_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.shutil, "which", lambda _: None)
    assert service._version() == 0
    assert "there is no systemctl here" in service._systemctl("daemon-reload")
    monkeypatch.setattr(service.shutil, "which", lambda _: "/usr/bin/false")
    assert service._systemctl("start", "x") == "systemctl start: failed"
    assert service._version() == 0
