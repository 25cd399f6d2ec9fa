# SPDX-License-Identifier: Apache-2.0
"""Policies of many shapes in, processor seconds of compiling each, beside the target, out.

`python benchmarks/compile.py [WORD ...]`: the rows that have one of the words in their names, all without. Each row is a process of its
own, so that none finds in a cache what another has left there; one that takes much longer than its target is given up. results.py keeps the
figures where all rows were measured.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks import results
from benchmarks.results import Figure
from benchmarks.targets import BY_NAME
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
    """A shape, by the name of its target. `before`: compiled first, without being measured."""

    name: str
    make: Callable[[], PolicySet]
    before: Callable[[], PolicySet] | None = None


def falco(copies: int) -> PolicySet:
    """Falco's stable rules, and copies of them."""
    found, _ = load_files([FALCO])
    (policy,) = lowered(found.rules)
    return shapes.altered(policy, copies)


ROWS = (
    Row("25 Falco rules", lambda: falco(1)),
    Row("100 Falco rules", lambda: falco(4)),
    Row("1,000 Falco rules", lambda: falco(40)),
    Row("1,000 path contains", lambda: shapes.contained(1000)),
    Row("10 args contains", lambda: shapes.contained(10, "process.args")),
    Row("10,000 path unless exe", lambda: shapes.excepted(10_000)),
    Row("1,000 mixed", lambda: many_rules(1000)),
    Row("10,000 mixed", lambda: many_rules(10_000)),
    Row("one of 10,000 changed", lambda: shapes.excepted(10_000, 5000), lambda: shapes.excepted(10_000)),
    Row("one of 10,000 mixed changed", lambda: changed(many_rules(10_000)), lambda: many_rules(10_000)),
    Row("one of 10,000 mixed replaced", lambda: replaced(many_rules(10_000)), lambda: many_rules(10_000)),
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


def measure(row: Row) -> tuple[float, str]:
    """Processor seconds, and what came of it in words."""
    if row.before:
        compile_policies(row.before())
    policies = row.make()
    begin = time.process_time()
    try:
        words = sizes(compile_policies(policies))
    except CompileError as error:
        words = f"{error.diagnostics[0].code}: {error.diagnostics[0].message[:80]}"
    took = time.process_time() - begin
    return took, f"{words}; {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB of memory"


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
        print(json.dumps(measure(ROWS[options.row])))
        return 0
    figures = {}
    for number, row in enumerate(ROWS):
        if options.words and not any(word in row.name for word in options.words):
            continue
        limit = BY_NAME[row.name].limit
        command = [sys.executable, str(Path(__file__).resolve()), "--row", str(number)]
        try:
            done = subprocess.run(command, check=True, timeout=30 + GIVE_UP * limit, stdout=subprocess.PIPE, text=True)
        except subprocess.TimeoutExpired:
            print(f"{row.name:28} given up after {30 + GIVE_UP * limit:.0f} s")
            continue
        took, words = json.loads(done.stdout)
        figures[row.name] = Figure(took, "s")
        print(f"{row.name:28} {took:8.2f} s   at most {limit:5.1f} s {'' if took <= limit else '(missed)':8}  {words}")
    if not options.words:
        results.keep("compile", figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
