# SPDX-License-Identifier: Apache-2.0
"""Ring buffer bytes: what is well-formed is read exactly, what is not never raises."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfence import abi
from bpfence.events import records
from bpfence.events.records import KernelEvent, Undecodable, arguments, decode, object_bits, own_fields, process_strings
from tests.unit.events.samples import record


def test_header_and_slots_come_out_as_they_went_in() -> None:
    data = record(
        "file.open", {"NUM_FILE_FLAGS": 0o101, "NUM_FILE_INO": 77}, {"STR_FILE_PATH": b"/a\xff", "STR_PROCESS_ARGS": b"cat\0/a"},
        cpu=3, stream=70, sequence=9, verdicts=(4, 0, 6), n_verdicts=3, comm=b"cat\0rest", error=13, user_ns=44, start_time=7,
    )  # fmt: skip
    event = decode("alerts", data)
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
    assert not event.telemetry


def test_telemetry_by_flag_or_buffer() -> None:
    flagged, buffered = decode("alerts", record("process.fork", flags=abi.EVENT_TELEMETRY)), decode("telemetry", record("process.fork"))
    assert isinstance(flagged, KernelEvent)
    assert isinstance(buffered, KernelEvent)
    assert flagged.telemetry
    assert buffered.telemetry


def test_slots_that_two_fields_share_go_by_event() -> None:
    signal = decode("alerts", record("process.signal", {"NUM_TARGET_UID": 5}))
    ipc = decode("alerts", record("ipc.access", {"NUM_TARGET_UID": 5}))
    assert isinstance(signal, KernelEvent)
    assert isinstance(ipc, KernelEvent)
    assert own_fields(signal) == {"target.uid": 5}
    assert own_fields(ipc) == {"ipc.uid": 5}


def test_object_bits() -> None:
    event = decode("alerts", record("file.rename", {"NUM_FILE_OBJECT": 0, "NUM_NEW_OBJECT": 6}))
    assert isinstance(event, KernelEvent)
    assert object_bits(event) == {"file.new_path": 6}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "too few"),
        (record("file.open")[:-1], "too few"),
        (record("file.open", abi=2), "ABI 2"),
        (record("file.open", type=9), "type 9"),
        (record("file.open", size=10), "10 bytes"),
        (record("file.open", size=1 << 31), "bytes"),
        (record("file.open", event=0), "unknown event 0"),
        (record("file.open", event=63), "unknown event 63"),
        (record("file.open", n_verdicts=9), "9 verdicts"),
        (record("file.open", strings={"STR_FILE_PATH": b"/abc"}, size=abi.EVENT_RECORD_SIZE + 3), "outside"),
    ],
)
def test_what_is_wrong_is_named(data: bytes, reason: str) -> None:
    found = decode("alerts", data)
    assert isinstance(found, Undecodable)
    assert reason in found.reason
    assert found.buffer == "alerts"


def test_offset_near_the_end_of_numbers_does_not_wrap() -> None:
    data = bytearray(record("file.open", strings={"STR_FILE_PATH": b"/abc"}))
    at = abi.EVENT_RECORD_OFFSETS["str_offset"] + 4 * abi.STR_FILE_PATH
    struct.pack_into("<I", data, at, 0xFFFFFFFE)
    assert isinstance(decode("alerts", bytes(data)), Undecodable)


def test_padding_behind_the_record_is_not_data() -> None:
    event = decode("alerts", record("file.open", strings={"STR_FILE_PATH": b"/abc"}) + b"\0" * 8)
    assert isinstance(event, KernelEvent)
    assert event.strings == {abi.STR_FILE_PATH: b"/abc"}


@given(st.binary(max_size=2048))
def test_garbage_never_raises(data: bytes) -> None:
    assert isinstance(decode("alerts", data), Undecodable)


@given(st.binary(min_size=abi.EVENT_RECORD_SIZE, max_size=abi.EVENT_RECORD_SIZE + 300), st.sampled_from(sorted(records.EVENT_NAMES)))
def test_garbage_behind_a_good_header_never_raises(data: bytes, event: int) -> None:
    raw = bytearray(data)
    struct.pack_into("<HHI", raw, 0, abi.ABI_VERSION, abi.RECORD_EVENT, len(raw))
    struct.pack_into("<I", raw, abi.EVENT_HEADER_OFFSETS["event"], event)
    struct.pack_into("<I", raw, abi.EVENT_HEADER_OFFSETS["n_verdicts"], 8)
    struct.pack_into("<I", raw, abi.EVENT_RECORD_OFFSETS["str_present"], 0xFF)
    struct.pack_into("<16I", raw, abi.EVENT_RECORD_OFFSETS["str_offset"], *[byte % 200 for byte in raw[:16]])
    struct.pack_into("<16I", raw, abi.EVENT_RECORD_OFFSETS["str_length"], *[byte % 100 for byte in raw[16:32]])
    found = decode("alerts", bytes(raw))
    if isinstance(found, KernelEvent):
        assert sum(len(text) for text in found.strings.values()) <= 8 * (len(raw) - abi.EVENT_RECORD_SIZE)
        own_fields(found)


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"", ()), (b"a", (b"a",)), (b"a\0", (b"a",)), (b"a\0\0b\0", (b"a", b"", b"b")), (b"\0", (b"",)), (b"a\0\0", (b"a", b""))],
)
def test_arguments(data: bytes, words: tuple[bytes, ...]) -> None:
    assert arguments(data) == words


def entries(*pairs: tuple[int, int]) -> bytes:
    return b"".join(abi.ANCESTOR_STRUCT.pack(exec_id, pid, 0) for exec_id, pid in pairs)


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b"", ()), (entries((7, 400), (0, 1)), ((7, 400), (0, 1))), (entries((7, 400)) + b"half", ((7, 400),)),
        (entries(*[(1, 2)] * 99), ((1, 2),) * abi.ABI_ANCESTORS_MAX),
    ],
)  # fmt: skip
def test_ancestors(data: bytes, wanted: tuple[tuple[int, int], ...]) -> None:
    event = decode("alerts", record("file.open", strings={"STR_ANCESTORS": data}))
    assert isinstance(event, KernelEvent)
    assert records.ancestors(event) == wanted


def test_no_ancestors_and_signed_numbers() -> None:
    event = decode("alerts", record("file.open"))
    assert isinstance(event, KernelEvent)
    assert records.ancestors(event) is None
    assert [records.signed(value) for value in (0, 5, (1 << 64) - 2, 1 << 63)] == [0, 5, -2, -(1 << 63)]
