# SPDX-License-Identifier: Apache-2.0
"""The cgroup v2 tree in, containers known by their path alone, cgroups of processes and files of cgroups out.

Called by every other source: which cgroup is a container's is only ever taken from the kernel, never from what a runtime's file or answer
says of it. Whoever may make cgroups (a user with a tree of its own, a container with a writable one) chooses their names: a container that
is known by path alone has an id and a runtime, and nothing of the container that runs under that id elsewhere.
"""

from __future__ import annotations

import functools
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bpfence import glob
from bpfence.conditions.containers import LAYOUTS
from bpfence.host.cgroups import find_hierarchy
from bpfence.host.procfs import read_file
from bpfence.workloads.model import Container

MAX_FOLDERS: Final = 65_536
MAX_DEPTH: Final = 32
MAX_PATH: Final = 4095
WALK_SECONDS: Final = 5.0
MAX_ID: Final = 255
MAX_STATUS: Final = 64 << 10

_HEX: Final = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_MONITOR: Final = re.compile(r"(?:^|-)conmon-")
_POD: Final = re.compile(r"(?:^|-)pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice)?$")
_NAMES: Final = {"CRI-O": "cri-o", "Kubernetes": "", "LXC": "lxc", "Amazon ECS": "docker"}
_LAYOUTS: Final = tuple((layout, re.compile(layout.regex, re.DOTALL)) for layout in LAYOUTS)


def recognised(path: str) -> tuple[str, str] | None:
    """The id and the runtime of the container whose own cgroup this is, as the path tells; None where it is none, or lies below one's."""
    last = path.rpartition("/")[2]
    if _MONITOR.search(last):
        return None
    identity = _HEX.search(last)
    encoded = glob.encode(path)
    for layout, regex in _LAYOUTS:
        found = regex.search(encoded)
        if found is None or (layout.runtime == "Kubernetes" and identity is None):
            continue
        runtime = _NAMES.get(layout.runtime, layout.runtime)
        if identity is not None:
            return identity[0], runtime
        if found.end() == len(encoded):
            part = found[found.lastindex or 0].decode("utf-8", "surrogateescape")
            return (part.removesuffix(".scope")[:MAX_ID], runtime) if part else None
    return None


@functools.lru_cache(maxsize=2048)
def pod_uid(path: str) -> str:
    """The uid of the Kubernetes pod that a cgroup belongs to, as kubelet names cgroups; "" where it names none. What stands below a
    container is not believed: whoever is in one may make cgroups by any name there, that of another pod among them.
    """
    level = ""
    for part in path.strip("/").split("/"):
        level = f"{level}/{part}"
        if found := _POD.search(part):
            return found[1].replace("_", "-")
        if recognised(level):
            return ""
    return ""


def is_named_for(component: str, identity: str) -> bool:
    """Whether one component of a cgroup's path is a runtime's name for a container: its id, alone or as `docker-ID.scope`."""
    return bool(identity) and (component == identity or component.removesuffix(".scope").endswith(f"-{identity}"))


class Tree:
    """The cgroup v2 tree, and the cgroups of processes. KernelError where there is none. `whole`: its paths are those of the kernel."""

    def __init__(self, root: Path | None = None, proc: Path = Path("/proc"), *, whole: bool = True) -> None:
        if root is None:
            root, whole = find_hierarchy()
        self.root = str(root).rstrip("/")
        self.whole = whole
        self._proc = str(proc)

    def path_of(self, pid: int, started: int = 0) -> str | None:
        """The cgroup of a process; None where it is gone. `started`: in clock ticks since boot; another process under the id is none."""
        if pid <= 0:
            return None
        try:
            data = read_file(f"{self._proc}/{pid}/cgroup", MAX_STATUS)
            # The name in brackets may hold anything, even brackets. Read last, so that it covers what was read before.
            since = int(read_file(f"{self._proc}/{pid}/stat", 4096).rpartition(b")")[2].split()[19]) if started else 0
        except (OSError, ValueError, IndexError):
            return None
        if since != started:
            return None
        path = next((line[3:] for line in data.split(b"\n") if line.startswith(b"0::/")), b"").decode("utf-8", "surrogateescape")
        return path if path and not path.endswith(" (deleted)") and "/.." not in path else None

    def runtime_above(self, pid: int) -> str:
        """runc or crun, where that is the program of a process's parent; else ""."""
        try:
            parent = int(read_file(f"{self._proc}/{pid}/stat", 4096).rpartition(b")")[2].split()[1])
            program = os.readlink(f"{self._proc}/{parent}/exe").removesuffix(" (deleted)").rpartition("/")[2]
        except (OSError, ValueError, IndexError):
            return ""
        if program.startswith("memfd:"):  # crun runs as a copy of itself
            program = program.removeprefix("memfd:").partition("_")[0].partition(" ")[0].removeprefix("lib")
        return program if program in ("runc", "crun") else ""

    def own(self, path: str, identity: str, told: str = "") -> str | None:
        """The container's own cgroup, of which a process of it is in `path`: the outermost part that is named for it. `told`: where the
        runtime's state says that it is; believed only where the process is there or below. None where neither holds: then the container
        has no cgroup of its own, or its process has left it.
        """
        told = "/" + told.strip("/")
        believed = told if told != "/" and f"{path}/".startswith(f"{told}/") else None
        if believed and not _HEX.fullmatch(identity):  # a free id may be the name of any cgroup further up
            return believed
        parts = path.split("/")
        for index, part in enumerate(parts):
            if is_named_for(part, identity):
                return "/".join(parts[: index + 1])
        return believed

    def number(self, path: str) -> int:
        """The id of a cgroup; 0 where it is gone."""
        try:
            return os.stat(self.root + path).st_ino
        except (OSError, ValueError):
            return 0

    def containers(self) -> list[Container]:
        """Containers whose cgroups are named as runtimes name them, outer ones before those in them."""
        named = ((path, recognised(path)) for path in self.folders())
        return [Container(known[0], path, self.number(path), runtime=known[1]) for path, known in named if known]

    def folders(self) -> Iterator[str]:
        """The paths of all cgroups, parents first; as many as can be walked in time."""
        deadline = time.monotonic() + WALK_SECONDS
        waiting, count = [("", 0)], 0
        while waiting and count < MAX_FOLDERS and time.monotonic() < deadline:
            path, depth = waiting.pop(0)
            count += 1
            if path:
                yield path
            if depth >= MAX_DEPTH:
                continue
            try:
                with os.scandir(self.root + path) as entries:
                    inner = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
            except OSError:
                continue
            waiting += [(f"{path}/{name}", depth + 1) for name in inner[: MAX_FOLDERS - len(waiting)] if len(path) + len(name) < MAX_PATH]

    def words(self, path: str, name: str, most: int = 128) -> list[str]:
        """What a file of a cgroup holds, at most so many bytes; nothing where it cannot be read."""
        try:
            return [word[:20] for word in read_file(f"{self.root}{path}/{name}", most).decode("ascii", "replace").split()]
        except (OSError, ValueError):
            return []
