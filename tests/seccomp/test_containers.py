# SPDX-License-Identifier: Apache-2.0
"""Profiles in, what `bpfence seccomp check` says of container runtimes and what runc and crun do with them out: the two must agree.

Each container is started in mount and pid namespaces of its own, in a folder of its own; nothing of it is left.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bpfence.seccomp.runtimes import described
from tests.seccomp.conftest import ROOT, Bpfence, program

WEB_SERVICE = ROOT / "examples" / "seccomp" / "web-service.json"
STARTED = 128 + 4
PROGRAM = """
/* Exits with 0 where it has an argument. Without one it ends by an illegal instruction: no filter can keep it from saying that it ran. */
__asm__(".globl _start\\n_start: mov (%rsp), %rbx\\n cmp $1, %rbx\\n jne 1f\\n ud2\\n1: mov $231, %eax\\n xor %edi, %edi\\n syscall\\n");
"""
ALONE = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private")
VIEW = 'mount -t cgroup2 none /sys/fs/cgroup && exec "$@"'

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: containers are started by it")


class Container:
    """A runtime with a bundle whose program is /program."""

    def __init__(self, runtime: str, folder: Path) -> None:
        self.runtime = runtime
        self.path = program(runtime, runtime)
        self.folder = folder
        self.numbers = itertools.count(1)
        for name in ("proc", "dev", "sys"):
            (folder / "rootfs" / name).mkdir(parents=True)
        (folder / "program.c").write_text(PROGRAM)
        self.program = folder / "rootfs" / "program"
        subprocess.run(["gcc", "-O1", "-static", "-nostdlib", "-o", str(self.program), str(folder / "program.c")], check=True)
        subprocess.run([self.path, "spec", "--bundle", str(folder)], check=True)
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        version = subprocess.run([self.path, "--version"], check=True, capture_output=True, text=True).stdout
        self.version = f"{runtime} {(re.search(r'version ([0-9.]+)', version) or ['', 'unknown'])[1]}"

    def run(self, profile: dict[str, Any] | None, no_new_privs: bool) -> subprocess.CompletedProcess[str]:
        """Start it under a profile of the OCI specification."""
        config = json.loads(json.dumps(self.config))
        config["process"] |= {"terminal": False, "args": ["/program"], "noNewPrivileges": no_new_privs}
        config["linux"].pop("resources", None)
        config["linux"]["seccomp"] = profile
        (self.folder / "config.json").write_text(json.dumps(config))
        own = ["--cgroup-manager=disabled"] if self.runtime == "crun" else []
        words = [self.path, "--root", str(self.folder / "state"), *own, "run", "--bundle", str(self.folder)]
        words.append(f"bpfence-test-{os.getpid()}-{next(self.numbers)}")  # runc may leave one behind that did not start
        return subprocess.run(
            [*ALONE, "sh", "-c", VIEW, "sh", *words], capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL
        )

    def starts(self, profile: dict[str, Any], no_new_privs: bool) -> bool:
        """Whether its program ran. What depends on chance, in Go's runtime, is tried again."""
        return any(self.run(profile, no_new_privs).returncode == STARTED for _ in range(2))


@pytest.fixture(scope="module", params=["runc", "crun"])
def container(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Container:
    """Skips where the runtime is not there, or starts nothing here even without a profile."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    made = Container(request.param, tmp_path_factory.mktemp(request.param))
    done = made.run(None, no_new_privs=True)
    if done.returncode != STARTED:
        pytest.skip(f"needs a machine on which {request.param} starts a container: {done.stderr.strip()[-300:]}")
    return made


def denying(*names: str, action: str = "SCMP_ACT_ERRNO") -> dict[str, Any]:
    return {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [{"names": [*names], "action": action}]}


def said(findings: list[dict[str, Any]], runtime: str, no_new_privs: bool) -> bool:
    """Whether `check` says that this runtime starts a container."""
    nothing = re.compile(rf"no container starts|{re.escape(described(runtime))} starts no container(?! with)")
    setting = f"{described(runtime)} starts no container {'with' if no_new_privs else 'without'} no_new_privs"
    told = [found["message"] for found in findings if found["code"] == "runtime-needs" and found["severity"] == "warning"]
    return not any(nothing.search(message) or setting in message for message in told)


PROFILES: dict[str, Callable[[], dict[str, Any]]] = {
    "the shipped one": lambda: json.loads(WEB_SERVICE.read_text()),
    "nothing but a few": lambda: {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["read", "write", "exit_group"], "action": "SCMP_ACT_ALLOW"}],
    },
    "execve": lambda: denying("execve"),
    "execve, killed": lambda: denying("execve", action="SCMP_ACT_KILL_PROCESS"),
    "faccessat, faccessat2": lambda: denying("faccessat", "faccessat2"),
    "capset": lambda: denying("capset"),
    "swapon, which no runtime needs": lambda: denying("swapon"),
}


@pytest.mark.parametrize("no_new_privs", [True, False], ids=["no_new_privs", "privs"])
@pytest.mark.parametrize("name", PROFILES)
def test_a_container_starts_where_check_says_so(
    container: Container, bpfence: Bpfence, name: str, no_new_privs: bool, tmp_path: Path
) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(PROFILES[name]()))
    agree(container, bpfence, path, no_new_privs)


def agree(container: Container, bpfence: Bpfence, path: Path, no_new_privs: bool) -> bool:
    """Compares what check says with what happens, and gives it."""
    findings = json.loads(bpfence("check", "--json", str(path)).stdout)["findings"]
    exported = bpfence("export", "--format", "oci", str(path))
    assert exported.returncode == 0, exported.stderr
    expected = said(findings, container.runtime, no_new_privs)
    if not expected and container.version != described(container.runtime):
        pytest.skip(f"needs {described(container.runtime)}: check tells what that version does, and this is {container.version}")
    started = container.starts(json.loads(exported.stdout), no_new_privs)
    assert started == expected, [found["message"] for found in findings]
    return started


@pytest.mark.parametrize("no_new_privs", [True, False], ids=["no_new_privs", "privs"])
@pytest.mark.parametrize("prepared", [True, False], ids=["for-the-runtime", "as-learned"])
def test_a_learned_profile(
    container: Container, bpfence: Bpfence, recorder: None, prepared: bool, no_new_privs: bool, tmp_path: Path
) -> None:
    path = tmp_path / "learned.json"
    words = ["--for", container.runtime] if prepared else []
    learned = bpfence("learn", "-o", str(path), *words, "--", str(container.program), "once")
    assert learned.returncode == 0, learned.stderr
    assert agree(container, bpfence, path, no_new_privs) or not prepared
