# SPDX-License-Identifier: Apache-2.0
"""KubeArmor's language, in the shape of every dialect. The kernel decides it completely; user space says what an alert is in its words."""

from __future__ import annotations

import platform
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from bpfence.conditions.links import Resolver
from bpfence.dialects.decided import DecidedRules
from bpfence.dialects.dialect import Confirm, Context
from bpfence.dialects.facts import Facts
from bpfence.dialects.kubearmor.options import (
    DNS,
    GROUP,
    MAX_ALERTS,
    MOST,
    NAME,
    NOTHING,
    OBJECTS,
    OPTIONS,
    PAUSE,
    THROTTLING,
    VISIBLE,
    KubeArmorOptions,
    Throttling,
)
from bpfence.documents.files import SourceFile
from bpfence.documents.headers import has_group
from bpfence.errors import CompileError, Diagnostic, Location, UsageError
from bpfence.policy import Policy, PolicySet
from bpfence.words import quoted

if TYPE_CHECKING:
    from bpfence.dialects.kubearmor.model import KubeArmorPolicy
    from bpfence.dialects.tools import Tools

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


class KubeArmorRules(DecidedRules):
    """What the policies are lowered to: one of each, and one for the postures. `given`: they themselves."""

    resolver = Resolver()

    def __init__(self, given: Sequence[KubeArmorPolicy], options: KubeArmorOptions) -> None:
        from bpfence.dialects.kubearmor.lower import policies

        made, self.refused = policies.lowered(given, options)
        super().__init__(PolicySet(made))
        self.given = tuple(given)
        self._options = options

    def policies(self, facts: Facts) -> tuple[Policy, ...]:
        """The policies themselves. CompileError where those that were joined are too many."""
        if self.refused:
            raise CompileError(self.refused)
        return super().policies(facts)

    def names(self) -> list[str]:
        """Those of the policies; that of the postures is all of theirs."""
        return [policy.key for policy in self.given]

    def joined(self, more: Iterable[KubeArmorRules]) -> KubeArmorRules:
        """All of them. Entries that allow are one list for each workload, whosever policies they are of."""
        return KubeArmorRules([*self.given, *(policy for rules in more for policy in rules.given)], self._options)

    def without(self, names: Collection[str]) -> KubeArmorRules:
        """All but those: entries that allow are lowered anew."""
        return KubeArmorRules([policy for policy in self.given if policy.key not in names], self._options)

    @property
    def said(self) -> object:
        """Severities are ten there, and five here; some messages are of the language alone."""
        return self.given

    @property
    def locations(self) -> Sequence[Location]:
        """Where each policy stands, that of the postures nowhere."""
        return [policy.location for policy in self.given]


class _KubeArmor:
    name = NAME
    title = "KubeArmor policies"
    policies = ()
    reads_processes = False
    options = OPTIONS
    forms = ()
    objects = OBJECTS

    def tools(self) -> Tools:
        """Imported when a command asks for them."""
        from bpfence.dialects.kubearmor.tools import KubeArmorTools

        return KubeArmorTools(self)

    def choose(self, given: Mapping[str, Any]) -> KubeArmorOptions:
        """The options as they were given, with the labels that every node has. UsageError where one cannot be read,
        PolicyError where a file of settings has a mistake."""
        host, machine = platform.node(), platform.machine()
        node = {"kubearmor.io/hostname": host, "kubernetes.io/hostname": host, "kubernetes.io/os": "linux"}
        node |= {"kubernetes.io/arch": _ARCHITECTURES.get(machine, machine)}
        for label in given["labels"]:
            key, equals, value = label.partition("=")
            if not key or not equals:
                raise UsageError(f"--node-label {label}: write KEY=VALUE")
            node[key] = value
        postures: dict[str, str] = {}
        if given["config"] is not None:
            from bpfence.dialects.kubearmor import config

            postures = config.postures(given["config"])
        own = ("labels", "unknown", "config", "visible", "host_visible")
        postures |= {key: value for key, value in given.items() if key not in own and value is not None}
        throttling = _throttling({name: postures.pop(name) for name in THROTTLING.values() if name in postures})
        visible, of_host = _visible("--visibility", given["visible"]), _visible("--host-visibility", given["host_visible"])
        return KubeArmorOptions(
            postures=postures, node=node, unknown=given["unknown"], visible=visible, host_visible=of_host or (), throttling=throttling
        )

    def claims(self, data: bytes) -> bool:
        """Whether there is a document of KubeArmor's API group."""
        return has_group(data, GROUP)

    def read(self, sources: Sequence[SourceFile], options: KubeArmorOptions | None) -> tuple[KubeArmorRules, list[Diagnostic]]:
        """The policies of all files that are for this node."""
        from bpfence.dialects.kubearmor.lower import policies
        from bpfence.dialects.kubearmor.read import load_sources

        options = options or KubeArmorOptions()
        found, diagnostics = load_sources(sources)
        chosen, elsewhere = policies.here(found, options)
        rules = KubeArmorRules(chosen, options)
        return rules, [*diagnostics, *elsewhere, *rules.refused, *policies.warnings(chosen)]

    def confirm(self, context: Context) -> Confirm | None:
        """Confirms nothing, and says what alerts are in KubeArmor's words."""
        from bpfence.dialects.kubearmor.confirm import confirm

        return confirm(context.kept)


def _throttling(given: Mapping[str, str]) -> Throttling | None:
    """UsageError where a number is none."""
    numbers = []
    for name, flag, least in (("max_alerts", "--max-alert-per-sec", 1), ("pause", "--throttle-sec", 1)):
        if (text := given.get(name)) is None:
            continue
        if not (text.isascii() and text.isdecimal() and least <= int(text[:9]) <= MOST and len(text) < 9):
            raise UsageError(f"{flag} {text}: write a number from {least} to {MOST}")
        numbers.append((name, int(text)))
    if given.get("throttling") not in ("on", "true"):
        return None
    found = dict(numbers)
    return Throttling(found.get("max_alerts", MAX_ALERTS), found.get("pause", PAUSE))


def _visible(option: str, text: str | None) -> tuple[str, ...] | None:
    """What an option lists. UsageError where that is not known."""
    if text is None:
        return None
    words = {word.strip().lower() for word in text.split(",")}
    if DNS in words:
        raise UsageError(f"{option} {text}: what is asked of name servers is in no event yet; leave out {DNS}")
    if unknown := sorted(words.difference((*VISIBLE, NOTHING))):
        raise UsageError(f"{option} {text}: {quoted(unknown[0])} is none of {', '.join((*VISIBLE, NOTHING))}")
    return tuple(word for word in VISIBLE if word in words)


KUBEARMOR: Final = _KubeArmor()
