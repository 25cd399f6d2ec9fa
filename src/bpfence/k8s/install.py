# SPDX-License-Identifier: Apache-2.0
"""Seccomp profiles of a cluster in, files below the kubelet's seccomp folder of this node out: where `Localhost` profiles are read from.

Called by `source`. One thread writes: files are put in place at once (`host.kubelet`), and each object's status says what became of it.
A file stays as long as its object, also while that has a mistake and while the API server is away; it is removed when the object is gone,
if it still is what this agent wrote. What that is is kept with all else that is known before it is written (`cache`), so that an agent that
is killed leaves no file behind of which the next one does not know.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from bpfence.errors import Diagnostic, Location, UsageError
from bpfence.events.values import printable
from bpfence.host.kubelet import SeccompFolder
from bpfence.k8s.client import Api
from bpfence.k8s.objects import NO_ROOM, PROFILES, NodeStatus, PolicyObject
from bpfence.k8s.profiles import Held, Profiles, file_of
from bpfence.k8s.status import Report, Writer, findings_of, now
from bpfence.k8s.watch import FIRST_PAUSE, backoff

SWEEP: Final = ""
"""Instead of the key of an object: look for files of objects that are gone."""
AGAIN_SECONDS: Final = 600.0
"""Files that somebody else has changed or removed are put back after this time."""


class Installed(msgspec.Struct, frozen=True):
    """A file that was written: the digest of its contents, "" where it was not yet, and the generation of the object that it is of. `next`:
    the digest of what it is about to hold."""

    digest: str
    generation: int
    next: str = ""


_NOTHING: Final = Installed("", 0)


class Keeper(Protocol):
    """Who keeps what was written, which the installer may ask for at once."""

    def changed(self) -> None:
        """It is another."""

    def save(self) -> None:
        """Keep it now."""


class Installer:
    """Writes the profiles of this node."""

    def __init__(
        self,
        api: Api,
        node: str,
        folder: SeccompFolder,
        writer: Writer,
        keeper: Keeper,
        report: Callable[[str], None],
        *,
        pause: float = FIRST_PAUSE,
    ) -> None:
        self._node = node
        self._folder = folder
        self._writer = writer
        self._keeper = keeper
        self._report = report
        self._pause = pause
        self._lock = threading.Condition()
        self._due: set[str] = set()
        self._closed = self._told = False
        self._record: dict[str, Installed] = {}
        self._thread: threading.Thread | None = None
        self.profiles: Profiles[bytes] = Profiles(api, node, file_of, self._changed, report, pause=pause)
        self.profiles.first = self._record

    def restore(self, record: dict[str, Installed]) -> None:
        """What was written before. Called before `start`."""
        self._record.update(record)

    def record(self) -> dict[str, Installed]:
        """What is written, by the paths of the files."""
        with self._lock:
            return dict(self._record)

    def start(self) -> None:
        """Begin. RuntimeError where there is no room for a thread."""
        self._thread = threading.Thread(target=self._run, name="bpfence-k8s-install", daemon=True)
        self._thread.start()
        self.profiles.start()

    def close(self) -> None:
        """End the threads."""
        self.profiles.close()
        with self._lock:
            self._closed = True
            self._lock.notify()
        if self._thread is not None:
            self._thread.join(1.0)

    def _changed(self, keys: list[str]) -> None:
        with self._lock:
            self._due.update([*keys, SWEEP])
            self._lock.notify()

    def _run(self) -> None:
        failures, again = 0, time.monotonic() + AGAIN_SECONDS
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._due or self._closed, max(again - time.monotonic(), 0))
                if time.monotonic() >= again:
                    again = time.monotonic() + AGAIN_SECONDS
                    self._due.update(held.newest.key for held in self.profiles.all())
                if self._closed:
                    return
                due, self._due = sorted(self._due - {SWEEP}), set()
            self._announce(due)
            failed = [key for key in (*due, SWEEP) if not self._done(key)]
            failures = failures + 1 if failed else 0
            with self._lock:
                if failed:
                    self._lock.wait_for(lambda: self._closed, backoff(failures, self._pause))
                    self._due.update(failed)

    def _announce(self, keys: list[str]) -> None:
        """Have kept what the files of these objects are about to hold."""
        held = [one for key in keys if (one := self.profiles.get(key)) is not None]
        coming = {one.path: _digest(one.made) for one in held if one.made is not None}
        with self._lock:
            for path, digest in coming.items():
                there = self._record.get(path, _NOTHING)
                if digest not in (there.digest, there.next):
                    self._record[path] = msgspec.structs.replace(there, next=digest)
                    self._keeper.changed()
        self._keeper.save()

    def _done(self, key: str) -> bool:
        """See to an object, or sweep; False where that is to be tried again. Nothing that one object makes go wrong ends the thread."""
        try:
            return self._swept() if key == SWEEP else self._see_to(key)
        except Exception as error:
            text = f"{type(error).__name__}: {printable(str(error))[:200]}. This is a fault of bpfence; please report it"
            self._tell(f"Kubernetes: {key or 'files of seccomp profiles'} cannot be seen to on this node: {text}")
            return False

    def _tell(self, text: str) -> None:
        if not self._told:
            self._told = True
            self._report(text)

    def _see_to(self, key: str) -> bool:
        """Write the file and the status of an object; False where that is to be tried again."""
        held = self.profiles.get(key)
        if held is None:
            one = self.profiles.left(key)
            if one is None:
                self._writer.drop(key)
            else:
                self._say(one, 0, (Diagnostic(Location(f"{key}, metadata"), f"it is left out: {NO_ROOM}", code="no-room"),))
            return True
        why = ""
        try:
            if held.made is not None:
                self._write(held, held.made)
        except (OSError, UsageError) as error:
            why = printable(str(error))[:300]
            self._tell(f"Kubernetes: seccomp profiles cannot be put in place on this node: {why}")
        written = self._record.get(held.path)
        what = f"it cannot be put in place on this node: {why}"
        more = (Diagnostic(Location(f"{key}, spec"), what, code="cannot-install"),) if why else ()
        self._say(held.newest, written.generation if written is not None else 0, (*held.diagnostics, *more))
        return not why

    def _write(self, held: Held[bytes], data: bytes) -> None:
        self._folder.put(held.path, data)
        written = Installed(_digest(data), held.newest.generation)
        if self._record.get(held.path) != written:
            with self._lock:
                self._record[held.path] = written
            self._keeper.changed()

    def _say(self, one: PolicyObject, generation: int, diagnostics: tuple[Diagnostic, ...]) -> None:
        status = NodeStatus(self._node, one.generation, generation, now(), findings_of(diagnostics, one.key))
        if one.own is None or msgspec.structs.replace(one.own, changed="") != msgspec.structs.replace(status, changed=""):
            self._writer.put(one.key, Report(one, status))

    def _swept(self) -> bool:
        """Remove the files of objects that are gone; False where that is to be tried again."""
        wanted = {held.path for held in self.profiles.all()}
        done = True
        for path in [path for path in self._record if path not in wanted and self.profiles.knows(_kind(path))]:
            try:
                data = self._folder.get(path)
                if data is not None and _digest(data) in (self._record[path].digest, self._record[path].next):
                    self._folder.remove(path)
            except (OSError, UsageError) as error:
                done = False
                self._tell(f"Kubernetes: {path} cannot be removed: {printable(str(error))[:300]}")
                continue
            with self._lock:
                del self._record[path]
            self._keeper.changed()
        return done


def _kind(path: str) -> str:
    """The kind of object that a file is of: those of namespaces have a folder each."""
    return PROFILES[0] if path.count("/") > 1 else PROFILES[1]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
