# SPDX-License-Identifier: Apache-2.0
"""Native policies for commands: mistakes and traps, what they are compiled to, recorded events decided, fields and events."""

from __future__ import annotations

import errno as errno_module
import platform
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from bpfence import evaluate
from bpfence import fields as tables
from bpfence.compiler.compile import Compiled, compile_policies
from bpfence.compiler.workloads import Class, selectors
from bpfence.conditions.containers import in_container
from bpfence.conditions.links import PATHS as PATH_FIELDS
from bpfence.conditions.text import condition_text
from bpfence.dialects.facts import Facts
from bpfence.dialects.native.dialect import NATIVE, NativeRules
from bpfence.dialects.tools import Shown, StyledLine, Tested, TextTable, Tools, diagnostic_as_json, heading
from bpfence.documents.files import SourceFile
from bpfence.errors import CompileError, Diagnostic, Location, PolicyError, UsageError
from bpfence.events.values import BadValueError, escape, printable
from bpfence.fields import FIELD_BY_NAME, applies
from bpfence.host.links import Links
from bpfence.names import TABLES
from bpfence.policy import (
    CONTAINER_FIELD,
    DEFAULT_RULE,
    FALSE,
    TRUE,
    Action,
    And,
    Condition,
    Not,
    Op,
    Or,
    Policy,
    PolicySet,
    Value,
    atoms,
    with_doubts,
)
from bpfence.seccomp.profile import kernel_version
from bpfence.workloads.model import Container
from bpfence.workloads.select import selected

if TYPE_CHECKING:
    from bpfence.compiler.explain import Route
    from bpfence.events.source import Recorded

ALL_CAPABILITIES: Final = frozenset(TABLES["capability"].numbers)


class NativeTools(Tools):
    """All that the kernel decides can be told without a kernel."""

    def check(self, sources: Sequence[SourceFile], links: Links) -> tuple[list[Diagnostic], list[dict[str, Any]]]:
        """Seccomp profiles that policies carry, and what the compiler finds, too."""
        rules, diagnostics = NATIVE.read(sources, None)
        diagnostics = [*diagnostics, *seccomp_findings(rules.policy_set)]
        links.look_up(rules.paths())
        rules, told = rules.resolved(links.find, links.where)
        diagnostics += [*links.findings(_place(rules)), *told]
        if not any(diagnostic.severity == "error" for diagnostic in diagnostics):
            try:
                diagnostics += compile_policies(rules.policy_set).unreachable
            except CompileError as error:
                diagnostics += error.diagnostics
        return diagnostics, [{"name": policy.name, "mode": policy.mode, "rules": len(policy.rules)} for policy in rules.policy_set.policies]

    def _policies(self, sources: Sequence[SourceFile], links: Links) -> PolicySet:
        rules, diagnostics = NATIVE.read(sources, None)
        if any(diagnostic.severity == "error" for diagnostic in diagnostics):
            raise PolicyError(diagnostics)
        links.look_up(rules.paths())
        return rules.resolved(links.find, links.where)[0].policy_set

    def explain(
        self, sources: Sequence[SourceFile], links: Links, *, names: Sequence[str] = (), event: str = ""
    ) -> tuple[Shown, list[Diagnostic]]:
        """Where each rule runs, sizes of automata and diagrams, and the route of a sample."""
        if names:
            raise UsageError(f"{self.dialect.title} are explained as a whole, without --rule")
        policies = self._policies(sources, links)
        asked = _samples(event) if event else []
        classes = [_class(policies, container) for _, container in asked if container is not None]
        compiled = compile_policies(policies, workloads=classes)
        given = [_with_container(policies, sample, container) for sample, container in asked]
        samples = [_resolved(sample, links) for sample in given]
        routes = [(_route(compiled, sample, notes), undecided_fields(policies, sample)) for sample, notes in samples]
        return Shown(_explained(policies, compiled, routes), list(_parts(policies, compiled, routes))), []

    def test(
        self, sources: Sequence[SourceFile], lines: Iterable[bytes], *, mode: str | None = None, options: object = None, form: str = ""
    ) -> tuple[Tested, list[Diagnostic]]:
        """What the reference evaluator decides."""
        policy_set = self._policies(sources, Links())
        policies = PolicySet(tuple(msgspec.structs.replace(policy, mode=mode or policy.mode) for policy in policy_set.policies))
        from bpfence.events.source import read_recorded  # `check` reads no events

        counts = evaluate.Counts()
        results = [_tested(policies, recorded, counts) for recorded in read_recorded(lines)]
        mismatches = sum(bool(result["mismatch"]) for result in results)
        rows = [(r["line"], r["event"], r["action"], r["errno"] or "", " ".join(r["rules"]), _judged(r)) for r in results]
        notes: list[StyledLine] = [
            ((f"line {result['line']}, {result['event']}: {lacks(result['lacks'])}", "yellow"),) for result in results if result["lacks"]
        ]
        columns = ("line", "event", "action", "errno", "rules", "expected")
        shown = Shown({"events": results, "mismatches": mismatches}, [TextTable(columns, rows)])
        return Tested(shown, len(results), sum(result["expected"] is not None for result in results), mismatches, notes), []

    def fields(self, pattern: str, *, kernel: bool) -> Shown:
        """By the first word of their names."""
        chosen = [field for field in tables.FIELDS if pattern in field.name and (not kernel or field.kernel)]
        made = []
        for prefix in dict.fromkeys(field.name.partition(".")[0] for field in chosen):
            rows = [(field.name, field.kind.value, field.doc) for field in chosen if field.name.partition(".")[0] == prefix]
            made.append(TextTable(("field", "type", "what it is"), rows, f"native policies: {prefix}"))
        return Shown({"native": [_native_as_json(field) for field in chosen]}, made)

    def events(self, pattern: str) -> Shown:
        """With their short names, and the groups that they are in."""
        chosen = [event for event in tables.EVENTS if not event.sensor and any(pattern in name for name in (event.name, *event.short))]
        groups = {name: events for name, events in tables.GROUPS.items() if pattern in name}
        made = []
        if chosen:
            rows = [(event.name, " ".join(event.short), _prevention(event), event.doc) for event in chosen]
            made.append(TextTable(("event", "short", "deny?", "what happens"), rows, "native policies (`on:`)"))
        if groups:
            made.append(TextTable(("group", "its events"), [(name, " ".join(events)) for name, events in groups.items()], "groups"))
        return Shown({"events": [_event_as_json(event) for event in chosen], "groups": groups}, made)

    def document(self, policy: Policy) -> tuple[str, str]:
        """A YAML document, which reads back."""
        from bpfence.dialects.native.write import document

        return document(policy)


