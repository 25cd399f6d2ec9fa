# SPDX-License-Identifier: Apache-2.0
"""Bytes of the ring buffers in, typed records out.

Called by `source` and `process`. The layout is bpf/abi.h, through the generated `bpfence.abi`. The bytes are hostile: every length and
offset is checked, and what cannot be read comes back as Undecodable (to be counted and reported), never as an exception.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple, Protocol

import msgspec

from bpfence import abi
from bpfence.fields import EVENTS, FIELDS, Kind, applies
from bpfence.policy import Value

EVENT_NAMES: Final = {abi.CONSTANTS[event.id]: event.name for event in EVENTS}
MAX_CHAIN: Final = 32
"""Ancestors shown at most: a fork bomb of exec chains must not make alerts without bound."""


class Undecodable(msgspec.Struct, frozen=True):
    """A record that is not what bpf/abi.h says."""

    buffer: str
    reason: str


class KernelEvent(msgspec.Struct, frozen=True):
    """One record of a ring buffer. Times are ns since boot; `numbers` and `strings` hold the slots that are present."""

    buffer: str
    event: str
    time: int
    sequence: int
    cpu: int
    stream: int
    error: int
    action: int
    flags: int
    pid: int
    tid: int
    ppid: int
    generation: int
    uid: int
    start_time: int
    exec_id: int
    parent_exec_id: int
    cgroup: int
    gid: int
    workload: int
    mnt_ns: int
    pid_ns: int
    net_ns: int
    user_ns: int
    comm: bytes
    verdicts: tuple[int, ...]
    numbers: dict[int, int]
    strings: dict[int, bytes]


class ExecImage(Protocol):
    """One executed program, as `kernel.engine` reads it from map `images`. `args` is NUL-separated; every string is hostile."""

    @property
    def parent_exec_id(self) -> int: ...
    @property
    def pid(self) -> int: ...
    @property
    def flags(self) -> int: ...
    @property
    def comm(self) -> bytes: ...
    @property
    def args(self) -> bytes: ...
    @property
    def exe(self) -> bytes: ...


class _Layout(NamedTuple):
    """How the body of a record lies behind its strings: the present numeric slots in their order, and how to unpack."""

    slots: tuple[int, ...]
    body: struct.Struct


_WORD: Final = 8
_MAX_LAYOUTS: Final = 4096
"""Records of one kind have few layouts; what somebody varies on purpose is bounded."""
_layouts: dict[tuple[int, int, int, bytes], _Layout] = {}


def decode(buffer: str, data: bytes) -> KernelEvent | Undecodable:
    """One record of `buffer`. Bytes behind the record's own size are padding."""
    if len(data) < abi.EVENT_HEADER_SIZE:
        return Undecodable(buffer, f"{len(data)} bytes are too few for a record")
    # fmt: off
    (
        version, kind, n_verdicts, size, time, sequence, cpu, stream, event, error, action, n_strings, text_size, num_words, flags,
        pid, tid, ppid, generation, uid, start_time, exec_id, parent_exec_id, cgroup, gid, workload, mnt_ns, pid_ns, net_ns, user_ns, comm,
    ) = abi.EVENT_HEADER_STRUCT.unpack_from(data)
    # fmt: on
    if version != abi.ABI_VERSION or kind != abi.RECORD_EVENT:
        return Undecodable(buffer, f"ABI {version}, record type {kind}")
    if not abi.EVENT_HEADER_SIZE + text_size <= size <= len(data):
        return Undecodable(buffer, f"the record says {size} bytes and has {len(data)}")
    name = EVENT_NAMES.get(event)
    if name is None:
        return Undecodable(buffer, f"unknown event {event}")
    if n_verdicts > abi.ABI_MAX_GROUPS:
        return Undecodable(buffer, f"{n_verdicts} verdicts")
    if num_words >> abi.ABI_NUM_WORDS or n_strings > abi.ABI_STR_SLOTS:
        return Undecodable(buffer, f"words {num_words:#x} of numbers, {n_strings} strings")
    at = abi.EVENT_HEADER_SIZE + text_size
    end = at + _WORD * num_words.bit_count()
    key = (num_words, n_verdicts, n_strings, data[at:end])
    layout = _layouts.get(key) or _layout(*key)
    if layout is None or end + layout.body.size != size:
        return Undecodable(buffer, "the record's size is not that of what it has")
    values = layout.body.unpack_from(data, end)
    n_numbers = len(layout.slots)
    strings = _strings(values[n_numbers + n_verdicts :], data, at)
    if strings is None:
        return Undecodable(buffer, "a string lies outside the record")
    return KernelEvent(
        buffer, name, time, sequence, cpu, stream, error, action, flags, pid, tid, ppid, generation, uid, start_time, exec_id,
        parent_exec_id, cgroup, gid, workload, mnt_ns, pid_ns, net_ns, user_ns, comm.split(b"\0", 1)[0],
        values[n_numbers : n_numbers + n_verdicts], dict(zip(layout.slots, values, strict=False)), strings,
    )  # fmt: skip


