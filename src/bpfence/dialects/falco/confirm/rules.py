# SPDX-License-Identifier: Apache-2.0
"""Final Falco rules and events in, which rules an event matches and what they say about it, out.

Called by `bpfence test` on recorded events and by the agent on the candidates that the kernel lets through. A condition becomes closures
over an event, once for each event type on which it can be true, with the tests on the type decided: an event meets the rules of its type
only. No text is ever evaluated as code.

The semantics are Falco's. An absent field makes every operator false, != too, so that `not f = x` is true. `in` on a list needs all of
its values, `intersects` any. A field of ancestors is tested on each of them; one of either side of a connection needs one side, and for !=
both. Under strict_paths "kernel" fd.name, fd.directory and fd.filename of conditions are those of the path that the kernel resolved.
"""

from __future__ import annotations

import base64
import binascii
import operator as operators
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, Final, Literal, NamedTuple

import msgspec

from bpfence.alerts.faults import Faults
from bpfence.conditions.values import fold
from bpfence.dialects.falco.confirm.event import (
    ABOUT_ACT,
    ABOUT_PROCESS,
    OPENING,
    WHOLE_RECORD,
    FalcoEvent,
    FieldValue,
    Scalar,
    directory_of,
)
from bpfence.dialects.falco.options import SUGGESTED, PathSource
from bpfence.dialects.falco.read import patterns
from bpfence.dialects.falco.read.checks import Applied, Comparison, FieldGetter, Getter, Network
from bpfence.dialects.falco.read.fields import Type
from bpfence.dialects.falco.read.language import AndNode, NotNode
from bpfence.dialects.falco.read.output import Part, Template, parse
from bpfence.dialects.falco.read.resolve import FalcoRule, decides_number, decides_type
from bpfence.events.values import escape

Closure = Callable[[FalcoEvent], bool]
Take = Callable[[FalcoEvent], "FieldValue | None"]
Judge = Callable[[Any], bool]

MISSING: Final = "<NA>"
_ENCODER: Final = msgspec.json.Encoder()
MAX_TEXT: Final = 64 << 10


class FalcoMatch(NamedTuple):
    """One rule that an event matches, and its text and fields; both as JSON, too, where that was made already. `printable`: all of the
    text is known to be."""

    rule: FalcoRule
    output: str
    fields: dict[str, Any]
    output_json: bytes = b""
    fields_json: bytes = b""
    printable: bool = False


