# SPDX-License-Identifier: Apache-2.0
"""The entries of rule files in order in, final rules out: overrides applied, lists and macros put in, fields and operands looked up.

Called by `load_files` of this package. As in Falco: the last definition of a name wins and keeps the first one's position; a macro sees the
macros defined before its last definition, a rule sees all; lists are put in as text, macros as trees. Every node of a final condition
knows where it was written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, Union

from bpfence.dialects.falco.read import checks, events, fields, language, output
from bpfence.dialects.falco.read.checks import Applied, CheckError, Comparison, FieldGetter, Getter, interval
from bpfence.dialects.falco.read.document import (
    MAX_MISTAKES,
    Enforcement,
    EngineEntry,
    Entry,
    ExceptionEntry,
    ListEntry,
    MacroEntry,
    MistakenEntry,
    PluginEntry,
    RuleEntry,
)
from bpfence.dialects.falco.read.language import AndNode, Check, MacroRef, NotNode, OrNode, Spot
from bpfence.dialects.falco.read.traced import Traced, quote_item, substitute
from bpfence.documents.report import Report, TextError
from bpfence.documents.yaml_nodes import YamlNode
from bpfence.errors import Location
from bpfence.words import quoted, suggest

ENGINE: Final = (0, 63, 0)
"""The version of Falco's engine that has this rule language."""

SOURCES: Final = ("syscall",)
BUILT_IN_PLUGINS: Final = ("container", "k8smeta")
MAX_LIST: Final = 200_000
MAX_TREE: Final = 100_000
MAX_DEPTH: Final = 200
MANY_TYPES: Final = 100
MAX_JOINED: Final = 64
MAX_WEIGHT: Final = 600_000
"""How large all conditions of a load may be with their lists put in: a test weighs TEST, a value 1. Falco's stable rules weigh 2,745."""
MAX_WRITTEN: Final = 16 << 20
"""How many characters all conditions of a load may have with their lists and exceptions put in."""
TEST: Final = 8
INFO: Final = output.INFO
MAX_NEAR: Final = 10
"""For how many unknown names of a load a near one is looked for."""
MAX_RULE_MISTAKES: Final = 20
LONG: Final = 64 << 10  # in a longer condition it takes time to find a place, so fewer mistakes are reported

Tree = Union[Comparison, NotNode, AndNode, OrNode]
_FIELD: Final = re.compile(r"%?[a-z]+(?:\.[a-z0-9_]+)+(?:\[[^\[\]]*\])?")


@dataclass(slots=True)
class FalcoRule:
    """One final rule. `condition` has Comparisons for leaves; `types` are the event types it can be true for."""

    name: str
    desc: str
    condition: Any
    output: output.Template
    output_text: str
    priority: str
    tags: tuple[str, ...]
    source: str
    enabled: bool
    types: frozenset[str]
    location: Location
    enforcement: Enforcement | None = None


@dataclass(slots=True)
class _List:
    name: str
    index: int
    visible: int
    place: YamlNode
    items: list[YamlNode]


@dataclass(slots=True)
class _Macro:
    name: str
    index: int
    visible: int
    place: YamlNode
    conditions: list[YamlNode]
    syntax: Any = None  # its own tree, without other macros put in; None where it cannot be read
    expanded: Any = None


@dataclass(slots=True)
class _Exception:
    name: str
    place: YamlNode
    fields: YamlNode
    comps: YamlNode | None
    values: list[YamlNode]


@dataclass(slots=True)
class _Rule:
    name: str
    index: int
    place: YamlNode
    conditions: list[YamlNode]
    outputs: list[YamlNode]
    desc: list[str]
    priority: str
    tags: dict[str, None]
    source: str
    enabled: bool
    warn_evttypes: bool
    skip_unknown: bool
    exceptions: dict[str, _Exception]
    enforcement: Enforcement | None
    broken: bool = False


@dataclass(slots=True)
class LoadedRules:
    """The result of a load: all rules in Falco's order, enabled or not."""

    rules: list[FalcoRule] = field(default_factory=list)
    lists: int = 0
    macros: int = 0


