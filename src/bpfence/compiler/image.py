# SPDX-License-Identifier: Apache-2.0
"""Dimensions, diagrams and verdicts in, the bytes of one table generation out; and the kernel's walk over those bytes.

`pack` is called by `compiler.compile_policies`; `Walker` by `compiler.explain` and the tests: it reads nothing but the bytes and
mirrors bpf/match.h step by step. The layout is the comment in bpf/abi.h.

    pages of words:  header | dimensions | byte classes, bounds, masks of ancestors, verdicts, nodes, rows, concern | automaton rows
Automaton rows have blocks of their own: a row's check word must not be found in anything that is not a row.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Final, NamedTuple

from bpfence import abi
from bpfence.compiler import core
from bpfence.compiler.classes import ARGUMENT_SLOTS, Classification, Dimension
from bpfence.compiler.determinise import Automaton
from bpfence.compiler.diagram import Group, Node
from bpfence.compiler.rows import BLOCK_WORDS, Packer, Rows

HEADER_WORDS: Final = abi.IMAGE_HEADER_SIZE // 4
EVENT_WORDS: Final = 2 * abi.ABI_EVENT_WORDS  # a bit for each event
NAME_WORDS: Final = 2  # of the bits of DIM_ANCESTORS
MAX_CHILDREN: Final = 65535
SMALL_NODE: Final = 32  # classes of a node that is dense whatever that takes: its child is one load, not a search


class ImageTooLarge(Exception):  # noqa: N818  turned into a CompileError by the caller
    """The tables pass what the kernel's maps or a node can hold; the message says which."""


class VerdictRow(NamedTuple):
    """One entry of the verdict table."""

    action: int
    error: int
    report: int
    first: int
    signals: int = 0


class Packed(NamedTuple):
    """The image and how many bytes went into what."""

    image: bytes
    sizes: dict[str, int]


class _Writer:
    """Words in order. Blocks that fit into a page do not cross into the next one."""

    def __init__(self) -> None:
        self.words = array("I")
        assert self.words.itemsize == 4

    def put(self, words: Sequence[int]) -> int:
        room = -len(self.words) % abi.IMAGE_PAGE_WORDS
        if room < len(words) <= abi.IMAGE_PAGE_WORDS:
            self.words.extend([0] * room)
        at = len(self.words)
        self.words.extend(words)
        return at

    def fill_block(self) -> None:
        self.words.extend([0] * (-len(self.words) % BLOCK_WORDS))


ANY_NEEDED: Final = ((1 << 32) - 1,) * abi.NEEDED_EVENTS


