# SPDX-License-Identifier: Apache-2.0
"""A container that an NRI runtime is about to start in, its answer out: the plugin's side of NRI. Installed as a copy (`install`).

The agent uses `Plugin` on the runtime's socket (`nri`); the copy is started by the runtime itself, asks the agent as the OCI hook does
(`hook_program`), and is there also where no agent is. It stands alone, as that does. Formats: ttrpc 1.2 (PROTOCOL.md), several
connections in one (a number and a length before each part), and the messages of nri.pkg.api.v1alpha1, of which four are understood.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

NAME, INDEX = "bpfence", "10"
TO_PLUGIN, TO_RUNTIME = 1, 2
"""The two connections in one, by who answers in it."""
REQUEST, RESPONSE = 1, 2
RUNTIME_SERVICE = "nri.pkg.api.v1alpha1.Runtime"
START_CONTAINER = 6
"""Of the events. The process and the cgroup are made then, and nothing of the container has run."""
REFUSED, UNKNOWN_METHOD = 9, 12
"""Codes of gRPC: failed precondition, unimplemented."""
MAX_MESSAGE = 4 << 20
MAX_PART = MAX_MESSAGE + 10
MAX_FIELDS = 1 << 16
MAX_RUNNING = 1 << 14
MAX_SYNCHRONIZED = 64 << 20
REQUEST_SECONDS = 2.0
"""What runtimes wait for an answer where they do not say."""
REGISTER_SECONDS = 10.0
SHARE = 0.9
"""Of the time that the runtime waits, what an answer may take: after it the plugin is thrown out."""
Fields = Mapping[int, "list[int | bytes]"]
BUNDLES = ("/run/containerd/io.containerd.runtime.v2.task/k8s.io/{}", "/run/containers/storage/overlay-containers/{}/userdata")


class ProtocolError(Exception):
    """What the other side said is no NRI."""


class RefusedError(Exception):
    """The container is not to start."""


# ---- messages ----


def varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out) + bytes([number])


def encoded(message: Mapping[int, Any]) -> bytes:
    """A message: of a field's number a number, a text, bytes or a message."""
    out = b""
    for field, value in message.items():
        if isinstance(value, int):
            out += varint(field << 3) + varint(value)
        else:
            data = value.encode() if isinstance(value, str) else encoded(value) if isinstance(value, dict) else value
            out += varint(field << 3 | 2) + varint(len(data)) + data
    return out


def decoded(data: bytes) -> dict[int, list[int | bytes]]:
    """The fields of a message by their numbers: numbers and bytes. ProtocolError."""
    found: dict[int, list[int | bytes]] = {}
    at, count, end = 0, 0, len(data)

    def number() -> int:
        nonlocal at
        value = shift = 0
        while at < end and shift < 70:
            byte = data[at]
            at, value, shift = at + 1, value | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                return value & (1 << 64) - 1
        raise ProtocolError("a number without an end")

    while at < end:
        key = number()
        kind = key & 7
        value: int | bytes
        if kind == 0:
            value = number()
        else:
            size = number() if kind == 2 else {1: 8, 5: 4}.get(kind, -1)
            if size < 0 or size > end - at:
                raise ProtocolError("a field that is no field")
            value, at = data[at : at + size], at + size
        count += 1
        if count > MAX_FIELDS:
            raise ProtocolError("too many fields")
        found.setdefault(key >> 3, []).append(value)
    return found


def number_of(message: Fields, field: int) -> int:
    """The last number in a field; 0."""
    value = (message.get(field) or [0])[-1]
    return value if isinstance(value, int) else 0


def bytes_of(message: Fields, field: int) -> bytes:
    """The last text or message in a field, as bytes; empty."""
    value = (message.get(field) or [b""])[-1]
    return value if isinstance(value, bytes) else b""


def text_of(message: Fields, field: int) -> str:
    """The last text in a field; ""."""
    return bytes_of(message, field).decode("utf-8", "replace")


def texts_of(message: Fields, field: int) -> dict[str, str]:
    """A map of texts to texts."""
    entries = [decoded(entry) for entry in message.get(field, []) if isinstance(entry, bytes)]
    return {text_of(entry, 1): text_of(entry, 2) for entry in entries}


def _fields(data: bytes) -> Fields:
    """Those of a message that may be broken: none."""
    try:
        return decoded(data)
    except ProtocolError:
        return {}


class Start:
    """A container that is about to start, or is there, and its pod: messages Container and PodSandbox of NRI. `seconds`: until the answer
    is due."""

    def __init__(self, runtime: str, seconds: float, pod: bytes, container: bytes) -> None:
        self.runtime, self.seconds = runtime, seconds
        self.pod, self.container = decoded(pod), decoded(container)
        self.id, self.pid = text_of(self.container, 1), number_of(self.container, 12)