class Collector:
    """Takes the entries of all files in order; `finish` makes rules of them."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.lists: dict[str, _List] = {}
        self.macros: dict[str, _Macro] = {}
        self.rules: dict[str, _Rule] = {}
        self.mistaken: set[tuple[str, str]] = set()
        self.count = 0
        self.nears = 0

    def near(self, word: str, known: Iterable[str], otherwise: str) -> str:
        """`suggest` among names of the files. That takes time where they are many and alike, so it is not done for all."""
        self.nears += 1
        return suggest(word, known, otherwise) if self.nears <= MAX_NEAR else otherwise

    def take(self, entry: Entry) -> None:
        """One entry."""
        self.count += 1
        if self.report.errors >= MAX_MISTAKES:
            return
        match entry:
            case ListEntry():
                self._list(entry)
            case MacroEntry():
                self._macro(entry)
            case RuleEntry():
                self._rule(entry)
            case EngineEntry():
                self._engine(entry)
            case PluginEntry():
                self._plugin(entry)
            case MistakenEntry():
                self.mistaken.add((entry.kind, entry.name))

    def _engine(self, entry: EngineEntry) -> None:
        if entry.version > ENGINE:
            wanted, known = (".".join(map(str, version)) for version in (entry.version, ENGINE))
            what = f"the file needs version {wanted} of Falco's engine; bpfence speaks {known}"
            self.report.add(entry.place, "engine-version", what, "lower it if the file uses nothing newer")

    def _plugin(self, entry: PluginEntry) -> None:
        named = ", ".join(f"{name} {version}" for name, version in entry.choices)
        if any(name in BUILT_IN_PLUGINS for name, _ in entry.choices):
            self.report.add(entry.place, "plugin-required", f"plugin {named}: its fields are built in", "", "info")
        else:
            hint = "rules of its event source are left out"
            self.report.add(entry.place, "plugin-required", f"plugin {named}: bpfence has no such event source", hint, "warning")

    def _list(self, entry: ListEntry) -> None:
        known = self.lists.get(entry.name)
        if entry.append:
            if known is None:
                self._unknown(entry.place, "list", entry.name, self.lists)
                return
            known.items.extend(entry.items)
            known.visible = self.count
        else:
            index = self.count if known is None else known.index
            self.lists[entry.name] = _List(entry.name, index, self.count, entry.place, list(entry.items))

    def _macro(self, entry: MacroEntry) -> None:
        known = self.macros.get(entry.name)
        if entry.append:
            if known is None:
                self._unknown(entry.place, "macro", entry.name, self.macros)
                return
            known.conditions.append(entry.condition)
            known.visible = self.count
        else:
            index = self.count if known is None else known.index
            self.macros[entry.name] = _Macro(entry.name, index, self.count, entry.place, [entry.condition])

    def _unknown(self, place: YamlNode, kind: str, name: str, known: Iterable[str]) -> None:
        if (kind, name) in self.mistaken:
            return
        what = f"there is no {kind} {quoted(name)} before this one to change"
        self.report.add(place, "append-unknown", what, self.near(name, known, "files are read in order: put this one after its definition"))

    # ---- rules ----

    def _rule(self, entry: RuleEntry) -> None:
        known = self.rules.get(entry.name)
        if entry.kind == "define":
            self._define(entry, known)
            return
        if known is None:
            self._unknown(entry.place, "rule", entry.name, self.rules)
            return
        if entry.source is not None and entry.source.text != known.source:
            what = f"rule {quoted(entry.name)} is of source {known.source}: what changes it cannot be of another"
            self.report.add(entry.source, "bad-value", what, "remove source, or write the same")
            return
        if entry.enforcement is not None:
            known.enforcement = entry.enforcement
        if entry.kind == "enable":
            known.enabled = bool(entry.enabled)
        self._append(entry, known)
        self._replace(entry, known)

    def _define(self, entry: RuleEntry, known: _Rule | None) -> None:
        assert entry.condition is not None
        assert entry.output is not None
        source = "syscall" if entry.source is None else entry.source.text
        if known is not None and known.source != source:
            what = f"rule {quoted(entry.name)} was defined with source {known.source}"
            self.report.add(entry.source or entry.place, "bad-value", what, "give it another name")
            return
        if source not in SOURCES:
            place = entry.source or entry.place
            self.report.add(place, "unknown-source", f"unknown source {quoted(source)}: the rule is left out", "", "warning")
        rule = _Rule(
            name=entry.name,
            index=self.count if known is None else known.index,
            place=entry.place,
            conditions=[entry.condition],
            outputs=[entry.output],
            desc=[entry.desc or ""],
            priority=entry.priority or "Debug",
            tags=dict.fromkeys(entry.tags or ()),
            source=source,
            enabled=entry.enabled is not False,
            warn_evttypes=entry.warn_evttypes is not False,
            skip_unknown=bool(entry.skip_if_unknown_filter),
            exceptions={},
            enforcement=entry.enforcement,
        )
        self.rules[entry.name] = rule
        for exception in entry.exceptions or ():
            self._exception(rule, exception)

    def _append(self, entry: RuleEntry, rule: _Rule) -> None:
        for key in entry.appended:
            if key == "condition" and entry.condition is not None:
                rule.conditions.append(entry.condition)
            elif key == "output" and entry.output is not None:
                rule.outputs.append(entry.output)
            elif key == "desc" and entry.desc is not None:
                rule.desc.append(entry.desc)
            elif key == "tags":
                rule.tags |= dict.fromkeys(entry.tags or ())
            elif key == "exceptions":
                for exception in entry.exceptions or ():
                    self._append_exception(rule, exception)

    def _replace(self, entry: RuleEntry, rule: _Rule) -> None:
        for key in entry.replaced:
            if key == "condition" and entry.condition is not None:
                rule.conditions = [entry.condition]
            elif key == "output" and entry.output is not None:
                rule.outputs = [entry.output]
            elif key == "desc":
                rule.desc = [entry.desc or ""]
            elif key == "priority" and entry.priority is not None:
                rule.priority = entry.priority
            elif key == "tags":
                rule.tags = dict.fromkeys(entry.tags or ())
            elif key == "enabled":
                rule.enabled = bool(entry.enabled)
            elif key == "warn_evttypes":
                rule.warn_evttypes = bool(entry.warn_evttypes)
            elif key == "skip-if-unknown-filter":
                rule.skip_unknown = bool(entry.skip_if_unknown_filter)
            elif key == "exceptions":
                rule.exceptions = {}
                for exception in entry.exceptions or ():
                    self._exception(rule, exception)

    # ---- exceptions ----

    def _append_exception(self, rule: _Rule, entry: ExceptionEntry) -> None:
        known = rule.exceptions.get(entry.name)
        if known is None:
            if entry.values is None:
                self.report.add(
                    entry.place, "exception-shape", f"the new exception {quoted(entry.name)} needs 'values'", "add values: [...]"
                )
                return
            self._exception(rule, entry)
        elif entry.fields is not None or entry.comps is not None:
            place = entry.fields or entry.comps
            assert place is not None
            what = f"exception {quoted(entry.name)} has fields and comps already: only values can be appended"
            self.report.add(place, "exception-shape", what, "remove it, or give the exception another name")
        else:
            self._values(entry.values or (), known)

    def _exception(self, rule: _Rule, entry: ExceptionEntry) -> None:
        fields = entry.fields
        if fields is None or fields.kind == "map" or (fields.kind == "scalar" and fields.empty):
            self.report.add(
                fields or entry.place,
                "exception-shape",
                "an exception needs 'fields': a field or a list of fields",
                "add fields: [proc.name]",
            )
            return
        if fields.kind == "list" and any(item.kind != "scalar" for item in fields.items):
            self.report.add(fields, "exception-shape", "fields may hold field names only", "write fields: [proc.name, fd.name]")
            return
        made = _Exception(entry.name, entry.place, fields, entry.comps, [])
        if self._comps(made) and self._values(entry.values or (), made):
            key = made.name
            while key in rule.exceptions:
                key += "\0"  # this character is in no name; `append` changes the first exception of a name
            rule.exceptions[key] = made

    def _comps(self, exception: _Exception) -> bool:
        fields, comps = exception.fields, exception.comps
        if comps is None:
            return True
        problem = ""
        if fields.kind == "scalar":
            if comps.kind != "scalar":
                problem = "fields is one field, so comps must be one operator"
            elif not _is_list_operator(comps.text):
                problem = "with one field, comps must be in, pmatch, intersects, or an operator with anyof, allof or oneof"
        elif comps.kind != "list" or len(comps.items) != len(fields.items):
            problem = f"comps must be a list of {len(fields.items)} operators, one for each field"
        else:
            bad = [item for item in comps.items if item.kind != "scalar" or not _is_operator(item.text)]
            if bad:
                hint = "operators: " + " ".join(language.OPERATORS)
                self.report.add(bad[0], "exception-shape", f"{quoted(bad[0].text)} is no operator", hint)
                return False
        if problem:
            self.report.add(comps, "exception-shape", problem, "see docs/falco.md")
        return not problem

    def _values(self, values: Iterable[YamlNode], exception: _Exception) -> bool:
        fields = exception.fields
        for value in values:
            problem = ""
            if fields.kind == "scalar":
                if value.kind != "scalar":
                    problem = "fields is one field, so every value must be a text"
            elif value.kind != "list" or len(value.items) != len(fields.items):
                problem = f"every value must be a list of {len(fields.items)}, one for each field"
            elif any(item.kind == "map" or any(i.kind != "scalar" for i in item.items) for item in value.items):
                problem = "values hold texts and lists of texts only"
            if problem:
                self.report.add(value, "exception-shape", problem, "see docs/falco.md")
                return False
            exception.values.append(value)
        return True

    def finish(self) -> LoadedRules:
        """The final rules in order. No entry can be taken afterwards."""
        return _Resolver(self).run()


def _is_field(text: str) -> bool:
    """Whether a text is the name of a field, with or without an argument."""
    name, _, argument = text.removesuffix("]").partition("[")
    named = fields.lookup(name, argument or None)
    return named is not None and not fields.argument_problem(named)


def _is_operator(text: str) -> bool:
    word, _, modifier = text.partition(" ")
    word = "=" if word == "==" else word
    return word in language.OPERATORS if not modifier else word in language.TEXT_OPERATORS and modifier.strip() in language.MODIFIERS


def _is_list_operator(text: str) -> bool:
    return text in language.LIST_OPERATORS or (" " in text and _is_operator(text))


class _BrokenError(Exception):
    """A rule that cannot be made. Either the report has what is wrong already, or it is `mistakes`, or the trees are `too_deep`."""

    def __init__(self, mistakes: list[CheckError] | None = None, *, too_deep: bool = False) -> None:
        self.mistakes = mistakes or []
        self.too_deep = too_deep
        super().__init__()


class _Resolver:
    """The second half of a load: from entries to final rules."""

    def __init__(self, collector: Collector) -> None:
        self.report = collector.report
        self.collector = collector
        self.macros = collector.macros
        self.lists: dict[str, str] = {}
        self.used_lists: set[str] = set()
        self.used_macros: set[str] = set()
        self.level = 0
        self.longest = 0  # the longest text read so far
        self.written = 0
        self.weight = 0
        self.tests: dict[int, Comparison | CheckError] = {}
        self.told: set[int] = set()
        self.trees: dict[int, Tree] = {}
        self.type_sets: dict[int, tuple[int, int]] = {}
        self.sizes: dict[int, tuple[int, int]] = {}
        self.kept: list[object] = []  # The maps above and `told` have ids as keys: the objects must stay alive.

    def run(self) -> LoadedRules:
        self.expand_lists()
        for macro in self.in_order(self.macros):
            macro.syntax = None if self.tired() else self.parse(macro, self.joined)
        for macro in self.in_order(self.macros):
            if not self.tired():
                self.expand_macro(macro, [])
        loaded = LoadedRules(lists=len(self.lists), macros=len(self.macros))
        for rule in self.in_order(self.collector.rules):
            made = None if rule.source not in SOURCES or self.tired() else self.rule(rule)
            if made is not None:
                loaded.rules.append(made)
        if self.full():
            return loaded
        if self.tired():
            what = f"more than {MAX_MISTAKES} mistakes: what comes after them is not looked at"
            self.report.add(self.report.diagnostics[-1].location, "limit", what, "correct these first")
        elif not self.report.errors:  # what a rule with a mistake would have used is not known
            self.tell_unused()
        return loaded

    def tired(self) -> bool:
        """Whether to stop: there are so many mistakes that more would not help, or the conditions are too large already."""
        return self.report.errors >= MAX_MISTAKES or self.full()

    def full(self) -> bool:
        return self.weight > MAX_WEIGHT or self.written > MAX_WRITTEN

    def in_order(self, named: dict[str, Any]) -> list[Any]:
        return sorted(named.values(), key=lambda item: item.index)

    def tell_unused(self) -> None:
        for kind, named, used in (("list", self.collector.lists, self.used_lists), ("macro", self.macros, self.used_macros)):
            for name in named.keys() - used:
                self.report.add(named[name].place, "unused", f"nothing uses {kind} {quoted(name)}", "", "info")

    # ---- lists ----

    def expand_lists(self) -> None:
        total = 0
        expanded: dict[str, list[str]] = {}
        for item in self.in_order(self.collector.lists):
            values = self.list_items(item, expanded, {item.name})
            total += len(values)
            if total > MAX_LIST:
                self.report.add(
                    item.place, "limit", f"the lists hold more than {MAX_LIST} items, lists inside lists counted", "use smaller lists"
                )
                expanded[item.name] = []
                break
            expanded[item.name] = values
        self.lists = {name: ", ".join(quote_item(value) for value in values) for name, values in expanded.items()}

    def list_items(self, item: _List, expanded: dict[str, list[str]], inside: set[str]) -> list[str]:
        """The items of a list, with lists defined before it put in. (Falco puts in one level: a list in a list in a list stays a name.)"""
        values: list[str] = []
        for node in item.items:
            inner = self.collector.lists.get(node.text)
            if inner is None or inner.index >= item.visible or inner.name in inside:
                values.append(node.text)
                continue
            self.used_lists.add(inner.name)
            inner_items = expanded.get(inner.name)
            if inner_items is None:
                inner_items = self.list_items(inner, expanded, inside | {inner.name}) if len(inside) < language.MAX_NESTING else []
            values += inner_items
            if len(values) > MAX_LIST:
                break
        return values

    # ---- conditions ----

    def joined(self, item: _Macro | _Rule) -> Traced:
        """A condition and what was appended to it."""
        made = Traced()
        for n, node in enumerate(item.conditions):
            if n:
                made.add(" ", node, fixed=True)
            made.add(node.text, node)
        return made

    def excepted(self, rule: _Rule) -> Traced:
        """A condition with its exceptions."""
        return _with_exceptions(self.joined(rule), rule) if rule.exceptions else self.joined(rule)

    def parse(self, item: Any, write: Callable[[Any], Traced]) -> language.ConditionNode | None:
        """The tree of a condition after its lists were put in; None where it has a mistake, which is reported."""
        traced: Traced | None = None
        try:
            traced = write(item)
            self.written += len(traced.text)
            traced = substitute(traced, self.lists, self.used_lists)
            self.written += len(traced.text)
            self.longest = max(self.longest, len(traced.text))
            tree = language.parse(traced.text, traced)
        except TextError as error:
            place = item.place.location if traced is None else traced.place(error.offset)
            self.report.add(place, error.code, error.message, error.hint)
            return None
        self.weight += _weight(tree)
        if self.full():
            what = "the conditions grow too large when their lists and exceptions are put in: what comes after this one is not looked at"
            self.report.add(item.place, "limit", what, "use smaller lists, or use them in fewer places")
            return None
        return tree

    def expand_macro(self, macro: _Macro, path: list[str]) -> Any:
        """A macro's tree with the macros that it may see put in; None where it has a mistake."""
        if macro.expanded is not None or macro.syntax is None:
            return macro.expanded
        try:
            macro.expanded = self.measured(self.expand(macro.syntax, macro.visible, [*path, macro.name]))
        except _BrokenError as broken:
            macro.syntax = None
            if broken.too_deep:
                self.too_deep(macro.place)
        return macro.expanded

    def measured(self, expanded: Any) -> Any:
        """The tree itself, if it is not too deep. Its parts were measured before, so this needs few stack frames."""
        self.kept.append(expanded)
        if _measure(expanded, self.sizes)[1] > MAX_DEPTH:
            raise _BrokenError(too_deep=True)
        return expanded

    def too_deep(self, place: YamlNode) -> None:
        what = f"the condition has more than {MAX_DEPTH} levels when its macros are put in"
        self.report.add(place, "limit", what, "use fewer macros inside macros, and fewer parentheses")

    def expand(self, node: Any, visible: int | None, path: list[str]) -> Any:
        """A tree with macros put in. Shared parts stay shared. It needs one stack frame a level, which MAX_DEPTH bounds."""
        if isinstance(node, MacroRef):
            return self.macro(node, visible, path)
        if isinstance(node, Check):
            return node
        self.level += 1
        try:
            if self.level > MAX_DEPTH:
                raise _BrokenError(too_deep=True)
            if isinstance(node, NotNode):
                return NotNode(self.expand(node.part, visible, path))
            parts = []
            for part in node.parts:
                parts.append(self.expand(part, visible, path))  # noqa: PERF401  # a comprehension costs a stack frame a level
            return type(node)(tuple(parts))
        finally:
            self.level -= 1

    def macro(self, ref: MacroRef, visible: int | None, path: list[str]) -> Any:
        macro = self.macros.get(ref.name)
        if macro is None and ("macro", ref.name) in self.collector.mistaken:
            raise _BrokenError
        if macro is None or (visible is not None and macro.index >= visible):
            hint = self.collector.near(ref.name, self.macros, "a test is FIELD OPERATOR VALUE; field names hold a dot")
            if macro is not None:
                hint = f"it is defined on line {macro.place.location.line} of {macro.place.location.file}: move it before this one"
            self.report.add(place_of(ref.spot), "unknown-macro", f"undefined macro {quoted(ref.name)}", hint)
            raise _BrokenError
        self.used_macros.add(ref.name)
        if ref.name in path:
            self.report.add(
                place_of(ref.spot),
                "macro-loop",
                f"macro {quoted(ref.name)} uses itself: {' → '.join([*path, ref.name])}",
                "break the circle",
            )
            raise _BrokenError
        if len(path) > language.MAX_NESTING:
            self.report.add(place_of(ref.spot), "limit", f"macros nest deeper than {language.MAX_NESTING}", "join some of them")
            raise _BrokenError
        tree = self.expand_macro(macro, path)
        if tree is None:
            raise _BrokenError
        return tree

    # ---- rules ----

    def rule(self, rule: _Rule) -> FalcoRule | None:
        try:
            condition = self.condition(rule)
        except _BrokenError as broken:
            if broken.too_deep:
                self.too_deep(rule.place)
            self.tell(rule, broken.mistakes)
            return None
        made = self.template(rule)
        if made is None:
            return None
        template, text = made
        types = _named(_types(condition, self.type_sets)[0])
        if rule.warn_evttypes and len(types) > MANY_TYPES:
            what = f"rule {quoted(rule.name)} does not say which event types it is for: it is tried on every event"
            self.report.add(rule.place, "no-evttype", what, "add evt.type in (...) to its condition, or warn_evttypes: false", "warning")
        if not types and (test := _of_nothing(condition)) is not None:
            what = f"rule {quoted(rule.name)} matches nothing: the list that is looked in here is empty"
            self.report.add(place_of(test.spot), "never-matches", what, "put something in the list, or leave the test out", "warning")
        return FalcoRule(
            name=rule.name,
            desc=" ".join(rule.desc),
            condition=condition,
            output=template,
            output_text=text,
            priority=rule.priority,
            tags=tuple(sorted(rule.tags)),
            source=rule.source,
            enabled=rule.enabled,
            types=types,
            location=rule.place.location,
            enforcement=rule.enforcement,
        )

    def tell(self, rule: _Rule, mistakes: list[CheckError]) -> None:
        """Report mistakes in a rule's tests, each once, however many rules share it. Where the rule asks for it, report only that it is
        left out."""
        if mistakes and rule.skip_unknown and all(mistake.code in ("unknown-field", "unknown-event") for mistake in mistakes):
            what = f"rule {quoted(rule.name)} is left out: {mistakes[0].message}"
            self.report.add(place_of(mistakes[0].spot), "unknown-filter", what, mistakes[0].hint, "warning")
            return
        for mistake in mistakes:
            if id(mistake) not in self.told:
                self.told.add(id(mistake))
                self.report.add(place_of(mistake.spot), mistake.code, mistake.message, mistake.hint)

    def condition(self, rule: _Rule) -> Tree:
        syntax = self.parse(rule, self.excepted)
        if syntax is None:
            raise _BrokenError
        expanded = self.measured(self.expand(syntax, None, []))
        size, _ = _measure(expanded, self.sizes)
        if size > MAX_TREE:
            what = (
                f"the condition grows to {size:,} tests when its macros are put in"
                if size < 10**9
                else "the condition becomes too large when its macros are put in"
            )
            self.report.add(rule.place, "limit", what, f"at most {MAX_TREE:,}: use fewer macros inside macros")
            raise _BrokenError
        mistakes: list[CheckError] = []
        made = self.typed(expanded, mistakes)
        if mistakes:
            raise _BrokenError(mistakes)
        assert made is not None
        return made

    def typed(self, node: Any, mistakes: list[CheckError]) -> Tree | None:
        """The tree with Comparisons for leaves, in which `and` inside `and`, and `or` inside `or`, are joined."""
        known = self.trees.get(id(node))
        if known is not None:
            return known
        if len(mistakes) >= (MAX_RULE_MISTAKES if self.longest <= LONG else 3):
            return None
        made: Tree | None
        if isinstance(node, Check):
            made = self.test(node, mistakes)
        elif isinstance(node, NotNode):
            part = self.typed(node.part, mistakes)
            made = None if part is None else NotNode(part)  # type: ignore[arg-type]  # the same shape over other leaves
        else:
            parts: list[Any] = []
            for part in node.parts:
                inner = self.typed(part, mistakes)
                # A wide macro that many rules use stays one shared node.
                parts += inner.parts if isinstance(inner, type(node)) and len(inner.parts) <= MAX_JOINED else [inner]
            made = None if None in parts else type(node)(tuple(parts))
        if made is not None:
            self.kept.append(node)
            self.trees[id(node)] = made
        return made

    def test(self, check: Check, mistakes: list[CheckError]) -> Comparison | None:
        outcome = self.tests.get(id(check))
        if outcome is None:
            self.kept.append(check)
            try:
                outcome = checks.resolve_check(check)
                self.advise(outcome)
            except CheckError as error:
                outcome = error
            self.tests[id(check)] = outcome
        if isinstance(outcome, CheckError):
            mistakes.append(outcome)
            return None
        return outcome

    def advise(self, test: Comparison) -> None:
        """Report what a test may mean other than its author meant."""
        for getter in (test.left, test.right):
            self.about_field(getter, place_of(test.spot))
        right = test.check.right
        words = right.items if isinstance(right, language.Words) else (right,) if isinstance(right, language.Word) else ()
        for word in words if test.left.type in checks.TEXTS else ():
            if _FIELD.fullmatch(word.text) and _is_field(word.text.removeprefix("%")):
                what = f"{quoted(word.text)} is compared as this text, not as the field of that name"
                hint = f"write val({word.text.removeprefix('%')}) on the right of a test if the field is meant"
                self.report.add(place_of(word.spot), "field-as-text", what, hint, "warning")

    def about_field(self, getter: Getter | None, place: Location) -> None:
        """Report fields that are deprecated, and arguments that no event has."""
        stack: list[Getter | str | tuple[str, ...] | None] = [getter]
        while stack:
            item = stack.pop()
            if isinstance(item, Applied):
                stack.extend(item.arguments)
            elif isinstance(item, FieldGetter) and item.use.field.deprecated:
                field = item.use.field
                self.report.add(place, "deprecated", f"{field.name} is deprecated in Falco", field.deprecated, "warning")
            elif isinstance(item, FieldGetter) and item.use.field.name in ("evt.arg", "evt.rawarg"):
                name = item.use.argument or ""
                if not name.isdigit() and name not in events.ARGUMENT_TYPES:
                    what = f"no event has an argument {quoted(name)}: every test on it is false"
                    hint = self.collector.near(name, events.ARGUMENT_TYPES, "docs/falco-fields.md lists the arguments of each event")
                    self.report.add(place, "unknown-argument", what, hint, "warning")

    def template(self, rule: _Rule) -> tuple[output.Template, str] | None:
        traced = Traced()
        try:
            for n, node in enumerate(rule.outputs):
                if n:
                    traced.add(" ", node, fixed=True)
                text = node.text.rstrip()
                lead = len(text) - len(text.lstrip())
                traced.add(text[lead:], node, lead)
            text = traced.text
            at = text.find(INFO)
            if at >= 0:
                what = f"{INFO} is deprecated in Falco and taken out: the container's fields go after every output anyway"
                self.report.add(traced.place(at), "deprecated", what, "remove it", "warning")
            made = self.lenient(text)
            for part in made.parts:
                self.about_field(part.getter, rule.outputs[0].location)
            return made, text.replace(INFO, "")
        except TextError as error:
            mistake = CheckError(Spot(traced, error.offset), error.message, error.hint, error.code)
            self.kept.append(mistake)
            self.tell(rule, [mistake])
            return None

    def lenient(self, text: str) -> output.Template:
        """The output with '*' before it, as Falco has it for every rule: it is printed even where values are missing."""
        try:
            return output.parse("*" + text)
        except TextError as error:
            raise TextError(error.message, error.hint, error.code, max(error.offset - 1, 0)) from None


