# SPDX-License-Identifier: Apache-2.0
"""What became of a policy on this node in, its status and Events in the API server out.

Called by `source`, which never waits: what is to be written waits here, the newest for each policy, and one thread writes it. Each node
applies its own entry of `status.nodes` as a field manager of its own, so no node can undo another's. Whoever has written its entry then
sums up all of them: the sum depends on nothing but the entries, and is written against the version it was made of, so that the last one
is made of all. https://kubernetes.io/docs/reference/using-api/server-side-apply/
"""

from __future__ import annotations

import datetime as dt
import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import msgspec

from bpfence.dialects.native.schema import API_VERSION
from bpfence.errors import Diagnostic
from bpfence.events.values import printable
from bpfence.k8s.client import APPLY, Api, ApiError, Page
from bpfence.k8s.objects import Condition, Finding, Meta, NodeStatus, PolicyObject, Status, Summary, policies_path
from bpfence.k8s.watch import backoff
from bpfence.workloads.texts import BadAnswerError, decode

SUMMARY_MANAGER: Final = "bpfence-summary"
SUMMARY_TRIES: Final = 8
EVENTS: Final = 20
EVENT_SECONDS: Final = 600.0
"""So many Events are written in so many seconds at most; of one generation of a policy one."""
MAX_MESSAGE: Final = 1000
MAX_FINDINGS: Final = 8
MAX_TEXT: Final = 500
_NAMED: Final = 5


class Report(NamedTuple):
    """What became of a policy."""

    policy: PolicyObject
    status: NodeStatus

    @property
    def refused(self) -> bool:
        """Whether the newest of it is not in force."""
        return self.status.generation != self.status.observed


class Stored(msgspec.Struct):
    """An object as the API server has it, as far as it is read here."""

    metadata: Meta
    status: Status = msgspec.field(default_factory=Status)


class Statuses:
    """Status in the API server. `pause`: between conflicts."""

    def __init__(self, api: Api, pause: float = 1.0) -> None:
        self.api = api
        self._pause = pause

    def apply(self, policy: PolicyObject, field_manager: str, status: Status, version: str = "") -> Stored:
        """Write what a field manager says of the status, instead of what it said before; `version`: only of the object as it was then."""
        metadata = {"name": policy.name, "uid": policy.uid}
        metadata |= {"namespace": policy.namespace} if policy.namespace else {}
        metadata |= {"resourceVersion": version} if version else {}
        body = {"apiVersion": API_VERSION, "kind": policy.kind, "metadata": metadata, "status": status}
        page = Page(f"{_path(policy)}/status", {"fieldManager": field_manager, "force": "true"})
        return decode(self.api.request("PATCH", page, msgspec.json.encode(body), APPLY), Stored)

    def summarise(self, policy: PolicyObject, seen: Stored) -> None:
        """Write what all entries come to, if that is not what stands there. `seen`: the object as it is."""
        for _ in range(SUMMARY_TRIES):
            made = summarised(seen.status, seen.metadata.generation, now())
            if made.summary == seen.status.summary and _by_type(made) == _by_type(seen.status):
                return
            try:
                self.apply(policy, SUMMARY_MANAGER, made, seen.metadata.resource_version)
                return
            except ApiError as error:
                if error.status != 409:
                    raise
            time.sleep(random.uniform(0, 0.2 * self._pause))
            seen = decode(self.api.request("GET", Page(_path(policy))), Stored)
            if seen.metadata.uid != policy.uid:
                return
        raise ApiError("others went on writing")


