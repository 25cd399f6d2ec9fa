# SPDX-License-Identifier: Apache-2.0
"""Folders in, a thread that can write nowhere else, and execute nothing, out: landlock(7), Linux 5.13.

Called by `agent.privileges`. Reading is not restricted, nor is what is open already. A thread under Landlock may not look into other
processes through ptrace's access check (/proc/PID/exe, environ, root), whatever its capabilities.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

# The numbers are the same on every architecture (include/uapi/asm-generic/unistd.h).
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG, _PATH_BENEATH = 1, 1

EXECUTE, WRITE_FILE = 1 << 0, 1 << 1
REMOVE_DIR, REMOVE_FILE = 1 << 4, 1 << 5
_MAKE: Final = 0x7F << 6  # MAKE_CHAR to MAKE_SYM
REFER, TRUNCATE = 1 << 13, 1 << 14
_SINCE: Final = {REFER: 2, TRUNCATE: 3}
WRITE: Final = WRITE_FILE | REMOVE_DIR | REMOVE_FILE | _MAKE | TRUNCATE
"""What is allowed below a folder that may be written."""


def version() -> int:
    """The Landlock ABI of this kernel; 0 where there is none, or where it is not among the active LSMs."""
    try:
        return _call(_CREATE_RULESET, None, 0, _VERSION_FLAG)
    except OSError:
        return 0


def restrict(writable: Iterable[Path], removable: Iterable[Path] = ()) -> None:
    """Puts this thread, and those it starts, under Landlock for good; needs no_new_privs or CAP_SYS_ADMIN.

    `writable`: folders below which everything may be written; `removable`: those from which an empty folder may be taken away. One that is
    not there is left out. OSError where the kernel refuses.
    """
    known = version()
    if not known:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    handled = EXECUTE | WRITE | REFER
    for right, since in _SINCE.items():
        if known < since:
            handled &= ~right
    ruleset = _call(_CREATE_RULESET, struct.pack("=Q", handled), 8, 0)
    try:
        for folder in dict.fromkeys(writable):
            _allow(ruleset, folder, WRITE & handled)
        for folder in dict.fromkeys(removable):
            _allow(ruleset, folder, REMOVE_DIR)
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, folder: Path, rights: int) -> None:
    try:
        descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        # struct landlock_path_beneath_attr is packed.
        _call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, descriptor), 0)
    finally:
        os.close(descriptor)


def _call(number: int, *arguments: int | bytes | None) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    given = [ctypes.c_long(argument) if isinstance(argument, int) else ctypes.c_char_p(argument) for argument in arguments]
    result = int(libc.syscall(ctypes.c_long(number), *given))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
