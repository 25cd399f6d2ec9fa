# SPDX-License-Identifier: Apache-2.0
"""Falco's rules for commands: mistakes, expansions, replayed events, fields and events, exact policies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from bpfence.alerts.alert import host_name
from bpfence.conditions.text import condition_text
from bpfence.dialects.falco import load as loading
from bpfence.dialects.falco.confirm import event as recorded
from bpfence.dialects.falco.confirm.event import RecordedEvent
from bpfence.dialects.falco.confirm.rules import FalcoMatch
from bpfence.dialects.falco.dialect import FalcoRules
from bpfence.dialects.falco.lower import links as falco_links
from bpfence.dialects.falco.lower import rules as lower
from bpfence.dialects.falco.lower.exact import exactly
from bpfence.dialects.falco.options import FalcoOptions
from bpfence.dialects.falco.read import events, resolve
from bpfence.dialects.falco.read.fields import CLASSES, FALCO_FIELDS, FalcoField, FieldArgument
from bpfence.dialects.falco.read.resolve import FalcoRule
from bpfence.dialects.falco.show import form as line_of
from bpfence.dialects.falco.show import of_match
from bpfence.dialects.tools import NamedRule, Shown, StyledLine, Tested, TextTable, Tools, heading
from bpfence.documents.files import SourceFile
from bpfence.errors import Diagnostic, Location, PolicyError, UsageError
from bpfence.events.source import BadLineError
from bpfence.events.values import printable
from bpfence.fields import EVENT_BY_NAME
from bpfence.host.links import Links
from bpfence.kernel.hooks import hooks_of
from bpfence.policy import Policy, When

_REPORTED: Final = {
    When(0): "never", When.SUCCESS: "when the call has succeeded", When.FAILURE: "when the call has failed",
    When.SUCCESS | When.FAILURE: "when the call has succeeded or failed",
}  # fmt: skip
_SHAPES: Final = {
    FieldArgument.NONE: "",
    FieldArgument.INDEX: "[N]",
    FieldArgument.KEY: "[KEY]",
    FieldArgument.OPTIONAL_INDEX: "[N]?",
    FieldArgument.OPTIONAL_KEY: "[KEY]?",
}
TestedLine = tuple[int, RecordedEvent, list[FalcoMatch], str]
"""Of a recorded line: its number, its event, the rules that it matches, and what differs from what it expects."""


class FalcoTools(Tools):
    """All rules of the files are looked at, even those that are not enabled; only `test` takes the enabled ones."""

    def check(self, sources: Sequence[SourceFile], links: Links) -> tuple[list[Diagnostic], list[dict[str, Any]]]:
        """A line of summary for each file."""
        loaded, diagnostics = loading.load_sources(sources)
        links.look_up(falco_links.paths_of(loaded.rules))
        told = falco_links.widened(loaded.rules, links.find, where=links.where)[1]
        rules = {file: sum(rule.location.file == file for rule in loaded.rules) for file, _ in sources}
        summary = [{"name": file, "mode": "falco", "rules": count} for file, count in rules.items()]
        return [*diagnostics, *told, *links.findings(Location(sources[0].file))], summary

    def _rules(self, sources: Sequence[SourceFile]) -> tuple[list[FalcoRule], list[Diagnostic]]:
        loaded, diagnostics = loading.load_sources(sources)
        if any(diagnostic.severity == "error" for diagnostic in diagnostics):
            raise PolicyError(diagnostics)
        return loaded.rules, [diagnostic for diagnostic in diagnostics if diagnostic.severity == "warning"]

    def explain(
        self, sources: Sequence[SourceFile], links: Links, *, names: Sequence[str] = (), event: str = ""
    ) -> tuple[Shown, list[Diagnostic]]:
        """Expanded conditions, what the kernel decides of them, and what is left."""
        if event:
            raise UsageError(f"{self.dialect.title} are explained without --event")
        rules, warnings = self._rules(sources)
        if names:
            rules = loading.select(rules, names=names)
            if not rules:
                raise UsageError(f"no rule is named {' or '.join(map(repr, names))}")
        explained = [_explained(rule) for rule in rules]
        parts = [line for n, rule in enumerate(explained) for line in (*([()] if n else []), *_explanation(rule))]
        return Shown({"rules": explained}, parts), warnings

    def test(
        self,
        sources: Sequence[SourceFile],
        lines: Iterable[bytes],
        *,
        mode: str | None = None,
        options: FalcoOptions | None = None,
        form: str = "",
    ) -> tuple[Tested, list[Diagnostic]]:
        """Recorded events of Falco's, whose `expect` names the rules that must match."""
        if mode:
            raise UsageError(f"{self.dialect.title} are tested without --mode")
        options = options or FalcoOptions()
        all_rules, warnings = self._rules(sources)
        links = Links()
        chosen = loading.select(all_rules, names=options.names, tags=options.tags, disabled=options.disabled, priority=options.priority)
        unresolved = FalcoRules(chosen, options)
        links.look_up(unresolved.paths())
        rules, told = unresolved.resolved(links.find, links.where)
        told = [diagnostic for diagnostic in (*links.findings(Location(sources[0].file)), *told) if diagnostic.severity != "info"]
        results = [_tested(rules, number, event) for number, event in recorded.read(lines)]
        faults = rules.set.faults
        notes: list[StyledLine] = [((fault.text, "bold red"),) for fault in faults.take()]
        mismatches = sum(bool(problem) for *_, problem in results)
        expected = sum(event.record.expect is not None for _, event, _, _ in results)
        shown = _in_form(results, form) if form else _table(results, mismatches)
        return Tested(shown, len(results), expected, mismatches, notes, faults.counts.total()), [*warnings, *told]

    def fields(self, pattern: str, *, kernel: bool) -> Shown:
        """By the class that a field's name begins with."""
        decided = set(lower.decided_fields())
        chosen = [field for field in FALCO_FIELDS if pattern in field.name and (not kernel or field.name in decided)]
        tables = []
        for prefix, what in CLASSES.items():
            rows = [(_named(field), field.type.value, _described(field)) for field in chosen if field.name.partition(".")[0] == prefix]
            if rows:
                tables.append(TextTable(("field", "type", "what it is"), rows, f"Falco, {prefix}: {what}"))
        return Shown({"source": "syscall", "fields": [_field_as_json(field, field.name in decided) for field in chosen]}, tables)

    def events(self, pattern: str) -> Shown:
        """The types that evt.type may have."""
        types = sorted(name for name in events.NAMES if pattern in name)
        return Shown({"falco": types}, [heading("Falco rules (`evt.type`)"), ((" ".join(types), ""),)] if types else ())

    def exactly(
        self, sources: Sequence[SourceFile], mode: str
    ) -> tuple[list[tuple[NamedRule, Policy | list[Diagnostic]]], list[Diagnostic]]:
        """All enabled rules."""
        rules, warnings = self._rules(sources)
        return list(exactly(rules, mode)), warnings


