# SPDX-License-Identifier: Apache-2.0
"""A sensor on a program or library in, the places in the file out: where each is attached, and where its arguments are then.

Called by `engine`, as `sensors` is for what is in the kernel. A place has a tag of what was found there: a file that has changed has
others. Cookie of an attachment: the sensor's number, and the tag above it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from bpfence import abi
from bpfence.errors import KernelError
from bpfence.kernel import libbpf
from bpfence.kernel.elf import Elf, ElfError, StaticProbe
from bpfence.kernel.sensors import APART, PROGRAMS, RETPROBE, Hints, NoPlaceError, described, device
from bpfence.policy import Probe, ProbeArgument, Read, Target, Way
from bpfence.words import quoted

WAYS: Final = frozenset((Way.UPROBE, Way.URETPROBE, Way.USDT))
MAX_SITES: Final = 64
"""Places of one sensor: a static probe in a function that was put into others is at several."""
_COUNTER_SHIFT: Final = 32
"""In the config of a uprobe's perf event: /sys/bus/event_source/devices/uprobe/format/ref_ctr_offset."""
_TAG_SHIFT: Final = 32
# struct pt_regs of x86-64, which is a stable interface: arch/x86/include/uapi/asm/ptrace.h.
_REGISTERS: Final = {
    name: offset
    for offset, names in {
        0: "r15 r15d r15w r15b", 8: "r14 r14d r14w r14b", 16: "r13 r13d r13w r13b", 24: "r12 r12d r12w r12b", 32: "rbp ebp bp bpl",
        40: "rbx ebx bx bl", 48: "r11 r11d r11w r11b", 56: "r10 r10d r10w r10b", 64: "r9 r9d r9w r9b", 72: "r8 r8d r8w r8b",
        80: "rax eax ax al", 88: "rcx ecx cx cl", 96: "rdx edx dx dl", 104: "rsi esi si sil", 112: "rdi edi di dil", 128: "rip",
        152: "rsp esp sp spl",
    }.items()
    for name in names.split()
}  # fmt: skip
_ARGUMENTS: Final = ("rdi", "rsi", "rdx", "rcx", "r8", "r9")
"""Where functions have their arguments: System V ABI for x86-64, 3.2.3."""
_SPEC: Final = re.compile(r"(?P<sign>-?)(?P<size>[1248])@(?P<where>\S+)")
_CONSTANT: Final = re.compile(r"\$(?P<value>-?(?:0x[0-9a-fA-F]+|[0-9]+))")
_REGISTER: Final = re.compile(r"%(?P<name>\w+)")
_MEMORY: Final = re.compile(r"(?P<offset>-?(?:0x[0-9a-fA-F]+|[0-9]+))?\(%(?P<base>\w+)(?:,%(?P<index>\w+)(?:,(?P<scale>[1248]))?)?\)")
_NOTHING: Final = bytes(abi.USER_VALUE_SIZE)
_U64: Final = (1 << 64) - 1


class Site(NamedTuple):
    """A place: offset in the file, offset of the counter (0: none), struct user_values, and the tag."""

    offset: int
    counter: int
    values: bytes
    tag: int

    def cookie(self, probe: Probe) -> int:
        """What the programs are attached with."""
        return probe.number | self.tag << _TAG_SHIFT


class Found(NamedTuple):
    """The places of a sensor in a file that is open."""

    fd: int
    sites: tuple[Site, ...]


def link_names(probe: Probe, sites: Collection[Site]) -> Iterator[tuple[str, str, Site]]:
    """The name of each link, its program and its place."""
    for site in sites:
        for program in PROGRAMS[probe.way]:
            yield f"{program}{APART}{probe.number:08x}{APART}{site.tag:08x}", program, site


