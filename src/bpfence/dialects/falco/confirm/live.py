# SPDX-License-Identifier: Apache-2.0
"""A decoded kernel record in, a Falco event out.

Called by the agent for records that are about Falco rules. A new event knows nothing: a field is worked out when a rule or an output first
asks for it, and then kept. Values come from the record if it has them, then from the images of programs, then from /proc (the environment,
descriptors 0 to 2, processes older than the agent). Everything is hostile; nothing here raises, whatever a record says.
"""

from __future__ import annotations

import ipaddress
import os
import posixpath
import stat
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final

from bpfence import abi
from bpfence.conditions.containers import container_of
from bpfence.dialects.falco.confirm import calls
from bpfence.dialects.falco.confirm.containers import CONTAINER_FIELDS, short_id
from bpfence.dialects.falco.confirm.event import (
    ANCESTORS_ARGUMENTS,
    DERIVED,
    LAST_MOMENT,
    OPENING,
    OWN_ARGUMENTS,
    SECOND,
    Derived,
    FalcoAncestor,
    FieldValue,
    Scalar,
    unknown_argument,
)
from bpfence.events import records
from bpfence.events.process import Clock, ProcessCache
from bpfence.events.records import ExecImage, KernelEvent
from bpfence.host.accounts import UNKNOWN, Accounts, User
from bpfence.host.hostnames import Hostnames
from bpfence.host.procfs import Procfs, read_file
from bpfence.workloads.model import Container

MAX_CGROUPS: Final = 4096
MAX_PEERS: Final = 4096
HOST: Final = "host"
NO_CONTAINER_NAME: Final = "unknown"
"""container.id of a process outside of the host's pid namespace whose cgroup is gone: which container it was cannot be told."""
NOT_SET: Final = 0xFFFFFFFF
_EPHEMERAL: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LAST_CAPABILITY: Final = Path("/proc/sys/kernel/cap_last_cap")


class LiveEvents:
    """Makes events of records, and keeps what they share.

    `processes` knows the images, `cgroup_path` the path of a cgroup by its id (None when it is gone), `users` the user databases,
    `container` what runtimes have told of the container that a cgroup belongs to.
    """

    def __init__(
        self,
        processes: ProcessCache,
        clock: Clock,
        *,
        cgroup_path: Callable[[int], str | None],
        host: str,
        hostnames: Hostnames | None = None,
        users: Accounts | None = None,
        procfs: Procfs | None = None,
        container: Callable[[str], Container | None] | None = None,
    ) -> None:
        self.processes = processes
        self.clock = clock
        self.host = host
        self.hostnames = hostnames
        self.users = users or Accounts()
        self.procfs = procfs or Procfs()
        self._cgroup_path = cgroup_path
        self._container = container or (lambda _: None)
        self._containers: OrderedDict[int, tuple[str, str]] = OrderedDict()
        self._peers: OrderedDict[tuple[int, int, int], str] = OrderedDict()
        self._count = 0
        self._first = 0
        self._last = 0
        self._pid_namespace = _namespace("pid")
        self.all_capabilities = _all_capabilities()
        self.ephemeral = _ephemeral_ports()

    def event(self, record: KernelEvent) -> LiveEvent | None:
        """The event of a record; None where Falco has no such event."""
        kind = calls.event_type(record)
        if kind is None:
            return None
        # What is about a change of the process is not about what is kept of it.
        known = None if record.event.startswith("process.") else self.processes.subject(record, self._cgroup_path).known
        moment = self._counted(record)
        made = LiveEvent(self, record, kind, moment, self._count, moment - self._first, moment - self._last)
        self._last = moment
        if known is not None:
            kept = known.get(kind)
            if kept is None:
                kept = known[kind] = (self._unsure(made), {})
            unsure, memo = kept
            if unsure is not None:
                made.unsure, made.memo = unsure, memo
                if kind in OPENING:
                    made.act = self.processes.act(record)
        return made

    def passed(self, count: int, moment: int) -> None:
        """So many events came that were not made, the last of them at `moment`, ns since boot."""
        self._count += count
        self._last = self._moment(moment)

    def _counted(self, record: KernelEvent) -> int:
        """The moment of the next event."""
        self._count += 1
        moment = self._moment(record.time)
        if self._count == 1:
            self._first = self._last = moment
        return moment

    def _moment(self, boot: int) -> int:
        return min(max(self.clock.wall(boot), 0), LAST_MOMENT)

    def _unsure(self, event: LiveEvent) -> int | None:
        """What of a process has to be read from its memory, or from that of its ancestors; None where its cgroup, or the program of one of
        them, is not known."""
        images = [event.image(), *(image for _, image in event.living())]
        if None in images or self.cgroup(event.record)[0] is None:
            return None
        own, *ancestors = (image is not None and not image.args and bool(image.flags & abi.EXEC_FROM_ITER) for image in images)
        given = event.record.string(abi.STR_PROCESS_ARGS)
        return (OWN_ARGUMENTS if own and not given else 0) | (ANCESTORS_ARGUMENTS if any(ancestors) else 0)

    def cgroup(self, record: KernelEvent) -> tuple[str | None, str]:
        """The path of the acting process's cgroup, None where it is gone, and the container's id."""
        known = self._containers.get(record.cgroup)
        if known is not None:
            self._containers.move_to_end(record.cgroup)
            return known
        data = record.string(abi.STR_PROCESS_CGROUP)
        path = _text(data) if data is not None else self._cgroup_path(record.cgroup)
        if path is None:
            path = _unified(self.procfs.cgroups(record.pid, record.start_time))
        if path is None:
            return None, HOST if record.pid_ns in (0, self._pid_namespace) else NO_CONTAINER_NAME
        cgroup_and_container = path, container_id(path)
        self._containers[record.cgroup] = cgroup_and_container
        if len(self._containers) > MAX_CGROUPS:
            self._containers.popitem(last=False)
        return cgroup_and_container

    def container(self, record: KernelEvent) -> Container | None:
        """What runtimes have told of the container of the acting process."""
        path = self.cgroup(record)[0]
        return None if path is None else self._container(path)

    def new_peer(self, record: KernelEvent, number: int, name: str) -> bool:
        """Whether a descriptor's other side has changed since the last event that was asked about."""
        key = (record.pid, record.start_time, number)
        changed = self._peers.get(key) != name
        self._peers[key] = name
        self._peers.move_to_end(key)
        if len(self._peers) > MAX_PEERS:
            self._peers.popitem(last=False)
        return changed


