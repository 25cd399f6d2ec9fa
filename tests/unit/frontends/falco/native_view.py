"""One act as Falco sees it and as the kernel's hook saw it: random events of both kinds that belong together."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from bpfence import names
from bpfence.events.falco import Ancestor, Record, RecordedEvent

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


def _mask(table: str, text: list[str]) -> int:
    return sum(names.mask(table, word) or 0 for word in text)


@st.composite
def processes(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """The acting process: Falco's fields, the kernel's fields."""
    comm, exe = draw(st.sampled_from(COMMS)), draw(st.sampled_from(EXES))
    uid, gid, pid = draw(st.integers(0, 2)), draw(st.integers(0, 2)), draw(st.integers(1, 5))
    caps = draw(st.lists(st.sampled_from(CAPS), unique=True))
    cwd = draw(st.sampled_from(["/", "/tmp", "/tmp/a"]))
    falco = {
        "proc.name": comm, "proc.exepath": exe, "user.uid": uid, "group.gid": gid, "proc.pid": pid, "thread.cap_effective": " ".join(caps),
        "proc.cwd": cwd.rstrip("/") + "/", "proc.exe": draw(st.sampled_from(["cat", "-sh", "./x"])),
    }  # fmt: skip
    native = {
        "process.name": comm, "process.exe": exe, "process.uid": uid, "process.gid": gid, "process.pid": pid,
        "process.caps": _mask("capability", caps), "process.cwd": cwd,
    }  # fmt: skip
    return falco, native


@st.composite
def acts(draw: st.DrawFn) -> tuple[RecordedEvent, dict[str, Any]]:
    """An event and the native event of the same act."""
    falco, native = draw(processes())
    lineage = draw(st.lists(st.sampled_from(EXES), max_size=3))
    earlier = draw(st.lists(st.sampled_from(EXES), max_size=1))
    native["process.ancestors.exe"] = (*earlier, *lineage)
    ancestors = [Ancestor(exepath=exe, name=draw(st.sampled_from(COMMS)), pid=100 + n) for n, exe in enumerate(lineage)]
    if ancestors:
        native["process.parent.pid"] = 100
    kind, args, own, seen = draw(st.one_of(opens(), connects(), execs(), sockets()))
    if kind == "execve":
        native |= draw(processes())[1]  # before the exec it is another program
    native = {**native, **seen}
    own = {**falco, **own}
    return RecordedEvent(Record(type=kind, num=draw(st.integers(1, 9)), args=args, fields=own, lineage=ancestors)), native


@st.composite
def opens(draw: st.DrawFn) -> tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]:
    path, flags = draw(st.sampled_from(PATHS)), draw(st.sampled_from(FLAGS))
    result = draw(st.sampled_from([3, -13]))
    words = flags.split("|")
    access = (["write"] if words[0] != "O_RDONLY" else []) + (["read"] if words[0] != "O_WRONLY" else [])
    own = {
        "fd.name": draw(st.sampled_from([path, "/by/another/name"])), "fd.nameraw": path, "bpfence.path": path, "evt.rawres": result,
        "fd.num": max(result, -1), "fd.type": "directory" if "O_DIRECTORY" in words else "file", "fd.ino": 7,
    }  # fmt: skip
    native = {
        "event": "file.open", "file.path": path, "file.access": _mask("access", access), "file.ino": 7,
        "file.flags": _mask("open", [word for word in words if word != "O_RDONLY"]),
    }  # fmt: skip
    kind = draw(st.sampled_from(["open", "openat", "openat2"]))
    return kind, {"fd": result, "name": path, "flags": flags, "mode": 0}, own, native


@st.composite
def connects(draw: st.DrawFn) -> tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]:
    six = draw(st.booleans())
    peer, own_address = (draw(st.sampled_from(V6 if six else V4)) for _ in range(2))
    port, result = draw(st.sampled_from([22, 443, 8080])), draw(st.sampled_from([0, -115, -111]))
    protocol = draw(st.sampled_from(["tcp", "udp"]))
    own = {
        "fd.type": "ipv6" if six else "ipv4", "fd.cip": own_address, "fd.lip": own_address, "fd.cport": 50000, "fd.lport": 50000,
        "fd.sip": peer,
        "fd.rip": peer, "fd.sport": port, "fd.rport": port, "fd.l4proto": protocol, "evt.rawres": result, "fd.num": 5,
    }  # fmt: skip
    native = {
        "event": "net.connect", "net.family": 10 if six else 2, "net.protocol": 6 if protocol == "tcp" else 17, "net.peer.ip": peer,
        "net.peer.port": port, "net.local.ip": "::" if six else "0.0.0.0", "net.local.port": 0,
    }  # fmt: skip
    return "connect", {"res": result, "fd": 5}, own, native


@st.composite
def execs(draw: st.DrawFn) -> tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]:
    path, memfd = draw(st.sampled_from(EXES)), draw(st.booleans())
    own = {"proc.exepath": path, "proc.is_exe_from_memfd": memfd, "evt.rawres": 0}
    return "execve", {"res": 0, "exe": path}, own, {"event": "process.exec", "file.path": path, "file.memfd": int(memfd)}


@st.composite
def sockets(draw: st.DrawFn) -> tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]:
    number, name = draw(st.sampled_from([(2, "AF_INET"), (17, "AF_PACKET"), (16, "AF_NETLINK"), (10, "AF_INET6")]))
    native = {"event": "net.create", "net.family": number, "net.type": 3, "net.protocol": 0}
    return "socket", {"fd": 3, "domain": f"{number}({name})", "type": 3, "proto": 0}, {"evt.rawres": 3, "fd.num": 3}, native


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
    *_texts("fd.filename", ["shadow", "syslog", "x"]), *_texts("fd.nameraw", PATHS[:2]), *_texts("proc.name", COMMS),
    *_texts("proc.exepath", EXES),
    *_texts("proc.cwd", ["/tmp/", "/tmp", "/", "/tmp/a/"]), *_texts("proc.aexepath", EXES), *_texts("proc.exe", ["cat", "./x"]),
    *_texts("proc.pname", COMMS[:2]), *_texts("bpfence.path", PATHS[:3]),
    "evt.is_open_read = true", "evt.is_open_write = true", "evt.is_open_write = false", "evt.is_open_read != true",
    "evt.is_open_read exists",
    "evt.arg.flags contains O_TRUNC", "evt.arg.flags contains O_DIRECT", "evt.arg.flags contains O_", "evt.arg.flags icontains o_append",
    "evt.arg.domain contains AF_PACKET", "evt.arg.domain contains AF_INET", "evt.arg.domain contains 17",
    "fd.typechar = f", "fd.typechar = d", "fd.typechar != f", "fd.typechar in (4, 6)", "fd.typechar = 4", "fd.type = ipv6",
    "fd.type != ipv4", "fd.type exists",
    "fd.l4proto = tcp", "fd.l4proto != tcp", "fd.l4proto in (udp, icmp)", "fd.sip = 10.1.2.3", "fd.sip != 10.1.2.3",
    "fd.rip in (127.0.0.1, '::1')",
    "fd.snet in (10.0.0.0/8, 192.168.0.0/16)", "fd.rnet != 10.0.0.0/8", "fd.net = 127.0.0.0/8", "fd.net != 127.0.0.0/8", "fd.ip != 0.0.0.0",
    "fd.ip = 0.0.0.0", "fd.sport = 443", "fd.sport != 443", "fd.rport > 100", "fd.port = 22", "fd.port != 22", "fd.port <= 50000",
    "fd.lport = 50000",
    "fd.cip = 10.1.2.3", "user.uid = 0", "user.uid != 0", "user.uid > 0", "user.uid in (1, 2)", "group.gid <= 1", "proc.pid = 1",
    "proc.pid >= 3",
    "proc.ppid = 100", "proc.ppid exists", "fd.ino = 7", "fd.ino < 7", "thread.cap_effective contains CAP_SYS_ADMIN",
    "thread.cap_effective icontains sys_module", "thread.cap_effective contains CAP_SYS", "thread.cap_effective = CAP_CHOWN",
    "proc.is_exe_from_memfd = true", "proc.is_exe_from_memfd != true", "evt.num = 0", "evt.num >= 0", "evt.num > 5", "evt.dir = <",
    "evt.dir = '>'",
    "evt.res = SUCCESS", "evt.res != SUCCESS", "evt.res startswith E", "evt.failed = false", "evt.rawres >= 0", "evt.rawres < 0",
    "evt.rawres = 3",
    "fd.num >= 0", "fd.num = -1", "evt.arg.res exists", "evt.arg.nothing = x", "proc.name = val(proc.pname)", "tolower(proc.name) = cat",
    "container.id = host", "container.id != host", "evt.type = open", "evt.type != execve", "evt.type in (openat, connect)",
]  # fmt: skip

conditions: st.SearchStrategy[str] = st.recursive(
    st.sampled_from(CHECKS),
    lambda inner: st.one_of(
        inner.map(lambda one: f"not ({one})"),
        st.lists(inner, min_size=2, max_size=4).map(lambda parts: "(" + " and ".join(parts) + ")"),
        st.lists(inner, min_size=2, max_size=4).map(lambda parts: "(" + " or ".join(parts) + ")"),
    ),
    max_leaves=7,
)
