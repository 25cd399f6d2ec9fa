# SPDX-License-Identifier: Apache-2.0
"""Sensors in, what the kernel must be told of them out: where each is attached, and how its arguments are read.

Called by `engine`. One program of bpf/sensor.bpf.c is attached to all sensors of one way; the number of a sensor is the cookie that it is
attached with, and its key in map `sensors`. Places are looked up in this machine's files: tracefs and sysfs.
"""

from __future__ import annotations

import difflib
import errno
import functools
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from bpfence import abi
from bpfence.errors import KernelError
from bpfence.kernel import libbpf
from bpfence.kernel.features import SYSCALL_PREFIX, Features
from bpfence.names import call_hook, lsm_function
from bpfence.policy import Probe, ProbeArgument, Read, Way
from bpfence.syscalls import table as syscalls
from bpfence.syscalls.architectures import Arch
from bpfence.words import quoted

PROGRAMS: Final = {
    Way.KPROBE: ("sensor_kprobe",), Way.KRETPROBE: ("sensor_return", "sensor_entry"), Way.TRACEPOINT: ("sensor_tracepoint",),
    Way.LSM: ("sensor_lsm",),
    Way.UPROBE: ("sensor_uprobe",), Way.URETPROBE: ("sensor_ureturn", "sensor_uentry"), Way.USDT: ("sensor_usdt",),
}  # fmt: skip
"""By the way of attaching: the programs of bpf/sensor.bpf.c, in the order in which they are attached."""
_RETURN: Final = "sensor_return"
RETPROBE: Final = 1
"""In the config of the perf event of a kprobe or uprobe: /sys/bus/event_source/devices/kprobe/format/retprobe."""
APART: Final = "-"
"""What sets a program's name, a sensor's number, and what else there is apart in the name of a link."""
LSM_HOOK: Final = "bpf_lsm_"
"""What the kernel's functions begin with that stand for hooks of the LSM."""
_DEVICES: Final = Path("/sys/bus/event_source/devices")
_EVENTS: Final = (Path("/sys/kernel/tracing/events"), Path("/sys/kernel/debug/tracing/events"))
_KALLSYMS: Final = Path("/proc/kallsyms")
_TRACEPOINT_TYPE: Final = 2
"""PERF_TYPE_TRACEPOINT of linux/perf_event.h."""
_MAX_FORMAT: Final = 1 << 16
_FIELD: Final = re.compile(
    r"^\tfield:(?P<type>.+?)\s*\b(?P<name>\w+)(?P<array>\[\d*\])?;\toffset:(?P<at>\d+);\tsize:(?P<size>\d+);\tsigned:(?P<signed>[01]);"
)
_NEAR: Final = 3
_ENDS: Final = 4
_POINTER: Final = 8
_INT: Final = 4
_MAX_INDEX: Final = (1 << abi.SENSOR_LENGTH_SHIFT) - 1
FILES: Final = frozenset((Read.FILE, Read.PATH, Read.BINPRM, Read.FD))
"""What is a file: the first of a sensor is file.path, the second file.new_path."""
_TEXTS: Final = frozenset((abi.SENSOR_TEXT, abi.SENSOR_FILENAME, abi.SENSOR_DATA_LOC, abi.SENSOR_TEXT_HERE, abi.SENSOR_BYTES))
"""What may be longer than a text's own place: names of modules and devices never are."""
_TITLES: Final = {
    Way.KPROBE: "kprobe on", Way.KRETPROBE: "kretprobe on", Way.TRACEPOINT: "tracepoint",
    Way.LSM: "sensor on LSM hook", Way.UPROBE: "uprobe on",
    Way.URETPROBE: "uretprobe on", Way.USDT: "static probe",
}  # fmt: skip


class NoPlaceError(KernelError):
    """There is no such place for a sensor on this kernel."""


class FormatField(NamedTuple):
    """A field of a tracepoint's record. `located`: it tells where in the record a text is; `array`: it is one itself."""

    name: str
    at: int
    size: int
    signed: bool
    located: bool
    array: bool


