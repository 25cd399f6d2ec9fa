# SPDX-License-Identifier: Apache-2.0
"""Registers, memory and /proc entries, made readable; hostile ones too."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfence.confine import callers as module
from bpfence.confine.callers import MAX_ANCESTORS, MAX_TEXT, decode_call, read_caller, read_string, socket_address
from bpfence.events.process import Clock
from bpfence.syscalls.architectures import Arch
from bpfence.syscalls.table import all_names

PAGE = 4096


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[int]:
    """A file that plays /proc/PID/mem: two pages, nothing above."""
    path = tmp_path / "mem"
    data = bytearray(2 * PAGE)
    data[16:32] = b"/tmp/a\nb\x1b[31m\0x"
    data[100:107] = b"\xff\xfeword\0"
    data[PAGE - 4 : PAGE + 4] = b"span" + b"ned\0"
    data[2 * PAGE - 3 :] = b"end"
    path.write_bytes(data)
    descriptor = os.open(path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (16, r"/tmp/a\x0ab\x1b[31m"),
        (100, r"\xff\xfeword"),
        (PAGE - 4, "spanned"),
        (2 * PAGE - 3, "end…"),
        (2 * PAGE + 5, None),
        (0xFFFFFFFF81000000, None),
        (32 * PAGE, None),
    ],
)
def test_strings(memory: int, address: int, text: str | None) -> None:
    assert read_string(memory, address) == text


def test_long_strings_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "mem"
    path.write_bytes(b"x" * 3 * PAGE)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        assert read_string(descriptor, 10) == "x" * MAX_TEXT + "…"
    finally:
        os.close(descriptor)


def test_kinds_of_arguments(memory: int) -> None:
    found = decode_call("openat", Arch.X86_64, (0xFFFFFFFFFFFFFF9C, 16, 0o101, 0o640, 0, 0), memory)
    assert found.args == {"dirfd": "AT_FDCWD", "path": r"/tmp/a\x0ab\x1b[31m", "flags": ["O_WRONLY", "O_CREAT"], "mode": "0640"}
    assert found.reread == ["path"]
    assert decode_call("kill", Arch.X86_64, (0xFFFFFFFF, 9, 0, 0, 0, 0), None).args == {"pid": -1, "signal": "SIGKILL"}
    found = decode_call("socket", Arch.X86_64, (2, 1 | 0o2000000, 6, 0, 0, 0), None)
    assert list(found.args.values()) == ["AF_INET", "SOCK_STREAM|SOCK_CLOEXEC", "IPPROTO_TCP"]
    assert decode_call("unshare", Arch.X86_64, (0x10000000, 0, 0, 0, 0, 0), None).args == {"flags": ["CLONE_NEWUSER"]}


def test_without_memory_addresses_stay_addresses() -> None:
    found = decode_call("mkdir", Arch.X86_64, (0x1234, 0o755, 0, 0, 0, 0), None)
    assert (found.args["path"], found.reread) == ("0x1234", [])


def test_a_call_that_is_not_in_the_table() -> None:
    assert decode_call("syscall_999", Arch.X86_64, (1, 2, 3, 4, 5, 6), None).args["arg5"] == "0x6"


def test_registers_of_32_bit_calls_are_cut() -> None:
    assert decode_call("mkdir", Arch.X86, (0xFFFFFFFF00001234, 0o755, 0, 0, 0, 0), None).args["path"] == "0x1234"


@given(st.sampled_from(all_names()), st.sampled_from([Arch.X86_64, Arch.X86, Arch.X32]), st.tuples(*[st.integers(0, 2**64 - 1)] * 6))
def test_any_registers_are_shown(name: str, arch: Arch, registers: tuple[int, ...]) -> None:
    for value in decode_call(name, arch, registers, None).args.values():
        assert isinstance(value, (int, str, list))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (struct.pack("=H", 2) + (443).to_bytes(2, "big") + socket.inet_aton("192.0.2.1") + bytes(8), "192.0.2.1:443"),
        (struct.pack("=H", 10) + (53).to_bytes(2, "big") + bytes(4) + socket.inet_pton(10, "2001:db8::1") + bytes(4), "[2001:db8::1]:53"),
        (struct.pack("=H", 1) + b"/run/x\nrest\0", r"unix:/run/x\x0arest"),
        (struct.pack("=H", 1) + b"\0abs\x07", r"unix:@abs\x07"),
        (struct.pack("=H", 16) + b"\1\2", "AF_NETLINK:0102"),
        (struct.pack("=H", 2) + b"\1", "AF_INET:01"),
        (b"\1", "01"),
    ],
)
def test_socket_addresses(data: bytes, text: str) -> None:
    assert socket_address(data) == text


@given(st.binary(max_size=130))
def test_any_socket_address_is_one_printable_line(data: bytes) -> None:
    assert socket_address(data).isprintable()


def test_the_caller_is_this_process() -> None:
    found = read_caller(os.getpid(), Clock())
    assert found is not None
    assert (found.pid, found.tid, found.ppid, found.uid) == (os.getpid(), os.getpid(), os.getppid(), os.geteuid())
    assert found.exe == os.path.realpath(f"/proc/{os.getpid()}/exe")
    assert found.cwd == os.getcwd()
    assert found.ancestors[0]["pid"] == os.getppid()
    assert found.start_time is not None


def test_who_is_gone_and_hostile_entries(tmp_path: Path) -> None:
    assert read_caller(4, Clock(), tmp_path) is None
    folder = tmp_path / "7"
    folder.mkdir()
    (folder / "status").write_bytes(b"Name:\ta\x1bb\nTgid:\t7\nPPid:\t7\nUid:\tx\n")
    (folder / "cmdline").write_bytes(b"one\0\n\0" + b"z" * 100000)
    (folder / "stat").write_bytes(b"7 (a) b) R 1 2")
    found = read_caller(7, Clock(), tmp_path)
    assert found is not None
    assert (found.name, found.uid, found.start_time, found.exe) == (r"a\x1bb", 0, None, None)
    assert found.args is not None
    assert found.args[:2] == ["one", r"\x0a"]
    assert len(found.args[2]) <= MAX_TEXT
    assert len(found.ancestors) == 1  # its own parent: the chain ends


def test_ancestors_are_bounded(tmp_path: Path) -> None:
    for pid in range(1, 100):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "status").write_text(f"Name:\tx\nTgid:\t{pid}\nPPid:\t{pid - 1}\n")
    found = read_caller(99, Clock(), tmp_path)
    assert found is not None
    assert len(found.ancestors) == MAX_ANCESTORS


def test_a_parent_that_ends_meanwhile_is_not_mixed_up_with_who_has_its_id_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def becomes(pid: int, ppid: int) -> None:
        (tmp_path / str(pid)).mkdir(exist_ok=True)
        (tmp_path / str(pid) / "status").write_text(f"Name:\tx\nTgid:\t{pid}\nPPid:\t{ppid}\n")

    for pid in (1, 2, 3):
        becomes(pid, pid - 1)
    held = module._held

    def after_the_parents_end(folder: Path) -> AbstractContextManager[Path | None]:
        if folder.name == "2":
            becomes(3, 1)
        return held(folder)

    def ancestors() -> list[int]:
        found = read_caller(3, Clock(), tmp_path)
        assert found is not None
        return [one["pid"] for one in found.ancestors]

    assert ancestors() == [2, 1]
    monkeypatch.setattr(module, "_held", after_the_parents_end)
    assert ancestors() == []