class RuleSet:
    """Rules in Falco's order. `matching`: "first" reports the first rule that an event matches, Falco's default, "all" every one.

    `append` goes after every output; a TextError where it is none. Its default is what Falco appends by default.
    No event makes it raise: a rule that cannot be evaluated does not match, a value that cannot be had is missing, and `faults` has it.
    """

    def __init__(
        self,
        rules: Iterable[FalcoRule],
        *,
        matching: Literal["first", "all"] = "first",
        paths: PathSource = "kernel",
        append: str = SUGGESTED,
    ) -> None:
        self.rules = tuple(rules)
        self.appended = parse(f" {append}").parts if append else ()
        self._by_name = {rule.name: rule for rule in self.rules}
        self.matching = matching
        self.paths = paths
        self.faults = Faults()
        self._by_type: dict[str, tuple[tuple[FalcoRule, Closure], ...]] = {}
        self._musts: dict[tuple[str, str], Closure | None] = {}
        self._chosen: dict[tuple[str, frozenset[str]], tuple[tuple[FalcoRule, Closure], ...]] = {}
        self._renderers: dict[int, _Renderer] = {}

    def candidates(self, event_type: str) -> tuple[tuple[FalcoRule, Closure], ...]:
        """The rules that can match events of a type, compiled for it."""
        candidates = self._by_type.get(event_type)
        if candidates is None:
            compiler = _Compiler(event_type, self.paths)
            made = ((rule, self._compiled(compiler, rule)) for rule in self.rules if event_type in rule.types)
            candidates = tuple((rule, closure) for rule, closure in made if closure is not _never)
            if len(self._by_type) < 1024:  # a hostile recording may name any number of types
                self._by_type[event_type] = candidates
        return candidates

    def _candidates_among(self, event_type: str, names: frozenset[str]) -> tuple[tuple[FalcoRule, Closure], ...]:
        """Those of them that have one of these names."""
        chosen = self._chosen.get((event_type, names))
        if chosen is None:
            chosen = tuple(pair for pair in self.candidates(event_type) if pair[0].name in names)
            if len(self._chosen) < 1024:
                self._chosen[event_type, names] = chosen
        return chosen

    def refused_by_process(self, event: FalcoEvent, among: frozenset[str]) -> bool:
        """Whether the process alone decides that none of these rules matches, of an event that none has matched."""
        chosen = self._candidates_among(event.type, among)
        musts = [self._musts.get((event.type, rule.name)) for rule, _ in chosen]
        return all(must is not None and not must(event) for must in musts)

    def _compiled(self, compiler: _Compiler, rule: FalcoRule) -> Closure:
        try:
            part = compiler.compiled(rule.condition)
            if len(self._musts) < 1024 * 16:
                self._musts[compiler.event_type, rule.name] = part.must
            return part.closure
        except Exception as error:
            self.faults.add(rule.name, "its condition cannot be evaluated: it does not match", error)
            return _never

    def rule(self, name: str) -> FalcoRule | None:
        """The rule of a name."""
        return self._by_name.get(name)

    def matching_rules(self, event: FalcoEvent, among: Collection[str] | None = None) -> Iterator[FalcoRule]:
        """The rules that an event matches. `among`: names of the only rules that can match; others are not tested."""
        for rule, holds in self.candidates(event.type) if among is None else self._candidates_among(event.type, frozenset(among)):
            try:
                matches = holds(event)
            except Exception as error:
                self.faults.add(rule.name, f"its condition could not be evaluated on an event {event.type}: it did not match", error)
                continue
            if matches:
                yield rule
                if self.matching == "first":
                    return

    def matches(self, event: FalcoEvent, among: Collection[str] | None = None) -> list[FalcoMatch]:
        """The rules that an event matches, with what they say; see `matching_rules`."""
        return [self.match(rule, event) for rule in self.matching_rules(event, among)]

    def match(self, rule: FalcoRule, event: FalcoEvent) -> FalcoMatch:
        """What a rule says of an event, whether or not it holds."""
        renderer = self._renderer(rule)
        text, fields, text_json, fields_json = renderer.render(event)
        return FalcoMatch(rule, text or "", fields, text_json, fields_json, renderer.printable)

    def written(self, rule: FalcoRule, event: FalcoEvent) -> tuple[bytes, bytes] | None:
        """The output of `match` and its fields, as JSON alone; None where they were not made, or where it may not be printable."""
        renderer = self._renderer(rule)
        return renderer.written(event) if renderer.printable else None

    def _renderer(self, rule: FalcoRule) -> _Renderer:
        renderer = self._renderers.get(id(rule))
        if renderer is None:
            template = rule.output._replace(parts=(*rule.output.parts, *self.appended))
            renderer = self._renderers[id(rule)] = _Renderer(template, rule.name, self.faults)
        return renderer


def holds(condition: Any, event: FalcoEvent, *, paths: PathSource = "kernel") -> bool:
    """Whether one condition is true of an event. For tests and explanations; a RuleSet is faster."""
    return _Compiler(event.type, paths).compile(condition)(event)


def _never(_: FalcoEvent) -> bool:
    return False


def _always(_: FalcoEvent) -> bool:
    return True


class _Part(NamedTuple):
    """A closure, and roughly what it costs. `needs`: it is about nothing but process and act, and what of these it needs; None: it is not.
    `must`: what has to be true where the part is, about nothing but the process.
    """

    closure: Closure
    cost: int
    needs: int | None
    must: Closure | None = None


