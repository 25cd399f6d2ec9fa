#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Names of programs in, what the verifier spends on each and on each function out: two tables on standard output.

A tool for developers, run as root on the kernel in question, mostly in a guest: see CONTRIBUTING.md. Each program is loaded by itself, with
the constants and maps of `bpfence run`, and attached to nothing. Under QEMU's -icount the times are instructions.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from bpfence.errors import KernelError
from bpfence.kernel.engine import Engine
from bpfence.kernel.features import probe
from bpfence.kernel.programs import Choice
from bpfence.kernel.sharing import EXTENSIONS, decides

ROOT = Path(__file__).resolve().parent.parent

LOG_LEVEL = 2
LOG_STATS = 4
LOG_BYTES = 1 << 28
"""Of a program of ours less than a quarter is used; Linux 5.10 takes 1 << 24 at most (kernel/bpf/verifier.c, bpf_check)."""

_STATISTICS = re.compile(r"processed (\d+) insns.* total_states (\d+) peak_states (\d+)")
_TIME = re.compile(r"verification time (\d+) usec")
_FUNCTION = re.compile(r"Validating (\w+)\(\) func#")
_SAFE = re.compile(r"Func#\d+.* is safe")
_INSTRUCTION = re.compile(r"(\d+): \(")
_LINE = re.compile(r"; .* @ ([\w./-]+):(\d+)")


class Cost(msgspec.Struct, frozen=True):
    """What loading one program has cost: seconds of the verifier and of the whole load, instructions that it has walked, states."""

    verifier: float
    load: float
    walked: int
    states: int
    peak: int


def parse_statistics(log: str, load: float) -> Cost:
    """The end of a log of LOG_STATS. ValueError: there are no statistics in it."""
    statistics, took = _STATISTICS.search(log), _TIME.search(log)
    if not statistics or not took:
        raise ValueError(f"no statistics in the log: {log[-200:]!r}")
    walked, states, peak = map(int, statistics.groups())
    return Cost(int(took[1]) / 1e6, load, walked, states, peak)


def parse_functions(log: str, program: str) -> Counter[str]:
    """How many instructions the verifier has walked in each function that it checks by itself, from a log of LOG_LEVEL."""
    walked: Counter[str] = Counter()
    function = program
    for line in log.splitlines():
        if _INSTRUCTION.match(line):
            walked[function] += 1
        elif found := _FUNCTION.match(line):
            function = found[1]
        elif _SAFE.match(line):
            function = program
    return walked


def parse_lines(log: str) -> Counter[str]:
    """The same by line of the sources, as far as the kernel names them (v6.6)."""
    walked: Counter[str] = Counter()
    at = ""
    lines: dict[str, str] = {}
    for line in log.splitlines():
        if found := _INSTRUCTION.match(line):
            walked[lines.setdefault(found[1], at)] += 1
        elif place := _LINE.match(line):
            at = f"{place[1]}:{place[2]}"
    return walked


def load(engine: Engine, choice: Choice, program: str, level: int) -> tuple[str, float]:
    """The verifier's log of one program, and the processor seconds of the load. KernelError: it does not load. `program`: the one that is
    chosen, or the engine that is put into it.
    """
    with engine.prepared(choice, extended=program != choice.program) as parsed:
        log = parsed.keep_log(program, level, LOG_BYTES)
        began = time.thread_time()
        if failed := parsed.load():
            raise KernelError(f"{choice.program}: {failed.reason}")
        return log.text(), time.thread_time() - began


def chosen(engine: Engine, names: Sequence[str]) -> Iterator[tuple[Choice, str]]:
    """Programs by their choice; the engines that they share, each by that of the first program that it is put into."""
    first = {EXTENSIONS[choice.row.kind]: choice for choice in reversed(engine.plan.choices) if decides(choice)}
    all_of_them = [(choice, choice.program) for choice in engine.plan.choices]
    all_of_them += [(choice, extension) for extension, choice in first.items() if engine.shares(choice)]
    for choice, program in all_of_them:
        if not names or any(re.fullmatch(name, program) for name in names):
            yield choice, program


def main() -> int:
    parser = argparse.ArgumentParser(description="what the verifier spends on programs and functions")
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help="a regular expression; all programs where there is none")
    parser.add_argument("--functions", action="store_true", help="a row for each function, too: loads each program once more, with a log")
    parser.add_argument("--lines", type=int, default=0, metavar="N", help="and the N costliest lines of the sources (Linux 6.6)")
    parser.add_argument("--flavour", choices=("lsm", "fmod_ret"), help="as of `bpfence run`, by default")
    options = parser.parse_args()
    functions: dict[str, list[int]] = {}
    lines: Counter[str] = Counter()
    total = count = 0.0
    with Engine.load(probe(), pin_dir=None, flavour=options.flavour) as engine:
        print(f"{'program':32} {'verifier ms':>12} {'load ms':>9} {'walked':>9} {'states':>8} {'peak':>7}")
        for choice, program in chosen(engine, options.programs):
            try:
                log, took = load(engine, choice, program, LOG_STATS)
                cost = parse_statistics(log, took)
                if options.functions or options.lines:
                    log, _ = load(engine, choice, program, LOG_LEVEL)
            except KernelError as error:
                print(f"{program:32} {error}", flush=True)
                continue
            print(
                f"{program:32} {cost.verifier * 1e3:12.1f} {cost.load * 1e3:9.1f} {cost.walked:9} {cost.states:8} {cost.peak:7}",
                flush=True,
            )
            total += cost.verifier
            count += 1
            if options.functions or options.lines:
                for name, walked in parse_functions(log, "(program)").items():
                    functions.setdefault(name, []).append(walked)
                lines.update(parse_lines(log))
    print(f"{int(count)} programs, {total * 1e3:.1f} ms of the verifier")
    if options.functions:
        print(f"\n{'function':32} {'programs':>9} {'walked, mean':>13} {'sum':>10}")
        for name, counts in sorted(functions.items(), key=lambda item: -sum(item[1])):
            print(f"{name:32} {len(counts):9} {sum(counts) // len(counts):13} {sum(counts):10}")
    if options.lines:
        print(f"\n{'line':32} {'walked, sum':>13}")
        for place, walked in lines.most_common(options.lines):
            print(f"{place:32} {walked:13}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
