# SPDX-License-Identifier: Apache-2.0
"""What an agent has counted in, Prometheus's text out.

`Meter` counts in the agent's loop, by additions to dictionaries that hold a bounded number of keys. `Metrics` makes the text of copies, in
the thread that answers scrapes, at most once a second; what the kernel has counted is read there, too. Nothing in the loop waits for it.
"""

from __future__ import annotations

import bisect
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from bpfence.alerts.alert import Alert, Line, Rendered
from bpfence.errors import BpfenceError, KernelError
from bpfence.events.loss import Loss
from bpfence.events.source import Observation, Refused
from bpfence.events.values import escape
from bpfence.kernel.measured import Measured
from bpfence.policy import Action

if TYPE_CHECKING:
    from bpfence.agent.agent import Agent

MAX_SERIES: Final = 2048
"""Rules that have series of their own; all further ones share OTHER."""
OTHER: Final = "<other>"
FRESH_SECONDS: Final = 1.0
"""A text is made at most this often, whoever asks."""
KERNEL_SECONDS: Final = 5.0
"""What the kernel has counted is read at most this often: of a full map that takes a tenth of a second."""
LATENCIES: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper bounds of the histogram, in seconds."""
STATISTICS: Final = Path("/proc/sys/kernel/bpf_stats_enabled")


class Metric(NamedTuple):
    """One metric. `kind` as Prometheus calls it; a counter's series end in `_total`."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()


METRICS: Final = (
    Metric("bpfence_build_info", "gauge", "1, with the version of bpfence", ("version",)),
    Metric("bpfence_policies", "gauge", "Policies in force, by mode", ("mode",)),
    Metric("bpfence_rules", "gauge", "Rules in force"),
    Metric("bpfence_generation", "gauge", "Number of the tables in force"),
    Metric("bpfence_enforcement_can_be_skipped", "gauge", "1 where this kernel can leave out runs of enforcing programs"),
    Metric("bpfence_events", "counter", "Events that the kernel has sent to the agent, by event", ("event",)),
    Metric("bpfence_events_refused", "counter", "Events like others of the same process that came to nothing, not looked at again"),
    Metric("bpfence_rule_matches", "counter", "Matches of rules, those included that rate limits have left out", ("policy", "rule")),
    Metric(
        "bpfence_alerts", "counter", "Alerts and observed events given to outputs", ("policy", "rule", "action", "severity")
    ),
    Metric("bpfence_alerts_uncertain", "counter", "Those among them that were told as uncertain"),
    Metric("bpfence_alerts_suppressed", "counter", "Alerts that rate limits have left out"),
    Metric("bpfence_alert_latency_seconds", "histogram", "From an act in the kernel until its alert is given to outputs"),
    Metric("bpfence_decisions", "counter", "Acts that the kernel has decided against or reported, by what was done", ("action",)),
    Metric("bpfence_uncertain_decisions", "counter", "Decisions that were uncertain, by cause", ("cause",)),
    Metric("bpfence_refused_acts", "counter", "Acts denied because the decision was uncertain, by cause", ("cause",)),
    Metric("bpfence_records", "counter", "Records that the kernel has written, by ring buffer", ("buffer",)),
    Metric("bpfence_records_lost", "counter", "Records that found no room in a ring buffer, by event", ("event",)),
    Metric("bpfence_records_undecodable", "counter", "Records that could not be read, by reason", ("reason",)),
    Metric("bpfence_records_missing", "counter", "Gaps in the numbers of records, by ring buffer", ("buffer",)),
    Metric("bpfence_kernel_counts", "counter", "Everything else that the kernel's programs count, by name", ("name",)),
    Metric("bpfence_skipped_runs", "counter", "Runs that the kernel has left out because the program was at work already", ("program",)),
    Metric("bpfence_output_lines", "counter", "Lines written, by output", ("output",)),
    Metric("bpfence_output_lines_dropped", "counter", "Lines that an output did not take in time", ("output",)),
    Metric("bpfence_output_queue_lines", "gauge", "Lines that wait for an output", ("output",)),
    Metric("bpfence_output_queue_bytes", "gauge", "The same in bytes", ("output",)),
    Metric("bpfence_compile_seconds", "counter", "Processor time spent on making tables in the loop's thread"),
    Metric("bpfence_updates", "counter", "Times that tables were made beside the loop, by what for and how it went", ("cause", "result")),
    Metric("bpfence_update_seconds", "counter", "Time spent on that: reading, compiling, loading programs", ("cause",)),
    Metric("bpfence_swaps", "counter", "Times that tables were put in force"),
    Metric("bpfence_swap_seconds", "counter", "Time spent on that"),
    Metric("bpfence_faults", "counter", "Faults of bpfence that were told and survived"),
    Metric("bpfence_containers", "gauge", "Containers known", ("runtime",)),
    Metric("bpfence_pods", "gauge", "Pods that these containers belong to"),
    Metric("bpfence_kernel_statistics", "gauge", "1 where the kernel keeps statistics of programs (kernel.bpf_stats_enabled)"),
    Metric("bpfence_program_runs", "counter", "Runs of a program while the kernel kept statistics", ("program",)),
    Metric("bpfence_program_seconds", "counter", "Time that these took", ("program",)),
    Metric("bpfence_map_entries", "gauge", "Entries of a map of the kernel's", ("map",)),
    Metric("bpfence_map_room", "gauge", "Entries that it can have", ("map",)),
    Metric("bpfence_table_pages", "gauge", "Pages of the tables in force, 1 MiB each"),
    Metric("bpfence_table_pages_room", "gauge", "Pages that they can have"),
)  # fmt: skip
"""All metrics, in their order: docs/metrics.md is made of this table."""

