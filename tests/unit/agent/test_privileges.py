# SPDX-License-Identifier: Apache-2.0
"""What a running agent gives up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bpfence.agent.privileges import kept_mask


def kept_before() -> str:
    """The effective capabilities of this process."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff")]
    return line.split()[1]


SCRIPT = """
import os, pathlib, sys
from bpfence.agent import privileges
privileges.drop(reads_processes=sys.argv[1] == "True")
lines = pathlib.Path("/proc/self/status").read_text().splitlines()
print(*(line.split()[1] for line in lines if line.startswith(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs"))))
try:
    os.chroot("/")
    print("chroot works")
except PermissionError:
    print("chroot refused")
"""


def test_kept_mask() -> None:
    least = 1 << 39 | 1 << 38 | 1 << 21 | 1 << 2 | 1 << 24
    assert kept_mask() == least
    assert kept_mask(reads_processes=True) == least | 1 << 19


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to give up")
@pytest.mark.parametrize("reads", [False, True])
def test_dropped_for_good(reads: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(reads)], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": "src"}
    )
    sets, chroot = done.stdout.splitlines()
    inheritable, permitted, effective, bounding, ambient, no_new_privs = sets.split()
    assert inheritable == ambient == "0" * 16
    assert int(permitted, 16) & ~kept_mask(reads_processes=reads) == 0
    assert int(bounding, 16) & ~kept_mask(reads_processes=reads) == 0
    assert effective == permitted
    if int(kept_before(), 16) >> 19 & 1:
        assert int(effective, 16) >> 19 & 1 == reads
    assert no_new_privs == "1"
    assert chroot == "chroot refused"


READING = """
import pathlib, sys
from bpfence.agent import privileges
privileges.drop(reads_processes=sys.argv[1] == "True")
for name in sys.argv[3:]:
    try:
        print(len(pathlib.Path("/proc", sys.argv[2], name).read_bytes()) > 0)
    except PermissionError:
        print("refused")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start another user's process")
@pytest.mark.skipif(not int(kept_before(), 16) >> 19 & 1, reason="CAP_SYS_PTRACE is missing")
@pytest.mark.parametrize(
    ("reads", "files", "expected"),
    # CAP_PERFMON, which always stays, opens environ since about Linux 6.16.
    [(True, ["environ", "cmdline", "root/etc/passwd"], ["True"] * 3), (False, ["root/etc/passwd"], ["refused"])],
)
def test_what_falco_rules_read_of_other_users_processes(reads: bool, files: list[str], expected: list[str]) -> None:
    other = subprocess.Popen(["sleep", "60"], user=65534, group=65534, extra_groups=[], env={"SECRET": "x"})
    try:
        done = subprocess.run(
            [sys.executable, "-c", READING, str(reads), str(other.pid), *files], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONPATH": "src"},
        )  # fmt: skip
    finally:
        other.kill()
        other.wait()
    assert done.stdout.split() == expected
