# SPDX-License-Identifier: Apache-2.0
"""What is noted of an open file as of no interest to any rule lets no access pass that is of interest.

Each test writes to a file until that is noted, changes one thing, and writes by the same descriptor, or by another one of the file. The
twin of each is the first write. See tests/kernel/test_known.py, too.
"""

from __future__ import annotations

import array
import ctypes
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bpfence import abi
from tests.kernel.cases import Case, FileSpec
from tests.kernel.harness import TRIGGER, Range, cgroup_folder, enter, go_out, make_files, outside
from tests.kernel.test_folders import lacking
from tests.kernel.test_uncertain import kernel_map

USER = 1000
RULES = [
    {"name": "closed", "on": "file.modify", "match": {"file.path": "{dir}/closed/**"}, "action": "deny", "rate": "100000/s"},
    {"name": "secret", "on": "file.modify", "match": {"file.path": "{dir}/open/secret*"}, "action": "deny", "rate": "100000/s"},
    {"name": "tool", "on": "file.modify", "match": {"file.path": "{dir}/open/**", "process.exe": "{dir}/tool"}, "action": "deny"},
    {"name": "followed", "on": "file.modify", "follow": "object", "match": {"file.path": "{dir}/followed/file"}, "action": "deny"},
    {"name": "unread", "on": "file.read", "match": {"file.path": "{dir}/unread"}, "action": "deny"},
]
BY_IDS = {
    "name": "user",
    "on": "file.modify",
    "match": {"file.path": "{dir}/open/**", "process.uid": USER},
    "action": "deny",
    "rate": "100000/s",
}
BY_CGROUP = {
    "name": "strict",
    "on": "file.modify",
    "match": {"file.path": "{dir}/open/**", "process.cgroup": "{cgroup}/strict"},
    "action": "deny",
}
FILES = {"open/file": "", "closed/file": "", "followed/file": "", "tool": FileSpec(program=True)}
PLAIN = Case(name="opened", event="file.permission", files=FILES, rules=RULES)
"""Its subjects are those of all threads of a process."""
ACTING = Case(name="opened-acting", event="file.permission", files=FILES, rules=[*RULES, BY_IDS, BY_CGROUP])
"""Its subjects depend on what a thread acts with."""
ROUNDS = 6
TRIES = 60
FEW = 10
FILE_NOTES = 2048
FILE_NOTE = struct.Struct("<4I9Q")
"""struct file_note of bpf/maps.h, and how many there are."""
WRITES = """\
import os, sys
descriptor = int(sys.argv[1])
for line in sys.stdin:
    try:
        os.pwrite(descriptor, b"y", 0)
        print("written", flush=True)
    except PermissionError:
        print("denied", flush=True)
"""
MOVES = """\
import os, sys
for line in sys.stdin:
    one, other = line.split()
    os.rename(one, other)
    print("moved", flush=True)
"""


@pytest.fixture(scope="module", params=[PLAIN, ACTING], ids=["plain", "acting"])
def case(request: pytest.FixtureRequest, shooting: Range) -> Iterator[Case]:
    """A policy in force, this process within its scope."""
    case: Case = request.param
    with shooting.within(case):
        yield case


ABOUT_WHO_ACTS = pytest.mark.parametrize("case", [ACTING], ids=["acting"], indirect=True, scope="module")
"""Tests of the user and the cgroup, which no rule of PLAIN is about."""


@pytest.fixture
def folder(case: Case) -> Iterator[Path]:
    """The files as they are at the beginning, and this process within the scope again at the end."""
    inside = case.directory
    go_out()
    outside("rm", "-rf", *(str(inside / name) for name in ("open", "closed")))
    make_files(case)
    go_in(case)
    yield inside
    go_in(case)


def go_in(case: Case) -> None:
    enter(cgroup_folder(case.cgroup))


