# SPDX-License-Identifier: Apache-2.0
"""Pieces of text with the places that they come from in, one text whose every character can be traced back out.

Used by `resolve`. A condition is put together from a rule, from what was appended to it, its exceptions, and the lists that it names. A
mistake must still be shown where it was written.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping
from typing import Final, NamedTuple

from bpfence.documents.report import TextError
from bpfence.documents.yaml_nodes import YamlNode
from bpfence.errors import Location

MAX_EXPANDED: Final = 1 << 20


class _Mark(NamedTuple):
    """From `start` on, the text is that of `node` from `offset` on. `fixed`: all of it stands for that one place."""

    start: int
    node: YamlNode
    offset: int
    fixed: bool


class Traced:
    """A text under construction, or complete."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._marks: list[_Mark] = []
        self._starts: list[int] = []
        self._length = 0
        self._text: str | None = None

    def add(self, text: str, node: YamlNode, offset: int = 0, *, fixed: bool = False) -> Traced:
        """Append a piece: characters of `node` from `offset` on, or (`fixed`) text that was made for it."""
        if text:
            if self._length + len(text) > MAX_EXPANDED:
                raise TextError(f"the text grows beyond {MAX_EXPANDED} characters when its lists are put in", "use smaller lists", "limit")
            self._marks.append(_Mark(self._length, node, offset, fixed))
            self._starts.append(self._length)
            self._pieces.append(text)
            self._length += len(text)
            self._text = None
        return self

    def extend(self, other: Traced, start: int = 0, end: int | None = None) -> Traced:
        """Append a part of another text."""
        end = other._length if end is None else end
        n = max(bisect_right(other._starts, start) - 1, 0)
        while start < end:
            mark = other._marks[n]
            stop = min(end, other._starts[n + 1]) if n + 1 < len(other._starts) else end
            offset = mark.offset if mark.fixed else mark.offset + start - mark.start
            self.add(other.text[start:stop], mark.node, offset, fixed=mark.fixed)
            start = stop
            n += 1
        return self

    @property
    def text(self) -> str:
        """The whole text."""
        if self._text is None:
            self._text = "".join(self._pieces)
        return self._text

    def place(self, offset: int) -> Location:
        """Where a character was written."""
        if not self._marks:
            return Location("<none>")
        mark = self._marks[max(bisect_right(self._starts, offset) - 1, 0)]
        return mark.node.place(mark.offset if mark.fixed else mark.offset + offset - mark.start)

    def _spot(self, offset: int) -> tuple[YamlNode, int]:
        mark = self._marks[max(bisect_right(self._starts, offset) - 1, 0)]
        return mark.node, mark.offset if mark.fixed else mark.offset + offset - mark.start


# An open quote reaches to the end: looking for its end from every quote in the text would take quadratic time.
_TOKEN: Final = re.compile(r"""\"(?:\\.|[^\"\\])*(?:\"|\\?\Z)|'(?:\\.|[^'\\])*(?:'|\\?\Z)|[^\s(),="']+|[\s(),=]+""", re.DOTALL)
_DELIMITERS: Final = " \t\n\r(),="


def substitute(source: Traced, lists: Mapping[str, str], used: set[str]) -> Traced:
    """Put lists in as text, as Falco does: wherever a name stands between blanks, parentheses, commas or '='.

    An empty list also removes one comma beside it. Quoted texts are left alone. `lists` maps names to the joined items.
    """
    text = source.text
    names = [token for token in _TOKEN.finditer(text) if token.group() in lists and _stands_alone(text, token)]
    if not names:
        return source
    made = Traced()
    at = 0
    for token in names:
        start, end = token.span()
        name = token.group()
        used.add(name)
        node, offset = source._spot(start)
        replacement = lists[name]
        if not replacement:
            start, end = _without_comma(text, start, end, at)
        made.extend(source, at, start).add(replacement, node, offset, fixed=True)
        at = end
    return made.extend(source, at)


def _stands_alone(text: str, token: re.Match[str]) -> bool:
    start, end = token.span()
    return (start == 0 or text[start - 1] in _DELIMITERS) and (end == len(text) or text[end] in _DELIMITERS)


def _without_comma(text: str, start: int, end: int, floor: int) -> tuple[int, int]:
    """The range that is removed with an empty list: with the comma before it, or else the one after it."""
    before, after = start, end
    while before > floor and text[before - 1].isspace():
        before -= 1
    if before > floor and text[before - 1] == ",":
        return before - 1, end
    while after < len(text) and text[after].isspace():
        after += 1
    if after < len(text) and text[after] == ",":
        return start, after + 1
    return start, end


def quote_item(item: str) -> str:
    """An item of a list as it goes into a condition: in quotes if it holds blanks and does not begin with a quote."""
    return f'"{item}"' if " " in item and item[:1] not in ("'", '"') else item