def bundle_of(identity: str, pid: int) -> str:
    """Where the runtime has the bundle of a container, by its id and its process; "" where it is in none of the usual places, nor beside
    the folder of the shim that waits for it, which is the bundle of the pod's first container."""
    if not identity.isalnum():
        return ""
    paths = [folder.format(identity) for folder in BUNDLES]
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
            parent = int(file.read(4096).rpartition(b")")[2].split()[1])
        paths.insert(0, os.path.join(os.path.dirname(os.readlink(f"/proc/{parent}/cwd")), identity))
    except (OSError, ValueError, IndexError):
        pass
    return next((path for path in paths if os.path.isfile(os.path.join(path, "config.json"))), "")


# ---- the plugin ----


class Plugin:
    """Registers with a runtime and answers it. `started` is called with a Start before the container's first instruction; RefusedError
    where it is not to start. `fails`: whether the runtime is to refuse what was not answered in time, where it can. `running`: called with
    a Start of each container that there is when the runtime takes the plugin, as far as there is time."""

    def __init__(
        self,
        connection: socket.socket,
        started: Callable[[Start], None],
        fails: bool = False,
        configured: Callable[[str], bool] | None = None,
        running: Callable[[Start], None] | None = None,
    ) -> None:
        self._connection, self._started, self._fails, self._configured = connection, started, fails, configured
        self._running = running
        self._pods: list[bytes] = []
        self._containers: list[bytes] = []
        self._parts = {TO_PLUGIN: b"", TO_RUNTIME: b""}
        self._runtime, self._seconds = "", REQUEST_SECONDS
        self.registered = False

    def serve(self) -> None:
        """Until the runtime goes. ProtocolError, OSError."""
        self._connection.settimeout(REGISTER_SECONDS)
        register = {1: RUNTIME_SERVICE, 2: "RegisterPlugin", 3: {1: NAME, 2: INDEX}}
        self._send(TO_RUNTIME, 1, REQUEST, encoded(register))
        while True:
            head = self._read(8, True)
            if not head:
                return
            which, size = struct.unpack(">II", head)
            if size > MAX_PART:
                raise ProtocolError("a part that is too long")
            data = self._read(size)
            if which in self._parts:
                self._parts[which] += data
                self._messages(which)

    def _read(self, size: int, may_end: bool = False) -> bytes:
        parts, left = [], size
        while left:
            part = self._connection.recv(min(left, 1 << 16))
            if not part:
                if may_end and left == size:
                    return b""
                raise ProtocolError("the runtime has gone amid a message")
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def _send(self, which: int, stream: int, kind: int, data: bytes) -> None:
        data = struct.pack(">IIBB", len(data), stream, kind, 0) + data
        self._connection.sendall(struct.pack(">II", which, len(data)) + data)

    def _messages(self, which: int) -> None:
        while len(self._parts[which]) >= 10:
            data = self._parts[which]
            size, stream, kind, _ = struct.unpack(">IIBB", data[:10])
            if size > MAX_MESSAGE:
                raise ProtocolError("a message that is too long")
            if len(data) < 10 + size:
                return
            body, self._parts[which] = data[10 : 10 + size], data[10 + size :]
            if which == TO_RUNTIME and kind == RESPONSE:
                self._taken(decoded(bytes_of(decoded(body), 1)))
            elif which == TO_PLUGIN and kind == REQUEST:
                self._send(TO_PLUGIN, stream, RESPONSE, encoded(self._answer(decoded(body))))

    def _taken(self, status: Fields) -> None:
        """What the runtime says of our registration."""
        if number_of(status, 1):
            raise ProtocolError("the runtime takes no plugin: " + text_of(status, 2)[:200])
        self.registered = True
        self._connection.settimeout(None)

    def _answer(self, request: Fields) -> dict[int, Any]:
        method, given = text_of(request, 2), decoded(bytes_of(request, 3))
        answers = {
            "Configure": self._configure,
            "Synchronize": self._synchronize,
            "StartContainer": self._start,
            "StateChange": self._change,
        }
        if method == "Shutdown":
            return {2: b""}
        if method not in answers:
            return {1: {1: UNKNOWN_METHOD, 2: "this plugin has no " + method[:64]}}
        try:
            return {2: encoded(answers[method](given))}
        except RefusedError as error:
            return {1: {1: REFUSED, 2: "bpfence: " + str(error)[:500]}}

    def _configure(self, given: Fields) -> dict[int, Any]:
        self._runtime = text_of(given, 2)
        milliseconds = number_of(given, 5)
        self._seconds = milliseconds / 1000 if 0 < milliseconds < 600_000 else REQUEST_SECONDS
        if self._configured is not None:
            self._fails = self._configured(text_of(given, 1))
        events = {2: 1 << (START_CONTAINER - 1)}
        return {**events, 3: {1: 1, 2: 1}} if self._fails else events

    def _synchronize(self, given: Fields) -> dict[int, Any]:
        """What there is already. Of much there are several parts, and a container's pod may be in a later one."""
        if self._running is not None:
            for field, kept in ((1, self._pods), (2, self._containers)):
                kept += [one for one in given.get(field, []) if isinstance(one, bytes)]
                if len(kept) > MAX_RUNNING or sum(map(len, kept)) > MAX_SYNCHRONIZED:
                    raise ProtocolError("more pods or containers than a machine can have")
        if number_of(given, 3):
            return {2: 1}
        pods, containers, self._pods, self._containers = self._pods, self._containers, [], []
        end = time.monotonic() + self._seconds * SHARE
        by_id = {}
        for pod in pods:
            if fields := _fields(pod):
                by_id[text_of(fields, 1)] = pod
        for container in containers:
            fields = _fields(container)
            if fields and time.monotonic() < end and self._running is not None:
                self._running(Start(self._runtime, 0.0, by_id.get(text_of(fields, 2), b""), container))
        return {}

    def _start(self, given: Fields) -> dict[int, Any]:
        self._begin(bytes_of(given, 1), bytes_of(given, 2))
        return {}

    def _change(self, given: Fields) -> dict[int, Any]:
        """How runtimes told of all events before they had a method for each."""
        if number_of(given, 1) == START_CONTAINER:
            self._begin(bytes_of(given, 2), bytes_of(given, 3))
        return {}

    def _begin(self, pod: bytes, container: bytes) -> None:
        try:
            start = Start(self._runtime, self._seconds * SHARE, pod, container)
        except ProtocolError:
            if self._fails:
                raise RefusedError("the container cannot be told") from None
            return
        self._started(start)


