# SPDX-License-Identifier: Apache-2.0
"""Small ELF files, with the symbols and static probes that a test gives."""

from __future__ import annotations

import struct
from collections.abc import Sequence

ADDRESS, OFFSET, SIZE = 0x401000, 0x1000, 0x1000
"""What is loaded: so many bytes from there in the file to there in memory."""
FUNCTION, NOTHING, CHOSEN, DATA = 2, 0, 10, 1
"""Types of symbols."""


def note(name: str, arguments: str = "", address: int = ADDRESS, counter: int = 0, base: int = 0, provider: str = "p") -> bytes:
    data = struct.pack("<QQQ", address, base, counter) + b"".join(text.encode() + b"\0" for text in (provider, name, arguments))
    return struct.pack("<III", 8, len(data), 3) + b"stapsdt\0" + data + bytes(-len(data) % 4)


def elf(
    symbols: Sequence[tuple[str, int, int]] = (),
    notes: bytes = b"",
    *,
    texts: bytes = b"",
    base: int | None = None,
    machine: int = 62,
    dynamic: bool = False,
) -> bytes:
    """`symbols`: name, type, address (0: not defined here); `texts`: what their names are looked for in, where that is not made of them;
    `base`: where .stapsdt.base is; `dynamic`: the symbols are those of a library."""
    texts = texts or b"\0" + b"".join(name.encode() + b"\0" for name, _, _ in symbols)
    table = bytes(24)
    for name, type_, address in symbols:
        table += struct.pack("<IBBHQQ", texts.index(name.encode() + b"\0"), 16 | type_, 0, 1 if address else 0, address, 8)
    names = b"\0.note.stapsdt\0.stapsdt.base\0.shstrtab\0"
    parts = [(0, 0, 0, b"")]
    parts += [(0, 11 if dynamic else 2, 0, table), (0, 3, 0, texts), (names.index(b".shstrtab"), 3, 0, names)]
    parts += [(names.index(b".note.stapsdt"), 7, 0, notes)] if notes else []
    parts += [(names.index(b".stapsdt.base"), 8, base, b"")] if base is not None else []
    body, sections = bytes(OFFSET + SIZE), b""
    for number, (name_at, type_, address, data) in enumerate(parts):
        link = 2 if number == 1 else 0
        sections += struct.pack("<IIQQQQIIQQ", name_at, type_, 0, address, len(body), len(data), link, 0, 1, 0)
        body += data
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 3, machine, 1, ADDRESS, 64, len(body), 0, 64, 56, 1, 64, len(parts), 3
    )
    loaded = struct.pack("<IIQQQQQQ", 1, 5, OFFSET, ADDRESS, ADDRESS, SIZE, SIZE, 4096)
    return header + loaded + body[len(header) + len(loaded) :] + sections
