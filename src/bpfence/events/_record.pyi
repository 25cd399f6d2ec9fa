"""record.c as the compiled module shows it to Python; its reference is plain.py. Only bpfence.events.records imports it."""

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, overload

_T = TypeVar("_T")

class Record:
    """One record of a ring buffer. Times are ns since boot. It keeps the record's bytes; values are made when they are asked for."""

    buffer: str
    """Name of the ring buffer."""
    event: str
    """Full name of the event."""
    size: int
    """Bytes of the whole record."""
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
    """Up to its NUL."""
    verdicts: tuple[int, ...]
    numbers: dict[int, int]
    """The numeric slots that are present."""
    strings: dict[int, bytes]
    """The string slots that are present."""

    @overload
    def number(self, slot: int) -> int | None:
        """A number that is present, else `default`. ValueError: there is no such slot."""
    @overload
    def number(self, slot: int, default: _T) -> int | _T: ...
    @overload
    def string(self, slot: int) -> bytes | None:
        """A string that is present, else `default`. ValueError: there is no such slot."""
    @overload
    def string(self, slot: int, default: _T) -> bytes | _T: ...
    def subject(self, masks: bytes) -> bytes:
        """What the record says of its process, as bytes: where these are equal, the process is the same and in the same state.

        `masks`: little-endian words of 64 bits, which numbers and (the last one) which strings are about the process.
        """

    def kind(self, masks: bytes) -> bytes:
        """The same, and what beside the process decides what a record means: its event, flags, error, action and verdicts, and whether the
        call failed."""

def decode(buffer: str, data: bytes, names: tuple[str | None, ...]) -> Record | str:
    """One record of `buffer`, or what is wrong with it. Bytes behind the record's own size are padding. `names`: events by number."""

Run: TypeAlias = tuple[Any, str, int, int, int, int]
"""Records in a row, by one stream without a gap, that come to nothing: what `known` has for their kind, the buffer, the stream, the first
sequence number, how many there are, and the time of the last."""

def sift(
    batch: list[tuple[str, bytes]], names: tuple[str | None, ...], masks: bytes, known: dict[bytes, Any]
) -> list[Record | tuple[str, str] | Run]:
    """Records of a batch (buffer, bytes), in order. In place of those whose `kind` is among `known` stand runs; of what cannot be decoded,
    the buffer and what is wrong. `names`: as for `decode`.
    """

LITERAL: int
ARGUMENT: int
OPEN: int
CLOSE: int
TEXT: int
NUMBER: int
SIGNED: int
STRING_TABLE: int
NUMBER_TABLE: int
Op: TypeAlias = tuple[int, int, bytes, bytes, bytes | None, Callable[[Any], bytes] | None]
"""What is written: kind, slot, key, end, absent, make.

    LITERAL, CLOSE    `key`                   ARGUMENT   the argument of number `slot`
    OPEN              `key`; all up to its CLOSE is taken back where nothing follows
    TEXT              a string: as it is where it is printable ASCII without quotes and backslashes, else as `make` writes it
    NUMBER, SIGNED    a number in decimal digits; signed: of 64 bits
    STRING_TABLE, NUMBER_TABLE    a string or number as `make` writes it; what it has written is kept

A value that is present stands between `key` and `end`; for one that is not stands `absent`, or nothing. A comma that a key begins with is
left out behind a brace.
"""

class Plan:
    """Writes records as text. ValueError: ops that are not nested, or too many of them."""

    def __init__(self, ops: tuple[Op, ...]) -> None: ...
    def write(self, record: Record, arguments: tuple[bytes, ...]) -> bytes:
        """One record, with the arguments that ops ask for. What `make` raises comes through."""
