# SPDX-License-Identifier: Apache-2.0
"""What commands ask of KubeArmor's policies beside enforcing them: native policies that mean the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bpfence.dialects.kubearmor.dialect import KubeArmorRules
from bpfence.dialects.kubearmor.lower import policies
from bpfence.dialects.tools import NamedRule, Tools
from bpfence.documents.files import SourceFile
from bpfence.errors import Diagnostic, Location
from bpfence.policy import Policy

_ALLOWS = "is of an allow list, which a posture and all policies of the workload make up"
_EACH = "there is no native test of each argument by itself"
_UNSEEN = "there is no event for what it names"


class _Named(NamedTuple):
    name: str
    location: Location


class KubeArmorTools(Tools):
    """The tools of KubeArmor's policies."""

    def exactly(
        self, sources: Sequence[SourceFile], mode: str
    ) -> tuple[list[tuple[NamedRule, Policy | list[Diagnostic]]], list[Diagnostic]]:
        """Each entry by itself."""
        rules, warnings = self.read(sources)
        assert isinstance(rules, KubeArmorRules)
        return list(_converted(rules, mode)), warnings


def _converted(rules: KubeArmorRules, mode: str) -> Iterator[tuple[NamedRule, Policy | list[Diagnostic]]]:
    for policy, entry, made in policies.alone(rules.given, mode):
        name = f"{policy.key} {entry.where}"
        if made is not None:
            yield _Named(name, entry.location), made
            continue
        why = _EACH if entry.arguments is not None else _UNSEEN
        what = f"{name} {_ALLOWS}" if entry.action == "Allow" else f"{name}: {why}"
        yield _Named(name, entry.location), [Diagnostic(entry.location, what, "", "warning", "not-expressible")]
