# SPDX-License-Identifier: Apache-2.0
"""What sources say of containers in, the class of each in the kernel out; and who a cgroup belongs to.

Sources call it from their own threads: `found` with all that one sees, `register` with one that is about to start. The agent calls the
rest. A container is told apart by its cgroup, of which the kernel knows the number; what is known of it is what all sources say together. A
container within another is in the classes of both. Nothing here waits for a source, and what the agent's loop calls waits for nobody longer
than a swap of tables takes.
"""

from __future__ import annotations

import math
import operator
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, NamedTuple, Protocol

import msgspec

from bpfence import abi
from bpfence.compiler.workloads import MAX_CLASSES, Class, numbered_classes, selectors
from bpfence.conditions.containers import container_of
from bpfence.errors import KernelError
from bpfence.policy import PolicySet, Selector, with_doubts
from bpfence.workloads.cgroups import pod_uid
from bpfence.workloads.model import Container, Pod
from bpfence.workloads.select import described, selected

HOOK: Final = "hook"
"""The source that tells of containers before their first instruction. It does not tell of their end."""
_RANK: Final = {source: rank for rank, source in enumerate(("cgroups", "bundles", HOOK))}
"""Who is believed less, first: the word of an engine, which knows of changes, comes last."""
MAX_CONTAINERS: Final = 8192
"""Half of what the kernel's map holds: what is gone leaves it a moment later."""
MAX_PODS: Final = 4096
"""Of one node; kubelets run a few hundred at most."""
MAX_TEXT: Final = 4096
KEPT_CLASSES: Final = 256
"""Of the classes in force so many are kept in the next tables of the same selectors, though no container has them just now."""
MAX_PAST: Final = 1024
PAST_SECONDS: Final = 60.0
"""So many containers that have ended are remembered for so long, for records of them that have not been read yet."""
REGISTER_SECONDS: Final = 1.5
"""How long `register` waits for a swap, or for tables with a new class, where nobody says how long the container may wait."""


class Target(Protocol):
    """What the registry needs of `kernel.engine.Engine`."""

    def put_workload(self, cgroup: int, number: int) -> None: ...
    def drop_workload(self, cgroup: int) -> None: ...


class Sources(Protocol):
    """Where the agent's registry hears of containers from."""

    def ask(self, registry: Registry) -> None:
        """Tell it of all containers that run, before policies are in force. Comes back in a bounded time, whoever does not answer."""

    def start(self, registry: Registry) -> None:
        """Tell it of changes from now on, in threads. The agent has given up its privileges, and policies are in force."""

    def close(self) -> None:
        """Tell it of nothing more."""


class Entry(NamedTuple):
    """A container as all sources know it, and its class.

    `number`: of the class in the tables in force; 0 without tables. `waits`: these have none for it. Until tables with one are made, what
    the container had before stays in force, or nothing is known of it.
    """

    container: Container
    selected: Class
    number: int
    waits: bool = False


