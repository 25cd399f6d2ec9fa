# SPDX-License-Identifier: Apache-2.0
"""What is noted of a folder as of no interest to any rule lets nothing pass that is of interest.

Each test acts in a folder until that is noted, changes one thing, and acts again. The twin of each is the first act.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from bpfence import abi
from tests.kernel.cases import Case, FileSpec
from tests.kernel.harness import TRIGGER, Range, cgroup_folder, enter, go_out, make_files, outside
from tests.kernel.test_folders import allowed, kept, skip_where_nothing_is_kept, writable
from tests.kernel.test_uncertain import kernel_map

USER = 1000
CASE = Case(
    name="quiet",
    event="file.open",
    files={
        "open/file": FileSpec(text="x" * 4096, mode=0o666),
        "closed/file": FileSpec(text="x" * 4096, mode=0o666),
        "followed/file": FileSpec(text="", mode=0o666),
        "plain/file": FileSpec(text="x" * 4096, mode=0o666),
        "shut/file": FileSpec(text="", mode=0o666),
        "shut/moving": FileSpec(text="", mode=0o666),
        "named/file": FileSpec(text="", mode=0o666),
        "tool": FileSpec(program=True),
        "layer/plain": FileSpec(program=True),
        "layer/named": FileSpec(program=True),
        "layer/secret": FileSpec(program=True),
        "layer/kept/deep/tool": FileSpec(program=True),
    },
    rules=[
        {"name": "closed", "on": "file.modify", "match": {"file.path": "{dir}/closed/**"}, "action": "deny", "rate": "100000/s"},
        {"name": "shut", "on": "open", "match": {"file.path": "{dir}/shut/**"}, "action": "deny", "rate": "100000/s"},
        {"name": "named", "on": "file.modify", "match": {"file.path": "{dir}/named/secret"}, "action": "deny", "rate": "100000/s"},
        {"name": "lengths", "on": "file.modify", "match": {"file.path": "{dir}/named/*!"}, "action": "deny", "rate": "100000/s"},
        {"name": "plain", "on": "exec.any", "match": {"file.path": "{dir}/plain/**"}, "action": "deny", "rate": "100000/s"},
        {"name": "followed", "on": "file.modify", "follow": "object", "match": {"file.path": "{dir}/followed/file"}, "action": "deny"},
        {"name": "user", "on": "file.modify", "match": {"file.path": "{dir}/open/**", "process.uid": USER}, "action": "deny"},
        {"name": "tool", "on": "file.modify", "match": {"file.path": "{dir}/open/**", "process.exe": "{dir}/tool"}, "action": "deny"},
        {
            "name": "strict",
            "on": "file.modify",
            "match": {"file.path": "{dir}/open/**", "process.cgroup": "{cgroup}/strict"},
            "action": "deny",
        },
        {
            "name": "layer",
            "on": "exec.any",
            "follow": "object",
            "match": {"file.path": ["{dir}/layer/secret", "{dir}/layer/kept"]},
            "action": "deny",
        },
        {"name": "merged", "on": "exec.any", "match": {"file.path": "{dir}/merged/named"}, "action": "deny", "rate": "100000/s"},
        {"name": "called", "on": "file.modify", "match": {"file.path": "{dir}/open/**", "process.name": "called"}, "action": "deny"},
        {"name": "asked", "on": "file.modify", "match": {"file.path": "{dir}/open/**", "process.args": "* asked *"}, "action": "deny"},
        {"name": "flagged", "on": "open", "match": {"file.path": "{dir}/listed/**", "file.flags": "O_DIRECTORY"}, "action": "deny"},
        {"name": "sockets", "on": "net.create", "match": {"process.cgroup": "{cgroup}/strict"}, "action": "deny"},
    ],
)
ROUNDS = 4
FOLLOWED_SECONDS = 30
TRIES = 200
NAME_NOTES = 8192
NAME_NOTE = struct.Struct("<4IQ32sQ")
"""struct name_note of bpf/maps.h, and how many there are."""


def go_in(folder: str = "") -> None:
    enter(cgroup_folder(CASE.cgroup) / folder)


@pytest.fixture(scope="module")
def inside(shooting: Range) -> Iterator[Path]:
    """The folder of CASE, its policy in force, this process within its scope."""
    with shooting.within(CASE) as folder:
        yield folder


@pytest.fixture
def folder(inside: Path) -> Path:
    """The files as they are at the beginning, and noted that nothing is said of those in folder `open`."""
    go_out()
    outside("rm", "-rf", *(str(inside / name) for name in ("open", "closed", "followed", "plain", "named", "shut")))
    make_files(CASE)
    go_in()
    for _ in range(ROUNDS):
        assert writable(inside / "open/file")
    return inside


@contextmanager
def acting_as(user: int) -> Iterator[None]:
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)


def test_something_is_noted(folder: Path) -> None:
    skip_where_nothing_is_kept()
    assert any(any(entry[18::2]) for entry in kept())


def test_another_user(folder: Path) -> None:
    for _ in range(ROUNDS):
        with acting_as(USER):
            assert not writable(folder / "open/file")
        with acting_as(USER + 1):
            assert writable(folder / "open/file")
        assert writable(folder / "open/file")


def test_another_program(folder: Path) -> None:
    for _ in range(ROUNDS):
        for program, written in ((TRIGGER, True), (folder / "tool", False)):
            done = subprocess.run([str(program), "creat", str(folder / "open/file")], capture_output=True, text=True, check=False)
            assert (done.stdout.split() == ["OK"]) is written, done.stdout


def creates(program: Path, file: Path) -> bool:
    """Whether a program may, that ends at once."""
    done = subprocess.run([str(program), "creat", str(file)], capture_output=True, text=True, check=False)
    return done.stdout.split() == ["OK"]


def test_another_name_of_the_program(folder: Path) -> None:
    """What a subject came to is kept under the path of its executable and its command name, and each counts."""
    outside("mkdir", str(folder / "bin"))
    outside("cp", str(TRIGGER), str(folder / "bin/file"))
    outside("ln", str(folder / "bin/file"), str(folder / "bin/hard"))
    outside("ln", "-s", "file", str(folder / "bin/called"))
    try:
        for _ in range(ROUNDS):
            assert creates(folder / "bin/file", folder / "open/file")
            assert creates(folder / "bin/hard", folder / "open/file")
            assert not creates(folder / "bin/called", folder / "open/file")
        outside("mv", str(folder / "tool"), str(folder / "kept"))
        outside("mv", str(folder / "bin/file"), str(folder / "tool"))
        for _ in range(ROUNDS):
            assert not creates(folder / "tool", folder / "open/file")
            assert creates(folder / "bin/hard", folder / "open/file")
    finally:
        outside("rm", "-rf", str(folder / "bin"))
        outside("mv", str(folder / "kept"), str(folder / "tool"))


def test_other_arguments(folder: Path) -> None:
    """Another process of the same program."""
    for _ in range(ROUNDS):
        for words, written in ((("plain",), True), (("asked", "for"), False)):
            done = subprocess.run([str(TRIGGER), "creat", str(folder / "open/file"), *words], capture_output=True, text=True, check=False)
            assert (done.stdout.split() == ["OK"]) is written, done


def test_a_program_that_starts_for_another_user(folder: Path) -> None:
    for _ in range(ROUNDS):
        for user, written in ((USER, False), (USER + 1, True)):
            command = [str(TRIGGER), "creat", str(folder / "open/file")]
            done = subprocess.run(command, capture_output=True, text=True, check=False, user=user)
            assert (done.stdout.split() == ["OK"]) is written, done


def remove(cgroup: Path) -> None:
    """As soon as the kernel is done with the tasks that have ended."""
    for _ in range(TRIES):
        try:
            return cgroup.rmdir()
        except OSError:
            time.sleep(0.05)
    pytest.fail(f"{cgroup} stays busy")


def test_another_cgroup(folder: Path) -> None:
    cgroup = cgroup_folder(CASE.cgroup) / "strict"
    cgroup.mkdir()
    try:
        for _ in range(ROUNDS):
            go_in("strict")
            assert not writable(folder / "open/file")
            go_in()
            assert writable(folder / "open/file")
    finally:
        go_in()
        remove(cgroup)


def connectable() -> bool:
    return allowed(lambda: socket.socket().close())


def test_a_thread_in_another_cgroup(folder: Path) -> None:
    """The first of a process says nothing of the second."""
    strict = cgroup_folder(CASE.cgroup) / "strict"
    strict.mkdir()
    (strict / "cgroup.type").write_text("threaded")
    found: list[tuple[bool, bool]] = []
    turns = [threading.Semaphore(0), threading.Semaphore(0)]

    def second() -> None:
        (strict / "cgroup.threads").write_text(str(threading.get_native_id()))
        for _ in range(ROUNDS):
            turns[0].acquire()
            found.append((writable(folder / "open/file"), connectable()))
            turns[1].release()

    thread = threading.Thread(target=second)
    thread.start()
    try:
        for _ in range(ROUNDS):
            for _ in range(ROUNDS):
                assert writable(folder / "open/file")
                assert connectable()
            turns[0].release()
            turns[1].acquire()
    finally:
        for _ in range(ROUNDS):
            turns[0].release()
        thread.join()
        remove(strict)
    assert found[:ROUNDS] == [(False, False)] * ROUNDS


def test_another_access(folder: Path) -> None:
    """What is of no interest is that somebody reads."""
    for _ in range(ROUNDS):
        os.close(os.open(folder / "closed/file", os.O_RDONLY))
        assert not writable(folder / "closed/file")


def test_other_flags(folder: Path) -> None:
    """Of a flag that a note is kept under."""
    inner = folder / "listed/inner"
    outside("mkdir", "-p", str(inner))
    for _ in range(ROUNDS):
        assert allowed(lambda: os.close(os.open(inner, os.O_RDONLY)))
        assert not allowed(lambda: os.close(os.open(inner, os.O_RDONLY | os.O_DIRECTORY)))


def test_another_protection(folder: Path) -> None:
    with (folder / "plain/file").open("rb") as file:
        for _ in range(ROUNDS):
            with mmap.mmap(file.fileno(), 4096, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE):
                pass
            assert not allowed(lambda: mmap.mmap(file.fileno(), 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC, flags=mmap.MAP_PRIVATE).close())


def test_another_name(folder: Path) -> None:
    """One that a rule is about, among others."""
    outside("touch", str(folder / "named/secret"), str(folder / "named/secrets"))
    for _ in range(ROUNDS):
        assert writable(folder / "named/file")
        assert not writable(folder / "named/secret")
        assert writable(folder / "named/secrets")
        os.rename(folder / "named/file", folder / "named/other")
        os.rename(folder / "named/other", folder / "named/file")
        assert not allowed(lambda: os.rename(folder / "named/file", folder / "named/secret"))
        assert not allowed(lambda: os.rename(folder / "named/secret", folder / "named/other"))


def test_names_of_every_length(folder: Path) -> None:
    """Each beside one that differs in the last character alone, and one that it begins with."""
    lengths = range(1, 42)
    for length in lengths:
        outside("touch", str(folder / "named" / ("n" * (length - 1) + "!")))
    for _ in range(ROUNDS):
        for length in lengths:
            (folder / "named" / ("n" * length)).write_bytes(b"x")
            (folder / "named" / ("n" * (length - 1) + "?")).write_bytes(b"x")
            assert not writable(folder / "named" / ("n" * (length - 1) + "!"))
            assert not allowed(lambda length=length: os.unlink(folder / "named" / ("n" * (length - 1) + "!")))


def test_pairs_of_names_of_every_length(folder: Path) -> None:
    """A rename to a name that differs in the last character alone, or from one, from names of the same length and of others. Of two names
    15 bytes each are noted, of one 31."""
    for length in (1, 2, 7, 14, 15, 16, 17, 30, 31, 32, 35):
        plain, other, secret = (folder / "named" / ("n" * (length - 1) + last) for last in "n?!")
        outside("sh", "-c", f"rm -f {folder}/named/*; touch '{secret}'")
        plain.touch()
        for _ in range(ROUNDS):
            for one, new in ((plain, other), (other, folder / "named/short"), (folder / "named/short", plain)):
                os.rename(one, new)
                assert not allowed(lambda new=new, secret=secret: os.rename(new, secret))
                assert not allowed(lambda new=new, secret=secret: os.rename(secret, new))


def test_something_is_noted_of_a_name(folder: Path) -> None:
    """The key of its note, and the name."""
    skip_where_nothing_is_kept()
    for _ in range(ROUNDS):
        (folder / "open/some-name").write_bytes(b"x")
        (folder / "open/some-name").unlink()
    with kernel_map("name_notes") as notes:
        found = [NAME_NOTE.unpack(notes.get(struct.pack("<I", index)) or bytes(NAME_NOTE.size)) for index in range(NAME_NOTES)]
    events = {key & 0xFF for *_, name, key in found if name.rstrip(b"\0") == b"some-name"}
    assert events >= {abi.EV_FILE_OPEN, abi.EV_FILE_PERMISSION, abi.EV_FILE_CREATE, abi.EV_FILE_UNLINK}


RENAMES = """\
import os, sys
sys.stdin.readline()
one, other = sys.argv[1:]
while True:
    os.rename(one, other)
    os.rename(other, one)