def pack(
    classification: Classification, diagrams: Diagrams, verdicts: Sequence[VerdictRow], generation: int, features: int,
    needed: Sequence[int] = ANY_NEEDED,
) -> Packed:  # fmt: skip
    """The image. `needed`: as `lowering.needed_bits`."""
    out = _Writer()
    sizes: dict[str, int] = {}
    dimensions = classification.dimensions
    out.put([0] * HEADER_WORDS)
    dims_ref = out.put([0] * (len(dimensions) * abi.IMAGE_DIM_WORDS))
    automata = _Automata(out)
    refs = [_dimension_ref(out, automata, dimension) for dimension in dimensions]
    lineage = automata.add(classification.lineage) if classification.lineage else None
    masks_ref = out.put([w for mask in classification.lineage_masks for w in _halves(mask, 2 * abi.ABI_LINEAGE_WORDS)])
    names = automata.add(classification.names) if classification.names else None
    names_ref = out.put([w for mask in classification.names_masks for w in _halves(mask, NAME_WORDS)])
    verdicts_ref = out.put([w for v in verdicts for w in (v.action, v.error, v.report, v.first, v.signals & 0xFFFFFFFF, v.signals >> 32)])
    before = len(out.words)
    packed_groups, column, n_columns = diagrams.write(out, dimensions, verdicts)
    sizes["diagrams"] = 4 * (len(out.words) - before)
    out.fill_block()
    before = len(out.words)
    starts = automata.write()
    sizes["automata"] = 4 * (len(out.words) - before)
    if len(out.words) > abi.IMAGE_MAX_PAGES * abi.IMAGE_PAGE_WORDS:
        room = abi.IMAGE_MAX_PAGES * abi.IMAGE_PAGE_BYTES >> 20
        raise ImageTooLarge(f"the tables take {4 * len(out.words) >> 20} MiB, the kernel's map holds {room} MiB")
    for number, (dimension, ref) in enumerate(zip(dimensions, refs, strict=True)):
        at = dims_ref + number * abi.IMAGE_DIM_WORDS
        start = starts[ref] if dimension.automaton else 0
        entry = (dimension.kind, dimension.slot, ref, *_halves(dimension.mask, 2), *_halves(dimension.value, 2), start)
        out.words[at : at + abi.IMAGE_DIM_WORDS] = array("I", entry)
    concern_all = enforcing_all = 0
    for group in packed_groups:
        concern_all |= group.concern_all
        enforcing_all |= group.enforcing_all
    header = {
        "magic": (abi.IMAGE_MAGIC,), "abi": (abi.ABI_VERSION,), "generation": (generation,), "words": (len(out.words),),
        "n_dims": (len(dimensions),), "dims_ref": (dims_ref,), "n_groups": (len(packed_groups),), "verdicts_ref": (verdicts_ref,),
        "n_verdicts": (len(verdicts),), "features": (features,), "lineage_dfa": (lineage or 0,),
        "lineage_masks": (masks_ref if lineage else 0,), "lineage_start": (starts[lineage] if lineage else 0,),
        "names_dfa": (names or 0,), "names_masks": (names_ref if names else 0,), "names_start": (starts[names] if names else 0,),
        "concern_all": _halves(concern_all, EVENT_WORDS), "enforcing_all": _halves(enforcing_all, EVENT_WORDS),
        "subject_root": [g.subject for g in packed_groups],
        "roots_ref": [g.roots for g in packed_groups], "concern_ref": [g.concern for g in packed_groups],
        "lasting": _halves(sum(1 << n for n, dimension in enumerate(dimensions) if lasts(dimension)), 2), "n_columns": (n_columns,),
        "opened": _halves(sum(1 << n for n, dimension in enumerate(dimensions) if is_opened(dimension)), 2),
        "counts": _halves(sum(1 << n for n, dimension in enumerate(dimensions) if dimension.kind == abi.DIM_COUNT), 2),
        "needed": needed,
        "steady": _halves(sum(1 << n for n, dimension in enumerate(dimensions) if is_steady(dimension)), 2),
        "addressed": _halves(sum(1 << n for n, dimension in enumerate(dimensions) if is_addressed(dimension)), 2),
        "named": _halves(sum(1 << n for n, dimension in enumerate(dimensions) if is_named(dimension)), 2),
        "column": struct.unpack(f"<{abi.ABI_MAX_EVENTS // 4}I", bytes(column)),
    }  # fmt: skip
    for name, values in header.items():
        at = abi.IMAGE_HEADER_OFFSETS[name] // 4
        out.words[at : at + len(values)] = array("I", values)
    if sys.byteorder == "big":
        out.words.byteswap()
    image = out.words.tobytes()
    sizes["image"] = len(image)
    return Packed(image, sizes)


def with_generation(image: bytes, generation: int) -> bytes:
    """The same image for another generation."""
    at = abi.IMAGE_HEADER_OFFSETS["generation"]
    return image[:at] + struct.pack("<I", generation) + image[at + 4 :]


def _halves(value: int, words: int) -> tuple[int, ...]:
    return tuple(value >> 32 * n & 0xFFFFFFFF for n in range(words))


def lasts(dimension: Dimension) -> bool:
    """Whether what a dimension looks at of an access stays as it is as long as the files, their names and the process do. Not so what a
    system call can change of a file: owner, mode, flags of its descriptor.
    """
    if dimension.kind == abi.DIM_STRING:
        return dimension.slot in (abi.STR_FILE_PATH, abi.STR_FILE_NEW_PATH)
    return dimension.kind in _NUMBER_KINDS and dimension.slot in _LASTING_NUMBERS


_NUMBER_KINDS: Final = (abi.DIM_RANGE, abi.DIM_BITS, abi.DIM_MASKED, abi.DIM_PRESENT)


