# SPDX-License-Identifier: Apache-2.0
"""Reads and writes that are remembered as harmless are decided anew as soon as something that they were decided by has changed.

Each test writes to a file until that is remembered, changes one thing, and writes again by the same descriptor, or by one that only looks
the same. The twin of each is the first write.
"""

from __future__ import annotations

import functools
import operator
import os
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.cases import Case, FileSpec
from tests.kernel.harness import TRIGGER, Range, cgroup_folder, enter, go_out, make_files, outside
from tests.kernel.test_folders import lacking
from tests.kernel.test_uncertain import kernel_map

CASE = Case(
    name="known",
    event="file.permission",
    files={"open/file": "", "moved/file": "", "followed/within/file": "", "tool": FileSpec(program=True)},
    rules=[
        {"name": "closed", "on": "file.modify", "match": {"file.path": "{dir}/closed/**"}, "action": "deny", "rate": "100000/s"},
        {"name": "followed", "on": "file.modify", "follow": "object", "match": {"file.path": "{dir}/followed/**"}, "action": "deny"},
        {"name": "seen", "on": "file.modify", "match": {"file.path": "{dir}/seen"}, "action": "audit", "rate": "100000/s"},
        {"name": "tool", "on": "file.modify", "match": {"file.path": "{dir}/open/**", "process.exe": "{dir}/tool"}, "action": "deny"},
        {"name": "unread", "on": "file.read", "match": {"file.path": "{dir}/unread"}, "action": "deny"},
    ],  # with one about reads, so that these are looked at, too
)
MAY_WRITE, MAY_READ = 2, 4
TRIES, FEW = 500, 20


def go_in() -> None:
    enter(cgroup_folder(CASE.cgroup))


@pytest.fixture(scope="module")
def inside(shooting: Range) -> Iterator[Path]:
    """The folder of CASE, its policy in force, this process within its scope."""
    with shooting.within(CASE) as folder:
        yield folder


@pytest.fixture
def folder(inside: Path) -> Path:
    """The files as they are at the beginning."""
    go_out()
    outside("rm", "-rf", *(str(inside / name) for name in ("open", "moved", "closed")))
    make_files(CASE)
    (inside / "closed").mkdir()
    go_in()
    return inside


def accesses(descriptor: int) -> int:
    """Which accesses to the file behind a descriptor the kernel's programs remember as harmless: bits of 1 << MAY_*, of all processes."""
    with kernel_map("known_files") as known:
        value = known.get(struct.pack("<i", descriptor)) or b""
    return functools.reduce(operator.or_, (words[-1] for words in struct.iter_unpack("<12Q", value)), 0)


def write(descriptor: int, times: int = 1) -> None:
    for _ in range(times):
        os.pwrite(descriptor, b"x", 0)


def settled(path: Path) -> int:
    """A descriptor of a file that this process has written to until that is remembered: at first there may be no memory for a note, which
    the kernel gets beside. Where there are notes of names and folders, these may be all that there is.
    """
    descriptor = os.open(path, os.O_WRONLY)
    for _ in range(FEW if not lacking() else TRIES):
        write(descriptor)
        if accesses(descriptor):
            return descriptor
        time.sleep(0.01)
    if lacking():
        pytest.fail("a harmless write is not remembered")
    return descriptor


def remembers(descriptor: int, bits: int) -> bool:
    """Whether these accesses to the file are remembered, or, where others may be in the way, none but these."""
    found = accesses(descriptor)
    return found == bits if lacking() else not found & ~bits


def denied(descriptor: int) -> bool:
    try:
        os.pwrite(descriptor, b"x", 0)
    except PermissionError:
        return True
    return False


def test_nothing_changes(folder: Path) -> None:
    descriptor = settled(folder / "open/file")
    assert not denied(descriptor)
    assert remembers(descriptor, 1 << MAY_WRITE)
    os.close(descriptor)
    descriptor = os.open(folder / "open/file", os.O_RDWR)
    for _ in range(TRIES):
        assert os.pread(descriptor, 1, 0) == b"x"
    assert remembers(descriptor, 1 << MAY_WRITE | 1 << MAY_READ)


