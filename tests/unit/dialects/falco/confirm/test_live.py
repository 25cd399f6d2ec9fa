# SPDX-License-Identifier: Apache-2.0
"""Falco's fields of kernel records: each native event, and whatever a record may hold."""

from __future__ import annotations

import ipaddress
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfence import abi
from bpfence.dialects.falco.confirm import live as falco_live
from bpfence.dialects.falco.confirm.calls import TYPES, UNKNOWN_DESCRIPTOR
from bpfence.dialects.falco.confirm.event import (
    ABOUT_ACT,
    ABOUT_PROCESS,
    ANCESTORS_ARGUMENTS,
    DERIVED,
    OPENING,
    OWN_ARGUMENTS,
    FalcoAncestor,
    encode,
    record_of,
)
from bpfence.dialects.falco.confirm.event import decode as recorded
from bpfence.dialects.falco.confirm.live import LiveEvent, LiveEvents, address_text, container_id, normal
from bpfence.dialects.falco.confirm.rules import RuleSet
from bpfence.dialects.falco.load import load_files, load_text
from bpfence.dialects.falco.read.events import FALCO_EVENT_BY_NAME
from bpfence.dialects.falco.read.fields import FALCO_FIELD_BY_NAME, FALCO_FIELDS, FieldArgument
from bpfence.events.process import ACTS, Clock, ProcessCache
from bpfence.events.records import PROCESS_NUMBERS as SLOTS
from bpfence.events.records import SUBJECT, KernelEvent, act, decode
from bpfence.fields import EVENTS as NATIVE_EVENTS
from bpfence.host.accounts import UNKNOWN, User
from bpfence.host.hostnames import Hostnames
from bpfence.host.procfs import Procfs
from bpfence.syscalls.architectures import Arch
from bpfence.syscalls.table import number
from bpfence.workloads.model import Container, Pod
from tests.unit.dialects.falco.confirm.test_calls import seen
from tests.unit.dialects.falco.trees import corpus
from tests.unit.events.samples import IMAGES, Image, record

CLOCK = Clock(lambda: 1_700_000_000_000_000_000, lambda: 0)
MINUS = (1 << 64).__sub__
U64 = (1 << 64) - 1
V4 = bytes([10, 0, 0, 1])
V6 = ipaddress.IPv6Address("2001:db8::1").packed
OWN_NAMESPACE = os.stat("/proc/self/ns/pid").st_ino


class Users:
    """Made-up user databases."""

    def user(self, uid: int, mnt_ns: int, pid: int) -> User:
        if uid > 99_999:
            return User(UNKNOWN, UNKNOWN, UNKNOWN)
        return User(f"u{uid}@{mnt_ns}", "/home", "/bin/sh") if uid else User("root", "/root", "<NA>")

    def group(self, gid: int, mnt_ns: int, pid: int) -> str:
        return f"g{gid}"


class Proc:
    """A made-up /proc."""

    def __init__(self, **known: Any) -> None:
        self.known = known

    def _of(self, name: str, pid: int) -> Any:
        return self.known.get(name, {}).get(pid)

    def arguments(self, pid: int, start_time: int) -> bytes | None:
        return self._of("arguments", pid)  # type: ignore[no-any-return]

    def environment(self, pid: int, start_time: int) -> bytes | None:
        return self._of("environment", pid)  # type: ignore[no-any-return]

    def cgroups(self, pid: int, start_time: int) -> bytes | None:
        return self._of("cgroups", pid)  # type: ignore[no-any-return]

    def status(self, pid: int, start_time: int) -> dict[str, int] | None:
        return self._of("status", pid)  # type: ignore[no-any-return]

    def leader(self, pid: int, start_time: int) -> tuple[bytes, bytes | None, bytes | None] | None:
        return self._of("leader", pid)  # type: ignore[no-any-return]

    def inner_pid(self, pid: int, start_time: int) -> int | None:
        return self._of("inner_pid", pid)  # type: ignore[no-any-return]

    def started(self, pid: int, by: int) -> int | None:
        found = self._of("started", pid)
        return found if found is not None and found <= by else None

    def descriptors(self, pid: int, start_time: int, only: int | None = None) -> dict[int, tuple[str, str]] | None:
        found = self._of("descriptors", pid)
        return found if only is None or found is None else {n: kind for n, kind in found.items() if n == only}


def events(
    proc: Any = None, *, cgroup: str | None = "/user.slice", hostnames: Hostnames | None = None, images: Any = None, container: Any = None
) -> LiveEvents:
    cache = ProcessCache((IMAGES if images is None else images).get, CLOCK, boot_id="ab")
    return LiveEvents(
        cache,
        CLOCK,
        cgroup_path=lambda _: cgroup,
        host="h",
        hostnames=hostnames,
        users=Users(),
        procfs=proc or Proc(),  # type: ignore[arg-type]
        container=container,
    )


def made(event: str, call: str | None = None, /, *registers: int, maker: LiveEvents | None = None, **more: Any) -> LiveEvent:
    found = (maker or events()).event(seen(event, call, *registers, **more))
    assert found is not None
    return found


def check(event: LiveEvent, wanted: dict[str, Any]) -> None:
    got = {}
    for name in wanted:
        field, bracket, rest = name.partition("[")
        got[name] = event.get(field, rest[:-1] if bracket else None)
    assert got == wanted


def test_the_name_of_a_cgroup_adds_no_line() -> None:
    assert falco_live._unified(b"1:name=own:/a\r0::/docker-b.scope\n0::/c\r0::/d\n") == "/c\r0::/d"


# ---- the event ----


def test_time_and_order() -> None:
    maker = events()
    first, second = made("file.open", maker=maker, time=1_000_000_001, cpu=3), made("file.open", maker=maker, time=3_000_000_005)
    assert maker.event(seen("file.mmap")) is None
    check(first, {
        "evt.num": 1, "evt.cpu": 3, "evt.source": "syscall", "evt.hostname": "h", "evt.reltime": 0, "evt.deltatime": 0,
        "evt.rawtime": 1_700_000_001_000_000_001, "evt.type": "openat", "evt.dir": "<", "evt.category": "file", "bpfence.async": False,
    })  # fmt: skip
    check(second, {"evt.num": 2, "evt.reltime": 2_000_000_004, "evt.reltime.s": 2, "evt.deltatime": 2_000_000_004, "evt.deltatime.ns": 4})
    assert made("file.open", maker=maker, time=1).get("evt.reltime") == 0


# ---- opens ----


def test_an_open() -> None:
    event = made(
        "file.open",
        "openat",
        5,
        0xDEAD,
        0o2000000,
        0o777,
        numbers={
            "NUM_RESULT": 3,
            "NUM_DIRFD": 5,
            "NUM_FILE_FLAGS": 0o2100000,
            "NUM_FILE_MODE": 0o100640,
            "NUM_FILE_INO": 9,
            "NUM_FILE_DEV": 8 << 20 | 1,
        },
        strings={"STR_FILE_TEXT": b"../x/./shadow", "STR_FILE_BASE": b"/srv/a", "STR_FILE_PATH": b"/etc/shadow"},
        flags=abi.EVENT_RESULT,
    )
    check(event, {
        "fd.name": "/srv/x/shadow", "fd.nameraw": "../x/./shadow", "bpfence.path": "/etc/shadow", "fd.num": 3, "fd.type": "file",
        "fd.typechar": "f", "fd.directory": "/srv/x", "fd.filename": "shadow", "fd.ino": 9, "fd.dev": 8 << 20 | 1, "fd.dev.major": 8,
        "fd.dev.minor": 1, "evt.rawres": 3, "evt.res": "SUCCESS", "evt.failed": False, "evt.arg[flags]": "O_RDONLY|O_CLOEXEC",
        "evt.arg[3]": "O_RDONLY|O_CLOEXEC", "evt.rawarg[flags]": 4097, "evt.arg[fd]": "<f>/srv/x/shadow", "evt.rawarg[fd]": 3,
        "evt.arg[dirfd]": "<d>/srv/a", "evt.arg[name]": "/etc/shadow", "evt.arg[mode]": "0", "evt.arg[nothing]": None, "evt.arg[9]": None,
        "evt.is_open_read": True, "evt.is_open_write": False, "evt.is_open_exec": False, "evt.is_open_create": False,
        "evt.abspath": "/srv/x/shadow", "fs.path.name": "/srv/x/shadow", "fs.path.nameraw": "../x/./shadow", "fd.cip": None, "fd.ip": None,
        "fd.connected": None, "fd.l4proto": None, "fd.uid": "4133", "fd.sip.name": None,
        "evt.args": "fd=3(<f>/srv/x/shadow) dirfd=5(<d>/srv/a) name=/etc/shadow flags=4097(O_RDONLY|O_CLOEXEC) mode=0 dev=8388609 ino=9",
    })  # fmt: skip
    assert dict(event.arguments()) == {
        "fd": 3, "dirfd": 5, "name": "/etc/shadow", "flags": "O_RDONLY|O_CLOEXEC", "mode": 0, "dev": 8388609, "ino": 9,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("numbers", "strings", "name"),
    [
        ({}, {"STR_FILE_TEXT": b"//etc/../x/"}, "/x"),
        ({"NUM_DIRFD": MINUS(100)}, {"STR_FILE_TEXT": b"a", "STR_PROCESS_CWD": b"/w"}, "/w/a"),
        ({"NUM_DIRFD": 0xFFFFFF9C}, {"STR_FILE_TEXT": b"a", "STR_PROCESS_CWD": b"/"}, "/a"),
        ({"NUM_DIRFD": 4}, {"STR_FILE_TEXT": b"a", "STR_PROCESS_CWD": b"/w", "STR_FILE_PATH": b"/real/a"}, "/real/a"),
        ({"NUM_DIRFD": 4}, {"STR_FILE_TEXT": b"a", "STR_PROCESS_CWD": b"/w"}, "<UNKNOWN>/a"), ({}, {"STR_FILE_PATH": b"/k"}, "/k"),
        ({}, {}, None), ({}, {"STR_FILE_TEXT": b"\xff", "STR_PROCESS_CWD": b"/w"}, "/w/\udcff"),
        ({}, {"STR_FILE_TEXT": b"", "STR_PROCESS_CWD": b"/w"}, "/w"),
    ],
)  # fmt: skip
def test_names_of_opens(numbers: dict[str, int], strings: dict[str, bytes], name: str | None) -> None:
    assert made("file.open", "openat", numbers=numbers, strings=strings).get("fd.name") == name


