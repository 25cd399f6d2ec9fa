# SPDX-License-Identifier: Apache-2.0
"""Bytes of a ring buffer in, records out: the reference of record.c, and what stands in for it where it was not compiled.

Called by `records`. Both are tested with the same bytes. The bytes are hostile: every length and offset is checked.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Any, Final, TypeVar, Union

from bpfence import abi

_WORD: Final = 8
_HALF: Final = 4
_ABOUT: Final = abi.EVENT_HEADER_OFFSETS["pid"]
"""From here to its end the header is about the acting process."""
_EVENT: Final = abi.EVENT_HEADER_OFFSETS["event"]
_ERROR: Final = abi.EVENT_HEADER_OFFSETS["error"]
"""Of the error, which the action follows."""
_FLAGS: Final = abi.EVENT_HEADER_OFFSETS["flags"]
_MASKS: Final = struct.Struct(f"<{abi.ABI_NUM_WORDS + 1}Q")
T = TypeVar("T")

LITERAL, ARGUMENT, OPEN, CLOSE, TEXT, NUMBER, SIGNED, STRING_TABLE, NUMBER_TABLE = range(9)
Op = tuple[int, int, bytes, bytes, bytes | None, Callable[[Any], bytes] | None]
MAX_OPS: Final = 1024
MAX_DEPTH: Final = 8
MAX_TABLE: Final = 4096
_ESCAPED: Final = re.compile(rb"[^ !#-\[\]-~]")
"""What is not the same in a line: all but printable ASCII, the quote, the backslash."""


class Record:
    """One record of a ring buffer; documented in _record.pyi."""

    __slots__ = (
        "_header", "_present", "_texts", "action", "buffer", "cgroup", "comm", "cpu", "error", "event", "exec_id", "flags",
        "generation", "gid", "mnt_ns", "net_ns", "numbers", "parent_exec_id", "pid", "pid_ns", "ppid", "sequence", "size",
        "start_time", "stream", "strings", "tid", "time", "uid", "user_ns", "verdicts", "workload",
    )  # fmt: skip

    buffer: str
    event: str
    size: int
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
    _header: bytes
    _present: list[int]
    _texts: list[tuple[int, bytes]]

    def number(self, slot: int, default: T = None) -> int | T:  # type: ignore[assignment]
        """A number that is present, else `default`."""
        _checked(slot, abi.ABI_NUM_SLOTS)
        return self.numbers.get(slot, default)

    def string(self, slot: int, default: T = None) -> bytes | T:  # type: ignore[assignment]
        """A string that is present, else `default`."""
        _checked(slot, abi.ABI_STR_SLOTS)
        return self.strings.get(slot, default)

    def subject(self, masks: bytes) -> bytes:
        """What the record says of its process: of the header, of the numbers and of the strings that `masks` name."""
        if len(masks) != _MASKS.size:
            raise ValueError("a mask for each word of numbers, and one for strings")
        *words, strings = _MASKS.unpack(masks)
        found = [self._header[_ABOUT:]]
        for word, mask in enumerate(words):
            chosen = self._present[word] & mask
            size = _HALF if 64 * word < abi.ABI_NUM_WIDE else _WORD
            found.append(chosen.to_bytes(_WORD, "little"))
            found += (self.numbers[64 * word + bit].to_bytes(size, "little") for bit in range(64) if chosen >> bit & 1)
        for slot, data in self._texts:
            if strings >> slot & 1:
                found += (struct.pack("<I", slot | len(data) << abi.STRING_LENGTH_SHIFT), data)
        return b"".join(found)

    def kind(self, masks: bytes) -> bytes:
        """The same, and what beside the process decides what a record means."""
        event, flags, error = (self._header[at : at + size] for at, size in ((_EVENT, 2), (_FLAGS, 4), (_ERROR, 3)))
        failed = bytes([self.numbers.get(abi.NUM_RESULT, 0) >> 63])
        count = len(self.verdicts)
        return event + flags + failed + error + struct.pack(f"<B{count}I", count, *self.verdicts) + self.subject(masks)


def _checked(slot: int, end: int) -> None:
    if not 0 <= slot < end:
        raise ValueError(f"there is no slot {slot}")


def decode(buffer: str, data: bytes, names: tuple[str | None, ...]) -> Union[Record, str]:
    """One record of `buffer`, or what is wrong with it. Bytes behind the record's own size are padding. `names`: events by number."""
    if len(data) < abi.EVENT_HEADER_SIZE:
        return f"{len(data)} bytes are too few for a record"
    made = Record()
    # fmt: off
    (
        version, kind, n_verdicts, made.size, made.time, made.sequence, made.cpu, made.stream, event, made.error, made.action, n_strings,
        text_size, num_words, made.flags, made.pid, made.tid, made.ppid, made.generation, made.uid, made.start_time, made.exec_id,
        made.parent_exec_id, made.cgroup, made.gid, made.workload, made.mnt_ns, made.pid_ns, made.net_ns, made.user_ns, comm,
    ) = abi.EVENT_HEADER_STRUCT.unpack_from(data)
    # fmt: on
    if version != abi.ABI_VERSION or kind != abi.RECORD_EVENT:
        return f"ABI {version}, record type {kind}"
    if not abi.EVENT_HEADER_SIZE + text_size <= made.size <= len(data):
        return f"the record says {made.size} bytes and has {len(data)}"
    name = names[event] if event < len(names) else None
    if name is None:
        return f"unknown event {event}"
    if n_verdicts > abi.ABI_MAX_GROUPS:
        return f"{n_verdicts} verdicts"
    if num_words >> abi.ABI_NUM_WORDS or n_strings > abi.ABI_STR_SLOTS:
        return f"words {num_words:#x} of numbers, {n_strings} strings"
    made.buffer, made.event, made.comm = buffer, name, comm.split(b"\0", 1)[0]
    made._header = data[: abi.EVENT_HEADER_SIZE]
    text_end = abi.EVENT_HEADER_SIZE + text_size
    references = _numbers(made, data, text_end, num_words, n_verdicts)
    if references is None or references + _HALF * n_strings != made.size:
        return "the record's size is not that of what it has"
    made._texts = []
    at = abi.EVENT_HEADER_SIZE
    for reference in struct.unpack_from(f"<{n_strings}I", data, references):
        end = at + (reference >> abi.STRING_LENGTH_SHIFT)
        made._texts.append((reference & abi.STRING_SLOT_MASK, data[at:end]))
        at = end
    made.strings = dict(made._texts)
    return made if at <= text_end else "a string lies outside the record"


