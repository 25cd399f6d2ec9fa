# SPDX-License-Identifier: Apache-2.0
"""Logs of strace, read for what is called between the filter and the program."""

from __future__ import annotations

from tools.trace_runtimes import after_filter

CRUN = """\
7 seccomp(SECCOMP_SET_MODE_STRICT, 0x1, NULL) = -1 EINVAL (Invalid argument)
7 seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_LOG, NULL) = -1 EFAULT (Bad address)
7 openat(AT_FDCWD, "/etc", O_RDONLY) = 3
7 seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, {len=9, filter=0x5}) = 0
9 read(3, "", 1) = 0
7 write(2, "x", 1) = 1
7 execve("/program", ["/program"], 0x1) = 0
7 exit_group(0) = ?
"""

RUNC = """\
16 prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, {len=9, filter=0xc0} <unfinished ...>
17 nanosleep({tv_sec=0, tv_nsec=20000}, NULL) = 0
16 <... prctl resumed>)              = 0
16 openat(AT_FDCWD, "/proc/self/fd", O_RDONLY|O_CLOEXEC <unfinished ...>
17 futex(0xc5dc58, FUTEX_WAKE_PRIVATE, 1) = 0
16 <... openat resumed>)             = 6
16 clone3({flags=CLONE_VM|CLONE_THREAD, child_tid=0x7f} => {parent_tid=[4]}, 88) = 4 /* 20 in strace's PID NS */
20 rt_sigprocmask(SIG_SETMASK, [], NULL, 8) = 0
16 execve("/program", ["/program"], 0x1 <unfinished ...>
20 futex(0xc5dc58, FUTEX_WAKE_PRIVATE, 1) = 0
16 <... execve resumed>)             = 0
16 brk(NULL) = 0x1
"""


def test_only_what_comes_between_the_two_counts() -> None:
    assert list(after_filter(CRUN.splitlines())) == ["write", "execve"]


def test_threads_made_under_the_filter_count_and_others_do_not() -> None:
    assert list(after_filter(RUNC.splitlines())) == ["openat", "clone3", "rt_sigprocmask", "execve"]


def test_a_filter_that_the_kernel_refuses_is_none() -> None:
    refused = CRUN.replace("filter=0x5}) = 0", "filter=0x5}) = -1 EINVAL (Invalid argument)")
    assert list(after_filter(refused.splitlines())) == []
