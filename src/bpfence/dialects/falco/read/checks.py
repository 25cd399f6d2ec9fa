# SPDX-License-Identifier: Apache-2.0
"""A check of the syntax tree in, the same check with its fields looked up and its operands converted out, or the mistake in it.

Called by `resolve` for every check of a rule, so that a rule that loads cannot fail later; read by `rules` (closures) and `lower` (atoms).
The matrix of operators and types is Falco's.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Union

from bpfence.dialects.falco.read import events, patterns
from bpfence.dialects.falco.read.fields import FALCO_FIELD_BY_NAME, NamedField, Type, argument_problem, lookup
from bpfence.dialects.falco.read.language import Check, FieldRef, Mixed, Operand, Spot, TransformerCall, Word, Words
from bpfence.documents.report import TextError
from bpfence.names import number
from bpfence.words import quoted, suggest

U64: Final = 2**64 - 1
I64: Final = 2**63
_PORT_MAX: Final = 0xFFFF

_EQUALITY: Final = frozenset(("=", "!=", "in", "intersects", "exists"))
_ORDER: Final = _EQUALITY | {"<", "<=", ">", ">="}
_TEXT: Final = _ORDER | {"contains", "icontains", "startswith", "endswith", "glob", "iglob", "pmatch", "regex"}
_BYTES: Final = _EQUALITY | {"contains", "startswith", "endswith", "bcontains", "bstartswith"}
_LIST: Final = frozenset(("in", "intersects", "exists"))
OPERATORS_OF: Final = {
    Type.STRING: _TEXT, Type.PATH: _TEXT, Type.INT: _ORDER, Type.UINT: _ORDER, Type.DOUBLE: _ORDER, Type.DURATION: _ORDER,
    Type.TIME: _ORDER, Type.PORT: _ORDER, Type.BOOL: _EQUALITY, Type.IP: _EQUALITY, Type.NET: _EQUALITY, Type.BYTES: _BYTES,
    Type.DYNAMIC: _TEXT,
}  # fmt: skip
"""The operators that each type has."""

TEXTS: Final = (Type.STRING, Type.PATH)
NUMBERS: Final = (Type.INT, Type.UINT, Type.DOUBLE, Type.DURATION, Type.TIME, Type.PORT)
LISTABLE: Final = ("proc.args", "proc.env")  # in conditions one text; inside join and getopt a list
_NUMBER: Final = re.compile(r"[+-]?(?:0[xX][0-9A-Fa-f]+|[0-9]+)")
_HEX: Final = re.compile(r"(?:[0-9A-Fa-f]{2})+")


class Network(NamedTuple):
    """An address range: `address & mask == base`, both as integers."""

    version: int
    base: int
    mask: int


@dataclass(frozen=True, slots=True)
class FieldGetter:
    """A field to be taken from an event. `elements`: as the list that its text is made of."""

    use: NamedField
    elements: bool = False

    @property
    def type(self) -> Type:
        """The type of its values. For evt.rawarg it is that of the argument, by its name."""
        field, argument = self.use.field, self.use.argument
        return events.ARGUMENT_TYPES.get(argument or "", Type.DYNAMIC) if field.name == "evt.rawarg" else field.type

    @property
    def many(self) -> str:
        """How a tuple of values is tested."""
        return "list" if self.elements else self.use.many


@dataclass(frozen=True, slots=True)
class Applied:
    """A transformer that is applied to values. A tuple among the arguments is a list that was written out."""

    function: str
    arguments: tuple[FieldGetter | Applied | str | tuple[str, ...], ...]
    selector: str | None
    type: Type
    many: str


_NONE: Final = Check(FieldRef("evt.num"), "exists")

Getter = Union[FieldGetter, Applied]
LiteralValue = Union[str, int, float, bool, bytes, Network]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One comparison, ready: `values` are converted to the left side's type; `right` is set where the right side is computed."""

    left: Getter
    operator: str
    values: tuple[LiteralValue, ...] = ()
    right: Getter | None = None
    modifier: str = ""
    check: Check = field(default=_NONE, compare=False, repr=False)

    @property
    def spot(self) -> Spot:
        """Where it was written."""
        return self.check.spot


class CheckError(Exception):
    """A check that cannot be evaluated, and where in it the mistake is."""

    def __init__(self, spot: Spot, message: str, hint: str = "", code: str = "bad-value") -> None:
        self.spot = spot
        self.message = message
        self.hint = hint
        self.code = code
        super().__init__(message)


