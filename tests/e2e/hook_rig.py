# SPDX-License-Identifier: Apache-2.0
"""Run by test_containers.py in namespaces of its own: an agent's side of the hook, and a runtime that starts a container through it.

Arguments: the wrapped runtime, its state folder, a bundle, an id, the socket, and what is to happen: the agent takes it (`known`), fails
(`refused`), is not there (`nobody`), or the container is only made and looked at (`kept`). Writes JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from bpfence.workloads.bundle import Bundles
from bpfence.workloads.cgroups import Tree
from bpfence.workloads.hook import HookServer
from bpfence.workloads.model import Container
from bpfence.workloads.sources import Paths, gather


def main(wrapper: str, state: str, bundle: str, identity: str, path: str, what: str) -> None:
    tree = Tree(Path("/sys/fs/cgroup"))
    marker = Path(bundle) / "rootfs" / "marker"
    seen: list[Any] = []

    def register(container: Container, _seconds: float) -> None:
        marker_there = marker.exists()
        seen.append({"container": msgspec.to_builtins(container), "ran": marker_there, "processes": processes(container)})
        if what == "refused":
            raise RuntimeError("not today")

    server = None if what == "nobody" else HookServer(tree, path=Path(path)).start(register)
    command = [wrapper, "--root", state, "run" if what != "kept" else "create", "--bundle", bundle, identity]
    with tempfile.TemporaryFile() as errors:  # no pipe: a container that was only made holds its end open
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=errors, check=False, stdin=subprocess.DEVNULL, timeout=60)
        errors.seek(0)
        told = errors.read(4096).decode("utf-8", "replace")
    found: list[Container] = []
    if what == "kept":
        found = gather({"cgroups": Paths(tree), "bundles": Bundles(tree, states=(state,), tasks=())}).containers
        subprocess.run([wrapper, "--root", state, "delete", "--force", identity], check=False)
    if server is not None:
        server.close()
    answer = {"seen": seen, "code": done.returncode, "stderr": told, "ran": marker.exists()}
    print(json.dumps(answer | {"found": msgspec.to_builtins(found), "left": os.path.exists(f"/sys/fs/cgroup/{identity}")}))


def processes(container: Container) -> list[int]:
    return [int(word) for word in Path(f"/sys/fs/cgroup{container.cgroup}/cgroup.procs").read_text().split()]


if __name__ == "__main__":
    main(*sys.argv[1:])
