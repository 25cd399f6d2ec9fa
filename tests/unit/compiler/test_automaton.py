"""bpfence.compiler.automaton: the same answers as the reference, the fewest states, the budget."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bpfence import glob
from bpfence.compiler import automaton as dfa
from bpfence.compiler.automaton import Pattern
from bpfence.compiler.determinise import Automaton, TooManyStates
from bpfence.glob import GlobError
from bpfence.policy import Op

SETTINGS = settings(deadline=None, max_examples=150)
BUDGET = 1500

GLOB_PIECES = st.sampled_from(
    ["/", "/", "a", "b", "ab", "*", "**", "/**/", "?", "[ab]", "[!a]", "[!é]", "[é-ü]", "{a,b}", "{a,{b,/}*}", "{,a}", "é", "\udcff", "\\*"]
)
GLOBS = st.lists(GLOB_PIECES, max_size=7).map("".join)
TEXT = st.lists(st.sampled_from(["/", "/", "a", "b", "B", "c", "é", "ö", "\udcff", "\udcc3", "€", "*"]), max_size=9).map("".join)
PATTERNS = st.one_of(
    st.builds(Pattern, st.sampled_from([Op.GLOB, Op.STRGLOB]), GLOBS),
    st.builds(Pattern, st.sampled_from([Op.EQUALS, Op.PREFIX, Op.SUFFIX, Op.CONTAINS, Op.ICONTAINS]), TEXT),
)
WORD = st.sampled_from(["", "-a", "a", "ab", "-", "é"])
WORDS = st.lists(WORD, max_size=4).map("\0".join)


def build(patterns: list[Pattern]) -> Automaton:
    """Within a small budget: sets after stars multiply."""
    try:
        return dfa.build(patterns, BUDGET)
    except TooManyStates:
        assume(False)
        raise


def reference(pattern: Pattern, text: str) -> bool:
    data, value = glob.encode(text), glob.encode(pattern.value)
    match pattern.op:
        case Op.GLOB:
            return glob.compiled(pattern.value, "path").fullmatch(data) is not None
        case Op.STRGLOB:
            return glob.compiled(pattern.value, "string").fullmatch(data) is not None
        case Op.EQUALS:
            return data == value
        case Op.PREFIX:
            return data.startswith(value)
        case Op.SUFFIX:
            return data.endswith(value)
        case Op.ICONTAINS:
            return value.lower() in data.lower()
        case Op.WORDS:
            return all(word in pattern.value.split("\0") and pattern.value for word in text.split("\0")[1:])
    return value in data


def moore(automaton: Automaton) -> int:
    """Number of inequivalent states, by the textbook algorithm over all 256 bytes."""
    block, exceptions = list(automaton.accept), automaton.exceptions
    while True:
        rows = [(block[s], *(block[exceptions[s].get(b, automaton.default[s])] for b in range(256))) for s in range(len(block))]
        numbers = {row: n for n, row in enumerate(dict.fromkeys(rows))}
        if len(numbers) == len(set(block)):
            return len(numbers)
        block = [numbers[row] for row in rows]


@SETTINGS
@given(st.lists(PATTERNS, min_size=1, max_size=6), st.lists(TEXT, max_size=12))
def test_agrees_with_the_reference(patterns: list[Pattern], texts: list[str]) -> None:
    automaton = build(patterns)
    for text in [*texts, *(p.value for p in patterns)]:
        expected = {n for n, pattern in enumerate(patterns) if reference(pattern, text)}
        assert automaton.class_sets[automaton.run(glob.encode(text))] == expected, text


@SETTINGS
@given(st.lists(st.one_of(PATTERNS, st.builds(Pattern, st.just(Op.WORDS), WORDS)), min_size=1, max_size=4), st.lists(WORDS, max_size=12))
def test_words_agree_with_the_reference(patterns: list[Pattern], texts: list[str]) -> None:
    automaton = build(patterns)
    for text in texts:
        expected = {n for n, pattern in enumerate(patterns) if reference(pattern, text)}
        assert automaton.class_sets[automaton.run(glob.encode(text))] == expected, text


@SETTINGS
@given(st.lists(PATTERNS, min_size=1, max_size=4))
def test_has_the_fewest_states(patterns: list[Pattern]) -> None:
    automaton = build(patterns)
    if len(automaton.default) <= 150:
        assert moore(automaton) == len(automaton.default)
    assert len(set(automaton.class_sets[1:])) == len(automaton.class_sets) - 1


@pytest.mark.parametrize(
    "patterns",
    [
        ["/{a,b}/*.so"],
        ["/{a,b,c}/**/x/*/{d,e}"],
        ["/a/*/x", "/b/*/x"],
        ["**/a", "**/b*", "/c/**"],
        ["{**/ab,/x/**/ab}"],
        ["*"],
        ["*{/,}*{/,}**"],
    ],
)
def test_equal_cycles_are_merged(patterns: list[str]) -> None:
    automaton = dfa.build([Pattern(Op.GLOB, p) for p in patterns])
    assert moore(automaton) == len(automaton.default)


@SETTINGS
@given(st.lists(PATTERNS, min_size=1, max_size=5))
def test_deterministic(patterns: list[Pattern]) -> None:
    assert build(patterns) == build(list(patterns))


NETWORKS = st.one_of(
    st.builds(lambda a, n: ipaddress.ip_network((a, n), strict=False), st.integers(0, 2**32 - 1), st.integers(0, 32)),
    st.builds(lambda a, n: ipaddress.ip_network((a, n), strict=False), st.integers(2**33, 2**128 - 1), st.integers(0, 128)),
)


@SETTINGS
@given(st.lists(NETWORKS, min_size=1, max_size=6), st.data())
def test_cidr(networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network], data: st.DataObject) -> None:
    automaton = dfa.build([Pattern(Op.CIDR, str(network)) for network in networks])
    for network in networks:
        low, high = int(network.network_address), int(network.broadcast_address)
        top = 2**network.max_prefixlen - 1
        near = st.sampled_from([low, high, max(low - 1, 0), min(high + 1, top)])
        number = data.draw(st.one_of(near, st.integers(low, high), st.integers(0, top)))
        address = (ipaddress.IPv4Address if network.version == 4 else ipaddress.IPv6Address)(number)
        expected = {n for n, other in enumerate(networks) if other.version == address.version and address in other}
        assert automaton.class_sets[automaton.run(address.packed)] == expected


def test_mapped_networks_are_ipv4() -> None:
    automaton = dfa.build([Pattern(Op.CIDR, "::ffff:10.0.0.0/104"), Pattern(Op.CIDR, "::/0")])
    assert automaton.class_sets[automaton.run(bytes([10, 1, 2, 3]))] == {0}
    assert automaton.class_sets[automaton.run(bytes(16))] == {1}


def test_contains_patterns_are_split_under_a_budget() -> None:
    patterns = [Pattern(Op.CONTAINS, f"word{n}.") for n in range(12)] + [Pattern(Op.GLOB, f"/etc/{n}") for n in range(12)]
    parts = dfa.build_all(patterns, budget=400)
    assert len(parts) > 1
    assert all(len(automaton.default) <= 400 for automaton, _ in parts)
    assert sorted(n for _, numbers in parts for n in numbers) == list(range(24))
    text = "xxword3.yyword11."
    found = {numbers[p] for automaton, numbers in parts for p in automaton.class_sets[automaton.run(text.encode())]}
    assert found == {3, 11}
    assert len(dfa.build_all(patterns[12:], budget=400)) == 1


def test_one_pattern_over_the_budget_is_named() -> None:
    bad = Pattern(Op.GLOB, "**a" + "?" * 24)
    with pytest.raises(TooManyStates) as caught:
        dfa.build_all([Pattern(Op.GLOB, "/x"), bad], budget=500)
    assert caught.value.args[0] == bad


@pytest.mark.parametrize(
    ("pattern", "loose"),
    [("/a/**", False), ("/a/*/b", False), ("/a/**/b", True), ("**/b", True), ("/{a,**/b}", True), ("/a{b,/**}", False)],
)
def test_loose(pattern: str, loose: bool) -> None:
    assert dfa.is_loose(Pattern(Op.GLOB, pattern)) is loose


def test_mistakes_in_patterns_are_raised() -> None:
    with pytest.raises(GlobError):
        dfa.build([Pattern(Op.GLOB, "/[a")])
    with pytest.raises(ValueError, match=r"10\.0\.0\.300"):
        dfa.build([Pattern(Op.CIDR, "10.0.0.300")])


def test_many_paths_are_a_trie() -> None:
    """The states of n paths stay near their number of distinct bytes, shared beginnings once."""
    patterns = [Pattern(Op.GLOB, f"/srv/app{n % 10}/data{n}/**") for n in range(1000)]
    automaton = dfa.build(patterns)
    assert len(automaton.class_sets) == 1002
    assert len(automaton.default) < 16 * 1000
