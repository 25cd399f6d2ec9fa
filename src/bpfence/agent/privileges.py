# SPDX-License-Identifier: Apache-2.0
"""A running agent in, one with fewer privileges out.

Called once by the agent, after enforcement is in force. What stays is what a reload and adoption need; the rest of root's power is gone for
this process and everything it could ever start. In this order: no_new_privs, capabilities, no core dumps and no tracers (PR_SET_DUMPABLE),
Landlock where the kernel has it, and a seccomp filter. capabilities(7), prctl(2), landlock(7), seccomp(2).
"""

from __future__ import annotations

import ctypes
import os
import tempfile
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from bpfence import names
from bpfence.errors import BpfenceError
from bpfence.seccomp.model import Arg, ArgOp, Profile, ProfileAction, ProfileFlag, ProfileRule

KEPT: Final = ("CAP_BPF", "CAP_PERFMON", "CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH", "CAP_SYS_RESOURCE")
"""For loading programs and maps (SYS_ADMIN before Linux 5.8, and for ids and tracing), for policies and followed files wherever they lie,
and for locked memory before 5.11."""
READS_PROCESSES: Final = ("CAP_SYS_PTRACE",)
"""For Falco rules: environ, root and cmdline in /proc of other users' processes need ptrace's access check (PTRACE_MODE_READ)."""

PR_SET_DUMPABLE = 4
PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 23, 24, 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
VERSION_3: Final = 0x20080522
CLONE_THREAD: Final = 0x10000

CALLS: Final = (
    # Files. Which ones are read and written is limited by Landlock and the file system's permissions.
    (
        "read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek close close_range dup dup2 dup3 fcntl ioctl fsync "
        "fdatasync sync_file_range ftruncate truncate fallocate fadvise64 flock sendfile copy_file_range splice readahead open openat "
        "openat2 creat stat fstat lstat newfstatat statx statfs fstatfs access faccessat faccessat2 readlink readlinkat getdents "
        "getdents64 getcwd chdir fchdir mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 fchmod umask pipe pipe2 "
        "memfd_create getxattr lgetxattr fgetxattr inotify_init inotify_init1 inotify_add_watch inotify_rm_watch eventfd eventfd2 "
        "name_to_handle_at open_by_handle_at"
    ),
    # Waiting.
    (
        "poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 nanosleep clock_nanosleep "
        "pause wait4 waitid restart_syscall"
    ),
    # Time.
    (
        "clock_gettime clock_getres gettimeofday time times timerfd_create timerfd_settime timerfd_gettime timer_create timer_settime "
        "timer_gettime timer_getoverrun timer_delete setitimer getitimer alarm"
    ),
    # Memory and threads. A filter cannot look at the flags of clone3; but a process that it starts is under this filter too, and executes
    # nothing.
    (
        "clone3 brk mmap munmap mprotect mremap madvise mincore msync mlock mlock2 munlock mlockall munlockall membarrier mseal "
        "map_shadow_stack pkey_alloc pkey_mprotect pkey_free futex futex_waitv futex_wake futex_wait futex_requeue set_robust_list "
        "get_robust_list set_tid_address rseq arch_prctl prctl sched_yield sched_getaffinity sched_setaffinity sched_getparam "
        "sched_getscheduler sched_getattr sched_get_priority_max sched_get_priority_min getpriority getcpu get_mempolicy exit exit_group"
    ),
    # Signals to itself.
    "rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack",
    # Names of hosts and users, systemd, outputs.
    (
        "socket socketpair connect accept4 bind getsockname getpeername getsockopt setsockopt shutdown sendto recvfrom sendmsg recvmsg "
        "sendmmsg recvmmsg"
    ),
    # Itself.
    (
        "getpid getppid gettid getuid geteuid getgid getegid getresuid getresgid getgroups getpgrp getpgid getsid capget getrusage "
        "getrlimit setrlimit sysinfo uname getrandom"
    ),
    # The kernel's programs.
    "bpf perf_event_open",
)
"""System calls of the agent after its start, with room to spare: those of a reload with libbpf, of rotation and look-ups, and of Python and
the C library. All others fail with EPERM and are logged; those newer than the newest here fail with ENOSYS."""


