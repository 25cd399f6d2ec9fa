#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The workload program and the macro rows in, instructions under growing policy sets out.

`make bench` calls it, then report.py. It boots a guest whose clock advances one nanosecond per instruction (QEMU -icount), starts `bpfence
run` there with each policy set in turn, and runs benchmarks/workload.c inside the policies' cgroup ("concerned") and outside it, and under
the shipped policies the rows of macro.py. One processor: what the agent does in user space for an operation is part of that operation's
figure. `make bench-quick` measures few settings and compares them with benchmarks/figures.json.
"""

from __future__ import annotations

import argparse
import calendar
import compileall
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from benchmarks import macro, results
from benchmarks.results import Figure, under
from benchmarks.targets import CONCERNED, EMPTY, FALCO, OTHER, PROCESSES, SHIPPED, TRACING, TRACING_10
from bpfence.workloads import hook, hook_program

ROOT = results.ROOT
RESULTS = results.FOLDER
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
STORM, STORM_PAUSE_MS, STORM_SECONDS = 20, 4, 2
"""So many opens at once, so often, for so long: 5,000 a second, three quarters of what one processor can do here together with their
alerts, each of which takes some 140,000 of the 1,000 million instructions that are a second in the guest. More wait for the processor."""
OPERATIONS = ("getppid", "pwrite", "open-short", "open-long", "create-rename-unlink", "connect", "spawn", "fork")


class Setting(msgspec.Struct, frozen=True):
    """One policy set: `paths` path rules and `networks` networks; None: bpfence is not running. `beside`: the paths are in the folder of
    the long path, so that an automaton has to read all of it. `falco`: Falco's stable rules instead, which concern processes in containers
    most. `shipped`: the policies of examples/policies, which enforce. `tracing`: so many of Tetragon's policies, as its own figures were
    taken with. `processes`: every execution and every end of a process is reported. `scope`: what the rules are for instead of the
    benchmark's cgroup; there the workload runs in a container's, and where the scope asks for an image, the agent is told of that container
    as a runtime's hook does it.
    """

    name: str
    paths: int | None = None
    networks: int = 0
    beside: bool = False
    falco: bool = False
    shipped: bool = False
    tracing: int = 0
    processes: bool = False
    scope: Mapping[str, str | bool] = {}


SETTINGS = (
    Setting("no program"),
    Setting(EMPTY, 0),
    *(Setting(f"{n:,} path rules", n) for n in (10, 100, 1000, 10000)),
    Setting("1,000 rules beside the file", 1000, beside=True),
    Setting("10 path rules of containers", 10, scope={"container": True}),
    Setting("10 path rules of an image", 10, scope={"image": "bench:*"}),
    Setting("CIDR policy, 100 networks", 0, 100),
    Setting(SHIPPED, 0, shipped=True),
    Setting(FALCO, 0, falco=True),
    Setting(TRACING, 0, tracing=1),
    Setting(TRACING_10, 0, tracing=10),
    Setting(PROCESSES, 0, processes=True),
)

FIGURES = ROOT / "benchmarks" / "figures.json"
"""What `--quick` compares with, see `kept_figures`: instructions; "start": thousand millions of them."""
QUICK = {SHIPPED: (*OPERATIONS, *macro.ROWS)}
"""What `--quick` measures: operations and rows of programs, by setting."""
LOSS = 1.1  # as much as a figure may be of the one that is kept
MACRO_POINTS = 0.3  # percentage points by which what is added to a macro row may always grow: their spread


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
    return written({"mode": "enforce", "scope": setting.scope or {"cgroup": CGROUP}, "rules": rules})


def written(spec: Mapping[str, Any]) -> str:
    """A native policy."""
    made = {"apiVersion": "bpfence.io/v1alpha1", "kind": "SecurityPolicy", "metadata": {"name": "bench"}, "spec": spec}
    return yaml.safe_dump(made, sort_keys=False)


def tracing_policy(number: int) -> str:
    """One of Tetragon's policies, on a hook that every open passes, with a prefix that no file has."""
    test = {"index": 0, "operator": "Prefix", "values": [f"/nowhere-{number}/"]}
    hook = {"call": "security_file_open", "syscall": False, "args": [{"index": 0, "type": "file"}], "selectors": [{"matchArgs": [test]}]}
    made = {
        "apiVersion": "cilium.io/v1alpha1",
        "kind": "TracingPolicy",
        "metadata": {"name": f"opens-{number}"},
        "spec": {"kprobes": [hook]},
    }
    return yaml.safe_dump(made, sort_keys=False)


