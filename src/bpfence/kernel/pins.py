# SPDX-License-Identifier: Apache-2.0
"""A folder in bpffs in, the maps and links kept there out.

Called by `engine`. Layout: FOLDER/INSTANCE/map_<name> and link_<program>, all of mode 0700. One process at a time may change a folder:
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


def instances(folder: Path) -> tuple[str, ...]:
    """Names of the instances pinned under `folder`. KernelError where it cannot be read, or is something else than a pin folder."""
    _need_absolute(folder)
    try:
        with os.scandir(folder) as listing:
            found = tuple(sorted(entry.name for entry in listing if entry.is_dir(follow_symlinks=False)))
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise _no_access("reading", folder, error) from error
    if found and not libbpf.is_bpffs(folder):
        raise _not_bpffs(folder)
    return found


def open_map(folder: Path, instance: str, name: str) -> Map:
    """A pinned map, for reading; takes no lock."""
    return Map(name, libbpf.open_pin(folder / instance / _map_file(name)))


def pinned_links(folder: Path, instance: str) -> dict[str, int]:
    """Descriptors of the pinned links, by program."""
    return {name: libbpf.open_pin(folder / instance / (_LINK + name)) for name in link_names(folder, instance)}


def link_names(folder: Path, instance: str) -> tuple[str, ...]:
    """Programs whose links are pinned."""
    return tuple(sorted(entry.name.removeprefix(_LINK) for entry in os.scandir(folder / instance) if entry.name.startswith(_LINK)))


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
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise _no_access("making", folder, error) from error
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
        for name in names:
            path = self._own / _map_file(name)
            if not path.exists():
                for table in found.values():
                    table.close()
                return None
            found[name] = Map(name, libbpf.open_pin(path))
        return found

    def links(self) -> dict[str, int]:
        """Descriptors of the pinned links, by program."""
        return pinned_links(self.folder, self.instance)

    def pin_maps(self, maps: Mapping[str, Map]) -> None:
        self._own.mkdir(mode=0o700, exist_ok=True)
        for name, table in maps.items():
            libbpf.pin(table.fd, self._own / _map_file(name))

    def pin_link(self, program: str, fd: int) -> None:
        libbpf.pin(fd, self._own / (_LINK + program))

    def remove_link(self, program: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self._own / (_LINK + program)).unlink()

    def remove_own(self) -> None:
        remove_instance(self._own)

    def remove_others(self) -> None:
        """Takes away every instance but ours."""
        for name in instances(self.folder):
            if name != self.instance:
                remove_instance(self.folder / name)

    def remove_all(self) -> None:
        """Takes away every instance, and the folder."""
        for name in instances(self.folder):
            remove_instance(self.folder / name)
        with contextlib.suppress(OSError):
            self.folder.rmdir()


def remove_instance(path: Path) -> None:
    """Unpins one instance, links first: what is not attached can no longer miss its maps."""
    with contextlib.suppress(FileNotFoundError):
        entries = sorted(path.iterdir(), key=lambda entry: (not entry.name.startswith(_LINK), entry.name))
        for entry in entries:
            entry.unlink(missing_ok=True)
        path.rmdir()


def unload(folder: Path) -> tuple[str, ...]:
    """Removes everything pinned under `folder`: the names of the instances that were there.

    KernelError while an agent holds it, where we may not, and where it is no folder of a BPF file system: nothing else is ever removed.
    """
    _need_absolute(folder)
    try:
        os.stat(folder)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise _no_access("reading", folder, error) from error
    if not libbpf.is_bpffs(folder):
        raise _not_bpffs(folder)
    try:
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
    except OSError as error:
        raise _no_access("removing", folder, error) from error


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
                    hint="stop that agent first, or give this one another pin folder",
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
    """" (pid N)" where an instance tells; only for the message."""
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


def _no_access(doing: str, folder: Path, error: OSError) -> KernelError:
    hint = "run as root" if error.errno in (errno.EACCES, errno.EPERM) else f"choose a folder under {BPFFS}"
    return KernelError(f"{doing} the pin folder {folder}: {error.strerror}", missing="access to bpffs", hint=hint)


def _not_bpffs(folder: Path) -> KernelError:
    return KernelError(f"{folder} is not in a BPF file system", missing="bpffs", hint=f"choose a folder under {BPFFS}")
