# SPDX-License-Identifier: Apache-2.0
"""What is noted of a connection, a message, an accept as of no interest to any rule lets none pass that is of interest.

Each test acts on sockets until that is noted, changes one thing, and acts again. The twin of each is the first act.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from bpfence import abi
from tests.kernel.cases import Case, FileSpec
from tests.kernel.harness import TRIGGER, Range, cgroup_folder, enter, go_out
from tests.kernel.test_folders import allowed, skip_where_nothing_is_kept
from tests.kernel.test_quiet import acting_as, remove
from tests.kernel.test_uncertain import kernel_map

USER = 1000
PLAIN = 4500
"""A port that no rule is about where nothing else is asked for."""
CASE = Case(
    name="sockets",
    event="net.connect",
    files={"tool": FileSpec(program=True)},
    rules=[
        {"name": "port", "on": "net.egress", "match": {"net.peer.port": 4501}, "action": "deny", "rate": "100000/s"},
        {"name": "address", "on": "net.egress", "match": {"net.peer.ip": "127.0.0.9"}, "action": "deny", "rate": "100000/s"},
        {"name": "loopback6", "on": "net.egress", "match": {"net.peer.ip": "::1"}, "action": "deny"},
        {"name": "own-port", "on": "net.egress", "match": {"net.local.port": 4600}, "action": "deny", "rate": "100000/s"},
        {"name": "own-address", "on": "net.egress", "match": {"net.local.ip": "127.0.0.7"}, "action": "deny"},
        {"name": "datagrams", "on": "net.egress", "match": {"net.peer.port": 4502, "net.type": "dgram"}, "action": "deny"},
        {"name": "six", "on": "net.egress", "match": {"net.peer.port": 4503, "net.family": "inet6"}, "action": "deny"},
        {"name": "high-port", "on": "net.egress", "match": {"net.peer.port": 40010}, "action": "deny", "rate": "100000/s"},
        {"name": "own-high-port", "on": "net.egress", "match": {"net.local.port": 40000}, "action": "deny", "rate": "100000/s"},
        {"name": "no-connection", "on": "connect", "match": {"net.peer.port": 4505}, "action": "deny"},
        {"name": "no-message", "on": "send", "match": {"net.peer.port": 4506}, "action": "deny", "rate": "100000/s"},
        {"name": "no-guests", "on": "accept", "match": {"net.local.port": 4611}, "action": "deny", "rate": "100000/s"},
        {"name": "nowhere", "on": "connect", "condition": "net.family = inet and not net.peer.ip exists", "action": "deny"},
        {"name": "user", "on": "net.egress", "match": {"process.uid": USER}, "action": "deny"},
        {"name": "tool", "on": "net.egress", "match": {"process.exe": "{dir}/tool"}, "action": "deny"},
        {"name": "strict", "on": "net.egress", "match": {"process.cgroup": "{cgroup}/strict"}, "action": "deny"},
    ],
)
ROUNDS = 4
TRIES = 300
NOTES = 1024
NOTE = struct.Struct("<9Q4H")
"""struct socket_note of bpf/maps.h."""
OF, PORTS, FIRST_OWN, LAST_OWN = 3, 4, 9, 10
"""Members of it."""


def go_in(folder: str = "") -> None:
    enter(cgroup_folder(CASE.cgroup) / folder)


@pytest.fixture(scope="module")
def inside(shooting: Range) -> Iterator[Path]:
    """The folder of CASE, its policy in force, this process within its scope."""
    with shooting.within(CASE) as folder:
        yield folder


@pytest.fixture(autouse=True)
def noted(inside: Path) -> Path:
    """Noted that nothing is said of connections and messages to PLAIN."""
    for _ in range(ROUNDS):
        assert connects()
        assert sends()
    return inside


def opened(kind: int, family: int, own: tuple[str, int] | None) -> socket.socket:
    made = socket.socket(family, kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if own:
        made.bind(own)
    made.setblocking(False)
    return made


def connects(
    port: int = PLAIN,
    ip: str = "127.0.0.1",
    kind: int = socket.SOCK_STREAM,
    family: int = socket.AF_INET,
    own: tuple[str, int] | None = None,
) -> bool:
    """Whether a connection may be asked for; nobody listens."""
    with opened(kind, family, own) as made:

        def act() -> None:
            with suppress(ConnectionRefusedError, BlockingIOError):
                made.connect((ip, port))

        return allowed(act)


def sends(port: int = PLAIN, ip: str = "127.0.0.1", family: int = socket.AF_INET, own: tuple[str, int] | None = None) -> bool:
    """Whether a datagram may be sent."""
    with opened(socket.SOCK_DGRAM, family, own) as made:
        return allowed(lambda: made.sendto(b"x", (ip, port)))


def answers(port: int) -> bool:
    """Whether a connection may be accepted; there is none."""
    with opened(socket.SOCK_STREAM, socket.AF_INET, ("127.0.0.1", port)) as made:
        made.listen()

        def act() -> None:
            with suppress(BlockingIOError):
                made.accept()

        return allowed(act)


def says(made: socket.socket, data: bytes = b"x") -> bool:
    """Whether a message without a name may be sent."""

    def act() -> None:
        with suppress(ConnectionRefusedError, BlockingIOError):
            made.send(data)

    return allowed(act)


def sends_to(made: socket.socket, name: bytes, flags: int = 0) -> bool:
    """Whether a message with a name that Python does not write may be sent."""
    libc = ctypes.CDLL(None, use_errno=True)
    ctypes.set_errno(0)
    libc.sendto(made.fileno(), b"x", 1, flags | socket.MSG_NOSIGNAL, name, len(name))
    return ctypes.get_errno() != errno.EPERM


def address(port: int, ip: str = "127.0.0.1", family: int = socket.AF_INET) -> bytes:
    """struct sockaddr_in."""
    return struct.pack("=H", family) + struct.pack(">H", port) + socket.inet_aton(ip) + bytes(8)


@contextmanager
def with_rules(shooting: Range, *rules: dict[str, Any]) -> Iterator[None]:
    """With these rules, too, in force."""
    document = CASE.policy()
    document["spec"]["rules"] += rules
    shooting.agent.write_policy(CASE.name, document)
    shooting.agent.reload()
    try:
        yield
    finally:
        shooting.agent.write_policy(CASE.name, CASE.policy())
        shooting.agent.reload()


def noted_of(event: int) -> list[tuple[int, ...]]:
    return [note for note in notes() if note[OF] & 0xFF == event]


def notes() -> list[tuple[int, ...]]:
    with kernel_map("socket_notes") as kept:
        return [NOTE.unpack(kept.get(struct.pack("<I", index)) or bytes(NOTE.size)) for index in range(NOTES)]


def test_something_is_noted() -> None:
    skip_where_nothing_is_kept()
    with opened(socket.SOCK_STREAM, socket.AF_INET, ("127.0.0.1", 0)) as server, opened(socket.SOCK_STREAM, socket.AF_INET, None) as client:
        server.listen()
        client.setblocking(True)
        client.connect(server.getsockname())
        for _ in range(ROUNDS):
            assert says(client)
    assert answers(4612)
    for event in (abi.EV_NET_CONNECT, abi.EV_NET_SEND, abi.EV_NET_ACCEPT):
        assert noted_of(event)
    assert any(note[PORTS] >> 16 & 0xFFFF == socket.IPPROTO_TCP for note in noted_of(abi.EV_NET_SEND))


def test_another_port() -> None:
    for _ in range(ROUNDS):
        assert not connects(4501)
        assert not sends(4501)
        assert connects()
        assert sends()


def test_another_address() -> None:
    for _ in range(ROUNDS):
        assert not connects(ip="127.0.0.9")
        assert not sends(ip="127.0.0.9")
        assert connects(ip="127.0.0.8")
        assert sends(ip="127.0.0.8")


def test_another_family() -> None:
    for _ in range(ROUNDS):
        assert not connects(ip="::1", family=socket.AF_INET6)
        assert not sends(ip="::1", family=socket.AF_INET6)
        assert connects(4503)
        assert not connects(4503, "::ffff:127.0.0.1", family=socket.AF_INET6)
        assert connects(ip="::ffff:127.0.0.1", family=socket.AF_INET6)
        assert not connects(ip="::ffff:127.0.0.9", family=socket.AF_INET6)


def test_another_type() -> None:
    for _ in range(ROUNDS):
        assert connects(4502)
        assert not connects(4502, kind=socket.SOCK_DGRAM)
        assert not sends(4502)


def test_another_place_of_ones_own() -> None:
    for _ in range(ROUNDS):
        for own in (("", 4600), ("127.0.0.7", 0)):
            assert not connects(own=own)
            assert not sends(own=own)
        assert connects(own=("127.0.0.6", 4601))
        assert sends(own=("127.0.0.6", 4601))


def test_no_address() -> None:
    """connect(2) with AF_UNSPEC."""
    libc = ctypes.CDLL(None, use_errno=True)
    for _ in range(ROUNDS):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
            assert libc.connect(made.fileno(), bytes(16), 16) == -1
        assert connects(kind=socket.SOCK_DGRAM)


def test_messages_of_a_connected_socket() -> None:
    """To where it is connected, or where the message says."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.connect(("127.0.0.1", PLAIN))
        for _ in range(ROUNDS):
            with suppress(ConnectionRefusedError):
                made.send(b"x")
            assert not allowed(lambda: made.sendto(b"x", ("127.0.0.1", 4501)))
    go_out()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.connect(("127.0.0.1", 4501))
        go_in()
        for _ in range(ROUNDS):
            assert not allowed(lambda: made.send(b"x"))