def _namespace(kind: str) -> int:
    try:
        return os.stat(f"/proc/self/ns/{kind}").st_ino
    except OSError:
        return -1


def _all_capabilities() -> int:
    try:
        return (2 << int(read_file(_LAST_CAPABILITY, 16))) - 1
    except (OSError, ValueError):
        return (1 << 41) - 1


def _ephemeral_ports() -> range:
    try:
        low, high = (int(word) for word in read_file(_EPHEMERAL, 64).split())
    except (OSError, ValueError):
        low, high = 32768, 60999
    return range(low, high + 1)


def _unified(data: bytes | None) -> str | None:
    """The cgroup v2 path of /proc/PID/cgroup."""
    for line in (data or b"").split(b"\n"):
        if line.startswith(b"0::/"):
            return _text(line[3:])
    return None


def container_id(path: str) -> str:
    """container.id of a cgroup, see `container_of`; "host" outside of any container."""
    container = container_of(path)
    return HOST if container is None else container or NO_CONTAINER_NAME


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


@lru_cache(maxsize=4096)
def address_text(data: bytes) -> str | None:
    """An address of 4 or 16 bytes; IPv4-mapped ones as IPv4. None where it is none."""
    if len(data) == 4:
        return ".".join(map(str, data))
    if len(data) != 16:
        return None
    address = ipaddress.IPv6Address(data)
    return str(address.ipv4_mapped or address)


@lru_cache(maxsize=4096)
def normal(base: str | None, text: str) -> str:
    """A path as text: relative ones joined to `base`, '.', '..' and doubled slashes resolved without looking at the file system."""
    if not text.startswith("/"):
        text = f"{'<UNKNOWN>' if base is None else base}/{text}"
    path = posixpath.normpath(text)
    # POSIX gives a meaning to two leading slashes that Linux does not.
    return path[1:] if path.startswith("//") else path


