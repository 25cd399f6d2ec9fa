# SPDX-License-Identifier: Apache-2.0
"""Types and arguments of calls under Falco's names."""

from __future__ import annotations

from typing import Any

import pytest

from bpfence import abi
from bpfence.dialects.falco.confirm import calls
from bpfence.dialects.falco.confirm.calls import (
    ABSENT,
    MAKERS,
    TYPES,
    EventArgument,
    call_name,
    capability_names,
    event_type,
    open_flags,
    result_of,
    spelled,
)
from bpfence.dialects.falco.read.events import FALCO_EVENT_BY_NAME, SENSED
from bpfence.events.records import KernelEvent, decode
from bpfence.fields import EVENT_BY_NAME as NATIVE
from bpfence.syscalls.architectures import Arch
from bpfence.syscalls.table import number
from tests.unit.events.samples import record


def seen(event: str, call: str | None = None, /, *registers: int, compat: bool = False, **header: Any) -> KernelEvent:
    numbers = header.pop("numbers", {})
    if call is not None:
        found = number(Arch.X86 if compat else Arch.X86_64, call)
        assert found is not None
        numbers = {"NUM_CALL": found | (abi.CALL_COMPAT if compat else 0), **numbers}
        numbers |= {f"NUM_CALL_ARG{n}": value for n, value in enumerate(registers)}
    decoded = decode("decisions", record(event, numbers, header.pop("strings", None), **{"action": abi.ACTION_AUDIT, "error": 0, **header}))
    assert isinstance(decoded, KernelEvent)
    return decoded


@pytest.mark.parametrize(
    ("event", "call", "wanted"),
    [
        ("file.open", "open", "open"), ("file.open", "openat2", "openat2"), ("file.open", "creat", "creat"), ("file.open", "execve", None),
        ("file.open", None, "openat"), ("file.open", "io_uring_enter", "openat"), ("file.open_failed", "open", "open"),
        ("process.executed", "execveat", "execve"), ("process.executed", None, "execve"), ("process.exec_failed", "execveat", "execveat"),
        ("process.exit", "exit_group", "procexit"), ("process.fork", "vfork", "vfork"), ("process.fork", "clone3", "clone3"),
        ("net.connect", "connect", "connect"), ("net.connect", "sendto", None), ("net.connect", None, "connect"),
        ("net.accept", "accept", "accept"), ("net.accept", None, "accept4"), ("file.rmdir", "unlinkat", "unlinkat"),
        ("file.rmdir", "rmdir", "rmdir"), ("file.dup", "dup2", "dup2"), ("process.trace", "ptrace", "ptrace"),
        ("kernel.module", "init_module", "init_module"), ("kernel.module", "socket", None), ("file.mmap", "mmap", None),
        ("file.truncate", None, None), ("process.capable", "chown", None), ("file.chmod", "fchmodat2", None),
        ("net.recv", "recvfrom", "recvfrom"), ("net.recv", "recvmmsg", "recvmmsg"), ("net.recv", "read", None),
        ("net.recv", None, "recvmsg"), ("net.recv", "io_uring_enter", "recvmsg"), ("process.setid_failed", "setregid", "setregid"),
        ("kernel.memfd", "memfd_create", "memfd_create"), ("process.setsid", "setsid", "setsid"),
    ],
)  # fmt: skip
def test_types(event: str, call: str | None, wanted: str | None) -> None:
    assert event_type(seen(event, call)) == wanted


