# SPDX-License-Identifier: Apache-2.0
"""A command's cgroup, or its first process, in; the system calls that it and its descendants made out.

Called by `confine.learn`. Loads bpf/recorder.bpf.c, an object of its own: it needs raw tracepoints only, no LSM and no trampolines.
The kernel sets one byte for each call that is seen; there are no events, so a command is slowed down by some nanoseconds a call. While a
recorder is open every system call of the machine takes the kernel's slow path to the tracepoint and is then found to be somebody else's.
"""

from __future__ import annotations

import enum
import errno
import os
from pathlib import Path
from typing import Final

from bpfence.errors import KernelError
from bpfence.kernel.libbpf import Map, Object
from bpfence.kernel.pids import in_host_namespace

OBJECT: Final = Path(__file__).with_name("recorder.bpf.o")
MAX_CALLS: Final = 1024
MAX_FAMILIES: Final = 64
BY_CGROUP: Final = ("sys_enter__cgroup",)
BY_TREE: Final = ("sched_process_fork__tree", "sched_process_exit__tree", "sys_enter__tree")
"""In this order: a fork must not be missed once calls are recorded."""


class Abi(enum.IntEnum):
    """By which door a call came in; enum abi of bpf/recorder.bpf.c."""

    NATIVE = 0
    COMPAT = 1
    X32 = 2


class SyscallRecorder:
    """Open while it records. Use as a context manager. KernelError where programs cannot be loaded.

    With `cgroup` (a descriptor of a cgroup v2 directory) everything in it and below is recorded; without, processes that `add` names and
    what they fork. With `socket_number`, the families that sockets are made of are recorded, too.
    """

    def __init__(self, cgroup: int | None = None, path: Path = OBJECT, *, socket_number: int | None = None) -> None:
        self._links: list[int] = []
        self._maps: dict[str, Map] = {}
        programs = BY_TREE if cgroup is None else BY_CGROUP
        if cgroup is None and not in_host_namespace():
            raise KernelError(
                "in a pid namespace of its own bpfence cannot tell the kernel which processes to record",
                missing="the host's pid namespace", hint="make the cgroup v2 hierarchy writable, or run in the host's pid namespace",
            )  # fmt: skip
        with Object(path, "bpfence_seccomp") as found:
            for program in programs:
                found.choose(program)
            if socket_number is not None:
                found.set_constant("socket_number", socket_number)
            failed = found.load()
            if failed is not None:
                hint = "learning needs CAP_BPF and CAP_PERFMON (or root), and kernel types (BTF)"
                reason = os.strerror(failed.number) if failed.number in (errno.EPERM, errno.EACCES) else failed.reason
                raise KernelError(f"the recorder of system calls cannot be loaded: {reason}", missing="raw tracepoints", hint=hint)
            self._maps = found.take_maps()
            try:
                if cgroup is not None:
                    self._maps["cgroup"].put(_u32(0), _u32(cgroup))
                self._links += [found.attach(program) for program in programs]
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> SyscallRecorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, pid: int) -> None:
        """Records this process, too, and what it forks from now on. Only without a cgroup."""
        self._maps["tree"].put(_u32(pid), b"\1")

    def pids(self) -> list[int]:
        """Processes that are recorded and still run. Only without a cgroup."""
        return sorted(int.from_bytes(key, "little") for key in self._maps["tree"].all_keys())

    def calls(self) -> frozenset[tuple[Abi, int]]:
        """What was seen so far: by which door, and which number (x32's without its bit)."""
        data = self._variables()[: len(Abi) * MAX_CALLS]
        return frozenset((abi, number) for abi in Abi for number in range(MAX_CALLS) if data[abi * MAX_CALLS + number])

    def missed(self) -> tuple[int, int]:
        """Calls whose number is out of range, and processes that the map of processes had no room for."""
        data = self._variables()[len(Abi) * MAX_CALLS :]
        return int.from_bytes(data[:8], "little"), int.from_bytes(data[8:16], "little")

    def families(self) -> frozenset[int] | None:
        """First arguments of socket(2), compat calls apart; None where some could not be kept."""
        data = self._variables()[len(Abi) * MAX_CALLS + 16 :]
        if int.from_bytes(data[MAX_FAMILIES:], "little"):
            return None
        return frozenset(family for family in range(MAX_FAMILIES) if data[family])

    def _variables(self) -> bytes:
        data = self._maps[".bss"].get(_u32(0))
        if data is None or len(data) != len(Abi) * MAX_CALLS + 16 + MAX_FAMILIES + 8:
            raise KernelError("the recorder's object does not fit this version of bpfence", hint="build it again: make bpf")
        return data

    def stop(self) -> None:
        """Records no more; what was seen stays readable."""
        while self._links:
            os.close(self._links.pop())

    def close(self) -> None:
        """Stops, and forgets."""
        self.stop()
        for found in self._maps.values():
            found.close()
        self._maps = {}


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")