# ---- started by the runtime ----


class Launched:
    """Asks the agent as the OCI hook does. What it is told is its part of the runtime's settings, which `hook install` writes."""

    def __init__(self, own: str) -> None:
        self._own = own
        self._settings: dict[str, Any] = {}
        self._hook: ModuleType | None = None

    def configured(self, text: str) -> bool:
        """Whether what is not answered is to be refused. The hook's program is read now: it may be another one, or gone, later."""
        import importlib.machinery
        import importlib.util
        import json

        try:
            self._settings = dict(json.loads(text))
            loader = importlib.machinery.SourceFileLoader("bpfence_hook", self._settings["hook"])
            spec = importlib.util.spec_from_loader("bpfence_hook", loader)
            assert spec is not None
            self._hook = importlib.util.module_from_spec(spec)
            loader.exec_module(self._hook)
        except Exception as error:  # a plugin that ends refuses nothing
            self._hook = None
            sys.stderr.write(f"bpfence: the plugin cannot ask the agent: {type(error).__name__}: {str(error)[:500]}\n")
        return self._denies

    @property
    def _denies(self) -> bool:
        return bool(self._settings.get("on_failure") == "deny")

    def started(self, start: Start) -> None:
        """RefusedError where the agent's answer is not yes, and that is to be refused."""
        import json

        if not os.path.exists(self._own):  # `hook uninstall`
            return
        state = {"id": start.id, "pid": start.pid, "bundle": bundle_of(start.id, start.pid)}
        try:
            if self._hook is None:
                raise ProtocolError("the hook's program could not be read")
            self._hook.ask(self._settings["socket"], json.dumps(state).encode(), min(start.seconds, self._settings["seconds"]))
        except Exception as error:  # whatever it is, the plugin has to go on
            consequence = "it does not start" if self._denies else "it starts without waiting for policies"
            sys.stderr.write(f"bpfence: {start.id[:64]!r}: {type(error).__name__}: {str(error)[:500]!r}; {consequence}\n")
            if self._denies:
                raise RefusedError(str(error)) from None


def main(own: str) -> int:
    """Until the runtime ends."""
    launched = Launched(own)
    with socket.socket(fileno=int(os.environ["NRI_PLUGIN_SOCKET"])) as connection:
        Plugin(connection, launched.started, configured=launched.configured).serve()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(os.path.abspath(__file__)))
    except (ProtocolError, OSError, ValueError, KeyError, ImportError) as error:
        sys.stderr.write(f"bpfence: {type(error).__name__}: {str(error)[:500]}\n")
        sys.exit(1)