def test_types_of_unusual_calls() -> None:
    assert event_type(seen("file.open", "open", flags=abi.EVENT_ASYNC)) == "openat"
    assert event_type(seen("file.open", "open", compat=True)) == "open"
    assert event_type(seen("net.connect", "socketcall", 3, compat=True)) == "connect"
    assert event_type(seen("net.connect", "socketcall", 2, compat=True)) is None
    assert event_type(seen("net.connect", "socketcall", 1 << 40 | 3, compat=True)) == "connect"
    assert event_type(seen("process.setuid", "setuid32", compat=True)) == "setuid"
    assert event_type(seen("process.setid_failed", "setgid", compat=True)) == "setgid"
    assert event_type(seen("net.recv", "recvmmsg_time64", compat=True)) == "recvmmsg"
    assert event_type(seen("net.recv", "socketcall", 17, compat=True)) == "recvmsg"
    assert event_type(seen("file.open", numbers={"NUM_CALL": 0xFFFF_FFFF_FFFF_FFFF})) is None
    assert event_type(seen("process.exec", "execve", flags=abi.EVENT_RESULT)) is None
    assert event_type(seen("process.exec", "execve", flags=abi.EVENT_DECISION)) == "execve"
    assert event_type(seen("process.ptrace", "ptrace", flags=abi.EVENT_RESULT)) is None
    assert event_type(seen("process.ptrace", "ptrace", flags=abi.EVENT_RESULT | abi.EVENT_DECISION)) == "ptrace"
    assert event_type(seen("process.ptrace", "process_vm_readv", flags=abi.EVENT_RESULT)) == "process_vm_readv"
    assert call_name(0x40000000 | 520, 0) == "execve"
    assert call_name(5_000, 0) is None


def test_tables_hold_names_that_exist() -> None:
    for native, types in TYPES.items():
        assert native in NATIVE
        assert types <= FALCO_EVENT_BY_NAME.keys()
    for event in NATIVE:
        canonical = event_type(seen(event, flags=abi.EVENT_DECISION))
        assert canonical is None or canonical in FALCO_EVENT_BY_NAME
        assert (canonical is None) == (event not in TYPES and event not in ("process.executed", "process.exit"))
    assert all(tuple(MAKERS[event.name]) == event.args for event in SENSED)
    for name, makers in calls._BY_TYPE.items():
        # A table of arguments that several types share may hold more than one of them has.
        assert set(makers) <= set(FALCO_EVENT_BY_NAME[name].args) or makers is calls._CLONED, name


def test_open_flags() -> None:
    assert open_flags(0, False) == EventArgument(1, "O_RDONLY")
    assert open_flags(0o2000101, True) == EventArgument(1 << 14 | 1 << 12 | 1 << 2 | 2, "O_CREAT|O_WRONLY|O_CLOEXEC|O_F_CREATED")
    assert open_flags(0o20200002, False).text == "O_DIRECTORY|O_RDWR|O_TMPFILE"
    assert open_flags(0o4010000, False).text == "O_SYNC|O_DSYNC|O_RDONLY"
    assert open_flags(0xFFFFFFFF, True).text == (
        "O_LARGEFILE|O_DIRECTORY|O_DIRECT|O_TRUNC|O_SYNC|O_NONBLOCK|O_EXCL|O_DSYNC|O_APPEND|O_CREAT|O_RDWR|O_CLOEXEC|O_TMPFILE|O_F_CREATED"
    )


def test_capabilities() -> None:
    assert capability_names(0) == ""
    assert capability_names(1 << 63 | 1 << 21 | 1) == "CAP_CHOWN CAP_SYS_ADMIN"


def test_results() -> None:
    minus_two = (1 << 64) - 2
    assert result_of(seen("file.open", numbers={"NUM_RESULT": minus_two})) == -2
    assert result_of(seen("file.open", flags=abi.EVENT_AT_ONCE)) == 0
    assert result_of(seen("file.open", action=abi.ACTION_DENY, error=13)) == -13
    assert result_of(seen("file.open", action=abi.ACTION_KILL, error=1)) == -1
    assert result_of(seen("file.open", action=abi.ACTION_AUDIT, error=13)) == 0
    assert result_of(seen("process.executed", numbers={"NUM_RESULT": 7})) == 0
    assert result_of(seen("process.exit")) is None


def test_spelled() -> None:
    arguments = (ABSENT, EventArgument(3), EventArgument(-2, "ENOENT"), EventArgument("a"), EventArgument(b"\xff", "t"))
    assert [spelled("x", argument) for argument in arguments] == ["x=<NA>", "x=3", "x=-2(ENOENT)", "x=a", "x=\udcff(t)"]
    assert spelled("mode", EventArgument(0o644, "0644")) == "mode=0644"
