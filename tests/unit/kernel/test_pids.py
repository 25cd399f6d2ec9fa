# SPDX-License-Identifier: Apache-2.0
"""Who we are to the kernel, in a proc made of links and, where we may, in a pid namespace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bpfence.errors import KernelError
from bpfence.kernel import pids
from bpfence.kernel.pids import host_pid, in_host_namespace

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = """
import os, sys
from bpfence.errors import KernelError
from bpfence.kernel.pids import host_pid
try:
    print(os.getpid(), host_pid(), flush=True)
except KernelError as error:
    print(os.getpid(), "refused", error.hint, flush=True)
sys.stdin.readline()
"""


KTHREADD = "2 (kthreadd) S 0 0 0 0 -1 2129984 0 0\n"
SHELL = "2 (a) S 2129984) S 1 2 2 0 -1 4194560 0 0\n"


def proc(folder: Path, monkeypatch: pytest.MonkeyPatch, own: str, second: str) -> Path:
    """A proc with two namespaces, "host" and "other", of which we are in `own`; `second`: the stat of process 2."""
    for name in ("host", "other"):
        (folder / name).touch()
    (folder / "4242" / "ns").mkdir(parents=True)
    if own:
        (folder / "4242" / "ns" / "pid").symlink_to(folder / own)
    (folder / "2").mkdir()
    (folder / "2" / "stat").write_text(second)
    (folder / "self").symlink_to("4242")
    monkeypatch.setattr(pids, "INITIAL_PID_NAMESPACE", (folder / "host").stat().st_ino)
    return folder


@pytest.mark.parametrize(("own", "second", "expected"), [("host", KTHREADD, None), ("", SHELL, None), ("other", KTHREADD, 4242)])
def test_host_pid(own: str, second: str, expected: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = proc(tmp_path, monkeypatch, own, second)
    assert host_pid(made) == (os.getpid() if expected is None else expected)
    assert in_host_namespace(made) == (expected is None)


@pytest.mark.parametrize("second", [SHELL, "", "2 (x"])
def test_a_pid_that_cannot_be_found_is_refused(second: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = proc(tmp_path, monkeypatch, "other", second)
    with pytest.raises(KernelError) as refused:
        host_pid(made)
    assert "hostPID" in refused.value.hint
    with pytest.raises(KernelError):
        host_pid(tmp_path / "no proc at all")


@pytest.mark.skipif(os.geteuid() != 0 or not in_host_namespace(), reason="needs root, in the host's pid namespace")
@pytest.mark.parametrize("own_proc", [False, True])
def test_in_a_real_pid_namespace(own_proc: bool) -> None:
    command = ["unshare", "--pid", "--fork", "--kill-child", *(["--mount-proc"] if own_proc else []), sys.executable, "-c", SCRIPT]
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}
    )
    assert child.stdout is not None
    try:
        inner, answer, *_ = child.stdout.readline().split()
        assert inner == "1"
        if own_proc:
            assert answer == "refused"
        else:
            [real] = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
            assert answer == real
    finally:
        child.communicate("\n", timeout=30)
