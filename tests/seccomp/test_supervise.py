# SPDX-License-Identifier: Apache-2.0
"""`bpfence seccomp supervise`: answers, alerts, and what happens to those who die meanwhile."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from bpfence.syscalls.architectures import Arch
from bpfence.syscalls.table import number

from .conftest import PYTHON, ROOT, Bpfence, Profile

GETPPID = number(Arch.X86_64, "getppid") or 0
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src")}


def alerts(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("answer", "printed", "action", "name"),
    [
        ([], "-13\n", "deny", "EACCES"),
        (["--answer", "getppid=errno:EXDEV"], "-18\n", "deny", "EXDEV"),
        (["--answer", "*=errno:EXDEV"], "-18\n", "deny", "EXDEV"),
        (["--answer", "*=log", "--answer", "getppid=errno"], "-13\n", "deny", "EACCES"),
        (["--answer", "getppid=log"], None, "audit", None),
        (["--answer", "getppid=allow-once"], None, "allow", None),
    ],
)
def test_answers(
    bpfence: Bpfence, profile: Profile, call: str, tmp_path: Path, answer: list[str], printed: str | None, action: str, name: str | None
) -> None:
    path = profile(syscalls=[{"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EACCES, "comment": "nobody's parent"}])
    out = tmp_path / "alerts"
    done = bpfence("supervise", "--profile", path, *answer, "--output", f"jsonl:{out}", "--", call, "x86_64", str(GETPPID), "0x11", "7")
    assert done.returncode == 0, done.stderr
    assert done.stdout == printed if printed else int(done.stdout) > 0
    (alert,) = alerts(out)
    assert (alert["kind"], alert["event"], alert["action"], alert["errno"]) == ("alert", "seccomp", action, name)
    assert (alert["policy"], alert["rule"], alert["seq"]) == (os.path.basename(path), "nobody's parent", 1)
    assert alert["syscall"]["name"] == "getppid"
    assert alert["syscall"]["registers"][:2] == ["0x11", "0x7"]
    assert alert["syscall"]["verdict"] == "ERRNO(EACCES)"
    assert alert["process"]["exe"] == call
    assert alert["process"]["args"] == [call, "x86_64", str(GETPPID), "0x11", "7"]
    assert ("would" in alert) == (action in ("audit", "allow"))


def test_allow_once_is_once_for_all_processes(bpfence: Bpfence, profile: Profile, call: str) -> None:
    getpgid = number(Arch.X86_64, "getpgid")
    script = f"{call} x86_64 {getpgid}; {call} x86_64 {getpgid}; {call} x86_64 {getpgid}"
    done = bpfence("supervise", "--profile", profile({"getpgid": "ERRNO"}), "--answer", "getpgid=allow-once", "--", "sh", "-c", script)
    first, *others = (int(line) for line in done.stdout.split())
    assert first > 0
    assert others == [-1, -1]


def test_kill(bpfence: Bpfence, profile: Profile, call: str, tmp_path: Path) -> None:
    out = tmp_path / "alerts"
    words = ("supervise", "--profile", profile({"getppid": "ERRNO"}), "--answer", "getppid=kill", "--output", f"jsonl:{out}")
    done = bpfence(*words, "--", call, "thread", str(GETPPID))
    assert (done.returncode, done.stdout) == (137, "")
    assert [alert["action"] for alert in alerts(out)] == ["kill"]


def test_notify_is_answered_and_kills_stay_the_kernels(bpfence: Bpfence, profile: Profile, call: str) -> None:
    path = profile({"getppid": "NOTIFY", "getpgid": "KILL_PROCESS"})
    assert bpfence("supervise", "--profile", path, "--", call, "x86_64", str(GETPPID)).stdout == "-1\n"
    getpgid = str(number(Arch.X86_64, "getpgid"))
    done = bpfence("supervise", "--profile", path, "--answer", "*=log", "--", call, "x86_64", getpgid)
    assert done.returncode == 128 + signal.SIGSYS


def test_arguments_are_decoded_and_hostile_strings_escaped(bpfence: Bpfence, profile: Profile, tmp_path: Path) -> None:
    out = tmp_path / "alerts"
    script = """