class LiveEvent(Derived):
    """A record's event."""

    _image: ExecImage | None = None
    _image_known = False
    _argv: tuple[bytes, ...] | None = None
    _argv_known = False
    _living: list[tuple[int, ExecImage | None]] | None = None
    _ancestors: tuple[FalcoAncestor, ...] | None = None
    _registers: bool | None = None

    def __init__(
        self, events: LiveEvents, record: KernelEvent, kind: str, moment: int, number: int, since_first: int, since_last: int
    ) -> None:
        self._known = {}
        self.events = events
        self.record = record
        self.type = kind
        self.time = moment
        self.number = number
        self.since_first = since_first
        self.since_last = since_last

    # -- what `calls` asks for --

    @property
    def result(self) -> int | None:
        """What the call returned; 0 where nothing says that it failed; None for events without a result."""
        return calls.result_of(self.record)

    @property
    def result_known(self) -> bool:
        """Whether the record says what the call returned."""
        return self.record.number(abi.NUM_RESULT) is not None

    def register(self, number: int) -> int | None:
        """An argument of the call as its register held it; for 32-bit calls the low half."""
        if self._registers is None:
            self._registers = calls.has_registers(self.record)
        if not self._registers:
            return None
        value = self.record.number(abi.NUM_CALL_ARG0 + number)
        return value & 0xFFFFFFFF if value is not None and self.record.number(abi.NUM_CALL, 0) & abi.CALL_COMPAT else value

    def text(self, slot: int) -> str | None:
        """A string of the record."""
        data = self.record.string(slot)
        return None if data is None else _text(data)

    def descriptor(self, number: int) -> str:
        """A descriptor as Falco explains it, <type>name, if it is the one that the event is about."""
        if number != self.get("fd.num"):
            return ""
        kind, name = self.get("fd.typechar"), self.get("fd.name")
        if not isinstance(kind, str):
            return ""
        protocol = self.get("fd.l4proto") if kind in "46" else None
        return f"<{kind}{protocol[0] if isinstance(protocol, str) else ''}>{name if isinstance(name, str) else ''}"

    # -- Derived --

    def open_flags(self) -> FieldValue | None:
        """evt.arg.flags, which nearly every rule about opens asks for by other names."""
        make = calls.MAKERS[self.type].get("flags")
        return None if make is None else make(self).shown

    def raw(self, field: str, argument: str | None) -> FieldValue | None:
        """What this event knows itself."""
        take = _OWN.get(field)
        return None if take is None else take(self, argument)

    def get(self, field: str, argument: str | None = None) -> FieldValue | None:
        """A field's value, worked out once. What is absent here is not derived from other fields."""
        key = (field, argument)
        known = self._known
        if key in known:
            return known[key]
        take = _TAKES.get(field)
        value = known[key] = None if take is None else take(self, argument)
        return value

    def arguments(self) -> Mapping[str, Scalar | None]:
        """The event's own arguments in order: results and modes as numbers, the rest as evt.arg has it. Without the environment."""
        arguments = calls.event_arguments(self, ("env",))
        return {
            name: value.raw if name in ("res", "fd", "mode", "oldfd", "newfd", "dirfd") else value.shown
            for name, value in arguments.items()
        }

    def elements(self, field: str) -> tuple[str, ...] | None:
        """proc.args and proc.env as lists."""
        if field == "proc.args":
            words = self.argv()
            return None if words is None else tuple(_text(word) for word in words[1:])
        if field == "proc.env":
            record = self.record
            data = self.events.procfs.environment(record.pid, record.start_time)
            return None if data is None else tuple(_text(word) for word in records.arguments(data))
        return None

    def lineage(self) -> tuple[FalcoAncestor, ...]:
        """Ancestors, the parent first."""
        if self._ancestors is None:
            record = self.record
            ancestors = []
            for level, (pid, image) in enumerate(self.living()):
                name, args = (None, None) if image is None else (image.comm, image.args or None)
                if level == 0:
                    name = record.string(abi.STR_PARENT_NAME, name)
                    args = record.string(abi.STR_PARENT_ARGS, args) or None
                if args is None and image is not None and image.flags & abi.EXEC_FROM_ITER:
                    args = self._arguments_of(pid)
                words = None if args is None else records.arguments(args)
                exe = None if image is None else _text(image.exe)
                ancestors.append(_ancestor(pid, name, words, exe or None))
            self._ancestors = tuple(ancestors)
        return self._ancestors

    def _arguments_of(self, pid: int) -> bytes | None:
        """The arguments of a process that is older than the agent."""
        started = self.ancestor_started(pid)
        return None if started is None else self.events.procfs.arguments(pid, started)

    def ancestor_started(self, pid: int) -> int | None:
        """When the ancestor with that id was started, in ns since boot; None where that is not known.

        Only the parent's start is exact. Any other ancestor was started before this process: what has the id and was started later is not
        the ancestor.
        """
        record = self.record
        known = record.number(abi.NUM_PARENT_START) if pid == record.ppid else None
        return known or self.events.procfs.started(pid, record.start_time)

    # -- the process --

    def living(self) -> list[tuple[int, ExecImage | None]]:
        """The processes that the acting one descends from with their programs, the parent first."""
        if self._living is None:
            self._living = self.events.processes.ancestors(self.record)
        return self._living

    def image(self) -> ExecImage | None:
        """The program that the process runs."""
        if not self._image_known:
            self._image = self.events.processes.image(self.record.exec_id)
            self._image_known = True
        return self._image

    def argv(self) -> tuple[bytes, ...] | None:
        """The process's arguments, argv[0] first; None where they are not known."""
        if not self._argv_known:
            self._argv_known = True
            record = self.record
            data = record.string(abi.STR_PROCESS_ARGS)
            image = self.image() if not data else None
            if not data and image is not None:
                data = image.args
            if not data and (image is None or image.flags & abi.EXEC_FROM_ITER):
                data = self.events.procfs.arguments(record.pid, record.start_time)
            self._argv = None if data is None else records.arguments(data)
        return self._argv

    def uid(self) -> int:
        """The effective user: after a call that has changed it, the new one."""
        return self._changed("process.setuid", abi.NUM_SET_UID, self.record.uid)

    def gid(self) -> int:
        """The effective group, in the same way."""
        return self._changed("process.setgid", abi.NUM_SET_GID, self.record.gid)

    def _changed(self, event: str, slot: int, before: int) -> int:
        record = self.record
        return record.number(slot, before) if record.event == event and (self.result or 0) >= 0 else before

    def user(self) -> User:
        """The entry of the effective user."""
        return self.events.users.user(self.uid(), self.record.mnt_ns, self.record.pid)

    def account(self, kind: str, number: int) -> str | None:
        """The name of a "user" or "group" for the process; None where there is none of that number."""
        users, record = self.events.users, self.record
        name = users.group(number, record.mnt_ns, record.pid) if kind == "group" else users.user(number, record.mnt_ns, record.pid).name
        return None if name == UNKNOWN else name

    def leader(self, pid: int) -> tuple[str | None, str | None, str | None]:
        """Name, argv[0] and executable of a session's or group's leader, by its process id."""
        if pid == self.record.pid:
            own = self.get("proc.name"), self.get("proc.exe"), self.get("proc.exepath")
            return (
                own[0] if isinstance(own[0], str) else None,
                own[1] if isinstance(own[1], str) else None,
                (own[2] if isinstance(own[2], str) else None),
            )
        for ancestor in self.lineage():
            if ancestor.pid == pid:
                return ancestor.name, ancestor.exe, ancestor.exepath
        # While its session or group has members a leader's id is not given away: at the time of the event it was the leader's.
        procfs = self.events.procfs
        started = procfs.started(pid, self.record.time) if pid > 0 else None
        leader = None if started is None else procfs.leader(pid, started)
        if leader is None:
            return None, None, None
        name, exe, path = leader
        return _text(name), None if exe is None else _text(exe), None if path is None else _text(path)

    # -- the descriptor --

    def side(self, address: int, port: int) -> tuple[str | None, int | None]:
        """Address and port of one side of a socket."""
        data = self.record.string(address)
        return None if data is None else address_text(data), self.record.number(port)

    def serves(self) -> bool:
        """Whether this process is the server of the connection. For descriptors in use it is guessed by the ports: a server's is not
        ephemeral."""
        event = self.record.event
        if event in ("net.accept", "net.listen", "net.bind"):
            return True
        if event == "net.connect":
            return False
        ephemeral = self.events.ephemeral
        local, remote = self.record.number(abi.NUM_NET_LOCAL_PORT), self.record.number(abi.NUM_NET_PEER_PORT)
        own = bool(local) and local not in ephemeral
        if self.get("fd.l4proto") != "tcp":
            return own and event == "net.recv"
        return own and remote in ephemeral

    def sides(self) -> tuple[tuple[str | None, int | None], tuple[str | None, int | None]]:
        """Client and server, each as address and port."""
        local, remote = self.side(abi.STR_NET_LOCAL_IP, abi.NUM_NET_LOCAL_PORT), self.side(abi.STR_NET_PEER_IP, abi.NUM_NET_PEER_PORT)
        return (remote, local) if self.serves() else (local, remote)


def _ancestor(pid: int, name: bytes | None, words: tuple[bytes, ...] | None, exepath: str | None) -> FalcoAncestor:
    comm = None if name is None else _text(name)
    exe = _text(words[0]) if words else None
    line = comm if comm is None or words is None else _text(b" ".join((name or b"", *words[1:])))
    return FalcoAncestor(comm, exe, exepath, pid, line)


