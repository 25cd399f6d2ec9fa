# SPDX-License-Identifier: Apache-2.0
"""What /proc says of a process, and that it is of that process."""

from __future__ import annotations

import inspect
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfence.host.procfs import MAX_TEXT, Procfs, read_file
from bpfence.patience import Patience

NOW = 1 << 62


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    left, right = socket.socketpair()
    server = socket.create_server(("127.0.0.1", 0))
    code = "import os,sys; os.write(1, b'.'); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "an argument", "\udcff"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"A": "1", "B": "x y"},
        pass_fds=(left.fileno(), server.fileno()),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"."
        process.sockets = (left.fileno(), server.fileno())  # type: ignore[attr-defined]
        yield process
        process.communicate()
    for one in (left, right, server):
        one.close()


def test_of_a_process(child: subprocess.Popen[bytes]) -> None:
    procfs = Procfs()
    started = procfs.started(child.pid, NOW)
    assert started is not None
    assert abs(time.clock_gettime_ns(time.CLOCK_BOOTTIME) - started) < 60_000_000_000
    arguments = procfs.arguments(child.pid, started + 5_000_000)
    assert arguments is not None
    assert arguments.endswith(b"\0an argument\0\xff\0")
    assert procfs.environment(child.pid, started) is not None
    assert b"A=1\0" in (procfs.environment(child.pid, started) or b"")
    assert b":/" in (procfs.cgroups(child.pid, started) or b"")
    assert procfs.inner_pid(child.pid, started) == child.pid or os.getpid() != 1
    assert procfs.started(child.pid, started - 1) is None
    status = procfs.status(child.pid, started) or {}
    assert status["Threads"] == 1
    assert 0 < status["VmRSS"] < status["VmSize"]
    assert "Name" not in status
    assert procfs.status(child.pid, started + 10_000_000_000) is None
    name, exe, path = procfs.leader(child.pid, started) or (b"", None, None)
    assert name.startswith(b"python")
    assert exe == os.fsencode(sys.executable)
    assert path == os.fsencode(os.path.realpath(f"/proc/{child.pid}/exe"))
    unix, tcp = child.sockets  # type: ignore[attr-defined]
    found = procfs.descriptors(child.pid, started)
    assert found is not None
    assert (found[0], found[1], found[unix][0], found[tcp][0]) == (("pipe", ""), ("pipe", ""), "unix", "ipv4")
    assert procfs.descriptors(child.pid, started, 1) == {1: ("pipe", "")}


def test_another_process_with_the_id_is_not_taken_for_it(child: subprocess.Popen[bytes]) -> None:
    procfs = Procfs()
    started = procfs.started(child.pid, NOW)
    assert started is not None
    look_ups = {name: look for name, look in inspect.getmembers(procfs, inspect.ismethod) if not name.startswith("_") and name != "started"}
    assert {"arguments", "leader", "inner_pid", "descriptors"} < look_ups.keys()
    for name, look in look_ups.items():
        assert look(child.pid, started), name
        for wrong in (0, started - 1_000_000_000, started + 1_000_000_000):
            assert look(child.pid, wrong) is None, name


def test_a_name_cannot_add_lines_to_a_status() -> None:
    script = r"""printf 'x\rNSpid:\t7' > /proc/$$/comm; echo; read _"""
    with subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        procfs = Procfs()
        started = procfs.started(child.pid, NOW)
        assert started is not None
        assert (procfs.leader(child.pid, started) or (None,))[0] == b"x\rNSpid:\t7"
        assert procfs.inner_pid(child.pid, started) not in (7, None)
        assert (procfs.status(child.pid, started) or {})["NSpid"] != 7
        child.communicate(b"\n")


def test_of_no_process(tmp_path: Path) -> None:
    procfs = Procfs(tmp_path)
    assert (procfs.arguments(5, 1), procfs.environment(5, 1), procfs.cgroups(5, 1)) == (None, None, None)
    assert (procfs.leader(5, 1), procfs.inner_pid(5, 1), procfs.started(5, NOW), procfs.descriptors(5, 1)) == (None, None, None, None)


def test_kinds_of_descriptors(tmp_path: Path) -> None:
    links = {
        0: "/dev/null", 1: "/memfd:code (deleted)", 2: "anon_inode:[eventpoll]", 3: "anon_inode:inotify", 4: "anon_inode:bpf-map",
        5: "socket:[99]", 6: "anon_inode:[secretmem]", 7: "/srv", 8: "socket:[12]",
    }  # fmt: skip
    for folder in ("fd", "fdinfo", "net"):
        (tmp_path / "5" / folder).mkdir(parents=True)
    for number, text in links.items():
        (tmp_path / "5" / "fd" / str(number)).symlink_to(text)
    (tmp_path / "5" / "fdinfo" / "7").write_text("pos:\t0\nflags:\t02300000\n")
    (tmp_path / "5" / "fdinfo" / "0").write_text("flags:\tx\n")
    (tmp_path / "5" / "stat").write_bytes(b"5 (a) b) S " + b"0 " * 18 + b"100 0")
    (tmp_path / "5" / "net" / "udp6").write_bytes(b"head\nshort\n0: a b c d e f g h 99 1\n")
    found = Procfs(tmp_path).descriptors(5, 1_000_000_000)
    assert found == {
        0: ("file", "/dev/null"), 1: ("memfd", "code"), 2: ("eventpoll", ""), 3: ("inotify", ""), 4: ("bpf", ""), 5: ("ipv6", ""),
        6: ("other", ""), 7: ("directory", "/srv"), 8: ("other", ""),
    }  # fmt: skip


def test_reads_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(b"x" * (MAX_TEXT * 3))
    assert len(read_file(path, MAX_TEXT)) == MAX_TEXT


def test_tables_of_sockets_that_take_too_long_cost_only_the_kind(child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(Procfs, "_sockets", lambda *_: release.wait(30))
    procfs = Procfs(patience=Patience(0.02))
    started = procfs.started(child.pid, NOW)
    assert started is not None
    found = procfs.descriptors(child.pid, started)
    assert found is not None
    assert {found[number][0] for number in child.sockets} == {"other"}  # type: ignore[attr-defined]
    release.set()