LISTEN: Final = ("listen",)
"""What a server needs beside them that makes its socket after the start."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def kept_mask(*, reads_processes: bool = False) -> int:
    """The capabilities that stay, as bits."""
    mask = 0
    for name in (*KEPT, *(READS_PROCESSES if reads_processes else ())):
        mask |= names.mask("capability", name) or 0
    return mask


def drop(*, reads_processes: bool = False, listens: bool = False, landlock: tuple[Sequence[Path], Sequence[Path]] | None = None) -> None:
    """Give up for good every capability but KEPT (and, if asked, READS_PROCESSES), and everything that the agent does not do.

    `landlock`: the folders that stay writable, and those from which empty folders may be removed (`kernel.landlock.restrict`). None: no
    limit, which `reads_processes` needs. `listens`: a socket is made later that others connect to.

    OSError or BpfenceError where something cannot be given up.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    keep = kept_mask(reads_processes=reads_processes)
    made = own_filter(listens=listens)
    _check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    capability = 0
    while libc.prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0:
        if not keep >> capability & 1:
            # Needs CAP_SETPCAP. Without it, the capabilities below are given up all the same.
            libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
        capability += 1
    header, data = _Header(VERSION_3, 0), (_Data * 2)()
    _check(libc.capget(ctypes.byref(header), data))
    for word in range(2):
        part = keep >> 32 * word & 0xFFFFFFFF
        data[word].permitted &= part
        data[word].effective &= part
        data[word].inheritable = 0
    _check(libc.capset(ctypes.byref(header), data))
    _check(libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))
    if landlock is not None:
        from bpfence.kernel.landlock import restrict  # not imported where the kernel has no Landlock

        restrict(*landlock)
    _apply(made)


def own_profile(*, listens: bool = False) -> Profile:
    """The agent's own seccomp profile: CALLS; threads but no processes; signals to itself alone. `listens`: LISTEN, too."""
    own = Arg(index=0, value=os.getpid(), op=ArgOp.EQ)
    thread = Arg(index=0, value=CLONE_THREAD, value_two=CLONE_THREAD, op=ArgOp.MASKED_EQ)
    return Profile(
        default_action=ProfileAction.ERRNO,
        flags=(ProfileFlag.LOG, ProfileFlag.SPEC_ALLOW, ProfileFlag.TSYNC),
        rules=(
            ProfileRule(names=tuple(" ".join((*CALLS, *(LISTEN if listens else ()))).split()), action=ProfileAction.ALLOW),
            ProfileRule(names=("clone",), action=ProfileAction.ALLOW, args=(thread,)),
            ProfileRule(names=("tgkill", "kill"), action=ProfileAction.ALLOW, args=(own,)),
            # Its own limits only: 0 is the caller.
            ProfileRule(names=("prlimit64",), action=ProfileAction.ALLOW, args=(Arg(index=0, value=0, op=ArgOp.EQ),)),
        ),
    )


def own_filter(*, listens: bool = False) -> bytes:
    """The filter of that profile for this machine, as bytes of struct sock_filter. BpfenceError where it cannot be made."""
    from bpfence.confine.command import compiled_here  # needs libseccomp, which commands that start no agent do not load

    return compiled_here(own_profile(listens=listens), enosys=True).program


def _apply(program: bytes) -> None:
    from bpfence.kernel.seccomp import Filter, apply, supported_flags
    from bpfence.kernel.seccomp import Flag as KernelFlag

    wanted = KernelFlag.SECCOMP_FILTER_FLAG_LOG | KernelFlag.SECCOMP_FILTER_FLAG_SPEC_ALLOW | KernelFlag.SECCOMP_FILTER_FLAG_TSYNC
    apply([Filter(program, wanted & supported_flags())])
    if "\nSeccomp:\t2\n" not in Path("/proc/self/status").read_text(encoding="utf-8", errors="replace"):
        raise BpfenceError("the seccomp filter of the agent did not take effect")


def landlock_works(writable: Iterable[Path], removable: Iterable[Path] = ()) -> tuple[bool, str]:
    """Whether these folders can be written under Landlock as well as without; and the reason where they cannot although the kernel has
    Landlock.

    On file systems that make a new inode for every look-up (9p, FUSE) Landlock does not recognise a folder. Tried in a thread that then
    ends.
    """
    from bpfence.kernel import landlock

    if not landlock.version():
        return False, ""
    folders = [folder for folder in dict.fromkeys(writable) if not _refusal_to_write(folder)]
    refusals: list[str] = []

    def attempt() -> None:
        try:
            _check(ctypes.CDLL(None, use_errno=True).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
            landlock.restrict(folders, removable)
            refusals.extend(filter(None, map(_refusal_to_write, folders)))
        except OSError as error:
            refusals.append(error.strerror or str(error))

    trial = threading.Thread(target=attempt, name="bpfence-landlock")
    trial.start()
    trial.join()
    return not refusals, refusals[0] if refusals else ""


def _refusal_to_write(folder: Path) -> str:
    """Why no file can be made in a folder; "" where one can, or where there is no such folder."""
    if not folder.is_dir():
        return ""
    try:
        descriptor, name = tempfile.mkstemp(prefix=".bpfence-", dir=folder)
        os.close(descriptor)
        os.unlink(name)
    except OSError as error:
        return f"{folder}: {error.strerror or error}"
    return ""


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
