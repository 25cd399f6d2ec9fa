# SPDX-License-Identifier: Apache-2.0
"""A value of a document and a class of `model` in, an object out; what does not fit goes into the report.

The checks are those that an API server makes by the CRD: unknown and missing keys, types, words, bounds. An object is made wherever its
required keys are there, so that one mistake hides no other.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, Final, NamedTuple, TypeVar, Union, get_args, get_origin

import msgspec

from bpfence.dialects.tetragon.read.model import Bounds, Long, OneOf, Part
from bpfence.documents.json_values import JsonValue
from bpfence.documents.report import Report
from bpfence.words import quoted, suggest

PartT = TypeVar("PartT", bound=Part)
MAX_MISTAKES: Final = 200
"""After so many in one load nothing more is read: nobody reads them."""
_INTERNAL: Final = ("place", "places")


class _Key(NamedTuple):
    """A key of a class: the member, its type, what it has beside the type."""

    member: str
    type: Any
    limits: tuple[Any, ...]
    required: bool


@lru_cache(maxsize=64)
def _keys(part: type[Part]) -> Mapping[str, _Key]:
    hints = typing.get_type_hints(part, include_extras=True)
    fields = (field for field in msgspec.structs.fields(part) if field.name not in _INTERNAL)
    return {field.encode_name: _Key(field.name, *_unwrapped(hints[field.name]), field.required) for field in fields}


def _unwrapped(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """A type without what is beside it, and without None; and that."""
    limits: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *more = get_args(hint)
        limits = tuple(more)
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(choice for choice in get_args(hint) if choice is not type(None))
    return hint, limits


class _WrongError(Exception):
    """A value that cannot be had; what is wrong with it has been reported."""


class Shapes:
    """Reads values. `report` takes what is wrong."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def part(self, value: JsonValue, part: type[PartT], where: str) -> PartT | None:
        """The object of a class; None where there is none. `where`: the path of its key, for messages."""
        try:
            return self._part(value, part, where)
        except _WrongError:
            return None

    def _fail(self, value: JsonValue, code: str, message: str, hint: str = "") -> _WrongError:
        self.report.add(value, code, message, hint)
        return _WrongError()

    def _part(self, value: JsonValue, part: type[PartT], where: str) -> PartT:
        if value.kind != "object":
            raise self._fail(value, "wrong-type", f"{where} must be a map, not {value.what}", f"it has the keys {_listed(_keys(part))}")
        keys = _keys(part)
        made: dict[str, Any] = {"place": value.location}
        places = {}
        written: set[str] = set()
        complete = True
        for name, inner in value.pairs:
            if self.report.errors >= MAX_MISTAKES:
                raise _WrongError
            canonical = self._known(name, keys, where)
            if canonical is None:
                continue
            if canonical in written:
                self.report.add(name, "duplicate-key", f"{canonical} is written twice in {where}", "remove one of them")
                continue
            written.add(canonical)
            if inner.kind == "null":
                continue
            places[canonical] = inner.location
            key = keys[canonical]
            try:
                made[key.member] = self._value(inner, key.type, key.limits, f"{where}.{canonical}" if where else canonical)
            except _WrongError:
                complete = complete and not key.required
        for name_, key in keys.items():
            if key.required and name_ not in places:
                self.report.add(value, "missing-key", f"{where or 'the policy'} lacks the key {name_}", f"add {name_}:")
                complete = False
        if not complete:
            raise _WrongError
        return part(**made, places=places)

    def _known(self, name: JsonValue, keys: Mapping[str, _Key], where: str) -> str | None:
        """A key as the format spells it; None, and a finding, where there is none."""
        if name.text in keys:
            return name.text
        # The reference finds keys of files whatever their case; an API server does not have them.
        other = next((key for key in keys if key.lower() == name.text.lower()), None)
        if other is not None:
            what = f"the key {quoted(name.text)} is spelt {other}"
            self.report.add(name, "key-case", what, "an API server drops keys in another case", "warning")
            return other
        hint = suggest(name.text, keys, f"known are {_listed(keys)}" if keys else "it has no keys: write {}")
        self.report.add(name, "unknown-key", f"{where or 'a policy'} has no key {quoted(name.text)}", hint)
        return None

    def _value(self, value: JsonValue, wanted: Any, limits: tuple[Any, ...], where: str) -> Any:
        origin = get_origin(wanted)
        if origin is tuple:
            return self._list(value, get_args(wanted)[0], limits, where)
        if origin is not None and issubclass(origin, Mapping):
            return self._map(value, get_args(wanted)[1], where)
        if issubclass(wanted, Part):
            return self._part(value, wanted, where)
        if wanted is bool:
            if value.kind != "boolean":
                raise self._fail(value, "wrong-type", f"{where} must be true or false, not {value.what}", "write it without quotes")
            return value.text == "true"
        return self._number(value, limits, where) if wanted is int else self._text(value, limits, where)

    def _list(self, value: JsonValue, item: Any, limits: tuple[Any, ...], where: str) -> tuple[Any, ...]:
        if value.kind != "array":
            raise self._fail(value, "wrong-type", f"{where} must be a list, not {value.what}", "begin each item with '- '")
        for limit in limits:
            if not limit.low <= len(value.items) <= limit.high:
                bound = f"at least {limit.low}" if len(value.items) < limit.low else f"at most {limit.high}"
                code = "empty" if not value.items else "too-many"
                self.report.add(value, code, f"{where} must have {bound} items, not {len(value.items)}", limit.hint)
        type_, own = _unwrapped(item)
        made = []
        for n, inner in enumerate(value.items):
            if self.report.errors >= MAX_MISTAKES:
                raise _WrongError
            try:
                made.append(self._value(inner, type_, own, f"{where}[{n}]"))
            except _WrongError:
                continue
        return tuple(made)

    def _map(self, value: JsonValue, item: Any, where: str) -> dict[str, Any]:
        if value.kind != "object":
            raise self._fail(value, "wrong-type", f"{where} must be a map, not {value.what}", "write key: value")
        type_, own = _unwrapped(item)
        made: dict[str, Any] = {}
        for name, inner in value.pairs:
            if name.text in made:
                self.report.add(name, "duplicate-key", f"{quoted(name.text)} is written twice in {where}", "remove one of them")
                continue
            try:
                made[name.text] = self._value(inner, type_, own, f"{where}.{quoted(name.text)}")
            except _WrongError:
                continue
        return made

    def _number(self, value: JsonValue, limits: tuple[Any, ...], where: str) -> int:
        if value.kind != "number" or not value.text.lstrip("+-").isdigit():
            hint = "write it without quotes" if value.kind == "string" and value.text.isdigit() else ""
            raise self._fail(value, "wrong-type", f"{where} must be a whole number, not {_what(value)}", hint)
        number = int(value.text)
        for limit in limits:
            if isinstance(limit, Bounds) and not limit.low <= number <= limit.high:
                raise self._fail(value, "bad-number", f"{where} must be {limit.low} to {limit.high}, not {value.text}", limit.hint)
        return number

    def _text(self, value: JsonValue, limits: tuple[Any, ...], where: str) -> str:
        if value.kind != "string":
            hint = f'write it in quotes: "{value.text}"' if value.kind in ("number", "boolean") else ""
            raise self._fail(value, "wrong-type", f"{where} must be a text, not {_what(value)}", hint)
        for limit in limits:
            if isinstance(limit, OneOf) and value.text not in limit.words:
                hint = suggest(value.text, limit.words, f"known are {_listed(limit.words)}")
                raise self._fail(value, "bad-value", f"{where}: there is no {limit.what} {quoted(value.text)}", hint)
            if isinstance(limit, Long) and not limit.low <= len(value.text) <= limit.high:
                bound = f"at least {limit.low}" if len(value.text) < limit.low else f"at most {limit.high}"
                raise self._fail(value, "bad-value", f"{where} must have {bound} characters, not {len(value.text)}")
        return value.text


def _what(value: JsonValue) -> str:
    return f"{value.what} {quoted(value.text)}" if value.kind in ("string", "number") else value.what


def _listed(names: typing.Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(shown[:16]) + (" …" if len(shown) > 16 else "")
