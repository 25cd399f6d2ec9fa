# SPDX-License-Identifier: Apache-2.0
"""What the agent needs of the kernel side, as protocols; tests give their own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, Protocol

from bpfence.events.records import ExecImage
from bpfence.kernel.measured import Measured
from bpfence.policy import Probe

CAN_SKIP: Final = (
    "on this kernel ({why}) enforcement can be skipped: where one task is preempted within a program, the kernel does not run that program"
    " for others on the same processor, so an act that is denied can succeed. Skipped runs are counted and reported."
    " Boot with bpf in the lsm= list,"
    " which has no such gap from Linux 6.1 on, or with preempt=voluntary (Linux before 7.0)"
)


REPLACES: Final = (
    "policies that another version of bpfence has put in force ({abi}) stay in force until those of this one are, and then go;"
    " alerts that wait in its buffer are not read"
)


class LoadCost(Protocol):
    """As `kernel.engine.LoadCost`."""

    @property
    def programs(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    @property
    def unshared(self) -> str: ...


class Engine(Protocol):
    """What the agent needs of `kernel.engine.Engine`, which documents it."""

    adopted: bool

    @property
    def generation(self) -> int: ...
    @property
    def replaces(self) -> tuple[int, ...]: ...
    @property
    def wakeup_fd(self) -> int: ...
    def next_generation(self) -> int: ...
    def supported_events(self) -> frozenset[str]: ...
    def attach(
        self, events: Collection[str], results: Collection[str] = (), probes: Collection[Probe] = (), *, again: bool = False
    ) -> dict[str, str]: ...
    def unplaced(self) -> dict[int, str]: ...
    def release(self, events: Collection[str], results: Collection[str] = (), probes: Collection[Probe] = ()) -> tuple[str, ...]: ...
    def seed(self) -> bool: ...
    def swap(
        self, image: bytes, objects: Mapping[tuple[int, int], int] | None = None, workloads: Mapping[int, int] | None = None
    ) -> int: ...
    def put_workload(self, cgroup: int, number: int) -> None: ...
    def drop_workload(self, cgroup: int) -> None: ...
    def drain(self, timeout_ms: int = 0) -> list[tuple[str, bytes]]: ...
    def lost(self) -> dict[str, int]: ...
    def refused(self) -> dict[str, int]: ...
    def told(self) -> tuple[dict[str, int], dict[str, int]]: ...
    def tell(self, lost: Mapping[str, int], refused: Mapping[str, int]) -> None: ...
    def skipped(self) -> dict[str, int]: ...
    def forget_counted(self) -> None: ...
    def measured(self) -> Measured | None: ...
    @property
    def can_skip(self) -> str: ...
    @property
    def load_cost(self) -> LoadCost: ...
    def image(self, exec_id: int) -> ExecImage | None: ...
    def end(self) -> None: ...
    def close(self, unload: bool = False) -> None: ...


class Kernel(Protocol):
    """Where engines come from."""

    def load(self, pin_dir: str | None) -> Engine:
        """A new engine, or the one pinned at `pin_dir`. KernelError where this kernel or our privileges lack something."""


class LiveKernel:
    """The running kernel. `max_processes`: how many it keeps records of; None: the engine's default."""

    def __init__(self, max_processes: int | None = None) -> None:
        self._max_processes = max_processes

    def load(self, pin_dir: str | None) -> Engine:
        """Probe and load."""
        from bpfence.kernel.engine import Engine as LiveEngine  # needs libbpf, which tests do without
        from bpfence.kernel.features import probe

        return LiveEngine.load(probe(), pin_dir=pin_dir, max_processes=self._max_processes)
