# SPDX-License-Identifier: Apache-2.0
"""More acts than anybody can read, while outputs take nothing: each is decided in time, and each is told or told as lost.

One agent with three outputs: the harness's file; a file on a full disk; standard output, which nobody reads. What is asked of it is
counted: acts that were refused, lines, processor seconds. How long a guest takes by the clock depends on what else its host does.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.kernel.cases import PLAYGROUND, Case
from tests.kernel.hammer import RATE, Blow, Told, told_of
from tests.kernel.harness import Agent, Range, make_files

STORM = Case(
    name="storm",
    rules=[
        {"name": "open", "on": "open", "match": {"file.path": "{dir}/secret"}, "action": "deny", "rate": RATE},
        {"name": "fork", "on": "fork", "action": "audit", "rate": RATE},
    ],
    files={"secret": "s"},
)
PROCESSES = 25
OPENS = 1_000
FORKS = 20
MULTIPLE = 10
"""An answer amid a storm takes the agent at most so many times the processor seconds that it takes for a reload when all is quiet."""
CATCH_UP_SECONDS = 60
DISK = 64 << 10
ROOM = 64 << 20


class Line(msgspec.Struct):
    """A line of an output: of one that tells what an output lacks, which and how many."""

    output: str = ""
    dropped: int = 0


class Output:
    """What has come out of one of the agent's outputs: its lines, and how many are missing from it by the agent's own account."""

    def __init__(self, name: str, lines: list[Line]) -> None:
        self.own = sum(line.output != name for line in lines)
        self.missing = sum(line.dropped for line in lines if line.output == name)


def lines_of(data: bytes) -> Iterator[Line]:
    """Lines of JSON. What a full disk has cut is written again, whole, on the next line."""
    for line in data.splitlines():
        with contextlib.suppress(msgspec.DecodeError):
            yield msgspec.json.decode(line, type=Line)


def end_of(path: Path) -> bytes:
    """The last of a file, with its last line."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 16384))
        return file.read()


class Storm:
    """The agent with its outputs. `unread`: our end of the pipe that is its standard output; `before`: bytes that an agent before it has
    written."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.disk = PLAYGROUND / "disk"
        self.disk.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(self.disk)], check=True)
        self.full = self.disk / "alerts.jsonl"
        (self.disk / "filler").write_bytes(bytes(DISK - 4096))
        self.unread, written = os.pipe()
        self.read = bytearray()
        self.reader: threading.Thread | None = None
        self.before = agent.alerts_path.stat().st_size
        agent.start("--output", f"jsonl:{self.full}", "--output", "-", stdout=written)
        os.close(written)
        used = self.processor_seconds()
        agent.reload()
        self.undisturbed = self.processor_seconds() - used

    def processor_seconds(self) -> float:
        """Of the agent, until now."""
        assert self.agent.process is not None
        fields = Path(f"/proc/{self.agent.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    def alert(self) -> None:
        """Waits for a line more, without taking it."""
        size = self.agent.alerts_path.stat().st_size
        while self.agent.alerts_path.stat().st_size == size:
            time.sleep(0.01)

    def relieve(self) -> None:
        """The disk gets room, and somebody reads."""
        subprocess.run(["mount", "-o", f"remount,size={ROOM}", str(self.disk)], check=True)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        while data := os.read(self.unread, 1 << 20):
            self.read += data

    def came(self) -> dict[str, bytes]:
        """By name, what came out of the outputs that had to wait."""
        return {f"jsonl:{self.full}": self.full.read_bytes(), "-": bytes(self.read)}

    def caught_up(self) -> bool:
        """Whether the last line of all is in each of them."""
        *_, last = end_of(self.agent.alerts_path).splitlines(keepends=True)
        return end_of(self.full).endswith(last) and self.read.endswith(last)

    def close(self) -> None:
        if self.agent.process is not None and self.agent.process.poll() is None:
            self.agent.stop()
        if self.reader is not None:
            self.reader.join()  # the agent, which wrote, has ended; the descriptor's number is soon another's
        os.close(self.unread)
        subprocess.run(["umount", str(self.disk)], check=True)


@pytest.fixture(scope="module")
def storm(shooting: Range) -> Iterator[Storm]:
    """The storm's policy in force in an agent of its own, which takes over what the other one has loaded."""
    agent = shooting.agent
    agent.settle()
    make_files(STORM)
    shooting.clear()
    path = agent.write_policy(STORM.name, STORM.policy())
    assert agent.stop(signal.SIGKILL) == -signal.SIGKILL
    made = Storm(agent)
    try:
        yield made
    finally:
        made.close()
        path.unlink()
        agent.start()


def test_opens_while_no_other_output_takes_lines(storm: Storm) -> None:
    """And while the policies are read again."""
    agent = storm.agent
    agent.settle()
    blow = Blow(STORM, [PROCESSES, OPENS, "open", "{dir}/secret"])
    blow.let_go()
    storm.alert()
    used = storm.processor_seconds()
    agent.reload()
    answered = storm.processor_seconds() - used
    tally = blow.tally()
    told = told_of(agent, STORM.name, "file.open", tally.denied)
    print(f"{tally}; {told}; reloaded in {answered:.1f} s, undisturbed {storm.undisturbed:.1f} s")
    assert (tally.attempts, tally.ok) == (PROCESSES * OPENS, 0)
    assert told.total == tally.denied, told
    assert answered < MULTIPLE * storm.undisturbed


def test_outputs_catch_up(storm: Storm) -> None:
    assert not storm.caught_up(), "nothing was in their way"
    storm.relieve()
    deadline = time.monotonic() + CATCH_UP_SECONDS
    while not storm.caught_up() and time.monotonic() < deadline:
        time.sleep(0.2)
    every = list(lines_of(storm.agent.alerts_path.read_bytes()[storm.before :]))
    for name, data in storm.came().items():
        found, wanted = Output(name, list(lines_of(data))), Output(name, every)
        print(f"{name}: {found.own} lines of {wanted.own}, {wanted.missing} told as missing")
        assert found.own + wanted.missing == wanted.own


def test_forks(storm: Storm) -> None:
    """What has just begun is under the rules as what has begun it; both rules tell of every act of theirs."""
    agent = storm.agent
    agent.settle()
    came = len(agent.seen)
    blow = Blow(STORM, [PROCESSES, FORKS, "fork-open", "{dir}/secret"])
    blow.let_go()
    tally = blow.tally()
    told = told_of(agent, STORM.name, "file.open", tally.denied)
    forks = Told()
    forks.add(agent.seen[came:], STORM.name, "process.fork", "audit")
    print(f"{tally}; opens {told}; forks {forks}")
    assert (tally.attempts, tally.ok) == (PROCESSES * FORKS, 0)
    assert told.total == tally.denied
    assert forks.total == PROCESSES * FORKS + PROCESSES


def test_the_end_amid_opens(storm: Storm) -> None:
    """Nothing that was denied before enforcement ends goes untold."""
    agent = storm.agent
    agent.settle()
    assert agent.process is not None
    blow, told = Blow(STORM, [PROCESSES, 0, "open", "{dir}/secret"]), Told()
    blow.let_go()
    storm.alert()
    used = storm.processor_seconds()
    reaped = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        assert agent.stop() == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    finally:
        tally = blow.tally()
    answered = after.ru_utime + after.ru_stime - reaped.ru_utime - reaped.ru_stime - used
    told.add(agent.poll(), STORM.name, "file.open")
    print(f"{tally}; {told}; ended in {answered:.1f} s")
    assert tally.ok > 0
    assert told.total == tally.denied
    assert answered < MULTIPLE * storm.undisturbed
