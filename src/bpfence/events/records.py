# SPDX-License-Identifier: Apache-2.0
"""Bytes of the ring buffers in, typed records out.

Called by `source` and `process`. The layout is bpf/abi.h, through the generated `bpfence.abi`. The bytes are hostile: every length and
offset is checked, and what cannot be read comes back as Undecodable (to be counted and reported), never as an exception.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

import msgspec

from bpfence import abi
from bpfence.fields import EVENTS, FIELDS, Kind, applies
from bpfence.policy import Value

ALERTS: Final = "alerts"
TELEMETRY: Final = "telemetry"

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
    flags: int
    pid: int
    tid: int
    ppid: int
    start_time: int
    exec_id: int
    parent_exec_id: int
    cgroup: int
    uid: int
    gid: int
    mnt_ns: int
    pid_ns: int
    net_ns: int
    user_ns: int
    generation: int
    action: int
    error: int
    verdicts: tuple[int, ...]
    comm: bytes
    numbers: dict[int, int]
    strings: dict[int, bytes]

    @property
    def telemetry(self) -> bool:
        """Whether it is an event that a policy asked for rather than a verdict."""
        return bool(self.flags & abi.EVENT_TELEMETRY) or self.buffer == TELEMETRY


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


_HEADER_VALUES: Final = len(abi.EVENT_HEADER_STRUCT.unpack(bytes(abi.EVENT_HEADER_SIZE)))
_VERDICTS_AT: Final = list(abi.EVENT_HEADER_OFFSETS).index("verdicts")
_EVENT_AT: Final = list(abi.EVENT_HEADER_OFFSETS).index("event")
_HEADER_NUMBERS: Final = [
    (position, key) for position, key in enumerate(abi.EVENT_HEADER_OFFSETS)
    if key not in ("abi", "type", "size", "event", "n_verdicts", "verdicts", "comm")
]  # fmt: skip
_NUMBERS_AT: Final = _HEADER_VALUES + 1
_STRINGS_AT: Final = _NUMBERS_AT + abi.ABI_NUM_SLOTS
_OFFSETS_AT: Final = _STRINGS_AT + 1
_LENGTHS_AT: Final = _OFFSETS_AT + abi.ABI_STR_SLOTS


def decode(buffer: str, data: bytes) -> KernelEvent | Undecodable:
    """One record of `buffer`. Bytes behind the record's own size are padding."""
    if len(data) < abi.EVENT_RECORD_SIZE:
        return Undecodable(buffer, f"{len(data)} bytes are too few for a record")
    raw = abi.EVENT_RECORD_STRUCT.unpack_from(data)
    version, kind, size = raw[0], raw[1], raw[2]
    if version != abi.ABI_VERSION or kind != abi.RECORD_EVENT:
        return Undecodable(buffer, f"ABI {version}, record type {kind}")
    if not abi.EVENT_RECORD_SIZE <= size <= len(data):
        return Undecodable(buffer, f"the record says {size} bytes and has {len(data)}")
    name = EVENT_NAMES.get(raw[_EVENT_AT])
    if name is None:
        return Undecodable(buffer, f"unknown event {raw[_EVENT_AT]}")
    count = raw[_VERDICTS_AT - 1]
    if count > abi.ABI_MAX_GROUPS:
        return Undecodable(buffer, f"{count} verdicts")
    strings = _strings(raw, data[abi.EVENT_RECORD_SIZE : size])
    if strings is None:
        return Undecodable(buffer, "a string lies outside the record")
    present = raw[_HEADER_VALUES]
    return KernelEvent(
        buffer=buffer, event=name, verdicts=raw[_VERDICTS_AT : _VERDICTS_AT + count], comm=raw[_HEADER_VALUES - 1].split(b"\0", 1)[0],
        numbers={slot: raw[_NUMBERS_AT + slot] for slot in range(abi.ABI_NUM_SLOTS) if present >> slot & 1}, strings=strings,
        **{key: raw[position] for position, key in _HEADER_NUMBERS},
    )  # fmt: skip


def _strings(raw: tuple[int, ...], data: bytes) -> dict[int, bytes] | None:
    present = raw[_STRINGS_AT]
    if present >> abi.ABI_STR_SLOTS:
        return None
    strings = {}
    for slot in range(abi.ABI_STR_SLOTS):
        if present >> slot & 1:
            start, length = raw[_OFFSETS_AT + slot], raw[_LENGTHS_AT + slot]
            if start + length > len(data):
                return None
            strings[slot] = data[start : start + length]
    return strings


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
    return tuple((exec_id, pid) for exec_id, pid, _ in abi.ANCESTOR_STRUCT.iter_unpack(data[:whole]))


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
