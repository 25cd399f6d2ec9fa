# SPDX-License-Identifier: Apache-2.0
"""A PolicySet in, the kernel's tables out.

`compile_policies` is called by the agent, `check` and `explain`. Pure and deterministic: no files, no clock, the same bytes for
the same policies. What the kernel can do comes in as `supported_events`. The passes, in this order:

    workloads   policies that select containers → the same over numbers of their classes; policies in doubt → two
    lowering    rules and defaults → clauses over kernel tests; what cannot be decided exactly is an error
    plan        clauses that would multiply → clauses that add
    classes     tests → dimensions (automata, ranges, bits) and the classes in which each test is true
    diagram     clauses → decision diagrams, split over groups under a budget
    verdicts    leaves → interned verdicts
    image       all of it → pages of words
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from operator import itemgetter
from typing import Final, NamedTuple

import msgspec

from bpfence import abi
from bpfence.compiler import core
from bpfence.compiler import image as images
from bpfence.compiler.cache import CACHED_EDGES, CACHED_RULES, Cache
from bpfence.compiler.classes import DESCENT, Classification, Dimension, Test, classify
from bpfence.compiler.decided import Diagrams as Decided
from bpfence.compiler.diagram import Builder, Clause, Conditions, Group, Leaf, TooLarge
from bpfence.compiler.groups import Partition, cost
from bpfence.compiler.image import VerdictRow, with_generation
from bpfence.compiler.lowering import Last, Lowered, counter_of, lower_policies, needed_bits
from bpfence.compiler.plan import Family, Planned, late, plan
from bpfence.compiler.workloads import Class, classes, numbered
from bpfence.errors import CompileError, Diagnostic, Location
from bpfence.fields import EVENT_BY_NAME, EVENTS
from bpfence.policy import Action, PolicySet, Probe, Rule, When, with_doubts

BASE_BUDGET: Final = 200_000
BUDGET_PER_RULE: Final = 60
BUDGET_PER_CONFIRMED: Final = 300


class Limits(msgspec.Struct, frozen=True):
    """Budgets; None: grows with the policies. `states`: per automaton. `edges`: nodes, children and rows of one group."""

    states: int | None = None
    edges: int | None = None
    groups: int = abi.ABI_MAX_GROUPS


class Verdict(msgspec.Struct, frozen=True):
    """What a leaf means: what is done, the errno of deny and kill, the matching rules (numbers), and whether they only may match.

    `first` is the rule that action and errno come from: between groups that agree on the action, the smaller one's errno counts. `signals`:
    bit s - 1 is signal s, which the acting process is sent.
    """

    action: Action
    error: int
    rules: tuple[int, ...]
    uncertain: bool
    first: int = 0
    signals: int = 0


class DimensionInfo(msgspec.Struct, frozen=True):
    """One dimension, for explanations."""

    name: str
    field: str
    kind: int
    slot: int
    classes: int
    states: int
    subject: bool


class GroupStats(msgspec.Struct, frozen=True):
    """Size of one group's diagrams; `events`: event name -> (nodes, children) that its walk can reach."""

    rules: int
    nodes: int
    edges: int
    rows: int
    events: dict[str, tuple[int, int]]


class Stats(msgspec.Struct, frozen=True):
    """Sizes of everything; bytes of the image by part."""

    groups: tuple[GroupStats, ...]
    bytes: dict[str, int]


class Compiled(msgspec.Struct, frozen=True):
    """One generation. `rules` (default postures included, as rules named "default") and `modes` go together by number.

    A rule's `when` says which records speak for it: see Rule. `objects[b]` is the path of object bit b; `events` are those that
    some verdict needs; `unreachable` holds warnings about rules that can never match or have no effect. `widened`: fields of which some
    tests of rules that user space confirms are done by user space alone. `families`: of their rules a verdict has the first that matches;
    `plan.siblings` finds the others. `workloads`: the classes of containers, by their numbers: see `workloads.numbered_classes`.
    `probes`: the sensors of the policies, each once. `counters`: by the number of a rule that counts that of its counter.
    """

    image: bytes
    rules: tuple[Rule, ...]
    modes: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    objects: tuple[str, ...]
    dims: tuple[DimensionInfo, ...]
    events: frozenset[str]
    stats: Stats
    unreachable: tuple[Diagnostic, ...]
    widened: tuple[str, ...] = ()
    families: tuple[Family, ...] = ()
    workloads: tuple[Class, ...] = ()
    probes: tuple[Probe, ...] = ()
    counters: dict[int, int] = {}


