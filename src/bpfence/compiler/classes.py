# SPDX-License-Identifier: Apache-2.0
"""Atoms in, dimensions and their classes out.

Called by `compiler.compile_policies`: `Tests` first collects every test that the rules make (`lower` turns a field's atom into a
Test), then `dimensions` groups them. A dimension maps an event to a class number; a test is the set of classes in which it is
true. String tests on one slot share an automaton, number ranges on one slot share a sorted list of bounds; a bit test, a presence
test, an object set or a bit of ancestors (their executables, their names) is a boolean dimension of its own. What compares two
fields shares one dimension for the two, whatever it asks of them. Nothing here knows rules beyond the place to blame.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Final, NamedTuple, TypeVar

import msgspec

from bpfence import abi
from bpfence.compiler import automaton as dfa
from bpfence.compiler.automaton import Pattern
from bpfence.compiler.determinise import Automaton, TooManyStates
from bpfence.errors import CompileError, Diagnostic, Location
from bpfence.fields import FIELD_BY_NAME, KERNEL_FIELDS, Field, Kind
from bpfence.glob import GlobError
from bpfence.policy import COMPARISONS, COUNTED_BY, Atom, Op

MAX_LINEAGE: Final = 64 * abi.ABI_LINEAGE_WORDS
MAX_NAMES: Final = 64
MAX_OBJECTS: Final = 64
MAX_NUMBER: Final = (1 << 64) - 1
OBJECT_SLOTS: Final = {"file.path": abi.NUM_FILE_OBJECT, "file.new_path": abi.NUM_NEW_OBJECT}
STRING_KINDS: Final = (Kind.PATH, Kind.STRING, Kind.ADDRESS)
SUBJECT_ORDER: Final = (
    abi.STR_PROCESS_EXE, abi.STR_PROCESS_NAME, abi.STR_PROCESS_CGROUP, abi.STR_PARENT_EXE, abi.STR_PROCESS_ARGS,
)  # fmt: skip
"""Short texts first: what they exclude spares the walk over all arguments."""
DESCENT: Final = (abi.DIM_LINEAGE, abi.DIM_ANCESTORS)
ANCESTOR_NAMES: Final = "process.ancestors.name"
PATH_SLOTS: Final = (abi.STR_PROCESS_CWD, abi.STR_TARGET_EXE, abi.STR_NET_UNIX_PATH, abi.STR_FILE_PATH, abi.STR_FILE_NEW_PATH)
ARGUMENT_SLOTS: Final = (abi.STR_PROCESS_ARGS, abi.STR_PARENT_ARGS)
LATE_SLOTS: Final = (abi.STR_FILE_TEXT, abi.STR_TARGET_CGROUP, abi.STR_PARENT_NAME, abi.STR_PARENT_ARGS)
"""Texts that are asked for last: a path, or what else an event brings, has decided most events by then."""
LOOKED_UP: Final = (
    abi.NUM_PROCESS_CAPS, abi.NUM_CAPS_PERMITTED, abi.NUM_CAPS_INHERITABLE, abi.NUM_TTY, abi.NUM_EXE_FLAGS,
    abi.NUM_ENTERED, abi.NUM_FILE_PROC_PID, abi.NUM_TARGET_REGISTERED,
    *range(abi.NUM_NS_UTS, abi.NUM_CAPS_INHERITABLE_CHANGED + 1),
)  # fmt: skip
"""Numbers that no hook brings."""


class Pair(NamedTuple):
    """What two slots have to be to each other: the greater of them, the classes of DIM_NUMBERS or DIM_TEXTS that are asked for, and
    whether texts are compared from their ends.
    """

    other: int
    wanted: tuple[int, ...]
    ends: bool = False


class Counter(NamedTuple):
    """What a rule counts: the rule, by a number of 64 bits that is the same whenever the policies are compiled; from how many events on
    within how many milliseconds, by which of COUNT_BY_*, it is enough; and whether that is told once in a window."""

    rule: int
    events: int
    within: int
    by: int
    once: bool


TestValue = Counter | Pattern | Pair | tuple[int, int] | int | frozenset[str] | frozenset[Pattern] | None


class Test(NamedTuple):
    """One test as the kernel can make it.

    `kind` is DIM_*; `value` is a Pattern (DIM_STRING), inclusive bounds (DIM_RANGE), a mask or the paths of object sets
    (DIM_BITS), mask and wanted value (DIM_MASKED), None (DIM_PRESENT), a Pair (DIM_NUMBERS, DIM_TEXTS), a Counter (DIM_COUNT),
    or the alternatives of a bit of ancestors (DIM_LINEAGE: their executables, DIM_ANCESTORS: their names).
    """

    kind: int
    slot: int
    value: TestValue

    @property
    def paths(self) -> list[str]:
        """Of a test on object sets: their paths, sorted."""
        return sorted(str(path) for path in self.value) if self.kind == abi.DIM_BITS and isinstance(self.value, frozenset) else []

    @property
    def ancestors(self) -> list[Pattern]:
        """Of a test on ancestors: its alternatives, sorted."""
        if self.kind not in DESCENT or not isinstance(self.value, frozenset):
            return []
        found = [pattern for pattern in self.value if isinstance(pattern, Pattern)]
        return sorted(found, key=lambda pattern: (pattern.text, pattern.op.value))


def either(one: Test, other: Test) -> Test:
    """The test that one or the other holds, for two tests of bits, object sets, ancestors or contained texts on one slot."""
    if isinstance(one.value, Pattern) and isinstance(other.value, Pattern):
        values = dict.fromkeys((*_values(one.value), *_values(other.value)))
        return Test(one.kind, one.slot, Pattern(one.value.op, tuple(sorted(values)) if len(values) > 1 else next(iter(values))))
    if isinstance(one.value, int) and isinstance(other.value, int):
        return Test(one.kind, one.slot, one.value | other.value)
    if one.kind in DESCENT:
        return Test(one.kind, one.slot, frozenset((*one.ancestors, *other.ancestors)))
    return Test(one.kind, one.slot, frozenset((*one.paths, *other.paths)))


def _values(pattern: Pattern) -> tuple[str, ...]:
    return (pattern.value,) if isinstance(pattern.value, str) else pattern.value


class Dimension(msgspec.Struct):
    """One column of the diagrams. `joined`: class 0 (uncertain) can really occur.

    Of DIM_NUMBERS and DIM_TEXTS `mask` is the other slot, and `value` 1 where texts are compared from their ends. Of DIM_COUNT `mask`
    is the rule's number, `value` and `slot` are as in struct image_dim.
    """

    name: str
    field: str
    kind: int
    slot: int
    subject: bool
    joined: bool
    classes: int = 3
    mask: int = 0
    value: int = 0
    automaton: Automaton | None = None
    bounds: list[tuple[int, int]] = msgspec.field(default_factory=list)  # DIM_RANGE: lower bound, class
    column: int = -1  # where it stands once more among the columns of a diagram: the number of the dimension that it is

    @property
    def states(self) -> int:
        return len(self.automaton.default) if self.automaton else 0


class Unsupported(ValueError):  # noqa: N818  the reason inside a diagnostic, never seen by itself
    """An atom that the kernel cannot decide; the message is the reason."""


@lru_cache(maxsize=32768)
def lower(atom: Atom) -> Test | None:
    """The kernel's test for an atom, None where it is never true; Unsupported with the reason otherwise."""
    field = KERNEL_FIELDS.get(atom.field)
    if field is None:
        raise Unsupported("no such field")
    if not field.kernel:
        raise Unsupported("the field is known to user space only")
    if atom.op is Op.OBJECT:
        if atom.field not in OBJECT_SLOTS or not isinstance(atom.value, str):
            raise Unsupported("object identity is only known for file.path and file.new_path")
        return Test(abi.DIM_BITS, OBJECT_SLOTS[atom.field], frozenset((atom.value,)))
    if field.kind is Kind.STRINGS:
        pattern = Pattern(Op.GLOB, "**") if atom.op is Op.EXISTS else _pattern(atom)
        return Test(abi.DIM_ANCESTORS if field.name == ANCESTOR_NAMES else abi.DIM_LINEAGE, 0, frozenset((pattern,)))
    slot = abi.CONSTANTS[field.slot]
    if atom.op in COMPARISONS:
        return _lower_comparison(atom.op, field, FIELD_BY_NAME.get(str(atom.value)))
    if field.kind in STRING_KINDS:
        if atom.op is Op.EXISTS:
            return Test(abi.DIM_PRESENT, abi.ABI_NUM_SLOTS + slot, None)
        if field.kind is Kind.ADDRESS:
            atom = Atom(atom.field, Op.CIDR, atom.value) if atom.op is Op.EQUALS else atom
        if (field.kind is Kind.ADDRESS) != (atom.op is Op.CIDR):
            raise Unsupported(f"{atom.op.value} does not test {'an address' if field.kind is Kind.ADDRESS else 'a string'}")
        return Test(abi.DIM_STRING, slot, _pattern(atom))
    return _lower_number(atom, slot)


