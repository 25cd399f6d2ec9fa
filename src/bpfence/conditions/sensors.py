# SPDX-License-Identifier: Apache-2.0
"""Nothing in, the types of arguments that sensors read out: how each is read, and which fields of the event it becomes.

Called by the languages that have sensors. `policy.Probe` is a sensor.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from bpfence.policy import Read

INTEGERS: Final = {
    "int": 32, "uint32": 32, "sint64": 64, "uint64": 64, "size_t": 64, "int8": 8, "uint8": 8, "int16": 16, "uint16": 16,
}  # fmt: skip
"""Types of integers, and their bits."""
SIGNED: Final = frozenset(("int", "sint64", "int8", "int16"))
CAPABILITY_SETS: Final = frozenset(("cap_inheritable", "cap_permitted", "cap_effective", "kernel_cap_t"))
NUMBERS: Final = {
    **INTEGERS, "syscall64": 64, "capability": 32, "bpf_cmd": 32, **dict.fromkeys(sorted(CAPABILITY_SETS), 64),
}  # fmt: skip
"""Types of numbers, and their bits."""
FILES: Final = {"file": Read.FILE, "path": Read.PATH, "linux_binprm": Read.BINPRM, "fd": Read.FD}
TEXTS: Final = {
    "string": Read.TEXT, "filename": Read.FILENAME, "module": Read.MODULE, "data_loc": Read.TEXT,
    "net_device": Read.NET_DEVICE, "char_buf": Read.BYTES,
}  # fmt: skip
SOCKETS: Final = {"sock": Read.SOCK, "socket": Read.SOCKET, "skb": Read.SKB, "sockaddr": Read.SOCKADDR}
IN_RECORDS: Final = (*INTEGERS, "syscall64", "capability", "bpf_cmd", "string", "data_loc", "fd", "nop")
"""Types that a field of a tracepoint's record can have."""
IN_PROGRAMS: Final = (*(name for name in NUMBERS if name != "syscall64"), "string", "char_buf", "fd", "sockaddr", "nop")
"""Types that are read of functions of programs and libraries."""
IN_STATIC_PROBES: Final = tuple(name for name in IN_PROGRAMS if name not in ("fd", "sockaddr"))
MAX_FILES: Final = 2
MAX_REGISTER: Final = 5
"""Arguments of functions are in registers up to this one."""
FUNCTION: Final = re.compile(r"[A-Za-z_][\w.]{0,254}")
"""Names of the kernel's functions."""
_CALLS: Final = ("sys_", "__x64_sys_", "__arm64_sys_")
"""What the functions of system calls begin with: the first as policies write it, for every machine."""
_OF_FILES: Final = ("file.path", "file.mode", "file.memfd")
_OF_SOCKETS: Final = (
    "net.family", "net.type", "net.protocol", "net.state", "net.peer.ip", "net.peer.port", "net.local.ip", "net.local.port",
)  # fmt: skip
_OF_ADDRESSES: Final = ("net.family", "net.peer.ip", "net.peer.port")


def is_call(function: str) -> bool:
    """Whether a function is that of a system call of 64 bits, which has the caller's registers for its argument."""
    return function.startswith(_CALLS)


def read_of(kind: str) -> Read:
    """How an argument of a type is read."""
    if kind == "nop":
        return Read.NOTHING
    if kind in NUMBERS:
        return Read.SYSCALL if kind == "syscall64" else Read.CAPS if kind in CAPABILITY_SETS else Read.NUMBER
    return {**FILES, **TEXTS, **SOCKETS}[kind]


def fields_of(kind: str, position: int, before: Collection[str]) -> tuple[str, ...]:
    """The fields that an argument of a type becomes. `position`: among those that are read, from 0; `before`: the types in front."""
    number, text = f"sensor.number{position}", f"sensor.text{position}"
    if kind in FILES:
        own = (number,) if kind == "fd" else ()
        if any(other in FILES for other in before):
            return ("file.new_path", *own)
        return (*(_OF_FILES if kind != "path" else ("file.path",)), *own)
    if kind in SOCKETS:
        if kind == "skb":
            return (number, *(name for name in _OF_SOCKETS if name not in ("net.type", "net.state")))
        return _OF_ADDRESSES if kind == "sockaddr" else _OF_SOCKETS
    if kind in TEXTS:
        return (text, number) if kind == "char_buf" else (text,)
    return (number,) if kind in NUMBERS else ()
