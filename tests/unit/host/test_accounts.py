# SPDX-License-Identifier: Apache-2.0
"""User databases: which one, what is not read, what an entry says."""

from __future__ import annotations

import os
import pwd
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfence.events import values
from bpfence.fields import FIELD_BY_NAME
from bpfence.host import accounts
from bpfence.host.accounts import FRESH, HOST_FRESH, MAX_FILE, MAX_NAMESPACES, UNKNOWN, Accounts, Host, User, parse
from bpfence.patience import Patience


class Proc:
    """A made-up /proc with one process whose root is a folder."""

    def __init__(self, folder: Path) -> None:
        self.now = 100.0
        self.root = folder / "root"
        (self.root / "etc").mkdir(parents=True)
        (folder / "5").mkdir()
        (folder / "5" / "root").symlink_to(self.root)
        (folder / "5" / "ns").mkdir()
        (folder / "5" / "ns" / "mnt").touch()
        self.mnt = (folder / "5" / "ns" / "mnt").stat().st_ino
        self.accounts = Accounts(folder, host_namespace=1, clock=lambda: self.now)

    def write(self, name: str, text: str | bytes) -> None:
        (self.root / "etc" / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    def name(self, uid: int, mnt_ns: int = 0, pid: int = 5) -> str:
        return self.accounts.user(uid, mnt_ns or self.mnt, pid).name


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


def test_entries_of_a_container(proc: Proc) -> None:
    lines = (
        b"root:x:0:0::/r:/bin/sh", b"web:x:33:33:,,:/srv:/bin/false", b"#no", b"second:x:33:1::/:/", b"bad:x:1x:0::/:/", b"short:x:9",
        b"\xff:x:8:8::/:",
    )  # fmt: skip
    proc.write("passwd", b"\n".join(lines))
    proc.write("group", "root:x:0:\nstaff:x:50:a,b\n")
    assert proc.accounts.user(33, proc.mnt, 5) == User("web", "/srv", "/bin/false")
    assert (proc.name(0), proc.name(9), proc.name(8), proc.name(1)) == ("root", "short", "\udcff", UNKNOWN)
    assert (proc.accounts.group(50, proc.mnt, 5), proc.accounts.group(51, proc.mnt, 5), proc.accounts.group(0, proc.mnt, 5)) == (
        "staff",
        UNKNOWN,
        "root",
    )


def test_changes_are_seen_after_a_moment_and_outlive_the_process(proc: Proc) -> None:
    proc.write("passwd", "one:x:7:7::/:/\n")
    assert proc.name(7) == "one"
    proc.write("passwd", "other:x:7:7::/:/\n")
    assert proc.name(7) == "one"
    proc.now += FRESH
    assert proc.name(7) == "other"
    proc.now += FRESH
    assert proc.name(7, pid=6) == "other"
    assert proc.name(7, mnt_ns=78, pid=6) == UNKNOWN
    assert proc.name(0, mnt_ns=78, pid=6) == "root"


def test_this_host(proc: Proc) -> None:
    own = pwd.getpwuid(0)
    assert proc.accounts.user(0, 1, 5) == User(own.pw_name, own.pw_dir, own.pw_shell)
    assert proc.accounts.group(0, 1, 5) == "root"
    assert proc.name(4_000_000_000, 1) == UNKNOWN
    proc.now += HOST_FRESH
    assert proc.name(0, 1) == "root"
    assert Accounts()._own == os.stat("/proc/self/ns/mnt").st_ino


def test_an_id_that_is_another_process_by_now_is_not_believed(proc: Proc) -> None:
    proc.write("passwd", "evil:x:7:7::/:/\n")
    assert proc.name(7, mnt_ns=proc.mnt + 1) == UNKNOWN
    assert proc.name(7) == "evil"


def test_a_host_lookup_that_hangs_is_given_up_and_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    release, asked = threading.Event(), []

    def hang(number: int) -> None:
        asked.append(number)
        release.wait(30)

    monkeypatch.setitem(accounts._ON_HOST, "passwd", hang)
    host = Host(patience=Patience(0.02))
    began = time.monotonic()
    assert (host.name("user", 7), host.name("user", 7)) == (None, None)
    assert asked == [7]
    monkeypatch.setattr(values, "HOST", host)
    assert values.phrase(FIELD_BY_NAME["process.user"], 7) == "7"
    assert time.monotonic() - began < 10
    release.set()


def link(path: Path) -> None:
    outside = path.parent.parent.parent / "outside"
    outside.write_text("evil:x:7:7::/:/\n")
    path.symlink_to(outside)


def folder(path: Path) -> None:
    path.mkdir()


def fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("make", [link, folder, fifo])
def test_what_is_no_file_is_not_read(proc: Proc, make: object) -> None:
    assert callable(make)
    make(proc.root / "etc" / "passwd")
    assert proc.name(7) == UNKNOWN


def test_a_linked_etc_is_not_followed(proc: Proc, tmp_path: Path) -> None:
    (proc.root / "etc").rmdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "passwd").write_text("evil:x:7:7::/:/\n")
    (proc.root / "etc").symlink_to(outside)
    assert proc.name(7) == UNKNOWN


def test_bounds(proc: Proc) -> None:
    proc.write("passwd", b"a" * MAX_FILE + b"\nlate:x:7:7::/:/\n")
    assert proc.name(7) == UNKNOWN
    for mnt_ns in range(1000, 1000 + MAX_NAMESPACES + 10):
        proc.name(7, mnt_ns, 6)
    assert len(proc.accounts._namespaces) == MAX_NAMESPACES


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed(data: bytes) -> None:
    assert all(isinstance(uid, int) and len(entry) > 2 for uid, entry in parse(data).items())


def test_a_user_of_this_host_is_looked_up_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    names = ["first", "second"]
    monkeypatch.setitem(accounts._ON_HOST, "passwd", lambda number: [names[0], "x", str(number), "0", "", "/home", "/bin/sh"])
    host = Host(lambda: now[0])
    assert host.user(7) == User("first", "/home", "/bin/sh")
    names.pop(0)
    now[0] += accounts.HOST_FRESH - 1
    assert host.user(7) == User("first", "/home", "/bin/sh")
    now[0] += 1
    assert host.user(7) == User("second", "/home", "/bin/sh")
    monkeypatch.setitem(accounts._ON_HOST, "passwd", lambda number: None)
    assert host.user(8) is None
    assert host.user(8) is None
    monkeypatch.setattr(accounts, "MAX_HOST", 3)
    for number in range(100, 120):
        host.user(number)
    assert len(host._users) <= 4
