# SPDX-License-Identifier: Apache-2.0
"""Native policy files in, a PolicySet and diagnostics out.

Called by the CLI and the agent. The format is docs/policy-reference.md; its keys are the models of `schema`. Reads files and looks up users
and groups, and does nothing else to the host. Nothing in a file makes it raise: all that is wrong is in the diagnostics, and a policy with
an error is left out of the set.
"""

from __future__ import annotations

import errno as errno_module
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from bpfence import glob, names
from bpfence.conditions import expand, images, values
from bpfence.conditions.containers import inside, of_runtime, untold
from bpfence.conditions.labels import LABEL_KEY, OPERATORS, Expression, LabelSelector
from bpfence.dialects.native import effects, gaps, reread, schema, seccomp, sensors
from bpfence.dialects.native.reread import Parts
from bpfence.documents import lists, yaml_nodes
from bpfence.documents.files import SourceFile, sources
from bpfence.documents.placed import DocumentError
from bpfence.documents.report import Report, TextError
from bpfence.documents.yaml_nodes import YamlNode
from bpfence.errors import Diagnostic, Location
from bpfence.fields import EVENT_BY_NAME, FIELD_BY_NAME, GROUPS, Field, Kind, applies
from bpfence.names import Answer
from bpfence.policy import (
    CONTAINER_FIELD,
    COUNTED_BY,
    FALSE,
    TRUE,
    Action,
    And,
    Atom,
    Condition,
    Label,
    Op,
    Or,
    Policy,
    PolicySet,
    Probe,
    Rule,
    Selector,
    Threshold,
    atoms,
    unknown_too,
)
from bpfence.words import quoted, suggest

if TYPE_CHECKING:
    from bpfence.dialects.native.language import FieldMention

KeyValue = tuple[YamlNode, YamlNode]

ACTIONS: Final = {action.name.lower(): action for action in Action if action is not Action.NONE}
SEVERITIES: Final = ("info", "low", "medium", "high", "critical")
REPORTS: Final = (Action.OBSERVE, Action.AUDIT)
"""What decides nothing."""
MODES: Final = ("enforce", "audit")
LINKS: Final = ("resolve", "as-written")

# Key of a scope -> field.
SUBJECTS: Final = {
    "exe": "process.exe", "name": "process.name", "args": "process.args", "parent": "process.parent.exe", "user": "process.user",
    "ancestor": "process.ancestors.exe", "uid": "process.uid", "gid": "process.gid", "cgroup": "process.cgroup",
}  # fmt: skip

# What people may write in a message beside fields.
EVENTS_OF_OTHERS: Final = {
    "file.write": "file.modify", "write": "file.modify", "file.change": "file.modify", "file.delete": "file.unlink",
    "delete": "file.unlink", "file.execute": "exec", "file.exec": "exec", "execve": "exec", "process.start": "exec",
    "process.create": "fork", "clone": "fork", "net.open": "net.connect", "network": "net.egress", "tcp.connect": "net.connect",
    "module.load": "kernel.module", "init_module": "kernel.module",
}  # fmt: skip
ACTIONS_OF_OTHERS: Final = {
    "block": "deny", "blocked": "deny", "reject": "deny", "refuse": "deny", "forbid": "deny", "prevent": "deny", "override": "deny",
    "sigkill": "kill", "terminate": "kill", "alert": "audit", "log": "audit", "report": "audit", "notify": "audit", "warn": "audit",
    "post": "observe", "trace": "observe", "record": "observe", "permit": "allow", "accept": "allow", "pass": "allow",
    "enforcing": "enforce", "permissive": "audit", "monitor": "audit", "detect": "audit", "dry-run": "audit",
}  # fmt: skip
"""Words for actions and modes of other tools, and of people."""
MESSAGE_WORDS: Final = ("event", "policy", "rule", "action", "severity")

WORKLOADS: Final = {
    "image": "images",
    "namespace": "namespaces",
    "pod": "pods",
    "serviceAccount": "service_accounts",
    "runtime": "runtimes",
}
LABELS: Final = {"labels": "labels", "namespaceLabels": "namespace_labels"}
"""Keys of a scope -> members of a selector of containers. `container` is read by itself."""
_MEMBERS: Final = {"container": "names", **WORKLOADS}
UNKNOWN: Final = ("inside", "audit", "outside")
_NOT_NAMES: Final = {"true": "true", "yes": "true", "on": "true", "false": "false", "no": "false", "off": "false"}
"""What people write for whether a process runs in a container -> the word for it."""
_OBJECTS: Final = ("namespace", "pod", "serviceAccount")
"""Keys for what Kubernetes names: lower case letters, digits, '-' and '.'."""
_OBJECT_GLOB: Final = re.compile(r"[a-z0-9.*?\[\]{},!^\\-]+")
_NUMBER: Final = re.compile(r"[+-]?[0-9][0-9_.]*")
_OF_API_SERVER: Final = ("serviceAccount", "namespaceLabels")
"""Keys that ask for what only Kubernetes' API server tells."""
_OPERATORS: Final = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "absent"}
_MEANT: Final = {
    "images": "image", "namespaces": "namespace", "pods": "pod", "podselector": "labels", "selector": "labels", "matchlabels": "labels",
    "label": "labels", "namespaceselector": "namespaceLabels", "namespacelabels": "namespaceLabels", "serviceaccount": "serviceAccount",
    "service_account": "serviceAccount", "serviceaccountname": "serviceAccount", "containers": "container", "containername": "container",
    "runtimes": "runtime",
}  # fmt: skip
"""Words for keys of a scope that other tools use."""
_INSTEAD: Final = {
    (schema.RuleSpec, "mode"): "mode belongs to the whole policy: put it under spec, or the rule into a policy of its own",
    (schema.RuleSpec, "true"): "write 'on', in quotes: in YAML 1.1, which many programs write, a bare on is true",
    (schema.RuleSpec, "event"): "did you mean 'on'?",
    (schema.RuleSpec, "events"): "did you mean 'on'?",
    (schema.RuleSpec, "scope"): "scope belongs to the whole policy: put it under spec, or use process.* fields under match",
    (schema.RuleSpec, "exceptions"): "did you mean 'unless'?",
    (schema.RuleSpec, "priority"): "did you mean 'severity'?",
    (schema.RuleSpec, "output"): "did you mean 'message'?",
    (schema.Subjects, "unless"): "unless does not nest",
    (
        schema.Metadata,
        "namespace",
    ): "a policy in a file belongs to the whole host: write scope: {namespace: NAME}",
}
_OTHERS: Final = ("TracingPolicy", "TracingPolicyNamespaced")
_OF_SENSORS: Final = ("sensor.", "file.", "net.")
"""What names of fields begin with that only arguments of a sensor bring about."""
_FIELDS_HINT: Final = "docs/fields.md lists the fields"
_EMPTY_UNLESS: Final = "name what is excepted, or remove it"
MAX_COUNT: Final = 1_000_000
MAX_WITHIN: Final = 3600
"""Seconds."""
_RATE_SECONDS: Final = {"s": 1, "m": 60, "h": 3600}


