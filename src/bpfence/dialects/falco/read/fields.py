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
    """The type of a field's values. It decides the operators and how operands are written."""

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


class FieldArgument(enum.Enum):
    """Whether and how a field takes an argument in brackets."""

    NONE = "none"
    INDEX = "index"  # required number
    KEY = "key"  # required text or number
    OPTIONAL_INDEX = "index?"  # without it: all of them
    OPTIONAL_KEY = "key?"


class FalcoField(msgspec.Struct, frozen=True):
    """One field. `many`: without argument its value is a tuple. How a tuple is tested:

    "list"      in: all values, intersects: any; nothing else
    "ancestors" any ancestor, the process itself excluded
    "sides"     either side of a connection, or any name of an address; for != all must differ
    `dotted`: the argument may also follow after a dot (evt.arg.flags).
    """

    name: str
    type: Type
    doc: str
    argument: FieldArgument = FieldArgument.NONE
    many: str = ""
    dotted: bool = False
    filled: bool = True  # False: known, but absent until its source is built (containers, Kubernetes, DNS)
    extension: bool = False
    deprecated: str = ""


S, P, I, U, B = Type.STRING, Type.PATH, Type.INT, Type.UINT, Type.BOOL  # noqa: E741
_AT, _KEY, _ALL = FieldArgument.OPTIONAL_INDEX, FieldArgument.KEY, "ancestors"

