# SPDX-License-Identifier: Apache-2.0
"""What one event says under Falco's field names: the interface that rules see, what follows from what, and the recorded form.

`rules` asks a FalcoEvent for fields by name and argument; it does not know where they come from. `Derived` computes what follows from other
fields (proc.aname[2] from the lineage, evt.res from evt.rawres, fd.directory from fd.name), so that a source only has to give the rest.
`RecordedEvent` is a line of `bpfence run --record`, read back by `bpfence test`:

    {"type": "openat", "num": 7, "time": 1700000000000000000, "args": {"fd": 3, "name": "shadow", "flags": "O_RDONLY"},
     "fields": {"fd.num": 3, "fd.name": "/etc/shadow", "fd.type": "file", "proc.name": "cat", "user.uid": 0},
     "argv": ["shadow"], "lineage": [{"name": "bash", "exe": "-bash", "exepath": "/usr/bin/bash", "pid": 10, "cmdline": "bash"}]}

Texts in a record are escaped as everywhere (`values.escape`). `lineage` begins with the parent; `argv` leaves argv[0] out.
"""

from __future__ import annotations

import datetime as dt
import errno
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, Protocol, Union

import msgspec

from bpfence.dialects.falco.read.checks import parse_address
from bpfence.dialects.falco.read.events import FALCO_EVENT_BY_NAME, MODES
from bpfence.dialects.falco.read.fields import FieldArgument, NamedField, Type, lookup
from bpfence.documents.report import TextError
from bpfence.events.source import MALFORMED, MAX_LINE, BadLineError
from bpfence.events.values import escape, unescape
from bpfence.names import name as name_of

Scalar = Union[str, int, float, bool, bytes]
FieldValue = Union[Scalar, tuple[Scalar, ...]]
SECOND: Final = 1_000_000_000
NOTHING: Final = "<NA>"
"""Falco's text for an argument without a value."""
LAST_MOMENT: Final = 253402300799 * SECOND
"""The end of the year 9999, the last moment that can be written."""


class FalcoEvent(Protocol):
    """One event. Texts are str with undecodable bytes as surrogate escapes, addresses are in their canonical spelling."""

    @property
    def type(self) -> str:
        """Name of the event type."""

    @property
    def time(self) -> int:
        """ns since 1970."""

    @property
    def memo(self) -> dict[object, Any] | None:
        """What was found out of fields ABOUT_PROCESS, shared by the events of a type by one process; None: it is not kept."""

    @property
    def act(self) -> dict[object, Any] | None:
        """What was found out of fields ABOUT_PROCESS and ABOUT_ACT, shared by events whose records say the same; None: it is not kept."""

    @property
    def unsure(self) -> int:
        """What of their needs is not known for sure, so that what needs it is not kept."""

    def get(self, field: str, argument: str | None = None) -> FieldValue | None:
        """A field's value; None where it is absent. Fields that are `many` give tuples when asked without argument."""

    def elements(self, field: str) -> tuple[str, ...] | None:
        """The list that the text of a field such as proc.args is made of."""


