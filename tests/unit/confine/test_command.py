# SPDX-License-Identifier: Apache-2.0
"""Profiles made filters for this machine, and which filters a command gets."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
from pathlib import Path
from typing import Any

import pytest

from bpfence.confine import command as module
from bpfence.confine.command import as_filter, compiled_here, filters_of, logging, process_state, read_profile, run, with_returns
from bpfence.errors import KernelError, PolicyError, UsageError
from bpfence.kernel.seccomp import Child, Flag, launch
from bpfence.policy import Atom, Op, Policy
from bpfence.seccomp.interpret import Program, verdict_of
from bpfence.seccomp.model import Profile, ProfileAction, ProfileRule
from bpfence.syscalls.architectures import Arch
from bpfence.syscalls.table import number

GETPPID = number(Arch.native(), "getppid") or 0


def profile(action: ProfileAction = ProfileAction.ERRNO, **more: object) -> Profile:
    return Profile(default_action=ProfileAction.ALLOW, rules=(ProfileRule(names=("getppid",), action=action),), **more)  # type: ignore[arg-type]


def verdict(program: bytes) -> str:
    return str(verdict_of(Program(program).run(Arch.native().audit, GETPPID)))


def test_read_profile(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text('{"defaultAction": "SCMP_ACT_LOG"}')
    assert read_profile(str(path)).default_action is ProfileAction.LOG
    path.write_text("{")
    with pytest.raises(PolicyError):
        read_profile(str(path))


def test_flags_are_those_of_the_profile() -> None:
    assert as_filter(compiled_here(profile())).flags == Flag.SECCOMP_FILTER_FLAG_SPEC_ALLOW
    assert as_filter(compiled_here(profile(flags=()))).flags == Flag(0)


def test_a_kernel_that_lacks_something(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = compiled_here(profile())
    monkeypatch.setattr(module, "supported_flags", lambda: Flag(0))
    with pytest.raises(KernelError, match="SPEC_ALLOW"):
        as_filter(compiled)
    monkeypatch.undo()
    monkeypatch.setattr(module, "knows_action", lambda ret: ret != 0x00050000)
    with pytest.raises(KernelError, match="SCMP_ACT_ERRNO"):
        as_filter(compiled)


@pytest.mark.parametrize("action", [ProfileAction.ERRNO, ProfileAction.KILL_PROCESS, ProfileAction.TRAP, ProfileAction.NOTIFY])
def test_logging_denies_nothing(action: ProfileAction) -> None:
    program = compiled_here(profile(action)).program
    assert verdict(program) != "LOG"
    assert verdict(logging(program)) == "LOG"
    assert len(logging(program)) == len(program)


def test_only_returns_are_replaced() -> None:
    program = struct.pack("=HBBI", 0x20, 0, 0, 4) + struct.pack("=HBBI", 0x15, 0, 0, 7) + struct.pack("=HBBI", 0x06, 0, 0, 7)
    assert with_returns(program, lambda ret: ret + 1) == program[:-4] + struct.pack("=I", 8)


def test_which_filters_a_command_gets(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getppid"], "action": "SCMP_ACT_TRAP"}]}))
    policies = [
        Policy(name="plain"),
        Policy(name="filtered", seccomp=profile()),
        Policy(name="audited", mode="audit", seccomp=profile(ProfileAction.NOTIFY)),
        Policy(name="scoped", seccomp=profile(), scope=Atom("process.user", Op.EQUALS, 5)),
    ]
    said: list[str] = []
    found = filters_of(str(path), policies, said.append)
    assert [verdict(one.program) for one in found] == ["TRAP", "ERRNO(EPERM)", "LOG"]
    assert len(said) == 1
    assert "scoped" in said[0]
    assert filters_of(None, [], said.append) == []


def test_notify_is_for_who_answers(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="supervise"):
        filters_of(None, [Policy(name="asking", seccomp=profile(ProfileAction.NOTIFY))], print)
    with pytest.raises(UsageError, match="listenerPath"):
        run(["true"], compiled_here(profile(ProfileAction.NOTIFY)), report=print)
    nobody = profile(ProfileAction.NOTIFY, listener_path=str(tmp_path / "none"))
    with pytest.raises(UsageError, match="cannot be reached"):
        run(["true"], compiled_here(nobody), report=print)


def test_the_state_that_goes_with_a_listener() -> None:
    state = json.loads(process_state(12, profile(listener_metadata="m")))
    assert (state["pid"], state["metadata"], state["fds"]) == (12, "m", ["seccompFd"])


def test_run_gives_the_exit_code() -> None:
    said: list[str] = []
    assert run(["sh", "-c", "exit 4"], compiled_here(profile()), report=said.append) == 4
    assert run(["sh", "-c", "kill -SYS $$"], compiled_here(profile()), report=said.append) == 159
    assert len(said) == 1


def test_a_listener_path_that_goes_away_leaves_no_command_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = str(tmp_path / "listener")
    started: list[Child] = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(place)
        server.listen(1)

        def launch_after_the_end(*args: Any, **more: Any) -> Child:
            server.accept()[0].close()
            started.append(launch(*args, **more))
            return started[0]

        monkeypatch.setattr(module, "launch", launch_after_the_end)
        with pytest.raises(UsageError, match="did not take the listener"):
            run(["sleep", "30"], compiled_here(profile(ProfileAction.NOTIFY, listener_path=place)), report=print)
    assert os.waitstatus_to_exitcode(os.waitpid(started[0].pid, 0)[1]) == -signal.SIGKILL