def load_files(paths: Iterable[str | os.PathLike[str]]) -> tuple[PolicySet, list[Diagnostic]]:
    """Every policy of some files and directories (their *.yaml and *.yml, by name; not what lies deeper)."""
    report = Report()
    return load_sources(sources(paths, report), report)


class _Kept(NamedTuple):
    """What a file came to: `names` are those of its policies, `answers` what this host said of the names of users and groups in it.
    `parts`: where it can be read in part when some of its rules have changed."""

    digest: bytes
    policies: tuple[Policy, ...]
    diagnostics: tuple[Diagnostic, ...]
    names: dict[str, Location]
    answers: tuple[Answer, ...]
    parts: Parts | None


_kept: dict[str, _Kept] = {}
"""By path, the files of the last load as they were without mistakes: a reload reads anew what has changed."""


def load_sources(files: Iterable[SourceFile], report: Report | None = None) -> tuple[PolicySet, list[Diagnostic]]:
    """Every policy of some files that were read. `report`: what was found about them before."""
    global _kept  # noqa: PLW0603  # one assignment: whoever reads at the same time has the old files or these
    reader = _Reader(report)
    kept = {}
    for source in files:
        before = _kept.get(source.file)
        found = reader.read_again(before, source) or reader.read_whole(source) or before  # the mistake may go again
        if found is not None:
            kept[source.file] = found
    _kept = kept
    return reader.result()


def meant(word: str, words: Mapping[str, str]) -> str:
    """A hint for a word that is known here under another name; "" where it is not."""
    own_word = words.get(word.lower())
    return f"write {own_word!r}" if own_word else ""


def load_text(text: str, file: str = "<text>") -> tuple[PolicySet, list[Diagnostic]]:
    """Every policy of one text; `file` is the name in diagnostics."""
    reader = _Reader()
    reader.read(SourceFile(file, text.encode("utf-8", "surrogatepass")))
    return reader.result()


class _Checked(NamedTuple):
    """What a rule tests, before it is spread over its events."""

    body: Condition
    uses: list[tuple[Field, Location, bool]]  # field, where, whether in an exception


class _Reader:
    """One load: all files, one report, names unique across them."""

    def __init__(self, report: Report | None = None) -> None:
        self.report = report or Report()
        self.policies: list[Policy] = []
        self.seen: dict[str, Location] = {}

    def result(self) -> tuple[PolicySet, list[Diagnostic]]:
        return PolicySet(tuple(self.policies)), self.report.diagnostics

    def read_again(self, kept: _Kept | None, source: SourceFile) -> _Kept | None:
        """Take what a file came to before, as far as its text is the same; None where it has to be read as a whole."""
        if kept is None or not kept.names.keys().isdisjoint(self.seen) or not names.still(kept.answers):
            return None
        if kept.digest != _digest(source):
            kept = _read_changed(kept, source)
            if kept is None:
                return None
        self.policies += kept.policies
        self.report.take(kept.diagnostics)
        self.seen |= kept.names
        return kept

    def read_whole(self, source: SourceFile) -> _Kept | None:
        """Read a file; what it came to, where that depends on nothing but its text and the host's users and groups."""
        errors, known = self.report.errors, set(self.seen)
        start, first = len(self.report.diagnostics), len(self.policies)
        with names.recorded() as answers:
            parts = self.read(source)
        found = tuple(self.policies[first:])
        if answers is None or self.report.errors > errors or any(policy.seccomp is not None for policy in found):
            return None
        added = {name: place for name, place in self.seen.items() if name not in known}
        return _Kept(_digest(source), found, tuple(self.report.diagnostics[start:]), added, tuple(dict.fromkeys(answers)), parts)

    def read(self, source: SourceFile) -> Parts | None:
        """Read a file; its parts where it is one policy and nothing else."""
        start, errors_before = len(self.report.diagnostics), self.report.errors
        documents = []
        try:
            for whole in yaml_nodes.documents(yaml_nodes.decode(source.data, source.file), source.file):
                for root in lists.items(whole):
                    errors = self.report.errors
                    reader = _PolicyReader(self.report, self.seen)
                    policy = reader.policy(root)
                    documents.append((root, policy, reader.together if root is whole else None))
                    if policy is not None and self.report.errors == errors:
                        self.policies.append(policy)
            if not documents:
                self.report.add(Location(source.file), "no-rules", "the file holds no policy", "", "warning")
        except DocumentError as error:
            self.report.take([error.diagnostic])
        self.report.sort(start)
        if len(documents) != 1 or self.report.errors > errors_before:
            return None
        [(root, policy, together)] = documents
        return reread.taken_apart(root, policy, together) if policy is not None and together is not None else None


def _digest(source: SourceFile) -> bytes:
    return hashlib.blake2b(source.data).digest()


def _read_changed(kept: _Kept, source: SourceFile) -> _Kept | None:
    """Read what has changed in a file; None where it has to be read as a whole."""
    if kept.parts is None:
        return None

    def read(text: str) -> tuple[YamlNode, Policy, Sequence[Diagnostic]] | None:
        report = Report()
        roots = list(yaml_nodes.documents(text, source.file))
        policy = _PolicyReader(report, {}, part=True).policy(roots[0]) if len(roots) == 1 else None
        return (roots[0], policy, report.diagnostics) if policy is not None and not report.errors else None

    with names.recorded() as answers:
        try:
            text = yaml_nodes.decode(source.data, source.file)
            found = reread.reread(reread.Read(kept.policies[0], kept.diagnostics, kept.parts), text, read)
        except DocumentError:
            return None
    if found is None or answers is None:
        return None
    said = tuple(dict.fromkeys((*kept.answers, *answers)))
    return _Kept(_digest(source), (found.policy,), found.diagnostics, kept.names, said, found.parts)