class FalcoAncestor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One ancestor, as far as it is known."""

    name: str | None = None
    exe: str | None = None
    exepath: str | None = None
    pid: int | None = None
    cmdline: str | None = None
    env: dict[str, str] = {}


OWN_ARGUMENTS: Final = 1
ANCESTORS_ARGUMENTS: Final = 2
"""What a field of a process may need that can be had only from the memory of a process, where it may change."""
ABOUT_PROCESS: Final[Mapping[str, int]] = {
    **dict.fromkeys((
        "proc.name", "proc.exepath", "proc.cwd", "proc.pid", "proc.ppid", "proc.vpid", "proc.tty", "proc.sid", "proc.pgid", "proc.vpgid",
        "proc.is_exe_writable", "proc.is_exe_upper_layer", "proc.is_exe_lower_layer", "proc.is_exe_from_memfd", "proc.exe_ino",
        "proc.exe_ino.ctime", "proc.exe_ino.mtime", "proc.aname", "proc.aexepath", "proc.apid", "proc.pname", "proc.pexepath",
        "proc.loginshellid", "thread.tid", "thread.vtid", "thread.cap_effective", "thread.cap_permitted", "thread.cap_inheritable",
        "user.uid", "user.loginuid", "group.gid", "container.id", "container.name", "container.image.repository", "container.image.tag",
        "k8s.pod.name", "k8s.ns.name", "evt.type", "syscall.type", "evt.category", "evt.source", "evt.dir",
    ), 0),
    **dict.fromkeys(("proc.exe", "proc.args", "proc.cmdline", "proc.exeline", "proc.cmdnargs", "proc.cmdlenargs"), OWN_ARGUMENTS),
    **dict.fromkeys(("proc.pexe", "proc.pcmdline"), ANCESTORS_ARGUMENTS),
    **dict.fromkeys(("proc.aexe", "proc.acmdline", "proc.aargs"), OWN_ARGUMENTS | ANCESTORS_ARGUMENTS),
}  # fmt: skip
"""Fields that are the same for all events of one type by one process, as long as a record says the same of it (`Derived.memo`); and what
they need."""

WHOLE_RECORD: Final = 4
"""What a field needs that is about an act: all that the record says of it."""
ABOUT_ACT: Final = frozenset({
    "evt.abspath", "evt.arg", "evt.args", "evt.failed", "evt.info", "evt.is_open_create", "evt.is_open_exec", "evt.is_open_read",
    "evt.is_open_write", "evt.rawarg", "evt.rawres", "evt.res", "fd.dev", "fd.dev.major", "fd.dev.minor", "fd.directory", "fd.filename",
    "fd.ino", "fd.name", "fd.nameraw", "fd.num", "fd.type", "fd.typechar", "fs.path.name", "fs.path.nameraw", "bpfence.path",
})  # fmt: skip
"""Fields of opens that are the same wherever a record says the same of process and act, whenever it was written (`Derived.act`)."""
OPENING: Final = frozenset({"open", "openat", "openat2", "open_by_handle_at", "creat"})
"""The types of events that have `act`."""


class Derived:
    """Values that follow from other values. A source implements `raw` (what it has itself), `lineage`, `arguments` and `elements`."""

    type: str
    time: int
    memo: dict[object, Any] | None = None
    act: dict[object, Any] | None = None
    unsure: int = 0

    def __init__(self) -> None:
        self._known: dict[tuple[str, str | None], FieldValue | None] = {}

    def open_flags(self) -> FieldValue | None:
        """evt.arg.flags."""
        return self.get("evt.arg", "flags")

    def raw(self, field: str, argument: str | None) -> FieldValue | None:
        """A value that the source has itself; None where it has none."""
        raise NotImplementedError

    def lineage(self) -> tuple[FalcoAncestor, ...]:
        """Ancestors, the parent first."""
        raise NotImplementedError

    def arguments(self) -> Mapping[str, Scalar | None]:
        """The event's own arguments in order."""
        raise NotImplementedError

    def elements(self, field: str) -> tuple[str, ...] | None:
        """The list that a field's text is made of."""
        raise NotImplementedError

    def get(self, field: str, argument: str | None = None) -> FieldValue | None:
        """A field's value, computed once."""
        key = (field, argument)
        try:
            return self._known[key]
        except KeyError:
            pass
        value = self.raw(field, argument)
        if value is None:
            derive = DERIVED.get(field)
            if derive is not None:
                value = derive(self, argument)
        self._known[key] = value
        return value


# ---- what follows from what ----

_Derive = Callable[[Derived, "str | None"], "FieldValue | None"]


