# SPDX-License-Identifier: Apache-2.0
"""A host in, its containers out: all sources together, each in its own thread.

Called by the agent, whose registry takes what is found, and by `bpfence workloads`. A source that is not there, does not answer or answers
nonsense costs a thread that waits; the others go on. A container is told apart by its cgroup alone: two that say they have one id are two.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Protocol

import msgspec

from bpfence.errors import BpfenceError
from bpfence.workloads.bundle import Bundles
from bpfence.workloads.cgroups import Tree
from bpfence.workloads.hook import SOCKET, HookServer
from bpfence.workloads.model import Container
from bpfence.workloads.registry import Registry, joined
from bpfence.workloads.registry import Sources as AgentSources
from bpfence.workloads.texts import BadAnswerError

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0
POLL_SECONDS: Final = 10.0
"""How often files are looked at again; engines that have events tell of them."""
FIRST_SECONDS: Final = 5.0
"""How long an agent that starts waits for its sources; what comes later is heard of later."""
SNAPSHOT_SECONDS: Final = 20.0
"""How long `gather` waits for its slowest source."""
MAX_REASONS: Final = 8
"""So many reasons why a source could not be asked are told; whoever answers chooses their words."""
MAX_REASON: Final = 500
_DOCKER: Final = {"docker": "/run/docker.sock", "podman": "/run/podman/podman.sock"}
_CRI: Final = {"containerd": "/run/containerd/containerd.sock", "cri-o": "/run/crio/crio.sock"}
"""Engines that are asked, and where: in the language of Docker, and by CRI."""
Found = Callable[[str, list[Container] | None], None]
"""The name of a source, and all containers that it sees now; None: it could not be asked."""


class Source(Protocol):
    """Somebody who knows containers. Errors: OSError, BadAnswerError, BpfenceError."""

    def snapshot(self) -> list[Container]:
        """All containers that run."""


class Watched(Source, Protocol):
    """One that tells of changes, too."""

    def watch(self, changed: Callable[[str], None]) -> None:
        """Calls as long as it can, then returns; see `docker.Docker.watch`."""

    def stop(self) -> None:
        """End it."""


class Paths:
    """Containers known by the paths of their cgroups."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def snapshot(self) -> list[Container]:
        """See `cgroups.Tree.containers`."""
        return self._tree.containers()


def all_sources(tree: Tree, sockets: dict[str, str] | None = None) -> dict[str, Source]:
    """The sources that are here, by name. What comes later knows more. `sockets`: other places of those that are asked."""
    found: dict[str, Source] = {"cgroups": Paths(tree), "bundles": Bundles(tree)}
    for name, path in (_DOCKER | _CRI if sockets is None else sockets).items():
        if os.path.exists(path):
            found[name] = _engine(tree, path, name)
    return found


def _engine(tree: Tree, path: str, name: str) -> Source:
    """The source behind a socket. Imported for it: most of what an agent imports for its sources is HTTP, and many hosts have no engine."""
    if name in _CRI:
        from bpfence.workloads.cri import Cri

        return Cri(tree, path, name)
    from bpfence.workloads.docker import Docker

    return Docker(tree, path, name)


def merged(lists: Iterable[Iterable[Container]]) -> list[Container]:
    """The containers of several sources, by their cgroups."""
    told: dict[str, list[Container]] = {}
    for container in (container for containers in lists for container in containers):
        told.setdefault(container.cgroup, []).append(container)
    return [whole for path in sorted(told) if (whole := joined(told[path])) is not None]


def asked(sources: dict[str, Source], seconds: float = SNAPSHOT_SECONDS) -> tuple[dict[str, list[Container]], dict[str, str]]:
    """What each source that answers in time sees now, by its name; and why others did not. Those that hang are left behind."""
    answers: dict[str, list[Container]] = {}
    silent: dict[str, str] = dict.fromkeys(sources, "did not answer in time")

    def ask(name: str, source: Source) -> None:
        try:
            found = source.snapshot()
        except Exception as error:  # whatever goes wrong with one, the others are heard
            silent[name] = str(error)[:MAX_REASON] or type(error).__name__
        else:
            answers[name] = found

    threads = [threading.Thread(target=ask, args=item, name=f"bpfence-{item[0]}", daemon=True) for item in sources.items()]
    for (name, _), thread in zip(sources.items(), threads, strict=True):
        try:
            thread.start()
        except RuntimeError as error:  # no room for a thread
            silent[name] = str(error)
    deadline = time.monotonic() + seconds
    for thread in threads:
        if thread.ident is not None:
            thread.join(max(deadline - time.monotonic(), 0))
    answered = {name: answers[name] for name in sources if name in answers}
    return answered, {name: why for name, why in silent.items() if name not in answered}