class _Compiler:
    """Makes closures for one event type."""

    def __init__(self, event_type: str, paths: PathSource) -> None:
        self.event_type = event_type
        self.paths = paths
        self.known: dict[int, _Part] = {}

    def compile(self, condition: Any) -> Closure:
        return self.compiled(condition).closure

    def compiled(self, condition: Any) -> _Part:
        return _remembered(self.node(condition))

    def node(self, node: Any) -> _Part:
        """Cheap parts of `and` and `or` are tested first, as none has a side effect."""
        costed = self.known.get(id(node))
        if costed is None:
            if isinstance(node, Comparison):
                costed = self.test(node)
            elif isinstance(node, NotNode):
                costed = _negated(self.node(node.part))
            else:
                parts = []
                for part in node.parts:
                    parts.append(self.node(part))  # noqa: PERF401  # a comprehension costs a stack frame a level
                costed = _all(parts) if isinstance(node, AndNode) else _any(parts)
            self.known[id(node)] = costed
        return costed

    def test(self, test: Comparison) -> _Part:
        decided = decides_type(test)
        if decided is not None:
            return _Part(_always if self.event_type in decided else _never, 0, 0)
        number = decides_number(test)
        if number is not None:
            return _Part(_always if number else _never, 0, 0)
        needs = _needs_of_all([test.left] if test.right is None else [test.left, test.right])
        if needs is not None and needs & WHOLE_RECORD and self.event_type not in OPENING:
            needs = None
        return _Part(*self.judged(test), needs)

    def judged(self, test: Comparison) -> tuple[Closure, int]:
        take = self.take(test.left)
        many = test.left.many
        if test.operator == "exists":
            return _exists(take), 1
        if test.right is not None:
            return _compared(take, self.take(test.right), test), 3
        judge, cost = _judge(test)
        if many == "list":
            return _listed(take, judge, every=test.operator == "in"), cost + 1
        if many == "ancestors":
            return _listed(take, judge, every=False), cost + 3
        if many == "sides":
            return _listed(take, judge, every=test.operator == "!="), cost + 1
        return _scalar(take, judge, test), cost

    def operand(self, item: Getter | str | tuple[str, ...]) -> Take | str:
        """An argument of a transformer: a function that takes it from an event, or a text as it is."""
        if isinstance(item, tuple):
            return lambda _: item
        return item if isinstance(item, str) else self.take(item)

    def take(self, getter: Getter) -> Take:
        if isinstance(getter, Applied):
            return _applied(getter, [self.operand(item) for item in getter.arguments])
        name, argument = getter.use.field.name, getter.use.argument
        if getter.elements:
            return lambda event: event.elements(name)
        if self.paths == "kernel" and name in _BY_PATH:
            return _BY_PATH[name]
        if argument is None:
            return lambda event: event.get(name)
        if name == "evt.rawarg" and getter.type is not Type.DYNAMIC:
            return _typed_argument(argument, (str,) if getter.type is Type.STRING else (int,))
        return lambda event: event.get(name, argument)


def _typed_argument(argument: str, kinds: tuple[type, ...]) -> Take:
    """evt.rawarg with a name that has one type on every event. A recording, which anybody may have written, may hold another type."""

    def take(event: FalcoEvent) -> FieldValue | None:
        value = event.get("evt.rawarg", argument)
        return value if isinstance(value, kinds) else None

    return take


# ---- boolean structure ----


def _needs(getter: Any) -> int | None:
    """What a value needs of process and act where it is about nothing else; None where it is."""
    if isinstance(getter, Applied):
        return _needs_of_all(getter.arguments)
    if isinstance(getter, FieldGetter):
        name = getter.use.field.name
        return WHOLE_RECORD if name in ABOUT_ACT else ABOUT_PROCESS.get(name)
    return 0


def _needs_of_all(getters: Iterable[Any]) -> int | None:
    return _united(map(_needs, getters))


def _united(all_needs: Iterable[int | None]) -> int | None:
    united = 0
    for needs in all_needs:
        if needs is None:
            return None
        united |= needs
    return united


def _remembered(part: _Part) -> _Part:
    """A part that is about nothing but the process is decided once for it; one that is about process and act, for all records that say the
    same of both."""
    closure, needs, key = part.closure, part.needs, object()
    if needs is None or closure in (_always, _never):
        return part

    def holds_of_act(event: FalcoEvent) -> bool:
        memo = event.act
        if memo is None or event.unsure & needs:
            return closure(event)
        known: bool | None = memo.get(key)
        if known is None:
            known = memo[key] = closure(event)
        return known

    if needs & WHOLE_RECORD:
        return part._replace(closure=holds_of_act)

    def holds_of_process(event: FalcoEvent) -> bool:
        memo = event.memo
        if memo is None or event.unsure & needs:
            return closure(event)
        known: bool | None = memo.get(key)
        if known is None:
            known = memo[key] = closure(event)
        return known

    return _Part(holds_of_process, 0, needs, holds_of_process if needs == 0 else part.must)


def _negated(part: _Part) -> _Part:
    closure = part.closure
    if closure is _always:
        return _Part(_never, 0, 0)
    if closure is _never:
        return _Part(_always, 0, 0)
    return part._replace(closure=lambda event: not closure(event), must=None)


def _all(parts: Sequence[_Part]) -> _Part:
    if any(part.closure is _never for part in parts):
        return _Part(_never, 0, 0)
    return _joined([part for part in parts if part.closure is not _always], _always, _conjunction)


def _any(parts: Sequence[_Part]) -> _Part:
    if any(part.closure is _always for part in parts):
        return _Part(_always, 0, 0)
    return _joined([part for part in parts if part.closure is not _never], _never, _disjunction)