def resolve_check(check: Check) -> Comparison:
    """The check with its fields looked up and its operands converted; CheckError on the first mistake."""
    left = getter(check.left)
    _check_operator(check, left)
    right = check.right
    if right is None:
        return Comparison(left, check.operator, check=check)
    if isinstance(right, TransformerCall):
        computed = getter(right)
        for side in (left, computed):
            if isinstance(side, FieldGetter) and (side.many in ("sides", "ancestors") or side.type is Type.NET):
                what = f"{side.use.spelled} stands for several values, or for networks: it cannot be compared with a field"
                raise CheckError(right.spot, what, "compare one side, such as fd.sip or fd.cport, or proc.aname[2]", "wrong-type")
        if not _comparable(left.type, computed.type):
            what = f"type {left.type.value} cannot be compared with type {computed.type.value}"
            raise CheckError(right.spot, what, "compare fields of one type", "wrong-type")
        if check.operator in ("regex", "glob", "iglob", "pmatch"):
            raise CheckError(right.spot, f"the pattern of {check.operator} cannot be computed", "write it out", "wrong-type")
        return Comparison(left, check.operator, (), computed, check=check)
    words = right.items if isinstance(right, Words) else (right,)
    values = tuple(_convert(left, check.operator, word) for word in words)
    return Comparison(left, check.operator, values, None, check.modifier, check)


# ---- the left side ----


def getter(node: Operand) -> Getter:
    """What a field or transformer takes from an event."""
    if isinstance(node, FieldRef):
        return FieldGetter(use(node))
    assert isinstance(node, TransformerCall)
    return _APPLY[node.function](node)


def use(node: FieldRef) -> NamedField:
    """The field of a reference; CheckError where there is none, or with a wrong argument."""
    named = lookup(node.name, node.argument)
    if named is None:
        hint = suggest(node.name, FALCO_FIELD_BY_NAME, "bpfence fields lists what there is")
        raise CheckError(node.spot, f"unknown field {quoted(node.name)}", hint, "unknown-field")
    problem = argument_problem(named)
    if problem:
        raise CheckError(node.spot, problem, f"{named.field.name}: argument {named.field.argument.value}", "field-argument")
    return named


def _text_call(node: TransformerCall) -> Applied:
    written = _written(node)
    if written is not None:
        return Applied(node.function, (written,), None, Type.STRING, "list")
    inner = _single(node, (*TEXTS, Type.BYTES) if node.function == "b64" else TEXTS)
    return Applied(node.function, (inner,), None, inner.type, inner.many)


def _len(node: TransformerCall) -> Applied:
    _arity(node, 1)
    written = _written(node)
    if written is not None:
        return Applied("len", (written,), None, Type.UINT, "")
    inner = _single(node, tuple(Type))
    if not inner.many == "list" and inner.type not in (*TEXTS, Type.BYTES):
        raise _unfit(node, inner)
    return Applied("len", (inner,), None, Type.UINT, "" if inner.many == "list" else inner.many)


def _join(node: TransformerCall) -> Applied:
    _arity(node, 2)
    separator, listed = node.arguments
    if not isinstance(separator, Word):
        raise CheckError(node.spot, "join() begins with the separator", 'write join(", ", fd.types)', "transformer")
    if isinstance(listed, Mixed):
        between = [item for pair in ((separator, item) for item in listed.items) for item in pair][1:]
        return _concatenated(node, between)
    return Applied("join", (separator.text, _listed(node, listed)), None, Type.STRING, "")


def _concat(node: TransformerCall) -> Applied:
    if len(node.arguments) < 2:
        raise CheckError(node.spot, "concat() takes two or more arguments", 'write concat(proc.name, "-", proc.pname)', "transformer")
    return _concatenated(node, node.arguments)


def _concatenated(node: TransformerCall, arguments: Sequence[Operand]) -> Applied:
    made: list[FieldGetter | Applied | str] = []
    for argument in arguments:
        if isinstance(argument, (Words, Mixed)):
            raise CheckError(node.spot, "concat() joins texts, and this is a list", 'write join("", (a, b))', "transformer")
        inner = argument.text if isinstance(argument, Word) else getter(argument)
        if not isinstance(inner, str) and (inner.type not in TEXTS or inner.many):
            raise _unfit(node, inner)
        made.append(inner)
    return Applied("concat", tuple(made), None, Type.STRING, "")


def _getopt(node: TransformerCall) -> Applied:
    _arity(node, 2)
    listed, options = node.arguments
    if not isinstance(options, Word):
        raise CheckError(
            node.spot, "the second argument of getopt() is the text of its options", 'write getopt(proc.args, "e:c:")', "transformer"
        )
    if node.selector is not None and len(node.selector) != 1:
        raise CheckError(node.spot, "[ ] after getopt() names one option character", 'write getopt(proc.args, "e:")[e]', "transformer")
    many = "" if node.selector is not None else "list"
    return Applied("getopt", (_listed(node, listed), options.text), node.selector, Type.STRING, many)