FALCO_FIELDS: Final = (
    FalcoField("evt.num", U, "number of the event, counted from 1 by the agent"),
    FalcoField("evt.time", S, "local time of day with nanoseconds, HH:MM:SS.nnnnnnnnn; in JSON ns since 1970"),
    FalcoField("evt.time.s", S, "local time of day without fraction"),
    FalcoField("evt.time.iso8601", S, "UTC time as YYYY-MM-DDTHH:MM:SS.nnnnnnnnn+0000; in JSON ns since 1970"),
    FalcoField("evt.datetime", S, "local date and time with nanoseconds"),
    FalcoField("evt.datetime.s", S, "local date and time without fraction"),
    FalcoField("evt.rawtime", Type.TIME, "ns since 1970"),
    FalcoField("evt.rawtime.s", Type.TIME, "whole seconds since 1970"),
    FalcoField("evt.rawtime.ns", Type.TIME, "the fraction of evt.rawtime, in ns"),
    FalcoField("evt.reltime", Type.DURATION, "ns since the agent's (or the recording's) first event"),
    FalcoField("evt.reltime.s", Type.DURATION, "whole seconds of evt.reltime"),
    FalcoField("evt.reltime.ns", Type.DURATION, "the fraction of evt.reltime, in ns"),
    FalcoField("evt.source", S, "name of the event source: syscall"),
    FalcoField("evt.hostname", S, "this host's name"),
    FalcoField("evt.is_async", B, "always false: no event of bpfence is asynchronous"),
    FalcoField("evt.dir", S, "always <: events are reported once, with their result", deprecated="every event has its result: leave the test out"),
    FalcoField("evt.type", S, "name of the event, for system calls the call's name"),
    FalcoField("evt.type.is", U, "1 for events of the type that is named (evt.type.is.open), 0 for others", _KEY, dotted=True),
    FalcoField("syscall.type", S, "name of the system call; absent for events that are none"),
    FalcoField("evt.category", S, "kind of event: file, net, process, user, system, signal, ipc, memory or other"),
    FalcoField("evt.cpu", I, "processor on which the event happened"),
    FalcoField("evt.args", S, "all arguments, as name=value joined by spaces"),
    FalcoField("evt.info", S, "the same as evt.args"),
    FalcoField("evt.arg", S, "one argument as text, by name (evt.arg.flags, evt.arg[flags]) or by number from 0", _KEY, dotted=True),
    FalcoField("evt.rawarg", Type.DYNAMIC, "one argument as it is: numbers as numbers", _KEY, dotted=True),
    FalcoField("evt.buffer", Type.BYTES, "data read or written; absent: bpfence never copies it", filled=False),
    FalcoField("evt.buflen", U, "length of the data; absent", filled=False),
    *(FalcoField(f"evt.buflen.{what}", U, "absent: bpfence never copies data", filled=False)
      for what in ("file", "file.in", "file.out", "net", "net.in", "net.out")),
    FalcoField("evt.res", S, "SUCCESS, or the error's name (ENOENT)"),
    FalcoField("evt.rawres", I, "the return value; negative errno for errors"),
    FalcoField("evt.failed", B, "the call returned an error"),
    FalcoField("evt.count", U, "always 1"),
    FalcoField("evt.count.error", U, "1 where the call has failed, else absent"),
    FalcoField("evt.count.error.file", U, "1 where a call on files has failed, else absent"),
    FalcoField("evt.count.error.net", U, "1 where a call on sockets has failed, else absent"),
    FalcoField("evt.count.error.memory", U, "1 where a call on memory has failed, else absent"),
    FalcoField("evt.count.error.other", U, "1 where another call has failed, else absent"),
    FalcoField("evt.count.exit", U, "always 1: events are reported when the call has returned"),
    FalcoField("evt.outputtime", S, "the same as evt.time"),
    FalcoField("evt.around", U, "absent: it chooses a part of a capture by time, and bpfence reads no captures", _KEY, filled=False),
    FalcoField("evt.is_open_read", B, "opened for reading"),
    FalcoField("evt.is_open_write", B, "opened for writing"),
    FalcoField("evt.is_open_exec", B, "created with an execute permission"),
    FalcoField("evt.is_open_create", B, "created by the open (O_CREAT or O_TMPFILE, and the call succeeded)"),
    FalcoField("evt.abspath", P, "absolute path made of a directory descriptor and a name"),
    FalcoField("evt.abspath.src", P, "the same for the source of a call with two paths"),
    FalcoField("evt.abspath.dst", P, "the same for the destination of a call with two paths"),
    FalcoField("evt.latency", Type.DURATION, "absent: enter events are not reported", filled=False),
    FalcoField("evt.latency.s", Type.DURATION, "absent", filled=False),
    FalcoField("evt.latency.ns", Type.DURATION, "absent", filled=False),
    FalcoField("evt.latency.human", S, "absent", filled=False),
    FalcoField("evt.latency.quantized", U, "absent", filled=False),
    FalcoField("evt.is_io", B, "absent: reads and writes are not reported", filled=False),
    FalcoField("evt.is_io_read", B, "absent", filled=False),
    FalcoField("evt.is_io_write", B, "absent", filled=False),
    FalcoField("evt.io_dir", S, "absent", filled=False),
    FalcoField("evt.is_wait", B, "absent: waiting calls are not reported", filled=False),
    FalcoField("evt.wait_latency", Type.DURATION, "absent", filled=False),
    FalcoField("evt.is_syslog", B, "absent", filled=False),
    FalcoField("evt.asynctype", S, "absent: no event is asynchronous", filled=False),
    FalcoField("evt.pluginname", S, "absent: no event comes from a plugin", filled=False),
    FalcoField("evt.plugininfo", S, "absent", filled=False),
    FalcoField("evt.deltatime.s", Type.DURATION, "whole seconds of evt.deltatime"),
    FalcoField("evt.deltatime.ns", Type.DURATION, "the fraction of evt.deltatime, in ns"),
    FalcoField("evt.deltatime", Type.DURATION, "ns since the previous event reported"),
    FalcoField("proc.exe", S, "argv[0] as given; what `exec -a` can set"),
    FalcoField("proc.pexe", S, "proc.exe of the parent"),
    FalcoField("proc.aexe", S, "proc.exe of an ancestor: [0] the process, [1] its parent; without index any ancestor", _AT, _ALL),
    FalcoField("proc.exepath", P, "path of the executable, symbolic links resolved by the kernel"),
    FalcoField("proc.pexepath", P, "proc.exepath of the parent"),
    FalcoField("proc.aexepath", P, "proc.exepath of an ancestor", _AT, _ALL),
    FalcoField("proc.name", S, "command name (comm), at most 15 bytes"),
    FalcoField("proc.pname", S, "proc.name of the parent"),
    FalcoField("proc.aname", S, "proc.name of an ancestor", _AT, _ALL),
    FalcoField("proc.args", S, "arguments after argv[0], joined by one space; inside join and getopt the list of them; one by number from 0: proc.args[0]", _AT),
    FalcoField("proc.aargs", S, "proc.args of an ancestor", _AT, _ALL),
    FalcoField("proc.cmdline", S, "proc.name and proc.args, joined by one space"),
    FalcoField("proc.pcmdline", S, "proc.cmdline of the parent"),
    FalcoField("proc.acmdline", S, "proc.cmdline of an ancestor", _AT, _ALL),
    FalcoField("proc.cmdnargs", U, "number of arguments after argv[0]"),
    FalcoField("proc.cmdlenargs", U, "bytes of all arguments after argv[0], separators not counted"),
    FalcoField("proc.exeline", S, "proc.exe and proc.args, joined by one space"),
    FalcoField("proc.env", S, "environment as NAME=value joined by spaces, or one variable: proc.env[NAME]", FieldArgument.OPTIONAL_KEY),
    FalcoField("proc.aenv", S, "environment of an ancestor by number; a variable of the nearest ancestor that has it by name", FieldArgument.OPTIONAL_KEY, _ALL),
    FalcoField("proc.cwd", P, "current working directory"),
    FalcoField("proc.loginshellid", I, "pid of the oldest shell among the ancestors"),
    FalcoField("proc.tty", U, "number of the controlling terminal; 0 without one"),
    FalcoField("proc.pid", I, "process id"),
    FalcoField("proc.ppid", I, "process id of the parent"),
    FalcoField("proc.apid", I, "process id of an ancestor", _AT, _ALL),
    FalcoField("proc.vpid", I, "process id in its own pid namespace"),
    FalcoField("proc.pvpid", I, "process id of the parent in its own pid namespace"),
    FalcoField("proc.sid", I, "session id"),
    FalcoField("proc.sname", S, "name of the session's leader"),
    FalcoField("proc.sid.exe", S, "argv[0] of the session's leader"),
    FalcoField("proc.sid.exepath", P, "executable of the session's leader"),
    FalcoField("proc.pgid", I, "process group id"),
    FalcoField("proc.pgid.name", S, "name of the process group's leader"),
    FalcoField("proc.pgid.exe", S, "argv[0] of the process group's leader"),
    FalcoField("proc.pgid.exepath", P, "executable of the process group's leader"),
    FalcoField("proc.vpgid", I, "process group id in its own pid namespace"),
    FalcoField("proc.vpgid.name", S, "name of the process group's leader"),
    FalcoField("proc.vpgid.exe", S, "argv[0] of the process group's leader"),
    FalcoField("proc.vpgid.exepath", P, "executable of the process group's leader"),
    FalcoField("proc.duration", Type.DURATION, "ns since the process started"),
    FalcoField("proc.ppid.duration", Type.DURATION, "ns since the parent started"),
    FalcoField("proc.pid.ts", Type.TIME, "start of the process, ns since 1970"),
    FalcoField("proc.ppid.ts", Type.TIME, "start of the parent, ns since 1970"),
    FalcoField("proc.is_exe_writable", B, "the executable is writable by the user who started it"),
    FalcoField("proc.is_exe_upper_layer", B, "the executable lies in the upper layer of an overlay"),
    FalcoField("proc.is_exe_lower_layer", B, "the executable lies in a lower layer of an overlay"),
    FalcoField("proc.is_exe_from_memfd", B, "the executable was made by memfd_create"),
    FalcoField("proc.is_sid_leader", B, "the process leads its session"),
    FalcoField("proc.is_pgid_leader", B, "the process leads its process group"),
    FalcoField("proc.is_vpgid_leader", B, "the process leads its process group, ids of its own pid namespace"),
    FalcoField("proc.exe_ino", I, "inode of the executable"),
    FalcoField("proc.exe_ino.ctime", Type.TIME, "last status change of the executable, ns since 1970"),
    FalcoField("proc.exe_ino.mtime", Type.TIME, "last modification of the executable, ns since 1970"),
    FalcoField("proc.exe_ino.ctime_duration_proc_start", Type.DURATION, "ns from the executable's last status change to the start of the process"),
    FalcoField("proc.exe_ino.ctime_duration_pidns_start", Type.DURATION, "ns from the start of the pid namespace to the executable's last status change"),
    FalcoField("proc.pidns_init_start_ts", Type.TIME, "start of the pid namespace, ns since 1970"),
    FalcoField("proc.is_container_healthcheck", B, "part of a container's health check", filled=False),
    FalcoField("proc.is_container_liveness_probe", B, "part of a container's liveness probe", filled=False),
    FalcoField("proc.is_container_readiness_probe", B, "part of a container's readiness probe", filled=False),
    FalcoField("proc.fdopencount", U, "number of open descriptors", filled=False),
    FalcoField("proc.fdlimit", I, "limit of open descriptors", filled=False),
    FalcoField("proc.stdin.type", S, "type of descriptor 0"),
    FalcoField("proc.stdout.type", S, "type of descriptor 1"),
    FalcoField("proc.stderr.type", S, "type of descriptor 2"),
    FalcoField("proc.stdin.name", S, "name of descriptor 0"),
    FalcoField("proc.stdout.name", S, "name of descriptor 1"),
    FalcoField("proc.stderr.name", S, "name of descriptor 2"),
    FalcoField("proc.nthreads", U, "number of threads; read after the act"),
    FalcoField("proc.nchilds", U, "number of threads but the main one; read after the act"),
    FalcoField("proc.fdusage", Type.DOUBLE, "open descriptors by their limit", filled=False),
    FalcoField("proc.vmsize", U, "virtual memory, in KiB; read after the act"),
    FalcoField("proc.vmrss", U, "resident memory, in KiB; read after the act"),
    FalcoField("proc.vmswap", U, "swapped memory, in KiB; read after the act"),
    FalcoField("thread.pfmajor", U, "major page faults", filled=False),
    FalcoField("thread.pfminor", U, "minor page faults", filled=False),
    FalcoField("thread.exectime", Type.DURATION, "absent: scheduling is not reported", filled=False),
    FalcoField("thread.totexectime", Type.DURATION, "absent", filled=False),
    *(FalcoField(f"thread.cpu{part}", Type.DOUBLE, "absent: scheduling is not reported", filled=False) for part in ("", ".user", ".system")),
    FalcoField("thread.vmsize", U, "virtual memory of a main thread, in KiB; 0 of other threads; read after the act"),
    FalcoField("thread.vmrss", U, "resident memory of a main thread, in KiB; 0 of other threads; read after the act"),
    FalcoField("thread.nametid", S, "proc.name and the thread id in one"),
    FalcoField("thread.tid", I, "thread id"),
    FalcoField("thread.vtid", I, "thread id in its own pid namespace"),
    FalcoField("thread.ismain", B, "the thread is the main one"),
    FalcoField("thread.cap_permitted", S, "permitted capabilities, CAP_* joined by spaces"),
    FalcoField("thread.cap_inheritable", S, "inheritable capabilities"),
    FalcoField("thread.cap_effective", S, "effective capabilities"),
    FalcoField("thread.cgroups", S, "cgroups of the thread"),
    FalcoField("thread.cgroup", S, "cgroup of the thread in one hierarchy", _KEY, dotted=True),
    FalcoField("user.uid", U, "effective user id"),
    FalcoField("user.name", S, "name of the effective user, from the user database of the process's root"),
    FalcoField("user.homedir", S, "home directory of the user"),
    FalcoField("user.shell", S, "login shell of the user"),
    FalcoField("user.loginuid", I, "login (audit) user id; -1 when not set"),
    FalcoField("user.loginname", S, "name of the login user"),
    FalcoField("group.gid", U, "effective group id"),
    FalcoField("group.name", S, "name of the effective group"),
    FalcoField("container.id", S, "first 12 characters of the container's id, from the cgroup; `host` outside of containers"),
    FalcoField("container.full_id", S, "the container's id"),
    FalcoField("container.name", S, "the container's name; `host` outside of containers"),
    FalcoField("container.image", S, "image as the runtime names it"),
    FalcoField("container.image.id", S, "id of the image"),
    FalcoField("container.image.repository", S, "image without tag and digest"),
    FalcoField("container.image.tag", S, "tag of the image"),
    FalcoField("container.image.digest", S, "digest of the image"),
    FalcoField("container.type", S, "runtime: docker, containerd, cri-o, podman"),
    FalcoField("container.privileged", B, "the process in a container has every capability that the kernel knows in its bounding set; absent on the host"),
    FalcoField("container.mounts", S, "mounts, source:dest:mode:rdwr:propagation joined by spaces"),
    FalcoField("container.mount", S, "one mount, by number or source", _KEY),
    FalcoField("container.mount.source", S, "source of a mount, by number or destination", _KEY),
    FalcoField("container.mount.dest", S, "destination of a mount, by number or source", _KEY),
    FalcoField("container.mount.mode", S, "mode of a mount", _KEY),
    FalcoField("container.mount.rdwr", S, "whether a mount is writable", _KEY),
    FalcoField("container.mount.propagation", S, "propagation of a mount", _KEY),
    FalcoField("container.label", S, "a label of the container", _KEY, dotted=True),
    FalcoField("container.labels", S, "labels, name:value joined by commas"),
    FalcoField("container.healthcheck", S, "health check command", filled=False),
    FalcoField("container.liveness_probe", S, "liveness probe command", filled=False),
    FalcoField("container.readiness_probe", S, "readiness probe command", filled=False),
    FalcoField("container.start_ts", Type.TIME, "start of the container, ns since 1970"),
    FalcoField("container.duration", Type.DURATION, "ns since container.start_ts"),
    FalcoField("container.ip", S, "primary address of the container", filled=False),
    FalcoField("container.cni.json", S, "result of the network plugin, as JSON", filled=False),
    FalcoField("container.host_pid", B, "the container shares the host's pid namespace", filled=False),
    FalcoField("container.host_network", B, "the container shares the host's network namespace", filled=False),
    FalcoField("container.host_ipc", B, "the container shares the host's ipc namespace", filled=False),
    FalcoField("fd.num", I, "the descriptor; -1 where the call failed to make one"),
    FalcoField("fd.type", S, "file, directory, ipv4, ipv6, unix, pipe, event, signalfd, eventpoll, inotify, bpf, userfaultfd, io_uring, memfd, pidfd"),
    FalcoField("fd.typechar", S, "fd.type as one character: f, d, 4, 6, u, p, e, s, l, i, b, r, m, P, o"),
    FalcoField("fd.name", P, "absolute path (current or given directory and the argument, normalised as text), or the connection's tuple"),
    FalcoField("fd.nameraw", P, "the path argument as given"),
    FalcoField("fd.directory", P, "directory of fd.name"),
    FalcoField("fd.filename", S, "last component of fd.name"),
    FalcoField("fd.ip", Type.IP, "either address of a connection", many="sides"),
    FalcoField("fd.cip", Type.IP, "address of the client"),
    FalcoField("fd.sip", Type.IP, "address of the server"),
    FalcoField("fd.lip", Type.IP, "own address"),
    FalcoField("fd.rip", Type.IP, "address of the other side"),
    FalcoField("fd.port", Type.PORT, "either port of a connection", many="sides"),
    FalcoField("fd.cport", Type.PORT, "port of the client"),
    FalcoField("fd.sport", Type.PORT, "port of the server"),
    FalcoField("fd.lport", Type.PORT, "own port"),
    FalcoField("fd.rport", Type.PORT, "port of the other side"),
    FalcoField("fd.l4proto", S, "tcp, udp, icmp or raw"),
    FalcoField("fd.sockfamily", S, "ip or unix"),
    FalcoField("fd.is_server", B, "this process is the server of the connection"),
    FalcoField("fd.uid", S, "descriptor and thread id in one"),
    FalcoField("fd.containername", S, "container.id and fd.name, joined by a colon"),
    FalcoField("fd.containerdirectory", S, "container.id and fd.directory, joined by a colon"),
    FalcoField("fd.proto", S, "service name of either port", many="sides"),
    FalcoField("fd.cproto", S, "service name of the client's port"),
    FalcoField("fd.sproto", S, "service name of the server's port"),
    FalcoField("fd.lproto", S, "service name of the own port"),
    FalcoField("fd.rproto", S, "service name of the other side's port"),
    FalcoField("fd.net", Type.NET, "either address, compared with networks", many="sides"),
    FalcoField("fd.cnet", Type.NET, "the client's address, compared with networks"),
    FalcoField("fd.snet", Type.NET, "the server's address, compared with networks"),
    FalcoField("fd.lnet", Type.NET, "the own address, compared with networks"),
    FalcoField("fd.rnet", Type.NET, "the other side's address, compared with networks"),
    FalcoField("fd.connected", B, "the socket is connected"),
    FalcoField("fd.name_changed", B, "the event changed the descriptor's name (an unconnected UDP socket with a new peer)"),
    FalcoField("fd.cip.name", S, "domain name of the client: of the names that rules compare it with, those that resolve to the address", many="sides"),
    FalcoField("fd.sip.name", S, "domain name of the server: of the names that rules compare it with, those that resolve to the address", many="sides"),
    FalcoField("fd.lip.name", S, "domain name of the own address: of the names that rules compare it with, those that resolve to the address", many="sides"),
    FalcoField("fd.rip.name", S, "domain name of the other side: of the names that rules compare it with, those that resolve to the address", many="sides"),
    FalcoField("fd.dev", I, "device that holds the file"),
    FalcoField("fd.dev.major", I, "major number of fd.dev"),
    FalcoField("fd.dev.minor", I, "minor number of fd.dev"),
    FalcoField("fd.ino", I, "inode of the file"),
    FalcoField("fd.types", S, "types of all open descriptors, or of one: fd.types[0]", _AT, "list"),
    FalcoField("fd.is_upper_layer", B, "the file lies in the upper layer of an overlay", filled=False),
    FalcoField("fd.is_lower_layer", B, "the file lies in a lower layer of an overlay", filled=False),
    *(FalcoField(f"fdlist.{what}", S, "absent: poll(2) and its kin are not reported", filled=False)
      for what in ("nums", "names", "cips", "sips", "cports", "sports")),
    FalcoField("fs.path.name", P, "absolute path that the call works on"),
    FalcoField("fs.path.nameraw", P, "that path as given"),
    FalcoField("fs.path.source", P, "absolute source path of a call with two"),
    FalcoField("fs.path.sourceraw", P, "that path as given"),
    FalcoField("fs.path.target", P, "absolute target path of a call with two"),
    FalcoField("fs.path.targetraw", P, "that path as given"),
    FalcoField("util.cnt", U, "absent: a counter of a field's own uses, which depends on how conditions are evaluated", filled=False),
    FalcoField("k8s.ns.name", S, "namespace of the pod"),
    FalcoField("k8s.pod.name", S, "name of the pod"),
    FalcoField("k8s.pod.id", S, "the same as k8s.pod.uid"),
    FalcoField("k8s.pod.uid", S, "uid of the pod"),
    FalcoField("k8s.pod.sandbox_id", S, "first 12 characters of the sandbox container's id", filled=False),
    FalcoField("k8s.pod.full_sandbox_id", S, "the sandbox container's id", filled=False),
    FalcoField("k8s.pod.label", S, "a label of the pod", _KEY, dotted=True),
    FalcoField("k8s.pod.labels", S, "labels of the pod, name:value joined by commas"),
    FalcoField("k8s.pod.ip", S, "address of the pod", filled=False),
    FalcoField("k8s.pod.cni.json", S, "result of the network plugin, as JSON", filled=False),
    FalcoField("bpfence.path", P, "path of an opened file as the kernel resolved it, symbolic links and all; what decides fd.name under strict_paths: kernel", extension=True),
    FalcoField("bpfence.async", B, "reported at once, as the work of io_uring is, without its result: it is taken to have succeeded", extension=True),
)  # fmt: skip

