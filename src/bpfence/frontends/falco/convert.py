# SPDX-License-Identifier: Apache-2.0
"""Final Falco rules in, native policies that mean exactly the same out, and why the rest has none.

Called by `bpfence convert --to native`; `bpfence explain` shows conditions of the IR with `condition_text`. What is written is read back
by the native front end and compared before it is given out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from bpfence import names
from bpfence.errors import Diagnostic
from bpfence.fields import EVENT_BY_NAME, FIELD_BY_NAME, Kind
from bpfence.frontends import native
from bpfence.frontends.falco import lower
from bpfence.frontends.falco.document import SEVERITY_OF
from bpfence.frontends.falco.language import show_word
from bpfence.frontends.falco.resolve import Rule
from bpfence.frontends.values import U64, conj, disj, negation
from bpfence.policy import FALSE, TRUE, And, Atom, Condition, Not, Op, Or

_WORDS: Final = {
    Op.PREFIX: "startswith", Op.SUFFIX: "endswith", Op.CONTAINS: "contains", Op.EQUALS: "=", Op.CIDR: "=", Op.GLOB: "glob",
    Op.STRGLOB: "glob",
    Op.ICONTAINS: "icontains",
}  # fmt: skip


class Converted(NamedTuple):
    """`text`: YAML documents, empty where nothing could be converted. `converted`: names of the rules in it."""

    text: str
    converted: list[str]
    left_out: list[Diagnostic]


def convert(rules: Iterable[Rule], mode: str = "audit") -> Converted:
    """One policy for every enabled rule that can be said exactly."""
    documents: list[str] = []
    converted: list[str] = []
    left_out: list[Diagnostic] = []
    taken: set[str] = set()
    for rule in rules:
        if not rule.enabled:
            continue
        enforcing = rule.enforcement is not None and rule.enforcement.action != "audit"
        lowered = lower.enforced(rule) if enforcing else lower.acts(rule)
        text, problem = _policy(rule, lowered, mode, _slug(rule.name, taken))
        if text:
            documents.append(text)
            converted.append(rule.name)
        else:
            left_out += _why(rule, lowered, problem)
    return Converted("---\n".join(documents), converted, left_out)


def _why(rule: Rule, lowered: lower.Lowered, problem: str) -> list[Diagnostic]:
    found = [
        Diagnostic(
            left.place if left.place.line else rule.location,
            f"{rule.name}: {left.text}: {left.reason}",
            left.hint,
            "warning",
            "not-expressible",
        )
        for left in lowered.left
    ]
    if lowered.unsensed:
        what = f"{rule.name}: nothing reports {', '.join(lowered.unsensed)} yet"
        found.append(Diagnostic(rule.location, what, "", "warning", "not-expressible"))
    if not found:
        found.append(Diagnostic(rule.location, f"{rule.name}: {problem or 'it can never match'}", "", "warning", "not-expressible"))
    return found


def _policy(rule: Rule, lowered: lower.Lowered, mode: str, name: str) -> tuple[str, str]:
    """A document, or why there is none."""
    if not lowered.exact or not lowered.conditions:
        return "", ""
    action = rule.enforcement.action if rule.enforcement else "audit"
    watched = [event for event in lowered.conditions if not EVENT_BY_NAME[event].deniable]
    if action != "audit" and watched:
        return "", f"{watched[0]} can only be watched"
    lines = [
        "apiVersion: bpfence.io/v1alpha1", "kind: SecurityPolicy", f"metadata: {{name: {name}}}", "spec:", f"  mode: {mode}",
        f"  severity: {SEVERITY_OF[rule.priority]}",
    ]  # fmt: skip
    if rule.tags:
        lines.append("  tags: [" + ", ".join(json.dumps(tag) for tag in rule.tags) + "]")
    lines.append("  rules:")
    for event, condition in lowered.conditions.items():
        lines += [f"    - name: {event.replace('.', '-').replace('_', '-')}", f"      on: {event}"]
        if condition != TRUE:
            lines.append(f"      condition: {json.dumps(condition_text(condition))}")
        lines.append(f"      action: {action}")
        if action == "deny" and rule.enforcement is not None:
            lines.append(f"      errno: {names.name('errno', rule.enforcement.errno)}")
    text = "\n".join(lines) + "\n"
    problem = _differs(text, lowered)
    return ("" if problem else text), problem


def _differs(text: str, lowered: lower.Lowered) -> str:
    """Why a document does not say what it should, as the native front end reads it; empty where it does."""
    policies, found = native.load_text(text)
    errors = [diagnostic for diagnostic in found if diagnostic.severity == "error"]
    if errors:
        return f"the native format cannot say it: {errors[0].message}"
    for policy in policies.policies:
        for rule in policy.rules:
            for event in rule.events:
                if _normal(rule.condition_for(event)) != _normal(lowered.conditions[event]):
                    return "the native format cannot say it exactly"
    return ""


def _normal(condition: Condition) -> Condition:
    """A condition with flags one by one, so that two ways of writing the same are the same."""
    match condition:
        case Atom(field, Op.ANYBITS, int(mask)):
            return disj([Atom(field, Op.ANYBITS, 1 << bit) for bit in range(mask.bit_length()) if mask >> bit & 1])
        case Not(part):
            return negation(_normal(part))
        case And(parts):
            return conj([_normal(part) for part in parts])
        case Or(parts):
            return disj([_normal(part) for part in parts])
    return condition


def _slug(name: str, taken: set[str]) -> str:
    base = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:56].strip("-") or "rule"
    slug, n = base, 1
    while slug in taken:
        n += 1
        slug = f"{base}-{n}"
    taken.add(slug)
    return slug


# ---- conditions of the IR as text ----


def condition_text(condition: Condition) -> str:
    """A condition in the native language; `always` and `never` for the constants."""
    return "always" if condition == TRUE else "never" if condition == FALSE else _text(condition, 0)


def _text(condition: Condition, level: int) -> str:
    """`level`: 0 stands alone, 1 inside `or`, 2 inside `and`, 3 behind `not`."""
    match condition:
        case Atom():
            text, own = _atom(condition)
        case Not(part):
            text, own = f"not {_text(part, 3)}", 3
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
            listed = ", ".join(_value(str(one.value)) for one in parts[n:end] if isinstance(one, Atom))
            pieces.append(f"{part.field} in ({listed})")
        else:
            pieces.append(_text(part, 1 if len(parts) > 1 else 0))
        n = end
    return " or ".join(pieces), 0 if len(pieces) > 1 else 4


def _same(one: Atom, other: Condition) -> bool:
    return isinstance(other, Atom) and other.field == one.field and other.op is Op.EQUALS


def _atom(atom: Atom) -> tuple[str, int]:
    """The text of one test, and how tightly it binds: 4 as a test, 0 as an `or`, 1 as an `and`."""
    field = FIELD_BY_NAME[atom.field]
    match atom.op, atom.value:
        case Op.EXISTS, _:
            return f"{atom.field} exists", 4
        case Op.RANGE, (int(low), int(high)):
            return _range(field.name, low, high, truth=field.kind is Kind.BOOL)
        case Op.ANYBITS, int(mask):
            bits = [f"{atom.field} = {name}" for name in _flags(field.names, mask)] if field.names else _bits(atom.field, mask)
            return " or ".join(bits), 0 if len(bits) > 1 else 4
        case Op.MASKED, (int(mask), int(wanted)):
            return f"{atom.field} & {mask:#x} = {wanted:#x}", 4
    return f"{atom.field} {_WORDS[atom.op]} {_value(str(atom.value))}", 4


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
    shown = show_word(text)
    return shown if shown.startswith('"') or re.fullmatch(r"[\w./:@%+-]+", shown) else json.dumps(text, ensure_ascii=False)