def opened_outside(case: Case, path: Path, flags: int = os.O_WRONLY) -> int:
    """A descriptor of a file that may not be opened within the scope."""
    go_out()
    descriptor = os.open(path, flags)
    go_in(case)
    return descriptor


def denied(descriptor: int) -> bool:
    try:
        os.pwrite(descriptor, b"x", 0)
    except PermissionError:
        return True
    return False


def settled(path: Path, flags: int = os.O_WRONLY) -> int:
    """A descriptor of a file that this process has written to until that is noted."""
    descriptor = os.open(path, flags)
    for _ in range(ROUNDS):
        assert not denied(descriptor)
    return descriptor


class Other:
    """Another process, which writes by a descriptor of this one when it is told to."""

    def __init__(self, descriptor: int, *before: str) -> None:
        command = [*before, sys.executable, "-c", WRITES, str(descriptor)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=[descriptor])
        self.pid = self._process.pid

    def denied(self) -> bool:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        said = self._process.stdout.readline().strip()
        assert said in ("written", "denied")
        return said == "denied"

    def end(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait() == 0


@contextmanager
def other(descriptor: int, *before: str) -> Iterator[Other]:
    process = Other(descriptor, *before)
    try:
        yield process
    finally:
        process.end()


@contextmanager
def mover() -> Iterator[subprocess.Popen[str]]:
    """Somebody whom no rule concerns and who renames what he is told."""
    with subprocess.Popen([sys.executable, "-c", MOVES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        enter(cgroup_folder("/elsewhere"), process.pid)
        yield process
        assert process.stdin
        process.stdin.close()
        assert process.wait() == 0


def move(process: subprocess.Popen[str], one: Path, new: Path) -> None:
    assert process.stdin
    assert process.stdout
    process.stdin.write(f"{one} {new}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "moved\n"


def notes() -> set[int]:
    """The events that something is noted of."""
    with kernel_map("file_notes") as found:
        entries = [FILE_NOTE.unpack(found.get(struct.pack("<I", index)) or bytes(FILE_NOTE.size)) for index in range(FILE_NOTES)]
    return {key & 0xFF for entry in entries if entry[4] for key in entry[9:] if key}


def test_something_is_noted(folder: Path) -> None:
    if lacking():
        pytest.skip(f"lacking here: {', '.join(lacking())}")
    os.close(settled(folder / "open/file"))
    assert notes() == {abi.EV_FILE_PERMISSION}


def test_the_file_is_renamed(folder: Path) -> None:
    descriptor = settled(folder / "open/file")
    for _ in range(ROUNDS):
        for name in ("closed/new", "open/secret"):
            outside("mv", str(folder / "open/file"), str(folder / name))
            assert denied(descriptor)
            outside("mv", str(folder / name), str(folder / "open/file"))
            assert not denied(descriptor)


def test_a_folder_above_is_renamed(folder: Path) -> None:
    outside("mkdir", "-p", str(folder / "open/deep/below"))
    outside("touch", str(folder / "open/deep/below/file"))
    descriptor = settled(folder / "open/deep/below/file")
    for _ in range(ROUNDS):
        outside("mv", str(folder / "open/deep"), str(folder / "closed/deep"))
        assert denied(descriptor)
        outside("mv", str(folder / "closed/deep"), str(folder / "open/deep"))
        assert not denied(descriptor)


def test_another_link_of_the_file(folder: Path, case: Case) -> None:
    """The dentry of the one may come to lie where that of the other lay."""
    for _ in range(FEW):
        os.close(settled(folder / "open/file"))
        outside("ln", str(folder / "open/file"), str(folder / "closed/link"))
        outside("rm", str(folder / "open/file"))
        descriptor = opened_outside(case, folder / "closed/link")
        assert denied(descriptor)
        os.close(descriptor)
        outside("ln", str(folder / "closed/link"), str(folder / "open/file"))
        outside("rm", str(folder / "closed/link"))


def test_files_that_come_and_go(folder: Path, case: Case) -> None:
    """Files, dentries and inodes that come to lie where others lay."""
    for turn in range(TRIES):
        allowed_one, denied_one = folder / f"open/file-{turn}", folder / f"closed/file-{turn}"
        descriptor = settled(allowed_one, os.O_WRONLY | os.O_CREAT)
        os.unlink(allowed_one)
        os.close(descriptor)
        descriptor = opened_outside(case, denied_one, os.O_WRONLY | os.O_CREAT)
        assert denied(descriptor)
        go_out()
        os.unlink(denied_one)
        os.close(descriptor)
        go_in(case)


def test_a_read_is_not_a_write(folder: Path, case: Case) -> None:
    descriptor = opened_outside(case, folder / "closed/file", os.O_RDWR)
    for _ in range(ROUNDS):
        os.pread(descriptor, 1, 0)
        assert denied(descriptor)


def test_another_program_with_the_same_descriptor(folder: Path) -> None:
    descriptor = settled(folder / "open/file")
    for _ in range(ROUNDS):
        for program, written in ((TRIGGER, b"ready\nOK\n"), (folder / "tool", b"xeady\nOK\n")):
            assert subprocess.run([str(program), "stay", "ok"], stdin=subprocess.DEVNULL, stdout=descriptor, check=False).returncode == 0
            assert (folder / "open/file").read_bytes() == written
            os.lseek(descriptor, 0, os.SEEK_SET)
            assert not denied(descriptor)


def test_another_process_enters_and_leaves_the_scope(folder: Path, case: Case) -> None:
    descriptor = opened_outside(case, folder / "closed/file")
    with other(descriptor) as writer:
        for _ in range(ROUNDS):
            enter(cgroup_folder("/elsewhere"), writer.pid)
            for _ in range(ROUNDS):
                assert not writer.denied()
            enter(cgroup_folder(case.cgroup), writer.pid)
            assert writer.denied()
            assert denied(descriptor)


def test_a_descriptor_that_is_sent(folder: Path, case: Case) -> None:
    """From a process outside of the scope, which may write to the file."""
    here, there = socket.socketpair()
    child = os.fork()
    if not child:
        enter(cgroup_folder("/elsewhere"))
        descriptor = os.open(folder / "closed/file", os.O_WRONLY)
        for _ in range(ROUNDS):
            os.pwrite(descriptor, b"x", 0)
        there.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))])
        os._exit(0)
    _, ancillary, _, _ = here.recvmsg(1, socket.CMSG_SPACE(4))
    descriptor = struct.unpack("i", ancillary[0][2][:4])[0]
    os.waitpid(child, 0)
    for _ in range(ROUNDS):
        assert denied(descriptor)
    here.close()
    there.close()
    os.close(descriptor)