def _joined(parts: list[_Part], nothing: Closure, join: Callable[[tuple[Closure, ...]], Closure]) -> _Part:
    """Parts about nothing but the process are joined apart from the others, those with the same needs."""
    if not parts:
        return _Part(nothing, 0, 0)
    if len(parts) == 1:
        return parts[0]
    if len({part.needs for part in parts}) > 1:
        others = [part for part in parts if part.needs is None or part.needs & WHOLE_RECORD]
        all_needs = {part.needs for part in parts if part.needs is not None and not part.needs & WHOLE_RECORD}
        groups = ([part for part in parts if part.needs == needs] for needs in sorted(all_needs))
        parts = [*(_remembered(_joined(group, nothing, join)) for group in groups), *others]
    ordered = sorted(parts, key=lambda part: part.cost)
    needs = _united(part.needs for part in parts)
    must = next((part.must for part in parts if part.must is not None), None) if join is _conjunction else None
    return _Part(join(tuple(part.closure for part in ordered)), sum(part.cost for part in parts), needs, must)


def _conjunction(parts: tuple[Closure, ...]) -> Closure:
    if len(parts) == 2:
        first, second = parts
        return lambda event: first(event) and second(event)

    def every(event: FalcoEvent) -> bool:
        for part in parts:  # noqa: SIM110  # all() over a generator is slower, and this is the innermost loop
            if not part(event):
                return False
        return True

    return every


def _disjunction(parts: tuple[Closure, ...]) -> Closure:
    if len(parts) == 2:
        first, second = parts
        return lambda event: first(event) or second(event)

    def some(event: FalcoEvent) -> bool:
        for part in parts:  # noqa: SIM110  # see _conjunction
            if part(event):
                return True
        return False

    return some


# ---- tests over values ----


def _exists(take: Take) -> Closure:
    return lambda event: take(event) is not None


def _scalar(take: Take, judge: Judge, test: Comparison) -> Closure:
    if test.operator == "=" and not test.modifier and test.left.type not in (Type.NET, Type.DYNAMIC):
        wanted = test.values[0]
        return lambda event: take(event) == wanted  # None equals no value that can be written

    def holds_of_value(event: FalcoEvent) -> bool:
        value = take(event)
        return value is not None and judge(value)

    return holds_of_value


def _listed(take: Take, judge: Judge, *, every: bool) -> Closure:
    def some(event: FalcoEvent) -> bool:
        values = take(event)
        if not values:
            return False
        if not isinstance(values, tuple):
            return judge(values)
        if every:
            return all(judge(value) for value in values)
        return any(judge(value) for value in values)

    return some


def _judge(test: Comparison) -> tuple[Judge, int]:
    """The function that judges a value, and roughly what it costs."""
    if test.modifier:
        judges = [_one(test.left.type, test.operator, value)[0] for value in test.values]
        return _modified(test.modifier, judges), 2 + 2 * len(judges)
    match test.operator:
        case "in" | "intersects":
            return _member(test.left.type, test.values), 1
        case "pmatch":
            paths = patterns.PathSet(str(value) for value in test.values)
            return (lambda value: isinstance(value, str) and paths(value)) if test.left.type is Type.DYNAMIC else paths, 8
    return _one(test.left.type, test.operator, test.values[0]) if test.values else (lambda _: False, 0)


def _modified(modifier: str, judges: list[Judge]) -> Judge:
    if not judges:
        return lambda _: False
    if modifier == "anyof":
        return lambda value: any(judge(value) for judge in judges)
    if modifier == "allof":
        return lambda value: all(judge(value) for judge in judges)
    return lambda value: sum(judge(value) for judge in judges) == 1


def _member(kind: Type, values: tuple[Any, ...]) -> Judge:
    if kind is Type.NET:
        return lambda value: any(_in_network(value, network) for network in values)
    if kind is Type.DYNAMIC:
        judges = [_dynamic("=", value) for value in values]
        return lambda value: any(judge(value) for judge in judges)
    return frozenset(values).__contains__


def _one(kind: Type, operator: str, wanted: Any) -> tuple[Judge, int]:
    if kind is Type.NET:
        if operator == "!=":
            return (lambda value: not _in_network(value, wanted)), 3
        return (lambda value: _in_network(value, wanted)), 3
    if kind is Type.DYNAMIC:
        return _dynamic(operator, wanted), 3
    if operator in _ORDER and isinstance(wanted, str):
        return _text_order(_ORDER[operator], wanted), 2
    if operator in _COMPARISONS:
        compare = _COMPARISONS[operator]
        return (lambda value: compare(value, wanted)), 1
    return _TEXT[operator](wanted)


