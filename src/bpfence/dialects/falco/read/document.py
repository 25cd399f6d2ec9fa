# SPDX-License-Identifier: Apache-2.0
"""The YAML trees of Falco rule files in, their entries in order out: lists, macros, rules, requirements.

Called by `resolve`. Only shapes are checked here: which keys there are, and whether a value is a text, a list or a switch. Scalars are
taken as they were written, never by YAML 1.1's typing: a list item `on`, `0o17` or `1.10` is that text. Every mistake is reported in one
go.
"""

from __future__ import annotations

import errno as errno_module
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Union

from bpfence import names
from bpfence.dialects.falco.options import PRIORITIES
from bpfence.documents.report import Report
from bpfence.documents.yaml_nodes import YamlNode
from bpfence.words import quoted, suggest

CODES: Final[Mapping[str, str]] = {
    "append-unknown": "append or override of something that was not defined before",
    "bad-address": "an address or network that cannot be read",
    "bad-escape": "a backslash in quotes that escapes nothing known",
    "bad-glob": "a glob that cannot be compiled",
    "bad-name": "a name by which a macro or list cannot be used (warning)",
    "bad-number": "a number that cannot be read, or lies outside what the field can hold",
    "bad-output": "an output with a broken %field",
    "bad-priority": "a priority that Falco does not have",
    "bad-regex": "a regular expression that RE2 does not accept",
    "bad-value": "a value that is not one of the few allowed",
    "cannot-read": "a file that cannot be read",
    "condition-syntax": "a condition that cannot be read",
    "deprecated": "a way of writing that Falco has given up (warning)",
    "duplicate-exception": "two exceptions of one name in a rule (warning)",
    "duplicate-key": "a key written twice in one map: the first counts (warning)",
    "engine-version": "a version of Falco's engine that is newer than what bpfence knows, or cannot be read",
    "exception-shape": "fields, comps and values of an exception that do not fit together",
    "field-as-text": "a value that looks like a field, and is compared as a text (warning)",
    "field-argument": "an argument that a field does not take, or lacks",
    "limit": "something larger or deeper than bpfence accepts",
    "macro-loop": "a macro that uses itself",
    "missing-key": "a key that is required",
    "never-matches": "a rule that needs a value to be in an empty list (warning)",
    "no-evttype": "a rule that does not narrow the event types (warning)",
    "no-rules": "a file or directory that holds nothing (warning)",
    "not-enforceable": "a rule with bpfence: {action: deny} that the kernel cannot decide",
    "not-read": "a file of a directory that is no rule file (information)",
    "not-supported": "something that is accepted and has no effect (information)",
    "not-utf8": "a file in another encoding",
    "operator-type": "an operator that a field's type does not have",
    "override-key": "a key that override does not list, or cannot change",
    "plugin-required": "a plugin that the file asks for (information, warning where bpfence has no equivalent)",
    "transformer": "a transformer that cannot be applied so",
    "unknown-argument": "an argument that no event has (warning)",
    "unknown-event": "an event type that does not exist",
    "unknown-field": "a field that does not exist",
    "unknown-filter": "a rule left out because of skip-if-unknown-filter (warning)",
    "unknown-key": "a key that does not exist (warning)",
    "unknown-macro": "a macro that is not defined, or only later",
    "unknown-source": "a rule of a source that bpfence does not have: left out (warning)",
    "unused": "a list or macro that nothing uses (information)",
    "wrong-type": "a list where a text is needed, and the like",
    "yaml-limit": "a file too large or too deep",
    "yaml-syntax": "a file that is not YAML",
}
"""Every diagnostic code of the Falco dialect, and what it means."""

_TRUE: Final = frozenset(["y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"])
_FALSE: Final = frozenset(["n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"])
_LIST_NAME: Final = re.compile(r"[^()\"'=, \t\n\r\f\v]+")
_MACRO_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")

