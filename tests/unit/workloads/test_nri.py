# SPDX-License-Identifier: Apache-2.0
"""The agent as a plugin of a runtime that is written here: what it registers, refuses, and how it comes back."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bpfence.errors import KernelError
from bpfence.workloads import nri
from bpfence.workloads.bundle import Bundles
from bpfence.workloads.hook import SHARE as OF_POLICIES
from bpfence.workloads.model import Container, Pod
from bpfence.workloads.nri import NriClient
from bpfence.workloads.nri_program import REFUSED, SHARE, encoded
from tests.unit.workloads.hosts import ID, UID, FakeHost
from tests.unit.workloads.test_nri_program import Runtime

PATH = f"/kubepods/besteffort/pod{UID}/{ID}"
CRI = "io.kubernetes.cri."


def entries(field: int, texts: dict[str, str]) -> bytes:
    return b"".join(encoded({field: {1: name, 2: value}}) for name, value in texts.items())


def pod(labels: dict[str, str]) -> bytes:
    return encoded({1: "p" * 64, 2: "web-0", 3: UID, 4: "prod"}) + entries(5, labels)


def container(pid: int = 70, identity: str = ID, path: str = PATH, annotations: dict[str, str] | None = None) -> bytes:
    fields = {1: identity, 3: "server", 11: {5: path}, 12: pid, 22: {1: "nginx:9", 2: "sha256:" + "a" * 64}}
    return encoded(fields) + entries(6, annotations or {})


class Rig:
    """An agent's side, and a listener for it to connect to. The runtime is this process, in /runtime."""

    def __init__(self, folder: Path, fails: bool) -> None:
        self.host = FakeHost(folder)
        self.host.process(os.getpid(), "/runtime/service")
        self.host.process(70, PATH)
        self.fails = fails
        self.path = folder / "nri.sock"
        self.registered: list[Container] = []
        self.seconds: list[float] = []
        self.said: list[str] = []
        self.wrong = ""
        bundles = Bundles(self.host.tree, owner=os.getuid())
        self.client = NriClient(self.path, self.host.tree, fails=fails, bundles=bundles, report=self.said.append, pause=0.02)
        self._open: list[socket.socket] = []

    def register(self, made: Container, seconds: float) -> None:
        self.registered.append(made)
        self.seconds.append(seconds)
        if self.wrong:
            raise KernelError(self.wrong)

    def listen(self) -> socket.socket:
        self.path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.path))
        listener.listen(1)
        listener.settimeout(30)
        self._open.append(listener)
        return listener

    def runtime(self, listener: socket.socket) -> Runtime:
        connection, _ = listener.accept()
        self._open.append(connection)
        made = Runtime(connection)
        made.register()
        made.configure(milliseconds=4000)
        return made

    def close(self) -> None:
        self.client.close()
        for one in self._open:
            one.close()


