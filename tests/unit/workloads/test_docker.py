# SPDX-License-Identifier: Apache-2.0
"""Docker's API over a unix socket: an engine written by hand, and hostile ones."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bpfence.workloads.docker import Docker
from bpfence.workloads.model import Mount, Pod
from bpfence.workloads.texts import BadAnswerError, moment
from tests.unit.workloads.hosts import ID, OTHER, UID, FakeHost

STARTED = "2026-12-01T10:00:00.000000001Z"
DIGEST = f"sha256:{OTHER}"


class Engine:
    """Answers of an engine by path; bytes go out as they are, so that an answer may be no HTTP at all. `events`: lines of its stream."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, Any] = {}
        self.events: list[bytes] = []
        self.more = threading.Event()
        self.closed = threading.Event()
        self.asked: list[str] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(8)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                path = connection.recv(65536).split(b" ")[1].decode()
                self.asked.append(path)
                if path.startswith("/events"):
                    self._stream(connection)
                    return
                answer = self.answers.get(path)
                if callable(answer):
                    answer(connection)
                elif isinstance(answer, bytes):
                    connection.sendall(answer)
                else:
                    body = json.dumps(answer if answer is not None else {"message": "no such"}).encode()
                    status = b"200 OK" if answer is not None else b"404 Not Found"
                    connection.sendall(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))
            except OSError:
                pass

    def _stream(self, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not self.closed.is_set():
            while self.events:
                line = self.events.pop(0)
                connection.sendall(b"%x\r\n%s\r\n" % (len(line), line))
            self.more.wait(0.05)
        connection.sendall(b"0\r\n\r\n")

    def runs(self, identity: str, pid: int, **more: Any) -> None:
        self.answers.setdefault("/containers/json", []).append({"Id": identity})
        known = {"Id": identity, "Name": "/web", "Image": f"sha256:{ID}", "State": {"Running": True, "Pid": pid, "StartedAt": STARTED}}
        self.answers[f"/containers/{identity}/json"] = known | more

    def close(self) -> None:
        self.closed.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = Engine(tmp_path / "docker.sock")
    yield made
    made.close()


def asked(host: FakeHost, engine: Engine, **more: Any) -> Docker:
    return Docker(host.tree, str(engine.path), "docker", **more)


def test_a_container(host: FakeHost, engine: Engine) -> None:
    mounts = [{"Type": "bind", "Source": "/srv", "Destination": "/data", "Mode": "", "RW": False, "Propagation": "rprivate"}]
    config = {"Image": "nginx:1.27", "Labels": {"app": "web"}}
    engine.runs(ID, host.process(70, f"/docker/{ID}/init"), Config=config, HostConfig={"Privileged": True}, Mounts=mounts)
    engine.answers[f"/images/sha256%3A{ID}/json"] = {"RepoDigests": [f"nginx@{DIGEST}"]}
    docker = asked(host, engine)
    (found,) = docker.snapshot()
    assert (found.id, found.cgroup, found.name, found.image, found.image_id) == (ID, f"/docker/{ID}", "web", "nginx:1.27", f"sha256:{ID}")
    assert (found.image_digest, found.privileged, found.labels, found.runtime) == (DIGEST, True, {"app": "web"}, "docker")
    assert (found.mounts, found.started, found.pid) == ((Mount("/srv", "/data", "bind", False, "rprivate"),), moment(STARTED), 70)
    assert (found.cgroup_id, found.pod, found.sandbox) == (host.tree.number(found.cgroup), None, False)
    docker.snapshot()
    assert [path for path in engine.asked if "images" in path] == [f"/images/sha256%3A{ID}/json"]


def test_what_does_not_run_or_has_no_cgroup_is_left_out(host: FakeHost, engine: Engine) -> None:
    engine.runs(ID, host.process(70, f"/docker/{OTHER}"))
    engine.runs(OTHER, 0, State={"Running": False, "Pid": 0})
    engine.runs("ab" * 32, 71)
    engine.runs("../../etc", host.process(72, "/docker/etc"))
    engine.answers["/containers/json"].append({"Id": "cd" * 32})
    assert asked(host, engine).snapshot() == []
    assert not any(".." in path for path in engine.asked)


def test_the_labels_of_an_image_make_no_pod(host: FakeHost, engine: Engine) -> None:
    own = {"io.kubernetes.pod.name": "etcd", "io.kubernetes.pod.namespace": "kube-system", "io.kubernetes.pod.uid": UID}
    own |= {"io.kubernetes.docker.type": "podsandbox"}
    engine.runs(ID, host.process(70, f"/docker/{ID}"), Config={"Labels": own})
    engine.runs(OTHER, host.process(71, f"/kubepods/besteffort/pod{UID}/{OTHER}"), Config={"Labels": own})
    plain, sandbox = asked(host, engine).snapshot()
    assert (plain.pod, plain.sandbox, plain.name) == (None, False, "web")
    assert (sandbox.pod, sandbox.sandbox) == (Pod("etcd", "kube-system", UID), True)


def dribble(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    for _ in range(200):
        connection.sendall(b" ")
        time.sleep(0.05)


@pytest.mark.parametrize(
    "answer",
    [
        b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n[", b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"\x00" * 70_000,
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000 + b"\r\n[]", b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}", dribble,
        {"Id": 1}, [{"Id": None}], lambda connection: time.sleep(2),
    ],
)  # fmt: skip
def test_a_hostile_engine(host: FakeHost, engine: Engine, answer: Any) -> None:
    engine.answers["/containers/json"] = answer
    began = time.monotonic()
    with pytest.raises((BadAnswerError, OSError)):
        asked(host, engine, seconds=0.3).snapshot()
    assert time.monotonic() - began < 9  # of 10 seconds that the slowest of them would take


def test_a_hostile_container_costs_only_itself(host: FakeHost, engine: Engine) -> None:
    engine.runs(ID, host.process(70, f"/docker/{ID}"), Config={"Labels": 3})
    engine.runs(OTHER, host.process(71, f"/docker/{OTHER}"))
    assert [found.id for found in asked(host, engine).snapshot()] == [OTHER]


def test_nobody_listens(host: FakeHost, tmp_path: Path) -> None:
    with pytest.raises(OSError):
        Docker(host.tree, str(tmp_path / "nothing"), "docker").snapshot()


@pytest.mark.parametrize("runtime", ["docker", "podman"])
def test_events(host: FakeHost, engine: Engine, runtime: str) -> None:
    docker = Docker(host.tree, str(engine.path), runtime)
    told: list[str] = []
    came = threading.Event()

    def changed(identity: str) -> None:
        told.append(identity)
        if identity == OTHER:
            came.set()

    for event in (
        {"Type": "container", "Action": "start", "Actor": {"ID": ID}},
        {"Type": "container", "Action": "exec_create: sh", "Actor": {"ID": OTHER}},
        {"Type": "image", "Action": "start", "Actor": {"ID": OTHER}},
        {"Type": "container", "Action": "start", "Actor": {"ID": "../x"}},
        {"Type": "container", "status": "die", "Actor": {"ID": OTHER}},
    ):
        engine.events.append(json.dumps(event).encode() + b"\n")
    thread = threading.Thread(target=docker.watch, args=(changed,))
    thread.start()
    assert came.wait(30)
    docker.stop()
    thread.join(30)
    assert not thread.is_alive()
    assert told == ["", ID, OTHER]
    assert "container" in engine.asked[0]


@pytest.mark.parametrize("line", [b"x" * (300 << 10), b"not json\n"])
def test_hostile_events(host: FakeHost, engine: Engine, line: bytes) -> None:
    engine.events.append(line)
    with pytest.raises(BadAnswerError):
        asked(host, engine).watch(lambda _: None)


def test_the_end_of_the_stream_is_no_error(host: FakeHost, engine: Engine) -> None:
    engine.closed.set()
    asked(host, engine).watch(lambda _: None)
