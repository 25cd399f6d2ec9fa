# SPDX-License-Identifier: Apache-2.0
"""Automata in, their rows packed into blocks of cells out: the reference of rows.c, and what is used where that is not built.

Called by `compiler.image`. The layout of a row is the comment in bpf/abi.h: cell k is that of byte class k, and rows lie in each other's
gaps. All rows of all automata of an image are packed together.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection
from typing import Final, NamedTuple, Protocol

from bpfence import abi
from bpfence.compiler.determinise import Automaton

BLOCK_CELLS: Final = 8192
BLOCK_WORDS: Final = 2 * BLOCK_CELLS
OPEN_BLOCKS: Final = 4
CLOSE_BELOW: Final = BLOCK_CELLS // 64
STARTS: Final = (1 << (BLOCK_CELLS - 255)) - 1  # cells where a row may begin: all 255 that are looked at then lie in its block
WIDE_ROW: Final = 8
MAX_BYTE_CLASSES: Final = 255


class Rows(Protocol):
    """What packs rows: `Packer` and the compiled `core.Packer`."""

    def add(self, automaton: Automaton) -> bytes:
        """Places the rows of one more automaton: its byte classes."""

    def blocks(self) -> int:
        """How many blocks of BLOCK_WORDS words all of them take."""

    def write(self, base: int) -> tuple[array[int], list[int]]:
        """The words of the blocks, of which `base` is the first one's ref, and by automaton the ref of its start state."""


class _Placed(NamedTuple):
    automaton: Automaton
    rows: list[dict[int, int]]
    default: list[int]
    places: list[int]


class Packer:
    """Packs first fit."""

    def __init__(self) -> None:
        self.comb = _Comb()
        self.placed: list[_Placed] = []

    def add(self, automaton: Automaton) -> bytes:
        """See `Rows`."""
        table, rows, default = byte_classes(automaton)
        places = [0] * len(rows)
        # Wide rows first, while blocks are empty; then depth first, so that a path's states lie together.
        for state in sorted(range(len(rows)), key=lambda s: (-(len(rows[s]) if len(rows[s]) > WIDE_ROW else 0), s)):
            places[state] = self.comb.place(rows[state])
        self.placed.append(_Placed(automaton, rows, default, places))
        return table

    def blocks(self) -> int:
        """See `Rows`."""
        return len(self.comb.free)

    def write(self, base: int) -> tuple[array[int], list[int]]:
        """See `Rows`."""
        words = array("I", bytes(4 * BLOCK_WORDS)) * self.blocks()
        for automaton, rows, default, places in self.placed:
            for state, row in enumerate(rows):
                own = 2 * places[state]
                stop = abi.DFA_STOP if not row and default[state] == state else 0
                words[own] = automaton.accept[state] | abi.DFA_CELL0 | stop
                words[own + 1] = base + 2 * places[default[state]]
                for cell, target in row.items():
                    words[own + 2 * cell] = base + own
                    words[own + 2 * cell + 1] = base + 2 * places[target]
        return words, [base + 2 * placed.places[0] for placed in self.placed]


class _Comb:
    """Blocks of cells, several of which fill a page; a set bit of `free` is a free cell."""

    def __init__(self) -> None:
        self.free: list[int] = []
        self.count: list[int] = []
        self.open: list[int] = []

    def place(self, classes: Collection[int]) -> int:
        """Takes cell 0 and the cells of these byte classes: the number of the row's cell 0, over all blocks."""
        for block in self.open:
            fits = self.free[block] & STARTS
            for cell in classes:
                fits &= self.free[block] >> cell
                if not fits:
                    break
            if fits:
                return self.take(block, (fits & -fits).bit_length() - 1, classes)
        self.free.append((1 << BLOCK_CELLS) - 1)
        self.count.append(BLOCK_CELLS)
        self.open.append(len(self.free) - 1)
        del self.open[:-OPEN_BLOCKS]
        return self.take(len(self.free) - 1, 0, classes)

    def take(self, block: int, at: int, classes: Collection[int]) -> int:
        mask = 1
        for cell in classes:
            mask |= 1 << cell
        self.free[block] ^= mask << at
        self.count[block] -= len(classes) + 1
        if self.count[block] < CLOSE_BELOW:
            self.open.remove(block)
        return block * BLOCK_CELLS + at


def byte_classes(automaton: Automaton) -> tuple[bytes, list[dict[int, int]], list[int]]:
    """Byte -> byte class, and per state the exceptions by byte class, and the defaults.

    Bytes that behave alike in every state share a class; class 1 is that of the bytes no state excepts. Where all 256 bytes
    differ, one of them gets class 0, which the walk always answers with the default: rows are turned so that it is.
    """
    default, exceptions = list(automaton.default), automaton.exceptions
    uses: list[list[tuple[int, int]]] = [[] for _ in range(256)]
    for state, row in enumerate(exceptions):
        for byte, target in row.items():
            uses[byte].append((state, target))
    kinds: dict[tuple[tuple[int, int], ...], list[int]] = {(): []}
    for byte in range(256):
        kinds.setdefault(tuple(uses[byte]), []).append(byte)
    ordinary = kinds.pop(())
    by_use = sorted(kinds.values(), key=lambda members: (-len(uses[members[0]]), members[0]))
    table = bytearray(b"\1" * 256)
    zero = -1
    first = 2
    if len(by_use) >= MAX_BYTE_CLASSES:
        first = 1
        if len(by_use) > MAX_BYTE_CLASSES:
            (zero,) = by_use.pop()
        for byte in (*ordinary, *((zero,) if zero >= 0 else ())):
            table[byte] = 0
    for number, members in enumerate(by_use, first):
        for byte in members:
            table[byte] = number
    if zero < 0:
        return bytes(table), [{table[b]: t for b, t in row.items()} for row in exceptions], default
    rows, defaults = [], []
    for state, row in enumerate(exceptions):
        base = row.get(zero, default[state])
        defaults.append(base)
        full = row if base == default[state] else {b: row.get(b, default[state]) for b in range(256)}
        rows.append({table[b]: t for b, t in full.items() if t != base})
    return bytes(table), rows, defaults