def compile_policies(
    policies: PolicySet, *, generation: int = 1, supported_events: Collection[str] | None = None, limits: Limits = Limits(),  # noqa: B008
    details: bool = False, workloads: Iterable[Class] = (),
) -> Compiled:  # fmt: skip
    """The tables for a policy set; CompileError with every finding when some rule cannot be decided in the kernel.

    `details`: records carry what Falco's fields need (IMAGE_DETAILS) even where no rule waits for a result. `workloads`: classes of
    containers that there are.
    """
    with _collector_paused():
        known = classes(with_doubts(policies), workloads)
        made = _compile(numbered(with_doubts(policies), known), generation, supported_events, limits, details)
        probes = _probes(policies)
        return msgspec.structs.replace(made, workloads=known, probes=probes) if known or probes else made


def _probes(policies: PolicySet) -> tuple[Probe, ...]:
    """The sensors of all policies, each once: one that somebody cannot do without is not optional. CompileError: two have one number."""
    found: dict[int, Probe] = {}
    for policy in policies.policies:
        for probe in policy.probes:
            other = found.setdefault(probe.number, probe)
            if other.identity != probe.identity:
                what = f"sensors on {other.place} and {probe.place} have the same number by chance"
                raise CompileError([Diagnostic(policy.location, what, "add an argument of type nop to one of them")])
            if not probe.optional:
                found[probe.number] = probe
    return tuple(found.values())


def _compile(policies: PolicySet, generation: int, supported_events: Collection[str] | None, limits: Limits, details: bool) -> Compiled:
    """A function of its own, so that all that is left over is gone before the collector would walk it."""
    many = sum(len(policy.rules) for policy in policies.policies) >= CACHED_RULES
    lowered = (LOWERED.lower if many else lower_policies)(policies, supported_events)
    if lowered.errors:
        raise CompileError([*lowered.errors, *lowered.warnings])
    planned = plan(lowered)
    tests = dict(entry for entry in planned.tests if entry)
    classification = classify(tests, limits.states)
    columns = _bind(lowered.conditions, planned, classification)
    made = _diagrams(lowered, planned, columns, classification, limits)
    try:
        packed = images.pack(classification, made.written, made.rows, generation, _features(lowered, tests, details), needed_bits(policies))
    except images.ImageTooLarge as error:
        raise CompileError([Diagnostic(Location("<policies>"), str(error), "use fewer or broader rules", code="too-large")]) from None
    stats = Stats(made.stats, packed.sizes)
    return Compiled(
        packed.image,
        tuple(lowered.rules),
        tuple(lowered.modes),
        made.verdicts,
        classification.objects,
        tuple(DimensionInfo(d.name, d.field, d.kind, d.slot, d.classes, d.states, d.subject) for d in classification.dimensions),
        frozenset(name for group in stats.groups for name in group.events),
        stats,
        (*lowered.warnings, *_unreachable(lowered, planned.clauses, made.verdicts)),
        planned.widened,
        planned.families,
        counters=dict(_counters(lowered, classification)),
    )


def _counters(lowered: Lowered, classification: Classification) -> Iterator[tuple[int, int]]:
    for number, (rule, mode) in enumerate(zip(lowered.rules, lowered.modes, strict=True)):
        found = rule.threshold and classification.of_test.get(counter_of(rule, rule.threshold, mode))
        if found:
            yield number, classification.dimensions[found[0]].slot & abi.COUNT_NUMBER_MASK


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Nothing built here is cyclic garbage; the collector would walk millions of live tuples again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _bind(conditions: Conditions, planned: Planned, classification: Classification) -> list[Dimension]:
    """Gives every test its dimension, and once more one behind all others, for those that are made late: the columns of the diagrams. What
    counts has its own behind these: asking counts, so all else is asked before."""
    nothing: tuple[int, tuple[int, ...]] = (0, ())
    truth = [classification.of_test[entry[0]] if entry else nothing for entry in planned.tests]
    dimensions = classification.dimensions
    can = [d for d, dimension in enumerate(dimensions) if dimension.subject and dimension.kind == abi.DIM_STRING]
    counting = [d for d, dimension in enumerate(dimensions) if dimension.kind == abi.DIM_COUNT]
    column = {d: len(dimensions) + n for n, d in enumerate((*can, *counting))}
    last = {d: column[d] for d in counting}
    truth = [(last.get(d, d), found) for d, found in truth]
    conditions.bind([*truth, *((column.get(d, d), found) for d, found in truth)])
    return [*dimensions, *(msgspec.structs.replace(dimensions[d], subject=False, column=d) for d in (*can, *counting))]


