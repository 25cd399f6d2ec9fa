# SPDX-License-Identifier: Apache-2.0
"""The agent's commands where pins cannot be made, read or removed: what is wrong and what helps, no traceback, nothing left attached."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bpfence import abi
from tests.kernel.cases import ROOT
from tests.kernel.harness import COMMAND
from tests.unit.agent.fakes import write_policy

SCRIPT = """
place=$1; shift
mount -t bpf bpf "$place" || exit 99
{prepare}
exec "$@"
"""
READ_ONLY = 'mount -o remount,ro "$place"'
UNREADABLE = f"abi{abi.ABI_VERSION}-0-0-lsm"
"""An instance of this version, of which status wants to read the maps."""
FAULTS = [
    ("run", READ_ONLY, "Read-only file system", "remount,rw"),
    ("run", f'mkdir -m 700 "$place/pins"; {READ_ONLY}', "Read-only file system", "remount,rw"),
    ("unload", f'mkdir -m 700 "$place/pins" "$place/pins/{UNREADABLE}"; {READ_ONLY}', "Read-only file system", "remount,rw"),
    ("status", f'mkdir -m 700 "$place/pins" "$place/pins/{UNREADABLE}"', "No such file or directory", "choose a folder"),
    ("run", "ulimit -n 24", "oo many open files", "ulimit -n"),
    ("run", 'umount "$place"', "not in a BPF file system", "choose a folder under /sys/fs/bpf"),
]


@pytest.mark.parametrize(("command", "prepare", "said", "hint"), FAULTS)
def test_what_is_wrong_with_the_pin_folder(command: str, prepare: str, said: str, hint: str, tmp_path: Path) -> None:
    place = tmp_path / "bpffs"
    place.mkdir()
    more = ["-p", str(write_policy(tmp_path / "p.yaml")), "--ready-file", str(tmp_path / "ready")] if command == "run" else []
    words = [*COMMAND, command, "--pin-dir", str(place / "pins"), *more]
    script = SCRIPT.format(prepare=prepare)
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", str(place), *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    shown = done.stdout + done.stderr
    assert done.returncode == 3, shown
    assert said in shown
    assert hint in shown
    assert "Traceback" not in shown
    assert "bug in bpfence" not in shown
    assert not (tmp_path / "ready").exists()
