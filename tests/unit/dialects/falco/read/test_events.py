"""The table of event types."""

from __future__ import annotations

import re

from bpfence.dialects.falco.read.events import FALCO_EVENT_BY_NAME, KNOWN, NAMES, OTHERS, SENSED, calls_of
from bpfence.fields import EVENT_BY_NAME as NATIVE
from tests.unit.dialects.falco.trees import corpus

REQUIRED = [
    "open",
    "openat",
    "openat2",
    "open_by_handle_at",
    "creat",
    "execve",
    "execveat",
    "clone",
    "clone3",
    "fork",
    "vfork",
    "connect",
    "accept",
    "accept4",
    "listen",
    "bind",
    "socket",
    "sendto",
    "sendmsg",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "rmdir",
    "link",
    "linkat",
    "symlink",
    "symlinkat",
    "mkdir",
    "mkdirat",
    "chmod",
    "fchmod",
    "fchmodat",
    "setns",
    "unshare",
    "ptrace",
    "mount",
    "umount",
    "umount2",
    "bpf",
    "io_uring_setup",
    "memfd_create",
    "prctl",
    "dup",
    "dup2",
    "dup3",
    "kill",
    "tkill",
    "tgkill",
    "userfaultfd",
    "finit_module",
    "init_module",
    "setuid",
    "setgid",
    "setresuid",
    "setresgid",
    "capset",
    "procexit",
]


def test_the_event_types_that_falcos_rules_name_are_there() -> None:
    assert set(REQUIRED) <= FALCO_EVENT_BY_NAME.keys()


def test_names_and_native_events() -> None:
    assert len(NAMES) == len(FALCO_EVENT_BY_NAME)
    assert not OTHERS & FALCO_EVENT_BY_NAME.keys()
    assert KNOWN >= OTHERS
    for event in SENSED:
        assert set(event.native) | set(event.seen) <= NATIVE.keys()
        assert all(NATIVE[name].deniable for name in event.native if event.name != "procexit")
        assert event.seen or event.name == "mprotect"
        assert event.args or event.name == "setsid"
        assert event.category in ("file", "net", "process", "user", "system", "signal", "ipc", "memory")


def test_which_calls_an_event_counts_in() -> None:
    calls = calls_of()
    assert calls["file.open"] == {"open", "openat", "openat2", "creat", "open_by_handle_at"}
    assert calls["process.executed"] == calls["process.exec_failed"] == {"execve", "execveat"}
    assert calls["file.dup"] == {"dup", "dup2", "dup3"}
    assert calls["process.exit"] == frozenset(), "it comes from no call"
    assert "process.exec" not in calls, "the attempt is for rules that deny"
    assert {name for event in SENSED for name in event.seen} == calls.keys()


def test_arguments_that_stable_rules_use_are_named() -> None:
    used = set(re.findall(r"evt\.arg\.([a-z_]+)", corpus().read_text()))
    assert used <= {name for event in SENSED for name in event.args}
