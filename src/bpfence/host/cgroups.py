# SPDX-License-Identifier: Apache-2.0
"""Cgroup ids in, cgroup v2 paths out.

Called by `source.Live` through the agent. A cgroup's id is the handle of its directory: open_by_handle_at(2) finds it at any depth
without a walk (file handles of kernfs: Linux 5.5, 33c5ac9175195; type FILEID_KERNFS of include/linux/exportfs.h). Needs
CAP_DAC_READ_SEARCH. Ids are not used again and cgroups are never renamed, so what was found once stays true.
"""

from __future__ import annotations

import ctypes
import os
from collections import OrderedDict
from pathlib import Path
from typing import Final, NamedTuple

from bpfence.errors import KernelError
from bpfence.mounts import mounts

FILEID_KERNFS: Final = 0xFE
CACHE_SIZE: Final = 1024


class _Handle(ctypes.Structure):
    _fields_ = (("bytes", ctypes.c_uint32), ("type", ctypes.c_int32), ("id", ctypes.c_uint8 * 8))


class CgroupPaths:
    """Paths below the hierarchy mounted at `root`, as the kernel's programs see them: "/" is the root. OSError where there is none."""

    def __init__(self, root: Path) -> None:
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._prefix = os.readlink(f"/proc/self/fd/{self._root}")
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._known: OrderedDict[int, str] = OrderedDict()

    def path(self, cgroup: int) -> str | None:
        """The path of a cgroup; None when it is gone or cannot be looked up."""
        known = self._known.get(cgroup)
        if known is not None:
            self._known.move_to_end(cgroup)
            return known
        path = self._look_up(cgroup)
        if path is not None:
            self._known[cgroup] = path
            if len(self._known) > CACHE_SIZE:
                self._known.popitem(last=False)
        return path

    def _look_up(self, cgroup: int) -> str | None:
        handle = _Handle(8, FILEID_KERNFS, (ctypes.c_uint8 * 8)(*(cgroup & 0xFFFFFFFFFFFFFFFF).to_bytes(8, "little")))
        descriptor = self._libc.open_by_handle_at(self._root, ctypes.byref(handle), os.O_PATH | os.O_CLOEXEC)
        if descriptor < 0:
            return None
        try:
            path = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            return None
        finally:
            os.close(descriptor)
        if path == self._prefix:
            return "/"
        return path.removeprefix(self._prefix) if path.startswith(f"{self._prefix}/") and not path.endswith(" (deleted)") else None

    def close(self) -> None:
        """Let go of the hierarchy."""
        os.close(self._root)


INITIAL_CGROUP_NAMESPACE: Final = 0xEFFFFFFB
"""PROC_CGROUP_INIT_INO of include/linux/proc_ns.h."""


class Hierarchy(NamedTuple):
    """Where cgroup v2 is mounted. `whole`: paths below it are the same that the kernel's programs see."""

    root: Path
    whole: bool


def find_hierarchy(mountinfo: str | None = None, namespace: int | None = None) -> Hierarchy:
    """The cgroup v2 mount, from proc(5)'s mountinfo. KernelError where there is none."""
    if namespace is None:
        namespace = os.stat("/proc/self/ns/cgroup").st_ino
    for mount in mounts(mountinfo):
        if mount.kind == "cgroup2":
            return Hierarchy(Path(mount.point), mount.root == "/" and namespace == INITIAL_CGROUP_NAMESPACE)
    raise KernelError("cgroup v2 is not mounted", missing="cgroup2", hint="mount -t cgroup2 cgroup2 /sys/fs/cgroup")