def test_an_open_that_makes_a_file() -> None:
    access = abi.ACCESS_WRITE | abi.ACCESS_CREATE
    there = made("file.open", "open", 0, 0o1101, 0o755, numbers={"NUM_RESULT": 4, "NUM_FILE_ACCESS": access})
    check(there, {"evt.arg[flags]": "O_TRUNC|O_CREAT|O_WRONLY", "evt.is_open_create": False})
    event = made("file.open", "open", 0, 0o1101, 0o755, numbers={"NUM_RESULT": 4, "NUM_FILE_ACCESS": access | abi.ACCESS_CREATED})
    check(event, {
        "evt.arg[flags]": "O_TRUNC|O_CREAT|O_WRONLY|O_F_CREATED", "evt.rawarg[mode]": 0o755, "evt.arg[mode]": "0755",
        "evt.is_open_exec": True, "evt.is_open_create": True, "evt.is_open_write": True, "evt.is_open_read": False,
    })  # fmt: skip
    failed = made("file.open_failed", "creat", 0, 0o755, numbers={"NUM_RESULT": MINUS(13)}, strings={"STR_FILE_TEXT": b"/x"})
    check(failed, {
        "evt.type": "creat", "fd.num": -1, "fd.name": "/x", "evt.res": "EACCES", "evt.failed": True, "evt.arg[fd]": "EACCES",
        "evt.rawres": -13, "evt.is_open_exec": True, "evt.arg[creat_flags]": "0", "fs.path.name": None,
    })  # fmt: skip


@pytest.mark.parametrize("call", [(), ("io_uring_enter", 5, 1, 1, 1)])
def test_an_open_by_io_uring(call: tuple[Any, ...]) -> None:
    """In a thread of the kernel, or within io_uring_enter, whose registers are about the ring."""
    event = made(
        "file.open",
        *call,
        numbers={"NUM_FILE_FLAGS": 0o100001, "NUM_FILE_MODE": 0o040755},
        strings={"STR_FILE_PATH": b"/etc/shadow"},
        flags=abi.EVENT_RESULT | abi.EVENT_AT_ONCE | abi.EVENT_ASYNC,
    )
    check(event, {
        "evt.type": "openat", "evt.rawres": 0, "evt.res": "SUCCESS", "evt.failed": False, "fd.num": UNKNOWN_DESCRIPTOR,
        "bpfence.async": True, "fd.name": "/etc/shadow", "fd.type": "directory", "fd.typechar": "d", "evt.arg[flags]": "O_WRONLY",
        "evt.arg[mode]": "<NA>", "evt.arg[dirfd]": "<NA>",
    })  # fmt: skip


def test_a_denied_open() -> None:
    event = made("file.open", "openat", numbers={}, action=abi.ACTION_DENY, error=1, flags=abi.EVENT_DECISION)
    check(event, {"evt.res": "EPERM", "evt.rawres": -1, "evt.failed": True, "fd.num": -1, "bpfence.async": False})


# ---- sockets ----


def net(event: str, call: str | None, /, *registers: int, local: Any = None, peer: Any = None, **more: Any) -> LiveEvent:
    numbers, strings = {"NUM_NET_TYPE": 1, **more.pop("numbers", {})}, dict(more.pop("strings", {}))
    for side, name in ((local, "LOCAL"), (peer, "PEER")):
        if side is not None:
            strings[f"STR_NET_{name}_IP"] = side[0]
            numbers[f"NUM_NET_{name}_PORT"] = side[1]
    return made(event, call, *registers, numbers=numbers, strings=strings, **more)


def test_a_connection() -> None:
    names = Hostnames(["x.example"], lambda *_: [(2, 1, 6, "", ("192.0.2.7", 0))], clock=lambda: 0.0)
    names.refresh()
    event = net(
        "net.connect",
        "connect",
        7,
        0,
        16,
        local=(V4, 40000),
        peer=(bytes(10) + b"\xff\xff" + bytes([192, 0, 2, 7]), 443),
        numbers={"NUM_RESULT": MINUS(115), "NUM_NET_FAMILY": 10},
        maker=events(hostnames=names),
    )
    check(event, {
        "fd.name": "10.0.0.1:40000->192.0.2.7:443", "fd.type": "ipv4", "fd.typechar": "4", "fd.cip": "10.0.0.1", "fd.sip": "192.0.2.7",
        "fd.cport": 40000, "fd.sport": 443, "fd.lip": "10.0.0.1", "fd.lport": 40000, "fd.rip": "192.0.2.7", "fd.rport": 443,
        "fd.ip": ("10.0.0.1", "192.0.2.7"), "fd.port": (40000, 443), "fd.net": ("10.0.0.1", "192.0.2.7"), "fd.snet": "192.0.2.7",
        "fd.l4proto": "tcp", "fd.sockfamily": "ip", "fd.is_server": False, "fd.num": 7, "fd.connected": False, "evt.res": "EINPROGRESS",
        "evt.rawres": -115, "fd.sip.name": "x.example", "fd.cip.name": None, "fd.sproto": "https", "fd.directory": None,
        "evt.arg[addr]": "192.0.2.7:443", "evt.arg[tuple]": "10.0.0.1:40000->192.0.2.7:443", "evt.arg[fd]":
        "<4t>10.0.0.1:40000->192.0.2.7:443", "fd.dev": None, "fd.name_changed": True,
    })  # fmt: skip


def test_roles_and_names() -> None:
    check(net("net.accept", "accept4", 3, local=(V6, 80), peer=(V6, 50000), numbers={"NUM_RESULT": 9}), {
        "fd.name": "2001:db8::1:50000->2001:db8::1:80", "fd.type": "ipv6", "fd.typechar": "6", "fd.cport": 50000, "fd.sport": 80,
        "fd.lport": 80, "fd.rport": 50000, "fd.is_server": True, "fd.connected": True, "fd.num": 9,
    })  # fmt: skip
    for event in ("bind", "listen"):
        check(net(f"net.{event}", event, 3, local=(V4, 80)), {
            "fd.name": "10.0.0.1:80", "fd.sip": "10.0.0.1", "fd.sport": 80, "fd.cip": None, "fd.is_server": True, "fd.connected": False,
            "fd.ip": ("10.0.0.1",), "fd.name_changed": False, "fd.lip": "10.0.0.1", "fd.num": 3,
        })  # fmt: skip
    check(net("net.connect", "connect", 3, peer=(V4, 80), action=abi.ACTION_DENY, error=1), {
        "fd.name": "0.0.0.0:0->10.0.0.1:80", "fd.cip": None, "fd.sip": "10.0.0.1", "evt.res": "EPERM", "fd.connected": False,
    })  # fmt: skip
    check(made("net.connect", "connect", 3, strings={"STR_NET_UNIX_PATH": b"/run/x"}), {
        "fd.name": "/run/x", "fd.type": "unix", "fd.typechar": "u", "fd.sip": None, "fd.l4proto": None, "fd.sockfamily": "unix",
        "evt.arg[addr]": "/run/x",
    })  # fmt: skip
    check(made("net.create", "socket", 17, 3, 0, numbers={"NUM_NET_FAMILY": 17, "NUM_RESULT": 4}), {
        "evt.arg[domain]": "AF_PACKET", "evt.arg[0]": "4", "evt.rawarg[domain]": 17, "evt.arg[type]": "3",
        "fd.type": None, "fd.name": None,
    })  # fmt: skip
    assert "domain=17(AF_PACKET)" in str(made("net.create", "socket", 17, 3, 0).get("evt.args"))


@pytest.mark.parametrize(
    ("protocol", "kind", "wanted"),
    [(0, 1, "tcp"), (0, 2, "udp"), (6, 1, "tcp"), (17, 2, "udp"), (1, 2, "icmp"), (1, 3, "raw"), (58, 2, "icmp"), (0, 5, None),
     (0, 0o2000001, "tcp")],
)  # fmt: skip
def test_protocols(protocol: int, kind: int, wanted: str | None) -> None:
    event = net("net.connect", "connect", peer=(V4, 1), numbers={"NUM_NET_PROTOCOL": protocol, "NUM_NET_TYPE": kind})
    assert event.get("fd.l4proto") == wanted


