# SPDX-License-Identifier: Apache-2.0
"""The Container Runtime Interface, by a gRPC server whose answers are bytes written here by the interface's field numbers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import pytest

from bpfence import names
from bpfence.workloads import cri
from bpfence.workloads.cri import Cri
from bpfence.workloads.model import Container, Mount, Pod
from bpfence.workloads.sources import all_sources
from bpfence.workloads.texts import BadAnswerError
from tests.unit.workloads.hosts import ID, OTHER, UID, FakeHost

grpc = pytest.importorskip("grpc", reason="needs grpcio: pip install 'bpfence[cri]'")

EVERYTHING = sorted(names.TABLES["capability"].numbers)
POD = f"/kubepods/besteffort/pod{UID}"
DIGEST = f"sha256:{OTHER}"


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def wire(*fields: tuple[int, int | str | bytes]) -> bytes:
    """Protocol buffers: numbers as varints, texts and messages with their lengths."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def entries(number: int, given: dict[str, str]) -> list[tuple[int, bytes]]:
    return [(number, wire((1, name), (2, value))) for name, value in given.items()]


class Runtime:
    """A CRI runtime. `answers`: method → what it answers to a request, as bytes; None: an error. `asked`: methods and requests."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, Callable[[bytes], bytes | None]] = {}
        self.asked: list[tuple[str, bytes]] = []
        self.events: list[bytes] = []
        self.over = threading.Event()
        self.server = grpc.server(futures.ThreadPoolExecutor(8))
        handler = grpc.method_handlers_generic_handler(
            "runtime.v1.RuntimeService",
            {name: grpc.unary_unary_rpc_method_handler(self._answer(name)) for name in cri.METHODS if name != "GetContainerEvents"}
            | {"GetContainerEvents": grpc.unary_stream_rpc_method_handler(self._stream)},
        )
        self.server.add_generic_rpc_handlers((handler,))
        self.server.add_insecure_port(f"unix://{path}")
        self.server.start()

    def _answer(self, name: str) -> Callable[[bytes, Any], bytes]:
        def answer(request: bytes, context: Any) -> bytes:
            self.asked.append((name, request))
            found = self.answers.get(name, lambda _: None)(request)
            if found is None:
                context.abort(grpc.StatusCode.NOT_FOUND, "no such \x1b thing")
            assert found is not None
            return found

        return answer

    def _stream(self, _request: bytes, _context: Any) -> Iterator[bytes]:
        yield from self.events
        self.over.wait(60)

    def close(self) -> None:
        self.over.set()
        self.server.stop(0).wait(30)


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    made = Runtime(tmp_path / "cri.sock")
    yield made
    made.close()


@pytest.fixture
def source(host: FakeHost, runtime: Runtime) -> Iterator[Cri]:
    made = Cri(host.tree, str(runtime.path), "containerd", 20)
    yield made
    made.stop()


def info(**given: Any) -> list[tuple[int, bytes]]:
    return entries(2, {"info": json.dumps(given)})


def status(host: FakeHost, **given: Any) -> bytes:
    """ContainerStatusResponse of a container that runs."""
    mount = wire((1, "/data"), (2, "/srv"), (3, 1), (5, 2))
    image = wire((1, "docker.io/library/nginx:1.27"))
    told = wire(
        (1, ID),
        (2, wire((1, "server"), (2, 3))),
        (3, 1),
        (5, 12345),
        (8, image),
        (9, f"docker.io/library/nginx@{DIGEST}"),
        *entries(12, {"io.kubernetes.container.name": "server", "app": "web"}),
        (14, mount),
        (15, "/log"),
        (17, DIGEST),
    )
    return wire((1, told), *info(**({"pid": host.process(70, f"{POD}/{ID}")} | given)))


def runs(host: FakeHost, runtime: Runtime, **given: Any) -> None:
    """One container in one pod."""
    labels = entries(5, {"app": "web", "io.kubernetes.pod.uid": UID})
    pod = wire((1, OTHER), (2, wire((1, "web-0"), (2, UID), (3, "prod"), (4, 1))), (3, 0), (4, 99), *labels)
    answer = status(host, **given)
    spec = {"process": {"capabilities": {"bounding": ["CAP_KILL"]}}}
    pause = wire((1, wire((1, OTHER), (4, 77))), *info(pid=host.process(71, f"{POD}/{OTHER}"), runtimeSpec=spec))
    runtime.answers = {
        "ListPodSandbox": lambda _: wire((1, pod)),
        "ListContainers": lambda _: wire((1, wire((1, ID), (2, OTHER), (6, 1)))),
        "ContainerStatus": lambda _: answer,
        "PodSandboxStatus": lambda _: pause,
    }


def test_a_pod(host: FakeHost, runtime: Runtime, source: Cri) -> None:
    runs(host, runtime, runtimeSpec={"process": {"capabilities": {"bounding": EVERYTHING}}, "linux": {}})
    pause, server = source.snapshot()
    pod = Pod("web-0", "prod", UID, {"app": "web"})
    assert server == Container(
        ID,
        f"{POD}/{ID}",
        host.tree.number(f"{POD}/{ID}"),
        "server",
        "docker.io/library/nginx:1.27",
        DIGEST,
        DIGEST,
        "containerd",
        {"io.kubernetes.container.name": "server", "app": "web"},
        True,
        (Mount("/srv", "/data", "bind", False, "rshared"),),
        12345,
        70,
        pod=pod,
    )
    assert (pause.id, pause.sandbox, pause.pod, pause.privileged, pause.started, pause.pid) == (OTHER, True, pod, False, 77, 71)
    asked = dict(runtime.asked)
    assert asked["ListContainers"] == wire((1, wire((2, wire((1, 1))))))
    assert asked["ListPodSandbox"] == wire((1, wire((2, b""))))
    assert asked["ContainerStatus"] == wire((1, ID), (2, 1))
    assert asked["PodSandboxStatus"] == wire((1, OTHER), (2, 1))


def test_one_that_is_known_is_not_asked_for_again(host: FakeHost, runtime: Runtime, source: Cri) -> None:
    runs(host, runtime)
    first = source.snapshot()
    assert source.snapshot() == first
    assert [name for name, _ in runtime.asked].count("ContainerStatus") == 1
    (host.root / f"{POD}/{ID}"[1:]).rmdir()
    host.cgroup("/keeps-the-number-of-the-old-one")
    host.cgroup(f"{POD}/{ID}")
    assert len(source.snapshot()) == 2
    assert [name for name, _ in runtime.asked].count("ContainerStatus") == 2


def test_crio_says_whether_it_is_privileged(host: FakeHost, runtime: Runtime, source: Cri) -> None:
    runs(host, runtime, privileged=False, runtimeSpec={"process": {"capabilities": {"bounding": EVERYTHING}}})
    assert [found.privileged for found in source.snapshot() if not found.sandbox] == [False]


@pytest.mark.parametrize("given", [{"pid": 0}, {"pid": 99}, {"pid": "70"}, {"pid": -1}])
def test_without_a_process_there_is_no_cgroup(host: FakeHost, runtime: Runtime, source: Cri, given: dict[str, Any]) -> None:
    runs(host, runtime, **given)
    assert [found.id for found in source.snapshot()] == [OTHER]


def test_a_specification_that_makes_no_sense(host: FakeHost, runtime: Runtime, source: Cri) -> None:
    runs(host, runtime, runtimeSpec=[3])
    assert [(found.name, found.privileged) for found in source.snapshot() if not found.sandbox] == [("server", None)]


def test_a_process_elsewhere(host: FakeHost, runtime: Runtime, source: Cri) -> None:
    runs(host, runtime)
    host.process(70, f"{POD}/{OTHER}")
    assert [found.id for found in source.snapshot()] == [OTHER]


@pytest.mark.parametrize("answer", [b"\xff\xff\xff", wire((1, wire((1, b"\xff")))), b"\x0a\x7f", None, wire((1, b"\x0b" * 500))])
@pytest.mark.parametrize("method", ["ListContainers", "ContainerStatus"])
def test_hostile_answers(host: FakeHost, runtime: Runtime, source: Cri, answer: bytes | None, method: str) -> None:
    runs(host, runtime)
    runtime.answers[method] = lambda _: answer
    if method == "ListContainers":
        with pytest.raises(BadAnswerError, match=r"cri\.sock: ListContainers"):
            source.snapshot()
    else:
        assert [found.id for found in source.snapshot()] == [OTHER]


def test_who_is_silent_or_says_too_much(host: FakeHost, runtime: Runtime) -> None:
    released = threading.Event()
    runtime.answers["ListPodSandbox"] = lambda _: b"" if released.wait(60) else None
    late = Cri(host.tree, str(runtime.path), "containerd", 0.3)
    with pytest.raises(BadAnswerError, match="DEADLINE_EXCEEDED"):
        late.snapshot()
    released.set()
    late.stop()
    runtime.answers["ListPodSandbox"] = lambda _: bytes(cri.MAX_ANSWER + 1)
    much = Cri(host.tree, str(runtime.path), "containerd", 20)
    with pytest.raises(BadAnswerError, match="RESOURCE_EXHAUSTED"):
        much.snapshot()
    much.stop()


def test_events(host: FakeHost, runtime: Runtime, source: Cri) -> None:
    runtime.events = [wire((1, ID), (2, 1), (3, 5)), wire((1, OTHER), (2, 3))]
    told: list[str] = []
    came = threading.Event()

    def changed(identity: str) -> None:
        told.append(identity)
        if identity == OTHER:
            came.set()

    thread = threading.Thread(target=source.watch, args=(changed,))
    thread.start()
    assert came.wait(30)
    source.stop()
    thread.join(30)
    assert not thread.is_alive()
    assert told == ["", ID, OTHER]


def test_nobody_listens(host: FakeHost, tmp_path: Path) -> None:
    with pytest.raises(OSError):
        Cri(host.tree, str(tmp_path / "none"), "cri-o").snapshot()


def test_it_is_one_of_the_sources(host: FakeHost, runtime: Runtime) -> None:
    assert isinstance(all_sources(host.tree, {"cri-o": str(runtime.path)})["cri-o"], Cri)