import contextlib, os, socket
with contextlib.suppress(OSError): os.mkdir("/tmp/no\\nsuch\\x1b[31m", 0o750)
with contextlib.suppress(OSError): socket.create_connection(("127.0.0.1", 9))
with contextlib.suppress(OSError): socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
with contextlib.suppress(OSError): os.kill(0x7ffffff0, 10)
with contextlib.suppress(OSError): socket.socket(socket.AF_UNIX).connect("\\0abstract")
"""
    only = [{"index": 0, "value": 16, "op": "SCMP_CMP_EQ"}]
    rules = [{"names": [name], "action": "SCMP_ACT_ERRNO"} for name in ("mkdir", "connect", "kill")]
    path = profile(syscalls=[*rules, {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "args": only}])
    bpfence("supervise", "--profile", path, "--output", f"jsonl:{out}", "--", PYTHON, "-c", script)
    found = [(alert["syscall"]["name"], alert["syscall"]["args"], alert["syscall"]["reread"]) for alert in alerts(out)]
    assert found[0] == ("mkdir", {"path": r"/tmp/no\x0asuch\x1b[31m", "mode": "0750"}, ["path"])
    assert found[1][0] == "connect"
    assert found[1][1]["address"] == "127.0.0.1:9"
    assert found[1][2] == ["address"]
    assert found[2][0] == "socket"
    assert found[2][1]["family" if "family" in found[2][1] else "domain"] == "AF_NETLINK"
    assert found[2][2] == []
    assert found[3][1]["signal"] == "SIGUSR1"
    assert found[4][1]["address"] == "unix:@abstract"
    assert "\x1b" not in out.read_text()


def test_descendants_that_outlive_the_command_are_supervised(bpfence: Bpfence, profile: Profile, call: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    getpgid = number(Arch.X86_64, "getpgid")
    script = f"(setsid sh -c 'sleep 0.4; {call} x86_64 {getpgid}' > {out} 2>&1 &) ; exit 4"
    done = bpfence("supervise", "--profile", profile({"getpgid": "ERRNO"}), "--", "sh", "-c", script)
    assert done.returncode == 4
    assert out.read_text() == "-1\n"


def test_when_the_supervisor_is_killed_calls_fail_with_enosys(profile: Profile, call: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    getpgid = number(Arch.X86_64, "getpgid")
    script = f"echo $$ > {tmp_path}/pid; while :; do {call} x86_64 {getpgid}; sleep 0.05; done > {out}"
    path = profile({"getpgid": "ERRNO"})
    command = [sys.executable, "-m", "bpfence", "seccomp", "supervise", "--profile", path, "--output", f"jsonl:{tmp_path}/alerts"]
    with subprocess.Popen([*command, "--", "sh", "-c", script], env=ENVIRONMENT) as supervisor:
        deadline = time.monotonic() + 20
        while (not out.exists() or "-1\n" not in out.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        supervisor.kill()
    try:
        seen = len(out.read_text())
        while f"{-errno.ENOSYS}\n" not in out.read_text()[seen:] and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "-1\n" in out.read_text()[:seen]
        assert out.read_text().splitlines()[-1] == f"{-errno.ENOSYS}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_callers_that_die_while_they_wait(bpfence: Bpfence, profile: Profile, call: str, tmp_path: Path) -> None:
    """Many processes are killed in the middle of denied calls; the supervisor goes on and ends when they have."""
    script = f"for i in 1 2 3 4 5 6; do {call} forever {GETPPID} & p=$!; sleep 0.02; kill -KILL $p; done; wait; {call} x86_64 {GETPPID}"
    path = profile({"getppid": "ERRNO"})
    done = bpfence("supervise", "--profile", path, "--output", f"jsonl:{tmp_path}/alerts", "--", "sh", "-c", script)
    assert (done.returncode, done.stdout) == (0, "-1\n"), done.stderr
    assert len(alerts(tmp_path / "alerts")) > 6


def test_a_flood_is_limited_and_counted(bpfence: Bpfence, profile: Profile, tmp_path: Path) -> None:
    out = tmp_path / "alerts"
    script = "import os\nfor _ in range(600): os.getppid()"
    bpfence("supervise", "--profile", profile({"getppid": "ERRNO"}), "--output", f"jsonl:{out}", "--", PYTHON, "-c", script)
    lines = alerts(out)
    told = [line for line in lines if line["kind"] == "alert"]
    left_out = sum(line["suppressed"] for line in lines if line["kind"] == "status")
    assert len(told) + left_out == 600
    first, last = (datetime.fromisoformat(told[place]["time"][:26] + "+00:00") for place in (0, -1))
    assert len(told) <= 200 + 100 * (last - first).total_seconds() + 2, "a burst, and then a hundred a second"


def test_a_standard_error_that_nobody_reads_holds_up_no_call(profile: Profile) -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    words = ["supervise", "--profile", profile({"getppid": "ERRNO"}), "--", PYTHON, "-c", "import os\nfor _ in range(100): os.getppid()"]
    command = [sys.executable, "-m", "bpfence", "seccomp", *words]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=writer, env=ENVIRONMENT)
    os.close(writer)
    assert process.communicate(timeout=600)[0] == b""
    assert process.returncode == 0
    with os.fdopen(reader, "rb") as pipe:
        assert 0 < pipe.read().count(b'"event":"seccomp"') < 100


def test_the_exit_code_and_what_cannot_be_run(bpfence: Bpfence, profile: Profile) -> None:
    path = profile({"getppid": "ERRNO"})
    assert bpfence("supervise", "--profile", path, "--", "sh", "-c", "exit 7").returncode == 7
    assert bpfence("supervise", "--profile", path, "--", "no-such-command").returncode == 127
    for words in (["--answer", "nonsense=log"], ["--answer", "getppid"], ["--answer", "getppid=maybe"], ["--answer", "getppid=log:EPERM"]):
        assert bpfence("supervise", "--profile", path, *words, "--", "true").returncode == 2


def test_a_denied_execve_is_answered_too(bpfence: Bpfence, profile: Profile, tmp_path: Path) -> None:
    """Also the first one, which the launcher itself makes under the filter."""
    path = profile({"execve": "ERRNO"})
    assert bpfence("supervise", "--profile", path, "--", "/bin/true").returncode == 126
    out = tmp_path / "alerts"
    words = ("supervise", "--profile", path, "--answer", "execve=allow-once", "--output", f"jsonl:{out}")
    done = bpfence(*words, "--", "/bin/sh", "-c", "exec /bin/ls")
    assert done.returncode != 0
    assert [alert["syscall"]["args"]["path"] for alert in alerts(out)] == ["/bin/sh", "/bin/ls"]
