# SPDX-License-Identifier: Apache-2.0
"""A container as runtimes tell of it in, Falco's fields of it out.

Called by `live`. Names are given as the runtime has them; what is not known is absent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from bpfence.conditions import images
from bpfence.dialects.falco.confirm.event import FieldValue
from bpfence.workloads.model import Container, Mount, Pod

_Take = Callable[[Container, str | None], FieldValue | None]
SHORT: Final = 12
"""How many digits of an id Falco shows."""


def short_id(container: Container) -> str:
    """container.id."""
    return container.id[:SHORT]


def _text(take: Callable[[Container], str]) -> _Take:
    return lambda container, _: take(container) or None


def _of_pod(take: Callable[[Pod, str | None], FieldValue | None]) -> _Take:
    return lambda container, key: None if container.pod is None else take(container.pod, key)


def _label(labels: Mapping[str, str] | None, key: str | None) -> str | None:
    return (labels or {}).get(key or "")


def _labels(labels: Mapping[str, str] | None) -> str | None:
    return ", ".join(f"{key}:{value}" for key, value in (labels or {}).items()) or None


def _mounts(container: Container, _: str | None) -> FieldValue | None:
    return " ".join(map(_whole, container.mounts)) or None


def _mode(mount: Mount) -> str:
    return "rw" if mount.writable else "ro"


def _whole(mount: Mount) -> str:
    return f"{mount.source}:{mount.destination}:{_mode(mount)}:{str(mount.writable).lower()}:{mount.propagation}"


def _mount(shown: Callable[[Mount], str], *by: Callable[[Mount], str]) -> _Take:
    """A fact about the mount of a number, or of which one of the given facts is the key."""

    def take(container: Container, key: str | None) -> FieldValue | None:
        found = None if key is None else _chosen(container.mounts, key, by)
        return None if found is None else shown(found)

    return take


def _chosen(mounts: tuple[Mount, ...], key: str, by: Iterable[Callable[[Mount], str]]) -> Mount | None:
    if key.isascii() and key.isdigit() and len(key) < 6:
        return mounts[int(key)] if int(key) < len(mounts) else None
    return next((mount for mount in mounts if any(fact(mount) == key for fact in by)), None)


def _source(mount: Mount) -> str:
    return mount.source


def _destination(mount: Mount) -> str:
    return mount.destination


CONTAINER_FIELDS: Final[Mapping[str, _Take]] = {
    "container.full_id": _text(lambda container: container.id),
    "container.name": _text(lambda container: container.name),
    "container.image": _text(lambda container: container.image),
    "container.image.id": _text(lambda container: container.image_id.removeprefix("sha256:")[:SHORT]),
    "container.image.repository": _text(lambda container: images.split(container.image)[0]),
    "container.image.tag": _text(lambda container: images.split(container.image)[1]),
    "container.image.digest": _text(lambda container: container.image_digest or images.split(container.image)[2]),
    "container.type": _text(lambda container: container.runtime),
    "container.mounts": _mounts,
    "container.mount": _mount(_whole, _source),
    "container.mount.source": _mount(_source, _destination),
    "container.mount.dest": _mount(_destination, _source),
    "container.mount.mode": _mount(_mode, _source),
    "container.mount.rdwr": _mount(lambda mount: str(mount.writable).lower(), _source),
    "container.mount.propagation": _mount(lambda mount: mount.propagation, _source),
    "container.label": lambda container, key: _label(container.labels, key),
    "container.labels": lambda container, _: _labels(container.labels),
    "container.start_ts": lambda container, _: container.started or None,
    "k8s.ns.name": _of_pod(lambda pod, _: pod.namespace or None),
    "k8s.pod.name": _of_pod(lambda pod, _: pod.name or None),
    "k8s.pod.uid": _of_pod(lambda pod, _: pod.uid or None),
    "k8s.pod.label": _of_pod(lambda pod, key: _label(pod.labels, key)),
    "k8s.pod.labels": _of_pod(lambda pod, _: _labels(pod.labels)),
}
"""By the name of a field, its value; the second argument is its key."""
