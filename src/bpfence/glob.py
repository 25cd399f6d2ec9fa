# SPDX-License-Identifier: Apache-2.0
"""A glob's text in, a tree of byte-level pieces out.

Called by `compiler.automaton` (which builds a DFA from the tree), by `evaluate` (which matches with `compiled`, the reference
the DFA is tested against) and by dialects (which only want the GlobError). Knows nothing of fields or policies.

Kind "path" (Op.GLOB):
    *        any bytes but '/', none included
    **       any bytes, '/' and none included: `/a/**` matches everything below /a (and the string "/a/"), not "/a"
    /**/     one '/', or '/', anything, '/': `/a/**/b` matches /a/b, /a/x/b and /a/x/y/b
    ?        one character, not '/'
    [a-z]    one character of the set, never '/'; `[!a-z]` and `[^a-z]` one outside it; ']' first in a set is itself
    {a,b}    either; branches are globs, may be empty, nest
    \\c       the character c itself, in sets too
Kind "string" (Op.STRGLOB): the same, except that '/' is a character like any other: `*` is `**`, `?` and sets match '/'.

The whole string must match. Strings are bytes: pattern text is UTF-8, and surrogate escapes (U+DC80..U+DCFF) stand for the bytes
that are not UTF-8. One character, for `?` and sets that are negated, is one well-formed UTF-8 sequence or any single byte >= 0x80
(so that names which are not UTF-8 are not out of reach); `??` therefore also matches one two-byte character.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final, Literal, Union

import msgspec

GlobKind = Literal["path", "string"]
Range = tuple[int, int]
Sequence = tuple[Range, ...]

MAX_LENGTH: Final = 8192
MAX_NESTING: Final = 16


class GlobError(ValueError):
    """A glob that cannot be read. `position` counts characters from 0."""

    def __init__(self, position: int, message: str, hint: str = "") -> None:
        self.position = position
        self.message = message
        self.hint = hint
        super().__init__(f"{message} at character {position + 1}")


class Text(msgspec.Struct, frozen=True):
    """These bytes."""

    data: bytes


class Star(msgspec.Struct, frozen=True):
    """Any bytes; without '/' unless `crosses`."""

    crosses: bool


class Below(msgspec.Struct, frozen=True):
    """What follows the first '/' of `/**/`: nothing, or anything that ends in '/'."""


class One(msgspec.Struct, frozen=True):
    """One of these byte sequences, each given as a range per byte."""

    sequences: tuple[Sequence, ...]


class Either(msgspec.Struct, frozen=True):
    """One of the branches."""

    branches: tuple[tuple[Piece, ...], ...]


class Repeat(msgspec.Struct, frozen=True):
    """Any number of the branches, one behind the other; no branch matches nothing. No glob has it: `words` makes it."""

    branches: tuple[tuple[Piece, ...], ...]


Piece = Union[Text, Star, Below, One, Either, Repeat]
Glob = tuple[Piece, ...]


_NOT_NUL: Final = One((((1, 255),),))


def words(text: str) -> Glob:
    """Arguments, each but the last with a NUL behind it, of which the first is any and all others are among the words of `text`, which NULs
    separate; "": there are no others."""
    known = tuple((Text(b"\0" + encode(word)),) for word in text.split("\0")) if text else ()
    return (Repeat(((_NOT_NUL,),)), *((Repeat(known),) if known else ()))


@lru_cache(maxsize=65536)
def parse(pattern: str, kind: GlobKind = "path") -> Glob:
    """The tree of a glob; GlobError where it is not one."""
    if len(pattern) > MAX_LENGTH:
        raise GlobError(MAX_LENGTH, f"the pattern is longer than {MAX_LENGTH} characters")
    parser = _Parser(pattern, kind)
    pieces = parser.sequence(0)
    if parser.at < len(pattern):
        raise GlobError(parser.at, "'}' without '{'", "write \\} for the character itself")
    return pieces


def to_regex(pattern: str, kind: GlobKind = "path") -> bytes:
    """The same language as a regular expression for `re.fullmatch` on bytes, written from the tree piece by piece."""
    return _regex(parse(pattern, kind))


@lru_cache(maxsize=4096)
def compiled(pattern: str, kind: GlobKind = "path") -> re.Pattern[bytes]:
    """`to_regex`, compiled; use its `fullmatch`."""
    return re.compile(to_regex(pattern, kind), re.DOTALL)


def literal(glob: Glob) -> bytes | None:
    """The only string a glob matches, None when it is not one."""
    if all(isinstance(piece, Text) for piece in glob):
        return b"".join(piece.data for piece in glob if isinstance(piece, Text))
    return None


class _Parser:
    def __init__(self, text: str, kind: GlobKind) -> None:
        self.text = text
        self.crosses = kind == "string"
        self.at = 0

    def sequence(self, depth: int) -> Glob:
        """Pieces up to the end of the text, or to the ',' or '}' that ends a branch."""
        pieces: list[Piece] = []
        pending = bytearray()

        def flush() -> None:
            if pending:
                pieces.append(Text(bytes(pending)))
                pending.clear()

        while self.at < len(self.text):
            char = self.text[self.at]
            if char == "}" or (char == "," and depth):
                break
            if char == "*":
                after_slash = pending.endswith(b"/") or (not pending and bool(pieces) and isinstance(pieces[-1], Below))
                flush()
                pieces.append(self.star(after_slash))
                continue
            if char not in "?[{":
                pending += encode(self.character())
                continue
            flush()
            if char == "?":
                self.at += 1
                pieces.append(any_character(self.crosses))
            elif char == "[":
                pieces.append(self.set())
            else:
                pieces.append(self.either(depth))
        flush()
        return tuple(pieces)

    def character(self) -> str:
        """One literal character, escape resolved."""
        start = self.at
        self.at += 1
        if self.text[start] != "\\":
            return self.text[start]
        if self.at >= len(self.text):
            raise GlobError(start, "'\\' with nothing after it", "write \\\\ for the character itself")
        self.at += 1
        return self.text[self.at - 1]

    def star(self, after_slash: bool) -> Piece:
        start = self.at
        while self.text.startswith("*", self.at):
            self.at += 1
        double = self.at - start > 1
        if double and after_slash and not self.crosses and self.text.startswith("/", self.at):
            self.at += 1
            return Below()
        return Star(double or self.crosses)

    def either(self, depth: int) -> Either:
        start = self.at
        if depth >= MAX_NESTING:
            raise GlobError(start, f"braces nest deeper than {MAX_NESTING}")
        branches = []
        while True:
            self.at += 1
            branches.append(self.sequence(depth + 1))
            if self.at >= len(self.text):
                raise GlobError(start, "'{' is never closed", "write \\{ for the character itself")
            if self.text[self.at] == "}":
                self.at += 1
                return Either(tuple(branches))

    def set(self) -> One:
        start = self.at
        self.at += 1
        negated = self.text[self.at : self.at + 1] in ("!", "^")
        self.at += negated
        ranges: list[Range] = []
        first = True
        while self.at < len(self.text) and (first or self.text[self.at] != "]"):
            if self.text.startswith("[:", self.at):
                raise GlobError(self.at, "named sets such as [:alpha:] are not supported", "write the ranges: [A-Za-z]")
            first = False
            low = self.character()
            high = low
            if self.text.startswith("-", self.at) and self.text[self.at + 1 : self.at + 2] not in ("", "]"):
                self.at += 1
                high = self.character()
            if ord(high) < ord(low):
                raise GlobError(self.at - 1, f"the range {low}-{high} is empty", f"write {high}-{low}")
            ranges.append((ord(low), ord(high)))
        if self.at >= len(self.text):
            raise GlobError(start, "'[' is never closed", "write \\[ for the character itself")
        self.at += 1
        character = characters(ranges, negated=negated, slash=self.crosses)
        if not character.sequences:
            raise GlobError(start, "the set matches nothing: '/' is never in a set of a path glob", "write the '/' outside")
        return character


def encode(text: str) -> bytes:
    """The bytes a string stands for: UTF-8, surrogate escapes resolved, other lone surrogates as U+FFFD (no file name holds one)."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return "".join(c if not 0xD800 <= ord(c) <= 0xDFFF or 0xDC80 <= ord(c) <= 0xDCFF else "\ufffd" for c in text).encode(
            "utf-8", "surrogateescape"
        )


