# SPDX-License-Identifier: Apache-2.0
"""What commands ask of tracing policies beside enforcing them: the types of arguments, and the hooks that can be put in force."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from bpfence.compiler.compile import compile_policies
from bpfence.conditions.sensors import IN_PROGRAMS, IN_RECORDS, IN_STATIC_PROBES
from bpfence.dialects.facts import Facts
from bpfence.dialects.tetragon.lower.hooks import FUNCTIONS, LSM_HOOKS, Known
from bpfence.dialects.tetragon.lower.sensors import TYPES
from bpfence.dialects.tetragon.read import words
from bpfence.dialects.tools import Shown, TextTable, Tools
from bpfence.documents.files import SourceFile
from bpfence.errors import CompileError, Diagnostic
from bpfence.host.links import Links
from bpfence.policy import FALSE, Policy, PolicySet, Way

_SENSORS: Final = (
    ("kprobes, fentries", "any other function", Way.KPROBE, TYPES),
    ("tracepoints", "any tracepoint", Way.TRACEPOINT, IN_RECORDS),
    ("uprobes", "any function of a program or library", Way.UPROBE, IN_PROGRAMS),
    ("usdts", "any static probe of a program or library", Way.USDT, IN_STATIC_PROBES),
)


class TetragonTools(Tools):
    """The tools of tracing policies."""

    def check(self, sources: Sequence[SourceFile], links: Links) -> tuple[list[Diagnostic], list[dict[str, Any]]]:
        """What the compiler finds, too: selectors that nothing passes."""
        diagnostics, summary = super().check(sources, links)
        if not any(found.severity == "error" for found in diagnostics):
            rules, _ = self.dialect.read(sources, None)
            try:
                diagnostics += compile_policies(PolicySet(tuple(map(_possible, rules.policies(Facts()))))).unreachable
            except CompileError as error:
                diagnostics += error.diagnostics
        return diagnostics, summary

    def fields(self, pattern: str, *, kernel: bool) -> Shown:
        """Types of arguments with the operators that test them; `kernel`: only of arguments that can be read."""
        hooks = (*FUNCTIONS.values(), *LSM_HOOKS.values())
        read = {*TYPES, *(type_ for hook in hooks for one in hook.parameters.values() for type_ in one.types)}
        chosen = [type_ for type_ in words.TYPES if pattern in type_ and (not kernel or words.plain(type_) in read)]
        listed = [{"type": type_, "operators": list(words.operators_of(type_)), "read": words.plain(type_) in read} for type_ in chosen]
        rows = [(type_, ", ".join(words.operators_of(type_)) or "none", "yes" if words.plain(type_) in read else "no") for type_ in chosen]
        table = TextTable(("type", "operators", "can be read"), rows, "Tracing policies: types of arguments")
        return Shown({"tracing_types": listed}, [table] if rows else ())

    def events(self, pattern: str) -> Shown:
        """Functions and LSM hooks that are native events, each with the event that it is; then what sensors are put on."""
        hooks = [
            *(("kprobes, fentries", name, known) for name, known in FUNCTIONS.items()),
            *(("lsmhooks", name, known) for name, known in LSM_HOOKS.items()),
        ]
        chosen = [(section, name, known) for section, name, known in hooks if pattern in name]
        listed = [
            {
                "section": section,
                "hook": name,
                "event": known.event,
                "args": {str(index): list(one.types) for index, one in known.parameters.items()},
            }
            for section, name, known in chosen
        ]
        rows = [(section, name, known.event, _arguments(known)) for section, name, known in chosen]
        for section, name, way, types in _SENSORS:
            if pattern in name:
                listed.append({"section": section, "hook": name, "event": way.value, "args": {"*": list(types)}})
                rows.append((section, name, way.value, f"any of {', '.join(types)}"))
        table = TextTable(("section", "hook", "native event", "args"), rows, "Tracing policies: hooks that can be put in force")
        return Shown({"tracing_hooks": listed}, [table] if rows else ())


def _possible(policy: Policy) -> Policy:
    """A policy without the rules of which it has been told already that nothing passes them."""
    return msgspec.structs.replace(policy, rules=tuple(rule for rule in policy.rules if rule.condition != FALSE))


def _arguments(known: Known) -> str:
    return ", ".join(f"{index} {parameter.types[0]}" for index, parameter in known.parameters.items()) or "none"