def place_of(spot: Spot) -> Location:
    """Where a node of a final condition was written."""
    return spot.origin.place(spot.offset) if isinstance(spot.origin, Traced) else Location("<none>")


def _measure(node: Any, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """How many tests a tree has (shared ones counted as often as they occur), and how many levels."""
    if isinstance(node, Check):
        return 1, 1
    measure = known.get(id(node))
    if measure is None:
        size = depth = 0
        for part in (node.part,) if isinstance(node, NotNode) else node.parts:
            more, deeper = _measure(part, known)
            size, depth = size + more, max(depth, deeper)
        measure = known[id(node)] = size, depth + 1
    return measure


def _weight(tree: language.ConditionNode) -> int:
    """What a tree weighs, by its tests and values."""
    return sum(TEST + (len(check.right.items) if isinstance(check.right, language.Words) else 1) for check in language.checks(tree))


def _with_exceptions(condition: Traced, rule: _Rule) -> Traced:
    """The condition and, for every exception that has values, `and not (...)`."""
    made = Traced().add("(", rule.place, fixed=True).extend(condition).add(")", rule.place, fixed=True)
    for exception in rule.exceptions.values():
        if not exception.values:
            continue
        place = exception.place
        made.add(" and not ((", place, fixed=True)
        if exception.fields.kind == "scalar":
            made.add(exception.fields.text, exception.fields)
            made.add(f" {exception.comps.text if exception.comps is not None else 'in'} (", exception.comps or place, fixed=True)
            _items(made, exception.values)
        else:
            for n, value in enumerate(exception.values):
                if n:
                    made.add(") or (", place, fixed=True)
                _conjunction(made, exception, value)
        made.add("))" if exception.fields.kind == "list" else ")))", place, fixed=True)
    return made


def _conjunction(made: Traced, exception: _Exception, value: YamlNode) -> None:
    for k, (field_node, item) in enumerate(zip(exception.fields.items, value.items, strict=True)):
        operator = exception.comps.items[k].text if exception.comps is not None else "="
        made.add(" and " if k else "", item, fixed=True).add(field_node.text, field_node).add(f" {operator} ", field_node, fixed=True)
        if item.kind == "list":
            made.add("(", item, fixed=True)
            _items(made, item.items)
            made.add(")", item, fixed=True)
        elif _is_list_operator(operator):
            parenthesised = item.text.startswith("(")
            made.add("" if parenthesised else "(", item, fixed=True).add(item.text, item).add(
                "" if parenthesised else ")", item, fixed=True
            )
        else:
            made.add(quote_item(item.text), item, fixed=True)


def _items(made: Traced, items: Iterable[YamlNode]) -> None:
    for n, item in enumerate(items):
        made.add(", " if n else "", item, fixed=True).add(quote_item(item.text), item, fixed=True)


_EVERY: Final = frozenset(events.NAMES) | events.OTHERS
# Sets of types are bits: a rule has two for every node of its condition, and there are hundreds of types.
_BITS: Final = {name: 1 << n for n, name in enumerate(sorted(_EVERY))}
_ALL: Final = (1 << len(_BITS)) - 1


def event_types(tree: Tree) -> frozenset[str]:
    """The event types for which a condition can be true, whatever the other fields are."""
    return _named(_types(tree, {})[0])


@lru_cache(maxsize=4096)
def _named(bits: int) -> frozenset[str]:
    return frozenset(name for name, bit in _BITS.items() if bits & bit)


def _types(node: Any, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """For which types a tree may be true, and for which it may be false."""
    types = known.get(id(node))
    if types is None:
        if isinstance(node, Comparison):
            types = _test_types(node)
        elif isinstance(node, NotNode):
            true, false = _types(node.part, known)
            types = false, true
        else:
            both, either = (0, 1) if isinstance(node, AndNode) else (1, 0)
            joined = [_ALL, 0]  # of an And: what all parts may be true for, and what any may be false for; of an Or the other way round
            for part in node.parts:
                pair = _types(part, known)
                joined[0] &= pair[both]
                joined[1] |= pair[either]
            types = joined[both], joined[either]
        known[id(node)] = types
    return types


def _of_nothing(node: Any) -> Comparison | None:
    """A test by an empty list that a tree needs: without it the tree would be another one."""
    if isinstance(node, Comparison):
        return node if _is_empty(node) else None
    if isinstance(node, NotNode):
        return None
    return next((found for part in node.parts if (found := _of_nothing(part)) is not None), None)


def _is_empty(test: Comparison) -> bool:
    """Whether a value is looked for in an empty list: there is none."""
    return test.operator in ("in", "intersects", "pmatch") and not test.values and test.right is None


def _test_types(test: Comparison) -> tuple[int, int]:
    if _is_empty(test):
        return 0, _ALL
    number = decides_number(test)
    if number is not None:
        return (_ALL, 0) if number else (0, _ALL)
    decided = decides_type(test)
    if decided is None:
        return _ALL, _ALL
    bits = sum(_BITS.get(name, 0) for name in decided)
    return bits, _ALL & ~bits


def decides_number(test: Comparison) -> bool | None:
    """Whether a test on evt.num is true of every event, or of none. Events are counted from 1, so `evt.num = 0` is never true."""
    if not isinstance(test.left, FieldGetter) or test.left.use.field.name != "evt.num" or test.right is not None or test.modifier:
        return None
    return interval(test, 1, checks.U64)


def decides_type(test: Comparison) -> frozenset[str] | None:
    """The event types for which a test is true, if it looks at nothing but the type; else None."""
    if not isinstance(test.left, FieldGetter) or test.left.use.field.name != "evt.type" or test.right is not None or test.modifier:
        return None
    named = frozenset(value for value in test.values if isinstance(value, str))
    match test.operator:
        case "=" | "in" | "intersects":
            return named
        case "!=":
            return _EVERY - named
        case "exists":
            return _EVERY
    return None


def show_condition(tree: Tree) -> str:
    """A final condition as text."""
    return language.show(_syntax(tree))


def _syntax(node: Any) -> Any:
    if isinstance(node, Comparison):
        return node.check
    if isinstance(node, NotNode):
        return NotNode(_syntax(node.part))
    parts = []
    for part in node.parts:
        parts.append(_syntax(part))  # noqa: PERF401  # a comprehension costs a stack frame a level
    return type(node)(tuple(parts))