_MAX: Final = 0x10FFFF
_ESCAPED: Final = (0xDC80, 0xDCFF)


@lru_cache(maxsize=2)
def any_character(slash: bool) -> One:
    """`?`: one character; '/' only when `slash`."""
    return characters((), negated=True, slash=slash)


def characters(ranges: Iterable[Range], *, negated: bool, slash: bool) -> One:
    """One character in (or outside) code point ranges. Surrogate escapes in the ranges are single bytes."""
    points: list[Range] = []
    single: list[Range] = []
    for low, high in ranges:
        points.append((low, high))
        escaped_low, escaped_high = max(low, _ESCAPED[0]), min(high, _ESCAPED[1])
        if escaped_low <= escaped_high:
            single.append((escaped_low - 0xDC00, escaped_high - 0xDC00))
    points = _merge(points)
    single = _merge(single)
    if negated:
        points = _subtract([(0, _MAX)], points)
        single = _subtract([(0x80, 0xFF)], single)
    if not slash:
        points = _subtract(points, [(0x2F, 0x2F)])
    points = _subtract(points, [(0xD800, 0xDFFF)])
    sequences = [sequence for low, high in points for sequence in utf8_sequences(low, high)]
    return One((*sequences, *((r,) for r in single)))


def utf8_sequences(low: int, high: int) -> Iterator[Sequence]:
    """The byte-range sequences that are exactly the UTF-8 of code points low..high (no surrogates among them)."""
    for limit in (0x7F, 0x7FF, 0xFFFF):
        if low <= limit < high:
            yield from utf8_sequences(low, limit)
            yield from utf8_sequences(limit + 1, high)
            return
    length = len(chr(high).encode())
    for n in range(1, length):
        mask = (1 << (6 * n)) - 1
        if low & ~mask == high & ~mask:
            continue
        if low & mask:
            yield from utf8_sequences(low, low | mask)
            yield from utf8_sequences((low | mask) + 1, high)
            return
        if high & mask != mask:
            yield from utf8_sequences(low, (high & ~mask) - 1)
            yield from utf8_sequences(high & ~mask, high)
            return
    yield tuple(zip(chr(low).encode(), chr(high).encode(), strict=True))