def test_another_user() -> None:
    for _ in range(ROUNDS):
        with acting_as(USER):
            assert not connects()
            assert not sends()
        with acting_as(USER + 1):
            assert connects()
            assert sends()


def test_another_program(noted: Path) -> None:
    for _ in range(ROUNDS):
        for program, stopped in ((TRIGGER, False), (noted / "tool", True)):
            done = subprocess.run([str(program), "udp-connect", "127.0.0.1", str(PLAIN)], capture_output=True, check=False)
            assert (done.returncode == 1) is stopped, done


def test_another_cgroup() -> None:
    cgroup = cgroup_folder(CASE.cgroup) / "strict"
    cgroup.mkdir()
    try:
        for _ in range(ROUNDS):
            go_in("strict")
            assert not connects()
            assert not sends()
            go_in()
            assert connects()
            assert sends()
    finally:
        go_in()
        remove(cgroup)


def test_a_socket_that_is_bound_meanwhile() -> None:
    """What is decided on a socket before another thread has bound it says nothing of sockets that are bound so."""
    ended = threading.Event()
    made: list[socket.socket] = []
    lasting = threading.Lock()  # while it is held, the descriptor that is bound stays this socket's: it is soon another's

    def bind() -> None:
        while not ended.is_set():
            with lasting, suppress(OSError, IndexError):
                made[0].bind(("127.0.0.7", 0))

    binder = threading.Thread(target=bind)
    binder.start()
    try:
        for _ in range(TRIES):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                made[:] = [one]
                with suppress(OSError):
                    one.connect(("127.0.0.1", PLAIN))
                with lasting:
                    made.clear()
            assert not connects(kind=socket.SOCK_DGRAM, own=("127.0.0.7", 0))
            assert connects(kind=socket.SOCK_DGRAM)
    finally:
        ended.set()
        binder.join()