class Gathered(msgspec.Struct, frozen=True):
    """`containers`: of all sources that answered. `silent`: why others did not, by their names."""

    containers: list[Container]
    silent: dict[str, str]


def gather(sources: dict[str, Source], seconds: float = SNAPSHOT_SECONDS) -> Gathered:
    """All containers now."""
    answered, silent = asked(sources, seconds)
    return Gathered(merged(answered.values()), silent)


class Watch:
    """Tells again and again what a source sees, in a thread of its own, until it is closed.

    A source with events is asked when something has changed (many changes at once count as one), another every `poll` seconds. After an
    error it is tried again, after longer and longer pauses; `report` is told why, once for each reason.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        found: Found,
        *,
        report: Callable[[str], None] = lambda _: None,
        poll: float = POLL_SECONDS,
        pause: float = FIRST_PAUSE,
    ) -> None:
        self._name = name
        self._report = report
        self._reported: set[str] = set()
        self._source = source
        self._found = found
        self._poll = poll
        self._pause = pause
        self._closed = threading.Event()
        self._changed = threading.Event()
        self._threads = [threading.Thread(target=self._look, name=f"bpfence-{name}", daemon=True)]
        if hasattr(source, "watch"):
            self._threads.append(threading.Thread(target=self._listen, name=f"bpfence-{name}-events", daemon=True))
        try:
            for thread in self._threads:
                thread.start()
        except RuntimeError:  # no room for a thread just now
            self._closed.set()
            raise

    def _look(self) -> None:
        failures = 0
        while not self._closed.is_set():
            self._changed.clear()
            try:
                self._found(self._name, self._source.snapshot())
            except Exception as error:  # whatever goes wrong, threads that cannot be started included, it is tried again
                failures += 1
                self._tell(str(error)[:MAX_REASON] or type(error).__name__)
                self._found(self._name, None)
                self._closed.wait(backoff(failures, self._pause))
                continue
            failures = 0
            self._changed.wait(self._poll)

    def _tell(self, why: str) -> None:
        if why not in self._reported and len(self._reported) < MAX_REASONS:
            self._reported.add(why)
            self._report(f"{self._name} could not be asked for its containers: {why}")

    def _listen(self) -> None:
        failures = 0
        while not self._closed.is_set():
            began = time.monotonic()
            try:
                self._source.watch(self._note)  # type: ignore[attr-defined]  # asked for above
            except Exception as error:
                if not isinstance(error, OSError | BadAnswerError | BpfenceError):
                    self._tell(f"{type(error).__name__}: {error}"[:MAX_REASON])
            failures = 0 if time.monotonic() - began > LONGEST_PAUSE else failures + 1
            self._closed.wait(backoff(failures, self._pause))

    def _note(self, _identity: str) -> None:
        self._changed.set()

    def look_again(self) -> None:
        """Ask now: somebody has seen a container that is not known yet."""
        self._changed.set()

    def close(self) -> None:
        """End it; a source that hangs is left behind."""
        self._closed.set()
        self._changed.set()
        if hasattr(self._source, "stop"):
            self._source.stop()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(1.0)


class Watches:
    """All sources of a host, watched, until it is closed; those whose sockets come later, too. `found` is called by many threads.

    Threads begin at once: not before privileges are given up, because these belong to a thread, nor before a command is forked.
    """

    def __init__(
        self,
        tree: Tree,
        found: Found,
        *,
        make: Callable[[Tree], dict[str, Source]] = all_sources,
        report: Callable[[str], None] = lambda _: None,
        poll: float = POLL_SECONDS,
    ) -> None:
        self._tree = tree
        self._found = found
        self._report = report
        self._make = make
        self._poll = poll
        self._watches: dict[str, Watch] = {}
        self._closed = threading.Event()
        self._begin()
        self._thread = threading.Thread(target=self._wait, name="bpfence-sources", daemon=True)
        self._thread.start()

    def _begin(self) -> None:
        for name, source in self._make(self._tree).items():
            if name not in self._watches and not self._closed.is_set():
                self._watches[name] = Watch(name, source, self._found, report=self._report, poll=self._poll)

    def _wait(self) -> None:
        told = False
        while not self._closed.wait(self._poll):
            try:
                self._begin()
            except RuntimeError:  # no room for a thread: another time
                pass
            except Exception as error:  # say, a module that cannot be loaded any more: the others go on, and it is tried again
                if not told:
                    self._report(f"some source of containers cannot be begun: {type(error).__name__}: {error}")
                told = True

    def look_again(self) -> None:
        """Ask all of them now."""
        for watch in [*self._watches.values()]:
            watch.look_again()

    def close(self) -> None:
        """End all of them."""
        self._closed.set()
        self._thread.join(1.0)
        for watch in [*self._watches.values()]:
            watch.close()


class Closed(Protocol):
    """What ends when it is closed."""

    def close(self) -> None:
        """End it."""


class HostSources:
    """All sources of this host for an agent, the hook among them. What is not there, or cannot be had, is told and done without.

    `hook`: where the hook's socket is made; None: nowhere. `nri`: the socket of a runtime whose plugin the agent is to be; None: of none;
    `nri_fails`: whether it refuses containers that could not be registered. `make`: the sources, but for these two.
    """

    def __init__(
        self,
        report: Callable[[str], None],
        *,
        hook: Path | None = SOCKET,
        nri: Path | None = None,
        nri_fails: bool = False,
        tree: Callable[[], Tree] = Tree,
        make: Callable[[Tree], dict[str, Source]] = all_sources,
    ) -> None:
        self._report = report
        self._hook = hook
        self._nri = nri
        self._nri_fails = nri_fails
        self._find = tree
        self._make = make
        self._tree: Tree | None = None
        self._server: HookServer | None = None
        self._client: Closed | None = None
        self._watches: Watches | None = None

    def ask(self, registry: Registry, seconds: float = FIRST_SECONDS) -> None:
        """Tell of all containers that run, and make the hook's socket, while that is still permitted: hooks wait there until `start`.
        Nobody is asked by gRPC yet, whose threads would keep the privileges that the agent is about to give up."""
        try:
            self._tree = self._find()
        except (BpfenceError, OSError) as error:
            self._report(f"containers are not known: {error}")
            return
        if not self._tree.whole:
            self._report("containers are not known: cgroups are seen here from within one; run bpfence in the host's cgroup namespace")
            self._tree = None
            return
        if self._hook is not None:
            try:
                self._server = HookServer(self._tree, path=self._hook, report=self._report)
            except (BpfenceError, OSError) as error:
                self._report(f"containers are not told of before they start: {error}")
        answered, _ = asked({name: one for name, one in self._make(self._tree).items() if name not in _CRI}, seconds)
        for name, containers in answered.items():
            registry.found(name, containers)

    def start(self, registry: Registry) -> None:
        """Tell of changes from now on, in threads."""
        try:
            if self._server is not None:
                self._server.start(registry.register)
            if self._nri is not None and self._tree is not None:
                from bpfence.workloads.nri import NriClient  # few hosts want it

                client = NriClient(self._nri, self._tree, fails=self._nri_fails, report=self._report)
                self._client = client.start(registry.register)
            if self._tree is not None:
                self._watches = Watches(self._tree, registry.found, make=self._make, report=self._report)
        except RuntimeError as error:  # no room for a thread: what is in force stays, and the agent goes on
            self._report(f"containers that change, or start, are not heard of until a restart: {error}")

    def close(self) -> None:
        """Tell of nothing more."""
        if self._server is not None:
            self._server.close()
        if self._client is not None:
            self._client.close()
        if self._watches is not None:
            self._watches.close()


class Several:
    """Several of what tells an agent's registry, as one: asked one after the other, in order."""

    def __init__(self, *parts: AgentSources) -> None:
        self._parts = parts

    def ask(self, registry: Registry) -> None:
        """See `registry.Sources`."""
        for part in self._parts:
            part.ask(registry)

    def start(self, registry: Registry) -> None:
        """See `registry.Sources`."""
        for part in self._parts:
            part.start(registry)

    def close(self) -> None:
        """See `registry.Sources`."""
        for part in self._parts:
            part.close()


def backoff(failures: int, pause: float = FIRST_PAUSE) -> float:
    """Seconds to wait after so many failures one after the other."""
    return float(min(pause * 2 ** min(failures, 16), LONGEST_PAUSE))
