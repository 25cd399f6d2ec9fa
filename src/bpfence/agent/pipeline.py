# SPDX-License-Identifier: Apache-2.0
"""An observation in, the lines about it out: the way of every event, stage by stage, downhill.

    decode     bytes of the ring buffers    → Observation     `events.source.Live`
    match      Observation                  → Matched         what the kernel's verdicts mean in the tables that it decided by
    confirm    Matched                      → Found | None    candidates that really match, by their languages
    once       Found                        → Found | None    one act is one alert
    limit      Found                        → Found           rate limits, counts by rule
    enrich     Found                        → Found           what rules say in their own languages
    compose    Found                        → lines           `alerts.lines.LineWriter`; fields and process are made here, as far as needed
    form, sink lines                        → bytes, places   `outputs`

A stage that returns None ends the event. One that raises does, too: nobody who can cause an event may end the agent with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from bpfence import abi
from bpfence.agent.confirms import Confirms
from bpfence.agent.generations import Counts, Generation, Generations
from bpfence.alerts.acts import Acts
from bpfence.alerts.alert import Composer, Line, RuleInfo, Said, joined
from bpfence.alerts.limit import RateLimiter
from bpfence.alerts.lines import LineWriter, Source
from bpfence.compiler.plan import Family
from bpfence.dialects.dialect import Confirm, View
from bpfence.events.records import signed
from bpfence.events.source import Observation, Refused, Refuser
from bpfence.policy import Action, When

UNKNOWN: Final = "<unknown>"
Match = tuple[RuleInfo, bool]
"""A rule, and whether it is uncertain that it matches."""


class Means(NamedTuple):
    """What verdicts mean at a moment: `objects`, the paths of object bits; `rules`, matches that are decided, and `others`, rules that the
    uncertain one among them speaks for. `candidates`: by language the names of rules that may match; None: they are not known. `families`:
    those of `rules`, of which the kernel has named the first that matches."""

    objects: tuple[str, ...]
    rules: Sequence[Match]
    others: Sequence[RuleInfo]
    candidates: Mapping[str, frozenset[str] | None]
    families: Sequence[tuple[Family, Mapping[int, RuleInfo]]] = ()


class Matched(NamedTuple):
    """An observation, and what its verdicts mean."""

    seen: Observation
    means: Means


class Found(msgspec.Struct, gc=False):  # it is in no cycle
    """`rules`: matches to tell. `others` as in `Means`. `said`: by rule, in its own language.

    One goes through all the stages, which change it: a copy at each would cost more than what they do.
    """

    seen: Observation
    objects: tuple[str, ...]
    rules: Sequence[Match]
    others: Sequence[RuleInfo]
    views: Mapping[str, View]
    said: Mapping[tuple[str, str], Said]


_NO_VIEWS: Final[Mapping[str, View]] = MappingProxyType({})
_NOTHING_SAID: Final[Mapping[tuple[str, str], Said]] = MappingProxyType({})
MAX_MEANINGS: Final = 4096
RESULT: Final = When.SUCCESS | When.FAILURE
_OBSERVE: Final = Action.OBSERVE  # looking a member up takes longer than the rest of the test
FAILED: Final = 1 << 63
"""A bit that no flag of a record has."""


class Observed(Source, Protocol):
    """Where observations come from."""

    def refuse(self, seen: Observation, by: Refuser) -> None:
        """Records like that of an observation come to nothing: only `by` is told of them from now on."""


class Stage(NamedTuple):
    """One step, and its name in messages."""

    name: str
    run: Callable[[Any], Any]


class Pipeline:
    """The stages between `decode` and `form`. `generations`, `confirms`: what verdict numbers mean, and who confirms."""

    def __init__(
        self, source: Observed, generations: Generations, confirms: Confirms, composer: Composer, counts: Counts,
        now: Callable[[], float],
    ) -> None:  # fmt: skip
        self._generations = generations
        self._confirms = confirms
        self._source = source
        self._writer = LineWriter(composer, source)
        self._counts = counts
        self._now = now
        self._means: dict[tuple[int, tuple[int, ...], int, str], Means] = {}
        self.acts = Acts()
        self.limiter = RateLimiter()
        self.stages = (
            Stage("match", self._match), Stage("confirm", self._confirm), Stage("once", self._once), Stage("limit", self._limit),
            Stage("enrich", self._enrich), Stage("compose", self._compose),
        )  # fmt: skip
        self._runs = tuple(stage.run for stage in self.stages)

    def lines(self, seen: Observation | Refused) -> list[Line]:
        """Everything that is to be told of an observation."""
        item: Any = seen
        try:
            if isinstance(seen, Refused):
                seen.by.refused(seen.number, seen.moment)
                return []
            for run in self._runs:
                item = run(item)
                if item is None:
                    return []
        except Exception as error:
            event = "that is refused" if isinstance(seen, Refused) else seen.event
            self._confirms.faults.add("", f"an event {event} could not be turned into a line: it is not reported", error)
            return []
        lines: list[Line] = item
        return lines

    def _match(self, seen: Observation) -> Matched:
        # A generation's number has one meaning for ever, so what its verdicts mean at a moment is found once.
        moment = seen.flags & (abi.EVENT_RESULT | abi.EVENT_DECISION)
        if moment & abi.EVENT_RESULT and _has_failed(seen):
            moment |= FAILED
        key = (seen.generation, seen.verdicts, moment, seen.event)
        means = self._means.get(key)
        if means is None:
            known = self._generations.get(seen.generation)
            matched = known.matched(seen.verdicts) if known else None
            if not known or not matched:
                return Matched(seen, self._unknown(seen, moment, matched is None))
            means = _means(known, matched, moment, seen.event)
            if len(self._means) >= MAX_MEANINGS:
                self._means.clear()
            self._means[key] = means
        if means.families:
            means = means._replace(rules=self._with_siblings(seen, means))
        return Matched(seen, means)

    def _with_siblings(self, seen: Observation, means: Means) -> list[Match]:
        """Behind the rules that the kernel has named those of their families that match as well."""
        rules = list(means.rules)
        told = {id(rule) for rule, _ in rules}
        for family, infos in means.families:
            value = seen.own(family.field)
            if value is None and (subject := self._source.subject(seen)) is not None:
                value = subject.fields.get(family.field)
            if isinstance(value, (str, bytes)):
                more = (infos[number] for number in family.found(value) if number in infos)
                rules += ((rule, False) for rule in more if id(rule) not in told)
        return rules

    def _unknown(self, seen: Observation, moment: int, may_be_any: bool) -> Means:
        """Where the tables that decided are not known any more: reported without names; any rule that is confirmed may be a candidate."""
        waits = moment & abi.EVENT_RESULT
        nameless: list[Match] = [] if waits and not moment & abi.EVENT_DECISION else [(_nameless(seen), True)]
        return Means((), nameless, (), dict.fromkeys(self._confirms.names()) if may_be_any and waits else {})

    def _confirm(self, item: Matched) -> Found | None:
        """User space has decided what is confirmed: none of it is uncertain."""
        seen, (objects, rules, others, candidates, _) = item
        if not candidates:
            return Found(seen, objects, rules, others, _NO_VIEWS, _NOTHING_SAID) if rules else None
        views: dict[str, View] = {}
        refusers: list[Confirm] = []
        for name, among in candidates.items():
            confirm = self._confirms.get(name)
            if confirm is None:
                continue
            try:
                view = confirm.view(seen)
                found = confirm.confirm(view, among)
            except Exception as error:  # what the kernel has decided is told all the same
                self._confirms.faults.add("", f"rules of {name} could not be tried on {seen.event}", error)
                continue
            if found:
                views[name] = view
                rules = [*rules, *[(rule, False) for rule in found]]
            elif view.refused:
                refusers.append(confirm)
        if refusers and not rules and len(candidates) == 1:
            self._source.refuse(seen, refusers[0])
        return Found(seen, objects, rules, others, views, _NOTHING_SAID) if rules else None

    def _once(self, item: Found) -> Found | None:
        item.rules = [pair for pair in item.rules if pair[0].confirm or self.acts.is_new(item.seen, pair[0])]
        return item if item.rules else None

    def _limit(self, item: Found) -> Found:
        now = self._now()
        told = []
        for pair in item.rules:
            rule = pair[0]
            key = rule.key
            self._counts.add(key)
            # Events are limited where their rule says so, alerts always.
            if (rule.action is _OBSERVE and not rule.rate) or self.limiter.allow(key, rule.rate, rule.burst, now):
                told.append(pair)
        item.rules = told
        return item

    def _enrich(self, item: Found) -> Found | None:
        said: dict[tuple[str, str], Said] = {}
        repeated: list[Match] = []
        for pair in item.rules:
            rule = pair[0]
            name = rule.language or rule.confirm
            confirm = self._confirms.get(name) if name else None
            if confirm is None:
                continue
            try:
                found = (item.views.get(name) or confirm.view(item.seen)).said(rule.policy, rule.rule)
            except Exception as error:  # the alert goes without
                self._confirms.faults.add(rule.rule, f"what it says in {name} could not be made", error)
                continue
            if found is not None and found.repeated and rule.action is _OBSERVE:
                repeated.append(pair)
            elif found is not None:
                said[rule.key] = found
        if repeated:
            item.rules = [pair for pair in item.rules if pair not in repeated]
            if not item.rules:
                return None
        item.said = said
        return item

    def _compose(self, item: Found) -> list[Line]:
        return self._writer.lines(item.seen, item.rules, item.objects, item.said, item.others)


def _has_failed(seen: Observation) -> bool:
    """Whether the record tells that the call has failed; work that goes on elsewhere has no result, and is taken for done."""
    record = seen.record
    return record is not None and signed(record.number(abi.NUM_RESULT, 0)) < 0


def _means(known: Generation, matched: list[Match], moment: int, event: str) -> Means:
    """What verdicts mean for a record: that of a result speaks for rules that wait, one of a decision for those that do not."""
    now = When(0) if moment & abi.EVENT_RESULT and not moment & abi.EVENT_DECISION else When.DECIDED
    if moment & abi.EVENT_RESULT:
        now |= When.FAILURE if moment & FAILED else When.SUCCESS
    # Whether a result is the one that it waits for, a language that confirms finds out by itself.
    speaks = [pair for pair in matched if pair[0].when & now or (pair[0].confirm and moment & abi.EVENT_RESULT and pair[0].when & RESULT)]
    candidates: dict[str, set[str]] = {}
    for rule, _ in speaks:
        if rule.confirm:
            candidates.setdefault(rule.confirm, set()).add(rule.rule)
    decided = [(rule, uncertain) for rule, uncertain in speaks if not rule.confirm]
    told, others = joined(decided)
    families = known.family(event, [rule for rule, uncertain in told if not uncertain])
    return Means(known.objects, told, others, {name: frozenset(rules) for name, rules in candidates.items()}, families)


def _nameless(seen: Observation) -> RuleInfo:
    """A stand-in for rules whose names went with an earlier agent's memory: the event is reported all the same."""
    action = Action(seen.action) if seen.action in Action._value2member_map_ else Action.NONE
    text = f"{{event}} was decided by generation {seen.generation}, whose rules are not known any more"
    return RuleInfo(UNKNOWN, UNKNOWN, "enforce" if action >= Action.DENY else "audit", action, action, "high", message=text)
