"""Names: against the kernel's and the C library's own numbers, and as people write them."""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import threading

import pytest

from bpfence import abi, names
from bpfence.conditions import values
from bpfence.documents.report import TextError
from bpfence.fields import FIELD_BY_NAME, FIELDS
from bpfence.patience import Patience
from bpfence.syscalls import table as syscalls
from bpfence.syscalls.architectures import Arch


@pytest.mark.parametrize(
    ("table", "spellings", "number"),
    [
        ("signal", ["SIGKILL", "kill", "Kill"], 9),
        ("signal", ["SIGRTMIN+1", "rtmin+1"], 35),
        ("capability", ["CAP_NET_RAW", "net_raw"], 13),
        ("capability", ["CAP_CHECKPOINT_RESTORE"], 40),
        ("family", ["AF_INET", "inet"], 2),
        ("family", ["unix", "local"], 1),
        ("socktype", ["SOCK_RAW", "raw"], 3),
        ("protocol", ["IPPROTO_TCP", "tcp"], 6),
        ("open", ["O_WRONLY", "wronly"], 1),
        ("access", ["write"], 2),
        ("prot", ["PROT_EXEC", "exec"], 4),
        ("mount", ["MS_BIND", "bind"], 4096),
        ("clone", ["CLONE_NEWUSER", "newuser"], 0x10000000),
        ("ptrace_mode", ["PTRACE_MODE_ATTACH", "attach"], 2),
        ("bpf_cmd", ["BPF_PROG_LOAD", "prog_load"], 5),
        ("bpf_cmd", ["BPF_LINK_CREATE"], 28),
        ("bpf_cmd", ["BPF_TOKEN_CREATE"], 36),
        ("io_uring_op", ["sqpoll"], 2),
        ("mode", ["setuid", "S_ISUID"], 0o4000),
        ("errno", ["EACCES", "eacces"], 13),
        ("port", ["https"], 443),
        ("user", ["root"], 0),
        ("group", ["root"], 0),
    ],
)
def test_spellings(table: str, spellings: list[str], number: int) -> None:
    assert [names.number(table, text) for text in spellings] == [number] * len(spellings)


@pytest.mark.parametrize("table", [*names.TABLES, "user", "group"])
def test_what_is_no_name(table: str) -> None:
    for text in ("", "no-such-name", "9", "\x00", "\udcff"):
        assert names.number(table, text) is None


@pytest.mark.parametrize(
    ("table", "module", "prefix"),
    [
        ("signal", signal, "SIG"),
        ("family", socket, "AF_"),
        ("socktype", socket, "SOCK_"),
        ("protocol", socket, "IPPROTO_"),
        ("errno", errno, "E"),
    ],
)
def test_numbers_agree_with_the_standard_library(table: str, module: object, prefix: str) -> None:
    compared = 0
    for name, number in names.TABLES[table].numbers.items():
        if name.startswith(prefix) and isinstance(getattr(module, name, None), int):
            assert number == getattr(module, name), name
            compared += 1
    assert compared >= 5


def test_open_flags_agree_with_this_architecture() -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("x86_64 uses the generic open flags")
    for name, number in names.TABLES["open"].numbers.items():
        if hasattr(os, name) and name != "O_LARGEFILE":  # the C library hides it on 64 bits
            assert number == getattr(os, name), name


def test_access_and_mode_bits() -> None:
    assert {f"ACCESS_{name.upper()}": bit for name, bit in names.TABLES["access"].numbers.items()} == abi.ACCESS_BITS
    assert all(number == getattr(stat, name) for name, number in names.TABLES["mode"].numbers.items() if name.startswith("S_"))


def test_capabilities_are_masks_by_index() -> None:
    assert names.mask("capability", "net_raw") == 1 << 13
    assert names.mask("open", "O_APPEND") == 0o2000
    assert names.mask("open", "nonsense") is None
    assert list(names.TABLES["capability"].numbers.values()) == list(range(41))


@pytest.mark.parametrize("table", list(names.TABLES))
def test_there_and_back(table: str) -> None:
    for name, number in names.TABLES[table].numbers.items():
        assert names.number(table, name) == number
        back = names.name(table, number)
        assert back is not None
        assert names.number(table, back) == number
    assert names.name(table, 987654321) is None
    assert set(names.TABLES[table].numbers) <= set(names.known(table))


def test_names_of_masks() -> None:
    assert names.flags("access", 1 | 2 | 128) == ("read", "write", "0x80")
    assert names.flags("capability", 1 << 13 | 1) == ("CAP_CHOWN", "CAP_NET_RAW")
    assert names.flags("open", 0) == ()


def test_users_of_this_host() -> None:
    assert names.name("user", 0) == "root"
    assert names.name("user", 2**32 - 2) is None
    assert "root" in names.known("user")
    assert "root" in names.known("group")


def test_every_table_that_a_field_names_exists() -> None:
    for field in FIELDS:
        if field.names:
            assert names.known(field.names), field.name


def test_a_user_database_that_does_not_answer_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hang(_: str) -> None:
        release.wait(30)
        raise KeyError

    monkeypatch.setattr(names, "_PATIENCE", Patience(0.02))
    monkeypatch.setattr(names.pwd, "getpwnam", hang)
    with pytest.raises(names.NoAnswerError):
        names.number("user", "root")
    with pytest.raises(TextError, match="does not answer"):
        values.numeric(FIELD_BY_NAME["process.uid"], "root")
    release.set()


def test_hooks_of_the_lsm_and_their_functions() -> None:
    for hook, function in (
        ("inode_mkdir", "security_inode_mkdir"),
        ("userns_create", "security_create_user_ns"),
        ("shm_alloc_security", "security_shm_alloc"),
        ("socket_sock_rcv_skb", "security_sock_rcv_skb"),
    ):
        assert (names.lsm_function(hook), names.lsm_hook(function)) == (function, hook)
    assert names.lsm_hook("vfs_mkdir") == ""


def test_calls_that_ask_a_hook_are_calls_and_none_with_a_way_past_it_is_among_them() -> None:
    asked = {call for call in syscalls.numbers(Arch.X86_64) if names.call_hook(call)}
    assert {"linkat", "mkdir", "connect"} <= asked
    assert len(asked) == len(names._CALL_HOOKS), "each is a system call of x86-64"
    assert asked.isdisjoint({"open", "openat", "openat2", "creat", "dup", "read", "write", "unlinkat", "ftruncate", "ioctl"})
