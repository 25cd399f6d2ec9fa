# SPDX-License-Identifier: Apache-2.0
"""What the parts of the benchmarks have kept in, the table of targets on the terminal and docs/benchmarks.md out.

`make bench` calls it last. What was not measured of this source tree is not shown (results.py): such a row says so, and where the whole run
in the guest is missing, the table is printed and the page left as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks.bench import ALERT_PAUSE_MS, ALERTS, OPERATIONS, SETTINGS, STORM, STORM_PAUSE_MS
from benchmarks.memory import PROCESSORS
from benchmarks.results import Figure, kept, under
from benchmarks.targets import CONCERNED, EMPTY, FALCO, OTHER, TARGETS, Target

PARTS: Final = ("falco", "compile", "userspace", "memory", "guest")
"""What whole runs keep. Runs of `--quick` and of few operations keep theirs under other names."""
REPORT: Final = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
TITLES: Final = {
    "getppid": "getppid", "pwrite": "pwrite 64 bytes", "open-short": "open+close, 9-byte path",
    "open-long": "open+close, 100-byte path, 10 components",
    "create-rename-unlink": "create+rename+unlink", "connect": "connect+accept+close, loopback", "spawn": "posix_spawn of a static program",
    "fork": "fork+exit",
}  # fmt: skip
LIMITS: Final = {"percent": "≤ {:+g} %", "added": "≤ {:+,.0f}", "most": "≤ {:,.15g}", "least": "≥ {:,.0f}"}

PEERS: Final[dict[str, dict[str, int]]] = {
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
PEERS_BASE: Final = {
    "getppid": 334, "open-short": 5784, "open-long": 8885, "pwrite": 1571, "create-rename-unlink": 31365, "connect": 55574, "spawn": 858917,
    "fork": 237922,
}  # fmt: skip
"""The same guest with no program at all."""


TARGETS_PREFACE: Final = """\
Made by `make bench`, whole, of one state of the sources; the targets are `benchmarks/targets.py`. Rows with a figure under "no program"
are instructions, Linux {kernel}, one processor, QEMU `-icount shift=0`: the guest's clock advances one nanosecond per
instruction executed. The rows of programs (`benchmarks/macro.py`) are the processor time of the whole machine but its idle task: the
programs, their servers, the agent, the kernel's threads; files are on tmpfs, and the least of several runs counts. "The same" is under the
policies of `examples/policies`, all enforcing. A start is the agent's processor time there, in thousand millions of instructions. Kernel
memory is measured in a guest with {processors} processors; commands, compiler, reload and user space on the machine itself, as processor
time of one core."""

FLOORS: Final = """\
Counted on Linux 6.12 when the programs were made, not by this run:

- **Hooks.** An LSM program that does nothing makes an open, a read or a write 184 instructions dearer on this kernel: the trampoline
  saves registers, enters the program and leaves it. It is paid each time for each hook that has a program: of find and grep it is 2.4 %,
  of sqlite 2.0 %. Descriptors are asked about when they are used, since they may have been opened before the policy, or by another
  program; whoever leaves that out pays nothing here, and lets them pass.
- **Reads and writes** that nothing is to be said about take some 300 more: whose they are (60), whether anything was renamed or mounted
  since (50), whether it is the same file, name and process (45), and the look-ups of what was noted. With the hook's 184 the first
  two alone are more than the 250 that are wanted, and neither can be left out: a process may have become another, a file have another name.
- **Opens under Falco's rules**: some 950 to find in the folder's notes that nothing is to be said about this name, by this program; the
  rest are two programs more at the call's entry and exit, for the name as it was given and for what came of it, of 80 to 100 and their
  trampolines.