# ---- fields ----

_Take = Callable[[LiveEvent, "str | None"], "FieldValue | None"]


def _slot(slot: int) -> _Take:
    return lambda event, _: event.record.number(slot)


def _set(slot: int) -> _Take:
    """A set of capabilities."""

    def take(event: LiveEvent, _: str | None) -> FieldValue | None:
        value = event.record.number(slot)
        return None if value is None else calls.capability_names(value)

    return take


def _of_program(slot: int) -> _Take:
    """A fact about the executable. For a program that is about to be executed the record has none: what it has is about the caller."""
    return lambda event, _: None if event.record.event == "process.exec" else event.record.number(slot)


def _exe_flag(bit: int) -> _Take:
    def take(event: LiveEvent, _: str | None) -> FieldValue | None:
        if event.record.event == "process.exec":
            memfd = event.record.number(abi.NUM_FILE_MEMFD) if bit == abi.EXE_MEMFD else None
            return None if memfd is None else memfd != 0
        value = event.record.number(abi.NUM_EXE_FLAGS)
        return None if value is None else value & bit != 0

    return take


def _name(event: LiveEvent, _: str | None) -> FieldValue | None:
    """The name at exec. A task can rename itself later; right after the exec its own name still is that name."""
    given = event.record.string(abi.STR_PROCESS_NAME)
    if given is not None:
        return _text(given)
    image = None if event.record.event == "process.executed" else event.image()
    return _text(event.record.comm if image is None else image.comm)


def _exe(event: LiveEvent, _: str | None) -> FieldValue | None:
    words = event.argv()
    return _text(words[0]) if words else None


def _exepath(event: LiveEvent, _: str | None) -> FieldValue | None:
    if event.record.event == "process.exec":
        # What is about to be executed: the one thing that is known of the new program, and what rules that deny are about.
        return event.text(abi.STR_FILE_PATH)
    data = event.record.string(abi.STR_PROCESS_EXE)
    if data is None:
        image = event.image()
        data = image.exe if image is not None else b""
    return _text(data) or None


def _cwd(event: LiveEvent, _: str | None) -> FieldValue | None:
    data = event.record.string(abi.STR_PROCESS_CWD)
    if not data:
        return None
    path = _text(data)
    return path if path.endswith("/") else path + "/"


def _ppid(event: LiveEvent, _: str | None) -> FieldValue | None:
    return event.record.ppid or None


def _started(event: LiveEvent, _: str | None) -> FieldValue | None:
    return event.events.clock.wall(event.record.start_time) if event.record.start_time else None


def _parent_started(event: LiveEvent, _: str | None) -> FieldValue | None:
    value = event.record.number(abi.NUM_PARENT_START)
    return event.events.clock.wall(value) if value else None


def _parent_vpid(event: LiveEvent, _: str | None) -> FieldValue | None:
    started = event.ancestor_started(event.record.ppid) if event.record.ppid else None
    return None if started is None else event.events.procfs.inner_pid(event.record.ppid, started)


def _login_shell(event: LiveEvent, _: str | None) -> FieldValue | None:
    """The oldest process among the ancestors, or else the process itself, whose name ends in sh."""
    shells = [ancestor.pid for ancestor in event.lineage() if ancestor.name is not None and ancestor.name.endswith("sh")]
    if shells:
        return shells[-1]
    name = event.get("proc.name")
    return event.record.pid if isinstance(name, str) and name.endswith("sh") else None


def _leader(slot: int, part: int) -> _Take:
    """A fact about the leader of a session or group: 0 the name, 1 argv[0], 2 the executable."""

    def take(event: LiveEvent, _: str | None) -> FieldValue | None:
        pid = event.record.number(slot)
        return None if pid is None else event.leader(pid)[part]

    return take


def _leads(slot: int) -> _Take:
    def take(event: LiveEvent, _: str | None) -> FieldValue | None:
        pid = event.record.number(slot)
        return None if pid is None else pid == event.record.pid

    return take


def _namespace_started(event: LiveEvent, _: str | None) -> FieldValue | None:
    """The start of the process that is 1 in the same pid namespace, searched among the process and its ancestors."""
    if event.record.number(abi.NUM_VPID) == 1:
        return _started(event, None)
    for pid, _image in event.living():
        started = event.ancestor_started(pid)
        if started is not None and (pid == 1 or event.events.procfs.inner_pid(pid, started) == 1):
            return event.events.clock.wall(started)
    return None


def _changed_in_namespace(event: LiveEvent, _: str | None) -> FieldValue | None:
    changed, started = event.record.number(abi.NUM_EXE_CTIME), _namespace_started(event, None)
    return max(changed - started, 0) if changed and isinstance(started, int) else None


def _ancestor_environment(event: LiveEvent, argument: str | None) -> FieldValue | None:
    """Environments of ancestors. They are read one by one, and only as many as needed."""
    if argument == "0":
        return event.get("proc.env")
    procfs = event.events.procfs
    environments = []
    for level, (pid, _) in enumerate(event.living(), 1):
        if argument is not None and argument.isdigit() and str(level) != argument:
            continue
        started = event.ancestor_started(pid)
        data = None if started is None else procfs.environment(pid, started)
        words = [_text(word) for word in records.arguments(data)] if data else []
        if argument is not None and not argument.isdigit():
            value = next((word[len(argument) + 1 :] for word in words if word.startswith(argument + "=")), None)
            if value is not None:
                return value
        elif words:
            environments.append(" ".join(words))
    if argument is None:
        return tuple(environments) or None
    return environments[0] if environments else None


def _stream(number: int, part: int) -> _Take:
    """Type (0) or name (1) of one of the descriptors 0 to 2."""

    def take(event: LiveEvent, _: str | None) -> FieldValue | None:
        descriptors = event.events.procfs.descriptors(event.record.pid, event.record.start_time, number)
        return descriptors[number][part] or None if descriptors and number in descriptors else None

    return take


