# SPDX-License-Identifier: Apache-2.0
"""Requests of one line and their answers, over real sockets: clients that stall, talk, send rubbish or come by the thousand."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bpfence.errors import KernelError, UsageError
from bpfence.host.sockets import Peer
from bpfence.rpc import lines
from bpfence.rpc.lines import Later, LineServer, Stream, asked
from bpfence.rpc.server import Listener

WAIT = 60.0


class Rig:
    """A server that echoes; `slow` waits for `let`, `stream` goes on with what `listener` is given."""

    def __init__(self, path: Path) -> None:
        self.said: list[str] = []
        self.peers: list[Peer] = []
        self.let = threading.Event()
        self.listeners: list[Listener] = []
        self.over = 0
        self.server = LineServer(path, report=self.said.append)
        self.server.busy = b"busy\n"
        self.server.prepare()
        self.server.start(self.answer)

    def answer(self, request: bytes, who: Peer) -> bytes | Later | Stream:
        self.peers.append(who)
        if request == b"fault":
            raise ValueError("a bug")
        if request == b"slow":
            return Later(lambda: b"done\n" if self.let.wait(WAIT) else b"late\n")
        if request == b"stream":
            self.server.make_room(2, who)
            self.listeners.append(Listener(4, 1 << 16))
            return Stream(b"begun\n", self.listeners[-1], lambda taken, lost: b"".join(taken) + b"-%d\n" % lost, self.gone)
        return request + b"!\n"

    def gone(self) -> None:
        self.over += 1

    def until(self, done: Callable[[], object]) -> None:
        deadline = time.monotonic() + WAIT
        while not done():
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def connected(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        made.connect(str(self.server.path))
        made.settimeout(WAIT)
        return made

    def one(self, request: bytes) -> list[bytes]:
        return list(asked(self.server.path, request, WAIT))

    def answers(self) -> bool:
        """Whether there is room for one more."""
        with contextlib.suppress(OSError):
            return self.one(b"hello") == [b"hello!"]
        return False


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path / "own" / "sock")
    yield made
    made.let.set()
    made.server.close()


def test_a_request_is_answered_and_who_asks_is_known(rig: Rig) -> None:
    assert rig.one(b"hello") == [b"hello!"]
    assert rig.peers == [Peer(os.getpid(), os.geteuid(), os.getegid())]
    assert stat.S_IMODE(rig.server.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(rig.server.path.parent.stat().st_mode) == 0o700


def test_a_request_may_come_in_parts_and_what_follows_it_is_left(rig: Rig) -> None:
    with rig.connected() as client:
        for part in (b"in ", b"parts", b"\nmore"):
            client.sendall(part)
            time.sleep(0.01)
        assert client.recv(100) == b"in parts!\n"


def test_a_large_answer_comes_whole_and_a_request_that_is_too_long_gets_none(rig: Rig) -> None:
    assert rig.one(b"x" * (1 << 20)) == [b"x" * (1 << 20) + b"!"]
    answers: list[bytes] = []
    with contextlib.suppress(OSError):  # the connection ends while it is still talking
        answers = rig.one(b"x" * (lines.MAX_REQUEST + 2 * lines.PART))
    assert answers == []
    assert rig.one(b"hello") == [b"hello!"]


def test_a_fault_costs_one_answer_and_is_told_once(rig: Rig) -> None:
    assert rig.one(b"fault") == rig.one(b"fault") == []
    assert len(rig.said) == 1
    assert "ValueError: a bug" in rig.said[0]
    assert rig.one(b"hello") == [b"hello!"]


def test_slow_answers_hold_up_no_others_and_only_so_many_wait(rig: Rig) -> None:
    waiting = [rig.connected() for _ in range(lines.MAX_WORK)]
    for client in waiting:
        client.sendall(b"slow\n")
    rig.until(lambda: len(rig.peers) == lines.MAX_WORK)
    assert rig.one(b"slow") == [b"busy"]
    assert rig.one(b"hello") == [b"hello!"]
    waiting.pop().close()  # one that does not wait costs nothing
    rig.let.set()
    assert [client.recv(100) for client in waiting] == [b"done\n"] * (lines.MAX_WORK - 1)
    for client in waiting:
        client.close()


def test_a_stream_goes_on_until_either_side_ends_it(rig: Rig) -> None:
    with rig.connected() as client:
        client.sendall(b"stream\n")
        assert client.recv(100) == b"begun\n"
        rig.listeners[0].put([b"a"] * 6)
        rig.server.wake()
        assert client.recv(100) == b"aaaa-2\n"
    rig.until(lambda: rig.over == 1)
    with rig.connected() as client:
        client.sendall(b"stream\n")
        assert client.recv(100) == b"begun\n"
        rig.listeners[1].end()
        rig.server.wake()
        assert client.recv(100) == b""
    rig.until(lambda: rig.over == 2)


def test_who_goes_on_talking_in_a_stream_is_put_out(rig: Rig) -> None:
    with rig.connected() as client:
        client.sendall(b"stream\n")
        assert client.recv(100) == b"begun\n"
        client.sendall(b"and another thing\n")
        assert client.recv(100) == b""
    rig.until(lambda: rig.over == 1)


def test_who_takes_nothing_holds_nobody_up_and_makes_room(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "STUCK_SECONDS", 0.0)
    stuck = rig.connected()
    stuck.sendall(b"stream\n")
    rig.until(lambda: rig.listeners)
    assert stuck.recv(100) == b"begun\n"
    for _ in range(64):  # more than a socket's buffer
        rig.listeners[0].put([b"x" * 60000])
        rig.server.wake()
        assert rig.one(b"hello") == [b"hello!"]
    reader = rig.connected()
    reader.sendall(b"stream\n")
    assert reader.recv(100) == b"begun\n"
    third = rig.connected()
    third.sendall(b"stream\n")
    assert third.recv(100) == b"begun\n"
    rig.until(lambda: rig.over == 1)
    rig.listeners[1].put([b"alive"])
    rig.server.wake()
    assert reader.recv(100) == b"alive-0\n"
    for client in (stuck, reader, third):
        client.close()


def test_root_has_room_where_others_take_all_there_is(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    users = [1000, 1001, 1002]
    monkeypatch.setattr(lines, "peer", lambda _: Peer(7, users.pop(0) if users else 0, 0))
    others = [rig.connected() for _ in range(2)]
    for client in others:
        client.sendall(b"stream\n")
        assert client.recv(100) == b"begun\n"
    with rig.connected() as third:  # of another user, for whom nobody makes room
        third.sendall(b"stream\n")
        assert third.recv(100) == b"begun\n"
        assert rig.over == 0
        with rig.connected() as own:
            own.sendall(b"stream\n")
            assert own.recv(100) == b"begun\n"
            assert third.recv(100) == b""
            rig.until(lambda: rig.over == 1)
            monkeypatch.setattr(lines, "MAX_CLIENTS", 3)
            assert rig.one(b"hello") == [b"hello!"]
            rig.until(lambda: rig.over == 2)
    for client in others:
        client.close()


def test_thousands_of_clients_that_say_nothing_keep_nobody_out(rig: Rig) -> None:
    assert rig.one(b"hello") == [b"hello!"]  # its thread has all that it opens
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(30):
        silent = [rig.connected() for _ in range(100)]
        assert rig.one(b"hello") == [b"hello!"]
        assert len(os.listdir("/proc/self/fd")) <= before + 100 + lines.MAX_CLIENTS + lines.BACKLOG + 8
        for client in silent:
            client.close()
    rig.until(lambda: len(os.listdir("/proc/self/fd")) <= before)


def test_requests_that_do_not_end_are_put_out_by_time_and_by_size(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_SECONDS", 0.2)
    monkeypatch.setattr(lines, "MAX_RECEIVED", 3 << 20)
    slow = rig.connected()
    slow.sendall(b"never")
    assert slow.recv(1) == b""  # after its seconds
    slow.close()
    monkeypatch.setattr(lines, "MAX_SECONDS", WAIT)
    greedy = [rig.connected() for _ in range(4)]
    for client in greedy:
        with contextlib.suppress(ConnectionError):  # it may be this one that is put out
            client.sendall(b"x" * (1 << 20))
    rig.until(lambda: rig.server._received <= 3 << 20 and len(rig.server._clients) == 3)
    assert rig.one(b"hello") == [b"hello!"]
    for client in greedy:
        client.close()


def test_whoever_sends_the_most_makes_room_and_root_last(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_RECEIVED", 3 << 20)
    users = [1000, 1000, 0]
    monkeypatch.setattr(lines, "peer", lambda _: Peer(7, users.pop(0) if users else 0, 0))
    greedy = [rig.connected() for _ in range(2)]
    for client in greedy:
        client.sendall(b"x" * ((3 << 19) - 100))
    own = rig.connected()
    own.sendall(b"y" * (1 << 20))
    rig.until(lambda: rig.server._received < 3 << 20)
    own.sendall(b"y" * (1 << 20) + b"\n")
    with own.makefile("rb") as answer:
        assert answer.readline() == b"y" * (2 << 20) + b"!\n"
    for client in (*greedy, own):
        client.close()


def test_one_user_has_only_so_many_connections_unless_it_is_root(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "peer", lambda _: Peer(7, 1000, 1000))
    clients = [rig.connected() for _ in range(lines.MAX_OF_USER)]
    further = rig.connected()
    assert further.recv(1) == b""
    clients.pop().close()
    rig.until(rig.answers)
    for client in (*clients, further):
        client.close()


def test_a_socket_is_made_alone_for_its_group_and_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "own" / "sock"
    server = LineServer(path, str(os.getegid()))
    server.prepare()
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert path.stat().st_gid == os.getegid()
    with pytest.raises(KernelError, match="another process listens there"):
        LineServer(path).prepare()
    server.start(lambda request, _: request)
    server.close()
    assert not path.exists()
    path.write_text("something else")
    with pytest.raises(KernelError, match="something else is there"):
        LineServer(path).prepare()


def test_a_socket_is_refused_where_it_would_be_unsafe_or_unreachable(tmp_path: Path) -> None:
    open_folder = tmp_path / "open"
    open_folder.mkdir()
    open_folder.chmod(0o777)
    with pytest.raises(KernelError, match="only root writes"):
        LineServer(open_folder / "sock").prepare()
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    with pytest.raises(KernelError, match="the group cannot reach"):
        LineServer(private / "sock", str(os.getegid())).prepare()
    with pytest.raises(UsageError, match="there is no group nobody-has-this"):
        LineServer(private / "sock", "nobody-has-this")
    with pytest.raises(UsageError, match="a socket's path may have"):
        LineServer(tmp_path / ("x" * 120))


def test_an_answer_that_does_not_end_is_no_answer(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINE", 1000)
    with pytest.raises(OSError, match="does not end"):
        rig.one(b"x" * (1 << 20))