def _place(rules: NativeRules) -> Location:
    policies = rules.policies(Facts())
    return Location(policies[0].location.file if policies else "<policies>")


def seccomp_findings(policies: PolicySet) -> list[Diagnostic]:
    """What is wrong with the seccomp profiles that policies carry. What a container runtime needs does not matter to them."""
    profiles = [policy.seccomp for policy in policies.policies if policy.seccomp is not None]
    if not profiles:
        return []
    from bpfence.seccomp.check import check as examine  # only policies that carry a profile pay for loading libseccomp

    kernel = kernel_version(platform.release())
    diagnostics = [diagnostic for profile in profiles for diagnostic in examine(profile, None, ALL_CAPABILITIES, kernel)]
    return [diagnostic for diagnostic in diagnostics if diagnostic.severity != "info" and diagnostic.code != "runtime-needs"]


def lacks(fields: Sequence[str]) -> str:
    """A note that a sample event lacks fields which would decide."""
    return f"the sample does not say {', '.join(fields)}, which would decide some rules; it is taken to be absent"


def undecided_fields(policies: PolicySet, event: dict[str, Value]) -> tuple[str, ...]:
    """Fields that a sample event lacks, that its kind of event can have, and on which the outcome of some rule depends."""
    fields: dict[str, None] = {}
    name = str(event["event"])
    for policy in policies.policies:
        for rule in policy.rules:
            if name in rule.events:
                condition = rule.conditions.get(name, rule.condition)
                if _outcome(condition, event, name) is None:
                    fields |= dict.fromkeys(_lacking(condition, event, name))
        if name in policy.default and _outcome(policy.scope, event, name) is None:
            fields |= dict.fromkeys(_lacking(policy.scope, event, name))
    return tuple(fields)


