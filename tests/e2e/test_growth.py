# SPDX-License-Identifier: Apache-2.0
"""A thousand containers that start and end, each told of by the hook: nothing of them is left. Cgroups and processes are real."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from bpfence import abi
from bpfence.compiler.workloads import Class, classes
from bpfence.errors import KernelError
from bpfence.policy import CONTAINER_FIELD, Atom, Op, Policy, PolicySet, Selector
from bpfence.workloads.cgroups import Tree, pod_uid
from bpfence.workloads.hook import HookServer
from bpfence.workloads.registry import HOOK, MAX_PAST, Registry

STARTS = 1000
LEAKED = 100
"""Bytes: less than anything that is kept by a container's name, and more than tables that grow and shrink are apart."""
REMEMBERED = max(MAX_PAST, pod_uid.cache_info().maxsize or 0) + 100
NGINX = Selector(images=("nginx",))
POLICIES = PolicySet((Policy(name="by-image", scope=Atom(CONTAINER_FIELD, Op.SELECTS, NGINX)),))
PARENT = f"/bpfence-growth-{os.getpid()}"
WAITS = "import sys\nfor line in sys.stdin: print(flush=True)"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes cgroups")


class Kernel:
    """The map of classes, by the numbers of cgroups."""

    def __init__(self) -> None:
        self.classes: dict[int, int] = {}

    def put_workload(self, cgroup: int, number: int) -> None:
        self.classes[cgroup] = number

    def drop_workload(self, cgroup: int) -> None:
        self.classes.pop(cgroup, None)


class Host:
    """One process, which moves from container to container, and the agent's registry and socket."""

    def __init__(self, folder: Path, tree: Tree) -> None:
        self.tree, self.kernel, self.path = tree, Kernel(), folder / "run" / "hook.sock"
        self.bundle = folder / "io.containerd.runtime.v2.task" / "k8s.io" / "one"  # as containerd's shims have it
        self.bundle.mkdir(parents=True)
        annotations = {"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.image-name": "nginx:1"}
        (self.bundle / "config.json").write_text(json.dumps({"annotations": annotations}))
        self.known: tuple[Class, ...] = ()
        self.registry = Registry(self._changed, tree.number)
        self.registry.use(self.kernel)
        self._swap()
        self.process = subprocess.Popen([sys.executable, "-ISc", WAITS], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.count = 0
        self.server = HookServer(tree, path=self.path).start(self.registry.register)

    def _changed(self) -> None:
        """What the agent's loop does: it swaps tables, or makes those with the classes that are waited for."""
        if self.registry.due:
            self._swap()

    def _swap(self) -> None:
        if not self.known or self.registry.wants_classes:
            self.known = classes(POLICIES, self.registry.seen(POLICIES))
        with self.registry.swapping(self.known) as numbers:
            self.kernel.classes = dict(numbers)

    def start_and_stop(self) -> None:
        self.count += 1
        identity = f"{self.count:064x}"
        folder = Path(f"{self.tree.root}{PARENT}/{identity}")
        folder.mkdir()
        (folder / "cgroup.procs").write_text(str(self.process.pid))
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(str(self.path))
            state = {"ociVersion": "1.0.2", "id": identity, "pid": self.process.pid, "bundle": str(self.bundle)}
            connection.sendall(json.dumps(state).encode())
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(4096) == b"ok\n"
        assert self._class_of(f"{PARENT}/{identity}") == {NGINX}
        Path(f"{self.tree.root}{PARENT}/idle/cgroup.procs").write_text(str(self.process.pid))
        folder.rmdir()
        if not self.count % 50:
            self.look()

    def _class_of(self, cgroup: str) -> Class:
        return self.known[self.kernel.classes[self.tree.number(cgroup)] - abi.WORKLOAD_FIRST]

    def look(self) -> None:
        """As the agent does every some seconds: the hook does not tell of ends."""
        self.registry.found("cgroups", self.tree.containers())

    def held(self) -> tuple[int, int, int]:
        """Bytes of Python's objects, threads, descriptors."""
        deadline = time.monotonic() + 30
        while threading.active_count() > self.threads and time.monotonic() < deadline:
            time.sleep(0.01)
        gc.collect()
        return tracemalloc.get_traced_memory()[0], threading.active_count(), len(os.listdir("/proc/self/fd"))

    threads = 0


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    try:
        tree = Tree()
        for name in ("", "/idle"):
            Path(f"{tree.root}{PARENT}{name}").mkdir()
    except (KernelError, OSError) as error:
        pytest.skip(f"needs a cgroup v2 tree in which cgroups can be made: {error}")
    made = Host(tmp_path, tree)
    try:
        with closing(made.server):
            yield made
    finally:
        made.process.kill()
        made.process.communicate()
        deadline = time.monotonic() + 10
        while (left := Path(tree.root + PARENT)).exists() and time.monotonic() < deadline:
            for folder in (*left.iterdir(), left):
                if folder.is_dir():
                    with contextlib.suppress(OSError):
                        folder.rmdir()
            time.sleep(0.01)


def test_nothing_is_left_of_a_thousand_starts_and_stops(host: Host) -> None:
    """More of them first, so that what is remembered of those that have ended is as much as it ever is: their names, and the pods of their
    cgroups."""
    host.threads = threading.active_count()
    tracemalloc.start()
    try:
        for _ in range(REMEMBERED):
            host.start_and_stop()
        host.look()
        held = [host.held()]
        for _ in range(2):
            for _ in range(STARTS // 2):
                host.start_and_stop()
            host.look()
            held.append(host.held())
    finally:
        tracemalloc.stop()
    registry = host.registry
    assert host.count == REMEMBERED + STARTS
    assert (host.kernel.classes, registry.containers(), registry.entries()) == ({}, [], [])
    assert {name: told for name, told in registry._told.items() if told} == {}
    assert (registry._chosen, HOOK in registry._told) == ({}, True)
    assert len(registry._past) <= MAX_PAST
    grown = [later[0] - earlier[0] for earlier, later in pairwise(held)]
    assert min(grown) < STARTS // 2 * LEAKED, held  # what is kept of each shows in both halves, a bounded table that doubles in one
    assert len({kept[1:] for kept in held}) == 1, held
