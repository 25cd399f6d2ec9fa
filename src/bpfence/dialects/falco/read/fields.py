# SPDX-License-Identifier: Apache-2.0
"""Nothing in, the table of Falco's fields that bpfence knows out.

The one home of what a Falco condition or output can name: `checks` and `output` look names up here, `dialects.falco.confirm.event` fills the values in,
`bpfence fields` and docs/falco-fields.md print it. Names, types and meanings are Falco's (its reference of supported fields); what is
marked `extension` is bpfence's own. A field that an event does not have is absent: every operator on it is false.
"""

from __future__ import annotations

import enum
import re
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec


class Type(enum.Enum):
    """What a field's values are; decides the operators and how operands are written."""

    STRING = "string"
    PATH = "path"  # a string; `pmatch` is meant for it
    INT = "int"  # signed, 64 bits
    UINT = "uint"  # unsigned, 64 bits
    DOUBLE = "double"
    BOOL = "bool"
    IP = "ip"
    NET = "net"  # an address, compared with networks
    PORT = "port"
    DURATION = "duration"  # ns
    TIME = "time"  # ns since 1970
    BYTES = "bytes"
    DYNAMIC = "dynamic"  # evt.rawarg: as the event's argument is typed


class Argument(enum.Enum):
    """Whether and how a field takes an argument in brackets."""

    NONE = "none"
    INDEX = "index"  # required number
    KEY = "key"  # required text or number
    OPTIONAL_INDEX = "index?"  # without it: all of them
    OPTIONAL_KEY = "key?"


class Field(msgspec.Struct, frozen=True):
    """One field. `many`: without argument its value is a tuple. How a tuple is tested:

    "list"      in: all values, intersects: any; nothing else
    "ancestors" any ancestor, the process itself excluded
    "sides"     either side of a connection, or any name of an address; for != all must differ
    `dotted`: the argument may also follow after a dot (evt.arg.flags).
    """

    name: str
    type: Type
    doc: str
    argument: Argument = Argument.NONE
    many: str = ""
    dotted: bool = False
    filled: bool = True  # False: known, but absent until its source is built (containers, Kubernetes, DNS)
    extension: bool = False
    deprecated: str = ""


S, P, I, U, B = Type.STRING, Type.PATH, Type.INT, Type.UINT, Type.BOOL  # noqa: E741
_AT, _KEY, _ALL = Argument.OPTIONAL_INDEX, Argument.KEY, "ancestors"

