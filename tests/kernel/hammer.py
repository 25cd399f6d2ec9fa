# SPDX-License-Identifier: Apache-2.0
"""Words for the trigger's hammer in, what it did and what was told of it out. Used by the tests that act faster than anybody reads."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from bpfence.kernel.engine import inspect
from tests.kernel.cases import TRIGGER, Case
from tests.kernel.harness import Agent, cgroup_folder, enter

RATE = "1000000/s"
"""Of each rule: no alert is left out by a rate limit."""
ACT_SECONDS = 120
TOLD_SECONDS = 60
STILL_SECONDS = 8
"""How long nothing more may have come until what has come is taken for all."""


class Tally(msgspec.Struct, frozen=True):
    """What a hammer printed: acts begun, those that succeeded, those refused with EPERM, and how often its processes lost the processor."""

    attempts: int
    ok: int
    denied: int
    preempted: int


class Told(msgspec.Struct):
    """How many denials of one event were told, by alerts of the hammer's policy, as left out by its rate limit, as lost."""

    alerts: int = 0
    suppressed: int = 0
    lost: int = 0

    @property
    def total(self) -> int:
        return self.alerts + self.suppressed + self.lost

    def add(self, records: Iterable[dict[str, Any]], policy: str, event: str, action: str = "deny") -> None:
        """Lines of the agent, flattened: of them what is about this event, as a rule of this policy and action sees it."""
        for record in records:
            match record["kind"]:
                case "alert" if (record["policy"], record["event"], record["action"]) == (policy, event, action):
                    self.alerts += 1
                case "status" if record["status"] == "suppressed" and record["policy"] == policy:
                    self.suppressed += int(record["suppressed"])
                case "loss":
                    self.lost += int(record.get(f"events.{event}", 0))


class Counted(msgspec.Struct, frozen=True):
    """The engine's own account, as `bpfence status` reads it: denials written, those lost by event, runs of programs that were skipped."""

    written: int
    lost: Mapping[str, int]
    skipped: int

    def denials(self, event: str) -> int:
        """Of the hammer's rule for this event, as no other rule is in force."""
        return self.written + self.lost.get(event, 0)

    @classmethod
    def now(cls) -> Counted:
        (instance,) = inspect()
        return cls(instance.counters["decisions_written"], instance.lost, sum(instance.skipped.values()))


class Blow:
    """A hammer within the scope of a case, ready and waiting for `let_go`; `tally` ends one without end, and waits for its end."""

    def __init__(self, case: Case, words: Sequence[str | int]) -> None:
        cgroup = cgroup_folder(case.cgroup)
        command = [str(TRIGGER), "hammer", *(case.fill(str(word)) for word in words)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: enter(cgroup),  # noqa: PLW1509 - the harness has one thread
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def let_go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def tally(self) -> Tally:
        """What it printed. Any errno but EPERM is a failure of the test."""
        printed, _ = self.process.communicate(timeout=ACT_SECONDS)  # it closes standard input
        assert self.process.returncode == 0
        found = {name: int(count) for name, count in (line.split() for line in printed.splitlines())}
        tally = Tally(found.pop("attempts"), found.pop("ok"), found.pop("EPERM", 0), found.pop("preempted"))
        assert not found, f"refused for another reason than the policy: {found}"
        assert tally.ok + tally.denied == tally.attempts
        return tally


def told_of(agent: Agent, policy: str, event: str, number: int, told: Told | None = None, action: str = "deny") -> Told:
    """What the agent tells about so many acts that a policy denies, of which it has `told` already.

    The sentinel's file is left alone before all is there: an alert of its own might find no room, and be one more that was lost.
    """
    told = told or Told()
    deadline = time.monotonic() + TOLD_SECONDS
    still = time.monotonic() + STILL_SECONDS
    while told.total < number and time.monotonic() < min(deadline, still):
        fresh = agent.poll()
        told.add(fresh, policy, event, action)
        if fresh:
            still = time.monotonic() + STILL_SECONDS
        time.sleep(0.05)
    told.add(agent.settle(), policy, event, action)
    return told
