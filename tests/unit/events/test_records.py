# SPDX-License-Identifier: Apache-2.0
"""Ring buffer bytes: what is well-formed is read exactly, what is not never raises."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfence import abi
from bpfence.events import _record, records
from bpfence.events.records import KernelEvent, Undecodable, arguments, decode, object_bits, own_fields, process_strings
from bpfence.fields import FIELDS
from tests.unit.events.samples import record


def test_header_and_slots_come_out_as_they_went_in() -> None:
    data = record(
        "file.open", {"NUM_FILE_FLAGS": 0o101, "NUM_FILE_INO": 77}, {"STR_FILE_PATH": b"/a\xff", "STR_PROCESS_ARGS": b"cat\0/a"},
        cpu=3, stream=70, sequence=9, verdicts=(4, 0, 6), n_verdicts=3, comm=b"cat\0rest", error=13, user_ns=44, start_time=7,
    )  # fmt: skip
    event = decode("decisions", data)
    assert isinstance(event, KernelEvent)
    assert (event.event, event.cpu, event.stream, event.sequence, event.verdicts, event.comm) == ("file.open", 3, 70, 9, (4, 0, 6), b"cat")
    assert (event.pid, event.tid, event.ppid, event.uid, event.gid, event.user_ns, event.start_time) == (412, 413, 400, 1000, 100, 44, 7)
    assert (event.generation, event.action, event.error, event.exec_id, event.parent_exec_id) == (
        1,
        abi.ACTION_DENY,
        13,
        0x700001,
        0x700000,
    )
    assert own_fields(event) == {"file.flags": 0o101, "file.ino": 77, "file.path": "/a\udcff"}
    assert process_strings(event) == {"process.args": b"cat\0/a"}


SLOTS = sorted(slot for slot in abi.NUM_SLOT.values() if slot >= abi.ABI_NUM_IN_HEADER)
NUMBERS = st.dictionaries(st.sampled_from(SLOTS), st.integers(0, (1 << 64) - 1)).map(
    lambda numbers: {slot: value if slot >= abi.ABI_NUM_WIDE else value & 0xFFFFFFFF for slot, value in numbers.items()}
)
STRINGS = st.dictionaries(st.sampled_from(sorted(abi.STR_SLOT.values())), st.binary(max_size=60))
NAME_OF = {slot: name for table in (abi.NUM_SLOT, abi.STR_SLOT) for name, slot in table.items()}


@given(NUMBERS, STRINGS, st.lists(st.integers(0, 1 << 31), max_size=abi.ABI_MAX_GROUPS))
def test_only_what_is_present_is_in_a_record(numbers: dict[int, int], strings: dict[int, bytes], verdicts: list[int]) -> None:
    data = record(
        "file.open",
        {name: numbers[slot] for name, slot in abi.NUM_SLOT.items() if slot in numbers},
        {name: strings[slot] for name, slot in abi.STR_SLOT.items() if slot in strings},
        verdicts=tuple(verdicts),
    )
    event = decode("decisions", data)
    assert isinstance(event, KernelEvent)
    assert (event.numbers, event.strings, event.verdicts) == (numbers, strings, tuple(verdicts))
    wide = sum(slot >= abi.ABI_NUM_WIDE for slot in numbers)
    words = len({slot // 64 for slot in numbers})
    parts = 8 * (words + wide) + 4 * (len(numbers) - wide + len(verdicts) + len(strings)) + sum(map(len, strings.values()))
    assert len(data) == abi.EVENT_HEADER_SIZE + parts


def test_a_field_of_another_event_is_not_shown() -> None:
    event = decode("decisions", record("process.signal", {"NUM_TARGET_UID": 5, "NUM_FILE_UID": 6}))
    assert isinstance(event, KernelEvent)
    assert own_fields(event) == {"target.uid": 5}


def test_object_bits() -> None:
    event = decode("decisions", record("file.rename", {"NUM_FILE_OBJECT": 0, "NUM_NEW_OBJECT": 6}))
    assert isinstance(event, KernelEvent)
    assert object_bits(event) == {"file.new_path": 6}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "too few"),
        (record("file.open", verdicts=())[:-1], "too few"),
        (record("file.open", abi=1), "ABI 1"),
        (record("file.open", type=9), "type 9"),
        (record("file.open", size=10), "10 bytes"),
        (record("file.open", size=1 << 31), "bytes"),
        (record("file.open", event=0), "unknown event 0"),
        (record("file.open", event=63), "unknown event 63"),
        (record("file.open", event=0xFFFF), "unknown event 65535"),
        (record("file.open", num_words=16), "words 0x10 of numbers"),
        (record("file.open", num_words=1), "size is not that"),
        (record("file.open", n_strings=65), "65 strings"),
        (record("file.open", n_strings=1), "size is not that"),
        (record("file.open", n_verdicts=9), "9 verdicts"),
        (record("file.open", strings={"STR_FILE_PATH": b"/abc"}, size=abi.EVENT_HEADER_SIZE + 3), "bytes"),
        (record("file.open", strings={"STR_FILE_PATH": b"/abc"}, text_size=3), "size is not that"),
    ],
)
def test_what_is_wrong_is_named(data: bytes, reason: str) -> None:
    found = decode("decisions", data)
    assert isinstance(found, Undecodable)
    assert reason in found.reason
    assert found.buffer == "decisions"


@pytest.mark.parametrize("length", [5, 0xFFFF])
def test_a_string_longer_than_all_of_them(length: int) -> None:
    data = bytearray(record("file.open", strings={"STR_FILE_PATH": b"/abc"}))
    struct.pack_into("<I", data, len(data) - 4, abi.STR_FILE_PATH | length << abi.STRING_LENGTH_SHIFT)
    found = decode("decisions", bytes(data))
    assert isinstance(found, Undecodable)
    assert "outside" in found.reason


def test_padding_behind_the_record_is_not_data() -> None:
    event = decode("decisions", record("file.open", strings={"STR_FILE_PATH": b"/abc"}) + b"\0" * 8)
    assert isinstance(event, KernelEvent)
    assert event.strings == {abi.STR_FILE_PATH: b"/abc"}


@given(st.binary(max_size=2048))
def test_garbage_never_raises(data: bytes) -> None:
    assert isinstance(decode("decisions", data), Undecodable)


@given(
    st.binary(min_size=abi.EVENT_HEADER_SIZE, max_size=abi.EVENT_HEADER_SIZE + 300),
    st.sampled_from(sorted(records.EVENT_NAMES)),
    st.integers(0, 15),
    st.integers(0, 8),
    st.integers(0, 64),
    st.integers(0, 300),
)
def test_garbage_behind_a_good_header_never_raises(data: bytes, event: int, words: int, verdicts: int, strings: int, text: int) -> None:
    raw = bytearray(data)
    struct.pack_into("<HBBI", raw, 0, abi.ABI_VERSION, abi.RECORD_EVENT, verdicts, len(raw))
    at = abi.EVENT_HEADER_OFFSETS
    for name, form, value in (("event", "H", event), ("num_words", "I", words), ("n_strings", "B", strings), ("text_size", "H", text)):
        struct.pack_into(f"<{form}", raw, at[name], value)
    found = decode("decisions", bytes(raw))
    if isinstance(found, KernelEvent):
        assert sum(len(text) for text in found.strings.values()) <= len(raw) - abi.EVENT_HEADER_SIZE
        own_fields(found)


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"", ()), (b"a", (b"a",)), (b"a\0", (b"a",)), (b"a\0\0b\0", (b"a", b"", b"b")), (b"\0", (b"",)), (b"a\0\0", (b"a", b""))],
)
def test_arguments(data: bytes, words: tuple[bytes, ...]) -> None:
    assert arguments(data) == words


def entries(*pairs: tuple[int, int]) -> bytes:
    return b"".join(abi.ANCESTOR_STRUCT.pack(exec_id, pid) for exec_id, pid in pairs)


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b"", ()), (entries((7, 400), (0, 1)), ((7, 400), (0, 1))), (entries((7, 400)) + b"half", ((7, 400),)),
        (entries(*[(1, 2)] * 99), ((1, 2),) * abi.ABI_ANCESTORS_MAX),
    ],
)  # fmt: skip
def test_ancestors(data: bytes, wanted: tuple[tuple[int, int], ...]) -> None:
    event = decode("decisions", record("file.open", strings={"STR_ANCESTORS": data}))
    assert isinstance(event, KernelEvent)
    assert records.ancestors(event) == wanted


def test_no_ancestors_and_signed_numbers() -> None:
    event = decode("decisions", record("file.open"))
    assert isinstance(event, KernelEvent)
    assert records.ancestors(event) is None
    assert [records.signed(value) for value in (0, 5, (1 << 64) - 2, 1 << 63)] == [0, 5, -2, -(1 << 63)]


def test_the_compiled_twin_is_the_one_that_is_used() -> None:
    assert records.twin is _record


def test_all_that_is_about_the_process_is_in_its_subject() -> None:
    words = [int.from_bytes(records.SUBJECT[at : at + 8], "little") for at in range(0, len(records.SUBJECT), 8)]
    for field in FIELDS:
        if field.events or not field.slot:
            continue
        slot = abi.CONSTANTS[field.slot]
        if field.slot.startswith("STR_"):
            assert words[-1] >> slot & 1, field.name
        else:
            assert slot < abi.ABI_NUM_IN_HEADER or words[slot // 64] >> slot % 64 & 1, field.name


def test_a_subject_is_what_is_said_of_the_process() -> None:
    def subject(numbers: dict[str, int], strings: dict[str, bytes], **header: int) -> bytes:
        found = decode("decisions", record("file.open", numbers, strings, **header))
        assert isinstance(found, KernelEvent)
        return found.subject(records.SUBJECT)

    base = subject({"NUM_FILE_INO": 1, "NUM_TTY": 2}, {"STR_FILE_PATH": b"/a", "STR_PROCESS_CWD": b"/x"})
    same_process = subject({"NUM_FILE_INO": 2, "NUM_TTY": 2}, {"STR_FILE_PATH": b"/b", "STR_PROCESS_CWD": b"/x"}, time=9, sequence=4, cpu=2)
    assert base == same_process
    others = [
        subject({"NUM_TTY": 3}, {"STR_PROCESS_CWD": b"/x"}),
        subject({"NUM_TTY": 2}, {"STR_PROCESS_CWD": b"/y"}), subject({"NUM_TTY": 2}, {}),
        subject({"NUM_TTY": 2}, {"STR_PROCESS_CWD": b"/x"}, uid=5), subject({"NUM_TTY": 2}, {"STR_PROCESS_CWD": b"/x"}, exec_id=9),
        subject({"NUM_TTY": 2}, {"STR_PROCESS_CWD": b"/x", "STR_ANCESTORS": b"x" * 16}),
    ]  # fmt: skip
    assert len({base, *others}) == len(others) + 1
