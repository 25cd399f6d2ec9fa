# SPDX-License-Identifier: Apache-2.0
"""Functions and static probes of files that a test makes, of broken ones, and of this machine's C library."""

from __future__ import annotations

import ctypes
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfence.kernel.elf import Elf, ElfError, StaticProbe
from tests.unit.kernel.elves import ADDRESS, CHOSEN, DATA, FUNCTION, NOTHING, OFFSET, SIZE, elf, note


@pytest.fixture
def descriptors() -> Iterator[list[int]]:
    fds: list[int] = []
    yield fds
    for fd in fds:
        os.close(fd)


def opened(data: bytes, descriptors: list[int]) -> Elf:
    descriptors.append(os.memfd_create("elf"))
    os.write(descriptors[-1], data)
    return Elf(descriptors[-1])


@pytest.mark.parametrize("dynamic", [False, True])
def test_functions_by_name(descriptors: list[int], dynamic: bool) -> None:
    symbols = [
        ("main", FUNCTION, ADDRESS), ("twice", FUNCTION, ADDRESS + 8), ("twice", FUNCTION, ADDRESS + 16),
        ("by_hand", NOTHING, ADDRESS + 24),
        ("elsewhere", FUNCTION, 0), ("value", DATA, ADDRESS + 32),
    ]  # fmt: skip
    found = opened(elf(symbols, dynamic=dynamic), descriptors)
    assert found.functions("main") == (ADDRESS,)
    assert found.functions("twice") == (ADDRESS + 8, ADDRESS + 16)
    assert found.functions("by_hand") == (ADDRESS + 24,)
    assert [found.functions(name) for name in ("elsewhere", "value", "ain", "mai", "")] == [()] * 5
    assert found.names() == ["by_hand", "main", "twice"]


def test_names_that_end_alike_are_stored_once(descriptors: list[int]) -> None:
    symbols = [("prefork", FUNCTION, ADDRESS), ("fork", FUNCTION, ADDRESS + 8)]
    found = opened(elf(symbols, texts=b"\0prefork\0"), descriptors)
    assert (found.functions("fork"), found.functions("prefork")) == ((ADDRESS + 8,), (ADDRESS,))


def test_a_function_that_is_chosen_at_the_start(descriptors: list[int]) -> None:
    with pytest.raises(ElfError, match="one of several functions"):
        opened(elf([("memcpy", CHOSEN, ADDRESS)]), descriptors).functions("memcpy")


def test_where_an_address_is_in_the_file(descriptors: list[int]) -> None:
    found = opened(elf(), descriptors)
    assert found.offset_of(ADDRESS + 5) == OFFSET + 5
    assert (found.offset_of(ADDRESS - 1), found.offset_of(ADDRESS + SIZE)) == (None, None)


def test_static_probes(descriptors: list[int]) -> None:
    notes = note("one", "-4@%edi 8@%rsi") + note("two", "", ADDRESS + 4, ADDRESS + 64, provider="other")
    assert list(opened(elf(notes=notes), descriptors).static_probes()) == [
        StaticProbe("p", "one", ADDRESS, 0, "-4@%edi 8@%rsi"),
        StaticProbe("other", "two", ADDRESS + 4, ADDRESS + 64, ""),
    ]
    assert list(opened(elf(), descriptors).static_probes()) == []


def test_static_probes_of_a_library_that_was_laid_out_again(descriptors: list[int]) -> None:
    notes = note("one", "", 0x1000, 0x1008, base=0x9000)
    (found,) = opened(elf(notes=notes, base=0x9000 + 0x400000), descriptors).static_probes()
    assert (found.address, found.counter) == (0x401000, 0x401008)


def test_files_that_are_none(descriptors: list[int]) -> None:
    for data in (b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + bytes(58), elf(machine=183)):
        with pytest.raises(ElfError):
            opened(data, descriptors)


def test_a_static_probe_that_is_cut_off(descriptors: list[int]) -> None:
    broken = note("one").replace(b"one\0", b"one!")
    with pytest.raises(ElfError, match="broken"):
        list(opened(elf(notes=broken.replace(b"p\0", b"p!")), descriptors).static_probes())


def test_no_file_does_more_than_be_refused(descriptors: list[int]) -> None:
    """Bytes of a good file changed at random, half of them among its headers."""
    whole = elf([("main", FUNCTION, ADDRESS)], note("one", "4@%eax"), base=1)
    dice = random.Random(7)
    for turn in range(300):
        data = bytearray(whole)
        for _ in range(4):
            at = dice.randrange(120) if turn % 2 else dice.randrange(len(whole) - 800, len(whole))
            data[at] = dice.choice((0, 1, 127, 255))
        try:
            found = opened(bytes(data), descriptors)
            found.functions("main")
            found.names()
            list(found.static_probes())
        except ElfError:
            continue
        finally:
            os.close(descriptors.pop())


def test_one_table_that_is_named_often_is_not_read_for_ever(descriptors: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    found = opened(elf([("main", FUNCTION, ADDRESS)]), descriptors)
    assert found.functions("main") == (ADDRESS,)
    again = opened(elf([("main", FUNCTION, ADDRESS)]), descriptors)
    monkeypatch.setattr(again, "_sections", again._sections * 50)
    monkeypatch.setattr(again, "_left", 1000)
    with pytest.raises(ElfError, match="its tables have more than 256 MiB"):
        again.functions("main")


def test_the_c_library_of_this_machine(descriptors: list[int]) -> None:
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    first = next(line for line in lines if "/libc.so" in line[-1])
    base = int(first[0].partition("-")[0], 16)
    descriptors.append(os.open(first[-1], os.O_RDONLY))
    there = ctypes.cast(ctypes.CDLL(None).setenv, ctypes.c_void_p).value
    assert there is not None
    assert Elf(descriptors[-1]).functions("setenv") == (there - base,)
