# SPDX-License-Identifier: Apache-2.0
"""Records of the ring buffers in, what user space costs out: each figure beside its target.

Run by `make bench`, or by itself: `python benchmarks/userspace.py [RULES]`. An agent over an engine that is a list of records turns them
into lines of a file, by all the stages of the pipeline and a sink's thread. Processor time of the whole process, the best of several
rounds. Records differ as those of a busy host do: some hundred processes, thousands of files, each with its number and its time.

    alert       a native rule that denies; its limit is above what comes, so that each record becomes a line
    limited     the same rule with the default limit, so that nearly all are only counted
    rejected    a candidate of Falco's stable rules whose process they except
    match       one that a rule matches, with its line
    latency     how long a line of a match waits for the rest of its batch, at most in 99 of 100 batches, while more records wait
    commands    `bpfence --help`, and `check` of one file
    reload      one rule of 10,000 changed, from SIGHUP's to the new tables in the engine; the same where all rules are in one file
    memory      resident, of an agent with Falco's stable rules in force

results.py keeps the figures where all parts were measured.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from benchmarks import results
from benchmarks.results import Figure
from benchmarks.targets import BY_NAME
from bpfence import abi
from bpfence.agent import agent as agents
from bpfence.agent.agent import Agent, Settings
from bpfence.kernel.engine import BATCH_RECORDS
from bpfence.outputs.routes import Outputs, open_outputs
from tests.unit.agent.fakes import FakeEngine, FakeKernel, write_policy
from tests.unit.events.samples import Image, record

ROOT: Final = Path(__file__).resolve().parent.parent
RULES: Final = ROOT.parent / "shared" / "corpora" / "falco" / "falco_rules.yaml"
CHECKED: Final = ROOT / "examples" / "policies" / "no-exec-from-world-writable.yaml"
COUNT: Final = 16384
ROUNDS: Final = 5
PROCESSES: Final = 300
RULES_OF_MANY: Final = 10_000
RULE: Final = "Read sensitive file untrusted"
NAMESPACES: Final = {name: os.stat(f"/proc/self/ns/{name}").st_ino for name in ("mnt", "pid", "net", "user")}


class Replayed(FakeEngine):
    """An engine whose ring buffers hold `batches`; its programs are those of `images`."""

    def __init__(self) -> None:
        super().__init__()
        self.images: dict[int, Image] = {}
        self.read_at: list[float] = []
        self.waiting: Iterator[list[tuple[str, bytes]]] = iter(())

    def drain(self, timeout_ms: int = 0) -> list[tuple[str, bytes]]:
        self.read_at.append(time.process_time())
        return next(self.waiting, [])

    def image(self, exec_id: int) -> Image | None:
        return self.images.get(exec_id)


def programs(comm: bytes, exe: bytes) -> dict[int, Image]:
    """A shell and what it was started from, and PROCESSES programs that it started."""
    init, shell = 0x600000, 0x700000
    found = {init: Image(0, 1, 0, b"systemd", b"/sbin/init\0", b"/usr/lib/systemd/systemd"),
             shell: Image(init, 400, 0, b"bash", b"-bash\0", b"/usr/bin/bash")}  # fmt: skip
    for n in range(PROCESSES):
        found[shell + 1 + n] = Image(shell, 5000 + n, 0, comm, b"%s\0-n\0/var/lib/app/%d\0" % (comm, n), exe)
    return found


def native(n: int, generation: int, verdict: int) -> bytes:
    """A record of file.open as the kernel writes it for native rules."""
    who = n % PROCESSES
    numbers = {"NUM_FILE_ACCESS": 1, "NUM_FILE_FLAGS": 0o100000, "NUM_FILE_MODE": 0o100644, "NUM_FILE_UID": 0, "NUM_FILE_GID": 0,
               "NUM_FILE_DEV": 0x800001, "NUM_FILE_DELETED": 0, "NUM_FILE_INO": 10_000 + n}  # fmt: skip
    strings = {
        "STR_FILE_PATH": b"/secret/folder-%d/file-%d.txt" % (n % 40, n),
        "STR_FILE_FSTYPE": b"ext4",
        "STR_PROCESS_CWD": b"/var/lib/app",
    }
    return record("file.open", numbers, strings, **header(n, who), comm=b"worker", generation=generation, verdicts=(verdict,))


def header(n: int, who: int) -> dict[str, Any]:
    """The members of a header that tell one record from another."""
    return {
        "time": 6_000_000_000 + 20_000 * n, "sequence": n + 1, "pid": 5000 + who, "tid": 5000 + who, "ppid": 400,
        "exec_id": 0x700001 + who, "parent_exec_id": 0x700000, "start_time": 4_000_000_000 + who, "cgroup": 77,
        **{f"{name}_ns": number for name, number in NAMESPACES.items()},
    }  # fmt: skip


def detailed(n: int, generation: int, verdict: int, comm: bytes) -> bytes:
    """A record of file.open with the details that languages ask for, written when the call has returned."""
    who = n % PROCESSES
    numbers = {
        "NUM_TTY": 0, "NUM_SID": 400, "NUM_PGID": 5000 + who, "NUM_VPID": 5000 + who, "NUM_VTID": 5000 + who, "NUM_VPGID": 5000 + who,
        "NUM_LOGINUID": 1000, "NUM_EXE_FLAGS": 0, "NUM_CALL": 257, "NUM_FILE_ACCESS": 1, "NUM_FILE_FLAGS": 0o100000,
        "NUM_FILE_MODE": 0o100640,
        "NUM_FILE_UID": 0, "NUM_FILE_GID": 42, "NUM_FILE_DEV": 0x800001, "NUM_FILE_DELETED": 0, "NUM_FILE_INO": 10_000 + n % 4,
        "NUM_PROCESS_CAPS": 0, "NUM_CAPS_PERMITTED": 0, "NUM_CAPS_INHERITABLE": 0, "NUM_CAPS_BOUNDING": (1 << 41) - 1, "NUM_EXE_INO": 4711,
        "NUM_EXE_CTIME": 1, "NUM_EXE_MTIME": 1, "NUM_PARENT_START": 3_000_000_000, "NUM_CALL_ARG0": (1 << 64) - 100,
        "NUM_CALL_ARG1": 0x7FFD0000,
        "NUM_CALL_ARG2": 0o100000, "NUM_CALL_ARG3": 0, "NUM_CALL_ARG4": 0, "NUM_CALL_ARG5": 0, "NUM_RESULT": 3,
        "NUM_DIRFD": (1 << 64) - 100,
    }  # fmt: skip
    path = (b"/etc/shadow", b"/etc/sudoers", b"/etc/pam.conf", b"/etc/security/pwquality.conf")[n % 4]
    lineage = abi.ANCESTOR_STRUCT.pack(0x700000, 400) + abi.ANCESTOR_STRUCT.pack(0x600000, 1)
    strings = {
        "STR_FILE_PATH": path, "STR_FILE_FSTYPE": b"ext4", "STR_ANCESTORS": lineage,
        "STR_FILE_TEXT": path, "STR_PROCESS_CWD": b"/var/lib/app",
    }  # fmt: skip
    more = {"flags": abi.EVENT_RESULT, "error": 0, "action": abi.ACTION_AUDIT}
    return record("file.open", numbers, strings, **header(n, who), comm=comm, generation=generation, verdicts=(verdict,), **more)


class Bench:
    """An agent under one policy file, with one output, in a folder."""

    def __init__(self, policy: Path, folder: Path) -> None:
        self.engine = Replayed()
        self.sink = folder / "lines.jsonl"
        self.outputs: Outputs = open_outputs((f"jsonl:{self.sink}",), print)
        settings = Settings(policies=(str(policy),), drop_privileges=False)
        agents._cgroup_path = lambda of_container: lambda number: "/system.slice/app.service"  # as of cgroup v2, which may be missing
        self.agent = Agent(settings, self.outputs, report=lambda text: None, kernel=FakeKernel(self.engine))
        self.agent.start()
        self.outputs.start()

    def verdict(self, name: str) -> int:
        """The number of the verdict that says one rule alone."""
        [newest] = self.agent.generations
        for number, meaning in enumerate(newest.verdicts):
            if [newest.rules[rule].rule for rule in meaning.rules] == [name]:
                return number
        raise AssertionError(f"no verdict says {name!r} alone")

    def seconds(self, records: list[tuple[str, bytes]], lines: int | None) -> float:
        """Processor time of `Agent.drain` over some records, until their `lines` are in the file; None: as many as come."""
        times = []
        for _ in range(ROUNDS):
            batches = [records[at : at + BATCH_RECORDS] for at in range(0, len(records), BATCH_RECORDS)]
            self.engine.waiting = iter(batches)
            os.truncate(self.sink, 0)
            gc.collect()
            start = time.process_time()
            self.agent.drain(math.inf)
            self.settle()
            times.append(time.process_time() - start)
            found = self.sink.read_bytes().count(b'"kind":"alert"')
            assert lines is None or found == lines, f"{found} lines instead of {lines}"
        return min(times)

    def waits(self) -> list[float]:
        """Seconds of processor time from one batch to the next."""
        return [after - before for before, after in itertools.pairwise(self.engine.read_at)]

    def settle(self) -> None:
        """Wait, asleep, until the sink has written what it was given."""
        while any(route.sink._waiting for route in self.outputs._routes):
            time.sleep(0.002)

    def close(self) -> None:
        """Stop the agent."""
        self.agent.stop()


def rates(rules: Path) -> Iterator[tuple[str, Figure]]:
    """What one core does in a second."""
    for name, more, lines in (("alert", ", rate: 10000000/s", COUNT), ("limited", "", None)):
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(write_policy(Path(folder, "p.yaml"), more=more), Path(folder))
            bench.engine.images = programs(b"worker", b"/usr/bin/worker")
            number = bench.verdict("secret")
            made = [("decisions", native(n, bench.engine.generation, number)) for n in range(COUNT)]
            yield name, Figure(COUNT / bench.seconds(made, lines), "a second")
            bench.close()
    if not rules.exists():
        print(f"skipped: {rules} is missing")
        return
    for name, comm, lines in (("rejected", b"sshd", 0), ("match", b"worker", COUNT)):
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(rules, Path(folder))
            bench.agent.life.pipeline.limiter.allow = lambda *_: True  # type: ignore[method-assign]  # a Falco rule has no rate of its own
            bench.engine.images = programs(comm, b"/usr/bin/" + comm)
            number = bench.verdict(RULE)
            made = [("candidates", detailed(n, bench.engine.generation, number, comm)) for n in range(COUNT)]
            yield name, Figure(COUNT / bench.seconds(made, lines), "a second")
            if lines:
                waits = sorted(bench.waits())
                yield "batch latency", Figure(1e3 * waits[len(waits) * 99 // 100], "ms")
            bench.close()


def commands() -> Iterator[tuple[str, Figure]]:
    """Processor time of commands, Python's start included."""
    for name, words in (("--help", ["--help"]), ("check", ["check", str(CHECKED)])):
        times = []
        for _ in range(ROUNDS):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-m", "bpfence", *words], check=True, capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        yield f"bpfence {name}", Figure(min(times), "s")


