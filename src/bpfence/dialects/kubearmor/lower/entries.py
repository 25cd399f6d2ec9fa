# SPDX-License-Identifier: Apache-2.0
"""One entry of a policy in, the events that it is about and the condition on each of them out.

Called by `policies`. `decided` is for entries that block or report; `uncovered` for what allow lists leave to a posture. Of the entries
about one act the one decides that KubeArmor looks up first (`ways`). Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

import msgspec

from bpfence import abi, names
from bpfence.conditions import expand
from bpfence.conditions.values import conj, disj, negation
from bpfence.dialects.kubearmor import patterns
from bpfence.dialects.kubearmor.model import Entry, Source
from bpfence.fields import ARGUMENTS, FIELD_BY_NAME, applies
from bpfence.policy import FALSE, TRUE, And, Atom, Condition, Not, Op, Or

PATH: Final = "file.path"
NEW_PATH: Final = "file.new_path"
PROGRAM: Final = "process.exe"
WHOLE: Final = ("file.modify", "file.read")
"""What an entry about a file is about that does not say readOnly: every change, and use of descriptors from before."""
ANY_USE: Final = ("file.open", "file.mmap")
"""And these for whatever use."""
CHANGES: Final = ("file.modify",)
EXECUTED: Final = "process.executed"
"""A program with its arguments is there, before its first instruction."""
_TOLD_APART: Final = frozenset((*expand.GROUP_TESTS["file.modify"], "file.chown", EXECUTED))
"""Events on which an entry may let through something else than on the others."""
FROM_BEFORE: Final = ("file.permission", "file.mmap", "file.mprotect")
"""Use of a descriptor that may be older than the policy: nothing that an allow list is asked about."""
SOCKETS: Final = ("net.create", "net.bind", "net.listen", "net.connect", "net.accept", "net.send")
REPORTED_SOCKETS: Final = ("net.create", "net.connect", "net.accept")
"""Where an entry only reports: not each message."""
PROC_ACCESS: Final = 8
"""PTRACE_MODE_FSCREDS: what procfs asks for, and nothing else."""
UNIX: Final = 1
_INTERNET: Final = (2, 10)
_TCP, _MPTCP, _UDP, _ICMP, _ICMPV6, _SCTP, _DCCP = 6, 262, 17, 1, 58, 132, 33
_STREAM, _DGRAM, _RAW, _RDM, _SEQPACKET, _DCCP_TYPE, _PACKET_TYPE = 1, 2, 3, 4, 5, 6, 10
_AF_PACKET: Final = 17


def _number(field: str, *numbers: int) -> Condition:
    return disj(Atom(field, Op.RANGE, (number, number)) for number in numbers)


PROTOCOLS: Final[Mapping[str, Condition]] = {
    "tcp": _number("net.protocol", _TCP, _MPTCP),
    "udp": _number("net.protocol", _UDP),
    "icmp": _number("net.protocol", _ICMP),
    "icmpv6": _number("net.protocol", _ICMPV6),
    "sctp": _number("net.protocol", _SCTP),
    "dccp": disj((_number("net.protocol", _DCCP), _number("net.type", _DCCP_TYPE))),
    "raw": _number("net.type", _RAW),
    "stream": _number("net.type", _STREAM),
    "dgram": _number("net.type", _DGRAM),
    "rdm": _number("net.type", _RDM),
    "seqpacket": _number("net.type", _SEQPACKET),
    "packet": disj((_number("net.family", _AF_PACKET), _number("net.type", _PACKET_TYPE))),
    "all": TRUE,
}
"""Protocols by name: those of the internet by their number, whatever the type of the socket; the others by type."""


TRAFFIC: Final[Mapping[str, tuple[str, ...]]] = {"egress": ("net.egress",), "ingress": ("net.bind", "net.listen", "net.accept")}
"""By section, what an entry of a network policy is about."""
_LOOPBACK: Final = ("127.0.0.0/8", "::1/128")
_TRANSPORTS: Final = {"TCP": PROTOCOLS["tcp"], "UDP": PROTOCOLS["udp"], "SCTP": PROTOCOLS["sctp"]}


class Act(NamedTuple):
    """System calls that do one thing, and the events that it is. A call that does more than one thing is in several."""

    events: tuple[str, ...]
    calls: tuple[str, ...]


def _act(events: str, calls: str) -> Act:
    return Act(tuple(events.split()), tuple(calls.split()))


ACTS: Final = (
    _act("file.open", "open openat openat2 creat open_by_handle_at"),
    _act("file.create", "mknod mknodat"),
    _act("file.unlink", "unlink unlinkat"),
    _act("file.rmdir", "rmdir unlinkat"),
    _act("file.mkdir", "mkdir mkdirat"),
    _act("file.rename", "rename renameat renameat2"),
    _act("file.link", "link linkat"),
    _act("file.symlink", "symlink symlinkat"),
    _act("file.chmod", "chmod fchmod fchmodat fchmodat2"),
    _act("file.chown", "chown fchown lchown fchownat"),
    _act("file.truncate", "truncate ftruncate"),
    _act("file.setxattr", "setxattr lsetxattr fsetxattr setxattrat removexattr lremovexattr fremovexattr removexattrat"),
    _act("file.setattr", "utime utimes futimesat utimensat file_setattr"),
    _act("process.exec", "execve execveat"),
    _act("process.fork", "fork vfork clone clone3"),
    _act("process.signal", "kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_send_signal"),
    _act("process.trace", "ptrace"),
    _act("process.setuid", "setuid setreuid setresuid setfsuid"),
    _act("process.setgid", "setgid setregid setresgid setfsgid"),
    _act("process.unshare", "unshare"),
    _act("process.setns", "setns"),
    _act("process.prctl", "prctl"),
    _act("process.capset", "capset"),
    _act("process.chroot", "chroot"),
    _act("process.chdir", "chdir fchdir"),
    _act("process.setsid", "setsid"),
    _act("net.create", "socket socketpair"),
    _act("net.bind", "bind"),
    _act("net.listen", "listen"),
    _act("net.connect", "connect"),
    _act("net.accept", "accept accept4"),
    _act("net.send", "sendto sendmsg sendmmsg"),
    _act("ipc.msgsnd", "msgsnd"),
    _act("ipc.shmat", "shmat"),
    _act("kernel.module", "init_module finit_module"),
    _act("kernel.kexec", "kexec_load kexec_file_load"),
    _act("kernel.mount", "mount move_mount"),
    _act("kernel.umount", "umount umount2"),
    _act("kernel.pivot_root", "pivot_root"),
    _act("kernel.bpf", "bpf"),
    _act("kernel.perf", "perf_event_open"),
    _act("kernel.memfd", "memfd_create"),
    _act("kernel.userfaultfd", "userfaultfd"),
    _act("kernel.io_uring_setup", "io_uring_setup"),
)
"""Acts that the kernel reports, and the calls that do them."""


_ASKED_FOR: Final[Mapping[str, Condition]] = {"kernel.module": _number("module.requested", 0)}
"""What an event must be besides to be the act of a call: the kernel asks for modules itself."""


def unseen(entry: Entry) -> tuple[str, ...]:
    """System calls of an entry that no event is about, or none that has the path that it asks for."""
    seen = {call for act in ACTS if any(_carries(entry, event) for event in act.events) for call in act.calls}
    return tuple(call for call in dict.fromkeys(entry.calls) if call not in seen)


def seen_too(entry: Entry) -> tuple[str, ...]:
    """System calls that an entry does not name, and that are reported as well: they do what a call does that it names."""
    named = set(entry.calls)
    return tuple(dict.fromkeys(call for act in ACTS if named & set(act.calls) for call in act.calls if call not in named))


def _carries(entry: Entry, event: str) -> bool:
    return not entry.kind or applies(FIELD_BY_NAME[PATH], event)


# ---- conditions ----


_LINKED: Final = {
    **{f"/{name}": f"/usr/{name}" for name in ("bin", "lib", "lib32", "lib64")},
    **dict.fromkeys(("/sbin", "/usr/sbin"), "/usr/bin"), "/var/run": "/run", "/var/lock": "/run/lock",
}  # fmt: skip
"""Links that most systems have: by them two names may be one file."""
_ROOT: Final = "/."
"""The root itself, of which "/" is the contents."""
_USUAL: Final = re.compile(f"^({'|'.join(_LINKED)})(?=/|$)")


def led_to(path: str) -> str:
    """What a path is where there are the usual links."""
    return _USUAL.sub(lambda link: _LINKED[link[0]], path)


class Way(NamedTuple):
    """One way in which an entry names an act: the condition, and where in KubeArmor's look-up it stands: the least `level` is first, then
    the longest `place`, then what blocks (`last` is 0). `place`: the path that it names, or the directory with what is in it ("/" at its
    end); "" where there is none, or many. `real`: the same where there are the usual links."""

    level: tuple[int, ...]
    last: int
    named: Condition
    place: str = ""
    real: str = ""

    def before(self, other: Way) -> bool:
        """Whether both may name one file, and this way is looked up first. Names are compared as they are written where one is in the
        other, since the links need not be there; else by what they lead to."""
        for one, two in ((self.place, other.place), (self.real, other.real)):
            if not one or not two or one == two or _holds(one, two) or _holds(two, one):
                return (*self.level, -len(one), self.last) < (*other.level, -len(two), other.last)
        return False


def _holds(directory: str, place: str) -> bool:
    return directory.endswith("/") and place.startswith(directory)


_PATH, _NAME, _DIRECTORY, _FLAT, _PATTERN = range(5)
HOLDS: Final = (-1,)
"""Before everything. KubeArmor's BPF enforcer has no patterns; in its other one a Block holds whatever allows the act, and what it does not
refuse is left to others."""


def ways(entry: Entry, field: str = PATH) -> tuple[Way, ...]:
    """The ways in which an entry names an act. What names the source of the act is looked up first; then names of files, of programs, and
    directories, the longest first; patterns. Of two entries for the same, and of all for sockets, the one that blocks is first."""
    last = 0 if entry.action == "Block" else 1
    sourced = 0 if entry.sources else 1

    def way(level: int, named: Condition, place: str = "") -> Way:
        return Way((sourced, level), last, named, place, led_to(place))

    match entry.kind:
        case "dir":
            # The directory itself as well: whoever renames it away or puts another in its place has everything in it.
            path = entry.value.rstrip("/") or "/"
            itself = way(_PATH, Atom(field, Op.EQUALS, path), path if path != "/" else _ROOT)
            inside = _in_directory(field, entry.value, recursive=entry.recursive)
            # KubeArmor looks up the recursive ones first. Whoever blocks a directory in one that is allowed means it all the same.
            contents = way(_DIRECTORY if entry.recursive or not last else _FLAT, inside, entry.value)
            return (contents,) if entry.section == "process" else (itself, contents)
        case "path":
            return (way(_PATH, Atom(field, Op.EQUALS, entry.value), entry.value),)
        case "name":
            return (way(_NAME, Atom(field, Op.SUFFIX, "/" + entry.value)),)
        case "pattern":
            found = way(_PATTERN, patterns.condition(entry.value, field))
            return (found if last else found._replace(level=HOLDS),)
        case "protocol":
            return (way(0, PROTOCOLS[entry.value]),)
        case "capability":
            return (way(0, capability(entry.value)),)
    return (way(0, TRUE),)


def named(entry: Entry, field: str = PATH) -> Condition:
    """The condition that an act is one that the entry names, of a path: that one."""
    return disj(way.named for way in ways(entry, field))


def _in_directory(field: str, directory: str, *, recursive: bool) -> Condition:
    return Atom(field, Op.PREFIX, directory) if recursive else Atom(field, Op.GLOB, patterns.literal(directory) + "*")


def _from(sources: Iterable[Source]) -> Condition:
    """The condition that a program is one of the sources: on exec, the one that calls it."""
    made = [
        _in_directory(PROGRAM, source.path, recursive=source.recursive)
        if source.path.endswith("/")
        else Atom(PROGRAM, Op.EQUALS, source.path)
        for source in sources
    ]
    return disj(made) if made else TRUE


_OWNER: Final = Atom("process.uid", Op.SAME, "file.uid")
_NO_TERMINAL: Final = _number("process.tty", 0)
_SCRIPT: Final = _number("file.script", 1)
_OTHERS: Final = Atom("file.proc_pid", Op.DIFFERENT, "process.pid")
_OTHERS_LINK: Final = conj((Atom("process.ptrace.mode", Op.ANYBITS, PROC_ACCESS), Atom("target.pid", Op.DIFFERENT, "process.pid")))
PRESETS: Final[Mapping[str, Mapping[str, Condition]]] = {
    "filelessExec": {
        "process.exec": disj(
            (
                _number("file.memfd", 1),
                _number("file.deleted", 1),
                Atom(PATH, Op.PREFIX, "/dev/shm/"),  # noqa: S108 - a path to match, not one to write to
                Atom(PATH, Op.PREFIX, "/run/shm/"),
            )
        ),
    },
    "anonMapExec": {"process.memory": TRUE},
    "protectEnv": {"file.open": conj((_OTHERS, Atom(PATH, Op.SUFFIX, "/environ")))},
    "protectProc": {"file.open": _OTHERS, "process.ptrace": _OTHERS_LINK},
    "exec": {"process.exec": conj((_number("process.entered", 1), negation(_NO_TERMINAL)))},
}
"""Presets: the condition on each event."""
TOLD_TWICE: Final = {"protectProc": ("process.ptrace",)}
"""Events that go with others of the same act: they are only for what denies."""


Excuses = Callable[[Way, str], Iterable[Condition]]
"""Of a way in which an entry names an act, and an event: conditions on which an entry that is looked up before it lets the act through."""


def none_before(_way: Way, _event: str) -> Iterable[Condition]:
    """Where nothing lets anything through."""
    return ()


def bound(entry: Entry) -> bool:
    """Whether an entry says who may, or what may be done: it refuses the rest, be its action Block or Allow."""
    return entry.owner_only or entry.read_only or not entry.terminals or entry.arguments is not None


def lets(entry: Entry) -> bool:
    """Whether an entry lets anything through that it names."""
    return entry.action == "Allow" or (entry.action == "Block" and bound(entry))


def _let_through(entry: Entry, event: str) -> Condition:
    """The condition that an entry lets an act through that it names: of those who may, what may be done."""
    parts = [TRUE if entry.terminals else _NO_TERMINAL]
    if entry.owner_only:
        # On file.chown file.uid is the new owner: whoever it would be told by may just have been made it.
        parts.append(_OWNER if event != "file.chown" else FALSE)
    if entry.read_only:
        parts.append(negation(expand.GROUP_TESTS["file.modify"].get(event, TRUE)))
    if entry.arguments is not None:
        parts.append(_arguments(entry.arguments) if event == EXECUTED else negation(_SCRIPT))
    return conj(parts)


def _arguments(words: tuple[str, ...]) -> Condition:
    """The condition that a program has no other arguments than these."""
    return Atom(ARGUMENTS.name, Op.WORDS, "\0".join(words))


def _first(entry: Entry, excuses: Excuses, event: str) -> Condition:
    """The condition that an entry names an act of its sources, and that no earlier one lets it through."""
    by_rest: dict[Condition, list[Condition]] = {}
    for way in ways(entry):
        by_rest.setdefault(conj(map(negation, excuses(way, event))), []).append(way.named)
    return conj((_from(entry.sources), disj(conj((disj(names_), rest)) for rest, names_ in by_rest.items())))


def excuse(way: Way, entry: Entry, other: Way, event: str) -> Condition:
    """The condition that an entry, by a way that is looked up before `other`, lets through what that names."""
    return conj((TRUE if way.named == other.named else way.named, _from(entry.sources), _let_through(entry, event)))


def like(event: str) -> str:
    """An event on which entries let through what they let through on `event`."""
    return event if event in _TOLD_APART else ""


def decided(entry: Entry, scope: Condition, excuses: Excuses = none_before) -> dict[str, Condition]:
    """The condition on each event on which the entry blocks or reports, where there is no excuse for the act. Where it says
    ownerOnly, that is who does not own the file; with `pts: false`, who has a terminal; with both, who is either. With readOnly, too, those
    may do nothing with it, and nobody may change it.
    """
    known: dict[tuple[bool, str], Condition] = {}

    def acts(event: str, *, anybody: bool) -> Condition:
        """What the entry is about, done by anybody, or by those alone whom it refuses it."""
        key = (anybody, like(event))
        if key not in known:
            whom = TRUE if anybody or not refused else disj(refused)
            known[key] = conj((_first(entry, excuses, event), whom))
        return known[key]

    refused = ([negation(_OWNER)] if entry.owner_only else []) + ([] if entry.terminals else [negation(_NO_TERMINAL)])
    if entry.arguments is not None:  # of a script its interpreter has them
        refused.append(_SCRIPT)
    by_those, by_all = (partial(acts, anybody=anybody) for anybody in (False, True))
    match entry.section:
        case "egress" | "ingress":
            each = expand.event_conditions(TRAFFIC[entry.section], scope, conj((_outside(entry.section), _traffic(entry))))
            datagrams = not entry.ports or any(port.protocol in ("", "UDP") for port in entry.ports)
            return {
                event: conj((condition, _begins(event)))
                for event, condition in each.items()
                if event not in ("net.bind", "net.send") or datagrams
            }
        case "presets":
            left = TOLD_TWICE.get(entry.value, ()) if entry.action == "Audit" else ()
            return {event: conj((scope, condition)) for event, condition in PRESETS[entry.value].items() if event not in left}
        case "process":
            return expand.event_conditions(("process.exec",), scope, by_those)
        case "file":
            changes = expand.event_conditions(CHANGES, scope, by_all) if entry.read_only else {}
            if entry.read_only and not refused:
                return changes
            uses = expand.event_conditions(WHOLE, scope, by_those) | expand.event_conditions(ANY_USE, scope, by_those)
            each = {event: disj((changes.get(event, FALSE), condition)) for event, condition in uses.items()}
            if entry.owner_only and "file.chown" in each:
                # See _let_through.
                each |= expand.event_conditions(("file.chown",), scope, by_all)
            return each
        case "network":
            return expand.event_conditions(REPORTED_SOCKETS if entry.action == "Audit" else SOCKETS, scope, by_those)
        case "capabilities":
            return expand.event_conditions(("process.capable",), scope, by_those)
    return dict(_reported_calls(entry, scope, _from(entry.sources)))


def executed(entry: Entry, scope: Condition, excuses: Excuses = none_before) -> Condition:
    """The condition that a program has been executed that the entry names, with arguments that it does not allow."""
    assert entry.arguments is not None
    return conj((scope, _afterwards(_first(entry, excuses, EXECUTED)), negation(_arguments(entry.arguments))))


_AFTERWARDS: Final = {PATH: PROGRAM, PROGRAM: "process.parent.exe"}
"""What is about to be executed and who executes it, by what they are once it is."""


def _afterwards(condition: Condition) -> Condition:
    """A condition on `process.exec` as one on EXECUTED. Who owns the file is not known any more: a test of that is false."""
    match condition:
        case And(parts):
            return conj(map(_afterwards, parts))
        case Or(parts):
            return disj(map(_afterwards, parts))
        case Not(part):
            return negation(_afterwards(part))
    return msgspec.structs.replace(condition, field=_AFTERWARDS.get(condition.field, condition.field))


def _outside(section: str) -> Condition:
    """That traffic is not of this machine with itself: the loopback is never asked about."""
    own = "net.peer.ip" if section == "egress" else "net.local.ip"
    return conj((disj(_number("net.family", family) for family in _INTERNET), negation(disj(Atom(own, Op.CIDR, net) for net in _LOOPBACK))))


def _begins(event: str) -> Condition:
    """Where traffic begins: what is established goes on, answers too. Of datagrams each is a beginning, and a socket that is bound."""
    match event:
        case "net.bind":
            return conj((PROTOCOLS["udp"], negation(_number("net.local.port", 0))))
        case "net.send":
            return negation(disj((PROTOCOLS["tcp"], PROTOCOLS["sctp"])))
    return TRUE


def _traffic(entry: Entry) -> Condition:
    """The condition that addresses and ports are those of an entry of a network policy."""
    port = "net.peer.port" if entry.section == "egress" else "net.local.port"
    networks = disj(Atom("net.peer.ip", Op.CIDR, network) for network in entry.networks) if entry.networks else TRUE
    ports = [
        conj(
            (
                disj(_TRANSPORTS.values()) if not one.protocol else _TRANSPORTS[one.protocol],
                Atom(port, Op.RANGE, (one.low, one.high)) if (one.low, one.high) != (0, 65535) else TRUE,
            )
        )
        for one in entry.ports
    ]
    return conj((networks, disj(ports) if ports else TRUE))


def _reported_calls(entry: Entry, scope: Condition, source: Condition) -> Iterator[tuple[str, Condition]]:
    for act in ACTS:
        if set(act.calls) & set(entry.calls):
            for event in act.events:
                if _carries(entry, event):
                    old = named(entry)
                    either = disj((old, named(entry, NEW_PATH))) if entry.kind and event in ("file.rename", "file.link") else old
                    yield event, conj((scope, either, source, _ASKED_FOR.get(event, TRUE)))


def capability(name: str) -> Condition:
    """The condition that a capability is asked for."""
    number = names.number("capability", name)
    assert number is not None, name
    return _number("capability", number)


# ---- allow lists ----

RESOURCE_EVENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "process": ("process.exec",),
    "file": tuple(event for event in expand.events_of("file.modify") if event not in FROM_BEFORE),
    "network": SOCKETS,
    "capabilities": ("process.capable",),
    "egress": expand.events_of("net.egress"),
    "ingress": TRAFFIC["ingress"],
}
"""Sections that have allow lists, and the events that a posture is about."""
_EXECUTED: Final = Atom("file.access", Op.ANYBITS, abi.ACCESS_EXEC)


def covered(entry: Entry, field: str = PATH) -> Condition:
    """The condition that an entry decides about an act: then no posture does. `field`: which of its paths, where the event has two."""
    own = _traffic(entry) if entry.section in TRAFFIC else named(entry, field)
    return conj((own, _from(entry.sources)))


def any_covers(listed: Sequence[tuple[Condition, Entry]], field: str) -> Condition:
    """The condition that some entry decides about an act. `listed`: those that let something through, each with the scope of its policy."""
    by_scope: dict[Condition, list[Condition]] = {}
    for scope, entry in listed:
        by_scope.setdefault(scope, []).append(covered(entry, field))
    if len(by_scope) == 1:  # then whoever is asked is in the scope
        return disj(next(iter(by_scope.values())))
    return disj(conj((scope, disj(found))) for scope, found in by_scope.items())


def uncovered(section: str, event: str, listed: Callable[[str], Condition]) -> Condition:
    """The condition that no entry decides about an act. `listed`: by the field of a path, that some entry does."""
    names_ = (PATH, NEW_PATH) if event in ("file.rename", "file.link") else (PATH,)
    open_ = disj(negation(listed(name)) for name in names_)
    if section in TRAFFIC:
        reaches = expand.GROUP_TESTS["net.egress"].get(event, TRUE) if section == "egress" else TRUE
        return conj((reaches, _begins(event), _outside(section), open_))
    if section == "network":
        return conj((negation(_number("net.family", UNIX)), open_))
    # A program that is executed is opened for it; that is for the list of programs to decide.
    return conj((negation(_EXECUTED), open_)) if event == "file.open" else open_
