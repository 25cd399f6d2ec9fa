# SPDX-License-Identifier: Apache-2.0
"""What is noted of a connection as of no interest to any rule lets none pass that is of interest.

Each test acts on sockets until that is noted, changes one thing, and acts again. The twin of each is the first act.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

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
        {"name": "nowhere", "on": "connect", "condition": "net.family = inet and not net.peer.ip exists", "action": "deny"},
        {"name": "user", "on": "net.egress", "match": {"process.uid": USER}, "action": "deny"},
        {"name": "tool", "on": "net.egress", "match": {"process.exe": "{dir}/tool"}, "action": "deny"},
        {"name": "strict", "on": "net.egress", "match": {"process.cgroup": "{cgroup}/strict"}, "action": "deny"},
    ],
)
ROUNDS = 4
TRIES = 300
NOTES = 1024
NOTE = struct.Struct("<9Q")
"""struct socket_note of bpf/maps.h."""


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


def notes() -> list[tuple[int, ...]]:
    with kernel_map("socket_notes") as kept:
        return [NOTE.unpack(kept.get(struct.pack("<I", index)) or bytes(NOTE.size)) for index in range(NOTES)]


def test_something_is_noted() -> None:
    skip_where_nothing_is_kept()
    assert sum(note[3] > 0 for note in notes()) >= 1


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

    def bind() -> None:
        while not ended.is_set():
            with suppress(OSError, IndexError):
                made[0].bind(("127.0.0.7", 0))

    binder = threading.Thread(target=bind)
    binder.start()
    try:
        for _ in range(TRIES):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                made[:] = [one]
                with suppress(OSError):
                    one.connect(("127.0.0.1", PLAIN))
                made.clear()
            assert not connects(kind=socket.SOCK_DGRAM, own=("127.0.0.7", 0))
            assert connects(kind=socket.SOCK_DGRAM)
    finally:
        ended.set()
        binder.join()


def test_policies_that_come_into_force(shooting: Range) -> None:
    document = CASE.policy()
    document["spec"]["rules"].append({"name": "now", "on": "net.egress", "match": {"net.peer.port": PLAIN}, "action": "deny"})
    shooting.agent.write_policy(CASE.name, document)
    shooting.agent.reload()
    now = connects(), sends()
    shooting.agent.write_policy(CASE.name, CASE.policy())
    shooting.agent.reload()
    assert now == (False, False)
    assert connects()
    assert sends()
