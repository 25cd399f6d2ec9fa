# SPDX-License-Identifier: Apache-2.0
"""The name a person writes in, the number the kernel uses out, and back.

Read by dialects (values of policies), events (numbers made readable) and the CLI. One table per kind of name; `Field.names`
says which table a field uses. Names are taken without regard to case, with or without the kernel's prefix: SIGKILL, kill and 9
are one signal. Numbers of the standard library are used where it has them and they are the same on every architecture; open
flags are those of the generic ABI (include/uapi/asm-generic/fcntl.h), which is what the kernel programs report.

`user`, `group` and `port` are special: users and groups are looked up on this host when a policy is loaded; ports are a fixed
list, so that a policy means the same on every host.
"""

from __future__ import annotations

import contextlib
import errno as errno_module
import grp
import pwd
import re
import signal as signal_module
import socket
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Final, NamedTuple, TypeVar

import msgspec

from bpfence import abi
from bpfence.fields import NAMESPACES
from bpfence.patience import Patience


class NameTable(msgspec.Struct, frozen=True):
    """One kind of name: `numbers` maps the canonical name to its number; `prefix` may be left out when writing.

    `index`: the number counts bits (capabilities), so that a mask of it is `1 << number`.
    """

    prefix: str
    numbers: Mapping[str, int]
    index: bool = False


def _numbered(names: str, first: int = 0) -> dict[str, int]:
    return {name: first + n for n, name in enumerate(names.split())}


_CAPABILITIES: Final = _numbered(
    "CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID CAP_SETUID CAP_SETPCAP"
    " CAP_LINUX_IMMUTABLE CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_ADMIN CAP_NET_RAW CAP_IPC_LOCK CAP_IPC_OWNER CAP_SYS_MODULE"
    " CAP_SYS_RAWIO CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_PACCT CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_NICE CAP_SYS_RESOURCE CAP_SYS_TIME"
    " CAP_SYS_TTY_CONFIG CAP_MKNOD CAP_LEASE CAP_AUDIT_WRITE CAP_AUDIT_CONTROL CAP_SETFCAP CAP_MAC_OVERRIDE CAP_MAC_ADMIN CAP_SYSLOG"
    " CAP_WAKE_ALARM CAP_BLOCK_SUSPEND CAP_AUDIT_READ CAP_PERFMON CAP_BPF CAP_CHECKPOINT_RESTORE"
)

# include/linux/socket.h; the standard library leaves some out, depending on the headers it was built with.
_FAMILIES: Final = {
    "AF_UNSPEC": 0, "AF_UNIX": 1, "AF_LOCAL": 1, "AF_INET": 2, "AF_AX25": 3, "AF_IPX": 4, "AF_APPLETALK": 5, "AF_NETROM": 6, "AF_BRIDGE": 7,
    "AF_ATMPVC": 8, "AF_X25": 9, "AF_INET6": 10, "AF_ROSE": 11, "AF_KEY": 15, "AF_NETLINK": 16, "AF_PACKET": 17, "AF_ATMSVC": 20,
    "AF_RDS": 21, "AF_PPPOX": 24, "AF_LLC": 26, "AF_IB": 27, "AF_MPLS": 28, "AF_CAN": 29, "AF_TIPC": 30, "AF_BLUETOOTH": 31, "AF_IUCV": 32,
    "AF_RXRPC": 33, "AF_ISDN": 34, "AF_PHONET": 35, "AF_IEEE802154": 36, "AF_CAIF": 37, "AF_ALG": 38, "AF_NFC": 39, "AF_VSOCK": 40,
    "AF_KCM": 41, "AF_QIPCRTR": 42, "AF_SMC": 43, "AF_XDP": 44, "AF_MCTP": 45,
}  # fmt: skip

_SOCKET_TYPES: Final = {
    "SOCK_STREAM": 1, "SOCK_DGRAM": 2, "SOCK_RAW": 3, "SOCK_RDM": 4, "SOCK_SEQPACKET": 5, "SOCK_DCCP": 6, "SOCK_PACKET": 10,
}  # fmt: skip