class Diagrams(NamedTuple):
    """What rules come to: verdicts and their rows, the sizes of groups, and the groups as they are written."""

    verdicts: tuple[Verdict, ...]
    rows: tuple[VerdictRow, ...]
    stats: tuple[GroupStats, ...]
    written: images.Diagrams


LOWERED: Final = Last()
DIAGRAMS: Final = Cache[Diagrams](CACHED_EDGES, lambda made: made.written.size)


def _diagrams(lowered: Lowered, planned: Planned, columns: Sequence[Dimension], classification: Classification, limits: Limits) -> Diagrams:
    """Those made before, where rules differ in nothing but the texts and numbers that they look for."""

    def make() -> Diagrams:
        clauses = late(lowered.conditions, planned.clauses, classification.dimensions, len(planned.tests))
        groups = _groups(lowered, clauses, columns, classification, limits)
        verdicts, leaf_verdicts = _verdicts(lowered, groups, signals)
        rows = tuple(VerdictRow(v.action, v.error, _any_of(reports, v.rules), v.first, v.signals) for v in verdicts)
        return Diagrams(tuple(verdicts), rows, tuple(map(_group_stats, groups)), images.Diagrams(groups, leaf_verdicts))

    reports, signals = list(map(_report, lowered.rules)), _signals(lowered)
    if len(lowered.rules) < CACHED_RULES:
        return make()
    masks = {clause.events: None for clause in planned.clauses}
    number = {mask: n for n, mask in enumerate(masks)}
    shape = (
        lowered.conditions.shape(),
        [(clause.rule, number[clause.events], clause.condition) for clause in planned.clauses],
        [str(mask) for mask in masks],
        [(column.kind, column.subject, column.joined, column.classes, column.column) for column in columns],
        sorted(_cautious(lowered)),
        sorted(_doubtful(columns)),
        [
            (int(action), rule.errno, bool(rule.confirm), signal)
            for action, rule, signal in zip(lowered.actions, lowered.rules, signals, strict=True)
        ],
        reports,
        limits,
    )
    return DIAGRAMS.get(hashlib.blake2b(msgspec.msgpack.encode(shape)).digest(), make)


def _groups(
    lowered: Lowered, clauses: Sequence[Clause], dimensions: Sequence[Dimension], classification: Classification, limits: Limits
) -> list[Group]:
    """One group when it fits the budget; otherwise its rules are halved, at most `limits.groups` parts."""
    confirmed = frozenset(number for number, rule in enumerate(lowered.rules) if rule.confirm)
    usual = BASE_BUDGET + BUDGET_PER_RULE * len(lowered.rules) + BUDGET_PER_CONFIRMED * len(confirmed)
    budget = usual if limits.edges is None else limits.edges
    conditions = lowered.conditions
    severity = [int(action) for action in lowered.actions]
    cautious = _cautious(lowered)
    doubtful = _doubtful(dimensions)
    partition = Partition(conditions, dimensions, clauses)
    pending = partition.first(clauses)
    done: list[Group] = []
    while pending:
        clauses = pending.pop(0)
        # The core does not know of cautious rules, which are few.
        make = Decided if core.BUILT and cautious.isdisjoint(clause.rule for clause in clauses) else Builder
        builder = make(conditions, dimensions, classification.subjects, severity, abi.ABI_MAX_EVENTS, budget, confirmed, cautious, doubtful)
        try:
            done.append(builder.build(clauses))
            continue
        except TooLarge:
            parts = partition.split(clauses, limits.groups - len(done) - len(pending))
        if len(done) + len(pending) + len(parts) > limits.groups or len(parts) < 2:
            raise _too_large(lowered, clauses, conditions) from None
        pending[:0] = parts
    return done