def test_what_is_told_or_denied_is_not_remembered(folder: Path) -> None:
    outside("touch", str(folder / "seen"))
    descriptor = os.open(folder / "seen", os.O_WRONLY)
    write(descriptor, 10)
    assert accesses(descriptor) == 0
    go_out()
    descriptor = os.open(folder / "followed/within/file", os.O_WRONLY)
    go_in()
    assert denied(descriptor)
    assert accesses(descriptor) == 0


def test_the_file_is_renamed(folder: Path) -> None:
    descriptor = settled(folder / "open/file")
    outside("mv", str(folder / "open/file"), str(folder / "closed/file"))
    assert denied(descriptor)
    outside("mv", str(folder / "closed/file"), str(folder / "open/file"))
    assert not denied(descriptor)


def test_a_folder_above_is_renamed(folder: Path) -> None:
    descriptor = settled(folder / "moved/file")
    outside("rmdir", str(folder / "closed"))
    outside("mv", str(folder / "moved"), str(folder / "closed"))
    assert denied(descriptor)


def test_files_change_places(folder: Path) -> None:
    outside("cp", str(folder / "open/file"), str(folder / "closed/file"))
    descriptor = settled(folder / "open/file")
    outside(str(TRIGGER), "exchange", str(folder / "open/file"), str(folder / "closed/file"))
    assert denied(descriptor)


@pytest.mark.parametrize("turn", range(8))
def test_another_name_of_the_same_file(folder: Path, turn: int) -> None:
    """The name in the cache of names may come to lie where the first one lay."""
    os.close(settled(folder / "open/file"))
    outside("ln", str(folder / "open/file"), str(folder / "closed/link"))
    outside("rm", str(folder / "open/file"))
    go_out()
    descriptor = os.open(folder / "closed/link", os.O_WRONLY)
    go_in()
    assert denied(descriptor)


def test_another_mount_of_the_same_file(folder: Path) -> None:
    os.close(settled(folder / "open/file"))
    outside("mount", "--bind", str(folder / "open"), str(folder / "closed"))
    try:
        go_out()
        descriptor = os.open(folder / "closed/file", os.O_WRONLY)
        go_in()
        assert denied(descriptor)
        os.close(descriptor)
    finally:
        outside("umount", str(folder / "closed"))


def test_another_process_with_the_same_descriptor(folder: Path) -> None:
    descriptor = settled(folder / "open/file")
    for program, written in ((TRIGGER, b"ready\nOK\n"), (folder / "tool", b"xeady\nOK\n")):
        assert subprocess.run([str(program), "stay", "ok"], stdin=subprocess.DEVNULL, stdout=descriptor, check=False).returncode == 0
        assert (folder / "open/file").read_bytes() == written
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.pwrite(descriptor, b"x", 0)


def test_the_process_enters_and_leaves_the_scope(folder: Path) -> None:
    go_out()
    descriptor = os.open(folder / "followed/within/file", os.O_WRONLY)
    write(descriptor, 3)
    go_in()
    assert denied(descriptor)
    assert denied(descriptor)


def test_other_policies_come_into_force(folder: Path, shooting: Range) -> None:
    descriptor = settled(folder / "open/file")
    document = CASE.policy()
    document["spec"]["rules"][0]["match"] = {"file.path": str(folder / "open/**")}
    shooting.agent.write_policy(CASE.name, document)
    shooting.agent.reload()
    assert denied(descriptor)
    shooting.agent.write_policy(CASE.name, CASE.policy())
    shooting.agent.reload()
    assert not denied(descriptor)


def test_a_read_is_not_a_write(folder: Path, shooting: Range) -> None:
    """What is remembered of one access says nothing of another. The file is opened outside the scope: else its open tells of the write."""
    outside("touch", str(folder / "seen"))
    go_out()
    descriptor = os.open(folder / "seen", os.O_RDWR)
    go_in()
    for _ in range(TRIES):
        os.pread(descriptor, 1, 0)
    assert remembers(descriptor, 1 << MAY_READ)
    write(descriptor, 3)
    go_out()
    told = [alert for alert in shooting.agent.settle() if alert.get("rule") == "seen" and alert["event"] == "file.permission"]
    assert len(told) == 1
