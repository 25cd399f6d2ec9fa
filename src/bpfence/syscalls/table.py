# SPDX-License-Identifier: Apache-2.0
"""The name of a system call in, its number on an architecture out, and back; and what else is known about calls.

Read by every other module here, and by what shows calls in alerts. Names and numbers are in syscalls.json, which tools/gen_syscalls.py
makes; arguments are in `arguments`. The sets below say which calls belong together: a filter that denies one call of a family and allows
another has often denied nothing.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from bpfence.syscalls.architectures import ARCHES, X32_BIT, Arch

TABLE_FILE: Final = Path(__file__).with_name("syscalls.json")


@functools.cache
def _table() -> Mapping[str, tuple[int | None, ...]]:
    rows = json.loads(TABLE_FILE.read_text(encoding="utf-8"))
    assert rows.pop("") == [arch.name for arch in ARCHES]
    return {name: tuple(row) for name, row in rows.items()}


@functools.cache
def numbers(arch: Arch) -> Mapping[str, int]:
    """Name → number of every call of a supported architecture; x32's have bit 30 set."""
    column = ARCHES.index(arch)
    return {name: number for name, row in _table().items() if (number := row[column]) is not None}


@functools.cache
def _names(arch: Arch) -> Mapping[int, str]:
    names: dict[int, str] = {}
    for name, number in numbers(arch).items():
        names.setdefault(number, name)
    return names


def number(arch: Arch, name: str) -> int | None:
    """The number of a call, None where the architecture does not have it (as a call of its own: see `multiplexed`)."""
    return numbers(arch).get(name)


def name(arch: Arch, number: int) -> str | None:
    """The name of a number, None where it has none."""
    return _names(arch).get(number)


def known(name: str) -> bool:
    """Whether Linux has, or had, a call of that name on some architecture."""
    return name in _table()


def all_names() -> tuple[str, ...]:
    """Every name, in order."""
    return tuple(_table())


def by_audit(audit: int, number: int) -> tuple[Arch, str | None]:
    """The architecture and name of a call as the kernel reports it; ValueError where the architecture is not one of ours."""
    arch: Arch | None = next((known for known in ARCHES if known.audit == audit and known is not Arch.X32), None)
    if arch is None:
        raise ValueError(f"unknown audit architecture {audit:#x}")
    if arch is Arch.X86_64 and number & X32_BIT and number >= 0:
        arch = Arch.X32
    return arch, name(arch, number)


# ---- multiplexers of 32-bit x86 ----

SOCKETCALL: Final = {
    "socket": 1, "bind": 2, "connect": 3, "listen": 4, "accept": 5, "getsockname": 6, "getpeername": 7, "socketpair": 8, "send": 9,
    "recv": 10, "sendto": 11, "recvfrom": 12, "shutdown": 13, "setsockopt": 14, "getsockopt": 15, "sendmsg": 16, "recvmsg": 17,
    "accept4": 18, "recvmmsg": 19, "sendmmsg": 20,
}  # fmt: skip
"""Call → the first argument of socketcall that does the same (include/uapi/linux/net.h)."""

IPC: Final = {
    "semop": 1, "semget": 2, "semctl": 3, "semtimedop": 4, "msgsnd": 11, "msgrcv": 12, "msgget": 13, "msgctl": 14, "shmat": 21,
    "shmdt": 22, "shmget": 23, "shmctl": 24,
}  # fmt: skip
"""Call → the first argument of ipc that does the same (include/uapi/linux/ipc.h)."""


def multiplexed(arch: Arch, name: str) -> tuple[str, int] | None:
    """The multiplexer and its first argument through which a call can be made, too: ("socketcall", 1)."""
    if arch is not Arch.X86:
        return None
    if name in SOCKETCALL:
        return "socketcall", SOCKETCALL[name]
    return ("ipc", IPC[name]) if name in IPC else None


def available(arch: Arch, name: str) -> bool:
    """Whether the call can be made on the architecture, by itself or through a multiplexer."""
    return number(arch, name) is not None or multiplexed(arch, name) is not None


# ---- when the kernel got a call ----

