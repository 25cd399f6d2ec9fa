# SPDX-License-Identifier: Apache-2.0
"""A kernel made of lists: what the agent and the commands are tested with."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bpfence.agent.agent import Agent
from bpfence.agent.generations import Generations
from bpfence.alerts.alert import Line, WholeLine, whole
from bpfence.errors import KernelError
from bpfence.fields import EVENT_BY_NAME
from bpfence.kernel.measured import Measured
from bpfence.outputs.routes import Outputs
from bpfence.policy import Probe
from tests.unit.events.samples import IMAGES, Image, record

POLICY = """
apiVersion: bpfence.io/v1alpha1
kind: SecurityPolicy
metadata: {name: %s}
spec:
  mode: %s
  rules:
    - {name: %s, on: open, match: {file.path: %s}, action: deny, message: "no {file.path}"%s}
"""


def write_policy(
    path: Path, name: str = "guard", rule: str = "secret", glob: str = "/secret/**", mode: str = "enforce", more: str = ""
) -> Path:
    """A policy with one rule on open."""
    path.write_text(POLICY % (name, mode, rule, glob, more))
    return path


class Cost(NamedTuple):
    """As LoadCost."""

    programs: int
    seconds: float
    unshared: str


class FakeEngine:
    """Remembers what was asked of it; `say` puts a record into its ring buffer."""

    def __init__(self, *, adopted: bool = False, generation: int = 0, missing: Collection[str] = ()) -> None:
        self.adopted = adopted
        self.generation = generation
        self.calls: list[tuple[Any, ...]] = []
        self.unsupported = set(missing)
        self.results: frozenset[str] = frozenset()
        self.fails_to_load: set[str] = set()
        self.no_place: dict[str, str] = {}
        self.probes: tuple[Probe, ...] = ()
        self.refuse_swap = False
        self.counted: dict[str, int] = {}
        self.refusals: dict[str, int] = {}
        self.noted: tuple[dict[str, int], dict[str, int]] = {}, {}
        self.skips: dict[str, int] = {}
        self.can_skip = ""
        self.measures: Measured | None = None
        self.load_cost = Cost(3, 0.5, "")
        self.replaces: tuple[int, ...] = ()
        self.attached_in: list[str] = []
        self.objects: Mapping[tuple[int, int], int] = {}
        self.workloads: dict[int, int] = {}
        self.batches: list[list[tuple[str, bytes]]] = []
        self.closed: bool | None = None
        self.ended = False
        self.wakeup_fd, self._bell = os.pipe()
        self.sequence = 0

    def next_generation(self) -> int:
        return self.generation + 1

    def say(self, verdict: int = 1, path: bytes = b"/secret/a", **header: Any) -> None:
        """One file.open record, decided by the newest generation."""
        self.sequence += 1
        header = {"sequence": self.sequence, "generation": self.generation, "verdicts": (verdict,), **header}
        self.batches.append([("decisions", record("file.open", strings={"STR_FILE_PATH": path}, **header))])
        os.write(self._bell, b"!")

    def put(self, data: bytes) -> None:
        """A record of one's own."""
        self.batches.append([("decisions", data)])
        os.write(self._bell, b"!")

    def supported_events(self) -> frozenset[str]:
        return frozenset(EVENT_BY_NAME) - self.unsupported

    def attach(
        self, events: Collection[str], results: Collection[str] = (), probes: Collection[Probe] = (), *, again: bool = False
    ) -> dict[str, str]:
        self.probes = tuple(probes)
        self.calls.append(("attach", frozenset(events)))
        self.attached_in.append(threading.current_thread().name)
        self.results = frozenset(results)
        failed = self.fails_to_load & set(events)
        self.unsupported |= failed
        return dict.fromkeys(failed, "the verifier said no")

    def unplaced(self) -> dict[int, str]:
        return {probe.number: self.no_place[probe.place] for probe in self.probes if probe.place in self.no_place}

    def release(self, events: Collection[str], results: Collection[str] = (), probes: Collection[Probe] = ()) -> tuple[str, ...]:
        self.calls.append(("release", frozenset(events)))
        return ()

    def seed(self) -> bool:
        self.calls.append(("seed",))
        return True

    def put_workload(self, cgroup: int, number: int) -> None:
        self.workloads[cgroup] = number

    def drop_workload(self, cgroup: int) -> None:
        self.workloads.pop(cgroup, None)

    def swap(self, image: bytes, objects: Mapping[tuple[int, int], int] | None = None, workloads: Mapping[int, int] | None = None) -> int:
        if self.refuse_swap:
            raise KernelError("no room")
        self.workloads = dict(workloads or {})
        self.calls.append(("swap", image))
        self.objects = objects or {}
        self.generation += 1
        return self.generation

    def drain(self, timeout_ms: int = 0) -> list[tuple[str, bytes]]:
        if not self.batches:
            return []
        os.read(self.wakeup_fd, 1)
        return self.batches.pop(0)

    def lost(self) -> dict[str, int]:
        return self.counted

    def refused(self) -> dict[str, int]:
        return self.refusals

    def told(self) -> tuple[dict[str, int], dict[str, int]]:
        return self.noted

    def tell(self, lost: Mapping[str, int], refused: Mapping[str, int]) -> None:
        self.noted = dict(lost), dict(refused)

    def skipped(self) -> dict[str, int]:
        return self.skips

    def forget_counted(self) -> None:
        pass

    def measured(self) -> Measured | None:
        return self.measures

    def image(self, exec_id: int) -> Image | None:
        return IMAGES.get(exec_id)

    def end(self) -> None:
        self.ended = True

    def close(self, unload: bool = False) -> None:
        assert self.closed is None, "closed twice"
        self.closed = unload
        os.close(self.wakeup_fd)
        os.close(self._bell)

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]


class FakeKernel:
    """Gives one engine."""

    def __init__(self, engine: FakeEngine | None = None, error: KernelError | None = None) -> None:
        self.engine = engine or FakeEngine()
        self.error = error
        self.asked: list[str | None] = []

    def load(self, pin_dir: str | None) -> FakeEngine:
        self.asked.append(pin_dir)
        if self.error:
            raise self.error
        return self.engine


def reloaded(agent: Agent) -> bool:
    """Reload, and work until it is over; whether the policies came in force."""
    agent.reload()
    while agent.reloading:
        agent.step(1)
    assert isinstance(agent.outputs, Kept)
    return next(status for status in reversed(agent.outputs.statuses()) if status in ("reloaded", "reload-failed")) == "reloaded"


class Kept(Outputs):
    """Outputs that keep their lines, at once and without a thread."""

    def __init__(self) -> None:
        super().__init__((), lambda text: None)
        self.lost: dict[str, int] = {}
        self.lines: list[WholeLine] = []
        self.reopened = 0
        self.closed = False

    def write(self, lines: Sequence[Line]) -> None:
        self.lines += map(whole, lines)

    def reopen(self) -> None:
        self.reopened += 1

    def close(self) -> None:
        self.closed = True

    def lost_lines(self) -> dict[str, int]:
        return dict(self.lost)

    def dicts(self, kind: str) -> list[dict[str, Any]]:
        """Lines of one kind, as JSON shows them."""
        return [found for line in self.lines if (found := msgspec.to_builtins(line))["kind"] == kind]

    def statuses(self) -> list[str]:
        return [found["status"] for found in self.dicts("status")]


def known_generations(path: Path, boot_id: str) -> Iterator[int]:
    """The numbers in a state file."""
    generations = Generations(path, boot_id)
    assert generations.restore() == ""
    return (generation.number for generation in generations)