class Registry:
    """All containers of this machine. `version` grows when something about them changes.

    `changed` is called, in any thread, when `due` may have become true. `identify`: the number of a cgroup by its path, 0 where there is
    none.
    """

    def __init__(self, changed: Callable[[], None], identify: Callable[[str], int], report: Callable[[str], None] = lambda _: None) -> None:
        self._changed = changed
        self._identify = identify
        self._report = report
        self._lock = threading.Condition(threading.RLock())
        self._told: dict[str, dict[str, Container]] = {}
        self._pods: dict[str, Pod] = {}
        self._ended_pods: set[str] = set()
        self._entries: dict[str, Entry] = {}
        self._past: dict[str, tuple[float, Container]] = {}
        self._paths: dict[int, tuple[str, float]] = {}
        self._paths_version = 0
        self._selectors: frozenset[Selector] = frozenset()
        self._chosen: dict[str, tuple[tuple[frozenset[Selector], tuple[Container, ...], Class], ...]] = {}
        self._numbers: dict[Class, int] = {}
        self._target: Target | None = None
        self._stale = False
        self._waiting = 0
        self.version = 0
        self._given_up: frozenset[Class] = frozenset()
        self._full = False

    # ---- sources ----

    def found(self, source: str, containers: Iterable[Container] | None) -> None:
        """All containers that a source sees now; None: it could not be asked, and what it said before stays."""
        if containers is None:
            return
        with self._lock:
            known = self._told.get(source, {})
            now: dict[str, Container] = {}
            for container in containers:
                if len(now) < MAX_CONTAINERS and (kept := self._kept(container)) is not None:
                    now[kept.cgroup] = kept
            self._told[source] = now
            gone = self._ended() if source != HOOK else ()
            self._update({*known, *now, *gone})

    def pods(self, changed: Mapping[str, Pod | None]) -> None:
        """What the API server says of pods, by their uids, which counts before anybody else's word; but where a runtime knows the pod by
        another name, it is another pod. None: it has that pod no more. Of one whose containers still run, what was known stays."""
        with self._lock:
            for uid, pod in changed.items():
                if pod is None:
                    self._ended_pods.add(uid)
                elif uid in self._pods or len(self._pods) < MAX_PODS:
                    self._pods[uid] = pod
                    self._ended_pods.discard(uid)
            of = {path: uid_of(entry.container) for path, entry in self._entries.items()}
            for uid in self._ended_pods.difference(of.values()):
                self._ended_pods.discard(uid)
                self._pods.pop(uid, None)
            self._update({path for path, uid in of.items() if uid in changed})

    def register(self, container: Container, seconds: float = REGISTER_SECONDS) -> None:
        """A container that is about to start. When this returns its class is in force for its first program, and for who executes that;
        KernelError where that was not possible in time: then it may be unknown.
        """
        deadline = time.monotonic() + seconds
        with self._lock:
            kept = self._kept(container)
            if kept is None:
                raise KernelError(f"the container {container.id[:64]!r} has no cgroup of its own that a class could be put on")
            self._told.setdefault(HOOK, {})[kept.cgroup] = kept
            self._waiting += 1
            try:
                self._update({kept.cgroup})
                while not self._in_force(kept.cgroup):
                    if not self._lock.wait(deadline - time.monotonic()):
                        raise KernelError("the container's class could not be put in force in time")
            finally:
                self._waiting -= 1

    def _in_force(self, path: str) -> bool:
        """Whether what a container's processes may do is decided by its class. KernelError where that will not be."""
        entry = self._entries.get(path)
        if entry is None or not entry.number:
            raise KernelError("there is no room for this container" if self._target is not None else "no policies are in force yet")
        if entry.waits and entry.selected in self._given_up:
            raise KernelError("the tables cannot have a class for this container")
        # Its first process has been at work since it came to the cgroup, and is known as it was then until the next swap.
        return not entry.waits and not self._stale

    def _kept(self, container: Container) -> Container | None:
        """A container that can have a class; with the number of its cgroup. None for others, and for what is larger than anything real."""
        path = container.cgroup
        texts = (container.id, path, container.name, container.image, *(container.labels or {}), *(container.labels or {}).values())
        levels = path.count("/")
        if not path.startswith("/") or path == "/" or path.endswith("/") or levels > abi.WORKLOAD_LEVELS or max(map(len, texts)) > MAX_TEXT:
            return None
        number = container.cgroup_id or self._identify(path)
        return msgspec.structs.replace(container, cgroup_id=number) if number else None

    def _ended(self) -> list[str]:
        """Containers that the hook has told of, and whose cgroups are gone, or are others by the same name now."""
        hooked = self._told.get(HOOK, {})
        ended = [path for path, one in hooked.items() if self._identify(path) != one.cgroup_id]
        for path in ended:
            del hooked[path]
        return ended

    def _current(self, path: str, told: list[Container]) -> list[Container]:
        """Of what was told of a cgroup, that which is about the one that has this path now, where it is about several."""
        if len({one.cgroup_id for one in told}) < 2:
            return told
        number = self._identify(path)
        return [one for one in told if one.cgroup_id == number] if number else told

    def _room_for(self, container: Container) -> str | None:
        """The cgroup of a container of which nothing is known but its path, taken away for one that is known; None: there is no room.

        Whoever may make cgroups can make many that look like containers. What is known by its path alone is treated as that, registered or
        not.
        """
        bare = (path for path, entry in self._entries.items() if not described(entry.container))
        found = next(bare, None) if described(container) else None
        if found is not None:
            self._drop(found, self._entries[found])
        return found

    def _update(self, paths: set[str]) -> None:
        """Look again at what the sources say of these cgroups, and at what is below them."""
        changed = set()
        sources = [told for _, told in sorted(self._told.items(), key=lambda item: _RANK.get(item[0], len(_RANK)))]
        for path in paths:
            entry, container = self._entries.get(path), joined(self._current(path, [told[path] for told in sources if path in told]))
            pod = self._pods.get(uid_of(container)) if container is not None else None
            if container is not None and pod is not None and not contradicted(container.pod, pod):
                container = msgspec.structs.replace(container, pod=pod)
            if container is None:
                if entry is not None:
                    self._drop(path, entry)
                    changed.add(path)
            elif entry is None or entry.container != container:
                if entry is None and len(self._entries) >= MAX_CONTAINERS:
                    self._tell_full(f"there are more than {MAX_CONTAINERS}")
                    gone = self._room_for(container)
                    if gone is None:
                        continue
                    changed.add(gone)
                if entry is not None and entry.container.cgroup_id != container.cgroup_id:
                    self._drop(path, entry)
                    entry = None
                self._entries[path] = Entry(container, entry.selected if entry else frozenset(), entry.number if entry else 0)
                changed.add(path)
        self.version += bool(changed)
        for path in sorted(self._entries):
            if path in changed or any(above in changed for above in _above(path)):
                self._classify(path)
        if self.due:
            self._changed()

    def _drop(self, path: str, entry: Entry) -> None:
        del self._entries[path]
        self._chosen.pop(path, None)
        self._past.pop(path, None)  # in the order in which they ended
        self._past[path] = time.monotonic(), entry.container
        if len(self._past) > MAX_PAST:
            del self._past[next(iter(self._past))]
        if self._target is not None and entry.number:
            self._target.drop_workload(entry.container.cgroup_id)
            # Whoever is left in it is in no known container any more.
            self._stale |= self._identify(path) == entry.container.cgroup_id and not self._as_untold(path, entry.selected)

    def _classify(self, path: str) -> None:
        entry = self._entries[path]
        chosen = self._select(path, self._selectors)
        number, waits = self._number(entry, chosen, self._numbers) if self._target is not None else (0, False)
        if self._target is not None and number != entry.number:
            number = self._put(entry.container.cgroup_id, number)
            if entry.number or not self._as_untold(path, chosen):
                self._stale = True
        self._entries[path] = entry._replace(selected=chosen, number=number, waits=waits)

    def _number(self, entry: Entry, chosen: Class, numbers: Mapping[Class, int]) -> tuple[int, bool]:
        """The number of a class in tables, and whether it waits for one; where no policy selects containers, that of any container. As with
        policies, what was in force stays until what follows it can be: a container of which more becomes known is not unknown meanwhile."""
        if not numbers:
            return abi.WORKLOAD_FIRST, False
        if chosen in numbers:
            return numbers[chosen], False
        stays = numbers == self._numbers and entry.number >= abi.WORKLOAD_FIRST
        return (entry.number if stays else abi.WORKLOAD_PENDING), True

    def _put(self, cgroup: int, number: int) -> int:
        assert self._target is not None
        try:
            self._target.put_workload(cgroup, number)
        except KernelError as error:
            self._tell_full(str(error))
            return 0
        return number

    def _tell_full(self, why: str) -> None:
        if not self._full:
            self._report(f"not all containers have room in the kernel; those that have none are unknown: {why}")
        self._full = True

    def _select(self, path: str, known: frozenset[Selector]) -> Class:
        """The selectors of a container, and of those that it is within. Where something is known of one of them, those known by their paths
        alone count for nothing: a container that may make cgroups chooses what these look like, and must not become unknown by it.

        Kept for two sets of selectors: those in force, and those of the tables that are being made.
        """
        within = tuple(self._entries[one].container for one in (path, *_above(path)) if one in self._entries)
        kept = self._chosen.get(path, ())
        for asked, of, chosen in kept:
            if asked == known and len(of) == len(within) and all(map(operator.is_, of, within)):
                return chosen
        chosen = frozenset().union(*(selected(one, known) for one in [one for one in within if described(one)] or within))
        self._chosen[path] = ((known, within, chosen), *kept[:1])
        return chosen

    def _as_untold(self, path: str, chosen: Class) -> bool:
        """Whether policies treat a container as they do one that nobody has told of."""
        return container_of(path) is not None and chosen == {selector for selector in self._selectors if selector.unknown}

    # ---- readers ----

    def containers(self) -> list[Container]:
        """All that are known, by their cgroups."""
        with self._lock:
            return [self._entries[path].container for path in sorted(self._entries)]

    def entries(self) -> list[Entry]:
        """The same with their classes."""
        with self._lock:
            return [self._entries[path] for path in sorted(self._entries)]

    def of(self, cgroup: str) -> Container | None:
        """The container that a cgroup belongs to: the innermost of which more is known than its path, else the innermost; None for none."""
        with self._lock:
            found = [self._entries[path].container for path in (cgroup, *_above(cgroup)) if path in self._entries]
        return next((one for one in found if described(one)), found[0] if found else None)

    def lately(self, cgroup: str) -> Container | None:
        """The same; where it belongs to none any more, the one that it did until a moment ago, for what is told of it late."""
        with self._lock:
            found = self.of(cgroup)
            if found is None:
                since = time.monotonic() - PAST_SECONDS
                ended = (self._past.get(path, (0.0, None)) for path in (cgroup, *_above(cgroup)))
                found = next((one for when, one in ended if when > since), None)
        return found

    def path_of(self, number: int) -> str | None:
        """The cgroup of a container by its number, also where it is gone and that container was known until a moment ago."""
        with self._lock:
            if self._paths_version != self.version:
                self._paths_version = self.version
                ended = {one.cgroup_id: (path, when + PAST_SECONDS) for path, (when, one) in self._past.items()}
                self._paths = ended | {entry.container.cgroup_id: (path, math.inf) for path, entry in self._entries.items()}
            path, until = self._paths.get(number, (None, 0.0))
            return path if time.monotonic() < until else None

    # ---- the agent ----

    @property
    def due(self) -> bool:
        """Whether the tables in force must be swapped, or made anew, for what has changed."""
        return self._stale or self.wants_classes

    @property
    def urgent(self) -> bool:
        """Whether the start of a container waits for that."""
        return self._waiting > 0

    @property
    def wants_classes(self) -> bool:
        """Whether containers wait for tables that know their class."""
        with self._lock:
            return any(entry.waits and entry.selected not in self._given_up for entry in self._entries.values())

    def give_up(self) -> None:
        """Tables with the classes that are waited for cannot be had: their containers stay unknown."""
        with self._lock:
            self._given_up |= {entry.selected for entry in self._entries.values() if entry.waits}
            self._lock.notify_all()

    def seen(self, policies: PolicySet) -> list[Class]:
        """The classes of containers that there are for tables of these policies, and of some that have been."""
        known = frozenset(selectors(with_doubts(policies)))
        now: dict[Class, None] = {}
        with self._lock:
            paths = list(self._entries)
        for path in paths:  # one by one, so that nobody waits for long
            with self._lock:
                if path in self._entries:
                    now[self._select(path, known)] = None
        with self._lock:
            return [*now, *list(self._numbers)[:KEPT_CLASSES]]

    @contextmanager
    def swapping(self, classes: tuple[Class, ...]) -> Iterator[Mapping[int, int]]:
        """The class of every cgroup in tables that know these classes, for a swap that happens within. Where it raises, all stays."""
        known: frozenset[Selector] = frozenset().union(*classes)
        numbers = numbered_classes(classes)
        with self._lock:
            new = {}
            for path, entry in self._entries.items():
                chosen = self._select(path, known)
                number, waits = self._number(entry, chosen, numbers)
                new[path] = entry._replace(selected=chosen, number=number, waits=waits)
            yield {entry.container.cgroup_id: entry.number for entry in new.values()}
            if numbers != self._numbers:
                self._given_up = frozenset()
            self._entries, self._selectors, self._numbers, self._stale = new, known, numbers, False
            if len(classes) >= MAX_CLASSES:
                self.give_up()  # there will be no more
            self._lock.notify_all()

    def use(self, target: Target | None) -> None:
        """Write classes to an engine from now on; None: to none. Its next swap gives it all of them."""
        with self._lock:
            self._target = target
            self._full = False
            if target is None:
                self._entries = {path: entry._replace(number=0, waits=False) for path, entry in self._entries.items()}