"""


@contextmanager
def renaming(one: Path, other: Path) -> Iterator[None]:
    """Somebody whom no rule concerns gives a file one name and the other in turn."""
    command = [sys.executable, "-c", RENAMES, str(one), str(other)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as mover:
        assert mover.stdin is not None
        enter(cgroup_folder("/elsewhere"), mover.pid)
        mover.stdin.close()
        try:
            yield
            assert mover.poll() is None, "it has gone on to the end"
        finally:
            mover.kill()


def test_a_name_that_is_changed_while_it_is_noted(folder: Path) -> None:
    """What is noted is noted of the name that was looked at, not of that which the file had before or has afterwards."""
    plain, secret = folder / "named/plain", folder / "named/secret"
    for _ in range(ROUNDS):
        outside("touch", str(plain))
        with renaming(plain, secret):
            for _ in range(TRIES):
                with suppress(OSError):
                    os.close(os.open(plain, os.O_WRONLY))
                with suppress(OSError):
                    os.close(os.open(secret, os.O_WRONLY))
        outside("sh", "-c", f"rm -f {plain} {secret}; touch {plain} {secret}")
        for _ in range(ROUNDS):
            assert writable(plain)
            assert not writable(secret)
            assert not allowed(lambda: os.unlink(secret))


def test_a_file_that_leaves_the_folder_while_it_is_noted(folder: Path) -> None:
    """What is noted of the name that it has got is noted in the folder that it has come to."""
    moving, elsewhere = folder / "named/moving", folder / "open/secret"
    for _ in range(ROUNDS):
        outside("touch", str(moving), str(elsewhere))
        for _ in range(ROUNDS):
            assert writable(elsewhere)
        outside("rm", str(elsewhere))
        with renaming(moving, elsewhere):
            for _ in range(TRIES):
                with suppress(OSError):
                    os.close(os.open(moving, os.O_WRONLY))
        outside("touch", str(folder / "named/secret"))
        for _ in range(ROUNDS):
            assert not writable(folder / "named/secret")


MOVES = """\
import sys
sys.stdin.readline()
pid, *groups = sys.argv[1:]
while True:
    for group in groups:
        with open(group + "/cgroup.procs", "w") as procs:
            procs.write(pid)