def test_clients_ports_have_one_note() -> None:
    skip_where_nothing_is_kept()
    before = len(noted_of(abi.EV_NET_SEND))
    for _ in range(32):
        assert sends()
    assert len(noted_of(abi.EV_NET_SEND)) <= before + 1
    assert any(note[FIRST_OWN] < note[LAST_OWN] for note in noted_of(abi.EV_NET_SEND))


def test_ports_beside_those_that_are_noted() -> None:
    for _ in range(ROUNDS):
        for port, stopped in ((40009, False), (40010, True), (40011, False), (65535, False)):
            assert connects(port) is not stopped
            assert sends(port) is not stopped
        for own, stopped in ((39999, False), (40000, True), (40001, False), (4599, False), (4600, True), (4601, False)):
            assert connects(own=("127.0.0.1", own)) is not stopped
            assert sends(own=("127.0.0.1", own)) is not stopped


def test_messages_of_one_socket() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        for _ in range(ROUNDS):
            for port, ip, stopped in ((PLAIN, "127.0.0.1", False), (4501, "127.0.0.1", True), (PLAIN, "127.0.0.9", True)):
                for family in (socket.AF_INET, socket.AF_UNSPEC):
                    assert sends_to(made, address(port, ip, family)) is not stopped


def sends_all(made: socket.socket, *ports: int) -> int:
    """How many of some messages sendmmsg(2) sends, each to a port of its own."""
    names = [ctypes.create_string_buffer(address(port), 16) for port in ports]
    message = ctypes.create_string_buffer(b"x", 1)
    vector = (ctypes.c_uint64 * 2)(ctypes.addressof(message), 1)
    heads = b"".join(struct.pack("<QI4xQQQQi4xI4x", ctypes.addressof(name), 16, ctypes.addressof(vector), 1, 0, 0, 0, 0) for name in names)
    return int(ctypes.CDLL(None).sendmmsg(made.fileno(), ctypes.create_string_buffer(heads, len(heads)), len(ports), 0))


def test_messages_of_one_call() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        for _ in range(ROUNDS):
            assert sends_all(made, PLAIN, PLAIN, PLAIN) == 3
            assert sends_all(made, PLAIN, PLAIN, 4501, PLAIN) == 2
            assert sends_all(made, 4501, PLAIN) == -1


def test_messages_of_one_socket_of_both_families() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as made:
        for _ in range(ROUNDS):
            for port, ip, stopped in ((PLAIN, "127.0.0.1", False), (4501, "127.0.0.1", True), (PLAIN, "127.0.0.9", True)):
                assert sends_to(made, address(port, ip)) is not stopped
                assert allowed(lambda port=port, ip=ip: made.sendto(b"x", (f"::ffff:{ip}", port))) is not stopped
            assert not allowed(lambda: made.sendto(b"x", ("::1", PLAIN)))