_OPEN: Final = {
    "O_WRONLY": 0o1, "O_RDWR": 0o2, "O_CREAT": 0o100, "O_EXCL": 0o200, "O_NOCTTY": 0o400, "O_TRUNC": 0o1000, "O_APPEND": 0o2000,
    "O_NONBLOCK": 0o4000, "O_DSYNC": 0o10000, "O_ASYNC": 0o20000, "O_DIRECT": 0o40000, "O_LARGEFILE": 0o100000,
    "O_DIRECTORY": 0o200000, "O_NOFOLLOW": 0o400000, "O_NOATIME": 0o1000000, "O_CLOEXEC": 0o2000000, "O_SYNC": 0o4010000,
    "O_PATH": 0o10000000, "O_TMPFILE": 0o20200000,
}  # fmt: skip

_MODES: Final = {
    "SETUID": stat.S_ISUID, "SETGID": stat.S_ISGID, "STICKY": stat.S_ISVTX, "S_ISUID": stat.S_ISUID, "S_ISGID": stat.S_ISGID,
    "S_ISVTX": stat.S_ISVTX, "S_IRUSR": stat.S_IRUSR, "S_IWUSR": stat.S_IWUSR, "S_IXUSR": stat.S_IXUSR, "S_IRGRP": stat.S_IRGRP,
    "S_IWGRP": stat.S_IWGRP, "S_IXGRP": stat.S_IXGRP, "S_IROTH": stat.S_IROTH, "S_IWOTH": stat.S_IWOTH, "S_IXOTH": stat.S_IXOTH,
}  # fmt: skip

# include/uapi/linux/sched.h. CLONE_NEWTIME lies in the byte of the exit signal: it only means a time namespace for unshare,
# clone3 and setns.
_CLONE: Final = {
    "CLONE_NEWTIME": 0x80, "CLONE_VM": 0x100, "CLONE_FS": 0x200, "CLONE_FILES": 0x400, "CLONE_SIGHAND": 0x800, "CLONE_PIDFD": 0x1000,
    "CLONE_PTRACE": 0x2000, "CLONE_VFORK": 0x4000, "CLONE_PARENT": 0x8000, "CLONE_THREAD": 0x10000, "CLONE_NEWNS": 0x20000,
    "CLONE_SYSVSEM": 0x40000, "CLONE_SETTLS": 0x80000, "CLONE_PARENT_SETTID": 0x100000, "CLONE_CHILD_CLEARTID": 0x200000,
    "CLONE_DETACHED": 0x400000, "CLONE_UNTRACED": 0x800000, "CLONE_CHILD_SETTID": 0x1000000, "CLONE_NEWCGROUP": 0x2000000,
    "CLONE_NEWUTS": 0x4000000, "CLONE_NEWIPC": 0x8000000, "CLONE_NEWUSER": 0x10000000, "CLONE_NEWPID": 0x20000000,
    "CLONE_NEWNET": 0x40000000, "CLONE_IO": 0x80000000, "CLONE_CLEAR_SIGHAND": 0x100000000, "CLONE_INTO_CGROUP": 0x200000000,
}  # fmt: skip

# include/uapi/linux/mount.h
_MOUNT: Final = {
    "MS_RDONLY": 1, "MS_NOSUID": 2, "MS_NODEV": 4, "MS_NOEXEC": 8, "MS_SYNCHRONOUS": 16, "MS_REMOUNT": 32, "MS_MANDLOCK": 64,
    "MS_DIRSYNC": 128, "MS_NOSYMFOLLOW": 256, "MS_NOATIME": 1024, "MS_NODIRATIME": 2048, "MS_BIND": 4096, "MS_MOVE": 8192,
    "MS_REC": 16384, "MS_SILENT": 32768, "MS_POSIXACL": 1 << 16, "MS_UNBINDABLE": 1 << 17, "MS_PRIVATE": 1 << 18, "MS_SLAVE": 1 << 19,
    "MS_SHARED": 1 << 20, "MS_RELATIME": 1 << 21, "MS_I_VERSION": 1 << 23, "MS_STRICTATIME": 1 << 24, "MS_LAZYTIME": 1 << 25,
}  # fmt: skip

# include/linux/ptrace.h; PTRACE_MODE_READ is also set on reads through /proc.
_PTRACE_MODES: Final = {
    "PTRACE_MODE_READ": 0x01, "PTRACE_MODE_ATTACH": 0x02, "PTRACE_MODE_NOAUDIT": 0x04, "PTRACE_MODE_FSCREDS": 0x08,
    "PTRACE_MODE_REALCREDS": 0x10,
}  # fmt: skip

