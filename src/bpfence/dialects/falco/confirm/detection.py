# SPDX-License-Identifier: Apache-2.0
"""Observations and the Falco rules that the kernel names for them in, the rules that really match out.

Called by the agent. For detection the kernel lets through more than rules match: each such event is a candidate, and an alert only if the
rest of a rule's condition holds too. The rule sets of the last generations are kept, because records wait in the ring buffer across a
reload. If the set of a record is gone, the newest set decides, by the names of the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

from bpfence import abi
from bpfence.alerts.alert import RuleInfo, Said
from bpfence.alerts.faults import Faults
from bpfence.dialects.dialect import Context
from bpfence.dialects.facts import Hosts
from bpfence.dialects.falco.confirm.event import FalcoEvent
from bpfence.dialects.falco.confirm.rules import RuleSet
from bpfence.dialects.falco.dialect import FalcoRules
from bpfence.dialects.falco.options import WATCHING
from bpfence.dialects.falco.read.hostnames import mentioned
from bpfence.dialects.falco.read.resolve import FalcoRule
from bpfence.dialects.falco.recording import Recorder
from bpfence.dialects.falco.show import details, details_json
from bpfence.errors import UsageError
from bpfence.events.process import Clock, ProcessCache
from bpfence.events.records import KernelEvent
from bpfence.events.source import Live, Observation
from bpfence.host.hostnames import Hostnames
from bpfence.workloads.model import Container


class Events(Protocol):
    """Makes Falco's view of kernel records; the agent's own is `KernelEvents`."""

    def event(self, record: KernelEvent) -> FalcoEvent | None:
        """The event; None where Falco has no such event."""

    def passed(self, count: int, moment: int) -> None:
        """So many more events came that were not made, the last of them at `moment`, ns since boot."""

    def use(self, rules: RuleSet | None) -> None:
        """These rules are in force now."""

    def hosts(self) -> Hosts:
        """The names of hosts that the rules in force mention and that were asked for, with their addresses."""

    def start(self, changed: Callable[[], None]) -> None:
        """Begin work that goes on beside events; may be called again and again. `changed` is called, by any thread, when `hosts` has
        changed."""

    def close(self) -> None:
        """End that work."""


class KernelEvents:
    """`LiveEvents` with the names of hosts that the rules in force mention.

    A thread resolves them. It must not begin before privileges are given up, because they belong to a thread, nor before a command is
    forked; so `start` is called when the agent begins to work. Until a name has been asked for, the kernel lets everything through for it.
    """

    def __init__(
        self,
        processes: ProcessCache,
        clock: Clock,
        cgroup_path: Callable[[int], str | None] | None,
        host: str,
        container: Callable[[str], Container | None] | None = None,
    ) -> None:
        from bpfence.dialects.falco.confirm.live import LiveEvents  # imported late: what only enforces native policies does without

        self._live = LiveEvents(processes, clock, cgroup_path=cgroup_path or (lambda _: None), host=host, container=container)
        self._names: tuple[str, ...] = ()

    def event(self, record: KernelEvent) -> FalcoEvent | None:
        """The event."""
        return self._live.event(record)

    def passed(self, count: int, moment: int) -> None:
        """They count as events."""
        self._live.passed(count, moment)

    def use(self, rules: RuleSet | None) -> None:
        """Other rules may mention other hosts: resolve those from now on; and other rules may match what was refused."""
        self._live.processes.refused.clear()
        names = mentioned(rules.rules) if rules is not None else ()
        if names != self._names:
            self.close()
            self._names = names
            self._live.hostnames = Hostnames(names, known=self._live.hostnames) if names else None

    def hosts(self) -> Hosts:
        """What is resolved."""
        return self._live.hostnames.addresses() if self._live.hostnames is not None else {}

    def start(self, changed: Callable[[], None]) -> None:
        """Resolve, where there is something to resolve."""
        if self._live.hostnames is not None:
            self._live.hostnames.start(changed)

    def close(self) -> None:
        """Resolve no more."""
        if self._live.hostnames is not None:
            self._live.hostnames.close()


def detection(context: Context, make: Callable[[Live], Events] | None = None) -> Detection:
    """What confirms for an agent; UsageError where the recording cannot be opened."""
    recorder = None
    if context.record is not None:
        try:
            recorder = Recorder(context.record, context.host, context.report)
        except OSError as error:
            raise UsageError(f"--record {context.record} cannot be opened: {error.strerror or error}") from error

    def events() -> Events:
        source = context.source()
        if make is not None:
            return make(source)
        return KernelEvents(source.processes, source.clock, source.cgroup_path, context.host, source.container)

    return Detection(events, recorder, kept=context.kept)


MAX_KNOWN: Final = 4096


class _Known(NamedTuple):
    """`asked`: the names of candidates → those of them that there are."""

    rules: RuleSet
    infos: dict[str, RuleInfo]
    events: Events
    asked: dict[frozenset[str] | None, frozenset[str]]

    def among(self, names: Collection[str] | None) -> frozenset[str]:
        """The candidates that there are; None: any may be one."""
        key = None if names is None else frozenset(names)
        found = self.asked.get(key)
        if found is None:
            found = frozenset(self.infos) if key is None else frozenset(key & self.infos.keys())
            if len(self.asked) < MAX_KNOWN:
                self.asked[key] = found
        return found


class Detection:
    """Confirms candidates. `candidates` counts the records that were looked at, `confirmed` those that some rule matched.

    `make` is called once there are Falco rules. `kept`: of how many rule sets records may still come. `faults` has what went wrong, for all
    rule sets.
    """

    def __init__(self, make: Callable[[], Events], recorder: Recorder | None = None, *, kept: int) -> None:
        self._make = make
        self._kept = kept
        self._events: Events | None = None
        self._recorder = recorder
        self._known: dict[int, _Known] = {}
        self._newest: _Known | None = None
        self.faults = Faults()
        self.candidates = 0
        self.confirmed = 0

    def use(self, generation: int, rules: FalcoRules | None, infos: Iterable[RuleInfo]) -> None:
        """The rules of the generation that is in force now; None: it has no Falco rules."""
        self._known.pop(generation, None)
        chosen = rules.set if rules is not None else None
        if chosen is not None:
            chosen.faults = self.faults
            self._events = self._events or self._make()
            if self._newest is None or self._newest.rules is not chosen:
                named = {info.rule: info for info in infos if info.policy == WATCHING}
                self._newest = _Known(chosen, named, self._events, {})
            self._known[generation] = self._newest
        else:
            self._newest = None
        # Where only followed paths name other files, the rules are the same ones: they must not push older ones out.
        while len({id(known) for known in self._known.values()}) > self._kept or len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]
        if self._events is not None:
            self._events.use(chosen)
        if self._recorder is not None:
            self._recorder.use(chosen)

    def hosts(self) -> Hosts:
        """The addresses of names of hosts, as far as they are known."""
        return self._events.hosts() if self._events is not None else {}

    def start(self, changed: Callable[[], None]) -> None:
        """The agent works now: its privileges will not change any more, and its command runs. `changed`: see `Events`."""
        if self._events is not None:
            self._events.start(changed)

    @property
    def active(self) -> bool:
        """Whether Falco rules are in force, or were until a short time ago."""
        return bool(self._known)

    def view(self, seen: Observation) -> FalcoView:
        """An observation as Falco's rules see it."""
        return FalcoView(seen, self._known.get(seen.generation, self._newest), self.faults)

    def confirm(self, view: FalcoView, among: Collection[str] | None) -> list[RuleInfo]:
        """The candidates that match, in Falco's order. `among`: names of the candidates; None: they are not known, any rule may be one."""
        self.candidates += 1
        known, record = view.known, view.record
        if known is None or record is None:
            return []
        chosen = known.among(among)
        event = view.event()
        if event is None:
            return []
        if self._recorder is not None:
            try:
                self._recorder.add(event)
            except Exception as error:
                self.faults.add("", f"an event {event.type} could not be recorded", error)
        matching = [known.infos[rule.name] for rule in known.rules.matching_rules(event, chosen)]
        if not matching and event.memo is not None and known.rules.refused_by_process(event, chosen):
            view.refused = self._recorder is None and _says_which(record)
        self.confirmed += bool(matching)
        return matching

    def refused(self, count: int, moment: int) -> None:
        """They were looked at."""
        self.candidates += count
        if self._events is not None:
            self._events.passed(count, moment)

    def flush(self) -> None:
        """Write what was recorded."""
        if self._recorder is not None:
            self._recorder.flush()

    def reopen(self) -> None:
        """Log rotation."""
        if self._recorder is not None:
            self._recorder.reopen()

    def close(self) -> None:
        """Write what was recorded, close the file, and end the work beside events."""
        if self._events is not None:
            self._events.close()
        if self._recorder is not None:
            self._recorder.close()