_NUMBERS: Final = {
    Op.SAME: (abi.CLASS_SAME,), Op.DIFFERENT: (abi.CLASS_LESS, abi.CLASS_GREATER), Op.LESS: (abi.CLASS_LESS,),
}  # fmt: skip
_TEXTS: Final = {
    Op.SAME: (abi.CLASS_SAME,), Op.DIFFERENT: (abi.CLASS_LESS, abi.CLASS_GREATER, abi.CLASS_APART),
    Op.BEGINS: (abi.CLASS_SAME, abi.CLASS_GREATER), Op.ENDS: (abi.CLASS_SAME, abi.CLASS_GREATER),
}  # fmt: skip
"""The classes in which a comparison of two fields is true, where the slot of the first is the smaller one."""
_TURNED: Final = {abi.CLASS_LESS: abi.CLASS_GREATER, abi.CLASS_GREATER: abi.CLASS_LESS}


def _lower_comparison(op: Op, field: Field, other: Field | None) -> Test:
    """The front end has seen to it that it makes sense; here it must only be possible."""
    if other is None or not other.kernel or not other.slot or (field.kind in STRING_KINDS) != (other.kind in STRING_KINDS):
        raise Unsupported("the two fields cannot be compared")
    texts = field.kind in STRING_KINDS
    slots = abi.CONSTANTS[field.slot], abi.CONSTANTS[other.slot]
    wanted = (_TEXTS if texts else _NUMBERS).get(op)
    if wanted is None or slots[0] == slots[1]:
        raise Unsupported("a field is compared with itself" if wanted else f"{op.value} does not compare numbers")
    if slots[0] > slots[1]:
        wanted = tuple(sorted(_TURNED.get(number, number) for number in wanted))
    return Test(abi.DIM_TEXTS if texts else abi.DIM_NUMBERS, min(slots), Pair(max(slots), wanted, op is Op.ENDS))


