# SPDX-License-Identifier: Apache-2.0
"""What is known of a cluster in, a file of it out, and back after a restart.

Called by `source`. With it an agent that starts while the API server is away has the policies and pods that there were. The file is root's
alone, is replaced as a whole, and is of one node: what another wrote, or another version, counts for nothing. What a status says, and what
a file of a profile is to hold, is kept first: an agent that is killed at any moment has told of nothing that the next one does not know.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from bpfence.agent.generations import read_private, write_whole
from bpfence.k8s.install import Installed
from bpfence.k8s.objects import PolicyObject
from bpfence.workloads.model import Namespace, Pod

VERSION: Final = 2
MAX_CACHE: Final = 64 << 20
SAVE_SECONDS: Final = 0.5


class Kept(msgspec.Struct, frozen=True):
    """A policy: as it is, and as it was last in force where that is something else."""

    newest: PolicyObject
    good: PolicyObject | None = None


class Known(msgspec.Struct):
    """What one node knows of its cluster. `namespaces`: those that its pods are in; `profiles`: files that were written for
    seccomp profiles, by their paths."""

    node: str
    policies: list[Kept] = []
    pods: dict[str, Pod] = {}
    namespaces: dict[str, Namespace] = {}
    profiles: dict[str, Installed] = {}
    version: int = VERSION


class _Version(msgspec.Struct):
    version: int = 0
    node: str = ""


def load(path: Path, node: str) -> Known:
    """What is kept in a file; nothing where there is none, or it is of another node or version. OSError where it cannot be read."""
    try:
        data = read_private(path, MAX_CACHE)
    except FileNotFoundError:
        return Known(node)
    try:
        about = msgspec.json.decode(data, type=_Version)
        return msgspec.json.decode(data, type=Known) if (about.version, about.node) == (VERSION, node) else Known(node)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise OSError(f"{path} cannot be understood: {str(error)[:200]}") from None


def save(path: Path, known: Known) -> None:
    """Replace the file. OSError where that is not possible, or there is too much."""
    data = msgspec.json.encode(known)
    if len(data) > MAX_CACHE:
        raise OSError(f"what is known of the cluster is larger than {MAX_CACHE >> 20} MiB")
    write_whole(path, data, 0o600)


class Keeper:
    """Keeps what `known` gives in a file, in a thread of its own where nobody asks for it at once. `path` None: nothing is kept."""

    def __init__(self, path: Path | None, known: Callable[[], Known], report: Callable[[str], None]) -> None:
        self._path = path
        self._known = known
        self._report = report
        self._changed = threading.Event()
        self._saving = threading.Lock()
        self._closed = threading.Event()
        self._told = False
        self._thread: threading.Thread | None = None

    def changed(self) -> None:
        """Something is known that was not: keep it soon."""
        self._changed.set()

    def save(self) -> None:
        """Keep now what has changed. Where that is not possible it is told, and things go on."""
        with self._saving:  # whoever comes second finds it done
            if self._path is None or not self._changed.is_set():
                return
            self._changed.clear()
            try:
                save(self._path, self._known())
                self._told = False
            except OSError as error:
                if not self._told:
                    self._report(f"Kubernetes: what is known cannot be kept across a restart: {error}")
                self._told = True

    def start(self) -> None:
        """Begin. RuntimeError where there is no room for a thread."""
        if self._path is not None:
            self._thread = threading.Thread(target=self._run, name="bpfence-k8s-cache", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Keep what has changed, and end the thread."""
        self._closed.set()
        self._changed.set()
        if self._thread is not None:
            self._thread.join(2.0)

    def _run(self) -> None:
        while not self._closed.is_set():
            self._changed.wait()
            self._closed.wait(SAVE_SECONDS)  # many changes at once are one
            self.save()