def start_agent(setting: Setting, folder: Path) -> tuple[subprocess.Popen[bytes], float]:
    """`bpfence run` with the setting's policy, in force, and the seconds of processor time that it took to get there. Called again with the
    same folder, it finds the tables that the first start has kept.
    """
    policies, ready = folder / "policies", folder / "ready"
    policies.mkdir(parents=True, exist_ok=True)
    if setting.paths or setting.networks:
        (policies / "bench.yaml").write_text(policy(setting))
    if setting.processes:
        rules = [
            {"name": name, "on": event, "action": "observe"}
            for name, event in (("executed", "process.executed"), ("ended", "process.exit"))
        ]
        (policies / "bench.yaml").write_text(written({"rules": rules}))
    for number in range(setting.tracing):
        (policies / f"tracing-{number}.yaml").write_text(tracing_policy(number))
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


@contextlib.contextmanager
def registered(image: str, folder: Path) -> Iterator[None]:
    """The agent has been told of a container of an image, whose cgroup is CONTAINER, and which ends with the block."""
    folder.mkdir()
    annotations = {"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.image-name": image}
    (folder / "config.json").write_text(json.dumps({"ociVersion": "1.0.2", "annotations": annotations}))
    procs = CGROUPS / CONTAINER.strip("/") / "cgroup.procs"
    first = subprocess.Popen(["sleep", "infinity"])
    procs.write_text(str(first.pid))
    try:
        state = {"ociVersion": "1.0.2", "id": CONTAINER.rpartition("-")[2].removesuffix(".scope"), "pid": first.pid, "bundle": str(folder)}
        words = [f"--socket={hook.SOCKET}", "--seconds=600", "--on-failure=deny"]
        program = [sys.executable, hook_program.__file__, hook_program.HOOK, *words]
        subprocess.run(program, input=json.dumps(state).encode(), check=True)
        yield
    finally:
        first.kill()
        first.wait()


def stop_agent(process: subprocess.Popen[bytes]) -> None:
    """Ends an agent and its enforcement."""
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=600)
    subprocess.run([sys.executable, "-m", "bpfence", "unload"], cwd=ROOT, check=True, capture_output=True)


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


def run_workload(workload: Path, cgroup: Path, operations: Sequence[str]) -> dict[str, int]:
    """Operation to instructions. One at a time, with a pause in which the agent ends what it still does for the one before."""
    found = {}
    for operation in operations:
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


def marked(name: str, rate: str) -> tuple[Path, Path]:
    """A folder with a policy about one file, and the file."""
    policies = WORK / name
    policies.mkdir()
    mark = WORK / f"{name}-file"
    mark.write_text("")
    rule = {"name": name, "on": "open", "match": {"file.path": str(mark)}, "action": "audit", "rate": rate}
    document = {
        "apiVersion": "bpfence.io/v1alpha1", "kind": "SecurityPolicy", "metadata": {"name": name}, "spec": {"rules": [rule]},
    }  # fmt: skip
    (policies / "policy.yaml").write_text(yaml.safe_dump(document))
    return policies, mark


def paced(mark: Path) -> list[str]:
    """What the trigger is to do for ALERTS paced alerts about `mark`."""
    return ["pace", str(ALERTS), str(ALERT_PAUSE_MS), "open", str(mark)]


