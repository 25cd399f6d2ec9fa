# SPDX-License-Identifier: Apache-2.0
"""The hook and the wrapped runtime, as installed, with runc and crun as they are.

Each container is started in mount and pid namespaces of its own, in a folder of its own; nothing of it is left.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bpfence.workloads.install import FOLDER, Asked, Host, OnFailure, install

ROOT = Path(__file__).resolve().parents[2]
RIG = Path(__file__).parent / "hook_rig.py"
PROGRAM = r"""
#include <fcntl.h>
int main(void) { return open("/marker", O_CREAT | O_WRONLY, 0600) < 0; }
"""
ALONE = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private")
VIEW = 'mount -t cgroup2 none /sys/fs/cgroup && exec "$@"'

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: containers are started by it")

Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    folder = tmp_path_factory.mktemp("program")
    (folder / "program.c").write_text(PROGRAM)
    subprocess.run(["gcc", "-O1", "-static", "-o", str(folder / "program"), str(folder / "program.c")], check=True)
    return folder / "program"


@pytest.fixture(params=["runc", "crun"])
def start(request: pytest.FixtureRequest, tmp_path: Path, program: Path) -> Run:
    """Start a container whose first act is to make /marker. Skips where the runtime is not there."""
    host = Host(str(tmp_path / "host"), sys.executable)
    real = shutil.which(request.param, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin")
    if real is None:
        pytest.skip(f"needs {request.param} (Debian: apt install {request.param})")
    bundle = tmp_path / "bundle"
    for name in ("proc", "dev", "sys"):
        (bundle / "rootfs" / name).mkdir(parents=True)
    shutil.copy(program, bundle / "rootfs" / "program")
    subprocess.run([real, "spec", "--bundle", str(bundle)], check=True)
    config = json.loads((bundle / "config.json").read_text())
    config["process"] |= {"terminal": False, "args": ["/program"]}
    config["root"]["readonly"] = False
    config["linux"].pop("resources", None)
    config["mounts"].append({"destination": "/data", "source": "/usr", "type": "none", "options": ["bind", "ro"]})
    (bundle / "config.json").write_text(json.dumps(config))
    identity = f"bpfence-test-{os.getpid()}"

    def run(what: str, on_failure: OnFailure = "deny") -> dict[str, Any]:
        socket = str(tmp_path / "run" / "hook.sock")
        install("containerd", Asked(on_failure, 20.0, socket, real), host)
        wrapper = str(host.at(FOLDER / "containerd-runtime"))
        words = [sys.executable, str(RIG), wrapper, str(tmp_path / "state"), str(bundle), identity, socket, what]
        environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
        command = [*ALONE, "sh", "-c", VIEW, "sh", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer | {"identity": identity}

    run.runtime = request.param  # type: ignore[attr-defined]
    return run


def test_a_container_is_known_before_its_first_act(start: Run) -> None:
    done = start("known")
    assert (done["code"], done["ran"], done["left"]) == (0, True, False), done["stderr"]
    (seen,) = done["seen"]
    assert seen["ran"] is False
    container = seen["container"]
    assert (container["id"], container["cgroup"], container["privileged"]) == (done["identity"], f"/{done['identity']}", False)
    assert container["cgroup_id"] > 0
    if start.runtime == "runc":  # type: ignore[attr-defined]  # crun's hooks have another parent
        assert container["runtime"] == "runc"
    assert container["pid"] in seen["processes"]
    assert {"source": "/usr", "destination": "/data", "type": "bind", "writable": False, "propagation": ""} in container["mounts"]


@pytest.mark.parametrize("what", ["refused", "nobody"])
@pytest.mark.parametrize("on_failure", ["deny", "allow"])
def test_what_happens_where_the_agent_does_not_let_it_start(start: Run, what: str, on_failure: OnFailure) -> None:
    done = start(what, on_failure)
    assert done["ran"] == (on_failure == "allow"), done["stderr"]
    assert (done["code"] == 0) == done["ran"]
    assert not done["left"]


def test_containers_that_exist_are_found_by_the_state_of_their_runtime(start: Run) -> None:
    done = start("kept")
    (found,) = (container for container in done["found"] if container["id"] == done["identity"])
    assert (found["cgroup"], found["runtime"]) == (f"/{done['identity']}", start.runtime)  # type: ignore[attr-defined]
    assert found["pid"] > 0
    assert found["started"] > 1_700_000_000_000_000_000
    assert "/data" in {mount["destination"] for mount in found["mounts"]}
    assert not done["left"]