def _types(event: LiveEvent, argument: str | None) -> FieldValue | None:
    if argument is not None and not (argument.isascii() and argument.isdigit()):
        return None
    only = None if argument is None else int(argument)
    descriptors = event.events.procfs.descriptors(event.record.pid, event.record.start_time, only)
    if not descriptors:
        return None
    if only is not None:
        return descriptors[only][0] if only in descriptors else None
    return tuple(dict.fromkeys(kind for kind, _ in descriptors.values()))


def _status(name: str, *, less: int = 0, main: bool = False) -> _Take:
    """A number of /proc/PID/status, as it is now. `main`: it belongs to the main thread; other threads have 0."""

    def take(event: LiveEvent, _: str | None) -> FieldValue | None:
        record = event.record
        if main and record.tid != record.pid:
            return 0
        count = (event.events.procfs.status(record.pid, record.start_time) or {}).get(name)
        return None if count is None else max(count - less, 0)

    return take


_HIERARCHIES: Final = ("cpuset", "cpu", "cpuacct", "io", "memory")
"""The controllers that Falco lists. In the unified hierarchy they have one path."""


def _cgroups(event: LiveEvent, _: str | None) -> FieldValue | None:
    path, _id = event.events.cgroup(event.record)
    return None if path is None else " ".join(f"{name}={path}" for name in _HIERARCHIES)


def _cgroup(event: LiveEvent, argument: str | None) -> FieldValue | None:
    path, _id = event.events.cgroup(event.record)
    return path if argument in _HIERARCHIES else None


def _user(part: str) -> _Take:
    return lambda event, _: getattr(event.user(), part) or None


def _group(event: LiveEvent, _: str | None) -> FieldValue | None:
    return event.events.users.group(event.gid(), event.record.mnt_ns, event.record.pid)


def _login_uid(event: LiveEvent, _: str | None) -> FieldValue | None:
    value = event.record.number(abi.NUM_LOGINUID)
    return None if value is None else -1 if value & NOT_SET == NOT_SET else value & NOT_SET


def _login_name(event: LiveEvent, _: str | None) -> FieldValue | None:
    uid = _login_uid(event, None)
    if not isinstance(uid, int):
        return None
    return UNKNOWN if uid < 0 else event.events.users.user(uid, event.record.mnt_ns, event.record.pid).name


def _container(event: LiveEvent, _: str | None) -> FieldValue | None:
    told = event.events.container(event.record)
    return short_id(told) if told is not None else event.events.cgroup(event.record)[1]


def _told(name: str, take: Callable[[Container, str | None], FieldValue | None]) -> _Take:
    derived = DERIVED.get(name)

    def of_container(event: LiveEvent, argument: str | None) -> FieldValue | None:
        container = event.events.container(event.record)
        if container is None:
            return derived(event, argument) if derived is not None else None
        return take(container, argument)

    return of_container


def _privileged(event: LiveEvent, _: str | None) -> FieldValue | None:
    bounding = event.record.number(abi.NUM_CAPS_BOUNDING)
    if bounding is None or event.get("container.id") == HOST:
        return None
    everything = event.events.all_capabilities
    return bounding & everything == everything


# ---- arguments and result ----


def _argument(event: LiveEvent, argument: str | None) -> FieldValue | None:
    value = calls.argument(event, argument or "").shown
    if value is None:
        return unknown_argument(event.type, argument)
    return value if isinstance(value, str) else str(value)


def _raw_argument(event: LiveEvent, argument: str | None) -> FieldValue | None:
    return calls.argument(event, argument or "").raw


def _arguments(event: LiveEvent, _: str | None) -> FieldValue | None:
    return " ".join(calls.spelled(name, value) for name, value in calls.event_arguments(event).items())


# ---- paths ----

_OPENS: Final = ("file.open", "file.open_failed")


def _path(event: LiveEvent, _: str | None) -> FieldValue | None:
    return event.text(abi.STR_FILE_PATH)


def _opened_name(event: LiveEvent) -> str | None:
    """fd.name of an open: the given name, below the directory that it is relative to; the kernel's path where the given name is not
    known."""
    text = event.text(abi.STR_FILE_TEXT)
    if text is None:
        return event.text(abi.STR_FILE_PATH)
    if text.startswith("/"):
        return normal(None, text)
    base = event.text(abi.STR_FILE_BASE)
    directory = event.record.number(abi.NUM_DIRFD)
    if base is None and (directory is None or directory & 0xFFFFFFFF == calls.AT_FDCWD & 0xFFFFFFFF):
        base = event.text(abi.STR_PROCESS_CWD)
    if base is None:
        path = event.text(abi.STR_FILE_PATH)
        return normal(None, text) if path is None else path
    return normal(base, text)


def _succeeded(event: LiveEvent) -> bool:
    return (event.result or 0) >= 0


_ONE_PATH: Final = frozenset({
    "file.open", "file.open_failed", "file.unlink", "file.rmdir", "file.mkdir", "file.chmod", "file.chown", "file.create", "kernel.umount",
})  # fmt: skip


def _fs_name(event: LiveEvent, _: str | None) -> FieldValue | None:
    if event.record.event not in _ONE_PATH or not _succeeded(event):
        return None
    return event.get("fd.name") if event.record.event in _OPENS else event.text(abi.STR_FILE_PATH)


def _fs_raw_name(event: LiveEvent, _: str | None) -> FieldValue | None:
    if event.record.event not in _ONE_PATH or not _succeeded(event):
        return None
    text = event.text(abi.STR_FILE_TEXT if event.record.event in _OPENS else abi.STR_CALL_TEXT)
    return event.text(abi.STR_FILE_PATH) if text is None else text


# Falco decides which side is the source: for links it is the new name.
_SOURCES: Final = {
    "file.rename": abi.STR_FILE_PATH, "file.link": abi.STR_FILE_NEW_PATH, "file.symlink": abi.STR_FILE_PATH,
    "kernel.mount": abi.STR_MOUNT_SOURCE,
}  # fmt: skip
_TARGETS: Final = {
    "file.rename": abi.STR_FILE_NEW_PATH, "file.link": abi.STR_FILE_PATH, "file.symlink": abi.STR_LINK_TARGET,
    "kernel.mount": abi.STR_FILE_PATH,
}  # fmt: skip


