# SPDX-License-Identifier: Apache-2.0
"""Run by test_docker.py in namespaces of its own: Docker with the wrapped runtime, and what the sources say of its containers.

Arguments: a folder with an image's program (`act`) and Docker's settings (`daemon.json`), and the hook's socket. Writes JSON.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from bpfence.errors import BpfenceError
from bpfence.workloads import docker
from bpfence.workloads.bundle import Bundles
from bpfence.workloads.cgroups import Tree
from bpfence.workloads.hook import HookServer
from bpfence.workloads.model import Container
from tests.kernel.runtimes import GUARDED, Docker, Wanted, images, start_containerd, start_docker

CONFIG = """
version = 2
root = "{folder}/state/root"
state = "/run/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
"""


def main(given: str, path: str) -> None:
    folder, tree = Path(given), Tree(Path("/sys/fs/cgroup"))
    told: list[dict[str, Any]] = []
    refuses: list[bool] = []

    def register(container: Container, _seconds: float) -> None:
        told.append({"container": msgspec.to_builtins(container), "program": os.readlink(f"/proc/{container.pid}/exe")})
        if refuses:
            raise BpfenceError("not today")

    images(folder / "images.tar", folder / "act")
    (folder / "config.toml").write_text(CONFIG.format(folder=folder))
    server = HookServer(tree, path=Path(path)).start(register)
    daemons = [start_containerd(folder, "--config", str(folder / "config.toml"))]
    answer: dict[str, Any] = {"failed": ""}
    try:
        places = ["--data-root", str(folder / "docker"), "--config-file", str(folder / "daemon.json"), "--storage-driver=vfs"]
        daemons.append(start_docker(folder, *places))
        engine = Docker(folder / "images.tar", "plain")
        try:
            web = engine.start(Wanted(GUARDED, ["/trigger"], "web", mounts={"/usr": "/data"}))
        except AssertionError as error:
            answer["failed"] = str(error)
        else:
            answer["api"] = msgspec.to_builtins(docker.Docker(tree, Docker.SOCKET, "docker", 30).snapshot())
            answer["bundles"] = msgspec.to_builtins(Bundles(tree).snapshot())
            answer["without"] = engine.run(Wanted(GUARDED, ["/bin/sh", "-c", "exit 7"], "without", hook=False))
            refuses.append(True)
            answer["refused"] = engine.run(Wanted(GUARDED, ["/trigger"], "refused"))
            engine.remove(web)
    finally:
        for daemon in reversed(daemons):
            daemon.stop()
        server.close()
    print(json.dumps(answer | {"told": told}))


if __name__ == "__main__":
    main(*sys.argv[1:])
