"""bpfence.compiler.determinise and its compiled twin: the same automaton, the same budgets; what is no program is refused."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfence.compiler import automaton as dfa
from bpfence.compiler import core, determinise
from bpfence.compiler.automaton import Pattern
from bpfence.compiler.determinise import Automaton, TooManyStates
from bpfence.policy import Op
from tests.unit.compiler.test_automaton import NETWORKS, PATTERNS, SETTINGS

MEMBERS = 1 << 20
pytestmark = pytest.mark.skipif(not core.BUILT, reason="the compiled core is not built")


def compiled(patterns: list[Pattern], budget: int, members: int = MEMBERS) -> Automaton:
    return core.build([dfa.program(dfa.pieces(pattern)) for pattern in patterns], budget, members)


def reference(patterns: list[Pattern], budget: int, members: int = MEMBERS) -> Automaton:
    return determinise.build([dfa.pieces(pattern) for pattern in patterns], budget, members)


def outcome(build: Callable[[], Automaton]) -> Automaton | None:
    try:
        return build()
    except TooManyStates:
        return None


@settings(SETTINGS, max_examples=300)
@given(st.lists(PATTERNS, min_size=1, max_size=6), st.integers(1, 400), st.integers(1, 3000))
def test_both_make_the_same(patterns: list[Pattern], budget: int, members: int) -> None:
    assert outcome(lambda: compiled(patterns, budget, members)) == outcome(lambda: reference(patterns, budget, members))


@SETTINGS
@given(st.lists(NETWORKS, min_size=1, max_size=6))
def test_both_make_the_same_of_networks(networks: list[object]) -> None:
    patterns = [Pattern(Op.CIDR, str(network)) for network in networks]
    assert compiled(patterns, 0) == reference(patterns, 0)


def words(count: int, seed: int) -> list[str]:
    generator = random.Random(seed)
    return ["".join(generator.choice("abcdefgh/._-") for _ in range(generator.randrange(2, 9))) for _ in range(count)]


VECTORS: dict[str, list[Pattern]] = {
    "nothing": [],
    "one": [Pattern(Op.GLOB, "**")],
    "texts": [Pattern(Op.EQUALS, "/" + word) for word in words(800, 1)],
    "below": [Pattern(Op.GLOB, f"/{word}/**/x*") for word in words(60, 2)],
    "contained": [Pattern(Op.CONTAINS, word) for word in words(7, 3)],
    "any of them": [Pattern(Op.ICONTAINS, tuple(words(60, 4)))],
    "ends": [Pattern(Op.SUFFIX, word) for word in words(300, 5)],
    "characters": [Pattern(Op.STRGLOB, "[!a-c]?é[α-ω]*"), Pattern(Op.GLOB, "/?/[a-y]?"), Pattern(Op.STRGLOB, "\udc80?*")],
    "branches": [Pattern(Op.GLOB, "/{a,{b,c/**}}{/x,,*}{,y}"), Pattern(Op.GLOB, "/{a,{b,c/**}}{/x,,*}/z")],
    "words of arguments": [Pattern(Op.WORDS, text) for text in ("", "-v", "-v\0-x", "-v\0-vv\0\0/a", "é")],
    "words beside texts": [Pattern(Op.WORDS, "-a\0-ab"), Pattern(Op.PREFIX, "sh\0-a"), Pattern(Op.EQUALS, "sh"), Pattern(Op.CONTAINS, "b")],
    "all bytes": [Pattern(Op.CIDR, f"{n}.0.0.0/8") for n in range(256)],
}


@pytest.mark.parametrize("name", VECTORS)
def test_vectors(name: str) -> None:
    assert compiled(VECTORS[name], 0) == reference(VECTORS[name], 0)


@pytest.mark.parametrize(
    "text",
    [
        b"R\1\0\0\0", b"R\1\0\0\0\1\0\0\0X",
        b"X", b"T", b"T\5\0\0\0abc", b"T\xff\xff\xff\xff", b"S", b"O\1\0\0\0", b"O\1\0\0\0\0", b"O\1\0\0\0\2ab", b"O\xff\xff\xff\xff",
        b"E\1\0\0\0", b"E\1\0\0\0\xff\xff\xff\xff", b"E\1\0\0\0\1\0\0\0X", b"E\1\0\0\0\2\0\0\0BT", b"BS",
    ],
)  # fmt: skip
def test_what_is_no_program_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="no program"):
        core.build([b"T\1\0\0\0a", text], 0, MEMBERS)


def test_programs_do_not_nest_without_end() -> None:
    text = b"B"
    for _ in range(100):
        text = b"E\1\0\0\0" + len(text).to_bytes(4, "little") + text
    with pytest.raises(ValueError, match="no program"):
        core.build([text], 0, MEMBERS)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.binary(max_size=40), max_size=4))
def test_any_bytes_are_refused_or_built(programs: list[bytes]) -> None:
    try:
        core.build(programs, 50, 1000)
    except (ValueError, TooManyStates):
        pass