# include/uapi/linux/ptrace.h and arch/x86/include/uapi/asm/ptrace-abi.h
_PTRACE_REQUESTS: Final = {
    "PTRACE_TRACEME": 0, "PTRACE_PEEKTEXT": 1, "PTRACE_PEEKDATA": 2, "PTRACE_PEEKUSR": 3, "PTRACE_POKETEXT": 4, "PTRACE_POKEDATA": 5,
    "PTRACE_POKEUSR": 6, "PTRACE_CONT": 7, "PTRACE_KILL": 8, "PTRACE_SINGLESTEP": 9, "PTRACE_GETREGS": 12, "PTRACE_SETREGS": 13,
    "PTRACE_GETFPREGS": 14, "PTRACE_SETFPREGS": 15, "PTRACE_ATTACH": 16, "PTRACE_DETACH": 17, "PTRACE_GETFPXREGS": 18,
    "PTRACE_SETFPXREGS": 19, "PTRACE_OLDSETOPTIONS": 21, "PTRACE_SYSCALL": 24, "PTRACE_GET_THREAD_AREA": 25, "PTRACE_SET_THREAD_AREA": 26,
    "PTRACE_ARCH_PRCTL": 30, "PTRACE_SYSEMU": 31, "PTRACE_SYSEMU_SINGLESTEP": 32, "PTRACE_SINGLEBLOCK": 33, "PTRACE_SETOPTIONS": 0x4200,
    "PTRACE_GETEVENTMSG": 0x4201, "PTRACE_GETSIGINFO": 0x4202, "PTRACE_SETSIGINFO": 0x4203, "PTRACE_GETREGSET": 0x4204,
    "PTRACE_SETREGSET": 0x4205, "PTRACE_SEIZE": 0x4206, "PTRACE_INTERRUPT": 0x4207, "PTRACE_LISTEN": 0x4208, "PTRACE_PEEKSIGINFO": 0x4209,
    "PTRACE_GETSIGMASK": 0x420A, "PTRACE_SETSIGMASK": 0x420B, "PTRACE_SECCOMP_GET_FILTER": 0x420C, "PTRACE_SECCOMP_GET_METADATA": 0x420D,
    "PTRACE_GET_SYSCALL_INFO": 0x420E, "PTRACE_GET_RSEQ_CONFIGURATION": 0x420F, "PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG": 0x4210,
    "PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG": 0x4211, "PTRACE_SET_SYSCALL_INFO": 0x4212,
}  # fmt: skip

# enum bpf_cmd of include/uapi/linux/bpf.h
_BPF_COMMANDS: Final = _numbered(
    "BPF_MAP_CREATE BPF_MAP_LOOKUP_ELEM BPF_MAP_UPDATE_ELEM BPF_MAP_DELETE_ELEM BPF_MAP_GET_NEXT_KEY BPF_PROG_LOAD BPF_OBJ_PIN"
    " BPF_OBJ_GET BPF_PROG_ATTACH BPF_PROG_DETACH BPF_PROG_TEST_RUN BPF_PROG_GET_NEXT_ID BPF_MAP_GET_NEXT_ID BPF_PROG_GET_FD_BY_ID"
    " BPF_MAP_GET_FD_BY_ID BPF_OBJ_GET_INFO_BY_FD BPF_PROG_QUERY BPF_RAW_TRACEPOINT_OPEN BPF_BTF_LOAD BPF_BTF_GET_FD_BY_ID"
    " BPF_TASK_FD_QUERY BPF_MAP_LOOKUP_AND_DELETE_ELEM BPF_MAP_FREEZE BPF_BTF_GET_NEXT_ID BPF_MAP_LOOKUP_BATCH"
    " BPF_MAP_LOOKUP_AND_DELETE_BATCH BPF_MAP_UPDATE_BATCH BPF_MAP_DELETE_BATCH BPF_LINK_CREATE BPF_LINK_UPDATE BPF_LINK_GET_FD_BY_ID"
    " BPF_LINK_GET_NEXT_ID BPF_ENABLE_STATS BPF_ITER_CREATE BPF_LINK_DETACH BPF_PROG_BIND_MAP BPF_TOKEN_CREATE"
    " BPF_PROG_STREAM_READ_BY_FD"
)

