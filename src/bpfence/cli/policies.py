# SPDX-License-Identifier: Apache-2.0
"""Policy files in, what is wrong with them, what becomes of them and what they decide, out.

`check`, `explain` and `test`: no kernel, no privileges, no libbpf.
"""

from __future__ import annotations

import errno as errno_module
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from bpfence import evaluate
from bpfence.agent.loading import native_policies
from bpfence.cli import falco
from bpfence.cli.given import PATHS, look, no_host_option, opened, read
from bpfence.cli.show import Command, diagnostic_as_json, emit_json, err, json_option, number, out, show_diagnostics, styled, table
from bpfence.compiler.compile import Compiled, compile_policies
from bpfence.conditions.links import PATHS as PATH_FIELDS
from bpfence.dialects.falco.dialect import FALCO
from bpfence.dialects.falco.options import FalcoOptions
from bpfence.dialects.native.dialect import NATIVE
from bpfence.errors import CompileError, Diagnostic, Location, UsageError
from bpfence.events.source import BadLineError, Recorded, events_from_json, read_recorded
from bpfence.events.values import BadValueError, escape, printable
from bpfence.fields import FIELD_BY_NAME, applies
from bpfence.host.links import Links
from bpfence.names import TABLES
from bpfence.policy import DEFAULT_RULE, Action, And, Condition, Not, Op, Or, PolicySet, Value, atoms
from bpfence.seccomp.profile import kernel_version

if TYPE_CHECKING:
    from rich.text import Text

    from bpfence.compiler.explain import Route

FINDINGS: Final = 1
UNREADABLE: Final = 2
ALL_CAPABILITIES: Final = frozenset(TABLES["capability"].numbers)
FILES: Final = click.Path(exists=True, allow_dash=True, path_type=str)
root_option = click.option(
    "--root", type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=str), default="/",
    help="Look symbolic links up in the tree below this directory (an image, say), not on this host.",
)  # fmt: skip
FORMS: Final = click.Choice(["table", "falco", "falco-text"])


@click.command(cls=Command)
@click.argument("files", nargs=-1, required=True, type=PATHS)
@click.option("--strict", is_flag=True, help="Warnings count as findings.")
@root_option
@no_host_option
@json_option
def check(files: tuple[str, ...], strict: bool, root: str, no_host: bool, as_json: bool) -> int:
    """Find every mistake in policy files (native or Falco's), with its place and what to write instead. `-` is standard input.

    Tells what paths lead to through symbolic links, too: on this host, or in the tree below --root.
    Exits with 0 when there is none, 1 when there are some, 2 when a file cannot be read.

    \b
    Examples:
      bpfence check policies/
      bpfence check --root /mnt/image policies/
      bpfence check --no-host policies-of-the-web-servers/
      helm template . | bpfence check -
      bpfence check --json my.yaml | jq '.findings[].message'
    """
    with opened(files, no_host) as given:
        found, summary = _examined(given.files, Links(root))
        found = sorted(dict.fromkeys(given.named(found)), key=lambda diagnostic: diagnostic.location)
        counts = {severity: sum(diagnostic.severity == severity for diagnostic in found) for severity in ("error", "warning")}
        if as_json:
            findings = [diagnostic_as_json(diagnostic) for diagnostic in found]
            emit_json({"findings": findings, "errors": counts["error"], "warnings": counts["warning"], "policies": summary})
        else:
            show_diagnostics(found, out())
            err().print(styled(_counted(summary, counts), "green" if not counts["error"] else "bold red"))
    return _check_code(found, strict)


def _counted(summary: list[dict[str, Any]], counts: dict[str, int]) -> str:
    """How many mistakes in how much; not how much, where mistakes have kept policies from being read."""
    mistakes = f"{number(counts['error'], 'error')}, {number(counts['warning'], 'warning')}"
    if counts["error"] and not summary:
        return mistakes
    rules = sum(policy["rules"] for policy in summary)
    return f"{number(len(summary), 'policy', 'policies')}, {number(rules, 'rule')}: {mistakes}"