def test_sends() -> None:
    maker = events()

    def send(address: int, peer: int, call: str = "sendto", kind: int = 2) -> LiveEvent:
        return net(
            "net.send", call, 5, 0, 10, 0, address, 16, local=(V4, 40000), peer=(V4, peer), numbers={"NUM_NET_TYPE": kind}, maker=maker
        )

    assert [(one.get("fd.connected"), one.get("fd.name_changed")) for one in (send(1, 53), send(1, 53), send(1, 54), send(0, 54))] == [
        (False, True), (False, False), (False, True), (True, False),
    ]  # fmt: skip
    assert send(1, 53).get("fd.sport") == 53
    assert send(1, 53).get("evt.arg", "size") == "10"
    tcp = send(0, 53, "sendmsg", 1)
    assert (tcp.get("fd.connected"), tcp.get("fd.name_changed"), tcp.get("fd.is_server")) == (True, False, False)
    maker.ephemeral = range(32768, 61000)
    answer = net("net.send", "sendmsg", 5, local=(V4, 80), peer=(V4, 40000), maker=maker)
    assert (answer.get("fd.is_server"), answer.get("fd.sport"), answer.get("fd.lport")) == (True, 80, 80)


def test_messages_that_come_in() -> None:
    maker = events()
    maker.ephemeral = range(32768, 61000)

    def receive(call: str | None, port: int, peer: Any, connected: int = 0, kind: int = 2, **more: Any) -> LiveEvent:
        numbers = {"NUM_NET_TYPE": kind, "NUM_NET_FAMILY": 2, "NUM_NET_CONNECTED": connected, "NUM_NET_SIZE": 64, **more.pop("numbers", {})}
        return net("net.recv", call, 5, local=(V4, port), peer=peer, numbers=numbers, maker=maker, flags=abi.EVENT_RESULT, **more)

    event = receive("recvfrom", 53, (bytes([192, 0, 2, 7]), 123), numbers={"NUM_RESULT": 9})
    check(event, {
        "evt.type": "recvfrom", "evt.rawres": 9, "evt.arg[res]": "9", "evt.arg[size]": "64", "fd.name": "192.0.2.7:123->10.0.0.1:53",
        "evt.arg[tuple]": "192.0.2.7:123->10.0.0.1:53", "fd.cip": "192.0.2.7", "fd.sip": "10.0.0.1", "fd.rip": "192.0.2.7", "fd.lport": 53,
        "fd.num": 5, "fd.typechar": "4", "fd.l4proto": "udp", "fd.connected": False, "fd.name_changed": True, "fd.is_server": True,
        "evt.arg[data]": "<NA>", "evt.arg[fd]": "<4u>192.0.2.7:123->10.0.0.1:53",
    })  # fmt: skip
    assert not receive("recvmsg", 53, (bytes([192, 0, 2, 7]), 123)).get("fd.name_changed")
    assert receive("recvmsg", 53, (bytes([192, 0, 2, 7]), 124)).get("fd.name_changed")
    # An answer: the own port is nobody's in particular.
    answer = receive("recvmsg", 40000, (V4, 53), 1)
    check(answer, {
        "fd.name": "10.0.0.1:40000->10.0.0.1:53", "fd.is_server": False, "fd.sport": 53, "fd.connected": True, "fd.name_changed": False,
    })  # fmt: skip
    nobody = receive("recvmmsg", 53, None, numbers={"NUM_RESULT": MINUS(11)})
    check(nobody, {"fd.rip": None, "fd.name_changed": False, "fd.lport": 53, "evt.res": "EAGAIN", "fd.connected": False, "fd.type": "ipv4"})
    assert receive("recvfrom", 80, (V4, 40000), 1, 1).get("fd.is_server")
    assert not receive("recvfrom", 80, (V4, 81), 1, 1).get("fd.is_server")


def test_a_change_of_ids_that_fails() -> None:
    event = made("process.setid_failed", "setresuid", 0, 0xFFFFFFFF, 7, numbers={"NUM_RESULT": MINUS(1)}, flags=abi.EVENT_RESULT)
    check(event, {
        "evt.type": "setresuid", "evt.res": "EPERM", "evt.failed": True, "user.uid": 1000, "evt.arg[ruid]": "root",
        "evt.arg[euid]": "<NONE>", "evt.rawarg[suid]": 7,
    })  # fmt: skip


def test_duplicates() -> None:
    proc = Proc(descriptors={412: {1: ("file", "/tmp/x")}})
    event = net("file.dup", "dup2", 5, 1, local=(V4, 40000), peer=(V4, 443), numbers={"NUM_NET_FAMILY": 2, "NUM_RESULT": 1})
    check(event, {
        "fd.num": 1, "fd.type": "ipv4", "fd.name": "10.0.0.1:40000->10.0.0.1:443", "evt.rawres": 1, "fd.connected": True,
        "evt.arg[oldfd]": "5", "evt.arg[res]": "<4t>10.0.0.1:40000->10.0.0.1:443", "fd.rport": 443,
    })  # fmt: skip
    copied = made("file.dup", "dup", 5, numbers={"NUM_RESULT": 1}, maker=events(proc))
    check(copied, {"fd.type": "file", "fd.name": "/tmp/x", "fd.rip": None})
    failed = made("file.dup", "dup", 5, numbers={"NUM_RESULT": MINUS(9)}, maker=events(proc))
    check(failed, {"fd.num": -1, "fd.type": None, "fd.name": None})


# ---- processes ----


def test_a_new_program() -> None:
    ancestors = b"".join(abi.ANCESTOR_STRUCT.pack(*one) for one in ((0x700000, 400), (0x5, 7), (0x600000, 1)))
    event = made(
        "process.executed",
        "execveat",
        numbers={
            "NUM_TTY": 34816,
            "NUM_SID": 400,
            "NUM_PGID": 412,
            "NUM_VPID": 2,
            "NUM_VTID": 3,
            "NUM_VPGID": 2,
            "NUM_LOGINUID": 0xFFFFFFFF,
            "NUM_PROCESS_CAPS": 1,
            "NUM_CAPS_PERMITTED": 3,
            "NUM_CAPS_INHERITABLE": 0,
            "NUM_EXE_INO": 5,
            "NUM_EXE_CTIME": 6,
            "NUM_EXE_MTIME": 7,
            "NUM_EXE_FLAGS": abi.EXE_UPPER | abi.EXE_MEMFD,
            "NUM_PARENT_START": 1_000_000_000,
        },
        strings={"STR_ANCESTORS": ancestors, "STR_PROCESS_CWD": b"/root", "STR_PROCESS_ARGS": b"x y\0-c\0a b\0"},
        time=9_000_000_000,
    )
    check(event, {
        "evt.type": "execve", "evt.rawres": 0, "evt.res": "SUCCESS", "evt.failed": False, "proc.name": "sh", "proc.exe": "x y",
        "proc.args": "-c a b", "proc.cmdline": "sh -c a b", "proc.exepath": "/usr/bin/dash", "proc.cwd": "/root/", "proc.tty": 34816,
        "proc.pid": 412, "proc.ppid": 400, "proc.vpid": 2, "proc.vpgid": 2, "proc.sid": 400, "proc.pgid": 412, "proc.sname": "bash",
        "proc.sid.exe": "-bash", "proc.sid.exepath": "/usr/bin/bash", "proc.vpgid.name": "sh", "proc.vpgid.exe": "x y",
        "proc.is_sid_leader": False, "proc.is_pgid_leader": True, "proc.is_vpgid_leader": True, "proc.pname": "bash", "proc.pexe": "-bash",
        "proc.pexepath": "/usr/bin/bash", "proc.pcmdline": "bash", "proc.aname": ("bash", "init"), "proc.aname[3]": "init",
        "proc.aname[2]": None, "proc.apid": (400, 7, 1), "proc.duration": 5_000_000_000, "proc.ppid.duration": 8_000_000_000,
        "proc.pid.ts": 1_700_000_004_000_000_000, "proc.is_exe_upper_layer": True, "proc.is_exe_from_memfd": True,
        "proc.is_exe_writable": False, "proc.exe_ino": 5, "proc.exe_ino.ctime": 6, "proc.exe_ino.mtime": 7, "thread.tid": 413,
        "thread.vtid": 3, "thread.cap_effective": "CAP_CHOWN", "thread.cap_permitted": "CAP_CHOWN CAP_DAC_OVERRIDE",
        "thread.cap_inheritable": "", "user.loginuid": -1, "user.loginname": "<NA>", "user.uid": 1000, "user.name": "u1000@1",
        "user.homedir": "/home", "user.shell": "/bin/sh", "group.gid": 100, "group.name": "g100", "proc.loginshellid": 400,
        "evt.arg[flags]": "EXE_UPPER_LAYER|EXE_FROM_MEMFD", "evt.arg[exe]": "x y", "evt.arg[comm]": "sh", "container.id": "host",
        "container.privileged": None, "thread.cgroup[cpu]": "/user.slice", "proc.env": None, "proc.cmdnargs": 2,
    })  # fmt: skip
    assert event.elements("proc.args") == ("-c", "a b")
    assert event.elements("fd.name") is None


def test_a_program_about_to_be_executed() -> None:
    event = made(
        "process.exec",
        "execve",
        numbers={"NUM_FILE_MEMFD": 1, "NUM_EXE_FLAGS": abi.EXE_UPPER, "NUM_EXE_INO": 4},
        strings={"STR_FILE_PATH": b"/tmp/x", "STR_PROCESS_EXE": b"/usr/bin/dash"},
        action=abi.ACTION_DENY,
        error=1,
        flags=abi.EVENT_DECISION,
    )
    check(event, {
        "evt.type": "execve", "evt.res": "EPERM", "proc.exepath": "/tmp/x", "proc.is_exe_from_memfd": True, "proc.name": "sh",
        "proc.is_exe_upper_layer": None, "proc.exe_ino": None, "proc.pname": "bash", "evt.arg[filename]": "/tmp/x",
        "evt.arg[flags]": "<NA>",
    })  # fmt: skip


