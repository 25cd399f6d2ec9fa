# SPDX-License-Identifier: Apache-2.0
"""The plugin's side of NRI against a runtime's side written here: what is right, refused, late, broken and hostile."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfence.workloads import hook_program, nri_program
from bpfence.workloads.nri_program import (
    REQUEST,
    RESPONSE,
    SHARE,
    START_CONTAINER,
    TO_PLUGIN,
    TO_RUNTIME,
    Plugin,
    ProtocolError,
    RefusedError,
    Start,
    bytes_of,
    decoded,
    encoded,
    number_of,
    text_of,
    texts_of,
)
from tests.unit.workloads.hosts import ID, UID

SERVICE = "nri.pkg.api.v1alpha1.Plugin"
POD = encoded({1: "p" * 64, 2: "web-0", 3: UID, 4: "prod", 5: {1: "app", 2: "web"}})
CONTAINER = encoded({1: ID, 3: "server", 12: 70})


class Runtime:
    """The other side of a connection. It sends in parts of any size, as a stream may."""

    def __init__(self, connection: socket.socket, size: int = 1 << 20) -> None:
        self.connection, self.size, self.stream = connection, size, 1
        connection.settimeout(30)

    def receive(self) -> tuple[int, int, int, bytes]:
        which, size = struct.unpack(">II", self.exactly(8))
        data = self.exactly(size)
        length, stream, kind, _ = struct.unpack(">IIBB", data[:10])
        assert length == len(data) - 10
        return which, stream, kind, data[10:]

    def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.connection.recv(size - len(data))
            assert part, "the plugin has gone"
            data += part
        return data

    def send(self, which: int, stream: int, kind: int, body: bytes) -> None:
        data = struct.pack(">IIBB", len(body), stream, kind, 0) + body
        for at in range(0, len(data), self.size):
            part = data[at : at + self.size]
            self.connection.sendall(struct.pack(">II", which, len(part)) + part)

    def register(self, **status: Any) -> tuple[str, str]:
        which, stream, kind, body = self.receive()
        asked = decoded(body)
        assert (which, kind, text_of(asked, 1), text_of(asked, 2)) == (TO_RUNTIME, REQUEST, nri_program.RUNTIME_SERVICE, "RegisterPlugin")
        self.send(TO_RUNTIME, stream, RESPONSE, encoded({1: status} if not status else {1: {1: status["code"], 2: status["message"]}}))
        given = decoded(bytes_of(asked, 3))
        return text_of(given, 1), text_of(given, 2)

    def call(self, method: str, message: dict[int, Any]) -> tuple[int, str, dict[int, Any]]:
        """The code, the message and the body of an answer."""
        self.send(TO_PLUGIN, self.stream, REQUEST, encoded({1: SERVICE, 2: method, 3: encoded(message)}))
        which, stream, kind, body = self.receive()
        assert (which, stream, kind) == (TO_PLUGIN, self.stream, RESPONSE)
        self.stream += 2
        answer = decoded(body)
        status = decoded(bytes_of(answer, 1))
        return number_of(status, 1), text_of(status, 2), decoded(bytes_of(answer, 2))

    def configure(self, config: str = "", milliseconds: int = 2000) -> dict[int, Any]:
        code, _, answer = self.call("Configure", {1: config, 2: "containerd", 3: "1.7.24", 4: 5000, 5: milliseconds})
        assert code == 0
        return answer


@contextmanager
def plugged(started: Callable[[Start], None], size: int = 1 << 20, **more: Any) -> Iterator[tuple[Runtime, list[BaseException]]]:
    """A runtime with a plugin, and what that ended with."""
    ours, theirs = socket.socketpair()
    ended: list[BaseException] = []

    def serve() -> None:
        try:
            with theirs:
                Plugin(theirs, started, **more).serve()
        except (ProtocolError, OSError) as error:
            ended.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    with ours:
        yield Runtime(ours, size), ended
    thread.join(30)
    assert not thread.is_alive()


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize(
    ("method", "message"),
    [("StartContainer", {1: POD, 2: CONTAINER}), ("StateChange", {1: START_CONTAINER, 2: POD, 3: CONTAINER})],
)
def test_a_container_that_is_about_to_start(method: str, message: dict[int, Any], size: int) -> None:
    """As runtimes tell it now, and as they did before they had a method for each event."""
    seen: list[Start] = []
    with plugged(seen.append, size) as (runtime, ended):
        assert runtime.register() == ("bpfence", "10")
        assert runtime.configure(milliseconds=3000) == {2: [1 << (START_CONTAINER - 1)]}
        assert runtime.call("Synchronize", {3: 1})[2] == {2: [1]}
        assert runtime.call("Synchronize", {})[2] == {}
        assert runtime.call(method, message) == (0, "", {})
        assert runtime.call("Shutdown", {}) == (0, "", {})
    assert ended == []
    (start,) = seen
    assert (start.id, start.pid, start.runtime, start.seconds) == (ID, 70, "containerd", 3 * SHARE)
    assert (text_of(start.pod, 2), texts_of(start.pod, 5)) == ("web-0", {"app": "web"})


def test_other_events_are_none_of_ours() -> None:
    seen: list[Start] = []
    with plugged(seen.append) as (runtime, _):
        runtime.register()
        runtime.configure()
        for event in range(1, 15):
            if event != START_CONTAINER:
                assert runtime.call("StateChange", {1: event, 2: POD, 3: CONTAINER}) == (0, "", {})
        code, said, _ = runtime.call("CreateContainer", {1: POD, 2: CONTAINER})
        assert (code, "CreateContainer" in said) == (nri_program.UNKNOWN_METHOD, True)
    assert seen == []


def test_what_there_is_already() -> None:
    """In parts; a pod may come after its containers. What cannot be read is left out."""
    seen: list[Start] = []
    containers = [encoded({1: name, 2: name[0] * 64}) for name in ("q1", "p1", "p2")]
    with plugged(lambda _: None, running=seen.append) as (runtime, ended):
        runtime.register()
        runtime.configure()
        for n, container in enumerate(containers):
            pods = {1: POD} if n == 1 else {}
            assert runtime.call("Synchronize", {2: container, 3: 1, **pods})[2] == {2: [1]}
        assert seen == []
        assert runtime.call("Synchronize", {1: b"\xff", 2: b"\xff"}) == (0, "", {})
        assert [(start.id, text_of(start.pod, 2)) for start in seen] == [("q1", ""), ("p1", "web-0"), ("p2", "web-0")]
        assert runtime.call("Synchronize", {}) == (0, "", {})
    assert (len(seen), ended) == (3, [])


@pytest.mark.parametrize("bound", ["MAX_RUNNING", "MAX_SYNCHRONIZED"])
def test_more_than_a_machine_can_have(monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    monkeypatch.setattr(nri_program, bound, 2)
    with plugged(lambda _: None, running=lambda _: None) as (runtime, ended):
        runtime.register()
        runtime.configure()
        body = encoded({1: SERVICE, 2: "Synchronize", 3: b"".join(encoded({2: b"\x08\x01"}) for _ in range(3))})
        runtime.send(TO_PLUGIN, 1, REQUEST, body)
        assert runtime.connection.recv(1) == b""
    assert ["a machine can have" in str(error) for error in ended] == [True]


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_refused_and_what_cannot_be_read(fails: bool) -> None:
    """The plugin goes on in either case."""

    def started(start: Start) -> None:
        if start.pid == 71:
            raise RefusedError("not today")

    with plugged(started, fails=fails) as (runtime, ended):
        runtime.register()
        # A runtime that can is to refuse what it has no answer for, and to keep the plugin.
        assert runtime.configure().get(3) == ([encoded({1: 1, 2: 1})] if fails else None)
        refused = runtime.call("StartContainer", {1: POD, 2: encoded({1: ID, 12: 71})})
        assert refused[:2] == (nri_program.REFUSED, "bpfence: not today")
        broken = runtime.call("StartContainer", {1: POD, 2: b"\x0a\xff"})
        assert broken[0] == (nri_program.REFUSED if fails else 0)
        assert runtime.call("StartContainer", {1: POD, 2: CONTAINER})[0] == 0
    assert ended == []


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (struct.pack(">II", TO_PLUGIN, nri_program.MAX_PART + 1), "too long"),
        (struct.pack(">II", TO_PLUGIN, 10) + struct.pack(">IIBB", nri_program.MAX_MESSAGE + 1, 1, REQUEST, 0), "too long"),
        (struct.pack(">II", TO_PLUGIN, 11) + struct.pack(">IIBB", 1, 1, REQUEST, 0) + b"\x0a", "number"),
        (struct.pack(">II", TO_PLUGIN, 100) + b"x", "gone amid"),
    ],
)
def test_what_is_no_nri(data: bytes, why: str) -> None:
    with plugged(lambda _: None) as (runtime, ended):
        runtime.register()
        runtime.connection.sendall(data)
        runtime.connection.shutdown(socket.SHUT_WR)
        while runtime.connection.recv(100):
            pass
    assert [why in str(error) for error in ended] == [True], ended


def test_other_connections_are_passed_over() -> None:
    with plugged(lambda _: None) as (runtime, ended):
        runtime.register()
        runtime.send(7, 1, REQUEST, b"whatever")
        assert runtime.configure()
    assert ended == []


def test_a_runtime_that_takes_no_plugin() -> None:
    with plugged(lambda _: None) as (runtime, ended):
        runtime.register(code=3, message="no such index")
        assert runtime.connection.recv(1) == b""
    assert ["no such index" in str(error) for error in ended] == [True]


@given(st.dictionaries(st.integers(1, 1 << 28), st.one_of(st.integers(0, (1 << 64) - 1), st.binary(max_size=300), st.text(max_size=40))))
def test_messages_are_read_as_they_are_written(message: dict[int, int | bytes | str]) -> None:
    expected = {field: [value.encode() if isinstance(value, str) else value] for field, value in message.items()}
    assert decoded(encoded(message)) == expected


@given(st.binary(max_size=400))
def test_any_bytes_are_a_message_or_none(data: bytes) -> None:
    try:
        found = decoded(data)
    except ProtocolError:
        return
    for field in found:
        number_of(found, field), text_of(found, field)
        try:
            texts_of(found, field)
        except ProtocolError:
            pass


# ---- as the runtime starts it ----


class Agent:
    """Listens where the agent does, and answers as told."""

    def __init__(self, path: Path, answer: bytes) -> None:
        self.got: list[bytes] = []
        self._answer = answer
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(4)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                data = b""
                while part := connection.recv(65536):
                    data += part
                self.got.append(data)
                connection.sendall(self._answer)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextmanager
def launched(folder: Path) -> Iterator[tuple[Runtime, Path]]:
    program = folder / "10-bpfence"
    shutil.copy(nri_program.__file__, program)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        environment = {"NRI_PLUGIN_NAME": "bpfence", "NRI_PLUGIN_IDX": "10", "NRI_PLUGIN_SOCKET": str(theirs.fileno())}
        process = subprocess.Popen(
            [sys.executable, "-IS", str(program)], env=environment, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, text=True
        )
        theirs.close()
        runtime = Runtime(ours)
        assert runtime.register() == ("bpfence", "10")
        try:
            yield runtime, program
        finally:
            ours.shutdown(socket.SHUT_RDWR)
            _, said = process.communicate(timeout=30)
            assert process.returncode == 0, said


@pytest.mark.parametrize("on_failure", ["allow", "deny"])
@pytest.mark.parametrize("answer", [b"ok\n", b"no: not in force\n", None])
def test_the_plugin_that_the_runtime_starts(tmp_path: Path, on_failure: str, answer: bytes | None) -> None:
    """It asks the agent as the hook does. None: no agent listens."""
    path = tmp_path / "s"
    agent = Agent(path, answer) if answer is not None else None
    settings = {"socket": str(path), "seconds": 20.0, "on_failure": on_failure, "hook": hook_program.__file__}
    with launched(tmp_path) as (runtime, program):
        runtime.configure(json.dumps(settings), 5000)
        code, said, _ = runtime.call("StartContainer", {1: POD, 2: CONTAINER})
        assert code == (nri_program.REFUSED if answer != b"ok\n" and on_failure == "deny" else 0), said
        if agent is not None:
            (got,) = agent.got
            state, _, seconds = got.partition(b"\0")
            assert json.loads(state) == {"id": ID, "pid": 70, "bundle": ""}
            assert float(seconds) == 5 * SHARE
            agent.close()
        program.unlink()  # uninstalled
        assert runtime.call("StartContainer", {1: POD, 2: CONTAINER})[0] == 0


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ("", 0),
        ("[]", 0),
        ('{"on_failure": "deny"}', nri_program.REFUSED),
        ('{"on_failure": "deny", "hook": "/nowhere", "socket": "/nowhere", "seconds": 1}', nri_program.REFUSED),
        ('{"on_failure": "allow", "hook": "/nowhere", "socket": "/nowhere", "seconds": 1}', 0),
    ],
)
def test_settings_that_are_wrong_do_not_end_the_plugin(tmp_path: Path, config: str, code: int) -> None:
    with launched(tmp_path) as (runtime, _):
        runtime.configure(config)
        for _ in range(2):
            assert runtime.call("StateChange", {1: START_CONTAINER, 2: POD, 3: CONTAINER})[0] == code


def test_it_stands_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-IS", "-c", f"import runpy, sys; runpy.run_path({nri_program.__file__!r}); print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ.get("PATH", "")},
    )
    assert not [name for name in done.stdout.split() if name.startswith("bpfence")]