class _Shapes:
    """The shapes of YAML nodes: maps with known keys, texts, lists. Reports what does not fit, and goes on."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def pairs(self, node: YamlNode, what: str) -> dict[str, KeyValue]:
        """The entries of a map with distinct text keys; what is wrong with others is reported."""
        entries: dict[str, KeyValue] = {}
        if node.kind != "map":
            given = "nothing" if node.empty else "a list" if node.kind == "list" else f"{quoted(node.text)}"
            self.report.add(node, "wrong-type", f"{what} must be a map, not {given}", "write `key: value` lines below it, indented")
            return entries
        for key, value in node.pairs:
            if key.kind != "scalar":
                self.report.add(key, "wrong-type", "a key must be a plain word", "quote the value if a list or map was not meant")
            elif key.text in entries:
                first = entries[key.text][0].location
                self.report.add(key, "duplicate-key", f"{key.text!r} was already given on line {first.line}", "join the two")
            else:
                entries[key.text] = (key, value)
        return entries

    def level(self, node: YamlNode, model: type[msgspec.Struct], what: str) -> dict[str, KeyValue]:
        """The entries of a map whose keys are those of `model`; values that are null are left out, and told where they would narrow."""
        entries = self.pairs(node, what)
        known, required = schema.keys(model), schema.required_keys(model) if node.kind == "map" else ()
        missing = [text for text in required if text not in entries]
        needs = f"{what} needs " + " and ".join(repr(text) for text in missing)
        unknown = [key for text, (key, _) in entries.items() if text not in known]
        for key in unknown:
            # A misspelt key is one mistake; it is not also told that the right key is missing.
            self.unknown_key(key, model, what, f"; {needs}" if missing and key is unknown[0] else "")
        if missing and not unknown:
            self.report.add(node, "missing-key", needs, "add " + ", ".join(f"{text}: ..." for text in missing))
        for text in required:
            if text in entries and entries[text][1].empty:
                self.report.add(entries[text][0], "missing-key", f"{what} needs {text!r}", f"add {text}: ...")
        for text in schema.narrowing_keys(model):
            if text in entries and entries[text][1].empty:
                self.report.add(entries[text][0], "empty", f"{text} has no value", "write one, or remove the key")
        return {text: entry for text, entry in entries.items() if text in known and not entry[1].empty}

    def unknown_key(self, key: YamlNode, model: type[msgspec.Struct], what: str, also: str) -> None:
        """Report a key that `model` does not have. `also`: more to say."""
        text, known = key.text, schema.keys(model)
        if issubclass(model, schema.Subjects) and meant(text, _MEANT):
            self.report.add(key, "unknown-key", f"unknown key {quoted(text)} in {what}{also}", meant(text, _MEANT))
        elif text == "<<":
            hint = "write the keys out, or use an alias for a whole value"
            self.report.add(key, "unknown-key", f"merge keys are not supported{also}", hint)
        else:
            hint = _INSTEAD.get((model, text)) or suggest(text, known, "known keys: " + ", ".join(known))
            self.report.add(key, "unknown-key", f"unknown key {quoted(text)} in {what}{also}", hint)

    def text(self, node: YamlNode, what: str) -> str | None:
        """A scalar's text."""
        if node.kind != "scalar":
            given = "a map" if node.kind == "map" else "a list"
            hint = "quote it if it begins with '{' or '['" if node.source.text[node.start : node.start + 1] in "{[" else "write one value"
            self.report.add(node, "wrong-type", f"{what} must be one value, not {given}", hint)
            return None
        if node.empty:
            self.report.add(node, "empty", f"{what} has no value", "write one, or remove the key")
            return None
        if node.tag.startswith("!") and len(node.tag) > 1:
            hint = "list what is excepted under unless:" if what.startswith("a value") else "quote the value"
            what_ = f"{quoted(node.tag)} before a value is a YAML tag, and means nothing here"
            self.report.add(node.source.location(node.mark), "bad-value", what_, hint)
            return None
        return node.text

    def texts(self, node: YamlNode, what: str) -> list[tuple[YamlNode, str]]:
        """One scalar, or a list of them that is not empty."""
        if node.kind == "list" and not node.items:
            self.report.add(node, "empty", f"{what}: an empty list matches nothing", "list the values, or remove the key")
        items = node.items if node.kind == "list" else [node]
        texts = [(item, self.text(item, f"a value of {what}")) for item in items]
        return [(item, text) for item, text in texts if text is not None]

    def choice(self, node: YamlNode, what: str, options: Iterable[str]) -> str | None:
        """One of a few words."""
        text = self.text(node, what)
        if text is None or text in options:
            return text
        listed = tuple(options)
        own = meant(text, ACTIONS_OF_OTHERS)
        hint = own if own and ACTIONS_OF_OTHERS[text.lower()] in listed else suggest(text, listed, "write one of: " + ", ".join(listed))
        self.report.add(node, "bad-value", f"{what} cannot be {quoted(text)}", hint)
        return None