def _pattern(atom: Atom) -> Pattern:
    if not isinstance(atom.value, str):
        raise Unsupported(f"{atom.op.value} takes a string, not {atom.value!r}")
    pattern = Pattern(atom.op, atom.value)
    try:
        dfa.pieces(pattern)
    except GlobError as error:
        raise Unsupported(f"{error}{': ' + error.hint if error.hint else ''}") from None
    except ValueError as error:
        raise Unsupported(str(error)) from None
    return pattern


def _lower_number(atom: Atom, slot: int) -> Test | None:
    value = atom.value
    match atom.op:
        case Op.EXISTS:
            return Test(abi.DIM_PRESENT, slot, None)
        case Op.EQUALS if isinstance(value, int) or (isinstance(value, str) and value.isdecimal()):
            number = int(value)
            return Test(abi.DIM_RANGE, slot, (number, number)) if 0 <= number <= MAX_NUMBER else None
        case Op.EQUALS:
            raise Unsupported(f"{value!r} is a name that was not resolved to a number")
        case Op.RANGE if isinstance(value, tuple):
            low, high = max(value[0], 0), min(value[1], MAX_NUMBER)
            return Test(abi.DIM_RANGE, slot, (low, high)) if low <= high else None
        case Op.ANYBITS if isinstance(value, int):
            return Test(abi.DIM_BITS, slot, value & MAX_NUMBER) if value & MAX_NUMBER else None
        case Op.MASKED if isinstance(value, tuple):
            mask, wanted = value[0] & MAX_NUMBER, value[1]
            if wanted & ~mask:
                return None
            if mask == wanted and mask.bit_count() == 1:
                return Test(abi.DIM_BITS, slot, mask)
            return Test(abi.DIM_MASKED, slot, (mask, wanted))
    raise Unsupported(f"{atom.op.value} does not test a number")


