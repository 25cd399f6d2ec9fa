# SPDX-License-Identifier: Apache-2.0
"""Raw field values in, what people and machines read out, and back.

Called by `process` and `alert` (kernel values made readable) and by `source` (recorded lines read back). `escape` is the only way a
string from the kernel, a file name or an argument reaches an output: what it returns holds printable characters only, on one line.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, Union

from bpfence import names
from bpfence.fields import FIELD_BY_NAME, FIELDS, Field, Kind
from bpfence.host.accounts import HOST
from bpfence.policy import Value

Json = Union[None, bool, int, float, str, list["Json"], dict[str, "Json"]]

_ESCAPED: Final = re.compile(r"\\(?:\\|x([0-9a-f]{2}))")
_OCTAL: Final = {"file.mode"}
SIGNED_FIELDS: Final = {"call.result", "file.dirfd"}
"""Of numbers of sensors only the language of a policy knows whether they have a sign."""
_HEXADECIMAL: Final = {f"process.{changed}{kind}caps" for changed in ("", "changed_") for kind in ("", "permitted_", "inheritable_")}
TEXT_OF_NUMBERS: Final = _OCTAL | _HEXADECIMAL
"""Fields whose numbers are shown as text."""
_TRUTH: Final = {True: "true", False: "false"}


class BadValueError(ValueError):
    """A recorded value that its field cannot have."""


@lru_cache(maxsize=8192)
def escape(value: str | bytes) -> str:
    r"""Text without surprises: what is not valid UTF-8 and every character that is not printable (controls, line separators, bidi and
    other format characters, unassigned) become the `\xNN` of their bytes, a backslash is doubled. `unescape` is the inverse.
    """
    text = value if isinstance(value, str) else value.decode("utf-8", "surrogateescape")
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(char if char.isprintable() and char != "\\" else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    if char == "\\":
        return "\\\\"
    code = ord(char)
    # A surrogate that stands for no byte cannot come from the kernel; text from elsewhere may hold one.
    data = bytes([code - 0xDC00]) if 0xDC80 <= code <= 0xDCFF else char.encode("utf-8", "surrogatepass")
    return "".join(f"\\x{byte:02x}" for byte in data)


def printable(text: str) -> str:
    r"""Like `escape` for text of our own that may quote others': backslashes stay single, so it cannot be undone."""
    return text if text.isprintable() else "".join(char if char.isprintable() else _escaped(char) for char in text)


def unescape(text: str) -> str:
    """The string that `escape` was given; bytes that are not UTF-8 as surrogate escapes. Other backslashes stay as they are."""
    if "\\" not in text:
        return text
    data = bytearray()
    at = 0
    for found in _ESCAPED.finditer(text):
        data += text[at : found.start()].encode("utf-8", "surrogateescape")
        data.append(int(found.group(1), 16) if found.group(1) else 0x5C)
        at = found.end()
    data += text[at:].encode("utf-8", "surrogateescape")
    return data.decode("utf-8", "surrogateescape")


def readable(field: Field, value: Value) -> Json:
    """A value as JSON shows it: names of numbers, lists of flag names, escaped strings, addresses as text."""
    if isinstance(value, tuple):
        return [escape(element) for element in value]
    if field.kind is Kind.ADDRESS and isinstance(value, bytes):
        return _address(value)
    if isinstance(value, (str, bytes)):
        return escape(value)
    if field.kind is Kind.BOOL:
        return bool(value)
    if field.name in SIGNED_FIELDS:
        return value - (1 << 64) if value >> 63 else value
    if field.name in _OCTAL:
        return f"{value & 0o7777:04o}"
    if field.name in _HEXADECIMAL:
        return f"{value:016x}"
    if field.kind is Kind.FLAGS:
        return list(names.flags(field.names, value))
    if field.kind is Kind.NAMED:
        return (HOST.name(field.names, value) if field.names in ("user", "group") else names.name(field.names, value)) or value
    return value


def _address(value: bytes) -> str:
    if len(value) not in (4, 16):
        return escape(value)
    address = ipaddress.ip_address(value)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _user(uid: int) -> str:
    return escape(HOST.name("user", uid) or str(uid))


def phrase(field: Field, value: Value) -> str:
    """A value inside a sentence: flags joined by '|', truth as true and false, a user by name."""
    if field.kind is Kind.USER and isinstance(value, int):
        return _user(value)
    shown = readable(field, value)
    if isinstance(shown, bool):
        return _TRUTH[shown]
    if isinstance(shown, list):
        return "|".join(str(element) for element in shown) or "none"
    return str(shown)


def grouped(fields: Mapping[str, Value]) -> dict[str, Json]:
    """Fields by their dotted names as nested objects, in the order of the field table: {"file.path": b"/x"} → {"file": {"path": "/x"}}."""
    nested: dict[str, Json] = {}
    for name in sorted(fields, key=_POSITION.__getitem__):
        *groups, last = name.split(".")
        level = nested
        for group in groups:
            inner = level.setdefault(group, {})
            assert isinstance(inner, dict)
            level = inner
        level[last] = readable(FIELD_BY_NAME[name], fields[name])
    return nested


_POSITION: Final = {field.name: position for position, field in enumerate(FIELDS)}


def parse(field: Field, value: object) -> Value:
    """The raw value that `readable` (or a person) has written; BadValueError where it is none."""
    match field.kind:
        case Kind.PATH | Kind.STRING | Kind.ADDRESS:
            if isinstance(value, list) and field.name in ("process.args", "process.parent.args"):
                return " ".join(_string(field, element) for element in value)
            return _string(field, value)
        case Kind.STRINGS:
            return tuple(_string(field, element) for element in value) if isinstance(value, list) else (_string(field, value),)
        case Kind.FLAGS:
            return _flags(field, value)
        case Kind.BOOL:
            return int(_truth(field, value))
    return _number(field, value)


def _string(field: Field, value: object) -> str:
    if not isinstance(value, str):
        raise BadValueError(f"{field.name} must be a string, not {value!r}")
    return unescape(value)


def _truth(field: Field, value: object) -> bool:
    if value in (True, "true"):
        return True
    if value in (False, "false"):
        return False
    raise BadValueError(f"{field.name} must be true or false, not {value!r}")


def _number(field: Field, value: object) -> int:
    if isinstance(value, int):
        return int(value) % (1 << 64) if field.name in SIGNED_FIELDS else int(value)
    if isinstance(value, str):
        try:
            known = names.number(field.names, value) if field.names else None
        except names.NoAnswerError:
            known = None
        if known is not None:
            return known
        try:
            return int(value, 0)
        except ValueError:
            pass
    raise BadValueError(f"{field.name} must be a number{' or a name' if field.names else ''}, not {value!r}")


def _flags(field: Field, value: object) -> int:
    if isinstance(value, int):
        return int(value)
    try:
        if isinstance(value, str) and field.name in _OCTAL and value.isdigit():
            return int(value, 8)
        if isinstance(value, str) and field.name in _HEXADECIMAL and len(value) == 16:
            return int(value, 16)
        mask = 0
        for element in value if isinstance(value, list) else str(value).split("|"):
            known = names.mask(field.names, str(element))
            mask |= int(str(element), 0) if known is None else known
    except ValueError:
        raise BadValueError(f"{field.name} must be a list of names or a number, not {value!r}") from None
    return mask