def test_processes_older_than_the_agent() -> None:
    images = {1: Image(2, 412, abi.EXEC_FROM_ITER, b"old", b"", b"/x"), 2: Image(0, 400, abi.EXEC_FROM_ITER, b"older", b"", b"/y")}
    proc = Proc(arguments={412: b"old\0-a\0", 400: b"older\0-b\0"}, started={400: 5}, environment={412: b"A=1\0B=\0", 400: b"C=2\0"})
    event = made("file.open", maker=events(proc, images=images), exec_id=1, parent_exec_id=2)
    check(event, {
        "proc.cmdline": "old -a", "proc.pcmdline": "older -b", "proc.env": "A=1 B=", "proc.env[A]": "1", "proc.env[X]": None,
        "proc.aenv": ("C=2",), "proc.aenv[1]": "C=2", "proc.aenv[2]": None, "proc.aenv[C]": "2", "proc.aenv[0]": "A=1 B=",
    })  # fmt: skip
    proc.known["started"] = {400: 1 << 60}
    later = made("file.open", maker=events(proc, images=images), exec_id=1, parent_exec_id=2)
    check(later, {"proc.pcmdline": "older", "proc.pexe": None, "proc.aenv": None})
    unknown = made("file.open", maker=events(images={}), comm=b"\xff")
    check(unknown, {"proc.name": "\udcff", "proc.exe": None, "proc.exepath": None, "proc.args": None, "proc.cmdline": "\udcff",
                    "proc.pname": None, "proc.cwd": None, "proc.sname": None, "proc.ppid": 400})  # fmt: skip


def test_names_of_tasks() -> None:
    assert made("file.open", comm=b"renamed").get("proc.name") == "sh"
    assert made("process.executed", comm=b"new").get("proc.name") == "new"
    assert made("file.open", strings={"STR_PROCESS_NAME": b"given"}).get("proc.name") == "given"


def test_an_address_with_two_names() -> None:
    names = Hostnames(["a.example", "b.example"], lambda *_: [(2, 1, 6, "", ("10.0.0.1", 0))], clock=lambda: 0.0)
    names.refresh()
    text = "\n".join(
        f"- {{rule: r{n}, desc: d, output: o, priority: INFO, condition: 'evt.type=connect and {condition}'}}"
        for n, condition in enumerate(
            (
                "fd.sip.name = b.example",
                "fd.sip.name in (x.example, a.example)",
                "fd.sip.name != a.example",
                "fd.sip.name != c.example",
                "fd.cip.name exists",
            )
        )
    )
    rules = RuleSet(load_text(text)[0].rules, matching="all")
    event = net("net.connect", "connect", 3, peer=(V4, 443), maker=events(hostnames=names))
    assert event.get("fd.sip.name") == ("a.example", "b.example")
    assert [match.rule.name for match in rules.matches(event)] == ["r0", "r1", "r3"]


def test_what_only_proc_knows() -> None:
    proc = Proc(
        leader={9: (b"login", b"-l", b"/bin/login")},
        inner_pid={400: 1},
        started={400: 2_000_000_000, 9: 4_500_000_000},
        descriptors={412: {0: ("pipe", ""), 1: ("ipv4", ""), 2: ("file", "/dev/null")}},
    )
    event = made("file.open", maker=events(proc), numbers={"NUM_SID": 9, "NUM_EXE_CTIME": 1_700_000_005_000_000_000})
    check(event, {
        "proc.sname": "login", "proc.sid.exe": "-l", "proc.sid.exepath": "/bin/login", "proc.pvpid": 1, "proc.stdin.type": "pipe",
        "proc.stdin.name": None, "proc.stderr.name": "/dev/null", "fd.types": ("pipe", "ipv4", "file"), "fd.types[1]": "ipv4",
        "fd.types[5]": None, "fd.types[x]": None, "proc.pidns_init_start_ts": 1_700_000_002_000_000_000,
        "proc.exe_ino.ctime_duration_pidns_start": 3_000_000_000,
    })  # fmt: skip


def test_an_id_that_was_taken_over_since_is_not_mistaken() -> None:
    """An ancestor has started before the process, the leader of its session before the event."""
    proc = Proc(
        leader={9: (b"login", b"-l", b"/bin/login")},
        inner_pid={400: 1},
        started={400: 4_000_000_001, 9: 5_000_000_002},
        environment={400: b"A=1\0"},
    )
    event = made("file.open", maker=events(proc), numbers={"NUM_SID": 9})
    check(event, {"proc.sname": None, "proc.sid.exepath": None, "proc.pvpid": None, "proc.pidns_init_start_ts": None, "proc.aenv[A]": None})


def test_the_parent_of_the_record_is_newer_than_its_image() -> None:
    event = made("file.open", strings={"STR_PARENT_NAME": b"now", "STR_PARENT_ARGS": b"now\0x\0"})
    check(event, {"proc.pname": "now", "proc.pcmdline": "now x", "proc.pexe": "now", "proc.aname[2]": "init"})
    assert event.lineage()[1] == FalcoAncestor("init", "/sbin/init", "/usr/lib/systemd/systemd", 1, "init")


# ---- other calls ----


@pytest.mark.parametrize(
    ("event", "wanted"),
    [
        (("process.trace", "ptrace", 0x4206, 77), {"evt.arg[request]": "PTRACE_SEIZE", "evt.arg[pid]": "77", "evt.arg[addr]": "<NA>"}),
        (("process.trace", "ptrace", 999, 77, 255), {"evt.arg[request]": "PTRACE_UNKNOWN", "evt.arg[addr]": "FF"}),
        (("process.unshare", "unshare", 0x10020000), {"evt.arg[flags]": "CLONE_NEWNS|CLONE_NEWUSER"}),
        (("process.prctl", "prctl", 15, 5), {"evt.arg[option]": "PR_SET_NAME", "evt.arg[arg2_str]": "text", "evt.arg[arg2_int]": "<NA>"}),
        (("process.prctl", "prctl", 38, 1), {
            "evt.arg[option]": "PR_SET_NO_NEW_PRIVS", "evt.arg[arg2_str]": "<NA>", "evt.arg[arg2_int]": "1"}),
        (("process.chroot", "chroot"), {"evt.arg[path]": "text"}), (("process.chdir", "chdir"), {"evt.arg[path]": "text", "fd.name": None}),
        (("kernel.memfd", "memfd_create", 0, 3), {
            "evt.arg[flags]": "MFD_CLOEXEC|MFD_ALLOW_SEALING", "fd.type": "memfd", "fd.name": "text"}),
        (("kernel.io_uring_setup", "io_uring_setup", 8), {"evt.arg[entries]": "8", "fd.typechar": "r"}),
        (("kernel.userfaultfd", "userfaultfd", 0o2000000), {"evt.arg[flags]": "O_CLOEXEC", "fd.type": "userfaultfd"}),
        (("kernel.fsconfig", "fsconfig", 4, 6), {"evt.arg[cmd]": "FSCONFIG_CMD_CREATE", "evt.arg[key]": "text", "fd.num": 4}),
        (("process.setuid", "setresuid", MINUS(1), 0, 5), {
            "evt.arg[ruid]": "<NONE>", "evt.rawarg[ruid]": -1, "evt.arg[euid]": "root", "evt.arg[suid]": "u5@1", "evt.rawarg[suid]": 5,
            "evt.args": "res=0 ruid=-1(<NONE>) euid=0(root) suid=5(u5@1)"}),
        (("process.setuid", "setuid", 4294967294), {"evt.arg[uid]": "4294967294", "evt.rawarg[uid]": 4294967294}),
        (("process.setgid", "setregid", MINUS(1), 7), {"evt.arg[rgid]": "<NONE>", "evt.arg[egid]": "g7"}),
        (("file.chown", "fchown", 5, 1, 2), {"evt.arg[uid]": "3", "evt.arg[gid]": "4", "evt.rawarg[uid]": 3}),
        (("process.signal", "kill", MINUS(7), 9), {"evt.arg[pid]": "-7", "evt.arg[sig]": "SIGKILL", "evt.rawarg[sig]": 9}),
        (("file.symlink", "symlinkat"), {
            "evt.arg[target]": "/etc/shadow", "evt.arg[linkpath]": "/k", "fs.path.source": "/k", "fs.path.target": "/etc/shadow",
            "fd.name": None}),
        (("file.link", "linkat", 3, 0, 4, 0, 0x400), {
            "evt.arg[oldpath]": "/k", "evt.arg[newpath]": "/n", "fs.path.source": "/n", "fs.path.target": "/k",
            "evt.arg[flags]": "AT_SYMLINK_FOLLOW", "evt.arg[olddir]": "3",
            "evt.arg[newdir]": "4", "evt.arg[newdirfd]": None, "evt.abspath.src": "/k", "evt.abspath.dst": "/n"}),
        (("file.rename", "renameat2", MINUS(100), 0, 4, 0, 1), {
            "fs.path.source": "/k", "fs.path.target": "/n", "evt.arg[olddirfd]": "AT_FDCWD", "evt.arg[flags]": "RENAME_NOREPLACE"}),
        (("file.mkdir", "mkdir"), {"evt.arg[mode]": "1ED", "evt.rawarg[mode]": 0o755, "fs.path.name": "/k", "fd.num": None}),
        (("file.create", "mknod"), {
            "evt.arg[mode]": "S_IXOTH|S_IROTH|S_IXGRP|S_IRGRP|S_IXUSR|S_IWUSR|S_IRUSR|S_IFREG", "evt.rawarg[mode]": 0o100755}),
        (("file.chmod", "fchmod", 6), {
            "evt.arg[mode]": "S_IXOTH|S_IROTH|S_IXGRP|S_IRGRP|S_IXUSR|S_IWUSR|S_IRUSR", "evt.rawarg[mode]": 0o755,
            "evt.args": "res=0 fd=6(<f>/k) mode=0755(S_IXOTH|S_IROTH|S_IXGRP|S_IRGRP|S_IXUSR|S_IWUSR|S_IRUSR)",
            "fd.name": "/k", "fd.num": 6, "fd.type": "file", "evt.arg[fd]": "<f>/k"}),
        (("file.unlink", "unlinkat", 3, 0, 0x200), {"evt.arg[flags]": "AT_REMOVEDIR", "evt.arg[name]": "/k"}),
        (("kernel.mount", "mount"), {
            "evt.arg[flags]": "RDONLY|BIND", "evt.arg[dev]": "/dev/x", "evt.arg[dir]": "/k", "fs.path.target": "/k"}),
        (("kernel.umount", "umount2", 0, 2), {"evt.arg[flags]": "DETACH", "fs.path.name": "/k"}),
        (("kernel.bpf", "bpf", 5), {
            "evt.arg[cmd]": "BPF_PROG_LOAD", "evt.rawarg[cmd]": 5, "fd.num": UNKNOWN_DESCRIPTOR, "fd.type": "bpf", "fd.typechar": "b"}),
        (("file.open", "open_by_handle_at", 3), {"evt.abspath": "/k", "fd.name": "/k"}),
        (("process.fork", "clone", 0), {"evt.arg[flags]": "CLONE_NEWUSER", "evt.rawres": 0}),
        (("process.exit",), {"evt.type": "procexit", "syscall.type": None, "evt.arg[ret]": "3", "evt.arg[sig]": "9", "evt.res": None}),
        (("process.capset", "capset"), {"evt.arg[cap_effective]": "CAP_CHOWN"}), (("process.setsid", "setsid"), {"evt.args": "res=0"}),
        (("kernel.module", "finit_module", 5, 0, 4), {"evt.arg[flags]": "MODULE_INIT_COMPRESSED_FILE", "fd.num": 5, "fd.name": "/k"}),
        (("process.exec_failed", "execve"), {"evt.arg[filename]": "text", "evt.type": "execve"}),
    ],
)  # fmt: skip
def test_arguments(event: tuple[Any, ...], wanted: dict[str, Any]) -> None:
    numbers = {
        "NUM_SIGNAL": 9, "NUM_FILE_MODE": 0o100755, "NUM_MOUNT_FLAGS": 4097, "NUM_BPF_CMD": 5, "NUM_CLONE_FLAGS": 0x10000011,
        "NUM_EXIT_CODE": 0x309, "NUM_PROCESS_CAPS": 1, "NUM_FILE_UID": 3, "NUM_FILE_GID": 4,
    }  # fmt: skip
    strings = {
        "STR_CALL_TEXT": b"text", "STR_FILE_PATH": b"/k", "STR_FILE_NEW_PATH": b"/n", "STR_LINK_TARGET": b"/etc/shadow",
        "STR_MOUNT_SOURCE": b"/dev/x",
    }  # fmt: skip
    check(made(*event, numbers=numbers, strings=strings), wanted)


