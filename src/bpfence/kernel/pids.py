# SPDX-License-Identifier: Apache-2.0
"""This process in, the number out under which the kernel's programs know it.

Called by `engine`, which tells the kernel who the agent is, and by `syscall_recorder`, which tells it whom to record. In a pid namespace
getpid(2) gives another number than the host does, under which there may be another process: the host's init, for one. pid_namespaces(7).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from bpfence.errors import KernelError

INITIAL_PID_NAMESPACE: Final = 0xEFFFFFFC
"""PROC_PID_INIT_INO of include/linux/proc_ns.h."""
KTHREADD: Final = 2
PF_KTHREAD: Final = 0x00200000
_PROC: Final = Path("/proc")


def in_host_namespace(proc: Path = _PROC) -> bool:
    """Whether pids mean to us what they mean to the host; also where the kernel has no pid namespaces."""
    try:
        return os.stat(proc / "self/ns/pid").st_ino == INITIAL_PID_NAMESPACE
    except FileNotFoundError:
        # Built without CONFIG_PID_NS, unless it is proc itself that is missing.
        return (proc / "self/ns").is_dir()
    except OSError:
        return False


def host_pid(proc: Path = _PROC) -> int:
    """Our pid as the host has it. KernelError in another pid namespace, unless `proc` shows the host's processes.

    There /proc/self names us by the host's number, and whatever else is looked up by the pids of events is found as well.
    """
    if in_host_namespace(proc):
        return os.getpid()
    try:
        if _shows_kernel_threads(proc):
            return int(os.readlink(proc / "self"))
    except (OSError, ValueError, IndexError):
        pass
    raise KernelError(
        "bpfence runs in a pid namespace of its own and cannot tell which process of the host it is",
        missing="the host's pid namespace",
        hint="start it in the host's: `docker run --pid=host`, `hostPID: true` in a pod",
    )


def _shows_kernel_threads(proc: Path) -> bool:
    """Whether this proc shows the host's processes: kernel threads, with kthreadd as their first, are in the host's pid namespace only."""
    # The name in brackets may hold anything; flags are the seventh word after it. proc_pid_stat(5).
    words = (proc / str(KTHREADD) / "stat").read_bytes().rpartition(b")")[2].split()
    return int(words[6]) & PF_KTHREAD != 0