"""
CHANGING_SECONDS = 2


def test_another_subject_while_a_name_is_noted(folder: Path) -> None:
    """What is noted of a name is noted for the subject that it was found for, though another thread has just brought another about."""
    names = [folder / f"open/{number}" for number in range(16)]
    outside("touch", *map(str, names))
    strict = cgroup_folder(CASE.cgroup) / "strict"
    strict.mkdir()
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            for name in names:
                with suppress(PermissionError):
                    os.close(os.open(name, os.O_WRONLY))

    command = [sys.executable, "-c", MOVES, str(os.getpid()), str(strict), str(strict.parent)]
    writers = [threading.Thread(target=write) for _ in range(2)]
    try:
        with subprocess.Popen(command, stdin=subprocess.PIPE) as mover:
            assert mover.stdin is not None
            enter(cgroup_folder("/elsewhere"), mover.pid)
            for writer in writers:
                writer.start()
            mover.stdin.close()
            time.sleep(CHANGING_SECONDS)
            assert mover.poll() is None
            mover.kill()
    finally:
        ended.set()
        for writer in writers:
            writer.join()
        go_in("strict")
        found = [name.name for name in names for _ in range(ROUNDS) if writable(name)]
        go_in()
        remove(strict)
    assert not found
    assert all(map(writable, names))


def test_other_ways_to_a_name(folder: Path) -> None:
    outside("touch", str(folder / "named/secret"), str(folder / "open/other"))
    exchange = [str(TRIGGER), "exchange", str(folder / "open/file")]
    for _ in range(ROUNDS):
        for place, can in (("open", True), ("closed", False)):
            held = os.open(folder / place / "file", os.O_PATH)
            assert writable(Path(f"/proc/self/fd/{held}")) is can
            os.close(held)
            assert allowed(lambda place=place: os.close(os.open(folder / place, os.O_TMPFILE | os.O_RDWR))) is can
        for name, can in (("open/linked", True), ("named/plain", True), ("named/secret!", False), ("closed/new", False)):
            unnamed = os.open(folder / "open", os.O_TMPFILE | os.O_RDWR)
            link = partial(os.link, f"/proc/self/fd/{unnamed}", folder / name, src_dir_fd=unnamed)  # with it Python follows the link
            assert allowed(link) is can
            os.close(unnamed)
            outside("rm", "-f", str(folder / name))
        for name, can in (("open/other", True), ("named/secret", False)):
            done = subprocess.run([*exchange, str(folder / name)], capture_output=True, text=True, check=False)
            assert (done.stdout.split() == ["OK"]) is can, done


READ_IMPLIES_EXEC = 0x0400000


def test_a_protection_that_implies_another(folder: Path) -> None:
    """READ_IMPLIES_EXEC makes code of what is mapped to be read; a file that is only read is of no interest."""
    for _ in range(ROUNDS):
        assert mapped(folder / "plain/file", mmap.PROT_READ)
        assert mapped(folder / "plain/file", mmap.PROT_WRITE, mmap.PROT_READ)
        before = LIBC.personality(READ_IMPLIES_EXEC)
        try:
            assert not mapped(folder / "plain/file", mmap.PROT_READ)
            assert not mapped(folder / "plain/file", mmap.PROT_WRITE, mmap.PROT_READ)
            assert mapped(folder / "open/file", mmap.PROT_READ)
        finally:
            LIBC.personality(before)


def test_a_followed_file_comes_into_the_folder(folder: Path) -> None:
    outside("ln", str(folder / "followed/file"), str(folder / "open/link"))
    deadline = time.monotonic() + FOLLOWED_SECONDS  # the file has just been made, and the agent looks for it when it hears of that
    while writable(folder / "open/link") and time.monotonic() < deadline:
        time.sleep(0.05)
    for _ in range(ROUNDS):
        assert not writable(folder / "open/link")
        assert writable(folder / "open/file")
    assert not allowed(lambda: os.rename(folder / "open/file", folder / "open/link"))
    assert not allowed(lambda: os.rename(folder / "open/link", folder / "open/new"))
    assert not allowed(lambda: os.unlink(folder / "open/link"))


def test_a_file_goes_from_folder_to_folder(folder: Path) -> None:
    for _ in range(ROUNDS):
        os.rename(folder / "open/file", folder / "open/other")
        os.rename(folder / "open/other", folder / "open/file")
        assert not allowed(lambda: os.rename(folder / "open/file", folder / "closed/new"))
        assert not allowed(lambda: os.rename(folder / "closed/file", folder / "open/new"))
        os.rename(folder / "open/file", folder / "plain/other")
        os.rename(folder / "plain/other", folder / "open/file")


def test_a_file_that_is_moved_while_it_is_looked_at(folder: Path) -> None:
    """What the way up from the folder that it has come to tells is not kept of the one that it was in."""
    (folder / "open/one").mkdir()
    ended = threading.Event()

    def move() -> None:
        while not ended.is_set():
            os.rename(folder / "shut/moving", folder / "open/moving")
            os.rename(folder / "open/moving", folder / "shut/moving")

    mover = threading.Thread(target=move)
    mover.start()
    try:
        for _ in range(TRIES):
            os.rename(folder / "open/one", folder / "open/two")  # what is kept of folders ends
            os.rename(folder / "open/two", folder / "open/one")
            with suppress(OSError):
                os.close(os.open(folder / "shut/moving", os.O_RDONLY))
            assert not allowed(lambda: os.close(os.open(folder / "shut/file", os.O_RDONLY)))
    finally:
        ended.set()
        mover.join()


MAPPED = 4096
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
CODE = mmap.PROT_READ | mmap.PROT_EXEC


def mapped(path: Path, first: int, then: int = 0) -> bool:
    """Whether a file may be mapped, and protected otherwise afterwards."""
    with path.open("rb") as file:
        at = LIBC.mmap(None, MAPPED, first, mmap.MAP_PRIVATE, file.fileno(), 0)
    if at == ctypes.c_void_p(-1).value:
        return False
    done = not then or LIBC.mprotect(at, MAPPED, then) == 0
    LIBC.munmap(at, MAPPED)
    return done


def runs(path: Path) -> bool:
    return allowed(lambda: subprocess.run([str(path)], capture_output=True, check=False))


@pytest.fixture
def merged(folder: Path) -> Iterator[Path]:
    """An overlay over folder `layer`, and noted that nothing is said of code in it."""
    outside("mkdir", "-p", str(folder / "merged"), str(folder / "nothing"))
    outside("mount", "-t", "overlay", "overlay", "-o", f"lowerdir={folder}/layer:{folder}/nothing", str(folder / "merged"))
    for _ in range(ROUNDS):
        assert codes(folder / "merged/plain") == (True, True, True)
    yield folder / "merged"
    outside("umount", str(folder / "merged"))


def codes(path: Path) -> tuple[bool, bool, bool]:
    """Whether code of a file may be executed, mapped, and made of what is mapped."""
    return runs(path), mapped(path, CODE), mapped(path, mmap.PROT_READ, CODE)


def test_something_is_noted_of_an_overlay(merged: Path) -> None:
    """Of another of its files than those that were looked at before, and of all three events."""
    skip_where_nothing_is_kept()
    before = noted()
    (merged.parent / "open/one").mkdir()
    os.rename(merged.parent / "open/one", merged.parent / "open/two")  # what is kept of folders ends
    for _ in range(ROUNDS):
        assert mapped(merged / "plain", CODE)
        assert mapped(merged / "plain", mmap.PROT_READ, CODE)
    events = {key & 0xFF for entry, key in noted() - before}
    assert events >= {abi.EV_FILE_MMAP, abi.EV_FILE_MPROTECT}


def noted() -> set[tuple[tuple[int, ...], int]]:
    """What there is of notes, each with what its folder is told by."""
    return {(entry[3:8], key) for entry in kept() for key in entry[18::2] if key}


def test_a_followed_file_below_an_overlay(merged: Path) -> None:
    """The file of the layer is looked at each time, whatever has been noted of the overlay's."""
    for _ in range(ROUNDS):
        assert codes(merged / "secret") == (False, False, False)
        assert codes(merged / "plain") == (True, True, True)
        assert codes(merged / "named") == (False, False, False)


