# SPDX-License-Identifier: Apache-2.0
"""The running kernel in, the features that cases may require out: probed, never inferred from a version."""

from __future__ import annotations

import ctypes
import errno
import functools
import mmap
import platform
import re
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

SYS_IO_URING_SETUP = 425
SYS_FSOPEN = 430
SYS_FCHMODAT2 = 452
SYS_SETXATTRAT = 463
SYS_FILE_SETATTR = 469
SYS_GETPID = 39
AF_RXRPC = 33
AF_SMC = 43
IPPROTO_MPTCP = 262


def _system_call(number: int) -> str:
    """Whether the system call exists: called with arguments that can only fail."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, 0, 0) >= 0:
        return "yes"
    return "no" if ctypes.get_errno() == errno.ENOSYS else "yes"


@functools.cache
def _functions() -> frozenset[str]:
    """Names of the kernel's functions, what compilers append to them left out."""
    # In one search: to split some hundred thousand lines one by one takes an emulated machine half a minute.
    return frozenset(re.findall(r" [tT] ([^.\s]+)", Path("/proc/kallsyms").read_text()))


def _function(*names: str) -> str:
    """Whether the kernel has this function, by kallsyms; several names where a compiler may have put one into its caller."""
    return "yes" if _functions() & set(names) else "no"


def _ext4() -> str:
    """Whether an ext4 file system can be made and mounted."""
    modules = all(subprocess.run(["modprobe", "--quiet", module], check=False).returncode == 0 for module in ("loop", "ext4"))
    return "yes" if modules and shutil.which("mke2fs") else "no"


def _binary_kernel_feature(path: str) -> str:
    return "yes" if Path(path).exists() else "no"


def _remove_unwritable() -> str:
    """Whether MADV_REMOVE takes a shared mapping that is only read, of a descriptor that may write."""
    with tempfile.TemporaryFile(dir="/run") as file:
        file.truncate(mmap.PAGESIZE)
        with mmap.mmap(file.fileno(), mmap.PAGESIZE, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ) as mapping:
            try:
                mapping.madvise(mmap.MADV_REMOVE)
            except OSError:
                return "no"
    return "yes"


def _preemption() -> str:
    """Whether a task can be preempted inside the kernel: by the scheduler's mode, else by what the kernel says it was built with."""
    mode = Path("/sys/kernel/debug/sched/preempt")
    if not Path("/sys/kernel/debug/sched").exists():
        subprocess.run(["mount", "-t", "debugfs", "debugfs", "/sys/kernel/debug"], check=False, capture_output=True)
    if mode.exists():
        return "yes" if re.search(r"\((full|lazy)\)", mode.read_text()) else "no"
    return "no" if "PREEMPT" not in platform.version() else "unknown"


def _number_is_int() -> str:
    """Whether the upper half of a system call's number does not count: asked with that of getpid(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return "yes" if libc.syscall(ctypes.c_long(-(1 << 63) | SYS_GETPID)) > 0 else "no"


def _socket(family: int, kind: int, protocol: int) -> str:
    """Whether the kernel can make such a socket, with a module where it needs one."""
    try:
        socket.socket(family, kind, protocol).close()
    except OSError:
        return "no"
    return "yes"


def _mptcp_fastopen() -> str:
    """Whether a message can begin a connection of MPTCP, to a port where nothing listens."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, IPPROTO_MPTCP) as probed:
            probed.sendto(b"x", socket.MSG_FASTOPEN, ("127.0.0.1", 9))
    except OSError as error:
        return "yes" if error.errno in (errno.EINPROGRESS, errno.ECONNREFUSED) else "no"
    return "yes"


def probe() -> dict[str, str]:
    """Feature -> yes or no. The names are the rows of features.yaml."""
    return {
        "bpf_lsm": "yes" if "bpf" in Path("/sys/kernel/security/lsm").read_text().split(",") else "no",
        "hook_userns_create": _function("security_create_user_ns"),
        "hook_uring_sqpoll": _function("security_uring_sqpoll"),
        "hook_file_truncate": _function("security_file_truncate"),
        "io_uring": _system_call(SYS_IO_URING_SETUP),
        "uring_socket": _function("io_socket"),
        "uring_send_zc": _function("io_send_zc", "io_send_zc_prep"),
        "uring_bind": _function("io_bind"),
        "mptcp": _socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP),
        "mptcp_fastopen": _mptcp_fastopen(),
        "sctp": _socket(socket.AF_INET, socket.SOCK_SEQPACKET, socket.IPPROTO_SCTP),
        "smc": _socket(AF_SMC, socket.SOCK_STREAM, 0),
        "vsock": _socket(socket.AF_VSOCK, socket.SOCK_STREAM, 0),
        "rxrpc": _socket(AF_RXRPC, socket.SOCK_DGRAM, socket.AF_INET),
        "uring_names": _function("io_mkdirat"),
        "uring_xattr": _function("io_setxattr"),
        "uring_ftruncate": _function("io_ftruncate"),
        "fchmodat2": _system_call(SYS_FCHMODAT2),
        "setxattrat": _system_call(SYS_SETXATTRAT),
        "file_setattr": _system_call(SYS_FILE_SETATTR),
        "ext4": _ext4(),
        "remove_unwritable": _remove_unwritable(),
        "fsmount": _system_call(SYS_FSOPEN),
        "kexec": _function("__do_sys_kexec_load") if _function("__x64_sys_kexec_load") == "no" else "yes",
        "preemption": _preemption(),
        "call_number_is_int": _number_is_int(),
        "attach_cookie": _function("bpf_get_attach_cookie_trace"),
        "sysvipc": _binary_kernel_feature("/proc/sysvipc/shm"),
    }
