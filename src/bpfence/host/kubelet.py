# SPDX-License-Identifier: Apache-2.0
"""Seccomp profiles in, files below the kubelet's seccomp folder out, where pods with `Localhost` profiles have theirs from.

Called by `bpfence seccomp install` and `uninstall`, and by what brings a cluster's profiles to its nodes. A file is put in place at once:
whoever reads it finds the old or the new one. Below the folder no symbolic link is followed, and nothing is written where others than root
(or whoever runs this) can write: who can change a profile between its check and its use decides what a container may do.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, NamedTuple

from bpfence.errors import UsageError
from bpfence.words import quoted

SECCOMP_FOLDER: Final = Path("/var/lib/kubelet/seccomp")
"""Below the kubelet's --root-dir."""
MAX_PATH: Final = 1024
MAX_NAME: Final = 200
"""Bytes; a temporary file beside it has a longer one."""
MAX_DEPTH: Final = 8
MAX_LISTED: Final = 10_000
MAX_FILE: Final = 8 << 20
_FILE_MODE: Final = 0o644
_FOLDER_MODE: Final = 0o755
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

Done = Literal["new", "changed", "same"]


def parts(path: str) -> tuple[str, ...]:
    """The components of a profile's path below the folder. UsageError where it is none, or leads out of it."""
    found = tuple(path.split("/"))
    hint = "a path below the kubelet's seccomp folder, like web.json or team/web.json"
    if not path.isprintable() or not path or len(path.encode("utf-8", "replace")) > MAX_PATH or len(found) > MAX_DEPTH:
        raise UsageError(f"{quoted(path)} cannot be the path of a profile: give {hint}")
    for part in found:
        if not part or part.startswith(".") or len(part.encode()) > MAX_NAME:
            raise UsageError(f"{quoted(path)} cannot be the path of a profile, by {quoted(part)}: give {hint}")
    return found


class _File(NamedTuple):
    """`ours`: others cannot write to it, nor has it another name by which they could have been given it."""

    data: bytes
    ours: bool


class SeccompFolder:
    """The folder, which is made where its parent is there. OSError and UsageError say why something cannot be done."""

    def __init__(self, root: Path = SECCOMP_FOLDER) -> None:
        self.root = root

    def put(self, path: str, data: bytes) -> Done:
        """Put a profile in place."""
        *way, name = parts(path)
        with self._opened(way, make=True) as folder:
            before = self._found(folder, name, path, len(data) + 1)
            if before is not None and before.data == data and before.ours:
                return "same"
            temporary = f".{name}.{secrets.token_hex(8)}"
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fchmod(descriptor, _FILE_MODE)
                    os.fsync(descriptor)
                os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=folder)
                raise
            os.fsync(folder)
        return "new" if before is None else "changed"

    def remove(self, path: str) -> bool:
        """Take a profile away, and folders that are empty then; False where there is none."""
        *way, name = parts(path)
        try:
            with self._opened(way) as folder:
                if self._found(folder, name, path, 0) is None:
                    return False
                os.unlink(name, dir_fd=folder)
                os.fsync(folder)
        except FileNotFoundError:
            return False
        for depth in range(len(way), 0, -1):
            with contextlib.suppress(OSError), self._opened(way[: depth - 1]) as folder:
                os.rmdir(way[depth - 1], dir_fd=folder)
        return True

    def get(self, path: str) -> bytes | None:
        """What a profile's file holds, at most MAX_FILE bytes of it; None where there is none."""
        *way, name = parts(path)
        try:
            with self._opened(way) as folder:
                found = self._found(folder, name, path, MAX_FILE)
        except FileNotFoundError:
            return None
        return found.data if found is not None else None

    def paths(self, below: str = "") -> list[str]:
        """The paths of the profiles that are there, in order, at most MAX_LISTED; `below`: only those in that folder."""
        found: list[str] = []
        waiting = [list(parts(below)) if below else []]
        while waiting and len(found) < MAX_LISTED:
            way = waiting.pop()
            try:
                with self._opened(way) as folder, os.scandir(folder) as entries:
                    for entry in entries:
                        if entry.name.startswith(".") or len(found) >= MAX_LISTED:
                            continue
                        if entry.is_dir(follow_symlinks=False) and len(way) < MAX_DEPTH and len(waiting) < MAX_LISTED:
                            waiting.append([*way, entry.name])
                        elif entry.is_file(follow_symlinks=False):
                            found.append("/".join([*way, entry.name]))
            except FileNotFoundError:
                continue
        return sorted(found)

    @contextlib.contextmanager
    def _opened(self, way: list[str], *, make: bool = False) -> Iterator[int]:
        """A folder below the root, or the root itself, held open while in use."""
        descriptor = self._root(make)
        shown = str(self.root)
        try:
            self._trusted(descriptor, shown)
            for part in way:
                shown = f"{shown}/{part}"
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, _FOLDER_MODE, dir_fd=descriptor)
                outer = descriptor
                try:
                    descriptor = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=outer)
                except OSError as error:
                    if error.errno in (errno.ENOTDIR, errno.ELOOP):
                        raise UsageError(f"{quoted(shown, MAX_PATH)} is a symbolic link or no folder: nothing is put below it") from None
                    raise OSError(error.errno, error.strerror, shown) from None
                os.close(outer)
                self._trusted(descriptor, shown)
            yield descriptor
        finally:
            os.close(descriptor)

    def _root(self, make: bool) -> int:
        """The folder itself, which whoever administers the node may have made a link."""
        try:
            return os.open(self.root, _FOLDER)
        except FileNotFoundError:
            if not make or not self.root.parent.is_dir():
                raise
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.root, _FOLDER_MODE)
        return os.open(self.root, _FOLDER)

    def _trusted(self, descriptor: int, shown: str) -> None:
        """UsageError where others can write to a folder."""
        found = os.fstat(descriptor)
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            what = f"others may write to {quoted(shown, MAX_PATH)}, and so decide what containers may do"
            raise UsageError(f"{what}: chown root and chmod go-w it first")

    def _found(self, folder: int, name: str, path: str, most: int) -> _File | None:
        """What a file holds, at most so many bytes; None where there is none. UsageError where something else is there."""
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise OSError(error.errno, error.strerror, f"{self.root}/{path}") from None
            raise UsageError(f"{self.root}/{path} is a symbolic link: remove it first") from None
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            os.close(descriptor)
            raise UsageError(f"{self.root}/{path} is no regular file: remove it first")
        with os.fdopen(descriptor, "rb") as file:
            ours = found.st_uid in (0, os.geteuid()) and found.st_nlink == 1 and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            return _File(file.read(most), ours)