def test_a_name_of_no_family_on_a_connected_socket() -> None:
    """On an IPv6 socket it is no name: the message goes where the socket is connected."""
    go_out()
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as made, socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as other:
        made.connect(("::ffff:127.0.0.1", PLAIN))
        other.connect(("::1", PLAIN))
        go_in()
        for _ in range(ROUNDS):
            for name in (address(PLAIN, family=socket.AF_UNSPEC), address(4501, "127.0.0.9", socket.AF_UNSPEC)):
                assert sends_to(made, name)
                assert not sends_to(other, name)


@pytest.mark.parametrize("ip", ["127.0.0.1", "::ffff:127.0.0.1"])
def test_a_socket_that_is_connected_anew(ip: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM) as made:
        for _ in range(ROUNDS):
            for port, stopped in ((PLAIN, False), (4501, True), (4502, True)):
                go_out()
                made.connect((ip, port))
                go_in()
                for _ in range(ROUNDS):
                    assert says(made) is not stopped


def test_a_socket_that_is_connected_meanwhile() -> None:
    """What is decided on a message before another thread has connected the socket says nothing of messages to there."""
    ended = threading.Event()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.connect(("127.0.0.1", PLAIN))

        def connect() -> None:
            while not ended.is_set():
                made.connect(("127.0.0.1", 4506))
                made.connect(("127.0.0.1", PLAIN))

        other = threading.Thread(target=connect)
        other.start()
        try:
            for _ in range(TRIES):
                says(made)
                assert not sends(4506)
                assert sends()
        finally:
            ended.set()
            other.join()
        made.connect(("127.0.0.1", 4506))
        assert not says(made)


def test_a_message_that_begins_a_connection() -> None:
    """That nothing is said of the message says nothing of the connection."""
    for _ in range(ROUNDS):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as made:
            assert sends_to(made, address(4505))
            assert not sends_to(made, address(4505), socket.MSG_FASTOPEN)
            assert sends(4505)


def test_accepting() -> None:
    for _ in range(ROUNDS):
        assert answers(4610)
        assert not answers(4611)
        assert answers(4612)
        with acting_as(USER + 1):
            assert answers(4610)


def test_sizes(shooting: Range) -> None:
    """Where a rule asks for the size of a message nothing is noted of messages."""
    size = {"name": "size", "on": "send", "condition": "net.peer.port = 4500 and net.size > 100", "action": "deny", "rate": "100000/s"}
    with with_rules(shooting, size), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.connect(("127.0.0.1", PLAIN))
        for _ in range(ROUNDS):
            assert says(made)
            assert not says(made, bytes(101))


def test_unix_sockets(shooting: Range, noted: Path) -> None:
    """Without a rule about their paths they are alike; with one nothing is noted."""
    one, other = socket.socketpair()
    with one, other:
        for _ in range(ROUNDS):
            assert says(one)
        with suppress(pytest.skip.Exception):
            skip_where_nothing_is_kept()
            assert any(note[PORTS] & 0xFFFF == socket.AF_UNIX for note in noted_of(abi.EV_NET_SEND))
        path = noted / "stopped"
        rule = {"name": "path", "on": "send", "match": {"net.unix.path": str(path)}, "action": "deny", "rate": "100000/s"}
        with with_rules(shooting, rule), socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            server.bind(str(path))
            server.listen()
            client.connect(str(path))
            for _ in range(ROUNDS):
                assert says(one)
                assert not says(client)
        path.unlink()
        family = {"name": "family", "on": "send", "match": {"net.family": "unix"}, "action": "deny", "rate": "100000/s"}
        with with_rules(shooting, family):
            stopped = [says(one) for _ in range(ROUNDS)]
        assert stopped == [False] * ROUNDS
        assert says(one)


def test_sockets_without_addresses(shooting: Range) -> None:
    """Netlink and packet sockets: the protocol tells them apart."""
    rule = {"name": "audit", "on": "send", "match": {"net.family": "netlink", "net.protocol": 9}, "action": "deny", "rate": "100000/s"}
    request = struct.pack("=IHHII", 16, 18, 0x301, 1, 0)  # RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP
    with (
        with_rules(shooting, rule),
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as route,
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9) as audit,
    ):
        for _ in range(ROUNDS):
            assert says(route, request)
            assert not says(audit, request)


def test_policies_that_come_into_force(shooting: Range) -> None:
    now = {"name": "now", "on": "net.egress", "match": {"net.peer.port": PLAIN}, "action": "deny"}
    go_out()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.connect(("127.0.0.1", PLAIN))
        go_in()
        for _ in range(ROUNDS):
            assert says(made)
        with with_rules(shooting, now):
            done = connects(), sends(), says(made)
        assert done == (False, False, False)
        assert connects()
        assert sends()
        assert says(made)
