# SPDX-License-Identifier: Apache-2.0
"""What native seccomp tests share: the trigger, the installed command, profiles.

These tests act on this machine's kernel, but only on processes that they start: a filter is on one command and its descendants, and the
recorder looks at one command's calls. A test that needs what a machine may lack skips and names it.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORPORA = ROOT.parent / "shared" / "corpora"
TRIGGER = Path(__file__).parent / "triggers" / "call.c"
PYTHON = "/usr/bin/python3"
"""The distribution's own: what PATH says first may be a wrapper script."""

Bpfence = Callable[..., subprocess.CompletedProcess[str]]
Profile = Callable[..., str]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    if platform.machine() != "x86_64":
        for item in items:
            if item.path.is_relative_to(here):
                item.add_marker(pytest.mark.skip(reason=f"needs an x86_64 machine, not {platform.machine()}"))


@pytest.fixture(scope="session")
def call(tmp_path_factory: pytest.TempPathFactory) -> str:
    """triggers/call.c, compiled."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    target = tmp_path_factory.mktemp("trigger") / "call"
    target.parent.chmod(0o755)
    target.parent.parent.chmod(0o755)
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-pthread", "-o", str(target), str(TRIGGER)], check=True)
    return str(target)


@pytest.fixture(scope="session")
def bpfence() -> Bpfence:
    """`bpfence seccomp …`, as a user calls it."""

    def run(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "NO_COLOR": "1"}
        return subprocess.run(
            [sys.executable, "-m", "bpfence", "seccomp", *words],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            stdin=subprocess.DEVNULL,
            env=environment,
            **more,
        )

    return run


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    """A profile in a file. `profile({"getppid": "ERRNO"})`: everything else allowed; `profile(document=…)` as it is."""

    def write(actions: dict[str, str] | None = None, **more: Any) -> str:
        rules = [{"names": [name], "action": f"SCMP_ACT_{action}"} for name, action in (actions or {}).items()]
        document = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": rules, **more}
        document = more.get("document", document)
        path = tmp_path / f"profile-{len(list(tmp_path.glob('profile-*')))}.json"
        path.write_text(json.dumps(document))
        return str(path)

    return write


@pytest.fixture
def recorder() -> None:
    """Skips where the kernel or the privileges do not allow to record."""
    from bpfence.errors import KernelError
    from bpfence.kernel.syscall_recorder import SyscallRecorder

    try:
        SyscallRecorder().close()
    except KernelError as error:
        pytest.skip(f"needs raw tracepoints: {error}")


def corpus(name: str) -> str:
    path = CORPORA / name
    if not path.exists():
        pytest.skip(f"needs ../shared/corpora/{name}")
    return str(path)


def program(name: str, package: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"needs {name} (Debian: apt install {package})")
    return found
