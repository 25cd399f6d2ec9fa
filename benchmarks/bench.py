#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The workload program in, docs/benchmarks.md out: instructions per operation under growing policy sets.

`make bench` calls it. It boots a guest whose clock advances one nanosecond per instruction (QEMU -icount), starts `bpfence run`
there with each policy set in turn, and runs benchmarks/workload.c inside the policies' cgroup ("concerned") and outside it. One
processor: what the agent does in user space for an operation is part of that operation's figure.
"""

from __future__ import annotations

import argparse
import calendar
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "docs" / "benchmarks.md"
RESULTS = ROOT / ".build" / "bench"
KERNEL = "6.12"
WORK = Path("/tmp/bpfence-bench")
CGROUP = "/bpfence-bench"
CONTAINER = f"/bpfence-bench-pods/docker-{'3ad7b26ded6d' + '7f' * 26}.scope"
"""Where Falco's rules take a process for a container's."""
CGROUPS = Path("/sys/fs/cgroup")
SHIPPED_POLICIES = ROOT / "examples" / "policies"
FALCO_RULES = ROOT.parent / "shared" / "corpora" / "falco" / "falco_rules.yaml"
READY_SECONDS = 3000
ROUNDS = 5
REST_SECONDS = 60  # a resolver without servers gives up after tens of seconds
IDLE_SECONDS = 3
ALERTS = 300
ALERT_PAUSE_MS = 20
NAMES = {
    "getppid": "getppid", "pwrite": "pwrite 64 bytes", "open-short": "open+close, 9-byte path",
    "open-long": "open+close, 100-byte path, 10 components",
    "create-rename-unlink": "create+rename+unlink", "connect": "connect+accept+close, loopback", "spawn": "posix_spawn of a static program",
    "fork": "fork+exit",
}  # fmt: skip

PEERS: dict[str, dict[str, int]] = {
    "Falco 0.45-dev, 25 stable rules": {
        "getppid": 595, "open-short": 21487, "open-long": 27958, "pwrite": 1831, "create-rename-unlink": 64722, "connect": 96702,
        "spawn": 1025281, "fork": 357663,
    },
    "Tetragon 1.8-dev, no policy": {
        "getppid": 334, "open-short": 5780, "open-long": 8879, "pwrite": 1571, "create-rename-unlink": 31453, "connect": 55475,
        "spawn": 1261642, "fork": 446333,
    },
    "Tetragon, 1 file_open policy": {
        "getppid": 337, "open-short": 14553, "open-long": 22508, "pwrite": 1571, "create-rename-unlink": 40087, "connect": 55652,
        "spawn": 1278504, "fork": 440190,
    },
    "Tetragon, 10 such policies": {
        "getppid": 334, "open-short": 93714, "open-long": 143192, "pwrite": 1571, "create-rename-unlink": 119339, "connect": 55265,
        "spawn": 1332875, "fork": 436678,
    },
}  # fmt: skip
"""Measured on the same kind of guest (6.12, one processor, -icount, files on tmpfs) with a workload of the same operations.
One Tetragon policy is one kprobe on security_file_open with one Prefix value that never matches."""
PEERS_BASE = {
    "getppid": 334, "open-short": 5784, "open-long": 8885, "pwrite": 1571, "create-rename-unlink": 31365, "connect": 55574, "spawn": 858917,
    "fork": 237922,
}  # fmt: skip
"""The same guest with no program at all."""


PREFACE = """\
Instructions per operation, Linux {kernel}, one processor, QEMU `-icount shift=0`: the guest's clock advances one nanosecond per instruction
executed, so a loop timed in the guest gives guest instructions, the same to a fraction of a per cent from run to run. Kernel and user
space are counted, the agent's own work included. Files are on tmpfs. The figure in brackets is the difference to no program at all.
Made by `make bench`; the workload is `benchmarks/workload.c`, the policies are made by `benchmarks/bench.py`. Rules "beside the file" name
other files in the folder of the 100-byte path, so that nothing short of its last component decides; all others part from the paths within
a few bytes.
Processes are made and ended with a spread of some thousand instructions from run to run, whatever is loaded."""

LATENCY = """\
{alerts} alerts, one every {pause} ms, on the same guest, otherwise idle: from the kernel's time stamp at the decision to the moment at
which a reader of `bpfence run --output -` has the line. The clock is the instruction count, at one nanosecond an instruction: half of
the alerts took less than {p50:.2f} ms, 99 % less than {p99:.2f} ms, the slowest {most:.2f} ms."""

FALCO_LATENCY = """\
The same for the stable rules of Falco, with opens of /etc/shadow ("Read sensitive file untrusted"), which are decided when the file is
opened, reported when the call has returned, and finished in user space: half of the alerts took less than {p50:.2f} ms, 99 % less than
{p99:.2f} ms, the slowest {most:.2f} ms."""

FALCO_AGENT = """\
`bpfence run` with Falco's {rules} stable rules, in the guest: {ready:.1f} thousand million instructions of processor time from the start of
the process to enforcement in force, {rss:.1f} MB resident after the workload; with no rules {empty_ready:.1f} and {empty_rss:.1f} MB.