_BY_NAME: Final = {metric.name: metric for metric in METRICS}
_DECISIONS: Final = ("denied", "audited", "killed", "kill_refused")
_PREFIXES: Final = {"uncertain_": "bpfence_uncertain_decisions", "refused_": "bpfence_refused_acts"}
_SUFFIX: Final = "_written"
_NOT_TOLD: Final = frozenset({"decisions_lost", "candidates_lost", "telemetry_lost"})
"""Counters that `bpfence_records_lost` has by event."""

Labels = tuple[str, ...]
AlertKey = tuple[str, str, str, str]


class Meter:
    """What the loop counts; for one thread. Others take copies of its members."""

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()
        self.alerts: dict[AlertKey, int] = {}
        self.latency = [0] * (len(LATENCIES) + 1)
        self.latency_sum = 0.0
        self.refused = self.uncertain = self.faults = self.suppressed = 0
        self.updates: dict[tuple[str, str], int] = {}
        self.update_seconds: dict[str, float] = {}
        self.undecodable: dict[str, int] = {}
        self.missing: dict[str, int] = {}

    def batch(self, batch: Collection[Observation | Refused], lines: Iterable[Line], now: int) -> None:
        """Observations came and were made lines of. `now`: ns since 1970."""
        self.events.update([seen.event for seen in batch if type(seen) is Observation])
        for seen in batch:
            if type(seen) is Refused:
                self.refused += seen.number
        for line in lines:
            if isinstance(line, Rendered):
                seen, rule = line.made_of[:2]
                observed = rule.action is Action.OBSERVE
                key = (escape(rule.policy), escape(rule.rule), rule.action.name.lower(), "info" if observed else rule.severity)
                self._alert(key)
                self._late((now - seen.time) / 1e9)
            elif isinstance(line, Alert):
                self._alert((line.policy or "", line.rule or "", line.action, line.severity))
                self.uncertain += line.uncertain is True

    def _alert(self, key: AlertKey) -> None:
        count = self.alerts.get(key)
        if count is None and len(self.alerts) >= MAX_SERIES:
            key = (OTHER, OTHER, key[2], key[3])
            count = self.alerts.get(key)
        self.alerts[key] = (count or 0) + 1

    def _late(self, seconds: float) -> None:
        self.latency[bisect.bisect_left(LATENCIES, seconds)] += 1
        self.latency_sum += max(0.0, seconds)

    def loss(self, loss: Loss) -> None:
        """Records were lost."""
        for counts, more in ((self.undecodable, loss.undecodable), (self.missing, loss.gaps)):
            for name, count in more.items():
                name = name if name in counts or len(counts) < MAX_SERIES else OTHER
                counts[name] = counts.get(name, 0) + count

    def update(self, cause: str, result: str, seconds: float) -> None:
        """Tables were made beside the loop."""
        self.updates[cause, result] = self.updates.get((cause, result), 0) + 1
        self.update_seconds[cause] = self.update_seconds.get(cause, 0.0) + seconds


