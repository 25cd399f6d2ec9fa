# SPDX-License-Identifier: Apache-2.0
"""Cases and a stage in, what became of each out: stopped, seen, missed.

Called by `bpfence range run`. Whether an act worked is its script's exit code. Who stopped or saw it is read from the agent's alerts: one
belongs to an act where its process is the act's or descends from it.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from bpfence.range.cases import Act, Case
from bpfence.range.stage import Stage

ACT_SECONDS: Final = 120
"""An act that takes longer is ended, and counts as not played."""
LOOK_SECONDS: Final = 0.05
READ_BYTES: Final = 1 << 22
_ENTER: Final = 'echo 0 >"$1/cgroup.procs" && shift && exec "$@"'
"""A script that moves its shell into a cgroup and then becomes another program."""

Verdict = Literal["stopped", "seen", "missed", "failed", "worked", "not played"]
VERDICTS: Final[dict[Verdict, str]] = {
    "stopped": "the attack did not work, and an alert says that it was denied; without alerts: it did not work",
    "seen": "an alert tells of it, and nothing denied it",
    "missed": "it worked, and no alert tells of it",
    "failed": "it did not work, and no alert tells of it: something else stopped it",
    "worked": "it worked; whether it was seen is not known, because no alerts were given",
    "not played": "something that it needs is missing here, or it took too long",
}


class _Ancestor(msgspec.Struct, frozen=True):
    pid: int = 0


class _Process(msgspec.Struct, frozen=True):
    pid: int = 0
    ppid: int = 0
    ancestors: tuple[_Ancestor, ...] = ()


class Alert(msgspec.Struct, frozen=True):
    """Of a line of `bpfence run --output jsonl:PATH` what is of interest here."""

    kind: str = ""
    policy: str = ""
    rule: str = ""
    action: str = ""
    process: _Process = _Process()

    def of(self, pid: int) -> bool:
        """Whether it is about this process or one that descends from it."""
        process = self.process
        about = (process.pid, process.ppid, *(above.pid for above in process.ancestors))
        return self.kind in ("alert", "event") and pid in about

    @property
    def stops(self) -> bool:
        """The act was denied, or its process ended."""
        return self.action in ("deny", "kill")


class Alerts:
    """The lines that come to a file of alerts from now on."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._file.seek(0, io.SEEK_END)
        self._rest = b""

    def new(self) -> list[Alert]:
        """Those that have come since the last call. What is not a line of an alert is passed over."""
        *lines, self._rest = (self._rest + self._file.read(READ_BYTES)).split(b"\n")
        found = []
        for line in lines:
            with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
                found.append(msgspec.json.decode(line, type=Alert))
        return found

    def close(self) -> None:
        self._file.close()


class Done(msgspec.Struct, frozen=True):
    """One act that was played. `why`: it was not, for this reason."""

    worked: bool = False
    said: str = ""
    pid: int = 0
    why: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """What became of one case. `by`: the rules that told of the attack, as `policy/rule`, the stopping ones first."""

    case: Case
    verdict: Verdict
    by: tuple[str, ...]
    said: str
    ordinary: Literal["works", "broken", "not played"]
    ordinary_said: str

    @property
    def good(self) -> bool:
        """The attack did not go unnoticed, and ordinary work goes on."""
        return self.verdict in ("stopped", "seen", "not played") and self.ordinary != "broken"


def lacking(act: Act, stage: Stage) -> str:
    """What an act needs and this machine does not have; empty where nothing is missing."""
    missing = next((need for need in act.needs if shutil.which(need, path=stage.environment()["PATH"]) is None), "")
    if missing:
        return f"needs {missing}"
    if act.over and act.over not in stage.over:
        return f"needs {act.over}, with something of the range's own over it"
    if act.container and stage.container is None:
        return "needs cgroup v2"
    if act.program and not stage.programs:
        return "sh is busybox, which does not run under another name"
    return ""


def perform(act: Act, stage: Stage) -> Done:
    """Run one act to its end."""
    why = lacking(act, stage)
    if why:
        return Done(why=why)
    program = str(stage.folder / "bin" / act.program) if act.program else "/bin/sh"
    command: tuple[str, ...] = (program, "-c", act.script)
    if act.container:
        command = ("/bin/sh", "-c", _ENTER, "sh", str(stage.container), *command)
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=stage.folder,
        env=stage.environment(),
        start_new_session=True,
    )
    try:
        said = process.communicate(timeout=ACT_SECONDS)[0].decode(errors="replace").strip().splitlines()
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        return Done(pid=process.pid, why=f"took more than {ACT_SECONDS} s")
    last = said[-1] if said else f"ended by signal {-process.returncode}" if process.returncode < 0 else f"exit code {process.returncode}"
    return Done(process.returncode == 0, last, process.pid)


def judge(done: Done, told: Sequence[Alert] | None) -> Verdict:
    """What became of an attack. `told`: the alerts of it; None: nobody knows of any."""
    if done.why:
        return "not played"
    if told is None:
        return "worked" if done.worked else "stopped"
    if not done.worked and any(alert.stops for alert in told):
        return "stopped"
    if told:
        return "seen"
    return "missed" if done.worked else "failed"


def play(cases: Sequence[Case], stage: Stage, alerts: Alerts | None, wait: float) -> Iterator[Outcome]:
    """Each case in turn: the attack, its alerts, ordinary work. `wait`: seconds in which an alert of an attack is expected."""
    for case in cases:
        attack = perform(case.attack, stage)
        told = _told(alerts, attack, wait) if alerts is not None and not attack.why else None
        ordinary = perform(case.ordinary, stage)
        rules = sorted(told or (), key=lambda alert: not alert.stops)
        yield Outcome(
            case,
            judge(attack, told),
            tuple(dict.fromkeys(f"{alert.policy}/{alert.rule}" for alert in rules)),
            attack.why or attack.said,
            "not played" if ordinary.why else "works" if ordinary.worked else "broken",
            ordinary.why or ordinary.said,
        )


def _told(alerts: Alerts, attack: Done, wait: float) -> list[Alert]:
    """The alerts of one attack: until one says what became of it, or none has come in time."""
    found: list[Alert] = []
    deadline = time.monotonic() + wait
    while True:
        found += [alert for alert in alerts.new() if alert.of(attack.pid)]
        if any(alert.stops for alert in found) or (found and attack.worked) or time.monotonic() > deadline:
            return found
        time.sleep(LOOK_SECONDS)


__all__ = ["VERDICTS", "Alert", "Alerts", "Done", "Outcome", "Verdict", "judge", "lacking", "perform", "play"]