_READ_NUMBERS: Final = (
    abi.NUM_NET_FAMILY, abi.NUM_NET_PEER_PORT, *(abi.NUM_SENSOR_0 + number for number in range(abi.SENSOR_ARGS)),
)  # fmt: skip
_READ_TEXTS: Final = (abi.STR_NET_PEER_IP, *(abi.STR_SENSOR_0 + number for number in range(abi.SENSOR_ARGS)))


def _signals(lowered: Lowered) -> list[int]:
    """By the numbers of rules: the signal that each sends in its policy's mode, as a bit."""
    known = zip(lowered.rules, lowered.modes, strict=True)
    return [1 << rule.signal - 1 if rule.signal and mode != "audit" else 0 for rule, mode in known]


def _cautious(lowered: Lowered) -> frozenset[int]:
    """Rules that kill, or send a signal, at sensors alone which cannot deny: what such a sensor could not read or count does neither."""

    def of_sensor(event: str) -> bool:
        return EVENT_BY_NAME[event].sensor and not EVENT_BY_NAME[event].deniable

    sends = zip(lowered.actions, _signals(lowered), strict=True)
    numbers = (number for number, (action, signal) in enumerate(sends) if action is Action.KILL or signal)
    return frozenset(number for number in numbers if all(map(of_sensor, lowered.rules[number].events)))


def _doubtful(dimensions: Sequence[Dimension]) -> frozenset[int]:
    """Dimensions over what a sensor may not have been able to read, which are those with CAUSE_VALUE among what bpf/sensor.bpf.c reads,
    or to count."""

    def read(dimension: Dimension) -> bool:
        if dimension.kind == abi.DIM_COUNT:
            return True
        texts = dimension.kind in (abi.DIM_STRING, abi.DIM_TEXTS)
        slots = {dimension.slot, *((dimension.mask,) if dimension.kind in (abi.DIM_TEXTS, abi.DIM_NUMBERS) else ())}
        if dimension.kind == abi.DIM_PRESENT and dimension.slot >= abi.ABI_NUM_SLOTS:
            texts, slots = True, {dimension.slot - abi.ABI_NUM_SLOTS}
        return dimension.kind not in DESCENT and not slots.isdisjoint(_READ_TEXTS if texts else _READ_NUMBERS)

    return frozenset(number for number, dimension in enumerate(dimensions) if read(dimension))


def _too_large(lowered: Lowered, clauses: Sequence[Clause], conditions: Conditions) -> CompileError:
    costs: dict[int, int] = {}
    for clause in clauses:
        costs[clause.rule] = max(costs.get(clause.rule, 0), cost(conditions, clause))
    worst = sorted(costs, key=lambda rule: (-costs[rule], rule))[:3]
    return CompileError(
        [
            Diagnostic(
                lowered.rules[rule].location,
                f"policy {lowered.rules[rule].policy!r}, rule {lowered.rules[rule].name!r}: the rules together need too large tables; "
                f"this is one of the costliest (its patterns are true in {costs[rule]} classes)",
                "anchor its patterns (/dir/** rather than **/x), or test fewer different fields",
                code="too-large",
            )
            for rule in worst
        ]
    )


def _verdicts(lowered: Lowered, groups: Sequence[Group], signals: Sequence[int]) -> tuple[list[Verdict], list[list[int]]]:
    """Interned verdicts, 0 is nothing; and per group each leaf's verdict number."""
    verdicts = [Verdict(Action.NONE, 0, (), False)]
    numbers: dict[Leaf, int] = {Leaf((), False): 0}
    for group in groups:
        for leaf in group.leaves:
            if leaf not in numbers:
                numbers[leaf] = len(verdicts)
                verdicts.append(_verdict(lowered, leaf, signals))
    return verdicts, [[numbers[leaf] for leaf in group.leaves] for group in groups]


def _verdict(lowered: Lowered, leaf: Leaf, signals: Sequence[int]) -> Verdict:
    actions = {rule: Action.AUDIT if rule in leaf.doubted else lowered.actions[rule] for rule in leaf.rules}
    action = max(actions.values())
    first = next(rule for rule in leaf.rules if actions[rule] == action)
    sent = _any_of(signals, [rule for rule in leaf.rules if rule not in leaf.doubted])
    return Verdict(action, lowered.rules[first].errno if action >= Action.DENY else 0, leaf.rules, leaf.uncertain, first, sent)


