# SPDX-License-Identifier: Apache-2.0
"""Nothing in, the tables of events and fields out.

The one home of what can be written in a policy: dialects check names against it, the compiler finds slots in it, the docs
are generated from it. Slots are names of enum num_slot and enum str_slot in bpf/abi.h; events are those of enum event_id.
"""

from __future__ import annotations

import enum
from functools import lru_cache
from typing import Final

import msgspec


class Kind(enum.Enum):
    """How a field's values are written and tested."""

    PATH = "path"        # string slot; globs with path semantics
    STRING = "string"    # string slot; globs where `*` crosses everything
    STRINGS = "strings"  # a list of strings (lineage): some element matches; globs with path semantics
    NUMBER = "number"    # numeric slot; ranges
    NAMED = "named"      # numeric slot; names of `names` or numbers
    FLAGS = "flags"      # numeric slot; bit names of `names`: any of the listed bits
    BOOL = "bool"        # numeric slot; true | false
    ADDRESS = "address"  # string slot of 4 or 16 bytes; CIDR
    USER = "user"        # numeric slot; user names or uids, resolved at load on the host


class Field(msgspec.Struct, frozen=True):
    """One field: where it comes from and how it is tested.

    `events` lists full event names, or prefixes ending in '.' ("file."); empty means every event. `subject` marks what depends
    on the process alone, so is decided at exec. `kernel` false: known to user space only, usable in audit rules and messages.
    `instead`: the value is what the caller wrote, which has many spellings; what a rule that denies should rather test.
    """

    name: str
    kind: Kind
    slot: str
    doc: str
    events: tuple[str, ...] = ()
    subject: bool = False
    kernel: bool = True
    instead: str = ""
    names: str = ""  # a table of names.py: what may be written instead of numbers
    unit: str = ""  # what the values are, where neither kind nor `names` tells it: see `measure`


ANY_NUMBER: Final = "number of a system call"
"""The measure of what means something else in each call: comparable with every number."""
_MEASURES: Final = {
    "user": "user id", "group": "group id", "family": "address family", "socktype": "socket type", "bpf_cmd": "command of bpf(2)",
    "io_uring_op": "operation of io_uring",
}  # fmt: skip


def measure(field: Field) -> str:
    """What the values of a field are, in words: two fields of one measure can be compared. "" where they are compared with nothing."""
    match field.kind:
        case Kind.PATH | Kind.STRING:
            return field.unit or "text"
        case Kind.ADDRESS:
            return "address"
        case Kind.BOOL:
            return "truth value"
        case Kind.NUMBER | Kind.NAMED | Kind.USER:
            return field.unit or _MEASURES.get(field.names, field.names)
    return ""


class EventType(msgspec.Struct, frozen=True):
    """One event: its number's name in abi.h, short names, whether a rule on it can deny. The hooks behind it: `kernel.hooks`.

    `killable`: it comes too late to be denied, and in time to end the process before it does anything: a rule can kill. `sensor`: it is made
    where a policy puts a sensor (`policy.Probe`), and nowhere else.
    """

    name: str
    id: str
    doc: str
    short: tuple[str, ...] = ()
    deniable: bool = True
    killable: bool = False
    sensor: bool = False

    def blockable(self, kill: bool) -> bool:
        """Whether a rule that denies, or kills, can prevent it."""
        return self.deniable or (kill and self.killable)