@pytest.fixture(params=[False, True], ids=["allow", "deny"])
def rig(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(nri, "_uid", lambda _: 0)
    made = Rig(tmp_path, request.param)
    yield made
    made.close()


def start(runtime: Runtime, held: bytes, of: bytes = b"") -> tuple[int, str]:
    return runtime.call("StartContainer", {1: of or pod({}), 2: held})[:2]


def test_a_container_is_registered_before_the_answer(rig: Rig) -> None:
    listener = rig.listen()
    rig.client.start(rig.register)
    runtime = rig.runtime(listener)
    labels = {"app": "web", "io.kubernetes.pod.uid": UID, "io.cri-containerd.kind": "sandbox"}
    annotations = {f"{CRI}image-name": "docker.io/library/nginx:1", "chosen-by": "anybody"}
    assert start(runtime, container(annotations=annotations), pod(labels)) == (0, "")
    (made,) = rig.registered
    assert rig.seconds == [4 * SHARE * OF_POLICIES]
    assert (made.id, made.cgroup, made.cgroup_id, made.pid) == (ID, PATH, rig.host.tree.number(PATH), 70)
    assert (made.name, made.image, made.image_digest, made.runtime) == (
        "server",
        "docker.io/library/nginx:1",
        "sha256:" + "a" * 64,
        "containerd",
    )
    assert made.pod == Pod("web-0", "prod", UID, {"app": "web"})
    # The runtime mixes those of the image into the container's.
    assert made.labels is None
    assert rig.said == []


@pytest.mark.parametrize(
    ("held", "why"),
    [
        (container(71), "first process is not there"),
        (container(0), "first process is not there"),
        (container(identity=""), "names no container"),
        (container(identity="x" * 5000), "names no container"),
        (container(72, "free", "/runtime"), "no cgroup of its own"),
        (container() + b"\xff", "ProtocolError"),
    ],
)
def test_what_cannot_be_registered(rig: Rig, held: bytes, why: str) -> None:
    """It is told, and starts or not as was asked for; the plugin goes on."""
    rig.host.process(72, "/runtime/service")
    listener = rig.listen()
    rig.client.start(rig.register)
    runtime = rig.runtime(listener)
    refused = REFUSED if rig.fails else 0
    assert start(runtime, held)[0] == refused
    assert rig.registered == []
    if why != "ProtocolError":
        assert [why in line for line in rig.said] == [True], rig.said
    assert start(runtime, container()) == (0, "")
    rig.wrong = "the container's class could not be put in force in time"
    code, said = start(runtime, container())
    assert (code, rig.wrong in said) == (refused, bool(refused))
    assert rig.wrong in rig.said[-1]


def test_containers_that_run_when_the_runtime_takes_the_plugin(rig: Rig) -> None:
    """Nobody waits for them. One that has ended, and one that cannot be put in force at once, keep nobody from the others."""
    listener = rig.listen()
    rig.client.start(rig.register)
    runtime = rig.runtime(listener)
    rig.wrong = "the container's class could not be put in force in time"
    of = encoded({2: "p" * 64})
    parts = [{1: pod({"app": "web"}), 2: container(pid=0) + of, 3: 1}, {2: container() + of}]
    assert [runtime.call("Synchronize", part)[0] for part in parts] == [0, 0]
    (made,) = rig.registered
    assert (made.id, made.cgroup, rig.seconds) == (ID, PATH, [0.0])
    assert made.pod == Pod("web-0", "prod", UID, {"app": "web"})
    assert rig.said == []


def waited(true: Callable[[], Any]) -> bool:
    deadline = time.monotonic() + 30
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(true())


def test_a_fault_of_ours_at_a_container_that_runs_ends_nothing(rig: Rig) -> None:
    listener = rig.listen()

    def register(made: Container, seconds: float) -> None:
        if not seconds:
            raise ZeroDivisionError("a bug")
        rig.register(made, seconds)

    rig.client.start(register)
    runtime = rig.runtime(listener)
    assert runtime.call("Synchronize", {1: pod({}), 2: container()})[:2] == (0, "")
    assert start(runtime, container()) == (0, "")
    assert [made.id for made in rig.registered] == [ID]
    assert [("ZeroDivisionError: a bug" in text, "please report it" in text) for text in rig.said] == [(True, True)]


def test_a_runtime_that_comes_late_and_comes_back(rig: Rig) -> None:
    rig.client.start(rig.register)
    assert waited(lambda: rig.said)
    assert not rig.client.registered
    for _ in range(3):
        listener = rig.listen()
        runtime = rig.runtime(listener)
        assert start(runtime, container()) == (0, "")
        assert rig.client.registered
        listener.close()
        runtime.connection.close()
        assert waited(lambda: not rig.client.registered)
    assert len(rig.registered) == 3
    before = threading.active_count()
    rig.client.close()
    assert waited(lambda: threading.active_count() < before)


def test_who_is_not_root_is_no_runtime(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nri, "_uid", lambda _: 1000)
    rig.listen()
    rig.client.start(rig.register)
    assert waited(lambda: rig.said)
    assert "user 1000 listens there" in rig.said[0]