def _layout(num_words: int, n_verdicts: int, n_strings: int, words: bytes) -> _Layout | None:
    """None: the bytes of the present words are not all there."""
    numbers = [number for number in range(abi.ABI_NUM_WORDS) if num_words >> number & 1]
    if len(words) != _WORD * len(numbers):
        return None
    present = 0
    for number, word in zip(numbers, struct.unpack(f"<{len(numbers)}Q", words), strict=True):
        present |= word << 64 * number
    slots = [slot for slot in range(abi.ABI_NUM_SLOTS) if present >> slot & 1]
    wide = [slot for slot in slots if slot >= abi.ABI_NUM_WIDE]
    narrow = [slot for slot in slots if slot < abi.ABI_NUM_WIDE]
    layout = _Layout((*wide, *narrow), struct.Struct(f"<{len(wide)}Q{len(narrow) + n_verdicts + n_strings}I"))
    if len(_layouts) >= _MAX_LAYOUTS:
        _layouts.clear()
    _layouts[num_words, n_verdicts, n_strings, words] = layout
    return layout


def _strings(references: tuple[int, ...], data: bytes, end: int) -> dict[int, bytes] | None:
    """The strings between the header and `end`, by slot."""
    strings = {}
    at = abi.EVENT_HEADER_SIZE
    for reference in references:
        after = at + (reference >> abi.STRING_LENGTH_SHIFT)
        strings[reference & abi.STRING_SLOT_MASK] = data[at:after]
        at = after
    return strings if at <= end else None


class _Slot(NamedTuple):
    """Where an event's field lies in a record."""

    field: str
    string: bool
    slot: int


def _slots(event: str) -> tuple[_Slot, ...]:
    """Fields that are the event's own: what is known of the acting process comes from the header and its image."""
    return tuple(
        _Slot(field.name, field.slot.startswith("STR_"), abi.CONSTANTS[field.slot])
        for field in FIELDS
        if field.slot and field.events and applies(field, event)
    )


EVENT_SLOTS: Final = {event.name: _slots(event.name) for event in EVENTS}
_ARGUMENTS: Final = abi.CONSTANTS["STR_PROCESS_ARGS"]
_PROCESS_STRINGS: Final = tuple(
    _Slot(field.name, True, abi.CONSTANTS[field.slot])
    for field in FIELDS
    if field.slot.startswith("STR_") and not field.events and field.kind in (Kind.PATH, Kind.STRING)
)


def own_fields(record: KernelEvent) -> dict[str, Value]:
    """The event's own fields that the record carries, raw: str for strings (what is not UTF-8 as surrogates), bytes for addresses."""
    found: dict[str, Value] = {}
    for name, string, slot in EVENT_SLOTS[record.event]:
        if not string:
            if slot in record.numbers:
                found[name] = record.numbers[slot]
        elif slot in record.strings:
            data = record.strings[slot]
            found[name] = data if name.endswith(".ip") else data.decode("utf-8", "surrogateescape")
    return found


def process_strings(record: KernelEvent) -> dict[str, bytes]:
    """Strings about the acting process that the record itself carries, arguments still NUL-separated."""
    return {name: record.strings[slot] for name, _, slot in _PROCESS_STRINGS if slot in record.strings}


def ancestors(record: KernelEvent) -> tuple[tuple[int, int], ...] | None:
    """The processes that the acting one descends from as they are now, the parent first: (exec id or 0, pid). None: the record has none.

    What is left over behind the last whole entry, and entries beyond what the kernel writes, are ignored.
    """
    data = record.strings.get(abi.STR_ANCESTORS)
    if data is None:
        return None
    whole = min(len(data) // abi.ANCESTOR_SIZE, abi.ABI_ANCESTORS_MAX) * abi.ANCESTOR_SIZE
    return tuple(abi.ANCESTOR_STRUCT.iter_unpack(data[:whole]))


def signed(value: int) -> int:
    """A slot of 64 bits as the kernel's signed number."""
    return value - (1 << 64) if value >> 63 else value


def arguments(data: bytes) -> tuple[bytes, ...]:
    """NUL-separated (and perhaps NUL-terminated) arguments one by one."""
    if not data:
        return ()
    return tuple((data[:-1] if data.endswith(b"\0") else data).split(b"\0"))


_OBJECT_SLOTS: Final = {"file.path": abi.NUM_FILE_OBJECT, "file.new_path": abi.NUM_NEW_OBJECT}


def object_bits(record: KernelEvent) -> dict[str, int]:
    """Which followed objects the files belong to, as the kernel's bit sets by path field; paths that belong to none are left out."""
    return {field: record.numbers[slot] for field, slot in _OBJECT_SLOTS.items() if record.numbers.get(slot)}
