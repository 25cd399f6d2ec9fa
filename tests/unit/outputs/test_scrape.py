# SPDX-License-Identifier: Apache-2.0
"""Who answers scrapes: at which places, to whom, and what hostile clients cannot do to it."""

from __future__ import annotations

import http.client
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfence.errors import UsageError
from bpfence.outputs import scrape
from bpfence.outputs.scrape import MAX_CLIENTS, MAX_REQUEST, Scrapes

TEXT = b"# TYPE one gauge\none 1\n"


def answer(accept: str) -> tuple[str, bytes]:
    return f"text/plain; accepted={accept}", TEXT


@pytest.fixture
def scrapes() -> Iterator[Scrapes]:
    made = Scrapes("127.0.0.1:0")
    made.start(answer)
    yield made
    made.close()


def connected(scrapes: Scrapes) -> socket.socket:
    return socket.create_connection(scrapes.address, timeout=10)


def taken(connection: socket.socket) -> bytes:
    """Everything that comes until the other side closes."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def asked(scrapes: Scrapes, request: bytes) -> bytes:
    with connected(scrapes) as connection:
        connection.sendall(request)
        return taken(connection)


def test_a_scrape_is_answered(scrapes: Scrapes) -> None:
    client = http.client.HTTPConnection(*scrapes.address, timeout=10)
    client.request("GET", "/metrics", headers={"Accept": "application/openmetrics-text"})
    response = client.getresponse()
    assert (response.status, response.read()) == (200, TEXT)
    assert response.getheader("Content-Type") == "text/plain; accepted=application/openmetrics-text"


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /metrics HTTP/1.1", 200),
        (b"GET /metrics?debug=1 HTTP/1.0", 200),
        (b"HEAD /metrics HTTP/1.1", 200),
        (b"GET / HTTP/1.1", 404),
        (b"GET /metrics/../etc/passwd HTTP/1.1", 404),
        (b"POST /metrics HTTP/1.1", 405),
        (b"GET /metrics", 400),
        (b"GET /metrics HTTP/9.9", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (b"", 400),
    ],
)
def test_requests(scrapes: Scrapes, request_line: bytes, status: int) -> None:
    response = asked(scrapes, request_line + b"\r\nHost: x\r\n\r\n")
    assert response.split(b" ")[1] == b"%d" % status
    assert (TEXT in response) == (status == 200 and not request_line.startswith(b"HEAD"))


def test_a_request_without_end_is_refused(scrapes: Scrapes) -> None:
    assert asked(scrapes, b"GET /metrics HTTP/1.1\r\nX: " + b"a" * MAX_REQUEST).startswith(b"HTTP/1.1 431 ")


def test_a_request_in_pieces_is_a_request(scrapes: Scrapes) -> None:
    with connected(scrapes) as connection:
        for byte in b"GET /metrics HTTP/1.1\r\n\r\n":
            connection.sendall(bytes([byte]))
        assert taken(connection).endswith(TEXT)


def test_silent_clients_keep_nobody_from_an_answer(scrapes: Scrapes) -> None:
    silent = [connected(scrapes) for _ in range(3 * MAX_CLIENTS)]
    try:
        assert asked(scrapes, b"GET /metrics HTTP/1.1\r\n\r\n").endswith(TEXT)
        assert taken(silent[0]) == b""  # the oldest was put out
    finally:
        for connection in silent:
            connection.close()


def test_a_client_that_says_nothing_is_put_out_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrape, "MAX_SECONDS", 0.2)
    made = Scrapes("127.0.0.1:0")
    made.start(answer)
    try:
        with connected(made) as connection:
            began = time.monotonic()
            assert taken(connection) == b""
            assert time.monotonic() - began < 5
    finally:
        made.close()


def test_a_client_that_reads_nothing_holds_nobody_up() -> None:
    made = Scrapes("127.0.0.1:0")
    made.start(lambda _: ("text/plain", b"x" * (64 << 20)))
    try:
        with connected(made) as slow:
            slow.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            slow.recv(1)
            assert asked(made, b"GET /other HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 404 ")
    finally:
        made.close()


def test_a_fault_is_told_once_and_survived() -> None:
    said: list[str] = []
    made = Scrapes("127.0.0.1:0", said.append)

    def fail(_: str) -> tuple[str, bytes]:
        raise KeyError("oops")

    made.start(fail)
    try:
        for _ in range(3):
            assert asked(made, b"GET /metrics HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 500 ")
    finally:
        made.close()
    assert len(said) == 1
    assert "KeyError: 'oops'" in said[0]


def test_the_end_comes_although_clients_are_connected(scrapes: Scrapes) -> None:
    with connected(scrapes) as connection:
        scrapes.close()
        assert taken(connection) == b""
    assert not any(thread.name == "bpfence-metrics" for thread in threading.enumerate())
    with pytest.raises(OSError):
        connected(scrapes)


@pytest.mark.parametrize("place", ["0.0.0.0:0", "[::]:0", "192.0.2.7:9477"])
def test_an_address_that_others_reach_must_be_meant(place: str) -> None:
    with pytest.raises(UsageError, match="reached from other machines"):
        Scrapes(place)


def test_such_an_address_can_be_meant() -> None:
    made = Scrapes("0.0.0.0:0", anywhere=True)
    assert made.address[0] == "0.0.0.0"
    made.close()


@pytest.mark.parametrize(
    "place", ["", "9477", "example.org:9477", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:99999", "127.0.0.1:-1", "unix"]
)
def test_what_is_no_place(place: str) -> None:
    with pytest.raises(UsageError, match=r"is no (address|port)"):
        Scrapes(place)


def test_a_port_that_is_taken(scrapes: Scrapes) -> None:
    with pytest.raises(UsageError, match="cannot be listened at"):
        Scrapes(f"127.0.0.1:{scrapes.address[1]}")


def test_a_unix_socket_is_ours_alone_and_goes_with_us(tmp_path: Path) -> None:
    path = tmp_path / "metrics.sock"
    made = Scrapes(f"unix:{path}")
    made.start(answer)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert made.folders() == (tmp_path,)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert taken(connection).endswith(TEXT)
    with pytest.raises(UsageError, match="another process listens there"):
        Scrapes(f"unix:{path}")
    made.close()
    made.close()
    assert not path.exists()


def test_a_socket_that_was_left_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    left = tmp_path / "left.sock"
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(left))
    Scrapes(f"unix:{left}").close()
    (tmp_path / "file").write_text("precious")
    (tmp_path / "link").symlink_to(left)
    for name in ("file", "link"):
        with pytest.raises(UsageError, match="something else is there"):
            Scrapes(f"unix:{tmp_path / name}")
    assert (tmp_path / "file").read_text() == "precious"


def test_the_socket_of_another_is_not_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "metrics.sock"
    made = Scrapes(f"unix:{path}")
    path.unlink()
    path.write_text("another's")
    made.close()
    assert path.exists()
