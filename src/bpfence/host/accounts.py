# SPDX-License-Identifier: Apache-2.0
"""A user or group id and the process that has it in, the entry of the right user database out.

Called by `live`. A process in the agent's own mount namespace is looked up the way this host looks users up. For every other process
etc/passwd and etc/group below its own root are read. Those files are the container's: they must be regular files, are opened without
following links and read up to a size, and are given up where the file system does not answer.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from bpfence.patience import Patience

MAX_FILE: Final = 1 << 20
MAX_NAMESPACES: Final = 256
MAX_HOST: Final = 4096
FRESH: Final = 2.0
"""For how many seconds a namespace's files are taken as unchanged."""
HOST_FRESH: Final = 60.0
HOST_PATIENCE: Final = 0.5
"""Seconds that this host's own lookup may take: it may ask a directory server."""
UNKNOWN: Final = "<NA>"
"""What Falco gives for a user or group that has no entry."""


class User(NamedTuple):
    """An entry of passwd, as Falco has it."""

    name: str
    home: str
    shell: str


_ROOT: Final = User("root", "/root", UNKNOWN)
_NOBODY: Final = User(UNKNOWN, UNKNOWN, UNKNOWN)


class _File(NamedTuple):
    """The content of a file, and which file it was."""

    version: tuple[int, ...]
    entries: dict[int, list[str]]


class _Known:
    """The two files of a mount namespace, and when they were last looked at."""

    def __init__(self) -> None:
        self.files: dict[str, _File] = {}
        self.checked: dict[str, float] = {}


def _user_of(entry: list[str]) -> User:
    return User(entry[0], entry[5] if len(entry) > 5 else "", entry[6] if len(entry) > 6 else "")


class Host:
    """This host's users and groups, each looked up at most once a minute, by lookups that may not take long. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, patience: Patience | None = None) -> None:
        self._clock = clock
        # A Patience of its own: no container can slow this host's lookups down.
        self._patience = patience or Patience(HOST_PATIENCE)
        self._known: OrderedDict[tuple[str, int], tuple[float, list[str] | None]] = OrderedDict()
        self._users: dict[int, tuple[float, User | None]] = {}

    def entry(self, file: str, number: int) -> list[str] | None:
        """The entry of "passwd" or "group"; None where there is none, or no answer came in time."""
        now = self._clock()
        cached = self._known.get((file, number))
        if cached is not None and now - cached[0] < HOST_FRESH:
            return cached[1]
        entry = self._patience.call(lambda: _ON_HOST[file](number))
        self._known[file, number] = (now, entry)
        if len(self._known) > MAX_HOST:
            self._known.popitem(last=False)
        return entry

    def user(self, uid: int) -> User | None:
        """The user's entry, with what alerts show of it; None as for `entry`."""
        known = self._users.get(uid)
        if known is not None and self._clock() - known[0] < HOST_FRESH:
            return known[1]
        entry = self.entry("passwd", uid)
        looked_up, _ = self._known["passwd", uid]
        if len(self._users) >= MAX_HOST:
            self._users.clear()
        user = None if entry is None else _user_of(entry)
        self._users[uid] = (looked_up, user)
        return user

    def name(self, table: str, number: int) -> str | None:
        """The name of a "user" or "group"."""
        entry = self.entry({"user": "passwd", "group": "group"}[table], number)
        return entry[0] if entry else None


HOST: Final = Host()


