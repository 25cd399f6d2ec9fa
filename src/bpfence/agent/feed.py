# SPDX-License-Identifier: Apache-2.0
"""Policies that come while the agent runs in, those of them that the kernel can have out: what becomes of each.

Called by the agent, at its start, at a reload, and when a feed has something new (Kubernetes' objects: `k8s.source`). Policies of files are
all or nothing; of a feed each stands for itself: one that cannot be had costs no other anything, and what it was before stays in force.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

from bpfence.agent.kept import Kept
from bpfence.agent.loading import NO_FACTS, Loaded, resolved
from bpfence.agent.tables import tables
from bpfence.compiler.compile import Compiled, compile_policies
from bpfence.dialects.decided import DecidedRules
from bpfence.dialects.native.dialect import NATIVE
from bpfence.errors import CompileError, Diagnostic, Location
from bpfence.events.values import printable
from bpfence.fields import EVENT_BY_NAME
from bpfence.host.links import Links
from bpfence.policy import Policy, PolicySet
from bpfence.workloads.registry import Registry

ALL_PLACED: Final[Mapping[int, str]] = MappingProxyType({})
WHOLE: Final = "there is no room for this policy beside those that are in force"


class Candidate(NamedTuple):
    """A policy as it is, or as it was when it was last in force, and its language. `version` tells its contents apart. `place`: where it
    stands."""

    version: str
    rules: DecidedRules
    place: Location
    language: str = NATIVE.name


class Offer(NamedTuple):
    """One policy of a feed under its key: what it may be in force as, the newest first."""

    key: str
    candidates: tuple[Candidate, ...]


class Outcome(NamedTuple):
    """What became of an offer. `version`: the one in force; "": none. `errors` of candidates that were not taken, by version; `warnings`
    about the one that was."""

    version: str
    errors: Mapping[str, tuple[Diagnostic, ...]]
    warnings: tuple[Diagnostic, ...] = ()


class Feed(Protocol):
    """Where policies come from while the agent runs. `offers` and `told` are called by several threads, and wait for nobody."""

    def ask(self) -> None:
        """Learn what there is before policies are in force. Comes back in a bounded time; begins no thread."""

    def start(self, changed: Callable[[], None]) -> None:
        """Go on in threads; privileges are given up. `changed` is called, by any thread, when there are other offers."""

    def offers(self) -> Sequence[Offer]:
        """All policies that there are now."""

    def told(self, outcomes: Mapping[str, Outcome]) -> None:
        """What is in force now, by the keys of the last offers."""

    def folders(self) -> Sequence[Path]:
        """Where it writes after the start."""

    def close(self) -> None:
        """End the threads."""


class Feeds:
    """Several feeds as one, whose keys differ."""

    def __init__(self, *parts: Feed) -> None:
        self._parts = parts

    def ask(self) -> None:
        """See Feed."""
        for part in self._parts:
            part.ask()

    def start(self, changed: Callable[[], None]) -> None:
        """See Feed."""
        for part in self._parts:
            part.start(changed)

    def offers(self) -> Sequence[Offer]:
        """See Feed."""
        return [offer for part in self._parts for offer in part.offers()]

    def told(self, outcomes: Mapping[str, Outcome]) -> None:
        """Each passes over keys that are not its own."""
        for part in self._parts:
            part.told(outcomes)

    def folders(self) -> Sequence[Path]:
        """See Feed."""
        return [folder for part in self._parts for folder in part.folders()]

    def close(self) -> None:
        """See Feed."""
        for part in self._parts:
            part.close()


class Chosen(NamedTuple):
    """What can be put in force: `loaded` has the feed's policies in `more`."""

    loaded: Loaded
    compiled: Compiled
    left: tuple[str, ...]
    outcomes: Mapping[str, Outcome]