def _explained(rule: FalcoRule) -> dict[str, Any]:
    enforcing = rule.enforcement is not None and rule.enforcement.action != "audit"
    lowered = lower.enforced(rule) if enforcing else lower.lower_rule(rule)
    types = sorted(rule.types) if len(rule.types) <= resolve.MANY_TYPES else ["(all)"]
    return {
        "rule": rule.name,
        "priority": rule.priority,
        "enabled": rule.enabled,
        "tags": list(rule.tags),
        "location": str(rule.location),
        "action": rule.enforcement.action if rule.enforcement else "audit",
        "types": types,
        "condition": resolve.show_condition(rule.condition),
        "output": rule.output_text,
        "exact": lowered.exact,
        "reported": "before the act" if enforcing else _REPORTED[lowered.when],
        "kernel": {native: condition_text(condition) for native, condition in lowered.conditions.items()},
        "user_space": [{"test": left.text, "reason": left.reason, "hint": left.hint, "location": str(left.place)} for left in lowered.left],
        "sensors": _sensors(rule, lowered),
        "unsensed": list(lowered.unsensed),
    }


def _sensors(rule: FalcoRule, lowered: lower.LoweredRule) -> list[str]:
    """Where the kernel looks for a rule: hooks, tracepoints (tp:), functions (fn:) and ends of system calls (call:)."""
    sensors: dict[str, None] = {}
    for native in lowered.conditions:
        sensors |= dict.fromkeys(hooks_of(native))
    for native in lowered.conditions if lowered.when else ():
        if EVENT_BY_NAME[native].deniable:  # decided at the hook, told when the call has returned
            sensors |= dict.fromkeys(f"call:{call}" for call in sorted(rule.types & events.calls_of()[native]))
    return list(sensors)


