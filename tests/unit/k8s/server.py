# SPDX-License-Identifier: Apache-2.0
"""A few paths of an API server made of lists: for what a real one does not do when a test wants it. tests/kubernetes has a real one."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import urllib3

from bpfence.k8s.client import Api

Lines = list[Any]


class Asked(NamedTuple):
    """A request as it came."""

    method: str
    path: str
    query: dict[str, str]
    accept: str
    body: Any


class Answer(NamedTuple):
    """What is said to one: a body as JSON, or lines of a watch with seconds to wait where a number stands; bytes as they are."""

    status: int = 200
    body: Any = None
    lines: Lines | None = None


class FakeServer:
    """Answers by `respond`. `asked`: all that came."""

    def __init__(self, respond: Callable[[Asked], Answer]) -> None:
        self.respond = respond
        self.asked: list[Asked] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _do(self) -> None:
                parts = urlsplit(self.path)
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                query = {key: values[0] for key, values in parse_qs(parts.query).items()}
                asked = Asked(self.command, parts.path, query, self.headers["Accept"], json.loads(body) if body else None)
                outer.asked.append(asked)
                answer = outer.respond(asked)
                self.send_response(answer.status)
                if answer.lines is not None:
                    self.send_header("Transfer-Encoding", "chunked")
                    self.send_header("Connection", "close")
                    self.end_headers()
                    self._stream(answer.lines)
                    return
                data = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def _stream(self, lines: Lines) -> None:
                self.close_connection = True
                try:
                    for line in lines:
                        if isinstance(line, int | float):
                            time.sleep(line)
                            continue
                        data = line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n"
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                        self.wfile.flush()
                    self.wfile.write(b"0\r\n\r\n")
                except OSError:
                    pass

            def do_GET(self) -> None:
                self._do()

            def do_POST(self) -> None:
                self._do()

            def do_PATCH(self) -> None:
                self._do()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self._pool = urllib3.PoolManager(maxsize=16)
        self.api = Api(f"http://127.0.0.1:{self._server.server_address[1]}", self._pool, lambda: {"authorization": "Bearer x"})

    def close(self) -> None:
        """Answer nobody any more."""
        self._pool.clear()
        self._server.shutdown()
        self._server.server_close()


def serving(respond: Callable[[Asked], Answer]) -> Iterator[FakeServer]:
    """For fixtures."""
    server = FakeServer(respond)
    yield server
    server.close()


def until(holds: Callable[[], Any], seconds: float = 30.0) -> None:
    """Wait for something that other threads do."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


def thing(name: str, version: str, **more: Any) -> dict[str, Any]:
    """An object."""
    return {
        "metadata": {"name": name, "resourceVersion": version, "uid": f"uid-{name}", "generation": 1, **more.pop("metadata", {})},
        **more,
    }


def listed(version: str, *items: dict[str, Any], more: str = "") -> Answer:
    """A page of a list."""
    return Answer(body={"metadata": {"resourceVersion": version, "continue": more}, "items": list(items)})


def event(kind: str, item: dict[str, Any]) -> dict[str, Any]:
    """A line of a watch."""
    return {"type": kind, "object": item}
