# SPDX-License-Identifier: Apache-2.0
"""A system call's registers and what the kernel saw in, the arguments that Falco gives its event out.

Called by `live`. An argument has a raw value (evt.rawarg) and, where Falco spells it out, a text (evt.arg): flags are names joined by
'|' in the order of Falco's tables, an error is its name, a descriptor is <type>name. Names and orders are those of Falco's event table
(FalcoEventType.args) and flag tables; numbers are the kernel's, but for open flags, whose raw value is in Falco's own numbering.
Paths are those that the kernel resolved, never the caller's memory. What is not in a record is None.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Final, NamedTuple, Protocol

from bpfence import abi, names
from bpfence.dialects.falco.confirm.event import Scalar, mode_text, octal
from bpfence.dialects.falco.read.events import FALCO_EVENT_BY_NAME, SENSED
from bpfence.events.records import KernelEvent, signed
from bpfence.syscalls.architectures import X32_BIT, Arch
from bpfence.syscalls.table import SOCKETCALL
from bpfence.syscalls.table import name as call_name_of

AT_FDCWD: Final = -100
UNKNOWN_DESCRIPTOR: Final = 2147483647
"""fd.num where a descriptor was made that is not in the record."""


class EventArgument(NamedTuple):
    """One argument: its raw value, and its text where Falco has one."""

    raw: Scalar | None
    text: str | None = None

    @property
    def shown(self) -> Scalar | None:
        """The value of evt.arg."""
        return self.raw if self.text is None else self.text


ABSENT: Final = EventArgument(None)


class CallEvent(Protocol):
    """The parts of a live event that arguments are made of."""

    type: str
    record: KernelEvent

    @property
    def result(self) -> int | None: ...
    def register(self, number: int) -> int | None: ...
    def text(self, slot: int) -> str | None: ...
    def descriptor(self, number: int) -> str: ...
    def account(self, kind: str, number: int) -> str | None: ...
    def get(self, field: str, argument: str | None = None) -> object: ...


# ---- which event a record is ----

_CANONICAL: Final[Mapping[str, str]] = {
    "file.open": "openat", "file.open_failed": "openat", "file.unlink": "unlinkat", "file.rmdir": "unlinkat", "file.rename": "renameat2",
    "file.link": "linkat", "file.symlink": "symlinkat", "file.mkdir": "mkdirat", "file.chmod": "fchmodat", "file.chown": "fchownat",
    "file.create": "mknodat", "file.dup": "dup", "net.create": "socket", "net.bind": "bind", "net.listen": "listen",
    "net.connect": "connect", "net.accept": "accept4", "net.send": "sendmsg", "net.recv": "recvmsg",
    "process.fork": "clone", "process.exec": "execve",
    "process.exec_failed": "execve", "process.signal": "kill", "process.ptrace": "ptrace", "process.setuid": "setuid",
    "process.setgid": "setgid", "kernel.bpf": "bpf", "kernel.module": "finit_module", "kernel.mount": "mount", "kernel.umount": "umount2",
    "kernel.setns": "setns", "kernel.userns": "unshare", "kernel.pivot_root": "pivot_root",
    "process.trace": "ptrace", "process.unshare": "unshare", "process.setns": "setns", "process.prctl": "prctl", "process.capset": "capset",
    "process.chroot": "chroot", "process.chdir": "chdir", "process.setsid": "setsid", "kernel.io_uring_setup": "io_uring_setup",
    "kernel.memfd": "memfd_create", "kernel.userfaultfd": "userfaultfd", "kernel.fsconfig": "fsconfig",
    "process.setid_failed": "setuid",
}  # fmt: skip
"""Falco's type for events that have no system call of their own."""


def _types(*attributes: str) -> Mapping[str, frozenset[str]]:
    by_native: dict[str, set[str]] = {}
    for event in SENSED:
        for attribute in attributes:
            for native in getattr(event, attribute):
                by_native.setdefault(native, set()).add(event.name)
    return {native: frozenset(types) for native, types in by_native.items()}


SEEN: Final = _types("seen")
"""Native event → the types that it can be, when it is reported after it was done."""
TYPES: Final = _types("native", "seen")
"""The same for events that are about to be done."""

_SUBCALLS: Final = {number: name for name, number in SOCKETCALL.items()}


@lru_cache(maxsize=1024)
def call_name(call: int, argument: int) -> str | None:
    """The name of the call with NUM_CALL's number. `argument` is the first register, which says what socketcall does."""
    number = call & abi.CALL_NUMBER_MASK
    if not call & abi.CALL_COMPAT:
        return call_name_of(Arch.X32 if number & X32_BIT else Arch.X86_64, number)
    name = call_name_of(Arch.X86, number)
    return _SUBCALLS.get(argument) if name == "socketcall" else name