EVENTS: Final = (
    EventType("process.exec", "EV_PROCESS_EXEC", "a program is about to be executed (the script, then its interpreter): `file.path`; `process.*` are those of the program that calls exec", ("exec",), True),
    EventType("process.fork", "EV_PROCESS_FORK", "a task (process or thread) is about to be created", ("fork",), True),
    EventType("process.exit", "EV_PROCESS_EXIT", "a process has ended", ("exit",), False),
    EventType("process.signal", "EV_PROCESS_SIGNAL", "a signal is about to be sent", ("signal", "kill"), True),
    EventType("process.ptrace", "EV_PROCESS_PTRACE", "a process is about to be traced, or its memory read or written", ("ptrace",), True),
    EventType("process.setuid", "EV_PROCESS_SETUID", "user ids are about to change by a set*uid call", ("setuid",), True),
    EventType("process.setgid", "EV_PROCESS_SETGID", "group ids are about to change by a set*gid call", ("setgid",), True),
    EventType("process.capable", "EV_PROCESS_CAPABLE", "a capability is about to be used", ("capable",), True),
    EventType("file.open", "EV_FILE_OPEN", "a file is about to be opened", ("open",), True),
    EventType("file.create", "EV_FILE_CREATE", "a file, device or socket node is about to be created", ("create",), True),
    EventType("file.unlink", "EV_FILE_UNLINK", "a name is about to be removed", ("unlink",), True),
    EventType("file.rename", "EV_FILE_RENAME", "a name is about to be changed; file.new_path may be replaced", ("rename",), True),
    EventType("file.link", "EV_FILE_LINK", "a hard link file.new_path to file.path is about to be made", ("link",), True),
    EventType("file.symlink", "EV_FILE_SYMLINK", "a symbolic link file.path is about to be made", ("symlink",), True),
    EventType("file.mkdir", "EV_FILE_MKDIR", "a directory is about to be made", ("mkdir",), True),
    EventType("file.rmdir", "EV_FILE_RMDIR", "a directory is about to be removed", ("rmdir",), True),
    EventType("file.chmod", "EV_FILE_CHMOD", "permission bits are about to change", ("chmod",), True),
    EventType("file.chown", "EV_FILE_CHOWN", "owner or group are about to change", ("chown",), True),
    EventType("file.truncate", "EV_FILE_TRUNCATE", "a file is about to be cut or extended", ("truncate",), True),
    EventType("file.setxattr", "EV_FILE_SETXATTR", "an extended attribute or access control list is about to be set or removed", ("setxattr",), True),
    EventType("file.setattr", "EV_FILE_SETATTR", "times or flags of a file are about to change: utimensat(2) and its like, chattr(1), file_setattr(2), fs-verity, an encryption policy", ("setattr",), True),
    EventType("file.mmap", "EV_FILE_MMAP", "a file is about to be mapped", ("mmap",), True),
    EventType("file.mprotect", "EV_FILE_MPROTECT", "the protection of a file mapping is about to change", ("mprotect",), True),
    EventType("file.permission", "EV_FILE_PERMISSION", "an open file is about to be read or written", (), True),
    EventType("net.create", "EV_NET_CREATE", "a socket is about to be created", ("socket",), True),
    EventType("net.bind", "EV_NET_BIND", "a socket is about to be bound", ("bind",), True),
    EventType("net.listen", "EV_NET_LISTEN", "a socket is about to listen", ("listen",), True),
    EventType("net.connect", "EV_NET_CONNECT", "a connection is about to begin, by whatever call", ("connect",), True),
    EventType("net.accept", "EV_NET_ACCEPT", "a connection is about to be accepted", ("accept",), True),
    EventType("net.send", "EV_NET_SEND", "a message is about to be sent", ("send", "sendmsg"), True),
    EventType("ipc.access", "EV_IPC_ACCESS", "a System V IPC object is about to be used", (), True),
    EventType("ipc.msgsnd", "EV_IPC_MSGSND", "a System V message is about to be sent", ("msgsnd",), True),
    EventType("ipc.shmat", "EV_IPC_SHMAT", "a System V shared memory segment is about to be attached", ("shmat",), True),
    EventType("kernel.module", "EV_KERNEL_MODULE", "a kernel module is about to be loaded or requested", ("module",), True),
    EventType("kernel.bpf", "EV_KERNEL_BPF", "bpf(2) is about to be used", ("bpf",), True),
    EventType("kernel.mount", "EV_KERNEL_MOUNT", "a file system is about to be mounted, moved or remounted", ("mount",), True),
    EventType("kernel.umount", "EV_KERNEL_UMOUNT", "a file system is about to be unmounted", ("umount",), True),
    EventType("kernel.pivot_root", "EV_KERNEL_PIVOT_ROOT", "the root of a mount namespace is about to change", ("pivot_root",), True),
    EventType("kernel.perf", "EV_KERNEL_PERF", "perf_event_open(2) is about to be used", ("perf",), True),
    EventType("kernel.userns", "EV_KERNEL_USERNS", "a user namespace is about to be created", ("userns",), True),
    EventType("kernel.io_uring", "EV_KERNEL_IO_URING", "io_uring is about to take other credentials, a polling thread, or a device command", ("io_uring",), True),
    EventType("kernel.setns", "EV_KERNEL_SETNS", "a task is about to join another namespace", ("setns",), True),
    EventType("kernel.kexec", "EV_KERNEL_KEXEC", "another kernel is about to be loaded", ("kexec",), True),
    EventType("process.executed", "EV_PROCESS_EXECUTED", "a new program is about to run its first instruction; process.* are its", ("executed",), False, killable=True),
    EventType("process.exec_failed", "EV_PROCESS_EXEC_FAILED", "a program could not be executed; process.* are the caller's", (), False),
    EventType("file.open_failed", "EV_FILE_OPEN_FAILED", "a file could not be opened, wherever that was found out", (), False),
    EventType("file.dup", "EV_FILE_DUP", "a descriptor has been duplicated", ("dup",), False),
    EventType("process.trace", "EV_PROCESS_TRACE", "ptrace(2) has returned", (), False),
    EventType("process.unshare", "EV_PROCESS_UNSHARE", "unshare(2) has returned", ("unshare",), False),
    EventType("process.setns", "EV_PROCESS_SETNS", "setns(2) has returned", (), False),
    EventType("process.prctl", "EV_PROCESS_PRCTL", "prctl(2) has returned", ("prctl",), False),
    EventType("process.capset", "EV_PROCESS_CAPSET", "capset(2) has returned", ("capset",), False),
    EventType("process.chroot", "EV_PROCESS_CHROOT", "chroot(2) has returned", ("chroot",), False),
    EventType("process.chdir", "EV_PROCESS_CHDIR", "chdir(2) or fchdir(2) has returned", ("chdir",), False),
    EventType("process.setsid", "EV_PROCESS_SETSID", "setsid(2) has returned", ("setsid",), False),
    EventType("kernel.io_uring_setup", "EV_KERNEL_IO_URING_SETUP", "io_uring_setup(2) has returned", (), False),
    EventType("kernel.memfd", "EV_KERNEL_MEMFD", "memfd_create(2) has returned", ("memfd",), False),
    EventType("kernel.userfaultfd", "EV_KERNEL_USERFAULTFD", "userfaultfd(2) has returned", ("userfaultfd",), False),
    EventType("kernel.fsconfig", "EV_KERNEL_FSCONFIG", "fsconfig(2) has returned", (), False),
    EventType("net.recv", "EV_NET_RECV", "an internet socket has received a message, or has none to give", ("recv",), False),
    EventType("process.setid_failed", "EV_PROCESS_SETID_FAILED", "user or group ids could not be changed by a set*id call: before its hook, or after it", (), False),
    EventType("process.memory", "EV_PROCESS_MEMORY", "memory without a named file behind it as it is (anonymous, written, writable, memfd) is about to become executable", ("memory",), True),
    EventType("sensor.kprobe", "EV_SENSOR_KPROBE", "a function of the kernel that a policy names is called", (), False, killable=True, sensor=True),
    EventType("sensor.kretprobe", "EV_SENSOR_KRETPROBE", "a function of the kernel that a policy names has returned: with what it was given, and what it returns", (), False, killable=True, sensor=True),
    EventType("sensor.tracepoint", "EV_SENSOR_TRACEPOINT", "a tracepoint that a policy names is passed", (), False, killable=True, sensor=True),
    EventType("sensor.lsm", "EV_SENSOR_LSM", "a hook of the LSM that a policy names is asked about an act, and may refuse it", (), True, sensor=True),
    EventType("sensor.uprobe", "EV_SENSOR_UPROBE", "a function of a program or library that a policy names is called", (), False, killable=True, sensor=True),
    EventType("sensor.uretprobe", "EV_SENSOR_URETPROBE", "a function of a program or library that a policy names has returned: with what it was given, and what it returns", (), False, killable=True, sensor=True),
    EventType("sensor.usdt", "EV_SENSOR_USDT", "a static probe (USDT) of a program or library that a policy names is passed", (), False, killable=True, sensor=True),
)

