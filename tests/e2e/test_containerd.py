# SPDX-License-Identifier: Apache-2.0
"""containerd as it is, with the wrapped runtime that `bpfence hook install` writes, and its CRI as a source; runc and crun below it.

It runs in mount, network and pid namespaces of its own, with all that it writes in one folder.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from bpfence.workloads.install import FOLDER, Asked, Host, install
from tests.e2e.test_podman import ACT, ALONE, RUNTIME, VIEW

ROOT = Path(__file__).resolve().parents[2]
RIG = Path(__file__).parent / "containerd_rig.py"
UID = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: containers are started by it")


def image(path: Path, program: Path, name: str) -> None:
    """An OCI archive of one layer with one program."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as files:
        files.add(program, "act")
    blobs: dict[str, bytes] = {}

    def blob(data: bytes, kind: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    content = blob(layer.getvalue(), "layer.v1.tar")
    root = {"type": "layers", "diff_ids": [content["digest"]]}
    config = blob(
        json.dumps({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/act"]}, "rootfs": root}).encode(), "config.v1+json"
    )
    manifest = blob(json.dumps({"schemaVersion": 2, "config": config, "layers": [content]}).encode(), "manifest.v1+json")
    manifest["annotations"] = {"io.containerd.image.name": name}
    with tarfile.open(path, "w") as archive:
        entries = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}
        entries["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [manifest]}).encode()
        for entry, data in (entries | {f"blobs/sha256/{digest}": data for digest, data in blobs.items()}).items():
            info = tarfile.TarInfo(entry)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.fixture(scope="module", params=["runc", "crun"])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the rig writes. Skips where containerd or the runtime is not there, or starts nothing here."""
    pytest.importorskip("grpc", reason="needs grpcio: pip install 'bpfence[cri]'")
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin"
    for name in ("containerd", "ctr", "containerd-shim-runc-v2", request.param, "gcc"):
        if shutil.which(name, path=path) is None:
            pytest.skip(f"needs {name} (Debian: apt install containerd {request.param} gcc)")
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "act.c").write_text(ACT)
    subprocess.run(["gcc", "-O1", "-static", "-o", str(folder / "act"), str(folder / "act.c")], check=True)
    image(folder / "image.tar", folder / "act", "localhost/bpfence-test:1")
    runtime = folder / "runtime"
    runtime.write_text(RUNTIME.format(python=os.path.realpath(sys.executable), real=shutil.which(request.param, path=path)))
    runtime.chmod(0o755)
    socket = str(folder / "agent" / "hook.sock")
    host = Host(str(folder / "host"), sys.executable)
    install("containerd", Asked("deny", 30.0, socket, str(runtime)), host)
    wrapper = str(host.at(FOLDER / "containerd-runtime"))
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "PATH": path}
    command = [*ALONE, "sh", "-c", VIEW, "sh", sys.executable, str(RIG), str(folder), wrapper, socket]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "failed" in answer and not answer["told"]:
        pytest.skip(f"needs a machine on which containerd starts a pod: {answer['failed'][-300:]}")
    assert "failed" not in answer, (answer["failed"], answer["log"])
    return answer


def test_a_pods_containers_start_when_the_hook_has_told_of_them(seen: dict[str, Any]) -> None:
    assert seen["error"] == "", seen["log"]
    pause, server, refused = (told["container"] for told in seen["told"])
    assert not any(told["program"].endswith("/act") for told in seen["told"]), "a first instruction came before the answer"
    assert (pause["sandbox"], pause["id"]) == (True, seen["pod"])
    assert (server["name"], server["image"], server["runtime"]) == ("server", "localhost/bpfence-test:1", "containerd")
    assert (server["pod"]["name"], server["pod"]["namespace"]) == ("web-0", "prod")
    assert server["cgroup"] == f"/kubepods/besteffort/pod{UID}/{server['id']}"
    assert refused["name"] == "refused"
    assert seen["refused"]


def test_its_cri_tells_all(seen: dict[str, Any]) -> None:
    pause, server = sorted(seen["api"], key=lambda container: not container["sandbox"])
    assert (server["name"], server["image"], server["runtime"]) == ("server", "localhost/bpfence-test:1", "containerd")
    assert (server["labels"], server["privileged"]) == ({"tier": "front"}, False)
    assert server["image_id"].startswith("sha256:")
    assert server["started"] > 1_700_000_000_000_000_000
    mount = next(mount for mount in server["mounts"] if mount["destination"] == "/data")
    assert (mount["source"], mount["writable"], mount["propagation"]) == ("/usr", False, "rprivate")
    pod = {"name": "web-0", "namespace": "prod", "uid": UID, "labels": {"app": "web"}}
    assert {key: server["pod"][key] for key in pod} == {key: pause["pod"][key] for key in pod} == pod


def test_its_files_tell_the_same(seen: dict[str, Any]) -> None:
    api = {container["id"]: container for container in seen["api"]}
    files = {container["id"]: container for container in seen["bundles"]}
    assert api.keys() == files.keys()
    for identity, container in files.items():
        for key in ("cgroup", "cgroup_id", "runtime", "pid", "privileged", "sandbox"):
            assert container[key] == api[identity][key], key
        assert container["pod"]["name"] == "web-0"