- **Starts**, in thousand millions of instructions: without rules 0.6 are Python's imports, 0.3 asking the kernel what it has, 0.6 maps and
  the programs that follow processes; the rest confines the agent. Under the shipped policies the kernel's load of 47 programs takes 2.4
  and their attachment 0.4 (each patches code); 0.9 are reading the policies and 1.0 compiling them, which the next start with the same
  ones does not do again.
  The load of one decision engine is 0.9: 0.25 to walk it, 0.4 to put several instructions in the place of one 239 times (look-ups in
  arrays above all), 0.2 to take out 180 pieces that are not for this kernel. Each of these 419 changes copies the whole program and what
  the verifier has noted of each of its instructions. Searches of all the kernel's types by name, some
  for each pointer that is followed from a trusted one, are 0.3 of the 2.4, by samples: 0.16 of the 0.20 of socket_sendmsg, 0.10 of the
  0.11 of file_permission, 0.05 of the 0.07 of file_mprotect. Guarded loads in their place would be paid at each call. Of the attachment,
  too, nearly all is one walk over all of the kernel's traceable functions for each program.
  Falco's rules need five engines, 4.5 of the 6.2 that their programs take to load: LSM hooks share one and tracepoints another, but into
  a program at the end of a function none can be put ("Cannot extend fentry/fexit"). Ends of system calls go on in one of them by a tail
  call, for which the types of both functions must be one: those of do_filp_open and, on this kernel, of execveat are not (the parameter
  has another name there).
- **A record of a plain open** is 136 bytes of header, 88 of numbers and of what says which there are, and the names: of the file,
  its file system, the program, its arguments and its folder, 121 bytes here, half of which are the arguments of the benchmark."""

PREFACE: Final = """\
A loop timed in the guest gives guest instructions, the same to a fraction of a per cent from run to run. Kernel and user
space are counted, the agent's own work included. Files are on tmpfs. The figure in brackets is the difference to no program at all.
The workload is `benchmarks/workload.c`, the policies are made by `benchmarks/bench.py`. Rules "beside the file" name
other files in the folder of the 100-byte path, so that nothing short of its last component decides; all others part from the paths within
a few bytes.
Processes are made and ended with a spread of some thousand instructions from run to run, whatever is loaded."""

LATENCY: Final = """\
{alerts} alerts, one every {pause} ms, on the same guest, otherwise idle: from the kernel's time stamp at the decision to the moment at
which a reader of `bpfence run --output -` has the line. The clock is the instruction count, at one nanosecond an instruction: half of
the alerts took less than {p50:.2f} ms, 99 % less than {p99:.2f} ms, the slowest {most:.2f} ms."""

FALCO_LATENCY: Final = """\
The same for the stable rules of Falco, with opens of /etc/shadow ("Read sensitive file untrusted"), which are decided when the file is
opened, reported when the call has returned, and finished in user space: half of the alerts took less than {p50:.2f} ms, 99 % less than
{p99:.2f} ms, the slowest {most:.2f} ms."""

STORM_LATENCY: Final = """\
In a storm, {burst} matching opens at once every {pause} ms, none lost: half of the alerts took less than {p50:.2f} ms, 99 % less than
{p99:.2f} ms, the slowest {most:.2f} ms. The storm, the agent and the reader share the only processor."""

FALCO_AGENT: Final = """\
`bpfence run` with Falco's {rules:.0f} stable rules, in the guest: {falco_start:.1f} thousand million instructions of processor time from
the start of the process to enforcement in force, {falco_resident:.1f} MB resident after the workload; with no rules {empty_start:.1f} and
{empty_resident:.1f} MB.

On the machine that ran the benchmark, natively, processor time of one core (`benchmarks/falco.py`): {read:.0f} ms to read the rules,
{lower:.0f} ms to find what the kernel decides, {compile:.0f} ms to compile tables of {image:,.0f} KiB. What the kernel lets through
is finished at {rules_a_second:,.0f} rules or {events:,.0f} events a second: {decode:.1f} µs to decode an event,
{confirm:.1f} µs to try the {tried:.1f} rules of its type, {render:.1f} µs to render a match. These events are recorded ones, in JSON,
half of which match."""

PEERS_PREFACE: Final = """\
Measured earlier with a workload of the same operations, not by `make bench`; the difference is to their own run with no program. One
Tetragon policy is one kprobe on security_file_open with one Prefix value that never matches; Falco ran with a stand-in for its container
plugin."""


def number(value: float, unit: str) -> str:
    """A figure as people read it."""
    return f"{value:,.0f}" if unit in ("instructions", "bytes", "a second") else f"{value:,.2f}"


def target_rows(targets: Sequence[Target], figures: Mapping[str, Figure]) -> Iterator[tuple[str, str, str, str, str, str]]:
    """What, today's figure, its unit, that of no program and what is added to it, the target, whether it is met."""
    for target in targets:
        limit, figure = LIMITS[target.how].format(target.limit), figures.get(target.name)
        if figure is None:
            yield target.title, "not measured", "", "", limit, ""
            continue
        ratio = ""
        if figure.base is not None:
            added = f", {figure.value - figure.base:+,.0f}" if target.how == "added" else ""
            ratio = f"{number(figure.base, figure.unit)} ({100 * (figure.value / figure.base - 1):+.2f} %{added})"
        yield target.title, number(figure.value, figure.unit), figure.unit, ratio, limit, "yes" if target.met(figure) else "**no**"


