# SPDX-License-Identifier: Apache-2.0
"""The text of one file in, the line and column of everything in it out.

What `json_values` and `yaml_nodes` share: bounds, decoding, a node with its place, and the error that ends the reading of a file.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import Final

from bpfence.errors import Diagnostic, Location

MAX_BYTES: Final = 4 << 20
MAX_DEPTH: Final = 64


class PlacedText:
    """The text of one file, and the way from offsets to lines and columns. `line_end`: what the format takes for the end of a line."""

    def __init__(self, file: str, text: str, line_end: re.Pattern[str]) -> None:
        self.file = file
        self.text = text
        self.starts = [0, *(end.end() for end in line_end.finditer(text))]

    def offset(self, line: int, column: int) -> int:
        """The offset of a line and column, both from 0."""
        return min(self.starts[line] + column, len(self.text)) if line < len(self.starts) else len(self.text)

    def location(self, offset: int) -> Location:
        """Line and column, from 1, of an offset."""
        line = bisect_right(self.starts, offset)
        return Location(self.file, line, offset - self.starts[line - 1] + 1)


class Placed:
    """A part of a document: the text it lies in, the offset at which it begins there, and its content where it is a scalar."""

    __slots__ = ("source", "start", "text")

    def __init__(self, source: PlacedText, start: int, text: str = "") -> None:
        self.source = source
        self.start = start
        self.text = text

    @property
    def location(self) -> Location:
        """Where it begins."""
        return self.source.location(self.start)


class DocumentError(Exception):
    """What ends the reading of a file; carries its diagnostic."""

    def __init__(self, location: Location, message: str, hint: str, code: str) -> None:
        self.diagnostic = Diagnostic(location, message, hint, code=code)
        super().__init__(message)


def decode(data: bytes, file: str, line_end: re.Pattern[str], *, limit_code: str, limit_hint: str) -> str:
    """UTF-8 bytes as text, without a byte order mark; DocumentError where they are not UTF-8, or more than MAX_BYTES (then with
    `limit_code` and `limit_hint`)."""
    if len(data) > MAX_BYTES:
        raise DocumentError(Location(file), f"the file is larger than {MAX_BYTES >> 20} MiB", limit_hint, limit_code)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8", "replace")
        place = PlacedText(file, before, line_end).location(len(before))
        raise DocumentError(place, "the file is not UTF-8", "save it as UTF-8", "not-utf8") from None