On the machine that ran the benchmark, natively, processor time of one core (`benchmarks/falco.py`): {read_ms:.0f} ms to read the rules,
{lower_ms:.0f} ms to find what the kernel decides, {compile_ms:.0f} ms to compile tables of {kib:,.0f} KiB. What the kernel lets through
is finished at {rules_per_second:,.0f} rules or {events_per_second:,.0f} events a second: {decode_us:.1f} µs to decode an event,
{confirm_us:.1f} µs to try the {tried:.1f} rules of its type, {render_us:.1f} µs to render a match. These events are recorded ones, in JSON,
half of which match."""

PEERS_PREFACE = """\
Measured earlier with a workload of the same operations, not by `make bench`; the difference is to their own run with no program. One
Tetragon policy is one kprobe on security_file_open with one Prefix value that never matches; Falco ran with a stand-in for its container
plugin."""


class Setting(msgspec.Struct, frozen=True):
    """One policy set: `paths` path rules and `networks` networks; None: bpfence is not running. `beside`: the paths are in the folder of
    the long path, so that an automaton has to read all of it. `falco`: Falco's stable rules instead, which concern processes in containers
    most. `shipped`: the policies of examples/policies, which enforce.
    """

    name: str
    paths: int | None = None
    networks: int = 0
    beside: bool = False
    falco: bool = False
    shipped: bool = False


EMPTY = "empty engine"
FALCO = "Falco, 25 stable rules"
SHIPPED = "shipped policies, enforcing"
SETTINGS = (
    Setting("no program"),
    Setting(EMPTY, 0),
    *(Setting(f"{n:,} path rules", n) for n in (10, 100, 1000, 10000)),
    Setting("1,000 rules beside the file", 1000, beside=True),
    Setting("CIDR policy, 100 networks", 0, 100),
    Setting(FALCO, 0, falco=True),
    Setting(SHIPPED, 0, shipped=True),
)

FIGURES = ROOT / "benchmarks" / "figures.json"
"""What `--quick` compares with: setting, then operation, to instructions; "start" to thousand millions of them."""
QUICK = ("10 path rules", SHIPPED)
LOSS = 1.1  # as much as a figure may be of the one that is kept


def path_values(n: int, beside: bool) -> Iterator[str]:
    """`n` different path globs, none of which matches what the workload touches: prefixes, whole paths, one-star globs."""
    if beside:
        deepest = max((path.parent for path in WORK.rglob("*")), key=lambda folder: len(folder.parts))
        yield from (f"{deepest}/other-{i:05}" for i in range(n))
        return
    for i in range(n):
        match i % 10:
            case 0 | 1 | 2 | 3 | 4 | 5:
                yield f"/srv/tenant-{i:05}/**"
            case 6 | 7 | 8:
                yield f"/opt/vendor-{i % 97}/lib/plugin-{i:05}.so"
            case _:
                yield f"/etc/service-{i:05}/*.key"


def policy(setting: Setting) -> str:
    """The native policy of a setting, scoped to the benchmark's cgroup."""
    values = enumerate(path_values(setting.paths or 0, setting.beside))
    rules: list[dict[str, Any]] = [
        {"name": f"path-{i}", "on": "open", "match": {"file.path": path}, "action": "deny"} for i, path in values
    ]
    if setting.networks:
        networks = [f"10.{i}.0.0/{16 + i % 9}" for i in range(setting.networks)]
        rules.append({"name": "networks", "on": "connect", "match": {"net.peer.ip": networks}, "action": "deny"})
    return yaml.safe_dump(
        {
            "apiVersion": "bpfence.io/v1alpha1",
            "kind": "SecurityPolicy",
            "metadata": {"name": "bench"},
            "spec": {"mode": "enforce", "scope": {"cgroup": CGROUP}, "rules": rules},
        },
        sort_keys=False,
    )


