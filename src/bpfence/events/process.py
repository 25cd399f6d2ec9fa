# SPDX-License-Identifier: Apache-2.0
"""Exec ids and boot times in, who a process is and when it was out.

Called by `source` for every event that came. The kernel keeps the images; they are pulled when a matched event needs them and kept in a
bounded cache, so a host whose policies match nothing costs nothing here. What the kernel has forgotten is shown as unknown, not guessed.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from bpfence import abi
from bpfence.errors import BpfenceError
from bpfence.events import records
from bpfence.events.records import ExecImage, KernelEvent
from bpfence.events.values import escape, phrase
from bpfence.fields import FIELD_BY_NAME, Kind
from bpfence.names import flags
from bpfence.policy import Value

CACHE_SIZE: Final = 4096
SUBJECTS: Final = 1024
"""How many processes are kept as they are shown."""
ACTS: Final = 1024
"""Of how many acts what languages have found out is kept."""
MAX_REFUSED: Final = 4096
"""Of how many processes, and events by each, it is kept that they come to nothing."""
_AT: Final = {name: offset - abi.EVENT_HEADER_OFFSETS["pid"] for name, offset in abi.EVENT_HEADER_OFFSETS.items()}
_SHARED: Final = slice(_AT["generation"], _AT["start_time"])
_SINCE_PARENT: Final = _AT["parent_exec_id"]
"""Of the header, with which `KernelEvent.subject` begins, all but pid, tid and ppid, and start time and exec id, which lie side by side."""
SECOND: Final = 1_000_000_000
STEP: Final = SECOND // 100
"""A change of the wall clock larger than this is a step; smaller ones are measuring noise and would make start times jitter."""


class Ancestor(msgspec.Struct, frozen=True):
    """A program that a process descends from; `exe` as shown."""

    pid: int
    exe: str


class Parent(msgspec.Struct, frozen=True):
    """The parent as it was when the event happened; strings escaped."""

    name: str | UnsetType = UNSET
    args: list[str] | UnsetType = UNSET


class Living(msgspec.Struct, frozen=True):
    """A process that the acting one descends from, as it was when the event happened; the name escaped."""

    pid: int
    name: str | None


class Process(msgspec.Struct, frozen=True):
    """The acting process as alerts show it; strings escaped. Nearest ancestor first. `ancestors` are programs, `parents` processes."""

    pid: int
    tid: int
    ppid: int
    exec_id: str | None
    name: str
    exe: str | None
    args: list[str] | None
    cwd: str | None
    uid: int
    gid: int
    start_time: str | None
    ancestors: list[Ancestor]
    args_truncated: bool | UnsetType = UNSET
    cgroup: str | UnsetType = UNSET
    tty: int | UnsetType = UNSET
    exe_flags: tuple[str, ...] | UnsetType = UNSET
    parent: Parent | UnsetType = UNSET
    parents: list[Living] | UnsetType = UNSET


def read_boot_id(path: Path = Path("/proc/sys/kernel/random/boot_id")) -> str:
    """This boot's id, as 32 hexadecimal digits; zeros where it cannot be read."""
    try:
        text = path.read_text(encoding="ascii").strip().replace("-", "")
    except (OSError, ValueError):
        text = ""
    return text if len(text) == 32 and all(char in "0123456789abcdef" for char in text) else "0" * 32


class Clock:
    """Boot time to wall clock. `realtime` and `boottime` give ns; they are arguments for tests."""

    def __init__(self, realtime: Callable[[], int] | None = None, boottime: Callable[[], int] | None = None) -> None:
        self._realtime = realtime or time.time_ns
        self._boottime = boottime or (lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        self._offset = self._measure()

    def _measure(self) -> int:
        before = self._boottime()
        now = self._realtime()
        return now - (before + self._boottime()) // 2

    def refresh(self) -> bool:
        """Notice a step of the wall clock; call it now and then. Whether there was one: times that were shown before are others now."""
        offset = self._measure()
        stepped = abs(offset - self._offset) > STEP
        if stepped:
            self._offset = offset
        return stepped

    def now(self) -> int:
        """ns since 1970."""
        return self._realtime()

    def wall(self, boot: int) -> int:
        """ns since 1970 of a moment in ns since boot."""
        return self._offset + boot


def rfc3339(moment: int) -> str:
    """ns since 1970 as RFC 3339 in UTC with nine digits. Moments outside the years 1970 to 9999 are moved to the nearest."""
    return rfc3339_bytes(moment).decode()


def rfc3339_bytes(moment: int) -> bytes:
    """The same as bytes."""
    seconds = moment // SECOND
    if not 0 <= seconds < _LAST_SECOND:
        moment = min(max(moment, 0), _LAST_SECOND * SECOND)
        seconds = moment // SECOND
    return b"%b.%09dZ" % (_second(seconds), moment - seconds * SECOND)


_LAST_SECOND: Final = 253402300799


@lru_cache(maxsize=64)
def _second(seconds: int) -> bytes:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)).encode()