FIELDS: Final = (
    Field("evt.num", U, "number of the event, counted from 1 by the agent"),
    Field("evt.time", S, "local time of day with nanoseconds, HH:MM:SS.nnnnnnnnn; in JSON ns since 1970"),
    Field("evt.time.s", S, "local time of day without fraction"),
    Field("evt.time.iso8601", S, "UTC time as YYYY-MM-DDTHH:MM:SS.nnnnnnnnn+0000; in JSON ns since 1970"),
    Field("evt.datetime", S, "local date and time with nanoseconds"),
    Field("evt.datetime.s", S, "local date and time without fraction"),
    Field("evt.rawtime", Type.TIME, "ns since 1970"),
    Field("evt.rawtime.s", Type.TIME, "whole seconds since 1970"),
    Field("evt.rawtime.ns", Type.TIME, "the fraction of evt.rawtime, in ns"),
    Field("evt.reltime", Type.DURATION, "ns since the agent's (or the recording's) first event"),
    Field("evt.reltime.s", Type.DURATION, "whole seconds of evt.reltime"),
    Field("evt.reltime.ns", Type.DURATION, "the fraction of evt.reltime, in ns"),
    Field("evt.source", S, "name of the event source: syscall"),
    Field("evt.hostname", S, "this host's name"),
    Field("evt.is_async", B, "always false: no event of bpfence is asynchronous"),
    Field("evt.dir", S, "always <: events are reported once, with their result", deprecated="every event has its result: leave the test out"),
    Field("evt.type", S, "name of the event, for system calls the call's name"),
    Field("evt.type.is", U, "1 for events of the type that is named (evt.type.is.open), 0 for others", _KEY, dotted=True),
    Field("syscall.type", S, "name of the system call; absent for events that are none"),
    Field("evt.category", S, "kind of event: file, net, process, user, system, signal, ipc, memory or other"),
    Field("evt.cpu", I, "processor on which the event happened"),
    Field("evt.args", S, "all arguments, as name=value joined by spaces"),
    Field("evt.info", S, "the same as evt.args"),
    Field("evt.arg", S, "one argument as text, by name (evt.arg.flags, evt.arg[flags]) or by number from 0", _KEY, dotted=True),
    Field("evt.rawarg", Type.DYNAMIC, "one argument as it is: numbers as numbers", _KEY, dotted=True),
    Field("evt.buffer", Type.BYTES, "data read or written; absent: bpfence never copies it", filled=False),
    Field("evt.buflen", U, "length of the data; absent", filled=False),
    *(Field(f"evt.buflen.{what}", U, "absent: bpfence never copies data", filled=False)
      for what in ("file", "file.in", "file.out", "net", "net.in", "net.out")),
    Field("evt.res", S, "SUCCESS, or the error's name (ENOENT)"),
    Field("evt.rawres", I, "the return value; negative errno for errors"),
    Field("evt.failed", B, "the call returned an error"),
    Field("evt.count", U, "always 1"),
    Field("evt.count.error", U, "1 where the call has failed, else absent"),
    Field("evt.count.error.file", U, "1 where a call on files has failed, else absent"),
    Field("evt.count.error.net", U, "1 where a call on sockets has failed, else absent"),
    Field("evt.count.error.memory", U, "1 where a call on memory has failed, else absent"),
    Field("evt.count.error.other", U, "1 where another call has failed, else absent"),
    Field("evt.count.exit", U, "always 1: events are reported when the call has returned"),
    Field("evt.outputtime", S, "the same as evt.time"),
    Field("evt.around", U, "absent: it chooses a part of a capture by time, and bpfence reads no captures", _KEY, filled=False),
    Field("evt.is_open_read", B, "opened for reading"),
    Field("evt.is_open_write", B, "opened for writing"),
    Field("evt.is_open_exec", B, "created with an execute permission"),
    Field("evt.is_open_create", B, "created by the open (O_CREAT or O_TMPFILE, and the call succeeded)"),
    Field("evt.abspath", P, "absolute path made of a directory descriptor and a name"),
    Field("evt.abspath.src", P, "the same for the source of a call with two paths"),
    Field("evt.abspath.dst", P, "the same for the destination of a call with two paths"),
    Field("evt.latency", Type.DURATION, "absent: enter events are not reported", filled=False),
    Field("evt.latency.s", Type.DURATION, "absent", filled=False),
    Field("evt.latency.ns", Type.DURATION, "absent", filled=False),
    Field("evt.latency.human", S, "absent", filled=False),
    Field("evt.latency.quantized", U, "absent", filled=False),
    Field("evt.is_io", B, "absent: reads and writes are not reported", filled=False),
    Field("evt.is_io_read", B, "absent", filled=False),
    Field("evt.is_io_write", B, "absent", filled=False),
    Field("evt.io_dir", S, "absent", filled=False),
    Field("evt.is_wait", B, "absent: waiting calls are not reported", filled=False),
    Field("evt.wait_latency", Type.DURATION, "absent", filled=False),
    Field("evt.is_syslog", B, "absent", filled=False),
    Field("evt.asynctype", S, "absent: no event is asynchronous", filled=False),
    Field("evt.pluginname", S, "absent: no event comes from a plugin", filled=False),
    Field("evt.plugininfo", S, "absent", filled=False),
    Field("evt.deltatime.s", Type.DURATION, "whole seconds of evt.deltatime"),
    Field("evt.deltatime.ns", Type.DURATION, "the fraction of evt.deltatime, in ns"),
    Field("evt.deltatime", Type.DURATION, "ns since the previous event reported"),
    Field("proc.exe", S, "argv[0] as given; what `exec -a` can set"),
    Field("proc.pexe", S, "proc.exe of the parent"),
    Field("proc.aexe", S, "proc.exe of an ancestor: [0] the process, [1] its parent; without index any ancestor", _AT, _ALL),
    Field("proc.exepath", P, "path of the executable, symbolic links resolved by the kernel"),
    Field("proc.pexepath", P, "proc.exepath of the parent"),
    Field("proc.aexepath", P, "proc.exepath of an ancestor", _AT, _ALL),
    Field("proc.name", S, "command name (comm), at most 15 bytes"),
    Field("proc.pname", S, "proc.name of the parent"),
    Field("proc.aname", S, "proc.name of an ancestor", _AT, _ALL),
    Field("proc.args", S, "arguments after argv[0], joined by one space; inside join and getopt the list of them; one by number from 0: proc.args[0]", _AT),
    Field("proc.aargs", S, "proc.args of an ancestor", _AT, _ALL),
    Field("proc.cmdline", S, "proc.name and proc.args, joined by one space"),
    Field("proc.pcmdline", S, "proc.cmdline of the parent"),
    Field("proc.acmdline", S, "proc.cmdline of an ancestor", _AT, _ALL),
    Field("proc.cmdnargs", U, "number of arguments after argv[0]"),
    Field("proc.cmdlenargs", U, "bytes of all arguments after argv[0], separators not counted"),
    Field("proc.exeline", S, "proc.exe and proc.args, joined by one space"),
    Field("proc.env", S, "environment as NAME=value joined by spaces, or one variable: proc.env[NAME]", Argument.OPTIONAL_KEY),
    Field("proc.aenv", S, "environment of an ancestor by number; a variable of the nearest ancestor that has it by name", Argument.OPTIONAL_KEY, _ALL),
    Field("proc.cwd", P, "current working directory"),
    Field("proc.loginshellid", I, "pid of the oldest shell among the ancestors"),
    Field("proc.tty", U, "number of the controlling terminal; 0 without one"),
    Field("proc.pid", I, "process id"),
    Field("proc.ppid", I, "process id of the parent"),
    Field("proc.apid", I, "process id of an ancestor", _AT, _ALL),
    Field("proc.vpid", I, "process id in its own pid namespace"),
    Field("proc.pvpid", I, "process id of the parent in its own pid namespace"),
    Field("proc.sid", I, "session id"),
    Field("proc.sname", S, "name of the session's leader"),
    Field("proc.sid.exe", S, "argv[0] of the session's leader"),
    Field("proc.sid.exepath", P, "executable of the session's leader"),
    Field("proc.pgid", I, "process group id"),
    Field("proc.pgid.name", S, "name of the process group's leader"),
    Field("proc.pgid.exe", S, "argv[0] of the process group's leader"),
    Field("proc.pgid.exepath", P, "executable of the process group's leader"),
    Field("proc.vpgid", I, "process group id in its own pid namespace"),
    Field("proc.vpgid.name", S, "name of the process group's leader"),
    Field("proc.vpgid.exe", S, "argv[0] of the process group's leader"),
    Field("proc.vpgid.exepath", P, "executable of the process group's leader"),
    Field("proc.duration", Type.DURATION, "ns since the process started"),
    Field("proc.ppid.duration", Type.DURATION, "ns since the parent started"),
    Field("proc.pid.ts", Type.TIME, "start of the process, ns since 1970"),
    Field("proc.ppid.ts", Type.TIME, "start of the parent, ns since 1970"),
    Field("proc.is_exe_writable", B, "the executable is writable by the user who started it"),
    Field("proc.is_exe_upper_layer", B, "the executable lies in the upper layer of an overlay"),
    Field("proc.is_exe_lower_layer", B, "the executable lies in a lower layer of an overlay"),
    Field("proc.is_exe_from_memfd", B, "the executable was made by memfd_create"),
    Field("proc.is_sid_leader", B, "the process leads its session"),
    Field("proc.is_pgid_leader", B, "the process leads its process group"),
    Field("proc.is_vpgid_leader", B, "the process leads its process group, ids of its own pid namespace"),
    Field("proc.exe_ino", I, "inode of the executable"),
    Field("proc.exe_ino.ctime", Type.TIME, "last status change of the executable, ns since 1970"),
    Field("proc.exe_ino.mtime", Type.TIME, "last modification of the executable, ns since 1970"),
    Field("proc.exe_ino.ctime_duration_proc_start", Type.DURATION, "ns from the executable's last status change to the start of the process"),
    Field("proc.exe_ino.ctime_duration_pidns_start", Type.DURATION, "ns from the start of the pid namespace to the executable's last status change"),
    Field("proc.pidns_init_start_ts", Type.TIME, "start of the pid namespace, ns since 1970"),
    Field("proc.is_container_healthcheck", B, "part of a container's health check", filled=False),
    Field("proc.is_container_liveness_probe", B, "part of a container's liveness probe", filled=False),
    Field("proc.is_container_readiness_probe", B, "part of a container's readiness probe", filled=False),
    Field("proc.fdopencount", U, "number of open descriptors", filled=False),
    Field("proc.fdlimit", I, "limit of open descriptors", filled=False),
    Field("proc.stdin.type", S, "type of descriptor 0"),
    Field("proc.stdout.type", S, "type of descriptor 1"),
    Field("proc.stderr.type", S, "type of descriptor 2"),
    Field("proc.stdin.name", S, "name of descriptor 0"),
    Field("proc.stdout.name", S, "name of descriptor 1"),
    Field("proc.stderr.name", S, "name of descriptor 2"),
    Field("proc.nthreads", U, "number of threads; read after the act"),
    Field("proc.nchilds", U, "number of threads but the main one; read after the act"),
    Field("proc.fdusage", Type.DOUBLE, "open descriptors by their limit", filled=False),
    Field("proc.vmsize", U, "virtual memory, in KiB; read after the act"),
    Field("proc.vmrss", U, "resident memory, in KiB; read after the act"),
    Field("proc.vmswap", U, "swapped memory, in KiB; read after the act"),
    Field("thread.pfmajor", U, "major page faults", filled=False),
    Field("thread.pfminor", U, "minor page faults", filled=False),
    Field("thread.exectime", Type.DURATION, "absent: scheduling is not reported", filled=False),
    Field("thread.totexectime", Type.DURATION, "absent", filled=False),
    *(Field(f"thread.cpu{part}", Type.DOUBLE, "absent: scheduling is not reported", filled=False) for part in ("", ".user", ".system")),
    Field("thread.vmsize", U, "virtual memory of a main thread, in KiB; 0 of other threads; read after the act"),
    Field("thread.vmrss", U, "resident memory of a main thread, in KiB; 0 of other threads; read after the act"),
    Field("thread.nametid", S, "proc.name and the thread id in one"),
    Field("thread.tid", I, "thread id"),
    Field("thread.vtid", I, "thread id in its own pid namespace"),
    Field("thread.ismain", B, "the thread is the main one"),
    Field("thread.cap_permitted", S, "permitted capabilities, CAP_* joined by spaces"),
    Field("thread.cap_inheritable", S, "inheritable capabilities"),
    Field("thread.cap_effective", S, "effective capabilities"),
    Field("thread.cgroups", S, "cgroups of the thread"),
    Field("thread.cgroup", S, "cgroup of the thread in one hierarchy", _KEY, dotted=True),
    Field("user.uid", U, "effective user id"),
    Field("user.name", S, "name of the effective user, from the user database of the process's root"),
    Field("user.homedir", S, "home directory of the user"),
    Field("user.shell", S, "login shell of the user"),
    Field("user.loginuid", I, "login (audit) user id; -1 when not set"),
    Field("user.loginname", S, "name of the login user"),
    Field("group.gid", U, "effective group id"),
    Field("group.name", S, "name of the effective group"),
    Field("container.id", S, "first 12 characters of the container's id, from the cgroup; `host` outside of containers"),
    Field("container.full_id", S, "the container's id", filled=False),
    Field("container.name", S, "the container's name; `host` outside of containers", filled=False),
    Field("container.image", S, "image as the runtime names it", filled=False),
    Field("container.image.id", S, "id of the image", filled=False),
    Field("container.image.repository", S, "image without tag and digest", filled=False),
    Field("container.image.tag", S, "tag of the image", filled=False),
    Field("container.image.digest", S, "digest of the image", filled=False),
    Field("container.type", S, "runtime: docker, containerd, cri-o, podman", filled=False),
    Field("container.privileged", B, "the process in a container has every capability that the kernel knows in its bounding set; absent on the host"),
    Field("container.mounts", S, "mounts, source:dest:mode:rdwr:propagation joined by spaces", filled=False),
    Field("container.mount", S, "one mount, by number or source", _KEY, filled=False),
    Field("container.mount.source", S, "source of a mount, by number or destination", _KEY, filled=False),
    Field("container.mount.dest", S, "destination of a mount, by number or source", _KEY, filled=False),
    Field("container.mount.mode", S, "mode of a mount", _KEY, filled=False),
    Field("container.mount.rdwr", S, "whether a mount is writable", _KEY, filled=False),
    Field("container.mount.propagation", S, "propagation of a mount", _KEY, filled=False),
    Field("container.label", S, "a label of the container", _KEY, dotted=True, filled=False),
    Field("container.labels", S, "labels, name:value joined by commas", filled=False),
    Field("container.healthcheck", S, "health check command", filled=False),
    Field("container.liveness_probe", S, "liveness probe command", filled=False),
    Field("container.readiness_probe", S, "readiness probe command", filled=False),
    Field("container.start_ts", Type.TIME, "start of the container, ns since 1970", filled=False),
    Field("container.duration", Type.DURATION, "ns since container.start_ts", filled=False),
    Field("container.ip", S, "primary address of the container", filled=False),
    Field("container.cni.json", S, "result of the network plugin, as JSON", filled=False),
    Field("container.host_pid", B, "the container shares the host's pid namespace", filled=False),
    Field("container.host_network", B, "the container shares the host's network namespace", filled=False),
    Field("container.host_ipc", B, "the container shares the host's ipc namespace", filled=False),
    Field("fd.num", I, "the descriptor; -1 where the call failed to make one"),
    Field("fd.type", S, "file, directory, ipv4, ipv6, unix, pipe, event, signalfd, eventpoll, inotify, bpf, userfaultfd, io_uring, memfd, pidfd"),
    Field("fd.typechar", S, "fd.type as one character: f, d, 4, 6, u, p, e, s, l, i, b, r, m, P, o"),
    Field("fd.name", P, "absolute path (current or given directory and the argument, normalised as text), or the connection's tuple"),
    Field("fd.nameraw", P, "the path argument as given"),
    Field("fd.directory", P, "directory of fd.name"),
    Field("fd.filename", S, "last component of fd.name"),
    Field("fd.ip", Type.IP, "either address of a connection", many="sides"),
    Field("fd.cip", Type.IP, "address of the client"),
    Field("fd.sip", Type.IP, "address of the server"),
    Field("fd.lip", Type.IP, "own address"),
    Field("fd.rip", Type.IP, "address of the other side"),
    Field("fd.port", Type.PORT, "either port of a connection", many="sides"),
    Field("fd.cport", Type.PORT, "port of the client"),
    Field("fd.sport", Type.PORT, "port of the server"),
    Field("fd.lport", Type.PORT, "own port"),
    Field("fd.rport", Type.PORT, "port of the other side"),
    Field("fd.l4proto", S, "tcp, udp, icmp or raw"),
    Field("fd.sockfamily", S, "ip or unix"),
    Field("fd.is_server", B, "this process is the server of the connection"),
    Field("fd.uid", S, "descriptor and thread id in one"),
    Field("fd.containername", S, "container.id and fd.name, joined by a colon"),
    Field("fd.containerdirectory", S, "container.id and fd.directory, joined by a colon"),
    Field("fd.proto", S, "service name of either port", many="sides"),
    Field("fd.cproto", S, "service name of the client's port"),
    Field("fd.sproto", S, "service name of the server's port"),
    Field("fd.lproto", S, "service name of the own port"),
    Field("fd.rproto", S, "service name of the other side's port"),
    Field("fd.net", Type.NET, "either address, compared with networks", many="sides"),
    Field("fd.cnet", Type.NET, "the client's address, compared with networks"),
    Field("fd.snet", Type.NET, "the server's address, compared with networks"),
    Field("fd.lnet", Type.NET, "the own address, compared with networks"),
    Field("fd.rnet", Type.NET, "the other side's address, compared with networks"),
    Field("fd.connected", B, "the socket is connected"),
    Field("fd.name_changed", B, "the event changed the descriptor's name (an unconnected UDP socket with a new peer)"),
    Field("fd.cip.name", S, "domain name of the client: of the names that rules compare it with, those that resolve to the address", many="sides"),
    Field("fd.sip.name", S, "domain name of the server: of the names that rules compare it with, those that resolve to the address", many="sides"),
    Field("fd.lip.name", S, "domain name of the own address: of the names that rules compare it with, those that resolve to the address", many="sides"),
    Field("fd.rip.name", S, "domain name of the other side: of the names that rules compare it with, those that resolve to the address", many="sides"),
    Field("fd.dev", I, "device that holds the file"),
    Field("fd.dev.major", I, "major number of fd.dev"),
    Field("fd.dev.minor", I, "minor number of fd.dev"),
    Field("fd.ino", I, "inode of the file"),
    Field("fd.types", S, "types of all open descriptors, or of one: fd.types[0]", _AT, "list"),
    Field("fd.is_upper_layer", B, "the file lies in the upper layer of an overlay", filled=False),
    Field("fd.is_lower_layer", B, "the file lies in a lower layer of an overlay", filled=False),
    *(Field(f"fdlist.{what}", S, "absent: poll(2) and its kin are not reported", filled=False)
      for what in ("nums", "names", "cips", "sips", "cports", "sports")),
    Field("fs.path.name", P, "absolute path that the call works on"),
    Field("fs.path.nameraw", P, "that path as given"),
    Field("fs.path.source", P, "absolute source path of a call with two"),
    Field("fs.path.sourceraw", P, "that path as given"),
    Field("fs.path.target", P, "absolute target path of a call with two"),
    Field("fs.path.targetraw", P, "that path as given"),
    Field("util.cnt", U, "absent: a counter of a field's own uses, which depends on how conditions are evaluated", filled=False),
    Field("k8s.ns.name", S, "namespace of the pod", filled=False),
    Field("k8s.pod.name", S, "name of the pod", filled=False),
    Field("k8s.pod.id", S, "the same as k8s.pod.uid", filled=False),
    Field("k8s.pod.uid", S, "uid of the pod", filled=False),
    Field("k8s.pod.sandbox_id", S, "first 12 characters of the sandbox container's id", filled=False),
    Field("k8s.pod.full_sandbox_id", S, "the sandbox container's id", filled=False),
    Field("k8s.pod.label", S, "a label of the pod", _KEY, dotted=True, filled=False),
    Field("k8s.pod.labels", S, "labels of the pod, name:value joined by commas", filled=False),
    Field("k8s.pod.ip", S, "address of the pod", filled=False),
    Field("k8s.pod.cni.json", S, "result of the network plugin, as JSON", filled=False),
    Field("bpfence.path", P, "path of an opened file as the kernel resolved it, symbolic links and all; what decides fd.name under strict_paths: kernel", extension=True),
    Field("bpfence.async", B, "reported at once, as the work of io_uring is, without its result: it is taken to have succeeded", extension=True),
)  # fmt: skip

