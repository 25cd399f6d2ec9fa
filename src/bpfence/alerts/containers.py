# SPDX-License-Identifier: Apache-2.0
"""A process's cgroup in, the members `container` and `k8s` of its lines out.

Called by what makes lines. Names, labels and mounts were chosen by whoever started the container: each is escaped, and there are no more of
them than MAX_LISTED.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, Final

import msgspec

from bpfence.conditions.containers import container_id
from bpfence.events.process import rfc3339
from bpfence.events.values import escape
from bpfence.workloads.model import Container, Mount

MAX_LISTED: Final = 64
MAX_SHOWN: Final = 256
"""Characters of a label, or of a part of a mount."""
MAX_KEPT: Final = 1024
_ENCODER: Final = msgspec.json.Encoder()
Members = tuple[dict[str, Any] | None, dict[str, Any] | None]


class Belonging:
    """`of`: the container that a cgroup belongs to; `version`: another number whenever that may have changed."""

    def __init__(self, of: Callable[[str], Container | None] = lambda _: None, version: Callable[[], int] = lambda: 0) -> None:
        self._of = of
        self._version = version
        self._of_version = 0
        self._kept: OrderedDict[str, tuple[Members, bytes]] = OrderedDict()

    def members(self, cgroup: str) -> Members:
        """`container` and `k8s` for a cgroup as lines show it; None outside of any."""
        return self._found(cgroup)[0]

    def json(self, cgroup: str) -> bytes:
        """The same as JSON, without the braces around them."""
        return self._found(cgroup)[1]

    def _found(self, cgroup: str) -> tuple[Members, bytes]:
        version = self._version()
        if version != self._of_version:
            self._kept.clear()
            self._of_version = version
        found = self._kept.get(cgroup)
        if found is None:
            members = _members(cgroup, self._of(cgroup) if cgroup else None)
            found = members, _ENCODER.encode({"container": members[0], "k8s": members[1]})[1:-1]
            self._kept[cgroup] = found
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        return found


def _members(cgroup: str, container: Container | None) -> Members:
    if container is None:
        identity = container_id(cgroup) if cgroup else None
        return ({"id": escape(identity)} if identity is not None else None), None
    shown: dict[str, Any] = {
        "id": escape(container.id),
        "name": escape(container.name),
        "image": escape(container.image),
        "digest": escape(container.image_digest),
        "runtime": escape(container.runtime),
        "privileged": container.privileged,
        "start": rfc3339(container.started) if container.started else "",
        "labels": _labels(container.labels),
        "mounts": [_mount(mount) for mount in container.mounts[:MAX_LISTED]],
    }
    pod = container.pod
    if pod is None:
        return _without_nothing(shown), None
    of_pod = {
        "namespace": escape(pod.namespace),
        "pod": escape(pod.name),
        "uid": escape(pod.uid),
        "serviceAccount": escape(pod.service_account),
        "node": escape(pod.node),
        "labels": _labels(pod.labels),
        "owner": _owner(pod.owner),
    }
    return _without_nothing(shown), _without_nothing(of_pod)


def _owner(owner: tuple[str, str] | None) -> dict[str, str] | None:
    """{}: there is none."""
    return None if owner is None else {} if not owner[0] else {"kind": escape(owner[0]), "name": escape(owner[1])}


def _labels(labels: Mapping[str, str] | None) -> dict[str, str] | None:
    return None if labels is None else {_short(key): _short(value) for key, value in islice(labels.items(), MAX_LISTED)}


def _short(text: str) -> str:
    """A text as a line has it: an image's labels may be of any length."""
    return escape(text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…")


def _mount(mount: Mount) -> dict[str, Any]:
    return _without_nothing(
        {
            "source": _short(mount.source),
            "destination": _short(mount.destination),
            "type": _short(mount.type),
            "writable": mount.writable,
            "propagation": _short(mount.propagation),
        }
    )


def _without_nothing(members: dict[str, Any]) -> dict[str, Any]:
    """What is not known is left out; labels that are known to be none are {}."""
    return {name: value for name, value in members.items() if value not in ("", None, [])}
