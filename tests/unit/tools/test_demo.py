# SPDX-License-Identifier: Apache-2.0
"""The demo on a machine that is slow, or in which something goes wrong: it says so, and never shows a traceback."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tools import demo


@pytest.fixture
def cgroup(tmp_path: Path) -> Path:
    (tmp_path / "cgroup.procs").touch()
    return tmp_path


def test_limits_grow_with_the_time_that_things_take_now(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def start(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for taken, factor in ((0.01, 1), (demo.USUAL_START, 1), (10 * demo.USUAL_START, 10)):
        monkeypatch.setattr(subprocess, "run", lambda *_, taken=taken, **__: start(taken))
        assert demo.allowed(120) == pytest.approx(120 * factor)


def test_an_act_that_takes_too_long_is_neither_stopped_nor_done(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "allowed", lambda seconds: 0.2)
    with pytest.raises(demo.DemoError, match="wait took more than 0 s: this machine is too busy"):
        demo.run(demo.Act("wait", ("sleep", "60")), cgroup)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (subprocess.TimeoutExpired(["true"], 5), 1, "could not go on: Command"),
        (demo.DemoError("too [busy]"), 1, "could not go on: too [busy]"),
        (FileNotFoundError(2, "No such file or directory", "/x"), 1, "/x"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_goes_wrong_is_a_message(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> int:
        raise error

    monkeypatch.setattr(demo, "perform", fail)
    monkeypatch.setattr(sys, "argv", ["demo", "--here"])
    assert demo.main() == code
    assert said in capsys.readouterr().out


def test_what_still_runs_is_killed_before_the_cgroup_goes(cgroup: Path) -> None:
    left = subprocess.Popen(["sleep", "60"])
    (cgroup / "cgroup.procs").write_text(f"{left.pid}\n")
    with pytest.raises(OSError, match="not empty"):
        demo.remove_cgroup(cgroup)
    assert left.wait(30) == -9
