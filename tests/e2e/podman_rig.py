# SPDX-License-Identifier: Apache-2.0
"""Run by test_podman.py in namespaces of its own: Podman with the hook and its service, and what the sources say of its containers.

Arguments: a folder with the runtime (`runtime`), an image (`image.tar`) and hooks (`hooks`), the hook's socket,
and options of the second container. Writes JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from bpfence.errors import BpfenceError
from bpfence.workloads.bundle import Bundles
from bpfence.workloads.cgroups import Tree
from bpfence.workloads.docker import Docker
from bpfence.workloads.hook import HookServer
from bpfence.workloads.model import Container
from bpfence.workloads.sources import Watch

IMAGE = "localhost/bpfence-test:1"


class Podman:
    """Podman with all that it writes in one folder."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "podman.sock"
        state = folder / "state"
        policy = folder / "policy.json"
        policy.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
        places = ["--root", str(state / "root"), "--runroot", str(state / "run"), "--tmpdir", str(state / "tmp")]
        ways = ["--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=file", "--hooks-dir", str(folder / "hooks")]
        self.words = ["podman", *places, *ways, "--runtime", str(folder / "runtime")]
        self("import", "--signature-policy", str(policy), str(folder / "image.tar"), IMAGE)

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        out = self.socket.with_name("out")
        with out.open("w+") as file:  # no pipes: what it leaves behind would hold them
            done = subprocess.run([*self.words, *words], stdin=subprocess.DEVNULL, stdout=file, stderr=file, check=False, timeout=60)
        return subprocess.CompletedProcess(words, done.returncode, out.read_text())

    def runs(self, name: str, *more: str) -> subprocess.CompletedProcess[str]:
        """Start a container."""
        return self("run", "-d", "--name", name, "--network=none", *more, IMAGE, "/act")


def waited(true: Any) -> bool:
    """Whether something becomes true within a time that is long for any machine."""
    deadline = time.monotonic() + 60
    while not true() and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(true())


def main(folder: str, path: str, *more: str) -> None:
    tree, podman = Tree(Path("/sys/fs/cgroup")), Podman(Path(folder))
    told: list[dict[str, Any]] = []
    refuses: list[bool] = []

    def register(container: Container, _seconds: float) -> None:
        told.append({"container": msgspec.to_builtins(container), "program": os.readlink(f"/proc/{container.pid}/exe")})
        if refuses:
            raise BpfenceError("not today")

    server = HookServer(tree, path=Path(path)).start(register)
    service = subprocess.Popen([*podman.words, "system", "service", "-t", "0", f"unix://{podman.socket}"], stdin=subprocess.DEVNULL)
    answer: dict[str, Any] = {}
    try:
        answer["listens"] = waited(podman.socket.exists)
        seen: list[list[str]] = []
        news = threading.Event()

        def found(_: str, containers: list[Container] | None) -> None:
            seen.append(sorted(container.name for container in containers or ()))
            news.set()

        watch = Watch("podman", Docker(tree, str(podman.socket), "podman", 30), found, poll=3600, pause=0.1)
        plain = podman.runs("web", "--label", "app=web", "-v", "/usr:/data:ro", "--pids-limit=0")
        privileged = podman.runs("mighty", *more, "--pids-limit=0")
        answer["codes"] = [plain.returncode, privileged.returncode, plain.stdout + privileged.stdout]
        answer["seen"] = waited(lambda: seen and seen[-1] == ["mighty", "web"])
        answer["api"] = msgspec.to_builtins(Docker(tree, str(podman.socket), "podman", 30).snapshot())
        answer["bundles"] = msgspec.to_builtins(Bundles(tree).snapshot())
        podman("rm", "-f", "-t", "0", "mighty")
        answer["gone"] = waited(lambda: seen[-1] == ["web"])
        watch.close()
        refuses.append(True)
        refused = podman.runs("refused", "--pids-limit=0")
        answer["refused"] = [refused.returncode, refused.stdout]
    finally:
        podman("rm", "-f", "-t", "0", "--all")
        service.terminate()
        service.wait(30)
        server.close()
        subprocess.run(["rmdir", "/sys/fs/cgroup/libpod_parent"], check=False)
    print(json.dumps(answer | {"told": told}))


if __name__ == "__main__":
    main(*sys.argv[1:])
