# SPDX-License-Identifier: Apache-2.0
"""bpfence's own language, in the shape of every dialect. The kernel decides it completely."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from bpfence.conditions.links import FindLinks, Resolver
from bpfence.dialects.dialect import Confirm, Context
from bpfence.dialects.facts import Facts
from bpfence.documents.files import SourceFile
from bpfence.errors import Diagnostic, Location
from bpfence.policy import Policy, PolicySet

if TYPE_CHECKING:
    from bpfence.dialects.native.tools import NativeTools

_resolver: Final = Resolver()
"""Kept for the next load: a reload resolves what has changed."""
_HEADER: Final = re.compile(rb"^apiVersion[ \t]*:(?![ \t]*[\"']?cilium\.io/)", re.MULTILINE)


class NativeRules:
    """Policies as they were read."""

    def __init__(self, policy_set: PolicySet) -> None:
        self.policy_set = policy_set

    @property
    def locations(self) -> Sequence[Location]:
        """Where each policy stands."""
        return [policy.location for policy in self.policy_set.policies]

    def policies(self, facts: Facts) -> tuple[Policy, ...]:
        """The policies themselves."""
        return self.policy_set.policies

    def paths(self) -> Iterable[str]:
        """Literal paths, and the literal beginnings of patterns."""
        return _resolver.paths(self.policy_set)

    def resolved(self, find: FindLinks, where: str) -> tuple[NativeRules, list[Diagnostic]]:
        """The same with other names of paths, where a policy does not say `links: as-written`."""
        policy_set, told = _resolver.resolved(self.policy_set, find, where)
        return NativeRules(policy_set), told

    def smaller(self, policy: Policy) -> Iterator[tuple[Policy, tuple[str, ...]]]:
        """The policy alone: nobody would confirm what the kernel left out."""
        yield policy, ()


class _Native:
    name = "native"
    title = "policies"
    policies = ()
    reads_processes = False
    options = ()
    forms = ()

    def tools(self) -> NativeTools:
        """Imported when a command asks for them."""
        from bpfence.dialects.native.tools import NativeTools

        return NativeTools(self)

    def choose(self, given: Mapping[str, object]) -> None:
        """There is nothing to choose."""

    def claims(self, data: bytes) -> bool:
        """Whether there is a Kubernetes-style header, and none of tracing policies."""
        return _HEADER.search(data) is not None

    def read(self, sources: Sequence[SourceFile], options: object) -> tuple[NativeRules, list[Diagnostic]]:
        """The policies of all files."""
        from bpfence.dialects.native.read import load_sources

        policy_set, diagnostics = load_sources(sources)
        return NativeRules(policy_set), diagnostics

    def confirm(self, context: Context) -> Confirm | None:
        """Nothing is left to confirm."""
        return None


NATIVE: Final = _Native()