_ORDER: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "<": operators.lt, "<=": operators.le, ">": operators.gt, ">=": operators.ge,
}  # fmt: skip
_COMPARISONS: Final[dict[str, Callable[[Any, Any], bool]]] = {"=": operators.eq, "!=": operators.ne, **_ORDER}


def _text_order(compare: Callable[[Any, Any], bool], wanted: str) -> Judge:
    """Texts are compared by their bytes."""
    data = _bytes(wanted)
    return lambda value: compare(_bytes(value), data)


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")


_UPPER: Final = {code: code - 32 for code in range(ord("a"), ord("z") + 1)}


def _contains(wanted: Any) -> tuple[Judge, int]:
    if isinstance(wanted, str) and not wanted.isprintable() and _has_bytes(wanted):
        data = _bytes(wanted)
        return (lambda value: data in _bytes(value)), 4
    return (lambda value: wanted in value), 2


def _has_bytes(text: str) -> bool:
    """Whether a text holds bytes that may be a part of a character. Then bytes are compared."""
    return any(0xDC80 <= ord(char) <= 0xDCFF for char in text)


def _icontains(wanted: Any) -> tuple[Judge, int]:
    needle = fold(wanted)
    return (lambda value: needle in fold(value)), 3


def _startswith(wanted: Any) -> tuple[Judge, int]:
    return (lambda value: value.startswith(wanted)), 1


def _endswith(wanted: Any) -> tuple[Judge, int]:
    return (lambda value: value.endswith(wanted)), 1


_TEXT: Final[dict[str, Callable[[Any], tuple[Judge, int]]]] = {
    "contains": _contains, "icontains": _icontains, "bcontains": _contains, "startswith": _startswith, "bstartswith": _startswith,
    "endswith": _endswith, "glob": lambda wanted: (patterns.glob(wanted), 8), "iglob": lambda wanted: (patterns.glob(wanted, True), 8),
    "regex": lambda wanted: (patterns.regex(wanted), 10),
}  # fmt: skip


def _dynamic(operator: str, wanted: Any) -> Judge:
    """A comparison of a value whose type only the event knows: numbers as numbers, everything else as text."""
    try:
        number = int(str(wanted), 16 if str(wanted).lower().startswith("0x") else 10)
    except ValueError:
        number = None
    text_judge = _TEXT[operator](str(wanted))[0] if operator in _TEXT else None

    def judge(value: Scalar) -> bool:
        if isinstance(value, bool):
            value = "true" if value else "false"
        if isinstance(value, (int, float)):
            return number is not None and operator in _COMPARISONS and _COMPARISONS[operator](value, number)
        text = value if isinstance(value, str) else value.decode("utf-8", "surrogateescape")
        return text_judge(text) if text_judge is not None else operator in _COMPARISONS and _COMPARISONS[operator](text, str(wanted))

    return judge


@lru_cache(maxsize=4096)
def _number(text: str) -> tuple[int, int]:
    """Version and number of an address; version 0 for what is not one."""
    try:
        address = ip_address(text)
    except ValueError:
        return 0, 0
    return address.version, int(address)


def _in_network(value: str, network: Network) -> bool:
    version, number = _number(value)
    return version == network.version and number & network.mask == network.base


def _compared(left: Take, right: Take, test: Comparison) -> Closure:
    """Both sides come from the event, usually with one value each. Any value on the left may match any on the right; for != all must
    differ."""
    compare = _BOTH[test.operator]
    if test.left.type is Type.DYNAMIC:
        compare = _of_one_kind(compare, numbers=test.operator in (*_COMPARISONS, "in", "intersects"))
    every = test.operator == "!="

    def both(event: FalcoEvent) -> bool:
        ours, theirs = left(event), right(event)
        if ours is None or theirs is None:
            return False
        pairs = (compare(a, b) for a in _several(ours) for b in _several(theirs))
        return all(pairs) if every else any(pairs)

    return both


def _of_one_kind(compare: Callable[[Any, Any], bool], *, numbers: bool) -> Callable[[Any, Any], bool]:
    """A comparison of values whose types only the event knows: of two texts, or, if it is one for numbers, of two numbers; else false."""

    def either(left: Scalar, right: Scalar) -> bool:
        texts = isinstance(left, str) and isinstance(right, str)
        return (texts or (numbers and isinstance(left, (int, float)) and isinstance(right, (int, float)))) and compare(left, right)

    return either