_LASTING_NUMBERS: Final = (
    abi.NUM_FILE_ACCESS,
    abi.NUM_FILE_PROT,
    abi.NUM_FILE_MAP_SHARED,
    abi.NUM_FILE_MEMFD,
    abi.NUM_FILE_OBJECT,
    abi.NUM_NEW_OBJECT,
)


def is_opened(dimension: Dimension) -> bool:
    """Whether a dimension looks at nothing but flags of an open that what is noted of it is kept under."""
    flags = dimension.kind in (abi.DIM_BITS, abi.DIM_MASKED) and dimension.slot == abi.NUM_FILE_FLAGS
    return flags and not dimension.mask & ~abi.OPEN_FLAGS_NOTED


def is_access(dimension: Dimension) -> bool:
    """Whether a dimension looks at nothing but the access of an event."""
    return dimension.kind in (abi.DIM_BITS, abi.DIM_MASKED) and dimension.slot == abi.NUM_FILE_ACCESS


def is_addressed(dimension: Dimension) -> bool:
    """Whether a dimension looks at nothing but what `struct socket_facts` (bpf/maps.h) holds of a socket, or at the path of a unix socket,
    which those that have such facts have not.
    """
    slot = dimension.slot
    if dimension.kind == abi.DIM_STRING or (dimension.kind == abi.DIM_PRESENT and slot >= abi.ABI_NUM_SLOTS):
        return slot % abi.ABI_NUM_SLOTS in _ADDRESS_STRINGS
    return dimension.kind in _NUMBER_KINDS and slot in _ADDRESS_NUMBERS


def is_named(dimension: Dimension) -> bool:
    """Whether a dimension looks at the path of a unix socket, or at whether there is one."""
    if dimension.kind == abi.DIM_PRESENT:
        return dimension.slot == abi.ABI_NUM_SLOTS + abi.STR_NET_UNIX_PATH
    return dimension.kind == abi.DIM_STRING and dimension.slot == abi.STR_NET_UNIX_PATH


_ADDRESS_STRINGS: Final = (abi.STR_NET_PEER_IP, abi.STR_NET_LOCAL_IP, abi.STR_NET_UNIX_PATH)
_ADDRESS_NUMBERS: Final = (
    abi.NUM_NET_FAMILY,
    abi.NUM_NET_TYPE,
    abi.NUM_NET_PROTOCOL,
    abi.NUM_NET_PEER_PORT,
    abi.NUM_NET_LOCAL_PORT,
)


def is_steady(dimension: Dimension) -> bool:
    """Whether a dimension of a subject looks at nothing but what `struct known_rows` (bpf/maps.h) is kept under."""
    slot = dimension.slot
    if dimension.kind == abi.DIM_STRING or (dimension.kind == abi.DIM_PRESENT and slot >= abi.ABI_NUM_SLOTS):
        return slot % abi.ABI_NUM_SLOTS in (abi.STR_PROCESS_EXE, abi.STR_PROCESS_NAME, abi.STR_PROCESS_CGROUP)
    return dimension.kind in _NUMBER_KINDS and slot in (abi.NUM_PROCESS_UID, abi.NUM_PROCESS_GID, abi.NUM_WORKLOAD)


def _dimension_ref(out: _Writer, automata: _Automata, dimension: Dimension) -> int:
    if dimension.automaton:
        return automata.add(dimension.automaton, nul_is_blank=dimension.slot in ARGUMENT_SLOTS)
    if dimension.kind == abi.DIM_RANGE:
        return out.put([len(dimension.bounds), *(w for low, number in dimension.bounds for w in (*_halves(low, 2), number))])
    return 0


class _Automata:
    """Byte classes at once, rows at the end, when it is known where their pages begin."""

    def __init__(self, out: _Writer) -> None:
        self.out = out
        self.rows: Rows = core.Packer() if core.BUILT else Packer()
        self.refs: list[int] = []

    def add(self, automaton: Automaton, *, nul_is_blank: bool = False) -> int:
        """Places the rows; returns the ref of the byte classes.

        `nul_is_blank`: the kernel keeps arguments as they lie on the stack, with NUL where the policy sees a blank.
        """
        table = self.rows.add(automaton)
        if nul_is_blank:
            table = table[ord(" ") : ord(" ") + 1] + table[1:]
        self.refs.append(self.out.put(struct.unpack("<64I", table)))
        return self.refs[-1]

    def write(self) -> dict[int, int]:
        """Writes all rows into blocks of their own; ref of the byte classes -> ref of the start state."""
        words, starts = self.rows.write(len(self.out.words))
        self.out.words.extend(words)
        return dict(zip(self.refs, starts, strict=True))