@ABOUT_WHO_ACTS
def test_another_user_with_the_same_descriptor(folder: Path, case: Case) -> None:
    descriptor = settled(folder / "open/file")
    for _ in range(ROUNDS):
        os.seteuid(USER)
        try:
            assert denied(descriptor)
        finally:
            os.seteuid(0)
        assert not denied(descriptor)
    with other(descriptor, "setpriv", "--reuid", str(USER), "--clear-groups") as writer:
        for _ in range(ROUNDS):
            assert writer.denied()
            assert not denied(descriptor)


@ABOUT_WHO_ACTS
def test_a_thread_of_another_user(folder: Path, case: Case) -> None:
    """The kernel's call changes the ids of one thread alone."""
    descriptor = settled(folder / "open/file")
    turns = [threading.Semaphore(0), threading.Semaphore(0)]
    found: list[bool] = []

    def second() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.syscall(117, -1, USER, -1) == 0  # setresuid
        for _ in range(ROUNDS):
            turns[0].acquire()
            found.append(denied(descriptor))
            turns[1].release()

    thread = threading.Thread(target=second)
    thread.start()
    for _ in range(ROUNDS):
        for _ in range(ROUNDS):
            assert not denied(descriptor)
        turns[0].release()
        turns[1].acquire()
    thread.join()
    assert found == [True] * ROUNDS