class Series(NamedTuple):
    """Samples of one metric: by the values of its labels. A histogram has the counts of its buckets, the last without bound, and a sum."""

    metric: Metric
    samples: Mapping[Labels, float]
    buckets: tuple[int, ...] = ()
    sum: float = 0.0


class Metrics:
    """The text of an agent's metrics, by any thread. KernelError where the library is not installed."""

    def __init__(self, agent: Agent, meter: Meter, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        try:
            from prometheus_client import CollectorRegistry, ProcessCollector, exposition
        except ImportError:
            needed = "metrics need the library prometheus-client"
            raise KernelError(needed, missing="prometheus-client", hint="pip install 'bpfence[metrics]'") from None
        self._agent = agent
        self._meter = meter
        self._version = _version()
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._kernel: tuple[float, Measured] = float("-inf"), Measured()
        self._made: dict[str, tuple[float, bytes]] = {}
        self._choose: Callable[[str], tuple[Callable[[Any], bytes], str]] = exposition.choose_encoder
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def text(self, accept: str = "") -> tuple[str, bytes]:
        """The type of the content and the content, in the newest form among those accepted."""
        encode, kind = self._choose(accept)
        with self._lock:
            now = self._monotonic()
            made, content = self._made.get(kind, (float("-inf"), b""))
            if now - made >= FRESH_SECONDS:
                if len(self._made) > 8:  # kinds that clients have made up
                    self._made.clear()
                content = encode(self._registry)
                self._made[kind] = self._monotonic(), content
        return kind, content

    def describe(self) -> list[Any]:
        """For the registry: names that no other collector may use. None are."""
        return []

    def collect(self) -> Iterator[Any]:
        """For the registry: the library's own form of all series."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        for metric, samples, buckets, total in self.series():
            if metric.kind == "histogram":
                bounds = [*map(str, LATENCIES), "+Inf"]
                sums = [sum(buckets[: index + 1]) for index in range(len(buckets))]
                yield HistogramMetricFamily(metric.name, metric.help, buckets=list(zip(bounds, sums, strict=True)), sum_value=total)
                continue
            made = (CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily)(metric.name, metric.help, labels=metric.labels)
            for labels, value in samples.items():
                made.add_metric(list(labels), value)
            yield made

    def series(self) -> Iterator[Series]:
        """All metrics that there is something to say of, in the order of their table."""
        found = {**self._of_agent(), **self._of_policies(), **self._of_kernel(self._measured())}
        for metric in METRICS:
            if metric.kind == "histogram":
                yield Series(metric, {}, tuple(self._meter.latency), self._meter.latency_sum)
            elif metric.name in found:
                yield Series(metric, found[metric.name])

    def _of_agent(self) -> dict[str, Mapping[Labels, float]]:
        meter, agent = self._meter, self._agent
        containers = agent.containers.containers()
        queues = agent.outputs.queues()
        return {
            "bpfence_build_info": {(self._version,): 1},
            "bpfence_events": _by_name(dict(meter.events)),
            "bpfence_events_refused": {(): meter.refused},
            "bpfence_alerts": _added(dict(meter.alerts).items()),
            "bpfence_alerts_uncertain": {(): meter.uncertain},
            "bpfence_alerts_suppressed": {(): meter.suppressed},
            "bpfence_rule_matches": _few(agent.matches()),
            "bpfence_records_undecodable": _by_name(dict(meter.undecodable)),
            "bpfence_records_missing": _by_name(dict(meter.missing)),
            "bpfence_output_lines": {(escape(queue.name),): queue.written for queue in queues},
            "bpfence_output_lines_dropped": {(escape(queue.name),): queue.dropped for queue in queues},
            "bpfence_output_queue_lines": {(escape(queue.name),): queue.lines for queue in queues},
            "bpfence_output_queue_bytes": {(escape(queue.name),): queue.size for queue in queues},
            "bpfence_updates": _added(dict(meter.updates).items()),
            "bpfence_update_seconds": {(cause,): seconds for cause, seconds in dict(meter.update_seconds).items()},
            "bpfence_faults": {(): meter.faults},
            "bpfence_containers": _by_name(Counter(escape(container.runtime or "unknown") for container in containers)),
            "bpfence_pods": {(): len({(pod.namespace, pod.name) for one in containers if (pod := one.pod) is not None})},
        }

    def _of_policies(self) -> dict[str, Mapping[Labels, float]]:
        in_force = self._agent.in_force()
        if in_force is None:
            return {}
        return {
            "bpfence_policies": _by_name(Counter(in_force.modes)),
            "bpfence_rules": {(): in_force.rules},
            "bpfence_generation": {(): in_force.generation},
            "bpfence_compile_seconds": {(): in_force.compile_seconds},
            "bpfence_swaps": {(): in_force.swaps},
            "bpfence_swap_seconds": {(): in_force.swap_seconds},
            "bpfence_enforcement_can_be_skipped": {(): in_force.can_skip},
        }

    def _measured(self) -> Measured:
        """What the kernel has counted lately. Where it cannot be read now, what it was the last time."""
        now = self._monotonic()
        read, measured = self._kernel
        if now - read >= KERNEL_SECONDS:
            try:
                measured = self._agent.measured() or measured
            except (BpfenceError, OSError, ValueError):  # the engine was closed meanwhile
                pass
            self._kernel = now, measured
        return measured

    @staticmethod
    def _of_kernel(measured: Measured) -> dict[str, Mapping[Labels, float]]:
        found: dict[str, dict[Labels, float]] = {
            "bpfence_records_lost": _by_name(measured.lost),
            "bpfence_skipped_runs": _by_name(measured.skipped),
            "bpfence_program_runs": {(name,): runs for name, (runs, _) in measured.programs.items() if runs},
            "bpfence_program_seconds": {(name,): spent / 1e9 for name, (runs, spent) in measured.programs.items() if runs},
            "bpfence_map_entries": {(name,): entries for name, (entries, _) in measured.fill.items()},
            "bpfence_map_room": {(name,): room for name, (_, room) in measured.fill.items()},
            "bpfence_table_pages": {(): measured.pages[0]},
            "bpfence_table_pages_room": {(): measured.pages[1]},
            "bpfence_kernel_statistics": {(): int(kernel_keeps_statistics())},
        }
        for name, count in measured.counters.items():
            prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), "")
            if prefix:
                found.setdefault(_PREFIXES[prefix], {})[name.removeprefix(prefix),] = count
            elif name in _DECISIONS:
                found.setdefault("bpfence_decisions", {})[name,] = count
            elif name.endswith(_SUFFIX):
                found.setdefault("bpfence_records", {})[name.removesuffix(_SUFFIX),] = count
            elif name not in _NOT_TOLD:
                found.setdefault("bpfence_kernel_counts", {})[name,] = count
        return {**found}


class InForce(msgspec.Struct, frozen=True):
    """`modes`: of each policy in force."""

    modes: tuple[str, ...]
    rules: int
    generation: int
    compile_seconds: float
    swaps: int
    swap_seconds: float
    can_skip: bool


def _by_name(counts: Mapping[str, float]) -> dict[Labels, float]:
    return {(name,): count for name, count in counts.items()}


def _few(matches: Mapping[tuple[str, str], int]) -> dict[Labels, float]:
    first = [((escape(policy), escape(rule)), count) for (policy, rule), count in list(matches.items())[:MAX_SERIES]]
    rest = sum(matches.values()) - sum(count for _, count in first)
    return _added([*first, *([((OTHER, OTHER), rest)] if rest else [])])


def _added(samples: Iterable[tuple[Labels, float]]) -> dict[Labels, float]:
    found: dict[Labels, float] = {}
    for labels, count in samples:
        found[labels] = found.get(labels, 0) + count
    return found


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("bpfence")
    except metadata.PackageNotFoundError:
        return "uninstalled"


def kernel_keeps_statistics() -> bool:
    """Whether the kernel counts runs and time of programs now: kernel.bpf_stats_enabled."""
    try:
        return STATISTICS.read_text(encoding="ascii").strip() == "1"
    except OSError:
        return False
