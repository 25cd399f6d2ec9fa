# SPDX-License-Identifier: Apache-2.0
"""Nothing in, the hooks that are events of the engine out: which event, and where each argument is.

A function or LSM hook is here where the engine's program stands on the very hook, so that what the program reads are the arguments that a
probe on the function would read. `lower` makes conditions by it, `confirm` shows arguments by it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, NamedTuple

from bpfence.dialects.tetragon.read.model import Hook, KProbe, LsmHook


class Reads(enum.Enum):
    """What an argument is in an event."""

    FILE = "file"  # file.path and what goes with it
    ACCESS = "access"  # the mask MAY_*: file.access
    PROTECTION = "protection"  # PROT_*: file.prot
    MAP_FLAGS = "map flags"  # MAP_*: a number of the record that no condition tests
    ADDRESS = "address"  # struct sockaddr: net.family, net.peer.ip, net.peer.port
    LENGTH = "length"  # of the address: a number of the record that no condition tests
    MODULE = "module"  # module.name
    NOTHING = "nothing"  # is neither tested nor shown


class Parameter(NamedTuple):
    """One argument of a function: what it is, and the types that a policy may give it."""

    reads: Reads
    types: tuple[str, ...]


class Known(NamedTuple):
    """A hook that is an event. `needs_file`: without a test on argument 0 it would be about calls that the event is not made of."""

    event: str
    parameters: Mapping[int, Parameter]
    needs_file: bool = False


_INTEGERS: Final = ("int", "uint32", "sint64", "uint64", "size_t")
_FILE: Final = Parameter(Reads.FILE, ("file",))
_PATH: Final = Parameter(Reads.FILE, ("path",))
_PROTECTION: Final = Parameter(Reads.PROTECTION, _INTEGERS)
_FLAGS: Final = Parameter(Reads.MAP_FLAGS, _INTEGERS)
_HOOKS: Final[Mapping[str, Known]] = {
    "file_open": Known("file.open", {0: _FILE}),
    "file_permission": Known("file.permission", {0: _FILE, 1: Parameter(Reads.ACCESS, _INTEGERS)}),
    "path_truncate": Known("file.truncate", {0: _PATH}),
    "path_chmod": Known("file.chmod", {0: _PATH}),
    "path_unlink": Known("file.unlink", {}),
    "path_rmdir": Known("file.rmdir", {}),
    "path_mkdir": Known("file.mkdir", {}),
    "path_rename": Known("file.rename", {}),
    "path_symlink": Known("file.symlink", {}),
    "path_link": Known("file.link", {}),
    "socket_connect": Known("net.connect", {1: Parameter(Reads.ADDRESS, ("sockaddr",)), 2: Parameter(Reads.LENGTH, _INTEGERS)}),
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
    return ""
