"""One act as Falco sees it and as the kernel's hook saw it: random events of both kinds that belong together."""

from __future__ import annotations

from typing import Any, NamedTuple

from hypothesis import strategies as st

from bpfence import names
from bpfence.conditions.values import U64
from bpfence.dialects.falco.confirm.event import FalcoAncestor, Record, RecordedEvent

PATHS = ["/etc/shadow", "/etc/passwd", "/etc/sudoers.d/x", "/var/log/syslog", "/tmp/a", "/home/ann/.ssh/id_rsa", "/x"]
COMMS = ["cat", "sh", "nginx", "sshd", "fifteen-bytes-ok"[:15]]
EXES = ["/usr/bin/cat", "/usr/bin/dash", "/tmp/x", "memfd:x"]
FLAGS = [
    "O_RDONLY",
    "O_WRONLY",
    "O_RDWR",
    "O_RDONLY|O_DIRECTORY",
    "O_WRONLY|O_CREAT|O_TRUNC",
    "O_RDWR|O_APPEND|O_CLOEXEC",
    "O_RDONLY|O_NONBLOCK",
]
V4 = ["10.1.2.3", "127.0.0.1", "203.0.113.9", "0.0.0.0"]
V6 = ["2001:db8::1", "::1"]
CAPS = ["CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_SYS_MODULE", "CAP_DAC_OVERRIDE"]


ARGS = [["-e", "/bin/sh"], [], [""], ["-c", "curl x"], ["--Sh-Exec=a b"], ["/dev/shm/x", ".."], ["cat"]]
NAMES = [
    "/etc/shadow",
    "shadow",
    "../etc/shadow",
    "/usr/lib/../../etc/shadow",
    "/etc/./shadow/",
    "x/../id_rsa",
    "/home/ann/.ssh/../.ssh/id_rsa",
    "",
    "/usr/lib/gcc/x/../../../../include/y.h",
    "//etc//sudoers.d/x",
    ".",
    "etcetera/x",
]
BASES = ["/", "/etc", "/home/ann/.ssh", "/tmp/a", "/etcetera"]
REQUESTS = {"PTRACE_TRACEME": 0, "PTRACE_ATTACH": 16, "PTRACE_SETREGS": 13, "PTRACE_SETREGSET": 0x4205, "PTRACE_POKETEXT": 4}
CONTAINER = "/system.slice/docker-0123456789ab.scope"


class Act(NamedTuple):
    """`event`: as Falco sees it. `hook`: as it is decided before it happens, None where it is not; `seen`: when it is done."""

    event: RecordedEvent
    hook: dict[str, Any] | None
    seen: dict[str, Any]
    failed: bool


class Drawn(NamedTuple):
    """What is particular to one kind of act: the event type, its arguments, Falco's and the kernel's fields."""

    type: str
    args: dict[str, Any]
    own: dict[str, Any]
    hook: dict[str, Any] | None
    seen: dict[str, Any]


def _mask(table: str, text: list[str]) -> int:
    return sum(names.mask(table, word) or 0 for word in text)


@st.composite
def processes(draw: st.DrawFn) -> tuple[dict[str, Any], list[str], dict[str, Any]]:
    """The acting process: Falco's fields, its arguments, the kernel's fields."""
    comm, exe = draw(st.sampled_from(COMMS)), draw(st.sampled_from(EXES))
    uid, gid, pid, tty = draw(st.integers(0, 2)), draw(st.integers(0, 2)), draw(st.integers(1, 5)), draw(st.sampled_from([0, 34816]))
    caps = draw(st.lists(st.sampled_from(CAPS), unique=True))
    cwd = draw(st.sampled_from(["/", "/tmp", "/tmp/a", "/etc", "/home/ann/.ssh"]))
    first, rest = draw(st.sampled_from(["cat", "-sh", "./x", "/dev/shm/x", "a b", "/usr/bin/ssh", ""])), draw(st.sampled_from(ARGS))
    flags = draw(st.integers(0, 15))
    inside = draw(st.booleans())
    falco = {
        "proc.name": comm,
        "proc.exepath": exe,
        "user.uid": uid,
        "group.gid": gid,
        "proc.pid": pid,
        "thread.cap_effective": " ".join(caps),
        "proc.cwd": cwd.rstrip("/") + "/",
        "proc.exe": first,
        "proc.tty": tty,
        "container.id": "0123456789ab" if inside else "host",
        "proc.is_exe_upper_layer": bool(flags & 1),
        "proc.is_exe_lower_layer": bool(flags & 2),
        "proc.is_exe_writable": bool(flags & 4),
        "proc.is_exe_from_memfd": bool(flags & 8),
        "container.image.repository": draw(st.sampled_from(["img", None])) if inside else None,
    }
    native = {
        "process.name": comm,
        "process.exe": exe,
        "process.uid": uid,
        "process.gid": gid,
        "process.pid": pid,
        "process.caps": _mask("capability", caps),
        "process.cwd": cwd,
        "process.args": " ".join([first, *rest]),
        "process.tty": tty,
        "process.exe_flags": flags,
        "process.cgroup": CONTAINER if inside else "/user.slice",
    }
    return falco, rest, native


