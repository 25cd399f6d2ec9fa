# SPDX-License-Identifier: Apache-2.0
"""A folder in bpffs in, the maps and links kept there out.

Called by `engine`. Layout: FOLDER/INSTANCE/map_<name>, link_<program> and, what puts the shared engine into that program,
engine_<program>, all of mode 0700. One process at a time may change a folder:
it holds a lock on it (flock), which the kernel drops with the process. bpffs allows no dot in a name, so ".rodata" is "map_rodata".
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

from bpfence.errors import KernelError
from bpfence.kernel import libbpf
from bpfence.kernel.libbpf import Map

BPFFS: Final = Path("/sys/fs/bpf")
_MAP: Final = "map_"
_LINK: Final = "link_"
_ENGINE: Final = "engine_"


def instances(folder: Path) -> tuple[str, ...]:
    """Names of the instances pinned under `folder`. KernelError where it cannot be read, or is something else than a pin folder."""
    _need_absolute(folder)
    with _telling("reading", folder):
        try:
            with os.scandir(folder) as listing:
                found = tuple(sorted(entry.name for entry in listing if entry.is_dir(follow_symlinks=False)))
        except FileNotFoundError:
            return ()
    if found and not libbpf.is_bpffs(folder):
        raise _not_bpffs(folder)
    return found


def open_map(folder: Path, instance: str, name: str) -> Map:
    """A pinned map, for reading; takes no lock."""
    path = folder / instance / _map_file(name)
    with _telling("opening", path):
        return Map(name, libbpf.open_pin(path))


def pinned_links(folder: Path, instance: str) -> dict[str, int]:
    """Descriptors of the pinned links, by program."""
    return _pinned(folder, instance, _LINK)


def _pinned(folder: Path, instance: str, prefix: str) -> dict[str, int]:
    found: dict[str, int] = {}
    try:
        for name in _names(folder, instance, prefix):
            path = folder / instance / (prefix + name)
            # Who only looks holds no lock: an agent may take a pin away after it was listed.
            with _telling("opening", path), contextlib.suppress(FileNotFoundError):
                found[name] = libbpf.open_pin(path)
    except BaseException:
        for fd in found.values():
            os.close(fd)
        raise
    return found


def link_names(folder: Path, instance: str) -> tuple[str, ...]:
    """Programs whose links are pinned."""
    return _names(folder, instance, _LINK)


def _names(folder: Path, instance: str, prefix: str) -> tuple[str, ...]:
    with _telling("reading", folder / instance), os.scandir(folder / instance) as listing:
        return tuple(sorted(entry.name.removeprefix(prefix) for entry in listing if entry.name.startswith(prefix)))


def _map_file(name: str) -> str:
    return _MAP + name.lstrip(".").replace(".", "_")


class Pins:
    """One instance's place under a locked folder."""

    def __init__(self, folder: Path, instance: str, lock: int) -> None:
        self.folder = folder
        self.instance = instance
        self._lock = lock

    @classmethod
    def open(cls, folder: Path, instance: str) -> Pins:
        """Makes the folder (mounting bpffs on /sys/fs/bpf where it is not) and locks it."""
        _need_bpffs(folder)
        with _telling("making", folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _telling("locking", folder):
            return cls(folder, instance, _lock_folder(folder))

    def close(self) -> None:
        """Gives up the lock; the pins stay."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @property
    def _own(self) -> Path:
        return self.folder / self.instance

    def maps(self, names: Collection[str]) -> dict[str, Map] | None:
        """The pinned maps, or None where one of `names` is missing."""
        found: dict[str, Map] = {}
        try:
            for name in names:
                path = self._own / _map_file(name)
                with _telling("opening", path):
                    found[name] = Map(name, libbpf.open_pin(path))
        except BaseException as error:
            for table in found.values():
                table.close()
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise
        return found

    def links(self) -> dict[str, int]:
        """Descriptors of the pinned links, by program."""
        return pinned_links(self.folder, self.instance)

    def attached(self) -> tuple[str, ...]:
        """Programs whose links are pinned; none where the instance is not there."""
        return link_names(self.folder, self.instance) if self.instance in instances(self.folder) else ()

    def engines(self) -> dict[str, int]:
        """Descriptors of the pinned links that put the engine into programs, by program."""
        return _pinned(self.folder, self.instance, _ENGINE)

    def pin_maps(self, maps: Mapping[str, Map]) -> None:
        """KernelError where they cannot be; those that are pinned by then stay."""
        with _telling("making", self._own):
            self._own.mkdir(mode=0o700, exist_ok=True)
        for name, table in maps.items():
            with _telling("pinning", self._own / _map_file(name)):
                libbpf.pin(table.fd, self._own / _map_file(name))

    def replace_map(self, table: Map) -> None:
        """Pins a map in the place of the one that is pinned under its name, in one step."""
        path = self._own / _map_file(table.name)
        new = self._own / f"new_{path.name}"
        with _telling("pinning", path):
            new.unlink(missing_ok=True)  # of an agent that was killed right here
            libbpf.pin(table.fd, new)
            new.replace(path)

    def pin_link(self, program: str, fd: int) -> None:
        self._pin(_LINK + program, fd)

    def pin_engine(self, program: str, fd: int) -> None:
        self._pin(_ENGINE + program, fd)

    def _pin(self, name: str, fd: int) -> None:
        with _telling("pinning", self._own / name):
            libbpf.pin(fd, self._own / name)

    def remove_link(self, program: str) -> None:
        """Detaches a program, and then takes the engine out of it."""
        for prefix in (_LINK, _ENGINE):
            with _telling("removing", self._own / (prefix + program)):
                (self._own / (prefix + program)).unlink(missing_ok=True)

    def remove_own(self, *, wait: bool = True) -> None:
        remove_instance(self._own, wait=wait)

    def remove_folder(self) -> None:
        """Takes the folder away where nothing is left in it."""
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def remove_others(self) -> None:
        """Takes away every instance but ours."""
        for name in instances(self.folder):
            if name != self.instance:
                remove_instance(self.folder / name)


def remove_instance(path: Path, *, wait: bool = True) -> None:
    """Unpins one instance, links first: what is not attached can no longer miss its engine and its maps.

    `wait`: until all is detached. That takes seconds for each program where many processes are at work in the kernel. Without, the kernel
    does it some time later, and the caller has no descriptors of the links.
    """
    with _telling("removing", path), contextlib.suppress(FileNotFoundError):
        entries = sorted(path.iterdir(), key=lambda entry: (not entry.name.startswith(_LINK), entry.name))
        held = []
        with contextlib.suppress(KernelError):
            # The kernel detaches at once when the last descriptor is closed, and some time later when the last pin goes.
            held = list(pinned_links(path.parent, path.name).values()) if wait else []
        links = [entry for entry in entries if entry.name.startswith(_LINK)]
        for entry in links:
            entry.unlink(missing_ok=True)
        for fd in held:
            os.close(fd)
        for entry in entries[len(links) :]:
            entry.unlink(missing_ok=True)
        path.rmdir()


def unload(folder: Path) -> tuple[str, ...]:
    """Removes everything pinned under `folder`: the names of the instances that were there.

    KernelError while an agent holds it, where we may not, and where it is no folder of a BPF file system: nothing else is ever removed.
    """
    _need_absolute(folder)
    with _telling("reading", folder):
        try:
            os.stat(folder)
        except FileNotFoundError:
            return ()
    if not libbpf.is_bpffs(folder):
        raise _not_bpffs(folder)
    with _telling("locking", folder):
        lock = _lock_folder(folder)
    try:
        found = instances(folder)
        for name in found:
            remove_instance(folder / name)
        with contextlib.suppress(OSError):
            folder.rmdir()
        return found
    finally:
        os.close(lock)


@contextlib.contextmanager
def _closing_on_error(fd: int) -> Iterator[int]:
    try:
        yield fd
    except BaseException:
        os.close(fd)
        raise


def _lock_folder(folder: Path) -> int:
    """A descriptor that holds the lock."""
    while True:
        with _closing_on_error(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)) as fd:
            _check_owner(folder, os.fstat(fd))
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN):
                    raise
                raise KernelError(
                    f"{folder} is in use by a running agent{_agent_pid(folder)}",
                    missing="the lock on the pin folder",
                    hint="stop that agent first; an agent beside it needs a pin folder of its own (--pin-dir)",
                ) from error
            if _same(folder, fd):
                return fd
        # The folder was removed, and perhaps made anew, between opening and locking it.
        os.close(fd)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def in_use(folder: Path, locks: Path = Path("/proc/locks")) -> bool:
    """Whether somebody holds the lock: an agent that runs, whatever process has its id. Read from proc_locks(5), because taking the lock
    to see would be in the way of an agent that starts."""
    try:
        found = os.stat(folder)
        lines = locks.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return False
    inode = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    return any(words[1:2] == ["FLOCK"] and words[5:6] == [inode] for words in map(str.split, lines))


def _same(folder: Path, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(folder), os.fstat(fd))
    except FileNotFoundError:
        return False


def _check_owner(folder: Path, found: os.stat_result) -> None:
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
        raise KernelError(
            f"{folder} belongs to user {found.st_uid} with mode {stat.S_IMODE(found.st_mode):o}: others could change what is enforced",
            missing="a safe pin folder",
            hint=f"remove it, or chown it to user {os.geteuid()} and chmod it to 700",
        )


def _agent_pid(folder: Path) -> str:
    """ " (pid N)" where an instance tells; only for the message."""
    for name in instances(folder):
        with contextlib.suppress(KernelError, OSError):
            control = open_map(folder, name, "control")
            try:
                value = control.get(bytes(4)) or bytes(8)
            finally:
                control.close()
            if pid := int.from_bytes(value[4:8], "little"):
                return f" (pid {pid})"
    return ""


def _need_bpffs(folder: Path) -> None:
    """Sees to it that `folder`, or its nearest ancestor that is there, lies in a BPF file system."""
    _need_absolute(folder)
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    if libbpf.is_bpffs(nearest):
        return
    if folder.is_relative_to(BPFFS) and BPFFS.is_dir():
        libbpf.mount_bpffs(BPFFS)
        return
    raise _not_bpffs(folder)


def _need_absolute(folder: Path) -> None:
    if not folder.is_absolute():
        message = f"the pin folder {str(folder)!r} must be an absolute path"
        raise KernelError(message, missing="a pin folder in bpffs", hint=f"such as {BPFFS}/bpfence")


_HINTS: Final[Mapping[int, str]] = {
    errno.EACCES: "run as root", errno.EPERM: "run as root",
    errno.EROFS: f"mount it writable: mount -o remount,rw {BPFFS}",
    errno.ENOSPC: "free memory: a BPF file system has no other limit",
    **{number: libbpf.ERRORS[number].hint for number in (errno.ENOMEM, *libbpf.NO_DESCRIPTORS)},
}  # fmt: skip


@contextlib.contextmanager
def _telling(doing: str, path: Path) -> Iterator[None]:
    """Makes a KernelError, with what helps, of whatever a BPF file system refuses."""
    try:
        yield
    except OSError as error:
        number = error.errno or 0
        hint = _HINTS.get(number, f"choose a folder under {BPFFS}")
        kind = libbpf.NoDescriptorsError if number in libbpf.NO_DESCRIPTORS else KernelError
        why = f"{error.strerror or error}{libbpf.limit_of(number)}"
        raise kind(f"{doing} {path}: {why}", missing="access to bpffs", hint=hint) from error


def _not_bpffs(folder: Path) -> KernelError:
    return KernelError(f"{folder} is not in a BPF file system", missing="bpffs", hint=f"choose a folder under {BPFFS}")
