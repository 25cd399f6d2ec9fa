# SPDX-License-Identifier: Apache-2.0
"""The text of a Falco output in, its parts out: plain text and fields.

Called by `resolve` (is it well formed?); `rules` fills the parts in. After a `%` stands the longest field that can be read, as in Falco;
digits before the field are a width; transformers are written as in conditions. An output that begins with `*` is printed even where
values are missing, as <NA>; without it, such an output is not printed at all. (Falco puts the `*` before every rule's output.)
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from bpfence.dialects.falco.read.checks import CheckError, FieldGetter, Getter, getter
from bpfence.dialects.falco.read.fields import FALCO_FIELD_BY_NAME, argument_problem, longest
from bpfence.dialects.falco.read.language import TRANSFORMERS, FieldRef, TransformerCall, parse_call, show_operand
from bpfence.documents.report import TextError
from bpfence.words import quoted, suggest

INFO: Final = "%container.info"
"""What older rules write for the container's fields. Falco takes it out of outputs, with a warning."""

MAX_OUTPUT: Final = 64 << 10
MAX_WIDTH: Final = 1024
_WIDTH: Final = re.compile(r"[0-9]+")
_CALL: Final = re.compile("(?:" + "|".join(TRANSFORMERS) + r")\(")


class Part(NamedTuple):
    """A piece of text, or (where `getter` is set) a value with the name `text` in output_fields.

    `width` 0: as wide as it is. `inner`: the fields inside a transformed value, which Falco reports beside it.
    """

    text: str
    getter: Getter | None = None
    width: int = 0
    inner: tuple[tuple[str, FieldGetter], ...] = ()


class Template(NamedTuple):
    """A parsed output. `lenient`: missing values are <NA>."""

    parts: tuple[Part, ...]
    lenient: bool


def parse(text: str) -> Template:
    """Read an output; TextError with the offset of the mistake."""
    if len(text) > MAX_OUTPUT:
        raise TextError(f"the output is longer than {MAX_OUTPUT} characters", "shorten it", "limit")
    lenient = text.startswith("*")
    parts: list[Part] = []
    at = int(lenient)
    while at < len(text):
        percent = text.find("%", at)
        if percent < 0:
            parts.append(Part(text[at:]))
            break
        if percent > at:
            parts.append(Part(text[at:percent]))
        if text.startswith(INFO, percent):
            at = percent + len(INFO)
            continue
        part, at = _value(text, percent)
        parts.append(part)
    return Template(tuple(parts), lenient)


def _value(text: str, percent: int) -> tuple[Part, int]:
    at = percent + 1
    width = 0
    digits = _WIDTH.match(text, at)
    if digits:
        at = digits.end()
        width = int(digits.group()[:6])
        if width > MAX_WIDTH:
            raise TextError(f"no value is {width} characters wide", f"at most {MAX_WIDTH}", "bad-output", percent)
    if at >= len(text):
        raise TextError("an output cannot end with '%'", "write the field's name after it, or remove it", "bad-output", percent)
    if _CALL.match(text, at):
        return _transformed(text, at, width)
    field = longest(text, at)
    if field is None:
        name = re.split(r"[^\w.]", text[at:], maxsplit=1)[0]
        hint = suggest(name, FALCO_FIELD_BY_NAME, "bpfence fields lists what there is") if name else "write a field's name after '%'"
        raise TextError(f"no field begins with {quoted(name or text[at : at + 1])}", hint, "unknown-field", percent)
    use, end = field
    problem = argument_problem(use)
    if problem:
        raise TextError(problem, f"{use.field.name}: argument {use.field.argument.value}", "field-argument", percent)
    return Part(use.spelled, FieldGetter(use), width), end


def _transformed(text: str, at: int, width: int) -> tuple[Part, int]:
    call, end = parse_call(text, at)
    try:
        made = getter(call)
    except CheckError as error:
        raise TextError(error.message, error.hint, error.code, error.spot.offset) from None
    return Part(show_operand(call), made, width, _inner(call)), end


def _inner(call: TransformerCall) -> tuple[tuple[str, FieldGetter], ...]:
    named_getters: list[tuple[str, FieldGetter]] = []
    stack: list[object] = [call]
    while stack:
        item = stack.pop()
        if isinstance(item, TransformerCall):
            stack.extend(reversed(item.arguments))
        elif isinstance(item, FieldRef):
            source = getter(item)
            assert isinstance(source, FieldGetter)
            named_getters.append((source.use.spelled, source))
    return tuple(named_getters)