@st.composite
def acts(draw: st.DrawFn) -> Act:
    """An event and the native events of the same act."""
    falco, argv, native = draw(processes())
    exes = draw(st.lists(st.sampled_from(EXES), max_size=3))
    earlier = draw(st.lists(st.sampled_from(EXES), max_size=1))
    lineage = []
    for n, exe in enumerate(exes):
        name, first, rest = draw(st.sampled_from(COMMS)), draw(st.sampled_from(["java", "sh", "/opt/java"])), draw(st.sampled_from(ARGS))
        joined = " ".join(rest)
        lineage.append(FalcoAncestor(exepath=exe, exe=first, name=name, pid=100 + n, cmdline=f"{name} {joined}" if joined else name))
        if n == 0:
            native |= {"process.parent.pid": 100, "process.parent.name": name, "process.parent.args": " ".join([first, *rest])}
    above = {"process.ancestors.exe": (*earlier, *exes), "process.ancestors.name": tuple(str(one.name) for one in lineage)}
    native |= above
    drawn = draw(st.one_of(opens(native["process.cwd"]), connects(), execs(), sockets(), dups(), traces(), links(), unshares()))
    hook, result = drawn.hook, drawn.own["evt.rawres"]
    if drawn.type == "execve" and hook is not None:
        before = draw(processes())[2]  # before the exec it is another program
        hook = {**native, **before, **hook} if result >= 0 else {**native, **hook}
        falco |= {key: value for key, value in drawn.own.items() if key == "proc.exepath"}
    elif hook is not None:
        hook = {**native, **hook}
    fields = {**falco, **drawn.own}
    seen = {**native, **drawn.seen}
    if drawn.type == "execve" and result >= 0:
        seen["process.exe"] = fields["proc.exepath"]
        seen["process.exe_flags"] = seen["process.exe_flags"] & 7 | 8 * fields["proc.is_exe_from_memfd"]
    record = Record(type=drawn.type, num=draw(st.integers(1, 9)), args=drawn.args, fields=fields, argv=argv, lineage=lineage)
    return Act(RecordedEvent(record), hook, seen, result < 0)


def normalised(base: str, text: str) -> str:
    """fd.name: joined, then '.' and '..' taken out as text."""
    parts: list[str] = []
    for part in (text if text.startswith("/") else f"{base}/{text}").split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


@st.composite
def opens(draw: st.DrawFn, cwd: str) -> Drawn:
    path, flags, text = draw(st.sampled_from(PATHS)), draw(st.sampled_from(FLAGS)), draw(st.sampled_from([*NAMES, *PATHS]))
    result = draw(st.sampled_from([3, -13]))
    reached = result >= 0 or draw(st.booleans())
    words = flags.split("|")
    access = (["write"] if words[0] != "O_RDONLY" else []) + (["read"] if words[0] != "O_WRONLY" else [])
    base = draw(st.sampled_from([None, *BASES]))
    own = {
        "fd.name": normalised(cwd if base is None else base, text),
        "fd.nameraw": text,
        "evt.rawres": result,
        "fd.num": max(result, -1),
        "fd.type": "directory" if "O_DIRECTORY" in words else "file",
    }
    given = {
        "file.text": text,
        "file.dirfd": U64 + 1 - 100 if base is None else 5,
        "file.access": _mask("access", access),
        "file.flags": _mask("open", [word for word in words if word != "O_RDONLY"]),
    }
    if reached:
        own |= {"bpfence.path": path, "fd.ino": 7}
        hook: dict[str, Any] | None = {"event": "file.open", "file.path": path, "file.ino": 7, **given}
        seen = dict(hook or {})
    else:
        hook, seen = None, {"event": "file.open_failed", "call.result": U64 + 1 + result, **given}
    kind = draw(st.sampled_from(["open", "openat", "openat2"]))
    return Drawn(kind, {"fd": result, "name": text, "flags": flags, "mode": 0}, own, hook, seen)


