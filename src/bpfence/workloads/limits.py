# SPDX-License-Identifier: Apache-2.0
"""A container's cgroup in, what it may have and has, and what of that is without a limit, out.

Called by `bpfence workloads`. A limit holds for all below the cgroup that has it: kubelet limits the processes of a pod as a whole, so
the cgroups around the container's own are looked at, too. One that is shared with other pods or services is no limit of the container's.
Files of cgroups are the kernel's: a container that may write to its own is told by what they hold now.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

import msgspec

from bpfence.host.procfs import read_file
from bpfence.workloads.cgroups import Tree, pod_uid, recognised
from bpfence.workloads.model import Container

Whose = Literal["", "container", "pod", "outer", "shared"]
"""Whose cgroup has a limit: the container's, the pod's around it, an outer container's, or one that others are in, too; "": no limit, or
not told."""

_PODMAN_POD: Final = re.compile(r"libpod_pod_[0-9a-f]{64}(?:\.slice)?$")
_CONTROLLERS: Final = ("pids", "memory", "cpu")


class Limits(msgspec.Struct, frozen=True):
    """What a container may have, and has. Memory is in bytes, `cpu_max` in processors; None: no limit, or not told.

    The limit is the lowest of its own cgroup and those of the pod or container around it; where these have none, of those further up.
    `pids_of` and its like say whose it is. `none`: of "pids", "memory" and "cpu" those that nothing but shared cgroups limits.
    """

    pids_max: int | None = None
    pids: int | None = None
    pids_of: Whose = ""
    memory_max: int | None = None
    memory: int | None = None
    memory_of: Whose = ""
    cpu_max: float | None = None
    cpu_of: Whose = ""
    none: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Machine(NamedTuple):
    """What there is to be had: bytes of memory, processes. 0: not known."""

    memory: int = 0
    pids: int = 0

    @staticmethod
    def here() -> Machine:
        """This machine."""
        try:
            memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            pids = int(read_file("/proc/sys/kernel/pid_max", 32))
        except (OSError, ValueError):
            return Machine()
        return Machine(max(memory, 0), pids)


def limits(tree: Tree, container: Container, machine: Machine | None = None) -> Limits:
    """The limits of a container, and what it uses. Nothing is said of a cgroup that is gone, and of resources whose controller is not in
    this hierarchy: cgroup v1 may limit them."""
    path = container.cgroup
    if not path.startswith("/") or not tree.number(path):
        return Limits()
    there = tree.words("", "cgroup.controllers", 512)
    pids, memory = (_lowest(tree, path, f"{what}.max") for what in ("pids", "memory"))
    cpu = _lowest(tree, path, "cpu.max")
    found = dict(zip(_CONTROLLERS, (pids, memory, cpu), strict=True))
    none = tuple(what for what in _CONTROLLERS if what in there and found[what].whose in ("", "shared"))
    made = Limits(
        pids_max=_whole(pids.most),
        pids=_amount(tree, path, "pids.current"),
        pids_of=pids.whose,
        memory_max=_whole(memory.most),
        memory=_amount(tree, path, "memory.current"),
        memory_of=memory.whose,
        cpu_max=cpu.most,
        cpu_of=cpu.whose,
        none=none,
    )
    return made if container.sandbox else msgspec.structs.replace(made, notes=tuple(_notes(made, machine or Machine.here())))


class _Limit(NamedTuple):
    most: float | None = None
    whose: Whose = ""


def _lowest(tree: Tree, path: str, name: str) -> _Limit:
    """The lowest limit that is the container's, else the lowest of those that it shares."""
    own, shared = _Limit(), _Limit()
    for level in _levels(path):
        most = _most(tree.words(level, name))
        whose = _whose(level, path)
        if most is None:
            continue
        if whose == "shared":
            shared = shared if shared.most is not None and shared.most <= most else _Limit(most, whose)
        elif own.most is None or most < own.most:
            own = _Limit(most, whose)
    return own if own.most is not None else shared


def _levels(path: str) -> Iterator[str]:
    """A cgroup and those around it, the root last."""
    while path:
        yield path
        path = path.rpartition("/")[0]
    yield ""


def _whose(level: str, path: str) -> Whose:
    if level == path:
        return "container"
    last = level.rpartition("/")[2]
    if pod_uid(last) or _PODMAN_POD.search(last):
        return "pod"
    return "outer" if level and recognised(level) else "shared"


def _most(words: list[str]) -> float | None:
    """What `max`, `100` or `50000 100000` allows; None: everything, or no such file."""
    if not words or not all(_is_number(word) for word in words):
        return None
    if len(words) == 1:
        return int(words[0])
    return int(words[0]) / int(words[1]) if int(words[1]) else None


def _amount(tree: Tree, path: str, name: str) -> int | None:
    return _whole(_most(tree.words(path, name)[:1]))


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdigit()


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)


def _notes(limits: Limits, machine: Machine) -> Iterator[str]:
    """What is wrong with limits, in words."""
    if "pids" in limits.none:
        yield "no limit of processes: a fork bomb in it takes the machine's" + _shared(limits.pids_of)
    elif machine.pids and limits.pids_max is not None and limits.pids_max >= machine.pids:
        yield "its limit of processes is no less than the machine's"
    if "memory" in limits.none:
        yield "no limit of memory: it can take the machine's from others" + _shared(limits.memory_of)
    elif machine.memory and limits.memory_max is not None and limits.memory_max >= machine.memory:
        yield "its limit of memory is no less than what the machine has"


def _shared(whose: Whose) -> str:
    return ", up to a limit that others share" if whose == "shared" else ""