def _lineage(attribute: str, own: str) -> _Derive:
    """An ancestor's attribute, by level; without a level all that are known."""

    def derive(event: Derived, argument: str | None) -> FieldValue | None:
        ancestors = event.lineage()
        if argument is None:
            values = tuple(value for value in (getattr(ancestor, attribute) for ancestor in ancestors) if value is not None)
            return values or None
        level = int(argument)
        if level == 0:
            return event.get(own)
        return getattr(ancestors[level - 1], attribute) if level <= len(ancestors) else None

    return derive


def _parent(attribute: str) -> _Derive:
    def derive(event: Derived, _: str | None) -> FieldValue | None:
        ancestors = event.lineage()
        return getattr(ancestors[0], attribute) if ancestors else None

    return derive


def _environment(event: Derived, argument: str | None) -> FieldValue | None:
    listed = event.elements("proc.env")
    if listed is None:
        return None
    if argument is None:
        return " ".join(listed)
    return next((item[len(argument) + 1 :] for item in listed if item.startswith(argument + "=")), None)


def _ancestor_environment(event: Derived, argument: str | None) -> FieldValue | None:
    ancestors = event.lineage()
    texts = [" ".join(f"{name}={value}" for name, value in ancestor.env.items()) for ancestor in ancestors]
    if argument is None:
        return tuple(text for text in texts if text) or None
    if argument.isdigit():
        level = int(argument)
        return event.get("proc.env") if level == 0 else texts[level - 1] if level <= len(texts) else None
    return next((ancestor.env[argument] for ancestor in ancestors if argument in ancestor.env), None)


def _args(event: Derived, argument: str | None) -> FieldValue | None:
    listed = event.elements("proc.args")
    if listed is None or argument is None:
        return None if listed is None else " ".join(listed)
    return listed[int(argument)] if int(argument) < len(listed) else None


def _ancestor_args(event: Derived, argument: str | None) -> FieldValue | None:
    """The part of an ancestor's command line after its name."""
    if argument == "0":
        return event.get("proc.args")
    lines = [
        None if ancestor.cmdline is None or ancestor.name is None else ancestor.cmdline.removeprefix(ancestor.name).removeprefix(" ")
        for ancestor in event.lineage()
    ]
    if argument is None:
        return tuple(line for line in lines if line is not None) or None
    return lines[int(argument) - 1] if int(argument) <= len(lines) else None


def _counted(*categories: str) -> _Derive:
    """1 where a call of one of these categories has failed; without categories, where any call has."""

    def derive(event: Derived, _: str | None) -> FieldValue | None:
        kind = event.get("evt.category")
        return 1 if event.get("evt.failed") is True and (not categories or kind in categories) else None

    return derive


def _name_and_thread(event: Derived, _: str | None) -> FieldValue | None:
    name, tid = event.get("proc.name"), event.get("thread.tid")
    return f"{name}{tid}" if isinstance(name, str) and isinstance(tid, int) else None


def _joined(first: str) -> _Derive:
    def derive(event: Derived, _: str | None) -> FieldValue | None:
        head, rest = event.get(first), event.get("proc.args")
        if not isinstance(head, str):
            return None
        return f"{head} {rest}" if isinstance(rest, str) and rest else head

    return derive


def _argument(event: Derived, argument: str | None) -> FieldValue | None:
    raw = _raw_argument(event, argument)
    if isinstance(raw, bool):
        return "true" if raw else "false"
    if isinstance(raw, int) and _name_of(event, argument) == "mode":
        return mode_text(event.type, raw)
    if raw is None:
        return unknown_argument(event.type, argument)
    return raw if isinstance(raw, str) else str(raw)


def unknown_argument(event_type: str, argument: str | None) -> str | None:
    """evt.arg of an argument without a value: "<NA>" where the event has an argument of that name or number, as in Falco; else None."""
    names = FALCO_EVENT_BY_NAME[event_type].args if event_type in FALCO_EVENT_BY_NAME else ()
    if argument is None or not (argument.isascii() and argument.isdigit()):
        return NOTHING if argument in names else None
    return NOTHING if len(argument) < 5 and int(argument) < len(names) else None


