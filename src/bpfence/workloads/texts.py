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
SECOND: Final = 1_000_000_000
_MOMENT: Final = re.compile(r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9})\d*)?(Z|[+-]\d\d:\d\d)?")
_DIGEST: Final = re.compile(r"(?:sha256|sha384|sha512):[0-9a-f]{64,128}")
T = TypeVar("T")


class BadAnswerError(Exception):
    """What a runtime said cannot be understood."""


def decode(data: bytes, kind: type[T]) -> T:
    """JSON as a struct. BadAnswerError where it is not JSON, is nested too deeply, or is of another shape."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BadAnswerError(str(error)[:200]) from None


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