def test_a_followed_folder_below_an_overlay(merged: Path) -> None:
    """An overlay over what lies in a followed folder; the folder itself is in none of its layers."""
    folder = merged.parent
    outside(
        "mount", "-t", "overlay", "overlay", "-o", f"lowerdir={folder / 'layer/kept/deep'}:{folder / 'nothing'}", str(folder / "nothing")
    )
    try:
        for _ in range(ROUNDS):
            assert codes(folder / "nothing/tool") == (False, False, False)
            assert codes(merged / "plain") == (True, True, True)
            assert codes(merged / "kept/deep/tool") == (False, False, False)
    finally:
        outside("umount", str(folder / "nothing"))


def test_a_folder_within_the_folder(folder: Path) -> None:
    """A folder's own name is in the one above it; what is in it has a note of its own, or none."""
    for _ in range(ROUNDS):
        (folder / "open/new").mkdir()
        (folder / "open/new/file").touch()
        os.rename(folder / "open/new/file", folder / "open/new/other")
        (folder / "open/new/other").unlink()
        (folder / "open/new").rmdir()


def test_a_mount_in_the_folder(folder: Path) -> None:
    """The root of a file system has its name in the folder that it is mounted in."""
    (folder / "open/place").mkdir()
    outside("mount", "--bind", str(folder / "closed"), str(folder / "open/place"))
    try:
        for _ in range(ROUNDS):
            assert writable(folder / "open/place/file")
            assert writable(folder / "open/file")
            assert not writable(folder / "closed/file")
    finally:
        outside("umount", str(folder / "open/place"))


