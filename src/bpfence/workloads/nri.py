# SPDX-License-Identifier: Apache-2.0
"""The socket of an NRI runtime in, its containers registered before their first instruction out: the agent as a plugin.

Called by `sources`. What the runtime says of a container and its pod is a text about them; who the container is comes from the cgroup of
its first process. `nri_program` speaks the protocol.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from bpfence.errors import BpfenceError
from bpfence.workloads.bundle import Bundles, Running, annotated
from bpfence.workloads.cgroups import MAX_ID, Tree
from bpfence.workloads.hook import SHARE
from bpfence.workloads.model import Container, Pod
from bpfence.workloads.nri_program import (
    Plugin,
    ProtocolError,
    RefusedError,
    Start,
    bundle_of,
    bytes_of,
    decoded,
    text_of,
    texts_of,
)
from bpfence.workloads.registry import joined
from bpfence.workloads.texts import BadAnswerError, digest, labels, short

SOCKET: Final = Path("/run/nri/nri.sock")
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 15.0
CONNECT_SECONDS: Final = 5.0
_ADDED: Final = ("io.kubernetes.", "io.cri-containerd.")
"""Beginnings of labels that kubelet and runtimes add to those of a pod."""
_LINUX, _CGROUPS_PATH, _IMAGE = 11, 5, 22


def learned(start: Start, runtime_pid: int, tree: Tree, bundles: Bundles) -> Container:
    """The container that is about to start. BadAnswerError where it has no process, or no cgroup of its own."""
    if not start.id or len(start.id) > MAX_ID:
        raise BadAnswerError("the runtime names no container")
    path = tree.path_of(start.pid)
    if path is None:
        raise BadAnswerError("the container's first process is not there")
    told = text_of(decoded(bytes_of(start.container, _LINUX)), _CGROUPS_PATH)
    cgroup = tree.own(path, start.id, told if told.startswith("/") else "") or path
    if f"{tree.path_of(runtime_pid) or '/'}/".startswith(f"{cgroup.rstrip('/')}/"):
        raise BadAnswerError("the container has no cgroup of its own")
    bundle, now = bundle_of(start.id, start.pid), time.time_ns()
    said = _said(start, cgroup, tree.number(cgroup), now)
    running = Running(start.id, start.pid, bundle, said.runtime, created=now)
    return joined([said, bundles.described(running, bundles.config(bundle), cgroup)]) or said


def _said(start: Start, cgroup: str, number: int, now: int) -> Container:
    """What the runtime says. It gives a container the labels of its image, too, which are not the container's own: they are left out."""
    image = decoded(bytes_of(start.container, _IMAGE))
    made = Container(start.id, cgroup, number, runtime=short(start.runtime, 64), started=now, pid=start.pid)
    made = annotated(made, labels(texts_of(start.container, 6)))
    own = {name: value for name, value in texts_of(start.pod, 5).items() if not name.startswith(_ADDED)}
    name, namespace, uid = (short(text_of(start.pod, field)) for field in (2, 4, 3))
    return msgspec.structs.replace(
        made,
        name=short(text_of(start.container, 3)) or made.name,
        image=made.image or short(text_of(image, 1)),
        image_digest=made.image_digest or digest(text_of(image, 2)),
        pod=Pod(name, namespace, uid, labels(own)) if name else made.pod,
    )


class NriClient:
    """Is a plugin of a runtime from `start` until it is closed, and again whenever the runtime is back. `register` as of `HookServer`;
    `fails`: whether a container that could not be registered is refused."""

    def __init__(
        self,
        path: Path,
        tree: Tree,
        *,
        fails: bool = False,
        bundles: Bundles | None = None,
        report: Callable[[str], None] = lambda _: None,
        pause: float = FIRST_PAUSE,
    ) -> None:
        self._path = path
        self._tree = tree
        self._fails = fails
        self._bundles = bundles or Bundles(tree)
        self._report = report
        self._pause = pause
        self._register: Callable[[Container, float], None] | None = None
        self._closed = threading.Event()
        self._connection: socket.socket | None = None
        self._told = ""
        self._plugin: Plugin | None = None
        self._thread = threading.Thread(target=self._run, name="bpfence-nri", daemon=True)

    def start(self, register: Callable[[Container, float], None]) -> NriClient:
        """Connect from now on, in a thread. Itself."""
        self._register = register
        self._thread.start()
        return self

    @property
    def registered(self) -> bool:
        """Whether a runtime has us as its plugin now."""
        plugin = self._plugin
        return plugin is not None and plugin.registered

    def _run(self) -> None:
        failures = 0
        while not self._closed.is_set():
            plugin = None
            try:
                with _connected(self._path) as connection:
                    self._connection = connection
                    pid, _ = _credentials(connection)
                    plugin = Plugin(connection, partial(self._started, pid), self._fails, running=partial(self._running, pid))
                    self._plugin = plugin
                    plugin.serve()
                    why = "the runtime has closed the connection"
            except (OSError, ProtocolError, struct.error) as error:
                why = str(error) or type(error).__name__
            finally:
                self._connection = self._plugin = None
            failures = 0 if plugin is not None and plugin.registered else failures + 1
            if not self._closed.is_set() and why != self._told:
                self._told = why
                self._report(f"NRI at {self._path}: containers are not told of before they start: {why[:500]}")
            self._closed.wait(min(self._pause * 2 ** min(failures, 8), LONGEST_PAUSE))

    def _running(self, runtime_pid: int, start: Start) -> None:
        """Nobody waits for a container that runs: its class comes into force when it can."""
        assert self._register is not None
        try:
            self._register(learned(start, runtime_pid, self._tree, self._bundles), 0.0)
        except (BadAnswerError, BpfenceError, ProtocolError):
            pass  # it has ended, or needs other tables, which are being made
        except Exception as error:  # a bug of ours must not end the thread that tells of all others
            self._report(
                f"NRI: {short(start.id, 64)!r}: {type(error).__name__}: {str(error)[:500]}. This is a fault of bpfence; please report it"
            )

    def _started(self, runtime_pid: int, start: Start) -> None:
        assert self._register is not None
        self._told = ""
        try:
            # The answer has to be there before the runtime loses its patience: SHARE of it is for policies, as with the hook.
            self._register(learned(start, runtime_pid, self._tree, self._bundles), start.seconds * SHARE)
        except Exception as error:  # a bug of ours must not keep every container of the host from an answer
            why = str(error) if isinstance(error, BadAnswerError) else f"{type(error).__name__}: {error}"
            self._report(f"NRI: {short(start.id, 64)!r}: {why[:500]}")
            if self._fails:
                raise RefusedError(why) from None

    def close(self) -> None:
        """Be a plugin no more."""
        self._closed.set()
        connection = self._connection
        if connection is not None:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        if self._thread.ident is not None:
            self._thread.join(1.0)


def _connected(path: Path) -> socket.socket:
    """The runtime's socket. OSError where nobody listens, or somebody who is not root."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(CONNECT_SECONDS)
        connection.connect(str(path))
        uid = _uid(connection)
        if uid != 0:
            raise PermissionError(f"user {uid} listens there, not root")
    except BaseException:
        connection.close()
        raise
    return connection


def _credentials(connection: socket.socket) -> tuple[int, int]:
    pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid


def _uid(connection: socket.socket) -> int:
    return _credentials(connection)[1]