# The same paths as the caller wrote them.
_RAW_SOURCES: Final = {
    "file.rename": abi.STR_CALL_TEXT, "file.link": abi.STR_CALL_TEXT_2, "file.symlink": abi.STR_CALL_TEXT_2,
    "kernel.mount": abi.STR_CALL_TEXT,
}  # fmt: skip
_RAW_TARGETS: Final = {
    "file.rename": abi.STR_CALL_TEXT_2, "file.link": abi.STR_CALL_TEXT, "kernel.mount": abi.STR_CALL_TEXT_2,
}  # fmt: skip


def _two_paths(slots: Mapping[str, int], raw: Mapping[str, int] | None = None) -> _Take:
    """One of two paths: the resolved one; with `raw` the given one, if it is in the record."""

    def take(event: LiveEvent, _: str | None) -> FieldValue | None:
        slot = slots.get(event.record.event)
        if slot is None or not _succeeded(event):
            return None
        given = None if raw is None or event.record.event not in raw else event.text(raw[event.record.event])
        text = event.text(slot) if given is None else given
        if text is None or raw is not None or slot != abi.STR_LINK_TARGET or text.startswith("/"):
            return text
        return normal(event.text(abi.STR_PROCESS_CWD), text)

    return take


def _absolute(slots: Mapping[str, int]) -> _Take:
    """evt.abspath of calls with directory descriptors."""

    def take(event: LiveEvent, _: str | None) -> FieldValue | None:
        if event.record.event in _OPENS and slots is _ABSOLUTE:
            return event.get("fd.name") if event.type in ("openat", "openat2", "open_by_handle_at") else None
        slot = slots.get(event.type)
        return None if slot is None else event.text(slot)

    return take


_ABSOLUTE: Final = dict.fromkeys(
    ("unlinkat", "mkdirat", "fchmodat", "fchownat", "mknodat", "symlinkat", "renameat", "renameat2"), abi.STR_FILE_PATH
)
_ABSOLUTE_SOURCE: Final = dict.fromkeys(("renameat", "renameat2", "linkat"), abi.STR_FILE_PATH)
_ABSOLUTE_TARGET: Final = dict.fromkeys(("renameat", "renameat2", "linkat"), abi.STR_FILE_NEW_PATH)


# ---- descriptors ----

_RESULTS: Final = frozenset({
    "open", "openat", "openat2", "creat", "open_by_handle_at", "accept", "accept4", "dup", "dup2", "dup3", "socket", "memfd_create",
    "userfaultfd", "io_uring_setup", "bpf",
})  # fmt: skip
"""Types whose descriptor is the result."""
_FIRST: Final = frozenset({
    "bind", "connect", "listen", "sendto", "sendmsg", "sendmmsg", "recvfrom", "recvmsg", "recvmmsg",
    "fchmod", "fchown", "fchdir", "setns", "finit_module", "fsconfig",
})  # fmt: skip
"""Types whose descriptor is the first argument."""
_MADE: Final = {"memfd_create": "memfd", "userfaultfd": "userfaultfd", "io_uring_setup": "io_uring", "bpf": "bpf"}
_IP: Final = {"AF_INET": 2, "AF_INET6": 10}
_FILE_TYPE: Final = 0o170000
_O_DIRECTORY: Final = 0o200000
_FILES: Final = frozenset({"fchmod", "fchown", "finit_module"})


def _fd_number(event: LiveEvent, _: str | None) -> FieldValue | None:
    if event.type in _RESULTS:
        result = event.result
        if result is not None and result < 0:
            return -1
        return result if event.result_known else calls.UNKNOWN_DESCRIPTOR
    if event.type not in _FIRST:
        return None
    value = event.register(0)
    if value is None:
        return calls.UNKNOWN_DESCRIPTOR
    low = value & 0xFFFFFFFF
    return low - (1 << 32) if low >> 31 else low


def _is_socket(event: LiveEvent) -> bool:
    return event.record.event.startswith("net.") or (
        event.record.event == "file.dup" and event.record.number(abi.NUM_NET_FAMILY) is not None
    )


def _socket_type(event: LiveEvent) -> str | None:
    record = event.record
    family = record.number(abi.NUM_NET_FAMILY)
    if family == 1 or record.string(abi.STR_NET_UNIX_PATH) is not None:
        return "unix"
    for slot in (abi.STR_NET_PEER_IP, abi.STR_NET_LOCAL_IP):
        data = record.string(slot)
        text = None if data is None else address_text(data)
        if text is not None:
            return "ipv6" if ":" in text else "ipv4"
    return "ipv4" if family == _IP["AF_INET"] else "ipv6" if family == _IP["AF_INET6"] else None


def _fd_type(event: LiveEvent, _: str | None) -> FieldValue | None:
    if event.type in _MADE:
        return _MADE[event.type]
    if event.record.event in _OPENS:
        kind = event.record.number(abi.NUM_FILE_MODE, 0) & _FILE_TYPE
        directory = kind == stat.S_IFDIR or (not kind and event.record.number(abi.NUM_FILE_FLAGS, 0) & _O_DIRECTORY)
        return "directory" if directory else "file"
    if _is_socket(event):
        return _socket_type(event)
    if event.type in _FILES:
        return "directory" if event.record.number(abi.NUM_FILE_MODE, 0) & _FILE_TYPE == stat.S_IFDIR else "file"
    if event.type == "fchdir":
        return "directory"
    described = _from_procfs(event)
    return None if described is None else described[0]


def _from_procfs(event: LiveEvent) -> tuple[str, str] | None:
    """A descriptor that the record does not describe, as it is now: the copy that dup has made, the argument of setns, and so on."""
    number = event.get("fd.num")
    if event.record.event not in ("file.dup", "process.setns", "kernel.setns", "kernel.fsconfig") or not isinstance(number, int):
        return None
    if not 0 <= number < calls.UNKNOWN_DESCRIPTOR:
        return None
    descriptors = event.events.procfs.descriptors(event.record.pid, event.record.start_time, number)
    return None if descriptors is None else descriptors.get(number)