ACTS: dict[str, Callable[[Path], object]] = {
    "read": lambda place: (place / "file").read_bytes(),
    "write": lambda place: (place / "file").write_bytes(b"x"),
    "truncate": lambda place: os.truncate(place / "file", 0),
    "chmod": lambda place: os.chmod(place / "file", 0o666),
    "create": lambda place: os.mknod(place / "new"),
    "mkdir": lambda place: (place / "folder").mkdir(),
    "rmdir": lambda place: (place / "empty").rmdir(),
    "rename": lambda place: os.rename(place / "old", place / "renamed"),
    "unlink": lambda place: os.unlink(place / "victim"),
}


def done(place: Path) -> list[str]:
    """Which of ACTS are allowed there."""
    outside("rm", "-rf", str(place / "new"), str(place / "folder"))
    outside("touch", str(place / "old"), str(place / "victim"))
    outside("mkdir", "-p", str(place / "empty"))
    return [name for name, act in ACTS.items() if allowed(partial(act, place))]


def test_policies_that_come_into_force(folder: Path, shooting: Range) -> None:
    """Of every act that a note may be kept of, nothing of the policies before."""
    for _ in range(ROUNDS):
        assert done(folder / "open") == list(ACTS)
    document = CASE.policy()
    document["spec"]["rules"] += [
        {"name": f"now-{number}", "on": event, "match": {"file.path": str(folder / "open/**")}, "action": "deny"}
        for number, event in enumerate(("file.modify", "open"))
    ]
    shooting.agent.write_policy(CASE.name, document)
    shooting.agent.reload()
    now = done(folder / "open")
    shooting.agent.write_policy(CASE.name, CASE.policy())
    shooting.agent.reload()
    assert not now
    assert done(folder / "open") == list(ACTS)
