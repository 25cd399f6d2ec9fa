# SPDX-License-Identifier: Apache-2.0
"""The wait for a command and its descendants, with a group that plays; and whole recordings where the kernel allows them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from bpfence.confine import learn as module
from bpfence.confine.command import Interrupts
from bpfence.confine.learn import _Run, record
from bpfence.errors import KernelError
from bpfence.host.cgroups import Hierarchy
from bpfence.host.signals import Signals
from bpfence.kernel.seccomp import Child, launch
from bpfence.seccomp.learned import Seen
from bpfence.syscalls.architectures import Arch
from bpfence.syscalls.table import number


class FakeGroup:
    """A command alone, and processes that the test names as its descendants."""

    def __init__(self, *others: int) -> None:
        self.others = list(others)

    def start(self, command: Sequence[str]) -> Child:
        raise AssertionError

    def running(self) -> list[int]:
        alive = []
        for pid in self.others:
            try:
                if os.waitpid(pid, os.WNOHANG) == (0, 0):
                    alive.append(pid)
            except ChildProcessError:
                pass
        return alive


def follow(command: list[str], group: FakeGroup, duration: float | None = None) -> tuple[int, list[str]]:
    said: list[str] = []
    with Signals({signal.SIGTERM}) as signals:
        child = launch(command)
        try:
            with Interrupts(child) as interrupts:
                return _Run(child, group, signals, interrupts, said.append, duration).until_all_ended(), said
        finally:
            child.close()


def spawn(*words: str) -> int:
    return os.posix_spawnp(words[0], words, os.environ)


def test_it_waits_for_descendants() -> None:
    other = spawn("sleep", "0.2")
    begun = time.monotonic()
    status, said = follow(["sh", "-c", "exit 3"], FakeGroup(other))
    assert os.waitstatus_to_exitcode(status) == 3
    assert time.monotonic() - begun > 0.15
    assert len(said) == 1
    assert "1 of its descendants" in said[0]


def test_duration_ends_them_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.2)
    ready = tmp_path / "ready"
    stubborn = spawn("sh", "-c", f"trap '' TERM; : >'{ready}'; while :; do sleep 0.05; done")
    while not ready.exists():
        time.sleep(0.01)
    group = FakeGroup(stubborn)
    begun = time.monotonic()
    status, _ = follow(["true"], group, duration=0.1)
    assert status == 0
    assert time.monotonic() - begun > 0.2
    assert group.running() == []


def test_sigterm_after_the_commands_end_ends_descendants() -> None:
    other = spawn("sleep", "60")
    raiser = spawn("sh", "-c", f"sleep 0.3; kill -TERM {os.getpid()}")
    begun = time.monotonic()
    follow(["true"], FakeGroup(other))
    assert time.monotonic() - begun < 30
    os.waitpid(raiser, 0)


def test_a_command_that_cannot_be_run() -> None:
    with pytest.raises(FileNotFoundError):
        follow(["no-such-command"], FakeGroup())


def test_a_machine_whose_calls_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ARCHES", {Arch.ARM: {}})
    with pytest.raises(KernelError, match="cannot be recorded"):
        record(["true"], lambda: Hierarchy(Path("/nowhere"), True), report=print)


def test_without_cgroups_processes_are_told_by_descent() -> None:
    def none() -> Hierarchy:
        raise KernelError("cgroup v2 is not mounted")

    said: list[str] = []
    try:
        found = record(["sh", "-c", "exit 5"], none, report=said.append)
    except KernelError as error:
        pytest.skip(f"needs raw tracepoints: {error}")
    assert (found.status, found.lost, found.out_of_range) == (5, 0, 0)
    assert "by their descent" in said[0]
    assert Seen(Arch.native(), number(Arch.native(), "execve") or 0) in found.calls
