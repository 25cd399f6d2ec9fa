# SPDX-License-Identifier: Apache-2.0
"""String patterns in, one minimised byte automaton with accept classes out.

Called by `compiler.classes` for every string field and for lineage; knows patterns, not rules. All patterns of a field go into
one deterministic automaton: running it over a string costs the string's length and ends in a class, the exact set of patterns
that match. Where patterns multiply instead of adding (free `**` and `contains`), `build_all` splits them over several automata.

The compiled core makes it, where it is built; else `determinise`, its reference, makes the same one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from bpfence import glob
from bpfence.compiler import core, determinise
from bpfence.compiler.cache import MAX_SIZE, Cache
from bpfence.compiler.determinise import Automaton, TooManyStates
from bpfence.glob import Below, Either, Glob, One, Piece, Repeat, Star, Text
from bpfence.policy import Op

MAX_MEMBERS: Final = 1 << 24
AUTOMATA: Final = Cache[Automaton](MAX_SIZE, lambda made: len(made.default) + len(made.labels))
ANY_OF: Final = (Op.CONTAINS, Op.ICONTAINS)
"""Tests that multiply with each other: as alternatives of one condition they are better one pattern."""


class Pattern(NamedTuple):
    """One string test: an Op that takes a string, and its value; or a tuple of values: any of them."""

    op: Op
    value: str | tuple[str, ...]

    @property
    def text(self) -> str:
        """The value for people."""
        return self.value if isinstance(self.value, str) else "|".join(self.value)


def pieces(pattern: Pattern) -> Glob:
    """The pattern as a glob tree; GlobError or ValueError where it is none."""
    op, value = pattern
    everything = Star(crosses=True)
    if not isinstance(value, str):
        return alternatives([pieces(Pattern(op, one)) for one in value])
    match op:
        case Op.GLOB:
            return glob.parse(value, "path")
        case Op.STRGLOB:
            return glob.parse(value, "string")
        case Op.EQUALS:
            return (Text(glob.encode(value)),)
        case Op.PREFIX:
            return (Text(glob.encode(value)), everything)
        case Op.SUFFIX:
            return (everything, Text(glob.encode(value)))
        case Op.CONTAINS:
            return (everything, Text(glob.encode(value)), everything)
        case Op.ICONTAINS:
            return (everything, *folded(value), everything)
        case Op.WORDS:
            return glob.words(value)
        case Op.CIDR:
            return network_pieces(value)
    raise ValueError(f"{op.value} is not a test on strings")


def alternatives(trees: Sequence[Glob]) -> Glob:
    """One of them. What all begin and end with stands once: what each had for itself would be remembered of each."""
    shortest = min(map(len, trees))
    head = next((n for n in range(shortest) if any(tree[n] != trees[0][n] for tree in trees)), shortest)
    most = shortest - head
    tail = next((n for n in range(most) if any(tree[-1 - n] != trees[0][-1 - n] for tree in trees)), most)
    middles = tuple(tree[head : len(tree) - tail] for tree in trees)
    return (*trees[0][:head], *([Either(middles)] if any(middles) else []), *trees[0][len(trees[0]) - tail :])


def folded(text: str) -> Glob:
    """A text of which ASCII letters may stand in either case."""
    parts: list[Piece] = []
    for byte in glob.encode(text):
        other = byte ^ 0x20 if bytes((byte,)).isalpha() else byte
        parts.append(Text(bytes((byte,))) if other == byte else One((((byte, byte),), ((other, other),))))
    return tuple(parts)


def network_pieces(text: str) -> Glob:
    """An address or network as byte ranges: 4 bytes for IPv4 and v4-mapped networks, 16 for IPv6. Host bits are ignored."""
    network = ipaddress.ip_network(text, strict=False)
    if network.version == 6 and network.prefixlen >= 96 and network.network_address.ipv4_mapped is not None:
        network = ipaddress.IPv4Network((network.network_address.ipv4_mapped, network.prefixlen - 96))
    low, high = network.network_address.packed, network.broadcast_address.packed
    return tuple(Text(bytes([a])) if a == b else One((((a, b),),)) for a, b in zip(low, high, strict=True))


def program(tree: Glob) -> bytes:
    """A tree as automata.c reads it: a letter for each piece, and what it is made of; numbers are 32 bits, little-endian."""
    out = bytearray()
    for piece in tree:
        match piece:
            case Text(data):
                out += b"T" + len(data).to_bytes(4, "little") + data
            case Star(crosses):
                out += b"S" + bytes((crosses,))
            case Below():
                out += b"B"
            case One(sequences):
                out += b"O" + len(sequences).to_bytes(4, "little")
                for sequence in sequences:
                    out += bytes((len(sequence), *(bound for pair in sequence for bound in pair)))
            case Either(branches) | Repeat(branches):
                out += (b"E" if isinstance(piece, Either) else b"R") + len(branches).to_bytes(4, "little")
                for branch in branches:
                    inner = program(branch)
                    out += len(inner).to_bytes(4, "little") + inner
    return bytes(out)


@lru_cache(maxsize=65536)
def _program(pattern: Pattern) -> bytes:
    return program(pieces(pattern))


def build(patterns: Sequence[Pattern], budget: int | None = None, first: bool = False) -> Automaton:
    """One automaton for all patterns; TooManyStates when it takes more than `budget` states (default: grows with the patterns).

    `first`: see `determinise.build`.
    """

    def make() -> Automaton:
        if core.BUILT:
            return core.build([_program(pattern) for pattern in patterns], budget or 0, MAX_MEMBERS, first)
        return determinise.build([pieces(pattern) for pattern in patterns], budget or 0, MAX_MEMBERS, first)

    return AUTOMATA.get((tuple(patterns), budget, first, core.BUILT), make)


def build_all(patterns: Sequence[Pattern], budget: int | None = None, first: bool = False) -> list[tuple[Automaton, list[int]]]:
    """As few automata as the budget allows, each with the numbers of its patterns: class_sets count within that list.

    TooManyStates when a single pattern passes the budget; its `args[0]` is the pattern.
    """

    def split(numbers: list[int], separated: bool) -> list[tuple[Automaton, list[int]]]:
        try:
            return [(build([patterns[n] for n in numbers], budget, first), numbers)]
        except TooManyStates:
            if len(numbers) == 1:
                raise TooManyStates(patterns[numbers[0]]) from None
        if not separated:
            loose = [n for n in numbers if is_loose(patterns[n])]
            anchored = [n for n in numbers if not is_loose(patterns[n])]
            if loose and anchored:
                return split(anchored, True) + split(loose, True)
        half = len(numbers) // 2
        return split(numbers[:half], True) + split(numbers[half:], True)

    return split(list(range(len(patterns))), False) if patterns else []


@lru_cache(maxsize=65536)
def is_loose(pattern: Pattern) -> bool:
    """Whether the pattern can begin again anywhere, so that it multiplies with others."""

    def inner(tree: Glob, last: bool) -> bool:
        for at, piece in enumerate(tree):
            final = last and at == len(tree) - 1
            if isinstance(piece, Below) or (isinstance(piece, Star) and piece.crosses and not final):
                return True
            if isinstance(piece, Either) and any(inner(branch, final) for branch in piece.branches):
                return True
        return False

    return inner(pieces(pattern), True)


@lru_cache(maxsize=65536)
def is_sticky(pattern: Pattern) -> bool:
    """Whether it is loose, and what it has matched once it matches for ever, so that it multiplies with every other such pattern."""

    def ends(tree: Glob) -> bool:
        last = tree[-1] if tree else None
        return (isinstance(last, Star) and last.crosses) or (isinstance(last, Either) and any(map(ends, last.branches)))

    return is_loose(pattern) and ends(pieces(pattern))


def inner_text(pattern: Pattern) -> str:
    """Of a pattern that looks for one text behind another, the longest of them, which stands in whatever matches; "" of other patterns."""
    tree = pieces(pattern)
    texts = [piece.data for piece in tree if isinstance(piece, Text)]
    behind = any(isinstance(piece, Below) or (isinstance(piece, Star) and piece.crosses) for piece in tree[1:-1])
    return max(texts, key=len).decode("utf-8", "surrogateescape") if behind and texts else ""
