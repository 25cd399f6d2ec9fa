# SPDX-License-Identifier: Apache-2.0
"""Bytes of the ring buffers in, typed records out.

Called by `source` and `process`. The layout is bpf/abi.h, through the generated `bpfence.abi`. The bytes are hostile: every length and
offset is checked, and what cannot be read comes back as Undecodable (to be counted and reported), never as an exception.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from bpfence import abi
from bpfence.fields import EVENTS, FIELDS, Kind, applies
from bpfence.policy import Value

try:
    import bpfence.events._record as twin
except ModuleNotFoundError:  # not compiled; what is compiled and broken is an error
    import bpfence.events.plain as twin  # type: ignore[no-redef]

KernelEvent = twin.Record
Run = tuple[Any, str, int, int, int, int]
"""Records in a row that come to nothing; see `sift` in _record.pyi."""
Plan = twin.Plan
ARGUMENT, CLOSE, LITERAL, OPEN = twin.ARGUMENT, twin.CLOSE, twin.LITERAL, twin.OPEN
NUMBER, NUMBER_TABLE, SIGNED, STRING_TABLE, TEXT = twin.NUMBER, twin.NUMBER_TABLE, twin.SIGNED, twin.STRING_TABLE, twin.TEXT

EVENT_NAMES: Final = {abi.CONSTANTS[event.id]: event.name for event in EVENTS}
_NAMES: Final = tuple(EVENT_NAMES.get(number) for number in range(abi.ABI_MAX_EVENTS))
MAX_CHAIN: Final = 32
"""Ancestors shown at most: a fork bomb of exec chains must not make alerts without bound."""


class Undecodable(msgspec.Struct, frozen=True):
    """A record that is not what bpf/abi.h says."""

    buffer: str
    reason: str


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


def decode(buffer: str, data: bytes) -> KernelEvent | Undecodable:
    """One record of `buffer`. Bytes behind the record's own size are padding."""
    record = twin.decode(buffer, data, _NAMES)
    return record if isinstance(record, KernelEvent) else Undecodable(buffer, record)


class Slot(NamedTuple):
    """Where an event's field lies in a record."""

    field: str
    string: bool
    slot: int


@cache
def own_slots(event: str) -> Mapping[str, Slot]:
    """Where the fields that are an event's own lie, by name in the order of the field table: what is known of the acting process comes from
    the header and its image."""
    return {
        field.name: Slot(field.name, field.slot.startswith("STR_"), abi.CONSTANTS[field.slot])
        for field in FIELDS
        if field.slot and field.events and applies(field, event)
    }


_ARGUMENTS: Final = abi.CONSTANTS["STR_PROCESS_ARGS"]
_PROCESS_STRINGS: Final = tuple(
    Slot(field.name, True, abi.CONSTANTS[field.slot])
    for field in FIELDS
    if field.slot.startswith("STR_") and not field.events and field.kind in (Kind.PATH, Kind.STRING)
)


PROCESS_NUMBERS: Final = frozenset(
    (*range(abi.NUM_CALL), *range(abi.ABI_NUM_WIDE, abi.NUM_CALL_ARG0), *range(abi.NUM_NS_UTS, abi.NUM_CAPS_INHERITABLE_CHANGED + 1))
)
"""Slots that are about the acting process, by the order of bpf/abi.h."""
_SUBJECT_STRINGS: Final = (*(slot.slot for slot in _PROCESS_STRINGS), abi.STR_PARENT_EXE, abi.STR_ANCESTORS)
_SUBJECT_WORDS: Final = (
    *(sum(1 << slot % 64 for slot in PROCESS_NUMBERS if slot // 64 == word) for word in range(abi.ABI_NUM_WORDS)),
    sum(1 << slot for slot in set(_SUBJECT_STRINGS)),
)  # fmt: skip
SUBJECT: Final = b"".join(word.to_bytes(8, "little") for word in _SUBJECT_WORDS)
"""What `KernelEvent.subject` takes: all that is about the acting process."""
ACCOUNTED: Final = tuple(
    (field.name, slot)
    for field in FIELDS
    if field.slot.startswith("NUM_") and not field.events and (slot := abi.CONSTANTS[field.slot]) >= abi.ABI_NUM_IN_HEADER
)
"""Fields of the acting process that are numbers and not in the header, and their slots."""
_ACCOUNT_WORDS: Final = (
    *(sum(1 << slot % 64 for _, slot in ACCOUNTED if slot // 64 == word) for word in range(abi.ABI_NUM_WORDS)), _SUBJECT_WORDS[-1],
)  # fmt: skip
ACCOUNT: Final = b"".join(word.to_bytes(8, "little") for word in _ACCOUNT_WORDS)
"""The same: all of it that is shown."""


_KIND_WORDS: Final = (
    *(words | (1 << abi.NUM_CALL % 64 if word == abi.NUM_CALL // 64 else 0) for word, words in enumerate(_SUBJECT_WORDS)),
)  # fmt: skip
_KIND: Final = b"".join(word.to_bytes(8, "little") for word in _KIND_WORDS)


def kind(record: KernelEvent) -> bytes:
    """What a record says of its process, and what else decides which rules may match, and of which call it is: but for calls whose
    arguments say which they are (CALL_COMPAT)."""
    return record.kind(_KIND)


_ALL: Final = b"\xff" * (8 * (abi.ABI_NUM_WORDS + 1))


def act(record: KernelEvent) -> bytes:
    """All that a record says, but for when and on which processor it was written."""
    return record.kind(_ALL)


def sift(batch: list[tuple[str, bytes]], known: dict[bytes, Any]) -> list[KernelEvent | tuple[str, str] | Run]:
    """Records of a batch, with a run in place of those in a row whose `kind` is among `known`; of what is none, buffer and reason."""
    return twin.sift(batch, _NAMES, _KIND, known)


def own_fields(record: KernelEvent) -> dict[str, Value]:
    """The event's own fields that the record carries, raw: str for strings (what is not UTF-8 as surrogates), bytes for addresses."""
    found: dict[str, Value] = {}
    for name, string, slot in own_slots(record.event).values():
        if not string:
            number = record.number(slot)
            if number is not None:
                found[name] = number
            continue
        data = record.string(slot)
        if data is not None:
            found[name] = data if name.endswith(".ip") else data.decode("utf-8", "surrogateescape")
    return found


def own_field(record: KernelEvent, name: str) -> Value | None:
    """One of `own_fields`."""
    slot = own_slots(record.event).get(name)
    if slot is None:
        return None
    if not slot.string:
        return record.number(slot.slot)
    data = record.string(slot.slot)
    return data if data is None or name.endswith(".ip") else data.decode("utf-8", "surrogateescape")


def process_strings(record: KernelEvent) -> dict[str, bytes]:
    """Strings about the acting process that the record itself carries, arguments still NUL-separated."""
    return {name: record.strings[slot] for name, _, slot in _PROCESS_STRINGS if slot in record.strings}


def ancestors(record: KernelEvent) -> tuple[tuple[int, int], ...] | None:
    """The processes that the acting one descends from as they are now, the parent first: (exec id or 0, pid). None: the record has none.

    What is left over behind the last whole entry, and entries beyond what the kernel writes, are ignored.
    """
    data = record.string(abi.STR_ANCESTORS)
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
    if not record.number(abi.NUM_FILE_OBJECT) and not record.number(abi.NUM_NEW_OBJECT):
        return {}
    return {field: bits for field, slot in _OBJECT_SLOTS.items() if (bits := record.number(slot))}
