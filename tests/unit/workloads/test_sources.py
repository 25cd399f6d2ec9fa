# SPDX-License-Identifier: Apache-2.0
"""Several sources together: what they say of one container, and those that fail or hang."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import pytest

from bpfence.errors import KernelError
from bpfence.workloads.cgroups import Tree
from bpfence.workloads.cri import Cri
from bpfence.workloads.model import Container, Pod
from bpfence.workloads.registry import Registry, joined
from bpfence.workloads.sources import (
    LONGEST_PAUSE,
    MAX_REASONS,
    HostSources,
    Several,
    Source,
    Watch,
    Watches,
    all_sources,
    backoff,
    gather,
    merged,
)
from bpfence.workloads.texts import BadAnswerError
from tests.unit.workloads.hosts import ID, OTHER, FakeHost

PLAIN = Container(ID, f"/docker/{ID}", 5, runtime="docker")


class Scripted:
    """Answers one after the other, the last one again and again; exceptions are raised."""

    def __init__(self, *answers: list[Container] | Exception) -> None:
        self.answers = list(answers)

    def snapshot(self) -> list[Container]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Hangs:
    def __init__(self) -> None:
        self.released = threading.Event()

    def snapshot(self) -> list[Container]:
        self.released.wait(60)
        return []


class Tells(Scripted):
    """One with events: `watch` hands out what to call."""

    def __init__(self, *answers: list[Container] | Exception) -> None:
        super().__init__(*answers)
        self.watched = threading.Event()
        self.stopped = threading.Event()
        self.changed: Callable[[str], None] = lambda _: None

    def watch(self, changed: Callable[[str], None]) -> None:
        self.changed = changed
        self.watched.set()
        self.stopped.wait(60)

    def stop(self) -> None:
        self.stopped.set()


def test_two_sources_on_one_container() -> None:
    more = Container(ID, PLAIN.cgroup, name="web", privileged=False, pod=Pod("a", "b", "c"))
    both = joined([PLAIN, more])
    assert both is not None
    assert both == msgspec.structs.replace(PLAIN, name="web", privileged=False, pod=Pod("a", "b", "c"))
    assert joined([both, PLAIN]) == both
    labelled = joined([both, Container(ID, PLAIN.cgroup, sandbox=True, pod=Pod("a", "b", labels={"x": "y"}))])
    assert labelled is not None
    assert labelled.pod == Pod("a", "b", "c", {"x": "y"})
    again = joined([labelled, both])
    assert again is not None
    assert again.sandbox


def test_labels_that_were_told_stay_and_none_may_be_told() -> None:
    told = msgspec.structs.replace(PLAIN, labels={"x": "y"}, pod=Pod("a", "b", labels={"x": "y"}))
    assert joined([told, msgspec.structs.replace(PLAIN, pod=Pod("a", "b"))]) == told
    nothing = msgspec.structs.replace(PLAIN, labels={}, pod=Pod("a", "b", labels={}))
    assert joined([told, nothing]) == joined([PLAIN, nothing]) == nothing


def test_one_id_in_two_cgroups_is_two_containers() -> None:
    pretending = msgspec.structs.replace(PLAIN, cgroup=f"/user.slice/docker/{ID}", cgroup_id=6)
    known = msgspec.structs.replace(PLAIN, image="nginx", name="web")
    assert [found.image for found in merged([[PLAIN, pretending], [known]])] == ["nginx", ""]


def test_one_cgroup_with_two_ids_is_the_later() -> None:
    assert merged([[PLAIN], [Container(OTHER, PLAIN.cgroup)]]) == [Container(OTHER, PLAIN.cgroup)]


def test_sources_that_fail_or_hang_cost_nothing_else() -> None:
    hangs = Hangs()
    found = gather({"a": Scripted([PLAIN]), "b": Scripted(BadAnswerError("why")), "c": hangs, "d": Scripted(OSError("gone"))}, 0.5)
    hangs.released.set()
    assert found.containers == [PLAIN]
    assert found.silent == {"b": "why", "c": "did not answer in time", "d": "gone"}


def test_sources_are_those_that_are_here(tmp_path: Path) -> None:
    tree = FakeHost(tmp_path).tree
    (tmp_path / "podman.sock").touch()
    names = {"docker": str(tmp_path / "docker.sock"), "podman": str(tmp_path / "podman.sock")}
    assert [*all_sources(tree, names)] == ["cgroups", "bundles", "podman"]


def test_a_watch_goes_on_after_errors() -> None:
    seen: list[list[Container] | None] = []
    enough = threading.Event()

    def found(name: str, containers: list[Container] | None) -> None:
        assert name == "x"
        seen.append(containers)
        if len(seen) == 4:
            enough.set()

    watch = Watch("x", Scripted([PLAIN], OSError("gone"), BadAnswerError("why"), []), found, poll=0.01, pause=0.01)
    assert enough.wait(30)
    watch.close()
    assert seen[:4] == [[PLAIN], None, None, []]


def test_why_a_source_could_not_be_asked_is_told_once() -> None:
    said: list[str] = []
    enough = threading.Event()
    answers = [
        OSError("gone"),
        BadAnswerError("needs grpcio"),
        OSError("gone"),
        *(one for n in range(20) for one in ([], OSError(f"x{n}"))),
        [],
    ]
    script = Scripted(*answers)  # type: ignore[arg-type]

    def found(_: str, containers: list[Container] | None) -> None:
        if len(script.answers) == 1 and containers == []:
            enough.set()

    watch = Watch("cri", script, found, report=said.append, poll=0.001, pause=0.0001)
    assert enough.wait(60)
    watch.close()
    assert said[:2] == ["cri could not be asked for its containers: gone", "cri could not be asked for its containers: needs grpcio"]
    assert len(said) == len(set(said)) == MAX_REASONS


def test_a_watch_asks_again_when_it_is_told() -> None:
    came: list[list[Container] | None] = []
    news = threading.Semaphore(0)

    def found(_: str, containers: list[Container] | None) -> None:
        came.append(containers)
        news.release()

    source = Tells([], [PLAIN])
    watch = Watch("x", source, found, poll=3600)
    assert news.acquire(timeout=30)
    assert source.watched.wait(30)
    source.changed(ID)
    assert news.acquire(timeout=30)
    assert came == [[], [PLAIN]]
    watch.close()
    assert source.stopped.is_set()


def test_a_source_that_comes_later_is_watched_too(tmp_path: Path) -> None:
    here: dict[str, Source] = {"a": Scripted([PLAIN])}
    came: dict[str, list[Container] | None] = {}
    news = threading.Condition()

    def found(name: str, containers: list[Container] | None) -> None:
        with news:
            came[name] = containers
            news.notify_all()

    watches = Watches(FakeHost(tmp_path).tree, found, make=lambda _: dict(here), poll=0.02)
    with news:
        assert news.wait_for(lambda: "a" in came, 30)
        here["b"] = Scripted([])
        assert news.wait_for(lambda: "b" in came, 30)
    watches.look_again()
    watches.close()
    assert came == {"a": [PLAIN], "b": []}


def waited(ready: Callable[[], bool]) -> bool:
    end = time.monotonic() + 60
    while not ready() and time.monotonic() < end:
        time.sleep(0.01)
    return ready()


class Registered:
    """A registry that keeps what it is told."""

    def __init__(self) -> None:
        self.told: dict[str, list[Container]] = {}
        self.starting: list[Container] = []
        self.news = threading.Event()

    def found(self, source: str, containers: Iterable[Container] | None) -> None:
        self.told[source] = [*(containers or ())]
        self.news.set()

    def register(self, container: Container, seconds: float) -> None:
        self.starting.append(container)


def test_all_sources_and_the_hook_for_an_agent(tmp_path: Path) -> None:
    host, registry, said = FakeHost(tmp_path), Registered(), []
    host.process(os.getpid(), "/runtime")
    host.process(70, "/web")
    made = {"a": Scripted([PLAIN]), "b": Scripted(OSError("gone")), "containerd": Cri(host.tree, str(tmp_path / "none"), "containerd")}
    path = tmp_path / "run" / "hook.sock"
    sources = HostSources(said.append, hook=path, tree=lambda: host.tree, make=lambda _: made)
    sources.ask(registry)
    assert registry.told == {"a": [PLAIN]}
    with socket.socket(socket.AF_UNIX) as hook:
        hook.settimeout(60)
        hook.connect(str(path))
        hook.sendall(b'{"id": "web", "pid": 70}')
        hook.shutdown(socket.SHUT_WR)
        assert registry.starting == []
        registry.news.clear()
        sources.start(registry)
        assert hook.recv(100) == b"ok\n"
    assert [container.cgroup for container in registry.starting] == ["/web"]
    assert registry.news.wait(60)
    assert waited(lambda: len(said) == 2)
    sources.close()
    assert [text.partition(" ")[0] for text in sorted(said)] == ["b", "containerd"]
    assert not path.exists()


def test_an_agent_where_cgroups_or_the_socket_cannot_be_had(tmp_path: Path) -> None:
    host, said = FakeHost(tmp_path), []

    def missing() -> Tree:
        raise KernelError("cgroup v2 is not mounted")

    for find in (missing, lambda: Tree(host.root, host.proc, whole=False)):
        sources = HostSources(said.append, hook=tmp_path / "run" / "x", tree=find, make=lambda _: {})
        sources.ask(Registered())
        sources.start(Registered())
        sources.close()
    assert [text.partition(":")[0] for text in said] == ["containers are not known"] * 2
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o777)
    sources = HostSources(said.append, hook=tmp_path / "open" / "x", tree=lambda: host.tree, make=lambda _: {"a": Scripted([PLAIN])})
    registry = Registered()
    sources.ask(registry)
    sources.start(registry)
    sources.close()
    assert "only root writes" in said[-1]
    assert registry.told["a"] == [PLAIN]


def test_pauses_grow_to_an_end() -> None:
    pauses = [backoff(failures) for failures in range(1, 40)]
    assert pauses == sorted(pauses)
    assert pauses[0] == 2.0
    assert pauses[-1] == LONGEST_PAUSE


def test_a_watch_goes_on_when_what_it_found_cannot_be_put_in_force() -> None:
    calls: list[list[Container] | None] = []
    enough = threading.Event()

    def found(_: str, containers: list[Container] | None) -> None:
        calls.append(containers)
        if len(calls) == 1:
            raise KernelError("no room")
        if containers == []:
            enough.set()

    watch = Watch("x", Scripted([PLAIN], []), found, poll=0.01, pause=0.01)
    assert enough.wait(30)
    watch.close()
    assert calls[:3] == [[PLAIN], None, []]


def test_where_no_thread_can_be_started_the_agent_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    said: list[str] = []
    host = FakeHost(tmp_path)
    sources = HostSources(said.append, hook=None, tree=lambda: host.tree, make=lambda _: {"x": Scripted([PLAIN])})
    registry = Registry(lambda: None, lambda _: 0)
    monkeypatch.setattr(threading.Thread, "start", start)
    sources.ask(registry)
    sources.start(registry)
    assert len(said) == 1
    assert "not heard of" in said[0]


def test_several_are_asked_as_one() -> None:
    calls: list[tuple[str, str]] = []

    class Part:
        def __init__(self, name: str) -> None:
            self.name = name

        def ask(self, registry: Registry) -> None:
            calls.append((self.name, "ask"))

        def start(self, registry: Registry) -> None:
            calls.append((self.name, "start"))

        def close(self) -> None:
            calls.append((self.name, "close"))

    both, registry = Several(Part("a"), Part("b")), Registry(lambda: None, lambda _: 1)
    both.ask(registry)
    both.start(registry)
    both.close()
    assert calls == [("a", "ask"), ("b", "ask"), ("a", "start"), ("b", "start"), ("a", "close"), ("b", "close")]
