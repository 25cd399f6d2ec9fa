# SPDX-License-Identifier: Apache-2.0
"""Seccomp profiles of a cluster and a review of a pod in, the patch that gives its containers their profiles out.

Called by `webhook`. What is known of profiles is watched (`profiles`); until all of them are known no review is answered, so that the API
server does what it was told to do without an answer. How much one review costs is bounded: pods and profiles come from whoever may make
them. A profile with a mistake is bound to whom it was before.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from bpfence.events.values import printable
from bpfence.k8s.client import Api
from bpfence.k8s.profiles import Profiles
from bpfence.k8s.watch import FIRST_PAUSE
from bpfence.pods.bind import Binding, mutate
from bpfence.pods.kinds import CONTAINERS
from bpfence.workloads.texts import BadAnswerError, decode

MAX_TESTS: Final = 1000
"""Images and tests on labels of all bindings of one namespace, and of the cluster."""
MAX_CONTAINERS: Final = 128
"""Of a pod that something is bound to."""


class Bindings:
    """Whom the profiles of a cluster are bound to."""

    def __init__(self, api: Api, report: Callable[[str], None], *, pause: float = FIRST_PAUSE) -> None:
        self._report = report
        self._lock = threading.Lock()
        self._made: dict[str, tuple[Binding, ...]] | None = None
        self._told: set[str] = set()
        self._profiles: Profiles[tuple[Binding, ...]] = Profiles(api, "", lambda found: found.bindings, self._changed, report, pause=pause)

    def start(self) -> None:
        """Begin to watch. RuntimeError where there is no room for a thread."""
        self._profiles.start()

    def close(self) -> None:
        """End the threads."""
        self._profiles.close()

    @property
    def ready(self) -> bool:
        """Whether all are known."""
        return self._profiles.listed

    def of(self, namespace: str) -> tuple[Binding, ...]:
        """Those that may concern pods of a namespace: of the cluster before its own, so that nobody who may write profiles there is asked
        before the cluster's administrator; each by the names of the profiles."""
        with self._lock:
            if self._made is None:
                self._made = self._by_namespace()
            return (*self._made.get("", ()), *(self._made.get(namespace, ()) if namespace else ()))

    def _changed(self, keys: list[str]) -> None:
        with self._lock:
            self._made = None
        for key in keys:
            held = self._profiles.get(key)
            if held is not None and held.made is None:
                first = next((one for one in held.diagnostics if one.severity == "error"), None)
                self._tell(f"{key} {held.version}", f"{key} has a mistake, and is bound to whom it was before: {first}")

    def _by_namespace(self) -> dict[str, tuple[Binding, ...]]:
        found: dict[str, list[Binding]] = {}
        tests: dict[str, int] = {}
        for held in self._profiles.all():
            space = held.newest.namespace
            more = sum(len(binding.images) + len(binding.labels) for binding in held.good or ())
            if tests.get(space, 0) + more > MAX_TESTS:
                what = f"is bound to nobody: {'its namespace has' if space else 'the cluster has'} more than {MAX_TESTS} images and labels"
                self._tell(f"{space}!", f"{held.newest.key} {what}")
                continue
            tests[space] = tests.get(space, 0) + more
            found.setdefault(space, []).extend(held.good or ())
        return {space: tuple(bindings) for space, bindings in found.items()}

    def _tell(self, mark: str, what: str) -> None:
        if mark not in self._told and len(self._told) < 1024:
            self._told.add(mark)
            self._report(f"Kubernetes: {printable(what)[:500]}")


class _Request(msgspec.Struct):
    uid: str
    namespace: str = ""
    operation: str = ""
    object: msgspec.Raw = msgspec.Raw(b"null")
    old: msgspec.Raw = msgspec.field(name="oldObject", default=msgspec.Raw(b"null"))


class _Review(msgspec.Struct):
    api_version: str = msgspec.field(name="apiVersion")
    kind: str
    request: _Request


def review(data: bytes, bindings: Bindings) -> bytes:
    """The answer to an AdmissionReview of a pod. BadAnswerError where it is none."""
    asked = decode(data, _Review)
    if asked.kind != "AdmissionReview":
        raise BadAnswerError(f"{asked.kind[:60]!r} is no AdmissionReview")
    request = asked.request
    response: dict[str, Any] = {"uid": request.uid, "allowed": True}
    mine = bindings.of(request.namespace)
    if mine and request.operation in ("CREATE", "UPDATE"):
        response |= _answer(request, mine)
    return msgspec.json.encode({"apiVersion": asked.api_version, "kind": "AdmissionReview", "response": response})


def _answer(request: _Request, bindings: tuple[Binding, ...]) -> dict[str, Any]:
    pod = decode(bytes(request.object), dict[str, Any])
    old = decode(bytes(request.old), dict[str, Any] | None) if request.operation == "UPDATE" else None  # type: ignore[arg-type]
    if _containers(pod) - (_containers(old) if old else 0) > MAX_CONTAINERS:
        message = f"seccomp profiles are bound to pods of this namespace, and this one has more than {MAX_CONTAINERS} containers"
        return {"allowed": False, "status": {"code": 422, "message": message}}
    made = mutate(pod, bindings, request.namespace, old)
    response: dict[str, Any] = {}
    if made.patch:
        patch = base64.b64encode(msgspec.json.encode(made.patch)).decode()
        response |= {"patchType": "JSONPatch", "patch": patch}
    if made.warnings:
        response["warnings"] = list(made.warnings)
    return response


def _containers(pod: Mapping[str, Any]) -> int:
    spec = pod.get("spec")
    listed = [spec.get(kind) for kind in CONTAINERS] if isinstance(spec, dict) else []
    return sum(len(one) for one in listed if isinstance(one, list))
