# SPDX-License-Identifier: Apache-2.0
"""A native rule that is well-formed in, what it will do that its author may not expect out.

Called by `native` for every rule and default. There are three kinds: what can never match because fields exclude each other, what depends
on a field that its events often lack, and what would stop the whole host. The last is found by trying: `VITAL` are acts without which no
host runs, and the reference evaluator decides them. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from bpfence import abi, names
from bpfence.conditions.links import Resolution, widen
from bpfence.evaluate import holds
from bpfence.fields import NAMESPACES
from bpfence.policy import Action, And, Atom, Condition, Event, Not, Op, Or, Policy, Rule, atoms

# ---- fields that exclude each other ----

_INET: Final = frozenset((2, 10))
FAMILIES: Final[Mapping[str, frozenset[int]]] = {
    "net.unix.path": frozenset((1,)), "net.peer.ip": _INET, "net.peer.port": _INET, "net.local.ip": _INET, "net.local.port": _INET,
}  # fmt: skip
"""The address families of sockets that have a field."""


def exclusion(condition: Condition) -> str:
    """Why a conjunction is never true although each of its fields could be; "" where no reason is seen."""
    parts = condition.parts if isinstance(condition, And) else (condition,)
    single: dict[str, list[Condition]] = {}
    for part in parts:
        fields = {field for atom in atoms(part) for field in atom.fields}
        if len(fields) == 1 and not holds(part, {}):  # the part needs its field to be there
            single.setdefault(fields.pop(), []).append(part)
        elif isinstance(part, Atom):  # a comparison needs both fields to be there
            for field in part.fields:
                single.setdefault(field, []).append(Atom(field, Op.EXISTS))
    wanted: dict[str, frozenset[int]] = {field: _families(field, tests) for field, tests in single.items() if field in FAMILIES}
    for field, families in wanted.items():
        asked = single.get("net.family", [])
        if asked and not any(all(holds(part, {"net.family": family}) for part in asked) for family in families):
            return f"{field} belongs to sockets of {_named(families)}, and net.family asks for others"
        for other, other_families in wanted.items():
            if not families & other_families:
                return f"{field} belongs to sockets of {_named(families)}, {other} to those of {_named(other_families)}"
    in_memory = any(holds(part, {"file.memfd": 1}) and not holds(part, {"file.memfd": 0}) for part in single.get("file.memfd", []))
    if in_memory and any(all(_is_named(atom) for atom in atoms(part)) for part in single.get("file.path", [])):
        return "a file in memory has no path in the file system: file.path is memfd: and its name"
    return ""


def _families(field: str, tests: Iterable[Condition]) -> frozenset[int]:
    """The families that the tests leave: an address of IPv6 belongs to no socket of IPv4."""
    for part in tests:
        addresses = [str(atom.value) for atom in atoms(part) if atom.op is Op.CIDR]
        if addresses and all(":" in address for address in addresses) and not any(isinstance(p, Not) for p in _walk(part)):
            return frozenset((10,))
    return FAMILIES[field]


def _is_named(atom: Atom) -> bool:
    return atom.op in (Op.EQUALS, Op.PREFIX, Op.GLOB) and isinstance(atom.value, str) and atom.value.startswith("/")


def _walk(condition: Condition) -> Iterator[Condition]:
    yield condition
    if isinstance(condition, (And, Or)):
        for part in condition.parts:
            yield from _walk(part)
    elif isinstance(condition, Not):
        yield from _walk(condition.part)


def _named(families: Iterable[int]) -> str:
    return " or ".join(str(names.name("family", family)).removeprefix("AF_").lower() for family in sorted(families))


# ---- fields that events often lack ----

_NEW_API: Final = "a mount by fsmount(2) and move_mount(2)"
OFTEN_ABSENT: Final[Mapping[tuple[str, str], str]] = {
    ("process.memory", "file.path"): "anonymous memory, which has no file",
    ("process.memory", "file.deleted"): "anonymous memory, which has no file",
    ("process.memory", "file.memfd"): "anonymous memory, which has no file",
    ("kernel.kexec", "file.path"): "kexec_load(2), which takes the kernel from memory",
    ("kernel.mount", "mount.source"): _NEW_API,
    ("kernel.mount", "mount.flags"): _NEW_API,
    ("kernel.mount", "file.fstype"): f"{_NEW_API}, a bind mount, a move",
    ("net.connect", "net.local.ip"): "a socket that was not bound: it gets its own address later",
    ("net.connect", "net.local.port"): "a socket that was not bound: it gets its own port later",
}
"""(event, field) → of which acts the kernel does not know the field, or not yet."""


def often_absent(field: str, events: Iterable[str], body: Condition) -> str:
    """Which acts of some events have no such field; "" where all have it, or where the rule itself asks whether it is there."""
    if any(atom.field == field and atom.op is Op.EXISTS for atom in atoms(body)):
        return ""
    return next((OFTEN_ABSENT[event, field] for event in events if (event, field) in OFTEN_ABSENT), "")


# ---- the caller of exec ----

CALLER: Final = ("process.name", "process.args", "process.exe")


def about_caller(events: tuple[str, ...], body: Condition) -> str:
    """The field by which a rule on exec chooses the program that calls exec, if the rule says nothing of the program that is executed."""
    if events != ("process.exec",) or any(field.startswith("file.") for atom in atoms(body) for field in atom.fields):
        return ""
    required = {field for atom in _required(body) for field in atom.fields}
    return next((field for field in CALLER if field in required), "")


def _required(condition: Condition) -> Iterator[Atom]:
    """The atoms that do not stand under a Not."""
    if isinstance(condition, Atom):
        yield condition
    elif isinstance(condition, (And, Or)):
        for part in condition.parts:
            yield from _required(part)


# ---- what stops the host ----

_SYSTEMD: Final = "/usr/lib/systemd/systemd"
_LIBC: Final = "/usr/lib/x86_64-linux-gnu/libc.so.6"
_ALL_CAPABILITIES: Final = (1 << 41) - 1


def _subject(exe: str, args: str, cgroup: str, pid: int, *ancestors: str) -> dict[str, Any]:
    name = exe.rpartition("/")[2]
    parent = {"process.parent.exe": ancestors[0], "process.parent.name": ancestors[0].rpartition("/")[2]} if ancestors else {}
    return {
        "process.exe": exe,
        "process.name": name,
        "process.args": args,
        "process.cgroup": cgroup,
        "process.pid": pid,
        "process.uid": 0,
        "process.gid": 0,
        "process.cwd": "/",
        "process.caps": _ALL_CAPABILITIES,
        "process.permitted_caps": _ALL_CAPABILITIES,
        "process.inheritable_caps": 0,
        "process.ns.host": (1 << len(NAMESPACES)) - 1,
        "process.ns.changed": 0,
        "process.changed_caps": 0,
        "process.changed_permitted_caps": 0,
        "process.changed_inheritable_caps": 0,
        "process.tty": 0,
        "process.ancestors.exe": ancestors,
        "process.ancestors.name": tuple(ancestor.rpartition("/")[2] for ancestor in ancestors),
        "process.parent.pid": 1 if ancestors else 0,
        **parent,
    }


_INIT: Final = _subject(_SYSTEMD, "/sbin/init", "/init.scope", 1)
_SERVER: Final = _subject("/usr/sbin/sshd", "sshd: /usr/sbin/sshd -D", "/system.slice/ssh.service", 700, _SYSTEMD)
_SHELL: Final = _subject("/usr/bin/bash", "-bash", "/user.slice/user-0.slice/session-1.scope", 900, "/usr/sbin/sshd", _SYSTEMD)
_SUBJECTS: Final = (_INIT, _SERVER, _SHELL)


def _file(path: str, access: int = abi.ACCESS_READ, **more: Any) -> dict[str, Any]:
    return {
        "file.path": path,
        "file.access": access,
        "file.flags": 0,
        "file.text": path,
        "file.mode": 0o755,
        "file.uid": 0,
        "file.gid": 0,
        "file.ino": 1000,
        "file.fstype": "ext4",
        "file.deleted": 0,
        "file.memfd": 0,
        **{f"file.{name}": value for name, value in more.items()},
    }


def _socket(path: str) -> dict[str, Any]:
    return {"net.family": 1, "net.type": 1, "net.protocol": 0, "net.unix.path": path}


class Act(NamedTuple):
    """One act: in words, and as the event it is."""

    words: str
    event: Event


def _acts(event: str, verb: str, *objects: dict[str, Any]) -> list[Act]:
    """The same kind of act, done by the first process, by a server and by a shell."""
    return [
        Act(f"{subject['process.exe']} {verb}{_object(about)}", {"event": event, **subject, **about})
        for subject, about in zip(_SUBJECTS, objects * 3 if len(objects) == 1 else objects, strict=False)
    ]


def executed(path: str) -> Event:
    """Root executes a program from a login shell."""
    return {"event": "process.exec", **_SHELL, **_file(path, abi.ACCESS_EXEC)}


def _object(about: Mapping[str, Any]) -> str:
    path = about.get("file.path") or about.get("net.unix.path")
    return f" {path}" if path else ""


_TASKS: Final[dict[str, Any]] = {
    "process.fork.live": 30, **{f"process.fork.live{n}": 30 for n in range(1, abi.FORK_LEVELS + 1)}, "process.fork.flags": 0
}  # fmt: skip
_WRITE: Final = abi.ACCESS_WRITE | abi.ACCESS_CREATED
VITAL: Final[tuple[Act, ...]] = (
    *_acts(
        "process.exec", "executing", _file("/usr/lib/systemd/systemd-logind", abi.ACCESS_EXEC), _file("/usr/bin/bash", abi.ACCESS_EXEC),
        _file("/usr/bin/ls", abi.ACCESS_EXEC),
    ),
    *_acts("process.exec", "executing", *(_file(f"/usr/bin/{shell}", abi.ACCESS_EXEC) for shell in ("dash", "bash", "dash"))),
    *_acts("process.executed", "running", {}),
    *_acts("process.fork", "making a process", _TASKS),
    *_acts("process.signal", "ending a child", {"signal": 15, "target.pid": 901, "target.uid": 0, "target.exe": "/usr/bin/cat"}),
    *_acts("process.capable", "using its privileges", *({"capability": number} for number in (21, 7, 1))),
    *_acts("process.capable", "using its privileges", *({"capability": number} for number in (7, 6, 6))),
    *_acts("process.capable", "using its privileges", *({"capability": number} for number in (1, 0, 21))),
    *_acts("process.setuid", "becoming a user", {"process.setuid.uid": 100}, {"process.setuid.uid": 1000}, {"process.setuid.uid": 1000}),
    *_acts("process.setgid", "becoming a user", {"process.setgid.gid": 100}, {"process.setgid.gid": 1000}, {"process.setgid.gid": 1000}),
    *_acts("file.open", "opening", _file(_LIBC), _file("/etc/ld.so.cache"), _file("/usr/lib/locale/C.utf8/LC_CTYPE")),
    *_acts("file.open", "opening", _file("/etc/passwd")),
    *_acts("file.open", "opening", _file("/dev/null", abi.ACCESS_READ | abi.ACCESS_WRITE)),
    *_acts("file.open", "opening", _file("/etc/shadow"))[1:],
    *_acts("file.permission", "reading", _file(_LIBC), _file("/etc/passwd"), _file("/dev/pts/0")),
    *_acts("file.mmap", "mapping", _file(_LIBC, abi.ACCESS_READ | abi.ACCESS_EXEC, prot=5, shared=0)),
    *_acts("file.mprotect", "mapping", _file(_LIBC, prot=1, shared=0)),
    *_acts("file.create", "making", _file("/run/systemd/units/x", _WRITE), _file("/run/sshd.pid", _WRITE), _file("/root/x", _WRITE)),
    *_acts("file.mkdir", "making", _file("/run/user/1000"), _file("/run/sshd"), _file("/root/x")),
    *_acts("file.unlink", "removing", _file("/run/systemd/units/x"), _file("/run/sshd.pid"), _file("/root/x")),
    *_acts("file.rename", "renaming", _file("/run/systemd/x", new_path="/run/systemd/y"), _file("/run/a", new_path="/run/b"),
           _file("/root/x", new_path="/root/y")),
    *_acts("net.create", "making a socket", {"net.family": 1, "net.type": 1, "net.protocol": 0},
           {"net.family": 16, "net.type": 3, "net.protocol": 0}),
    *_acts("net.bind", "binding", _socket("/run/systemd/notify"), _socket("/run/ssh.sock")),
    *_acts("net.connect", "connecting to", _socket("/run/dbus/system_bus_socket"), _socket("/run/systemd/journal/stdout")),
    *_acts("net.send", "sending to", _socket("/run/systemd/journal/socket"), _socket("/run/systemd/notify")),
)  # fmt: skip
"""Acts without which a host does not start, keep a log, or let anybody in."""
_ENOUGH: Final = 2
"""All acts of one event are different ones of different processes. A rule that denies so many of them does not do it by accident."""


def _merged(path: str) -> Resolution:
    """The other name of a path on the host of `VITAL`, whose /bin is a link to /usr/bin: rules may use either."""
    if path in ("/bin/sh", "/usr/bin/sh"):
        return Resolution(("/usr/bin/dash",))
    return Resolution((f"/usr{path}",) if path.startswith(("/bin/", "/sbin/", "/lib/")) or path in ("/bin", "/sbin", "/lib") else ())


def stopped_by_rule(policy: Policy, rule: Rule) -> tuple[str, str]:
    """The event that a rule takes from the whole host, and one of the acts that it denies; empty where it takes none."""
    if policy.mode == "audit" or rule.action < Action.DENY:
        return "", ""
    return _stopped(rule.events, rule.condition_for)


def stopped_by_default(policy: Policy, event: str) -> tuple[str, str]:
    """The same for a default posture. What an allow rule matches is exempt from it."""
    if policy.mode == "audit" or policy.default.get(event, Action.NONE) < Action.DENY:
        return "", ""
    allowed = tuple(rule.condition_for(event) for rule in policy.rules if rule.action is Action.ALLOW and event in rule.events)
    return _stopped((event,), lambda _: And((policy.scope, Not(Or(allowed)))))


def _stopped(events: Iterable[str], condition_for: Callable[[str], Condition]) -> tuple[str, str]:
    given: Condition | None = None
    for event in events:
        acts = [act for act in VITAL if act.event["event"] == event]
        if len(acts) < _ENOUGH:
            continue
        if (condition := condition_for(event)) is not given:  # mostly one for all events of a rule
            given, widened = condition, widen(condition, _merged, [])
        denied = [act for act in acts if holds(widened, act.event)]
        if len(denied) >= _ENOUGH:
            return event, denied[0].words
    return "", ""