class Classification(NamedTuple):
    """All dimensions, in diagram order (subject ones first), and each test's dimension and classes in which it is true."""

    dimensions: list[Dimension]
    subjects: int
    of_test: dict[Test, tuple[int, tuple[int, ...]]]
    objects: tuple[str, ...]
    lineage: Automaton | None
    lineage_masks: list[int]
    names: Automaton | None = None
    names_masks: Sequence[int] = ()


class Use(NamedTuple):
    """Where a test comes from: the field as written, the place to blame, and of a comparison the other field.

    `apart`: it has an automaton with all that have the same here, in which with `first` what is found first ends the search.
    """

    field: str
    location: Location
    other: str = ""
    apart: str = ""
    first: bool = False


def classify(tests: dict[Test, Use], budget: int | None = None) -> Classification:
    """Dimensions for the tests; CompileError beyond the kernel's limits. `budget`: states per automaton."""
    drafts: list[tuple[tuple[int, ...], Dimension, list[tuple[Test, tuple[int, ...]]]]] = []
    groups: dict[tuple[int, int, str], list[Test]] = {}
    for test, use in tests.items():
        if test.kind in (abi.DIM_STRING, abi.DIM_RANGE):
            groups.setdefault((test.kind, test.slot, use.apart or _apart(test)), []).append(test)
    for (kind, slot, apart), members in groups.items():
        use = tests[members[0]]
        found = _strings(slot, members, tests, budget, apart) if kind == abi.DIM_STRING else [_ranges(slot, members, use)]
        after = len(tests) if apart else 0  # what is decided soonest comes first
        drafts += [(_order(dimension, after + n), dimension, truth) for n, (dimension, truth) in enumerate(found)]
    paths = _numbered(tests, ((test, path) for test in tests for path in test.paths), MAX_OBJECTS, "object paths (follow: object)")
    lineage = [test for test in tests if test.kind == abi.DIM_LINEAGE]
    bits = _numbered(tests, ((test, test) for test in lineage), MAX_LINEAGE, "different conditions on ancestors")
    names = [test for test in tests if test.kind == abi.DIM_ANCESTORS]
    bits |= _numbered(tests, ((test, test) for test in names), MAX_NAMES, "different conditions on names of ancestors")
    booleans = (abi.DIM_BITS, abi.DIM_MASKED, abi.DIM_PRESENT, *DESCENT)
    for n, (test, use) in enumerate((t, u) for t, u in tests.items() if t.kind in booleans):
        dimension = _boolean(test, use, bits.get(test, 0), paths)
        drafts.append((_order(dimension, n), dimension, [(test, (2,))]))
    drafts += [(_order(dimension, len(tests)), dimension, truth) for dimension, truth in _pairs(tests)]
    drafts += [(_order(dimension, n), dimension, [(test, (2,))]) for n, (test, dimension) in enumerate(_counters(tests))]
    drafts.sort(key=lambda draft: draft[0])
    if len(drafts) > abi.ABI_MAX_DIMS:
        last = tests[drafts[-1][2][0][0]]
        raise CompileError(
            [
                Diagnostic(
                    last.location,
                    f"the policies test {len(drafts)} different dimensions, the kernel tables hold {abi.ABI_MAX_DIMS}",
                    "every different set of flags, ancestor condition and object path is one dimension: share them between rules",
                    code="too-many-dimensions",
                )
            ]
        )
    of_test = {test: (number, classes) for number, (_, _, truth) in enumerate(drafts) for test, classes in truth}
    dimensions = [dimension for _, dimension, _ in drafts]
    subjects = sum(d.subject for d in dimensions)
    descent = (*_descent(lineage, tests, budget), *_descent(names, tests, budget))
    return Classification(dimensions, subjects, of_test, tuple(paths), *descent)


