# SPDX-License-Identifier: Apache-2.0
"""The state of a container that is about to start in, that container registered, an answer out: the agent's side of the OCI hook.

The runtime has made the container's first process and its cgroup, and waits. Called by whoever connects to the socket as root
(`hook_program`); `register` is the agent's. The cgroup is that of the process, as the kernel tells it; names come from the bundle. What is
sent is bounded in size and time, and so is the number of those who send.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from bpfence.errors import KernelError
from bpfence.host.sockets import listening, listens
from bpfence.workloads.bundle import Bundles, Running, asked_cgroup
from bpfence.workloads.cgroups import MAX_ID, Tree
from bpfence.workloads.model import Container
from bpfence.workloads.registry import REGISTER_SECONDS
from bpfence.workloads.texts import BadAnswerError, decode

SOCKET: Final = Path("/run/bpfence/hook.sock")
MAX_STATE: Final = 256 << 10
MAX_SENDERS: Final = 16
"""Hooks that are answered at once; further ones wait for their turn."""
BACKLOG: Final = 128
SECONDS: Final = 2.0
"""How long a hook may take to send its state, and to read the answer."""
SHARE: Final = 0.7
"""Of the time that a hook waits for its answer, what policies may take to be in force."""
LONGEST: Final = 600.0


class State(msgspec.Struct):
    """What is read of a container's state (OCI runtime specification 1.0, "State")."""

    id: str
    pid: int = 0
    bundle: str = ""


def learned(data: bytes, sender: int, tree: Tree, bundles: Bundles) -> Container:
    """The container of a state that process `sender` has sent. BadAnswerError where it is none, or has no cgroup of its own."""
    state = decode(data, State)
    if not state.id or len(state.id) > MAX_ID:
        raise BadAnswerError("the state names no container")
    path = tree.path_of(state.pid)
    if path is None:
        raise BadAnswerError("the container's first process is not there")
    config = bundles.config(state.bundle)
    cgroup = tree.own(path, state.id, asked_cgroup(config)) or path
    theirs = tree.path_of(sender) or "/"
    if f"{theirs}/".startswith(f"{cgroup.rstrip('/')}/"):
        # A class put on it would be that of the runtime, too, and of whatever else is there.
        raise BadAnswerError("the container has no cgroup of its own")
    if config is None and state.bundle:
        raise BadAnswerError("the bundle's config.json cannot be read in time, or is too large")
    running = Running(state.id, state.pid, state.bundle, tree.runtime_above(sender), created=time.time_ns())
    return bundles.described(running, config, cgroup)


def patience(told: bytes) -> float:
    """Seconds that a container's policies may take to be in force, by what its hook says of its own; older hooks say nothing."""
    try:
        seconds = float(told)
    except ValueError:
        return REGISTER_SECONDS
    return seconds * SHARE if 0 < seconds <= LONGEST else REGISTER_SECONDS


class HookServer:
    """Answers hooks from `start` until it is closed; those that come before wait. KernelError where another agent listens; OSError where
    the socket cannot be made.

    `register` of `start` is called in threads of the server, several at once, and must come back within so many seconds: its hook waits.
    When it has, the container starts; when it raises, the hook is told that nothing is in force, and does what it was installed to do then.
    """

    def __init__(
        self,
        tree: Tree,
        *,
        bundles: Bundles | None = None,
        path: Path = SOCKET,
        seconds: float = SECONDS,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._register: Callable[[Container, float], None] | None = None
        self._tree = tree
        self._bundles = bundles or Bundles(tree)
        self._seconds = seconds
        self._report = report
        self._path = path
        self._owner = os.geteuid()
        self._turns = threading.BoundedSemaphore(MAX_SENDERS)
        self._closed = threading.Event()
        self._listener = _listening(path)
        self._made = os.stat(path).st_ino
        self._thread = threading.Thread(target=self._serve, name="bpfence-hook", daemon=True)

    def start(self, register: Callable[[Container, float], None]) -> HookServer:
        """Answer from now on, in threads. Itself."""
        self._register = register
        self._thread.start()
        return self

    def _serve(self) -> None:
        while not self._closed.is_set():
            self._turns.acquire()
            try:
                connection, _ = self._listener.accept()
            except OSError:
                self._turns.release()
                if not self._closed.wait(0.05):  # out of descriptors: others will be given back
                    continue
                return
            try:
                threading.Thread(target=self._answer, args=(connection,), name="bpfence-hook-one", daemon=True).start()
            except RuntimeError:  # no room for a thread: the hook does what it was installed to do without an answer
                connection.close()
                self._turns.release()
                self._closed.wait(0.05)

    def _answer(self, connection: socket.socket) -> None:
        try:
            with connection:
                pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
                connection.settimeout(self._seconds)
                connection.sendall(self._decided(connection, pid) if uid in (0, self._owner) else b"no: not root\n")
        except OSError:
            pass  # the other side has gone, or does not listen
        finally:
            self._turns.release()

    def _decided(self, connection: socket.socket, sender: int) -> bytes:
        assert self._register is not None
        try:
            state, _, seconds = self._received(connection).partition(b"\0")
            if not state:
                return b"no: nothing was sent\n"  # somebody asks whether anybody listens
            self._register(learned(state, sender, self._tree, self._bundles), patience(seconds))
        except BadAnswerError as error:
            why = str(error)
        except Exception as error:
            # A bug of ours must not keep every container of the host from an answer.
            why = f"{type(error).__name__}: {error}"
        else:
            return b"ok\n"
        self._report(f"hook: {why}")
        return f"no: {why[:500]}\n".encode("utf-8", "replace")

    def _received(self, connection: socket.socket) -> bytes:
        parts: list[bytes] = []
        left, end = MAX_STATE + 1, time.monotonic() + self._seconds
        while left > 0:
            connection.settimeout(max(end - time.monotonic(), 0.001))
            try:
                part = connection.recv(left)
            except TimeoutError:
                raise BadAnswerError("the state did not come in time") from None
            if not part:
                return b"".join(parts)
            parts.append(part)
            left -= len(part)
        raise BadAnswerError(f"a state of more than {MAX_STATE} bytes")

    def close(self) -> None:
        """Take the socket away. Hooks that are being answered still are."""
        self._closed.set()
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()
        try:
            if os.stat(self._path).st_ino == self._made:
                self._path.unlink()
        except OSError:
            pass


def _listening(path: Path) -> socket.socket:
    """A socket that only root reaches: its folder is root's alone."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = os.lstat(path.parent)
    if not stat.S_ISDIR(folder.st_mode) or folder.st_uid != os.geteuid() or folder.st_mode & 0o022:
        raise KernelError(f"{path.parent} must be a folder that only root writes", missing="a safe folder", hint=f"rm -r {path.parent}")
    if listens(path) is not False:
        raise KernelError(f"another agent listens at {path}", missing="the socket", hint="stop it first")
    return listening(path, BACKLOG)
