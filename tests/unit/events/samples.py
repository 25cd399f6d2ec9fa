# SPDX-License-Identifier: Apache-2.0
"""Field values in, bytes as the kernel writes them out: records and images for tests of user space."""

from __future__ import annotations

from typing import Any

import msgspec

from bpfence import abi
from bpfence.events.source import Observation
from bpfence.fields import EVENT_BY_NAME

HEADER: dict[str, Any] = {
    "abi": abi.ABI_VERSION, "type": abi.RECORD_EVENT, "size": 0, "time": 5_000_000_001, "sequence": 1, "cpu": 0, "stream": 0, "event": 0,
    "flags": 0, "pid": 412, "tid": 413, "ppid": 400, "start_time": 4_000_000_000,
    "exec_id": 0x700001, "parent_exec_id": 0x700000, "cgroup": 9,
    "uid": 1000, "gid": 100, "mnt_ns": 1, "pid_ns": 2, "net_ns": 3, "user_ns": 4, "generation": 1, "action": abi.ACTION_DENY, "error": 1,
    "n_verdicts": 1, "verdicts": (1,), "comm": b"sh",
}  # fmt: skip


def record(event_name: str, /, numbers: dict[str, int] | None = None, strings: dict[str, bytes] | None = None, **header: Any) -> bytes:
    """struct event_record with its data; slots by their names in abi.h."""
    num, offsets, lengths, data = [0] * abi.ABI_NUM_SLOTS, [0] * abi.ABI_STR_SLOTS, [0] * abi.ABI_STR_SLOTS, b""
    num_present = str_present = 0
    for name, number in (numbers or {}).items():
        slot = getattr(abi, name)
        num[slot] = number
        num_present |= 1 << slot
    for name, text in (strings or {}).items():
        slot = abi.CONSTANTS[name]
        offsets[slot], lengths[slot] = len(data), len(text)
        str_present |= 1 << slot
        data += text
    values = {**HEADER, "event": abi.CONSTANTS[EVENT_BY_NAME[event_name].id], "size": abi.EVENT_RECORD_SIZE + len(data), **header}
    verdicts = (*values.pop("verdicts"), *[0] * abi.ABI_MAX_GROUPS)[: abi.ABI_MAX_GROUPS]
    comm = values.pop("comm")
    return abi.EVENT_RECORD_STRUCT.pack(*values.values(), *verdicts, comm, num_present, *num, str_present, *offsets, *lengths, 0) + data


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
