# SPDX-License-Identifier: Apache-2.0
"""Sockets of other programs: what comes through, what a broken connection costs, and syslog's messages."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfence.alerts.alert import Composer, encode
from bpfence.outputs import remote, sink
from bpfence.outputs.remote import MAX_DATAGRAM, Datagrams, Streamed, over_tls, syslog, tcp, udp, unix
from bpfence.outputs.sink import Sink
from tests.unit.outputs.places import until
from tests.unit.outputs.servers import Reader, certificate, listening
from tests.unit.outputs.test_choice import alert

FOREVER = 600.0


@pytest.fixture(autouse=True)
def haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink, "RETRY_SECONDS", 0.001)
    monkeypatch.setattr(sink, "MAX_RETRY_SECONDS", 0.01)


def numbered(number: int) -> list[bytes]:
    return [b"%08d" % one for one in range(number)]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "reader.sock"


def sent(place: Streamed, lines: list[bytes], said: list[str], **bounds: int) -> Sink:
    made = Sink(place, said.append, lambda *_: None, **bounds)
    for line in lines:
        made.put([line])
    made.start()
    return made


def test_lines_come_through_a_unix_socket(path: Path, said: list[str]) -> None:
    reader = Reader(listening(socket.AF_UNIX, str(path)))
    made = sent(Streamed("u", unix(str(path), socket.SOCK_STREAM)), numbered(5000), said)
    assert made.close(FOREVER, FOREVER) == 0
    until(lambda: len(reader.lines()) == 5000)
    assert reader.lines() == numbered(5000)
    assert (made.written, made.dropped, said) == (5000, 0, [])
    reader.close()


def test_what_was_not_read_when_a_connection_ended_comes_through_the_next_one(path: Path, said: list[str]) -> None:
    reader = Reader(listening(socket.AF_UNIX, str(path)), most=20_000, first=True)
    made = sent(Streamed("u", unix(str(path), socket.SOCK_STREAM)), numbered(10_000), said)
    until(lambda: made.written == 10_000)
    made.put([b"last"])
    until(lambda: b"last" in reader.lines())
    assert made.close(FOREVER, FOREVER) == 0
    assert set(numbered(10_000)) <= set(reader.lines())
    assert (len(reader.connections), made.dropped) == (2, 0)
    reader.close()


@pytest.mark.parametrize("family", ["unix", "tcp"])
def test_a_side_that_ends_every_connection_holds_nothing_up(path: Path, said: list[str], family: str) -> None:
    listener = listening(socket.AF_UNIX, str(path)) if family == "unix" else listening()
    reader = Reader(listener, most=4000)
    connect = unix(str(path), socket.SOCK_STREAM) if family == "unix" else tcp(*listener.getsockname())
    made = sent(Streamed("u", connect), numbered(10_000), said)
    until(lambda: made.written == 10_000)
    for number in range(10_000, 10_050):
        made.put([b"%08d" % number])
        until(lambda number=number: made.written == number + 1)  # type: ignore[misc]
    assert made.close(FOREVER, FOREVER) == 0
    assert made.dropped == 0
    reader.close()


def test_a_side_that_is_not_there_is_waited_for(path: Path, said: list[str]) -> None:
    made = sent(Streamed("u", unix(str(path), socket.SOCK_STREAM)), numbered(100), said)
    until(lambda: len(said) == 1)
    assert "output u failed" in said[0]
    reader = Reader(listening(socket.AF_UNIX, str(path)))
    until(lambda: reader.lines() == numbered(100))
    assert made.close(FOREVER, FOREVER) == 0
    assert (made.written, made.dropped) == (100, 0)
    reader.close()


def test_a_side_that_reads_nothing_costs_what_does_not_fit(path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "SECONDS", 0.05)
    reader = Reader(listening(socket.AF_UNIX, str(path)))
    reader.open.clear()
    lines = [b"%08d" % number + b"x" * 1000 for number in range(20_000)]
    made = sent(Streamed("u", unix(str(path), socket.SOCK_STREAM)), lines, said, max_lines=1000)
    until(lambda: made.dropped > 0)
    assert made.queue().lines <= 1000
    reader.open.set()
    left = made.close(FOREVER, FOREVER)
    assert made.written + made.dropped == 20_000
    assert left == 0
    reader.close()


def test_lengths_come_before_messages_and_count_the_newline() -> None:
    reader = Reader(listening())
    place = Streamed("t", tcp(*reader.listener.getsockname()), counted=True)
    assert place.write([b"one", "zwölf".encode()]) == 2
    place.close()
    until(lambda: reader.connections == ["4 one\n7 zwölf\n".encode()])
    reader.close()


def test_certificates_are_checked(tmp_path: Path, said: list[str]) -> None:
    ours, other = certificate(tmp_path, "ours"), certificate(tmp_path, "other")
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(*ours)
    reader = Reader(listening(), context=serving)
    address = tcp(*reader.listener.getsockname())
    believed = {"ours": ssl.create_default_context(cafile=ours[0]), "other": ssl.create_default_context(cafile=other[0])}
    for ca, name, works in (("other", "localhost", False), ("ours", "elsewhere", False), ("ours", "localhost", True)):
        place = Streamed("t", over_tls(address, lambda ca=ca: believed[ca], name), counted=True)  # type: ignore[misc]
        if works:
            assert place.write([b"secret"]) == 1
        else:
            with pytest.raises(ssl.SSLCertVerificationError):
                place.write([b"secret"])
        place.close()
    until(lambda: reader.connections == [b"7 secret\n"])
    reader.close()


@pytest.fixture
def datagrams() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", 0))
        made.settimeout(60)
        yield made


def test_a_datagram_for_each_line(datagrams: socket.socket) -> None:
    place = Datagrams("d", udp(*datagrams.getsockname()))
    assert place.write([b"one", b"x" * 64_996 + "äöü".encode() * 500]) == 2
    assert datagrams.recv(1 << 17) == b"one"
    cut = datagrams.recv(1 << 17)
    assert MAX_DATAGRAM - 3 < len(cut) <= MAX_DATAGRAM
    assert cut.decode().endswith("…")
    place.close()


def test_a_log_daemon_that_begins_anew(path: Path) -> None:
    place = Datagrams("d", unix(str(path), socket.SOCK_DGRAM))
    for _ in range(2):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
            daemon.bind(str(path))
            daemon.settimeout(60)
            assert place.write([b"line"]) == 1
            assert daemon.recv(100) == b"line"
        path.unlink()
        with pytest.raises(OSError):
            place.write([b"lost"])


def test_who_talks_on_and_on_does_not_keep_a_connection_open(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "LINGER_SECONDS", 0.3)
    gone = threading.Event()

    def talk(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            while not gone.wait(0.02):
                connection.send(b".")

    with listening(socket.AF_UNIX, str(path)) as listener:
        thread = threading.Thread(target=talk, args=(listener,))
        thread.start()
        place = Streamed("u", unix(str(path), socket.SOCK_STREAM))
        assert place.write([b"line"]) == 1
        place.close()  # without an end this would take 64 KiB of single bytes
        gone.set()
        thread.join()


def test_messages_of_syslog() -> None:
    composer = Composer("h", lambda: 1_700_000_000_123_456_789)
    form = syslog(encode, 3, "höst", 7)
    [first, second] = [
        form(composer.status("test", "text", severity="high")),
        syslog(encode, 16, "h.example", 7)(alert(severity="critical")),
    ]
    pattern = rb"<(\d+)>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) (\S+) bpfence 7 (\S+) - (.*)"
    heads = [found.groups()[:4] for found in (re.fullmatch(pattern, one) for one in (first, second)) if found]
    assert heads[0] == (b"27", b"2023-11-14T22:13:20.123456Z", b"-", b"status")
    assert heads[1][0::2] == (b"130", b"h.example")
    assert heads[1][3] == b"alert"
    assert json.loads(first.partition(b" - {")[2].join([b"{", b""]))["status"] == "test"
