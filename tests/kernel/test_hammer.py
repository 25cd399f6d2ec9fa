# SPDX-License-Identifier: Apache-2.0
"""Many processes on one processor do what is denied, as fast as they can: none of it succeeds, and every denial is told.

Where a kernel can be preempted inside a hook, the hooks of many tasks are half done on one processor at a time. An engine that then has
no memory for one more decision must deny it, not let it pass. fmod_ret programs are different: the kernel itself skips one that is
active on the processor already (bpf_prog's recursion guard), so there an act may pass, and has to be counted.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
import pytest

from tests.kernel.cases import ROOT, TRIGGER, Case, FileSpec
from tests.kernel.harness import COMMAND, Agent, Range, cgroup_folder, enter, make_files

RATE = "1000000/s"
"""Of each rule: no alert is left out by a rate limit."""
FORKER = 1500
HAMMER = Case(
    name="hammer",
    rules=[
        {"name": "open", "on": "open", "match": {"file.path": "{dir}/secret"}, "action": "deny", "rate": RATE},
        {"name": "exec", "on": "exec", "match": {"file.path": "{dir}/tool"}, "action": "deny", "rate": RATE},
        {"name": "connect", "on": "connect", "match": {"net.peer.ip": "127.66.0.1", "net.peer.port": 4466}, "action": "deny", "rate": RATE},
        # By user, because the hammer itself has to fork.
        {"name": "fork", "on": "fork", "match": {"process.uid": FORKER}, "action": "deny", "rate": RATE},
    ],
    files={"secret": "s", "other": "o", "tool": FileSpec(program=True)},
)
ACTS = {
    "open-by-24": ("file.open", [24, 100, "open", "{dir}/secret"]),
    "open-by-96": ("file.open", [96, 40, "open", "{dir}/secret"]),
    "exec-by-24": ("process.exec", [24, 40, "exec", "{dir}/tool"]),
    "connect-by-24": ("net.connect", [24, 50, "connect", "127.66.0.1", 4466]),
    "fork-by-24": ("process.fork", [24, 80, "as", FORKER, "fork"]),
}
"""Name -> the event, and the hammer's words: processes, rounds, act. Rounds are chosen for some seconds under emulation."""
ENDLESS = [24, 0, "open", "{dir}/secret"]
TWIN = [1, 2000, "open", "{dir}/other"]
ACT_SECONDS = 120
TOLD_SECONDS = 60
UNWRITTEN = 1024
"""How many lines an agent that is killed may have made and not written."""
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

    def add(self, records: list[dict[str, Any]], event: str) -> None:
        """Lines of the agent, flattened."""
        for record in records:
            match record["kind"]:
                case "alert" if (record["policy"], record["event"], record["action"]) == (HAMMER.name, event, "deny"):
                    self.alerts += 1
                case "status" if record["status"] == "suppressed" and record["policy"] == HAMMER.name:
                    self.suppressed += int(record["suppressed"])
                case "loss":
                    self.lost += int(record.get(f"events.{event}", 0))


