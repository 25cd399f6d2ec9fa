# SPDX-License-Identifier: Apache-2.0
"""The nodes of a cluster in, entries of nodes that are gone taken out of the status of policies and profiles.

Called by `bpfence webhook`: nodes do not look after each other, so that none needs to know the others. An entry is taken out in the name
of the node that wrote it, which by server-side apply takes out what that node wrote and nothing else, and only of the object as it was when
the entry was seen. Two of these, or one and a node that comes back, undo nothing: an agent whose entry has gone writes it again (`source`).
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from bpfence.events.values import printable
from bpfence.k8s.client import Api, ApiError, Page
from bpfence.k8s.objects import METADATA_ONLY, PLURALS, Meta, PolicyObject, Status, policies_path
from bpfence.k8s.status import Statuses, manager
from bpfence.workloads.texts import BadAnswerError, decode

EVERY_SECONDS: Final = 300.0
GONE_SECONDS: Final = 600.0
"""How long a node is away before its entries go: a machine that is replaced under its name keeps them."""
MAX_ENTRIES: Final = 500
"""Taken out at a time; the others follow."""
MAX_LISTED: Final = 20_000
PAGE: Final = 250


class _Version(msgspec.Struct):
    more: str = msgspec.field(name="continue", default="")


class _Object(msgspec.Struct):
    metadata: Meta
    status: msgspec.Raw = msgspec.Raw(b"")


class _List(msgspec.Struct):
    metadata: _Version
    items: list[_Object] | None = None


class Tidier:
    """Looks again and again, in a thread of its own. `every`, `gone`: seconds."""

    def __init__(self, api: Api, report: Callable[[str], None], *, every: float = EVERY_SECONDS, gone: float = GONE_SECONDS) -> None:
        self._api = api
        self._statuses = Statuses(api)
        self._report = report
        self._every = every
        self._gone = gone
        self._missing: dict[str, float] = {}
        self._told = False
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin. RuntimeError where there is no room for a thread."""
        self._thread = threading.Thread(target=self._run, name="bpfence-k8s-tidy", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it; where the server hangs, the thread is left behind."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(1.0)

    def _run(self) -> None:
        while not self._closed.wait(self._every * random.uniform(0.8, 1.2)):  # several of these do not come at once
            try:
                self.look(time.monotonic())
                self._told = False
            except Exception as error:  # whatever goes wrong, the next time comes
                if not self._told:
                    self._told = True
                    self._report(f"Kubernetes: entries of nodes that are gone stay in status just now: {printable(str(error))[:300]}")

    def look(self, moment: float) -> int:
        """Take out the entries of nodes that have been away for long enough; how many. `moment`: now, on the monotonic clock."""
        nodes = {one.metadata.name for one in self._listed(Page("/api/v1/nodes", {}, METADATA_ONLY.format("List")))}
        if not nodes:
            return 0  # that is no cluster: whoever says so knows nothing
        seen: set[str] = set()
        taken = 0
        for kind in PLURALS:
            for one in self._listed(Page(policies_path(kind))):
                missing = sorted({entry.name for entry in _status(one).nodes} - nodes)
                seen.update(missing)
                away = [name for name in missing if moment - self._missing.get(name, moment) >= self._gone]
                if away and taken < MAX_ENTRIES:
                    taken += self._take_out(kind, one, away[: MAX_ENTRIES - taken])
        self._missing = {name: self._missing.get(name, moment) for name in seen}
        return taken

    def _take_out(self, kind: str, one: _Object, names: list[str]) -> int:
        meta = one.metadata
        policy = PolicyObject(kind, meta.name, meta.namespace, meta.uid, meta.generation, b"")
        version, seen = meta.resource_version, None
        try:
            for name in names:
                seen = self._statuses.apply(policy, manager(name), Status(), version)
                version = seen.metadata.resource_version
            if seen is not None:
                self._statuses.summarise(policy, seen)
        except ApiError as error:
            if error.status not in (404, 409):  # gone, or changed since: the next time
                raise
        return len(names)

    def _listed(self, page: Page) -> Iterator[_Object]:
        more, count = "", 0
        while count < MAX_LISTED:
            query = {**page.query, "limit": str(PAGE), **({"continue": more} if more else {})}
            answer = decode(self._api.request("GET", page._replace(query=query)), _List)
            yield from answer.items or ()
            count += len(answer.items or ())
            more = answer.metadata.more
            if not more:
                return
        raise ApiError(f"{page.path}: there are more than {MAX_LISTED} of them")


def _status(one: _Object) -> Status:
    try:
        return decode(bytes(one.status), Status) if bytes(one.status) else Status()
    except BadAnswerError:
        return Status()