@pytest.mark.parametrize(("result", "uid", "gid"), [(0, 33, 44), (MINUS(1), 1000, 100)])
def test_after_a_call_that_has_changed_the_user_it_is_the_new_one(result: int, uid: int, gid: int) -> None:
    event = made("process.setuid", "setuid", 33, numbers={"NUM_SET_UID": 33, "NUM_RESULT": result})
    check(event, {"user.uid": uid, "user.name": f"u{uid}@1", "group.gid": 100, "evt.arg[uid]": "u33@1"})
    event = made("process.setgid", "setresgid", MINUS(1), 44, numbers={"NUM_SET_GID": 44, "NUM_RESULT": result})
    check(event, {"group.gid": gid, "group.name": f"g{gid}", "user.uid": 1000, "evt.arg[egid]": "g44"})


GIVEN = {
    "STR_CALL_TEXT": b"./one", "STR_CALL_TEXT_2": b"../two", "STR_FILE_PATH": b"/k", "STR_FILE_NEW_PATH": b"/n",
    "STR_LINK_TARGET": b"to", "STR_MOUNT_SOURCE": b"dev", "STR_PROCESS_CWD": b"/w",
}  # fmt: skip


@pytest.mark.parametrize(
    ("event", "call", "name", "source", "target"),
    [
        ("file.unlink", "unlinkat", ("/k", "./one"), None, None), ("kernel.umount", "umount2", ("/k", "./one"), None, None),
        ("file.chmod", "chmod", ("/k", "./one"), None, None), ("file.rename", "renameat2", None, ("/k", "./one"), ("/n", "../two")),
        ("file.link", "linkat", None, ("/n", "../two"), ("/k", "./one")),
        ("file.symlink", "symlink", None, ("/k", "../two"), ("/w/to", "to")),
        ("kernel.mount", "mount", None, ("dev", "./one"), ("/k", "../two")),
    ],
)  # fmt: skip
def test_names_as_given(event: str, call: str, name: Any, source: Any, target: Any) -> None:
    with_texts = made(event, call, strings=GIVEN, numbers={"NUM_RESULT": 0})
    without = made(event, call, strings={key: text for key, text in GIVEN.items() if not key.startswith("STR_CALL_TEXT")})
    failed = made(event, call, strings=GIVEN, numbers={"NUM_RESULT": MINUS(2)})
    for field, wanted in (("name", name), ("source", source), ("target", target)):
        path, raw = wanted or (None, None)
        linked = (event, field) == ("file.symlink", "target")
        check(with_texts, {f"fs.path.{field}": path, f"fs.path.{field}raw": raw})
        check(without, {f"fs.path.{field}": path, f"fs.path.{field}raw": raw if linked else path})
        check(failed, {f"fs.path.{field}": None, f"fs.path.{field}raw": None})


def test_arguments_that_lie_in_the_callers_memory() -> None:
    check(
        made("net.create", "socketpair", 1, 1, 0, 0xDEAD, numbers={"NUM_PAIR_0": 3, "NUM_PAIR_1": 4, "NUM_RESULT": 0}),
        {
            "evt.arg[fd1]": "3",
            "evt.rawarg[fd2]": 4,
        },
    )
    check(made("net.accept", "accept", 3, numbers={"NUM_QUEUE_LENGTH": 3, "NUM_QUEUE_MAX": 4, "NUM_RESULT": 5}), {
        "evt.arg[queuepct]": "75", "evt.arg[queuelen]": "3", "evt.arg[queuemax]": "4",
    })  # fmt: skip
    assert made("net.accept", "accept", 3, numbers={"NUM_QUEUE_LENGTH": 0, "NUM_QUEUE_MAX": 0}).get("evt.arg", "queuepct") == "0"
    assert made("net.accept", "accept", 3).get("evt.rawarg", "queuepct") is None
    how = {"NUM_FILE_FLAGS": 0o101, "NUM_HOW_MODE": 0o640, "NUM_HOW_RESOLVE": 8 | 1}
    check(made("file.open", "openat2", MINUS(100), numbers=how), {
        "evt.arg[mode]": "0640", "evt.arg[resolve]": "RESOLVE_BENEATH|RESOLVE_NO_XDEV", "evt.rawarg[resolve]": 9,
    })  # fmt: skip
    assert made("file.open", "openat2", MINUS(100), numbers={**how, "NUM_FILE_FLAGS": 1}).get("evt.arg", "mode") == "0"
    assert made("file.open", "openat2", MINUS(100)).get("evt.arg", "mode") == "<NA>"
    ring = {f"NUM_RING_PARAM_{place}": value for place, value in enumerate((8, 16, 3, 1, 2, 5))}
    check(made("kernel.io_uring_setup", "io_uring_setup", 8, numbers=ring), {
        "evt.arg[sq_entries]": "8", "evt.arg[cq_entries]": "16", "evt.arg[flags]": "IORING_SETUP_IOPOLL|IORING_SETUP_SQPOLL",
        "evt.arg[sq_thread_cpu]": "1", "evt.arg[sq_thread_idle]": "2",
        "evt.arg[features]": "IORING_FEAT_SINGLE_MMAP|IORING_FEAT_SUBMIT_STABLE",
    })  # fmt: skip


def test_memory_and_threads_are_read_after_the_act() -> None:
    proc = Proc(status={412: {"VmSize": 9000, "VmRSS": 700, "VmSwap": 0, "Threads": 3}})
    main = made("file.open", "open", tid=412, maker=events(proc))
    check(main, {
        "thread.vmsize": 9000, "thread.vmrss": 700, "proc.vmsize": 9000, "proc.vmrss": 700, "proc.vmswap": 0, "proc.nthreads": 3,
        "proc.nchilds": 2,
    })  # fmt: skip
    check(made("file.open", "open", tid=413, maker=events(proc)), {"thread.vmsize": 0, "thread.vmrss": 0, "proc.vmrss": 700})
    check(made("file.open", "open", tid=412), {"thread.vmsize": None, "proc.nthreads": None})


