# SPDX-License-Identifier: Apache-2.0
"""A container as its sources know it in, the values of Falco's container and k8s fields out.

Called by `live` for an event in a container that is known; what is not known of it is absent. Pure. Forms are those of Falco's field
reference: mounts as source:dest:mode:rdwr:propagation, labels as name:value.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from bpfence.dialects.falco.confirm.event import FieldValue
from bpfence.workloads.model import Container, Mount

SHORT: Final = 12
"""How many digits of an id container.id has."""
MAX_PATTERN: Final = 256
_PORT_OR_TAG: Final = re.compile(r":([^/:]*)$")
Take = Callable[[Container, "str | None", int], "FieldValue | None"]
"""A field of a container, its argument, and the event's time in ns since 1970 → the value."""


class Image(NamedTuple):
    """The parts of a reference to an image; "" where it has none."""

    repository: str
    tag: str
    digest: str


@lru_cache(maxsize=1024)
def image(reference: str) -> Image:
    """`registry:5000/name:tag@digest` in its parts. One without tag and digest means the tag latest."""
    name, _, digest = reference.partition("@")
    found = _PORT_OR_TAG.search(name)
    if found is None:
        return Image(name, "" if digest or not name else "latest", digest)
    return Image(name[: found.start()], found[1], digest)


def known_image(container: Container) -> Image:
    """The image of a container; a bare id is no name."""
    named = container.image if not re.fullmatch(r"(sha256:)?[0-9a-f]{64}", container.image) else ""
    parts = image(named)
    return parts._replace(digest=parts.digest or container.image_digest)


def _mount_text(mount: Mount) -> str:
    return ":".join((mount.source, mount.destination, "", _truth(mount.writable), mount.propagation))


def _truth(value: bool) -> str:
    return "true" if value else "false"


def _found(container: Container, argument: str | None, end: Callable[[Mount], str]) -> Mount | None:
    """The mount that an argument means: by its number, or the first whose `end` is matched by a pattern."""
    if argument is None or len(argument) > MAX_PATTERN:
        return None
    if argument.isascii() and argument.isdigit():
        number = int(argument)
        return container.mounts[number] if number < len(container.mounts) else None
    return next((mount for mount in container.mounts if end(mount) == argument or fnmatch.fnmatchcase(end(mount), argument)), None)


def _mount(show: Callable[[Mount], str], end: Callable[[Mount], str]) -> Take:
    def take(container: Container, argument: str | None, _: int) -> FieldValue | None:
        mount = _found(container, argument, end)
        return None if mount is None else show(mount)

    return take


def _source(mount: Mount) -> str:
    return mount.source


def _destination(mount: Mount) -> str:
    return mount.destination


def _labels(labels: Mapping[str, str]) -> str | None:
    return ", ".join(f"{name}:{value}" for name, value in sorted(labels.items())) or None


def _duration(container: Container, _: str | None, moment: int) -> FieldValue | None:
    return max(moment - container.started, 0) if container.started else None


def _pod_label(container: Container, argument: str | None, _: int) -> FieldValue | None:
    return None if container.pod is None or argument is None else container.pod.labels.get(argument)


def _of_pod(name: str) -> Take:
    return lambda container, _, __: getattr(container.pod, name) or None if container.pod is not None else None


def _name(container: Container, _: str | None, __: int) -> FieldValue | None:
    return container.name or (container.pod.name if container.sandbox and container.pod is not None else None)


FIELDS: Final[Mapping[str, Take]] = {
    "container.full_id": lambda container, _, __: container.id or None,
    "container.name": _name,
    "container.image": lambda container, _, __: container.image or None,
    "container.image.id": lambda container, _, __: container.image_id.removeprefix("sha256:") or None,
    "container.image.repository": lambda container, _, __: known_image(container).repository or None,
    "container.image.tag": lambda container, _, __: known_image(container).tag or None,
    "container.image.digest": lambda container, _, __: known_image(container).digest or None,
    "container.type": lambda container, _, __: container.runtime or None,
    "container.mounts": lambda container, _, __: " ".join(map(_mount_text, container.mounts)) or None,
    "container.mount": _mount(_mount_text, _source),
    "container.mount.source": _mount(_source, _destination),
    "container.mount.dest": _mount(_destination, _source),
    "container.mount.mode": _mount(lambda _: "", _source),
    "container.mount.rdwr": _mount(lambda mount: _truth(mount.writable), _source),
    "container.mount.propagation": _mount(lambda mount: mount.propagation, _source),
    "container.label": lambda container, name, _: None if name is None else container.labels.get(name),
    "container.labels": lambda container, _, __: _labels(container.labels),
    "container.start_ts": lambda container, _, __: container.started or None,
    "container.duration": _duration,
    "k8s.ns.name": _of_pod("namespace"), "k8s.pod.name": _of_pod("name"), "k8s.pod.uid": _of_pod("uid"), "k8s.pod.id": _of_pod("uid"),
    "k8s.pod.label": _pod_label,
    "k8s.pod.labels": lambda container, _, __: _labels(container.pod.labels) if container.pod is not None else None,
}  # fmt: skip


def values(container: Container, moment: int = 0) -> dict[str, FieldValue]:
    """All fields without an argument that are known of a container, for an event at `moment`, ns since 1970."""
    plain: Iterable[str] = (name for name in FIELDS if not name.startswith(("container.mount.", "container.label", "k8s.pod.label")))
    named = {name: FIELDS[name](container, None, moment) for name in (*plain, "container.labels", "k8s.pod.labels")}
    return {name: value for name, value in named.items() if value is not None}
