# SPDX-License-Identifier: Apache-2.0
"""The rules of a language that the kernel decides completely: its policies, as they were read or lowered."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import ClassVar, Self

from bpfence.conditions.links import FindLinks, Resolver
from bpfence.dialects.facts import Facts
from bpfence.errors import Diagnostic, Location
from bpfence.policy import Policy, PolicySet


class DecidedRules:
    """See `dialects.dialect.Rules`. A language's own class has a `resolver` of its own, which is kept for the next load: a reload resolves
    what has changed."""

    resolver: ClassVar[Resolver]

    def __init__(self, policy_set: PolicySet) -> None:
        self.policy_set = policy_set

    @property
    def said(self) -> object:
        """What alerts say of the rules beside what the policies do; equal where they say the same."""
        return None

    @property
    def locations(self) -> Sequence[Location]:
        """Where each policy stands."""
        return [policy.location for policy in self.policy_set.policies]

    def policies(self, facts: Facts) -> tuple[Policy, ...]:
        """The policies themselves."""
        return self.policy_set.policies

    def paths(self) -> Iterable[str]:
        """Literal paths, and the literal beginnings of patterns."""
        return self.resolver.paths(self.policy_set)

    def resolved(self, find: FindLinks, where: str) -> tuple[Self, list[Diagnostic]]:
        """The same with other names of paths, where a policy does not say `links: as-written`."""
        made = copy.copy(self)
        made.policy_set, told = self.resolver.resolved(self.policy_set, find, where)
        return made, told

    def names(self) -> Iterable[str]:
        """Names of policies that no other policy may have: those of which there is one for each that was read."""
        return [policy.name for policy in self.policy_set.policies]

    def joined(self, more: Iterable[Self]) -> Self:
        """These rules and others of the same language, as if all had been read at once, not resolved."""
        made = copy.copy(self)
        made.policy_set = PolicySet((*self.policy_set.policies, *(policy for rules in more for policy in rules.policy_set.policies)))
        return made

    def without(self, names: Collection[str]) -> Self:
        """All of these rules but the policies with some of their `names`."""
        made = copy.copy(self)
        made.policy_set = PolicySet(tuple(policy for policy in self.policy_set.policies if policy.name not in names))
        return made

    def smaller(self, policy: Policy) -> Iterator[tuple[Policy, tuple[str, ...]]]:
        """The policy alone: nobody would confirm what the kernel left out."""
        yield policy, ()