_PORTS: Final = {
    "ftp": 21, "ssh": 22, "telnet": 23, "smtp": 25, "domain": 53, "dns": 53, "dhcp": 67, "tftp": 69, "http": 80, "kerberos": 88,
    "pop3": 110, "ntp": 123, "imap": 143, "snmp": 161, "ldap": 389, "https": 443, "smb": 445, "syslog": 514, "submission": 587,
    "ldaps": 636, "domain-s": 853, "dot": 853, "imaps": 993, "pop3s": 995, "nfs": 2049, "etcd": 2379, "mysql": 3306, "rdp": 3389,
    "postgresql": 5432, "amqp": 5672, "redis": 6379, "kubernetes": 6443, "kubelet": 10250, "memcached": 11211, "mongodb": 27017,
}  # fmt: skip


def _signals() -> dict[str, int]:
    # SIGRTMIN of the C library is 34: it keeps 32 and 33 for itself.
    numbers = {s.name: int(s) for s in signal_module.Signals}
    numbers |= {f"SIGRTMIN+{n}": 34 + n for n in range(1, 31)}
    return {**numbers, "SIGRTMIN": 34, "SIGRTMAX": 64}


def _protocols() -> dict[str, int]:
    known = {name: int(getattr(socket, name)) for name in dir(socket) if name.startswith("IPPROTO_")}
    return {**known, "IPPROTO_MPTCP": 262, "IPPROTO_ICMPV6": 58, "IPPROTO_SCTP": 132, "IPPROTO_UDPLITE": 136, "IPPROTO_GRE": 47}