_ENCODER: Final = msgspec.json.Encoder()


class Account:
    """What a process shares with all that differ from it in nothing but ids and start: how lines show it, and what rules see.

    `process`, `fields`: those of one of them.
    """

    __slots__ = ("after", "before", "fields", "process", "words")

    def __init__(self, process: Process, fields: dict[str, Value]) -> None:
        self.process = process
        self.fields = fields
        self.words: dict[str, bytes] = {}
        bare = _ENCODER.encode(msgspec.structs.replace(process, pid=0, tid=0, ppid=0, exec_id=None, start_time=None))
        # A quotation mark inside of a text has a backslash before it, so only the member itself reads like this.
        self.before, _, self.after = bare.removeprefix(_IDS % (0, 0, 0, b"null")).partition(_START + b"null")
        self.before += _START


_IDS: Final = b'{"pid":%d,"tid":%d,"ppid":%d,"exec_id":%b'
_START: Final = b',"start_time":'
_OWN: Final = frozenset(("process.pid", "process.parent.pid"))
"""Fields in which processes of one account differ."""


class Subject:
    """A process as records with one account of it show it: as it stands in lines, as rules see it, and as JSON.

    `known` is for languages: what they have found out of nothing but the process.
    """

    __slots__ = ("_account", "_ids", "cgroup", "fields", "json", "known")

    def __init__(self, account: Account, record: KernelEvent, exec_id: str | None, start_time: str | None) -> None:
        """`exec_id`, `start_time`: as shown."""
        self._account = account
        self._ids = record.pid, record.tid, record.ppid, exec_id, start_time
        self.cgroup = account.process.cgroup
        self.fields: dict[str, Value] = {**account.fields, "process.pid": record.pid, "process.parent.pid": record.ppid}
        who, since = (b"null" if text is None else b'"%b"' % text.encode() for text in (exec_id, start_time))
        self.json = _IDS % (record.pid, record.tid, record.ppid, who) + account.before + since + account.after
        self.known: dict[object, Any] = {}

    @property
    def process(self) -> Process:
        """What `json` says."""
        pid, tid, ppid, exec_id, start_time = self._ids
        return msgspec.structs.replace(self._account.process, pid=pid, tid=tid, ppid=ppid, exec_id=exec_id, start_time=start_time)

    def word(self, name: str) -> bytes:
        """A field inside a sentence, as JSON text has it; "<none>" where it is not known."""
        word = self._account.words.get(name)
        if word is None:
            if name not in self.fields:
                word = b"<none>"
            else:
                word = _ENCODER.encode(phrase(FIELD_BY_NAME[name], self.fields[name]))[1:-1]
            # A user may get another name.
            if name not in _OWN and (name not in FIELD_BY_NAME or FIELD_BY_NAME[name].kind is not Kind.USER):
                self._account.words[name] = word
        return word


