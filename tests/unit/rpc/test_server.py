# SPDX-License-Identifier: Apache-2.0
"""The socket, its folder and its limits; what waits for clients. How calls are answered: `services.test_tetragon`."""

from __future__ import annotations

import grp
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bpfence.errors import KernelError, UsageError
from bpfence.rpc import server as rpc
from bpfence.rpc.messages import classes
from bpfence.rpc.server import MAX_LISTENERS, CallError, Listener, Listeners, Method, TcpServer, UnixServer

grpc = pytest.importorskip("grpc", reason="needs grpcio: pip install 'bpfence[grpc]'")

TEXT = classes("a.test", {"Text": (("text", 1, "string"),)})["Text"]
WAIT = 60.0


def other_group() -> str:
    """A group that is not ours; only root may give it a folder."""
    if os.geteuid() != 0:
        pytest.skip("only root may give a folder to a group")
    return next(one.gr_name for one in grp.getgrall() if one.gr_gid != os.getegid())


def test_the_folder_is_made_for_root_alone(tmp_path: Path) -> None:
    UnixServer(tmp_path / "a" / "b" / "sock").prepare()
    assert stat.S_IMODE((tmp_path / "a/b").stat().st_mode) == 0o700
    assert not (tmp_path / "a/b/sock").exists()


def test_a_group_gets_the_folder_and_by_it_the_socket(tmp_path: Path) -> None:
    group = other_group()
    server = UnixServer(tmp_path / "a" / "sock", group)
    server.prepare()
    folder = (tmp_path / "a").stat()
    assert (stat.S_IMODE(folder.st_mode), grp.getgrgid(folder.st_gid).gr_name) == (0o2750, group)
    before = os.umask(0o022)
    try:
        server.start({})
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    found = (tmp_path / "a/sock").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o660, folder.st_gid)
    server.close()
    assert not (tmp_path / "a/sock").exists()


def test_a_folder_that_others_write_or_that_lacks_the_group_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(KernelError, match="only root writes"):
        UnixServer(tmp_path / "open" / "sock").prepare()
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(KernelError, match="only root writes"):
        UnixServer(tmp_path / "link" / "sock").prepare()
    (tmp_path / "mine").mkdir(mode=0o700)
    with pytest.raises(KernelError) as error:
        UnixServer(tmp_path / "mine" / "sock", grp.getgrgid(os.getegid()).gr_name).prepare()
    assert "chmod 2750" in error.value.hint


@pytest.mark.parametrize(("module", "package"), [("grpc", "grpcio"), ("google.protobuf", "protobuf")])
def test_a_library_that_is_missing_is_told_before_policies_are_in_force(
    module: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc, "find_spec", lambda name: None if name == module else name)
    with pytest.raises(KernelError) as error:
        UnixServer(tmp_path / "a" / "sock").prepare()
    assert error.value.missing == package


def test_names_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no group"):
        UnixServer(tmp_path / "a" / "sock", "no such group").prepare()
    with pytest.raises(UsageError, match="107 bytes"):
        UnixServer(tmp_path / ("x" * 107))


def test_a_socket_at_which_somebody_listens_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "a/sock"))
        other.listen()
        with pytest.raises(KernelError, match="somebody listens"):
            UnixServer(tmp_path / "a" / "sock").prepare()
    UnixServer(tmp_path / "a" / "sock").prepare()  # what is left of one that is gone is in nobody's way


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_address(host: str) -> None:
    server = TcpServer(host, 0)
    server.prepare()
    server.start({"a.test.Service": {"Say": Method(TEXT, TEXT, lambda request: TEXT(text=request.text.upper()))}})
    assert list(server.folders()) == []
    with pytest.raises(KernelError, match="cannot be listened at"):
        TcpServer(host, server.port).prepare()
    place = f"[{host}]:{server.port}" if ":" in host else f"{host}:{server.port}"
    with grpc.insecure_channel(place) as channel:
        ask = channel.unary_unary("/a.test.Service/Say", request_serializer=bytes, response_deserializer=TEXT.FromString)
        assert ask(TEXT(text="a").SerializeToString(), timeout=WAIT, wait_for_ready=True).text == "A"
    server.close()
    TcpServer(host, server.port).prepare()  # nobody listens any more


class Asked:
    """A server with two methods, and a channel to it."""

    def __init__(self, folder: Path) -> None:
        self.server = UnixServer(folder / "a" / "sock")
        self.server.prepare()
        methods = {"Say": Method(TEXT, TEXT, self._say), "Count": Method(TEXT, TEXT, self._count, streams=True)}
        self.server.start({"a.test.Service": methods})
        self.channel = grpc.insecure_channel(f"unix://{folder}/a/sock")

    @staticmethod
    def _say(request: Any) -> Any:
        if request.text == "refuse":
            raise CallError("NOT_FOUND", "no such \udcff thing")
        if request.text == "fail":
            raise ZeroDivisionError("oops")
        return TEXT(text=request.text.upper())

    @staticmethod
    def _count(request: Any, call: Any) -> Iterator[Any]:
        call.begin()
        yield from (TEXT(text=str(number)) for number in range(int(request.text)))

    def say(self, data: bytes) -> str:
        ask = self.channel.unary_unary("/a.test.Service/Say", request_serializer=bytes, response_deserializer=TEXT.FromString)
        return str(ask(data, timeout=WAIT, wait_for_ready=True).text)

    def refused(self, data: bytes) -> tuple[str, str]:
        with pytest.raises(grpc.RpcError) as error:
            self.say(data)
        return error.value.code().name, error.value.details()