def link_names(probe: Probe) -> tuple[str, ...]:
    """The names of a sensor's links among those of programs, one for each program of its way; of one in a file what they begin with."""
    return tuple(f"{program}{APART}{probe.number:08x}" for program in PROGRAMS[probe.way])


def of_sensor(link: str) -> str:
    """The part of a link's name that `link_names` has; the whole name where it is not a sensor's."""
    return APART.join(link.split(APART)[:2])


def described(probe: Probe) -> str:
    """A sensor as messages name it."""
    return f"{_TITLES[probe.way]} {probe.place}"


def descriptor(probe: Probe, fields: tuple[FormatField, ...] = ()) -> bytes:
    """struct sensor. `fields`: of a tracepoint. KernelError: an argument is not there, or is no such."""
    if len(probe.arguments) > abi.SENSOR_ARGS:
        raise KernelError(f"{described(probe)}: more than {abi.SENSOR_ARGS} arguments are not read", missing="room for arguments")
    at, read, size = [0] * abi.SENSOR_ARGS, [0] * abi.SENSOR_ARGS, [0] * abi.SENSOR_ARGS
    files = sum(argument.read in FILES for argument in probe.arguments)
    rooms = [room for room, taken in ((abi.SENSOR_ROOM_NEW_PATH, 2), (abi.SENSOR_ROOM_PATH, 1)) if files < taken]
    second = 0
    for number, argument in enumerate(probe.arguments):
        if argument.read is Read.NOTHING:
            continue
        if not 0 <= argument.index <= _MAX_INDEX and probe.target is None:
            raise KernelError(f"{described(probe)} has no argument {argument.index}", missing="that argument")
        at[number], read[number] = argument.index if probe.target is None else number, int(argument.read)
        if probe.way is Way.TRACEPOINT:
            at[number], read[number], size[number] = _in_record(probe, argument, fields)
        elif argument.read is Read.BYTES:
            length = argument.length if probe.target is None else number  # map `user_values` has it at the argument's own place
            at[number] |= length << abi.SENSOR_LENGTH_SHIFT | _length_flag(probe, argument)
            at[number] |= abi.SENSOR_AT_RETURN if argument.at_return else 0
        elif argument.read in (Read.NUMBER, Read.FD):
            size[number] = _sized(argument)
        if argument.read in FILES:
            size[number] |= second << abi.SENSOR_SECOND_SHIFT
            second = 1
    user = probe.call or _of_calls(probe) or probe.target is not None
    flags = (abi.SENSOR_CALL if probe.call else 0) | (abi.SENSOR_USER if user else 0)
    if probe.call and probe.way is Way.LSM:
        call = syscalls.number(Arch.X86_64, call_of(probe))
        if call is None:
            raise NoPlaceError(f"there is no system call {call_of(probe)}", missing=probe.place)
        flags |= call << abi.SENSOR_CALL_SHIFT
    late = [number for number in range(abi.SENSOR_ARGS) if at[number] & abi.SENSOR_AT_RETURN]
    for number in range(abi.SENSOR_ARGS):
        if read[number] in _TEXTS and rooms and number not in late:
            size[number] = rooms.pop(0)
    for number in late[:1]:  # the other room has what was read before
        size[number] = abi.SENSOR_ROOM_NEW_PATH
    result = _sized(probe.result) if probe.result is not None else 0
    whole = probe.result is not None and probe.result.read is Read.SOCK_WHOLE
    if whole and len(probe.arguments) == abi.SENSOR_ARGS:
        raise KernelError(f"{described(probe)}: besides {abi.SENSOR_ARGS} arguments no structure is read", missing="room for arguments")
    returned = (int(Read.SOCK_WHOLE), len(probe.arguments)) if whole else (0, 0)
    return abi.SENSOR_STRUCT.pack(flags, *at, bytes(read), bytes(size), result, *returned, 0)


def _sized(argument: ProbeArgument) -> int:
    return argument.size | (abi.SENSOR_SIGNED if argument.signed else 0)


def _length_flag(probe: Probe, argument: ProbeArgument) -> int:
    """SENSOR_LENGTH_INT where the argument that says how many bytes there are is read as a number of no more than 32 bits."""
    alike = (one for one in probe.arguments if one.index == argument.length and one.read in (Read.NUMBER, Read.FD))
    return abi.SENSOR_LENGTH_INT if any(one.size <= _INT for one in alike) else 0