class ProcessCache:
    """Images by exec id, least recently used ones dropped. `fetch` reads one from the kernel, None where it is gone.

    `refused`: kinds of records (`records.kind`) that come to nothing, by who has said so.
    """

    def __init__(self, fetch: Callable[[int], ExecImage | None], clock: Clock, *, boot_id: str = "", size: int = CACHE_SIZE) -> None:
        self._fetch = fetch
        self._clock = clock
        self._prefix = (boot_id or read_boot_id())[:8]
        self._size = size
        self._images: OrderedDict[int, ExecImage] = OrderedDict()
        self._subjects: OrderedDict[bytes, Subject] = OrderedDict()
        self._accounts: OrderedDict[tuple[object, ...], Account] = OrderedDict()
        self._asked: tuple[KernelEvent, Subject] | tuple[None, None] = None, None
        self._acts: OrderedDict[bytes, dict[object, Any]] = OrderedDict()
        self.refused: dict[bytes, Any] = {}

    def __len__(self) -> int:
        return len(self._images)

    def image(self, exec_id: int) -> ExecImage | None:
        """The image, from the cache or the kernel."""
        if not exec_id:
            return None
        known = self._images.get(exec_id)
        if known is not None:
            self._images.move_to_end(exec_id)
            return known
        try:
            image = self._fetch(exec_id)
        except BpfenceError:
            # An alert without its process's name is better than an agent that ends.
            image = None
        if image is None:
            return None
        self._images[exec_id] = image
        if len(self._images) > self._size:
            self._images.popitem(last=False)
        return image

    def chain(self, exec_id: int) -> list[ExecImage]:
        """The image and those it descends from, nearest first, as far as they are known and at most MAX_CHAIN."""
        found: list[ExecImage] = []
        seen: set[int] = set()
        while exec_id and exec_id not in seen and len(found) < records.MAX_CHAIN:
            seen.add(exec_id)
            image = self.image(exec_id)
            if image is None:
                break
            found.append(image)
            exec_id = image.parent_exec_id
        return found

    def ancestors(self, record: KernelEvent) -> list[tuple[int, ExecImage | None]]:
        """The processes that the acting one descends from, the parent first, with the programs they run; None where the kernel has
        forgotten one. Where the record does not say, as far as the chain of programs shows them: without processes that only forked.
        """
        listed = records.ancestors(record)
        if listed is not None:
            return [(pid, self.image(exec_id)) for exec_id, pid in listed]
        found: dict[int, ExecImage] = {}
        for image in self.chain(record.parent_exec_id):
            if image.pid != record.pid:
                found.setdefault(image.pid, image)
        return list(found.items())

    def name_exec(self, exec_id: int) -> str | None:
        """An exec id that is unique over boots: the boot's first eight digits, then the kernel's number."""
        return f"{self._prefix}-{exec_id:x}" if exec_id else None

    def forget_subjects(self) -> None:
        """How processes are shown has changed, or what rules find out of them."""
        self._subjects.clear()
        self._accounts.clear()
        self._asked = None, None
        self._acts.clear()
        self.refused.clear()

    def act(self, record: KernelEvent) -> dict[object, Any]:
        """For languages: what they have found out of nothing but what a record says, shared by all that say the same of process and act."""
        key = records.act(record)
        known = self._acts.get(key)
        if known is None:
            known = self._acts[key] = {}
            if len(self._acts) > ACTS:
                self._acts.popitem(last=False)
        else:
            self._acts.move_to_end(key)
        return known

    def refuse(self, record: KernelEvent, by: object) -> None:
        """Keep in `refused` that records like this one come to nothing, until `forget_subjects`."""
        if len(self.refused) >= MAX_REFUSED:
            self.refused.clear()
        self.refused[records.kind(record)] = by

    def subject(self, record: KernelEvent, cgroup_path: Callable[[int], str | None]) -> Subject:
        """The acting process. Where its program is known, it is kept for records that say the same of it."""
        if record is self._asked[0]:  # more than one asks for that of a record
            return self._asked[1]
        key = record.subject(records.SUBJECT)
        subject = self._subjects.get(key)
        if subject is not None:
            self._subjects.move_to_end(key)
            self._asked = record, subject
            return subject
        exec_id, started = self.name_exec(record.exec_id), self._started(record)
        subject = Subject(self._account(record, cgroup_path), record, exec_id, started)
        if not record.exec_id or record.exec_id in self._images:
            self._subjects[key] = subject
            if len(self._subjects) > SUBJECTS:
                self._subjects.popitem(last=False)
        return subject

    def _account(self, record: KernelEvent, cgroup_path: Callable[[int], str | None]) -> Account:
        """Kept for the next process that runs the same program in the same way, from the same parent."""
        image = self.image(record.exec_id)
        program = (image.comm, image.exe, image.args, image.flags) if image is not None else None
        said = record.subject(records.ACCOUNT)
        key = (said[_SHARED], said[_SINCE_PARENT:], program)
        account = self._accounts.get(key)
        if account is None:
            account = Account(*self.describe(record, cgroup_path(record.cgroup)))
            if image is not None or not record.exec_id:
                self._accounts[key] = account
                if len(self._accounts) > SUBJECTS:
                    self._accounts.popitem(last=False)
        return account

    def _started(self, record: KernelEvent) -> str | None:
        return rfc3339(self._clock.wall(record.start_time)) if record.start_time else None

    def describe(self, record: KernelEvent, cgroup: str | None = None) -> tuple[Process, dict[str, Value]]:
        """The acting process as alerts show it, and its fields as rules see them."""
        image = self.image(record.exec_id)
        chain = self.chain(record.parent_exec_id)
        strings = records.process_strings(record)
        exe = strings.get("process.exe", image.exe if image else None)
        args = strings.get("process.args", image.args if image else None)
        cwd = strings.get("process.cwd")
        group = strings.get("process.cgroup", cgroup.encode("utf-8", "surrogateescape") if cgroup is not None else None)
        if not args and image and image.flags & abi.EXEC_FROM_ITER:
            # Processes older than the engine: their arguments are in their own memory, where the kernel's programs do not look.
            args = None
        split = records.arguments(args) if args is not None else None
        truncated = bool(image and image.flags & abi.EXEC_ARGS_TRUNCATED)
        parent, parents, lineage = self._parents(record, strings)
        process = Process(
            record.pid, record.tid, record.ppid, self.name_exec(record.exec_id), escape(record.comm),
            escape(exe) if exe is not None else None, [escape(arg) for arg in split] if split is not None else None,
            escape(cwd) if cwd is not None else None, record.uid, record.gid,
            self._started(record),
            [Ancestor(ancestor.pid, escape(ancestor.exe)) for ancestor in chain],
            truncated or UNSET, escape(group) if group is not None else UNSET, record.number(abi.NUM_TTY, UNSET),
            flags("exe", record.numbers[abi.NUM_EXE_FLAGS]) if abi.NUM_EXE_FLAGS in record.numbers else UNSET, parent, parents,
        )  # fmt: skip
        fields: dict[str, Value] = {
            "process.pid": record.pid, "process.uid": record.uid, "process.user": record.uid, "process.gid": record.gid,
            "process.parent.pid": record.ppid, "process.name": _text(image.comm if image else record.comm),
            "process.ancestors.exe": tuple(_text(ancestor.exe) for ancestor in chain),
        }  # fmt: skip
        fields |= {name: record.numbers[slot] for name, slot in records.ACCOUNTED if slot in record.numbers}
        known = {"process.exe": exe, "process.cwd": cwd, "process.cgroup": group, "process.parent.exe": chain[0].exe if chain else None}
        fields |= {name: _text(data) for name, data in known.items() if data is not None}
        if split is not None:
            fields["process.args"] = _text(b" ".join(split))
        return process, fields | lineage

    def _parents(
        self, record: KernelEvent, strings: Mapping[str, bytes]
    ) -> tuple[Parent | UnsetType, list[Living] | UnsetType, dict[str, Value]]:
        """What the record says of the processes that the acting one descends from now: as shown, and as rules see it."""
        fields: dict[str, Value] = {}
        parents: list[Living] | UnsetType = UNSET
        name, args = strings.get("process.parent.name"), strings.get("process.parent.args")
        if records.ancestors(record) is not None:
            living = self.ancestors(record)
            fields["process.ancestors.name"] = tuple(_text(image.comm) for _, image in living if image is not None)
            parents = [Living(pid, None if image is None else escape(image.comm)) for pid, image in living]
            nearest = living[0][1] if living else None
            if nearest is not None:
                name = nearest.comm if name is None else name
                args = (nearest.args or None) if args is None else args
        if name is None and args is None:
            return UNSET, parents, fields
        split = None if args is None else records.arguments(args)
        if name is not None:
            fields["process.parent.name"] = _text(name)
        if split is not None:
            fields["process.parent.args"] = _text(b" ".join(split))
        parent = Parent(UNSET if name is None else escape(name), UNSET if split is None else [escape(arg) for arg in split])
        return parent, parents, fields


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