_BPF_MAP_TYPES: Final = _numbered(
    "BPF_MAP_TYPE_UNSPEC BPF_MAP_TYPE_HASH BPF_MAP_TYPE_ARRAY BPF_MAP_TYPE_PROG_ARRAY BPF_MAP_TYPE_PERF_EVENT_ARRAY"
    " BPF_MAP_TYPE_PERCPU_HASH BPF_MAP_TYPE_PERCPU_ARRAY BPF_MAP_TYPE_STACK_TRACE BPF_MAP_TYPE_CGROUP_ARRAY"
    " BPF_MAP_TYPE_LRU_HASH BPF_MAP_TYPE_LRU_PERCPU_HASH BPF_MAP_TYPE_LPM_TRIE BPF_MAP_TYPE_ARRAY_OF_MAPS"
    " BPF_MAP_TYPE_HASH_OF_MAPS BPF_MAP_TYPE_DEVMAP BPF_MAP_TYPE_SOCKMAP BPF_MAP_TYPE_CPUMAP BPF_MAP_TYPE_XSKMAP"
    " BPF_MAP_TYPE_SOCKHASH BPF_MAP_TYPE_CGROUP_STORAGE BPF_MAP_TYPE_REUSEPORT_SOCKARRAY BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE"
    " BPF_MAP_TYPE_QUEUE BPF_MAP_TYPE_STACK BPF_MAP_TYPE_SK_STORAGE BPF_MAP_TYPE_DEVMAP_HASH BPF_MAP_TYPE_STRUCT_OPS"
    " BPF_MAP_TYPE_RINGBUF BPF_MAP_TYPE_INODE_STORAGE BPF_MAP_TYPE_TASK_STORAGE BPF_MAP_TYPE_BLOOM_FILTER"
    " BPF_MAP_TYPE_USER_RINGBUF BPF_MAP_TYPE_CGRP_STORAGE BPF_MAP_TYPE_ARENA BPF_MAP_TYPE_INSN_ARRAY"
)
_BPF_PROG_TYPES: Final = _numbered(
    "BPF_PROG_TYPE_UNSPEC BPF_PROG_TYPE_SOCKET_FILTER BPF_PROG_TYPE_KPROBE BPF_PROG_TYPE_SCHED_CLS BPF_PROG_TYPE_SCHED_ACT"
    " BPF_PROG_TYPE_TRACEPOINT BPF_PROG_TYPE_XDP BPF_PROG_TYPE_PERF_EVENT BPF_PROG_TYPE_CGROUP_SKB"
    " BPF_PROG_TYPE_CGROUP_SOCK BPF_PROG_TYPE_LWT_IN BPF_PROG_TYPE_LWT_OUT BPF_PROG_TYPE_LWT_XMIT BPF_PROG_TYPE_SOCK_OPS"
    " BPF_PROG_TYPE_SK_SKB BPF_PROG_TYPE_CGROUP_DEVICE BPF_PROG_TYPE_SK_MSG BPF_PROG_TYPE_RAW_TRACEPOINT"
    " BPF_PROG_TYPE_CGROUP_SOCK_ADDR BPF_PROG_TYPE_LWT_SEG6LOCAL BPF_PROG_TYPE_LIRC_MODE2 BPF_PROG_TYPE_SK_REUSEPORT"
    " BPF_PROG_TYPE_FLOW_DISSECTOR BPF_PROG_TYPE_CGROUP_SYSCTL BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE"
    " BPF_PROG_TYPE_CGROUP_SOCKOPT BPF_PROG_TYPE_TRACING BPF_PROG_TYPE_STRUCT_OPS BPF_PROG_TYPE_EXT BPF_PROG_TYPE_LSM"
    " BPF_PROG_TYPE_SK_LOOKUP BPF_PROG_TYPE_SYSCALL BPF_PROG_TYPE_NETFILTER"
)
_TCP_STATES: Final = (
    "TCP_ESTABLISHED", "TCP_SYN_SENT", "TCP_SYN_RECV", "TCP_FIN_WAIT1", "TCP_FIN_WAIT2", "TCP_TIME_WAIT", "TCP_CLOSE", "TCP_CLOSE_WAIT",
    "TCP_LAST_ACK", "TCP_LISTEN", "TCP_CLOSING", "TCP_NEW_SYN_RECV",
)  # fmt: skip
"""Of include/net/tcp_states.h, from 1 on."""
TABLES: Final[Mapping[str, NameTable]] = {
    "access": NameTable("", {
        "read": abi.ACCESS_READ, "write": abi.ACCESS_WRITE, "exec": abi.ACCESS_EXEC, "append": abi.ACCESS_APPEND,
        "truncate": abi.ACCESS_TRUNCATE, "create": abi.ACCESS_CREATE,
        "created": abi.ACCESS_CREATED,
    }),
    "bpf_cmd": NameTable("BPF_", _BPF_COMMANDS),
    "bpf_map_type": NameTable("BPF_MAP_TYPE_", _BPF_MAP_TYPES),
    "bpf_prog_type": NameTable("BPF_PROG_TYPE_", _BPF_PROG_TYPES),
    "capability": NameTable("CAP_", _CAPABILITIES, index=True),
    "clone": NameTable("CLONE_", _CLONE),
    "errno": NameTable("", {name: number for number, name in errno_module.errorcode.items()}),
    "exe": NameTable("", {"upper": abi.EXE_UPPER, "lower": abi.EXE_LOWER, "writable": abi.EXE_WRITABLE, "memfd": abi.EXE_MEMFD}),
    "family": NameTable("AF_", _FAMILIES),
    "io_uring_op": NameTable("", {"override_creds": 1, "sqpoll": 2, "cmd": 3}),
    "mode": NameTable("", _MODES),
    "mount": NameTable("MS_", _MOUNT),
    "namespace": NameTable("", {name: 1 << bit for bit, name in enumerate(NAMESPACES)}),
    "open": NameTable("O_", _OPEN),
    "port": NameTable("", _PORTS),
    "prot": NameTable("PROT_", {"PROT_READ": 1, "PROT_WRITE": 2, "PROT_EXEC": 4, "PROT_SEM": 8}),
    "protocol": NameTable("IPPROTO_", _protocols()),
    "ptrace_mode": NameTable("PTRACE_MODE_", _PTRACE_MODES),
    "ptrace_request": NameTable("PTRACE_", _PTRACE_REQUESTS),
    "signal": NameTable("SIG", _signals()),
    "socktype": NameTable("SOCK_", _SOCKET_TYPES),
    "tcp_state": NameTable("TCP_", {name: number for number, name in enumerate(_TCP_STATES, 1)}),
}  # fmt: skip


def _spellings(table: NameTable) -> dict[str, int]:
    spelled: dict[str, int] = {}
    for name, number in table.numbers.items():
        spelled.setdefault(name.lower(), number)
        if table.prefix and name.startswith(table.prefix):
            spelled.setdefault(name[len(table.prefix) :].lower(), number)
    return spelled


_BY_SPELLING: Final = {key: _spellings(table) for key, table in TABLES.items()}


def _canonical(table: NameTable) -> dict[int, str]:
    names: dict[int, str] = {}
    for name, number in table.numbers.items():
        names.setdefault(number, name)
    return names


_BY_NUMBER: Final = {key: _canonical(table) for key, table in TABLES.items()}


