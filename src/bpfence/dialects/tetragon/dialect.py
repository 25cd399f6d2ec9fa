# SPDX-License-Identifier: Apache-2.0
"""Tetragon's tracing policies, in the shape of every dialect. The kernel decides them completely."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from bpfence.conditions.links import Resolver
from bpfence.dialects.decided import DecidedRules
from bpfence.dialects.dialect import Confirm, Context
from bpfence.dialects.tetragon.kinds import GROUP, OBJECTS
from bpfence.documents.files import SourceFile
from bpfence.documents.headers import has_group
from bpfence.errors import Diagnostic
from bpfence.policy import PolicySet

if TYPE_CHECKING:
    from bpfence.dialects.tetragon.lower.policies import Mode, Sensor
    from bpfence.dialects.tetragon.tools import TetragonTools


class TetragonRules(DecidedRules):
    """Policies as they were lowered. `sensors`: what events say of a rule's hook, by policy and rule; `modes`: of policies, by name."""

    resolver = Resolver()

    def __init__(
        self, policy_set: PolicySet, sensors: Mapping[tuple[str, str], Sensor], modes: Mapping[str, Mode] = MappingProxyType({})
    ) -> None:
        super().__init__(policy_set)
        self.sensors = sensors
        self.modes = modes

    @property
    def said(self) -> object:
        """What events say of hooks."""
        return self.sensors

    def joined(self, more: Iterable[TetragonRules]) -> TetragonRules:
        """All of them, with what events say of each."""
        parts = [self, *more]
        policies = PolicySet(tuple(policy for part in parts for policy in part.policy_set.policies))
        sensors = {key: sensor for part in parts for key, sensor in part.sensors.items()}
        return TetragonRules(policies, sensors, {name: mode for part in parts for name, mode in part.modes.items()})

    def without(self, names: Collection[str]) -> TetragonRules:
        """All but those, and nothing of what events say of them."""
        made = super().without(names)
        made.sensors = {key: sensor for key, sensor in self.sensors.items() if key[0] not in names}
        made.modes = {name: mode for name, mode in self.modes.items() if name not in names}
        return made


def _functions() -> tuple[str, ...]:
    """The names of this kernel's functions."""
    from bpfence.kernel.sensors import Hints  # lists that are generated of them are rare

    return Hints().functions


class Tetragon:
    """The dialect."""

    name = "tetragon"
    title = "tracing policies"
    policies = ()
    reads_processes = False
    options = ()
    forms = ()
    objects = OBJECTS

    def tools(self) -> TetragonTools:
        """Imported when a command asks for them."""
        from bpfence.dialects.tetragon.tools import TetragonTools

        return TetragonTools(self)

    def choose(self, given: Mapping[str, object]) -> None:
        """There is nothing to choose."""

    def claims(self, data: bytes) -> bool:
        """Whether a document has the API group of tracing policies."""
        return has_group(data, GROUP)

    def read(self, sources: Sequence[SourceFile], options: object) -> tuple[TetragonRules, list[Diagnostic]]:
        """The policies of all files. What cannot be put in force is a mistake."""
        return self.read_as(sources)

    def read_as(self, sources: Sequence[SourceFile], *, monitors: bool | None = None) -> tuple[TetragonRules, list[Diagnostic]]:
        """The same; `monitors`: whether their actions are only told, instead of what their `policy-mode` says."""
        from bpfence.dialects.tetragon.lower.policies import lower
        from bpfence.dialects.tetragon.read.document import CODES, read_sources
        from bpfence.documents.report import Report

        report = Report(CODES)
        read = read_sources(sources, report)
        refused = Report(CODES)
        lowered = [lower(policy, refused, monitors=monitors, functions=_functions) for policy in read]
        sensors = {(one.policy.name, rule): sensor for one in lowered for rule, sensor in one.sensors.items()}
        order = {source.file: n for n, source in enumerate(sources)}
        diagnostics = sorted(
            dict.fromkeys([*report.diagnostics, *refused.diagnostics]),
            key=lambda found: (order.get(found.location.file, 0), found.location.line, found.location.column),
        )
        modes = {one.policy.name: one.mode for one in lowered}
        return TetragonRules(PolicySet(tuple(one.policy for one in lowered)), sensors, modes), diagnostics

    def confirm(self, context: Context) -> Confirm:
        """Confirms nothing; says what events of its rules hold."""
        from bpfence.dialects.tetragon.confirm import confirm

        return confirm(context.kept)


TETRAGON: Final = Tetragon()
