# SPDX-License-Identifier: Apache-2.0
"""The compiled twin of `plain` and itself: on every record, and on what is none, both say the same."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfence import abi
from bpfence.events import _record, plain, records
from tests.unit.events.samples import record

SLOTS = sorted(slot for slot in abi.NUM_SLOT.values() if slot >= abi.ABI_NUM_IN_HEADER)
NUMBERS = st.dictionaries(st.sampled_from(SLOTS), st.integers(0, (1 << 64) - 1)).map(
    lambda numbers: {slot: value if slot >= abi.ABI_NUM_WIDE else value & 0xFFFFFFFF for slot, value in numbers.items()}
)
STRINGS = st.dictionaries(st.sampled_from(sorted(abi.STR_SLOT.values())), st.binary(max_size=60))
NAMES = tuple(records.EVENT_NAMES.get(number) for number in range(abi.ABI_MAX_EVENTS))
MEMBERS = sorted(name for name in plain.Record.__slots__ if not name.startswith("_"))
KINDS = ("LITERAL", "ARGUMENT", "OPEN", "CLOSE", "TEXT", "NUMBER", "SIGNED", "STRING_TABLE", "NUMBER_TABLE")


def same(data: bytes) -> None:
    """Both twins make the same of some bytes."""
    compiled, reference = _record.decode("decisions", data, NAMES), plain.decode("decisions", data, NAMES)
    if isinstance(compiled, str):
        assert compiled == reference
        return
    assert isinstance(reference, plain.Record)
    assert [getattr(compiled, name) for name in MEMBERS] == [getattr(reference, name) for name in MEMBERS]
    assert all(compiled.number(slot, -1) == reference.number(slot, -1) for slot in range(abi.ABI_NUM_SLOTS))
    assert all(compiled.string(slot) == reference.string(slot) for slot in range(abi.ABI_STR_SLOTS))
    for masks in (records.SUBJECT, bytes(len(records.SUBJECT)), b"\xff" * len(records.SUBJECT)):
        assert compiled.subject(masks) == reference.subject(masks)
        assert compiled.kind(masks) == reference.kind(masks)


def test_kinds_of_ops_have_the_same_numbers() -> None:
    assert [getattr(_record, kind) for kind in KINDS] == [getattr(plain, kind) for kind in KINDS] == list(range(len(KINDS)))


@given(NUMBERS, STRINGS, st.lists(st.integers(0, 1 << 31), max_size=abi.ABI_MAX_GROUPS), st.binary(max_size=9))
def test_twins_on_records(numbers: dict[int, int], strings: dict[int, bytes], verdicts: list[int], padding: bytes) -> None:
    named = {NAME_OF_NUMBER[slot]: value for slot, value in numbers.items()}
    same(record("file.open", named, {NAME_OF_STRING[slot]: value for slot, value in strings.items()}, verdicts=tuple(verdicts)) + padding)


NAME_OF_NUMBER = {slot: name for name, slot in abi.NUM_SLOT.items()}
NAME_OF_STRING = {slot: name for name, slot in abi.STR_SLOT.items()}
WHOLE = record(
    "file.open", {"NUM_FILE_INO": 7, "NUM_FILE_MODE": 5, "NUM_TTY": 3, "NUM_RESULT": (1 << 64) - 2},
    {"STR_FILE_PATH": b"/a", "STR_PROCESS_CWD": b"/", "STR_FILE_FSTYPE": b"ext4"}, verdicts=(1, 2),
)  # fmt: skip


@given(st.binary(max_size=700))
def test_twins_on_garbage(data: bytes) -> None:
    same(data)


@given(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=8), st.integers(0, len(WHOLE)))
def test_twins_on_records_that_were_changed(at: int, data: bytes, cut: int) -> None:
    changed = bytearray(WHOLE)
    changed[at : at + len(data)] = data
    same(bytes(changed))
    same(bytes(changed[:cut]))


def test_twins_on_each_byte_of_the_sizes() -> None:
    for name in ("abi", "type", "n_verdicts", "size", "event", "n_strings", "text_size", "num_words"):
        at = abi.EVENT_HEADER_OFFSETS[name]
        for value in range(256):
            same(WHOLE[:at] + bytes([value]) + WHOLE[at + 1 :])


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[tuple[str, bytes]], list[bytes]]:
    """Records of few kinds by few processes, with gaps and garbage among them; and those of which it is known that they come to nothing."""
    kinds = draw(st.lists(st.builds(dict, pid=st.integers(1, 2), flags=st.sampled_from([0, 16]), verdicts=st.sampled_from([(1,), (1, 2)]))))
    made: list[tuple[str, bytes]] = []
    sequence = 1
    for number in draw(st.lists(st.integers(-1, len(kinds) - 1), max_size=20)):
        sequence += draw(st.sampled_from([1, 1, 1, 2]))
        given = {"sequence": sequence, "stream": draw(st.sampled_from([0, 0, 1])), "time": 1000 + sequence}
        result = {"NUM_RESULT": draw(st.sampled_from([3, (1 << 64) - 2])), "NUM_CALL": draw(st.sampled_from([2, 257]))}
        data = b"garbage" if number < 0 else record("file.open", result, {"STR_FILE_PATH": b"/a"}, **given, **kinds[number])
        made.append((draw(st.sampled_from(["decisions", "candidates"])), data))
    known = draw(st.lists(st.sampled_from([data for _, data in made if data != b"garbage"] or [b""]), max_size=4))
    return made, [data for data in known if data]


def shown(item: object) -> object:
    return item if isinstance(item, tuple) else (item.buffer, item.sequence, item.pid, item.kind(records.SUBJECT))  # type: ignore[attr-defined]


@given(batches())
def test_twins_sift_the_same_and_miss_nothing(given: tuple[list[tuple[str, bytes]], list[bytes]]) -> None:
    batch, nothing = given
    kept = {}
    for number, data in enumerate(nothing):
        found = _record.decode("", data, NAMES)
        assert not isinstance(found, str)
        kept[found.kind(records.SUBJECT)] = ("first", "second")[number % 2]
    compiled, reference = (twin.sift(batch, NAMES, records.SUBJECT, kept) for twin in (_record, plain))
    assert [shown(item) for item in compiled] == [shown(item) for item in reference]
    alone = [plain.decode(buffer, data, NAMES) for buffer, data in batch]
    passed = [one for one in alone if not isinstance(one, str) and one.kind(records.SUBJECT) in kept]
    runs = [item for item in compiled if isinstance(item, tuple) and len(item) == 6]
    spread = [(buffer, stream, first + n, by) for by, buffer, stream, first, count, _ in runs for n in range(count)]
    assert spread == [(one.buffer, one.stream, one.sequence, kept[one.kind(records.SUBJECT)]) for one in passed]
    assert len(compiled) - len(runs) == len(alone) - len(passed)
    assert {run[5] for run in runs} <= {one.time for one in passed}


@pytest.mark.parametrize("twin", [_record, plain])
def test_what_makes_another_kind(twin: type[plain]) -> None:  # type: ignore[valid-type]
    changes: list[tuple[str, dict[str, int], dict[str, bytes], dict[str, Any]]] = [
        ("file.open", {"NUM_RESULT": 0}, {}, {}), ("file.mmap", {"NUM_RESULT": 0}, {}, {}), ("file.open", {"NUM_RESULT": 1 << 63}, {}, {}),
        ("file.open", {"NUM_RESULT": 0, "NUM_CALL": 1}, {}, {}), ("file.open", {"NUM_RESULT": 0, "NUM_TTY": 1}, {}, {}),
        ("file.open", {"NUM_RESULT": 0}, {"STR_PROCESS_EXE": b"/a"}, {}), ("file.open", {"NUM_RESULT": 0}, {}, {"flags": 16}),
        ("file.open", {"NUM_RESULT": 0}, {}, {"verdicts": (2,)}), ("file.open", {"NUM_RESULT": 0}, {}, {"verdicts": (1, 1)}),
        ("file.open", {"NUM_RESULT": 0}, {}, {"generation": 2}), ("file.open", {"NUM_RESULT": 0}, {}, {"error": 4}),
        ("file.open", {"NUM_RESULT": 0}, {}, {"action": 0}), ("file.open", {"NUM_RESULT": 0}, {}, {"exec_id": 2}),
    ]  # fmt: skip
    kinds = [twin.decode("", record(event, numbers, strings, **more), NAMES).kind(KIND) for event, numbers, strings, more in changes]  # type: ignore[attr-defined]
    assert len(set(kinds)) == len(changes)
    same_kind = record("file.open", {"NUM_RESULT": 5, "NUM_FILE_INO": 8}, {"STR_FILE_PATH": b"/b"}, time=9, sequence=9, cpu=3)
    assert twin.decode("", same_kind, NAMES).kind(KIND) == kinds[0]  # type: ignore[attr-defined]


KIND = records._KIND


def test_a_slot_that_does_not_exist() -> None:
    for twin in (_record, plain):
        found = twin.decode("decisions", WHOLE, NAMES)
        assert not isinstance(found, str)
        for call, wrong in ((found.number, 256), (found.number, -1), (found.string, 64), (found.subject, b""), (found.kind, b"")):
            with pytest.raises(ValueError, match=r"slot|mask"):
                call(wrong)  # type: ignore[operator]


def numbered(value: object) -> bytes:
    return f"<{value!r}>".encode()


@st.composite
def leaves(draw: st.DrawFn) -> list[plain.Op]:
    kind = draw(st.integers(plain.TEXT, plain.NUMBER_TABLE))
    slot = draw(st.sampled_from(sorted(abi.STR_SLOT.values()) if kind in (plain.TEXT, plain.STRING_TABLE) else SLOTS))
    key = draw(st.sampled_from([b"", b",", b',"a":']))
    return [(kind, slot, key, draw(st.binary(max_size=3)), draw(st.none() | st.binary(max_size=3)), numbered)]


def literal(kind: int, slot: int = 0, text: bytes = b"") -> plain.Op:
    return kind, slot, text, b"", None, None


def group(parts: list[list[plain.Op]]) -> list[plain.Op]:
    return [literal(plain.OPEN, text=b',"g":{'), *(op for part in parts for op in part), literal(plain.CLOSE, text=b"}")]


PLAN = st.recursive(
    leaves() | st.sampled_from([[literal(plain.LITERAL, text=b"{x")], [literal(plain.ARGUMENT, 1)]]),
    lambda inner: st.lists(inner, max_size=4).map(group),
    max_leaves=8,
)


@given(PLAN, NUMBERS, STRINGS)
def test_twins_write_the_same(ops: list[plain.Op], numbers: dict[int, int], strings: dict[int, bytes]) -> None:
    named = {NAME_OF_NUMBER[slot]: value for slot, value in numbers.items()}
    data = record("file.open", named, {NAME_OF_STRING[slot]: text for slot, text in strings.items()})
    written = []
    for twin in (_record, plain):
        try:
            plan = twin.Plan(tuple(ops))  # type: ignore[arg-type]
        except ValueError:
            written.append(b"")
            continue
        found = twin.decode("decisions", data, NAMES)
        written.append(plan.write(found, (b"zero", b"one")))  # type: ignore[arg-type]
        assert plan.write(found, (b"zero", b"one")) == written[-1], "what is kept says the same"  # type: ignore[arg-type]
    assert written[0] == written[1]


@pytest.mark.parametrize("twin", [_record, plain])
def test_plans_that_are_none(twin: type[plain]) -> None:  # type: ignore[valid-type]
    close, begin = literal(plain.CLOSE), literal(plain.OPEN)
    for ops in ((close,), (begin,) * 9, ((99, 0, b"", b"", None, None),), ((plain.TEXT, 64, b"", b"", None, numbered),), (close,) * 2000):
        with pytest.raises(ValueError, match="op"):
            twin.Plan(ops)  # type: ignore[attr-defined]


@pytest.mark.parametrize("twin", [_record, plain])
def test_what_a_value_is_made_with_may_raise(twin: type[plain]) -> None:  # type: ignore[valid-type]
    plan = twin.Plan(((plain.TEXT, abi.STR_FILE_PATH, b"", b"", None, lambda _: 1 // 0),))  # type: ignore[attr-defined]
    found = twin.decode("decisions", record("file.open", strings={"STR_FILE_PATH": b"\n"}), NAMES)  # type: ignore[attr-defined]
    with pytest.raises(ZeroDivisionError):
        plan.write(found, ())
    with pytest.raises(IndexError):
        twin.Plan(((plain.ARGUMENT, 3, b"", b"", None, None),)).write(found, (b"",))  # type: ignore[attr-defined]


def test_a_table_is_bounded() -> None:
    made = []

    def make(value: int) -> bytes:
        made.append(value)
        return b"x"

    plan = _record.Plan(((plain.NUMBER_TABLE, abi.NUM_FILE_INO, b"", b"", None, make),))
    for inode in [*range(plain.MAX_TABLE + 1), 0, plain.MAX_TABLE]:
        found = _record.decode("decisions", record("file.open", {"NUM_FILE_INO": inode}), NAMES)
        assert not isinstance(found, str)
        assert plan.write(found, ()) == b"x"
    assert made[-2:] == [plain.MAX_TABLE, plain.MAX_TABLE]
