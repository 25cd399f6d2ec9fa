# SPDX-License-Identifier: Apache-2.0
"""An API server of the machine that this guest runs on in, a line to it and an administrator's client out. For tests that ask one."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bpfence.k8s.objects import API, PLURALS
from tests.conftest import TOKEN
from vmtest.guest import ADDRESS, HOST

PODS = "/api/v1/namespaces/shop/pods"
PORT = int(os.environ.get("BPFENCE_API_PORT", "0"))
FILES = Path(os.environ.get("BPFENCE_LOGS", "/nowhere")) / "api"


class Line:
    """The API server of the machine that this guest runs on, at the same port of this guest's loopback; and away when the line is cut."""

    def __init__(self) -> None:
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = self._listening()

    def mend(self) -> None:
        """Let connections through."""
        self._listener = self._listening()

    def cut(self) -> None:
        """End those that there are, and let none through."""
        for one in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(60)
        self._threads.clear()
        self._listener.close()

    def _listening(self) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", PORT), backlog=64)
        self._start(self._accept, listener)
        return listener

    def _start(self, target: Callable[..., None], *args: socket.socket) -> threading.Thread:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._start(self._serve, listener.accept()[0])

    def _serve(self, near: socket.socket) -> None:
        with contextlib.suppress(OSError), near, socket.create_connection((HOST, PORT), 60) as far:
            far.settimeout(None)
            pair = {near, far}
            self._open |= pair
            back = self._start(carry, far, near)
            carry(near, far)
            back.join()
            self._open -= pair


def carry(source: socket.socket, target: socket.socket) -> None:
    """Bytes, until there are no more."""
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def card() -> str:
    """What the network card is called now, which udev may change; "" where there is none."""
    return next((path.name for path in Path("/sys/class/net").iterdir() if (path / "device").exists()), "")


def set_up() -> bool:
    """Whether the network card has its address."""
    commands = (["address", "replace", ADDRESS, "dev"], ["link", "set", "up", "dev"])
    return bool(card()) and all(subprocess.run(["ip", *words, card()], check=False).returncode == 0 for words in commands)


@contextlib.contextmanager
def lined() -> Iterator[Line]:
    """A line to the API server; skips where there is none."""
    if not PORT:
        pytest.skip("needs an API server and the Kubernetes client: `make kubernetes` builds it")
    subprocess.run(["modprobe", "virtio_net"], check=True)
    eventually(set_up)
    made = Line()
    try:
        yield made
    finally:
        made.cut()
        subprocess.run(["ip", "link", "set", "down", "dev", card()], check=True)  # other tests are of a machine without a network


class Client:
    """An administrator with plain HTTP: to import a library of models takes an emulated machine minutes."""

    def __init__(self) -> None:
        self._trust = ssl.create_default_context(cafile=str(FILES / "certs" / "apiserver.crt"))

    def ask(self, method: str, path: str, body: Any = None, content: str = "application/json") -> Any:
        """The answer to a request."""
        connection = http.client.HTTPSConnection("127.0.0.1", PORT, context=self._trust, timeout=300)
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": content}
        with contextlib.closing(connection):
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            data = answer.read()
        assert 200 <= answer.status <= 299, (method, path, data)
        return json.loads(data)

    def at(self, kind: str, name: str = "") -> str:
        """The path of an object of the namespace, or of all of its kind."""
        return f"{API}/namespaces/shop/{PLURALS[kind]}{'/' + name if name else ''}"

    def create(self, kind: str, name: str, given: dict[str, Any]) -> None:
        """One object."""
        self.ask("POST", self.at(kind), {"apiVersion": API.removeprefix("/apis/"), "kind": kind, "metadata": {"name": name}, "spec": given})

    def patch(self, path: str, change: Any) -> None:
        """A change of one."""
        self.ask("PATCH", path, change, "application/merge-patch+json")

    def in_force(self, kind: str, name: str) -> bool:
        """What its status says."""
        conditions = self.ask("GET", self.at(kind, name)).get("status", {}).get("conditions", ())
        return any((one["type"], one["status"]) == ("InForce", "True") for one in conditions)


def eventually(holds: Callable[[], Any]) -> Any:
    """What it comes to, once it is something."""
    deadline = time.monotonic() + 600
    while not (found := holds()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)
    return found