class Choice:
    """Chooses among the offers of a feed, and remembers which could be compiled. For one thread at a time. `kept`: as of `tables`."""

    def __init__(self, feed: Feed, links: Links, kept: Kept | None = None) -> None:
        self._feed = feed
        self._links = links
        self._kept = kept
        self._judged: dict[tuple[str, str, frozenset[str]], tuple[bool, tuple[Diagnostic, ...]]] = {}
        self._in_force: Mapping[str, str] = {}

    def choose(
        self,
        files: Loaded,
        narrow: Callable[[Policy], Policy],
        events: frozenset[str],
        containers: Registry,
        unplaced: Mapping[int, str] = ALL_PLACED,
    ) -> Chosen:
        """The policies of files, and of the feed all that can be had with them. `narrow`: as policies of files are narrowed. `unplaced`:
        sensors that are to refuse, by `Probe.number`, and cannot be attached, with reasons. CompileError where those of files cannot be
        had."""
        names = {policy.name: policy.location for policy in files.policies.policies}
        names |= {name: place for rules in files.rules.values() if isinstance(rules, DecidedRules) for name, place in _places(rules)}
        taken: list[tuple[str, Candidate]] = []
        refused: dict[str, dict[str, tuple[Diagnostic, ...]]] = {}
        outcomes: dict[str, Outcome] = {}
        judged: dict[tuple[str, str, frozenset[str]], tuple[bool, tuple[Diagnostic, ...]]] = {}
        for offer in self._feed.offers():
            errors = refused[offer.key] = {}
            outcomes[offer.key] = Outcome("", errors)
            for candidate in offer.candidates:
                key = (offer.key, candidate.version, events)
                fits, found = judged[key] = self._judged.get(key) or _judge(candidate, events)
                if fits and (missed := tuple(_missed(candidate, unplaced))):
                    fits, found = False, missed
                name = next((name for name in candidate.rules.names() if name in names), None) if fits else None
                if name is not None:
                    fits, found = False, (_taken(name, candidate.place, names[name]),)
                if fits:
                    names |= dict.fromkeys(candidate.rules.names(), candidate.place)
                    taken.append((offer.key, candidate))
                    outcomes[offer.key] = Outcome(candidate.version, errors, found)
                    break
                errors[candidate.version] = found
        self._judged = judged
        # What is in force already comes first, so that what is new is what there is no room for.
        taken.sort(key=lambda item: (self._in_force.get(item[0]) != item[1].version, item[0]))
        loaded, compiled, left, fitting = self._fitting(files, taken, narrow, events, containers)
        for name, candidate in taken[fitting:]:
            refused[name][candidate.version] = (Diagnostic(candidate.place, WHOLE, code="too-large"),)
            outcomes[name] = Outcome("", refused[name])
        return Chosen(loaded, compiled, left, outcomes)

    def in_force(self, outcomes: Mapping[str, Outcome]) -> None:
        """This is in force now; tell the feed."""
        self._in_force = {key: outcome.version for key, outcome in outcomes.items() if outcome.version}
        self._feed.told(outcomes)

    def _fitting(
        self,
        files: Loaded,
        taken: Sequence[tuple[str, Candidate]],
        narrow: Callable[[Policy], Policy],
        events: frozenset[str],
        containers: Registry,
    ) -> tuple[Loaded, Compiled, tuple[str, ...], int]:
        """As many as the tables have room for, beginning with the first; and how many that are."""

        def compiled(count: int) -> tuple[Loaded, Compiled, tuple[str, ...], int]:
            loaded = _with(files, [one for _, one in taken[:count]], narrow, self._links)
            return (loaded, *tables(loaded, events, containers, self._kept if count == len(taken) else None), count)

        try:
            return compiled(len(taken))
        except CompileError:
            if not taken:
                raise
        best, too_many = compiled(0), len(taken)
        while best[3] + 1 < too_many:
            middle = (best[3] + too_many) // 2
            try:
                best = compiled(middle)
            except CompileError:
                too_many = middle
        return best


def _with(files: Loaded, taken: Sequence[Candidate], narrow: Callable[[Policy], Policy], links: Links) -> Loaded:
    """What there is with these of the feed. Rules of a language that others add to are lowered with them."""
    parts: dict[str, list[DecidedRules]] = {}
    for one in taken:
        parts.setdefault(one.language, []).append(one.rules)
    for language, own in parts.items():
        of_files = files.rules.get(language)
        if language != NATIVE.name and isinstance(of_files, DecidedRules):
            own.insert(0, of_files)
    fed, _ = resolved({language: own[0].joined(own[1:]) for language, own in parts.items()}, links)
    made = {language: tuple(narrow(policy) for policy in rules.policies(NO_FACTS)) for language, rules in fed.items()}
    more = made.pop(NATIVE.name, ())
    fed.pop(NATIVE.name, None)
    again = {policy.name for language in fed.keys() & files.rules.keys() for policy in files.rules[language].policies(NO_FACTS)}
    own_ = (policy for policy in files.policies.policies if policy.name not in again)
    return files._replace(policies=PolicySet((*own_, *(policy for one in made.values() for policy in one), *more)), more=more, fed=fed)


def alike(one: Loaded, other: Loaded) -> bool:
    """Whether they are the same policies, and alerts say the same of them."""
    return one.policies == other.policies and _said(one) == _said(other)


def _said(loaded: Loaded) -> dict[str, object]:
    return {language: rules.said for language, rules in loaded.in_force.items() if isinstance(rules, DecidedRules) and rules.said}


def _places(rules: DecidedRules) -> Iterator[tuple[str, Location]]:
    return zip(rules.names(), rules.locations, strict=True)


def _judge(one: Candidate, events: frozenset[str]) -> tuple[bool, tuple[Diagnostic, ...]]:
    """Whether a policy can be compiled by itself, and what is to be said about it. Whatever is written in it costs no other anything."""
    try:
        return True, tuple(compile_policies(PolicySet(one.rules.policies(NO_FACTS)), supported_events=events).unreachable)
    except CompileError as error:
        return False, error.diagnostics
    except Exception as error:
        text = f"{type(error).__name__}: {printable(str(error))[:200]}. This is a fault of bpfence; please report it"
        return False, (Diagnostic(one.place, text),)


def _missed(one: Candidate, unplaced: Mapping[int, str]) -> Iterator[Diagnostic]:
    """What a policy cannot refuse, because a sensor of it cannot be attached."""
    for policy in one.rules.policies(NO_FACTS) if unplaced else ():
        for probe in policy.probes:
            if probe.number in unplaced and EVENT_BY_NAME[probe.way.value].deniable:
                place = probe.location if probe.location.line else one.place
                hint = "leave the hook out, or change its action to Post"
                what = f"policy {policy.name!r} cannot refuse what it is to refuse: {unplaced[probe.number]}"
                yield Diagnostic(place, what, hint, code="not-enforceable")


def _taken(name: str, here: Location, place: Location) -> Diagnostic:
    hint = "rename one of them: alerts and counts go by the name"
    what = f"there already is a policy {name!r} on this node: {place}"
    return Diagnostic(here, what, hint, code="duplicate-policy")
