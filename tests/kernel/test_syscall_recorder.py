# SPDX-License-Identifier: Apache-2.0
"""`bpfence seccomp learn` on this kernel: the calls that a static program is known to make, its child's, by every door; nobody else's."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bpfence.syscalls.architectures import Arch
from bpfence.syscalls.table import number
from tests.kernel.cases import PLAYGROUND, ROOT, TRIGGER
from tests.kernel.harness import COMMAND, Playground

FOLDER = PLAYGROUND / "syscall-recorder"
DOORS = ROOT / "tests" / "seccomp" / "triggers" / "call.c"
ACT = [str(TRIGGER), "then", str(TRIGGER), "socket", "packet"]
STATIC = {"arch_prctl", "brk", "execve", "exit_group", "mprotect", "set_tid_address", "write"}
"""What any static program of this C library does and says."""


class Learned(msgspec.Struct):
    """Of `learn --json`, what is looked at here."""

    status: int
    seen: list[str]
    nameless: list[dict[str, Any]]
    families: list[int] | None
    out_of_range: int
    lost: int


@pytest.fixture(autouse=True)
def folder(playground: Playground) -> Path:
    """After the playground is made: the trigger is there then."""
    assert TRIGGER.exists()
    FOLDER.mkdir(parents=True, exist_ok=True)
    return FOLDER


@pytest.fixture(scope="module")
def call() -> Path:
    """tests/seccomp/triggers/call.c, compiled: one call by each of the doors that x86-64 has."""
    path = PLAYGROUND / "call"
    subprocess.run(["gcc", "-O1", "-static", "-pthread", "-o", str(path), str(DOORS)], check=True)
    return path


@pytest.fixture
def busy(folder: Path) -> Iterator[None]:
    """Somebody else, who makes calls all the time that the recorded command does not make."""
    other = subprocess.Popen([str(TRIGGER), "pace", "1000000", "1", "chmod", str(folder)])
    yield
    assert other.poll() is None
    other.kill()
    other.wait()


def bpfence(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, "seccomp", *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)


def learn(profile: Path, *words: str) -> Learned:
    done = bpfence("learn", "--json", "-o", str(profile), *words)
    assert done.returncode == 0, done.stderr
    found = msgspec.json.decode(done.stdout[done.stdout.index("{") :], type=Learned)
    assert (found.status, found.nameless, found.out_of_range, found.lost) == (0, [], 0, 0)
    return found


def told_apart(folder: Path, *how: str) -> Path:
    """Records a program that makes a socket in a child, and checks what was seen; the profile."""
    profile = folder / "profile.json"
    found = learn(profile, *how, "--", *ACT)
    assert set(found.seen) >= STATIC | {"socket", "wait4"}
    assert {"clone", "clone3", "fork", "vfork"} & set(found.seen)
    assert not {"chmod", "bpf", "openat", "mkdir", "prctl", "seccomp"} & set(found.seen)
    assert found.families == [socket.AF_PACKET]
    return profile


@pytest.mark.usefixtures("busy")
def test_a_program_and_its_child_are_recorded_by_cgroup_and_that_is_enough(folder: Path) -> None:
    profile = told_apart(folder)
    assert bpfence("run", "--profile", str(profile), "--", *ACT).returncode == 0


@pytest.mark.usefixtures("busy")
def test_a_program_and_its_child_are_recorded_by_descent(folder: Path) -> None:
    told_apart(folder, "--no-cgroup")


def test_doors_are_told_apart(folder: Path, call: Path) -> None:
    """32-bit calls are recorded as such: 96 is gettimeofday by the front door and getpriority by that one."""
    profile = folder / "profile.json"
    nr = number(Arch.X86, "getpriority")
    found = learn(profile, "--", str(call), "i386", str(nr))
    assert "getpriority" in found.seen
    assert "gettimeofday" not in found.seen
    assert json.loads(profile.read_text())["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