def _val(node: TransformerCall) -> Getter:
    return _single(node, tuple(Type))


_APPLY: Final = {
    "tolower": _text_call, "toupper": _text_call, "basename": _text_call, "b64": _text_call, "len": _len, "join": _join, "concat": _concat,
    "getopt": _getopt, "val": _val,
}  # fmt: skip


def _arity(node: TransformerCall, wanted: int) -> None:
    if node.selector is not None and node.function != "getopt":
        raise CheckError(node.spot, f"{node.function}() takes no [ ] after it", "only getopt() does", "transformer")
    if len(node.arguments) != wanted:
        what = f"{node.function}() takes {wanted} argument{'s' * (wanted > 1)}, not {len(node.arguments)}"
        raise CheckError(node.spot, what, "see docs/falco.md", "transformer")


def _single(node: TransformerCall, types: tuple[Type, ...]) -> Getter:
    _arity(node, 1)
    argument = node.arguments[0]
    if isinstance(argument, (Word, Words, Mixed)):
        raise CheckError(node.spot, f"{node.function}() is applied to a field", f"write {node.function}(proc.name)", "transformer")
    inner = getter(argument)
    if inner.type not in types:
        raise _unfit(node, inner)
    return inner


def _written(node: TransformerCall) -> tuple[str, ...] | None:
    """The only argument, which must be a list that was written out; None where it is not."""
    argument = node.arguments[0]
    return tuple(item.text for item in argument.items) if len(node.arguments) == 1 and isinstance(argument, Words) else None


def _listed(node: TransformerCall, argument: Operand) -> Getter | tuple[str, ...]:
    if isinstance(argument, Words):
        return tuple(item.text for item in argument.items)
    if isinstance(argument, Mixed):
        raise CheckError(argument.spot, f"{node.function}() takes no list of fields", "only join() does", "transformer")
    if isinstance(argument, Word):
        raise CheckError(node.spot, f"{node.function}() is applied to a list field", "such as fd.types or proc.args", "transformer")
    inner = getter(argument)
    if isinstance(inner, FieldGetter) and inner.use.field.name in LISTABLE and inner.use.argument is None:
        return FieldGetter(inner.use, elements=True)
    if inner.many != "list" or inner.type not in TEXTS:
        raise CheckError(node.spot, f"{node.function}() needs a list of texts", "such as fd.types or proc.args", "transformer")
    return inner


def _unfit(node: TransformerCall, inner: Getter) -> CheckError:
    kind = f"a list of type {inner.type.value}" if inner.many == "list" else f"type {inner.type.value}"
    return CheckError(node.spot, f"{node.function}() cannot be applied to {kind}", "see docs/falco.md", "transformer")


def _check_operator(check: Check, left: Getter) -> None:
    name = left.use.spelled if isinstance(left, FieldGetter) else f"{left.function}()"
    if left.many == "list" and check.operator not in _LIST:
        what = f"{check.operator} is not for lists, and {name} is one"
        raise CheckError(check.spot, what, "use in (all of them) or intersects (any)", "operator-type")
    if isinstance(left, FieldGetter) and left.use.field.name == "evt.rawarg" and left.type is Type.NET and check.operator != "exists":
        what = f"{name} is an address or a list of descriptors, which cannot be compared as it is"
        raise CheckError(check.spot, what, "compare its text (evt.arg), or fd.name, fd.sip and the like", "operator-type")
    allowed = OPERATORS_OF[left.type]
    if check.operator not in allowed:
        hint = f"operators of type {left.type.value}: " + " ".join(sorted(allowed))
        raise CheckError(check.spot, f"{check.operator} is not for {name}, which is of type {left.type.value}", hint, "operator-type")


def _comparable(left: Type, right: Type) -> bool:
    return left is right or (left in TEXTS and right in TEXTS) or (left in NUMBERS and right in NUMBERS)


# ---- the right side ----


def _convert(left: Getter, operator: str, word: Word) -> LiteralValue:
    try:
        value = _value(left.type, operator, word.text)
    except TextError as error:
        raise CheckError(word.spot, error.message, error.hint, error.code) from None
    if isinstance(left, FieldGetter) and left.use.field.name in ("evt.type", "syscall.type") and operator in _EQUALITY:
        known = word.text in events.FALCO_EVENT_BY_NAME or word.text in events.KNOWN
        if not known:
            hint = suggest(word.text, (*events.NAMES, *events.KNOWN), "docs/falco-fields.md lists the event types")
            raise CheckError(word.spot, f"unknown event type {quoted(word.text)}", hint, "unknown-event")
    return value