def _apart(test: Test) -> str:
    """Patterns that have automata of their own, by what is added to the field's name.

    Those without regard to case would multiply with the others. Those that may match anywhere in arguments have to see them to the end:
    what they begin with is decided sooner, and even where the rest was cut off.
    """
    if not isinstance(test.value, Pattern):
        return ""
    if test.value.op is Op.ICONTAINS:
        return " (any case)"
    return " (anywhere)" if test.slot in ARGUMENT_SLOTS and dfa.is_loose(test.value) else ""


Key = TypeVar("Key")


def _numbered(tests: dict[Test, Use], found: Iterable[tuple[Test, Key]], limit: int, what: str) -> dict[Key, int]:
    """Bit numbers in order of appearance; CompileError at the first that is too many."""
    numbers: dict[Key, int] = {}
    for test, key in found:
        if numbers.setdefault(key, len(numbers)) >= limit:
            hint = "cover several of them by one pattern"
            raise CompileError([Diagnostic(tests[test].location, f"more than {limit} {what}", hint, code="too-many-bits")])
    return numbers


def _order(dimension: Dimension, number: int) -> tuple[int, ...]:
    """Sorting key of a dimension: the subject's, then cheap numbers, object sets, strings, paths, numbers that are looked up, parents,
    texts that are compared, names of ancestors.
    """
    slot = dimension.slot
    if dimension.kind == abi.DIM_COUNT:
        return 2, number
    if dimension.subject:
        if dimension.kind == abi.DIM_LINEAGE:
            return 0, len(SUBJECT_ORDER) + 1, slot, 0, number
        if dimension.kind == abi.DIM_STRING:
            return 0, SUBJECT_ORDER.index(slot), 1, 0, number
        if dimension.kind == abi.DIM_PRESENT and slot >= abi.ABI_NUM_SLOTS:
            return 0, SUBJECT_ORDER.index(slot - abi.ABI_NUM_SLOTS), 0, 0, number
        return 0, len(SUBJECT_ORDER), slot, dimension.kind, number
    if dimension.kind == abi.DIM_ANCESTORS:
        return 1, 5, slot, 0, number
    if dimension.kind == abi.DIM_TEXTS:
        return 1, 4, len(LATE_SLOTS), slot, dimension.mask, dimension.value
    if dimension.kind == abi.DIM_NUMBERS and dimension.mask in LOOKED_UP:
        return 1, 3, len(PATH_SLOTS), slot, dimension.kind, number
    if slot in LOOKED_UP and dimension.kind not in (abi.DIM_STRING, abi.DIM_LINEAGE) and not dimension.joined:
        return 1, 3, len(PATH_SLOTS), slot, dimension.kind, number
    if dimension.kind != abi.DIM_STRING:
        late = 1 if dimension.joined else 0
        return 1, late, slot, dimension.kind, number
    if slot in PATH_SLOTS:
        return 1, 3, PATH_SLOTS.index(slot), 0, number
    if slot in LATE_SLOTS:
        return 1, 4, LATE_SLOTS.index(slot), 0, number
    return 1, 2, slot, 0, number


