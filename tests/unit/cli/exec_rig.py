# SPDX-License-Identifier: Apache-2.0
"""A folder that plays the cgroup hierarchy and the arguments of `bpfence exec` in, the command run on a kernel made of lists out.

Called by tests that send signals: `python -m tests.unit.cli.exec_rig FOLDER -p POLICY -- COMMAND…`.
"""

from __future__ import annotations

import shutil
import sys
import threading
from pathlib import Path

from bpfence.cli import host
from bpfence.cli.main import cli
from bpfence.confine.sandbox import Sandbox
from bpfence.host.cgroups import Hierarchy
from tests.unit.agent.fakes import FakeEngine, FakeKernel


class FolderSandbox(Sandbox):
    """A sandbox whose cgroup is an ordinary folder."""

    def __enter__(self) -> Sandbox:
        super().__enter__()
        (self.folder / "cgroup.procs").touch()
        return self

    def kill(self) -> None:
        (self.folder.parent / "killed").touch()

    def remove(self) -> bool:
        shutil.rmtree(self.folder)
        return True


class ThreadedKernel(FakeKernel):
    """One whose agent has threads before the command is started, as for host names: a signal may come to any of them."""

    def load(self, pin_dir: str | None) -> FakeEngine:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        return super().load(pin_dir)


def main() -> int:
    folder, *words = sys.argv[1:]
    host.kernel = lambda *_: ThreadedKernel()
    host.hierarchy = lambda: Hierarchy(Path(folder), True)
    host.Sandbox = FolderSandbox
    code = cli.main(["exec", *words], standalone_mode=False)
    return code if isinstance(code, int) else 70


if __name__ == "__main__":
    sys.exit(main())