APPENDABLE: Final = ("condition", "output", "desc", "tags", "exceptions")
REPLACEABLE: Final = (
    "condition", "output", "desc", "priority", "tags", "exceptions", "enabled", "warn_evttypes", "skip-if-unknown-filter", "capture",
    "capture_duration",
)  # fmt: skip
_RULE_KEYS: Final = ("rule", *REPLACEABLE, "source", "append", "override", "bpfence")
_KEYS: Final = {
    "list": ("list", "items", "append", "override"),
    "macro": ("macro", "condition", "append", "override"),
    "rule": _RULE_KEYS,
    "required_engine_version": ("required_engine_version",),
    "required_plugin_versions": ("required_plugin_versions",),
}
_EXCEPTION_KEYS: Final = ("name", "fields", "comps", "values")
_ACTIONS: Final = ("audit", "deny", "kill")


@dataclass(slots=True)
class ListEntry:
    """`- list:`."""

    name: str
    place: YamlNode
    items: tuple[YamlNode, ...]
    append: bool = False


@dataclass(slots=True)
class MacroEntry:
    """`- macro:`."""

    name: str
    place: YamlNode
    condition: YamlNode
    append: bool = False


@dataclass(slots=True)
class ExceptionEntry:
    """One exception of a rule. None: not written."""

    name: str
    place: YamlNode
    fields: YamlNode | None
    comps: YamlNode | None
    values: tuple[YamlNode, ...] | None


@dataclass(slots=True)
class Enforcement:
    """`bpfence:` of a rule: what the kernel does. `errno` is the positive number."""

    action: str
    errno: int
    place: YamlNode


@dataclass(slots=True)
class RuleEntry:
    """`- rule:`. `kind` says what it does to a rule of that name; None: not written.

    "define" replaces, "append" and "override" change by key (`appended`, `replaced`), "enable" switches, "enforce" only adds `bpfence:`.
    """

    name: str
    place: YamlNode
    kind: Literal["define", "append", "override", "enable", "enforce"] = "define"
    condition: YamlNode | None = None
    output: YamlNode | None = None
    desc: str | None = None
    priority: str | None = None
    tags: tuple[str, ...] | None = None
    source: YamlNode | None = None
    enabled: bool | None = None
    warn_evttypes: bool | None = None
    skip_if_unknown_filter: bool | None = None
    exceptions: tuple[ExceptionEntry, ...] | None = None
    enforcement: Enforcement | None = None
    appended: frozenset[str] = frozenset()
    replaced: frozenset[str] = frozenset()
    nodes: dict[str, YamlNode] = field(default_factory=dict)


@dataclass(slots=True)
class EngineEntry:
    """`- required_engine_version:`; (major, minor, patch)."""

    version: tuple[int, int, int]
    place: YamlNode


@dataclass(slots=True)
class PluginEntry:
    """One of `- required_plugin_versions:`, with its alternatives: (name, version) each."""

    choices: tuple[tuple[str, str], ...]
    place: YamlNode


@dataclass(slots=True)
class MistakenEntry:
    """A list, macro or rule with a mistake, which was reported. What changes or uses it is not reported as wrong because of that."""

    kind: str
    name: str


Entry = Union[ListEntry, MacroEntry, RuleEntry, EngineEntry, PluginEntry, MistakenEntry]

SEVERITY_OF: Final = {
    "Emergency": "critical", "Alert": "critical", "Critical": "critical", "Error": "high", "Warning": "medium", "Notice": "low",
    "Informational": "info", "Debug": "info",
}  # fmt: skip
"""bpfence's severity for a priority of Falco."""


def priority(text: str) -> str | None:
    """A priority in Falco's spelling; None where it is not one."""
    low = text.lower()
    low = "informational" if low == "info" else low
    return next((name for name in PRIORITIES if name.lower() == low), None)


MAX_MISTAKES: Final = 200
"""After so many mistakes the rest of a load is not looked at: finding the place of each, and a word that is near it, takes time."""


def entries(root: YamlNode, report: Report) -> Iterator[Entry]:
    """The entries of one YAML document, in order; mistakes go to the report."""
    if root.kind != "list":
        hint = "a rule file is a list: every entry begins with '- rule:', '- macro:' or '- list:'"
        report.add(root, "wrong-type", "a Falco rule file must be a list of entries", hint)
        return
    for item in root.items:
        if report.errors >= MAX_MISTAKES:
            return
        if item.kind == "scalar" and item.empty:
            continue
        if item.kind != "map":
            report.add(item, "wrong-type", "an entry must be a map", "write '- rule: NAME' and its keys below")
            continue
        yield from _Reader(report, item).entry()