MODIFY: Final = (
    "file.open", "file.create", "file.unlink", "file.rename", "file.link", "file.symlink", "file.mkdir", "file.rmdir", "file.chmod",
    "file.chown", "file.truncate", "file.setxattr", "file.setattr", "file.mmap", "file.mprotect", "file.permission",
)
"""Events of the group file.modify; the dialect adds to each the test that makes it a modification (see `dialects.native.read`)."""

GROUPS: Final = {
    "file.modify": MODIFY,
    "file.read": ("file.open", "file.mmap", "file.mprotect", "file.permission"),
    "exec.any": ("process.exec", "file.mmap", "file.mprotect"),
    "net.egress": ("net.connect", "net.send"),
}

# The events of files that are about to be used: what follows a call has no file.path.
_FILE = (
    "file.open", "file.create", "file.unlink", "file.rename", "file.link", "file.symlink", "file.mkdir", "file.rmdir", "file.chmod",
    "file.chown", "file.truncate", "file.setxattr", "file.setattr", "file.mmap", "file.mprotect", "file.permission", "process.exec",
)
_RETURNED = (
    "process.exec_failed", "file.open_failed", "file.dup", "process.trace", "process.unshare", "process.setns", "process.prctl",
    "process.capset", "process.chroot", "process.chdir", "process.setsid", "kernel.io_uring_setup", "kernel.memfd", "kernel.userfaultfd",
    "kernel.fsconfig", "process.setid_failed",
)
_TARGET = ("process.signal", "process.ptrace")