@ABOUT_WHO_ACTS
def test_another_cgroup(folder: Path, case: Case) -> None:
    strict = cgroup_folder(case.cgroup) / "strict"
    strict.mkdir(exist_ok=True)
    descriptor = settled(folder / "open/file")
    with other(descriptor) as writer:
        for _ in range(ROUNDS):
            assert not writer.denied()
            enter(strict, writer.pid)
            assert writer.denied()
            assert not denied(descriptor)
            enter(cgroup_folder(case.cgroup), writer.pid)


def test_another_mount_namespace(folder: Path, case: Case) -> None:
    """There the file system is mounted in another place."""
    outside("mkdir", "-p", str(folder / "open/place"), str(folder / "closed/place"))
    outside("mount", "-t", "tmpfs", "tmpfs", str(folder / "open/place"))
    try:
        outside("touch", str(folder / "open/place/file"))
        descriptor = settled(folder / "open/place/file")
        go_out()
        script = f'mount --move {folder}/open/place {folder}/closed/place && exec "$@"'
        with other(descriptor, "unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh") as writer:
            assert not writer.denied()
            enter(cgroup_folder(case.cgroup), writer.pid)
            go_in(case)
            for _ in range(ROUNDS):
                assert writer.denied()
                assert not denied(descriptor)
        os.close(descriptor)
    finally:
        outside("umount", str(folder / "open/place"))


def test_the_mount_is_moved(folder: Path) -> None:
    outside("mkdir", "-p", str(folder / "open/place"), str(folder / "closed/place"))
    outside("mount", "--make-private", "-t", "tmpfs", "tmpfs", str(folder / "open/place"))
    outside("touch", str(folder / "open/place/file"))
    descriptor = settled(folder / "open/place/file")
    try:
        for _ in range(ROUNDS):
            outside("mount", "--move", str(folder / "open/place"), str(folder / "closed/place"))
            assert denied(descriptor)
            outside("mount", "--move", str(folder / "closed/place"), str(folder / "open/place"))
            assert not denied(descriptor)
    finally:
        os.close(descriptor)
        outside("umount", str(folder / "open/place"))


def test_other_policies_come_into_force(folder: Path, case: Case, shooting: Range) -> None:
    descriptor = settled(folder / "open/file")
    document = case.policy()
    document["spec"]["rules"][0]["match"] = {"file.path": str(folder / "open/**")}
    for _ in range(2):
        shooting.agent.write_policy(case.name, document)
        shooting.agent.reload()
        assert denied(descriptor)
        shooting.agent.write_policy(case.name, case.policy())
        shooting.agent.reload()
        assert not denied(descriptor)


def test_a_followed_file_by_another_name(folder: Path, case: Case) -> None:
    """A name of no interest, of a file that is of interest."""
    outside("ln", str(folder / "followed/file"), str(folder / "open/link"))
    try:
        descriptor = opened_outside(case, folder / "open/link")
        for _ in range(ROUNDS):
            assert denied(descriptor)
    finally:
        outside("rm", "-f", str(folder / "open/link"))


def test_renames_while_others_write(folder: Path) -> None:
    """As soon as a rename is done, no write passes, whatever is being noted meanwhile."""
    names = {True: folder / "closed/moving", False: folder / "open/moving"}
    outside("touch", str(names[False]))
    descriptor = settled(names[False])
    ended = threading.Event()

    def hammer() -> None:
        while not ended.is_set():
            denied(descriptor)

    threads = [threading.Thread(target=hammer) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        with mover() as process:
            for _ in range(TRIES):
                for now in (True, False):
                    move(process, names[not now], names[now])
                    for _ in range(3):
                        assert denied(descriptor) is now
    finally:
        ended.set()
        for thread in threads:
            thread.join()