def target_table(figures: Mapping[str, Figure]) -> str:
    """The table of targets, in Markdown."""
    lines = ["| what | today | in | no program | target | met |", "|---|---:|---|---:|---:|---|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in target_rows(TARGETS, figures))])


def print_targets(figures: Mapping[str, Figure]) -> None:
    """The same on a terminal."""
    for what, today, unit, ratio, limit, met in target_rows(TARGETS, figures):
        print(f"{what:66} {today:>15} {unit:17} {ratio:42} {limit:>12} {met.replace('*', '')}")


def operations_table(columns: Mapping[str, Mapping[str, float]], base: str) -> str:
    """A Markdown table: one row per operation, one column per setting, the difference to column `base` in brackets."""
    lines = ["| operation | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for operation, title in TITLES.items():
        cells = []
        for name, values in columns.items():
            value = values[operation]
            cells.append(f"{value:,.0f}" if name == base else f"{value:,.0f} ({value - columns[base][operation]:+,.0f})")
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def settings_table(figures: Mapping[str, Figure], subject: str) -> str:
    """The table of all settings for processes that the rules concern, or for the others."""
    columns = {}
    for setting in SETTINGS:
        names = {operation: under(setting.name, operation, "" if setting.paths is None else subject) for operation in OPERATIONS}
        if all(name in figures for name in names.values()):
            columns[setting.name] = {operation: figures[name].value for operation, name in names.items()}
    return operations_table(columns, SETTINGS[0].name)


def with_prefix(prefix: str, figures: Mapping[str, Figure]) -> dict[str, float]:
    """What is left of the names of figures that begin with `prefix`, as names of a format, to their values."""
    return {name.removeprefix(prefix).replace(" ", "_"): figure.value for name, figure in figures.items() if name.startswith(prefix)}


def page(figures: Mapping[str, Figure], about: Mapping[str, str]) -> str:
    """docs/benchmarks.md."""
    sections = [
        f"# Benchmarks\n\n{TARGETS_PREFACE.format(kernel=about['kernel'], processors=PROCESSORS)}",
        target_table(figures),
        f"## Why some are missed\n\n{FLOORS}",
        f"## Instructions per operation\n\n{PREFACE}",
        "## A process that the rules concern",
        settings_table(figures, CONCERNED),
        "## A process that no rule concerns",
        settings_table(figures, OTHER),
        "## From the hook to the output",
        LATENCY.format(alerts=ALERTS, pause=ALERT_PAUSE_MS, **with_prefix("latency, ", figures)),
        STORM_LATENCY.format(burst=STORM, pause=STORM_PAUSE_MS, **with_prefix("storm latency, ", figures)),
        *falco_sections(figures),
        f"## Peers on the same kind of guest\n\n{PEERS_PREFACE}",
        operations_table({"no program": PEERS_BASE, **PEERS}, "no program"),
    ]
    return "\n\n".join(sections) + "\n"


def falco_sections(figures: Mapping[str, Figure]) -> Iterator[str]:
    """What the page says of Falco's rules beside the tables; nothing where they were not there to be measured."""
    latency, native = with_prefix("Falco latency, ", figures), with_prefix("falco ", figures)
    if latency and native:
        agents = {
            f"{who}_{what}": figures[under(setting, what)].value
            for who, setting in (("falco", FALCO), ("empty", EMPTY))
            for what in ("start", "resident")
        }
        yield FALCO_LATENCY.format(**latency)
        yield f"## Falco's rules\n\n{FALCO_AGENT.format(**agents, **native)}"


def main() -> int:
    """Print the table; write the page where the guest's figures are whole."""
    everything = kept(names=PARTS)
    print_targets(everything.figures)
    if not kept(names=("guest",)).figures:
        print(f"no whole run in a guest was kept of these sources: docs/{REPORT.name} is left as it is")
        return 1
    REPORT.write_text(page(everything.figures, everything.about))
    print(f"written: docs/{REPORT.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
