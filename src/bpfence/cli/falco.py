# SPDX-License-Identifier: Apache-2.0
"""Falco rule files in; mistakes, expansions, replayed events and native policies out.

`fields`, `events` (both of native policies, too) and `convert` are commands of their own; `check`, `explain` and `test` of `policies` come
here with the files that are Falco's.
No kernel, no privileges, no libbpf.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from bpfence import fields as tables
from bpfence.alerts.alert import host_name
from bpfence.cli.given import PATHS, no_host_option, opened, read
from bpfence.cli.show import (
    Command,
    assembled,
    diagnostic_as_json,
    emit_json,
    err,
    json_option,
    met,
    number,
    out,
    show_diagnostics,
    styled,
    table,
)
from bpfence.conditions.text import condition_text
from bpfence.convert import convert
from bpfence.dialects.falco import load as falco
from bpfence.dialects.falco.confirm import event as falco_events
from bpfence.dialects.falco.confirm.event import RecordedEvent
from bpfence.dialects.falco.confirm.rules import Match, RuleSet
from bpfence.dialects.falco.dialect import FalcoRules
from bpfence.dialects.falco.lower import links as falco_links
from bpfence.dialects.falco.lower import rules as lower
from bpfence.dialects.falco.lower.exact import exactly
from bpfence.dialects.falco.options import FalcoOptions
from bpfence.dialects.falco.read import events as falco_calls
from bpfence.dialects.falco.read import resolve
from bpfence.dialects.falco.read.fields import CLASSES, FIELDS, Argument, Field
from bpfence.dialects.falco.read.resolve import Rule
from bpfence.dialects.falco.show import form, of_match
from bpfence.dialects.native.write import document
from bpfence.documents.files import Source
from bpfence.errors import Diagnostic, Location, PolicyError, UsageError
from bpfence.events.source import BadLineError, bounded_lines
from bpfence.events.values import printable
from bpfence.fields import EVENT_BY_NAME
from bpfence.host.links import Links
from bpfence.policy import When

if TYPE_CHECKING:
    from rich.text import Text

FINDINGS: Final = 1
LANGUAGES: Final = click.Choice(["all", "native", "falco"])


def load(files: Sequence[Source]) -> list[Rule]:
    """The rules of some files; PolicyError where there is a mistake. Warnings go to standard error."""
    loaded, found = falco.load_sources(files)
    if any(diagnostic.severity == "error" for diagnostic in found):
        raise PolicyError(found)
    show_diagnostics(diagnostic for diagnostic in found if diagnostic.severity == "warning")
    return loaded.rules


def check(files: Sequence[Source], links: Links) -> tuple[list[Diagnostic], list[dict[str, Any]]]:
    """Mistakes in Falco files, what links make of their paths, and one line of summary for each file's rules."""
    loaded, found = falco.load_sources(files)
    links.look_up(falco_links.paths_of(loaded.rules))
    found = [*found, *falco_links.widened(loaded.rules, links.find, where=links.where)[1], *links.findings(Location(files[0].file))]
    summary = [{"name": file, "mode": "falco", "rules": sum(rule.location.file == file for rule in loaded.rules)} for file, _ in files]
    return found, summary


# ---- explain ----


def explain(files: Sequence[Source], names: Sequence[str], as_json: bool) -> None:
    """Expanded conditions, what the kernel decides, and what is left."""
    rules = load(files)
    if names:
        rules = falco.select(rules, names=names)
        if not rules:
            raise UsageError(f"no rule is named {' or '.join(map(repr, names))}")
    shown = [_explained(rule) for rule in rules]
    if as_json:
        emit_json({"rules": shown})
        return
    console = out()
    for n, rule in enumerate(shown):
        if n:
            console.print()
        for line in _explanation(rule):
            console.print(line)


_REPORTED: Final = {
    When(0): "never", When.SUCCESS: "when the call has succeeded", When.FAILURE: "when the call has failed",
    When.SUCCESS | When.FAILURE: "when the call has succeeded or failed",
}  # fmt: skip