def _raw_argument(event: Derived, argument: str | None) -> Scalar | None:
    name = _name_of(event, argument)
    return None if name is None else event.arguments().get(name)


def _name_of(event: Derived, argument: str | None) -> str | None:
    """The name of an argument that is given by its name or by its number from 0."""
    if argument is None or not (argument.isascii() and argument.isdigit()):
        return argument
    names = FALCO_EVENT_BY_NAME[event.type].args if event.type in FALCO_EVENT_BY_NAME else tuple(event.arguments())
    return names[int(argument)] if len(argument) < 5 and int(argument) < len(names) else None


_FORMATS: Final = {
    0o140000: "S_IFSOCK", 0o100000: "S_IFREG", 0o060000: "S_IFBLK", 0o040000: "S_IFDIR", 0o020000: "S_IFCHR", 0o010000: "S_IFIFO",
}  # fmt: skip
_SETS_MODE: Final = ("chmod", "fchmod", "fchmodat", "mknod", "mknodat")


def mode_text(event_type: str, mode: int) -> str:
    """evt.arg.mode: names joined by '|' where permissions are set or a node is made; for mkdir hexadecimal; for opens octal."""
    if event_type in _SETS_MODE:
        words = [name for name, bit in MODES.items() if mode & bit]
        words += [_FORMATS[mode & 0o170000]] if mode & 0o170000 in _FORMATS else []
        return "|".join(words) or octal(mode)
    return f"{mode:X}" if event_type in ("mkdir", "mkdirat") else octal(mode)


def octal(mode: int) -> str:
    """A mode as Falco writes it: 0644, but 0 alone."""
    return f"0{mode:o}" if mode else "0"


def spelled_mode(event_type: str, mode: int) -> str:
    """The mode within evt.args: octal, with the names in brackets where there are any."""
    text = mode_text(event_type, mode)
    return f"{octal(mode)}({text})" if text.startswith("S_") else text


def _text(value: Scalar) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def _all_arguments(event: Derived, _: str | None) -> FieldValue | None:
    return " ".join(f"{name}={_spelled(event, name, value)}" for name, value in event.arguments().items())


def _spelled(event: Derived, name: str, value: Scalar | None) -> str:
    if value is None:
        return "<NA>"
    return spelled_mode(event.type, value) if name == "mode" and isinstance(value, int) else _text(value)


def _raw_result(event: Derived, _: str | None) -> FieldValue | None:
    given = event.arguments()
    for name in ("res", "fd"):
        value = given.get(name)
        if isinstance(value, int):
            return value
    return None


def _result(event: Derived, _: str | None) -> FieldValue | None:
    value = event.get("evt.rawres")
    if not isinstance(value, int):
        return None
    return "SUCCESS" if value >= 0 else errno.errorcode.get(-value, str(-value))


def _failed(event: Derived, _: str | None) -> FieldValue | None:
    value = event.get("evt.rawres")
    return value < 0 if isinstance(value, int) else None


_OPENS: Final = ("open", "openat", "openat2", "open_by_handle_at")


@lru_cache(maxsize=1024)
def _words(text: str) -> frozenset[str]:
    return frozenset(text.split("|"))


def _flags(event: Derived) -> frozenset[str] | None:
    text = event.open_flags() if event.type in _OPENS else None
    return _words(text) if isinstance(text, str) and text != NOTHING else None


def _opened(wanted: Iterable[str]) -> _Derive:
    chosen = set(wanted)

    def derive(event: Derived, _: str | None) -> FieldValue | None:
        flags = _flags(event)
        return None if flags is None else not chosen.isdisjoint(flags)

    return derive


def _open_exec(event: Derived, _: str | None) -> FieldValue | None:
    flags = _flags(event)
    if event.type != "creat" and (flags is None or flags.isdisjoint({"O_CREAT", "O_TMPFILE"})):
        return None if flags is None else False
    mode = event.get("evt.rawarg", "mode")
    return isinstance(mode, int) and mode & 0o111 != 0


