# SPDX-License-Identifier: Apache-2.0
"""Docker as it is, with the runtime that `bpfence hook install` puts before runc and crun, and its API as a source.

It runs in mount, network and pid namespaces of its own, with all that it writes in one folder. Its daemon is the machine's, or that
which `.ci/run` unpacks.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bpfence.workloads.install import DAEMON, FOLDER, Asked, Host, install
from tests.e2e.test_podman import ACT, ALONE, ROOT, RUNTIME, VIEW
from tests.kernel.runtimes import NOT_STARTED, missing

RIG = Path(__file__).parent / "docker_rig.py"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: containers are started by it")


@pytest.fixture(scope="module", params=["runc", "crun"])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the rig writes. Skips where Docker or the runtime is not there, or starts nothing here."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin"
    gone = missing("docker") or next((name for name in (request.param, "gcc", "busybox") if shutil.which(name, path=path) is None), "")
    if gone:
        pytest.skip(f"needs {gone} (Debian: apt install docker.io {request.param} gcc busybox-static)")
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "act.c").write_text(ACT)
    subprocess.run(["gcc", "-O1", "-static", "-o", str(folder / "act"), str(folder / "act.c")], check=True)
    runtime = folder / "runtime"
    runtime.write_text(RUNTIME.format(python=os.path.realpath(sys.executable), real=shutil.which(request.param, path=path)))
    runtime.chmod(0o755)
    socket = str(folder / "agent" / "hook.sock")
    host = Host(str(folder / "host"), sys.executable)
    install("docker", Asked("deny", 30.0, socket, str(runtime)), host)
    settings = json.loads(host.at(DAEMON).read_text())
    assert settings["default-runtime"] == "bpfence"
    settings["runtimes"] = {"bpfence": {"path": str(host.at(FOLDER / "docker-runtime"))}, "plain": {"path": str(runtime)}}
    (folder / "daemon.json").write_text(json.dumps(settings))
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    command = [*ALONE, "sh", "-c", VIEW, "sh", sys.executable, str(RIG), str(folder), socket]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if answer["failed"] and not answer["told"]:
        pytest.skip(f"needs a machine on which Docker starts a container: {answer['failed'][-300:]}")
    assert not answer["failed"]
    return answer


def test_containers_start_when_the_hook_has_told_of_them(seen: dict[str, Any]) -> None:
    assert [told["container"]["name"] for told in seen["told"]] == ["web", "refused"]
    web = seen["told"][0]
    assert not web["program"].endswith("/trigger"), "its first instruction came before the answer"
    container = web["container"]
    assert (container["image"], container["runtime"]) == ("docker.io/library/guarded:1", "docker")
    assert container["cgroup"] == f"/docker/{container['id']}"
    assert container["cgroup_id"] > 0
    assert seen["refused"][0] == NOT_STARTED
    assert seen["without"][0] == 7  # whoever asks for another runtime does without the hook


def test_its_api_and_its_files_tell_the_same(seen: dict[str, Any]) -> None:
    [api], [files] = seen["api"], seen["bundles"]
    for key in ("id", "cgroup", "cgroup_id", "runtime", "pid", "privileged"):
        assert api[key] == files[key], key
    assert (api["name"], api["labels"]["tier"], api["privileged"]) == ("web", "front", False)
    assert api["image"].removeprefix("docker.io/library/") == "guarded:1"
    assert "/data" in [mount["destination"] for mount in api["mounts"]]