def _explained(rule: Rule) -> dict[str, Any]:
    enforcing = rule.enforcement is not None and rule.enforcement.action != "audit"
    lowered = lower.enforced(rule) if enforcing else lower.lower(rule)
    types = sorted(rule.types) if len(rule.types) <= resolve.MANY_TYPES else ["(all)"]
    return {
        "rule": rule.name, "priority": rule.priority, "enabled": rule.enabled, "tags": list(rule.tags), "location": str(rule.location),
        "action": rule.enforcement.action if rule.enforcement else "audit", "types": types, "condition": resolve.show(rule.condition),
        "output": rule.output_text, "exact": lowered.exact, "reported": "before the act" if enforcing else _REPORTED[lowered.when],
        "kernel": {native: condition_text(condition) for native, condition in lowered.conditions.items()},
        "user_space": [{"test": left.text, "reason": left.reason, "hint": left.hint, "location": str(left.place)} for left in lowered.left],
        "sensors": _sensors(rule, lowered), "unsensed": list(lowered.unsensed),
    }  # fmt: skip


def _sensors(rule: Rule, lowered: lower.Lowered) -> list[str]:
    """Where the kernel is looked at for a rule: hooks, tracepoints (tp:), functions (fn:) and ends of system calls (call:)."""
    found: dict[str, None] = {}
    for native in lowered.conditions:
        found |= dict.fromkeys(EVENT_BY_NAME[native].hooks)
    for native in lowered.conditions if lowered.when else ():
        if EVENT_BY_NAME[native].deniable:  # decided at the hook, told when the call has returned
            found |= dict.fromkeys(f"call:{call}" for call in sorted(rule.types & falco_calls.calls_of()[native]))
    return list(found)


def _explanation(rule: dict[str, Any]) -> Iterator[Text]:
    state = "" if rule["enabled"] else ", disabled"
    yield assembled(
        (printable(rule["rule"]), "bold"), f"  {rule['priority']}, {rule['action']}{state}", (f"  {printable(rule['location'])}", "dim")
    )
    yield styled(f"  event types  {' '.join(rule['types'])}")
    yield styled(f"  condition    {printable(rule['condition'])}")
    if rule["kernel"]:
        yield styled(f"  reported     {rule['reported']}")
    for native, condition in rule["kernel"].items():
        yield assembled(("  kernel       ", "green"), f"{native}: {printable(condition)}")
    if rule["sensors"]:
        yield styled(f"  sensors      {' '.join(rule['sensors'])}")
    if rule["exact"]:
        yield styled("  user space   nothing: the kernel decides it")
    for left in rule["user_space"]:
        yield assembled(("  user space   ", "yellow"), printable(left["test"]), (f"  {printable(left['reason'])}", "dim"))
    if rule["unsensed"]:
        yield assembled(("  not sensed   ", "red"), " ".join(rule["unsensed"]))


# ---- test ----


def test(files: Sequence[Source], events: str, options: FalcoOptions, *, form_name: str, as_json: bool) -> int:
    """Replay recorded events against rules."""
    chosen = falco.select(
        load(files), names=options.names, tags=options.tags, disabled=options.disabled, priority=options.priority
    )  # fmt: skip
    links = Links()
    unresolved = FalcoRules(chosen, options)
    links.look_up(unresolved.paths())
    found, told = unresolved.resolved(links.find, links.where)
    rules = found.set
    told = [*links.findings(Location(files[0].file)), *told]
    show_diagnostics(diagnostic for diagnostic in told if diagnostic.severity != "info")
    results = []
    try:
        if events == "-":
            results = [_tested(rules, number, event) for number, event in falco_events.read(bounded_lines(sys.stdin.buffer))]
        else:
            with Path(events).open("rb") as lines:
                results = [_tested(rules, number, event) for number, event in falco_events.read(bounded_lines(lines))]
    except BadLineError as error:
        raise UsageError(f"{events}: {error}") from None
    except OSError as error:
        raise UsageError(f"{events}: {error.strerror or error}") from None
    mismatches = sum(bool(result[-1]) for result in results)
    for fault in rules.faults.take():
        err().print(styled(fault.text, "bold red"))
    if form_name != "table":
        host = host_name()
        for _, event, matches, _ in results:
            for match in matches:
                named = event.get("evt.hostname")
                click.echo(form(of_match(match, event, str(named) if named is not None else host), as_text=form_name == "falco-text"))
    elif as_json:
        shown = [_result(number, event, matches, problem) for number, event, matches, problem in results]
        emit_json({"events": shown, "mismatches": mismatches})
    else:
        rows = [
            (number, event.type, ", ".join(match.rule.name for match in matches), problem) for number, event, matches, problem in results
        ]
        out().print(table("line", "event", "rules", "not as expected", rows=rows))
    if form_name != "table" or not as_json:
        verdict = met(len(results), sum(event.record.expect is not None for _, event, _, _ in results), mismatches)
        err().print(styled(verdict, "bold red" if mismatches else "green"))
    return FINDINGS if mismatches or rules.faults.counts else 0


