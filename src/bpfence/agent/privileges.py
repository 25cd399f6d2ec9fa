# SPDX-License-Identifier: Apache-2.0
"""A running agent in, one with fewer privileges out.

Called once by the agent, after enforcement is in force. What stays is what a reload and adoption need; the rest of root's power is gone for
this process and everything it could ever start. capabilities(7), prctl(2).
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

from bpfence import names

KEPT: Final = ("CAP_BPF", "CAP_PERFMON", "CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH", "CAP_SYS_RESOURCE")
"""Loading programs and maps (SYS_ADMIN before Linux 5.8 and for ids and tracing), policies and followed files wherever they lie, and
locked memory before 5.11."""
READS_PROCESSES: Final = ("CAP_SYS_PTRACE",)
"""For Falco rules: environ, root and cmdline in /proc of other users' processes are behind ptrace's access check (PTRACE_MODE_READ)."""

PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 23, 24, 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
VERSION_3: Final = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def kept_mask(*, reads_processes: bool = False) -> int:
    """The capabilities that stay, as bits."""
    mask = 0
    for name in (*KEPT, *(READS_PROCESSES if reads_processes else ())):
        mask |= names.mask("capability", name) or 0
    return mask


def drop(*, reads_processes: bool = False) -> None:
    """Gives up every capability but KEPT (and, where asked, READS_PROCESSES), for good, and asks for no_new_privs.

    OSError where the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    keep = kept_mask(reads_processes=reads_processes)
    _check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    capability = 0
    while libc.prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0:
        if not keep >> capability & 1:
            # Needs CAP_SETPCAP; without it the capabilities below still go.
            libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
        capability += 1
    header, data = _Header(VERSION_3, 0), (_Data * 2)()
    _check(libc.capget(ctypes.byref(header), data))
    for word in range(2):
        part = keep >> 32 * word & 0xFFFFFFFF
        data[word].permitted &= part
        data[word].effective &= part
        data[word].inheritable = 0
    _check(libc.capset(ctypes.byref(header), data))


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
