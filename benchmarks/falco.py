# SPDX-License-Identifier: Apache-2.0
"""Falco's stable rules and recorded events in, rules evaluated a second out: what one core does in user space.

Run by `make bench`, or by itself: `python benchmarks/falco.py [RULES]`. Processor time of the best of several rounds, for decoding recorded
lines, confirming (every rule of the event's type tried), rendering what matched. Then the time to read the rules and to compile tables of
them for the kernel, and memory. results.py keeps the figures.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

from benchmarks import results
from benchmarks.results import Figure
from bpfence.agent.loading import load
from bpfence.compiler.compile import compile_policies
from bpfence.dialects.falco import load as falco
from bpfence.dialects.falco.confirm.event import decode
from bpfence.dialects.falco.confirm.rules import RuleSet

ROOT = Path(__file__).resolve().parent.parent
RULES = ROOT.parent / "shared" / "corpora" / "falco" / "falco_rules.yaml"
EVENTS = ROOT / "tests" / "cases" / "falco" / "stable"
ROUNDS = 7
REPEAT = 60


def best(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Seconds of processor time of the fastest of several rounds."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def lines() -> list[bytes]:
    """The recorded events of the test cases, half of which match a rule."""
    found = []
    for path in sorted(EVENTS.glob("*.jsonl")):
        found += [line for line in path.read_bytes().splitlines() if line and not line.startswith(b"#")]
    return found * REPEAT


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Falco rules in user space: events and rules a second on one core.")
    parser.add_argument("rules", nargs="?", type=Path, default=RULES, help="a rule file (default: Falco's stable rules)")
    path = parser.parse_args().rules
    if not path.exists():
        print(f"skipped: {path} is missing")
        return 0
    loading = best(lambda: falco.load_files([path]))
    policies = load([str(path)]).policies
    lowering = best(lambda: load([str(path)])) - loading
    image = len(compile_policies(policies).image)
    compiling = best(lambda: compile_policies(policies), 2)
    tracemalloc.start()
    loaded, _ = falco.load_files([path])
    rules = RuleSet(falco.select(loaded.rules), matching="all")
    recorded = lines()
    for line in recorded[: len(recorded) // REPEAT]:
        rules.matches(decode(line))
    memory = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    events = [decode(line) for line in recorded[: len(recorded) // REPEAT]]
    tried = REPEAT * sum(len(rules.candidates(event.type)) for event in events)
    matched = REPEAT * sum(len(list(rules.matching_rules(event))) for event in events)

    def confirm() -> None:
        for line in recorded:
            for _ in rules.matching_rules(decode(line)):
                pass

    def everything() -> None:
        for line in recorded:
            rules.matches(decode(line))

    def read() -> None:
        for line in recorded:
            decode(line)

    decoding = best(read)
    confirming = best(confirm) - decoding
    rendering = best(everything) - decoding - confirming
    total = decoding + confirming + rendering
    count = len(recorded)
    print(f"{len(rules.rules)} rules; {count:,} events, {tried / count:.1f} rules tried an event, {matched:,} matches")
    print(f"read the rules       {loading * 1000:8.1f} ms")
    print(f"lower                {lowering * 1000:8.1f} ms")
    print(f"compile tables       {compiling * 1000:8.1f} ms   {image:,} bytes")
    print(f"decode               {decoding / count * 1e6:8.2f} µs an event")
    print(f"confirm              {confirming / count * 1e6:8.2f} µs an event   {tried / confirming:12,.0f} rules a second")
    print(f"render               {rendering / matched * 1e6:8.2f} µs a match")
    print(
        f"all three            {total / count * 1e6:8.2f} µs an event   {tried / total:12,.0f} rules a second, {count / total:,.0f} events"
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"memory of rules      {memory / 1e6:8.1f} MB, of the process {peak:.0f} MB at most")
    results.keep("falco", {
        "falco rules": Figure(len(rules.rules), "rules"),
        "falco tried": Figure(tried / count, "rules an event"),
        "falco decode": Figure(decoding / count * 1e6, "µs"),
        "falco confirm": Figure(confirming / count * 1e6, "µs"),
        "falco render": Figure(rendering / matched * 1e6, "µs"),
        "falco rules a second": Figure(tried / total, "rules a second"),
        "falco events": Figure(count / total, "a second"),
        "falco read": Figure(loading * 1e3, "ms"),
        "falco lower": Figure(lowering * 1e3, "ms"),
        "falco compile": Figure(compiling * 1e3, "ms"),
        "falco image": Figure(image / 1024, "KiB"),
    })  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
