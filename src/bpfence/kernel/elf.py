# SPDX-License-Identifier: Apache-2.0
"""An ELF file in, where its functions and static probes are out: what a sensor on a program or library asks.

Called by `uprobes`. Files are hostile: everything is read by its place and size in the file, no more than `MAX_TABLE` of it at once, and
nothing is executed. Only files of x86-64 are read. Format: System V ABI, chapters 4 and 5; static probes: the notes of
https://sourceware.org/systemtap/wiki/UserSpaceProbeImplementation
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from bpfence.errors import BpfenceError

MAX_TABLE: Final = 1 << 27
"""Bytes of one table: symbols of the largest programs take 50 MB."""
MAX_READ: Final = 1 << 28
"""Bytes that are read of one file in all: its headers may name one table thousands of times."""
_MAX_HEADERS: Final = 1 << 16
MAX_NOTES: Final = 1 << 16
"""Static probes of one file."""
_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION: Final = struct.Struct("<IIQQQQIIQQ")
_SEGMENT: Final = struct.Struct("<IIQQQQQQ")
_SYMBOL: Final = struct.Struct("<IBBHQQ")
_NOTE: Final = struct.Struct("<III")
_PLACE: Final = struct.Struct("<QQQ")
_MAGIC: Final = b"\x7fELF\x02\x01"
"""Of files of 64 bits, low byte first."""
_X86_64: Final = 62
_LOAD: Final = 1
_SYMTAB: Final = 2
_DYNSYM: Final = 11
_NOBITS: Final = 8
_FUNCTIONS: Final = frozenset((0, 2))
"""STT_NOTYPE, as functions written in assembler may have it, and STT_FUNC."""
_RESOLVED: Final = 10
"""STT_GNU_IFUNC: what is there chooses the function, and is none itself."""
_STATIC_PROBE: Final = 3
_OWNER: Final = b"stapsdt\0"


class ElfError(BpfenceError):
    """A file that is no ELF file of this kind, or a broken one."""


class Section(NamedTuple):
    """Where a section is: in the file, and in memory. `link`: the number of the one that it belongs with."""

    name: int
    type: int
    address: int
    offset: int
    size: int
    link: int


class Segment(NamedTuple):
    """What is loaded from the file, and where to."""

    offset: int
    address: int
    size: int


class StaticProbe(NamedTuple):
    """A place in the code with a name. `address`, `counter` (0: none): in memory, as the file is linked."""

    provider: str
    name: str
    address: int
    counter: int
    arguments: str


class Elf:
    """An open file. `fd` stays the caller's. ElfError: it is none."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._size = os.fstat(fd).st_size
        self._left = MAX_READ
        header = _HEADER.unpack(self._bytes(0, _HEADER.size, "the header"))
        magic, _, machine, _, _, segments, sections, _, _, segment_size, segment_count, section_size, section_count, self._names = header
        if not magic.startswith(_MAGIC) or machine != _X86_64:
            raise ElfError("it is no ELF file of x86-64")
        # More sections than fit into the header are counted in the first section: none that is asked about here has so many.
        if segment_size != _SEGMENT.size or (section_count and section_size != _SECTION.size):
            raise ElfError("its headers have another size")
        table = self._bytes(segments, segment_count * segment_size, "the program headers")
        loaded = (one for one in _SEGMENT.iter_unpack(table) if one[0] == _LOAD)
        self._segments = tuple(Segment(offset, address, size) for _, _, offset, address, _, size, _, _ in loaded)
        table = self._bytes(sections, section_count * section_size, "the section headers")
        self._sections = tuple(
            Section(name, type_, address, offset, size, link)
            for name, type_, _, address, offset, size, link, *_ in _SECTION.iter_unpack(table)
        )

    def _bytes(self, offset: int, size: int, what: str) -> bytes:
        if size > MAX_TABLE or offset + size > self._size:
            raise ElfError(f"{what} of it cannot be read: {size} bytes at {offset}")
        self._left -= size
        if self._left < 0:
            raise ElfError(f"its tables have more than {MAX_READ >> 20} MiB")
        data = os.pread(self._fd, size, offset)
        while len(data) < size:
            more = os.pread(self._fd, size - len(data), offset + len(data))
            if not more:
                raise ElfError(f"{what} of it cannot be read: the file has become shorter")
            data += more
        return data

    def _data(self, section: Section) -> bytes:
        return b"" if section.type == _NOBITS else self._bytes(section.offset, section.size, "a section")

    def offset_of(self, address: int) -> int | None:
        """Where in the file what is loaded to an address is; None where that is not from the file."""
        for segment in self._segments:
            if segment.address <= address < segment.address + segment.size:
                return segment.offset + address - segment.address
        return None

    def _symbols(self) -> Iterator[tuple[bytes, bytes]]:
        """Tables of symbols, each with its texts."""
        for section in self._sections:
            if section.type in (_SYMTAB, _DYNSYM) and section.link < len(self._sections):
                table = self._data(section)
                yield table[: len(table) // _SYMBOL.size * _SYMBOL.size], self._data(self._sections[section.link])

    def functions(self, name: str) -> tuple[int, ...]:
        """The addresses of the functions of a name: of static functions there may be several. ElfError: it is chosen at the start."""
        found: dict[int, None] = {}
        wanted = re.escape(name.encode("utf-8", "surrogateescape")) + b"\\0"
        for table, texts in self._symbols():
            # Texts that end alike are stored once, so a name may begin within another.
            starts = {match.start() for match in re.finditer(wanted, texts)}
            for start, info, _, section, address, _ in _SYMBOL.iter_unpack(table) if starts else ():
                if start not in starts or not section:
                    continue
                if info & 15 == _RESOLVED:
                    raise ElfError(f"{name} is one of several functions, which is chosen when the program starts")
                if info & 15 in _FUNCTIONS:
                    found[address] = None
        return tuple(found)

    def names(self) -> list[str]:
        """The names of all functions, sorted."""
        found: set[str] = set()
        for table, texts in self._symbols():
            for start, info, _, section, _, _ in _SYMBOL.iter_unpack(table):
                if section and info & 15 in _FUNCTIONS and 0 < start < len(texts):
                    found.add(texts[start : texts.find(b"\0", start)].decode("utf-8", "replace"))
        return sorted(found)

    def static_probes(self) -> Iterator[StaticProbe]:
        """All static probes (USDT)."""
        names = self._data(self._sections[self._names]) if self._names < len(self._sections) else b""
        named = {names[one.name : names.find(b"\0", one.name)]: one for one in self._sections if one.name < len(names)}
        notes, base = named.get(b".note.stapsdt"), named.get(b".stapsdt.base")
        if notes is None:
            return
        data, at = self._data(notes), 0
        for _ in range(MAX_NOTES):
            if at + _NOTE.size > len(data):
                return
            owner_size, size, type_ = _NOTE.unpack_from(data, at)
            owner, at = data[at + _NOTE.size : at + _NOTE.size + owner_size], at + _NOTE.size + _padded(owner_size)
            described, at = data[at : at + size], at + _padded(size)
            if type_ == _STATIC_PROBE and owner == _OWNER and len(described) == size:
                yield _static_probe(described, base)


def _padded(size: int) -> int:
    return (size + 3) & ~3


def _static_probe(data: bytes, base: Section | None) -> StaticProbe:
    texts = data[_PLACE.size :].split(b"\0")
    if len(data) < _PLACE.size or len(texts) < 4:  # three texts, each with its end
        raise ElfError("one of its static probes is broken")
    address, linked, counter = _PLACE.unpack_from(data)
    moved = base.address - linked if base is not None and linked else 0  # by a tool that lays libraries out beforehand
    provider, name, arguments = (text.decode("utf-8", "replace") for text in texts[:3])
    return StaticProbe(provider, name, address + moved, counter + moved if counter else 0, arguments)