def _numbers(made: Record, data: bytes, at: int, num_words: int, n_verdicts: int) -> int | None:
    """Takes the numbers and verdicts, and returns where the references of strings begin; None: not all is there."""
    words = [word for word in range(abi.ABI_NUM_WORDS) if num_words >> word & 1]
    made._present = [0] * abi.ABI_NUM_WORDS
    if at + _WORD * len(words) > len(data):
        return None
    for word, bits in zip(words, struct.unpack_from(f"<{len(words)}Q", data, at), strict=True):
        made._present[word] = bits
    slots = [slot for slot in range(abi.ABI_NUM_SLOTS) if made._present[slot // 64] >> slot % 64 & 1]
    wide = [slot for slot in slots if slot >= abi.ABI_NUM_WIDE]
    narrow = [slot for slot in slots if slot < abi.ABI_NUM_WIDE]
    body = struct.Struct(f"<{len(wide)}Q{len(narrow) + n_verdicts}I")
    at += _WORD * len(words)
    if at + body.size > len(data):
        return None
    values = body.unpack_from(data, at)
    made.numbers = dict(sorted(zip((*wide, *narrow), values, strict=False)))
    made.verdicts = values[len(slots) :]
    return at + body.size


Run = tuple[Any, str, int, int, int, int]


def sift(
    batch: list[tuple[str, bytes]], names: tuple[str | None, ...], masks: bytes, known: dict[bytes, Any]
) -> list[Union[Record, tuple[str, str], Run]]:
    """Records of a batch, with runs in place of those that come to nothing; documented in _record.pyi."""
    found: list[Union[Record, tuple[str, str], Run]] = []
    run: Union[Run, None] = None
    for buffer, data in batch:
        record = decode(buffer, data, names)
        by = None if isinstance(record, str) or not known else known.get(record.kind(masks))
        if by is None or isinstance(record, str):
            run = None
            found.append((buffer, record) if isinstance(record, str) else record)
        elif run is not None and run[0] is by and run[1:3] == (buffer, record.stream) and run[3] + run[4] == record.sequence:
            run = found[-1] = (by, buffer, record.stream, run[3], run[4] + 1, record.time)
        else:
            run = (by, buffer, record.stream, record.sequence, 1, record.time)
            found.append(run)
    return found


class Plan:
    """Writes records as text; documented in _record.pyi."""

    def __init__(self, ops: tuple[Op, ...]) -> None:
        if len(ops) > MAX_OPS:
            raise ValueError("too many ops")
        depth = 0
        for kind, slot, *_ in ops:
            if not LITERAL <= kind <= NUMBER_TABLE or slot >= (abi.ABI_STR_SLOTS if kind in (TEXT, STRING_TABLE) else abi.ABI_NUM_SLOTS):
                raise ValueError("there is no such op or slot")
            depth += (kind == OPEN) - (kind == CLOSE)
            if not 0 <= depth <= MAX_DEPTH:
                raise ValueError("ops are not nested")
        self._ops = ops
        self._tables: list[dict[Any, bytes]] = [{} for _ in ops]

    def write(self, record: Record, arguments: tuple[bytes, ...]) -> bytes:
        """One record."""
        text = bytearray()
        opened: list[tuple[int, int]] = []
        for (kind, slot, key, end, absent, make), table in zip(self._ops, self._tables, strict=True):
            if kind == LITERAL:
                text += key
            elif kind == ARGUMENT:
                text += arguments[slot]
            elif kind == OPEN:
                before = len(text)
                text += _key(text, key)
                opened.append((before, len(text)))
            elif kind == CLOSE:
                before, begun = opened.pop()
                if len(text) == begun:
                    del text[before:]
                else:
                    text += key
            else:
                value = record.strings.get(slot) if kind in (TEXT, STRING_TABLE) else record.numbers.get(slot)
                text += (absent or b"") if value is None else _key(text, key) + _written(kind, value, make, table) + end
        return bytes(text)


def _key(text: bytearray, key: bytes) -> bytes:
    """A key begins with a comma, which is left out behind a brace."""
    return key[1:] if key.startswith(b",") and text.endswith(b"{") else key


def _written(kind: int, value: Any, make: Any, table: dict[Any, bytes]) -> bytes:
    if kind == TEXT:
        made: bytes = make(value) if _ESCAPED.search(value) else value
        return made
    if kind in (STRING_TABLE, NUMBER_TABLE):
        if value not in table:
            made = make(value)
            if len(table) >= MAX_TABLE:
                return made
            table[value] = made
        return table[value]
    return b"%d" % (value - (1 << 64) if kind == SIGNED and value >> 63 else value)
