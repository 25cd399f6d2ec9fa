"""bpfence.compiler.rows: byte classes; and what packs rows, in Python and compiled, packs them alike."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfence import abi, glob
from bpfence.compiler import automaton as dfa
from bpfence.compiler import core
from bpfence.compiler.automaton import Pattern
from bpfence.compiler.determinise import Automaton
from bpfence.compiler.rows import BLOCK_CELLS, BLOCK_WORDS, Packer, _Comb, byte_classes
from bpfence.policy import Op
from tests.unit.compiler.test_automaton import PATTERNS, SETTINGS, TEXT, build


def run_by_class(automaton: Automaton, data: bytes) -> int:
    table, rows, default = byte_classes(automaton)
    state = 0
    for byte in data:
        state = rows[state].get(table[byte], default[state]) if table[byte] else default[state]
    return automaton.accept[state]


@SETTINGS
@given(st.lists(PATTERNS, min_size=1, max_size=4), st.lists(TEXT, max_size=6))
def test_byte_classes_change_nothing(patterns: list[Pattern], texts: list[str]) -> None:
    automaton = build(patterns)
    for text in texts:
        assert run_by_class(automaton, glob.encode(text)) == automaton.run(glob.encode(text))


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_byte_classes_when_all_bytes_differ(missing: int) -> None:
    first = [Pattern(Op.CIDR, f"{n}.{n}.{n}.{n}") for n in range(256 - missing)]
    automaton = dfa.build(first)
    table, rows, _ = byte_classes(automaton)
    assert len(set(table)) == [256, 256, 255][missing]
    assert all(0 not in row for row in rows)
    generator = random.Random(5)
    addresses = [bytes([n, n, n, n]) for n in range(256)]
    addresses += [bytes(generator.randrange(256) for _ in range(4)) for _ in range(200)]
    for address in addresses:
        assert run_by_class(automaton, address) == automaton.run(address)


def packed(packer: Packer | core.Packer, automata: list[Automaton], base: int) -> tuple[list[bytes], list[int], list[int]]:
    tables = [packer.add(automaton) for automaton in automata]
    words, starts = packer.write(base)
    assert len(words) == packer.blocks() * BLOCK_WORDS
    return tables, list(words), starts


WIDE = [Pattern(Op.CIDR, f"{n}.{n}.{n}.{n}") for n in range(256)]


@pytest.mark.skipif(not core.BUILT, reason="the compiled core is not built")
@settings(SETTINGS, max_examples=60)
@given(st.lists(st.lists(PATTERNS, min_size=1, max_size=5), min_size=1, max_size=3), st.sampled_from((0, 1, 2, 256)))
def test_the_compiled_packer_packs_the_same(sets: list[list[Pattern]], wide: int) -> None:
    automata = [build(patterns) for patterns in sets] + ([dfa.build(WIDE[:wide])] if wide else [])
    assert packed(core.Packer(), automata, BLOCK_WORDS) == packed(Packer(), automata, BLOCK_WORDS)


@pytest.mark.skipif(not core.BUILT, reason="the compiled core is not built")
def test_many_rows_are_packed_the_same() -> None:
    """More than the blocks that are kept open hold."""
    generator = random.Random(3)
    paths = [
        Pattern(Op.GLOB, "/" + "/".join(f"{generator.choice('abcdef')}{generator.randrange(99)}" for _ in range(6))) for _ in range(3000)
    ]
    automata = [dfa.build(paths[:2000]), dfa.build(WIDE[:255]), dfa.build(paths[2000:])]
    both = [packed(packer, automata, 5 * BLOCK_WORDS) for packer in (core.Packer(), Packer())]
    assert both[0] == both[1]
    assert len(both[0][1]) > 5 * BLOCK_WORDS


@pytest.mark.skipif(not core.BUILT, reason="the compiled core is not built")
@pytest.mark.parametrize(
    "change",
    [
        {"default": [7, 1]}, {"first": [0, 2, 1]}, {"first": [1, 1, 1]}, {"targets": [9]}, {"accept": [1 << 24, 1]}, {"default": []},
        {"labels": b"aa"},
    ],
)  # fmt: skip
def test_the_compiled_packer_refuses_what_is_no_automaton(change: dict[str, object]) -> None:
    found = dfa.build([Pattern(Op.EQUALS, "a")])
    values = {name: type(getattr(found, name))("I", value) if isinstance(value, list) else value for name, value in change.items()}
    with pytest.raises(ValueError, match="no automaton"):
        core.Packer().add(found._replace(**values))


def test_numbers_of_the_abi() -> None:
    """rows.c has them once more."""
    assert (abi.DFA_CELL0, abi.DFA_STOP, abi.DFA_CLASS_MASK) == (0x40000000, 0x80000000, (1 << 24) - 1)


def test_the_comb_reuses_gaps() -> None:
    comb = _Comb()
    first = comb.place([2, 9])
    assert comb.place([1]) != first
    places = [comb.place([3]) for _ in range(2000)]
    assert len(set(places)) == 2000
    assert len(comb.free) == 1, "2,002 rows of two cells fit one block of 8,192"
    assert all(place % BLOCK_CELLS + 3 < BLOCK_CELLS for place in places)