def _several(value: FieldValue) -> tuple[Scalar, ...]:
    return value if isinstance(value, tuple) else (value,)


_BOTH: Final[dict[str, Callable[[Any, Any], bool]]] = {
    **_COMPARISONS, "in": operators.eq, "intersects": operators.eq, "contains": operators.contains, "bcontains": operators.contains,
    "icontains": lambda a, b: fold(b) in fold(a), "startswith": lambda a, b: a.startswith(b), "bstartswith": lambda a, b: a.startswith(b),
    "endswith": lambda a, b: a.endswith(b),
}  # fmt: skip


# ---- what the kernel resolved ----


def _kernel_path(event: FalcoEvent) -> FieldValue | None:
    path = event.get("bpfence.path")
    return event.get("fd.name") if path is None else path


def _kernel_directory(event: FalcoEvent) -> FieldValue | None:
    path = event.get("bpfence.path")
    return directory_of(path) if isinstance(path, str) else event.get("fd.directory")


def _kernel_filename(event: FalcoEvent) -> FieldValue | None:
    path = event.get("bpfence.path")
    return path.rpartition("/")[2] if isinstance(path, str) else event.get("fd.filename")


_BY_PATH: Final[dict[str, Take]] = {"fd.name": _kernel_path, "fd.directory": _kernel_directory, "fd.filename": _kernel_filename}


# ---- transformers ----


def _applied(getter: Applied, arguments: list[Any]) -> Take:
    match getter.function:
        case "tolower" | "toupper" | "basename" | "b64":
            return _mapped(arguments[0], _MAPPED[getter.function])
        case "len":
            return _length(arguments[0], getter.arguments[0])
        case "join":
            return _join(arguments[0], arguments[1])
        case "concat":
            return _concat(arguments)
    return _getopt(arguments[0], arguments[1], getter.selector)


def _mapped(take: Take, change: Callable[[Any], Any]) -> Take:
    def mapped(event: FalcoEvent) -> FieldValue | None:
        value = take(event)
        if value is None:
            return None
        if isinstance(value, tuple):
            return tuple(made for made in (change(item) for item in value) if made is not None)
        changed: FieldValue | None = change(value)
        return changed

    return mapped


def _decoded(value: str | bytes) -> str | bytes | None:
    data = _bytes(value).rstrip(b"=")
    try:
        made = base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    return made if isinstance(value, bytes) else made.decode("utf-8", "surrogateescape")


_MAPPED: Final[dict[str, Callable[[Any], Any]]] = {
    "tolower": fold, "toupper": lambda text: text.upper() if text.isascii() else text.translate(_UPPER),
    "basename": lambda text: text.rpartition("/")[2], "b64": _decoded,
}  # fmt: skip


def _length(take: Take, inner: Getter | str | tuple[str, ...]) -> Take:
    listed = isinstance(inner, tuple) or (not isinstance(inner, str) and inner.many == "list")

    def length(event: FalcoEvent) -> FieldValue | None:
        value = take(event)
        if isinstance(value, tuple):
            return len(value) if listed else tuple(len(_bytes(item)) for item in value if isinstance(item, (str, bytes)))
        return len(_bytes(value)) if isinstance(value, (str, bytes)) else None

    return length


def _join(separator: str, take: Take) -> Take:
    def join(event: FalcoEvent) -> FieldValue | None:
        value = take(event)
        return None if value is None else separator.join(str(item) for item in _several(value))

    return join


def _concat(arguments: list[Any]) -> Take:
    def concat(event: FalcoEvent) -> FieldValue | None:
        texts = []
        for argument in arguments:
            value = argument if isinstance(argument, str) else argument(event)
            if not isinstance(value, str):
                return None
            texts.append(value)
        return "".join(texts)

    return concat


def _getopt(take: Take, options: str, selector: str | None) -> Take:
    """Short options of an argument list, as getopt(3) reads them: all of them with their values, or the last value of one."""
    body = options.removeprefix(":")
    valued = {char for n, char in enumerate(body) if body[n + 1 : n + 2] == ":"}
    valid = set(body) - {":"}

    def getopt(event: FalcoEvent) -> FieldValue | None:
        words = take(event)
        if not isinstance(words, tuple):
            return None
        given = list(_options([str(word) for word in words], valid, valued))
        if selector is None:
            return tuple(text for option, value in given for text in ((option,) if value is None else (option, value)))
        chosen = [option if value is None else value for option, value in given if option == selector]
        return chosen[-1] if chosen else None

    return getopt


