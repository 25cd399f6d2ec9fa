# SPDX-License-Identifier: Apache-2.0
"""A process id and its start time in, what /proc says of that very process out.

Called by `live` for what the kernel's records do not hold, when a rule asks for it. What is read belongs to the process that is watched. So
sizes are bounded, a process that has taken over the id is recognised by its start time, and reads that can be made to block (a process's
memory may lie on a file system in user space) are given up after a moment.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from bpfence.patience import Patience

MAX_TEXT: Final = 32 << 10
"""Bytes of a command line or an environment that are looked at."""
MAX_TABLE: Final = 256 << 10
"""Bytes of a table of sockets that are looked at."""
MAX_DESCRIPTORS: Final = 256
HERTZ: Final = os.sysconf("SC_CLK_TCK")
SECOND: Final = 1_000_000_000
_STEP: Final = 2 * SECOND // HERTZ

_ANONYMOUS: Final = {
    "[eventfd]": "event", "[eventpoll]": "eventpoll", "[signalfd]": "signalfd", "inotify": "inotify", "[userfaultfd]": "userfaultfd",
    "[io_uring]": "io_uring", "[pidfd]": "pidfd", "[timerfd]": "timerfd", "bpf-map": "bpf", "bpf-prog": "bpf", "bpf-link": "bpf",
}  # fmt: skip
_TABLES: Final = (("tcp", "ipv4", 9), ("tcp6", "ipv6", 9), ("udp", "ipv4", 9), ("udp6", "ipv6", 9), ("unix", "unix", 6))
_O_DIRECTORY: Final = 0o200000


def read_file(path: str | Path, limit: int) -> bytes:
    """At most `limit` bytes of a file; OSError where it cannot be read."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        parts = []
        left = limit
        while left > 0 and (part := os.read(descriptor, left)):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