def _strings(
    slot: int, members: Sequence[Test], tests: dict[Test, Use], budget: int | None, apart: str = ""
) -> list[tuple[Dimension, list[tuple[Test, tuple[int, ...]]]]]:
    use = tests[members[0]]
    patterns = [test.value for test in members if isinstance(test.value, Pattern)]
    try:
        automata = dfa.build_all(patterns, budget, use.first)
    except TooManyStates as error:
        raise _too_large(tests[members[patterns.index(error.args[0])]], error.args[0]) from None
    out = []
    for number, (automaton, numbers) in enumerate(automata):
        name = f"{use.field}{apart}" + ("" if len(automata) == 1 else f"#{number + 1}")
        dimension = Dimension(name, use.field, abi.DIM_STRING, slot, KERNEL_FIELDS[use.field].subject, True)
        dimension.classes, dimension.automaton = len(automaton.class_sets), automaton
        out.append((dimension, [(members[n], classes) for n, classes in zip(numbers, _truth(automaton, len(numbers)), strict=True)]))
    return out


def _truth(automaton: Automaton, patterns: int) -> list[tuple[int, ...]]:
    classes: list[list[int]] = [[] for _ in range(patterns)]
    for number, members in enumerate(automaton.class_sets):
        for pattern in members:
            classes[pattern].append(number)
    return [tuple(numbers) for numbers in classes]


def _too_large(use: Use, pattern: Pattern) -> CompileError:
    return CompileError(
        [
            Diagnostic(
                use.location,
                f"{use.field}: the pattern {pattern.text!r} needs too large an automaton",
                "write fewer '?' or sets after '**'",
                code="pattern-too-large",
            )
        ]
    )


def _ranges(slot: int, members: Sequence[Test], use: Use) -> tuple[Dimension, list[tuple[Test, tuple[int, ...]]]]:
    """Sorted bounds; segments in which the same tests hold share a class, those in which none holds have class 1."""
    spans = [test.value for test in members if isinstance(test.value, tuple) and not isinstance(test.value, (Pattern, Pair, Counter))]
    starts: dict[int, list[int]] = {0: []}
    ends: dict[int, list[int]] = {}
    for number, (low, high) in enumerate(spans):
        starts.setdefault(low, []).append(number)
        ends.setdefault(high + 1, []).append(number)
    active: dict[int, None] = {}
    numbers: dict[frozenset[int], int] = {frozenset(): abi.CLASS_NONE}
    bounds: list[tuple[int, int]] = []
    for lower_bound in sorted({*starts, *ends}):
        if lower_bound > MAX_NUMBER:
            break
        for number in ends.get(lower_bound, ()):
            del active[number]
        active.update(dict.fromkeys(starts.get(lower_bound, ())))
        number = numbers.setdefault(frozenset(active), len(numbers) + 1)
        if not bounds or bounds[-1][1] != number:
            bounds.append((lower_bound, number))
    truth: list[list[int]] = [[] for _ in spans]
    for active_set, number in numbers.items():
        for member in sorted(active_set):
            truth[member].append(number)
    dimension = Dimension(use.field, use.field, abi.DIM_RANGE, slot, KERNEL_FIELDS[use.field].subject, False)
    dimension.classes, dimension.bounds = len(numbers) + 1, bounds
    return dimension, [(test, tuple(sorted(t))) for test, t in zip(members, truth, strict=True)]


def _pairs(tests: dict[Test, Use]) -> Iterator[tuple[Dimension, list[tuple[Test, tuple[int, ...]]]]]:
    """A dimension for each two slots that are compared with each other."""
    groups: dict[tuple[int, int, int, bool], list[tuple[Test, Pair]]] = {}
    for test in tests:
        if isinstance(test.value, Pair):
            groups.setdefault((test.kind, test.slot, test.value.other, test.value.ends), []).append((test, test.value))
    for (kind, slot, other, ends), members in groups.items():
        use = tests[members[0][0]]
        names = sorted((use.field, use.other), key=lambda name: abi.CONSTANTS[FIELD_BY_NAME[name].slot])
        texts = kind == abi.DIM_TEXTS
        name = " against ".join(names) + (" from the end" if ends else "")
        dimension = Dimension(name, names[0], kind, slot, False, texts, mask=other, value=int(ends))
        dimension.classes = 1 + (abi.CLASS_APART if texts else abi.CLASS_GREATER)
        yield dimension, [(test, pair.wanted) for test, pair in members]