def test_what_calls_come_to(tmp_path: Path) -> None:
    asked = Asked(tmp_path)
    try:
        assert asked.say(b"\x0a\x01x") == "X"
        assert asked.refused(b"\x0a\x06refuse") == ("NOT_FOUND", "no such ? thing")
        code, text = asked.refused(b"\x0a\x04fail")
        assert (code, "fault of bpfence" in text) == ("INTERNAL", True)
        assert asked.refused(b"\xff\xff\xff")[0] == "INTERNAL"  # no message at all
        assert asked.refused(b"\x0a\x80\x80\x80\x03" + b"x" * (6 << 20))[0] == "RESOURCE_EXHAUSTED"
        with pytest.raises(grpc.RpcError) as error:
            asked.channel.unary_unary("/a.test.Service/Other", request_serializer=bytes)(b"", timeout=WAIT)
        assert error.value.code().name == "UNIMPLEMENTED"
        count = asked.channel.unary_stream("/a.test.Service/Count", request_serializer=bytes, response_deserializer=TEXT.FromString)
        assert [one.text for one in count(b"\x0a\x013", timeout=WAIT)] == ["0", "1", "2"]
        with pytest.raises(grpc.RpcError) as error:
            list(count(b"\x0a\x01x", timeout=WAIT))
        assert error.value.code().name == "INTERNAL"
        assert asked.say(b"\x0a\x01y") == "Y"
    finally:
        asked.channel.close()
        asked.server.close()


def test_thousands_of_connections_take_only_so_many_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "HANDSHAKE_SECONDS", 1.0)
    server = TcpServer("127.0.0.1", 0)
    server.prepare()
    server.start({"a.test.Service": {"Say": Method(TEXT, TEXT, lambda request: TEXT(text=request.text.upper()))}})
    before = len(os.listdir("/proc/self/fd"))
    silent = [socket.create_connection(("127.0.0.1", server.port), WAIT) for _ in range(4 * rpc.MAX_CONNECTIONS)]
    try:
        put_out = sum(_ended(one) for one in silent[-8:])
        assert put_out == 8
        assert len(os.listdir("/proc/self/fd")) <= before + len(silent) + rpc.MAX_CONNECTIONS + 16
        assert _ended(silent[0])  # after its second, so that there is room again
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            ask = channel.unary_unary("/a.test.Service/Say", request_serializer=bytes, response_deserializer=TEXT.FromString)
            assert ask(TEXT(text="a").SerializeToString(), timeout=WAIT, wait_for_ready=True).text == "A"
    finally:
        for one in silent:
            one.close()
        server.close()


def _ended(connection: socket.socket) -> bool:
    """Wait until the other side has ended it; what it says first is passed over."""
    try:
        while connection.recv(4096):
            pass
    except ConnectionError:
        pass
    return True


# ---- what waits for clients ----


def test_lines_wait_within_bounds_and_the_rest_is_counted() -> None:
    listener = Listener(max_lines=3, max_bytes=10)
    assert listener.put([b"aaaa", b"bbbb"]) == 0
    assert listener.put([b"cccc", b"dd", b"e"]) == 2
    assert listener.take(0) == ([b"aaaa", b"bbbb", b"dd"], 2)
    assert listener.take(0) == ([], 0)
    assert listener.put([b"ffff"]) == 0
    listener.end()
    assert listener.take(WAIT) is None
    assert listener.put([b"g"]) == 1


def test_whoever_takes_is_woken() -> None:
    listener = Listener()
    taken: list[Any] = []
    thread = threading.Thread(target=lambda: taken.extend((listener.take(WAIT), listener.take(WAIT))))
    thread.start()
    listener.put([b"a"])
    while not taken and thread.is_alive() and listener._waiting:
        pass
    listener.end()
    thread.join(WAIT)
    assert taken in ([([b"a"], 0), None], [None, None])


def test_a_slow_client_loses_its_own_lines_alone_and_that_is_told_once() -> None:
    said: list[str] = []
    listeners = Listeners("clients", said.append)
    assert not listeners
    slow, quick = listeners.add(), listeners.add()
    assert listeners
    slow._max_lines = 1
    assert listeners.write([b"a", b"b", b"c"]) == 3
    assert quick.take(0) == ([b"a", b"b", b"c"], 0)
    assert listeners.write([b"d"]) == 1
    assert slow.take(0) == ([b"a"], 3)
    assert (listeners.dropped, len(said)) == (3, 1)
    listeners.remove(slow)
    listeners.write([b"e"])
    assert (slow.take(0), quick.take(0)) == (None, ([b"d", b"e"], 0))
    listeners.close()
    assert quick.take(WAIT) is None


def test_there_is_an_end_to_clients() -> None:
    listeners = Listeners("clients", lambda _: None)
    for _ in range(MAX_LISTENERS):
        listeners.add()
    with pytest.raises(CallError, match="listen already"):
        listeners.add()