def _socket_name(event: LiveEvent) -> str | None:
    unix = event.text(abi.STR_NET_UNIX_PATH)
    if unix is not None:
        return unix
    client, server = event.sides()
    shown = [f"{address}:{port or 0}" for address, port in (client, server) if address is not None]
    if len(shown) == 2 and event.record.event not in ("net.listen", "net.bind"):
        return "->".join(shown)
    if event.record.event == "net.connect" and server[0] is not None:
        # Not connected: the socket has no address of its own yet.
        return f"{'::' if ':' in server[0] else '0.0.0.0'}:0->{shown[0]}"
    if server[0] is not None:
        return f"{server[0]}:{server[1] or 0}"
    return shown[0] if shown else None


def _fd_name(event: LiveEvent, _: str | None) -> FieldValue | None:
    if event.record.event in _OPENS:
        return _opened_name(event)
    if _is_socket(event):
        return _socket_name(event)
    if event.type in _FILES:
        return event.text(abi.STR_FILE_PATH)
    if event.type == "memfd_create":
        return event.text(abi.STR_CALL_TEXT)
    if event.type == "fchdir":
        return event.text(abi.STR_PROCESS_CWD) if _succeeded(event) else None
    described = _from_procfs(event)
    return None if described is None else described[1] or None


def _fd_raw_name(event: LiveEvent, _: str | None) -> FieldValue | None:
    return event.text(abi.STR_FILE_TEXT) if event.record.event in _OPENS else None


def _of_file(slot: int) -> _Take:
    def take(event: LiveEvent, _: str | None) -> FieldValue | None:
        return event.record.number(slot) if event.record.event in _OPENS or event.type in _FILES else None

    return take


def _side(server: bool, part: int) -> _Take:
    def take(event: LiveEvent, _: str | None) -> FieldValue | None:
        if not _is_socket(event):
            return None
        if not server and event.record.event in ("net.listen", "net.bind"):
            return None
        side = event.sides()[server]
        return side[part] if side[0] is not None else None

    return take


def _end(address: int, port: int, part: int) -> _Take:
    def take(event: LiveEvent, _: str | None) -> FieldValue | None:
        end = event.side(address, port) if _is_socket(event) else (None, None)
        return end[part] if end[0] is not None else None

    return take


_BY_PROTOCOL: Final = {6: "tcp", 17: "udp", 1: "icmp", 58: "icmp"}
_BY_KIND: Final = {1: "tcp", 2: "udp", 3: "raw"}


def _protocol(event: LiveEvent, _: str | None) -> FieldValue | None:
    if not _is_socket(event) or event.get("fd.type") not in ("ipv4", "ipv6"):
        return None
    record = event.record
    kind = record.number(abi.NUM_NET_TYPE, 0) & 0xF
    if kind == 3:
        return "raw"
    return _BY_PROTOCOL.get(record.number(abi.NUM_NET_PROTOCOL, 0)) or _BY_KIND.get(kind)


def _is_server(event: LiveEvent, _: str | None) -> FieldValue | None:
    return event.serves() if _is_socket(event) else None


def _given_address(event: LiveEvent) -> bool:
    """Whether a send names its addressee. For sendmsg that is not known: it counts as naming one unless the socket is a stream."""
    if event.type == "sendto":
        value = event.register(4)
        return value is None or value != 0
    return event.get("fd.l4proto") != "tcp"


def _connected(event: LiveEvent, _: str | None) -> FieldValue | None:
    if not _is_socket(event):
        return None
    match event.record.event:
        case "net.connect" | "net.accept":
            return _succeeded(event)
        case "net.send":
            return not _given_address(event)
        case "net.recv":
            return event.record.number(abi.NUM_NET_CONNECTED) == 1
        case "file.dup":
            return event.side(abi.STR_NET_PEER_IP, abi.NUM_NET_PEER_PORT)[0] is not None
    return False


def _name_changed(event: LiveEvent, _: str | None) -> FieldValue | None:
    if not _is_socket(event):
        return None
    name, number = event.get("fd.name"), event.get("fd.num")
    if event.record.event == "net.connect":
        return True
    if event.record.event == "net.recv":
        given = event.side(*_PEER)[0] is not None and not _connected(event, None)
    else:
        given = event.record.event == "net.send" and _given_address(event)
    if not given or not isinstance(name, str) or not isinstance(number, int):
        return False
    return event.events.new_peer(event.record, number, name)


def _host_name(field: str) -> _Take:
    def take(event: LiveEvent, _: str | None) -> FieldValue | None:
        address = event.get(field)
        if event.events.hostnames is None or not isinstance(address, str):
            return None
        names = event.events.hostnames.names_of(address)
        return names if len(names) > 1 else names[0] if names else None

    return take


def _fd_id(event: LiveEvent, _: str | None) -> FieldValue | None:
    number = event.get("fd.num")
    return f"{event.record.tid}{number}" if isinstance(number, int) and number >= 0 else None


_LOCAL: Final = (abi.STR_NET_LOCAL_IP, abi.NUM_NET_LOCAL_PORT)
_PEER: Final = (abi.STR_NET_PEER_IP, abi.NUM_NET_PEER_PORT)