class _PackedGroup(NamedTuple):
    subject: int
    roots: int
    concern: int
    concern_all: int
    enforcing_all: int


class Diagrams:
    """Groups, and the verdict number of each leaf of each group. Their words are kept once they are written: an image in which they begin
    at the same place has the same. `size`: nodes and children; a row takes as much as ROW_SIZE of them.
    """

    def __init__(self, groups: Sequence[Group], leaf_verdicts: Sequence[Sequence[int]]) -> None:
        self.groups = groups
        self.leaf_verdicts = leaf_verdicts
        self.size = sum(ROW_SIZE * len(group.rows) + sum(1 + len(node.children) for node in group.nodes) for group in groups)
        self._written: tuple[int, array[int], list[_PackedGroup], list[int], int] | None = None

    def write(
        self, out: _Writer, dimensions: Sequence[Dimension], verdicts: Sequence[VerdictRow]
    ) -> tuple[list[_PackedGroup], list[int], int]:
        """Put them at the end of an image. Returns where each stands, the column of each event, and how many columns there are."""
        begin = len(out.words)
        known = self._written
        if known is None or known[0] != begin:
            denying = {number for number, verdict in enumerate(verdicts) if verdict.action >= abi.ACTION_DENY}
            column, n_columns = _columns(self.groups)
            packed = [
                _group(out, group, leaves, dimensions, denying, column)
                for group, leaves in zip(self.groups, self.leaf_verdicts, strict=True)
            ]
            known = self._written = begin, out.words[begin:], packed, column, n_columns
        else:
            out.words.extend(known[1])
        return known[2:]


ROW_SIZE: Final = 20


_CHILD: Final = itemgetter(1)


def _columns(groups: Sequence[Group]) -> tuple[list[int], int]:
    """The column of each event in the rows of roots, 0 of those that no group has a diagram for; and how many columns there are."""
    used = sorted({event for group in groups for row in group.rows for event, child in enumerate(row) if child != ~0})
    column = [0] * abi.ABI_MAX_EVENTS
    for number, event in enumerate(used, 1):
        column[event] = number
    return column, len(used) + 1


def _group(
    out: _Writer, group: Group, leaves: Sequence[int], dimensions: Sequence[Dimension], denying: Collection[int], column: Sequence[int]
) -> _PackedGroup:
    """`denying`: the verdicts that deny or kill. `column`: of each event in a row."""
    # By child, which is a node's number, or ~ of a leaf's: Python counts these from the end.
    nodes = len(group.nodes)
    refs = [0] * nodes + [abi.IMAGE_LEAF | verdict for verdict in reversed(leaves)]
    denies = [False] * nodes + [verdict in denying for verdict in reversed(leaves)]
    read_refs = [word != abi.IMAGE_LEAF for word in refs]
    read_denies = [*denies]
    of_subject = [0] * nodes + [abi.IMAGE_LEAF | row for row in reversed(range(len(group.rows)))]
    subjects = _below(group.nodes, group.subject)
    for number, node in enumerate(group.nodes):
        children = (node.uncertain, node.default, *map(_CHILD, node.children))
        words = list(map((of_subject if number in subjects else refs).__getitem__, children))
        if number not in subjects:
            reading = {_of_reading(node, dimensions[node.dimension])} if is_access(dimensions[node.dimension]) else {*children}
            denies[number] = any(map(denies.__getitem__, {*children}))
            read_refs[number] = any(map(read_refs.__getitem__, reading))
            read_denies[number] = any(map(read_denies.__getitem__, reading))
        refs[number] = of_subject[number] = out.put(_node(node, dimensions[node.dimension].classes, words))
    events = sorted((event for event in range(abi.ABI_MAX_EVENTS) if column[event]), key=column.__getitem__)
    rows: list[int] = []
    concern: list[int] = []
    concern_all = enforcing_all = 0
    for row in group.rows:
        mask = enforcing = 0
        rows.append(abi.IMAGE_LEAF)
        for event in events:
            child = row[event]
            word = refs[child]
            rows.append(word)
            mask |= (word != abi.IMAGE_LEAF) << event
            enforcing |= denies[child] << event
        for event, bit in _READING.items():
            mask |= read_refs[row[event]] << bit
            enforcing |= read_denies[row[event]] << bit
        concern += (*_halves(mask, EVENT_WORDS), *_halves(enforcing, EVENT_WORDS))
        concern_all |= mask
        enforcing_all |= enforcing
    return _PackedGroup(of_subject[group.subject], out.put(rows), out.put(concern), concern_all, enforcing_all)


