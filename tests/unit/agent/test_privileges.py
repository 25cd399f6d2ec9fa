# SPDX-License-Identifier: Apache-2.0
"""What a running agent gives up."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bpfence.agent.privileges import kept_mask

SCRIPT = """
import os, pathlib
from bpfence.agent import privileges
privileges.drop()
lines = pathlib.Path("/proc/self/status").read_text().splitlines()
print(*(line.split()[1] for line in lines if line.startswith(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs"))))
try:
    os.chroot("/")
    print("chroot works")
except PermissionError:
    print("chroot refused")
"""


def test_kept_mask() -> None:
    assert kept_mask() == 1 << 39 | 1 << 38 | 1 << 21 | 1 << 2 | 1 << 24 | 1 << 19


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to give up")
def test_dropped_for_good() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": "src"}
    )
    sets, chroot = done.stdout.splitlines()
    inheritable, permitted, effective, bounding, ambient, no_new_privs = sets.split()
    assert inheritable == ambient == "0" * 16
    assert int(permitted, 16) & ~kept_mask() == 0
    assert int(bounding, 16) & ~kept_mask() == 0
    assert effective == permitted
    assert no_new_privs == "1"
    assert chroot == "chroot refused"