def delays(name: str, policies: Path, words: Sequence[str], count: int) -> Iterator[tuple[str, Figure]]:
    """Milliseconds from the kernel's decision to the line that a reader of the output has, of `count` alerts about what the trigger does.

    The reader notes when it has what it reads, and looks at it afterwards. Raises SystemExit where an alert is lost.
    """
    ready = WORK / f"{name.replace(' ', '-')}-ready"
    command = [sys.executable, "-m", "bpfence", "run", "-p", str(policies), "--output", "-", "--ready-file", str(ready)]
    read: list[tuple[int, bytes]] = []
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None
        while not ready.exists():
            time.sleep(0.5)
        rest(agent.pid)
        with subprocess.Popen([str(ROOT / ".build" / "trigger"), *words], stdout=subprocess.DEVNULL):
            alerts = 0
            while alerts < count:
                data = os.read(agent.stdout.fileno(), 1 << 20)
                read.append((time.time_ns(), data))
                alerts += data.count(b'"kind":"alert"')
                if not data or b'"kind":"loss"' in data:
                    raise SystemExit(f"{name}: {alerts} of {count} alerts: {data[-1000:].decode(errors='replace')}")
        agent.send_signal(signal.SIGTERM)
    found = sorted(waits(read))
    for what, value in (("p50", found[len(found) // 2]), ("p99", found[len(found) * 99 // 100 - 1]), ("most", found[-1])):
        yield f"{name}, {what}", Figure(value, "ms")


def waits(read: Sequence[tuple[int, bytes]]) -> Iterator[float]:
    """Of what was read when (nanoseconds), the milliseconds from each alert's time to the moment at which the whole line was there."""
    line = b""
    for now, data in read:
        *whole, line = (line + data).split(b"\n")
        for record in map(json.loads, whole):
            if record["kind"] == "alert":
                seconds, _, fraction = record["time"].rstrip("Z").partition(".")
                when = calendar.timegm(time.strptime(seconds, "%Y-%m-%dT%H:%M:%S")) * 10**9 + int(fraction.ljust(9, "0"))
                yield (now - when) / 1e6


def storm() -> Iterator[tuple[str, Figure]]:
    """Milliseconds to the reader's line while STORM opens every STORM_PAUSE_MS match, none of which may be lost."""
    policies, mark = marked("storm", rate="1000000/s")
    bursts = STORM_SECONDS * 1000 // STORM_PAUSE_MS
    words = ["pace", str(bursts), str(STORM_PAUSE_MS), "repeat", str(STORM), "open", str(mark)]
    yield from delays("storm latency", policies, words, bursts * STORM)


def measure(plan: Mapping[str, Sequence[str]], part: str, *, latency: bool, explain: bool) -> None:
    """Inside the guest: what `plan` says for each setting; results.py keeps the figures, as `part`, when all are there."""
    WORK.mkdir()
    Path("/proc/sys/kernel/randomize_va_space").write_text("0")  # addresses are the same in every run
    workload = Path("/run/bpfence-workload")  # not where shipped policies refuse to execute
    shutil.copy(ROOT / ".build" / "workload", workload)
    outside = CGROUPS / "bpfence-bench-outside"
    for cgroup in (CGROUPS / CGROUP.strip("/"), CGROUPS / CONTAINER.strip("/"), outside):
        cgroup.mkdir(parents=True)
    everything = {name for names in plan.values() for name in names}
    programs = macro.Macro() if not everything.isdisjoint(macro.ROWS) else None
    base: dict[str, int] = {}
    figures: dict[str, Figure] = {}
    about = {"kernel": os.uname().release}

    def note(setting: Setting, subject: str, found: Mapping[str, int]) -> None:
        print(f"  {subject or 'nobody':14} {dict(found)}", flush=True)
        for operation, value in found.items():
            figures[under(setting.name, operation, subject)] = Figure(value, "instructions", base.get(operation) if subject else None)
        results.keep(f"{part}-so-far", figures, about)

    for number, setting in enumerate(SETTINGS):
        names = plan.get(setting.name, ()) if setting.paths is not None else everything
        micro, rows = ([name for name in table if name in names] for table in (OPERATIONS, macro.ROWS))
        if not names or (setting.falco and not (RESULTS / FALCO_RULES.name).exists()):
            continue
        print(f"{setting.name} …", flush=True)
        if setting.paths is None:
            base |= run_workload(workload, outside, micro)
            base |= programs.run(rows) if programs else {}
            note(setting, "", base)
            continue
        process, took = start_agent(setting, WORK / f"agent-{number}")
        figures[under(setting.name, "start")] = Figure(took, "10⁹ instructions")
        if setting.shipped or setting.falco:
            stop_agent(process)
            process, took = start_agent(setting, WORK / f"agent-{number}")
            figures[under(setting.name, "start again")] = Figure(took, "10⁹ instructions")
        if setting.shipped:
            note(setting, CONCERNED, run_workload(workload, outside, micro))
            note(setting, CONCERNED, programs.run(rows) if programs else {})
            if programs and explain:
                programs.print_programs(rows)
        else:
            note(setting, OTHER, run_workload(workload, outside, micro))
        if setting.paths or setting.networks or setting.falco:
            inside = CGROUPS / (CONTAINER if setting.falco or setting.scope else CGROUP).strip("/")
            with registered("bench:1", WORK / f"bundle-{number}") if "image" in setting.scope else contextlib.nullcontext():
                note(setting, CONCERNED, run_workload(workload, inside, micro))
        figures[under(setting.name, "resident")] = Figure(resident(process.pid), "MB")
        stop_agent(process)
    if latency:
        policies, mark = marked("mark", rate="1000/s")
        figures |= delays("latency", policies, paced(mark), ALERTS)
        figures |= storm()
        if (rules := RESULTS / FALCO_RULES.name).exists():
            figures |= delays("Falco latency", rules, paced(Path("/etc/shadow")), ALERTS)
    results.keep(part, figures, about)


def kept_figures(part: str) -> dict[str, dict[str, list[float]]]:
    """What was measured as FIGURES has it: setting, then operation, to the figure and, where there is one, that of no program."""
    figures = results.kept(names=(part,)).figures
    found: dict[str, dict[str, list[float]]] = {}
    for setting in QUICK:
        for operation in (*OPERATIONS, *macro.ROWS, "start"):
            for subject in (OTHER, CONCERNED, ""):
                figure = figures.get(under(setting, operation, subject))
                if figure is not None and operation not in found.setdefault(setting, {}):
                    values = [figure.value] if figure.base is None else [figure.value, figure.base]
                    found[setting][operation] = [round(value) if figure.unit == "instructions" else value for value in values]
    return found


def loses(operation: str, now: Sequence[float], before: Sequence[float] | None) -> bool:
    """Whether a figure has become worse than it may. A macro row is nearly all its own work: what is added to it is compared."""
    if before is None:
        return True
    if operation not in macro.ROWS:
        return now[0] > LOSS * before[0]
    added, was = (100 * (figure / base - 1) for figure, base in (now, before))
    return added > was + max(MACRO_POINTS, (LOSS - 1) * was)


def compare(now: dict[str, dict[str, list[float]]], *, keep: bool) -> int:
    """Print each figure beside the one that was kept; 1 where one has become worse, or has none to compare with."""
    kept: dict[str, dict[str, list[float]]] = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    worse = 0
    for setting, figures in now.items():
        print(f"{setting}:")
        for operation, figure in figures.items():
            before = kept.get(setting, {}).get(operation)
            bad = not keep and loses(operation, figure, before)
            worse += bad
            print(f"  {operation:22} {shown(operation, figure)}  kept {shown(operation, before)}{'  WORSE' if bad else ''}")
    if keep:
        FIGURES.write_text(json.dumps(now, indent=1) + "\n")
    return 1 if worse else 0


def shown(operation: str, figure: Sequence[float] | None) -> str:
    """A figure with what it has more than no program."""
    if figure is None:
        return f"{'-':>14}{'':12}"
    added = (
        ""
        if len(figure) == 1
        else f"{100 * (figure[0] / figure[1] - 1):+.2f} %"
        if operation in macro.ROWS
        else f"{figure[0] - figure[1]:+,.0f}"
    )
    return f"{figure[0]:>14,}{added:>12}"


def main() -> int:
    """Boot the guest; or, inside it, measure."""
    every = (*OPERATIONS, *macro.ROWS)
    parser = argparse.ArgumentParser(description="Instructions per operation, and of programs that people run.")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--only", default="", metavar="TEXT", help="settings whose name holds TEXT (several: separated by `;`)")
    parser.add_argument("--operations", default="", metavar="NAMES", help=f"these only: {','.join(every)}")
    parser.add_argument(
        "--quick", action="store_true", help=f"few settings, compared with {FIGURES.relative_to(ROOT)}: 1 where one is worse"
    )
    parser.add_argument("--explain", action="store_true", help="print the BPF programs that ran longest in each row of programs, too")
    parser.add_argument("--keep", action="store_true", help="with --quick: keep the figures for the next time")
    options = parser.parse_args()
    part = "quick" if options.quick else "some" if options.only or options.operations else "guest"
    if options.inside:
        chosen = [setting.name for setting in SETTINGS if any(text in setting.name for text in options.only.split(";"))]
        plan = QUICK if options.quick else dict.fromkeys(chosen, options.operations.split(",") if options.operations else every)
        measure(plan, part, latency=part == "guest" or "latency" in options.only, explain=options.explain)
        return 0
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / FALCO_RULES.name).unlink(missing_ok=True)
    if FALCO_RULES.exists():
        shutil.copyfile(FALCO_RULES, RESULTS / FALCO_RULES.name)  # the guest does not see everything beside the repository
    # As where it is installed; in the guest nothing is written beside the sources.
    compileall.compile_dir(ROOT / "src" / "bpfence", quiet=2)
    command = [sys.executable, "-m", "vmtest", "run", KERNEL, "--icount", "--rwdir", str(RESULTS)]
    command += ["--timeout", "7200", "--memory", "4G", "--", "env", f"PYTHONPATH={ROOT / 'src'}:{ROOT}"]
    command += [sys.executable, str(ROOT / "benchmarks/bench.py"), "--inside", *sys.argv[1:]]
    code = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, check=False).returncode
    return compare(kept_figures(part), keep=options.keep) if code == 0 and options.quick else code


if __name__ == "__main__":
    sys.exit(main())