def start_agent(setting: Setting, folder: Path) -> tuple[subprocess.Popen[bytes], float]:
    """`bpfence run` with the setting's policy, in force, and the seconds of processor time that it took to get there."""
    policies, ready = folder / "policies", folder / "ready"
    policies.mkdir(parents=True)
    if setting.paths or setting.networks:
        (policies / "bench.yaml").write_text(policy(setting))
    if setting.falco:
        shutil.copy(RESULTS / FALCO_RULES.name, policies)
    if setting.shipped:
        for path in SHIPPED_POLICIES.glob("*.yaml"):
            shutil.copy(path, policies)
    log = folder / "agent.log"
    outputs = ("--output", f"jsonl:{folder / 'alerts'}", "--ready-file", str(ready))
    command = [sys.executable, "-m", "bpfence", "run", "-p", str(policies), *outputs]
    began = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    deadline = began + READY_SECONDS
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"bpfence run did not start with {setting.name}:\n{log.read_text(errors='replace')[-4000:]}")
        time.sleep(0.1)
    took = processor_seconds(process.pid)
    rest(process.pid)  # what the agent still does after the start is not the operations' cost
    return process, took


def processor_seconds(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rest(pid: int) -> None:
    """Waits until a process takes next to no processor time: names of hosts, once resolved, are put into the tables."""
    used = -1.0
    while True:
        now = processor_seconds(pid)
        if now - used < 0.1:
            return
        used = now
        time.sleep(REST_SECONDS)


def resident(pid: int) -> float:
    """Megabytes of memory that a process has resident."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) * 1024 / 1e6


def run_workload(workload: Path, cgroup: Path, operations: list[str]) -> dict[str, int]:
    """Operation to instructions. One at a time, with a pause in which the agent ends what it still does for the one before."""
    found = {}
    for operation in operations or NAMES:
        done = subprocess.run(
            [str(workload), str(WORK), str(ROUNDS), operation],
            text=True,
            capture_output=True,
            check=True,
            preexec_fn=lambda: (cgroup / "cgroup.procs").write_text("0"),
        )
        name, value = done.stdout.split()
        found[name] = int(value)
        time.sleep(IDLE_SECONDS)
    return found


def marked() -> tuple[Path, Path]:
    """A policy about one file, and the file."""
    policies = WORK / "latency"
    policies.mkdir()
    mark = WORK / "mark"
    mark.write_text("")
    rule = {"name": "mark", "on": "open", "match": {"file.path": str(mark)}, "action": "audit", "rate": "1000/s"}
    document = {
        "apiVersion": "bpfence.io/v1alpha1", "kind": "SecurityPolicy", "metadata": {"name": "mark"}, "spec": {"rules": [rule]},
    }  # fmt: skip
    (policies / "mark.yaml").write_text(yaml.safe_dump(document))
    return policies, mark


def latencies(policies: Path, mark: Path) -> dict[str, float]:
    """Milliseconds from the kernel's decision to the line that a reader of the output has, of ALERTS paced alerts about `mark`."""
    ready = WORK / f"{policies.stem}-ready"
    command = [sys.executable, "-m", "bpfence", "run", "-p", str(policies), "--output", "-", "--ready-file", str(ready)]
    delays: list[float] = []
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None
        while not ready.exists():
            time.sleep(0.5)
        rest(agent.pid)
        words = [str(ROOT / ".build" / "trigger"), "pace", str(ALERTS), str(ALERT_PAUSE_MS), "open", str(mark)]
        with subprocess.Popen(words, stdout=subprocess.DEVNULL):
            while len(delays) < ALERTS:
                line = agent.stdout.readline()
                now = time.time_ns()
                record = json.loads(line)
                if record["kind"] == "alert":
                    whole, _, fraction = record["time"].rstrip("Z").partition(".")
                    when = calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) * 10**9 + int(fraction)
                    delays.append((now - when) / 1e6)
        agent.send_signal(signal.SIGTERM)
    delays.sort()
    return {"p50": delays[len(delays) // 2], "p99": delays[len(delays) * 99 // 100 - 1], "most": delays[-1]}


def measure(wanted: Sequence[str], operations: list[str]) -> None:
    """Inside the guest: every setting whose name holds one of `wanted`; results are added to RESULTS/results.json as they come."""
    WORK.mkdir()
    workload = Path("/run/bpfence-workload")  # not where shipped policies refuse to execute
    shutil.copy(ROOT / ".build" / "workload", workload)
    outside = CGROUPS / "bpfence-bench-outside"
    for cgroup in (CGROUPS / CGROUP.strip("/"), CGROUPS / CONTAINER.strip("/"), outside):
        cgroup.mkdir(parents=True)
    found: dict[str, Any] = {"kernel": os.uname().release, "results": {}}
    rules = RESULTS / FALCO_RULES.name
    for number, setting in enumerate(SETTINGS):
        chosen = setting.paths is None or any(text in setting.name for text in wanted)
        if not chosen or (setting.falco and not rules.exists()):
            continue
        print(f"{setting.name} …", flush=True)
        if setting.paths is None:
            measured = {"": run_workload(workload, outside, operations)}
        else:
            process, took = start_agent(setting, WORK / f"agent-{number}")
            measured = {"not concerned": run_workload(workload, outside, operations)}
            if setting.paths or setting.networks or setting.falco:
                inside = CGROUPS / (CONTAINER if setting.falco else CGROUP).strip("/")
                measured = {"concerned": run_workload(workload, inside, operations), **measured}
            agent = {"ready": took, "rss": resident(process.pid)}
            print(f"  {agent}", flush=True)
            found.setdefault("agents", {})[setting.name] = agent
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=600)
            subprocess.run([sys.executable, "-m", "bpfence", "unload"], cwd=ROOT, check=True, capture_output=True)
        for subject, values in measured.items():
            print(f"  {subject or 'baseline':14} {values}", flush=True)
        found["results"][setting.name] = measured
        (RESULTS / "results.json").write_text(json.dumps(found, indent=1))
    if "" in wanted or "latency" in wanted:
        found["latency"] = latencies(*marked())
        if rules.exists():
            found["falco latency"] = latencies(rules, Path("/etc/shadow"))
        print({name: found[name] for name in found if "latency" in name}, flush=True)
        (RESULTS / "results.json").write_text(json.dumps(found, indent=1))


def table(rows: dict[str, dict[str, int]], base: dict[str, int]) -> str:
    """A Markdown table: one row per operation, one column per setting, the difference to `base` in brackets."""
    lines = ["| operation | " + " | ".join(rows) + " |", "|---|" + "---:|" * len(rows)]
    for operation, title in NAMES.items():
        cells = []
        for values in rows.values():
            value = values[operation]
            cells.append(f"{value:,}" if values is base else f"{value:,} ({value - base[operation]:+,})")
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def falco_sections(measured: dict[str, Any]) -> list[str]:
    """What the report says of Falco's rules beside the tables; nothing where they were not there to be measured."""
    native = RESULTS / "falco.json"
    if "falco latency" not in measured or not native.exists():
        return []
    own = json.loads(native.read_text())
    agents = measured["agents"]
    empty = {f"empty_{name}": value for name, value in agents[EMPTY].items()}
    return [
        FALCO_LATENCY.format(**measured["falco latency"]),
        f"## Falco's rules\n\n{FALCO_AGENT.format(kib=own['image'] / 1024, **own, **agents[FALCO], **empty)}",
    ]


def report(measured: dict[str, Any]) -> str:
    """docs/benchmarks.md."""
    results: dict[str, dict[str, dict[str, int]]] = measured["results"]
    base = results["no program"][""]
    concerned = {"no program": base} | {name: subjects["concerned"] for name, subjects in results.items() if "concerned" in subjects}
    others = {"no program": base} | {name: subjects["not concerned"] for name, subjects in results.items() if "not concerned" in subjects}
    sections = [
        f"# Benchmarks\n\n{PREFACE.format(kernel=measured['kernel'])}",
        "## A process that the rules concern",
        table(concerned, base),
        "## A process that no rule concerns",
        table(others, base),
        "## From the hook to the output",
        LATENCY.format(alerts=ALERTS, pause=ALERT_PAUSE_MS, **measured["latency"]),
        *falco_sections(measured),
        f"## Peers on the same kind of guest\n\n{PEERS_PREFACE}",
        table({"no program": PEERS_BASE, **PEERS}, PEERS_BASE),
    ]
    return "\n\n".join(sections) + "\n"


def quick_figures(measured: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Of what was measured, that which is compared: for each setting the operations of whom it concerns most, and the start."""
    found: dict[str, dict[str, float]] = {"no program": dict(measured["results"]["no program"][""])}
    for setting in QUICK:
        subjects = measured["results"][setting]
        found[setting] = {**(subjects.get("concerned") or subjects["not concerned"]), "start": measured["agents"][setting]["ready"]}
    return found


def compare(measured: dict[str, Any], *, keep: bool) -> int:
    """Print each figure beside the one that was kept; 1 where one has become worse by more than LOSS, or has none to compare with."""
    kept: dict[str, dict[str, float]] = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    now = quick_figures(measured)
    worse = 0
    for setting, figures in now.items():
        print(f"{setting}:")
        for operation, value in figures.items():
            before = kept.get(setting, {}).get(operation)
            bad = not keep and (before is None or value > LOSS * before)
            worse += bad
            added = f" ({value - now['no program'][operation]:+,})" if operation in NAMES else ""
            print(f"  {operation:22} {value:>12,}{added:12} kept {before if before is not None else '-':>12}{'  WORSE' if bad else ''}")
    if keep:
        FIGURES.write_text(json.dumps(now, indent=1) + "\n")
    return 1 if worse else 0


def main() -> int:
    """Boot the guest and write the report; or, inside it, measure."""
    parser = argparse.ArgumentParser(description="Instructions per operation.")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--only", default="", metavar="TEXT", help="settings whose name holds TEXT, printed, no report written")
    parser.add_argument("--operations", default="", metavar="NAMES", help=f"these only, printed, no report written: {','.join(NAMES)}")
    parser.add_argument(
        "--quick", action="store_true", help=f"few settings, compared with {FIGURES.relative_to(ROOT)}: 1 where one is worse"
    )
    parser.add_argument("--keep", action="store_true", help="with --quick: keep the figures for the next time")
    options = parser.parse_args()
    if options.inside:
        measure(options.only.split(";"), [name for name in options.operations.split(",") if name])
        return 0
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / FALCO_RULES.name).unlink(missing_ok=True)
    if FALCO_RULES.exists():
        shutil.copyfile(FALCO_RULES, RESULTS / FALCO_RULES.name)  # the guest does not see everything beside the repository
    command = [sys.executable, "-m", "vmtest", "run", KERNEL, "--icount", "--rwdir", str(RESULTS)]
    command += ["--timeout", "7200", "--memory", "4G", "--", "env", f"PYTHONPATH={ROOT / 'src'}:{ROOT}"]
    command += [sys.executable, str(ROOT / "benchmarks/bench.py"), "--inside"]
    command += ["--only", ";".join(QUICK) if options.quick else options.only, "--operations", options.operations]
    code = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, check=False).returncode
    if code == 0 and options.quick:
        return compare(json.loads((RESULTS / "results.json").read_text()), keep=options.keep)
    if code == 0 and not options.only and not options.operations:
        REPORT.write_text(report(json.loads((RESULTS / "results.json").read_text())))
        print(f"written: {REPORT.relative_to(ROOT)}")
    return code


if __name__ == "__main__":
    sys.exit(main())
