# SPDX-License-Identifier: Apache-2.0
"""A policy's paths and what the symbolic links of a tree make of them in, the same policy for both names out.

Called by `agent.loading` for native policies, and by the lowering of Falco's rules. The kernel reports a file by the name without links:
a rule on /bin/sleep never matches where /bin is a link to /usr/bin. So every literal path, and the literal directory before a wildcard,
stands for what it resolves to as well. Looks at no file system: `host.links` does, and gives a `FindLinks`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

import msgspec

from bpfence.conditions.values import branches, disj, negation
from bpfence.errors import Diagnostic, Location
from bpfence.evaluate import holds
from bpfence.fields import FIELDS, Kind
from bpfence.policy import And, Atom, Condition, Not, Op, Or, Policy, PolicySet, Rule, atoms

PATHS: Final = frozenset(
    field.name for field in FIELDS if field.name == "process.ancestors.exe" or (field.kind is Kind.PATH and field.unit != "cgroup")
)
"""Fields whose values are names of files."""
SHOWN: Final = 3
_SPECIAL: Final = re.compile(r"[*?\[{\\]")


class Resolution(NamedTuple):
    """What a path resolves to. `names`: its other names, none where it is its own; `links`: the links on the way and what each leads to.

    `program`: the one program of many names (busybox) that the path leads to, and which is therefore not among the names. `directory`: it
    leads to a directory; `interpreter`: to a script, which this program runs.
    """

    names: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    program: str = ""
    directory: bool = False
    interpreter: str = ""


FindLinks = Callable[[str], Resolution]


# ---- one text ----


def literal_directory(text: str) -> str:
    """The literal directory that a prefix or glob begins with, "" where there is none: that of /var/run/*.pid is /var/run."""
    special = _SPECIAL.search(text)
    literal = text[: special.start()] if special else text
    return literal.rpartition("/")[0] if literal.startswith("/") else ""


def looked_up(op: Op, text: str) -> Iterator[str]:
    """The paths that have to be looked up for a test."""
    if op is Op.EQUALS and text.startswith("/"):
        yield text
    elif op in (Op.PREFIX, Op.GLOB):
        for branch in branches(text) if op is Op.GLOB else [text]:
            whole = op is Op.GLOB and not _SPECIAL.search(branch)
            path = branch if whole else _directory(op, branch)
            if path:
                yield path


def other_texts(op: Op, text: str, find: FindLinks) -> Iterator[tuple[str, str, Resolution]]:
    """The other texts a test must also be made with. For each: the text in the test's own form, the path that was looked up, and its
    resolution."""
    if op is Op.EQUALS:
        if text.startswith("/"):
            resolution = find(text)
            yield from ((name, text, resolution) for name in resolution.names)
        return
    if op not in (Op.PREFIX, Op.GLOB):
        return
    for branch in branches(text) if op is Op.GLOB else [text]:
        if op is Op.GLOB and branch.startswith("/") and not _SPECIAL.search(branch):
            resolution = find(branch)
            yield from ((_escaped(name), branch, resolution) for name in resolution.names)
            continue
        directory = _directory(op, branch)
        if directory:
            resolution = find(directory)
            for name in resolution.names[:1]:  # of a directory only the first name counts: what is below it does not have the others
                yield (_escaped(name) if op is Op.GLOB else name).rstrip("/") + branch[len(directory) :], directory, resolution


def _directory(op: Op, text: str) -> str:
    return text.rpartition("/")[0] if op is Op.PREFIX and text.startswith("/") else literal_directory(text) if op is Op.GLOB else ""


def _escaped(name: str) -> str:
    return re.sub(r"([\\*?\[\]{},])", r"\\\1", name)


# ---- conditions ----


def paths_of(condition: Condition) -> Iterator[str]:
    """Every path of a condition that has to be looked up."""
    match condition:
        case And(parts) | Or(parts):
            for part in parts:
                yield from paths_of(part)
        case Not(part):
            yield from paths_of(part)
        case Atom(field, op, str(text)) if field in PATHS:
            yield from looked_up(op, text)


class Widened(NamedTuple):
    """A path that a condition tests and that is another one: `text` as the test has it, `also` what it now stands for too ("": nothing)."""

    field: str
    text: str
    also: str
    path: str
    resolution: Resolution


def widen(condition: Condition, find: FindLinks, told: list[Widened]) -> Condition:
    """The condition with every path in all of its names. `told` gets each change, except where the name stands among the alternatives
    already."""
    match condition:
        case And(parts):
            return And(tuple(widen(part, find, told) for part in parts))
        case Or(parts):
            said = _Alternatives(parts)
            return disj(_alternative(part, find, told, said) for part in parts)
        case Not(part):
            return negation(widen(part, find, told))
    return _alternative(condition, find, told, _Alternatives((condition,)))


def _alternative(part: Condition, find: FindLinks, told: list[Widened], among: _Alternatives) -> Condition:
    if not isinstance(part, Atom):
        return widen(part, find, told)
    if part.field not in PATHS or not isinstance(part.value, str):
        return part
    made: list[Condition] = [part]
    for path in looked_up(part.op, part.value):
        resolution = find(path)
        if resolution.program and not among.say(Atom(part.field, Op.EQUALS, resolution.program)):
            told.append(Widened(part.field, part.value, "", path, resolution))
    for text, path, resolution in other_texts(part.op, part.value, find):
        other = Atom(part.field, part.op, text)
        if not among.say(other):
            made.append(other)
            told.append(Widened(part.field, _shown(part.op, part.value), _shown(part.op, text), path, resolution))
    return disj(made)


def _shown(op: Op, text: str) -> str:
    return f"{text}**" if op is Op.PREFIX else text


class _Alternatives:
    """Tests of which any one has to hold."""

    def __init__(self, parts: Iterable[Condition]) -> None:
        self._all = frozenset(parts)
        # A test with the same text is found in a set; only patterns have to be tried one by one.
        self._patterns: dict[str, list[Atom]] = {}
        for part in self._all:
            if isinstance(part, Atom) and isinstance(part.value, str) and part.op is not Op.EQUALS:
                self._patterns.setdefault(part.field, []).append(part)

    def say(self, other: Atom) -> bool:
        """Whether a test adds nothing: it is among them already, or one of them matches all that it matches."""
        return other in self._all or any(_covers(part, other) for part in self._patterns.get(other.field, ()))


def _covers(part: Atom, other: Atom) -> bool:
    text = str(other.value)
    if other.op is Op.EQUALS:
        return part.op is not Op.OBJECT and holds(part, {other.field: text})
    if part.op is not other.op:
        return False
    return text.startswith(str(part.value)) if part.op is Op.PREFIX else part.op is Op.GLOB and text in branches(str(part.value))


# ---- policies ----


def widened(policies: PolicySet, find: FindLinks, where: str = "on this host") -> tuple[PolicySet, list[Diagnostic]]:
    """The policies with all names of their paths, and what changes by it, as information; a program of many names is a warning.

    Policies with `links: as-written` stay as they are. `where`: words for the tree that `find` looks at.
    """
    diagnostics: list[Diagnostic] = []
    return PolicySet(tuple(_policy(policy, find, where, diagnostics) for policy in policies.policies)), diagnostics


def paths(policies: PolicySet) -> Iterator[str]:
    """Every path that `widened` will ask for."""
    for policy in policies.policies:
        for condition in _conditions(policy):
            yield from paths_of(condition)


def _conditions(policy: Policy) -> Iterator[Condition]:
    yield policy.scope
    for rule in policy.rules:
        yield rule.condition
        yield from rule.conditions.values()


def _policy(policy: Policy, find: FindLinks, where: str, diagnostics: list[Diagnostic]) -> Policy:
    scope, in_scope = _scope(policy, find, where, diagnostics)
    rules = []
    for rule in policy.rules:
        made, told = _told(policy, rule, find, where, in_scope)
        rules.append(made)
        diagnostics += told
    return msgspec.structs.replace(policy, scope=scope, rules=tuple(rules)) if policy.links else policy


def _scope(policy: Policy, find: FindLinks, where: str, diagnostics: list[Diagnostic]) -> tuple[Condition, AbstractSet[tuple[str, str]]]:
    """The scope with all names of its paths, and what its rules need not tell again: fields and paths."""
    told: list[Widened] = []
    scope = widen(policy.scope, find, told)
    diagnostics += findings(told, policy.location, f"policy {policy.name!r}", where, both=policy.links)
    return scope, frozenset((change.field, change.path) for change in told)


def _told(policy: Policy, rule: Rule, find: FindLinks, where: str, in_scope: AbstractSet[tuple[str, str]]) -> tuple[Rule, list[Diagnostic]]:
    """A rule with all names of its paths, and what changes by it."""
    told: list[Widened] = []
    made = _rule(rule, find, told)
    told = [change for change in told if (change.field, change.path) not in in_scope]
    return made, list(findings(told, rule.location, f"policy {policy.name!r}, rule {rule.name!r}", where, both=policy.links))


# ---- what a path names ----

PROGRAMS: Final = frozenset(("process.exe", "process.parent.exe", "process.ancestors.exe", "target.exe"))
"""Fields that hold the file of a running program."""
OF_FILES: Final = frozenset(
    ("process.exec", *(f"file.{act}" for act in ("open", "permission", "mmap", "mprotect", "truncate", "create", "unlink", "link")))
)
"""Events that hardly anybody means about a directory."""


def named(policies: PolicySet, find: FindLinks, where: str = "on this host") -> Iterator[Diagnostic]:
    """Warnings about literal paths that name something else than the field can hold: a directory, or a script."""
    for policy in policies.policies:
        yield from _named_in_scope(policy, find, where)
        for rule in policy.rules:
            yield from _named_in_rule(policy, rule, find, where)


def _named_in_scope(policy: Policy, find: FindLinks, where: str) -> Iterator[Diagnostic]:
    return _named((policy.scope,), False, find, where, policy.location, f"policy {policy.name!r}")


def _named_in_rule(policy: Policy, rule: Rule, find: FindLinks, where: str) -> Iterator[Diagnostic]:
    known = {(atom.field, atom.value) for atom in atoms(policy.scope)}
    about_files = not OF_FILES.isdisjoint(rule.events)
    who = f"policy {policy.name!r}, rule {rule.name!r}"
    return _named((rule.condition, *rule.conditions.values()), about_files, find, where, rule.location, who, known)


def _named(
    conditions: Sequence[Condition],
    about_files: bool,
    find: FindLinks,
    where: str,
    place: Location,
    who: str,
    known: AbstractSet[tuple[str, object]] = frozenset(),
) -> Iterator[Diagnostic]:
    tests = [atom for condition in conditions for atom in atoms(condition)]
    once = {(str(atom.value), atom.field in PROGRAMS): atom for atom in reversed(tests)}  # file.modify asks for both names of a rename
    for atom in reversed(once.values()):
        path = str(atom.value)
        if atom.op is not Op.EQUALS or not path.startswith("/") or (atom.field, atom.value) in known:
            continue
        resolution = find(path)
        if resolution.interpreter and atom.field in PROGRAMS:
            what = f"{who}: {path} is a script {where}: the {atom.field} of whoever runs it is {resolution.interpreter}, never the script"
            hint = "on exec, file.path is the script; of a running process, process.args names it after its interpreter"
            yield Diagnostic(place, what, hint, "warning", "script")
        elif resolution.directory and (atom.field in PROGRAMS or (about_files and atom.field in ("file.path", "file.new_path"))):
            below = {atom.field: f"{path}/x"}
            alike = (other for other in tests if other.field == atom.field and other.op not in (Op.EXISTS, Op.OBJECT))
            if not any(holds(other, below) for other in alike):
                what = f"{who}: {path} is a directory {where}, and this is a test on the directory itself, not on the files in it"
                yield Diagnostic(place, what, f"write {path}/** for what is below it", "warning", "directory")


def _rule(rule: Rule, find: FindLinks, told: list[Widened]) -> Rule:
    condition = widen(rule.condition, find, told)
    conditions = {event: widen(own, find, told) for event, own in rule.conditions.items()}
    return msgspec.structs.replace(rule, condition=condition, conditions=conditions)


def findings(told: list[Widened], place: Location, who: str, where: str, *, both: bool = True) -> Iterator[Diagnostic]:
    """One finding for each link that a rule's paths pass, and one for each program of many names."""
    by_link: dict[tuple[tuple[str, str], ...], dict[tuple[str, str], None]] = {}
    programs: dict[tuple[str, str], dict[str, None]] = {}  # with the field that tests them
    for change in told:
        if change.also:
            by_link.setdefault(change.resolution.links, {})[change.also, change.text] = None
        else:
            programs.setdefault((change.resolution.program, change.field), {})[change.path] = None
    for links, texts in by_link.items():
        passed = ", ".join(f"{link} is a link to {target}" for link, target in links)
        shown = ", ".join(f"{also} (for {text})" for also, text in list(texts)[:SHOWN])
        more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
        effect = "so it also matches" if both else "and with `links: as-written` it does not match"
        yield Diagnostic(place, f"{who}: {passed} {where}, {effect} {shown}{more}", "", "info", "link")
    for (program, field), names in programs.items():
        listed = ", ".join(list(names)[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
        verb = "is a link" if len(names) == 1 else "are links"
        what = f"{who}: {listed} {verb} to {program} {where}, one file for many programs: the rule matches none of them"
        hint = f"write {program} if all of its programs are meant" + _told_apart(field, next(iter(names)), program)
        yield Diagnostic(place, what, hint, "warning", "link-to-many")


def called(path: str, program: str) -> str:
    """A glob on process.args for one of the programs that a file holds: called by its name or path, or as an argument of the file's own
    name or path."""
    name = path.rpartition("/")[2]
    return f"{{{name},{path},{program.rpartition('/')[2]} {name},{program} {name}}}{{, *}}"


def _told_apart(field: str, path: str, program: str) -> str:
    """How a rule can be about one of these programs all the same; "" where it cannot."""
    if _SPECIAL.search(path) or _SPECIAL.search(program):
        return ""
    match = f'process.exe: {program}, process.args: "{called(path, program)}"'
    if field == "file.path":
        return f"; where executing {path} is meant: on: executed, match: {{{match}}}, action: kill"
    if field == "process.exe":
        return f"; for {path} alone: {match}"
    if field == "proc.exepath":
        return f"; for {path} alone: proc.exepath = {program} and proc.name = {path.rpartition('/')[2]}"
    return ""


# ---- one load after another ----


class _Known(NamedTuple):
    """What a rule came to. `given`, `scope`, `context`: what it came to it by, beside the answers `found`."""

    given: Rule
    scope: Condition
    context: tuple[object, ...]
    found: tuple[tuple[str, Resolution], ...]
    made: Rule
    widened: tuple[Diagnostic, ...]
    named: tuple[Diagnostic, ...]


class Resolver:
    """The policies of one load after another, resolved: rules that are as they were at the last one, and whose paths lead where they led,
    are taken from there. A rule is the same where its conditions are the same objects.
    """

    def __init__(self) -> None:
        self._paths: dict[tuple[str, str], tuple[Rule, tuple[str, ...]]] = {}
        self._known: dict[tuple[str, str], _Known] = {}

    def paths(self, policies: PolicySet) -> Iterator[str]:
        """As `paths`."""
        kept: dict[tuple[str, str], tuple[Rule, tuple[str, ...]]] = {}
        for policy in policies.policies:
            yield from paths_of(policy.scope)
            for rule in policy.rules:
                key = policy.name, rule.name
                before = self._paths.get(key)
                if before is None or not _alike(before[0], rule):
                    before = rule, tuple(path for condition in (rule.condition, *rule.conditions.values()) for path in paths_of(condition))
                kept[key] = before
                yield from before[1]
        self._paths = kept

    def resolved(self, policies: PolicySet, find: FindLinks, where: str) -> tuple[PolicySet, list[Diagnostic]]:
        """As `widened`, with the warnings of `named` behind."""
        widened_: list[Diagnostic] = []
        named_: list[Diagnostic] = []
        kept: dict[tuple[str, str], _Known] = {}
        made = []
        for policy in policies.policies:
            scope, in_scope = _scope(policy, find, where, widened_)
            named_ += _named_in_scope(policy, find, where)
            context = (where, policy.links, in_scope)
            rules = []
            for rule in policy.rules:
                known = self._again(policy, rule, find, context) or _known(policy, rule, find, context)
                kept[policy.name, rule.name] = known
                rules.append(known.made)
                widened_ += known.widened
                named_ += known.named
            made.append(msgspec.structs.replace(policy, scope=scope, rules=tuple(rules)) if policy.links else policy)
        self._known = kept
        return PolicySet(tuple(made)), [*widened_, *named_]

    def _again(self, policy: Policy, rule: Rule, find: FindLinks, context: tuple[object, ...]) -> _Known | None:
        known = self._known.get((policy.name, rule.name))
        if known is None or known.scope is not policy.scope or known.context != context or not _alike(known.given, rule):
            return None
        if any(find(path) != resolution for path, resolution in known.found):
            return None
        if known.given is rule:
            return known
        made = msgspec.structs.replace(rule, condition=known.made.condition, conditions=known.made.conditions)
        told = ((msgspec.structs.replace(one, location=rule.location) for one in some) for some in (known.widened, known.named))
        return _Known(rule, known.scope, context, known.found, made, *map(tuple, told))


def _alike(one: Rule, other: Rule) -> bool:
    """Whether two rules test the same; they may stand elsewhere, and do something else."""
    return one is other or (one.condition is other.condition and one.conditions is other.conditions and one.events == other.events)


def _known(policy: Policy, rule: Rule, find: FindLinks, context: tuple[object, ...]) -> _Known:
    where, _, in_scope = context
    asked: dict[str, Resolution] = {}

    def noted(path: str) -> Resolution:
        asked[path] = find(path)
        return asked[path]

    made, told = _told(policy, rule, noted, str(where), in_scope)  # type: ignore[arg-type]
    names = tuple(_named_in_rule(policy, rule, noted, str(where)))
    return _Known(rule, policy.scope, context, tuple(asked.items()), made, tuple(told), names)