def _result(number: int, event: RecordedEvent, matches: list[Match], problem: str) -> dict[str, Any]:
    fired = [{"rule": m.rule.name, "priority": m.rule.priority, "output": m.output, "output_fields": m.fields} for m in matches]
    return {"line": number, "event": event.type, "matches": fired, "expected": event.record.expect, "mismatch": problem}


def _tested(rules: RuleSet, number: int, event: RecordedEvent) -> tuple[int, RecordedEvent, list[Match], str]:
    matches = rules.matches(event)
    return number, event, matches, mismatch(event, matches, number)


def mismatch(event: RecordedEvent, matches: list[Match], number: int = 0) -> str:
    """What is not as a recorded line expects, or nothing."""
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


# ---- fields ----


@click.command("fields", cls=Command, short_help="List the fields of conditions and messages.")
@click.argument("pattern", required=False, default="")
@click.option("--language", type=LANGUAGES, default="all", show_default=True, help="Whose fields: those of native policies, or Falco's.")
@click.option("--source", type=click.Choice(["syscall"]), default="syscall", show_default=True, help="Falco: the event source.")
@click.option("--kernel", is_flag=True, help="Only fields that the kernel decides on some event.")
@json_option
def fields_command(pattern: str, language: str, source: str, kernel: bool, as_json: bool) -> int:
    """List the fields that conditions and messages can use, in native policies and in Falco rules. PATTERN is a part of a name.

    \b
    Examples:
      bpfence fields
      bpfence fields process. --language native
      bpfence fields proc.a
      bpfence fields --json | jq -r '.native[].name, .fields[].name'
    """
    decided = set(lower.decided_fields())
    chosen = [field for field in FIELDS if pattern in field.name and (not kernel or field.name in decided)] if language != "native" else []
    own = [field for field in tables.FIELDS if pattern in field.name and (not kernel or field.kernel)] if language != "falco" else []
    if as_json:
        shown = [_field_as_json(field, field.name in decided) for field in chosen]
        emit_json({"source": source, "fields": shown, "native": [_native_as_json(field) for field in own]})
        return 0
    console = out()
    for prefix in dict.fromkeys(field.name.partition(".")[0] for field in own):
        rows = [(field.name, field.kind.value, field.doc) for field in own if field.name.partition(".")[0] == prefix]
        console.print(table("field", "type", "what it is", rows=rows, title=f"native policies: {prefix}"))
        console.print()
    for prefix, what in CLASSES.items():
        rows = [(_named(field), field.type.value, _described(field)) for field in chosen if field.name.partition(".")[0] == prefix]
        if rows:
            console.print(table("field", "type", "what it is", rows=rows, title=f"Falco, {prefix}: {what}"))
            console.print()
    if not own and not chosen:
        console.print(f"no field has {printable(pattern)!r} in its name")
    return 0


def _native_as_json(field: tables.Field) -> dict[str, Any]:
    return {
        "name": field.name, "type": field.kind.value, "description": field.doc, "events": list(field.events), "kernel": field.kernel,
        "names": field.names,
    }  # fmt: skip


# ---- events ----


