# SPDX-License-Identifier: Apache-2.0
"""Nothing in, the hooks that are events of the engine out: which event, and where each argument is.

A function or LSM hook is here where the engine's program stands on the very hook, so that what the program reads are the arguments that a
probe on the function would read. `lower` makes conditions by it, `confirm` shows arguments by it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, NamedTuple

from bpfence.dialects.tetragon.read.model import Hook, KProbe, LsmHook, Tracepoint, UProbe, Usdt
from bpfence.policy import TRUE, And, Atom, Condition, Op


class Reads(enum.Enum):
    """What an argument is in an event."""

    FILE = "file"  # file.path and what goes with it
    NAME = "name"  # file.path alone: the mode is not the file's
    NUMBER = "number"  # a field that holds it as it is
    ACCESS = "access"  # the mask MAY_*: file.access
    PROTECTION = "protection"  # PROT_*: file.prot
    MAP_FLAGS = "map flags"  # MAP_*: a number of the record that no condition tests
    ADDRESS = "address"  # struct sockaddr: net.family, net.peer.ip, net.peer.port
    LENGTH = "length"  # of the address: a number of the record that no condition tests
    SOCKET = "socket"  # struct socket: net.family, net.type, net.protocol and the own address
    MODULE = "module"  # module.name
    INTEGER = "integer"  # of a sensor: a number of any width, with a sign or without
    TEXT = "text"  # of a sensor
    PLACE = "place"  # of a sensor: a path alone, of `field`
    SOCK = "sock"  # of a sensor: net.* with both sides
    WHOLE = "structure"  # of a sensor: a structure that no condition tests; `constant`: which argument it is, of those that are read
    CONSTANT = "constant"  # the event is that of one value
    NOTHING = "nothing"  # is neither tested nor shown


class Parameter(NamedTuple):
    """One argument of a function: what it is, and the types that a policy may give it.

    `constant`: the value that a CONSTANT has (of WHOLE see there). A policy must ask for it and for no other: the event is not made of
    calls with others.
    `field`: where it is, of those that may be in several places.
    """

    reads: Reads
    types: tuple[str, ...]
    constant: int = 0
    field: str = ""


class Known(NamedTuple):
    """A hook that is an event, where `also` holds. `needs_file`: without a test on argument 0 it would be about calls that the event is not
    made of."""

    event: str
    parameters: Mapping[int, Parameter]
    needs_file: bool = False
    also: Condition = TRUE


READING_MODULE: Final = 2
"""enum kernel_read_file_id, as it is since Linux 5.10 (c307459b9d1f)."""
_INTEGERS: Final = ("int", "uint32", "sint64", "uint64", "size_t")
_FILE: Final = Parameter(Reads.FILE, ("file",))
_PATH: Final = Parameter(Reads.FILE, ("path",))
_PROTECTION: Final = Parameter(Reads.PROTECTION, _INTEGERS)
_FLAGS: Final = Parameter(Reads.MAP_FLAGS, _INTEGERS)
_HOOKS: Final[Mapping[str, Known]] = {
    "file_open": Known("file.open", {0: _FILE}),
    "file_permission": Known("file.permission", {0: _FILE, 1: Parameter(Reads.ACCESS, _INTEGERS)}),
    "path_truncate": Known("file.truncate", {0: _PATH}),
    "path_chmod": Known(
        "file.chmod", {0: Parameter(Reads.NAME, ("path",)), 1: Parameter(Reads.NUMBER, ("uint16", "int", "uint32"), field="file.mode")}
    ),
    "task_kill": Known("process.signal", {2: Parameter(Reads.NUMBER, _INTEGERS, field="signal")}),
    "bpf": Known("kernel.bpf", {0: Parameter(Reads.NUMBER, ("bpf_cmd", *_INTEGERS), field="bpf.cmd")}),
    "sb_umount": Known("kernel.umount", {}),
    "path_unlink": Known("file.unlink", {}),
    "path_rmdir": Known("file.rmdir", {}),
    "path_mkdir": Known("file.mkdir", {}),
    "path_rename": Known("file.rename", {}),
    "path_symlink": Known("file.symlink", {}),
    "path_link": Known("file.link", {}),
    "socket_connect": Known(
        "net.connect",
        {
            0: Parameter(Reads.SOCKET, ("socket",)),
            1: Parameter(Reads.ADDRESS, ("sockaddr",)),
            2: Parameter(Reads.LENGTH, _INTEGERS),
        },
    ),
    "kernel_module_request": Known(
        "kernel.module", {0: Parameter(Reads.MODULE, ("string",))}, also=Atom("module.requested", Op.RANGE, (1, 1))
    ),
    "kernel_read_file": Known(
        "kernel.module",
        {0: _FILE, 1: Parameter(Reads.CONSTANT, _INTEGERS, READING_MODULE)},
        also=And((Atom("module.requested", Op.RANGE, (0, 0)), Atom("file.path", Op.EXISTS))),
    ),
}
"""Hooks whose function is security_NAME, with the same parameters."""
LSM_HOOKS: Final[Mapping[str, Known]] = {
    **_HOOKS,
    "mmap_file": Known("file.mmap", {0: _FILE, 2: _PROTECTION, 3: _FLAGS}, needs_file=True),
    "bprm_check_security": Known("process.exec", {0: Parameter(Reads.FILE, ("linux_binprm",))}),
    "userns_create": Known("kernel.userns", {}),
}
"""By the name of the LSM hook."""
FUNCTIONS: Final[Mapping[str, Known]] = {
    **{f"security_{name}": known for name, known in _HOOKS.items()},
    "security_mmap_file": Known("file.mmap", {0: _FILE, 1: _PROTECTION, 2: _FLAGS}, needs_file=True),
    "security_bprm_check": Known("process.exec", {0: Parameter(Reads.FILE, ("linux_binprm",))}),
    "security_create_user_ns": Known("kernel.userns", {}),
}
"""By the name of the kernel's function."""


def known(hook: Hook) -> Known | None:
    """The event that a hook is; None where it is none."""
    match hook:
        case KProbe(call=call):
            return FUNCTIONS.get(call)
        case LsmHook(hook=name):
            return LSM_HOOKS.get(name)
    return None


def name_of(hook: Hook) -> str:
    """The name of a hook in events."""
    match hook:
        case KProbe(call=call):
            return call
        case LsmHook(hook=name):
            return name
        case Tracepoint(subsystem=subsystem, event=name):
            return f"{subsystem}/{name}"
        case Usdt(path=path, provider=provider, name=name):
            return f"{path}:{provider}:{name}"
        case UProbe(path=path):
            places = (*hook.symbols, *(f"{offset:#x}" for offset in hook.offsets), *(f"@{address:#x}" for address in hook.addrs))
            return f"{path}:{','.join(places)}"
    return ""