def _examined(files: tuple[str, ...], links: Links) -> tuple[list[Diagnostic], list[dict[str, Any]]]:
    """What is wrong with policy files, and what is in them."""
    by_language, unread = look(files)
    rules, found = NATIVE.read(by_language.get(NATIVE.name, ()), None)
    found = [*unread, *found, *seccomp_findings(rules.found)]
    theirs = by_language.get(FALCO.name)
    links.look_up(rules.paths())
    rules, told = rules.resolved(links.find, links.where)
    policies = rules.found
    place = policies.policies[0].location.file if policies.policies else "<policies>"
    found += [*links.findings(Location(place)), *told]
    if not any(diagnostic.severity == "error" for diagnostic in found):
        try:
            found += compile_policies(policies).unreachable
        except CompileError as error:
            found += error.diagnostics
    summary = _summary(policies)
    if theirs:
        more, falco_summary = falco.check(theirs, links)
        found, summary = [*found, *more], [*summary, *falco_summary]
    return found, summary


def seccomp_findings(policies: PolicySet) -> list[Diagnostic]:
    """What is wrong with the seccomp profiles that policies carry. What a container runtime needs does not matter to them."""
    profiles = [policy.seccomp for policy in policies.policies if policy.seccomp is not None]
    if not profiles:
        return []
    from bpfence.seccomp.check import check as examine  # only policies that carry one pay for loading libseccomp

    kernel = kernel_version(platform.release())
    found = [diagnostic for profile in profiles for diagnostic in examine(profile, None, ALL_CAPABILITIES, kernel)]
    return [diagnostic for diagnostic in found if diagnostic.severity != "info" and diagnostic.code != "runtime-needs"]


def _check_code(found: list[Diagnostic], strict: bool) -> int:
    if any(diagnostic.code == "cannot-read" for diagnostic in found):
        return UNREADABLE
    bad = ("error", "warning") if strict else ("error",)
    return FINDINGS if any(diagnostic.severity in bad for diagnostic in found) else 0


def _summary(policies: PolicySet) -> list[dict[str, Any]]:
    return [{"name": policy.name, "mode": policy.mode, "rules": len(policy.rules)} for policy in policies.policies]


# ---- explain ----


@click.command("explain", cls=Command)
@click.argument("files", nargs=-1, required=True, type=PATHS)
@click.option("--event", "event", metavar="JSON", help='A sample event, as {"event": "process.exec", "file.path": "/tmp/x"}.')
@click.option("--rule", "names", multiple=True, metavar="NAME", help="Of Falco rules: only these (shell patterns). Repeatable.")
@root_option
@no_host_option
@json_option
def explain_command(
    files: tuple[str, ...], event: str | None, names: tuple[str, ...], root: str, no_host: bool, as_json: bool
) -> int:  # fmt: skip
    """Show what policies are compiled to: where each rule runs, the sizes of automata and diagrams, the route of an event.

    Of Falco rules: the condition with macros and lists put in, what of it the kernel decides, and what is left and why. A sample event may
    name a group of events (file.modify): then the route of each is shown.

    \b
    Examples:
      bpfence explain policies/
      bpfence explain falco_rules.yaml --rule 'Clear Log*'
      bpfence explain p.yaml --event '{"event":"process.exec","file.path":"/tmp/x","process.uid":1000}'
    """
    with opened(files, no_host) as given:
        by_language = read(given.files)
        if theirs := by_language.pop(FALCO.name, None):
            if by_language or event:
                raise UsageError("Falco files are explained by themselves, without --event")
            falco.explain(theirs, names, as_json)
            return 0
        links = Links(root)
        policies, _ = native_policies(by_language.get(NATIVE.name, ()), links=links)
        compiled = compile_policies(policies)
        samples = [_resolved(sample, links) for sample in _samples(event)] if event else []
        routes = [(_route(compiled, sample, notes), undecided(policies, sample)) for sample, notes in samples]
        _show_explained(compiled, routes, as_json)
    return 0


