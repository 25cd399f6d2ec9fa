# SPDX-License-Identifier: Apache-2.0
"""Paths that rules follow in, the identities of what they name out, and a word when that may have changed.

Called by the agent for rules with `follow: object`. A path is looked up on this host, with symbolic links followed. "/dir/**" means the
directory, and the kernel finds everything below it. A file in it that has several names may have one outside of it, so such files are
looked for and followed themselves, as far as the directory's file system reaches. Directories on the way are watched with inotify(7),
because replacing a file or a parent is an event of the directory that holds it. Where that does not work, the agent looks once a second.

The identity is (inode, device) as the kernel's super block has it. Some file systems show another device in stat(2) than their super
block's (btrfs subvolumes, overlayfs for files of a lower layer). Their files cannot be followed this way: rules on them still protect the
name.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath
from typing import Final, NamedTuple

from bpfence.patience import Patience

Objects = dict[tuple[int, int], int]

IN_CLOEXEC, IN_NONBLOCK = os.O_CLOEXEC, os.O_NONBLOCK
IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE, IN_ATTRIB = 0x40, 0x80, 0x100, 0x200, 0x4
IN_DELETE_SELF, IN_MOVE_SELF, IN_UNMOUNT, IN_Q_OVERFLOW, IN_IGNORED = 0x400, 0x800, 0x2000, 0x4000, 0x8000
IN_ONLYDIR: Final = 0x01000000
_MASK: Final = IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR
ENTRIES_LOOKED_AT: Final = 100_000
PATIENCE_SECONDS: Final = 5.0
"""Seconds for one path. Less where paths have not answered in the last minute; none while one still does not answer."""
LINKS_FOLLOWED: Final = 8192
"""How many files with several names are followed below one directory. The kernel's map holds 65,536 identities."""

_EVENT: Final = struct.Struct("=iIII")
_WHOLE: Final = IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT | IN_Q_OVERFLOW | IN_IGNORED


class Resolved(NamedTuple):
    """What paths name now: bit sets by (inode, device), the paths that name nothing, and those with too much below them to look at it all.
    `silent`: paths on file systems that do not answer; they keep what they named before."""

    objects: Objects
    missing: tuple[str, ...]
    partly: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()


def target(path: str) -> str:
    """The path to look up: "/dir/**" is about /dir."""
    return path.removesuffix("**").rstrip("/") or "/" if path.endswith("/**") else path


def kernel_device(device: int) -> int:
    """A device number of stat(2) in the form the kernel keeps: major << 20 | minor."""
    return os.major(device) << 20 | os.minor(device)


class _Seen(NamedTuple):
    """What one path names: identities, and whether all below it was looked at. Without identities it names nothing."""

    keys: tuple[tuple[int, int], ...]
    whole: bool


class Lookup:
    """Looks paths up, for a limited time each: a path on a network file system, or one in user space, may not answer."""

    def __init__(self, patience: Patience | None = None) -> None:
        self._patience = patience or Patience(PATIENCE_SECONDS, 1)

    def resolve(self, paths: Iterable[str], before: Mapping[tuple[int, int], int] | None = None) -> Resolved:
        """What every path names; bit n of the sets is the n-th path. `before`: the sets of the same paths until now."""
        objects: Objects = {}
        missing, partly, silent = [], [], []
        for bit, path in enumerate(paths):
            seen = self._patience.call(lambda path=path: _look_up(path), path)  # type: ignore[misc]
            if seen is None:
                silent.append(path)
                seen = _Seen(tuple(key for key, bits in (before or {}).items() if bits >> bit & 1), whole=True)
            elif not seen.keys:
                missing.append(path)
            if not seen.whole:
                partly.append(path)
            for key in seen.keys:
                objects[key] = objects.get(key, 0) | 1 << bit
        return Resolved(objects, tuple(missing), tuple(partly), tuple(silent))

    def watched_names(self, paths: Iterable[str]) -> tuple[dict[str, set[str]], bool]:
        """Directories to watch with the names in them that matter: every component of each path, as written and as resolved. And whether
        all of them exist, apart from paths that do not answer."""
        wanted: dict[str, set[str]] = {}
        complete = True
        for path in paths:
            spellings = self._patience.call(lambda path=path: {target(path), os.path.realpath(target(path))}, path)  # type: ignore[misc]
            complete &= spellings is not None
            for spelling in spellings or ():
                step = PurePosixPath(spelling)
                while step.name:
                    wanted.setdefault(str(step.parent), set()).add(step.name)
                    step = step.parent
        return wanted, complete

    def try_watch(self, watch: Callable[[str], int], directory: str) -> tuple[int, bool]:
        """The descriptor of a watch on a directory, negative where there is none; and whether the directory exists all the same."""

        def work() -> tuple[int, bool]:
            descriptor = watch(directory)
            return descriptor, descriptor < 0 and os.path.isdir(directory)

        return self._patience.call(work, directory) or (-1, True)


