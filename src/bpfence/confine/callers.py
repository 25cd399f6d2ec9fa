# SPDX-License-Identifier: Apache-2.0
"""A system call's registers and its process's /proc entries in, what alerts say about the call and its caller out.

Called by `confine.supervise`, which knows whether the pid still belongs to that process. Everything read is hostile: it is bounded and
escaped, and what cannot be read is left out.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from bpfence import names
from bpfence.events.process import SECOND, Clock, rfc3339
from bpfence.events.values import escape
from bpfence.syscalls.architectures import Arch
from bpfence.syscalls.table import signature

MAX_TEXT: Final = 1024
"""Bytes of a string in memory that are shown; longer ones end with an ellipsis."""
MAX_ARGUMENTS: Final = 64
MAX_FILE: Final = 64 * 1024
MAX_ANCESTORS: Final = 32
MAX_ADDRESS: Final = 128
AT_FDCWD: Final = -100
SIGNED: Final = frozenset({"fd", "int", "pid"})
NAMED: Final = {"family": "family", "signal": "signal", "protocol": "protocol"}
FLAGS: Final = {"open": "open", "clone": "clone", "mount": "mount", "prot": "prot"}
ADDRESSES: Final = {"connect": (1, 2), "bind": (1, 2), "sendto": (4, 5)}
"""Call → where a socket address and its length are."""
HERTZ: Final = os.sysconf("SC_CLK_TCK")


class Caller(msgspec.Struct, frozen=True):
    """The process of a call, from /proc; strings escaped. The keys are those of alerts (docs/alerts.md)."""

    pid: int
    tid: int
    ppid: int
    exec_id: None
    name: str
    exe: str | None
    args: list[str] | None
    cwd: str | None
    uid: int
    gid: int
    start_time: str | None
    ancestors: list[dict[str, Any]]


class CallDetails(msgspec.Struct, frozen=True):
    """A call's arguments by name, in words. `reread`: names of those that were read from memory after the call was made; the kernel may
    have seen something else."""

    args: dict[str, Any]
    reread: list[str]


# ---- arguments ----


def decode_call(call: str, arch: Arch, registers: tuple[int, ...], memory: int | None) -> CallDetails:
    """The arguments of a call. `memory` is a descriptor of /proc/PID/mem; without one, addresses stay addresses."""
    known = signature(call)
    mask = (1 << arch.bits) - 1
    values = [register & mask for register in registers]
    if known is None:
        return CallDetails({f"arg{index}": hex(value) for index, value in enumerate(values)}, [])
    shown: dict[str, Any] = {}
    reread: list[str] = []
    for index, ((label, kind), value) in enumerate(zip(known.arguments, values, strict=False)):
        text = _from_memory(call, index, kind, values, memory)
        if text is not None:
            reread.append(label)
            shown[label] = text
        else:
            shown[label] = _plain(kind, value)
    return CallDetails(shown, reread)


def _plain(kind: str, value: int) -> Any:
    low = value & 0xFFFFFFFF
    signed = low - (1 << 32) if low >> 31 else low
    if kind == "dirfd":
        return "AT_FDCWD" if signed == AT_FDCWD else signed
    if kind in SIGNED:
        return signed
    if kind in ("uid", "gid", "uint", "size", "offset"):
        return low if kind != "size" and kind != "offset" else value
    if kind == "mode":
        return f"{low:04o}"
    if kind in NAMED:
        return names.name(NAMED[kind], low) or low
    if kind == "socktype":
        extra = [word for word, bit in (("SOCK_NONBLOCK", 0o4000), ("SOCK_CLOEXEC", 0o2000000)) if low & bit]
        return "|".join([names.name("socktype", low & 0xF) or str(low & 0xF), *extra])
    if kind in FLAGS:
        return list(names.flags(FLAGS[kind], low if kind == "open" else value))
    return hex(value)


def _from_memory(call: str, index: int, kind: str, values: list[int], memory: int | None) -> str | None:
    if memory is None or not values[index]:
        return None
    if kind in ("path", "text"):
        return read_string(memory, values[index])
    place = ADDRESSES.get(call)
    if place is not None and place[0] == index:
        data = _read(memory, values[index], min(values[place[1]] & 0xFFFFFFFF, MAX_ADDRESS))
        return socket_address(data) if data else None
    return None


def _read(memory: int, address: int, size: int) -> bytes:
    """What can be read of `size` bytes; b"" where nothing can."""
    if address >> 63:
        return b""
    try:
        return os.pread(memory, size, address)
    except (OSError, OverflowError, ValueError):
        return b""


def read_string(memory: int, address: int) -> str | None:
    """A string of C, escaped, at most MAX_TEXT bytes of it; None where it cannot be read."""
    data = b""
    page = 4096
    while len(data) <= MAX_TEXT:
        # Never over the end of a page in one read: the next page may not exist.
        part = _read(memory, address + len(data), min(page - (address + len(data)) % page, MAX_TEXT + 1 - len(data)) or 1)
        if not part:
            return None if not data else escape(data) + "…"
        end = part.find(b"\0")
        if end >= 0:
            return escape(data + part[:end])
        data += part
    return escape(data[:MAX_TEXT]) + "…"


def socket_address(data: bytes) -> str:
    """A struct sockaddr as text: 192.0.2.1:443, [2001:db8::1]:443, unix:/run/x, or the family and hexadecimal."""
    if len(data) < 2:
        return data.hex()
    (family,) = struct.unpack_from("=H", data)
    if family == 2 and len(data) >= 8:
        return f"{ipaddress.IPv4Address(data[4:8])}:{int.from_bytes(data[2:4], 'big')}"
    if family == 10 and len(data) >= 24:
        return f"[{ipaddress.IPv6Address(data[8:24])}]:{int.from_bytes(data[2:4], 'big')}"
    if family == 1:
        path = data[2:]
        return "unix:@" + escape(path[1:]) if path[:1] == b"\0" else "unix:" + escape(path.partition(b"\0")[0])
    return f"{names.name('family', family) or family}:{data[2:].hex()}"


# ---- the caller ----


def read_caller(tid: int, clock: Clock, proc: Path = Path("/proc")) -> Caller | None:
    """The process that a thread belongs to; None where it is gone. Whether the thread still is the same one, the caller must check."""
    folder = proc / str(tid)
    status = _status(folder)
    if not status:
        return None
    pid = _whole(status, "Tgid")
    arguments = _bytes(folder / "cmdline")
    split = arguments.rstrip(b"\0").split(b"\0") if arguments else None
    return Caller(
        pid,
        tid,
        _whole(status, "PPid"),
        None,
        escape(status.get("Name", b"")),
        _link(folder / "exe"),
        None if split is None else [escape(word[:MAX_TEXT]) for word in split[:MAX_ARGUMENTS]],
        _link(folder / "cwd"),
        _whole(status, "Uid", 1),
        _whole(status, "Gid", 1),
        _start_time(proc / str(pid), clock),
        _ancestors(tid, proc),
    )


def _ancestors(tid: int, proc: Path) -> list[dict[str, Any]]:
    """The processes that a thread descends from, the parent first.

    Each process is held by its folder, which stays with the process it was opened for. Its child is then asked again who its parent is: if
    that still is the same id, the folder is the parent's, because no parent is younger than that.
    """
    ancestors: list[dict[str, Any]] = []
    seen: set[int] = set()
    with contextlib.ExitStack() as stack:
        child = stack.enter_context(_held(proc / str(tid)))
        while child is not None and len(ancestors) < MAX_ANCESTORS:
            pid = _whole(_status(child), "PPid")
            parent = stack.enter_context(_held(proc / str(pid))) if pid > 0 and pid not in seen else None
            if parent is None or _whole(_status(child), "PPid") != pid:
                break
            seen.add(pid)
            ancestors.append({"pid": pid, "exe": _link(parent / "exe") or ""})
            child = parent
    return ancestors


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[Path | None]:
    """The folder of a process, held by a descriptor; None where there is none."""
    try:
        descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE)
    except OSError:
        return b""


def _status(folder: Path) -> dict[str, bytes]:
    lines = (line.partition(b":") for line in _bytes(folder / "status").split(b"\n"))
    return {key.decode("ascii", "replace"): value.strip() for key, colon, value in lines if colon}


def _whole(status: dict[str, bytes], key: str, word: int = 0) -> int:
    try:
        return int(status[key].split()[word])
    except (KeyError, IndexError, ValueError):
        return 0


def _link(path: Path) -> str | None:
    try:
        return escape(os.fsencode(os.readlink(path)))
    except OSError:
        return None


def _start_time(folder: Path, clock: Clock) -> str | None:
    # The name in brackets may hold anything, even brackets.
    words = _bytes(folder / "stat").rpartition(b")")[2].split()
    try:
        since_boot = int(words[19]) * SECOND // HERTZ
    except (IndexError, ValueError):
        return None
    return rfc3339(clock.wall(since_boot))
