# SPDX-License-Identifier: Apache-2.0
"""The agent's side of the hook, and those that speak to it: right, wrong, slow, many."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bpfence.errors import KernelError
from bpfence.host.sockets import listens
from bpfence.workloads.bundle import Bundles
from bpfence.workloads.hook import MAX_STATE, HookServer, learned
from bpfence.workloads.model import Container
from bpfence.workloads.texts import BadAnswerError
from tests.unit.workloads.hosts import ID, OTHER, FakeHost


class Agent:
    """A server on a host of files; what it has registered. This process, which sends, is in /runtime."""

    def __init__(self, folder: Path, **more: Any) -> None:
        self.host = FakeHost(folder)
        self.host.process(os.getpid(), "/runtime/service")
        self.bundle = folder / "bundle"
        self.bundle.mkdir()
        (self.bundle / "config.json").write_text("{}")
        self.path = folder / "run" / "hook.sock"
        self.registered: list[Container] = []
        self.patience = 0.0
        self.told: list[str] = []
        self.bundles = Bundles(self.host.tree, owner=os.getuid())
        self.server = HookServer(
            self.host.tree, bundles=self.bundles, path=self.path, report=self.told.append, **({"seconds": 20} | more)
        ).start(self.register)

    def register(self, container: Container, seconds: float) -> None:
        self.registered.append(container)
        self.patience = seconds

    def send(self, data: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(str(self.path))
            try:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            return connection.recv(4096)

    def starts(self, **state: Any) -> bytes:
        return self.send(json.dumps({"ociVersion": "1.0.2", "status": "creating", "bundle": str(self.bundle)} | state).encode())


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(tmp_path)
    yield made
    made.server.close()


def test_a_container_is_registered_before_the_answer(agent: Agent) -> None:
    (agent.bundle / "config.json").write_text(json.dumps({"mounts": [{"destination": "/data", "source": "/srv"}]}))
    assert agent.starts(id="web", pid=agent.host.process(70, "/web")) == b"ok\n"
    (found,) = agent.registered
    assert (found.id, found.cgroup, found.pid, found.cgroup_id) == ("web", "/web", 70, agent.host.tree.number("/web"))
    assert [mount.destination for mount in found.mounts] == ["/data"]
    assert found.started > 0


def test_the_cgroup_is_the_kernels(agent: Agent) -> None:
    (agent.bundle / "config.json").write_text(json.dumps({"linux": {"cgroupsPath": f"/docker/{OTHER}"}}))
    assert agent.starts(id=ID, pid=agent.host.process(70, f"/docker/{ID}/init"), cgroup=f"/docker/{OTHER}") == b"ok\n"
    assert agent.starts(id=ID, pid=agent.host.process(71, "/anything/else")) == b"ok\n"
    assert [found.cgroup for found in agent.registered] == [f"/docker/{ID}", "/anything/else"]


@pytest.mark.parametrize("path", ["/", "/runtime", "/runtime/service"])
def test_the_runtimes_own_cgroup_is_no_containers(agent: Agent, path: str) -> None:
    assert b"no cgroup of its own" in agent.starts(id="web", pid=agent.host.process(70, path))
    assert agent.registered == []
    assert agent.told == ["hook: the container has no cgroup of its own"]


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[]", b"null", b'{"id": ""}', b'{"id": "a"}', b'{"id": "a", "pid": 0}', b'{"id": "a", "pid": -1}', b"\xff\xfe",
        b"[" * 100_000, b'{"id": "a", "pid": "70"}', b'{"id": "a", "pid": 99999999999999999999}', b'{"pid": 70}', b'{"id": 5, "pid": 70}',
        b"x" * (MAX_STATE + 9),
        json.dumps({"id": "a" * 256, "pid": 70}).encode(), b'{"id": "../a", "pid": 71}',
    ],
)  # fmt: skip
def test_states_that_are_none(agent: Agent, data: bytes) -> None:
    agent.host.process(70, "/web")
    assert agent.send(data).startswith(b"no: ")
    assert agent.registered == []
    assert agent.starts(id="web", pid=70) == b"ok\n"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100)
@given(st.binary(max_size=200) | st.dictionaries(st.sampled_from(["id", "pid", "bundle"]), st.integers() | st.text(max_size=9)))
def test_any_state(agent: Agent, state: bytes | dict[str, Any]) -> None:
    data = state if isinstance(state, bytes) else json.dumps(state).encode()
    with pytest.raises(BadAnswerError):
        learned(data, os.getpid(), agent.host.tree, agent.bundles)


@pytest.mark.parametrize(
    ("told", "seconds"), [(b"", 1.5), (b"\0" + b"20", 14.0), (b"\0nan", 1.5), (b"\0-1", 1.5), (b"\0inf", 1.5), (b"\0many", 1.5)]
)
def test_policies_have_most_of_the_time_that_the_hook_waits(agent: Agent, told: bytes, seconds: float) -> None:
    state = json.dumps({"id": "web", "pid": agent.host.process(70, "/web")}).encode()
    assert agent.send(state + told) == b"ok\n"
    assert agent.patience == pytest.approx(seconds)


def test_a_register_that_fails_is_told(agent: Agent) -> None:
    def fails(_: Container, _seconds: float) -> None:
        raise RuntimeError("the map is full")

    agent.server._register = fails
    agent.host.process(70, "/web")
    assert agent.starts(id="web", pid=70) == b"no: RuntimeError: the map is full\n"
    agent.server._register = agent.register
    assert agent.starts(id="web", pid=70) == b"ok\n"


def test_who_sends_nothing_is_not_waited_for_and_holds_up_nobody(tmp_path: Path) -> None:
    agent = Agent(tmp_path, seconds=0.3)
    agent.host.process(70, "/web")
    idle = [socket.socket(socket.AF_UNIX) for _ in range(40)]
    for connection in idle:
        connection.connect(str(agent.path))
    assert agent.starts(id="web", pid=70) == b"ok\n"
    for connection in idle:
        assert connection.recv(100) in (b"no: the state did not come in time\n", b"")
        connection.close()
    agent.server.close()


def test_many_at_once(agent: Agent) -> None:
    for number in range(30):
        agent.host.process(100 + number, f"/c{number}")
    answers: list[bytes] = []
    threads = [threading.Thread(target=lambda n=number: answers.append(agent.starts(id=f"c{n}", pid=100 + n))) for number in range(30)]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == [b"ok\n"] * 30
    assert {found.cgroup for found in agent.registered} == {f"/c{number}" for number in range(30)}


def test_whether_an_agent_listens(agent: Agent, tmp_path: Path) -> None:
    assert listens(agent.path) is True
    assert listens(tmp_path / "none.sock") is False
    assert agent.send(b"") == b"no: nothing was sent\n"
    assert agent.told == []


def test_the_socket_is_its_owners(agent: Agent, tmp_path: Path) -> None:
    assert agent.path.stat().st_mode & 0o777 == 0o600
    assert agent.path.parent.stat().st_mode & 0o777 == 0o700
    with pytest.raises(KernelError, match="another agent"):
        HookServer(agent.host.tree, path=agent.path)
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    with pytest.raises(KernelError, match="only root writes"):
        HookServer(agent.host.tree, path=open_to_all / "hook.sock")


def test_a_socket_that_was_left_behind_is_replaced(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    agent.server.close()
    assert not agent.path.exists()
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(agent.path))
    left.close()
    again = HookServer(agent.host.tree, bundles=agent.bundles, path=agent.path)
    agent.host.process(70, "/web")
    answers: list[bytes] = []
    early = threading.Thread(target=lambda: answers.append(agent.starts(id="web", pid=70)))
    early.start()
    again.start(agent.register)
    early.join(60)
    assert answers == [b"ok\n"]
    again.close()
    deadline = time.monotonic() + 30
    while again._thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not again._thread.is_alive()


def test_a_bundle_that_cannot_be_read_is_no_container_without_words(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    answer = agent.starts(id="web", pid=agent.host.process(70, "/web"), bundle=str(tmp_path))
    assert answer.startswith(b"no: the bundle's config.json")
    assert agent.registered == []


def test_where_no_thread_can_be_started_the_next_hook_is_answered(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    pid, begin, refusals = agent.host.process(70, "/web"), threading.Thread.start, [1]

    def start(thread: threading.Thread) -> None:
        if thread.name == "bpfence-hook-one" and refusals:
            refusals.pop()
            raise RuntimeError("can't start new thread")
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with contextlib.suppress(ConnectionResetError):
        assert agent.starts(id="web", pid=pid) == b""
    assert agent.starts(id="web", pid=pid) == b"ok\n"
