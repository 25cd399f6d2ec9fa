# SPDX-License-Identifier: Apache-2.0
"""A figure in, what it is to be out: the one home of every target of the benchmarks. Read by report.py and by what prints figures."""

from __future__ import annotations

from typing import Final, NamedTuple

from benchmarks.results import Figure, under

SHIPPED: Final = "shipped policies, enforcing"
FALCO: Final = "Falco, 25 stable rules"
TRACING: Final = "1 tracing policy"
TRACING_10: Final = "10 tracing policies"
PROCESSES: Final = "executions and ends reported"
EMPTY: Final = "empty engine"
CONCERNED: Final = "concerned"
OTHER: Final = "not concerned"


class Target(NamedTuple):
    """`how` a figure is to be: "percent" or "added", at most so many per cent or so much more than its base; "most" or "least"."""

    name: str
    title: str
    how: str
    limit: float

    def judged(self, figure: Figure) -> float:
        """The number that `limit` is for."""
        if self.how not in ("percent", "added"):
            return figure.value
        assert figure.base is not None, f"{self.name} has no base"
        return figure.value - figure.base if self.how == "added" else 100 * (figure.value / figure.base - 1)

    def met(self, figure: Figure) -> bool:
        """Whether the figure is as it is to be."""
        found = self.judged(figure)
        return found >= self.limit if self.how == "least" else found <= self.limit


TARGETS: Final = (
    Target(under(SHIPPED, "gcc", CONCERNED), "gcc, shipped policies", "percent", 2),
    Target(under(SHIPPED, "find+grep", CONCERNED), "find+grep, the same", "percent", 2),
    Target(under(SHIPPED, "sqlite", CONCERNED), "sqlite commits, the same", "percent", 3),
    Target(under(SHIPPED, "nginx+ab", CONCERNED), "nginx+ab, the same", "percent", 2),
    Target(under(SHIPPED, "redis", CONCERNED), "redis, the same", "percent", 2),
    Target(under(SHIPPED, "spawns", CONCERNED), "spawns of a shell, the same", "percent", 2),
    Target(under(SHIPPED, "python", CONCERNED), "Python start, the same", "percent", 2),
    Target(under(SHIPPED, "pwrite", CONCERNED), "pwrite of 64 bytes, the same", "added", 250),
    Target(under(SHIPPED, "create-rename-unlink", CONCERNED), "create+rename+unlink, the same", "added", 6000),
    Target(under(SHIPPED, "connect", CONCERNED), "connect+accept, the same", "added", 1500),
    Target(under(SHIPPED, "spawn", CONCERNED), "posix_spawn of a static program, the same", "added", 20_000),
    Target(under(FALCO, "open-short", OTHER), "open, short path, a process that Falco's 25 rules do not concern", "added", 900),
    Target(under(FALCO, "open-long", OTHER), "open, deep path, the same", "added", 900),
    Target(under(TRACING, "open-short", OTHER), "open, short path, 1 tracing policy on every open", "added", 700),
    Target(under(TRACING, "open-long", OTHER), "open, deep path, the same", "added", 1000),
    Target(under(TRACING_10, "open-short", OTHER), "open, short path, 10 such policies", "added", 700),
    Target(under(TRACING_10, "open-long", OTHER), "open, deep path, the same", "added", 1000),
    Target(under(PROCESSES, "spawn", OTHER), "posix_spawn of a static program, all executions and ends reported", "added", 40_000),
    Target(under(PROCESSES, "fork", OTHER), "fork+exit, the same", "added", 12_000),
    Target(under(EMPTY, "start"), "`run` to enforcement in force, no rules", "most", 2),
    Target(under(SHIPPED, "start"), "the same, shipped policies", "most", 4),
    Target(under(FALCO, "start"), "the same, Falco's 25 rules", "most", 5),
    Target("bpfence --help", "`bpfence --help`", "most", 0.1),
    Target("bpfence check", "`bpfence check` of one file", "most", 0.15),
    Target("25 Falco rules", "compile Falco's 25 rules", "most", 1),
    Target("100 Falco rules", "100 Falco rules, every literal another", "most", 3),
    Target("1,000 Falco rules", "1,000 such", "most", 30),
    Target("1,000 path contains", "1,000 rules `path contains`", "most", 3),
    Target("10 args contains", "10 rules `args contains`", "most", 1),
    Target("10,000 path unless exe", "10,000 rules `path`, `unless exe`", "most", 10),
    Target("1,000 mixed", "1,000 rules of a fleet", "most", 1),
    Target("10,000 mixed", "10,000 such", "most", 6),
    Target("one of 10,000 changed", "the rules `unless exe` again, one changed", "most", 0.5),
    Target("one of 10,000 mixed changed", "those of a fleet again, one changed", "most", 0.5),
    Target("one of 10,000 mixed replaced", "the same, one of another shape", "most", 3),
    Target("reload", "reload, one rule of 10,000 changed", "most", 0.5),
    Target("alert", "user space: native alerts", "least", 100e3),
    Target("limited", "native alerts over their rate limit", "least", 100e3),
    Target("rejected", "candidates rejected", "least", 300e3),
    Target("match", "Falco matches with their lines", "least", 30e3),
    Target("kernel memory, three rules", "kernel memory, three rules, 2 CPUs", "most", 12),
    Target("kernel memory, 1,000 policies", "the same, 1,000 policies", "most", 16),
    Target(under(FALCO, "resident"), "agent resident, Falco's 25 rules", "most", 80),
    Target("storm latency, p99", "alert latency in a storm, 99 of 100", "most", 5),
    Target("record of a plain open", "record of a plain open", "most", 300),
)  # fmt: skip
BY_NAME: Final = {target.name: target for target in TARGETS}