def _lacking(condition: Condition, event: dict[str, Value], name: str) -> Iterator[str]:
    """Fields of a condition that the sample lacks, though its kind of event can have them."""
    for atom in atoms(condition):
        if atom.field == CONTAINER_FIELD:
            continue  # a process that nobody says a container of is in none, or in one that is not known: the scope says what that means
        for field in atom.fields if atom.op is not Op.OBJECT else ():
            if event.get(field) is None and applies(FIELD_BY_NAME[field], name):
                yield field


def _outcome(condition: Condition, event: dict[str, Value], name: str) -> bool | None:
    """Whether a condition holds; None where that depends on fields that the sample does not have."""
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
"""Events about a name: if that name is a link, they are about the link itself."""


def _resolved(event: dict[str, Value], links: Links) -> tuple[dict[str, Value], list[str]]:
    """A sample event with its paths as the kernel would report them, and a line for each that this changes."""
    typed = {name: value for name, value in event.items() if name in PATH_FIELDS and isinstance(value, str)}
    several = {name: value for name, value in event.items() if name in PATH_FIELDS and isinstance(value, tuple)}
    links.look_up([*typed.values(), *(path for paths in several.values() for path in paths)])
    itself = event["event"] in NOT_FOLLOWED
    made = {name: links.reported(path, itself=itself and name.startswith(("file.", "net."))) for name, path in typed.items()}
    lists = {name: tuple(links.reported(path) for path in paths) for name, paths in several.items()}
    changed = [(name, typed[name], path) for name, path in made.items() if path != typed[name]]
    changed += [
        (name, old, new) for name, resolved in lists.items() for old, new in zip(several[name], resolved, strict=True) if old != new
    ]
    notes = [f"{name}: {old} is {new} {links.where}, by links: that is what the kernel reports" for name, old, new in changed]
    return {**event, **made, **lists}, notes


def _class(policies: PolicySet, container: Container) -> Class:
    return selected(container, selectors(with_doubts(policies)))


def _with_container(policies: PolicySet, event: dict[str, Value], container: Container | None) -> dict[str, Value]:
    """A sample event with the selectors that select its container."""
    if container is None:
        return event
    chosen: Any = tuple(_class(policies, container))
    return {**event, CONTAINER_FIELD: chosen}