class Counted(msgspec.Struct, frozen=True):
    """The engine's own account, by `bpfence status`: denials written, those lost by event, and runs of programs that the kernel skipped."""

    written: int
    lost: Mapping[str, int]
    skipped: int

    def denials(self, event: str) -> int:
        """Of the hammer's rule for this event, as no other rule is in force."""
        return self.written + self.lost.get(event, 0)

    @classmethod
    def now(cls) -> Counted:
        done = subprocess.run([*COMMAND, "status", "--json"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
        (instance,) = json.loads(done.stdout)["instances"]
        return cls(instance["counters"]["decisions_written"], instance["lost"], sum(instance.get("skipped", {}).values()))


class Blow:
    """A hammer, ready and waiting for `let_go`; `tally` ends one without end, and waits for its end."""

    def __init__(self, words: list[str | int]) -> None:
        cgroup = cgroup_folder(HAMMER.cgroup)
        command = [str(TRIGGER), "hammer", *(HAMMER.fill(str(word)) for word in words)]
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


def told_of(agent: Agent, event: str, denied: int, told: Told | None = None) -> Told:
    """What the agent tells about `denied` denials, of which it has `told` already.

    The sentinel's file is left alone before all is there: an alert of its own might find no room, and be one more that was lost.
    """
    told = told or Told()
    deadline = time.monotonic() + TOLD_SECONDS
    still = time.monotonic() + STILL_SECONDS
    while told.total < denied and time.monotonic() < min(deadline, still):
        fresh = agent.poll()
        told.add(fresh, event)
        if fresh:
            still = time.monotonic() + STILL_SECONDS
        time.sleep(0.05)
    told.add(agent.settle(), event)
    return told


@pytest.fixture(scope="module")
def skippable(probed: dict[str, str]) -> bool:
    """Whether this kernel may skip programs: fmod_ret programs, where a task can be preempted in one."""
    return probed["bpf_lsm"] == "no" and probed["preemption"] == "yes"


@pytest.fixture(scope="module")
def hammering(shooting: Range) -> Iterator[Range]:
    """The hammer's policy in force, alone."""
    make_files(HAMMER)
    shooting.clear()
    path = shooting.agent.write_policy(HAMMER.name, HAMMER.policy())
    shooting.agent.reload()
    yield shooting
    path.unlink()
    shooting.agent.reload()


@pytest.fixture(scope="module")
def newly_skipped(hammering: Range, skippable: bool) -> Callable[[], int]:
    """Tells how many runs of programs were told as skipped since it was asked before; 0 where none can be, without asking."""
    told = [Counted.now().skipped if skippable else 0]

    def since() -> int:
        told.append(Counted.now().skipped if skippable else 0)
        return told[-1] - told[-2]

    return since


@pytest.mark.parametrize(("event", "words"), ACTS.values(), ids=ACTS)
def test_no_denied_act_succeeds_and_each_is_told(
    event: str, words: list[str | int], hammering: Range, newly_skipped: Callable[[], int]
) -> None:
    agent = hammering.agent
    agent.settle()
    twin, blow = Blow(TWIN), Blow(words)
    started = time.monotonic()
    blow.let_go()
    twin.let_go()
    tally, benign = blow.tally(), twin.tally()
    struck = time.monotonic()
    told = told_of(agent, event, tally.denied)
    print(f"{tally}, beside it {benign}: {struck - started:.1f} s; {told}: {time.monotonic() - struck:.1f} s")
    skipped = newly_skipped()
    assert tally.preempted > 0, "the processes did not compete for the processor"
    assert tally.ok <= skipped, f"{tally.ok} of {tally.attempts} denied acts succeeded; {skipped} runs of programs were told as skipped"
    assert benign.ok == benign.attempts, f"{benign.denied} of {benign.attempts} allowed acts were denied beside the hammer"
    assert told.total == tally.denied, told


def test_a_killed_agent_lets_nothing_pass(hammering: Range, skippable: bool) -> None:
    """It dies under the hammer. The engine goes on and counts; the next agent finds what the ring buffer could hold."""
    agent = hammering.agent
    agent.settle()
    before = Counted.now()
    blow, told = Blow(ENDLESS), Told()
    started = time.monotonic()
    blow.let_go()
    while not told.alerts:
        told.add(agent.poll(), "file.open")
        time.sleep(0.05)
    try:
        assert agent.stop(signal.SIGKILL) == -signal.SIGKILL
        at_death = Counted.now()
        tally = blow.tally()
        struck = time.monotonic()
        after = Counted.now()
    finally:
        agent.start()
    told = told_of(agent, "file.open", tally.denied, told)
    written = after.written - before.written
    lost = after.lost.get("file.open", 0) - before.lost.get("file.open", 0)
    skipped = after.skipped - before.skipped if skippable else 0
    print(f"{tally}: {struck - started:.1f} s; written {written}, lost {lost}; {told}: {time.monotonic() - struck:.1f} s")
    assert after.denials("file.open") > at_death.denials("file.open"), "nothing was denied after the agent's death"
    assert tally.ok <= skipped, f"{tally.ok} of {tally.attempts} denied acts succeeded; {skipped} runs of programs were told as skipped"
    assert written + lost == tally.denied
    # What the dead agent had taken from the ring buffer and its output had not written yet died with it.
    assert written - UNWRITTEN <= told.alerts <= written