class Writer:
    """Writes in a thread of its own. `before`: called in it before a status is written; `pause`: after the first failure, and of
    conflicts."""

    def __init__(
        self, api: Api, node: str, report: Callable[[str], None], *, before: Callable[[], None] = lambda: None, pause: float = 1.0
    ) -> None:
        self._api = api
        self._statuses = Statuses(api, pause)
        self._node = node
        self._report = report
        self._before = before
        self._pause = pause
        self._waiting: dict[str, Report] = {}
        self._lock = threading.Condition()
        self._closed = False
        self._told = False
        self._events: list[float] = []
        self._evented: dict[str, int] = {}
        self._thread: threading.Thread | None = None

    def put(self, key: str, report: Report) -> None:
        """Have it written, instead of what waits for the same policy."""
        with self._lock:
            self._waiting[key] = report
            self._lock.notify()

    def drop(self, key: str) -> None:
        """The policy is gone."""
        with self._lock:
            self._waiting.pop(key, None)
            self._evented.pop(key, None)

    def start(self) -> None:
        """Begin. RuntimeError where there is no room for a thread."""
        self._thread = threading.Thread(target=self._run, name="bpfence-k8s-status", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it; where the server hangs, the thread is left behind."""
        with self._lock:
            self._closed = True
            self._lock.notify()
        if self._thread is not None:
            self._thread.join(1.0)

    def _run(self) -> None:
        failures = 0
        while True:
            with self._lock:
                while not self._waiting and not self._closed:
                    self._lock.wait()
                if self._closed:
                    return
                key, report = next(iter(self._waiting.items()))
                del self._waiting[key]
            try:
                self._before()
                self._write(key, report)
                failures, self._told = 0, False
            except Exception as error:  # whatever goes wrong, it is tried again
                gone = isinstance(error, ApiError) and error.status in (404, 409)
                if gone:
                    continue  # deleted, or another by the same name, of which the watch tells
                failures += 1
                if not self._told:
                    self._told = True
                    self._report(f"Kubernetes: the status of policies cannot be written just now: {printable(str(error))[:500]}")
                with self._lock:
                    self._waiting.setdefault(key, report)
                    self._lock.wait_for(lambda: self._closed, backoff(failures, self._pause))

    def _write(self, key: str, report: Report) -> None:
        self._statuses.summarise(report.policy, self._statuses.apply(report.policy, manager(self._node), Status(nodes=[report.status])))
        if report.refused and self._evented.get(key) != report.status.observed and self._may_tell():
            self._evented[key] = report.status.observed
            self._tell(report)

    # ---- Events ----

    def _may_tell(self) -> bool:
        moment = time.monotonic()
        self._events = [when for when in self._events if moment - when < EVENT_SECONDS]
        if len(self._events) >= EVENTS:
            return False
        self._events.append(moment)
        return True

    def _tell(self, report: Report) -> None:
        """An Event on the policy. All nodes name it alike: the first one's is the only one."""
        policy, namespace = report.policy, report.policy.namespace or "default"
        moment = now()
        mark = hashlib.sha256(f"{policy.uid} {report.status.observed}".encode()).hexdigest()[:16]
        event: dict[str, Any] = {
            "apiVersion": "v1", "kind": "Event", "type": "Warning", "reason": "Refused", "count": 1,
            "metadata": {"name": f"{policy.name[:200].rstrip('-.')}.{mark}", "namespace": namespace},
            "involvedObject": {
                "apiVersion": API_VERSION, "kind": policy.kind, "name": policy.name, "uid": policy.uid,
                **({"namespace": policy.namespace} if policy.namespace else {}),
            },
            "message": said(report.status), "firstTimestamp": moment, "lastTimestamp": moment,
            "source": {"component": "bpfence", "host": self._node},
        }  # fmt: skip
        try:
            self._api.request("POST", Page(f"/api/v1/namespaces/{namespace}/events"), msgspec.json.encode(event))
        except (ApiError, BadAnswerError) as error:
            if getattr(error, "status", 0) != 409 and not self._told:  # another node has told it
                self._told = True
                self._report(f"Kubernetes: Events cannot be written just now: {printable(str(error))[:500]}")


def _path(policy: PolicyObject) -> str:
    return policies_path(policy.kind, policy.namespace, policy.name)


def manager(node: str) -> str:
    """The field manager of a node; the API server takes 128 characters."""
    return f"bpfence-{node if len(node) <= 100 else hashlib.sha256(node.encode()).hexdigest()[:40]}"


def now() -> str:
    """The time, as Kubernetes writes it."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def findings_of(diagnostics: Iterable[Diagnostic], key: str) -> list[Finding]:
    """What a status says of a policy or profile by that key: the worst first, no notes."""
    told = sorted((one for one in diagnostics if one.severity != "info"), key=lambda one: one.severity)
    return [_finding(one, key) for one in told[:MAX_FINDINGS]]


def _finding(diagnostic: Diagnostic, key: str) -> Finding:
    path = str(diagnostic.location).removeprefix(f"{key}, ") or "spec"
    path, message, hint = (printable(text)[:MAX_TEXT] for text in (path, diagnostic.message, diagnostic.hint))
    return Finding(path, message, hint, diagnostic.code, diagnostic.severity)


def said(status: NodeStatus) -> str:
    """What is wrong with a policy, in some lines."""
    errors = [finding for finding in status.findings if finding.severity == "error"]
    texts = [f"{finding.path}: {finding.message}{'; ' + finding.hint if finding.hint else ''}" for finding in errors[:_NAMED]]
    more = f"and {len(errors) - _NAMED} more" if len(errors) > _NAMED else ""
    stays = f"generation {status.generation} of it stays in force" if status.generation else ""
    return "\n".join(filter(None, (*texts, more, stays)))[:MAX_MESSAGE]


def _named(entries: list[NodeStatus]) -> str:
    return ", ".join(entry.name for entry in entries[:_NAMED]) + (", …" if len(entries) > _NAMED else "")


def _by_type(status: Status) -> dict[str, Condition]:
    return {condition.type: condition for condition in status.conditions}


def summarised(status: Status, generation: int, moment: str) -> Status:
    """What the entries of all nodes come to. A condition keeps its time as long as its status."""
    nodes = sorted(status.nodes, key=lambda entry: entry.name)
    there = [entry for entry in nodes if entry.observed == generation]
    refusing = [entry for entry in there if entry.generation != generation]
    holding = len(there) - len(refusing)
    silent = [entry for entry in nodes if entry.observed != generation]
    accepted = ("True", "Accepted", "") if there else ("Unknown", "NotSeen", "no node has told of this generation yet")
    if refusing:
        accepted = ("False", "Refused", f"on {_named(refusing)}: {said(refusing[0])}"[:MAX_MESSAGE])
    where = f"in force on {holding} of {len(nodes)} nodes"
    in_force = ("True", "InForce", where)
    if silent or not nodes:
        in_force = ("Unknown", "Waiting", f"{where}; not heard of this generation from {_named(silent) or 'any'}")
    if refusing:
        in_force = ("False", "NotEverywhere", f"{where}; refused on {_named(refusing)}")
    old = _by_type(status)
    made = []
    for kind, (value, reason, message) in (("Accepted", accepted), ("InForce", in_force)):
        before = old.get(kind)
        since = before.last_transition_time if before is not None and before.status == value else moment
        made.append(Condition(kind, value, reason, message, generation, since))
    return Status(conditions=made, summary=Summary(len(nodes), holding, len(refusing), f"{holding}/{len(nodes)}"))