class Procfs:
    """The process file system. An answer is None where the process is gone, where its id belongs to another process now, or where the read
    does not end in time."""

    def __init__(self, root: Path = Path("/proc"), patience: Patience | None = None) -> None:
        self._root = str(root)
        self._patience = patience or Patience()

    def _same(self, pid: int, start_time: int) -> bool:
        """Whether the id still belongs to the process that started then (ns since boot). Asked after a read, so that the answer covers the
        read."""
        started = self._started(pid)
        return started is not None and start_time > 0 and abs(started - start_time) < _STEP

    def _whose(self, pid: int) -> bytes | int:
        """Who is charged with a read that hangs: the container, by its mount namespace, or the process where that is not known."""
        return self._link(f"{pid}/ns/mnt") or pid

    def _text(self, pid: int, start_time: int, name: str) -> bytes | None:
        data = self._patience.call(lambda: read_file(f"{self._root}/{pid}/{name}", MAX_TEXT), self._whose(pid))
        return data if data is not None and self._same(pid, start_time) else None

    def arguments(self, pid: int, start_time: int) -> bytes | None:
        """The command line, NUL-separated."""
        return self._text(pid, start_time, "cmdline") or None

    def environment(self, pid: int, start_time: int) -> bytes | None:
        """The environment at exec, NUL-separated."""
        return self._text(pid, start_time, "environ")

    def cgroups(self, pid: int, start_time: int) -> bytes | None:
        """Lines of hierarchy:controllers:path."""
        return self._quick(pid, start_time, "cgroup")

    def _quick(self, pid: int, start_time: int, name: str) -> bytes | None:
        try:
            data = read_file(f"{self._root}/{pid}/{name}", MAX_TEXT)
        except OSError:
            return None
        return data if self._same(pid, start_time) else None

    def status(self, pid: int, start_time: int) -> dict[str, int] | None:
        """The numbers of /proc/PID/status by name; memory is in KiB: VmSize, VmRSS, VmSwap, Threads ..."""
        data = self._quick(pid, start_time, "status")
        if data is None:
            return None
        numbers = {}
        for line in data.split(b"\n"):
            name, _, value = line.partition(b":")
            words = value.split()
            if words and words[0].isdigit():
                numbers[name.decode("ascii", "replace")] = int(words[0])
        return numbers

    def leader(self, pid: int, start_time: int) -> tuple[bytes, bytes | None, bytes | None] | None:
        """Name, argv[0] and executable."""
        try:
            name = read_file(f"{self._root}/{pid}/comm", 64).rstrip(b"\n")
        except OSError:
            return None
        given = self._patience.call(lambda: read_file(f"{self._root}/{pid}/cmdline", MAX_TEXT), self._whose(pid))
        executable = self._link(f"{pid}/exe")
        return (name, given.partition(b"\0")[0] if given else None, executable) if self._same(pid, start_time) else None

    def _link(self, name: str) -> bytes | None:
        try:
            return os.fsencode(os.readlink(f"{self._root}/{name}"))
        except OSError:
            return None

    def inner_pid(self, pid: int, start_time: int) -> int | None:
        """The process's id in its own pid namespace."""
        for line in (self._quick(pid, start_time, "status") or b"").split(b"\n"):
            words = line.split()
            if words[:1] == [b"NSpid:"] and words[-1].isdigit():
                return int(words[-1])
        return None

    def started(self, pid: int, by: int) -> int | None:
        """When the process that has the id now was started, in ns since boot, exact to a clock tick. None where that was after `by`: then
        another process had the id at that moment."""
        start_time = self._started(pid)
        return start_time if start_time is not None and start_time <= by else None

    def _started(self, pid: int) -> int | None:
        try:
            # The name in brackets may hold anything, even brackets.
            return int(read_file(f"{self._root}/{pid}/stat", 4096).rpartition(b")")[2].split()[19]) * SECOND // HERTZ
        except (OSError, ValueError, IndexError):
            return None

    def descriptors(self, pid: int, start_time: int, only: int | None = None) -> dict[int, tuple[str, str]] | None:
        """Types (as fd.type has them) and names of open descriptors, or of one."""
        try:
            listed = os.listdir(f"{self._root}/{pid}/fd") if only is None else [str(only)]
        except OSError:
            return None
        links = {int(number): self._link(f"{pid}/fd/{number}") for number in listed[:MAX_DESCRIPTORS] if number.isdigit()}
        descriptors: dict[int, tuple[str, str]] = {}
        sockets: dict[bytes, str] | None = None
        asked = False
        for number, link in sorted(links.items()):
            if link is None:
                continue
            if link.startswith(b"socket:[") and not asked:
                asked = True
                # Tables of a network namespace with very many sockets take their time.
                sockets = self._patience.call(lambda: self._sockets(pid), self._whose(pid))
            descriptors[number] = self._described(pid, number, link, sockets or {})
        return descriptors if self._same(pid, start_time) else None

    def _described(self, pid: int, number: int, link: bytes, sockets: dict[bytes, str]) -> tuple[str, str]:
        text = link.decode("utf-8", "surrogateescape")
        if text.startswith("/memfd:"):
            return "memfd", text[7:].removesuffix(" (deleted)")
        if text.startswith("/"):
            return ("directory" if self._is_directory(pid, number) else "file"), text
        if text.startswith("pipe:["):
            return "pipe", ""
        if text.startswith("socket:["):
            return sockets.get(link[8:-1], "other"), ""
        return _ANONYMOUS.get(text.removeprefix("anon_inode:"), "other"), ""

    def _is_directory(self, pid: int, number: int) -> bool:
        """Whether it was opened as a directory, by its flags. Following the link would tell more, but could hang on a file system that does
        not answer."""
        try:
            for line in read_file(f"{self._root}/{pid}/fdinfo/{number}", 4096).split(b"\n"):
                if line.startswith(b"flags:"):
                    return int(line.split()[1], 8) & _O_DIRECTORY != 0
        except (OSError, ValueError, IndexError):
            pass
        return False

    def _sockets(self, pid: int) -> dict[bytes, str]:
        sockets: dict[bytes, str] = {}
        for name, kind, column in _TABLES:
            try:
                lines = read_file(f"{self._root}/{pid}/net/{name}", MAX_TABLE).split(b"\n")[1:]
            except OSError:
                continue
            for line in lines:
                words = line.split()
                if len(words) > column:
                    sockets[words[column]] = kind
        return sockets
