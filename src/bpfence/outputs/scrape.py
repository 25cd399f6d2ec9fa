# SPDX-License-Identifier: Apache-2.0
"""HTTP requests for metrics in, answers out: a thread of its own that nobody can hold up, and that holds nobody up.

Made by `bpfence run --metrics`, before privileges are given up; the thread begins with `start`. A client has MAX_SECONDS for its request
and for taking the answer, and MAX_REQUEST bytes; the oldest of more than MAX_CLIENTS is put out for the next. Only `answer` knows what
metrics are; it is called in this thread.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bpfence.errors import UsageError
from bpfence.host.hostnames import Notice
from bpfence.host.sockets import FAMILY, address, listening_alone

MAX_CLIENTS: Final = 16
MAX_REQUEST: Final = 8192
MAX_SECONDS: Final = 5.0
BACKLOG: Final = 32

Answer = Callable[[str], tuple[str, bytes]]
"""What a client accepts (its header Accept) → the type of the content, and the content."""


class _Client:
    """A connection: what it has sent until now, and what it has yet to take, None while its request is not complete."""

    def __init__(self, connection: socket.socket, until: float) -> None:
        self.connection = connection
        self.until = until
        self.received = b""
        self.left: memoryview | None = None


class Scrapes:
    """Answers at one place, `unix:PATH` or `HOST:PORT`, from `start` until it is closed. UsageError where that is no place or it is taken.

    `anywhere`: an address that others reach, too, is no mistake. `report` takes messages for people, and must not wait.
    """

    def __init__(self, place: str, report: Callable[[str], None] = lambda _: None, *, anywhere: bool = False) -> None:
        self.place = place
        self._report = report
        self._path = Path(place.removeprefix("unix:")).absolute() if place.startswith("unix:") else None
        self._listener = self._listening(place, anywhere)
        self._made = os.stat(self._path).st_ino if self._path is not None else 0
        self._notice = Notice()
        self._thread: threading.Thread | None = None
        self._answer: Answer | None = None
        self._clients: dict[int, _Client] = {}
        self._closed = self._fault_told = False
        self._listens = True

    def _listening(self, place: str, anywhere: bool) -> socket.socket:
        try:
            if self._path is not None:
                return listening_alone(self._path, BACKLOG)
            why = "anybody who reaches it learns what is watched here"
            found, port = address("--metrics", place, why, anywhere=anywhere, port=9477)
            return socket.create_server((str(found), port), family=FAMILY[found.version], backlog=BACKLOG)
        except OSError as error:
            raise UsageError(f"--metrics {place} cannot be listened at: {error.strerror or error}") from error

    @property
    def address(self) -> tuple[str, int]:
        """Address and port, where it is no unix socket; the port that was chosen, where 0 was asked for."""
        host, port, *_ = self._listener.getsockname()
        return str(host), int(port)

    def folders(self) -> tuple[Path, ...]:
        """The folder that the socket is removed from at the end."""
        return (self._path.parent,) if self._path is not None else ()

    def start(self, answer: Answer) -> None:
        """Answer from now on. Further calls do nothing; where no thread can be started, the next one tries again."""
        if self._thread is not None:
            return
        self._answer = answer
        thread = threading.Thread(target=self._serve, name="bpfence-metrics", daemon=True)
        with contextlib.suppress(RuntimeError):
            thread.start()
            self._thread = thread

    def close(self) -> None:
        """Answer no more, and take the socket away."""
        self._closed = True
        self._notice.tell()
        if self._thread is not None:
            self._thread.join(MAX_SECONDS)
        self._listener.close()
        self._notice.close()
        if self._path is not None:
            with contextlib.suppress(OSError):
                if os.stat(self._path).st_ino == self._made:
                    self._path.unlink()

    # ---- the thread ----

    def _serve(self) -> None:
        self._listener.setblocking(False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._notice.fileno(), selectors.EVENT_READ)
            selector.register(self._listener, selectors.EVENT_READ)
            self._listens, paused = True, 0.0
            while not self._closed:
                now = time.monotonic()
                if not self._listens and now >= paused:
                    selector.register(self._listener, selectors.EVENT_READ)
                    self._listens = True
                for key, _ in selector.select(self._wait(now, paused)):
                    if key.fileobj is self._listener:
                        if not self._accept(selector):
                            paused = time.monotonic() + 0.1  # out of descriptors: others will be given back
                    elif key.fd in self._clients:
                        self._go_on(selector, self._clients[key.fd])
                now = time.monotonic()
                for client in [client for client in self._clients.values() if client.until <= now]:
                    self._drop(selector, client)
            for client in list(self._clients.values()):
                self._drop(selector, client)

    def _wait(self, now: float, paused: float) -> float | None:
        ends = [client.until for client in self._clients.values()] + ([] if self._listens else [paused])
        return max(0.0, min(ends) - now) if ends else None

    def _accept(self, selector: selectors.BaseSelector) -> bool:
        """Take the next client; False where that is not possible now, and the listener is not looked at any more."""
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return True
        except OSError:
            selector.unregister(self._listener)
            self._listens = False
            return False
        if len(self._clients) >= MAX_CLIENTS:
            self._drop(selector, min(self._clients.values(), key=lambda client: client.until))
        connection.setblocking(False)
        self._clients[connection.fileno()] = _Client(connection, time.monotonic() + MAX_SECONDS)
        selector.register(connection, selectors.EVENT_READ)
        return True

    def _drop(self, selector: selectors.BaseSelector, client: _Client) -> None:
        del self._clients[client.connection.fileno()]
        selector.unregister(client.connection)
        client.connection.close()

    def _go_on(self, selector: selectors.BaseSelector, client: _Client) -> None:
        try:
            if client.left is None:
                part = client.connection.recv(MAX_REQUEST)
                client.received += part
                client.left = self._answered(client.received)
                if client.left is None:
                    if not part:
                        self._drop(selector, client)
                    return
                selector.modify(client.connection, selectors.EVENT_WRITE)
            client.left = client.left[client.connection.send(client.left) :]
        except BlockingIOError:
            return
        except OSError:
            self._drop(selector, client)
            return
        if not client.left:
            with contextlib.suppress(OSError):
                client.connection.shutdown(socket.SHUT_WR)
            self._drop(selector, client)

    def _answered(self, request: bytes) -> memoryview | None:
        """The whole response; None while the request is not complete."""
        head, end, _ = request.partition(b"\r\n\r\n")
        if not end:
            return _response("431 Request Header Fields Too Large") if len(request) >= MAX_REQUEST else None
        first, *lines = head.decode("latin-1").split("\r\n")
        match first.split(" "):
            case ["GET" | "HEAD" as method, target, "HTTP/1.0" | "HTTP/1.1"]:
                pass
            case [_, _, "HTTP/1.0" | "HTTP/1.1"]:
                return _response("405 Method Not Allowed", more="Allow: GET, HEAD\r\n")
            case _:
                return _response("400 Bad Request")
        if target.partition("?")[0] != "/metrics":
            return _response("404 Not Found", content=b"metrics are at /metrics\n")
        accepted = [value.strip() for name, _, value in (line.partition(":") for line in lines) if name.lower() == "accept"]
        assert self._answer is not None
        try:
            kind, content = self._answer(", ".join(accepted))
        except Exception as error:  # a bug of ours must not end the thread
            if not self._fault_told:
                self._fault_told = True
                self._report(f"metrics cannot be made, which is a bug in bpfence: {type(error).__name__}: {error}; please report it")
            return _response("500 Internal Server Error")
        return _response("200 OK", kind, content, body=method == "GET")


def _response(
    status: str, kind: str = "text/plain; charset=utf-8", content: bytes = b"", *, more: str = "", body: bool = True
) -> memoryview:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n{more}Connection: close\r\n\r\n"
    return memoryview(head.encode("latin-1") + (content if body else b""))