class _PolicyReader(_Shapes):
    """One document. `part`: of the rules there are only some, and nothing is told that takes all of them."""

    def __init__(self, report: Report, seen: dict[str, Location], *, part: bool = False) -> None:
        super().__init__(report)
        self.part = part
        self.together: gaps.Together | None = None
        self.seen = seen
        self.rule_names: dict[str, Location] = {}
        self.defaults: dict[str, Location] = {}
        # After a mistake in one of these, nothing certain can be said about the rules.
        self.scope_known = self.defaults_known = True
        self.doubt: Condition = FALSE
        self.probes: dict[int, Probe] = {}

    # ---- the document ----

    def policy(self, root: YamlNode) -> Policy | None:
        errors = self.report.errors
        if not self.kind(root):
            return None
        errors = self.report.errors
        top = self.level(root, schema.SecurityPolicy, "a policy")
        name = self.name(top["metadata"][1]) if "metadata" in top else None
        if "spec" not in top:
            return None
        before = self.report.errors
        spec = self.level(top["spec"][1], schema.Spec, "spec")
        whole = self.report.errors == before
        scope = self.scope(spec["scope"][1]) if "scope" in spec else TRUE
        self.scope_known = self.report.errors == before
        default = self.default(spec["default"][1]) if "default" in spec else {}
        self.defaults_known = self.report.errors == before
        policy = Policy(
            name=name or "",
            mode=(self.choice(spec["mode"][1], "mode", MODES) if "mode" in spec else None) or "enforce",
            severity=self.severity(spec) or "medium",
            tags=self.tags(spec) or (),
            scope=scope,
            default=default,
            doubt=self.doubt,
            links="links" not in spec or self.choice(spec["links"][1], "links", LINKS) != "as-written",
            location=root.location,
        )
        filtering = seccomp.profile_of(spec["seccomp"][1], self.report) if "seccomp" in spec else None
        rules = self.rules(spec["rules"][1], policy, "seccomp" in spec) if "rules" in spec else ()
        if whole and "default" not in spec and "rules" not in spec and "seccomp" not in spec:
            self.report.add(top["spec"][0], "no-rules", "the policy has neither rules nor a default: it does nothing", "", "warning")
        values_given = {
            **{f: getattr(policy, f) for f in policy.__struct_fields__},
            "rules": rules,
            "seccomp": filtering,
            "probes": tuple(self.probes.values()),
        }
        made = Policy(**values_given)
        for event, place in self.defaults.items() if self.report.errors == errors else ():
            self.stops_host(place, "the default", *effects.stopped_by_default(made, event))
        if self.report.errors == errors and not self.part:  # a rule that could not be read may be the one that closes the gap
            self.together = gaps.Together(made)
            for gap in gaps.gaps(made, self.together):
                self.report.add(gap.place, gap.code, gap.message, gap.hint, "warning")
        return made

    def stops_host(self, place: YamlNode | Location, what: str, event: str, act: str) -> None:
        """Report that something takes an event from what no host runs without; nothing where `event` is empty."""
        if event:
            blocked = f"{what} denies {event} to what the host cannot run without, such as {act}"
            hint = "give the policy a scope (container: true, cgroup:, exe:, user:), or match less; mode: audit shows what it would block"
            self.report.add(place, "stops-host", blocked, hint, "warning")

    def kind(self, root: YamlNode) -> bool:
        """Whether the document is one of ours; reports why not."""
        if root.kind != "map":
            listed = root.kind == "list"
            theirs = "Falco rules: a file of theirs is known by an entry '- rule:', '- macro:' or '- list:' that begins a line"
            hint = theirs if listed else f"begin with apiVersion: {schema.API_VERSION}"
            self.report.add(root, "wrong-kind", f"a policy is a map with apiVersion, kind, metadata and spec, not a {root.kind}", hint)
            return False
        given = {key.text: value for key, value in root.pairs if key.kind == "scalar"}
        version, kind = given.get("apiVersion"), given.get("kind")
        if kind is not None and kind.text not in (schema.KIND, schema.CLUSTER_KIND):
            hint = f"{kind.text} is not supported yet: write a {schema.KIND}" if kind.text in _OTHERS else f"write kind: {schema.KIND}"
            self.report.add(kind, "wrong-kind", f"kind is {quoted(kind.text)}", hint)
            return False
        if version is not None and version.text != schema.API_VERSION:
            self.report.add(version, "wrong-kind", f"apiVersion is {quoted(version.text)}", f"write apiVersion: {schema.API_VERSION}")
            return False
        return True

    def name(self, metadata: YamlNode) -> str | None:
        entries = self.level(metadata, schema.Metadata, "metadata")
        for key in ("labels", "annotations"):
            if key in entries:
                for _, value in self.pairs(entries[key][1], key).values():
                    self.text(value, f"a value of {key}")
        name = self.identifier(entries["name"][1], "a policy") if "name" in entries else None
        if name is None:
            return None
        place = entries["name"][1].location
        if name in self.seen:
            self.report.add(place, "duplicate-policy", f"there already is a policy {name!r}, at {self.seen[name]}", "rename one of them")
        self.seen.setdefault(name, place)
        return name

    def identifier(self, node: YamlNode, what: str) -> str | None:
        name = self.text(node, f"the name of {what}")
        if name is not None and not re.fullmatch(schema.NAME_PATTERN, name):
            hint = "use letters, digits, '-', '_' and '.', at most 253, a letter or digit first and last"
            self.report.add(node, "bad-value", f"{quoted(name)} cannot be the name of {what}", hint)
            return None
        return name

    def severity(self, entries: dict[str, KeyValue]) -> str | None:
        return self.choice(entries["severity"][1], "severity", SEVERITIES) if "severity" in entries else None

    def tags(self, entries: dict[str, KeyValue]) -> tuple[str, ...] | None:
        if "tags" not in entries:
            return None
        node = entries["tags"][1]
        if node.kind == "list" and not node.items:
            return ()
        return tuple(text for _, text in self.texts(node, "tags"))

    def default(self, node: YamlNode) -> dict[str, Action]:
        default: dict[str, Action] = {}
        for written, (key, value) in self.pairs(node, "default").items():
            if written in GROUPS:
                hint = "name the events: " + ", ".join(GROUPS[written])
                self.report.add(key, "bad-value", f"a default is for single events, and {written} is a group", hint)
                continue
            event = self.event(key, written)
            action = self.choice(value, "a default", ACTIONS)
            if event is None or action is None:
                continue
            if action in ("deny", "kill") and not EVENT_BY_NAME[event].deniable:
                self.not_deniable(value, event, action)
            elif event in default:
                self.report.add(key, "duplicate-key", f"the default of {event} was already given", "give it once")
            elif action != "allow":
                default[event] = ACTIONS[action]
                self.defaults[event] = key.location
        return default

    def not_deniable(self, node: YamlNode, event: str, action: str) -> None:
        killable = EVENT_BY_NAME[event].killable
        text = f"{event} comes too late to be denied" if killable else f"{event} can be watched, not prevented: {action} has no effect"
        hint = "a rule with action: kill ends the program before its first instruction" if killable else "use action: audit"
        self.report.add(node, "not-deniable", text, hint)

    def event(self, node: YamlNode, written: str) -> str | None:
        events = expand.events_of(written)
        if not events:
            hint = meant(written, EVENTS_OF_OTHERS) or suggest(written, schema.event_names(), "`bpfence events` lists them")
            self.report.add(node, "unknown-event", f"unknown event {quoted(written)}", hint)
            return None
        return events[0]

    # ---- scope ----

    def scope(self, node: YamlNode) -> Condition:
        errors = self.report.errors
        entries = self.level(node, schema.Scope, "scope")
        unknown = (self.choice(entries["unknown"][1], "unknown", UNKNOWN) if "unknown" in entries else None) or UNKNOWN[1]
        parts = self.subjects(entries, unknown == "inside")
        if "unless" in entries:
            before = self.report.errors
            excepted = values.conj(self.subjects(self.level(entries["unless"][1], schema.Subjects, "unless"), unknown != "inside"))
            if excepted == TRUE and self.report.errors == before:
                self.report.add(entries["unless"][0], "unreachable", "an empty unless leaves everything out", _EMPTY_UNLESS)
            parts.append(values.negation(excepted))
        scope = values.conj(parts)
        field = values.contradiction(scope)
        if field is not None and self.report.errors == errors:
            what = f"no process is in this scope: the tests on {field} exclude each other"
            self.report.add(node, "unreachable", what, "values of one key are alternatives, keys are all required")
        selects = any(atom.op is Op.SELECTS for atom in atoms(scope))
        if "unknown" in entries and not selects and self.report.errors == errors:
            what = "nothing in this scope can be unknown of a container"
            self.report.add(
                entries["unknown"][0],
                "useless",
                what,
                f"remove it, or select containers by {', '.join(WORKLOADS)}, labels or namespaceLabels",
            )
        self.doubt = untold() if selects and unknown == "audit" else FALSE
        # After a mistake in the scope, nothing certain can be said about the rules inside it.
        return scope if self.report.errors == errors else TRUE

    def subjects(self, entries: dict[str, KeyValue], unknown: bool) -> list[Condition]:
        """`unknown`: whether a container counts of which it is not known."""
        parts: list[Condition] = []
        for key, (_, value) in entries.items():
            if key in SUBJECTS:
                condition = self.alternatives(FIELD_BY_NAME[SUBJECTS[key]], value)
                parts.append(expand.below(condition) if key == "cgroup" else condition)
            elif key == "container" and value.kind == "scalar" and value.text in ("true", "false"):
                parts.append(values.negation(inside()) if value.text == "false" else inside())
        for key in _OF_API_SERVER:
            if key in entries:
                what = f"only `bpfence run --kubernetes` is told {key}: of every pod it is unknown without"
                hint = "with unknown: audit, the default, such a policy only ever audits pods; select by namespace, pod, labels or image"
                self.report.add(entries[key][0], "never-told", what, hint, "warning")
        members = {member: self.patterns(key, entries[key][1]) for key, member in _MEMBERS.items() if key in entries}
        selector = msgspec.structs.replace(Selector(), **members)
        for key, member in LABELS.items():
            if key in entries:
                selector = msgspec.structs.replace(selector, **{member: self.labels(key, entries[key][1])})
        if selector != Selector():
            test = unknown_too(selector, untold()) if unknown else Atom(CONTAINER_FIELD, Op.SELECTS, selector)
            by_cgroup = tuple(_by_cgroup(selector))
            parts.append(Or((*by_cgroup, test)) if by_cgroup else test)
        return parts

    def patterns(self, key: str, node: YamlNode) -> tuple[str, ...]:
        """The globs of one key that selects containers; none for `container: true` and `false`."""
        found = []
        for item, text in self.texts(node, key):
            if key == "container" and text in ("true", "false"):
                if node.kind == "list":
                    self.report.add(item, "bad-value", f"{text} is no name of a container", f"write container: {text}, without a list")
                continue
            if not self.can_be_named(key, node, item, text):
                continue
            try:
                if key == "image":
                    images.pattern(text)
                else:
                    glob.compiled(text, "string")
            except glob.GlobError as e:
                self.report.bad(item, TextError(e.message, e.hint, "bad-glob", e.position))
            except ValueError as e:
                self.report.add(
                    item, "bad-value", f"{quoted(text)} is not the pattern of an image: {e}", "write nginx, nginx:1.27 or nginx:*"
                )
            else:
                found.append(text)
        return tuple(found)

    def can_be_named(self, key: str, node: YamlNode, item: YamlNode, text: str) -> bool:
        """Whether something may have such a name, or what was written means something else, or nothing."""
        word = _NOT_NAMES.get(text.lower()) or ("true" if not item.style and _NUMBER.fullmatch(text) else None)
        if key == "container" and node.kind != "list" and word is not None:
            hint = f"write container: {word}; for a container of that name write container: [{json.dumps(text)}]"
            self.report.add(item, "bad-value", f"{quoted(text)} is neither true nor false", hint)
        elif not text:
            self.report.add(item, "bad-value", f"{key} is never empty", "write a name or a glob, or remove the key")
        elif key in _OBJECTS and not _OBJECT_GLOB.fullmatch(text):
            hint = "its names are of lower case letters, digits, '-' and '.', also in a glob"
            self.report.add(item, "bad-value", f"nothing in Kubernetes is named {quoted(text)}", hint)
        else:
            return True
        return False

    def labels(self, name: str, node: YamlNode) -> tuple[Label, ...]:
        """Tests on labels: a plain map, or the selector of Kubernetes."""
        known = schema.keys(LabelSelector)
        entries = self.pairs(node, name)
        if not entries and node.kind == "map":
            self.report.add(node, "empty", f"{name} asks for none", "write `key: value`, or remove it")
        if entries.keys().isdisjoint(known):
            return tuple(self.matched(entries))
        entries = self.level(node, LabelSelector, name)
        found = list(self.matched(self.pairs(entries[known[0]][1], known[0]))) if known[0] in entries else []
        listed = entries[known[1]][1] if known[1] in entries else None
        if listed is not None and listed.kind != "list":
            self.report.add(listed, "wrong-type", f"{known[1]} must be a list", "begin each with '- key: ...'")
        for item in listed.items if listed is not None and listed.kind == "list" else ():
            found += self.expression(item)
        return tuple(found)

    def matched(self, entries: dict[str, KeyValue]) -> Iterator[Label]:
        for key, (place, value) in entries.items():
            text = self.text(value, f"the label {key}") if not value.empty else ""
            if text is not None and self.label_key(place, key):
                self.label_value(value, text)
                yield Label(key, "in", (text,))

    def label_key(self, place: YamlNode, key: str) -> bool:
        if LABEL_KEY.fullmatch(key):
            return True
        hint = (
            "a key is like app or example.com/app: at most 63 letters, digits, '-', '_' and '.' behind the '/', none of '-_.' first or last"
        )
        self.report.add(place, "bad-value", f"{quoted(key)} cannot be the key of a label", hint)
        return False

    def label_value(self, place: YamlNode, text: str) -> None:
        if "*" in text:
            hint = (
                "list the values: matchExpressions: [{key: tier, operator: In, values: [web, api]}], or ask for the key: operator: Exists"
            )
            self.report.add(place, "literal-glob", "labels compare literally: '*' stands for itself", hint, "warning")

    def expression(self, node: YamlNode) -> Iterator[Label]:
        entries = self.level(node, Expression, "an expression")
        if not {"key", "operator"} <= entries.keys():
            return
        key = self.text(entries["key"][1], "key")
        operator = self.choice(entries["operator"][1], "operator", OPERATORS)
        asked = self.texts(entries["values"][1], "values") if "values" in entries else []
        listed = tuple(text for _, text in asked)
        if key is None or operator is None:
            return
        if bool(listed) != (operator in ("In", "NotIn")):
            what = f"{operator} needs values" if not listed else f"{operator} takes no values"
            self.report.add(node, "bad-value", what, "write `{key: tier, operator: In, values: [web, api]}`")
            return
        if self.label_key(entries["key"][1], key):
            for item, text in asked:
                self.label_value(item, text)
            yield Label(key, OPERATORS[operator], listed)

    def alternatives(self, field: Field, node: YamlNode) -> Condition:
        """The condition of one value or a list of them."""
        parts: list[Condition] = []
        for item, text in self.texts(node, field.name):
            try:
                parts.append(values.condition_of(field, text))
            except TextError as e:
                self.report.bad(item, e)
            else:
                self.odd(field, item, text)
        if field.kind is Kind.FLAGS:
            mask = 0
            for part in parts:
                mask |= part.value if isinstance(part, Atom) and part.op is Op.ANYBITS and isinstance(part.value, int) else 0
            parts = [part for part in parts if not (isinstance(part, Atom) and part.op is Op.ANYBITS)]
            parts += [Atom(field.name, Op.ANYBITS, mask)] if mask else []
        return values.disj(parts)

    def odd(self, field: Field, place: YamlNode, text: str) -> None:
        for warning in values.odd(field, text):
            self.report.add(place, warning.code, warning.message, warning.hint, "warning")

    # ---- rules ----

    def rules(self, node: YamlNode, policy: Policy, filtered: bool) -> tuple[Rule, ...]:
        if node.kind != "list":
            self.report.add(node, "wrong-type", "rules must be a list", "begin each rule with '- name: ...'")
            return ()
        if not node.items and not policy.default and not filtered:
            self.report.add(node, "no-rules", "the policy has neither rules nor a default: it does nothing", "", "warning")
        read = (_RuleReader(self, policy, item).rule() for item in node.items)
        return tuple(rule for rule in read if rule is not None)


