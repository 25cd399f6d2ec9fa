# SPDX-License-Identifier: Apache-2.0
"""Policies that come while the agent runs in, those of them that the kernel can have out: what becomes of each.

Called by the agent, at its start, at a reload, and when a feed has something new (Kubernetes' objects: `k8s.source`). Policies of files are
all or nothing; of a feed each stands for itself: one that cannot be had costs no other anything, and what it was before stays in force.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from bpfence.agent.loading import NO_FACTS, Loaded, resolved
from bpfence.agent.tables import tables
from bpfence.compiler.compile import Compiled, compile_policies
from bpfence.dialects.native.dialect import NATIVE, NativeRules
from bpfence.errors import CompileError, Diagnostic, Location
from bpfence.events.values import printable
from bpfence.host.links import Links
from bpfence.policy import Policy, PolicySet
from bpfence.workloads.registry import Registry

WHOLE: Final = "there is no room for this policy beside those that are in force"


class Candidate(NamedTuple):
    """A policy as it is, or as it was when it was last in force. `version` tells its contents apart."""

    version: str
    policy: Policy


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


class Chosen(NamedTuple):
    """What can be put in force: `loaded` has the feed's policies in `more`."""

    loaded: Loaded
    compiled: Compiled
    left: tuple[str, ...]
    outcomes: Mapping[str, Outcome]


class Choice:
    """Chooses among the offers of a feed, and remembers which could be compiled. For one thread at a time."""

    def __init__(self, feed: Feed, links: Links) -> None:
        self._feed = feed
        self._links = links
        self._judged: dict[tuple[str, str, frozenset[str]], tuple[bool, tuple[Diagnostic, ...]]] = {}
        self._in_force: Mapping[str, str] = {}

    def choose(self, files: Loaded, narrow: Callable[[Policy], Policy], events: frozenset[str], containers: Registry) -> Chosen:
        """The policies of files, and of the feed all that can be had with them. `narrow`: as policies of files are narrowed. CompileError
        where those of files cannot be had."""
        names = {policy.name: policy.location for policy in files.policies.policies}
        taken: list[tuple[str, Candidate]] = []
        refused: dict[str, dict[str, tuple[Diagnostic, ...]]] = {}
        outcomes: dict[str, Outcome] = {}
        judged: dict[tuple[str, str, frozenset[str]], tuple[bool, tuple[Diagnostic, ...]]] = {}
        for offer in self._feed.offers():
            errors = refused[offer.key] = {}
            outcomes[offer.key] = Outcome("", errors)
            for candidate in offer.candidates:
                key = (offer.key, candidate.version, events)
                fits, found = judged[key] = self._judged.get(key) or _judge(candidate.policy, events)
                if fits and (place := names.get(candidate.policy.name)) is not None:
                    fits, found = False, (_taken(candidate.policy, place),)
                if fits:
                    taken.append((offer.key, candidate))
                    outcomes[offer.key] = Outcome(candidate.version, errors, found)
                    break
                errors[candidate.version] = found
        self._judged = judged
        # What is in force already comes first, so that what is new is what there is no room for.
        taken.sort(key=lambda item: (self._in_force.get(item[0]) != item[1].version, item[0]))
        loaded, compiled, left, fitting = self._fitting(files, taken, narrow, events, containers)
        for name, candidate in taken[fitting:]:
            refused[name][candidate.version] = (Diagnostic(candidate.policy.location, WHOLE, code="too-large"),)
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
        rules, _ = resolved({NATIVE.name: NativeRules(PolicySet(tuple(one.policy for _, one in taken)))}, self._links)
        policies = [narrow(policy) for policy in rules[NATIVE.name].policies(NO_FACTS)]

        def compiled(count: int) -> tuple[Loaded, Compiled, tuple[str, ...], int]:
            more = tuple(policies[:count])
            loaded = files._replace(policies=PolicySet((*files.policies.policies, *more)), more=more)
            return (loaded, *tables(loaded, events, containers), count)

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


def _judge(policy: Policy, events: frozenset[str]) -> tuple[bool, tuple[Diagnostic, ...]]:
    """Whether a policy can be compiled by itself, and what is to be said about it. Whatever is written in it costs no other anything."""
    try:
        return True, tuple(compile_policies(PolicySet((policy,)), supported_events=events).unreachable)
    except CompileError as error:
        return False, error.diagnostics
    except Exception as error:
        text = f"{type(error).__name__}: {printable(str(error))[:200]}. This is a fault of bpfence; please report it"
        return False, (Diagnostic(policy.location, text),)


def _taken(policy: Policy, place: Location) -> Diagnostic:
    hint = "rename one of them: alerts and counts go by the name"
    what = f"there already is a policy {policy.name!r}, in a file of this node ({place})"
    return Diagnostic(policy.location, what, hint, code="duplicate-policy")