@click.command("events", cls=Command, short_help="List the events that rules can be about.")
@click.argument("pattern", required=False, default="")
@click.option("--language", type=LANGUAGES, default="all", show_default=True, help="Whose events: those of native policies, or Falco's.")
@json_option
def events_command(pattern: str, language: str, as_json: bool) -> int:
    """List the events that rules can be about: native ones with their short names and groups, and the types that Falco rules can ask for.

    PATTERN is a part of a name.

    \b
    Examples:
      bpfence events
      bpfence events file.
      bpfence events --json | jq -r '.events[] | select(.deniable) | .name'
    """
    own = [event for event in tables.EVENTS if any(pattern in name for name in (event.name, *event.short))] if language != "falco" else []
    groups = {name: events for name, events in tables.GROUPS.items() if pattern in name} if language != "falco" else {}
    theirs = sorted(name for name in falco_calls.NAMES if pattern in name) if language != "native" else []
    if as_json:
        shown = [
            {
                "name": event.name, "short": list(event.short), "description": event.doc, "deniable": event.deniable,
                "killable": event.killable,
            }
            for event in own
        ]  # fmt: skip
        emit_json({"events": shown, "groups": groups, "falco": theirs})
        return 0
    console = out()
    if own:
        rows = [(event.name, " ".join(event.short), _prevention(event), event.doc) for event in own]
        console.print(table("event", "short", "deny?", "what happens", rows=rows, title="native policies (`on:`)"))
        console.print()
    if groups:
        console.print(table("group", "its events", rows=[(name, " ".join(events)) for name, events in groups.items()], title="groups"))
        console.print()
    if theirs:
        console.print(styled("Falco rules (`evt.type`)", "bold"))
        console.print(styled(" ".join(theirs)))
    if not own and not groups and not theirs:
        console.print(f"no event has {printable(pattern)!r} in its name")
    return 0


def _prevention(event: tables.EventType) -> str:
    return "yes" if event.deniable else "kill" if event.killable else "no"


def _field_as_json(field: Field, decided: bool) -> dict[str, Any]:
    made: dict[str, Any] = msgspec.to_builtins(field)
    return {
        "name": field.name, "type": field.type.value, "description": field.doc, "argument": field.argument.value, "list": field.many,
        "available": field.filled, "kernel": decided, "extension": made["extension"], "deprecated": field.deprecated,
    }  # fmt: skip


def _named(field: Field) -> str:
    shape = {
        Argument.NONE: "",
        Argument.INDEX: "[N]",
        Argument.KEY: "[KEY]",
        Argument.OPTIONAL_INDEX: "[N]?",
        Argument.OPTIONAL_KEY: "[KEY]?",
    }
    return field.name + shape[field.argument]


def _described(field: Field) -> str:
    return field.doc if field.filled else f"{field.doc} (not filled in yet)"


# ---- convert ----


@click.command("convert", cls=Command, short_help="Write Falco rules as native policies.")
@click.argument("files", nargs=-1, required=True, type=PATHS)
@click.option("--to", "target", type=click.Choice(["native"]), required=True, help="The format to write.")
@click.option("--mode", type=click.Choice(["audit", "enforce"]), default="audit", show_default=True, help="Mode of the policies written.")
@no_host_option
@json_option
def convert_command(files: tuple[str, ...], target: str, mode: str, no_host: bool, as_json: bool) -> int:
    """Write native policies that mean the same as Falco rules. What cannot be expressed exactly is reported and left out.

    Exits with 1 when something was left out.

    \b
    Examples:
      bpfence convert --to native rules.yaml > policies.yaml
      bpfence convert --to native rules.yaml --json | jq '.left_out'
    """
    with opened(files, no_host) as given:
        rules = load([source for theirs in read(given.files).values() for source in theirs])
        found = convert(exactly(rules, mode), document)
        left_out = given.named(found.left_out)
        if as_json:
            emit_json({"policies": found.text, "converted": found.converted, "left_out": [diagnostic_as_json(d) for d in left_out]})
        else:
            click.echo(found.text, nl=False)
            show_diagnostics(left_out)
            places = number(len({diagnostic.location for diagnostic in left_out}), "place")
            err().print(styled(f"{number(len(found.converted), 'rule')} converted to {target} policies, {places} left out"))
    return FINDINGS if found.left_out else 0


COMMANDS: Final = (fields_command, events_command, convert_command)