def _in_record(probe: Probe, argument: ProbeArgument, fields: tuple[FormatField, ...]) -> tuple[int, int, int]:
    """Offset, kind and size of an argument in a tracepoint's record."""
    if argument.index >= len(fields):
        names = ", ".join(f"{index} {field.name}" for index, field in enumerate(fields))
        raise KernelError(f"{described(probe)} has no field {argument.index}", missing="that field", hint=f"its fields are {names}")
    field = fields[argument.index]
    text = argument.read is Read.TEXT
    textual, long = field.located or field.array, field.size > _POINTER
    if (not text and (textual or long)) or (text and not (textual or field.size == _POINTER)):
        what = f"field {argument.index} ({field.name}) of {described(probe)} is no {'text' if text else 'number'}"
        raise KernelError(what, missing="that field")
    if text and field.located:
        return field.at, abi.SENSOR_DATA_LOC, 0
    if text:
        return field.at, abi.SENSOR_TEXT_HERE if field.array else abi.SENSOR_TEXT, 0
    return field.at, int(argument.read), min(argument.size, field.size) | (abi.SENSOR_SIGNED if argument.signed else 0)


def _of_calls(probe: Probe) -> bool:
    """Whether pointers in a tracepoint's record are those that a system call was given."""
    return probe.way is Way.TRACEPOINT and probe.place.startswith("syscalls/")


def tracepoint(place: str, hints: Hints) -> tuple[int, tuple[FormatField, ...]]:
    """The id of a tracepoint ("subsystem/name") and the fields of its record. KernelError: there is none."""
    subsystem, _, name = place.partition("/")
    if not re.fullmatch(r"\w+", subsystem) or not re.fullmatch(r"\w+", name):
        raise KernelError(f"{quoted(place)} is no name of a tracepoint", missing="tracepoint")
    folder = next((root / subsystem / name for root in _EVENTS if (root / subsystem / name / "id").exists()), None)
    if folder is None:
        folders = [root / subsystem for root in _EVENTS]
        what = f"this kernel has no tracepoint {place}, or tracefs is not mounted"
        raise hints.missing(what, name, lambda: sorted({entry.name for one in folders if one.is_dir() for entry in one.iterdir()}))
    try:
        with libbpf.telling_descriptors(f"looking at tracepoint {place}"):
            number = int((folder / "id").read_text(encoding="ascii"))
            with (folder / "format").open("rb") as file:
                text = file.read(_MAX_FORMAT).decode("utf-8", "replace")
    except (OSError, ValueError) as error:
        raise KernelError(f"tracepoint {place} cannot be looked at: {error}", missing="tracefs") from error
    return number, tuple(format_fields(text))


def format_fields(text: str) -> Iterator[FormatField]:
    """The fields of a tracepoint's record, by its format file."""
    for line in text.splitlines():
        if found := _FIELD.match(line):
            located = found["type"].startswith("__data_loc")
            array = bool(found["array"])
            yield FormatField(found["name"], int(found["at"]), int(found["size"]), found["signed"] == "1", located, array and not located)


def descriptor_of(probe: Probe, hints: Hints) -> bytes:
    """struct sensor, with what this kernel says of the place. KernelError, NoPlaceError: as of `attach`."""
    return descriptor(probe, tracepoint(probe.place, hints)[1] if probe.way is Way.TRACEPOINT else ())


def attach(probe: Probe, program: str, program_fd: int, machine: str, hints: Hints) -> int:
    """Attaches a program of its way to a sensor: the descriptor of the link. KernelError: it cannot be; NoPlaceError: there is no such
    place.
    """
    if probe.way is Way.TRACEPOINT:
        found = libbpf.attach_event(program_fd, _TRACEPOINT_TYPE, tracepoint(probe.place, hints)[0], None, 0, probe.number)
    else:
        name = function_of(probe, machine)
        found = libbpf.attach_event(program_fd, device("kprobe"), RETPROBE if program == _RETURN else 0, name.encode(), 0, probe.number)
        if found == -errno.ENOENT:
            raise hints.missing(f"this kernel has no function {name}", name, None if probe.optional else lambda: hints.functions)
    return libbpf.check(found, f"attaching a {described(probe)}")


