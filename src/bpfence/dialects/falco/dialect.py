# SPDX-License-Identifier: Apache-2.0
"""Falco's language, in the shape of every dialect: the kernel names candidates, user space confirms them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from bpfence.conditions.links import FindLinks
from bpfence.dialects.dialect import Confirm, Context
from bpfence.dialects.facts import Facts
from bpfence.dialects.falco.options import ENFORCING, FORMS, OPTIONS, WATCHING, FalcoOptions
from bpfence.documents.files import SourceFile
from bpfence.errors import Diagnostic, Location, UsageError
from bpfence.policy import Policy

if TYPE_CHECKING:
    from bpfence.dialects.falco.confirm.detection import Events
    from bpfence.dialects.falco.confirm.rules import RuleSet
    from bpfence.dialects.falco.read.resolve import FalcoRule
    from bpfence.dialects.falco.tools import FalcoTools
    from bpfence.events.source import Live

_ENTRY: Final = re.compile(
    rb"^[ \t]*-[ \t]+(?:\{[ \t]*)?[\"']?(?:rule|macro|list|required_engine_version|required_plugin_versions)[\"']?[ \t]*:", re.MULTILINE
)
_HEADER: Final = re.compile(rb"^apiVersion[ \t]*:", re.MULTILINE)


class FalcoRules:
    """Rules that were chosen, as `set` evaluates them."""

    def __init__(self, rules: Iterable[FalcoRule], options: FalcoOptions) -> None:
        from bpfence.dialects.falco.confirm.rules import RuleSet
        from bpfence.documents.report import TextError

        self.options = options
        try:
            self.set: RuleSet = RuleSet(rules, matching=options.matching, paths=options.paths, append=options.append)
        except TextError as error:
            raise UsageError(f"--append-output: {error.message}") from None

    @property
    def locations(self) -> Sequence[Location]:
        """Where each rule stands."""
        return [rule.location for rule in self.set.rules]

    def policies(self, facts: Facts) -> tuple[Policy, ...]:
        """The policies WATCHING and ENFORCING, as far as there are rules for them."""
        from bpfence.dialects.falco.lower.policies import policies

        return policies(self.set.rules, paths=self.set.paths, hosts=facts.hosts)

    def paths(self) -> Iterable[str]:
        """The paths that rules compare with."""
        from bpfence.dialects.falco.lower.links import paths_of

        return paths_of(self.set.rules if self.options.links == "resolve" else (), self.set.paths)

    def resolved(self, find: FindLinks, where: str) -> tuple[FalcoRules, list[Diagnostic]]:
        """The same with other names of paths, unless the options say that paths are taken as written."""
        from bpfence.dialects.falco.lower.links import widened

        if self.options.links != "resolve":
            return self, []
        made, told = widened(self.set.rules, find, self.set.paths, where)
        return FalcoRules(made, self.options), told

    def smaller(self, policy: Policy) -> Iterator[tuple[Policy, tuple[str, ...]]]:
        """User space evaluates whole rules, so the kernel may decide less of the rules that only watch."""
        from bpfence.dialects.falco.lower.policies import smaller_versions

        return smaller_versions(policy) if policy.name == WATCHING else iter([(policy, ())])


class Falco:
    """`events`: makes Falco's view of kernel records; None: from the records themselves. Tests give their own."""

    name = WATCHING
    title = "Falco rules"
    policies = (WATCHING, ENFORCING)
    reads_processes = True
    options = OPTIONS
    objects = ()
    forms = FORMS

    def tools(self) -> FalcoTools:
        """Imported when a command asks for them."""
        from bpfence.dialects.falco.tools import FalcoTools

        return FalcoTools(self)

    def __init__(self, events: Callable[[Live], Events] | None = None) -> None:
        self._events = events

    def claims(self, data: bytes) -> bool:
        """Whether there is an entry of a rule file, and no Kubernetes-style header."""
        return _ENTRY.search(data) is not None and _HEADER.search(data) is None

    def choose(self, given: Mapping[str, Any]) -> FalcoOptions:
        """The options as they were given."""
        return FalcoOptions(**given)

    def read(self, sources: Sequence[SourceFile], options: FalcoOptions | None) -> tuple[FalcoRules, list[Diagnostic]]:
        """The rules that the options choose."""
        from bpfence.dialects.falco.load import load_sources, select, undecided_by_kernel

        options = options or FalcoOptions()
        loaded, read_diagnostics = load_sources(sources)
        chosen = select(loaded.rules, names=options.names, tags=options.tags, disabled=options.disabled, priority=options.priority)
        rules = FalcoRules(chosen, options)
        diagnostics = [diagnostic for diagnostic in read_diagnostics if diagnostic.severity != "info"]
        diagnostics = list(dict.fromkeys([*diagnostics, *undecided_by_kernel(rules.set)]))
        if loaded.rules and not chosen and (options.names or options.tags):
            raise UsageError("no Falco rule has such a name or tag at this priority")
        return rules, diagnostics

    def confirm(self, context: Context) -> Confirm | None:
        """Evaluates the rules on the candidates that the kernel lets through."""
        from bpfence.dialects.falco.confirm.detection import detection

        return detection(context, self._events)


FALCO: Final = Falco()