@st.composite
def connects(draw: st.DrawFn) -> Drawn:
    six = draw(st.booleans())
    peer, own_address = (draw(st.sampled_from(V6 if six else V4)) for _ in range(2))
    port, result = draw(st.sampled_from([22, 443, 8080])), draw(st.sampled_from([0, -115, -111]))
    protocol = draw(st.sampled_from(["tcp", "udp"]))
    own = {
        "fd.type": "ipv6" if six else "ipv4",
        "fd.cip": own_address,
        "fd.lip": own_address,
        "fd.cport": 50000,
        "fd.lport": 50000,
        "fd.sip": peer,
        "fd.rip": peer,
        "fd.sport": port,
        "fd.rport": port,
        "fd.l4proto": protocol,
        "evt.rawres": result,
        "fd.num": 5,
    }
    native = {
        "event": "net.connect",
        "net.family": 10 if six else 2,
        "net.protocol": 6 if protocol == "tcp" else 17,
        "net.peer.ip": peer,
        "net.peer.port": port,
        "net.local.ip": "::" if six else "0.0.0.0",
        "net.local.port": 0,
    }
    seen = dict(native)
    if peer in ("127.0.0.1", "::1") and draw(st.booleans()):
        seen["net.peer.ip"] = "::" if six else "0.0.0.0"  # what was asked for; the call made it the loopback address
    return Drawn("connect", {"res": result, "fd": 5}, own, native, seen)


@st.composite
def execs(draw: st.DrawFn) -> Drawn:
    path, memfd, result = draw(st.sampled_from(EXES)), draw(st.booleans()), draw(st.sampled_from([0, -2]))
    hook = {"event": "process.exec", "file.path": path, "file.memfd": int(memfd)}
    if result < 0:
        failed = {"event": "process.exec_failed", "call.result": U64 + 1 + result, "call.text": path}
        return Drawn("execve", {"res": result, "exe": path}, {"evt.rawres": result}, hook, failed)
    own = {"proc.exepath": path, "proc.is_exe_from_memfd": memfd, "evt.rawres": 0}
    return Drawn("execve", {"res": 0, "exe": path}, own, hook, {"event": "process.executed"})


@st.composite
def sockets(draw: st.DrawFn) -> Drawn:
    number, name = draw(st.sampled_from([(2, "AF_INET"), (17, "AF_PACKET"), (16, "AF_NETLINK"), (10, "AF_INET6")]))
    native = {"event": "net.create", "net.family": number, "net.type": 3, "net.protocol": 0}
    return Drawn(
        "socket", {"fd": 3, "domain": f"{number}({name})", "type": 3, "proto": 0}, {"evt.rawres": 3, "fd.num": 3}, native, dict(native)
    )


@st.composite
def dups(draw: st.DrawFn) -> Drawn:
    result, old = draw(st.sampled_from([0, 1, 2, 9, -9])), 7
    kind, number = draw(st.sampled_from([("ipv4", 2), ("ipv4", 10), ("ipv6", 10), ("unix", 1), ("file", None), ("userfaultfd", None)]))
    seen = {"event": "file.dup", "call.result": result % (U64 + 1), "call.arg0": old}
    if number is not None:
        seen["net.family"] = number
    own = {"fd.type": kind, "fd.num": result, "evt.rawres": result}
    return Drawn(draw(st.sampled_from(["dup", "dup2", "dup3"])), {"res": result, "oldfd": old}, own, None, seen)


@st.composite
def traces(draw: st.DrawFn) -> Drawn:
    name, result = draw(st.sampled_from(list(REQUESTS))), draw(st.sampled_from([0, -1]))
    seen = {"event": "process.trace", "call.arg0": REQUESTS[name], "call.arg1": 9, "call.result": result % (U64 + 1)}
    hook = {"event": "process.ptrace", "target.pid": 9}
    return Drawn("ptrace", {"res": result, "request": name, "pid": 9}, {"evt.rawres": result}, hook, seen)


@st.composite
def links(draw: st.DrawFn) -> Drawn:
    one, other, result = draw(st.sampled_from(PATHS)), draw(st.sampled_from(PATHS)), draw(st.sampled_from([0, -17]))
    if draw(st.booleans()):
        native = {"event": "file.symlink", "file.target": one, "file.path": other}
        return Drawn("symlinkat", {"res": result, "target": one, "linkpath": other}, {"evt.rawres": result}, native, dict(native))
    native = {"event": "file.link", "file.path": one, "file.new_path": other}
    return Drawn("linkat", {"res": result, "oldpath": one, "newpath": other}, {"evt.rawres": result}, native, dict(native))