class _RuleReader:
    """One rule of a policy."""

    def __init__(self, within: _PolicyReader, policy: Policy, node: YamlNode) -> None:
        self.within = within
        self.report = within.report
        self.policy = policy
        self.node = node
        before = self.report.errors
        self.entries = within.level(node, schema.RuleSpec, "a rule")
        self.keys_known = self.report.errors == before
        self.sensed: sensors.Sensed | None = None

    def value(self, key: str) -> YamlNode | None:
        return self.entries[key][1] if key in self.entries else None

    def rule(self) -> Rule | None:
        """The rule, or None where it has an error."""
        errors = self.report.errors
        name = self.name()
        events: tuple[str, ...]
        given = self.value("on")
        if given is not None and given.kind == "map":
            self.sensed = sensors.SensorReader(self.within, given).read()
            on, events = [], (self.sensed.probe.way.value,) if self.sensed is not None else ()
        else:
            on = self.on()
            events = tuple(dict.fromkeys(event for written in on for event in expand.events_of(written)))
        action = self.action(events)
        before = self.report.errors
        checked = self.checked(events)
        understood = self.keys_known and self.report.errors == before
        limit, counted = self.limit(events)
        body = values.conj((self.followed(checked.body, understood), counted))
        rate, burst = self.rate()
        message = self.message(events) or (self.sensed.message if self.sensed is not None else "")
        threshold = self.threshold(action)
        errno = self.errno(action)
        severity, tags = self.within.severity(self.entries), self.within.tags(self.entries)
        if self.report.errors > errors or not events or action is None:
            return None
        self.partly(checked.uses, events)
        self.given(checked.uses, action)
        self.module_paths(checked.uses, events, action)
        self.often_absent(checked, events, action)
        self.caller(checked, events)
        each = {event: condition for event, condition in self.each(on, body).items() if condition != FALSE}
        if not each:
            return None
        condition, conditions_ = expand.shared(each)
        if self.sensed is not None:
            probe = self.sensed.probe
            condition = values.conj((Atom("sensor.number", Op.RANGE, (probe.number, probe.number)), condition))
            self.within.probes.setdefault(probe.number, probe)
        made = Rule(
            policy=self.policy.name,
            name=name or "",
            events=tuple(each),
            condition=condition,
            conditions=conditions_,
            action=action,
            errno=errno,
            message=message,
            severity=severity or self.policy.severity,
            tags=self.policy.tags if tags is None else tags,
            rate=rate,
            burst=burst,
            limit=limit,
            threshold=threshold,
            location=self.node.location,
        )
        if self.within.scope_known and threshold is None:
            self.within.stops_host(self.node, "the rule", *effects.stopped_by_rule(self.policy, made))
        return made

    def name(self) -> str | None:
        node = self.value("name")
        name = self.within.identifier(node, "a rule") if node else None
        if node is None or name is None:
            return None
        seen = self.within.rule_names
        if name in seen:
            what = f"the policy already has a rule {name!r}, on line {seen[name].line}"
            self.report.add(node, "duplicate-rule", what, "rename one of them")
        elif name == "default":
            self.report.add(node, "duplicate-rule", "'default' is what the policy's default is reported as", "choose another name")
        seen.setdefault(name, node.location)
        return name

    def on(self) -> list[str]:
        node = self.value("on")
        if node is None:
            return []
        written = []
        for item, text in self.within.texts(node, "on"):
            if self.within.event(item, text) is not None:
                written.append(text)
        return written

    def action(self, events: tuple[str, ...]) -> Action | None:
        """What the rule does; None where a mistake leaves that unknown."""
        node = self.value("action")
        if node is None:
            return Action.AUDIT if self.keys_known else None
        text = self.within.choice(node, "action", ACTIONS)
        if text is None:
            return None
        action = ACTIONS[text]
        if self.sensed is not None and action in (Action.ALLOW, Action.DENY):
            what = f"a sensor comes after the decision: {text} has no effect"
            self.report.add(node, "not-deniable", what, "use kill, audit or observe, or a rule on the event that can be denied")
            return None
        watched = [event for event in events if not EVENT_BY_NAME[event].blockable(action is Action.KILL)]
        if action >= Action.DENY and watched:
            self.within.not_deniable(node, watched[0], text)
        if action == Action.ALLOW and events and self.within.defaults_known:
            bare = [event for event in events if event not in self.policy.default]
            hint = f"add `default: {{{bare[0]}: deny}}` to the spec; what another rule must not match goes under its unless" if bare else ""
            if len(bare) == len(events):
                what = "allow makes exceptions to the policy's default, and there is none for " + ", ".join(bare)
                self.report.add(node, "useless", what, hint)
            elif bare:
                self.report.add(node, "useless", "allow has no effect where the policy has no default: " + ", ".join(bare), hint, "warning")
        return action

    # ---- what is tested ----

    def checked(self, events: tuple[str, ...]) -> _Checked:
        """match, unless or condition, and the fields they use."""
        if "condition" in self.entries:
            for key in ("match", "unless"):
                if key in self.entries:
                    what = f"{key} and condition cannot stand together"
                    hint = "put all of it into the condition: " + ("... and not (...)" if key == "unless" else "... and ...")
                    self.report.add(self.entries[key][0], "match-and-condition", what, hint)
            return self.condition(self.entries["condition"][1], events)
        uses: list[tuple[Field, Location, bool]] = []
        match = self.tests("match", events, uses)
        if "unless" not in self.entries:
            return _Checked(match, uses)
        errors = self.report.errors
        unless = self.tests("unless", events, uses)
        required = set(_conjuncts(match)) | set(_conjuncts(self.policy.scope))
        place = self.entries["unless"][0]
        if unless == TRUE and self.report.errors == errors:
            self.report.add(place, "unreachable", "an empty unless leaves everything out", _EMPTY_UNLESS)
        elif self.report.errors == errors and set(_conjuncts(unless)) <= required:
            hint = "the fields under unless are all required: add one that tells the exceptions"
            self.report.add(place, "unreachable", "unless leaves out everything that match asks for", hint)
        return _Checked(values.conj((match, values.negation(unless))), uses)

    def tests(self, key: str, events: tuple[str, ...], uses: list[tuple[Field, Location, bool]]) -> Condition:
        if key not in self.entries:
            return TRUE
        parts = []
        for name, (node, value) in self.within.pairs(self.entries[key][1], key).items():
            field = FIELD_BY_NAME.get(name)
            if field is None:
                self.report.add(node, "unknown-field", f"unknown field {quoted(name)}", suggest(name, FIELD_BY_NAME, _FIELDS_HINT))
                self.within.texts(value, name)
                continue
            self.carried(field, node.location, events)
            uses.append((field, node.location, key == "unless"))
            parts.append(self.within.alternatives(field, value))
        return values.conj(parts)

    def condition(self, node: YamlNode, events: tuple[str, ...]) -> _Checked:
        text = self.within.text(node, "condition")
        if text is None:
            return _Checked(TRUE, [])
        from bpfence.dialects.native import language  # imported late: it makes a parser, which only conditions need

        parsed = language.parse(text)
        for problem in sorted(parsed.problems, key=lambda p: p.offset):
            self.report.bad(node, problem)
        for warning in parsed.warnings:
            self.report.add(node.place(warning.offset), warning.code, warning.message, warning.hint, "warning")
        for use in parsed.uses:
            self.carried(use.field, node.place(use.offset), events)
            self.together(use, node.place(use.offset), events)
        return _Checked(parsed.condition, [(use.field, node.place(use.offset), False) for use in parsed.uses])

    def carried(self, field: Field, place: Location, events: tuple[str, ...]) -> None:
        if self.sensed is not None and any(field.name.startswith(own) for own in _OF_SENSORS) and field.name not in self.sensed.fields:
            what = f"the sensor on {self.sensed.probe.place} does not read {field.name}"
            self.report.add(place, "field-not-on-event", what, sensors.lacking(self.sensed, field.name))
            return
        if events and not any(applies(field, event) for event in events):
            hint = f"{field.name} is known on: " + ", ".join(event + "*" if event.endswith(".") else event for event in field.events)
            self.report.add(place, "field-not-on-event", f"{', '.join(events)} does not carry {field.name}", hint)

    def together(self, use: FieldMention, place: Location, events: tuple[str, ...]) -> None:
        """Fields that are compared must be on one event."""
        field, compared = use.beside, use.field
        if field is None or not all(any(applies(known, event) for event in events) for known in (field, compared)):
            return
        if not any(applies(field, event) and applies(compared, event) for event in events):
            what = f"none of {', '.join(events)} has both {field.name} and {compared.name}"
            self.report.add(place, "field-not-on-event", what, "docs/events.md lists the fields of each event")

    def partly(self, uses: list[tuple[Field, Location, bool]], events: tuple[str, ...]) -> None:
        for field, place, exception in uses:
            lacking = [event for event in events if not applies(field, event)]
            if lacking:
                effect = "the exception never applies there" if exception else "the test is false there"
                what = f"{field.name} is not carried by {', '.join(lacking)}: {effect}"
                self.report.add(place, "field-on-some-events", what, "write a rule of its own for those events", "warning")

    def given(self, uses: list[tuple[Field, Location, bool]], action: Action) -> None:
        """What the caller wrote is no ground to deny or to excuse: the next caller writes it in another way."""
        for field, place, _ in uses:
            if field.instead and action not in REPORTS:
                what = f"{field.name} is what the caller wrote: who chooses the spelling chooses the verdict"
                self.report.add(place, "as-given", what, field.instead, "warning")

    def module_paths(self, uses: list[tuple[Field, Location, bool]], events: tuple[str, ...], action: Action) -> None:
        if "kernel.module" not in events or action in REPORTS:
            return
        for field, place, exception in uses:
            if field.name == "file.path":
                effect = "the exception does not apply then" if exception else "the rule does not apply then"
                what = f"modprobe may unpack a module itself and load it with init_module(2), which knows no file: {effect}"
                self.report.add(place, "module-without-path", what, "test module.name, which is known either way", "warning")

    def often_absent(self, checked: _Checked, events: tuple[str, ...], action: Action) -> None:
        """A verdict must not depend on what some acts do not have."""
        for field, place, exception in checked.uses if action not in REPORTS else ():
            acts = effects.often_absent(field.name, events, checked.body)
            if acts:
                effect = "the exception does not apply" if exception else "a test on it is false"
                what = f"{field.name} is not known of every act, so there {effect}: {acts}"
                hint = f"test another field, or write `{field.name} exists` in a condition"
                self.report.add(place, "often-absent", what, hint, "warning")

    def caller(self, checked: _Checked, events: tuple[str, ...]) -> None:
        """On exec, process.* is who calls exec, not what is executed. A rule that says nothing of the latter may not mean what it says."""
        name = effects.about_caller(events, checked.body)
        place = next((place for field, place, exception in checked.uses if field.name == name and not exception), None)
        if place is None:
            return
        what = f"on exec, {name} is that of the program that calls exec, not of the one that is executed"
        hint = (
            'the new program is file.path, such as "**/nmap"; its arguments are process.args on executed; if the caller is meant, name it'
            " under scope"
        )
        self.report.add(place, "about-caller", what, hint, "info" if name == "process.exe" else "warning")

    def each(self, on: list[str], body: Condition) -> dict[str, Condition]:
        """The condition of each event. Reports a rule that can be true of none."""
        if self.sensed is not None:
            each = {self.sensed.probe.way.value: values.conj((self.policy.scope, body))}
        else:
            each = expand.event_conditions(on, self.policy.scope, body)
        seen = {condition: self.never(condition) for condition in set(each.values())}
        reasons = {event: seen[condition] for event, condition in each.items()}
        if all(reason is not None for reason in reasons.values()):
            why = next((reason for reason in reasons.values() if reason), "")
            what = f"the rule can never match: {why}" if why else "the rule can never match"
            self.report.add(self.node, "unreachable", what, "values of one field are alternatives, fields and scope are all required")
        return {event: FALSE if reasons[event] is not None else condition for event, condition in each.items()}

    def never(self, condition: Condition) -> str | None:
        """Why a condition is never true; None where no reason is seen."""
        field = values.contradiction(condition)
        if field is not None:
            return f"the tests on {field} exclude each other" if field else ""
        return effects.exclusion(condition) or None

    def followed(self, body: Condition, understood: bool) -> Condition:
        node = self.value("follow")
        if node is None or self.within.choice(node, "follow", ("object",)) is None or not understood:
            return body
        if self.sensed is not None:
            self.report.add(node, "not-supported", "sensors know files by name alone", "leave follow out")
            return body
        condition, paths, loose = expand.follow(body)
        if not paths:
            hint = "name files or directories without wildcards under file.path: /etc/shadow, /etc/sudoers.d/**"
            self.report.add(node, "follow-without-path", "there is no literal path to follow", hint)
        elif loose:
            shown = ", ".join(str(atom.value) for atom in loose[:3])
            self.report.add(node, "follow-partly", f"patterns have no object to follow: {shown}", "they go on to match by name", "warning")
        return condition

    # ---- the rest ----

    def limit(self, events: tuple[str, ...]) -> tuple[int, Condition]:
        """The most tasks (0: no limit), and the condition that there are so many."""
        node = self.value("limit")
        text = self.within.text(node, "limit") if node else None
        if node is None or text is None:
            return 0, TRUE
        if not re.fullmatch(schema.LIMIT_PATTERN, text):
            self.report.add(node, "bad-limit", f"{quoted(text)} is not a limit", "write `200 per cgroup`, or `200 per cgroup at level 2`")
            return 0, TRUE
        others = [event for event in events if event != "process.fork"]
        if others:
            what = f"limit counts tasks, and {others[0]} makes none"
            self.report.add(self.entries["limit"][0], "limit-without-fork", what, "use it with `on: fork` alone")
            return 0, TRUE
        count, _, level = text.partition(" per cgroup at level ")
        limit = int(count.partition(" ")[0])
        levels: dict[int, Condition] = {int(level): TRUE} if level else expand.limited_level(self.policy.scope)
        if not levels and self.within.scope_known:
            what = "the scope does not tell which cgroup is counted: each is by itself, and a child cgroup evades the limit"
            self.report.add(node, "limit-without-level", what, f"name one: `{limit} per cgroup at level 2` counts below /a/b", "warning")
        return limit, expand.limited(levels, limit)

    def threshold(self, action: Action | None) -> Threshold | None:
        """What the rule counts; None where it does not, or there is a mistake."""
        node = self.value("threshold")
        if node is None:
            return None
        errors = self.report.errors
        entries = self.within.level(node, schema.Threshold, "threshold")
        counted = self.within.text(entries["count"][1], "count") if "count" in entries else None
        within = self.within.text(entries["within"][1], "within") if "within" in entries else None
        by = self.within.choice(entries["by"][1], "by", COUNTED_BY) if "by" in entries else COUNTED_BY[0]
        count = int(counted) if counted is not None and counted.isascii() and counted.isdigit() and len(counted) < 9 else 0
        if counted is not None and not 2 <= count <= MAX_COUNT:
            what = f"{quoted(counted)} is no number from 2 to {MAX_COUNT}"
            self.report.add(entries["count"][1], "bad-threshold", what, "a rule without a threshold acts on the first event")
        seconds = 0
        if within is not None:
            known = re.fullmatch(schema.WITHIN_PATTERN, within)
            seconds = int(within[:-1]) * _RATE_SECONDS[within[-1]] if known else 0
            if not 1 <= seconds <= MAX_WITHIN:
                self.report.add(entries["within"][1], "bad-threshold", f"{quoted(within)} is no time from 1s to 1h", "write 10s, 5m or 1h")
        if "limit" in self.entries:
            what = "threshold counts events and limit tasks: they cannot stand together"
            self.report.add(self.entries["limit"][0], "bad-threshold", what, "make two rules of it")
        if action is not None and action < Action.AUDIT:
            what = f"a rule to {action.name.lower()} acts on each event"
            self.report.add(self.entries["threshold"][0], "useless", what, "use it with audit, deny or kill")
        if self.report.errors > errors or by is None:
            return None
        return Threshold(count, 1000 * seconds, by)

    def rate(self) -> tuple[float, int]:
        node = self.value("rate")
        text = self.within.text(node, "rate") if node else None
        if node is None or text is None:
            return 0.0, 0
        if not re.fullmatch(schema.RATE_PATTERN, text):
            self.report.add(
                node, "bad-rate", f"{quoted(text)} is not a rate", "write a number per second, minute or hour: 10/s, 100/m, 1000/h"
            )
            return 0.0, 0
        count, _, unit = text.partition("/")
        return int(count) / _RATE_SECONDS[unit], int(count)

    def errno(self, action: Action | None) -> int:
        node = self.value("errno")
        text = self.within.text(node, "errno") if node else None
        if node is None or text is None:
            return errno_module.EPERM
        if action is not None and action < Action.DENY:
            what = "errno has an effect with deny and kill only"
            self.report.add(self.entries["errno"][0], "useless", what, "remove it, or set action: deny")
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 5 else names.number("errno", text)
        if number is None or names.name("errno", number) is None:
            hint = suggest(text, names.known("errno"), "write a name such as EPERM, EACCES or ENOENT")
            self.report.add(node, "bad-errno", f"{quoted(text)} is not an errno", hint)
            return errno_module.EPERM
        return number

    def message(self, events: tuple[str, ...]) -> str:
        node = self.value("message")
        text = self.within.text(node, "message") if node else None
        if node is None or text is None:
            return ""
        for brace in re.finditer(r"\{\{|\}\}|\{([^{}]*)\}|[{}]", text):
            if brace.group() in ("{{", "}}"):
                continue
            name = brace.group(1)
            if name is None:
                self.report.add(
                    node.place(brace.start()), "bad-message", f"{brace.group()!r} stands alone", "double it to have the character itself"
                )
            elif name not in FIELD_BY_NAME and name not in MESSAGE_WORDS:
                hint = suggest(name, (*FIELD_BY_NAME, *MESSAGE_WORDS), f"{_FIELDS_HINT}; double the braces for the characters themselves")
                self.report.add(node.place(brace.start() + 1), "bad-message", f"unknown field {quoted(name)} in the message", hint)
            elif name in FIELD_BY_NAME and self.sensed is not None:
                self.carried(FIELD_BY_NAME[name], node.place(brace.start() + 1), events)
            elif name in FIELD_BY_NAME and events and not any(applies(FIELD_BY_NAME[name], event) for event in events):
                what = f"{', '.join(events)} does not carry {name}"
                self.report.add(node.place(brace.start() + 1), "bad-message", what, "name a field of the event")
        return text


def _by_cgroup(selector: Selector) -> Iterator[Condition]:
    """Where runtimes alone are asked for, cgroups tell some of them without being told."""
    if selector == Selector(runtimes=selector.runtimes):
        yield from (found for runtime in selector.runtimes if (found := of_runtime(runtime)) is not None)


def _conjuncts(condition: Condition) -> tuple[Condition, ...]:
    return condition.parts if isinstance(condition, And) else (condition,)