def test_a_set_user_bit_is_found_by_its_name_live_and_in_a_replay() -> None:
    event = made("file.chmod", "chmod", 0, 0o4755, numbers={"NUM_FILE_MODE": 0o104755}, strings={"STR_FILE_PATH": b"/tmp/x"})
    assert event.get("evt.arg", "mode").endswith("|S_IRUSR|S_ISUID")  # type: ignore[union-attr]
    again = recorded(encode(record_of(event, ["evt.rawres"], num=1, host="h")))
    for name in ("evt.args", "evt.arg[mode]", "evt.rawarg[mode]", "evt.arg[2]"):
        field, _, rest = name.partition("[")
        assert event.get(field, rest[:-1] or None) == again.get(field, rest[:-1] or None)
    nothing = made("file.chmod", "chmod", numbers={"NUM_FILE_MODE": 0o100000})
    check(nothing, {"evt.arg[mode]": "0", "evt.args": "res=0 filename=<NA> mode=0"})


def test_registers_of_32_bit_calls() -> None:
    assert made("process.setuid", "setuid", 0xFFFF_FFFF_0000_0007, compat=True).get("evt.rawarg", "uid") == 7
    multiplexed = made("net.connect", "socketcall", 3, 0xBEEF, compat=True, strings={"STR_NET_PEER_IP": V4})
    check(multiplexed, {"evt.type": "connect", "fd.num": UNKNOWN_DESCRIPTOR, "evt.rawarg[fd]": None, "fd.sip": "10.0.0.1"})


# ---- containers ----

ID = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/", "host"),
        ("/system.slice/docker.service", "host"),
        (f"/system.slice/docker-{ID}.scope", ID[:12]),
        (f"/system.slice/docker-{ID}.scope/init", ID[:12]),
        (f"/user.slice/{ID}", "host"),
        ("/docker/short", "short"),
        ("/machine.slice/systemd-nspawn@web.service/payload", "web"),
        ("/lxc.payload.db/system.slice/x.service", "db"),
        ("/lxc/c1", "c1"),
        ("/machine.slice/libpod-abc.scope", "abc"),
        (f"/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope", ID[:12]),
        (f"/docker/{ID[::-1]}/docker/{ID}", ID[:12]),
        ("/docker/\udcff", "\udcff"),
    ],
)
def test_containers(path: str, wanted: str) -> None:
    assert container_id(path) == wanted


def test_the_container_of_an_event() -> None:
    path = f"/docker/{ID}"
    full, most = (1 << 64) - 1, 0xA80425FB
    check(
        made("file.open", maker=events(cgroup=path), numbers={"NUM_CAPS_BOUNDING": full}),
        {
            "container.id": ID[:12],
            "container.privileged": True,
            "container.name": None,
            "thread.cgroups": f"cpuset={path} cpu={path} cpuacct={path} io={path} memory={path}",
            "fd.containername": None,
        },
    )
    check(made("file.open", maker=events(cgroup=path), numbers={"NUM_CAPS_BOUNDING": most}), {"container.privileged": False})
    check(made("file.open", maker=events(cgroup=path)), {"container.privileged": None})
    check(made("file.open", numbers={"NUM_CAPS_BOUNDING": full}), {"container.id": "host", "container.name": "host",
                                                                  "container.privileged": None})  # fmt: skip


def test_a_cgroup_that_is_gone() -> None:
    check(made("file.open", maker=events(cgroup=None)), {"container.id": "unknown", "thread.cgroups": None, "thread.cgroup[cpu]": None})
    check(made("file.open", maker=events(cgroup=None), pid_ns=OWN_NAMESPACE), {"container.id": "host"})
    check(made("file.open", maker=events(cgroup=None), strings={"STR_PROCESS_CGROUP": b"/docker/x"}), {"container.id": "x"})
    proc = Proc(cgroups={412: b"1:name=systemd:/a\n0::/docker/y\n"})
    check(made("file.open", maker=events(proc, cgroup=None)), {"container.id": "y"})
    asked: list[int] = []
    maker = events()
    maker._cgroup_path = lambda number: asked.append(number) or "/docker/z"  # type: ignore[func-returns-value]
    assert [made("file.open", maker=maker).get("container.id") for _ in range(3)] == ["z"] * 3
    assert asked == [9, 9], "once for the container, once for the process"


# ---- texts ----


def test_addresses_and_paths() -> None:
    assert [address_text(one) for one in (V4, V6, bytes(16), b"", b"12345")] == ["10.0.0.1", "2001:db8::1", "::", None, None]
    assert [normal("/a/", "b"), normal(None, "/a//b/"), normal("/a", "../../.."), normal(None, "b")] == ["/a/b", "/a/b", "/", "<UNKNOWN>/b"]


def test_what_the_kernel_says_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    assert falco_live._all_capabilities() & 0xFF == 0xFF
    for name in ("_EPHEMERAL", "_LAST_CAPABILITY"):
        monkeypatch.setattr(falco_live, name, Path("/nonexistent"))
    assert falco_live._all_capabilities() == (1 << 41) - 1
    assert falco_live._ephemeral_ports() == range(32768, 61000)


# ---- Falco's own rules ----

CONTAINER = f"/docker/{ID}"
ANCESTORS = b"".join(abi.ANCESTOR_STRUCT.pack(*one) for one in ((0x700000, 400), (0x600000, 1)))
SSH_PORT = bytes([1, 2, 3, 4])
OK = {"NUM_RESULT": 3}
MET: list[tuple[str, tuple[Any, ...], str, dict[str, int], dict[str, bytes], Image | None]] = [
    ("Read sensitive file untrusted", ("file.open", "openat", 0, 1, 0), "/", OK, {"STR_FILE_TEXT": b"../etc/shadow"}, None),
    (
        "Read sensitive file untrusted",
        ("file.open", "openat", 0, 1, 0),
        "/",
        OK,
        {"STR_FILE_TEXT": b"innocent", "STR_FILE_PATH": b"/etc/shadow"},
        None,
    ),
    ("Read sensitive file untrusted", ("file.open",), "/", {"NUM_FILE_FLAGS": 0}, {"STR_FILE_PATH": b"/etc/shadow"}, None),
    ("Packet socket created in container", ("net.create", "socket", 17, 3, 0), CONTAINER, {"NUM_NET_FAMILY": 17, **OK}, {}, None),
    (
        "Redirect STDOUT/STDIN to Network Connection in Container",
        ("file.dup", "dup2", 5, 1),
        CONTAINER,
        {"NUM_RESULT": 1, "NUM_NET_FAMILY": 2, "NUM_NET_TYPE": 1},
        {"STR_NET_LOCAL_IP": V4, "STR_NET_PEER_IP": SSH_PORT},
        None,
    ),
    ("PTRACE attached to process", ("process.trace", "ptrace", 16, 77), "/", {"NUM_RESULT": 0}, {}, None),
    ("PTRACE anti-debug attempt", ("process.trace", "ptrace", 0, 0), "/", {"NUM_RESULT": MINUS(1)}, {}, None),
    ("Fileless execution via memfd_create", ("process.executed", "execveat"), "/", {"NUM_EXE_FLAGS": abi.EXE_MEMFD}, {}, None),
    ("Drop and execute new binary in container", ("process.executed", "execve"), CONTAINER, {"NUM_EXE_FLAGS": abi.EXE_UPPER}, {}, None),
    (
        "Create Symlink Over Sensitive Files",
        ("file.symlink", "symlinkat"),
        "/",
        {"NUM_RESULT": 0},
        {"STR_LINK_TARGET": b"/etc/shadow", "STR_FILE_PATH": b"/tmp/l"},
        None,
    ),
    (
        "Create Hardlink Over Sensitive Files",
        ("file.link", "linkat"),
        "/",
        {"NUM_RESULT": 0},
        {"STR_FILE_NEW_PATH": b"/tmp/l", "STR_FILE_PATH": b"/etc/shadow"},
        None,
    ),
    (
        "Detect release_agent File Container Escapes",
        ("file.open", "open", 1, 2),
        CONTAINER,
        {"NUM_PROCESS_CAPS": 1 << 21 | 2, **OK},
        {"STR_FILE_TEXT": b"/x/release_agent"},
        None,
    ),
    ("Clear Log Activities", ("file.open", "open", 1, 0o1001), "/", OK, {"STR_FILE_TEXT": b"/var/log/syslog"}, None),
    (
        "Debugfs Launched in Privileged Container",
        ("process.executed", "execve"),
        CONTAINER,
        {"NUM_CAPS_BOUNDING": (1 << 64) - 1},
        {},
        Image(0x700000, 412, 0, b"debugfs", b"debugfs\0", b"/sbin/debugfs"),
    ),
    (
        "Netcat Remote Code Execution in Container",
        ("process.executed", "execve"),
        CONTAINER,
        {},
        {"STR_PROCESS_ARGS": b"nc\0-e\0/bin/sh\0"},
        Image(0x700000, 412, 0, b"nc", b"nc\0", b"/bin/nc"),
    ),
    (
        "Execution from /dev/shm",
        ("process.executed", "execve"),
        "/",
        {},
        {"STR_PROCESS_EXE": b"/dev/shm/x", "STR_PROCESS_ARGS": b"/dev/shm/x\0"},
        None,
    ),
    (
        "Disallowed SSH Connection Non Standard Port",
        ("net.connect", "connect", 3),
        "/",
        {"NUM_RESULT": MINUS(115), "NUM_NET_TYPE": 1, "NUM_NET_LOCAL_PORT": 40000, "NUM_NET_PEER_PORT": 443},
        {"STR_NET_LOCAL_IP": V4, "STR_NET_PEER_IP": SSH_PORT, "STR_PROCESS_ARGS": b"ssh\0h\0"},
        Image(0x700000, 412, 0, b"ssh", b"ssh\0", b"/usr/bin/ssh"),
    ),
]