def _samples(text: str) -> list[tuple[dict[str, Value], Container | None]]:
    """The sample event and its container; where it names a group, one for each event of the group."""
    try:
        document = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise UsageError(f"--event is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise UsageError("--event must be a JSON object")
    from bpfence.events.source import container_from_json, events_from_json

    try:
        container = container_from_json(document)
        return [(event, container) for event in events_from_json(document)]
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


def _scope_rows(policies: PolicySet) -> Iterator[tuple[str, ...]]:
    by_path = condition_text(in_container())  # longer than what it says
    for policy in policies.policies:
        if policy.scope != TRUE:
            yield (
                policy.name,
                condition_text(policy.scope).replace(by_path, "its cgroup is a container's"),
                "audit" if policy.doubt != FALSE else "",
            )


def _parts(policies: PolicySet, compiled: Compiled, routes: list[tuple[Route, tuple[str, ...]]]) -> Iterator[TextTable | StyledLine]:
    yield TextTable(("policy", "rule", "mode", "action", "events", "decided"), list(_rule_rows(compiled)), "Rules")
    yield ()
    if scopes := list(_scope_rows(policies)):
        yield TextTable(("policy", "processes", "unknown containers"), scopes, "Scopes")
        yield ()
    if compiled.workloads:
        yield ((f"Containers are told apart by {len(compiled.workloads)} classes", ""),)
        yield ()
    yield TextTable(("dimension", "field", "when", "classes", "states"), list(_dimension_rows(compiled)), "Dimensions")
    yield ()
    yield TextTable(("group", "rules", "subjects", "nodes", "edges", "events"), list(_group_rows(compiled)), "Diagrams")
    sizes = ", ".join(f"{name} {size:,}" for name, size in compiled.stats.bytes.items())
    yield ()
    yield ((f"Image: {len(compiled.image):,} bytes ({sizes})", ""),)
    for route, lacking in routes:
        yield ()
        yield heading(f"Route of {route.event}")
        yield from (((printable(line), ""),) for line in route.words)
        if lacking:
            yield ((lacks(lacking), "yellow"),)


def _explained(policies: PolicySet, compiled: Compiled, routes: list[tuple[Route, tuple[str, ...]]]) -> dict[str, Any]:
    names = ("policy", "rule", "mode", "action", "events", "decided")
    rules = [dict(zip(names, row, strict=True)) | {"events": row[4].split()} for row in _rule_rows(compiled)]
    result = {
        "rules": rules,
        "scopes": [dict(zip(("policy", "processes", "unknown"), row, strict=True)) for row in _scope_rows(policies)],
        "container_classes": len(compiled.workloads),
        "dimensions": msgspec.to_builtins(compiled.dims),
        "groups": msgspec.to_builtins(compiled.stats.groups),
        "bytes": compiled.stats.bytes,
        "image_bytes": len(compiled.image),
        "objects": [escape(path) for path in compiled.objects],
        "unreachable": [diagnostic_as_json(diagnostic) for diagnostic in compiled.unreachable],
    }
    shown = [msgspec.to_builtins(route) | {"lacks": lacking} for route, lacking in routes]
    return result | ({"route": shown[0], "routes": shown} if shown else {})


def _judged(result: dict[str, Any]) -> tuple[str, str]:
    if result["mismatch"]:
        return printable(result["mismatch"]), "bold red"
    return "" if result["expected"] is None else "as expected", "green"


def _tested(policies: PolicySet, recorded: Recorded, counts: evaluate.Counts) -> dict[str, Any]:
    event = _with_container(policies, recorded.fields, recorded.container)
    verdict = evaluate.verdict(policies, event, counts, recorded.time)
    errno = errno_module.errorcode.get(verdict.errno, str(verdict.errno)) if verdict.errno else None
    rules = [f"{match.policy}/{match.rule}" for match in verdict.matches]
    mismatch = "" if recorded.expect is None else _mismatch(recorded, verdict.action, errno, rules)
    return {
        "line": recorded.number,
        "event": str(recorded.fields["event"]),
        "action": verdict.action.name.lower(),
        "errno": errno,
        "rules": rules,
        "expected": recorded.expect,
        "mismatch": mismatch,
        "lacks": undecided_fields(policies, event),
    }


def _mismatch(recorded: Recorded, action: Action, errno: str | None, rules: list[str]) -> str:
    """What differs from what the line expects; "" where nothing does."""
    from bpfence.events.source import BadLineError

    expect = {"action": recorded.expect} if isinstance(recorded.expect, str) else recorded.expect
    if not isinstance(expect, dict) or not expect or expect.keys() - {"action", "errno", "rules"}:
        raise BadLineError(recorded.number, "expect must be an action, or an object of action, errno and rules")
    wanted = expect.get("action")
    if wanted is not None and wanted not in ("allow", "none", "observe", "audit", "deny", "kill"):
        raise BadLineError(recorded.number, f"unknown action {wanted!r} in expect")
    if wanted == "allow" and action >= Action.DENY:
        return f"expected to go through, got {action.name.lower()}"
    if wanted not in (None, "allow", action.name.lower()):
        return f"expected {wanted}, got {action.name.lower()}"
    if "errno" in expect and expect["errno"] != errno:
        return f"expected errno {expect['errno']}, got {errno}"
    if "rules" in expect:
        if not isinstance(expect["rules"], list):
            raise BadLineError(recorded.number, "rules must be a list in expect")
        if sorted(map(str, expect["rules"])) != sorted(rules):
            return f"expected rules {' '.join(map(str, expect['rules'])) or 'none'}, got {' '.join(rules) or 'none'}"
    return ""


def _native_as_json(field: tables.Field) -> dict[str, Any]:
    return {
        "name": field.name,
        "type": field.kind.value,
        "description": field.doc,
        "events": list(field.events),
        "kernel": field.kernel,
        "names": field.names,
    }


def _event_as_json(event: tables.EventType) -> dict[str, Any]:
    return {
        "name": event.name,
        "short": list(event.short),
        "description": event.doc,
        "deniable": event.deniable,
        "killable": event.killable,
    }


def _prevention(event: tables.EventType) -> str:
    return "yes" if event.deniable else "kill" if event.killable else "no"
