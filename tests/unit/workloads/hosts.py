# SPDX-License-Identifier: Apache-2.0
"""A cgroup tree and processes made of files, for sources of containers."""

from __future__ import annotations

from pathlib import Path

from bpfence.workloads.cgroups import Tree

ID = "4f0c" * 16
OTHER = "b7e1" * 16
UID = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"


class FakeHost:
    """`tree`: what sources are given. Cgroups and processes are added."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "cgroup"
        self.proc = folder / "proc"
        self.root.mkdir()
        self.proc.mkdir()
        self.tree = Tree(self.root, self.proc)

    def cgroup(self, path: str, **files: str) -> str:
        """A cgroup, with files such as pids_max."""
        folder = self.root / path.strip("/")
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name.replace("_", ".")).write_text(f"{text}\n")
        return path

    def process(self, pid: int, path: str, started: int = 100) -> int:
        """A process in a cgroup, whose own name is hostile."""
        folder = self.proc / str(pid)
        folder.mkdir(exist_ok=True)
        (folder / "cgroup").write_text(f"4:memory:/elsewhere\n0::{path}\n")
        (folder / "stat").write_text(f"{pid} (x) 1 2 (y) S {' '.join(['0'] * 18)} {started} 0 0\n")
        self.cgroup(path)
        return pid