def _says_which(record: KernelEvent) -> bool:
    """Whether the number of its call says which call it is, as `records.kind` takes it."""
    return not record.number(abi.NUM_CALL, 0) & abi.CALL_COMPAT


class FalcoView:
    """One observation as a Falco event, made when first asked for."""

    def __init__(self, seen: Observation, known: _Known | None, faults: Faults) -> None:
        self._seen = seen
        self._faults = faults
        self.record = seen.record
        self.refused = False
        self._made: tuple[FalcoEvent | None] | None = None
        self.known = known

    def event(self) -> FalcoEvent | None:
        """The event; None where Falco has none like it, there are no rules, or the observation comes from no kernel."""
        if self._made is None:
            record = self._seen.record
            try:
                self._made = (None if record is None or self.known is None else self.known.events.event(record),)
            except Exception as error:
                self._faults.add("", f"no event of Falco's could be made of {self._seen.event}: no rule was tried on it", error)
                self._made = (None,)
        return self._made[0]

    def said(self, name: str, policy: str = "") -> Said | None:
        """What a rule says of it; None where rule or event are not known."""
        rule = self.known.rules.rule(name) if self.known is not None else None
        event = self.event() if rule is not None else None
        if rule is None or event is None or self.known is None:
            return None
        written = self.known.rules.written(rule, event)
        if written is None:
            return Said(WATCHING, *_said(self.known.rules, rule, event))
        return Said.written(WATCHING, written[0], details_json(rule, *written), partial(_said, self.known.rules, rule, event))


def _said(rules: RuleSet, rule: FalcoRule, event: FalcoEvent) -> tuple[str, dict[str, Any]]:
    match = rules.match(rule, event)
    return match.output, details(match)
