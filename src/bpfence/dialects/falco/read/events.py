# SPDX-License-Identifier: Apache-2.0
"""Nothing in, the table of Falco's event types out: what bpfence senses of them, and where.

Read by `checks` (which names evt.type may be compared with), `lower` (which native events a rule needs), the docs, and by what tells
the kernel which system calls an event counts in (`calls_of`). `args` are the names that evt.arg takes, in the order of evt.arg[0],
evt.arg[1], ...; they are those of Falco's exit events.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from bpfence.dialects.falco.read.fields import Type


class FalcoEventType(msgspec.Struct, frozen=True):
    """One event type, and the events of bpfence.fields that it comes from.

    `seen` are the events that report it when it is done, with its result; empty: the type is known, but nothing reports it yet. `native`
    are the acts that a rule which denies stops; empty: nothing can stop it. `part` says which part of it `seen` covers, where that is not
    all.
    """

    name: str
    category: str
    args: tuple[str, ...]
    native: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    part: str = ""


def _e(name: str, category: str, args: str, native: str = "", seen: str = "", part: str = "") -> FalcoEventType:
    """As `native`, where nothing else is given."""
    return FalcoEventType(name, category, tuple(args.split()), tuple(native.split()), tuple((seen or native).split()), part)


_OPENED: Final = "file.open file.open_failed"
_EXECUTED: Final = "process.executed process.exec_failed"
_RECEIVED: Final = "internet sockets"
_EXEC_ARGS: Final = (
    "res exe args tid pid ptid cwd fdlimit pgft_maj pgft_min vm_size vm_rss vm_swap comm cgroups env tty vpgid loginuid flags cap_inheritable"
    " cap_permitted cap_effective exe_ino exe_ino_ctime exe_ino_mtime uid trusted_exepath pgid gid filename"
)
_CLONE_ARGS: Final = "res exe args tid pid ptid cwd fdlimit pgft_maj pgft_min vm_size vm_rss vm_swap comm cgroups flags uid gid vtid vpid pidns_init_start_ts"

SENSED: Final = (
    _e("open", "file", "fd name flags mode dev ino", "file.open", _OPENED),
    _e("openat", "file", "fd dirfd name flags mode dev ino", "file.open", _OPENED),
    _e("openat2", "file", "fd dirfd name flags mode resolve dev ino", "file.open", _OPENED),
    _e("creat", "file", "fd name mode dev ino creat_flags", "file.open", _OPENED),
    _e("open_by_handle_at", "file", "fd mountfd flags path dev ino", "file.open", part="handles that reach the file: not those that are stale"),
    _e("execve", "process", _EXEC_ARGS, "process.exec", _EXECUTED),
    _e("execveat", "process", _EXEC_ARGS, "process.exec", _EXECUTED),
    _e("clone", "process", _CLONE_ARGS, "process.fork"),
    _e("clone3", "process", _CLONE_ARGS, "process.fork"),
    _e("fork", "process", _CLONE_ARGS, "process.fork"),
    _e("vfork", "process", _CLONE_ARGS, "process.fork"),
    _e("procexit", "process", "status ret sig core reaper_tid", "process.exit"),
    _e("socket", "net", "fd domain type proto", "net.create"),
    _e("socketpair", "net", "res fd1 fd2 source peer domain type proto", "net.create"),
    _e("bind", "net", "res addr fd", "net.bind"),
    _e("connect", "net", "res tuple fd addr", "net.connect"),
    _e("listen", "net", "res fd backlog", "net.listen"),
    _e("accept", "net", "fd tuple queuepct queuelen queuemax flags", "net.accept"),
    _e("accept4", "net", "fd tuple queuepct queuelen queuemax flags", "net.accept"),
    _e("sendto", "net", "res data fd size tuple", "net.send"),
    _e("sendmsg", "net", "res data fd size tuple", "net.send"),
    _e("sendmmsg", "net", "res fd size data tuple", "net.send"),
    _e("recvfrom", "net", "res data tuple fd size", seen="net.recv", part=_RECEIVED),
    _e("recvmsg", "net", "res size data tuple msgcontrol fd", seen="net.recv", part=_RECEIVED),
    _e("recvmmsg", "net", "res fd size data tuple msgcontrol", seen="net.recv", part=f"{_RECEIVED}; one event a message"),
    _e("rename", "file", "res oldpath newpath", "file.rename"),
    _e("renameat", "file", "res olddirfd oldpath newdirfd newpath", "file.rename"),
    _e("renameat2", "file", "res olddirfd oldpath newdirfd newpath flags", "file.rename"),
    _e("unlink", "file", "res path", "file.unlink"),
    _e("unlinkat", "file", "res dirfd name flags", "file.unlink file.rmdir"),
    _e("rmdir", "file", "res path", "file.rmdir"),
    _e("link", "file", "res oldpath newpath", "file.link"),
    _e("linkat", "file", "res olddir oldpath newdir newpath flags", "file.link"),
    _e("symlink", "file", "res target linkpath", "file.symlink"),
    _e("symlinkat", "file", "res target linkdirfd linkpath", "file.symlink"),
    _e("mkdir", "file", "res path mode", "file.mkdir"),
    _e("mkdirat", "file", "res dirfd path mode", "file.mkdir"),
    _e("chmod", "file", "res filename mode", "file.chmod"),
    _e("fchmod", "file", "res fd mode", "file.chmod"),
    _e("fchmodat", "file", "res dirfd filename mode", "file.chmod"),
    _e("chown", "file", "res path uid gid", "file.chown"),
    _e("lchown", "file", "res path uid gid", "file.chown"),
    _e("fchown", "file", "res fd uid gid", "file.chown"),
    _e("fchownat", "file", "res dirfd pathname uid gid flags", "file.chown"),
    _e("mknod", "file", "res path mode dev", "file.create"),
    _e("mknodat", "file", "res dirfd path mode dev", "file.create"),
    _e("kill", "signal", "res pid sig", "process.signal"),
    _e("tkill", "signal", "res tid sig", "process.signal"),
    _e("tgkill", "signal", "res pid tid sig", "process.signal"),
    _e("ptrace", "process", "res addr data request pid", "process.ptrace", "process.trace"),
    _e("process_vm_readv", "ipc", "res pid data", "process.ptrace"),
    _e("process_vm_writev", "ipc", "res pid data", "process.ptrace"),
    _e("mount", "file", "res dev dir type flags", "kernel.mount"),
    _e("umount", "file", "res name flags", "kernel.umount"),
    _e("umount2", "file", "res name flags", "kernel.umount"),
    _e("setns", "process", "res fd nstype", "kernel.setns", "process.setns"),
    _e("unshare", "process", "res flags", "kernel.userns", "process.unshare"),
    _e("bpf", "system", "fd cmd", "kernel.bpf"),
    _e("init_module", "system", "res img length uargs", "kernel.module"),
    _e("finit_module", "system", "res fd uargs flags", "kernel.module"),
    _e("setuid", "user", "res uid", "process.setuid", "process.setuid process.setid_failed"),
    _e("setreuid", "user", "res ruid euid", "process.setuid", "process.setuid process.setid_failed"),
    _e("setresuid", "user", "res ruid euid suid", "process.setuid", "process.setuid process.setid_failed"),
    _e("setgid", "user", "res gid", "process.setgid", "process.setgid process.setid_failed"),
    _e("setregid", "user", "res rgid egid", "process.setgid", "process.setgid process.setid_failed"),
    _e("setresgid", "user", "res rgid egid sgid", "process.setgid", "process.setgid process.setid_failed"),
    _e("io_uring_setup", "system", "res entries sq_entries cq_entries flags sq_thread_cpu sq_thread_idle features", seen="kernel.io_uring_setup"),
    _e("memfd_create", "file", "fd name flags", seen="kernel.memfd"),
    _e("prctl", "process", "res option arg2_str arg2_int", seen="process.prctl"),
    _e("dup", "file", "res oldfd", seen="file.dup"),
    _e("dup2", "file", "res oldfd newfd", seen="file.dup"),
    _e("dup3", "file", "res oldfd newfd flags", seen="file.dup"),
    _e("userfaultfd", "memory", "res flags", seen="kernel.userfaultfd"),
    _e("capset", "process", "res cap_inheritable cap_permitted cap_effective", seen="process.capset"),
    _e("chroot", "process", "res path", seen="process.chroot"),
    _e("chdir", "file", "res path", seen="process.chdir"),
    _e("fchdir", "file", "res fd", seen="process.chdir"),
    _e("setsid", "process", "res", seen="process.setsid"),
    _e("fsconfig", "system", "res fd cmd key value_bytebuf value_charbuf aux", seen="kernel.fsconfig"),
    _e("mprotect", "memory", "res addr length prot"),
    _e("pivot_root", "system", "res", "kernel.pivot_root"),
)  # fmt: skip
"""Event types that stable, incubating and sandbox rules of Falco name, and some more."""

# Names that evt.type may be compared with without being a mistake: Falco knows them, bpfence reports none of them.
KNOWN: Final = frozenset(
    [
        "access",
        "acct",
        "add_key",
        "adjtimex",
        "alarm",
        "asyncevent",
        "brk",
        "capget",
        "clock_adjtime",
        "clock_getres",
        "clock_gettime",
        "clock_nanosleep",
        "clock_settime",
        "close",
        "close_range",
        "container",
        "copy_file_range",
        "cpu_hotplug",
        "delete_module",
        "drop",
        "epoll_create",
        "epoll_create1",
        "epoll_ctl",
        "epoll_pwait",
        "epoll_wait",
        "eventfd",
        "eventfd2",
        "exit",
        "exit_group",
        "faccessat",
        "faccessat2",
        "fadvise64",
        "fallocate",
        "fanotify_init",
        "fanotify_mark",
        "fchmodat2",
        "fcntl",
        "fcntl64",
        "fdatasync",
        "fgetxattr",
        "flistxattr",
        "flock",
        "fremovexattr",
        "fsetxattr",
        "fsmount",
        "fsopen",
        "fspick",
        "fstat",
        "fstat64",
        "fstatfs",
        "fsync",
        "ftruncate",
        "futex",
        "futimesat",
        "generic",
        "get_mempolicy",
        "get_robust_list",
        "getcpu",
        "getcwd",
        "getdents",
        "getdents64",
        "getegid",
        "geteuid",
        "getgid",
        "getgroups",
        "getitimer",
        "getpeername",
        "getpgid",
        "getpgrp",
        "getpid",
        "getppid",
        "getpriority",
        "getrandom",
        "getresgid",
        "getresuid",
        "getrlimit",
        "getrusage",
        "getsid",
        "getsockname",
        "getsockopt",
        "gettid",
        "gettimeofday",
        "getuid",
        "getxattr",
        "groupadded",
        "groupdeleted",
        "infra",
        "inotify_add_watch",
        "inotify_init",
        "inotify_init1",
        "inotify_rm_watch",
        "io_cancel",
        "io_destroy",
        "io_getevents",
        "io_setup",
        "io_submit",
        "io_uring_enter",
        "io_uring_register",
        "ioctl",
        "ioperm",
        "iopl",
        "ioprio_get",
        "ioprio_set",
        "k8s",
        "kcmp",
        "kexec_file_load",
        "kexec_load",
        "keyctl",
        "landlock_add_rule",
        "landlock_create_ruleset",
        "landlock_restrict_self",
        "lgetxattr",
        "listxattr",
        "llistxattr",
        "llseek",
        "lookup_dcookie",
        "lremovexattr",
        "lseek",
        "lsetxattr",
        "lstat",
        "lstat64",
        "madvise",
        "mbind",
        "membarrier",
        "memfd_secret",
        "mesos",
        "migrate_pages",
        "mincore",
        "mlock",
        "mlock2",
        "mlockall",
        "mmap",
        "mmap2",
        "modify_ldt",
        "mount_setattr",
        "move_mount",
        "move_pages",
        "mq_getsetattr",
        "mq_notify",
        "mq_open",
        "mq_timedreceive",
        "mq_timedsend",
        "mq_unlink",
        "mremap",
        "msgctl",
        "msgget",
        "msgrcv",
        "msgsnd",
        "msync",
        "munlock",
        "munlockall",
        "munmap",
        "na",
        "name_to_handle_at",
        "nanosleep",
        "newfstatat",
        "notification",
        "open_tree",
        "page_fault",
        "pause",
        "perf_event_open",
        "personality",
        "pidfd_getfd",
        "pidfd_open",
        "pidfd_send_signal",
        "pipe",
        "pipe2",
        "pkey_alloc",
        "pkey_free",
        "pkey_mprotect",
        "pluginevent",
        "poll",
        "ppoll",
        "pread",
        "pread64",
        "preadv",
        "preadv2",
        "prlimit",
        "prlimit64",
        "process_madvise",
        "process_mrelease",
        "procinfo",
        "pselect6",
        "pwrite",
        "pwrite64",
        "pwritev",
        "pwritev2",
        "quotactl",
        "quotactl_fd",
        "read",
        "readahead",
        "readlink",
        "readlinkat",
        "readv",
        "reboot",
        "recv",
        "recvfrom",
        "recvmmsg",
        "recvmsg",
        "remap_file_pages",
        "removexattr",
        "request_key",
        "restart_syscall",
        "rseq",
        "rt_sigaction",
        "rt_sigpending",
        "rt_sigprocmask",
        "rt_sigqueueinfo",
        "rt_sigreturn",
        "rt_sigsuspend",
        "rt_sigtimedwait",
        "rt_tgsigqueueinfo",
        "scapevent",
        "sched_get_priority_max",
        "sched_get_priority_min",
        "sched_getaffinity",
        "sched_getattr",
        "sched_getparam",
        "sched_getscheduler",
        "sched_process_exec",
        "sched_rr_get_interval",
        "sched_setaffinity",
        "sched_setattr",
        "sched_setparam",
        "sched_setscheduler",
        "sched_yield",
        "seccomp",
        "select",
        "semctl",
        "semget",
        "semop",
        "semtimedop",
        "send",
        "sendfile",
        "sendfile64",
        "set_mempolicy",
        "set_robust_list",
        "set_tid_address",
        "setdomainname",
        "setfsgid",
        "setfsuid",
        "setgroups",
        "sethostname",
        "setitimer",
        "setpgid",
        "setpriority",
        "setrlimit",
        "setsockopt",
        "settimeofday",
        "setxattr",
        "shmat",
        "shmctl",
        "shmdt",
        "shmget",
        "shutdown",
        "sigaltstack",
        "signaldeliver",
        "signalfd",
        "signalfd4",
        "splice",
        "stat",
        "stat64",
        "statfs",
        "statx",
        "stime",
        "swapoff",
        "swapon",
        "switch",
        "symlink",
        "sync",
        "sync_file_range",
        "syncfs",
        "syscall",
        "sysfs",
        "sysinfo",
        "syslog",
        "tee",
        "time",
        "timer_create",
        "timer_delete",
        "timer_getoverrun",
        "timer_gettime",
        "timer_settime",
        "timerfd_create",
        "timerfd_gettime",
        "timerfd_settime",
        "times",
        "tracer",
        "truncate",
        "umask",
        "uname",
        "useradded",
        "userdeleted",
        "userfaultfd",
        "uselib",
        "ustat",
        "utime",
        "utimensat",
        "utimes",
        "vhangup",
        "vmsplice",
        "wait4",
        "waitid",
        "waitpid",
        "write",
        "writev",
    ]
)

MODES: Final = {
    name: 1 << bit
    for bit, name in enumerate((*(f"S_I{right}{who}" for who in ("OTH", "GRP", "USR") for right in "XWR"), "S_ISVTX", "S_ISGID", "S_ISUID"))
}
"""The permission bits by name, in the order in which Falco spells them out where permissions are set."""

# Names of arguments by their types in Falco's event table, over all its events. Some have different types on different events.
_ARGUMENTS: Final = {
    Type.INT: (
        "fd fd1 fd2 res pid tid ptid vtid vpid pgid vpgid spid dpid next fd_in fd_out in_fd out_fd fdin fdout dirfd olddirfd newdirfd olddir newdir"
        " linkdirfd mountfd oldfd newfd pid_fd target_fd reaper_tid maxevents timeout cur max newcur newmax oldcur oldmax status ret fdlimit tty"
        " loginuid uid aux arg2_int semid semnum nsems key val size cmd flags id sem_op_0 sem_op_1"
    ),
    Type.UINT: (
        "flags mode dev ino size domain type proto backlog level optname optlen how initval addr op offset whence pos mask sig clockid resource"
        " pgft_maj pgft_min vm_size vm_rss vm_swap prot length pgoffset request argument uid gid ruid euid suid rgid egid sgid nstype operation"
        " queuepct queuelen queuemax nsops sem_num_0 sem_num_1 sem_flg_0 sem_flg_1 semflg option resolve entries sq_entries cq_entries"
        " sq_thread_cpu sq_thread_idle features to_submit min_complete opcode arg nr_args len offin offout cap_inheritable cap_permitted"
        " cap_effective exe_ino pidns_init_start_ts core creat_flags error ip ratio event_type cpu action cpu_usr cpu_sys plugin_id ID nativeID"
        " cmd id quota_fmt quota_fmt_out dqb_bhardlimit dqb_bsoftlimit dqb_curspace dqb_ihardlimit dqb_isoftlimit dqi_flags val source peer"
        " sigmask"
    ),
    Type.STRING: (
        "name path exe cwd comm oldpath newpath target linkpath filename pathname type dev dir key special quotafilepath arg2_str value_charbuf"
        " trusted_exepath uargs json desc description scope source home shell container_id id"
    ),
    Type.TIME: "exe_ino_ctime exe_ino_mtime",
    Type.DURATION: "interval timeout dqb_btime dqb_itime dqi_bgrace dqi_igrace",
    Type.BYTES: "data args env cgroups value_bytebuf event_data img msgcontrol",
    Type.NET: "addr tuple fds val data tags args",
}  # fmt: skip


def _argument_types() -> Mapping[str, Type]:
    """The type of each name; DYNAMIC where it has different types. NET stands for what nothing compares: tuples, addresses, lists of
    descriptors."""
    types: dict[str, set[Type]] = {}
    for kind, names in _ARGUMENTS.items():
        for name in names.split():
            types.setdefault(name, set()).add(kind)
    numbers = {Type.INT, Type.UINT}
    return {
        name: next(iter(kinds)) if len(kinds) == 1 and Type.BYTES not in kinds else Type.INT if kinds == numbers else Type.DYNAMIC
        for name, kinds in types.items()
    }


ARGUMENT_TYPES: Final = _argument_types()
"""The type of evt.rawarg.NAME; DYNAMIC where it depends on the event. A name that is not here is no argument of any event."""

FALCO_EVENT_BY_NAME: Final = {event.name: event for event in SENSED}
NAMES: Final = tuple(FALCO_EVENT_BY_NAME)
OTHERS: Final = frozenset(KNOWN - FALCO_EVENT_BY_NAME.keys())
_NO_CALLS: Final = ("procexit",)


def calls_of() -> Mapping[str, frozenset[str]]:
    """Native event → the system calls in which it is what Falco would report. (An opening inside of execve is not.)

    Every event of some `seen` is there. Without calls it belongs to none, and counts wherever it happens. Not every architecture has all of
    the calls.
    """
    by_native: dict[str, set[str]] = {}
    for kind in SENSED:
        for native in kind.seen:
            by_native.setdefault(native, set()).update((kind.name,) if kind.name not in _NO_CALLS else ())
    return {native: frozenset(calls) for native, calls in by_native.items()}