def _merge(ranges: Iterable[Range]) -> list[Range]:
    merged: list[Range] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return merged


def _subtract(ranges: Iterable[Range], holes: Iterable[Range]) -> list[Range]:
    left = list(ranges)
    for hole_low, hole_high in holes:
        left = [
            part for low, high in left for part in ((low, min(high, hole_low - 1)), (max(low, hole_high + 1), high)) if part[0] <= part[1]
        ]
    return left


def _regex(glob: Glob) -> bytes:
    out = []
    for piece in glob:
        match piece:
            case Text(data):
                out.append(re.escape(data))
            case Star(crosses):
                out.append(b".*" if crosses else b"[^/]*")
            case Below():
                out.append(b"(?:.*/)?")
            case One(sequences):
                out.append(b"(?:" + b"|".join(_regex_sequence(s) for s in sequences) + b")")
            case Either(branches):
                out.append(b"(?:" + b"|".join(_regex(b) for b in branches) + b")")
            case Repeat(branches):
                out.append(b"(?:" + b"|".join(_regex(b) for b in branches) + b")*")
    return b"".join(out)


def _regex_sequence(sequence: Sequence) -> bytes:
    return b"".join(b"[\\x%02x-\\x%02x]" % r if r[0] != r[1] else b"\\x%02x" % r[0] for r in sequence)
