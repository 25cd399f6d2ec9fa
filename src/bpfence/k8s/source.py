# SPDX-License-Identifier: Apache-2.0
"""A cluster in, the policies of this node and the facts of its pods out: what `bpfence run --kubernetes` gives to the agent.

For the agent a `Cluster` is a feed of policies (`agent.feed`), and its `pods` a source of facts for the registry. Both kinds of policies,
this node's pods, and namespaces are watched, in a thread each (`watch`); their status is written in another (`status`), and a file of what
is known in one more (`cache`). Nothing that the agent's loop calls waits for any of them. While the API server is away all that is known
stays as it is.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Generic, NamedTuple, TypeVar

import msgspec

from bpfence.agent.feed import Candidate, Offer, Outcome
from bpfence.dialects.native.dialect import NativeRules
from bpfence.errors import Diagnostic, Location
from bpfence.events.values import printable
from bpfence.host.kubelet import SeccompFolder
from bpfence.k8s import cache, objects
from bpfence.k8s.client import Api, Page
from bpfence.k8s.install import Installer
from bpfence.k8s.objects import MAX_OBJECTS, NO_ROOM, NodeStatus, PolicyObject, has_room, version_of
from bpfence.k8s.policies import Read, placed, read
from bpfence.k8s.status import Report, Writer, findings_of, now
from bpfence.k8s.watch import FIRST_PAUSE, Watcher
from bpfence.policy import PolicySet
from bpfence.workloads.model import Namespace, Pod
from bpfence.workloads.registry import Registry

FIRST_SECONDS: Final = 5.0
"""How long an agent that starts waits for the API server, before it goes on with what was known."""
MAX_LEFT: Final = 256
"""So many of the policies that there is no room for are told of."""
MAX_PODS: Final = 2048
MAX_NAMESPACES: Final = 16384
MAX_WARNED: Final = 64
"""So many of the annotations that have no effect are told of."""
V = TypeVar("V")


class On(NamedTuple, Generic[V]):
    """What is done with the objects of a watch."""

    all: Callable[[list[V]], None]
    put: Callable[[V], None]
    gone: Callable[[V], None]


class _Held(msgspec.Struct):
    """A policy: as it is now, and as it was last in force."""

    newest: PolicyObject
    made: Read
    good: PolicyObject | None = None
    good_made: Read | None = None
    told: str = ""
    status: NodeStatus | None = None

    @property
    def is_good(self) -> bool:
        """Whether what it is now was in force."""
        return self.good is not None and version_of(self.good) == version_of(self.newest)


class Cluster:
    """One node's view of its cluster. `report` takes messages for people; `path`: of the file of what is known, None: none is kept.

    `folder`: the kubelet's, for seccomp profiles, None: none are put in place; `pause`: seconds after a first failure; `languages`: by
    name, the other languages whose objects are watched, too, each with its options.
    """

    def __init__(
        self,
        api: Api,
        node: str,
        report: Callable[[str], None],
        *,
        path: Path | None,
        folder: Path | None = None,
        pause: float = FIRST_PAUSE,
        languages: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._api = api
        self._node = node
        self._report = report
        self._path = path
        self._lock = threading.RLock()
        self._policies: dict[str, _Held] = {}
        self._pods: dict[str, Pod] = {}
        self._namespaces: dict[str, Namespace] = {}
        self._registry: Registry | None = None
        self._joining = threading.Lock()
        self._changed: Callable[[], None] = lambda: None
        self._closed = threading.Event()
        self._keeper = cache.Keeper(path, self.known, report)
        self._asked = self._full = False
        self._left: dict[str, PolicyObject] = {}
        self._warned: set[str] = set()
        self.pods = Pods(self)
        self._writer = Writer(api, node, report, before=self._keeper.save, pause=2 * pause)
        self._folder = folder
        self._installer = (
            Installer(api, node, SeccompFolder(folder), self._writer, self._keeper, report, pause=pause) if folder is not None else None
        )
        self._languages = languages
        self._of_policies = {kind: self._watch_policies(kind, pause) for kind in objects.POLICIES}
        others = {kind: self._watch_policies(kind, pause) for kind, (name, _) in objects.LANGUAGES.items() if name in languages}
        self._watchers: list[Watcher[Any]] = [
            *self._of_policies.values(),
            Watcher(
                api, objects.namespaces_page(), objects.namespace, On(self._all_namespaces, self._put_namespace, self._namespace_gone),
                title="namespaces", report=report, pause=pause,
            ),
            Watcher(
                api, objects.pods_page(node), objects.pod, On(self._all_pods, self._put_pod, self._pod_gone),
                title="pods of this node", report=report, pause=pause,
            ),
            *others.values(),  # last: where their kinds are not there, nothing else waits for them
        ]  # fmt: skip
        self._of_policies |= others

    def _watch_policies(self, kind: str, pause: float) -> Watcher[PolicyObject]:
        on = On(lambda found: self._all_policies(kind, found), self._put_policy, self._policy_gone)
        page = Page(objects.policies_path(kind))
        return Watcher(
            self._api,
            page,
            lambda data: objects.policy(kind, self._node, data),
            on,
            title=objects.plural(kind),
            report=self._report,
            pause=pause,
        )

    # ---- the agent ----

    def ask(self, seconds: float = FIRST_SECONDS) -> None:
        """What was known, and where the API server answers in time what there is."""
        if self._asked:
            return
        self._asked = True
        self._restore()
        self._make_folder()
        deadline = time.monotonic() + seconds
        for watcher in self._watchers:
            if not watcher.list_once(max(deadline - time.monotonic(), 0.1)):
                self._report(f"Kubernetes: {len(self._policies)} policies and {len(self._pods)} pods are known from before")
                return

    def start(self, changed: Callable[[], None]) -> None:
        """Go on in threads."""
        self._changed = changed
        try:
            for watcher in self._watchers:
                watcher.start()
            self._writer.start()
            if self._installer is not None:
                self._installer.start()
            self._keeper.start()
        except RuntimeError as error:  # no room for a thread: what is in force stays
            self._report(f"Kubernetes: what changes there is not heard of until a restart: {error}")

    def offers(self) -> Sequence[Offer]:
        """Every policy as it is and as it was last in force, those with a mistake only as they were."""
        with self._lock:
            return [Offer(key, tuple(_candidates(held))) for key, held in sorted(self._policies.items())]

    def told(self, outcomes: Mapping[str, Outcome]) -> None:
        """Write it into the status of each policy that is as it was when it was offered."""
        with self._lock:
            for key, outcome in outcomes.items():
                held = self._policies.get(key)
                if held is not None:
                    self._take_outcome(key, held, outcome)
        self._keeper.changed()

    def folders(self) -> Sequence[Path]:
        """Where the file of what is known is."""
        return [*([self._path.parent] if self._path is not None else []), *([self._folder] if self._folder is not None else [])]

    def close(self) -> None:
        """End all threads."""
        if self._closed.is_set():
            return
        self._closed.set()
        for watcher in self._watchers:
            watcher.close()
        if self._installer is not None:
            self._installer.close()
        self._writer.close()
        self._keeper.close()

    # ---- policies ----

    def _take_outcome(self, key: str, held: _Held, outcome: Outcome) -> None:
        newest, version = held.newest, version_of(held.newest)
        if held.made.can_be and outcome.version != version and version not in outcome.errors:
            return  # it has changed since; another word comes
        compiled = (*outcome.errors.get(version, ()), *outcome.warnings)
        found = [*held.made.diagnostics, *(placed(one, key, held.made.paths) if held.made.paths else one for one in compiled)]
        if outcome.version == version:
            held.good, held.good_made = newest, held.made
        generation = held.good.generation if held.good is not None and outcome.version == version_of(held.good) else 0
        status = held.status = NodeStatus(self._node, newest.generation, generation, now(), findings_of(found, key))
        if outcome.version != version and held.told != version:
            held.told = version
            stays = f"; generation {generation} of it stays in force" if generation else ""
            first = next((one for one in found if one.severity == "error"), None)
            self._report(f"Kubernetes: {key} is refused: {first if first is not None else 'no reason is known'}{stays}")
        self._write(newest, status)

    def _write(self, one: PolicyObject, status: NodeStatus) -> None:
        """Have a status written that is ours to write, where it says something else than what is there."""
        same = one.own is not None and msgspec.structs.replace(one.own, changed="") == msgspec.structs.replace(status, changed="")
        if one.kind in objects.POLICIES and not same:
            self._writer.put(one.key, Report(one, status))

    def _all_policies(self, kind: str, found: list[PolicyObject]) -> None:
        there = {one.key for one in found}
        with self._lock:
            for key in [key for key, held in self._policies.items() if held.newest.kind == kind and key not in there]:
                self._drop(key)
            for key in [key for key, one in self._left.items() if one.kind == kind]:
                del self._left[key]
            known = set(self._policies)
        for one in sorted(found, key=lambda one: one.key not in known):
            self._hold(one)
        self._tell()

    def _put_policy(self, one: PolicyObject) -> None:
        if self._hold(one):
            self._tell()

    def _policy_gone(self, one: PolicyObject) -> None:
        with self._lock:
            self._left.pop(one.key, None)
            if self._drop(one.key) and any(other.kind == one.kind for other in self._left.values()):
                self._of_policies[one.kind].again()  # there is room for one of them
        self._tell()

    def _tell(self) -> None:
        self._keeper.changed()
        self._changed()

    def _drop(self, key: str) -> bool:
        self._writer.drop(key)
        return self._policies.pop(key, None) is not None

    def _hold(self, one: PolicyObject) -> bool:
        """Keep a policy as it is now. Whether it says something else than before. Called by the thread that watches its kind."""
        with self._lock:
            held = self._policies.get(one.key)
            if held is not None and held.newest.uid != one.uid:
                self._drop(one.key)  # another by the same name
                held = None
            if held is not None and version_of(held.newest) == version_of(one):
                if one.own is None and held.newest.own is not None and held.status is not None:
                    self._write(one, held.status)  # somebody has taken this node's entry out
                held.newest = one
                return False
            if held is None and not self._has_room(one):
                self._leave(one)
                return False
            self._left.pop(one.key, None)
        made = self._read(one)  # takes its time, for which nobody waits
        with self._lock:
            if held is None:
                self._policies[one.key] = _Held(one, made)
            else:
                held.newest, held.made = one, made
        return True

    def _has_room(self, one: PolicyObject) -> bool:
        beside = [held.newest for held in self._policies.values() if held.newest.kind == one.kind]
        return has_room(((other.namespace, len(other.spec)) for other in beside), one.namespace, len(one.spec))

    def _leave(self, one: PolicyObject) -> None:
        """There is no room for it, which its status says."""
        if not self._full:
            self._full = True
            self._report(f"Kubernetes: {one.key} is left out, as others may be: {NO_ROOM}")
        if one.key not in self._left and len(self._left) >= MAX_LEFT:
            return
        self._left[one.key] = msgspec.structs.replace(one, spec=b"")
        why = Diagnostic(Location(f"{one.key}, metadata"), f"it is left out: {NO_ROOM}", "remove others", code="no-room")
        status = NodeStatus(self._node, one.generation, 0, now(), findings_of((why,), one.key))
        self._write(one, status)

    def _read(self, one: PolicyObject) -> Read:
        """A policy read; whatever is written in it must not end the watch."""
        try:
            return read(one, self._languages)
        except Exception as error:
            text = f"{type(error).__name__}: {printable(str(error))[:200]}. This is a fault of bpfence; please report it"
            return Read(None, (Diagnostic(Location(f"{one.key}, spec"), text),))

    # ---- pods ----

    def join(self, registry: Registry) -> None:
        """Tell a registry what is known of pods, from now on."""
        self._registry = registry
        self.ask()
        self._join(None)

    def _join(self, uids: Iterable[str] | None, gone: Iterable[str] = ()) -> None:
        """Tell it of these pods; None: of all."""
        with self._joining:  # so that what is told later is newer
            with self._lock:
                chosen = self._pods if uids is None else {uid: self._pods[uid] for uid in uids if uid in self._pods}
                told: dict[str, Pod | None] = dict.fromkeys(gone)
                told |= {uid: _in_namespace(pod, self._namespaces.get(pod.namespace)) for uid, pod in chosen.items()}
            if self._registry is not None:
                self._registry.pods(told)
        self._keeper.changed()

    def _all_pods(self, found: list[tuple[str, Pod]]) -> None:
        with self._lock:
            before, self._pods = self._pods, dict(found[:MAX_PODS])
            gone = before.keys() - self._pods.keys()
        self._join(None, gone)

    def _put_pod(self, found: tuple[str, Pod]) -> None:
        uid, pod = found
        with self._lock:
            if self._pods.get(uid) == pod or (uid not in self._pods and len(self._pods) >= MAX_PODS):
                return
            self._pods[uid] = pod
        self._join([uid])

    def _pod_gone(self, found: tuple[str, Pod]) -> None:
        with self._lock:
            self._pods.pop(found[0], None)
        self._join((), [found[0]])

    def _all_namespaces(self, found: list[tuple[str, Namespace]]) -> None:
        with self._lock:
            self._namespaces = dict(found[:MAX_NAMESPACES])
        self._warn(self._namespaces)
        self._join(None)

    def _put_namespace(self, found: tuple[str, Namespace]) -> None:
        name, namespace = found
        with self._lock:
            if self._namespaces.get(name) == namespace or (name not in self._namespaces and len(self._namespaces) >= MAX_NAMESPACES):
                return
            self._namespaces[name] = namespace
            uids = [uid for uid, pod in self._pods.items() if pod.namespace == name]
        self._warn({name: namespace})
        self._join(uids)

    def _warn(self, found: Mapping[str, Namespace]) -> None:
        """Tell of annotations without effect, of each once."""
        for text in (text for name, one in found.items() for text in objects.without_effect(name, one)):
            if text not in self._warned and len(self._warned) < MAX_WARNED:
                self._warned.add(text)
                self._report(f"Kubernetes: {printable(text)}")

    def _namespace_gone(self, found: tuple[str, Namespace]) -> None:
        with self._lock:
            self._namespaces.pop(found[0], None)

    # ---- what is kept across restarts ----

    def known(self) -> cache.Known:
        """All that is kept."""
        with self._lock:
            kept = [cache.Kept(held.newest, held.good if not held.is_good else None) for held in self._policies.values()]
            spaces = {pod.namespace for pod in self._pods.values()}
            namespaces = {name: self._namespaces[name] for name in sorted(spaces) if name in self._namespaces}
            files = self._installer.record() if self._installer is not None else {}
            return cache.Known(self._node, kept, dict(self._pods), namespaces, files)

    def _restore(self) -> None:
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            known = cache.load(self._path, self._node)
        except OSError as error:
            self._report(f"Kubernetes: what was known before cannot be read: {error}")
            return
        with self._lock:
            self._pods, self._namespaces = known.pods, known.namespaces
            if self._installer is not None:
                self._installer.restore(known.profiles)
            for kept in known.policies[: 2 * MAX_OBJECTS]:
                if kept.newest.kind not in self._of_policies:
                    continue
                held = _Held(kept.newest, self._read(kept.newest))
                if kept.good is not None:
                    held.good, held.good_made = kept.good, self._read(kept.good)
                self._policies[kept.newest.key] = held

    def _make_folder(self) -> None:
        """The kubelet's seccomp folder, before the right to make it is given up."""
        if self._folder is not None and self._folder.parent.is_dir():
            with contextlib.suppress(OSError):  # the status of profiles says why they are not there
                self._folder.mkdir(mode=0o755, exist_ok=True)