@pytest.mark.parametrize(("rule", "event", "cgroup", "numbers", "strings", "image"), MET)
def test_stable_rules_are_met(
    rule: str, event: tuple[Any, ...], cgroup: str, numbers: dict[str, int], strings: dict[str, bytes], image: Image | None
) -> None:
    rules = RuleSet(load_files([corpus()])[0].rules, matching="all")
    image = image or Image(0x700000, 412, 0, b"cat", b"cat\0x\0", b"/usr/bin/cat")
    made_up = made(
        *event,
        maker=events(cgroup=cgroup, images={**IMAGES, 0x700001: image}),
        flags=abi.EVENT_RESULT,
        comm=image.comm,
        numbers={
            "NUM_TTY": 34816,
            "NUM_LOGINUID": 0xFFFFFFFF,
            "NUM_PROCESS_CAPS": 1,
            "NUM_EXE_FLAGS": 0,
            "NUM_FILE_MODE": 0o100640,
            **numbers,
        },
        strings={
            "STR_ANCESTORS": ANCESTORS,
            "STR_PROCESS_CWD": b"/tmp",
            "STR_PROCESS_ARGS": image.args,
            "STR_PROCESS_EXE": image.exe,
            **strings,
        },
    )
    assert [match.rule.name for match in rules.matches(made_up)] == [rule]
    spelled = [field.name for field in FALCO_FIELDS if field.argument is not FieldArgument.KEY]
    replayed = recorded(encode(record_of(made_up, spelled, num=1, host="h")))
    assert [match.rule.name for match in rules.matches(replayed)] == [rule]


def test_this_very_process() -> None:
    started = Procfs().started(os.getpid(), 1 << 62)
    assert started is not None
    own = os.stat("/proc/self/ns/mnt").st_ino
    cache = ProcessCache({1: Image(0, os.getpid(), abi.EXEC_FROM_ITER, b"py", b"", b"/py")}.get, Clock(), boot_id="ab")
    maker = LiveEvents(cache, Clock(), cgroup_path=lambda _: None, host="h")
    header = {"pid": os.getpid(), "start_time": started, "exec_id": 1, "mnt_ns": own, "pid_ns": OWN_NAMESPACE, "uid": 0}
    event = made("file.open", maker=maker, **header)
    with open("/proc/self/cmdline", "rb") as file:  # noqa: PTH123
        words = file.read().rstrip(b"\0").split(b"\0")
    assert event.get("proc.exe") == os.fsdecode(words[0])
    assert event.elements("proc.args") == tuple(os.fsdecode(word) for word in words[1:])
    assert event.get("proc.env", "PATH") == os.environ["PATH"]
    assert event.get("user.name") == "root"
    assert event.get("proc.stdin.type") is not None
    other = made("file.open", maker=maker, **{**header, "start_time": started + 5_000_000_000})
    check(other, {"proc.exe": None, "proc.env": None, "proc.stdin.type": None, "fd.types": None})


@pytest.mark.parametrize(
    ("call", "compat", "given", "wanted"),
    [
        ("setreuid", True, 0xFFFF, (-1, "<NONE>")), ("setreuid", True, 0xABCD_0005, (5, "u5@1")),
        ("setreuid32", True, 0xFFFF, (65535, "u65535@1")), ("setreuid32", True, 0xFFFF_FFFF, (-1, "<NONE>")),
        ("setreuid", False, 0xFFFF, (65535, "u65535@1")), ("setreuid", False, MINUS(1), (-1, "<NONE>")),
    ],
)  # fmt: skip
def test_ids_of_16_bits(call: str, compat: bool, given: int, wanted: tuple[int, str]) -> None:
    event = made("process.setuid", call, given, 0, compat=compat)
    assert event.type == "setreuid"
    assert (event.get("evt.rawarg", "ruid"), event.get("evt.arg", "ruid")) == wanted


# ---- containers ----


def test_what_runtimes_tell_of_a_container() -> None:
    path = "/docker/" + "ab" * 32
    told = Container(
        id="ab" * 32,
        cgroup=path,
        name="web",
        image="nginx:1.27",
        runtime="docker",
        labels={"app.kubernetes.io/name": "web"},
        started=5,
        pod=Pod("web-1", "shop", "u1", {"app": "web"}),
    )
    event = made("file.open", maker=events(cgroup=path, container={path: told}.get))
    check(
        event,
        {
            "container.id": "ab" * 6,
            "container.full_id": "ab" * 32,
            "container.name": "web",
            "container.image.repository": "nginx",
            "container.image.tag": "1.27",
            "container.type": "docker",
            "container.start_ts": 5,
            "k8s.ns.name": "shop",
            "k8s.pod.id": "u1",
        },
    )
    assert event.get("container.label", "app.kubernetes.io/name") == "web"
    assert event.get("container.label", "none") is None
    assert event.get("container.duration") == event.get("evt.rawtime") - 5  # type: ignore[operator]


def test_a_container_that_nobody_has_told_of_has_an_id_alone() -> None:
    event = made("file.open", maker=events(cgroup="/docker/" + "ab" * 32))
    check(event, {"container.id": "ab" * 6, "container.name": None, "container.image": None, "k8s.pod.name": None})
    check(made("file.open"), {"container.id": "host", "container.name": "host", "container.image": None})


# ---- anything ----


def test_every_filled_field_has_a_source() -> None:
    event = made("file.open")
    for field in FALCO_FIELDS:
        if field.filled:
            assert field.name in falco_live._OWN or field.name in DERIVED, field.name
    assert event.raw("evt.num", None) == 1
    assert event.raw("proc.cmdline", None) is None


WIDE = st.integers(0, (1 << 64) - 1)
NUMBERS = st.dictionaries(
    st.sampled_from(sorted(abi.NUM_SLOT)), WIDE | st.integers(0, 512) | st.integers(0, 400).map(MINUS), max_size=30
).map(lambda found: {name: value & ((1 << 64) - 1) for name, value in found.items()})
STRINGS = st.dictionaries(
    st.sampled_from(sorted(abi.STR_SLOT)), st.binary(max_size=40) | st.sampled_from([V4, V6, b"/", b"a\0b\0"]), max_size=12
)
NAMES_AND_CALLS = st.sampled_from([event.name for event in NATIVE_EVENTS]).flatmap(
    lambda name: st.tuples(
        st.just(name),
        st.sampled_from([{}, *({"NUM_CALL": found} for call in sorted(TYPES.get(name, ())) if (found := number(Arch.X86_64, call)))]),
    )
)
ASKED = [
    (field.name, argument)
    for field in FALCO_FIELDS
    for argument in ((None,) if field.argument is FieldArgument.NONE else (None, "0", "1", "99", "flags", "fd", "x"))
    if not (field.argument is FieldArgument.OPTIONAL_INDEX and argument is not None and not argument.isdigit())
]


@settings(max_examples=300, deadline=None)
@given(NAMES_AND_CALLS, NUMBERS, STRINGS, st.integers(0, 511), st.binary(max_size=16), WIDE)
def test_no_record_raises(
    chosen: tuple[str, dict[str, int]], numbers: dict[str, int], strings: dict[str, bytes], flags: int, comm: bytes, time: int
) -> None:
    name, call = chosen
    numbers |= call
    data = decode("decisions", record(name, numbers, strings, flags=flags, comm=comm, time=time, start_time=time, error=flags))
    assert isinstance(data, KernelEvent)
    event = events(cgroup=None).event(data)
    if event is None:
        return
    for field, argument in ASKED:
        value = event.get(field, argument)
        assert value is None or isinstance(value, (str, int, float, bool, bytes, tuple))
        assert event.get(field, argument) == value
    line = encode(record_of(event, [spelled for spelled, argument in ASKED if argument is None], num=1, host="h"))
    assert recorded(line).type == event.type


# ---- what is kept for a process ----

PROCESS_NUMBERS = [name for name, slot in abi.NUM_SLOT.items() if slot in SLOTS]
PROCESS_STRINGS = ["STR_PROCESS_EXE", "STR_PROCESS_ARGS", "STR_PROCESS_NAME", "STR_PROCESS_CGROUP", "STR_PROCESS_CWD", "STR_PARENT_NAME",
                   "STR_PARENT_ARGS"]  # fmt: skip
BYTES = st.sampled_from([b"", b"x", b"/a/b", b"sh\0-c\0x", b"\xff"])
LINEAGE = st.sampled_from(
    [b"", abi.ANCESTOR_STRUCT.pack(0x700000, 400), abi.ANCESTOR_STRUCT.pack(0x700000, 400) + abi.ANCESTOR_STRUCT.pack(0x600000, 1)]
)
OLDER = {number: Image(image.parent_exec_id, image.pid, abi.EXEC_FROM_ITER, image.comm, b"", image.exe) for number, image in IMAGES.items()}
WORDS = {OWN_ARGUMENTS: "arguments of its own", ANCESTORS_ARGUMENTS: "arguments of its ancestors"}