SINCE: Final[Mapping[str, tuple[int, int]]] = {
    call: version
    for version, calls in {
        (3, 17): "getrandom memfd_create seccomp", (3, 18): "bpf", (3, 19): "execveat", (4, 2): "userfaultfd membarrier", (4, 4): "mlock2",
        (4, 5): "copy_file_range", (4, 6): "preadv2 pwritev2", (4, 9): "pkey_mprotect pkey_alloc pkey_free", (4, 11): "statx",
        (4, 18): "rseq io_pgetevents",
        (5, 1): "pidfd_send_signal io_uring_setup io_uring_enter io_uring_register clock_gettime64 clock_settime64 clock_adjtime64"
        " clock_getres_time64 clock_nanosleep_time64 timer_gettime64 timer_settime64 timerfd_gettime64 timerfd_settime64"
        " utimensat_time64 pselect6_time64 ppoll_time64 io_pgetevents_time64 recvmmsg_time64 mq_timedsend_time64"
        " mq_timedreceive_time64 semtimedop_time64 rt_sigtimedwait_time64 futex_time64 sched_rr_get_interval_time64",
        (5, 2): "open_tree move_mount fsopen fsconfig fsmount fspick", (5, 3): "pidfd_open clone3", (5, 6): "openat2 pidfd_getfd",
        (5, 8): "faccessat2", (5, 9): "close_range", (5, 10): "process_madvise", (5, 11): "epoll_pwait2", (5, 12): "mount_setattr",
        (5, 13): "landlock_create_ruleset landlock_add_rule landlock_restrict_self", (5, 14): "memfd_secret quotactl_fd",
        (5, 15): "process_mrelease", (5, 16): "futex_waitv", (5, 17): "set_mempolicy_home_node", (6, 5): "cachestat",
        (6, 6): "fchmodat2 map_shadow_stack", (6, 7): "futex_wake futex_wait futex_requeue",
        (6, 8): "statmount listmount lsm_get_self_attr lsm_set_self_attr lsm_list_modules", (6, 10): "mseal", (6, 11): "uretprobe",
        (6, 13): "setxattrat getxattrat listxattrat removexattrat", (6, 15): "open_tree_attr", (6, 17): "file_getattr file_setattr",
        (6, 18): "uprobe", (6, 19): "listns",
    }.items()
    for call in calls.split()
}  # fmt: skip
"""The first kernel with a call, from 3.17 on. What is not here is older."""


def _set(calls: str) -> frozenset[str]:
    return frozenset(calls.split())


# ---- what others need ----

LIBC_NEEDS: Final[Mapping[str, str]] = {
    "clone3": "glibc 2.34 and later start threads and processes with it; where it gives ENOSYS they fall back to clone",
    "rseq": "glibc 2.35 and later register every thread with it",
    "set_robust_list": "every thread of glibc and musl registers with it",
    "set_tid_address": "the start of every program",
    "newfstatat": "stat and fstat of glibc 2.33 and later",
    "statx": "stat of today's coreutils and of programs in Rust and Go; where it gives ENOSYS they fall back",
    "prlimit64": "getrlimit and setrlimit, and the start of every thread",
    "getrandom": "the C library seeds its allocator with it, languages their hash tables",
    "faccessat2": "access with flags, glibc 2.33 and later; where it gives ENOSYS it falls back",
    "openat": "open of every C library",
    "pread64": "the dynamic linker",
    "arch_prctl": "the start of every program on x86_64",
    "futex": "every lock",
    "mprotect": "the dynamic linker",
    "mmap": "the dynamic linker, every allocator",
    "munmap": "every allocator",
    "brk": "every allocator",
    "exit_group": "the end of every program",
    "rt_sigprocmask": "every program that starts another",
    "rt_sigreturn": "the end of every signal handler",
    "execve": "the start of every program",
    "getdents64": "readdir",
    "access": "the dynamic linker looks for /etc/ld.so.preload with it",
    "close_range": "closefrom and posix_spawn; subprocess of Python 3.14 and later",
    "epoll_pwait2": "event loops that want nanoseconds; where it gives ENOSYS they fall back",
    "pidfd_open": "today's process managers; where it gives ENOSYS they fall back",
}
"""Calls that programs on today's C libraries make, and what for."""

FALLS_BACK: Final = _set("clone3 statx faccessat2 close_range epoll_pwait2 pidfd_open rseq openat2 fchmodat2")
"""Calls for which ENOSYS is harmless, and EPERM is not: libraries try the older call only after ENOSYS."""

FAMILIES: Final[tuple[frozenset[str], ...]] = tuple(
    _set(calls)
    for calls in (
        "open openat openat2 creat", "execve execveat", "clone clone3 fork vfork", "chmod fchmod fchmodat fchmodat2",
        "chown lchown fchown fchownat chown32 lchown32 fchown32", "rename renameat renameat2", "unlink unlinkat rmdir", "link linkat",
        "symlink symlinkat", "mkdir mkdirat", "mknod mknodat", "mount fsmount move_mount mount_setattr open_tree open_tree_attr",
        "umount umount2", "init_module finit_module", "kexec_load kexec_file_load",
        "setuid setreuid setresuid setuid32 setreuid32 setresuid32", "setgid setregid setresgid setgid32 setregid32 setresgid32",
        "setxattr lsetxattr fsetxattr setxattrat",
        "removexattr lremovexattr fremovexattr removexattrat", "kill tkill tgkill pidfd_send_signal rt_sigqueueinfo rt_tgsigqueueinfo",
        "ptrace process_vm_readv process_vm_writev", "unshare setns", "truncate truncate64 ftruncate ftruncate64",
        "settimeofday clock_settime clock_settime64 stime adjtimex clock_adjtime clock_adjtime64", "quotactl quotactl_fd",
        "sendto sendmsg sendmmsg send", "recvfrom recvmsg recvmmsg recv", "accept accept4", "dup dup2 dup3",
        "readlink readlinkat", "utime utimes futimesat utimensat utimensat_time64", "pipe pipe2", "eventfd eventfd2",
        "signalfd signalfd4", "inotify_init inotify_init1", "epoll_create epoll_create1", "setrlimit prlimit64", "mprotect pkey_mprotect",
    )
)  # fmt: skip
"""Families of calls that do, or contain, each other's work: to deny it, all of them must be denied."""