@st.composite
def unshares(draw: st.DrawFn) -> Drawn:
    flags, result = draw(st.sampled_from(["CLONE_NEWUSER", "CLONE_NEWNS|CLONE_NEWUSER", "CLONE_NEWNET"])), draw(st.sampled_from([0, -1]))
    seen = {"event": "process.unshare", "call.arg0": _mask("clone", flags.split("|")), "call.result": result % (U64 + 1)}
    hook = {"event": "kernel.userns"} if "NEWUSER" in flags else None
    return Drawn("unshare", {"res": result, "flags": flags}, {"evt.rawres": result}, hook, seen)


def _texts(name: str, values: list[str], more: str = "") -> list[str]:
    found = []
    for value in values:
        found += [f'{name} = "{value}"', f'{name} != "{value}"', f'{name} startswith "{value[:4]}"', f'{name} endswith "{value[-3:]}"']
        found += [f'{name} contains "{value[1:4]}"', f'{name} glob "{value[:2]}*{value[-1:]}"', f'{name} icontains "{value[1:4].upper()}"']
        found += [
            f'{name} glob "*{value[-2:]}"',
            f'{name} glob "{value[:3]}*"',
            f'{name} glob "{value[0]}?{value[2:]}"',
            f'{name} regex ".*{value[1:3]}.*"',
        ]
    joined = ", ".join(f'"{value}"' for value in values[:3])
    return [
        *found,
        f"{name} in ({joined})",
        f"{name} exists",
        f"{name} startswith anyof ({joined})",
        f"{name} contains oneof ({joined})",
        *more.split("|")[1:],
    ]


