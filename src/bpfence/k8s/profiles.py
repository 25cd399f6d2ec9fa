# SPDX-License-Identifier: Apache-2.0
"""Objects of seccomp profiles as the API server has them in, what is made of each out; and what is wrong with one by the path of its field.

Called by `install`, which makes files of nodes of them, by `bindings`, which makes of them whom they are bound to, and by `webhook`. Both
kinds are watched, in a thread each. Who may write profiles in a namespace decides nothing for nodes or for other namespaces: how many are
taken is bounded, and none names a socket of the node, to which its runtime would hand a listener over as root.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable, Container
from typing import Any, Final, Generic, NamedTuple, TypeVar

import msgspec

from bpfence.dialects.native.schema import API_VERSION
from bpfence.documents.json_values import parse
from bpfence.documents.placed import DocumentError
from bpfence.errors import Diagnostic, Location, UsageError
from bpfence.events.values import printable
from bpfence.host.kubelet import parts
from bpfence.k8s.client import Api, Page
from bpfence.k8s.objects import MAX_SPEC, NO_ROOM, PLURALS, PROFILES, PolicyObject, has_room, policies_path, policy, version_of
from bpfence.k8s.policies import MAX_DEPTH, depth_of, placed, written
from bpfence.k8s.watch import FIRST_PAUSE, Watcher
from bpfence.seccomp.check import check
from bpfence.seccomp.merge import normalised
from bpfence.seccomp.model import ProfileAction
from bpfence.seccomp.objects import ProfileObject, profile_path, read_object
from bpfence.seccomp.profile import dump, kernel_version, plain, resolve

MAX_LEFT: Final = 256
"""So many of those that there is no room for are told of."""
T = TypeVar("T")


class Read(NamedTuple):
    """`found` None: it cannot be used. Places are paths of fields."""

    found: ProfileObject | None
    diagnostics: tuple[Diagnostic, ...]


def read(one: PolicyObject) -> Read:
    """The profile of an object, and what is wrong with it: what `bpfence seccomp check` tells, but for what only its filter shows, which
    takes seconds."""
    try:
        spec = msgspec.json.decode(one.spec) if one.spec else None
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        spec = None
    if not isinstance(spec, dict) or depth_of(spec) > MAX_DEPTH:
        hint = f"write spec:, with at most {MAX_SPEC >> 10} KiB and {MAX_DEPTH} levels in it"
        return Read(None, (_wrong(one, "spec", "there is no profile, or one that is too large", hint, "missing-key"),))
    metadata = {"name": one.name, **({"namespace": one.namespace} if one.namespace else {})}
    text, paths = written({"apiVersion": API_VERSION, "kind": one.kind, "metadata": metadata, "spec": spec})
    try:
        found, diagnostics = read_object(parse(text, one.key))
        if found is not None:
            parts(found.path)
            diagnostics = [*diagnostics, *check(found.profile, quick=True)]
    except DocumentError as error:
        found, diagnostics = None, [error.diagnostic]
    except UsageError as error:
        return Read(None, (_wrong(one, "metadata.name", str(error), "give it a shorter name", "bad-value"),))
    told = [placed(diagnostic, one.key, paths) for diagnostic in dict.fromkeys(diagnostics)]
    if found is not None and one.namespace and (found.profile.listener_path or _notifies(found)):
        what = "a profile of a namespace cannot hand calls over to a socket of the node"
        told.append(_wrong(one, "spec.profile", what, "a ClusterSeccompProfile may", "listener"))
    wrong = any(diagnostic.severity == "error" for diagnostic in told)
    return Read(None if wrong else found, tuple(told))


def _wrong(one: PolicyObject, path: str, what: str, hint: str, code: str) -> Diagnostic:
    return Diagnostic(Location(f"{one.key}, {path}"), what, hint, code=code)


def _notifies(found: ProfileObject) -> bool:
    actions = [found.profile.default_action, *(rule.action for rule in found.profile.rules)]
    return ProfileAction.NOTIFY in actions


def file_of(found: ProfileObject) -> bytes:
    """The file that runtimes read: the profile as it is resolved for this machine, and the capabilities that Docker gives."""
    effective = resolve(found.profile, kernel=kernel_version(platform.release()))
    return dump(normalised(plain(effective)))


class Held(msgspec.Struct, Generic[T]):
    """An object: as it is now, without its spec, and what was made of it. `made` None: nothing could be; `good`: the last that was."""

    newest: PolicyObject
    version: str
    size: int
    diagnostics: tuple[Diagnostic, ...]
    made: T | None
    good: T | None

    @property
    def path(self) -> str:
        """Where the profile is below the kubelet's seccomp folder."""
        return profile_path(self.newest.name, self.newest.namespace)


