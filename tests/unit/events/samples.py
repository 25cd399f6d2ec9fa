# SPDX-License-Identifier: Apache-2.0
"""Field values in, bytes as the kernel writes them out: records and images for tests of user space."""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from bpfence import abi
from bpfence.events.source import Observation
from bpfence.fields import EVENT_BY_NAME

HEADER: dict[str, Any] = {
    "abi": abi.ABI_VERSION, "type": abi.RECORD_EVENT, "n_verdicts": 1, "size": 0, "time": 5_000_000_001, "sequence": 1, "cpu": 0,
    "stream": 0, "event": 0, "error": 1, "action": abi.ACTION_DENY, "n_strings": 0, "text_size": 0, "num_words": 0, "flags": 0,
    "pid": 412, "tid": 413, "ppid": 400, "generation": 1, "uid": 1000, "start_time": 4_000_000_000,
    "exec_id": 0x700001, "parent_exec_id": 0x700000, "cgroup": 9, "gid": 100, "workload": 0,
    "mnt_ns": 1, "pid_ns": 2, "net_ns": 3, "user_ns": 4, "comm": b"sh", "verdicts": (1,),
}  # fmt: skip


def record(event_name: str, /, numbers: dict[str, int] | None = None, strings: dict[str, bytes] | None = None, **header: Any) -> bytes:
    """struct event_header with its body; slots by their names in abi.h."""
    slots = {abi.CONSTANTS[name]: number for name, number in (numbers or {}).items()}
    words = {number: sum(1 << slot % 64 for slot in slots if slot // 64 == number) for number in sorted({slot // 64 for slot in slots})}
    wide = [slots[slot] for slot in sorted(slots) if slot >= abi.ABI_NUM_WIDE]
    narrow = [slots[slot] & 0xFFFFFFFF for slot in sorted(slots) if slot < abi.ABI_NUM_WIDE]
    text = b"".join((strings or {}).values())
    references = [abi.CONSTANTS[name] | len(data) << abi.STRING_LENGTH_SHIFT for name, data in (strings or {}).items()]
    values = {
        **HEADER, "event": abi.CONSTANTS[EVENT_BY_NAME[event_name].id], "text_size": len(text), "n_strings": len(references),
        "num_words": sum(1 << number for number in words), **header,
    }  # fmt: skip
    verdicts = values.pop("verdicts")
    tail = struct.pack(
        f"<{len(words) + len(wide)}Q{len(narrow) + len(verdicts) + len(references)}I",
        *words.values(),
        *wide,
        *narrow,
        *verdicts,
        *references,
    )
    values["n_verdicts"] = header.get("n_verdicts", len(verdicts))
    values["size"] = header.get("size", abi.EVENT_HEADER_SIZE + len(text) + len(tail))
    return abi.EVENT_HEADER_STRUCT.pack(*values.values()) + text + tail


class Image(msgspec.Struct, frozen=True):
    """An executed program."""

    parent_exec_id: int = 0
    pid: int = 412
    flags: int = 0
    comm: bytes = b"sh"
    args: bytes = b"sh\0-c\0/tmp/x\0"
    exe: bytes = b"/usr/bin/dash"


IMAGES = {
    0x700001: Image(0x700000),
    0x700000: Image(0x600000, 400, 0, b"bash", b"-bash\0", b"/usr/bin/bash"),
    0x600000: Image(0, 1, 0, b"init", b"/sbin/init\0", b"/usr/lib/systemd/systemd"),
}


def observation(event: str = "file.open", **changes: Any) -> Observation:
    """An observation without a kernel behind it."""
    fields = {"event": event, "file.path": "/etc/shadow", "process.exe": "/usr/bin/cat", "process.uid": 0, **changes.pop("fields", {})}
    return msgspec.structs.replace(Observation(event, 1_769_853_600_123_456_789, fields, action=abi.ACTION_DENY, error=1), **changes)