@contextmanager
def found(probe: Probe, hints: Hints) -> Iterator[Found]:
    """The places of a sensor, as long as the file is open. NoPlaceError: there are none; KernelError: they cannot be looked at, or
    arguments cannot be read there.
    """
    target = probe.target
    assert target is not None
    fd = _opened(target.path)
    try:
        status = os.fstat(fd)
        of_file = f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"
        try:
            yield Found(fd, tuple(_tagged(of_file, site) for site in _sites(probe, target, Elf(fd), hints)))
        except ElfError as error:
            raise KernelError(f"{described(probe)}: {quoted(target.path)}: {error}", missing=target.path) from error
        except OSError as error:
            raise KernelError(f"{quoted(target.path)} cannot be read: {error.strerror}", missing=target.path) from error
    finally:
        os.close(fd)


def attach(probe: Probe, program: str, program_fd: int, file: int, site: Site) -> int:
    """Attaches a program of its way to a place of an open file: the descriptor of the link. KernelError: it cannot be."""
    # The file that was looked at, whatever has its name by now.
    name = f"/proc/self/fd/{file}".encode()
    config = site.counter << _COUNTER_SHIFT | (RETPROBE if program == PROGRAMS[Way.URETPROBE][0] else 0)
    result = libbpf.attach_event(program_fd, device("uprobe"), config, name, site.offset, site.cookie(probe))
    if result == -errno.EIO:
        raise KernelError(f"{described(probe)}: the file system of the file has no uprobes", missing="uprobes there")
    return libbpf.check(result, f"attaching a {described(probe)}")


def _opened(path: str) -> int:
    try:
        with libbpf.telling_descriptors(f"opening {path}"):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise NoPlaceError(f"there is no file {quoted(path)}", missing=path) from error
        raise KernelError(f"{quoted(path)} cannot be opened: {error.strerror}", missing=path) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise NoPlaceError(f"{quoted(path)} is no regular file", missing=path)
    return fd


def _tagged(of_file: str, site: Site) -> Site:
    data = f"{of_file}:{site.offset}:{site.counter}:".encode() + site.values
    return site._replace(tag=int.from_bytes(hashlib.blake2b(data, digest_size=4).digest(), "little"))


def _sites(probe: Probe, target: Target, elf: Elf, hints: Hints) -> Iterator[Site]:
    if probe.way is Way.USDT:
        yield from _static_sites(probe, target, elf, hints)
        return
    values = values_of(probe, [(_in_register(name), 8) for name in _ARGUMENTS])
    for offset in dict.fromkeys(_offsets(target, elf, hints)):
        yield Site(offset, target.counter, values, 0)


def _offsets(target: Target, elf: Elf, hints: Hints) -> Iterator[int]:
    if target.offset is not None:
        yield target.offset
        return
    if target.address is not None:
        addresses: tuple[int, ...] = (target.address,)
    else:
        addresses = elf.functions(target.symbol)
        if not addresses:
            raise _no_symbol(target, elf, hints)
        if len(addresses) > MAX_SITES:
            raise ElfError(f"it has more than {MAX_SITES} functions {quoted(target.symbol)}")
    for address in addresses:
        offset = elf.offset_of(address)
        if offset is None:
            raise ElfError(f"nothing of the file is loaded to address {address:#x}")
        yield offset


def _no_symbol(target: Target, elf: Elf, hints: Hints) -> NoPlaceError:
    names = elf.names()
    what = f"{quoted(target.path)} has no function {quoted(target.symbol)}"
    if not names:
        return NoPlaceError(f"{what}: it has no symbols", missing=target.symbol, hint="write offsets or addrs in place of symbols")
    return hints.missing(what, target.symbol, lambda: names)


def _static_sites(probe: Probe, target: Target, elf: Elf, hints: Hints) -> Iterator[Site]:
    known = list(elf.static_probes())
    alike = [one for one in known if (one.provider, one.name) == (target.provider, target.symbol)]
    if not alike:
        what = f"{quoted(target.path)} has no static probe {quoted(f'{target.provider}:{target.symbol}')}"
        if not known:
            raise NoPlaceError(f"{what}: it has none", missing=target.symbol)
        raise hints.missing(what, f"{target.provider}:{target.symbol}", lambda: {f"{one.provider}:{one.name}" for one in known})
    if len(alike) > MAX_SITES:
        raise ElfError(f"{described(probe)} is at more than {MAX_SITES} places")
    for one in alike:
        offset, counter = elf.offset_of(one.address), elf.offset_of(one.counter) if one.counter else 0
        if offset is None or counter is None:
            raise ElfError(f"nothing of the file is loaded to where {described(probe)} is")
        yield Site(offset, counter, values_of(probe, specifications(probe, one)), 0)