class _Reader:
    """Reads one entry."""

    def __init__(self, report: Report, node: YamlNode) -> None:
        self.report = report
        self.node = node
        self.keys: dict[str, YamlNode] = {}

    def entry(self) -> Iterator[Entry]:
        self.keys, places = self.pairs(self.node)
        kind = next(
            (kind for kind in ("required_engine_version", "required_plugin_versions", "list", "macro", "rule") if kind in self.keys), None
        )
        if kind is None:
            key = self.node.pairs[0][0] if self.node.pairs else self.node
            hint = suggest(key.text if key.kind == "scalar" else "", _KEYS, "an entry is a rule, macro, list or requirement")
            self.report.add(key, "unknown-key", "unknown kind of entry: it is left out", hint, "warning")
            return
        for text, place in places.items():
            if text not in _KEYS[kind]:
                hint = suggest(text, _KEYS[kind], f"keys of a {kind}: " + ", ".join(_KEYS[kind]))
                self.report.add(place, "unknown-key", f"a {kind} has no key {quoted(text)}: it is ignored", hint, "warning")
        errors = self.report.errors
        made = list(getattr(self, f"read_{kind}")())
        if self.report.errors == errors:
            yield from made
        elif self.keys[kind].kind == "scalar":
            yield MistakenEntry(kind, self.keys[kind].text)

    def pairs(self, node: YamlNode) -> tuple[dict[str, YamlNode], dict[str, YamlNode]]:
        """Values and places of a map's keys; of a key written twice the first counts, as in Falco."""
        values: dict[str, YamlNode] = {}
        places: dict[str, YamlNode] = {}
        for key, value in node.pairs:
            if key.kind != "scalar":
                self.report.add(key, "wrong-type", "a key must be a plain word", "quote the value if a list or map was not meant")
            elif key.text in values:
                first = places[key.text].location
                what = f"{quoted(key.text)} was already given on line {first.line}, which counts"
                self.report.add(key, "duplicate-key", what, "remove one", "warning")
            else:
                values[key.text], places[key.text] = value, key
        return values, places

    # ---- scalars and lists ----

    def text(self, node: YamlNode, what: str) -> str | None:
        if node.kind != "scalar":
            given = "a map" if node.kind == "map" else "a list"
            self.report.add(node, "wrong-type", f"{what} must be one text, not {given}", "quote it if it begins with '[' or '{'")
            return None
        if node.empty or not node.text.strip():
            self.report.add(node, "wrong-type", f"{what} is empty", "write a value")
            return None
        return node.text

    def required(self, key: str, what: str) -> YamlNode | None:
        """The node of a required text."""
        node = self.keys.get(key)
        if node is None:
            self.report.add(self.node, "missing-key", f"{what} needs {key!r}", f"add {key}: ...")
            return None
        return None if self.text(node, key) is None else node

    def source(self) -> YamlNode | None:
        """An event source; an empty one counts as if it had not been written."""
        node = self.keys.get("source")
        return None if node is not None and node.kind == "scalar" and not node.text.strip() else self.optional("source")

    def optional(self, key: str) -> YamlNode | None:
        node = self.keys.get(key)
        return None if node is None or self.text(node, key) is None else node

    def switch(self, key: str) -> bool | None:
        node = self.keys.get(key)
        text = None if node is None else self.text(node, key)
        if node is None or text is None:
            return None
        if text not in _TRUE | _FALSE:
            self.report.add(node, "bad-value", f"{key} cannot be {quoted(text)}", "write true or false")
            return None
        return text in _TRUE

    def sequence(self, node: YamlNode, what: str) -> tuple[YamlNode, ...] | None:
        """A list of texts; nothing written counts as an empty one."""
        if node.kind == "scalar" and node.empty:
            return ()
        if node.kind != "list":
            self.report.add(node, "wrong-type", f"{what} must be a list", "write [a, b], or '- a' lines below")
            return None
        good = []
        for item in node.items:
            if item.kind != "scalar":
                self.report.add(item, "wrong-type", f"{what} may hold texts only", "quote the value if it begins with '[' or '{'")
            else:
                good.append(item)
        return tuple(good)

    # ---- kinds of entries ----

    def read_required_engine_version(self) -> Iterator[Entry]:
        node = self.keys["required_engine_version"]
        text = self.text(node, "required_engine_version")
        if text is None:
            return
        numbers = re.fullmatch(r"(\d{1,6})(?:\.(\d{1,6})\.(\d{1,6}))?", text)
        if numbers is None:
            self.report.add(
                node, "engine-version", f"{quoted(text)} is no version of Falco's engine", "write 0.57.0, or an old plain number"
            )
            return
        first, second, third = numbers.groups()
        yield EngineEntry((0, int(first), 0) if second is None else (int(first), int(second), int(third)), node)

    def read_required_plugin_versions(self) -> Iterator[Entry]:
        node = self.keys["required_plugin_versions"]
        if node.kind != "list":
            self.report.add(node, "wrong-type", "required_plugin_versions must be a list", "write '- name: NAME' and 'version: X' below")
            return
        for item in node.items:
            choices = self.plugin(item)
            if choices:
                yield PluginEntry(tuple(choices), item)

    def plugin(self, node: YamlNode, nested: bool = False) -> list[tuple[str, str]]:
        if node.kind != "map":
            self.report.add(node, "wrong-type", "a required plugin must be a map", "write name: and version:")
            return []
        values, _ = self.pairs(node)
        texts: dict[str, str] = {}
        for key in ("name", "version"):
            if key not in values:
                self.report.add(node, "missing-key", f"a required plugin needs {key!r}", f"add {key}: ...")
                return []
            text = self.text(values[key], key)
            if text is None:
                return []
            texts[key] = text
        choices = [(texts["name"], texts["version"])]
        others = values.get("alternatives")
        if others is not None and not nested:
            if others.kind != "list":
                self.report.add(others, "wrong-type", "alternatives must be a list", "write '- name: NAME' and 'version: X' below")
                return []
            for item in others.items:
                choices += self.plugin(item, nested=True)
        return choices

    def read_list(self) -> Iterator[Entry]:
        name = self.required("list", "a list")
        if name is None:
            return
        if not _LIST_NAME.fullmatch(name.text):
            hint = "no blanks, quotes, '=', ',' or parentheses"
            self.report.add(name, "bad-name", f"a list named {quoted(name.text)} cannot be used anywhere", hint, "warning")
        node = self.keys.get("items")
        if node is None:
            self.report.add(self.node, "missing-key", "a list needs 'items'", "add items: [...]")
            return
        items = self.sequence(node, "items")
        append = self.append(("items",))
        if items is not None and append is not None:
            yield ListEntry(name.text, name, items, append)

    def read_macro(self) -> Iterator[Entry]:
        name = self.required("macro", "a macro")
        condition = self.required("condition", "a macro")
        if name is None or condition is None:
            return
        if not _MACRO_NAME.fullmatch(name.text):
            what = f"a macro named {quoted(name.text)} cannot be used anywhere"
            self.report.add(name, "bad-name", what, "letters, digits and '_', a letter first", "warning")
        append = self.append(("condition",))
        if append is not None:
            yield MacroEntry(name.text, name, condition, append)

    def append(self, keys: tuple[str, ...]) -> bool | None:
        """Whether a list or macro is appended to; None where that is contradictory."""
        flag = self.switch("append")
        if "append" in self.keys and flag is None:
            return None
        if flag:
            self.old_append()
        appended, replaced = self.overrides(keys, keys)
        if flag and (appended or replaced):
            self.report.add(self.keys["append"], "override-key", "append and override exclude each other", "keep override")
            return None
        return bool(flag or appended)

    def old_append(self) -> None:
        hint = "write override: {condition: append} (or the key that is meant)"
        self.report.add(self.keys["append"], "deprecated", "append: true is deprecated in Falco", hint, "warning")

    def overrides(self, appendable: Iterable[str], replaceable: Iterable[str]) -> tuple[frozenset[str], frozenset[str]]:
        """The keys under `override:`, by what is done to them."""
        node = self.keys.get("override")
        if node is None:
            return frozenset(), frozenset()
        if node.kind != "map":
            self.report.add(node, "wrong-type", "override must be a map", "write override: {condition: append}")
            return frozenset(), frozenset()
        values, places = self.pairs(node)
        appended: set[str] = set()
        replaced: set[str] = set()
        for key, value in values.items():
            what = value.text if value.kind == "scalar" else ""
            allowed = [word for word, known in (("append", appendable), ("replace", replaceable)) if key in known]
            if not allowed:
                hint = suggest(
                    key, (*appendable, *replaceable), "keys that can be: " + ", ".join(dict.fromkeys((*appendable, *replaceable)))
                )
                self.report.add(places[key], "override-key", f"{quoted(key)} cannot be overridden", hint)
            elif what not in allowed:
                self.report.add(value, "override-key", f"override of {key} cannot be {quoted(what)}", "write " + " or ".join(allowed))
            elif key not in self.keys:
                hint = f"add {key}: with what to {what}"
                self.report.add(places[key], "override-key", f"override says to {what} {key}, but {key} is not given", hint)
            else:
                (appended if what == "append" else replaced).add(key)
        return frozenset(appended), frozenset(replaced)

    def read_rule(self) -> Iterator[Entry]:
        name = self.required("rule", "a rule")
        if name is None:
            return
        entry = RuleEntry(name.text, name, nodes=dict(self.keys))
        appending = self.switch("append")
        errors = self.report.errors
        entry.appended, entry.replaced = self.overrides(APPENDABLE, REPLACEABLE)
        listed = self.report.errors == errors
        self.kind(entry, appending)
        self.values(entry)
        if "override" in self.keys and listed:
            self.check_listed(entry)
        if entry.kind == "define":
            self.check_complete(entry)
        yield entry

    def kind(self, entry: RuleEntry, appending: bool | None) -> None:
        if appending:
            self.old_append()
            if "override" in self.keys:
                self.report.add(self.keys["append"], "override-key", "append and override exclude each other", "keep override")
            entry.kind = "append"
            entry.appended = frozenset(key for key in ("condition", "exceptions") if key in self.keys)
            if not entry.appended:
                self.report.add(self.node, "missing-key", "an appended rule needs 'condition' or 'exceptions'", "add what to append")
        elif "override" in self.keys:
            entry.kind = "override"
        elif not any(key in self.keys for key in ("condition", "output", "desc", "priority")):
            if "enabled" in self.keys:
                entry.kind = "enable"
                hint = "write override: {enabled: replace} beside it"
                self.report.add(
                    self.keys["enabled"], "deprecated", "switching a rule by enabled: alone is deprecated in Falco", hint, "warning"
                )
            elif "bpfence" in self.keys:
                entry.kind = "enforce"

    def values(self, entry: RuleEntry) -> None:
        """The values of all keys that are there."""
        entry.condition = self.optional("condition")
        entry.output = self.optional("output")
        desc, source = self.optional("desc"), self.source()
        entry.desc = None if desc is None else desc.text.strip()
        entry.source = source
        entry.enabled = self.switch("enabled")
        entry.warn_evttypes = self.switch("warn_evttypes")
        entry.skip_if_unknown_filter = self.switch("skip-if-unknown-filter")
        given = self.optional("priority")
        if given is not None:
            entry.priority = priority(given.text.strip())
            if entry.priority is None:
                hint = suggest(given.text, PRIORITIES, "one of: " + ", ".join(PRIORITIES))
                self.report.add(given, "bad-priority", f"{quoted(given.text)} is no priority", hint)
        if "tags" in self.keys:
            tags = self.sequence(self.keys["tags"], "tags")
            entry.tags = None if tags is None else tuple(tag.text for tag in tags)
        if "exceptions" in self.keys:
            entry.exceptions = self.exceptions(self.keys["exceptions"])
        if "bpfence" in self.keys:
            entry.enforcement = self.enforcement(self.keys["bpfence"])
        duration = self.optional("capture_duration")
        if duration is not None and not re.fullmatch(r"[0-9]{1,9}", duration.text.strip()):
            self.report.add(duration, "bad-value", f"capture_duration cannot be {quoted(duration.text)}", "write a number of milliseconds")
        if self.switch("capture"):
            self.report.add(self.keys["capture"], "not-supported", "capture has no effect: bpfence records no system calls", "", "info")

    def check_listed(self, entry: RuleEntry) -> None:
        listed = entry.appended | entry.replaced
        for key in dict.fromkeys((*APPENDABLE, *REPLACEABLE)):
            if key in self.keys and key not in listed and not self.named_in_override(key):
                what = f"{key} is given, but override does not say what to do with it"
                self.report.add(self.keys[key], "override-key", what, f"add {key}: append or {key}: replace under override")

    def named_in_override(self, key: str) -> bool:
        """Whether a mistake about this key was reported already."""
        node = self.keys["override"]
        return node.kind != "map" or any(k.kind == "scalar" and k.text == key for k, _ in node.pairs)

    def check_complete(self, entry: RuleEntry) -> None:
        missing = [key for key in ("condition", "output", "desc", "priority") if key not in self.keys]
        if missing:
            hint = "add " + ", ".join(f"{key}: ..." for key in missing) + "; to change an earlier rule, list the keys under override"
            self.report.add(self.node, "missing-key", f"rule {quoted(entry.name)} needs " + " and ".join(map(repr, missing)), hint)

    def exceptions(self, node: YamlNode) -> tuple[ExceptionEntry, ...] | None:
        if node.kind == "scalar" and node.empty:
            return ()
        if node.kind != "list":
            self.report.add(node, "wrong-type", "exceptions must be a list", "write '- name: NAME' and its keys below")
            return None
        made: list[ExceptionEntry] = []
        taken: set[str] = set()
        for item in node.items:
            if item.kind != "map":
                self.report.add(item, "wrong-type", "an exception must be a map", "write name:, fields:, comps: and values:")
                continue
            exception = self.exception(item)
            if exception is None:
                continue
            if exception.name in taken:
                what = f"two exceptions are named {quoted(exception.name)}: both hold, and values are appended to the first"
                self.report.add(item, "duplicate-exception", what, "give one another name, or join their values", "warning")
            made.append(exception)
            taken.add(exception.name)
        return tuple(made)

    def exception(self, node: YamlNode) -> ExceptionEntry | None:
        values, places = self.pairs(node)
        for key, place in places.items():
            if key not in _EXCEPTION_KEYS:
                hint = suggest(key, _EXCEPTION_KEYS, "keys: " + ", ".join(_EXCEPTION_KEYS))
                self.report.add(place, "unknown-key", f"an exception has no key {quoted(key)}: it is ignored", hint, "warning")
        if "name" not in values:
            self.report.add(node, "missing-key", "an exception needs 'name'", "add name: ...")
            return None
        name = self.text(values["name"], "name")
        if name is None:
            return None
        given = values.get("values")
        if given is not None and given.kind == "scalar" and given.empty:
            given = None
        if given is not None and given.kind != "list":
            self.report.add(given, "exception-shape", "values must be a list", "write '- VALUE' or '- [VALUE, VALUE]' lines below")
            return None
        return ExceptionEntry(name, node, values.get("fields"), values.get("comps"), None if given is None else tuple(given.items))

    def enforcement(self, node: YamlNode) -> Enforcement | None:
        if node.kind != "map":
            self.report.add(node, "wrong-type", "bpfence must be a map", "write bpfence: {action: deny}")
            return None
        values, places = self.pairs(node)
        for key, place in places.items():
            if key not in ("action", "errno"):
                self.report.add(place, "unknown-key", f"bpfence has no key {quoted(key)}: it is ignored", "keys: action, errno", "warning")
        if "action" not in values:
            self.report.add(node, "missing-key", "bpfence needs 'action'", "write action: deny, kill or audit")
            return None
        action = self.text(values["action"], "action")
        if action is None:
            return None
        if action not in _ACTIONS:
            self.report.add(values["action"], "bad-value", f"action cannot be {quoted(action)}", "write deny, kill or audit")
            return None
        number = errno_module.EPERM
        if "errno" in values:
            text = self.text(values["errno"], "errno")
            if text is None:
                return None
            known = names.number("errno", text)
            if known is None:
                self.report.add(values["errno"], "bad-value", "errno must be the name of an error", "EPERM, EACCES, ENOENT and so on")
                return None
            number = known
        return Enforcement(action, number, node)