def _report(rule: Rule) -> int:
    """REPORT_* and TO_* of a rule: when it is reported, and what for."""
    return rule.when.value | (abi.TO_CANDIDATES if rule.confirm else _RINGS.get(rule.action, abi.TO_DECISIONS))


def _any_of(reports: Sequence[int], rules: Sequence[int]) -> int:
    report = 0
    for number in rules:
        report |= reports[number]
    return report


_RINGS: Final = {Action.OBSERVE: abi.TO_TELEMETRY}
"""Where rules that nobody confirms are reported, but for those that are decisions."""


def _features(lowered: Lowered, tests: Iterable[Test], details: bool) -> int:
    """IMAGE_* of the header: what the kernel must look at besides the tables."""
    features = abi.IMAGE_DETAILS if details or any(rule.when != When.DECIDED for rule in lowered.rules) else 0
    for kind, slot, followed in {(test.kind, test.slot, test.kind == abi.DIM_BITS and isinstance(test.value, frozenset)) for test in tests}:
        if followed:
            features |= abi.IMAGE_NEEDS_OBJECTS
        elif kind == abi.DIM_COUNT:
            features |= abi.IMAGE_COUNTS
        elif kind in (abi.DIM_ANCESTORS, abi.DIM_NUMBERS, abi.DIM_TEXTS):
            continue  # of no subject diagram
        elif kind == abi.DIM_LINEAGE:
            features |= abi.IMAGE_FORK_CHANGES
        elif kind == abi.DIM_STRING or slot >= abi.ABI_NUM_SLOTS:
            text = slot % abi.ABI_NUM_SLOTS
            features |= {abi.STR_PARENT_EXE: abi.IMAGE_FORK_CHANGES, abi.STR_PROCESS_CGROUP: abi.IMAGE_SUBJECT_CGROUP}.get(text, 0)
        elif slot in (abi.NUM_PROCESS_UID, abi.NUM_PROCESS_GID):
            features |= abi.IMAGE_SUBJECT_IDS
        elif slot == abi.NUM_WORKLOAD:
            features |= abi.IMAGE_SUBJECT_CGROUP
    return features


def _unreachable(lowered: Lowered, clauses: Iterable[Clause], verdicts: Sequence[Verdict]) -> list[Diagnostic]:
    reached = {rule for verdict in verdicts if not verdict.uncertain for rule in verdict.rules}
    missed = dict.fromkeys(clause.rule for clause in clauses if clause.rule not in reached)
    return [
        Diagnostic(
            lowered.rules[rule].location,
            f"policy {lowered.rules[rule].policy!r}: rule {lowered.rules[rule].name!r} can never match",
            "its conditions contradict each other",
            "warning",
            "unreachable-rule",
        )
        for rule in missed
    ]


def _group_stats(group: Group) -> GroupStats:
    known: dict[frozenset[int], tuple[int, int]] = {}
    events: dict[str, tuple[int, int]] = {}
    below = [{node.uncertain, node.default, *map(_CHILD, node.children)} for node in group.nodes]
    for event in EVENTS:
        roots = frozenset(row[abi.CONSTANTS[event.id]] for row in group.rows)
        if roots == {~0}:
            continue
        if roots not in known:
            known[roots] = _reach(group, below, roots)
        events[event.name] = known[roots]
    return GroupStats(len(group.rules), len(group.nodes), group.edges, len(group.rows), events)


_CHILD: Final = itemgetter(1)


def _reach(group: Group, below: Sequence[AbstractSet[int]], roots: frozenset[int]) -> tuple[int, int]:
    """Nodes and edges of the diagrams that begin at `roots`. `below`: where each node leads."""
    seen = {root for root in roots if root >= 0}
    stack = list(seen)
    edges = 0
    while stack:
        number = stack.pop()
        edges += len(group.nodes[number].children) + 2
        new = {child for child in below[number] if child >= 0} - seen
        seen |= new
        stack += new
    return len(seen), edges


__all__ = ["Compiled", "DimensionInfo", "GroupStats", "Limits", "Stats", "Verdict", "compile_policies", "with_generation"]
