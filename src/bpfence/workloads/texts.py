# SPDX-License-Identifier: Apache-2.0
"""Answers and files of runtimes in, texts, labels, times and mounts of a bounded size out.

Called by all sources. Images and whoever starts a container choose these values; the sizes here are above what runtimes take.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Final, TypeVar

import msgspec

MAX_TEXT: Final = 4096
MAX_LABELS: Final = 256
MAX_MOUNTS: Final = 256
MAX_DEPTH: Final = 100
"""Of what cannot be read as it is. The API server takes JSON of 10,000 levels; policies are refused that have 32 (`k8s.policies`)."""
SECOND: Final = 1_000_000_000
_MOMENT: Final = re.compile(r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9})\d*)?(Z|[+-]\d\d:\d\d)?")
_DIGEST: Final = re.compile(r"(?:sha256|sha384|sha512):[0-9a-f]{64,128}")
_TOKEN: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[][{}"]', re.DOTALL)
T = TypeVar("T")


class BadAnswerError(Exception):
    """What a runtime said cannot be understood."""


def decode(data: bytes, kind: type[T]) -> T:
    """JSON as a struct. BadAnswerError where it is not JSON, or is of another shape. Null stands for what is nested too deeply to be read:
    one object among others is not to cost them all."""
    try:
        try:
            return msgspec.json.decode(data, type=kind)
        except RecursionError:
            return msgspec.json.decode(flattened(data), type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BadAnswerError(str(error)[:200]) from None


def flattened(data: bytes, depth: int = MAX_DEPTH) -> bytes:
    """JSON with null in place of what is nested deeper than so many levels."""
    parts: list[bytes] = []
    level = kept = 0
    for token in _TOKEN.finditer(data):
        first = token[0][:1]
        if token[0] == b'"':
            return data  # a string without an end: it is no JSON
        if first in (b"[", b"{"):
            level += 1
            if level == depth + 1:
                parts += data[kept : token.start()], b"null"
        elif first in (b"]", b"}"):
            if level == depth + 1:
                kept = token.end()
            level -= 1
    return b"".join((*parts, data[kept:] if level <= depth else b""))


def short(text: str | None, limit: int = MAX_TEXT) -> str:
    """A text cut to a size. None is ""."""
    return (text or "")[:limit]


def labels(given: Mapping[str, str | None] | None) -> dict[str, str]:
    """The first labels by their names, each cut to a size."""
    return {short(name): short(value) for name, value in islice(sorted((given or {}).items()), MAX_LABELS)}


def first(items: Iterable[T] | None) -> tuple[T, ...]:
    """As many mounts as are kept."""
    return tuple(islice(items or (), MAX_MOUNTS))


def moment(text: str | None) -> int:
    """A time of RFC 3339 in ns since 1970; 0 where it is none, or before then."""
    found = _MOMENT.match(short(text, 64))
    if found is None:
        return 0
    try:
        zone = dt.UTC if found[8] in (None, "Z") else dt.datetime.strptime(found[8], "%z").tzinfo
        year, month, day, hour, minute, second = (int(part) for part in found.groups()[:6])
        whole = int(dt.datetime(year, month, day, hour, minute, second, tzinfo=zone).timestamp())
    except (ValueError, OverflowError):
        return 0
    return max(whole * SECOND + int((found[7] or "").ljust(9, "0")), 0)


def digest(reference: str | None) -> str:
    """The digest in a reference to an image, `nginx@sha256:…`; "" where it has none."""
    found = _DIGEST.search(short(reference))
    return found[0] if found else ""
