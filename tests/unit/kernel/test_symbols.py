# SPDX-License-Identifier: Apache-2.0
"""Addresses of symbols from lists of the kernel's form, whole, hidden, broken, absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpfence.kernel import libbpf, symbols
from bpfence.kernel.symbols import addresses, listed

LIST = """\
ffffffff81000000 T _text
ffffffff82809640 D rename_lock
ffffffffc0000000 d rename_lock\t[module]
ffffffff828096c0 D mount_lock
"""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (LIST, (0xFFFFFFFF82809640, 0xFFFFFFFF828096C0)),
        (LIST.replace("D mount_lock", "D mount_locks"), (0xFFFFFFFF82809640, 0)),
        ("ffffffffc0000000 d rename_lock\t[module]\n", (0, 0)),
        ("0000000000000000 D rename_lock\n0000000000000000 D mount_lock\n", (0, 0)),
        ("none D rename_lock\n", (0, 0)),
        ("\xff\xfe\n\n D\n", (0, 0)),
        ("", (0, 0)),
        (None, (0, 0)),
    ],
)
@pytest.mark.parametrize("piece", [1, 7, 40, 1 << 18])
def test_addresses_in_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int, text: str | None, found: tuple[int, int]) -> None:
    monkeypatch.setattr(symbols, "_PIECE", piece)
    path = tmp_path / "kallsyms"
    if text is not None:
        path.write_text(text, encoding="latin-1")
    assert tuple(listed(("rename_lock", "mount_lock"), path).values()) == found


@pytest.mark.parametrize(("kernel", "found"), [({"a": 7, "b": 9}, (7, 9)), ({"a": 7}, (1, 2)), ({}, (1, 2))])
def test_the_list_is_read_where_the_kernel_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, kernel: dict[str, int], found: tuple[int, int]
) -> None:
    monkeypatch.setattr(libbpf, "symbol", lambda name: kernel.get(name, 0))
    monkeypatch.setattr(symbols, "listed", lambda names: dict(zip(names, (1, 2), strict=True)))
    assert tuple(addresses(("a", "b")).values()) == found
