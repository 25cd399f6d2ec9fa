# SPDX-License-Identifier: Apache-2.0
"""Many processes on one processor do what is denied, as fast as they can: none of it succeeds, and every denial is told.

Where a kernel can be preempted inside a hook, the hooks of many tasks are half done on one processor at a time. An engine that then has
no memory for one more decision must deny it, not let it pass. fmod_ret programs are different: the kernel itself skips one that is
active on the processor already (bpf_prog's recursion guard), so there an act may pass, and has to be counted.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator

import pytest

from tests.kernel.cases import Case, FileSpec
from tests.kernel.hammer import RATE, Blow, Counted, Told, told_of
from tests.kernel.harness import Range, make_files

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
UNWRITTEN = 1024
"""How many lines an agent that is killed may have made and not written."""


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
    twin, blow = Blow(HAMMER, TWIN), Blow(HAMMER, words)
    started = time.monotonic()
    blow.let_go()
    twin.let_go()
    tally, benign = blow.tally(), twin.tally()
    struck = time.monotonic()
    told = told_of(agent, HAMMER.name, event, tally.denied)
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
    blow, told = Blow(HAMMER, ENDLESS), Told()
    started = time.monotonic()
    blow.let_go()
    while not told.alerts:
        told.add(agent.poll(), HAMMER.name, "file.open")
        time.sleep(0.05)
    try:
        assert agent.stop(signal.SIGKILL) == -signal.SIGKILL
        at_death = Counted.now()
        tally = blow.tally()
        struck = time.monotonic()
        after = Counted.now()
    finally:
        agent.start()
    told = told_of(agent, HAMMER.name, "file.open", tally.denied, told)
    written = after.written - before.written
    lost = after.lost.get("file.open", 0) - before.lost.get("file.open", 0)
    skipped = after.skipped - before.skipped if skippable else 0
    print(f"{tally}: {struck - started:.1f} s; written {written}, lost {lost}; {told}: {time.monotonic() - struck:.1f} s")
    assert after.denials("file.open") > at_death.denials("file.open"), "nothing was denied after the agent's death"
    assert tally.ok <= skipped, f"{tally.ok} of {tally.attempts} denied acts succeeded; {skipped} runs of programs were told as skipped"
    assert written + lost == tally.denied
    # What the dead agent had taken from the ring buffer and its output had not written yet died with it.
    assert written - UNWRITTEN <= told.alerts <= written