def _look_up(path: str) -> _Seen:
    try:
        status = os.stat(target(path))
    except (OSError, ValueError):
        return _Seen((), whole=True)
    keys, whole = {(status.st_ino, kernel_device(status.st_dev))}, True
    if path.endswith("/**"):
        links, whole = linked(target(path), status)
        keys |= links
    return _Seen(tuple(keys), whole)


def linked(
    directory: str, directory_status: os.stat_result, entries: int = ENTRIES_LOOKED_AT, links: int = LINKS_FOLLOWED
) -> tuple[set[tuple[int, int]], bool]:
    """The files below a directory that have several names, and whether all of them were found.

    `directory_status` is the status of the directory. Other file systems mounted below it are left out. If it is the root of its file
    system nothing has to be looked at: every name of its files is below it.
    """
    several: set[tuple[int, int]] = set()
    if os.path.ismount(directory):
        return several, True
    waiting = [directory]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as listing:
                for entry in listing:
                    entries -= 1
                    if entries < 0 or len(several) > links:
                        return several, False
                    if not entry.is_dir(follow_symlinks=False):
                        status = entry.stat(follow_symlinks=False)
                        if status.st_nlink > 1 and status.st_dev == directory_status.st_dev:
                            several.add((status.st_ino, kernel_device(status.st_dev)))
                    elif entry.stat(follow_symlinks=False).st_dev == directory_status.st_dev:
                        waiting.append(entry.path)
        except OSError:
            continue  # gone meanwhile
    return several, True


class Watch:
    """Tells when something that the paths name may have been replaced. OSError where inotify does not work."""

    def __init__(self, lookup: Lookup | None = None) -> None:
        self._lookup = lookup or Lookup()
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(IN_CLOEXEC | IN_NONBLOCK)
        if self._fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._names: dict[int, set[bytes]] = {}
        self.complete = True

    def fileno(self) -> int:
        """Readable when `changed` has something to look at."""
        return int(self._fd)

    def set_paths(self, paths: Iterable[str]) -> bool:
        """Watch what leads to these paths and nothing else. False where some directory cannot be watched: then look from time to time
        instead.

        A directory that does not exist needs no watch of its own: the watch on its parent tells when it is made.
        """
        names: dict[int, set[bytes]] = {}
        by_directory, self.complete = self._lookup.watched_names(paths)
        for directory, wanted in by_directory.items():
            descriptor, there = self._lookup.try_watch(self._add, directory)
            if descriptor < 0:
                self.complete &= not there
                continue
            names.setdefault(descriptor, set()).update(os.fsencode(name) for name in wanted)
        for descriptor in self._names.keys() - names.keys():
            self._libc.inotify_rm_watch(self._fd, descriptor)
        self._names = names
        return self.complete

    def _add(self, directory: str) -> int:
        return int(self._libc.inotify_add_watch(self._fd, os.fsencode(directory), _MASK))

    def changed(self) -> bool:
        """Read what has happened. Returns whether any of it may matter."""
        matters = False
        while True:
            try:
                data = os.read(self._fd, 65536)
            except BlockingIOError:
                return matters
            matters |= relevant(data, self._names)

    def close(self) -> None:
        """Close the watches."""
        os.close(self._fd)


def relevant(data: bytes, names: Mapping[int, set[bytes]]) -> bool:
    """Whether inotify events (struct inotify_event, one after another) are about a watched name or a watched directory itself."""
    at = 0
    while at + _EVENT.size <= len(data):
        descriptor, mask, _, length = _EVENT.unpack_from(data, at)
        name = data[at + _EVENT.size : at + _EVENT.size + length].split(b"\0", 1)[0]
        at += _EVENT.size + length
        if mask & IN_Q_OVERFLOW or (descriptor in names and (mask & _WHOLE or name in names[descriptor])):
            return True
    return False