def _show_explained(compiled: Compiled, routes: list[tuple[Route, tuple[str, ...]]], as_json: bool) -> None:
    if as_json:
        emit_json(_explained(compiled, routes))
        return
    console = out()
    console.print(table("policy", "rule", "mode", "action", "events", "decided", rows=_rule_rows(compiled), title="Rules"))
    console.print()
    console.print(table("dimension", "field", "when", "classes", "states", rows=_dimension_rows(compiled), title="Dimensions"))
    console.print()
    console.print(table("group", "rules", "subjects", "nodes", "edges", "events", rows=_group_rows(compiled), title="Diagrams"))
    sizes = ", ".join(f"{name} {size:,}" for name, size in compiled.stats.bytes.items())
    console.print(f"\nImage: {len(compiled.image):,} bytes ({sizes})")
    for route, lacking in routes:
        console.print()
        _show_route(route)
        if lacking:
            console.print(styled(lacks(lacking), "yellow"))


def lacks(fields: Sequence[str]) -> str:
    """A note about a sample event without fields that would decide."""
    return f"the sample does not say {', '.join(fields)}, which would decide some rules; it is taken to be absent"


def undecided(policies: PolicySet, event: dict[str, Value]) -> tuple[str, ...]:
    """Fields that a sample event does not have, though its kind of event can, and on which the outcome of some rule depends."""
    found: dict[str, None] = {}
    name = str(event["event"])
    for policy in policies.policies:
        for rule in policy.rules:
            if name in rule.events:
                condition = rule.conditions.get(name, rule.condition)
                if _outcome(condition, event, name) is None:
                    found |= dict.fromkeys(_lacking(condition, event, name))
        if name in policy.default and _outcome(policy.scope, event, name) is None:
            found |= dict.fromkeys(_lacking(policy.scope, event, name))
    return tuple(found)


def _lacking(condition: Condition, event: dict[str, Value], name: str) -> Iterator[str]:
    """Fields of a condition that the sample lacks, though its kind of event can have them."""
    for atom in atoms(condition):
        for field in atom.fields if atom.op is not Op.OBJECT else ():
            if event.get(field) is None and applies(FIELD_BY_NAME[field], name):
                yield field


def _outcome(condition: Condition, event: dict[str, Value], name: str) -> bool | None:
    """Whether a condition holds; None where that depends on what the sample does not say."""
    match condition:
        case And(parts) | Or(parts):
            decisive = isinstance(condition, Or)
            outcomes = [_outcome(part, event, name) for part in parts]
            return decisive if decisive in outcomes else None if None in outcomes else not decisive
        case Not(part):
            outcome = _outcome(part, event, name)
            return None if outcome is None else not outcome
    return None if any(_lacking(condition, event, name)) else evaluate.holds(condition, event)


def _route(compiled: Compiled, event: dict[str, Value], notes: list[str]) -> Route:
    from bpfence.compiler.explain import explain

    route = explain(compiled, event)
    return msgspec.structs.replace(route, words=(*notes, *route.words))


NOT_FOLLOWED: Final = frozenset(
    ("file.create", "file.unlink", "file.rename", "file.link", "file.symlink", "file.mkdir", "file.rmdir", "net.bind")
)  # fmt: skip
"""Events about a name: where that is a link, it is the link itself that they are about."""


def _resolved(event: dict[str, Value], links: Links) -> tuple[dict[str, Value], list[str]]:
    """A sample event with its paths as the kernel would report them, and a line for each that this changes."""
    typed = {name: value for name, value in event.items() if name in PATH_FIELDS and isinstance(value, str)}
    several = {name: value for name, value in event.items() if name in PATH_FIELDS and isinstance(value, tuple)}
    links.look_up([*typed.values(), *(path for paths in several.values() for path in paths)])
    itself = event["event"] in NOT_FOLLOWED
    made = {name: links.reported(path, itself=itself and name.startswith(("file.", "net."))) for name, path in typed.items()}
    lists = {name: tuple(links.reported(path) for path in paths) for name, paths in several.items()}
    changed = [(name, typed[name], path) for name, path in made.items() if path != typed[name]]
    changed += [(name, old, new) for name, found in lists.items() for old, new in zip(several[name], found, strict=True) if old != new]
    notes = [f"{name}: {old} is {new} {links.where}, by links: that is what the kernel reports" for name, old, new in changed]
    return {**event, **made, **lists}, notes