DANGEROUS: Final = _set(
    "ptrace process_vm_readv process_vm_writev mount umount2 umount fsmount move_mount mount_setattr open_tree open_tree_attr fsopen"
    " fsconfig fspick pivot_root chroot unshare setns init_module finit_module delete_module kexec_load kexec_file_load bpf perf_event_open"
    " userfaultfd keyctl add_key request_key io_uring_setup open_by_handle_at reboot swapon swapoff settimeofday clock_settime adjtimex"
    " clock_adjtime execve execveat personality kcmp pidfd_getfd syslog acct quotactl quotactl_fd iopl ioperm modify_ldt sethostname"
    " setdomainname"
)
"""Calls that profiles deny for their own sake; families of others are only worth a note."""

IO_URING: Final[Mapping[str, str]] = {
    "read": "READ", "readv": "READV", "pread64": "READ", "preadv": "READV", "preadv2": "READV", "write": "WRITE", "writev": "WRITEV",
    "pwrite64": "WRITE", "pwritev": "WRITEV", "pwritev2": "WRITEV", "fsync": "FSYNC", "fdatasync": "FSYNC",
    "sync_file_range": "SYNC_FILE_RANGE", "sendmsg": "SENDMSG", "recvmsg": "RECVMSG", "accept": "ACCEPT", "accept4": "ACCEPT",
    "connect": "CONNECT", "fallocate": "FALLOCATE", "open": "OPENAT", "openat": "OPENAT", "creat": "OPENAT", "openat2": "OPENAT2",
    "close": "CLOSE", "statx": "STATX", "fadvise64": "FADVISE", "madvise": "MADVISE", "send": "SEND", "sendto": "SEND", "recv": "RECV",
    "recvfrom": "RECV", "epoll_ctl": "EPOLL_CTL", "epoll_wait": "EPOLL_WAIT", "splice": "SPLICE", "tee": "TEE", "shutdown": "SHUTDOWN",
    "rename": "RENAMEAT", "renameat": "RENAMEAT", "renameat2": "RENAMEAT", "unlink": "UNLINKAT", "unlinkat": "UNLINKAT",
    "rmdir": "UNLINKAT", "mkdir": "MKDIRAT", "mkdirat": "MKDIRAT", "symlink": "SYMLINKAT", "symlinkat": "SYMLINKAT", "link": "LINKAT",
    "linkat": "LINKAT", "setxattr": "SETXATTR", "fsetxattr": "FSETXATTR", "getxattr": "GETXATTR", "fgetxattr": "FGETXATTR",
    "socket": "SOCKET", "waitid": "WAITID", "futex_wait": "FUTEX_WAIT", "futex_wake": "FUTEX_WAKE", "futex_waitv": "FUTEX_WAITV",
    "ftruncate": "FTRUNCATE", "bind": "BIND", "listen": "LISTEN", "poll": "POLL_ADD", "pipe": "PIPE", "pipe2": "PIPE",
}  # fmt: skip
"""Call → the IORING_OP_ that does the same; io_uring's work does not pass seccomp (include/uapi/linux/io_uring.h, 6.19)."""

STARTS_IO_URING: Final = _set("io_uring_setup")

HANDLES: Final = ("name_to_handle_at", "open_by_handle_at")
"""The pair that opens files without naming them."""


class Signature(msgspec.Struct, frozen=True):
    """Names and kinds of a call's arguments, in order."""

    arguments: tuple[tuple[str, str], ...]


def signature(call: str) -> Signature | None:
    """The arguments of a call; None where they are not in the table. 32-bit variants (chown32, fcntl64) have those of the plain call."""
    from bpfence.syscalls.arguments import ARGUMENTS  # the table is large, and only alerts and `check` need it

    words = ARGUMENTS.get(call) or ARGUMENTS.get(_plain_name(call))
    if words is None:
        return None
    return Signature(tuple((n, k) for n, _, k in (word.partition(":") for word in words.split())))


def _plain_name(call: str) -> str:
    for ending in ("_time64", "_time32", "64", "32"):
        if call.endswith(ending):
            return call.removesuffix(ending)
    return call