FALCO_FIELD_BY_NAME: Final = {field.name: field for field in FALCO_FIELDS}
CLASSES: Final = {
    "evt": "the event", "syscall": "the event", "proc": "the process", "thread": "the thread", "user": "the user", "group": "the group",
    "container": "the container", "fd": "the file descriptor", "fdlist": "descriptors that are waited for", "util": "counters", "fs": "paths of calls that take no descriptor", "k8s": "the pod",
    "bpfence": "what Falco does not have",
}  # fmt: skip

_DOTTED: Final = tuple(field for field in FALCO_FIELDS if field.dotted)
_DOTTED_ARGUMENT: Final = r"[A-Za-z0-9_]+(?:[./-][A-Za-z0-9_]+)*"
_SPELLED: Final = re.compile("|".join(re.escape(name) for name in sorted(FALCO_FIELD_BY_NAME, key=len, reverse=True)))
_AFTER_DOT: Final = {
    field.name: re.compile(r"\.(" + ("[A-Za-z0-9_]+" if field.name.startswith("evt.") else _DOTTED_ARGUMENT) + ")") for field in _DOTTED
}
_BRACKETED: Final = re.compile(r"""\[(?:"([^"\]]*)"|'([^'\]]*)'|([^\]\["'\s]+))\]""")