class Accounts:
    """Users and groups. `proc` and `clock` are arguments for tests; `host_namespace`: the agent's mount namespace."""

    def __init__(
        self,
        proc: Path = Path("/proc"),
        *,
        host_namespace: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        patience: Patience | None = None,
    ) -> None:
        self._proc = str(proc)
        self._clock = clock
        self._patience = patience or Patience()
        self._host = Host(clock)
        self._namespaces: OrderedDict[int, _Known] = OrderedDict()
        self._own = _own_namespace(self._proc) if host_namespace is None else host_namespace

    def user(self, uid: int, mnt_ns: int, pid: int) -> User:
        """The user's entry; where there is none, root's for 0 and "<NA>" for the rest."""
        if mnt_ns == self._own:
            user = self._host.user(uid)
        else:
            entry = self._entry("passwd", uid, mnt_ns, pid)
            user = None if entry is None else _user_of(entry)
        if user is None:
            return _NOBODY if uid else _ROOT
        return user

    def group(self, gid: int, mnt_ns: int, pid: int) -> str:
        """The group's name; where there is none, root for 0 and "<NA>" for the rest."""
        entry = self._entry("group", gid, mnt_ns, pid)
        return entry[0] if entry is not None else UNKNOWN if gid else "root"

    def _entry(self, file: str, number: int, mnt_ns: int, pid: int) -> list[str] | None:
        if mnt_ns == self._own:
            return self._host.entry(file, number)
        known = self._namespaces.get(mnt_ns)
        if known is None:
            known = self._namespaces[mnt_ns] = _Known()
            if len(self._namespaces) > MAX_NAMESPACES:
                self._namespaces.popitem(last=False)
        else:
            self._namespaces.move_to_end(mnt_ns)
        now = self._clock()
        if now - known.checked.get(file, -FRESH) >= FRESH:
            known.checked[file] = now
            before = known.files.get(file)
            made = self._patience.call(lambda: _read(f"{self._proc}/{pid}", mnt_ns, file, before), mnt_ns)
            if made is not None:
                known.files[file] = made
        file_read = known.files.get(file)
        return None if file_read is None else file_read.entries.get(number)


def _own_namespace(proc: str) -> int:
    try:
        return os.stat(f"{proc}/self/ns/mnt").st_ino
    except OSError:
        return -1


def _host_user(uid: int) -> list[str] | None:
    try:
        return [str(item) for item in pwd.getpwuid(uid)]
    except (KeyError, OverflowError, ValueError):
        return None


def _host_group(gid: int) -> list[str] | None:
    try:
        return [grp.getgrgid(gid).gr_name]
    except (KeyError, OverflowError, ValueError):
        return None


_ON_HOST: Final[dict[str, Callable[[int], list[str] | None]]] = {"passwd": _host_user, "group": _host_group}


def _read(process: str, mnt_ns: int, name: str, before: _File | None) -> _File:
    """etc/NAME below the root of a process (given by its folder in proc); `before` where the file is still the same. OSError where it
    cannot be had.

    The process must still be in that mount namespace at the end: by then its id may belong to another one. The descriptor of its folder
    stays with the process that it was opened for.
    """
    path_only = os.O_PATH | os.O_CLOEXEC
    held = os.open(process, path_only | os.O_DIRECTORY)
    try:
        content = _read_below(held, name, before)
        if os.stat("ns/mnt", dir_fd=held).st_ino != mnt_ns:
            raise OSError(f"{process} is in another mount namespace")
        return content
    finally:
        os.close(held)


def _read_below(held: int, name: str, before: _File | None) -> _File:
    path_only = os.O_PATH | os.O_CLOEXEC
    top = os.open("root", path_only | os.O_DIRECTORY, dir_fd=held)
    try:
        folder = os.open("etc", path_only | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
    finally:
        os.close(top)
    try:
        handle = os.open(name, path_only | os.O_NOFOLLOW, dir_fd=folder)
    finally:
        os.close(folder)
    try:
        seen = os.fstat(handle)
        if not stat.S_ISREG(seen.st_mode):
            raise OSError(f"{name} is no regular file")
        version = (seen.st_dev, seen.st_ino, seen.st_mtime_ns, seen.st_size)
        if before is not None and before.version == version:
            return before
        # Opened only now, after the check: opening a device or a pipe can have effects, or block.
        descriptor = os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    finally:
        os.close(handle)
    with os.fdopen(descriptor, "rb") as file:
        return _File(version, parse(file.read(MAX_FILE)))


def parse(data: bytes) -> dict[int, list[str]]:
    """Lines of passwd(5) or group(5) by their ids. Of several with one id the first counts; malformed lines are left out."""
    entries: dict[int, list[str]] = {}
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        fields = line.split(":")
        if len(fields) > 2 and fields[2].isascii() and fields[2].isdigit() and len(fields[2]) <= 10:
            entries.setdefault(int(fields[2]), fields)
    return entries
