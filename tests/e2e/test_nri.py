# SPDX-License-Identifier: Apache-2.0
"""containerd with NRI as it is: with the plugin that `bpfence hook install --nri` writes, and with the agent as a plugin; runc below it.

As in test_containerd.py: in namespaces of its own, with all that it writes in one folder.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest

from bpfence.workloads.install import NRI_PLUGIN, NRI_SETTINGS, Asked, Host, install
from tests.e2e.test_containerd import RIG, ROOT, UID, image
from tests.e2e.test_podman import ACT, ALONE, RUNTIME, VIEW
from tools import fetch_containerd

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: containers are started by it")


@pytest.fixture(scope="module", params=["installed", "agent"])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the rig writes. Skips where there is no containerd with NRI, or it starts nothing here."""
    pytest.importorskip("grpc", reason="needs grpcio: pip install 'bpfence[cri]'")
    here = fetch_containerd.with_nri()
    if not here:
        pytest.skip("needs a containerd from 1.7 on: make containerd")
    path = f"{here}:{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin"
    for name in ("runc", "gcc"):
        if shutil.which(name, path=path) is None:
            pytest.skip(f"needs {name} (Debian: apt install runc gcc)")
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "act.c").write_text(ACT)
    subprocess.run(["gcc", "-O1", "-static", "-o", str(folder / "act"), str(folder / "act.c")], check=True)
    image(folder / "image.tar", folder / "act", "localhost/bpfence-test:1")
    runtime = folder / "runtime"
    runtime.write_text(RUNTIME.format(python=os.path.realpath(sys.executable), real=shutil.which("runc", path=path)))
    runtime.chmod(0o755)
    socket = str(folder / "agent" / "hook.sock")
    host = Host(str(folder / "host"), sys.executable)
    if request.param == "installed":
        install("containerd", Asked("deny", 30.0, socket, nri=True), host)
    folders = [str(host.at(NRI_PLUGIN).parent), str(host.at(NRI_SETTINGS).parent)]
    own = ["own"] if request.param == "agent" else []
    command = [*ALONE, "sh", "-c", VIEW, "sh", sys.executable, str(RIG), str(folder), str(runtime), socket, *folders, *own]
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "PATH": path}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "failed" in answer and not answer["told"]:
        pytest.skip(f"needs a machine on which containerd starts a pod: {answer['failed'][-300:]}")
    assert "failed" not in answer, (answer["failed"], answer["log"])
    return answer | {"by": request.param}


def test_a_pods_containers_start_when_the_agent_has_been_told_of_them(seen: dict[str, Any]) -> None:
    assert seen["error"] == "", seen["log"]
    assert [line for line in seen["said"] if "not today" not in line and "No such file" not in line] == []
    server, refused = (told["container"] for told in seen["told"])
    assert not any(told["program"].endswith("/act") for told in seen["told"]), "a first instruction came before the answer"
    assert (server["name"], server["image"], server["runtime"]) == ("server", "localhost/bpfence-test:1", "containerd")
    assert (server["pod"]["name"], server["pod"]["namespace"], server["pod"]["uid"]) == ("web-0", "prod", UID)
    assert server["cgroup"] == f"/kubepods/besteffort/pod{UID}/{server['id']}"
    assert refused["name"] == "refused"
    assert "not today" in seen["refused"]


def test_labels_of_the_pod_are_known_where_the_agent_is_the_plugin(seen: dict[str, Any]) -> None:
    """The runtime says them, the bundle does not. Those of the image are not the container's."""
    server = seen["told"][0]["container"]
    assert server["pod"]["labels"] == ({"app": "web"} if seen["by"] == "agent" else None)
    assert server["labels"] is None
    api = next(container for container in seen["api"] if not container["sandbox"])
    assert {key: server[key] for key in ("cgroup", "cgroup_id", "pid", "name", "image")} == {
        key: api[key] for key in ("cgroup", "cgroup_id", "pid", "name", "image")
    }


def test_what_runs_is_told_when_an_agent_becomes_the_plugin(seen: dict[str, Any]) -> None:
    """As it was told before it started, but for the moment."""
    if seen["by"] == "agent":
        [server] = seen["again"]
        assert server | {"started": 0} == seen["told"][0]["container"] | {"started": 0}