NAMESPACES: Final = ("uts", "ipc", "mnt", "pid", "pid_for_children", "net", "time", "time_for_children", "cgroup", "user")
"""Types of namespaces, as in /proc/PID/ns: in the order of NUM_NS_UTS and its kin in bpf/abi.h."""


FIELDS: Final = (
    Field("process.pid", Kind.NUMBER, "NUM_PROCESS_PID", "process id (thread group) in the initial pid namespace", unit="process id"),
    Field("process.exe", Kind.PATH, "STR_PROCESS_EXE", "path of the executable, as resolved at exec; on process.exec the caller's: the program that is about to run is file.path", subject=True),
    Field("process.name", Kind.STRING, "STR_PROCESS_NAME", "command name (comm) at exec, at most 15 bytes; on process.exec the caller's", subject=True),
    Field("process.args", Kind.STRING, "STR_PROCESS_ARGS", "arguments joined by one space, at most 1024 bytes; on process.exec the caller's", subject=True),
    Field("process.cwd", Kind.PATH, "STR_PROCESS_CWD", "current working directory"),
    Field("process.uid", Kind.NUMBER, "NUM_PROCESS_UID", "effective user id in the initial user namespace", subject=True, names="user"),
    Field("process.user", Kind.USER, "NUM_PROCESS_UID", "effective user, by name", subject=True, names="user"),
    Field("process.gid", Kind.NUMBER, "NUM_PROCESS_GID", "effective group id in the initial user namespace", subject=True, names="group"),
    Field("process.caps", Kind.FLAGS, "NUM_PROCESS_CAPS", "effective capabilities: any of the named", names="capability"),
    Field("process.permitted_caps", Kind.FLAGS, "NUM_CAPS_PERMITTED", "permitted capabilities: any of the named", names="capability"),
    Field("process.inheritable_caps", Kind.FLAGS, "NUM_CAPS_INHERITABLE", "inheritable capabilities: any of the named", names="capability"),
    *(Field(f"process.ns.{name}", Kind.NUMBER, f"NUM_NS_{name.upper()}", f"inode number of its {name} namespace, as /proc/PID/ns/{name} has it", unit="namespace") for name in NAMESPACES),
    Field("process.ns.host", Kind.FLAGS, "NUM_NS_HOST", "which of its namespaces are those of the first process of the host: any of the named", names="namespace"),
    Field("process.ns.changed", Kind.FLAGS, "NUM_NS_CHANGED", "which of its namespaces are others than when its program was executed, or it was first seen: any of the named", names="namespace"),
    Field("process.changed_caps", Kind.FLAGS, "NUM_CAPS_CHANGED", "effective capabilities that it has got or lost since its program was executed, or it was first seen: any of the named", names="capability"),
    Field("process.changed_permitted_caps", Kind.FLAGS, "NUM_CAPS_PERMITTED_CHANGED", "the same of permitted capabilities", names="capability"),
    Field("process.changed_inheritable_caps", Kind.FLAGS, "NUM_CAPS_INHERITABLE_CHANGED", "the same of inheritable capabilities", names="capability"),
    Field("process.cgroup", Kind.PATH, "STR_PROCESS_CGROUP", "cgroup v2 path", subject=True, unit="cgroup"),
    Field("process.parent.exe", Kind.PATH, "STR_PARENT_EXE", "executable of the program that this one was started from", subject=True),
    Field("process.parent.pid", Kind.NUMBER, "NUM_PARENT_PID", "parent process id", unit="process id"),
    Field("process.parent.name", Kind.STRING, "STR_PARENT_NAME", "command name of the parent as it is now"),
    Field("process.parent.args", Kind.STRING, "STR_PARENT_ARGS", "arguments of the parent as it is now, joined by one space, at most 1024 bytes"),
    Field("process.ancestors.name", Kind.STRINGS, "", "command names of the processes that this one descends from now, itself excluded"),
    Field("process.tty", Kind.NUMBER, "NUM_TTY", "device number of the controlling terminal, 0 without one", unit="device number"),
    Field("process.entered", Kind.BOOL, "NUM_ENTERED", "came into its container from outside, as `kubectl exec` and `docker exec` do it, or descends from such a process; false where the container shares the host's process ids"),
    Field("process.exe_flags", Kind.FLAGS, "NUM_EXE_FLAGS", "about the executable: upper, lower (layer of an overlay), writable, memfd: any of the named", names="exe"),
    Field("process.ancestors.exe", Kind.STRINGS, "", "executables of all ancestors, earlier programs of the same process included", subject=True),
    Field("process.fork.live", Kind.NUMBER, "NUM_FORK_LIVE", "live tasks in the cgroup and in all cgroups below it, before the fork", ("process.fork",), unit="number of tasks"),
    *(Field(f"process.fork.live{n}", Kind.NUMBER, f"NUM_FORK_LIVE_{n}", f"the same of the ancestor cgroup of level {n} (/a is level 1, /a/b level 2), or of the cgroup itself where that lies above; known where a rule asks for it", ("process.fork",), unit="number of tasks") for n in range(1, 9)),
    Field("process.fork.flags", Kind.FLAGS, "NUM_CLONE_FLAGS", "clone flags: any of the named", ("process.fork",), names="clone"),
    Field("process.exit.code", Kind.NUMBER, "NUM_EXIT_CODE", "exit code in wait(2) form", ("process.exit",), unit="exit code"),
    Field("process.setuid.uid", Kind.NUMBER, "NUM_SET_UID", "the new effective user id", ("process.setuid",), names="user"),
    Field("process.setgid.gid", Kind.NUMBER, "NUM_SET_GID", "the new effective group id", ("process.setgid",), names="group"),
    Field("process.ptrace.mode", Kind.FLAGS, "NUM_PTRACE_MODE", "PTRACE_MODE bits: any of the named", ("process.ptrace",), names="ptrace_mode"),
    Field("file.path", Kind.PATH, "STR_FILE_PATH", "path in the acting task's mount namespace, symlinks resolved", (*_FILE, "kernel.mount", "kernel.umount", "kernel.pivot_root", "kernel.module", "kernel.kexec", "process.memory", "sensor.")),
    Field("file.new_path", Kind.PATH, "STR_FILE_NEW_PATH", "the other path of rename and link; the new root of pivot_root; of a sensor the second file", ("file.rename", "file.link", "kernel.pivot_root", "sensor.")),
    Field("file.access", Kind.FLAGS, "NUM_FILE_ACCESS", "read, write, exec, append, truncate, create (O_CREAT), created (the file was not there): any of the named", (*_FILE, "file.open_failed"), names="access"),
    Field("file.flags", Kind.FLAGS, "NUM_FILE_FLAGS", "open flags (O_*): any of the named", ("file.open", "file.open_failed", "file.permission"), names="open"),
    Field("file.text", Kind.STRING, "STR_FILE_TEXT", "the name as the caller gave it", ("file.open", "file.open_failed"), instead="test file.path, the file that the name leads to"),
    Field("file.dirfd", Kind.NUMBER, "NUM_DIRFD", "descriptor of the directory that file.text is relative to; -100 (as unsigned number of 64 bits) for the working directory", ("file.open", "file.open_failed"), unit="descriptor"),
    Field("file.target", Kind.STRING, "STR_LINK_TARGET", "the text of a symbolic link", ("file.symlink",), instead="deny opening what such a link would lead to: file.path of file.open"),
    Field("file.mode", Kind.FLAGS, "NUM_FILE_MODE", "permission bits: any of the given; for chmod, create and mkdir the new ones", (*_FILE, "sensor."), names="mode"),
    Field("file.uid", Kind.NUMBER, "NUM_FILE_UID", "owner; for chown the new owner", _FILE, names="user"),
    Field("file.gid", Kind.NUMBER, "NUM_FILE_GID", "group; for chown the new group", _FILE, names="group"),
    Field("file.ino", Kind.NUMBER, "NUM_FILE_INO", "inode number", _FILE, unit="inode number"),
    Field("file.fstype", Kind.STRING, "STR_FILE_FSTYPE", "file system type, as in /proc/filesystems", (*_FILE, "kernel.mount")),
    Field("file.deleted", Kind.BOOL, "NUM_FILE_DELETED", "no name is left", (*_FILE, "process.memory")),
    Field("file.memfd", Kind.BOOL, "NUM_FILE_MEMFD", "made by memfd_create", (*_FILE, "process.memory", "sensor.")),
    Field("file.proc_pid", Kind.NUMBER, "NUM_FILE_PROC_PID", "the process whose folder of procfs the file is in, by its id in the initial pid namespace; absent: none, or it has ended", ("file.open",), unit="process id"),
    Field("file.script", Kind.BOOL, "NUM_FILE_SCRIPT", "the file begins with `#!`: what runs is its interpreter", ("process.exec",)),
    Field("file.prot", Kind.FLAGS, "NUM_FILE_PROT", "PROT_* of a mapping, as asked for: any of the named", ("file.mmap", "file.mprotect", "process.memory"), names="prot"),
    Field("file.shared", Kind.BOOL, "NUM_FILE_MAP_SHARED", "the mapping is shared", ("file.mmap", "file.mprotect", "process.memory")),
    Field("file.xattr", Kind.STRING, "STR_XATTR_NAME", "name of the extended attribute; of an access control list `system.posix_acl_access` or `system.posix_acl_default`", ("file.setxattr",)),
    Field("net.family", Kind.NAMED, "NUM_NET_FAMILY", "address family", ("net.", "file.dup", "sensor."), names="family"),
    Field("net.type", Kind.NAMED, "NUM_NET_TYPE", "type of the socket", ("net.", "sensor."), names="socktype"),
    Field("net.protocol", Kind.NAMED, "NUM_NET_PROTOCOL", "the protocol that the socket has, or gets where 0 is asked for", ("net.", "sensor."), names="protocol"),
    Field("net.state", Kind.NAMED, "NUM_NET_STATE", "state of the socket's connection", ("sensor.",), names="tcp_state"),
    Field("net.peer.ip", Kind.ADDRESS, "STR_NET_PEER_IP", "address of the other side; of what is received the sender's, where the caller asks for it or the socket has a peer", ("net.connect", "net.send", "net.recv", "sensor.")),
    Field("net.peer.port", Kind.NUMBER, "NUM_NET_PEER_PORT", "port of the other side", ("net.connect", "net.send", "net.recv", "sensor."), names="port"),
    Field("net.local.ip", Kind.ADDRESS, "STR_NET_LOCAL_IP", "own address", ("net.bind", "net.listen", "net.accept", "net.connect", "net.send", "net.recv", "sensor.")),
    Field("net.local.port", Kind.NUMBER, "NUM_NET_LOCAL_PORT", "own port", ("net.bind", "net.listen", "net.accept", "net.connect", "net.send", "net.recv", "sensor."), names="port"),
    Field("net.connected", Kind.BOOL, "NUM_NET_CONNECTED", "the socket has a peer of its own, which alone it receives from", ("net.recv",)),
    Field("net.size", Kind.NUMBER, "NUM_NET_SIZE", "bytes that are to be sent, or that there is room for; not of datagrams to unix sockets", ("net.send", "net.recv"), unit="number of bytes"),
    Field("net.unix.path", Kind.PATH, "STR_NET_UNIX_PATH", "where a unix socket is bound: the own one for bind, else the other side's; the path in the mount namespace of whoever bound it, or '@' and an abstract name", ("net.bind", "net.connect", "net.send")),
    Field("target.pid", Kind.NUMBER, "NUM_TARGET_PID", "process id of the target", _TARGET, unit="process id"),
    Field("target.uid", Kind.NUMBER, "NUM_TARGET_UID", "effective user id of the target", _TARGET, names="user"),
    Field("target.exe", Kind.PATH, "STR_TARGET_EXE", "executable of the target", _TARGET),
    Field("target.registered", Kind.BOOL, "NUM_TARGET_REGISTERED", "a runtime has told of the container that the target is in, wherever that has its cgroup", _TARGET),
    Field("target.cgroup", Kind.PATH, "STR_TARGET_CGROUP", "cgroup v2 path of the target", _TARGET, unit="cgroup"),
    Field("signal", Kind.NAMED, "NUM_SIGNAL", "the signal; 0 is the existence check", ("process.signal",), names="signal"),
    Field("capability", Kind.NAMED, "NUM_CAPABILITY", "the capability asked for", ("process.capable",), names="capability"),
    Field("call.result", Kind.NUMBER, "NUM_RESULT", "what the system call returned; errors as unsigned numbers of 64 bits; of net.recv the bytes received", (*_RETURNED, "net.recv"), unit=ANY_NUMBER),
    Field("call.text", Kind.STRING, "STR_CALL_TEXT", "a text argument of the call, as the caller's memory had it when the call returned", ("process.exec_failed", "process.prctl", "process.chroot", "process.chdir", "kernel.memfd", "kernel.fsconfig")),
    *(Field(f"call.arg{n}", Kind.NUMBER, f"NUM_CALL_ARG{n}", f"argument {n} of the system call, counted from 0", _RETURNED, unit=ANY_NUMBER) for n in range(6)),
    Field("ipc.id", Kind.NUMBER, "NUM_IPC_ID", "System V identifier", ("ipc.",), unit="System V identifier"),
    Field("ipc.uid", Kind.NUMBER, "NUM_IPC_UID", "owner of the System V object", ("ipc.",), names="user"),
    Field("module.name", Kind.STRING, "STR_MODULE_NAME", "name of the module: in its image, as lsmod shows it (`_`, not `-`), not known where that is compressed; or what the kernel itself requests", ("kernel.module",)),
    Field("module.requested", Kind.BOOL, "NUM_MODULE_REQUESTED", "the kernel asks user space for it, on behalf of the acting process; false: its image is loaded", ("kernel.module",)),
    Field("bpf.cmd", Kind.NAMED, "NUM_BPF_CMD", "command of bpf(2)", ("kernel.bpf",), names="bpf_cmd"),
    Field("mount.source", Kind.STRING, "STR_MOUNT_SOURCE", "device name or source path, as given", ("kernel.mount",), instead="test file.path, the place that is mounted on, or file.fstype"),
    Field("mount.flags", Kind.FLAGS, "NUM_MOUNT_FLAGS", "MS_* flags: any of the named", ("kernel.mount",), names="mount"),
    Field("setns.flags", Kind.FLAGS, "NUM_NS_FLAGS", "CLONE_NEW* of the namespaces joined, as asked for or else those that the descriptor stands for: any of the named", ("kernel.setns",), names="clone"),
    Field("sensor.number", Kind.NUMBER, "NUM_HOOK", "which sensor it was", ("sensor.",), unit="number of a sensor"),
    *(Field(f"sensor.number{n}", Kind.NUMBER, f"NUM_SENSOR_{n}", f"argument {n} of a sensor, counted from 0, where it is a number; negative ones as unsigned numbers of 64 bits", ("sensor.",), unit=ANY_NUMBER) for n in range(5)),
    Field("sensor.result", Kind.NUMBER, "NUM_SENSOR_RETURN", "what the function of a sensor has returned; negative numbers as unsigned ones of 64 bits", ("sensor.",), unit=ANY_NUMBER),
    *(Field(f"sensor.text{n}", Kind.STRING, f"STR_SENSOR_{n}", f"argument {n} of a sensor, where it is a text", ("sensor.",)) for n in range(5)),
    Field("io_uring.op", Kind.NAMED, "NUM_IO_URING_OP", "override_creds, sqpoll or cmd", ("kernel.io_uring",), names="io_uring_op"),
)

CONTAINER: Final = Field("process.container", Kind.NUMBER, "NUM_WORKLOAD", "the container that it runs in: selected by a policy's scope", subject=True)
"""Not for rules: what a scope selects containers by is on it, and it is a number only in the kernel's tables."""

ARGUMENTS: Final = Field("process.argv", Kind.STRING, "STR_PROCESS_ARGV", "arguments, NUL behind each but the last", ("process.executed",))
"""Not for rules that people write: for tests of each argument by itself."""

EVENT_BY_NAME: Final = {event.name: event for event in EVENTS}
FIELD_BY_NAME: Final = {field.name: field for field in FIELDS}
KERNEL_FIELDS: Final = {**FIELD_BY_NAME, CONTAINER.name: CONTAINER, ARGUMENTS.name: ARGUMENTS}
"""The fields that conditions of the model can be about."""


@lru_cache(maxsize=8192)
def applies(field: Field, event: str) -> bool:
    """Whether `event` (full name) can carry `field`."""
    return not field.events or any(event == e or (e.endswith(".") and event.startswith(e)) for e in field.events)
