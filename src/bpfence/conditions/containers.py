# SPDX-License-Identifier: Apache-2.0
"""The path of a cgroup in, whether it is a container's, and which container it is, out.

Called by the languages that know `container:` (as a condition), and by what names the container of a process in user space (as text). Both
forms are made of one table, so that they agree. Pure: nothing here looks at a host or asks a runtime.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from bpfence import glob
from bpfence.evaluate import holds
from bpfence.policy import CONTAINER_FIELD, And, Atom, Condition, Not, Op, Or

_CONTAINER: Final = "<>"
"""Stands in a layout for what the runtime calls a container: a part of one component."""
_NO_MONITOR: Final = "{[!c]*,c[!o]*}"
"""An id, which is hexadecimal, and not that of `libpod-conmon-ID`: conmon, which watches over a container, is a process of the host."""


class Layout(NamedTuple):
    """Where a runtime puts containers in the cgroup v2 tree.

    `named`: the part that stands for the container is its name. Otherwise it is an id, or only the pod that the container is in; then the
    id is in a component further down, or the last component is all there is. `part`: a glob of it.
    """

    runtime: str
    path: str
    named: bool = False
    part: str = "*"

    @property
    def pattern(self) -> str:
        """A glob of the cgroups of containers."""
        return self.path.replace(_CONTAINER, self.part)

    @property
    def regex(self) -> bytes:
        """The same as a regular expression, to be searched for in a path: the container's own cgroup, or one below it. Its one group is the
        part that stands for the container."""
        anywhere = self.path.startswith("**/")
        before, after = self.path.removeprefix("**").split(_CONTAINER)
        start = b"" if anywhere else rb"\A"
        return start + glob.to_regex(before) + b"(" + glob.to_regex(self.part) + b")" + glob.to_regex(after) + rb"(?=/|\Z)"

    @property
    def prefix(self) -> str:
        """What stands before an id in its component: `docker-`."""
        return self.path.partition(_CONTAINER)[0].rpartition("/")[2]


LAYOUTS: Final = (
    Layout("docker", "**/docker-<>.scope"),
    Layout("docker", "**/docker/<>"),
    Layout("containerd", "**/cri-containerd-<>"),
    Layout("CRI-O", "**/crio-<>", part=_NO_MONITOR),
    Layout("podman", "**/libpod-<>", part=_NO_MONITOR),
    Layout("nerdctl", "**/nerdctl-<>.scope"),
    Layout("buildkit", "**/buildkit/<>"),
    Layout("Kubernetes", "**/kubepods{,.slice}/<>"),
    Layout("Kubernetes", "**/*-kubepods.slice/<>"),
    Layout("LXC", "**/lxc/<>", named=True),
    Layout("LXC", "**/lxc.payload{.,/}<>", named=True),
    Layout("Amazon ECS", "**/ecs/*/<>"),
    Layout("systemd-nspawn", "/machine.slice/systemd-nspawn@<>.service", named=True),
    Layout("systemd-nspawn", "/machine.slice/machine-<>.scope", named=True),
)
"""Whichever cgroup driver the runtimes use. Everything below such a cgroup counts, too."""

# One glob, not fifteen: an automaton that must tell which of many overlapping patterns matched is larger by orders of magnitude.
_CONTAINERS: Final = "{" + ",".join(layout.pattern for layout in LAYOUTS) + "}{,/**}"
_NAME: Final = re.compile(b"|".join(layout.regex for layout in LAYOUTS if layout.named), re.DOTALL)
_PREFIXES: Final = "|".join(re.escape(layout.prefix) for layout in LAYOUTS if layout.prefix and not layout.named)
_DECORATION: Final = re.compile(rf"^(?:{_PREFIXES})|\.(?:scope|service|slice)$")
_HEX_ID: Final = re.compile(r"[0-9a-f]{64}")
_SHORT: Final = 12
"""How many digits of an id runtimes show."""


def in_container() -> Condition:
    """The acting process runs in a container, as far as its cgroup tells."""
    return Atom("process.cgroup", Op.GLOB, _CONTAINERS)


_TOLD: Final = Atom(CONTAINER_FIELD, Op.EXISTS)


def inside() -> Condition:
    """The acting process runs in a container, by its cgroup or because a runtime has told of it, wherever that puts its cgroup."""
    return Or((in_container(), _TOLD))


def untold() -> Condition:
    """It runs in a container that nobody has told of yet."""
    return And((in_container(), Not(_TOLD)))


def of_runtime(runtime: str) -> Condition | None:
    """The acting process runs in a container of a runtime, by its cgroup; None where cgroups do not tell that runtime from others."""
    paths = [layout.pattern for layout in LAYOUTS if layout.runtime.lower() == runtime.lower()]
    return Atom("process.cgroup", Op.GLOB, "{" + ",".join(paths) + "}{,/**}") if paths else None


def container_of(path: str) -> str | None:
    """`container_id`, of an id of 64 digits the first 12."""
    found = container_id(path)
    return found[:_SHORT] if found is not None and _HEX_ID.fullmatch(found) else found


def container_id(path: str) -> str | None:
    """The container of a cgroup: the last 64-digit id in its path, else its name, "" where it has none. None outside of any."""
    if not holds(in_container(), {"process.cgroup": path}):
        return None
    ids = _HEX_ID.findall(path)
    if ids:
        return str(ids[-1])
    name = _NAME.search(glob.encode(path))
    if name and name[name.lastindex or 0]:
        return name[name.lastindex or 0].decode("utf-8", "surrogateescape")
    return _DECORATION.sub("", path.rstrip("/").rpartition("/")[2])
