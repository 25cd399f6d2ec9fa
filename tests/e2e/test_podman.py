# SPDX-License-Identifier: Apache-2.0
"""Podman as it is, with the hook that `bpfence hook install` writes, and its service as a source; runc and crun below it.

It runs in mount, network and pid namespaces of its own, with all that it writes in one folder.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from bpfence.workloads.install import HOOKS, Asked, Host, install

ROOT = Path(__file__).resolve().parents[2]
RIG = Path(__file__).parent / "podman_rig.py"
ACT = "#include <unistd.h>\nint main(void) { return sleep(600) != 0; }\n"
RUNTIME = """#!{python} -IS
import json, os, sys
words = sys.argv[1:]
if "create" in words:
    path = words[words.index("--bundle") + 1] + "/config.json"
    config = json.load(open(path))
    for name in ("rlimits", "oomScoreAdj"):
        config["process"].pop(name, None)
    config["linux"].pop("resources", None)
    json.dump(config, open(path, "w"))
os.execv({real!r}, [{real!r}, *words])
"""
"""Without what takes more privileges or controllers than a test machine gives: limits."""
ALONE = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private")
VIEW = 'mount -t cgroup2 none /sys/fs/cgroup && mount -t tmpfs none /run && exec "$@"'

PRIVILEGED = {"crun": ["--privileged"], "runc": []}
"""In these namespaces, whose devices are another's, runc 1.1 starts no privileged container."""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: containers are started by it")


@pytest.fixture(scope="module", params=["runc", "crun"])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the rig writes, and the runtime. Skips where Podman or the runtime is not there, or starts nothing here."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin"
    real = shutil.which(request.param, path=path)
    for name in ("podman", "conmon", request.param, "gcc"):
        if shutil.which(name, path=path) is None:
            pytest.skip(f"needs {name} (Debian: apt install podman {request.param} gcc)")
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "act.c").write_text(ACT)
    subprocess.run(["gcc", "-O1", "-static", "-o", str(folder / "act"), str(folder / "act.c")], check=True)
    with tarfile.open(folder / "image.tar", "w") as image:
        image.add(folder / "act", "act")
    runtime = folder / "runtime"
    runtime.write_text(RUNTIME.format(python=os.path.realpath(sys.executable), real=real))
    runtime.chmod(0o755)
    socket = str(folder / "agent" / "hook.sock")
    host = Host(str(folder / "host"), sys.executable)
    install("podman", Asked("deny", 30.0, socket), host)
    hook = json.loads(host.at(HOOKS / "bpfence.json").read_text())
    hook["hook"]["path"] = hook["hook"]["args"][0] = str(host.at(Path(hook["hook"]["path"])))
    (folder / "hooks").mkdir()
    (folder / "hooks" / "bpfence.json").write_text(json.dumps(hook))
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    command = [*ALONE, "sh", "-c", VIEW, "sh", sys.executable, str(RIG), str(folder), socket, *PRIVILEGED[request.param]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if not answer["told"] and any(answer["codes"][:2]):
        pytest.skip(f"needs a machine on which Podman starts a container: {answer['codes'][2][-300:]}")
    return answer | {"privileged": bool(PRIVILEGED[request.param])}


def test_containers_start_when_the_hook_has_told_of_them(seen: dict[str, Any]) -> None:
    assert seen["codes"][:2] == [0, 0], seen["codes"]
    web = next(told for told in seen["told"] if told["container"]["name"] == "web")
    assert not web["program"].endswith("/act"), "its first instruction came before the answer"
    container = web["container"]
    assert (container["image"], container["runtime"]) == ("localhost/bpfence-test:1", "podman")
    assert container["cgroup"].endswith(f"/libpod-{container['id']}")
    assert container["cgroup_id"] > 0
    assert seen["refused"][0] != 0
    assert [told["container"]["name"] for told in seen["told"]] == ["web", "mighty", "refused"]


def test_its_service_tells_all(seen: dict[str, Any]) -> None:
    by_name = {container["name"]: container for container in seen["api"]}
    web, mighty = by_name["web"], by_name["mighty"]
    assert web["image"] == "localhost/bpfence-test:1"
    assert (web["labels"]["app"], web["privileged"], mighty["privileged"]) == ("web", False, seen["privileged"])
    assert len(web["image_id"].removeprefix("sha256:")) == 64
    assert web["image_digest"].startswith("sha256:")
    assert web["started"] > 1_700_000_000_000_000_000
    mount = next(mount for mount in web["mounts"] if mount["destination"] == "/data")
    assert (mount["source"], mount["writable"]) == ("/usr", False)


def test_its_files_tell_the_same(seen: dict[str, Any]) -> None:
    api = {container["name"]: container for container in seen["api"]}
    files = {container["name"]: container for container in seen["bundles"]}
    assert api.keys() == files.keys() == {"web", "mighty"}
    for name, container in files.items():
        for key in ("id", "cgroup", "cgroup_id", "image", "runtime", "pid", "privileged"):
            assert container[key] == api[name][key], (name, key)


def test_changes_are_told(seen: dict[str, Any]) -> None:
    assert seen["listens"]
    assert seen["seen"]
    assert seen["gone"]