FIELD_BY_NAME: Final = {field.name: field for field in FIELDS}
CLASSES: Final = {
    "evt": "the event", "syscall": "the event", "proc": "the process", "thread": "the thread", "user": "the user", "group": "the group",
    "container": "the container", "fd": "the file descriptor", "fdlist": "descriptors that are waited for", "util": "counters", "fs": "paths of calls that take no descriptor", "k8s": "the pod",
    "bpfence": "what Falco does not have",
}  # fmt: skip

_DOTTED: Final = tuple(field for field in FIELDS if field.dotted)
_DOTTED_ARGUMENT: Final = r"[A-Za-z0-9_]+(?:[./-][A-Za-z0-9_]+)*"
_SPELLED: Final = re.compile("|".join(re.escape(name) for name in sorted(FIELD_BY_NAME, key=len, reverse=True)))
_AFTER_DOT: Final = {
    field.name: re.compile(r"\.(" + ("[A-Za-z0-9_]+" if field.name.startswith("evt.") else _DOTTED_ARGUMENT) + ")") for field in _DOTTED
}
_BRACKETED: Final = re.compile(r"""\[(?:"([^"\]]*)"|'([^'\]]*)'|([^\]\["'\s]+))\]""")


class Use(NamedTuple):
    """A field with its argument, as a condition or an output names it."""

    field: Field
    argument: str | None

    @property
    def spelled(self) -> str:
        """The name that Falco's output_fields give it: an argument after a dot stays there."""
        if self.argument is None:
            return self.field.name
        return f"{self.field.name}.{self.argument}" if self.field.dotted else f"{self.field.name}[{self.argument}]"

    @property
    def many(self) -> str:
        """How its tuple is tested; empty where it has one value."""
        return self.field.many if self.argument is None else ""