def any_record(draw: st.DrawFn, event: str, numbers: dict[str, int], strings: dict[str, bytes], **header: int) -> KernelEvent:
    """A record that says this of its process, and anything about everything else."""
    others = [name for name, slot in abi.NUM_SLOT.items() if slot >= abi.ABI_NUM_IN_HEADER and name not in PROCESS_NUMBERS]
    more = draw(st.dictionaries(st.sampled_from(others), st.integers(0, (1 << 32) - 1), max_size=6))
    texts = draw(st.dictionaries(st.sampled_from(["STR_FILE_PATH", "STR_FILE_TEXT", "STR_CALL_TEXT", "STR_NET_PEER_IP"]), BYTES))
    call = {"NUM_CALL": {"file.open": 257, "net.connect": 42, "file.unlink": 87}[event]}
    made = decode(
        "candidates",
        record(
            event,
            {**numbers, **more, **call},
            {**strings, **texts},
            time=draw(st.integers(0, 1 << 60)),
            cpu=draw(st.integers(0, 9)),
            **header,
        ),
    )
    assert isinstance(made, KernelEvent)
    return made


@given(st.data(), st.sampled_from(["file.open", "net.connect", "file.unlink"]), st.booleans())
def test_fields_about_a_process_are_the_same_for_all_its_events(data: st.DataObject, event: str, older: bool) -> None:
    names = [name for name in PROCESS_NUMBERS if abi.NUM_SLOT[name] >= abi.ABI_NUM_IN_HEADER]
    numbers = data.draw(st.dictionaries(st.sampled_from(names), st.integers(0, (1 << 32) - 1)))
    strings = data.draw(st.dictionaries(st.sampled_from(PROCESS_STRINGS), BYTES)) | {"STR_ANCESTORS": data.draw(LINEAGE)}
    header = {"pid": 412, "uid": data.draw(st.integers(0, 9)), "ppid": 400}
    one, other = (data.draw(st.composite(any_record)(event, numbers, strings, **header)) for _ in range(2))
    assert one.subject(SUBJECT) == other.subject(SUBJECT)
    # The second time the memory of processes says something else: what is unsure may differ, and is not kept.
    procs = [Proc(arguments={412: word, 400: word, 1: word}, started={412: 1, 400: 1, 1: 1}) for word in (b"one\0x", b"other\0y")]
    first, second = (events(proc, images=OLDER if older else IMAGES).event(found) for proc, found in zip(procs, (one, other), strict=True))
    assert (first is None) == (second is None)
    if first is None or second is None or first.type != second.type:
        return
    assert (first.unsure, first.memo is None) == (second.unsure, second.memo is None)
    if first.memo is None:
        return
    for name, needs in ABOUT_PROCESS.items():
        if not needs & first.unsure:
            arguments = (None, "0", "1", "3") if FALCO_FIELD_BY_NAME[name].argument is FieldArgument.OPTIONAL_INDEX else (None,)
            assert [first.get(name, one) for one in arguments] == [second.get(name, one) for one in arguments], name


TEXTS = ["STR_FILE_PATH", "STR_FILE_TEXT", "STR_FILE_BASE", "STR_CALL_TEXT", *PROCESS_STRINGS]


@given(
    st.sampled_from(["file.open", "file.open_failed"]),
    st.sampled_from([2, 257, 85, 437, 304, 5 | abi.CALL_COMPAT, 295 | abi.CALL_COMPAT]),
    st.dictionaries(st.sampled_from([name for name, slot in abi.NUM_SLOT.items() if slot >= abi.ABI_NUM_IN_HEADER]), st.integers(0, U64)),
    st.dictionaries(st.sampled_from(TEXTS), BYTES),
    st.lists(
        st.fixed_dictionaries({"time": st.integers(0, 9), "sequence": st.integers(1, 9), "cpu": st.integers(0, 9)}), min_size=2, max_size=2
    ),
    st.sampled_from([0, abi.EVENT_RESULT, abi.EVENT_RESULT | abi.EVENT_DECISION, abi.EVENT_ASYNC]),
    st.booleans(),
)
def test_fields_about_an_act_are_the_same_wherever_a_record_says_the_same(
    name: str, call: int, numbers: dict[str, int], strings: dict[str, bytes], headers: list[dict[str, int]], flags: int, older: bool
) -> None:
    found = [decode("candidates", record(name, {**numbers, "NUM_CALL": call}, strings, flags=flags, **header)) for header in headers]
    one, other = (kernel for kernel in found if isinstance(kernel, KernelEvent))
    assert act(one) == act(other)
    procs = [Proc(arguments={412: word, 400: word, 1: word}, started={412: 1, 400: 1, 1: 1}) for word in (b"one\0x", b"other\0y")]
    makers = [events(proc, images=OLDER if older else IMAGES) for proc in procs]
    makers[1].passed(5, 77)
    first, second = (maker.event(found) for maker, found in zip(makers, (one, other), strict=True))
    assert (first is None) == (second is None)
    if first is None or second is None:
        return
    assert first.type == second.type
    assert first.type in OPENING
    for field in sorted(ABOUT_ACT):
        arguments: tuple[str | None, ...] = (None,)
        if field in ("evt.arg", "evt.rawarg"):
            arguments = (*FALCO_EVENT_BY_NAME[first.type].args, "0", "7", "none")
        assert [first.get(field, one) for one in arguments] == [second.get(field, one) for one in arguments], field


def test_what_is_kept_of_an_act_is_shared_by_equal_records() -> None:
    maker = events()
    path = {"STR_FILE_PATH": b"/a"}
    first, second = made("file.open", maker=maker, strings=path), made("file.open", maker=maker, strings=path, time=9, sequence=5, cpu=2)
    assert first.act is second.act is not None
    assert made("file.open", maker=maker, strings={"STR_FILE_PATH": b"/b"}).act is not first.act
    assert made("file.open", maker=maker, strings=path, uid=5).act is not first.act
    assert made("file.open", maker=maker, strings=path, error=5, action=abi.ACTION_DENY).act is not first.act
    assert made("net.connect", maker=maker).act is None
    assert made("file.open", maker=events(cgroup=None), strings=path).act is None
    for one in range(ACTS):
        made("file.open", maker=maker, strings={"STR_FILE_PATH": b"%d" % one})
    assert made("file.open", maker=maker, strings=path).act is not first.act
    maker.processes.forget_subjects()
    assert made("file.open", maker=maker, strings=path).act == {}


def test_what_is_kept_is_shared_by_the_events_of_a_type() -> None:
    maker = events()
    first, second, third = made("file.open", maker=maker), made("file.open", maker=maker, time=9), made("file.open", "creat", maker=maker)
    assert first.memo is second.memo is not None
    assert third.memo is not first.memo
    assert made("file.open", maker=maker, uid=5).memo is not first.memo
    assert made("process.setuid", "setuid", maker=maker).memo is None, "it changes the process that it is about"
    assert made("file.open", maker=events(cgroup=None)).memo is None
    assert made("file.open", maker=events(images={})).memo is None
    assert made("file.open", maker=events(images=OLDER)).unsure == OWN_ARGUMENTS | ANCESTORS_ARGUMENTS


REMEMBERED = """
- rule: R
  desc: d
  condition: >
    evt.type=openat and (proc.name=sh or proc.cmdline contains x) and not proc.pname in (init) and fd.name startswith /etc and
    (proc.aname[2]=init or fd.name=/etc/q)
  output: "%fd.name by %proc.name (%proc.cmdline) under %proc.pname, %user.name %container.id %evt.num %proc.aname[9]"
  priority: NOTICE
"""


def test_rules_say_the_same_whether_or_not_anything_is_kept() -> None:
    maker = events()
    loaded, found = load_text(REMEMBERED)
    assert not [one for one in found if one.severity == "error"]
    rules = RuleSet(loaded.rules)
    said = []
    for time, path in enumerate((b"/etc/a", b"/etc/q", b"/usr", b"/etc/a")):
        for comm in (b"sh", b"other"):
            event = made("file.open", maker=maker, strings={"STR_FILE_PATH": path}, comm=comm, time=time)
            assert event.act is not None
            kept = [(match.output, match.fields) for match in rules.matches(event)]
            event.memo = event.act = None
            fresh = [(match.output, match.fields) for match in RuleSet(loaded.rules).matches(event)]
            assert kept == fresh
            for match in rules.matches(event):
                assert json.loads(match.output_json) == match.output
                assert list(json.loads(match.fields_json).items()) == list(match.fields.items())
                assert match.printable
                assert rules.written(match.rule, event) == (match.output_json, match.fields_json)
            assert [list(fields) for _, fields in kept] == [list(fields) for _, fields in fresh], "the order, too"
            said.append(len(kept))
    assert sum(said) == 6


REFUSING = """
- rule: Process
  desc: d
  condition: evt.type=openat and fd.name startswith /etc and proc.name=other and not proc.pname=init
  output: x
  priority: NOTICE
- rule: Path
  desc: d
  condition: evt.type=openat and fd.name=/usr
  output: x
  priority: NOTICE
- rule: Either
  desc: d
  condition: evt.type=openat and (fd.name=/usr or proc.name=other)
  output: x
  priority: NOTICE
"""


def test_a_process_that_no_rule_can_match_needs_no_events() -> None:
    maker = events()
    rules = RuleSet(load_text(REFUSING)[0].rules)
    event = made("file.open", maker=maker, strings={"STR_FILE_PATH": b"/etc/a"})
    by_process = {name: rules.refused_by_process(event, frozenset([name])) for name in ("Process", "Path", "Either")}
    assert by_process == {"Process": True, "Path": False, "Either": False}
    assert not rules.refused_by_process(event, frozenset(["Process", "Path"]))
    maker.passed(1, 2_000_000_000)
    after = made("file.open", maker=maker, time=3_000_000_000)
    check(after, {"evt.num": 3, "evt.deltatime": 1_000_000_000})