class NamedField(NamedTuple):
    """A field with its argument, as a condition or an output names it."""

    field: FalcoField
    argument: str | None

    @property
    def spelled(self) -> str:
        """Its name in Falco's output_fields, in which an argument after a dot stays so."""
        if self.argument is None:
            return self.field.name
        return f"{self.field.name}.{self.argument}" if self.field.dotted else f"{self.field.name}[{self.argument}]"

    @property
    def many(self) -> str:
        """How its tuple of values is tested; "" where it has one value."""
        return self.field.many if self.argument is None else ""


@lru_cache(maxsize=4096)
def lookup(name: str, argument: str | None = None) -> NamedField | None:
    """The field of a dotted name; None where there is none. The argument is not checked."""
    field = FALCO_FIELD_BY_NAME.get(name)
    if field is not None:
        return NamedField(field, argument)
    for dotted in _DOTTED:
        if argument is None and name.startswith(dotted.name + ".") and len(name) > len(dotted.name) + 1:
            return NamedField(dotted, name[len(dotted.name) + 1 :])
    return None


def longest(text: str, at: int) -> tuple[NamedField, int] | None:
    """The longest field that begins at an offset of an output, with its argument, and the offset after it."""
    spelled = _SPELLED.match(text, at)
    if spelled is None:
        return None
    field = FALCO_FIELD_BY_NAME[spelled.group()]
    end = spelled.end()
    if field.argument is FieldArgument.NONE:
        return NamedField(field, None), end
    bracketed = _BRACKETED.match(text, end)
    if bracketed:
        return NamedField(field, next(group for group in bracketed.groups() if group is not None)), bracketed.end()
    after = _AFTER_DOT[field.name].match(text, end) if field.dotted else None
    if after:
        return NamedField(field, after.group(1)), after.end()
    return NamedField(field, None), end


def argument_problem(use: NamedField) -> str:
    """What is wrong with a field's argument; "" where nothing is."""
    wanted, given = use.field.argument, use.argument
    if wanted is FieldArgument.NONE and given is not None:
        return f"{use.field.name} takes no argument"
    if wanted in (FieldArgument.INDEX, FieldArgument.KEY) and given is None:
        return f"{use.field.name} needs an argument"
    if (
        wanted in (FieldArgument.INDEX, FieldArgument.OPTIONAL_INDEX)
        and given is not None
        and not (given.isascii() and given.isdigit() and len(given) < 6)
    ):
        return f"the argument of {use.field.name} must be a number"
    if given == "":
        return f"the argument of {use.field.name} is empty"
    return ""