@lru_cache(maxsize=4096)
def lookup(name: str, argument: str | None = None) -> Use | None:
    """The field of a dotted name, None where there is none. Does not judge the argument."""
    field = FIELD_BY_NAME.get(name)
    if field is not None:
        return Use(field, argument)
    for dotted in _DOTTED:
        if argument is None and name.startswith(dotted.name + ".") and len(name) > len(dotted.name) + 1:
            return Use(dotted, name[len(dotted.name) + 1 :])
    return None


def longest(text: str, at: int) -> tuple[Use, int] | None:
    """The longest field that begins at an offset of an output, with the offset after it and its argument."""
    found = _SPELLED.match(text, at)
    if found is None:
        return None
    field = FIELD_BY_NAME[found.group()]
    end = found.end()
    if field.argument is Argument.NONE:
        return Use(field, None), end
    bracketed = _BRACKETED.match(text, end)
    if bracketed:
        return Use(field, next(group for group in bracketed.groups() if group is not None)), bracketed.end()
    after = _AFTER_DOT[field.name].match(text, end) if field.dotted else None
    if after:
        return Use(field, after.group(1)), after.end()
    return Use(field, None), end


def argument_problem(use: Use) -> str:
    """What is wrong with a field's argument, empty where nothing is."""
    wanted, given = use.field.argument, use.argument
    if wanted is Argument.NONE and given is not None:
        return f"{use.field.name} takes no argument"
    if wanted in (Argument.INDEX, Argument.KEY) and given is None:
        return f"{use.field.name} needs an argument"
    if (
        wanted in (Argument.INDEX, Argument.OPTIONAL_INDEX)
        and given is not None
        and not (given.isascii() and given.isdigit() and len(given) < 6)
    ):
        return f"the argument of {use.field.name} must be a number"
    if given == "":
        return f"the argument of {use.field.name} is empty"
    return ""