def _options(words: list[str], valid: set[str], valued: set[str]) -> Iterator[tuple[str, str | None]]:
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word == "--" or len(word) < 2 or word[0] != "-":
            return
        if word.startswith("--"):
            continue
        for n, option in enumerate(word[1:], 1):
            if option not in valid:
                yield "?", None
            elif option not in valued:
                yield option, None
            else:
                value = word[n + 1 :]
                if not value and at < len(words):
                    value = words[at]
                    at += 1
                yield option, value
                break


# ---- output ----


class _Field(NamedTuple):
    """A value of an output. `needs` as in `_Part`."""

    part: Part
    take: Take
    needs: int | None


class Output(NamedTuple):
    """`text`: None where a value is missing and the output does not begin with '*'. `fields`, output_fields: every field by its spelled
    name, null where it is missing. The same as JSON, where there is a text."""

    text: str | None
    fields: dict[str, Any]
    text_json: bytes = b""
    fields_json: bytes = b""


class _Half(NamedTuple):
    """An output in which only what is known of more than one event is filled in; `others` are not. `parts` None: one of it is missing that
    may not be. `text_json`, `fields_json`: pieces of JSON, and between them the `others` by their numbers.
    """

    parts: list[str | _Field] | None
    fields: dict[str, Any]
    others: list[_Field]
    text_json: list[bytes | int]
    fields_json: list[bytes | int]


class _Renderer:
    """One output, ready to be filled in. A value that cannot be had is missing, and `faults` is told.

    What is about nothing but process and act is filled in once for them: what is kept are the texts between the other values, and the
    fields.
    """

    def __init__(self, template: Template, rule: str = "", faults: Faults | None = None) -> None:
        self._compiler = _Compiler("", "text")
        self._lenient = template.lenient
        self._rule = rule
        self._faults = faults
        self._fields: dict[str, _Field] = {}
        self._parts = [part.text if part.getter is None else self._field(part, part.getter) for part in template.parts]
        for part in template.parts:
            for spelled, source in part.inner:
                if spelled not in self._fields:
                    self._field(Part(spelled, source), source)
        self._needs = (_united(field.needs for field in self._fields.values() if field.needs is not None) or 0) & ~WHOLE_RECORD
        self.printable = all(part.text.isprintable() for part in template.parts if part.getter is None)  # values are escaped

    def _field(self, part: Part, getter: Getter) -> _Field:
        made = self._fields[part.text] = _Field(part, self._take(getter, part.text), _needs(getter))
        return made

    def _taken(self, getter: Getter) -> Take:
        """What a field has in an output. Of ancestors it is one text; for their process ids it is, as in Falco, the process's own."""
        take = self._compiler.take(getter)
        if not isinstance(getter, FieldGetter) or getter.many != "ancestors":
            return take
        if getter.type is not Type.STRING and getter.type is not Type.PATH:
            return lambda event: event.get("proc.pid")

        def joined(event: FalcoEvent) -> FieldValue | None:
            value = take(event)
            return " ".join(map(str, value)) if isinstance(value, tuple) else value

        return joined

    def _take(self, getter: Getter, spelled: str) -> Take:
        faults = self._faults
        if faults is None:
            return self._taken(getter)
        what = f"%{spelled} of its output could not be had: it is left out"
        try:
            take = self._taken(getter)
        except Exception as error:
            faults.add(self._rule, what, error)
            return lambda _: None

        def contained(event: FalcoEvent) -> FieldValue | None:
            try:
                return take(event)
            except Exception as error:
                faults.add(self._rule, what, error)
                return None

        return contained

    def render(self, event: FalcoEvent) -> Output:
        """The output of an event."""
        half = self._half(event)
        fields = half.fields.copy()
        texts: dict[str, str | None] = {}
        for field in half.others:
            value = field.take(event)
            texts[field.part.text] = self._text(field.part, value)
            fields[field.part.text] = value_as_json(field.part, value, event)
        if half.parts is None or None in texts.values():
            return Output(None, fields)
        text = "".join([part if isinstance(part, str) else texts[part.part.text] or "" for part in half.parts])
        return Output(text, fields, *(self._written(event, half) or ()))

    def written(self, event: FalcoEvent) -> tuple[bytes, bytes] | None:
        """The text and the fields of `render` as JSON alone; None where there is no text."""
        half = self._half(event)
        return None if half.parts is None else self._written(event, half)

    def _written(self, event: FalcoEvent, half: _Half) -> tuple[bytes, bytes] | None:
        if not half.others:
            return half.text_json[0], half.fields_json[0]  # type: ignore[return-value]
        texts: list[bytes] = []
        fields: list[bytes] = []
        for field in half.others:
            part, value = field.part, field.take(event)
            if isinstance(value, str) and not part.width and part.text not in _AS_NUMBER:
                quoted, inner = _quoted(value)
                texts.append(inner)
                fields.append(quoted)  # what it is in the one it is in the other
                continue
            text = self._text(part, value)
            if text is None:
                return None
            texts.append(_in_quotes(text))
            fields.append(_ENCODER.encode(value_as_json(part, value, event)))
        return (
            b"".join([piece if isinstance(piece, bytes) else texts[piece] for piece in half.text_json]),
            b"".join([piece if isinstance(piece, bytes) else fields[piece] for piece in half.fields_json]),
        )

    def _half(self, event: FalcoEvent) -> _Half:
        """What is known of the act, where its record has come before; else what is known of the process."""
        memo, of_act = event.act, True
        if memo is None or event.unsure & self._needs:
            memo, of_act = event.memo, False
            if memo is None or event.unsure & self._needs:
                return self._filled(event, False)
        known: _Half | None = memo.get(self)
        if known is None:
            known = memo[self] = self._filled(event, of_act)
        return known

    def _filled(self, event: FalcoEvent, of_act: bool) -> _Half:
        """What is about the process filled in, and what is about the act, if asked for."""
        known = {
            name: field for name, field in self._fields.items() if field.needs is not None and (of_act or not field.needs & WHOLE_RECORD)
        }
        others = [field for name, field in self._fields.items() if name not in known]
        number = {field.part.text: n for n, field in enumerate(others)}
        values = {name: field.take(event) for name, field in known.items()}
        fields = {name: value_as_json(field.part, values.get(name), event) for name, field in self._fields.items()}
        parts = [
            self._text(part.part, values[part.part.text]) if isinstance(part, _Field) and part.part.text in known else part
            for part in self._parts
        ]
        whole = None if None in parts else _merged(part for part in parts if part is not None)
        text: list[bytes | int] = [_in_quotes(part) if isinstance(part, str) else number[part.part.text] for part in whole or ()]
        json: list[bytes | int] = [b"{"]
        for name in self._fields:
            json.append((b"," if len(json) > 1 else b"") + _ENCODER.encode(name) + b":")
            json.append(number[name] if name in number else _ENCODER.encode(fields[name]))
        return _Half(whole, fields, others, _joined_bytes([b'"', *text, b'"']), _joined_bytes([*json, b"}"]))

    def _text(self, part: Part, value: FieldValue | None) -> str | None:
        if value is None and not self._lenient:
            return None
        text = MISSING if value is None else value_as_text(value)
        return text[: part.width].ljust(part.width) if part.width else text