def reloads() -> Iterator[tuple[str, Figure]]:
    """Processor time of a reload, all threads of the agent's, on one core."""
    for name, size in (("reload", 100), ("reload, one file", RULES_OF_MANY)):
        with tempfile.TemporaryDirectory() as folder:
            policies = Path(folder, "policies")
            policies.mkdir()
            for number in range(RULES_OF_MANY // size):
                Path(policies, f"p{number}.yaml").write_text(many_rules(number, size))
            bench = Bench(policies, Path(folder))
            times = []
            for changed in range(ROUNDS):
                Path(policies, "p0.yaml").write_text(many_rules(0, size, f"changed-{changed}"))
                gc.collect()
                before, start = bench.engine.generation, time.process_time()
                bench.agent.reload()
                while bench.agent.reloading:
                    bench.agent.step(1)
                times.append(time.process_time() - start)
                assert bench.engine.generation == before + 1, "not reloaded"
            bench.close()
            yield name, Figure(min(times), "s")


def many_rules(number: int, size: int, changed: str = "whole") -> str:
    """A policy file of `size` rules of a fleet, about paths, programs and users; one rule's path holds `changed`."""
    rules = []
    for n in range(size):
        who = f"tenant-{number}-{n}"
        path = f"/srv/{changed if n == size // 2 else 'data'}/{who}/**"
        match: dict[str, str | int] = {"file.path": path}
        unless = {}
        if n % 3 == 0:
            unless = {"unless": {"process.exe": f"/opt/{who}/bin/*"}}
        if n % 5 == 0:
            match["process.uid"] = 1000 + n % 40
        event = ("open", "process.exec", "rename")[n % 4 % 3]
        rules.append({"name": f"r{n}", "on": event, "match": match, **unless, "action": "audit" if n % 2 else "deny"})
    spec = {"mode": "enforce", "rules": rules}
    document = {"apiVersion": "bpfence.io/v1alpha1", "kind": "SecurityPolicy", "metadata": {"name": f"p{number}"}, "spec": spec}
    return json.dumps(document)  # JSON is YAML, and quicker to write


def memory(rules: Path) -> Iterator[tuple[str, Figure]]:
    """What a process holds that has read and compiled the rules as the agent does, and nothing else."""
    if not rules.exists():
        return
    done = subprocess.run([sys.executable, __file__, "--resident", str(rules)], check=True, capture_output=True, text=True)
    resident, peak = json.loads(done.stdout)
    yield "resident", Figure(resident, "MB")
    yield "resident at most", Figure(peak, "MB")


def print_resident(rules: Path) -> None:
    """Puts the rules in force, and prints how much memory this process has then, and had at most; in MB."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(rules, Path(folder))
        words = (line.split() for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
        status = {name.rstrip(":"): rest for name, *rest in words}
        print(json.dumps([int(status[name][0]) / 1000 for name in ("VmRSS", "VmHWM")]))
        bench.close()


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What user space costs, each figure beside its target.")
    parser.add_argument("rules", nargs="?", type=Path, default=RULES, help="Falco's stable rules")
    parser.add_argument("--only", choices=("rates", "commands", "reloads", "memory"), help="measure one part")
    parser.add_argument("--resident", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.resident:
        print_resident(given.rules)
        return 0
    parts = {"rates": lambda: rates(given.rules), "commands": commands, "reloads": reloads, "memory": lambda: memory(given.rules)}
    figures: dict[str, Figure] = {}
    for part, measure in parts.items():
        if given.only not in (None, part):
            continue
        for name, figure in measure():
            figures[name] = figure
            target = BY_NAME.get(name)
            wanted = f"at {target.how} {target.limit:,}{'' if target.met(figure) else '  not met'}" if target else ""
            each = f"  {1e6 / figure.value:7.2f} µs each" if figure.unit == "a second" else ""
            print(f"{name:<18}{figure.value:12,.3f} {figure.unit:<9} {wanted}{each}", flush=True)
    if given.only is None:
        results.keep("userspace", figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
