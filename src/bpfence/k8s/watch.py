# SPDX-License-Identifier: Apache-2.0
"""A kind of object in, all of them and then each change out: list, watch, and again from where it was.

Called by `source`: `list_once` before the agent gives up its privileges, then `start`, in a thread of its own. A watch goes on from the
last version it has seen, however often the API server goes away; where that version is gone there (410) everything is listed again. Nothing
is kept here but that version and the line that is being read. https://kubernetes.io/docs/reference/using-api/api-concepts/
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, Generic, Protocol, TypeVar

import msgspec

from bpfence.events.values import printable
from bpfence.k8s.client import ANSWER_SECONDS, Api, ApiError, GoneError, Lines, Page, TooLargeError
from bpfence.workloads.texts import BadAnswerError, decode

LIMIT: Final = 256
"""Objects a page of a list; where they are large, less."""
MAX_LISTED: Final = 256 << 20
"""Bytes of objects of one kind. What is more is left out."""
WATCH_SECONDS: Final = 290
"""How long the server is asked to keep one watch."""
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0
MAX_REASONS: Final = 8
"""So many reasons why it could not be asked are told between two times that it could."""
K = TypeVar("K")
V = TypeVar("V")


class Handler(Protocol[V]):
    """Whoever keeps the objects. Called in the watch's thread."""

    def all(self, objects: list[V]) -> None:
        """These there are; no others."""

    def put(self, one: V) -> None:
        """One that is new, or has changed."""

    def gone(self, one: V) -> None:
        """One that is no more, as it was."""


class _Version(msgspec.Struct):
    resource_version: str = msgspec.field(name="resourceVersion", default="")
    more: str = msgspec.field(name="continue", default="")


class _Any(msgspec.Struct):
    metadata: _Version = msgspec.field(default_factory=_Version)
    code: int = 0
    message: str = ""


class _List(msgspec.Struct):
    metadata: _Version
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class Watcher(Generic[V]):
    """One kind of object. `title`: for messages; `read`: an object's JSON as what the handler takes, BadAnswerError where it is none."""

    def __init__(
        self,
        api: Api,
        page: Page,
        read: Callable[[bytes], V],
        handler: Handler[V],
        *,
        title: str,
        report: Callable[[str], None],
        pause: float = FIRST_PAUSE,
    ) -> None:
        self._api = api
        self._page = page
        self._read = read
        self._handler = handler
        self._title = title
        self._report = report
        self._pause = pause
        self._version = ""
        self._reported: set[str] = set()
        self._closed = threading.Event()
        self._again = False
        self._lines: Lines | None = None
        self._thread: threading.Thread | None = None
        self.listed = threading.Event()
        """Set when all of them were told."""

    def list_once(self, seconds: float) -> bool:
        """Tell of all of them now, in this thread. Whether that was possible."""
        try:
            self._list(time.monotonic() + seconds)
        except (ApiError, BadAnswerError) as error:
            self._tell(str(error))
        return self.listed.is_set()

    def start(self) -> None:
        """Tell of changes from now on. RuntimeError where there is no room for a thread."""
        self._thread = threading.Thread(target=self._run, name=f"bpfence-k8s-{self._title}", daemon=True)
        self._thread.start()

    def again(self) -> None:
        """List everything again, soon. Called by the handler."""
        self._again = True

    def close(self) -> None:
        """End it; where the server hangs, the thread is left behind."""
        self._closed.set()
        if self._lines is not None:
            self._lines.close()
        if self._thread is not None:
            self._thread.join(1.0)

    def _run(self) -> None:
        failures = 0
        while not self._closed.is_set():
            began = time.monotonic()
            try:
                if not self._version or self._again:
                    self._again = False
                    self._list(time.monotonic() + ANSWER_SECONDS * 4)
                self._watch()
                failures = (
                    failures + 1 if time.monotonic() - began < self._pause else 0
                )  # one that ends at once is not asked without a pause
            except GoneError:
                self._version = ""
                failures += time.monotonic() - began < self._pause
            except Exception as error:  # whatever goes wrong, it is tried again
                if isinstance(error, BadAnswerError):
                    self._version = ""  # from where it was, the same line would come again
                failures = 1 if time.monotonic() - began > LONGEST_PAUSE else failures + 1
                self._tell(str(error) if isinstance(error, ApiError | BadAnswerError) else f"{type(error).__name__}: {error}")
            if failures and not self._closed.is_set():
                self._closed.wait(backoff(failures, self._pause))

    def _tell(self, why: str) -> None:
        why = printable(why)[:500]
        if why not in self._reported and len(self._reported) < MAX_REASONS and not self._closed.is_set():
            self._reported.add(why)
            self._report(f"Kubernetes: {self._title} cannot be watched just now: {why}; what is known stays in force")

    def _list(self, deadline: float) -> None:
        found: list[V] = []
        more, version, limit, size = "", "", LIMIT, 0
        while True:
            query = {**self._page.query, "limit": str(limit), **({"continue": more} if more else {})}
            try:
                data = self._api.request("GET", self._page._replace(query=query), seconds=max(deadline - time.monotonic(), 0.1))
            except TooLargeError:
                if limit == 1:
                    raise
                limit //= 4
                continue
            size += len(data)
            answer = decode(data, _List)
            found += self._readable(bytes(item) for item in answer.items or ())
            more, version = answer.metadata.more, answer.metadata.resource_version
            if more and size > MAX_LISTED:
                self._tell(f"there are more than {MAX_LISTED >> 20} MiB of them: what comes after {len(found)} of them is left out")
            if not more or size > MAX_LISTED:
                break
        if more:
            for one in found:  # of the others it is not known whether they are there: what was known of them stays
                self._handler.put(one)
        else:
            self._handler.all(found)
        self._version = version
        self.listed.set()

    def _readable(self, items: Iterator[bytes]) -> Iterator[V]:
        for item in items:
            try:
                yield self._read(item)
            except BadAnswerError as error:
                self._tell(f"one of them cannot be read: {error}")

    def _watch(self) -> None:
        query = {
            **self._page.query, "watch": "1", "allowWatchBookmarks": "true", "resourceVersion": self._version,
            "timeoutSeconds": str(WATCH_SECONDS),
        }  # fmt: skip
        with self._api.lines(self._page._replace(query=query, accept=self._page.watched or self._page.accept)) as lines:
            self._lines = lines
            self._reported.clear()
            for line in lines:
                if self._closed.is_set():
                    return
                if line:
                    self._take(decode(line, _Event))
                if self._again:
                    return

    def _take(self, event: _Event) -> None:
        data = bytes(event.object)
        seen = decode(data, _Any)
        if event.type == "ERROR":
            raise (GoneError if seen.code == 410 else ApiError)(f"{self._title}: {seen.message[:300]}", seen.code)
        for one in self._readable(iter([data])) if event.type in ("ADDED", "MODIFIED", "DELETED") else ():
            (self._handler.gone if event.type == "DELETED" else self._handler.put)(one)
        self._version = seen.metadata.resource_version or self._version


def backoff(failures: int, pause: float = FIRST_PAUSE) -> float:
    """Seconds to wait after so many failures one after the other: longer and longer up to a bound, and not all nodes at once."""
    return float(min(pause * 2 ** min(failures - 1, 16), LONGEST_PAUSE) * random.uniform(0.5, 1.0))