def _samples(text: str) -> list[dict[str, Value]]:
    """The sample event; one for each event of the group where it names a group."""
    try:
        document = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise UsageError(f"--event is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise UsageError("--event must be a JSON object")
    try:
        return list(events_from_json(document))
    except BadValueError as error:
        raise UsageError(f"--event: {error}") from None


def _rule_rows(compiled: Compiled) -> Iterator[tuple[str, ...]]:
    unreachable = {diagnostic.location for diagnostic in compiled.unreachable}
    for rule, mode in zip(compiled.rules, compiled.modes, strict=True):
        where = "never: see check" if rule.location in unreachable and rule.name != DEFAULT_RULE else "kernel"
        yield rule.policy, rule.name, mode, rule.action.name.lower(), " ".join(rule.events), where


def _dimension_rows(compiled: Compiled) -> Iterator[tuple[str, ...]]:
    for dimension in compiled.dims:
        when = "at exec" if dimension.subject else "at the hook"
        yield dimension.name, dimension.field, when, str(dimension.classes), str(dimension.states or "")


def _group_rows(compiled: Compiled) -> Iterator[tuple[str, ...]]:
    for index, group in enumerate(compiled.stats.groups):
        events = " ".join(f"{event}:{nodes}" for event, (nodes, _) in group.events.items())
        yield str(index), str(group.rules), str(group.rows), str(group.nodes), str(group.edges), events


def _explained(compiled: Compiled, routes: list[tuple[Route, tuple[str, ...]]]) -> dict[str, Any]:
    names = ("policy", "rule", "mode", "action", "events", "decided")
    rules = [dict(zip(names, row, strict=True)) | {"events": row[4].split()} for row in _rule_rows(compiled)]
    found = {
        "rules": rules, "dimensions": msgspec.to_builtins(compiled.dims), "groups": msgspec.to_builtins(compiled.stats.groups),
        "bytes": compiled.stats.bytes, "image_bytes": len(compiled.image), "objects": [escape(path) for path in compiled.objects],
        "unreachable": [diagnostic_as_json(diagnostic) for diagnostic in compiled.unreachable],
    }  # fmt: skip
    shown = [msgspec.to_builtins(route) | {"lacks": lacking} for route, lacking in routes]
    return found | ({"route": shown[0], "routes": shown} if shown else {})


def _show_route(route: Route) -> None:
    console = out()
    console.print(styled(f"Route of {route.event}", "bold"))
    for line in route.words:
        console.print(styled(printable(line)))


# ---- test ----


@click.command("test", cls=Command)
@click.option("-p", "--policy", "policy_files", multiple=True, type=PATHS, help="A policy file or directory, or -. Repeatable.")
@click.argument("arguments", nargs=-1, required=True, metavar="[POLICIES]... EVENTS", type=FILES)
@click.option("--mode", type=click.Choice(["audit", "enforce"]), help="Override the mode of every policy.")
@click.option("--format", "form_name", type=FORMS, default="table", help="Falco rules: how to show it.")
@falco.rule_options
@no_host_option
@json_option
def test_command(
    policy_files: tuple[str, ...], arguments: tuple[str, ...], mode: str | None, form_name: str, no_host: bool, as_json: bool,
    **falco_options: Any,
) -> int:  # fmt: skip
    """Decide recorded events by policies, without a kernel.

    EVENTS holds one JSON object a line: lines of `bpfence run --output jsonl:PATH`, or flat events such as
    {"event": "process.exec", "file.path": "/tmp/x"}. A line may say what should happen: "expect": "deny" (or kill, audit, none;
    allow for anything that goes through), or "expect": {"action": "deny", "errno": "EACCES", "rules": ["policy/rule"]}.
    An event may be a group (file.modify): the line then stands for each of its events. Exits with 1 when an event is not decided as
    its line expects. Falco rules take lines of the form of docs/falco.md, whose "expect" is the list of rules that must match.

    \b
    Examples:
      bpfence test -p policies/ recorded.jsonl
      bpfence test falco_rules.yaml events.jsonl --format falco
      echo '{"event":"exec","file.path":"/tmp/x","expect":"deny"}' | bpfence test -p p.yaml -
    """
    *given, events = arguments
    if "-" in (*policy_files, *given) and events == "-":
        raise UsageError("standard input cannot be both the policies and the events")
    with opened((*policy_files, *given), no_host) as opened_files:
        if not opened_files.files:
            raise UsageError("name policies: -p FILE, or files before EVENTS")
        by_language = read(opened_files.files)
        if theirs := by_language.pop(FALCO.name, None):
            if by_language or mode:
                raise UsageError("Falco rules are tested by themselves, without --mode")
            return falco.test(theirs, events, FalcoOptions(**falco_options), form_name=form_name, as_json=as_json)
        policies, _ = native_policies(by_language.get(NATIVE.name, ()), mode, links=Links())
        results = _results(policies, events)
    mismatches = sum(bool(result["mismatch"]) for result in results)
    if as_json:
        emit_json({"events": results, "mismatches": mismatches})
    else:
        rows = [[r["line"], r["event"], r["action"], r["errno"] or "", " ".join(r["rules"]), _judged(r)] for r in results]
        out().print(table("line", "event", "action", "errno", "rules", "expected", rows=rows))
        for result in results:
            if result["lacks"]:
                err().print(styled(f"line {result['line']}, {result['event']}: {lacks(result['lacks'])}", "yellow"))
        verdict = f"{mismatches} not as expected" if mismatches else "none contradicts what was expected"
        err().print(styled(f"{number(len(results), 'event')}, {verdict}", "bold red" if mismatches else "green"))
    return FINDINGS if mismatches else 0


def _results(policies: PolicySet, events: str) -> list[dict[str, Any]]:
    try:
        if events == "-":
            return [_tested(policies, recorded) for recorded in read_recorded(sys.stdin.buffer)]
        with Path(events).open("rb") as lines:
            return [_tested(policies, recorded) for recorded in read_recorded(lines)]
    except BadLineError as error:
        raise UsageError(f"{events}: {error}") from None
    except OSError as error:
        raise UsageError(f"{events}: {error.strerror or error}") from None


def _judged(result: dict[str, Any]) -> Text:
    if result["mismatch"]:
        return styled(printable(result["mismatch"]), "bold red")
    return styled("" if result["expected"] is None else "as expected", "green")


def _tested(policies: PolicySet, recorded: Recorded) -> dict[str, Any]:
    found = evaluate.verdict(policies, recorded.fields)
    errno = errno_module.errorcode.get(found.errno, str(found.errno)) if found.errno else None
    rules = [f"{match.policy}/{match.rule}" for match in found.matches]
    mismatch = "" if recorded.expect is None else _mismatch(recorded, found.action, errno, rules)
    return {
        "line": recorded.number, "event": str(recorded.fields["event"]), "action": found.action.name.lower(), "errno": errno,
        "rules": rules, "expected": recorded.expect, "mismatch": mismatch, "lacks": undecided(policies, recorded.fields),
    }  # fmt: skip


def _mismatch(recorded: Recorded, action: Action, errno: str | None, rules: list[str]) -> str:
    """What is not as the line expects, or nothing."""
    expect = {"action": recorded.expect} if isinstance(recorded.expect, str) else recorded.expect
    if not isinstance(expect, dict) or not expect or expect.keys() - {"action", "errno", "rules"}:
        raise BadLineError(recorded.number, "expect must be an action, or an object of action, errno and rules")
    wanted = expect.get("action")
    if wanted is not None and wanted not in ("allow", "none", "audit", "deny", "kill"):
        raise BadLineError(recorded.number, f"unknown action {wanted!r} in expect")
    if wanted == "allow" and action >= Action.DENY:
        return f"expected to go through, is {action.name.lower()}"
    if wanted not in (None, "allow", action.name.lower()):
        return f"expected {wanted}, is {action.name.lower()}"
    if "errno" in expect and expect["errno"] != errno:
        return f"expected errno {expect['errno']}, is {errno}"
    if "rules" in expect:
        if not isinstance(expect["rules"], list):
            raise BadLineError(recorded.number, "rules must be a list in expect")
        if sorted(map(str, expect["rules"])) != sorted(rules):
            return f"expected rules {' '.join(map(str, expect['rules'])) or 'none'}"
    return ""


COMMANDS: Final = (check, explain_command, test_command)
