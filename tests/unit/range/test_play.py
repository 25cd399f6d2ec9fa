# SPDX-License-Identifier: Apache-2.0
"""Scripts that work, fail, hang; alerts that belong to them and alerts that do not; what is made of both."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bpfence.range import play
from bpfence.range.cases import CASES, Act, Case
from bpfence.range.play import Alert, Alerts, Done, Outcome, judge, lacking, perform
from bpfence.range.stage import Stage


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    (tmp_path / "home").mkdir()
    return Stage(tmp_path, tmp_path, None, True)


def line(pid: int, *, ppid: int = 1, above: tuple[int, ...] = (1,), **keys: Any) -> bytes:
    process = {"pid": pid, "ppid": ppid, "ancestors": [{"pid": number, "exe": "/bin/x"} for number in above]}
    return json.dumps({"kind": "alert", "policy": "p", "rule": "r", "action": "deny", "process": process} | keys).encode() + b"\n"


def told(action: str) -> Alert:
    return Alert("alert", "p", action, action)


def test_an_act_that_works(stage: Stage) -> None:
    done = perform(Act("", 'echo first; echo "$RANGE $HOME"'), stage)
    assert (done.worked, done.why) == (True, "")
    assert done.said == f"{stage.folder} {stage.folder}/home"
    assert done.pid > 1


@pytest.mark.parametrize(
    ("script", "said"),
    [("exit 3", "exit code 3"), ("kill -9 $$", "ended by signal 9"), ("echo no >&2; exit 1", "no"), ("printf '\\377'; exit 1", "\ufffd")],
)
def test_an_act_that_does_not(script: str, said: str, stage: Stage) -> None:
    done = perform(Act("", script), stage)
    assert (done.worked, done.said) == (False, said)


def test_an_act_that_takes_too_long(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(play, "ACT_SECONDS", 0.05)
    done = perform(Act("", "sleep 1000 & echo $! >child; wait"), stage)
    assert done.why == "took more than 0.05 s"
    with pytest.raises(ProcessLookupError):
        os.kill(done.pid, 0)


@pytest.mark.parametrize(
    ("act", "why"),
    [
        (Act("", "", needs=("sh", "/bin/sh")), ""),
        (Act("", "", needs=("no-such-program",)), "needs no-such-program"),
        (Act("", "", needs=("/no/such/program",)), "needs /no/such/program"),
        (Act("", "", over="/etc"), "needs /etc, with something of the range's own over it"),
        (Act("", "", container=True), "needs cgroup v2"),
        (Act("", "", program="nginx"), "sh is busybox, which does not run under another name"),
    ],
)
def test_what_is_missing(act: Act, why: str, tmp_path: Path) -> None:
    stage = Stage(tmp_path, tmp_path, None, False)
    assert lacking(act, stage) == why
    if why:
        assert perform(act, stage) == Done(why=why)


def test_an_act_that_is_interrupted_is_ended(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []

    def interrupted(process: subprocess.Popen[bytes], timeout: float | None = None) -> tuple[bytes, None]:
        begun.append(process.pid)
        if timeout is not None:
            raise KeyboardInterrupt
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        return b"", None

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        perform(Act("", "exec sleep 1000"), stage)
    with pytest.raises(ProcessLookupError):
        os.kill(begun[0], 0)


@pytest.mark.parametrize(
    ("written", "belongs"),
    [
        (line(7), True),
        (line(9, ppid=7), True),
        (line(9, above=(8, 7, 1)), True),
        (line(7, kind="event"), True),
        (line(9), False),
        (line(7, kind="loss"), False),
        (line(70), False),
    ],
)
def test_alerts_of_a_process(written: bytes, belongs: bool, tmp_path: Path) -> None:
    file = tmp_path / "alerts"
    file.write_bytes(line(7))
    alerts = Alerts(file)
    with file.open("ab") as more:
        more.write(written)
    (alert,) = alerts.new()
    assert alert.of(7) is belongs
    alerts.close()


def test_lines_that_come_in_parts_and_lines_that_are_none(tmp_path: Path) -> None:
    file = tmp_path / "alerts"
    file.touch()
    alerts = Alerts(file)
    whole = line(7)
    with file.open("ab", buffering=0) as more:
        more.write(whole[:20])
        assert alerts.new() == []
        more.write(whole[20:] + b'\xff\n[]\n{"process": 1}\n{"kind": "status"}\n' + line(8))
    assert [alert.process.pid for alert in alerts.new()] == [7, 0, 8]
    alerts.close()


@pytest.mark.parametrize(
    ("done", "actions", "verdict"),
    [
        (Done(why="needs x"), None, "not played"),
        (Done(True), None, "worked"),
        (Done(False), None, "stopped"),
        (Done(False), ["audit", "deny"], "stopped"),
        (Done(False), ["kill"], "stopped"),
        (Done(True), ["audit"], "seen"),
        (Done(True), ["deny"], "seen"),
        (Done(False), ["audit"], "seen"),
        (Done(True), [], "missed"),
        (Done(False), [], "failed"),
    ],
)
def test_verdicts(done: Done, actions: list[str] | None, verdict: str) -> None:
    assert judge(done, None if actions is None else [told(action) for action in actions]) == verdict


def test_a_case(stage: Stage, tmp_path: Path) -> None:
    """The alert comes while the attack runs, from a process below it."""
    file = tmp_path / "alerts"
    file.touch()
    tells = f'sed "s/PID/$$/" {tmp_path}/line >>{file}; exit 1'
    (tmp_path / "line").write_bytes(
        line(1234567, action="audit", above=(0,)).replace(b'"pid": 0', b'"pid": PID')
        + line(1234567, ppid=0).replace(b'"ppid": 0', b'"ppid": PID')
    )
    case = Case("x", "", ("T1",), "", Act("", tells), Act("", "echo fine"))
    alerts = Alerts(file)
    (outcome,) = play.play([case], stage, alerts, 60)
    assert (outcome.verdict, outcome.by, outcome.ordinary, outcome.ordinary_said, outcome.good) == (
        "stopped",
        ("p/r",),
        "works",
        "fine",
        True,
    )
    (outcome,) = play.play([other(case, Act("", "true"))], stage, alerts, 0)
    assert (outcome.verdict, outcome.good) == ("missed", False)
    alerts.close()


def other(case: Case, attack: Act) -> Case:
    return Case(case.name, case.title, case.techniques, case.policy, attack, Act("", "exit 1"))


def test_ordinary_work_that_is_stopped_is_no_good_outcome() -> None:
    assert not Outcome(CASES[0], "stopped", (), "", "broken", "").good
    assert Outcome(CASES[0], "not played", (), "", "not played", "").good
    assert not Outcome(CASES[0], "failed", (), "", "works", "").good