class NoAnswerError(LookupError):
    """This host's user database, which may be on a server, has not answered in time."""


T = TypeVar("T")
_PATIENCE: Final = Patience(2.0)
"""A user database may be on a server that is gone, and the agent reads policies again while it works."""


def _of_host(look: Callable[[], T]) -> T | None:
    """What this host's user database says, None for no such entry. NoAnswerError where it hangs."""

    def work() -> tuple[T | None]:
        try:
            return (look(),)
        except (KeyError, ValueError, OverflowError, UnicodeError):
            return (None,)

    answer = _PATIENCE.call(work)
    if answer is None:
        raise NoAnswerError
    return answer[0]


def _user(text: str) -> int | None:
    return _of_host(lambda: pwd.getpwnam(text).pw_uid)


def _group(text: str) -> int | None:
    return _of_host(lambda: grp.getgrnam(text).gr_gid)


_ON_HOST: Final[Mapping[str, Callable[[str], int | None]]] = {"user": _user, "group": _group}
_FIRST_SYMBOL: Final = 0xFFF00000
"""Far above the ids that systems give to people, services and containers."""
_symbols: ContextVar[dict[tuple[str, str], int] | None] = ContextVar("symbols", default=None)


@contextlib.contextmanager
def symbolic() -> Iterator[dict[tuple[str, str], int]]:
    """While the context is open no host is asked: every name of a user or group gets a number of its own, root gets 0. Yields the numbers
    that were given.

    For looking at policies of another host. Such numbers mean nothing to a kernel.
    """
    symbols: dict[tuple[str, str], int] = {}
    token = _symbols.set(symbols)
    try:
        yield symbols
    finally:
        _symbols.reset(token)


class Answer(NamedTuple):
    """What this host has said of a name, or of a number, of a user or group."""

    table: str
    asked: str | int
    answer: str | int | None


_answers: ContextVar[list[Answer] | None] = ContextVar("answers", default=None)


@contextlib.contextmanager
def recorded() -> Iterator[list[Answer] | None]:
    """Yields the answers of this host that are given while the context is open; None while no host is asked (`symbolic`)."""
    if _symbols.get() is not None:
        yield None
        return
    answers: list[Answer] = []
    token = _answers.set(answers)
    try:
        yield answers
    finally:
        _answers.reset(token)


def still(answers: Iterable[Answer]) -> bool:
    """Whether this host says the same now."""
    if _symbols.get() is not None:
        return False
    try:
        return all((number(table, asked) if isinstance(asked, str) else name(table, asked)) == answer for table, asked, answer in answers)
    except NoAnswerError:
        return False


def _noted(table: str, asked: str | int, answer: T) -> T:
    answers = _answers.get()
    if answers is not None:
        answers.append(Answer(table, asked, answer))  # type: ignore[arg-type]
    return answer


def _symbol(table: str, text: str, symbols: dict[tuple[str, str], int]) -> int | None:
    if text == "root":
        return 0
    if not text or text.isdigit() or re.search(r"[\s:*?\[\]{}]", text):
        return None
    return symbols.setdefault((table, text), _FIRST_SYMBOL + len(symbols))


def number(table: str, text: str) -> int | None:
    """The number of a name; None where the table has none. Numbers are not names: "9" gives None. NoAnswerError for users and groups."""
    if table in _ON_HOST:
        symbols = _symbols.get()
        return _noted(table, text, _ON_HOST[table](text)) if symbols is None else _symbol(table, text, symbols)
    return _BY_SPELLING[table].get(text.lower())


def mask(table: str, text: str) -> int | None:
    """The bits of a name, for flag fields: capabilities are counted, everything else already is a mask."""
    numeric = number(table, text)
    if numeric is None:
        return None
    return 1 << numeric if table in TABLES and TABLES[table].index else numeric


def name(table: str, value: int) -> str | None:
    """The canonical name of a number (SIGKILL, AF_INET), None where it has none. For signals, errno and the like; not for masks."""
    symbols = _symbols.get()
    if table in _ON_HOST and symbols is not None:
        known = next((text for (kind, text), symbol in symbols.items() if (kind, symbol) == (table, value)), None)
        return "root" if value == 0 else known
    if table == "user":
        return _noted(table, value, _of_host(lambda: pwd.getpwuid(value).pw_name))
    if table == "group":
        return _noted(table, value, _of_host(lambda: grp.getgrgid(value).gr_name))
    return _BY_NUMBER[table].get(value)