def _above(path: str) -> Iterator[str]:
    """The cgroups above one, innermost first, without the root."""
    while path := path.rpartition("/")[0]:
        yield path


def uid_of(container: Container) -> str:
    """The uid of the pod of a container: by its cgroup, where that tells it, else as its runtime says. "": none."""
    return pod_uid(container.cgroup) or (container.pod.uid if container.pod is not None else "")


def contradicted(told: Pod | None, pod: Pod) -> bool:
    """Whether a runtime has told another name or namespace of a pod by its uid than the API server has. Runtimes have them from kubelet; in
    the API server whoever makes a pod may have it pass for a static one of its node."""
    return told is not None and told.uid == pod.uid and (told.name not in ("", pod.name) or told.namespace not in ("", pod.namespace))


def joined(told: Iterable[Container]) -> Container | None:
    """What several sources say of one cgroup: of each fact the last that says anything counts. None where nobody says anything."""
    whole: Container | None = None
    for more in told:
        if whole is None or whole.id != more.id:
            whole = more if whole is None or described(more) or not described(whole) else whole
            continue
        said = {name: value for name in more.__struct_fields__ if (value := getattr(more, name)) not in ("", 0, None, ())}
        if more.privileged is not None:
            said["privileged"] = more.privileged
        if whole.pod is not None and more.pod is not None:
            pod = {name: value for name in more.pod.__struct_fields__ if (value := getattr(more.pod, name)) not in ("", None)}
            said["pod"] = msgspec.structs.replace(whole.pod, **pod)
        whole = msgspec.structs.replace(whole, **said)
    return whole