def _explanation(rule: dict[str, Any]) -> Iterator[StyledLine]:
    state = "" if rule["enabled"] else ", disabled"
    urgency, place = f"  {rule['priority']}, {rule['action']}{state}", f"  {printable(rule['location'])}"
    yield (printable(rule["rule"]), "bold"), (urgency, ""), (place, "dim")
    yield ((f"  event types  {' '.join(rule['types'])}", ""),)
    yield ((f"  condition    {printable(rule['condition'])}", ""),)
    if rule["kernel"]:
        yield ((f"  reported     {rule['reported']}", ""),)
    for native, condition in rule["kernel"].items():
        yield ("  kernel       ", "green"), (f"{native}: {printable(condition)}", "")
    if rule["sensors"]:
        yield ((f"  sensors      {' '.join(rule['sensors'])}", ""),)
    if rule["exact"]:
        yield (("  user space   nothing: the kernel decides it", ""),)
    for left in rule["user_space"]:
        yield ("  user space   ", "yellow"), (printable(left["test"]), ""), (f"  {printable(left['reason'])}", "dim")
    if rule["unsensed"]:
        yield ("  not sensed   ", "red"), (" ".join(rule["unsensed"]), "")


def _tested(rules: FalcoRules, number: int, event: RecordedEvent) -> TestedLine:
    matches = rules.set.matches(event)
    return number, event, matches, mismatch(event, matches, number)


def _table(results: Sequence[TestedLine], mismatches: int) -> Shown:
    rows = [(number, event.type, ", ".join(match.rule.name for match in matches), problem) for number, event, matches, problem in results]
    shown = [_result(*result) for result in results]
    return Shown({"events": shown, "mismatches": mismatches}, [TextTable(("line", "event", "rules", "not as expected"), rows)])


def _result(number: int, event: RecordedEvent, matches: list[FalcoMatch], problem: str) -> dict[str, Any]:
    fired = [{"rule": m.rule.name, "priority": m.rule.priority, "output": m.output, "output_fields": m.fields} for m in matches]
    return {"line": number, "event": event.type, "matches": fired, "expected": event.record.expect, "mismatch": problem}


def _in_form(results: Sequence[TestedLine], form: str) -> Shown:
    host = host_name()
    lines = []
    for _, event, matches, _ in results:
        named = event.get("evt.hostname")
        where = str(named) if named is not None else host
        lines += [((line_of(of_match(match, event, where), as_text=form == "falco-text"), ""),) for match in matches]
    return Shown({}, lines)


def mismatch(event: RecordedEvent, matches: list[FalcoMatch], number: int = 0) -> str:
    """What differs from what a recorded line expects; "" where nothing does."""
    expected = event.record.expect
    if expected is None:
        return ""
    wanted: list[dict[str, Any]] = [{"rule": item} if isinstance(item, str) else item for item in expected]
    names = [str(item.get("rule")) for item in wanted]
    fired = [match.rule.name for match in matches]
    if sorted(names) != sorted(fired):
        return f"expected {', '.join(names) or 'no rule'}, got {', '.join(fired) or 'none'}"
    for item in wanted:
        if item.keys() - {"rule", "output", "output_fields"} or not isinstance(item.get("output_fields", {}), dict):
            raise BadLineError(number, "expect holds names of rules, or objects of rule, output and output_fields")
        match = next(match for match in matches if match.rule.name == item["rule"])
        if "output" in item and item["output"] != match.output:
            return f"{match.rule.name}: output is {match.output}"
        for name, value in item.get("output_fields", {}).items():
            if match.fields.get(name) != value:
                return f"{match.rule.name}: {name} is {match.fields.get(name)!r}, not {value!r}"
    return ""


def _field_as_json(field: FalcoField, decided: bool) -> dict[str, Any]:
    made: dict[str, Any] = msgspec.to_builtins(field)
    return {
        "name": field.name,
        "type": field.type.value,
        "description": field.doc,
        "argument": field.argument.value,
        "list": field.many,
        "available": field.filled,
        "kernel": decided,
        "extension": made["extension"],
        "deprecated": field.deprecated,
    }


def _named(field: FalcoField) -> str:
    return field.name + _SHAPES[field.argument]


def _described(field: FalcoField) -> str:
    return field.doc if field.filled else f"{field.doc} (not filled in yet)"
