# SPDX-License-Identifier: Apache-2.0
"""The entries of all policies in, for each what is looked up before it and lets acts through out.

Called by `policies`. Of two policies for one workload either may excuse what the other refuses: what entries of one scope let through is
put together once, for all entries that it is looked up before. Pure.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from bpfence.conditions.values import conj, disj
from bpfence.dialects.kubearmor.lower import entries, scopes
from bpfence.dialects.kubearmor.lower.entries import Excuses, Way
from bpfence.dialects.kubearmor.model import Entry, KubeArmorPolicy
from bpfence.errors import Diagnostic, Location
from bpfence.policy import TRUE, Condition

LOOKED_UP: Final = ("process", "file", "network", "capabilities")
"""Sections of which one entry decides; of the others a Block does."""
MAX_EXCUSES: Final = 500_000
"""So many conditions of policies about what others refuse can be said: some seconds' work."""
_BEHIND: Final = "\U0010ffff"


class TooManyError(Exception):
    """Policies have more to do with each other than can be said."""

    def __init__(self, location: Location) -> None:
        what = f"the policies make more than {MAX_EXCUSES} exceptions of each other: this entry is one of those with exceptions"
        hint = "give policies narrower selectors, or join their entries in one policy"
        self.diagnostic = Diagnostic(location, what, hint, code="too-large")
        super().__init__(what)


class Order:
    """What of all policies lets something through, for each entry that of it that is looked up before it."""

    def __init__(self, policies: Iterable[KubeArmorPolicy]) -> None:
        self._letting: dict[tuple[Condition, scopes.Reach], dict[str, _Letting]] = {}
        self._near: dict[tuple[Condition, scopes.Reach], list[tuple[Condition, dict[str, _Letting]]]] = {}
        self._known: dict[tuple[object, ...], tuple[tuple[Condition, ...], int]] = {}
        self._used = 0
        found: dict[tuple[Condition, scopes.Reach], dict[str, list[tuple[Way, Entry]]]] = {}
        for policy in policies:
            key = scopes.scope(policy), scopes.reach(policy)
            for entry in policy.entries:
                if entry.section in LOOKED_UP and entries.lets(entry):
                    some = found.setdefault(key, {}).setdefault(entry.section, [])
                    some += ((way, entry) for way in entries.ways(entry) if way.level != entries.HOLDS)
        self._letting = {key: {section: _Letting(some) for section, some in one.items()} for key, one in found.items()}

    def excuses(self, policy: KubeArmorPolicy, entry: Entry, scope: Condition) -> Excuses:
        """What lets acts through that the entry would refuse, of policies that may be about the same workload. TooManyError where that is
        more than can be said."""
        if entry.action == "Audit" or entry.section not in LOOKED_UP:
            return entries.none_before
        own = scope, scopes.reach(policy)
        if own not in self._near:
            self._near[own] = [
                (TRUE if other[0] == scope else other[0], letting) for other, letting in self._letting.items() if not own[1].apart(other[1])
            ]
        near = [(where, letting[entry.section]) for where, letting in self._near[own] if entry.section in letting]

        def excuses(way: Way, event: str) -> Iterable[Condition]:
            key = (own, entry.section, way, entries.like(event))
            if key not in self._known:
                self._known[key] = self._before(near, way, event, entry.location)
            found, size = self._known[key]
            self._count(size, entry.location)
            return found

        return excuses

    def _before(
        self, near: Sequence[tuple[Condition, _Letting]], way: Way, event: str, location: Location
    ) -> tuple[tuple[Condition, ...], int]:
        found: list[Condition] = []
        total = 0
        for where, letting in near:
            for size, condition in letting.before(way, event):
                total += size
                if self._used + total > MAX_EXCUSES:
                    raise TooManyError(location)
                found.append(conj((where, condition)))
        return tuple(found), total

    def _count(self, size: int, location: Location) -> None:
        """Each entry that has exceptions has all of them once more: what is shared is walked again for each."""
        self._used += size
        if self._used > MAX_EXCUSES:
            raise TooManyError(location)


class _Letting:
    """Entries of one section and scope that let something through, by their places."""

    def __init__(self, some: Sequence[tuple[Way, Entry]]) -> None:
        self._some = some
        self._anywhere = [one for one in some if not one[0].place]
        names = sorted((name, n) for n, (way, _) in enumerate(some) if way.place for name in {way.place, way.real})
        self._names = [name for name, _ in names]
        self._numbers = [n for _, n in names]
        self._known: dict[tuple[object, ...], tuple[int, Condition]] = {}

    def before(self, way: Way, event: str) -> Iterator[tuple[int, Condition]]:
        """Conditions on which an entry lets through what a way names that is looked up later, and how many entries each of them is of."""
        # Where only one of two has a place, it does not matter which one that is.
        key = (way.level, way.last, way.named if not way.place else None, entries.like(event))
        if key not in self._known:
            self._known[key] = _either(self._anywhere, way, event)
        of_places = _either([self._some[n] for n in self._meeting(way)], way, event)
        yield from (found for found in (self._known[key], of_places) if found[0])

    def _meeting(self, way: Way) -> Sequence[int]:
        """The numbers of those with a place that may be of the same file."""
        if not way.place:
            return sorted(set(self._numbers))
        found: set[int] = set()
        for name in {way.place, way.real}:
            above = [name[: at + 1] for at, char in enumerate(name) if char == "/"]
            for first, end in ((name, name + _BEHIND if name.endswith("/") else name), *((one, one) for one in above)):
                at = bisect_left(self._names, first)
                while at < len(self._names) and (self._names[at] == first or self._names[at] < end):
                    found.add(self._numbers[at])
                    at += 1
        return sorted(found)


def _either(some: Iterable[tuple[Way, Entry]], way: Way, event: str) -> tuple[int, Condition]:
    """Of how many entries it is, and that one of them lets it through."""
    before = [entries.excuse(one, entry, way, event) for one, entry in some if one.before(way)]
    return len(before), disj(before)