def _open_create(event: Derived, _: str | None) -> FieldValue | None:
    flags = _flags(event)
    return None if flags is None else "O_F_CREATED" in flags


_TYPE_CHARACTERS: Final = {
    "file": "f", "directory": "d", "ipv4": "4", "ipv6": "6", "unix": "u", "pipe": "p", "event": "e", "signalfd": "s", "eventpoll": "l",
    "inotify": "i", "bpf": "b", "userfaultfd": "u", "io_uring": "r", "memfd": "m", "pidfd": "P",
}  # fmt: skip
_SOCKETS: Final = {"ipv4": "ip", "ipv6": "ip", "unix": "unix"}


def _type_character(event: Derived, _: str | None) -> FieldValue | None:
    kind = event.get("fd.type")
    return _TYPE_CHARACTERS.get(kind, "o") if isinstance(kind, str) else None


def _file_name(event: Derived) -> str | None:
    """fd.name if it is a path; else None."""
    name = event.get("fd.name")
    return name if isinstance(name, str) and event.get("fd.type") in ("file", "directory", "memfd", None) else None


def directory_of(path: str) -> str:
    """fd.directory of a path."""
    return path[: path.rindex("/")] or "/" if "/" in path else ""


def _directory(event: Derived, _: str | None) -> FieldValue | None:
    name = _file_name(event)
    return None if name is None else directory_of(name)


def _filename(event: Derived, _: str | None) -> FieldValue | None:
    name = _file_name(event)
    return None if name is None else name.rpartition("/")[2]


def _same(field: str) -> _Derive:
    return lambda event, _: event.get(field)


def _both(first: str, second: str) -> _Derive:
    def derive(event: Derived, _: str | None) -> FieldValue | None:
        sides = []
        for field in (first, second):
            value = event.get(field)
            if value is not None and not isinstance(value, tuple):
                sides.append(value)
        return tuple(sides) or None

    return derive


@lru_cache(maxsize=1024)
def _service(port: int) -> str | None:
    return name_of("port", port)


def _service_of(field: str) -> _Derive:
    def derive(event: Derived, _: str | None) -> FieldValue | None:
        port = event.get(field)
        return (_service(port) or str(port)) if isinstance(port, int) else None

    return derive


def _device(shift: Callable[[int], int]) -> _Derive:
    def derive(event: Derived, _: str | None) -> FieldValue | None:
        device = event.get("fd.dev")
        return shift(device) if isinstance(device, int) else None

    return derive


def _equal(first_field: str, second_field: str) -> _Derive:
    def derive(event: Derived, _: str | None) -> FieldValue | None:
        left, right = event.get(first_field), event.get(second_field)
        return None if left is None or right is None else left == right

    return derive


def _in_container(field: str) -> _Derive:
    def derive(event: Derived, _: str | None) -> FieldValue | None:
        container, what = event.get("container.id"), event.get(field)
        return f"{container!s}:{what!s}" if isinstance(what, str) else None

    return derive


def _container_name(event: Derived, _: str | None) -> FieldValue | None:
    return "host" if event.get("container.id") == "host" else None