_OWN: Final[Mapping[str, _Take]] = {
    "evt.num": lambda event, _: event.number, "evt.source": lambda event, _: "syscall", "evt.cpu": lambda event, _: event.record.cpu,
    "evt.hostname": lambda event, _: event.events.host,
    "evt.reltime": lambda event, _: max(event.since_first, 0), "evt.reltime.s": lambda event, _: max(event.since_first, 0) // SECOND,
    "evt.reltime.ns": lambda event, _: max(event.since_first, 0) % SECOND,
    "evt.deltatime": lambda event, _: max(event.since_last, 0), "evt.deltatime.s": lambda event, _: max(event.since_last, 0) // SECOND,
    "evt.deltatime.ns": lambda event, _: max(event.since_last, 0) % SECOND,
    "evt.rawres": lambda event, _: event.result, "evt.args": _arguments, "evt.info": _arguments, "evt.arg": _argument,
    "evt.rawarg": _raw_argument, "evt.abspath": _absolute(_ABSOLUTE), "evt.abspath.src": _absolute(_ABSOLUTE_SOURCE),
    "evt.abspath.dst": _absolute(_ABSOLUTE_TARGET),
    "proc.name": _name, "proc.exe": _exe, "proc.exepath": _exepath, "proc.cwd": _cwd, "proc.tty": _slot(abi.NUM_TTY),
    "proc.pid": lambda event, _: event.record.pid, "proc.ppid": _ppid, "proc.vpid": _slot(abi.NUM_VPID), "proc.pvpid": _parent_vpid,
    "proc.loginshellid": _login_shell, "proc.sid": _slot(abi.NUM_SID), "proc.sname": _leader(abi.NUM_SID, 0),
    "proc.sid.exe": _leader(abi.NUM_SID, 1), "proc.sid.exepath": _leader(abi.NUM_SID, 2), "proc.pgid": _slot(abi.NUM_PGID),
    "proc.pgid.name": _leader(abi.NUM_PGID, 0), "proc.pgid.exe": _leader(abi.NUM_PGID, 1), "proc.pgid.exepath": _leader(abi.NUM_PGID, 2),
    "proc.vpgid": _slot(abi.NUM_VPGID), "proc.vpgid.name": _leader(abi.NUM_PGID, 0), "proc.vpgid.exe": _leader(abi.NUM_PGID, 1),
    "proc.vpgid.exepath": _leader(abi.NUM_PGID, 2), "proc.is_sid_leader": _leads(abi.NUM_SID), "proc.is_pgid_leader": _leads(abi.NUM_PGID),
    "proc.pid.ts": _started, "proc.ppid.ts": _parent_started, "proc.is_exe_writable": _exe_flag(abi.EXE_WRITABLE),
    "proc.is_exe_upper_layer": _exe_flag(abi.EXE_UPPER), "proc.is_exe_lower_layer": _exe_flag(abi.EXE_LOWER),
    "proc.is_exe_from_memfd": _exe_flag(abi.EXE_MEMFD), "proc.exe_ino": _of_program(abi.NUM_EXE_INO),
    "proc.exe_ino.ctime": _of_program(abi.NUM_EXE_CTIME), "proc.exe_ino.mtime": _of_program(abi.NUM_EXE_MTIME),
    "proc.exe_ino.ctime_duration_pidns_start": _changed_in_namespace, "proc.pidns_init_start_ts": _namespace_started,
    "proc.aenv": _ancestor_environment, "proc.nthreads": _status("Threads"), "proc.nchilds": _status("Threads", less=1),
    "proc.vmsize": _status("VmSize"), "proc.vmrss": _status("VmRSS"), "proc.vmswap": _status("VmSwap"),
    "thread.vmsize": _status("VmSize", main=True), "thread.vmrss": _status("VmRSS", main=True),
    **{f"proc.{name}.{part}": _stream(number, index) for number, name in enumerate(("stdin", "stdout", "stderr"))
       for index, part in enumerate(("type", "name"))},
    "thread.tid": lambda event, _: event.record.tid, "thread.vtid": _slot(abi.NUM_VTID), "thread.cap_effective": _set(abi.NUM_PROCESS_CAPS),
    "thread.cap_permitted": _set(abi.NUM_CAPS_PERMITTED), "thread.cap_inheritable": _set(abi.NUM_CAPS_INHERITABLE),
    "thread.cgroups": _cgroups, "thread.cgroup": _cgroup,
    "user.uid": lambda event, _: event.uid(), "user.name": _user("name"), "user.homedir": _user("home"), "user.shell": _user("shell"),
    "user.loginuid": _login_uid, "user.loginname": _login_name, "group.gid": lambda event, _: event.gid(), "group.name": _group,
    "container.id": _container, "container.privileged": _privileged,
    **{name: _told(name, take) for name, take in CONTAINER_FIELDS.items()},
    "fd.num": _fd_number, "fd.type": _fd_type, "fd.name": _fd_name, "fd.nameraw": _fd_raw_name, "fd.uid": _fd_id, "fd.types": _types,
    "fd.dev": _of_file(abi.NUM_FILE_DEV), "fd.ino": _of_file(abi.NUM_FILE_INO), "fd.l4proto": _protocol, "fd.is_server": _is_server,
    "fd.cip": _side(False, 0), "fd.cport": _side(False, 1), "fd.sip": _side(True, 0), "fd.sport": _side(True, 1),
    "fd.lip": _end(*_LOCAL, 0), "fd.lport": _end(*_LOCAL, 1), "fd.rip": _end(*_PEER, 0), "fd.rport": _end(*_PEER, 1),
    "fd.connected": _connected, "fd.name_changed": _name_changed,
    **{f"fd.{side}.name": _host_name(f"fd.{side}") for side in ("cip", "sip", "lip", "rip")},
    "fs.path.name": _fs_name, "fs.path.nameraw": _fs_raw_name, "fs.path.source": _two_paths(_SOURCES),
    "fs.path.sourceraw": _two_paths(_SOURCES, _RAW_SOURCES), "fs.path.target": _two_paths(_TARGETS),
    "fs.path.targetraw": _two_paths(_TARGETS, _RAW_TARGETS),
    "bpfence.path": _path, "bpfence.async": lambda event, _: event.record.flags & abi.EVENT_ASYNC != 0 or (
        event.record.flags & abi.EVENT_AT_ONCE != 0),
}  # fmt: skip
"""The fields that come from the record; the rest is derived (`dialects.falco.confirm.event`)."""
_TAKES: Final[Mapping[str, _Take]] = {**DERIVED, **_OWN}
