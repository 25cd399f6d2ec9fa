# SPDX-License-Identifier: Apache-2.0
"""Where sensors on programs and libraries are attached, and where their arguments are there: with files that a test makes."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from bpfence import abi
from bpfence.errors import KernelError
from bpfence.kernel import libbpf, uprobes
from bpfence.kernel.elf import StaticProbe
from bpfence.kernel.sensors import Hints, NoPlaceError, of_sensor
from bpfence.kernel.sensors import link_names as begins
from bpfence.kernel.uprobes import MAX_SITES, Site, found, link_names, specifications, values_of
from bpfence.policy import Probe, ProbeArgument, Read, Target, Way
from tests.unit.kernel.elves import ADDRESS, DATA, FUNCTION, OFFSET, elf, note

DI, AX, SP = 112, 80, 152
"""Offsets in struct pt_regs."""


def probe(path: Path | str, *arguments: ProbeArgument, way: Way = Way.UPROBE, symbol: str = "", **where: int | str) -> Probe:
    target = Target(str(path), symbol, **where)  # type: ignore[arg-type]
    return Probe(way, f"{path}:{symbol}", arguments, target=target)


def usdt(path: Path | str, name: str, *arguments: ProbeArgument) -> Probe:
    return probe(path, *arguments, way=Way.USDT, symbol=name, provider="p")


def sites(asked: Probe) -> tuple[Site, ...]:
    with found(asked, Hints()) as (_, places):
        return places


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program"
    notes = note("one", "-4@%edi 8@%rsi", ADDRESS + 4) + note("one", "4@$3 8@-8(%rsp)", ADDRESS + 8, ADDRESS + 64) + note("two")
    path.write_bytes(elf([("main", FUNCTION, ADDRESS + 2), ("twice", FUNCTION, ADDRESS), ("twice", FUNCTION, ADDRESS + 6)], notes))
    return path


def test_a_symbol_an_offset_and_an_address(program: Path) -> None:
    assert [site.offset for site in sites(probe(program, symbol="main"))] == [OFFSET + 2]
    assert [site.offset for site in sites(probe(program, symbol="twice"))] == [OFFSET, OFFSET + 6]
    assert [(site.offset, site.counter) for site in sites(probe(program, offset=77, counter=5))] == [(77, 5)]
    assert [site.offset for site in sites(probe(program, address=ADDRESS + 9))] == [OFFSET + 9]


def test_arguments_of_a_function_are_in_registers(program: Path) -> None:
    arguments = (ProbeArgument(5, Read.NUMBER), ProbeArgument(1, Read.NOTHING), ProbeArgument(0, Read.BYTES, length=3))
    (site,) = sites(probe(program, *arguments, symbol="main"))
    values, lengths = abi.USER_VALUES_STRUCT.unpack(site.values)
    unpacked = [abi.USER_VALUE_STRUCT.unpack_from(values, 16 * number) for number in range(3)]
    assert [(source, register) for _, register, _, source, *_ in unpacked] == [(abi.USER_REGISTER, 64), (0, 0), (abi.USER_REGISTER, DI)]
    assert abi.USER_VALUE_STRUCT.unpack_from(lengths, 32)[1] == 88


def test_a_static_probe_at_two_places_has_its_arguments_elsewhere_at_each(program: Path) -> None:
    places = sites(usdt(program, "one", ProbeArgument(0, Read.NUMBER, 4), ProbeArgument(1, Read.TEXT)))
    assert [(site.offset, site.counter) for site in places] == [(OFFSET + 4, 0), (OFFSET + 8, OFFSET + 64)]
    assert places[0].values != places[1].values
    assert len({site.tag for site in places}) == 2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8@%rdi", (0, DI, 0, abi.USER_REGISTER, 0, 8)),
        ("-1@%al", (0, AX, 0, abi.USER_REGISTER, 0, 1 | abi.SENSOR_SIGNED)),
        ("4@$-5", ((1 << 64) - 5, 0, 0, abi.USER_CONSTANT, 0, 4)),
        ("-2@$0x10", (16, 0, 0, abi.USER_CONSTANT, 0, 2 | abi.SENSOR_SIGNED)),
        ("8@(%rsp)", (0, SP, 0, abi.USER_MEMORY, 0, 8)),
        ("8@-24(%rsp)", ((1 << 64) - 24, SP, 0, abi.USER_MEMORY, 0, 8)),
        ("4@8(%rax,%rdi,4)", (8, AX, DI, abi.USER_MEMORY, 4, 4)),
        ("4@(%rax,%rdi)", (0, AX, DI, abi.USER_MEMORY, 1, 4)),
    ],
)
def test_where_an_argument_of_a_static_probe_is(text: str, value: tuple[int, ...]) -> None:
    ((data, size),) = [one for one in specifications(usdt("/x", "y"), StaticProbe("p", "y", 0, 0, text)) if one]
    assert abi.USER_VALUE_STRUCT.unpack(data)[:6] == value
    assert size == value[5] & 15


@pytest.mark.parametrize("text", ["8f@%xmm0", "8@counter(%rip)", "8@4(%rip)", "3@%eax", "8@%xmm1", "8@%ah", "nonsense", "8@(%rax,%xmm0,4)"])
def test_an_argument_that_cannot_be_read_is_told_where_it_is_asked_for(text: str) -> None:
    asked, there = usdt("/x", "y", ProbeArgument(0, Read.NUMBER)), StaticProbe("p", "y", 0, 0, f"{text} 4@%eax")
    with pytest.raises(KernelError, match="argument 0 is where it cannot be read"):
        values_of(asked, specifications(asked, there))
    other = usdt("/x", "y", ProbeArgument(1, Read.NUMBER))
    assert values_of(other, specifications(other, there))


def test_arguments_that_are_not_there_or_no_such() -> None:
    there = StaticProbe("p", "y", 0, 0, "4@%eax 8@%rdi")
    more = usdt("/x", "y", ProbeArgument(2, Read.NUMBER))
    with pytest.raises(KernelError, match="has 2 arguments"):
        specifications(more, there)
    for asked, told in (
        (usdt("/x", "y", ProbeArgument(0, Read.TEXT)), "argument 0 has 4 bytes, and is no pointer"),
        (usdt("/x", "y", ProbeArgument(1, Read.BYTES, length=2)), "has no argument 2"),
    ):
        with pytest.raises(KernelError, match=told):
            values_of(asked, specifications(asked, there))


def test_what_is_not_there_is_told_with_what_is_near(program: Path, tmp_path: Path) -> None:
    for asked, told, hint in (
        (probe(program, symbol="mian"), "has no function 'mian'", ""),
        (probe(program, symbol="twicee"), "has no function 'twicee'", "there is twice"),
        (usdt(program, "ones"), "has no static probe 'p:ones'", "there is p:one"),
        (probe(tmp_path / "nothing", symbol="main"), "there is no file", ""),
        (probe(tmp_path, symbol="main"), "no regular file", ""),
    ):
        with pytest.raises(NoPlaceError, match=told) as caught:
            sites(asked)
        assert hint in caught.value.hint
    bare = tmp_path / "bare"
    bare.write_bytes(elf([("value", DATA, ADDRESS)]))
    with pytest.raises(NoPlaceError, match="it has no symbols") as caught:
        sites(probe(bare, symbol="main"))
    assert "offsets" in caught.value.hint
    with pytest.raises(NoPlaceError, match="it has none"):
        sites(usdt(bare, "one"))


def test_files_that_cannot_be_looked_at(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n" + " " * 64)
    with pytest.raises(KernelError, match=r"no ELF file of x86-64"):
        sites(probe(script, symbol="main"))
    crowd = tmp_path / "crowd"
    crowd.write_bytes(elf(notes=note("one") * (MAX_SITES + 1)))
    with pytest.raises(KernelError, match=f"more than {MAX_SITES} places"):
        sites(usdt(crowd, "one"))
    outside = tmp_path / "outside"
    outside.write_bytes(elf([("main", FUNCTION, 0x10)]))
    with pytest.raises(KernelError, match="nothing of the file is loaded to address 0x10"):
        sites(probe(outside, symbol="main"))


def test_a_file_that_has_changed_has_other_links(program: Path) -> None:
    asked = probe(program, symbol="main")
    before = sites(asked)
    assert sites(asked) == before
    data = program.read_bytes()
    program.unlink()
    program.write_bytes(data + b"\0")
    after = sites(asked)
    names = {name for name, _, _ in link_names(asked, (*before, *after))}
    assert len(names) == 2
    assert {of_sensor(name) for name in names} == set(begins(asked))
    assert [site.cookie(asked) & 0xFFFFFFFF for site in after] == [asked.number]


def test_attaching(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, bytes | None, int, int]] = []

    def attach_event(program: int, type_: int, config: int, name: bytes | None, offset: int, cookie: int) -> int:
        calls.append((config, name, offset, cookie))
        return -errno.EIO if offset == 1 else 9

    monkeypatch.setattr(uprobes, "device", lambda name: 8)
    monkeypatch.setattr(libbpf, "attach_event", attach_event)
    asked = probe("/x", symbol="main")
    assert uprobes.attach(asked, "sensor_uprobe", 3, 4, Site(64, 0x20, b"", 5)) == 9
    assert uprobes.attach(asked, "sensor_ureturn", 3, 4, Site(64, 0, b"", 5)) == 9
    cookie = 5 << 32 | asked.number
    assert calls == [(0x20 << 32, b"/proc/self/fd/4", 64, cookie), (1, b"/proc/self/fd/4", 64, cookie)]
    with pytest.raises(KernelError, match="has no uprobes"):
        uprobes.attach(asked, "sensor_uprobe", 3, 4, Site(1, 0, b"", 5))