def flags(table: str, value: int) -> tuple[str, ...]:
    """The names of the bits that are set, lowest first; bits without a name come last as one hexadecimal number."""
    set_bits = []
    rest = value
    index = TABLES[table].index
    for numeric, text in sorted(_BY_NUMBER[table].items()):
        bits = 1 << numeric if index else numeric
        if bits and bits & (bits - 1) == 0 and value & bits:
            set_bits.append(text)
            rest &= ~bits
    return (*set_bits, hex(rest)) if rest else tuple(set_bits)


def known(table: str) -> tuple[str, ...]:
    """Every spelling of a table, for suggestions."""
    if table == "user":
        return _of_host(lambda: tuple(entry.pw_name for entry in pwd.getpwall())) or ()
    if table == "group":
        return _of_host(lambda: tuple(entry.gr_name for entry in grp.getgrall())) or ()
    return (*TABLES[table].numbers, *_BY_SPELLING[table])


_LSM_FUNCTIONS: Final = {
    **{f"{name}_security": name for name in (
        "bdev_alloc", "bdev_free", "bpf_map_alloc", "bpf_prog_alloc", "file_alloc", "file_free", "inode_alloc", "inode_free",
        "msg_msg_alloc", "msg_msg_free", "msg_queue_alloc", "msg_queue_free", "sb_alloc", "sb_free", "sem_alloc", "sem_free", "shm_alloc",
        "shm_free", "sk_alloc", "sk_clone", "sk_free", "xfrm_policy_alloc", "xfrm_policy_clone", "xfrm_policy_delete", "xfrm_policy_free",
        "xfrm_state_delete", "xfrm_state_free",
    )},
    "bprm_check_security": "bprm_check", "cred_prepare": "prepare_creds", "cred_transfer": "transfer_creds",
    "sb_free_mnt_opts": "free_mnt_opts", "settime": "settime64", "sk_getsecid": "sk_classify_flow", "socket_sock_rcv_skb": "sock_rcv_skb",
    "userns_create": "create_user_ns", "vm_enough_memory": "vm_enough_memory_mm",
}  # fmt: skip
"""LSM hooks whose function is not security_ and their name, and what stands for the name there: security/security.c."""
LSM_FUNCTION: Final = "security_"
"""What the functions begin with that ask all LSMs."""


def lsm_function(hook: str) -> str:
    """The kernel's function that asks all LSMs about a hook."""
    return f"{LSM_FUNCTION}{_LSM_FUNCTIONS.get(hook, hook)}"


def lsm_hook(function: str) -> str:
    """The hook that a function asks all LSMs about; "" where it is none of these functions."""
    if not function.startswith(LSM_FUNCTION):
        return ""
    name = function.removeprefix(LSM_FUNCTION)
    return next((hook for hook, other in _LSM_FUNCTIONS.items() if other == name), name)


_CALL_HOOKS: Final = {
    "link": "path_link", "linkat": "path_link", "symlink": "path_symlink", "symlinkat": "path_symlink", "mkdir": "path_mkdir",
    "mkdirat": "path_mkdir", "rmdir": "path_rmdir", "unlink": "path_unlink", "rename": "path_rename", "renameat": "path_rename",
    "renameat2": "path_rename", "mknod": "path_mknod", "mknodat": "path_mknod", "chmod": "path_chmod", "fchmod": "path_chmod",
    "fchmodat": "path_chmod", "fchmodat2": "path_chmod", "chroot": "path_chroot", "truncate": "path_truncate", "mount": "sb_mount",
    "pivot_root": "sb_pivotroot", "socket": "socket_create", "bind": "socket_bind",
    "connect": "socket_connect", "listen": "socket_listen", "bpf": "bpf", "prctl": "task_prctl", "init_module": "kernel_load_data",
    "finit_module": "kernel_read_file", "flock": "file_lock", "fcntl": "file_fcntl",
}  # fmt: skip
"""System calls that do nothing before they have asked the LSMs about one hook, and that hook. Not among them: calls with a way past it, as
open(2) has with O_PATH, and those that ask for some of what they do alone. Sources: fs/namei.c, fs/open.c, net/socket.c and their like."""


def call_hook(call: str) -> str:
    """The hook of the LSM that a system call asks before it does anything; "" where it is not known to ask one in every case."""
    return _CALL_HOOKS.get(call, "")