class Pods:
    """The facts of pods as a source of the registry: see `workloads.registry.Sources`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def ask(self, registry: Registry) -> None:
        """Tell it of the pods that there are."""
        self._cluster.join(registry)

    def start(self, registry: Registry) -> None:
        """The threads are those of the cluster, which `Cluster.start` begins."""

    def close(self) -> None:
        """And which this ends."""
        self._cluster.close()


def _in_namespace(pod: Pod, namespace: Namespace | None) -> Pod:
    """A pod with what is known of its namespace."""
    if namespace is None:
        return pod
    return msgspec.structs.replace(pod, namespace_labels=namespace.labels, namespace_annotations=namespace.annotations)


def _candidates(held: _Held) -> Iterator[Candidate]:
    yield from _candidate(held.newest, held.made)
    if held.good is not None and not held.is_good and held.good_made is not None:
        yield from _candidate(held.good, held.good_made)


def _candidate(one: PolicyObject, made: Read) -> Iterator[Candidate]:
    if made.policy is not None:
        yield Candidate(version_of(one), NativeRules(PolicySet((made.policy,))), made.policy.location)
    elif made.rules is not None:
        yield Candidate(version_of(one), made.rules, Location(f"{one.key}, spec"), objects.LANGUAGES[one.kind][0])