def event_type(record: KernelEvent) -> str | None:
    """The type of a record under Falco's names; None where Falco has no event for it.

    A native event can lie within a call that has none of its types (execve opens the program): that is no event. What io_uring does, and
    what has no known call, gets the type that stands for all of them.
    """
    number = record.number(abi.NUM_CALL)
    first = 0
    if number is not None and number & abi.CALL_COMPAT:
        first = record.number(abi.NUM_CALL_ARG0, 0) & 0xFFFFFFFF
    return _type_of(record.event, record.flags & _MOMENT, number, first if first < 32 else 0)


_MOMENT: Final = abi.EVENT_RESULT | abi.EVENT_DECISION | abi.EVENT_ASYNC


@lru_cache(maxsize=4096)
def _type_of(event: str, flags: int, number: int | None, first: int) -> str | None:
    if event == "process.exit":
        return "procexit"
    if event == "process.executed":
        return "execve"
    done = flags & (abi.EVENT_RESULT | abi.EVENT_DECISION) == abi.EVENT_RESULT
    types = (SEEN if done else TYPES).get(event)
    if types is None:
        return None
    if number is None or flags & abi.EVENT_ASYNC:
        return _CANONICAL.get(event)
    name = call_name(number, first)
    if name == "io_uring_enter":
        return _CANONICAL.get(event)
    name = _RENAMED.get(name or "", name)
    return name if name in types else None


