# SPDX-License-Identifier: Apache-2.0
"""The unit of systemd: what systemd itself says of it, and what of it stands on a machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bpfence.agent.privileges import KEPT, READS_PROCESSES
from bpfence.cli.settings import CONFIG, read
from bpfence.errors import UsageError
from bpfence.host import units
from bpfence.host.units import changeable, interpreter, is_ours, unit

TRUE = "/usr/bin/true"
EXPOSURE = 6.5
"""Of 10, by `systemd-analyze security`: what loads programs into the kernel needs much, before the agent gives it up."""


@pytest.fixture
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("systemd-analyze is missing: apt-get install systemd")
    return found


def test_systemd_finds_nothing_wrong(analyze: str, tmp_path: Path) -> None:
    file = tmp_path / "bpfence.service"
    file.write_text(unit([TRUE, "run"], notifies_reload=False))
    said = subprocess.run([analyze, "verify", "--man=no", str(file)], capture_output=True, text=True, check=False)
    assert (said.returncode, [line for line in said.stderr.splitlines() if "bpfence" in line]) == (0, [])
    file.write_text(unit([TRUE, "run"], notifies_reload=False).replace("Restart=", "Restrat="))
    said = subprocess.run([analyze, "verify", "--man=no", str(file)], capture_output=True, text=True, check=False)
    assert "Restrat" in said.stderr


def test_it_is_as_hard_as_it_can_be(analyze: str, tmp_path: Path) -> None:
    file = tmp_path / "bpfence.service"
    file.write_text(unit([TRUE, "run"], notifies_reload=False))
    said = subprocess.run([analyze, "security", "--offline=true", "--no-pager", str(file)], capture_output=True, text=True, check=False)
    level = re.search(r"Overall exposure level for bpfence.service: ([\d.]+)", said.stdout)
    assert level is not None, said.stdout + said.stderr
    assert float(level[1]) <= EXPOSURE


def test_a_reload_is_told_in_both_ways() -> None:
    assert "Type=notify-reload\n" in unit([TRUE], notifies_reload=True)
    assert "ExecReload" not in unit([TRUE], notifies_reload=True)
    assert "Type=notify\nExecReload=/bin/kill -HUP $MAINPID\n" in unit([TRUE], notifies_reload=False)


def test_words_of_the_command_stay_words(analyze: str, tmp_path: Path) -> None:
    odd = tmp_path / "a b%d"
    shutil.copy(TRUE, odd)
    text = unit([str(odd), 'a "b" $c %d; e', "\\"], notifies_reload=False)
    assert f'ExecStart="{tmp_path}/a b%%d" "a \\"b\\" $$c %%d; e" \\\\\n' in text
    file = tmp_path / "bpfence.service"
    file.write_text(text)
    said = subprocess.run([analyze, "verify", "--man=no", str(file)], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    for path in ('/a"b', "/a$b", "/a\nb", "/a\\b"):
        with pytest.raises(UsageError, match="in its path"):
            unit([path], notifies_reload=False)


def test_the_unit_leaves_what_the_agent_keeps() -> None:
    bound = set(
        re.findall(r"CAP_\w+", " ".join(re.findall("^CapabilityBoundingSet=.*$", unit([TRUE], notifies_reload=True), re.MULTILINE)))
    )
    assert {*KEPT, *READS_PROCESSES} <= bound


def test_the_configuration_is_one(tmp_path: Path) -> None:
    from bpfence.cli.host import run

    file = tmp_path / CONFIG.name
    (tmp_path / "policies").mkdir()
    file.write_text(units.CONFIG.replace("/etc/bpfence/policies", str(tmp_path / "policies")))
    assert set(read(file, run)) == {"policy", "output", "control-socket"}


def test_a_unit_of_somebody_else_is_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "bpfence.service"
    assert not is_ours(file)
    file.write_text("[Unit]\n")
    assert not is_ours(file)
    file.write_text(unit([TRUE], notifies_reload=True))
    assert is_ours(file)


def test_what_others_can_change_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert changeable(Path(TRUE)) is None
    tmp_path.chmod(0o777)
    inner = tmp_path / "bin"
    inner.mkdir()
    (inner / "program").write_text("")
    assert changeable(inner / "program") in (inner / "program", inner, tmp_path)  # whoever runs the tests owns them
    link = tmp_path / "link"
    os.symlink(TRUE, link)
    assert changeable(link) == changeable(tmp_path)  # whoever can put another link there chooses what runs
    os.symlink("link", tmp_path / "round")
    (tmp_path / "link").unlink()
    os.symlink("round", tmp_path / "link")
    with pytest.raises(OSError, match="symbolic links"):
        changeable_in(link, monkeypatch)


def changeable_in(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path | None:
    """The same where all folders are root's alone."""
    lstat = os.lstat
    monkeypatch.setattr(os, "lstat", lambda path: os.stat_result((lstat(path).st_mode & ~0o022, *lstat(path)[1:4], 0, *lstat(path)[5:])))
    return changeable(path)


def test_links_on_the_way_are_followed_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "venv").mkdir()
    os.symlink(TRUE, tmp_path / "venv" / "python")
    os.symlink("../venv/./python", tmp_path / "venv" / "more")
    os.symlink(tmp_path / "venv", tmp_path / "other")
    assert changeable_in(tmp_path / "other" / "more", monkeypatch) is None
    with pytest.raises(FileNotFoundError):
        changeable(tmp_path / "other" / "nothing")


def test_what_runs_a_script(tmp_path: Path) -> None:
    script = tmp_path / "script"
    for first, found in (("#!/a/python -I\n", Path("/a/python")), ("#! /b\n", Path("/b")), ("#!\n", None), ("", None), ("\x7fELF", None)):
        script.write_text(first)
        assert interpreter(script) == found
    assert interpreter(tmp_path / "nothing") is None