def _clock(form: str, fraction: bool, utc: bool = False) -> _Derive:
    def derive(event: Derived, _: str | None) -> FieldValue | None:
        moment = dt.datetime.fromtimestamp(event.time // SECOND, dt.UTC)
        text = (moment if utc else moment.astimezone()).strftime(form)
        return f"{text}.{event.time % SECOND:09d}" + ("+0000" if utc else "") if fraction else text

    return derive


def _difference(later: str, earlier: str) -> _Derive:
    def derive(event: Derived, _: str | None) -> FieldValue | None:
        end, start = event.get(later), event.get(earlier)
        return max(end - start, 0) if isinstance(end, int) and isinstance(start, int) and start else None

    return derive


def _constant(value: Scalar) -> _Derive:
    return lambda event, argument: value


DERIVED: Final[Mapping[str, _Derive]] = {
    "evt.type": lambda event, _: event.type,
    "syscall.type": lambda event, _: None if event.type == "procexit" else event.type,
    "evt.category": lambda event, _: FALCO_EVENT_BY_NAME[event.type].category if event.type in FALCO_EVENT_BY_NAME else "other",
    "evt.time": _clock("%H:%M:%S", fraction=True), "evt.time.s": _clock("%H:%M:%S", fraction=False),
    "evt.time.iso8601": _clock("%Y-%m-%dT%H:%M:%S", fraction=True, utc=True),
    "evt.datetime": _clock("%Y-%m-%d %H:%M:%S", fraction=True), "evt.datetime.s": _clock("%Y-%m-%d %H:%M:%S", fraction=False),
    "evt.rawtime": lambda event, _: event.time, "evt.rawtime.s": lambda event, _: event.time // SECOND,
    "evt.rawtime.ns": lambda event, _: event.time % SECOND,
    "evt.dir": _constant("<"), "evt.is_async": _constant(False), "evt.count": _constant(1),
    "evt.count.error": _counted(), "evt.count.error.file": _counted("file"), "evt.count.error.net": _counted("net"),
    "evt.count.error.memory": _counted("memory"),
    "evt.count.error.other": _counted("process", "user", "system", "signal", "ipc", "other"), "evt.count.exit": _constant(1),
    "evt.outputtime": _same("evt.time"), "evt.type.is": lambda event, argument: int(event.type == argument),
    "proc.aargs": _ancestor_args, "thread.nametid": _name_and_thread,
    "evt.args": _all_arguments, "evt.info": _all_arguments, "evt.arg": _argument, "evt.rawarg": _raw_argument,
    "evt.rawres": _raw_result, "evt.res": _result, "evt.failed": _failed,
    "evt.is_open_read": lambda event, _: None if (flags := _flags(event)) is None else flags.isdisjoint({"O_WRONLY"}),
    "evt.is_open_write": _opened(("O_WRONLY", "O_RDWR")), "evt.is_open_exec": _open_exec, "evt.is_open_create": _open_create,
    "proc.args": _args, "proc.cmdline": _joined("proc.name"), "proc.exeline": _joined("proc.exe"),
    "proc.cmdnargs": lambda event, _: None if (listed := event.elements("proc.args")) is None else len(listed),
    "proc.cmdlenargs": lambda event, _: None if (listed := event.elements("proc.args")) is None
    else sum(len(item.encode("utf-8", "surrogateescape")) for item in listed),
    "proc.env": _environment, "proc.aenv": _ancestor_environment,
    "proc.aname": _lineage("name", "proc.name"), "proc.aexe": _lineage("exe", "proc.exe"), "proc.aexepath": _lineage("exepath",
    "proc.exepath"),
    "proc.acmdline": _lineage("cmdline", "proc.cmdline"), "proc.apid": _lineage("pid", "proc.pid"),
    "proc.pname": _parent("name"), "proc.pexe": _parent("exe"), "proc.pexepath": _parent("exepath"), "proc.pcmdline": _parent("cmdline"),
    "proc.ppid": _parent("pid"), "proc.duration": _difference("evt.rawtime", "proc.pid.ts"),
    "proc.ppid.duration": _difference("evt.rawtime", "proc.ppid.ts"),
    "proc.exe_ino.ctime_duration_proc_start": _difference("proc.pid.ts", "proc.exe_ino.ctime"),
    "proc.is_sid_leader": _equal("proc.sid", "proc.vpid"), "proc.is_vpgid_leader": _equal("proc.vpgid", "proc.vpid"),
    "proc.is_pgid_leader": _equal("proc.pgid", "proc.pid"), "thread.ismain": _equal("thread.tid", "proc.pid"),
    "fd.typechar": _type_character, "fd.directory": _directory, "fd.filename": _filename,
    "fd.sockfamily": lambda event, _: _SOCKETS.get(str(event.get("fd.type"))),
    "fd.ip": _both("fd.cip", "fd.sip"), "fd.port": _both("fd.cport", "fd.sport"), "fd.net": _both("fd.cip", "fd.sip"),
    "fd.cnet": _same("fd.cip"), "fd.snet": _same("fd.sip"), "fd.lnet": _same("fd.lip"), "fd.rnet": _same("fd.rip"),
    "fd.cproto": _service_of("fd.cport"), "fd.sproto": _service_of("fd.sport"), "fd.lproto": _service_of("fd.lport"),
    "fd.rproto": _service_of("fd.rport"), "fd.proto": _both("fd.cproto", "fd.sproto"),
    "fd.dev.major": _device(lambda device: device >> 20), "fd.dev.minor": _device(lambda device: device & 0xFFFFF),
    "fd.containername": _in_container("fd.name"), "fd.containerdirectory": _in_container("fd.directory"),
    "container.duration": _difference("evt.rawtime", "container.start_ts"),
    "container.id": _constant("host"), "container.name": _container_name, "k8s.pod.id": _same("k8s.pod.uid"),
}  # fmt: skip


# ---- recorded events ----

_Json = Union[str, int, float, bool, None]


class Record(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One line of a recording. `expect`: names of the rules that must match, or maps of rule, output and output_fields; for tests."""

    type: str
    num: int = 0
    time: int = 0
    host: str = ""
    source: str = "syscall"
    args: dict[str, _Json] = {}
    fields: dict[str, _Json | list[_Json]] = {}
    argv: list[str] | None = None
    env: list[str] | None = None
    lineage: list[FalcoAncestor] = []
    expect: list[str | dict[str, Any]] | None = None


_DECODER: Final = msgspec.json.Decoder(Record)
_ENCODER: Final = msgspec.json.Encoder()
_KINDS: Final[Mapping[Type, tuple[type, ...]]] = {
    Type.STRING: (str,), Type.PATH: (str,), Type.BOOL: (bool,), Type.IP: (str,), Type.NET: (str,), Type.BYTES: (str,), Type.DOUBLE: (int,
    float),
    Type.DYNAMIC: (str, int, bool),
}  # fmt: skip


class RecordedEvent(Derived):
    """A recorded line."""

    def __init__(self, record: Record) -> None:
        super().__init__()
        self.record = record
        self.type = record.type
        self.time = record.time
        self._args = {name: unescape(value) if isinstance(value, str) else value for name, value in record.args.items()}
        self._argv = None if record.argv is None else tuple(unescape(item) for item in record.argv)
        self._env = None if record.env is None else tuple(unescape(item) for item in record.env)
        self._lineage = tuple(_unescaped(ancestor) for ancestor in record.lineage)
        self._own: dict[tuple[str, str | None], FieldValue] = {("evt.num", None): record.num, ("evt.source", None): record.source}
        if record.host:
            self._own["evt.hostname", None] = unescape(record.host)
        for spelled, value in record.fields.items():
            if value is not None:
                use, checked = _checked(spelled, value)
                self._own[use.field.name, use.argument] = checked

    def raw(self, field: str, argument: str | None) -> FieldValue | None:
        """What the line says."""
        return self._own.get((field, argument))

    def lineage(self) -> tuple[FalcoAncestor, ...]:
        """Ancestors, the parent first."""
        return self._lineage

    def arguments(self) -> Mapping[str, Scalar | None]:
        """The event's own arguments in order."""
        return self._args

    def elements(self, field: str) -> tuple[str, ...] | None:
        """proc.args and proc.env as lists."""
        return self._argv if field == "proc.args" else self._env if field == "proc.env" else None


def _unescaped(ancestor: FalcoAncestor) -> FalcoAncestor:
    texts = {name: None if (text := getattr(ancestor, name)) is None else unescape(text) for name in ("name", "exe", "exepath", "cmdline")}
    return FalcoAncestor(pid=ancestor.pid, env={unescape(name): unescape(value) for name, value in ancestor.env.items()}, **texts)


def _checked(spelled: str, value: Any) -> tuple[NamedField, FieldValue]:
    """A field and its value, converted to the field's type; TextError where it cannot have that value."""
    name, bracket, rest = spelled.partition("[")
    use = lookup(name, rest[:-1] if bracket and rest.endswith("]") else None)
    if use is None or (bracket and not rest.endswith("]")):
        raise TextError(f"unknown field {spelled!r}")
    if use.field.argument is FieldArgument.NONE and use.argument is not None:
        raise TextError(f"{name} takes no argument")
    if isinstance(value, list):
        if not use.many:
            raise TextError(f"{spelled} is no list")
        return use, tuple(_scalar(use.field.type, spelled, item) for item in value if item is not None)
    return use, _scalar(use.field.type, spelled, value)


def _scalar(kind: Type, spelled: str, value: Any) -> Scalar:
    wanted = _KINDS.get(kind, (int,))
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        raise TextError(f"{spelled} must be {' or '.join(kind_of_value.__name__ for kind_of_value in wanted)}, not {value!r}")
    if kind in (Type.IP, Type.NET):
        return parse_address(str(value))
    if isinstance(value, str):
        text = unescape(value)
        return text.encode("utf-8", "surrogateescape") if kind is Type.BYTES else text
    assert isinstance(value, (int, float))
    return value


def decode(line: bytes, number: int = 1) -> RecordedEvent:
    """The event of one line; BadLineError with the line's number where it is none."""
    if len(line) > MAX_LINE:
        raise BadLineError(number, f"longer than {MAX_LINE >> 20} MiB")
    try:
        record = _DECODER.decode(line)
        if not 0 <= record.time <= LAST_MOMENT:
            raise TextError("time must be ns since 1970, and at most the end of the year 9999")
        return RecordedEvent(record)
    except (msgspec.DecodeError, UnicodeError, TextError) as error:
        raise BadLineError(number, str(error).replace(MALFORMED, "not JSON: ")) from None
    except RecursionError:
        raise BadLineError(number, "nested too deeply") from None


def read(lines: Iterable[bytes]) -> Iterator[tuple[int, RecordedEvent]]:
    """Events of a file in binary mode with the numbers of their lines; empty lines and lines that begin with '#' are skipped."""
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text and not text.startswith(b"#"):
            yield number, decode(text, number)


def encode(record: Record) -> bytes:
    """A record as one line, without a newline. Texts must have passed `values.escape` already."""
    return _ENCODER.encode(record)


def record_of(event: FalcoEvent, spelled: Iterable[str], *, num: int, host: str) -> Record:
    """The record of a live event: the fields named, as far as they are there."""
    fields: dict[str, Any] = {}
    for name in spelled:
        base, bracket, rest = name.partition("[")
        value = event.get(base, rest[:-1] if bracket else None)
        if value is not None:
            fields[name] = _shown(value)
    made = Record(type=event.type, num=num, time=event.time, host=escape(host), fields=fields)
    if isinstance(event, Derived):
        made.args = {escape(name): _shown(value) for name, value in event.arguments().items()}
        for attribute, field in (("argv", "proc.args"), ("env", "proc.env")):
            listed = event.elements(field)
            setattr(made, attribute, None if listed is None else [escape(item) for item in listed])
        made.lineage = [_escaped(ancestor) for ancestor in event.lineage()]
    return made


def _escaped(ancestor: FalcoAncestor) -> FalcoAncestor:
    texts = {name: None if (text := getattr(ancestor, name)) is None else escape(text) for name in ("name", "exe", "exepath", "cmdline")}
    return FalcoAncestor(pid=ancestor.pid, env={escape(name): escape(value) for name, value in ancestor.env.items()}, **texts)


def _shown(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_shown(item) for item in value]
    return escape(value) if isinstance(value, (str, bytes)) else value