class Profiles(Generic[T]):
    """All objects of both kinds. `convert`: what is made of one; `changed`: called, by the watches' threads, with the keys of what is new
    or gone. `node`: whose entry in a status is read."""

    def __init__(
        self,
        api: Api,
        node: str,
        convert: Callable[[ProfileObject], T],
        changed: Callable[[list[str]], None],
        report: Callable[[str], None],
        *,
        pause: float = FIRST_PAUSE,
    ) -> None:
        self._convert = convert
        self._changed = changed
        self._report = report
        self._lock = threading.Lock()
        self._held: dict[str, Held[T]] = {}
        self._left: dict[str, PolicyObject] = {}
        self._told_left = False
        self._listed: set[str] = set()
        self.first: Container[str] = ()
        """Paths of those that are taken before others, where there is no room for all."""
        self.watchers: dict[str, Watcher[PolicyObject]] = {
            kind: Watcher(
                api,
                Page(policies_path(kind)),
                lambda data, kind=kind: policy(kind, node, data),  # type: ignore[misc]
                _On(self, kind),
                title=PLURALS[kind],
                report=report,
                pause=pause,
            )
            for kind in PROFILES
        }

    def start(self) -> None:
        """Begin. RuntimeError where there is no room for a thread."""
        for watcher in self.watchers.values():
            watcher.start()

    def close(self) -> None:
        """End the threads."""
        for watcher in self.watchers.values():
            watcher.close()

    @property
    def listed(self) -> bool:
        """Whether all of both kinds were told, or of too many as many as are read."""
        return all(self.knows(kind) or self.watchers[kind].listed.is_set() for kind in PROFILES)

    def knows(self, kind: str) -> bool:
        """Whether all of a kind were told: what has not been told of is not there."""
        return kind in self._listed

    def get(self, key: str) -> Held[T] | None:
        """One of those that are taken."""
        with self._lock:
            return self._held.get(key)

    def all(self) -> list[Held[T]]:
        """Those that are taken, by their kinds and names, those of the cluster first."""
        with self._lock:
            return sorted(self._held.values(), key=lambda held: (bool(held.newest.namespace), held.newest.namespace, held.newest.name))

    def left(self, key: str) -> PolicyObject | None:
        """One of those that there was no room for."""
        with self._lock:
            return self._left.get(key)

    # ---- the watches ----

    def listed_now(self, kind: str, found: list[PolicyObject]) -> None:
        """These of a kind there are."""
        there = {one.key for one in found}
        with self._lock:
            gone = [key for key, held in self._held.items() if held.newest.kind == kind and key not in there]
            for key in gone:
                del self._held[key]
            for key in [key for key, one in self._left.items() if one.kind == kind]:
                del self._left[key]
            before = set(self._held)
        found = sorted(found, key=lambda one: (one.key not in before, profile_path(one.name, one.namespace) not in self.first))
        changed = [*gone, *(one.key for one in found if self._hold(one))]
        self._listed.add(kind)
        self._changed(changed)

    def put(self, one: PolicyObject) -> None:
        """One is new, or has changed."""
        if self._hold(one):
            self._changed([one.key])

    def gone(self, one: PolicyObject) -> None:
        """One is no more."""
        with self._lock:
            self._left.pop(one.key, None)
            freed = self._held.pop(one.key, None) is not None and any(other.kind == one.kind for other in self._left.values())
        if freed:
            self.watchers[one.kind].again()
        self._changed([one.key])

    def _hold(self, one: PolicyObject) -> bool:
        """Keep one as it is now. Whether there is something to do about it. Called by the thread that watches its kind."""
        bare, version = msgspec.structs.replace(one, spec=b""), version_of(one)
        with self._lock:
            held = self._held.get(one.key)
            if held is not None and held.newest.uid != one.uid:
                held = None  # another by the same name
            if held is not None and held.version == version:
                lost = one.own is None and held.newest.own is not None  # somebody has taken this node's entry out
                held.newest = bare
                return lost
            if not self._room(one):
                if held is None:
                    self._held.pop(one.key, None)
                    return self._leave(bare)
                why = (_wrong(one, "metadata", f"there is no room for this change: {NO_ROOM}", "remove others", "no-room"),)
                self._held[one.key] = Held(bare, version, held.size, why, None, held.good)
                return True
        made, diagnostics = self._made(one)  # takes its time, for which nobody waits
        good = made if made is not None else held.good if held is not None else None
        with self._lock:
            self._left.pop(one.key, None)
            self._held[one.key] = Held(bare, version, len(one.spec), diagnostics, made, good)
        return True

    def _room(self, one: PolicyObject) -> bool:
        beside = ((key, held) for key, held in self._held.items() if held.newest.kind == one.kind and key != one.key)
        return has_room(((held.newest.namespace, held.size) for _, held in beside), one.namespace, len(one.spec))

    def _leave(self, one: PolicyObject) -> bool:
        if not self._told_left:
            self._told_left = True
            self._report(f"Kubernetes: {one.key} is left out, as others may be: {NO_ROOM}")
        new = one.key not in self._left and len(self._left) < MAX_LEFT
        if new or one.key in self._left:
            self._left[one.key] = one
        return new

    def _made(self, one: PolicyObject) -> tuple[T | None, tuple[Diagnostic, ...]]:
        try:
            found, diagnostics = read(one)
            return (self._convert(found) if found is not None else None), diagnostics
        except Exception as error:  # whatever is written in one must not end the watch
            text = f"{type(error).__name__}: {printable(str(error))[:200]}. This is a fault of bpfence; please report it"
            return None, (_wrong(one, "spec", text, "", "fault"),)


class _On(NamedTuple):
    """What is done with the objects of one watch."""

    profiles: Profiles[Any]
    kind: str

    def all(self, objects: list[PolicyObject]) -> None:
        self.profiles.listed_now(self.kind, objects)

    def put(self, one: PolicyObject) -> None:
        self.profiles.put(one)

    def gone(self, one: PolicyObject) -> None:
        self.profiles.gone(one)