def _counters(tests: dict[Test, Use]) -> Iterator[tuple[Test, Dimension]]:
    """The dimensions of rules that count. CompileError: there are too many."""
    found = [(test, test.value) for test in tests if isinstance(test.value, Counter)]
    if len(found) > abi.COUNTERS:
        what = f"{len(found)} rules count, the kernel has room for {abi.COUNTERS}"
        hint = "count several events, or values of a field, by one rule"
        raise CompileError([Diagnostic(tests[found[abi.COUNTERS][0]].location, what, hint, code="too-many-counters")])
    for number, (test, counter) in enumerate(found):
        name = f"{counter.events} times in {counter.within / 1000:g}s by {COUNTED_BY[counter.by - 1]}, {tests[test].apart}"
        dimension = Dimension(name, "", abi.DIM_COUNT, number, False, True, mask=counter.rule)
        dimension.slot |= counter.by << abi.COUNT_BY_SHIFT | counter.once * abi.COUNT_ONCE
        dimension.value = counter.events | counter.within * 1000 // abi.COUNTED_STEPS << 32
        yield test, dimension


def _boolean(test: Test, use: Use, bit: int, objects: dict[str, int]) -> Dimension:
    field = KERNEL_FIELDS[use.field]
    dimension = Dimension(use.field, use.field, test.kind, test.slot, field.subject, False)
    value = test.value
    if test.kind in DESCENT:
        dimension.slot, dimension.joined = bit, True
        dimension.name = f"{use.field}~{'|'.join(p.text for p in test.ancestors)}"
    elif test.paths:
        dimension.mask, dimension.joined = sum(1 << objects[path] for path in test.paths), True
        dimension.name = f"{use.field} is object {'|'.join(test.paths)}"
    elif isinstance(value, int):
        dimension.mask = value
        dimension.name = f"{use.field}&{value:#x}"
    elif value is None:
        dimension.joined = test.slot >= abi.ABI_NUM_SLOTS
        dimension.name = f"{use.field} exists"
    elif isinstance(value, tuple) and not isinstance(value, (Pattern, Pair, Counter)):
        dimension.mask, dimension.value = value[0], int(value[1])
        dimension.name = f"{use.field}&{dimension.mask:#x}=={dimension.value:#x}"
    return dimension


def _descent(tests: Iterable[Test], uses: dict[Test, Use], budget: int | None) -> tuple[Automaton | None, list[int]]:
    """The automaton over executables or names and, per class of it, the bits that one of that class sets."""
    alternatives = [(bit, test, pattern) for bit, test in enumerate(tests) for pattern in test.ancestors]
    if not alternatives:
        return None, []
    numbers = {pattern: n for n, pattern in enumerate(dict.fromkeys(p for _, _, p in alternatives))}
    try:
        automaton = dfa.build(list(numbers), budget)
    except TooManyStates:
        use = uses[alternatives[0][1]]
        raise CompileError(
            [
                Diagnostic(
                    use.location,
                    "the conditions on ancestors together need too large an automaton",
                    "anchor the patterns: /usr/sbin/x rather than **/x",
                    code="pattern-too-large",
                )
            ]
        ) from None
    bits_of: dict[int, int] = {}
    for bit, _, pattern in alternatives:
        bits_of[numbers[pattern]] = bits_of.get(numbers[pattern], 0) | 1 << bit
    masks = []
    for members in automaton.class_sets:
        mask = 0
        for pattern_number in members:
            mask |= bits_of[pattern_number]
        masks.append(mask)
    return automaton, masks