_READING: Final = {abi.EV_FILE_OPEN: abi.CONCERN_OPEN_READ, abi.EV_FILE_PERMISSION: abi.CONCERN_PERMISSION_READ}
"""Events, and their bits in concern tables for an access that only reads."""


def _of_reading(node: Node, dimension: Dimension) -> int:
    """The child of a decision on the access where that is to read and nothing else. An event of _READING always has an access."""
    held = bool(abi.ACCESS_READ & dimension.mask) if dimension.kind == abi.DIM_BITS else abi.ACCESS_READ & dimension.mask == dimension.value
    return dict(node.children).get(2 if held else 1, node.default)


def _below(nodes: Sequence[Node], root: int) -> set[int]:
    """The nodes of a diagram."""
    found: set[int] = set()
    stack = [root]
    while stack:
        number = stack.pop()
        if number >= 0 and number not in found:
            found.add(number)
            stack += {nodes[number].uncertain, nodes[number].default, *map(_CHILD, nodes[number].children)}
    return found


def _node(node: Node, classes: int, words: Sequence[int]) -> list[int]:
    """Dense or sparse, whichever takes fewer words; a sparse node leaves out its most frequent child. `words`: of the uncertain child, of
    the default, and of the others.
    """
    uncertain, default, *children = words
    if classes > SMALL_NODE and len(children) == 1:  # an exception, of which there may be thousands
        others = (node.children[0][0], children[0]) if uncertain == default else (0, uncertain, node.children[0][0], children[0])
        return [node.dimension | abi.NODE_SPARSE << 8, len(others) // 2, default, *others]
    counts = Counter(children)
    counts[default] += classes - 1 - len(children)
    counts[uncertain] += 1
    usual = max(counts, key=lambda child: (counts[child], child == default))
    pairs = classes - counts[usual]
    dense = classes <= SMALL_NODE or 2 + classes <= 3 + 2 * pairs
    if (classes if dense else pairs) > MAX_CHILDREN:
        raise ImageTooLarge(f"a decision has {classes} classes, a node holds {MAX_CHILDREN}")
    numbered = zip((number for number, _ in node.children), children, strict=True)
    if dense or usual != default:
        full = [default] * classes
        full[0] = uncertain
        for number, child in numbered:
            full[number] = child
        if dense:
            return [node.dimension | abi.NODE_DENSE << 8, classes, *full]
        listed = [(number, child) for number, child in enumerate(full) if child != usual]
    else:
        listed = [(number, child) for number, child in chain(((0, uncertain),), numbered) if child != default]
    return [node.dimension | abi.NODE_SPARSE << 8, len(listed), usual, *chain.from_iterable(listed)]


class Step(NamedTuple):
    """One decision of a walk: the dimension, its class, and the ref of the node."""

    dimension: int
    number: int
    node: int


class Walk(NamedTuple):
    """A group's answer: the verdict, the subject's row, and the decisions on the way: the first `subject` of them lead to the row."""

    verdict: int
    row: int
    steps: tuple[Step, ...]
    subject: int


class Walker:
    """The kernel's walk over an image, reading only its bytes."""

    def __init__(self, image: bytes) -> None:
        words = memoryview(image).cast("I") if sys.byteorder == "little" else _swapped(image)
        self.words: Sequence[int] = words
        offsets = abi.IMAGE_HEADER_OFFSETS
        self.header = {name: words[offset // 4] for name, offset in offsets.items()}
        if self.header["magic"] != abi.IMAGE_MAGIC or self.header["words"] * 4 != len(image):
            raise ValueError("not an image")
        at = offsets["subject_root"] // 4
        self.subject_root = [words[at + g] for g in range(abi.ABI_MAX_GROUPS)]
        self.roots_ref = [words[at + abi.ABI_MAX_GROUPS + g] for g in range(abi.ABI_MAX_GROUPS)]
        self.concern_ref = [words[at + 2 * abi.ABI_MAX_GROUPS + g] for g in range(abi.ABI_MAX_GROUPS)]

    def run(self, classes: int, state: int, data: bytes) -> int:
        """The class in which the automaton ends; byte classes at ref `classes`."""
        words = self.words
        for byte in data:
            byte_class = words[classes + byte // 4] >> byte % 4 * 8 & 0xFF
            cell = state & ~(abi.IMAGE_PAGE_WORDS - 1) | (state + 2 * byte_class) & (abi.IMAGE_PAGE_WORDS - 1)
            if words[cell] != state:
                if words[state] & abi.DFA_STOP:
                    break
                cell = state
            state = words[cell + 1]
        return words[state] & abi.DFA_CLASS_MASK

    def lineage(self, executable: bytes) -> int:
        """The lineage bits an executable sets for its descendants."""
        if not self.header["lineage_dfa"]:
            return 0
        number = self.run(self.header["lineage_dfa"], self.header["lineage_start"], executable)
        return self.mask(self.header["lineage_masks"], number, 2 * abi.ABI_LINEAGE_WORDS)

    def names(self, name: bytes) -> int:
        """The bits of DIM_ANCESTORS that a command name sets for those who descend from it."""
        if not self.header["names_dfa"]:
            return 0
        return self.mask(self.header["names_masks"], self.run(self.header["names_dfa"], self.header["names_start"], name), NAME_WORDS)

    def mask(self, ref: int, number: int, size: int) -> int:
        """The mask of a class: `size` words for each from `ref` on."""
        at = ref + number * size
        return sum(self.words[at + n] << 32 * n for n in range(size))

    def number(self, dimension: int, event: Sample) -> int:
        """The class of an event in a dimension."""
        at = self.header["dims_ref"] + dimension * abi.IMAGE_DIM_WORDS
        kind, slot, ref, mask_low, mask_high, value_low, value_high, start = self.words[at : at + abi.IMAGE_DIM_WORDS]
        if kind == abi.DIM_STRING:
            if slot not in event.strs:
                return abi.CLASS_NONE
            text = event.strs[slot]
            return abi.CLASS_UNCERTAIN if text is None else self.run(ref, start, text)
        if kind == abi.DIM_LINEAGE:
            return abi.CLASS_UNCERTAIN if event.lineage is None else 1 + (event.lineage >> slot & 1)
        if kind == abi.DIM_ANCESTORS:
            return abi.CLASS_UNCERTAIN if event.names is None else 1 + (event.names >> slot & 1)
        if kind == abi.DIM_COUNT:
            counted = event.nums.get(abi.NUM_COUNT_0 + (slot & abi.COUNT_NUMBER_MASK), 1)
            return abi.CLASS_UNCERTAIN if counted is None else 2 if counted >= value_low else 1
        if kind == abi.DIM_PRESENT:
            source: Mapping[int, object] = event.nums if slot < abi.ABI_NUM_SLOTS else event.strs
            slot -= 0 if slot < abi.ABI_NUM_SLOTS else abi.ABI_NUM_SLOTS
            return 1 if slot not in source else abi.CLASS_UNCERTAIN if source[slot] is None else 2
        if kind == abi.DIM_TEXTS:
            return _texts(event.strs, slot, mask_low, bool(value_low))
        if slot not in event.nums:
            return abi.CLASS_NONE
        value = event.nums[slot]
        if value is None:
            return abi.CLASS_UNCERTAIN
        if kind == abi.DIM_NUMBERS:
            if mask_low not in event.nums:
                return abi.CLASS_NONE
            other = event.nums[mask_low]
            return abi.CLASS_UNCERTAIN if other is None else _order(value, other)
        mask = mask_low | mask_high << 32
        if kind == abi.DIM_BITS:
            return 2 if value & mask else 1
        if kind == abi.DIM_MASKED:
            return 2 if value & mask == value_low | value_high << 32 else 1
        return self.range_class(ref, value)

    def range_class(self, ref: int, value: int) -> int:
        words = self.words
        low, high = 0, words[ref]
        while high - low > 1:
            middle = (low + high) // 2
            at = ref + 1 + 3 * middle
            if words[at] | words[at + 1] << 32 <= value:
                low = middle
            else:
                high = middle
        return words[ref + 3 + 3 * low]

    def child(self, node: int, number: int) -> int:
        words = self.words
        count = words[node + 1]
        if words[node] >> 8 == abi.NODE_DENSE:
            return words[node + 2 + (number if number < count else abi.CLASS_NONE)]
        low, high = 0, count
        while low < high:
            middle = (low + high) // 2
            found = words[node + 3 + 2 * middle]
            if found == number:
                return words[node + 4 + 2 * middle]
            if found < number:
                low = middle + 1
            else:
                high = middle
        return words[node + 2]

    def descend(self, ref: int, event: Sample, steps: list[Step]) -> int:
        while not ref & abi.IMAGE_LEAF:
            dimension = self.words[ref] & 0xFF
            number = self.number(dimension, event)
            steps.append(Step(dimension, number, ref))
            ref = self.child(ref, number)
        return ref & ~abi.IMAGE_LEAF

    def root(self, group: int, row: int, event_id: int) -> int:
        """Where the diagram of an event begins for a subject."""
        word = self.words[abi.IMAGE_HEADER_OFFSETS["column"] // 4 + event_id // 4]
        return self.words[self.roots_ref[group] + row * self.header["n_columns"] + (word >> event_id % 4 * 8 & 0xFF)]

    def walk(self, event_id: int, event: Sample) -> list[Walk]:
        """Every group's answer."""
        walks = []
        for group in range(self.header["n_groups"]):
            steps: list[Step] = []
            row = self.descend(self.subject_root[group], event, steps)
            subject = len(steps)
            concern = self.concern_ref[group] + abi.IMAGE_CONCERN_WORDS * row
            verdict = 0
            if self.words[concern + event_id // 32] >> event_id % 32 & 1:
                verdict = self.descend(self.root(group, row, event_id), event, steps)
            walks.append(Walk(verdict, row, tuple(steps), subject))
        return walks


def _order(one: int, other: int) -> int:
    return abi.CLASS_LESS if one < other else abi.CLASS_GREATER if one > other else abi.CLASS_SAME


def _texts(strs: Mapping[int, bytes | None], slot: int, other_slot: int, ends: bool) -> int:
    """The class of DIM_TEXTS."""
    if slot not in strs:
        return abi.CLASS_NONE
    one, other = strs[slot], strs.get(other_slot, b"")
    if one is None or other is None:
        return abi.CLASS_UNCERTAIN
    if other_slot not in strs:
        return abi.CLASS_NONE
    size = min(len(one), len(other))
    alike = one[len(one) - size :] == other[len(other) - size :] if ends else one[:size] == other[:size]
    return _order(len(one), len(other)) if alike else abi.CLASS_APART


class Sample(NamedTuple):
    """The values of one event by slot; None is a value that could not be obtained completely.

    `lineage` and `names` are the bits of ancestors, by executable and by name.
    """

    nums: Mapping[int, int | None]
    strs: Mapping[int, bytes | None]
    lineage: int | None = 0
    names: int | None = 0


def walk(
    image: bytes, event_id: int, nums: Mapping[int, int | None], strs: Mapping[int, bytes | None], lineage: int | None = 0,
    names: int | None = 0,
) -> list[int]:  # fmt: skip
    """The verdict number per group, for one event; `Walker` for many."""
    return [answer.verdict for answer in Walker(image).walk(event_id, Sample(nums, strs, lineage, names))]


def _swapped(image: bytes) -> array[int]:
    words = array("I", image)
    words.byteswap()
    return words