def _merged(parts: Iterable[str | _Field]) -> list[str | _Field]:
    """The same parts with as few texts as possible."""
    merged: list[str | _Field] = []
    for part in parts:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] += part
        else:
            merged.append(part)
    return merged


def _joined_bytes(parts: Iterable[bytes | int]) -> list[bytes | int]:
    joined: list[bytes | int] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(part, bytes) and isinstance(last, bytes):
            joined[-1] = last + part
        else:
            joined.append(part)
    return joined


@lru_cache(maxsize=256)
def _quoted(value: str) -> tuple[bytes, bytes]:
    """A text as JSON, and the same without its quotes."""
    quoted = _ENCODER.encode(value_as_text(value))
    return quoted, quoted[1:-1]


def _in_quotes(text: str) -> bytes:
    return _ENCODER.encode(text)[1:-1]


def render(template: Template, event: FalcoEvent) -> str | None:
    """An output filled in; None where a value is missing and the output does not begin with '*'."""
    return _Renderer(template).render(event).text


def value_as_text(value: FieldValue) -> str:
    """A value as Falco's text form shows it, escaped."""
    if isinstance(value, tuple):
        return "(" + ",".join(value_as_text(item) for item in value) + ")"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = escape(value) if isinstance(value, (str, bytes)) else str(value)
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"


_AS_NUMBER: Final = frozenset(("evt.outputtime", "evt.time", "evt.time.s", "evt.time.iso8601", "evt.datetime", "evt.datetime.s"))


def value_as_json(part: Part, value: FieldValue | None, event: FalcoEvent) -> Any:
    """A value as output_fields has it: numbers and booleans as such, times as ns since 1970."""
    if part.text in _AS_NUMBER:
        return event.time
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, tuple):
        return [value_as_json(part, item, event) for item in value]
    return value_as_text(value)