CHECKS = [
    *_texts("fd.name", PATHS, "|fd.name pmatch (/etc, /tmp/)|fd.name pmatch (/home/*/.ssh)"),
    *_texts("fd.directory", ["/etc", "/etc/", "/", "/var/log", "/etc/sudoers.d"]),
    *_texts("fd.filename", ["shadow", "syslog", "x"]),
    *_texts("fd.nameraw", PATHS[:2]),
    *_texts("proc.name", COMMS),
    *_texts("proc.exepath", EXES),
    *_texts("proc.cwd", ["/tmp/", "/tmp", "/", "/tmp/a/"]),
    *_texts("proc.aexepath", EXES),
    *_texts("proc.exe", ["cat", "./x"]),
    *_texts("proc.pname", COMMS[:2]),
    *_texts("bpfence.path", PATHS[:3]),
    *_texts("proc.exe", ["cat", "/dev/shm/x", "a b", "/usr/bin/ssh"]),
    *_texts("proc.args", ["-e /bin/sh", "-c curl x", "cat", "--Sh-Exec=a b"]),
    *_texts("proc.cmdline", ["cat", "sh -e /bin/sh", "sh -c curl x", "sshd ", "nginx cat"]),
    *_texts("proc.pexe", ["java", "/opt/java"]),
    *_texts("proc.pcmdline", ["cat", "sh -e /bin/sh", "sh -c curl x"]),
    *_texts("proc.aname", COMMS),
    *_texts("proc.aname[2]", COMMS[:2]),
    *_texts("proc.aname[1]", COMMS[:2]),
    *_texts("container.id", ["host", "0123456789ab"]),
    *_texts("container.image.repository", ["img"]),
    *_texts("evt.arg.target", PATHS[:3]),
    *_texts("evt.arg.oldpath", PATHS[:3]),
    *_texts("evt.arg.linkpath", PATHS[:2]),
    *_texts("evt.arg.newpath", PATHS[:2]),
    *_texts("fd.nameraw", NAMES[1:4]),
    *_texts("fd.name", ["/etc/", "/home/ann/.ssh/id_rsa", "id_rsa"]),
    "proc.aname intersects (cat, sh)",
    "proc.args startswith '-e '",
    "proc.args contains ' '",
    "proc.cmdline contains ' -e'",
    "proc.cmdline contains ' -c'",
    "proc.cmdline startswith 'sh -c'",
    "proc.cmdline endswith ' x'",
    "proc.cmdline icontains 'H -C'",
    "proc.tty = 0",
    "proc.tty != 0",
    "proc.is_exe_upper_layer = true",
    "proc.is_exe_writable = false",
    "proc.is_exe_lower_layer = true",
    "evt.arg.request contains PTRACE_SETREGS",
    "evt.arg.request = PTRACE_ATTACH",
    "evt.arg.request in (PTRACE_TRACEME, PTRACE_CONT)",
    "evt.arg.request contains SETREGS",
    "evt.arg.flags contains CLONE_NEWUSER",
    "evt.arg.flags contains CLONE_NEWNS",
    "evt.rawres in (0, 1, 2)",
    "evt.rawres != 0",
    "evt.rawres = -13",
    "evt.rawres < -5",
    "fd.num in (0, 1, 2)",
    "fd.num < 0",
    "fd.num exists",
    "evt.res = EINPROGRESS",
    "evt.res in (SUCCESS, EINPROGRESS)",
    "evt.failed = true",
    "evt.res contains E",
    "evt.res glob 'EA*'",
    "fd.type in (ipv4, ipv6)",
    "fd.type = unix",
    "fd.typechar = u",
    "fd.type != file",
    "fd.name glob '/home/*/.ssh/*'",
    "fd.name pmatch (/etc/shadow)",
    "fd.directory startswith /etc",
    "fd.directory endswith ssh",
    "fd.filename startswith id",
    "fd.filename contains shad",
    "fd.nameraw glob '*../*../*'",
    "fd.name icontains /ETC",
    "evt.is_open_read = true",
    "evt.is_open_write = true",
    "evt.is_open_write = false",
    "evt.is_open_read != true",
    "evt.is_open_read exists",
    "evt.arg.flags contains O_TRUNC",
    "evt.arg.flags contains O_DIRECT",
    "evt.arg.flags contains O_",
    "evt.arg.flags icontains o_append",
    "evt.arg.domain contains AF_PACKET",
    "evt.arg.domain contains AF_INET",
    "evt.arg.domain contains 17",
    "fd.typechar = f",
    "fd.typechar = d",
    "fd.typechar != f",
    "fd.typechar in (4, 6)",
    "fd.typechar = 4",
    "fd.type = ipv6",
    "fd.type != ipv4",
    "fd.type exists",
    "fd.l4proto = tcp",
    "fd.l4proto != tcp",
    "fd.l4proto in (udp, icmp)",
    "fd.sip = 10.1.2.3",
    "fd.sip != 10.1.2.3",
    "fd.rip in (127.0.0.1, '::1')",
    "fd.snet in (10.0.0.0/8, 192.168.0.0/16)",
    "fd.rnet != 10.0.0.0/8",
    "fd.net = 127.0.0.0/8",
    "fd.net != 127.0.0.0/8",
    "fd.ip != 0.0.0.0",
    "fd.ip = 0.0.0.0",
    "fd.sport = 443",
    "fd.sport != 443",
    "fd.rport > 100",
    "fd.port = 22",
    "fd.port != 22",
    "fd.port <= 50000",
    "fd.lport = 50000",
    "fd.cip = 10.1.2.3",
    "user.uid = 0",
    "user.uid != 0",
    "user.uid > 0",
    "user.uid in (1, 2)",
    "group.gid <= 1",
    "proc.pid = 1",
    "proc.pid >= 3",
    "proc.ppid = 100",
    "proc.ppid exists",
    "fd.ino = 7",
    "fd.ino < 7",
    "thread.cap_effective contains CAP_SYS_ADMIN",
    "thread.cap_effective icontains sys_module",
    "thread.cap_effective contains CAP_SYS",
    "thread.cap_effective = CAP_CHOWN",
    "proc.is_exe_from_memfd = true",
    "proc.is_exe_from_memfd != true",
    "evt.num = 0",
    "evt.num >= 0",
    "evt.num > 5",
    "evt.dir = <",
    "evt.dir = '>'",
    "evt.res = SUCCESS",
    "evt.res != SUCCESS",
    "evt.res startswith E",
    "evt.failed = false",
    "evt.rawres >= 0",
    "evt.rawres < 0",
    "evt.rawres = 3",
    "fd.num >= 0",
    "fd.num = -1",
    "evt.arg.res exists",
    "evt.arg.nothing = x",
    "proc.name = val(proc.pname)",
    "tolower(proc.name) = cat",
    "container.id = host",
    "container.id != host",
    "evt.type = open",
    "evt.type != execve",
    "evt.type in (openat, connect)",
]

conditions: st.SearchStrategy[str] = st.recursive(
    st.sampled_from(CHECKS),
    lambda inner: st.one_of(
        inner.map(lambda one: f"not ({one})"),
        st.lists(inner, min_size=2, max_size=4).map(lambda parts: "(" + " and ".join(parts) + ")"),
        st.lists(inner, min_size=2, max_size=4).map(lambda parts: "(" + " or ".join(parts) + ")"),
    ),
    max_leaves=7,
)