def lsm_target(probe: Probe, flavour: str, features: Features, hints: Hints) -> str:
    """The kernel's function that a sensor on a hook of the LSM is aimed at. NoPlaceError: this kernel has no such hook; KernelError: it is
    none that can refuse, or its arguments are not those of the function that asks it.
    """
    name = call_hook(call_of(probe)) if probe.call else probe.place
    function, hook = lsm_function(name), f"{LSM_HOOK}{name}"
    target = hook if flavour == "lsm" else function
    if target not in features.functions:
        what = f"this kernel has no LSM hook {name} ({target})"
        names = {name.removeprefix(LSM_HOOK) for name in features.functions if name.startswith(LSM_HOOK)}
        raise hints.missing(what, name, None if probe.optional else lambda: names)
    if target in features.silent:
        raise KernelError(f"{described(probe)}: the hook returns nothing, so nothing can be refused there", missing="an answer of the hook")
    given = features.functions[target]
    if not probe.call and any(argument.read is not Read.NOTHING for argument in probe.arguments):
        if features.functions.get(function, given) != given:
            what = f"{described(probe)}: the hook has other arguments on this kernel than {function}"
            raise KernelError(what, missing="those arguments", hint="leave args and the filters on them out")
        for argument in probe.arguments:
            if argument.read is not Read.NOTHING and argument.index >= len(given):
                raise KernelError(f"{described(probe)} has no argument {argument.index}", missing="that argument")
    return target


def call_of(probe: Probe) -> str:
    """The system call that a sensor is about, by its name."""
    return probe.place.removeprefix("__x64_").removeprefix("sys_")


class Hints:
    """What names that this kernel does not have may be taken for. Comparing takes tenths of a second a name: there are hints for `MOST`."""

    MOST: Final = 8

    def __init__(self) -> None:
        self._given = 0

    @functools.cached_property
    def functions(self) -> tuple[str, ...]:
        """The names of all the kernel's functions, where it tells them, with what compilers append to some (".isra.0")."""
        try:
            text = _KALLSYMS.read_bytes()
        except OSError:
            return ()
        return tuple(name.decode("ascii", "replace") for name in re.findall(rb" [tTwW] (\S+)", text))

    def missing(self, what: str, name: str, names: Callable[[], Collection[str]] | None) -> NoPlaceError:
        """The error of a name that is not there. `names`: those that it may be taken for; None: nobody wants to know."""
        if names is None or self._given >= self.MOST:
            return NoPlaceError(what, missing=name)
        self._given += 1
        near = _near(name, names())
        return NoPlaceError(what, missing=name, hint=f"there is {', '.join(near)}" if near else "")


def function_of(probe: Probe, machine: str) -> str:
    """The kernel's name of the function: of a system call with the prefix of the machine."""
    if probe.call and probe.place.startswith("sys_"):
        return SYSCALL_PREFIX.get(machine, "") + probe.place.removeprefix("sys_")
    return probe.place


def device(name: str) -> int:
    """The type of perf's events for "kprobe" or "uprobe". KernelError: this kernel has none."""
    try:
        with libbpf.telling_descriptors(f"looking for {name}s"):
            return int((_DEVICES / name / "type").read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        hint = f"use a kernel built with CONFIG_{name.upper()}_EVENTS=y"
        raise KernelError(f"this kernel has no {name}s: {error}", missing=f"{name}s", hint=hint) from error


def _near(name: str, names: Collection[str]) -> list[str]:
    """Only such as begin or end alike are compared: of functions there are 200,000."""
    renamed = [one for one in names if one.startswith(f"{name}.")]
    alike = {one for one in names if abs(len(one) - len(name)) <= _NEAR and (one[:_ENDS] == name[:_ENDS] or one[-_ENDS:] == name[-_ENDS:])}
    return (renamed or difflib.get_close_matches(name, sorted(alike), _NEAR, 0.8))[:_NEAR]