# Calls of the 32-bit table that do what another call does, with wider ids and times.
_RENAMED: Final = {
    **{f"{name}32": name for name in ("setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "chown", "lchown", "fchown")},
    "recvmmsg_time64": "recvmmsg",
}


def has_registers(record: KernelEvent) -> bool:
    """Whether the registers hold the arguments of the call that did this. Registers of socketcall point to them, and those of
    io_uring_enter are about the ring."""
    number = record.number(abi.NUM_CALL)
    if number is None or record.flags & abi.EVENT_ASYNC:
        return False
    if number & abi.CALL_COMPAT:
        return call_name_of(Arch.X86, number & abi.CALL_NUMBER_MASK) not in ("socketcall", "io_uring_enter")
    return call_name(number, 0) != "io_uring_enter"


# ---- flags, in Falco's spelling and order ----

Flags = tuple[tuple[str, int], ...]

# Bits of the generic ABI, then Falco's own.
_OPEN: Final = (
    ("O_LARGEFILE", 0o100000, 1 << 11), ("O_DIRECTORY", 0o200000, 1 << 10), ("O_DIRECT", 0o40000, 1 << 9), ("O_TRUNC", 0o1000, 1 << 8),
    ("O_SYNC", 0o4000000, 1 << 7), ("O_NONBLOCK", 0o4000, 1 << 6), ("O_EXCL", 0o200, 1 << 5), ("O_DSYNC", 0o10000, 1 << 4),
    ("O_APPEND", 0o2000, 1 << 3), ("O_CREAT", 0o100, 1 << 2),
)  # fmt: skip
# access mode 3 needs the rights for both, and gives neither
_ACCESS: Final = (("O_RDONLY", 1), ("O_WRONLY", 2), ("O_RDWR", 3), ("O_RDWR", 3))
_O_CREAT: Final = 0o100
_O_TMPFILE: Final = 0o20000000
_O_CLOEXEC: Final = 0o2000000
_LARGEFILE: Final = 0o100000


@lru_cache(maxsize=4096)
def open_flags(flags: int, created: bool) -> EventArgument:
    """Flags of open(2). `created`: the call has made the file."""
    access, number = _ACCESS[flags & 3]
    words = []
    for name, bit, own in _OPEN:
        if flags & bit:
            words.append(name)
            number |= own
    words.append(access)
    last = (("O_CLOEXEC", flags & _O_CLOEXEC, 1 << 12), ("O_TMPFILE", flags & _O_TMPFILE, 1 << 13), ("O_F_CREATED", created, 1 << 14))
    for name, present, own in last:
        if present:
            words.append(name)
            number |= own
    return EventArgument(number, "|".join(words))


def _flags(table: Flags) -> Callable[[int], EventArgument]:
    @lru_cache(maxsize=512)
    def spelled(value: int) -> EventArgument:
        return EventArgument(value, "|".join(name for name, bit in table if value & bit) or None)

    return spelled


def _table(words: str, first: int = 1) -> Flags:
    """Names of consecutive bits; '-' is a bit without a name."""
    return tuple((word, first << n) for n, word in enumerate(words.split()) if word != "-")


def _prefixed(prefix: str, flags: Flags) -> Flags:
    return tuple((prefix + word, bit) for word, bit in flags)


_CLONE_ORDER: Final = (
    "FILES FS IO NEWIPC NEWNET NEWNS NEWPID NEWUTS PARENT PARENT_SETTID PTRACE SIGHAND SYSVSEM THREAD UNTRACED VM NEWUSER"
    " CHILD_CLEARTID CHILD_SETTID SETTLS VFORK NEWCGROUP NEWTIME"
)
_CLONE: Final = _flags(tuple((f"CLONE_{word}", names.TABLES["clone"].numbers[f"CLONE_{word}"]) for word in _CLONE_ORDER.split()))
_MOUNT: Final = _flags(
    _table(
        "RDONLY NOSUID NODEV NOEXEC SYNCHRONOUS REMOUNT MANDLOCK DIRSYNC - - NOATIME NODIRATIME BIND MOVE REC SILENT POSIXACL UNBINDABLE"
        " PRIVATE SLAVE SHARED RELATIME KERNMOUNT I_VERSION STRICTATIME LAZYTIME"
    )
)
_UMOUNT: Final = _flags(_table("FORCE DETACH EXPIRE NOFOLLOW"))
_MEMFD: Final = _flags(_table("MFD_CLOEXEC MFD_ALLOW_SEALING MFD_HUGETLB"))
_UNLINKAT: Final = _flags((("AT_REMOVEDIR", 0x200),))
_LINKAT: Final = _flags((("AT_SYMLINK_FOLLOW", 0x400), ("AT_EMPTY_PATH", 0x1000)))
_CHOWNAT: Final = _flags((("AT_SYMLINK_NOFOLLOW", 0x100), ("AT_EMPTY_PATH", 0x1000)))
_RENAMEAT2: Final = _flags(_table("RENAME_NOREPLACE RENAME_EXCHANGE RENAME_WHITEOUT"))
_RESOLVE: Final = _flags(
    _prefixed("RESOLVE_", (("BENEATH", 8), ("IN_ROOT", 16), ("NO_MAGICLINKS", 2), ("NO_SYMLINKS", 4), ("NO_XDEV", 1), ("CACHED", 32)))
)
_RING: Final = _flags(_prefixed("IORING_SETUP_", _table("IOPOLL SQPOLL SQ_AFF CQSIZE CLAMP ATTACH_WQ R_DISABLED")))
_RING_FEATURES: Final = _flags(
    _prefixed(
        "IORING_FEAT_",
        _table(
            "SINGLE_MMAP NODROP SUBMIT_STABLE RW_CUR_POS CUR_PERSONALITY FAST_POLL POLL_32BITS SQPOLL_NONFIXED EXT_ARG NATIVE_WORKERS"
            " RSRC_TAGS"
        ),
    )
)
_MODULE: Final = _flags(_table("MODULE_INIT_IGNORE_MODVERSIONS MODULE_INIT_IGNORE_VERMAGIC MODULE_INIT_COMPRESSED_FILE"))
EXE: Final = (
    ("EXE_WRITABLE", abi.EXE_WRITABLE), ("EXE_UPPER_LAYER", abi.EXE_UPPER), ("EXE_FROM_MEMFD", abi.EXE_MEMFD),
    ("EXE_LOWER_LAYER", abi.EXE_LOWER),
)  # fmt: skip
_EXE: Final = _flags(EXE)

# include/uapi/linux/prctl.h, the options that Falco names.
_PRCTL: Final = {
    3: "PR_GET_DUMPABLE", 4: "PR_SET_DUMPABLE", 7: "PR_GET_KEEPCAPS", 8: "PR_SET_KEEPCAPS", 15: "PR_SET_NAME", 16: "PR_GET_NAME",
    21: "PR_GET_SECCOMP", 22: "PR_SET_SECCOMP", 23: "PR_CAPBSET_READ", 24: "PR_CAPBSET_DROP", 27: "PR_GET_SECUREBITS",
    28: "PR_SET_SECUREBITS", 33: "PR_MCE_KILL", 34: "PR_MCE_KILL_GET", 35: "PR_SET_MM", 36: "PR_SET_CHILD_SUBREAPER",
    37: "PR_GET_CHILD_SUBREAPER", 38: "PR_SET_NO_NEW_PRIVS", 39: "PR_GET_NO_NEW_PRIVS", 40: "PR_GET_TID_ADDRESS",
    41: "PR_SET_THP_DISABLE", 42: "PR_GET_THP_DISABLE", 47: "PR_CAP_AMBIENT",
}  # fmt: skip
_PR_SET_NAME: Final = 15

_PTRACE: Final = {number: name for name, number in names.TABLES["ptrace_request"].numbers.items()}

# enum fsconfig_command of include/uapi/linux/mount.h
_FSCONFIG: Final = {
    0: "FSCONFIG_SET_FLAG", 1: "FSCONFIG_SET_STRING", 2: "FSCONFIG_SET_BINARY", 3: "FSCONFIG_SET_PATH", 4: "FSCONFIG_SET_PATH_EMPTY",
    5: "FSCONFIG_SET_FD", 6: "FSCONFIG_CMD_CREATE", 7: "FSCONFIG_CMD_RECONFIGURE",
}  # fmt: skip


@lru_cache(maxsize=256)
def capability_names(value: int) -> str:
    """A set of capabilities: their CAP_* names joined by blanks, lowest first."""
    return " ".join(word for word in names.flags("capability", value) if not word.startswith("0x"))


# ---- arguments ----

Make = Callable[[CallEvent], EventArgument]


def _int32(value: int) -> int:
    low = value & 0xFFFFFFFF
    return low - (1 << 32) if low >> 31 else low


def _number(register: int, *, unsigned: bool = False, wide: bool = False) -> Make:
    def make(call: CallEvent) -> EventArgument:
        value = call.register(register)
        if value is None:
            return ABSENT
        return EventArgument(value if wide else value & 0xFFFFFFFF if unsigned else _int32(value))

    return make


def _id(register: int, kind: str = "user") -> Make:
    """A user's or group's id, with the name as its text where there is one; -1 stays as it is."""

    def make(call: CallEvent) -> EventArgument:
        value = call.register(register)
        if value is None:
            return ABSENT
        mask = 0xFFFF if _has_narrow_ids(call.record) else 0xFFFFFFFF
        number = value & mask
        return EventArgument(-1, "<NONE>") if number == mask else EventArgument(number, call.account(kind, number))

    return make


def _has_narrow_ids(record: KernelEvent) -> bool:
    """Whether the call is one of the 32-bit table that takes ids of 16 bits, of which 0xffff is -1. kernel/uid16.c, low2highuid()."""
    number = record.number(abi.NUM_CALL, 0)
    return bool(number & abi.CALL_COMPAT) and call_name_of(Arch.X86, number & abi.CALL_NUMBER_MASK) in _RENAMED.values()


def _group(register: int) -> Make:
    return _id(register, "group")


def _hexadecimal(register: int) -> Make:
    def make(call: CallEvent) -> EventArgument:
        value = call.register(register)
        return ABSENT if value is None else EventArgument(value, f"{value:X}")

    return make


def _named(register: int, table: Mapping[int, str], other: str = "") -> Make:
    def make(call: CallEvent) -> EventArgument:
        value = call.register(register)
        return ABSENT if value is None else EventArgument(_int32(value), table.get(_int32(value), other) or None)

    return make


def _flagged(register: int, spell: Callable[[int], EventArgument]) -> Make:
    def make(call: CallEvent) -> EventArgument:
        value = call.register(register)
        return ABSENT if value is None else spell(value & 0xFFFFFFFF)

    return make


def _slot(slot: int) -> Make:
    return lambda call: EventArgument(call.record.number(slot))


def _slot_flags(slot: int, spell: Callable[[int], EventArgument]) -> Make:
    def make(call: CallEvent) -> EventArgument:
        value = call.record.number(slot)
        return ABSENT if value is None else spell(value)

    return make


def _ring(member: int) -> Make:
    """A member of struct io_uring_params."""
    return _slot(abi.NUM_RING_PARAM_0 + member)


def _string(slot: int) -> Make:
    return lambda call: EventArgument(call.text(slot))


def _field(name: str) -> Make:
    def make(call: CallEvent) -> EventArgument:
        value = call.get(name)
        return EventArgument(value) if isinstance(value, (str, int)) else ABSENT

    return make


def _octal(value: int) -> EventArgument:
    return EventArgument(value, octal(value))


def _mode(mask: int = 0o7777) -> Make:
    """Permission bits that are given to a file."""

    def make(call: CallEvent) -> EventArgument:
        value = call.record.number(abi.NUM_FILE_MODE)
        return ABSENT if value is None else EventArgument(value & mask, mode_text(call.type, value & mask))

    return make


def _open_mode(register: int) -> Make:
    """The mode that was given to open; 0 where no file is made, because then the register may hold anything."""

    def make(call: CallEvent) -> EventArgument:
        value = call.register(register)
        if value is None:
            return ABSENT
        return _octal(value & 0o7777 if _given_flags(call) & (_O_CREAT | _O_TMPFILE) else 0)

    return make


def _how_mode(call: CallEvent) -> EventArgument:
    """The same for openat2, whose structure is in the record."""
    value = call.record.number(abi.NUM_HOW_MODE)
    if value is None:
        return ABSENT
    return _octal(value & 0o7777 if _given_flags(call) & (_O_CREAT | _O_TMPFILE) else 0)


_FLAGS_REGISTER: Final = {"open": 1, "openat": 2, "open_by_handle_at": 2}


def _given_flags(call: CallEvent) -> int:
    """Open flags as the caller gave them: on 64-bit machines the kernel adds O_LARGEFILE to all."""
    if call.type == "creat":
        return 0o1101
    register = _FLAGS_REGISTER.get(call.type)
    value = None if register is None else call.register(register)
    return call.record.number(abi.NUM_FILE_FLAGS, 0) & ~_LARGEFILE if value is None else value & 0xFFFFFFFF


def _open_flags(call: CallEvent) -> EventArgument:
    flags = _given_flags(call)
    made = (call.result or 0) >= 0 and call.record.event == "file.open"
    return open_flags(flags, made and (_is_new(call) or bool(flags & _O_TMPFILE == _O_TMPFILE)))


def _is_new(call: CallEvent) -> bool:
    return bool(call.record.number(abi.NUM_FILE_ACCESS, 0) & abi.ACCESS_CREATED)


def _created(call: CallEvent) -> EventArgument:
    return EventArgument(1 << 14, "O_F_CREATED") if (call.result or 0) >= 0 and _is_new(call) else EventArgument(0)


def _result(call: CallEvent) -> EventArgument:
    value = call.result
    if value is None:
        return ABSENT
    return EventArgument(value, errno.errorcode.get(-value, str(-value)) if value < 0 else None)


def _made(call: CallEvent) -> EventArgument:
    """The result, where it is a descriptor."""
    value = call.result
    if value is None or value < 0:
        return _result(call)
    number = call.get("fd.num")
    value = number if isinstance(number, int) else value
    return EventArgument(value, call.descriptor(value) or None)


def _descriptor(register: int) -> Make:
    def make(call: CallEvent) -> EventArgument:
        value = call.register(register)
        if value is None:
            return ABSENT
        number = _int32(value)
        return EventArgument(number, "AT_FDCWD" if number == AT_FDCWD else call.descriptor(number) or None)

    return make


def _own_dirfd(call: CallEvent) -> EventArgument:
    value = call.record.number(abi.NUM_DIRFD)
    if value is None:
        return _descriptor(0)(call)
    number = _int32(value)
    base = call.text(abi.STR_FILE_BASE)
    return EventArgument(number, "AT_FDCWD" if number == AT_FDCWD else f"<d>{base}" if base is not None else None)


def _opened(call: CallEvent) -> EventArgument:
    """The path of an open: the one that the kernel resolved, or else the one that was given."""
    path = call.text(abi.STR_FILE_PATH)
    return EventArgument(call.text(abi.STR_FILE_TEXT) if path is None else path)


def _family(register: int) -> Make:
    def make(call: CallEvent) -> EventArgument:
        value = call.record.number(abi.NUM_NET_FAMILY)
        if value is None:
            given = call.register(register)
            if given is None:
                return ABSENT
            value = _int32(given)
        # Falco's table has AF_LOCAL before AF_UNIX.
        return EventArgument(value, "AF_LOCAL" if value == 1 else names.name("family", value))

    return make


def _socket(register: int, slot: int) -> Make:
    def make(call: CallEvent) -> EventArgument:
        given = call.register(register)
        return EventArgument(call.record.number(slot) if given is None else _int32(given))

    return make


def _queue_percent(call: CallEvent) -> EventArgument:
    length, most = (call.record.number(slot) for slot in (abi.NUM_QUEUE_LENGTH, abi.NUM_QUEUE_MAX))
    return ABSENT if length is None or most is None else EventArgument(length * 100 // most if most else 0)


def _signal(call: CallEvent) -> EventArgument:
    value = call.record.number(abi.NUM_SIGNAL)
    return ABSENT if value is None else EventArgument(value, names.name("signal", value))


def _address(call: CallEvent) -> EventArgument:
    """The address that a call names: the other side's, for bind its own. Either is the server's."""
    path = call.text(abi.STR_NET_UNIX_PATH)
    if path is not None:
        return EventArgument(path)
    host, number = call.get("fd.sip"), call.get("fd.sport")
    return EventArgument(f"{host}:{number}") if host is not None else ABSENT


def _prctl_text(call: CallEvent) -> EventArgument:
    given = call.register(0)
    return EventArgument(call.text(abi.STR_CALL_TEXT)) if given is not None and _int32(given) == _PR_SET_NAME else ABSENT


def _prctl_number(call: CallEvent) -> EventArgument:
    given = call.register(0)
    return ABSENT if given is None or _int32(given) == _PR_SET_NAME else _number(1, wide=True)(call)


def _exit(part: Callable[[int], int]) -> Make:
    def make(call: CallEvent) -> EventArgument:
        code = call.record.number(abi.NUM_EXIT_CODE)
        return ABSENT if code is None else EventArgument(part(_int32(code)))

    return make


def _bpf(call: CallEvent) -> EventArgument:
    value = call.record.number(abi.NUM_BPF_CMD)
    return ABSENT if value is None else EventArgument(value, names.name("bpf_cmd", value))


def _exec_name(call: CallEvent) -> EventArgument:
    """The name by which a program was to be executed: the given one where that failed, the file's where it is still to come."""
    for slot in (abi.STR_CALL_TEXT, abi.STR_FILE_PATH):
        name = call.text(slot)
        if name is not None:
            return EventArgument(name)
    return _field("proc.exepath")(call)


def _exe_flags(call: CallEvent) -> EventArgument:
    """A fact about the executable. Of one that is about to be executed none is known yet."""
    value = None if call.record.event == "process.exec" else call.record.number(abi.NUM_EXE_FLAGS)
    return ABSENT if value is None else _EXE(value)


def _clone_flags(call: CallEvent) -> EventArgument:
    value = call.record.number(abi.NUM_CLONE_FLAGS)
    return ABSENT if value is None else _CLONE(value & ~0xFF)


_PATH: Final = _string(abi.STR_FILE_PATH)
_NEW_PATH: Final = _string(abi.STR_FILE_NEW_PATH)
_TEXT: Final = _string(abi.STR_CALL_TEXT)
_EXEC: Final[Mapping[str, Make]] = {
    "exe": _field("proc.exe"), "args": _field("proc.args"), "tid": _field("thread.tid"), "pid": _field("proc.pid"),
    "ptid": _field("proc.ppid"), "cwd": _field("proc.cwd"), "comm": _field("proc.name"), "cgroups": _field("thread.cgroups"),
    "env": _field("proc.env"), "tty": _field("proc.tty"), "vpgid": _field("proc.vpgid"), "pgid": _field("proc.pgid"),
    "loginuid": _field("user.loginuid"), "flags": _exe_flags, "uid": _field("user.uid"),
    "gid": _field("group.gid"), "cap_inheritable": _field("thread.cap_inheritable"), "cap_permitted": _field("thread.cap_permitted"),
    "cap_effective": _field("thread.cap_effective"), "exe_ino": _slot(abi.NUM_EXE_INO), "exe_ino_ctime": _slot(abi.NUM_EXE_CTIME),
    "exe_ino_mtime": _slot(abi.NUM_EXE_MTIME), "trusted_exepath": _field("proc.exepath"), "filename": _exec_name,
}  # fmt: skip
_CLONED: Final[Mapping[str, Make]] = {
    **{name: make for name, make in _EXEC.items() if name not in ("flags", "env", "tty")}, "flags": _clone_flags,
    "vtid": _field("thread.vtid"), "vpid": _field("proc.vpid"), "pidns_init_start_ts": _field("proc.pidns_init_start_ts"),
}  # fmt: skip
_FAMILIES: Final[Mapping[str, Make]] = {
    "domain": _family(0), "type": _socket(1, abi.NUM_NET_TYPE), "proto": _socket(2, abi.NUM_NET_PROTOCOL),
}  # fmt: skip
_IN_GENERAL: Final[Mapping[str, Make]] = {"res": _result}
_INODE: Final[Mapping[str, Make]] = {"dev": _slot(abi.NUM_FILE_DEV), "ino": _slot(abi.NUM_FILE_INO)}
_OWNER: Final[Mapping[str, Make]] = {"uid": _slot(abi.NUM_FILE_UID), "gid": _slot(abi.NUM_FILE_GID)}
_TWO_PATHS: Final[Mapping[str, Make]] = {"oldpath": _PATH, "newpath": _NEW_PATH}
_TWO_DIRECTORIES: Final[Mapping[str, Make]] = {"olddirfd": _descriptor(0), "newdirfd": _descriptor(2)}
_MADE_NODE: Final = _mode(0o177777)
_LINK: Final[Mapping[str, Make]] = {"target": _string(abi.STR_LINK_TARGET), "linkpath": _PATH}
_CAPABILITIES: Final = {name: _EXEC[name] for name in ("cap_inheritable", "cap_permitted", "cap_effective")}
_TUPLE: Final = {"tuple": _field("fd.name")}
_ACCEPTED: Final = {
    "fd": _made, "queuepct": _queue_percent, "queuelen": _slot(abi.NUM_QUEUE_LENGTH), "queuemax": _slot(abi.NUM_QUEUE_MAX), **_TUPLE,
}  # fmt: skip
_MESSAGE: Final = {"fd": _descriptor(0), "size": _slot(abi.NUM_NET_SIZE), **_TUPLE}

_BY_TYPE: Final[Mapping[str, Mapping[str, Make]]] = {
    "open": {"fd": _made, "name": _opened, "flags": _open_flags, "mode": _open_mode(2), **_INODE},
    "openat": {"fd": _made, "dirfd": _own_dirfd, "name": _opened, "flags": _open_flags, "mode": _open_mode(3), **_INODE},
    "openat2": {
        "fd": _made, "dirfd": _own_dirfd, "name": _opened, "flags": _open_flags, "mode": _how_mode,
        "resolve": _slot_flags(abi.NUM_HOW_RESOLVE, _RESOLVE), **_INODE,
    },
    "creat": {"fd": _made, "name": _opened, "mode": _open_mode(1), "creat_flags": _created, **_INODE},
    "open_by_handle_at": {"fd": _made, "mountfd": _descriptor(0), "flags": _open_flags, "path": _opened, **_INODE},
    "execve": _EXEC, "execveat": _EXEC, "clone": _CLONED, "clone3": _CLONED, "fork": _CLONED, "vfork": _CLONED,
    "procexit": {
        "status": _exit(lambda code: code), "ret": _exit(lambda code: code >> 8 & 0xFF), "sig": _exit(lambda code: code & 0x7F),
        "core": _exit(lambda code: code >> 7 & 1),
    },
    "socket": {"fd": _made, **_FAMILIES},
    "socketpair": {"fd1": _slot(abi.NUM_PAIR_0), "fd2": _slot(abi.NUM_PAIR_1), **_FAMILIES},
    "bind": {"addr": _address, "fd": _descriptor(0)},
    "connect": {"fd": _descriptor(0), "addr": _address, **_TUPLE}, "listen": {"fd": _descriptor(0), "backlog": _number(1)},
    "accept": _ACCEPTED, "accept4": {**_ACCEPTED, "flags": _number(3)},
    "sendto": {"fd": _descriptor(0), "size": _number(2, wide=True), **_TUPLE}, "sendmsg": _MESSAGE, "sendmmsg": _MESSAGE,
    "recvfrom": _MESSAGE, "recvmsg": _MESSAGE, "recvmmsg": _MESSAGE,
    "rename": _TWO_PATHS, "renameat": {**_TWO_PATHS, **_TWO_DIRECTORIES},
    "renameat2": {**_TWO_PATHS, **_TWO_DIRECTORIES, "flags": _flagged(4, _RENAMEAT2)},
    "unlink": {"path": _PATH}, "unlinkat": {"dirfd": _descriptor(0), "name": _PATH, "flags": _flagged(2, _UNLINKAT)},
    "rmdir": {"path": _PATH}, "link": _TWO_PATHS,
    "linkat": {**_TWO_PATHS, "olddir": _descriptor(0), "newdir": _descriptor(2), "flags": _flagged(4, _LINKAT)},
    "symlink": _LINK, "symlinkat": {**_LINK, "linkdirfd": _descriptor(1)}, "mkdir": {"path": _PATH, "mode": _mode()},
    "mkdirat": {"dirfd": _descriptor(0), "path": _PATH, "mode": _mode()}, "chmod": {"filename": _PATH, "mode": _mode()},
    "fchmod": {"fd": _descriptor(0), "mode": _mode()}, "fchmodat": {"dirfd": _descriptor(0), "filename": _PATH, "mode": _mode()},
    "chown": {"path": _PATH, **_OWNER}, "lchown": {"path": _PATH, **_OWNER}, "fchown": {"fd": _descriptor(0), **_OWNER},
    "fchownat": {"dirfd": _descriptor(0), "pathname": _PATH, **_OWNER, "flags": _flagged(4, _CHOWNAT)},
    "mknod": {"path": _PATH, "mode": _MADE_NODE, "dev": _number(2, unsigned=True)},
    "mknodat": {"dirfd": _descriptor(0), "path": _PATH, "mode": _MADE_NODE, "dev": _number(3, unsigned=True)},
    "kill": {"pid": _number(0), "sig": _signal}, "tkill": {"tid": _number(0), "sig": _signal},
    "tgkill": {"pid": _number(0), "tid": _number(1), "sig": _signal},
    "ptrace": {
        "addr": _hexadecimal(2), "data": _hexadecimal(3), "request": _named(0, _PTRACE, "PTRACE_UNKNOWN"), "pid": _number(1),
    },
    "process_vm_readv": {"pid": _number(0)}, "process_vm_writev": {"pid": _number(0)},
    "mount": {
        "dev": _string(abi.STR_MOUNT_SOURCE), "dir": _PATH, "type": _string(abi.STR_FILE_FSTYPE),
        "flags": _slot_flags(abi.NUM_MOUNT_FLAGS, _MOUNT),
    },
    "umount": {"name": _PATH, "flags": _flagged(1, _UMOUNT)}, "umount2": {"name": _PATH, "flags": _flagged(1, _UMOUNT)},
    "setns": {"fd": _descriptor(0), "nstype": _flagged(1, _CLONE)}, "unshare": {"flags": _flagged(0, _CLONE)},
    "bpf": {"fd": _made, "cmd": _bpf}, "init_module": {"length": _number(1, wide=True), "uargs": _TEXT},
    "finit_module": {"fd": _descriptor(0), "uargs": _TEXT, "flags": _flagged(2, _MODULE)},
    "setuid": {"uid": _id(0)}, "setreuid": {"ruid": _id(0), "euid": _id(1)}, "setresuid": {"ruid": _id(0), "euid": _id(1), "suid": _id(2)},
    "setgid": {"gid": _group(0)}, "setregid": {"rgid": _group(0), "egid": _group(1)},
    "setresgid": {"rgid": _group(0), "egid": _group(1), "sgid": _group(2)},
    "io_uring_setup": {
        "res": _made, "entries": _number(0, unsigned=True), "sq_entries": _ring(0), "cq_entries": _ring(1),
        "flags": _slot_flags(abi.NUM_RING_PARAM_0 + 2, _RING), "sq_thread_cpu": _ring(3), "sq_thread_idle": _ring(4),
        "features": _slot_flags(abi.NUM_RING_PARAM_0 + 5, _RING_FEATURES),
    },
    "memfd_create": {"fd": _made, "name": _TEXT, "flags": _flagged(1, _MEMFD)},
    "prctl": {"option": _named(0, _PRCTL), "arg2_str": _prctl_text, "arg2_int": _prctl_number},
    "dup": {"res": _made, "oldfd": _descriptor(0)}, "dup2": {"res": _made, "oldfd": _descriptor(0), "newfd": _descriptor(1)},
    "dup3": {
        "res": _made, "oldfd": _descriptor(0), "newfd": _descriptor(1),
        "flags": _flagged(2, _flags((("O_CLOEXEC", _O_CLOEXEC),))),
    },
    "userfaultfd": {"res": _made, "flags": _flagged(0, _flags((("O_NONBLOCK", 0o4000), ("O_CLOEXEC", _O_CLOEXEC))))},
    "capset": _CAPABILITIES, "chroot": {"path": _TEXT}, "chdir": {"path": _TEXT}, "fchdir": {"fd": _descriptor(0)},
    "fsconfig": {"fd": _descriptor(0), "cmd": _named(1, _FSCONFIG), "key": _TEXT, "aux": _number(4)},
}  # fmt: skip

MAKERS: Final[Mapping[str, Mapping[str, Make]]] = {
    event.name: {name: _BY_TYPE.get(event.name, {}).get(name) or _IN_GENERAL.get(name) or (lambda _: ABSENT) for name in event.args}
    for event in SENSED
}
"""Per event type, in Falco's order, how each argument is made."""


def argument(call: CallEvent, name: str) -> EventArgument:
    """One argument, by its name or its number from 0; ABSENT where the event has no such argument."""
    makers = MAKERS.get(call.type, {})
    if name.isascii() and name.isdigit():
        listed = FALCO_EVENT_BY_NAME[call.type].args if call.type in FALCO_EVENT_BY_NAME else ()
        if len(name) > 4 or int(name) >= len(listed):
            return ABSENT
        name = listed[int(name)]
    make = makers.get(name)
    return ABSENT if make is None else make(call)


def event_arguments(call: CallEvent, leave_out: Iterable[str] = ()) -> dict[str, EventArgument]:
    """All arguments in order. Arguments that were left out are ABSENT."""
    omitted = frozenset(leave_out)
    return {name: ABSENT if name in omitted else make(call) for name, make in MAKERS.get(call.type, {}).items()}


def spelled(name: str, value: EventArgument) -> str:
    """An argument in evt.args: name=raw, and its text in brackets where it has both."""
    if value.raw is None:
        return f"{name}=<NA>"
    raw = value.raw.decode("utf-8", "surrogateescape") if isinstance(value.raw, bytes) else str(value.raw)
    if isinstance(value.raw, int) and value.text is not None and value.text.startswith("S_"):
        return f"{name}={octal(value.raw)}({value.text})"
    if value.text is None or name in _REPLACED:
        return f"{name}={raw if value.text is None else value.text}"
    return f"{name}={raw}({value.text})"


_REPLACED: Final = frozenset({"mode", "addr", "data"})
"""Numbers that Falco writes in another base, without an explanation."""


def result_of(record: KernelEvent) -> int | None:
    """What the call returned. Where the record does not say, the call is taken to have succeeded, unless bpfence has denied it."""
    if record.event == "process.executed":
        return 0
    if record.event == "process.exit":
        return None
    value = record.number(abi.NUM_RESULT)
    if value is not None:
        return signed(value)
    return -record.error if record.action >= abi.ACTION_DENY and record.error else 0