def specifications(probe: Probe, one: StaticProbe) -> list[tuple[bytes, int] | None]:
    """The arguments of a static probe: of each struct user_value and its bytes; None where it cannot be read. KernelError: not as many
    as there are is asked for."""
    made = [_specification(text) for text in one.arguments.split()]
    if any(argument.index >= len(made) for argument in probe.arguments if argument.read is not Read.NOTHING):
        raise KernelError(f"{described(probe)} has {len(made)} arguments, counted from 0", missing="that argument")
    return made


def _specification(text: str) -> tuple[bytes, int] | None:
    spec = _SPEC.fullmatch(text)
    if spec is None:
        return None
    size = int(spec["size"])
    sized = size | (abi.SENSOR_SIGNED if spec["sign"] else 0)
    where = spec["where"]
    if constant := _CONSTANT.fullmatch(where):
        return _value(abi.USER_CONSTANT, sized, offset=int(constant["value"], 0)), size
    if register := _REGISTER.fullmatch(where):
        name = register["name"]
        return (_value(abi.USER_REGISTER, sized, _REGISTERS[name]), size) if name in _REGISTERS else None
    memory = _MEMORY.fullmatch(where)
    if memory is None or memory["base"] not in _REGISTERS or (memory["index"] or "rax") not in _REGISTERS or memory["base"] == "rip":
        return None
    offset = int(memory["offset"] or "0", 0)
    index = _REGISTERS[memory["index"]] if memory["index"] else 0
    scale = int(memory["scale"] or 1) if memory["index"] else 0
    return _value(abi.USER_MEMORY, sized, _REGISTERS[memory["base"]], offset, index, scale), size


def _in_register(name: str) -> bytes:
    return _value(abi.USER_REGISTER, 0, _REGISTERS[name])


def _value(source: int, size: int, register: int = 0, offset: int = 0, index: int = 0, scale: int = 0) -> bytes:
    return abi.USER_VALUE_STRUCT.pack(offset & _U64, register, index, source, scale, size, 0)


def values_of(probe: Probe, known: list[tuple[bytes, int] | None] | list[tuple[bytes, int]]) -> bytes:
    """struct user_values. `known`: of each argument that there is where it is, and its bytes. KernelError: one cannot be read."""
    values, lengths = [_NOTHING] * abi.USER_PLACES, [_NOTHING] * abi.USER_PLACES
    for number, argument in enumerate(probe.arguments):
        if argument.read is Read.NOTHING:
            continue
        values[number] = _known(probe, argument, argument.index, known)
        if argument.read is Read.BYTES:
            lengths[number] = _known(probe, argument, argument.length, known)
    return abi.USER_VALUES_STRUCT.pack(b"".join(values), b"".join(lengths))


def _known(probe: Probe, argument: ProbeArgument, index: int, known: list[tuple[bytes, int] | None] | list[tuple[bytes, int]]) -> bytes:
    if index >= len(known):
        raise KernelError(f"{described(probe)} has no argument {index}", missing="that argument")
    one = known[index]
    if one is None:
        raise KernelError(f"{described(probe)}: argument {index} is where it cannot be read", missing="that argument")
    value, size = one
    pointer = index == argument.index and argument.read is not Read.NUMBER
    if pointer and argument.read is not Read.FD and size != abi.USER_VALUE_OFFSETS["reg"]:
        raise KernelError(f"{described(probe)}: argument {index} has {size} bytes, and is no pointer", missing="that argument")
    return value
