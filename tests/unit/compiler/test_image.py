"""bpfence.compiler.image: the comb, node forms, the layout promised by abi.h."""

from __future__ import annotations

import os
import random
import struct

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfence import abi
from bpfence.compiler import image as images
from bpfence.compiler.automaton import Pattern, build
from bpfence.compiler.classes import Classification, Dimension
from bpfence.compiler.diagram import Group, Leaf, Node
from bpfence.compiler.image import Diagrams, ImageTooLarge, Sample, VerdictRow, Walker, pack, walk
from bpfence.compiler.rows import BLOCK_WORDS
from bpfence.policy import Op


@pytest.mark.parametrize(("uncertain", "matching", "enforcing"), [(1, 2, 0), (1, 3, 1), (3, 2, 1)])
def test_events_that_can_be_denied(uncertain: int, matching: int, enforcing: int) -> None:
    """Verdict 3 denies: also where it stands only under the class of what is uncertain."""
    node = Node(0, ~uncertain, ~0, ((2, ~matching),))
    row = tuple(0 if event == 9 else ~1 if event == 10 else ~0 for event in range(abi.ABI_MAX_EVENTS))
    group = Group((0,), [node], [Leaf((), False)] * 4, [(~0,) * abi.ABI_MAX_EVENTS, row], ~1, 0)
    classification = Classification([string_dimension(PATHS[:3])], 0, {}, (), None, [])
    rows = [VerdictRow(action, 0, bool(action), n) for n, action in enumerate((0, abi.ACTION_AUDIT, abi.ACTION_AUDIT, abi.ACTION_DENY))]
    walker = Walker(pack(classification, Diagrams([group], [list(range(4))]), rows, 3, 0).image)
    at = walker.concern_ref[0] + abi.IMAGE_CONCERN_WORDS
    read = abi.CONCERN_OPEN_READ
    assert concern_of(walker, at) == 1 << 9 | 1 << 10 | 1 << read
    assert concern_of(walker, at + abi.IMAGE_CONCERN_WORDS // 2) == enforcing << 9 | enforcing << read
    assert concern_of(walker, abi.IMAGE_HEADER_OFFSETS["enforcing_all"] // 4) == enforcing << 9 | enforcing << read


def concern_of(walker: Walker, at: int) -> int:
    return sum(word << 32 * n for n, word in enumerate(walker.words[at : at + abi.IMAGE_CONCERN_WORDS // 2]))


ACCESS = Dimension("a", "file.access", abi.DIM_BITS, abi.NUM_FILE_ACCESS, False, False)


@pytest.mark.parametrize(
    ("event", "read"), [(abi.EV_FILE_OPEN, abi.CONCERN_OPEN_READ), (abi.EV_FILE_PERMISSION, abi.CONCERN_PERMISSION_READ)]
)
@pytest.mark.parametrize(
    ("dimension", "reads"),
    [
        (msgspec.structs.replace(ACCESS, mask=abi.ACCESS_READ), True),
        (msgspec.structs.replace(ACCESS, mask=abi.ACCESS_WRITE | abi.ACCESS_READ), True),
        (msgspec.structs.replace(ACCESS, mask=abi.ACCESS_WRITE), False),
        (msgspec.structs.replace(ACCESS, kind=abi.DIM_MASKED, mask=7, value=abi.ACCESS_READ), True),
        (msgspec.structs.replace(ACCESS, kind=abi.DIM_MASKED, mask=7, value=abi.ACCESS_READ | abi.ACCESS_WRITE), False),
        (msgspec.structs.replace(ACCESS, kind=abi.DIM_MASKED, mask=abi.ACCESS_WRITE, value=0), True),
        (msgspec.structs.replace(ACCESS, slot=abi.NUM_FILE_MODE, mask=abi.ACCESS_WRITE), True),
    ],
)
def test_whether_rules_are_about_reading(dimension: Dimension, reads: bool, event: int, read: int) -> None:
    """The decision on the access stands above one on the path, where verdict 3 denies, or below it."""
    path = string_dimension(PATHS[:3])
    for nodes, dimensions in (
        ([Node(0, ~0, ~0, ((2, ~3),)), Node(1, ~0, ~0, ((2, 0),))], [path, dimension]),
        ([Node(0, ~0, ~0, ((2, ~3),)), Node(1, ~0, ~0, ((2, 0),))], [dimension, path]),
    ):
        row = tuple(1 if number == event else ~0 for number in range(abi.ABI_MAX_EVENTS))
        group = Group((0,), nodes, [Leaf((), False)] * 4, [(~0,) * abi.ABI_MAX_EVENTS, row], ~1, 0)
        rows = [VerdictRow(action, 0, bool(action), n) for n, action in enumerate((0, 0, 0, abi.ACTION_DENY))]
        walker = Walker(pack(Classification(dimensions, 0, {}, (), None, []), Diagrams([group], [list(range(4))]), rows, 3, 0).image)
        at = walker.concern_ref[0] + abi.IMAGE_CONCERN_WORDS
        expected = 1 << event | reads << read
        assert (concern_of(walker, at), concern_of(walker, at + abi.IMAGE_CONCERN_WORDS // 2)) == (expected, expected)


PATHS = [Pattern(Op.GLOB, f"/srv/{n % 7}/x{n}{'/**' if n % 3 else ''}") for n in range(400)] + [Pattern(Op.GLOB, "/[!b]*/?")]


def string_dimension(patterns: list[Pattern], slot: int = abi.STR_FILE_PATH) -> Dimension:
    automaton = build(patterns)
    return Dimension("d", "file.path", abi.DIM_STRING, slot, False, True, classes=len(automaton.class_sets), automaton=automaton)


def make(dimensions: list[Dimension], group: Group, verdicts: int) -> bytes:
    classification = Classification(dimensions, 0, {}, (), None, [])
    rows = [VerdictRow(abi.ACTION_AUDIT if n else 0, 0, bool(n), n) for n in range(verdicts)]
    return pack(classification, Diagrams([group], [list(range(verdicts))]), rows, 3, 0).image


def one_node(dimension: Dimension, children: dict[int, int], default: int = 0, uncertain: int = 1) -> tuple[bytes, Walker]:
    """An image whose event 9 asks one dimension; leaves are verdict numbers."""
    node = Node(0, ~uncertain, ~default, tuple((c, ~v) for c, v in sorted(children.items())))
    top = max([default, uncertain, *children.values()])
    row = tuple(0 if event == 9 else ~0 for event in range(abi.ABI_MAX_EVENTS))
    group = Group((0,), [node], [Leaf((), False)] * (top + 1), [(~0,) * abi.ABI_MAX_EVENTS, row], ~1, 0)
    data = make([dimension], group, top + 1)
    return data, Walker(data)


def test_header_and_alignment() -> None:
    data, walker = one_node(string_dimension(PATHS), {2: 2})
    header = walker.header
    assert len(data) % (4 * BLOCK_WORDS) == 0
    assert struct.unpack_from("<4I", data) == (abi.IMAGE_MAGIC, abi.ABI_VERSION, 3, len(data) // 4)
    assert (header["n_dims"], header["n_groups"], header["n_verdicts"], header["lineage_dfa"]) == (1, 1, 3, 0)
    assert header["dims_ref"] == abi.IMAGE_HEADER_SIZE // 4, "the kernel expects the dimensions right behind the header"
    assert concern_of(walker, abi.IMAGE_HEADER_OFFSETS["concern_all"] // 4) == 1 << 9 | 1 << abi.CONCERN_OPEN_READ
    kind, slot, ref, *_, start = walker.words[header["dims_ref"] : header["dims_ref"] + abi.IMAGE_DIM_WORDS]
    assert (kind, slot, start % 2) == (abi.DIM_STRING, abi.STR_FILE_PATH, 0)
    assert ref % abi.IMAGE_PAGE_WORDS <= abi.IMAGE_PAGE_WORDS - 64, "byte classes lie in one page"
    verdict = abi.IMAGE_VERDICT_STRUCT.unpack_from(data, 4 * (header["verdicts_ref"] + 2 * abi.IMAGE_VERDICT_WORDS))
    assert verdict == (abi.ACTION_AUDIT, 0, 1, 2, 0, 0)


def test_rows_of_automata_keep_the_combs_promises() -> None:
    """Every state: even, cell 0 cannot be taken for a check word, all cells in its page, checks name the state."""
    dimension = string_dimension(PATHS)
    _, walker = one_node(dimension, {2: 2})
    words = walker.words
    start = words[walker.header["dims_ref"] + abi.IMAGE_DIM_WORDS - 1]
    table = words[walker.header["dims_ref"] + 2]
    classes = {words[table + b // 4] >> b % 4 * 8 & 0xFF for b in range(256)}
    seen = {start}
    stack = [start]
    while stack:
        state = stack.pop()
        assert state % 2 == 0
        assert words[state] & abi.DFA_CELL0
        following = {words[state + 1]}
        for byte_class in classes:
            at = state + 2 * byte_class
            if at // abi.IMAGE_PAGE_WORDS == state // abi.IMAGE_PAGE_WORDS and words[at] == state:
                following.add(words[at + 1])
        assert bool(words[state] & abi.DFA_STOP) == (following == {state})
        stack += following - seen
        seen |= following
    assert len(seen) == dimension.states


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from(["/", "srv", "1", "2", "x", "b", "é", "x15", "x16", "c"]), max_size=8).map("".join))
def test_walked_class_is_the_automatons(text: str) -> None:
    dimension = DIMENSION
    assert dimension.automaton is not None
    data = text.encode()
    ref, start = TABLE
    assert WALKER.run(ref, start, data) == dimension.automaton.run(data)


DIMENSION = string_dimension(PATHS)
WALKER = one_node(DIMENSION, {2: 2})[1]
TABLE = (WALKER.words[WALKER.header["dims_ref"] + 2], WALKER.words[WALKER.header["dims_ref"] + abi.IMAGE_DIM_WORDS - 1])


@pytest.mark.parametrize("count", [3, 12, 33, 300])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
@pytest.mark.parametrize("uncertain", [0, 1, 2])
def test_node_forms_agree(count: int, share: float, uncertain: int) -> None:
    """Dense or sparse: the child of every class is what was asked for, and the smaller form is taken; of few classes the dense one."""
    generator = random.Random(count)
    dimension = Dimension("d", "file.uid", abi.DIM_RANGE, abi.NUM_FILE_UID, False, False, classes=count, bounds=[(0, 1)])
    children = {c: generator.choice((1, 2, 2, 3)) for c in range(2, count) if generator.random() < share}
    _, walker = one_node(dimension, children, 0, uncertain)
    ref = walker.root(0, 1, 9)
    for number in range(count):
        expected = uncertain if number == 0 else children.get(number, 0)
        assert walker.child(ref, number) == abi.IMAGE_LEAF | expected
    form, size = walker.words[ref] >> 8, walker.words[ref + 1]
    full = [uncertain, *(children.get(c, 0) for c in range(1, count))]
    pairs = count - max(full.count(v) for v in full)
    dense = count <= images.SMALL_NODE or count + 2 <= 3 + 2 * pairs
    assert (form, size) == ((abi.NODE_DENSE, count) if dense else (abi.NODE_SPARSE, pairs))


@pytest.mark.parametrize(
    ("dimension", "value", "number"),
    [
        (Dimension("d", "f", abi.DIM_RANGE, 8, False, False, bounds=[(0, 1), (5, 2), (1 << 40, 3)]), 4, 1),
        (Dimension("d", "f", abi.DIM_RANGE, 8, False, False, bounds=[(0, 1), (5, 2), (1 << 40, 3)]), 5, 2),
        (Dimension("d", "f", abi.DIM_RANGE, 8, False, False, bounds=[(0, 1), (5, 2), (1 << 40, 3)]), 1 << 63, 3),
        (Dimension("d", "f", abi.DIM_BITS, 8, False, False, mask=1 << 40 | 1), 1 << 40, 2),
        (Dimension("d", "f", abi.DIM_BITS, 8, False, False, mask=1 << 40 | 1), 2, 1),
        (Dimension("d", "f", abi.DIM_MASKED, 8, False, False, mask=3, value=2), 6, 2),
        (Dimension("d", "f", abi.DIM_MASKED, 8, False, False, mask=3, value=2), 3, 1),
        (Dimension("d", "f", abi.DIM_PRESENT, 8, False, False), 0, 2),
    ],
)
def test_classes_of_numbers(dimension: Dimension, value: int, number: int) -> None:
    dimension.classes = 4
    _, walker = one_node(dimension, {2: 2})
    assert walker.number(0, Sample({8: value}, {})) == number
    assert walker.number(0, Sample({}, {})) == abi.CLASS_NONE
    assert walker.number(0, Sample({8: None}, {})) == abi.CLASS_UNCERTAIN


def test_walk_needs_only_the_bytes() -> None:
    data, _ = one_node(DIMENSION, {2: 2, 3: 3})
    assert DIMENSION.automaton is not None
    third = next(iter(DIMENSION.automaton.class_sets[3]))
    path = PATHS[third].value.replace("**", "y").encode()
    assert walk(data, 9, {}, {abi.STR_FILE_PATH: path}) == [3]
    assert walk(data, 9, {}, {abi.STR_FILE_PATH: None}) == [1]
    assert walk(data, 9, {}, {}) == [0]
    assert walk(data, 10, {}, {abi.STR_FILE_PATH: path}) == [0]


def test_what_is_no_image_is_refused() -> None:
    data, _ = one_node(DIMENSION, {2: 2})
    for bad in (data[:-4], b"\0" * len(data)):
        with pytest.raises(ValueError, match="not an image"):
            Walker(bad)


def test_a_node_of_too_many_classes_is_refused() -> None:
    dimension = Dimension("d", "f", abi.DIM_RANGE, 8, False, False, classes=150_000, bounds=[(0, 1)])
    with pytest.raises(ImageTooLarge, match="65535"):
        one_node(dimension, {c: c % 70_000 + 1 for c in range(2, 150_000)})


def test_blocks_fill_pages() -> None:
    assert abi.IMAGE_PAGE_WORDS % BLOCK_WORDS == 0, "a row that stays in its block stays in its page"


@pytest.mark.parametrize("events", [(), (9,), (0, 255), (1, 64, 200)])
def test_rows_hold_the_events_that_are_asked_for(events: tuple[int, ...]) -> None:
    row = tuple(~1 if event in events else ~0 for event in range(abi.ABI_MAX_EVENTS))
    group = Group((0,), [], [Leaf((), False)] * 2, [(~0,) * abi.ABI_MAX_EVENTS, row], ~1, 0)
    walker = Walker(make([], group, 2))
    assert walker.header["n_columns"] == len(events) + 1
    for event in range(abi.ABI_MAX_EVENTS):
        assert walker.root(0, 1, event) == abi.IMAGE_LEAF | (event in events)
        assert walker.root(0, 0, event) == abi.IMAGE_LEAF


def looking_at(kind: int, slot: int) -> Dimension:
    return Dimension("d", "f", kind, slot, False, False)


def test_the_path_of_a_unix_socket_is_told_from_addresses() -> None:
    present = looking_at(abi.DIM_PRESENT, abi.ABI_NUM_SLOTS + abi.STR_NET_UNIX_PATH)
    for dimension in (looking_at(abi.DIM_STRING, abi.STR_NET_UNIX_PATH), present):
        assert images.is_addressed(dimension)
        assert images.is_named(dimension)
    for row in ((abi.DIM_STRING, abi.STR_NET_PEER_IP), (abi.DIM_RANGE, abi.STR_NET_UNIX_PATH), (abi.DIM_PRESENT, abi.STR_NET_UNIX_PATH)):
        assert not images.is_named(looking_at(*row))


@pytest.mark.parametrize(
    ("kind", "slot", "mask", "opened"),
    [
        (abi.DIM_BITS, abi.NUM_FILE_FLAGS, os.O_DIRECTORY | os.O_TRUNC, True),
        (abi.DIM_MASKED, abi.NUM_FILE_FLAGS, os.O_DIRECTORY, True),
        (abi.DIM_BITS, abi.NUM_FILE_FLAGS, os.O_DIRECTORY | os.O_NOFOLLOW, False),
        (abi.DIM_RANGE, abi.NUM_FILE_FLAGS, 0, False),
        (abi.DIM_BITS, abi.NUM_FILE_MODE, os.O_TRUNC, False),
    ],
)
def test_of_the_flags_of_an_open_those_are_noted_that_its_note_is_kept_under(kind: int, slot: int, mask: int, opened: bool) -> None:
    assert images.is_opened(Dimension("d", "f", kind, slot, False, False, mask=mask)) is opened


def test_what_the_kernel_may_keep_is_made_of_nothing_else() -> None:
    """Of an access, of a socket, of a subject: each has what the others have not."""
    kept = {
        images.lasts: [(abi.DIM_STRING, abi.STR_FILE_PATH), (abi.DIM_RANGE, abi.NUM_FILE_MEMFD), (abi.DIM_BITS, abi.NUM_FILE_OBJECT)],
        images.is_addressed: [
            (abi.DIM_STRING, abi.STR_NET_PEER_IP),
            (abi.DIM_PRESENT, abi.ABI_NUM_SLOTS + abi.STR_NET_PEER_IP),
            (abi.DIM_RANGE, abi.NUM_NET_LOCAL_PORT),
        ],
        images.is_steady: [(abi.DIM_STRING, abi.STR_PROCESS_EXE), (abi.DIM_RANGE, abi.NUM_PROCESS_UID)],
    }
    changing = [
        (abi.DIM_STRING, abi.STR_PROCESS_ARGS),
        (abi.DIM_STRING, abi.STR_PARENT_EXE),
        (abi.DIM_PRESENT, abi.ABI_NUM_SLOTS + abi.STR_PROCESS_CWD),
        (abi.DIM_RANGE, abi.NUM_FILE_MODE),
        (abi.DIM_RANGE, abi.NUM_NET_SIZE),
        (abi.DIM_RANGE, abi.NUM_PROCESS_PID),
        (abi.DIM_NUMBERS, abi.NUM_NET_LOCAL_PORT),
        (abi.DIM_TEXTS, abi.STR_NET_PEER_IP),
        (abi.DIM_LINEAGE, 0),
        (abi.DIM_ANCESTORS, 0),
    ]
    every = [*changing, *(row for rows in kept.values() for row in rows)]
    for may, rows in kept.items():
        assert [row for row in every if may(looking_at(*row))] == rows
