# SPDX-License-Identifier: Apache-2.0
"""A condition in, its text in the language of native policies out.

Called by what writes native policies, and by `explain`, which shows what the kernel decides of a rule in any language.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from bpfence import names
from bpfence.conditions.values import U64, named_field
from bpfence.fields import KERNEL_FIELDS, Kind
from bpfence.policy import COMPARISONS, And, Atom, Condition, Label, Not, Op, Or, Selector

_WORDS: Final = {
    Op.PREFIX: "startswith", Op.SUFFIX: "endswith", Op.CONTAINS: "contains", Op.EQUALS: "=", Op.CIDR: "=", Op.GLOB: "glob",
    Op.STRGLOB: "glob",
    Op.ICONTAINS: "icontains",
    Op.OBJECT: "follows",  # only for showing: no condition is written this way
    Op.SAME: "=", Op.DIFFERENT: "!=", Op.LESS: "<", Op.BEGINS: "startswith", Op.ENDS: "endswith",
}  # fmt: skip
_BARE: Final = re.compile(r"[\w./:@%+-]+")
_MODIFIERS: Final = ("oneof", "anyof", "allof")
"""Words that would mean something else before a parenthesis."""
_NAMED: Final = {"\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\", '"': '\\"'}


def quote(text: str) -> str:
    """A text in double quotes, as conditions are read: bytes that are no UTF-8 and control characters escaped."""
    out = []
    for char in text:
        code = ord(char)
        if char in _NAMED:
            out.append(_NAMED[char])
        elif 0xDC80 <= code <= 0xDCFF:
            out.append(f"\\x{code - 0xDC00:02x}")
        elif code < 0x20 or code == 0x7F:
            out.append(f"\\x{code:02x}")
        else:
            out.append(char)
    return '"' + "".join(out) + '"'


def condition_text(condition: Condition) -> str:
    """A condition of native policies; `always` and `never` for the constants."""
    return _text(condition, 0)


def _text(condition: Condition, level: int) -> str:
    """`level`: 0 stands alone, 1 inside `or`, 2 inside `and`, 3 behind `not`."""
    match condition:
        case Atom():
            text, own = _atom(condition)
        case Not(part):
            text, own = f"not {_text(part, 3)}", 3
        case And(()):
            text, own = "always", 3
        case Or(()):
            text, own = "never", 3
        case And(parts):
            text, own = " and ".join(_text(part, 2) for part in parts), 1
        case Or(parts):
            text, own = _alternatives(parts)
    return f"({text})" if own < level else text


def _alternatives(parts: Sequence[Condition]) -> tuple[str, int]:
    """Equal tests on one field become `in`."""
    pieces: list[str] = []
    n = 0
    while n < len(parts):
        part = parts[n]
        end = n + 1
        if isinstance(part, Atom) and part.op is Op.EQUALS:
            while end < len(parts) and _same(part, parts[end]):
                end += 1
        if end > n + 1 and isinstance(part, Atom):
            listed = ", ".join(_value(str(test.value)) for test in parts[n:end] if isinstance(test, Atom))
            pieces.append(f"{part.field} in ({listed})")
        else:
            pieces.append(_text(part, 1 if len(parts) > 1 else 0))
        n = end
    return " or ".join(pieces), 0 if len(pieces) > 1 else 4


def _same(atom: Atom, other: Condition) -> bool:
    return isinstance(other, Atom) and other.field == atom.field and other.op is Op.EQUALS


def _atom(atom: Atom) -> tuple[str, int]:
    """The text of one test, and how tightly it binds: 4 like a single test, 1 like `and`, 0 like `or`."""
    field = KERNEL_FIELDS[atom.field]
    match atom.op, atom.value:
        case Op.SELECTS, Selector() as selector:
            return f"{atom.field} selects ({selector_text(selector)})", 4
        case Op.EXISTS, _:
            return f"{atom.field} exists", 4
        case Op.RANGE, (int(low), int(high)):
            return _range(field.name, low, high, truth=field.kind is Kind.BOOL)
        case Op.WORDS, str(words):
            return f"{atom.field} are among ({', '.join(map(_value, words.split(chr(0)))) if words else ''})", 4
        case Op.ANYBITS, int(mask):
            bits = [f"{atom.field} = {name}" for name in _flags(field.names, mask)] if field.names else _bits(atom.field, mask)
            return " or ".join(bits), 0 if len(bits) > 1 else 4
        case Op.MASKED, (int(mask), int(wanted)):
            return f"{atom.field} & {mask:#x} = {wanted:#x}", 4
    value = str(atom.value)
    return f"{atom.field} {_WORDS[atom.op]} {value if atom.op in COMPARISONS else _value(value)}", 4


def selector_text(selector: Selector) -> str:
    """What a selector asks for, in the words of a scope."""
    words = {
        "container": selector.names,
        "image": selector.images,
        "namespace": selector.namespaces,
        "pod": selector.pods,
        "serviceAccount": selector.service_accounts,
        "runtime": selector.runtimes,
        "labels": tuple(map(_label, selector.labels)),
        "namespaceLabels": tuple(map(_label, selector.namespace_labels)),
        "namespaceAnnotations": tuple(map(_label, selector.namespace_annotations)),
    }
    whole = ("labels", "namespaceLabels", "namespaceAnnotations")
    asked = [f"{key}: {', '.join(texts if key in whole else map(_value, texts))}" for key, texts in words.items() if texts]
    return "; ".join([*asked, *(["unknown too"] if selector.unknown else [])])


def _label(label: Label) -> str:
    listed = ", ".join(map(_value, label.values))
    forms = {"in": f"{label.key} in ({listed})", "notin": f"{label.key} not in ({listed})", "exists": f"{label.key} exists"}
    return forms.get(label.op, f"not {label.key} exists")


def _flags(table: str, mask: int) -> list[str]:
    prefix = names.TABLES[table].prefix
    return [name.removeprefix(prefix).lower() for name in names.flags(table, mask)]


def _bits(field: str, mask: int) -> list[str]:
    return [f"{field} & {1 << bit:#x} = {1 << bit:#x}" for bit in range(mask.bit_length()) if mask >> bit & 1]


def _range(field: str, low: int, high: int, *, truth: bool) -> tuple[str, int]:
    if truth and low == high:
        return f"{field} = {'true' if low else 'false'}", 4
    if low == high:
        return f"{field} = {low}", 4
    if high >= U64:
        return f"{field} >= {low}", 4
    if low == 0:
        return f"{field} <= {high}", 4
    return f"{field} >= {low} and {field} <= {high}", 1


def _value(text: str) -> str:
    return text if _BARE.fullmatch(text) and text not in _MODIFIERS and not named_field(text) else quote(text)