def _value(kind: Type, operator: str, text: str) -> LiteralValue:
    if kind in (*TEXTS, Type.DYNAMIC):
        return _text(operator, text)
    if kind is Type.BYTES:
        return _bytes(operator, text)
    if "\0" in text:
        raise TextError("a NUL byte never occurs here", "remove it")
    if kind is Type.BOOL:
        if text not in ("true", "false"):
            raise TextError(f"{quoted(text)} is neither true nor false", "write true or false")
        return text == "true"
    if kind is Type.IP:
        return parse_address(text)
    if kind is Type.NET:
        return parse_network(text)
    if kind is Type.PORT and not _NUMBER.fullmatch(text):
        return _service(text)
    if kind is Type.DOUBLE:
        return _float(text)
    return _integer(kind, text)


def _text(operator: str, text: str) -> str:
    if "\0" in text:
        raise TextError("a NUL byte never occurs in a text", "only evt.buffer can hold one")
    if operator == "regex":
        patterns.regex(text)
    elif operator in ("glob", "iglob"):
        patterns.glob(text, operator == "iglob")
    elif operator == "pmatch":
        patterns.PathSet([text])
    return text


def _bytes(operator: str, text: str) -> bytes:
    if operator not in ("bcontains", "bstartswith"):
        return text.encode("utf-8", "surrogateescape")
    if not _HEX.fullmatch(text):
        raise TextError(f"{quoted(text)} is not a row of bytes in hexadecimal", "write two digits a byte: CAFE01")
    return bytes.fromhex(text)


def _integer(kind: Type, text: str) -> int:
    if len(text) > 40 or not _NUMBER.fullmatch(text):
        try:
            value = int(float(text)) if len(text) <= 40 and float(text).is_integer() else None
        except (ValueError, OverflowError):
            value = None
        if value is None:
            raise TextError(f"{quoted(text)} is not a number", "write a decimal or 0x hexadecimal number", "bad-number")
    else:
        value = int(text, 16 if "x" in text.lower() else 10)
    low, high = (-I64, I64 - 1) if kind is Type.INT else (0, _PORT_MAX if kind is Type.PORT else U64)
    if not low <= value <= high:
        raise TextError(f"{text} is outside what the field can hold", f"it holds {low} to {high}", "bad-number")
    return value


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise TextError(f"{quoted(text)} is not a number", "write a decimal number", "bad-number") from None


def _service(text: str) -> int:
    known = number("port", text)
    if known is not None:
        return known
    try:
        return socket.getservbyname(text)
    except (OSError, ValueError, UnicodeError):
        raise TextError(f"{quoted(text)} is neither a port nor the name of a service", "write the number", "bad-number") from None


def parse_address(text: str) -> str:
    """An address in its canonical spelling."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        hint = "compare fd.snet, fd.cnet or fd.net with networks" if "/" in text else "write 10.1.2.3 or 2001:db8::1"
        raise TextError(f"{quoted(text)} is not an address", hint, "bad-address") from None


def parse_network(text: str) -> Network:
    """A network. As in Falco, bits beyond its prefix are ignored, and an address is a network of one."""
    try:
        parsed = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise TextError(f"{quoted(text)} is not a network", "write 10.0.0.0/8 or 2001:db8::/32", "bad-address") from None
    return Network(parsed.version, int(parsed.network_address), int(parsed.netmask))


def spans(test: Comparison, low: int, high: int) -> Iterable[tuple[int, int]]:
    """For each value of a test, the numbers of low..high for which it is true, as first and last."""
    for value in test.values:
        assert isinstance(value, (int, float))
        number = int(value)
        match test.operator:
            case "<":
                yield low, number - 1
            case "<=":
                yield low, number
            case ">":
                yield number + 1, high
            case ">=":
                yield number, high
            case _:
                yield number, number


def interval(test: Comparison, low: int, high: int) -> bool | None:
    """Whether a test is true of every number in low..high (True), of none (False), or of some (None)."""
    if test.operator == "exists":
        return True
    inside, outside = False, True
    for first, last in spans(test, -U64, U64):
        if first <= low and high <= last:
            inside = True
        if first <= high and low <= last:
            outside = False
    if test.operator == "!=":
        inside, outside = outside, inside
    return True if inside else False if outside else None
