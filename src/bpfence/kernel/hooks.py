# SPDX-License-Identifier: Apache-2.0
"""The table of hooks: which program goes where in the kernel, and for which event. The one home of that.

Read by `programs`, which decides what of it a kernel takes, and by what shows where an event is seen. Binds nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from bpfence.fields import MODIFY


class Kind(enum.Enum):
    """How a program is attached."""

    HOOK = "hook"  # an LSM hook, or in the fmod_ret flavour the security_* function that calls it
    TRACEPOINT = "tracepoint"  # a BTF tracepoint
    ITERATOR = "iterator"  # run once by the agent, on request
    START = "start"  # the start of a kernel function
    RETURN = "return"  # the end of a kernel function, for events that exist only then
    RESULT = "result"  # the end of a system call, for records of other hooks that wait for its result
    SENSOR = "sensor"  # wherever policies put sensors, as often as there are: see kernel/sensors.py
    PLACED = "placed"  # the same, and loaded anew for each
    TAIL = "tail"  # attached to nothing: what programs at ends of system calls go on in, as it has the engine


class Variant(msgspec.Struct, frozen=True):
    """One program that can serve a row, where the attached function has so many parameters (None: any number)."""

    program: str
    parameters: int | None = None


class Row(msgspec.Struct, frozen=True):
    """One place in the kernel and what may be attached to it.

    `function` is the security_* function where it is not security_<hook>. `needs`: a probe that must say yes. `instead_of`: used only
    where that hook is absent or lacks what it needs.
    `optional`: a kernel without this place has no such way for the event, so nothing is missed. `tracking`: always attached, because
    process records need it; `essential` tracking programs must load. `aid`: its events lose nothing but speed without it, and as its hook
    cannot refuse anything there is no fmod_ret program of it. `decides`: its program decides about its events; it does
    not where it only keeps what others need. `tail`: the program of kind TAIL that its own goes on in, where that shares an engine.
    `whole`: its program has an engine of its own wherever it is loaded from.
    """

    hook: str
    variants: tuple[Variant, ...]
    events: tuple[str, ...] = ()
    kind: Kind = Kind.HOOK
    function: str = ""
    needs: str = ""
    instead_of: str = ""
    optional: bool = False
    tracking: bool = False
    essential: bool = False
    aid: bool = False
    decides: bool = True
    tail: str = ""
    whole: bool = False


def _hook(
    hook: str,
    subject: str,
    parameters: int | tuple[int, ...],
    *events: str,
    function: str = "",
    needs: str = "",
    instead_of: str = "",
    optional: bool = False,
) -> Row:
    """A row of an LSM hook. Program names follow from hook and subject: variant n > 1 ends in _vn."""
    counts = parameters if isinstance(parameters, tuple) else (parameters,)
    variants = tuple(Variant(f"{hook}__{subject}" + (f"_v{n}" if n > 1 else ""), count) for n, count in enumerate(counts, 1))
    return Row(hook, variants, events, function=function, needs=needs, instead_of=instead_of, optional=optional)


def _tracepoint(name: str, *events: str) -> Row:
    return Row(name, (Variant(f"{name}__process"),), events, Kind.TRACEPOINT, tracking=True, essential=True, decides=bool(events))


def _return(call: str, *events: str, prefix32: str = "__ia32_sys_") -> tuple[Row, Row]:
    """The ends of a call of the 64-bit table and of the 32-bit one, where the kernel has that."""
    variants, variants32 = (Variant(f"{call}__call"),), (Variant(f"{call}__call32"),)
    return (
        Row(f"call:{call}", variants, events, Kind.RETURN, function=_SYSCALL + call, tail=ENDED),
        Row(f"call32:{call}", variants32, events, Kind.RETURN, function=prefix32 + call, optional=True, tail=ENDED),
    )


def _function(name: str, *events: str, instead_of: str = "", optional: bool = False, decides: bool = True, whole: bool = False) -> Row:
    return Row(
        f"fn:{name}",
        (Variant(f"{name}__call"),),
        events,
        Kind.RETURN,
        function=name,
        instead_of=instead_of,
        optional=optional,
        decides=decides,
        whole=whole,
    )


def _setid(calls: str, act: str) -> Iterator[Row]:
    """Ends of calls that change ids. One program sees both what the hook has seen and what has failed before: see bpf/calls.bpf.c."""
    failed = ("process.setid_failed",)
    for call in calls.split():
        yield from _return(call, *failed)
        # Ids of 16 bits, as old 32-bit programs have them.
        old = (Variant(f"{call}16__call32"),)
        yield Row(f"call32:{call}16", old, failed, Kind.RETURN, function=f"__ia32_sys_{call}16", optional=True, tail=ENDED)
        yield Row(f"result:{call}", (Variant(f"{call}__call"),), (act, *failed), Kind.RESULT, _SYSCALL + call, optional=True, tail=ENDED)


def _result(calls: str, *events: str) -> tuple[Row, ...]:
    return tuple(
        Row(f"result:{call}", (Variant(f"{call}__result"),), events, Kind.RESULT, _SYSCALL + call, optional=True, decides=False)
        for call in calls.split()
    )


def _tail(program: str, function: str, rows: Iterable[Row]) -> Row:
    """The program that those of `rows` with this tail go on in."""
    events = dict.fromkeys(event for row in rows if row.tail == program and row.kind is Kind.RETURN for event in row.events)
    return Row(f"tail:{program}", (Variant(program),), tuple(events), Kind.TAIL, function, optional=True, whole=True)


def _sensor(way: str, program: str = "", kind: Kind = Kind.SENSOR) -> Row:
    function = "security_settime64" if kind is Kind.PLACED else ""
    return Row(f"sensor:{way}", (Variant(f"sensor_{program or way}"),), (f"sensor.{way}",), kind, function, needs="attach_cookie")


def _move(program: str, kind: Kind) -> Row:
    return Row("fn:d_move", (Variant(program),), (*MODIFY, "process.exec"), kind, "d_move", needs="rdonly_cast", aid=True, decides=False)


ENDED: Final = "calls__ended"
"""What programs at the ends of system calls go on in."""
# x86-64; the return sensors name these functions in bpf/calls.bpf.c and ended.bpf.c.
_SYSCALL: Final = "__x64_sys_"
_COMPAT: Final = "__ia32_compat_sys_"
KNOWN: Final = "d_instantiate__known"
"""The program without which maps `known_files` and `folders` may not be used."""
MOVES: Final = ("d_move__moved", "d_move__moves")
"""Those that tell renames of files from renames of folders: at the end of d_move and at its start. The end first, and away last: see
bpf/file.bpf.c.
"""
_ATTACHED: Final = (
    _tracepoint("sched_process_fork"),
    _tracepoint("sched_process_exec", "process.executed"),
    _tracepoint("sched_process_exit", "process.exit"),
    # A move to another cgroup changes the subject.
    _tracepoint("cgroup_attach_task"),
    Row("task", (Variant("seed_tasks"),), (), Kind.ITERATOR, needs="iter_task", tracking=True, decides=False),
    _hook("bprm_check_security", "process", 1, "process.exec", function="security_bprm_check"),
    _hook("task_alloc", "process", 2, "process.fork"),
    _hook("task_kill", "process", 4, "process.signal"),
    _hook("file_send_sigiotask", "process", 3, "process.signal"),
    _hook("ptrace_access_check", "process", 2, "process.ptrace"),
    _hook("ptrace_traceme", "process", 1, "process.ptrace"),
    _hook("task_fix_setuid", "process", 3, "process.setuid"),
    _hook("task_fix_setgid", "process", 3, "process.setgid"),
    _hook("capable", "process", 4, "process.capable"),
    # security_mmap_file(file, prot, flags) has one parameter less than the hook that it calls.
    _hook("mmap_file", "memory", (4, 3), "process.memory"),
    _hook("file_mprotect", "memory", 3, "process.memory"),
    # setns(2) has no hook of its own; every kind of name space asks for a capability first.
    _hook("capable", "setns", 4, "kernel.setns"),
    _hook("file_open", "file", 1, "file.open"),
    _hook("file_permission", "file", 2, "file.permission"),
    Row("d_instantiate", (Variant(KNOWN, 2),), (*MODIFY, "process.exec"), needs="inode_storage", aid=True, decides=False),
    _move(MOVES[0], Kind.RETURN),
    _move(MOVES[1], Kind.START),
    # security_mmap_file(file, prot, flags) has one parameter less than the hook that it calls.
    _hook("mmap_file", "file", (4, 3), "file.mmap"),
    _hook("file_mprotect", "file", 3, "file.mprotect"),
    _hook("path_mknod", "file", 4, "file.create"),
    _hook("path_mkdir", "file", 3, "file.mkdir"),
    _hook("path_rmdir", "file", 2, "file.rmdir"),
    _hook("path_unlink", "file", 2, "file.unlink"),
    _hook("path_symlink", "file", 3, "file.symlink"),
    _hook("path_link", "file", 3, "file.link"),
    # v5.19 (100f59d96405): the flags of renameat2 reach the hook; security_path_rename always had them.
    _hook("path_rename", "file", (4, 5), "file.rename"),
    _hook("path_chmod", "file", 2, "file.chmod"),
    # Its ids are structures passed by value, which trampolines take since v6.1 (720e6a435194).
    _hook("path_chown", "file", 3, "file.chown", needs="struct_arguments"),
    _hook("inode_setattr", "file", (2, 3), "file.chown", instead_of="path_chown"),
    _hook("path_truncate", "file", 1, "file.truncate"),
    # v6.2 (3350607dc563): ftruncate left path_truncate.
    _hook("file_truncate", "file", 1, "file.truncate", optional=True),
    # v5.12 (c7c7a1a18af4): the user name space (v6.3: idmap) comes first.
    _hook("inode_setxattr", "file", (5, 6), "file.setxattr"),
    _hook("inode_removexattr", "file", (2, 3), "file.setxattr"),
    # v6.2: hooks of their own for access control lists.
    _hook("inode_set_acl", "file", 4, "file.setxattr", optional=True),
    _hook("inode_remove_acl", "file", 3, "file.setxattr", optional=True),
    _hook("inode_setattr", "times", (2, 3), "file.setattr", "file.truncate", "file.chmod", "file.chown"),
    _hook("file_ioctl", "file", 3, "file.setattr", "file.permission"),
    # v6.8 (f1bb47a31dff), and stable updates of older kernels; before, 32-bit calls come to file_ioctl.
    _hook("file_ioctl_compat", "file", 3, "file.setattr", "file.permission", optional=True),
    # v6.17: file_setattr(2).
    _hook("inode_file_setattr", "file", 2, "file.setattr", optional=True),
    _hook("inode_mknod", "file", 4, "file.create", instead_of="path_mknod"),
    _hook("inode_create", "file", 3, "file.create", instead_of="path_mknod"),
    _hook("inode_mkdir", "file", 3, "file.mkdir", instead_of="path_mkdir"),
    _hook("inode_rmdir", "file", 2, "file.rmdir", instead_of="path_rmdir"),
    _hook("inode_unlink", "file", 2, "file.unlink", instead_of="path_unlink"),
    _hook("inode_symlink", "file", 3, "file.symlink", instead_of="path_symlink"),
    _hook("inode_link", "file", 3, "file.link", instead_of="path_link"),
    _hook("inode_rename", "file", (4, 5), "file.rename", instead_of="path_rename"),
    _hook("socket_create", "network", 4, "net.create"),
    _hook("socket_bind", "network", 3, "net.bind"),
    _hook("socket_listen", "network", 2, "net.listen"),
    # A unix socket's path is decided where its node is made; a path that is asked for, where the kernel has found the socket.
    _hook("path_mknod", "network", 4, "net.bind"),
    _hook("inode_mknod", "network", 4, "net.bind", instead_of="path_mknod"),
    _hook("socket_connect", "network", 3, "net.connect"),
    _hook("unix_stream_connect", "network", 3, "net.connect"),
    _hook("unix_may_send", "network", 2, "net.connect", "net.send"),
    _hook("sctp_bind_connect", "network", 4, "net.connect", "net.bind"),
    _hook("socket_accept", "network", 2, "net.accept"),
    # A message can begin a connection.
    _hook("socket_sendmsg", "network", 3, "net.send", "net.connect"),
    _hook("ipc_permission", "ipc", 2, "ipc.access"),
    _hook("msg_queue_msgsnd", "ipc", 3, "ipc.msgsnd"),
    _hook("shm_shmat", "ipc", 3, "ipc.shmat"),
    _hook("kernel_read_file", "system", 3, "kernel.module", "kernel.kexec"),
    _hook("kernel_load_data", "system", 2, "kernel.module", "kernel.kexec"),
    # The image is in memory, nothing of it has been looked at.
    _hook("kernel_post_read_file", "system", 4, "kernel.module"),
    _hook("kernel_post_load_data", "system", 4, "kernel.module"),
    _hook("kernel_module_request", "system", 1, "kernel.module"),
    # v6.15 (082f1db02c80): whether the kernel itself calls.
    _hook("bpf", "system", (3, 4), "kernel.bpf"),
    # The attributes went, in stable updates too: seen on 6.12.117, still there on 6.1.
    _hook("perf_event_open", "system", (2, 1), "kernel.perf"),
    _hook("sb_mount", "system", 5, "kernel.mount"),
    _hook("move_mount", "system", 2, "kernel.mount"),
    _hook("sb_remount", "system", 2, "kernel.mount"),
    _hook("sb_umount", "system", 2, "kernel.umount"),
    _hook("sb_pivotroot", "system", 2, "kernel.pivot_root"),
    _hook("userns_create", "system", 1, "kernel.userns", function="security_create_user_ns"),
    _hook("uring_override_creds", "system", 1, "kernel.io_uring"),
    _hook("uring_sqpoll", "system", 0, "kernel.io_uring"),
    # v6.0 (2a5840124009); before, an io_uring command passes no hook.
    _hook("uring_cmd", "system", 1, "kernel.io_uring", optional=True),
    *_return("execve", "process.exec_failed", prefix32=_COMPAT),
    *_return("execveat", "process.exec_failed", prefix32=_COMPAT),
    _function("do_filp_open", "file.open_failed", whole=True),
    # v6.19: its new name.
    _function("do_file_open", "file.open_failed", instead_of="fn:do_filp_open", whole=True),
    _function("inet_recvmsg", "net.recv"),
    _function("inet6_recvmsg", "net.recv", optional=True),
    # Who has asked for the signals of file_send_sigiotask.
    _function("security_file_set_fowner", "process.signal", decides=False),
    *_return("dup", "file.dup"),
    *_return("dup2", "file.dup"),
    *_return("dup3", "file.dup"),
    *_return("ptrace", "process.trace", prefix32=_COMPAT),
    *_return("unshare", "process.unshare"),
    *_return("setns", "process.setns"),
    *_return("prctl", "process.prctl"),
    *_return("capset", "process.capset"),
    *_return("chroot", "process.chroot"),
    *_return("chdir", "process.chdir"),
    *_return("fchdir", "process.chdir"),
    # Of __x64_sys_setsid no kernel has type information.
    _function("ksys_setsid", "process.setsid", whole=True),
    *_return("io_uring_setup", "kernel.io_uring_setup"),
    *_return("memfd_create", "kernel.memfd"),
    *_return("userfaultfd", "kernel.userfaultfd"),
    *_return("fsconfig", "kernel.fsconfig"),
    *_result("open openat openat2 creat open_by_handle_at", "file.open"),
    *_result("clone clone3 fork vfork", "process.fork"),
    *_result("socket socketpair", "net.create"),
    *_result("bind", "net.bind"),
    *_result("connect", "net.connect"),
    *_result("listen", "net.listen"),
    *_result("accept accept4", "net.accept"),
    *_result("sendto sendmsg sendmmsg", "net.send"),
    *_result("rename renameat renameat2", "file.rename"),
    *_result("unlink", "file.unlink"),
    *_result("unlinkat", "file.unlink", "file.rmdir"),
    *_result("rmdir", "file.rmdir"),
    *_result("link linkat", "file.link"),
    *_result("symlink symlinkat", "file.symlink"),
    *_result("mkdir mkdirat", "file.mkdir"),
    *_result("chmod fchmod fchmodat", "file.chmod"),
    *_result("chown lchown fchown fchownat", "file.chown"),
    *_result("mknod mknodat", "file.create"),
    *_result("kill tkill tgkill", "process.signal"),
    *_result("process_vm_readv process_vm_writev", "process.ptrace"),
    *_result("mount", "kernel.mount"),
    *_result("umount", "kernel.umount"),
    *_result("pivot_root", "kernel.pivot_root"),
    *_result("bpf", "kernel.bpf"),
    *_result("init_module finit_module", "kernel.module"),
    *_setid("setuid setreuid setresuid", "process.setuid"),
    *_setid("setgid setregid setresgid", "process.setgid"),
    _sensor("kprobe"),
    _sensor("kretprobe", "return"),
    _sensor("kretprobe", "entry"),
    _sensor("tracepoint"),
    _sensor("lsm", kind=Kind.PLACED),
    _sensor("uprobe"),
    _sensor("uretprobe", "ureturn"),
    _sensor("uretprobe", "uentry"),
    _sensor("usdt"),
)
PROGRAMS: Final = (*_ATTACHED, _tail(ENDED, f"{_SYSCALL}dup", _ATTACHED))
"""Every place that bpfence attaches to, and what programs there go on in."""


def hooks_of(event: str) -> tuple[str, ...]:
    """Where the kernel is looked at for an event: LSM hooks, tracepoints (tp:), functions (fn:), ends of system calls (call:)."""
    rows = (
        row
        for row in PROGRAMS
        if event in row.events and row.kind not in (Kind.RESULT, Kind.TAIL) and not row.aid and not row.hook.startswith("call32:")
    )
    return tuple(dict.fromkeys(("tp:" if row.kind is Kind.TRACEPOINT else "") + row.hook for row in rows))
