# SPDX-License-Identifier: Apache-2.0
"""Other sides of outputs: real sockets and servers that do what one tells them, and certificates for them."""

from __future__ import annotations

import http.server
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any


def certificate(folder: Path, name: str, *, host: str = "localhost") -> tuple[str, str]:
    """A certificate that is its own authority, and its key."""
    paths = str(folder / f"{name}.crt"), str(folder / f"{name}.key")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    command += ["-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}", "-keyout", paths[1], "-out", paths[0]]
    subprocess.run(command, check=True, capture_output=True)
    return paths


class Reader:
    """Accepts connections, one after the other, and keeps what they bring. `most`: bytes of a connection until it is cut off, 0: all.

    `first`: only the first one is. `open`: whether anything is read.
    """

    def __init__(self, listener: socket.socket, *, most: int = 0, first: bool = False, context: ssl.SSLContext | None = None) -> None:
        self.listener = listener
        self.most = most
        self.first = first
        self.context = context
        self.open = threading.Event()
        self.open.set()
        self.connections: list[bytes] = []
        self.faults: list[Exception] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            try:
                if self.context is not None:
                    connection = self.context.wrap_socket(connection, server_side=True)
                self._take(connection)
            except OSError as error:
                self.faults.append(error)
            finally:
                connection.close()

    def _take(self, connection: socket.socket) -> None:
        self.connections.append(b"")
        most = self.most if not self.first or len(self.connections) == 1 else 0
        while not most or len(self.connections[-1]) < most:
            self.open.wait()
            part = connection.recv(4096)
            if not part:
                return
            self.connections[-1] += part

    def lines(self) -> list[bytes]:
        """Whole lines of all connections."""
        return [line for data in list(self.connections) for line in data[: data.rfind(b"\n") + 1].split(b"\n")[:-1]]

    def close(self) -> None:
        """Listen no more."""
        self.open.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def listening(family: socket.AddressFamily = socket.AF_INET, place: Any = ("127.0.0.1", 0)) -> socket.socket:
    made = socket.socket(family)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(place)
    made.listen()
    return made


Request = tuple[str, dict[str, str], bytes]


class Hook:
    """An HTTP server. `answer`: of a request, the status and more headers, and the content where there is one. Status 0: none, the
    connection ends."""

    def __init__(self, answer: Callable[[Request], tuple[Any, ...]], context: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.requests: list[Request] = []
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = self.path, {name.lower(): value for name, value in self.headers.items()}, body
                hook.requests.append(request)
                status, headers, *content = answer(request)
                if not status:
                    self.close_connection = True
                    return
                self.send_response(status)
                for name, value in {"Content-Length": str(sum(map(len, content))), **headers}.items():
                    self.send_header(name, value)
                if headers.get("Connection") == "close":
                    self.close_connection = True
                self.end_headers()
                for part in content:
                    self.wfile.write(part)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        if context is not None:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def lines(self) -> list[bytes]:
        return [line for _, _, body in list(self.requests) for line in body.splitlines()]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
