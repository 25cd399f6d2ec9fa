# SPDX-License-Identifier: Apache-2.0
"""Policies of many shapes in, processor seconds of compiling each, with the target, out.

`python benchmarks/compile.py [WORD ...]`: the rows that have one of the words in their names, all without. Each row is a process of its
own, so that none finds in a cache what another has left there; one that takes much longer than its target is given up.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from bpfence.compiler.compile import Compiled, compile_policies
from bpfence.dialects.falco.load import load_files
from bpfence.dialects.falco.lower.policies import policies as lowered
from bpfence.errors import CompileError
from bpfence.policy import And, Atom, Op, PolicySet
from tests.unit.compiler import shapes
from tests.unit.compiler.test_compile import many_rules

ROOT = Path(__file__).resolve().parent.parent
FALCO = ROOT.parent / "shared" / "corpora" / "falco" / "falco_rules.yaml"
GIVE_UP = 8


class Row(NamedTuple):
    """A shape and the seconds that it may take. `before`: compiled first, without being measured."""

    name: str
    seconds: float
    make: Callable[[], PolicySet]
    before: Callable[[], PolicySet] | None = None


def falco(copies: int) -> PolicySet:
    """Falco's stable rules, and copies of them."""
    found, _ = load_files([FALCO])
    (policy,) = lowered(found.rules)
    return shapes.altered(policy, copies)


ROWS = (
    Row("25 Falco rules", 1, lambda: falco(1)),
    Row("100 Falco rules", 3, lambda: falco(4)),
    Row("1,000 Falco rules", 30, lambda: falco(40)),
    Row("1,000 path contains", 3, lambda: shapes.contained(1000)),
    Row("10 args contains", 1, lambda: shapes.contained(10, "process.args")),
    Row("10,000 path unless exe", 10, lambda: shapes.excepted(10_000)),
    Row("1,000 mixed", 1, lambda: many_rules(1000)),
    Row("10,000 mixed", 6, lambda: many_rules(10_000)),
    Row("one of 10,000 changed", 0.5, lambda: shapes.excepted(10_000, 5000), lambda: shapes.excepted(10_000)),
    Row("one of 10,000 mixed changed", 0.5, lambda: changed(many_rules(10_000)), lambda: many_rules(10_000)),
    Row("one of 10,000 mixed replaced", 3, lambda: replaced(many_rules(10_000)), lambda: many_rules(10_000)),
)


def changed(policies: PolicySet) -> PolicySet:
    """The same with one rule about another path."""
    (policy,) = policies.policies
    rule = policy.rules[5000]
    assert isinstance(rule.condition, And)
    parts = (Atom("file.path", Op.GLOB, "/srv/changed/**"), *rule.condition.parts[1:])
    return shapes.policies((*policy.rules[:5000], msgspec.structs.replace(rule, condition=And(parts)), *policy.rules[5001:]))


def replaced(policies: PolicySet) -> PolicySet:
    """The same with one rule of another shape."""
    (policy,) = policies.policies
    other = shapes.excepted(1).policies[0].rules[0]
    return shapes.policies((*policy.rules[:5000], other, *policy.rules[5001:]))


def measure(row: Row) -> str:
    """Processor seconds and sizes, in words."""
    if row.before:
        compile_policies(row.before())
    policies = row.make()
    begin = time.process_time()
    try:
        words = sizes(compile_policies(policies))
    except CompileError as error:
        words = f"{error.diagnostics[0].code}: {error.diagnostics[0].message[:80]}"
    took = time.process_time() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    missed = "" if took <= row.seconds else "(missed)"
    return f"{row.name:28} {took:8.2f} s   at most {row.seconds:5.1f} s {missed:8}  {words}; {peak:.0f} MiB of memory"


def sizes(compiled: Compiled) -> str:
    """What became of it."""
    states = sum(dimension.states for dimension in compiled.dims)
    groups = compiled.stats.groups
    nodes, rows = sum(group.nodes for group in groups), sum(group.rows for group in groups)
    image = len(compiled.image) / (1 << 20)
    return f"{len(compiled.dims)} dimensions, {states} states, {len(groups)} groups, {nodes} nodes, {rows} rows, {image:.1f} MiB"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Processor seconds of compiling policies of many shapes.")
    parser.add_argument("words", nargs="*", help="rows to measure: those with one of these words in their names")
    parser.add_argument("--row", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row is not None:
        print(measure(ROWS[options.row]))
        return 0
    for number, row in enumerate(ROWS):
        if options.words and not any(word in row.name for word in options.words):
            continue
        command = [sys.executable, str(Path(__file__).resolve()), "--row", str(number)]
        try:
            subprocess.run(command, check=True, timeout=30 + GIVE_UP * row.seconds)
        except subprocess.TimeoutExpired:
            print(f"{row.name:28} given up after {30 + GIVE_UP * row.seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
