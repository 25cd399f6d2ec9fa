# SPDX-License-Identifier: Apache-2.0
"""What automata.c and rows.c make, as Python's types; `decided` has what decide.c makes.

Called by `compiler.automaton` and `compiler.image`, where it is built (`BUILT`); `determinise` and `rows` are the reference.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Final

from bpfence.compiler.determinise import Automaton, TooManyStates
from bpfence.compiler.rows import BLOCK_WORDS

try:
    from bpfence.compiler._core import ffi, lib
except ModuleNotFoundError:  # not built; one that is broken is an error
    BUILT = False
else:
    BUILT = True

assert array("I").itemsize == 4
WORDS: Final = "uint32_t[]"


def build(programs: Sequence[bytes], budget: int, members: int, first: bool = False) -> Automaton:
    """See `determinise.build`; `programs` as `automaton.program` makes them. ValueError for what is none, MemoryError."""
    ends = array("I", accumulate(map(len, programs)))
    result = ffi.new("struct bpfence_automaton **")
    check(lib.bpfence_automaton_build(b"".join(programs), ffi.from_buffer(WORDS, ends), len(ends), budget, members, first, result))
    made = result[0]
    try:
        firsts, found = _array(made.class_first, made.n_classes + 1), _array(made.members, made.n_members)
        return Automaton(
            _array(made.defaults, made.n_states),
            _array(made.first, made.n_states + 1),
            bytes(ffi.buffer(made.bytes, made.n_exceptions)),
            _array(made.targets, made.n_exceptions),
            _array(made.accept, made.n_states),
            [frozenset(found[low:high]) for low, high in pairwise(firsts)],
        )
    finally:
        lib.bpfence_automaton_free(made)


class Packer:
    """See `rows.Rows`."""

    def __init__(self) -> None:
        made = lib.bpfence_comb_new()
        if not made:
            raise MemoryError
        self.comb = ffi.gc(made, lib.bpfence_comb_free)
        self.added = 0

    def add(self, automaton: Automaton) -> bytes:
        """See `rows.Rows`."""
        table = ffi.new("uint8_t[256]")
        default, first, targets, accept = (
            ffi.from_buffer(WORDS, found) for found in (automaton.default, automaton.first, automaton.targets, automaton.accept)
        )
        check(
            lib.bpfence_comb_add(
                self.comb, len(automaton.default), default, first, automaton.labels, targets, len(automaton.labels), accept, table
            )
        )
        self.added += 1
        return bytes(ffi.buffer(table))

    def blocks(self) -> int:
        """See `rows.Rows`."""
        return int(lib.bpfence_comb_blocks(self.comb))

    def write(self, base: int) -> tuple[array[int], list[int]]:
        """See `rows.Rows`."""
        words = array("I", bytes(4 * BLOCK_WORDS)) * self.blocks()
        starts = array("I", bytes(4 * self.added))
        check(lib.bpfence_comb_write(self.comb, ffi.from_buffer(WORDS, words), len(words), base, ffi.from_buffer(WORDS, starts)))
        return words, list(starts)


def _array(values: object, count: int) -> array[int]:
    found = array("I")
    found.frombytes(ffi.buffer(values, 4 * count))
    return found


def check(error: int) -> None:
    if error == -lib.E2BIG:
        raise TooManyStates
    if error == -lib.ENOMEM:
        raise MemoryError
    if error:
        raise ValueError("this is no automaton and no program of one")
