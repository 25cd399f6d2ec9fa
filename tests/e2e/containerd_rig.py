# SPDX-License-Identifier: Apache-2.0
"""Run by test_containerd.py in namespaces of its own: containerd with the wrapped runtime, a pod by its CRI, what the sources say of it.

Arguments: a folder with an image (`image.tar`), the runtime (its path is the second), the hook's socket; of test_nri.py also where NRI
looks for plugins and their settings, and whether the agent's side is a plugin itself. Writes JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from bpfence.errors import BpfenceError
from bpfence.workloads import cri
from bpfence.workloads.bundle import Bundles
from bpfence.workloads.cgroups import Tree
from bpfence.workloads.cri import Cri
from bpfence.workloads.hook import HookServer
from bpfence.workloads.model import Container
from bpfence.workloads.nri import NriClient
from bpfence.workloads.texts import BadAnswerError

IMAGE = "localhost/bpfence-test:1"
UID = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
CONFIG = """
version = 2
root = "{folder}/state/root"
state = "{folder}/state/run"
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "{wrapper}"
"""
NRI = """
[plugins."io.containerd.nri.v1.nri"]
  disable = false
  socket_path = "{folder}/nri.sock"
  plugin_path = "{plugins}"
  plugin_config_path = "{settings}"
"""
# What only who makes pods asks for.
cri.MESSAGES.update({
    "NamespaceOption": (("network", 1, "int32"), ("pid", 2, "int32")),
    "LinuxSandboxSecurityContext": (("namespace_options", 1, "NamespaceOption"),),
    "LinuxPodSandboxConfig": (("cgroup_parent", 1, "string"), ("security_context", 2, "LinuxSandboxSecurityContext")),
    "PodSandboxConfig": (("metadata", 1, "PodSandboxMetadata"), ("labels", 6, "map"), ("linux", 8, "LinuxPodSandboxConfig")),
    "RunPodSandboxRequest": (("config", 1, "PodSandboxConfig"),),
    "Sandbox": (("pod_sandbox_id", 1, "string"),),
    "LinuxContainerSecurityContext": (("namespace_options", 3, "NamespaceOption"),),
    "LinuxContainerConfig": (("security_context", 2, "LinuxContainerSecurityContext"),),
    "ContainerConfig": (
        ("metadata", 1, "ContainerMetadata"), ("image", 2, "ImageSpec"), ("command", 3, "*string"), ("mounts", 7, "*Mount"),
        ("labels", 9, "map"), ("linux", 15, "LinuxContainerConfig"),
    ),
    "CreateContainerRequest": (
        ("pod_sandbox_id", 1, "string"), ("config", 2, "ContainerConfig"), ("sandbox_config", 3, "PodSandboxConfig"),
    ),
    "ContainerId": (("container_id", 1, "string"),),
})  # fmt: skip
cri.METHODS.update({
    "RunPodSandbox": ("RunPodSandboxRequest", "Sandbox"), "StopPodSandbox": ("Sandbox", "Empty"), "RemovePodSandbox": ("Sandbox", "Empty"),
    "CreateContainer": ("CreateContainerRequest", "ContainerId"), "StartContainer": ("ContainerId", "Empty"),
    "RemoveContainer": ("ContainerId", "Empty"),
})  # fmt: skip
SANDBOX = {
    "metadata": {"name": "web-0", "uid": UID, "namespace": "prod"},
    "labels": {"app": "web", "io.kubernetes.pod.uid": UID},
    "linux": {"cgroup_parent": f"/kubepods/besteffort/pod{UID}", "security_context": {"namespace_options": {"network": 2, "pid": 1}}},
}


def waited(true: Any) -> bool:
    """Whether something becomes true within a time that is long for any machine."""
    deadline = time.monotonic() + 60
    while not true() and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(true())


def started(source: Cri, pod: str, name: str) -> str:
    """Make and start a container in a pod; the error, or ""."""
    config = {
        "metadata": {"name": name},
        "image": {"image": IMAGE},
        "command": ["/act"],
        "mounts": [{"container_path": "/data", "host_path": "/usr", "readonly": True}],
        "labels": {"tier": "front"},
        "linux": {"security_context": {"namespace_options": {"pid": 1}}},
    }
    try:
        made = source._ask("CreateContainer", {"pod_sandbox_id": pod, "config": config, "sandbox_config": SANDBOX})
        source._ask("StartContainer", {"container_id": made.container_id})
    except BadAnswerError as error:
        return str(error)
    return ""


def main(folder: str, wrapper: str, path: str, plugins: str = "", plugin_settings: str = "", own: str = "") -> None:
    tree, socket = Tree(Path("/sys/fs/cgroup")), f"{folder}/containerd.sock"
    told: list[dict[str, Any]] = []
    refuses: list[bool] = []

    def register(container: Container, _seconds: float) -> None:
        told.append({"container": msgspec.to_builtins(container), "program": os.readlink(f"/proc/{container.pid}/exe")})
        if refuses:
            raise BpfenceError("not today")

    server = HookServer(tree, path=Path(path)).start(register)
    settings = Path(folder, "config.toml")
    nri = NRI.format(folder=folder, plugins=plugins, settings=plugin_settings) if plugins else ""
    settings.write_text(CONFIG.format(folder=folder, image=IMAGE, wrapper=wrapper) + nri)
    said: list[str] = []
    again: list[dict[str, Any]] = []
    with Path(folder, "log").open("w") as log:
        daemon = subprocess.Popen(["containerd", "-c", str(settings)], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    source = Cri(tree, socket, "containerd", 60)
    answer: dict[str, Any] = {}
    pod = ""
    client = NriClient(Path(folder, "nri.sock"), tree, fails=True, report=said.append, pause=0.1).start(register) if own else None
    try:
        answer["listens"] = waited(Path(socket).exists)
        if client is not None:
            answer["plugin"] = waited(lambda: client.registered)
        command = ["ctr", "-a", socket, "-n", "k8s.io", "images", "import", "--snapshotter", "native", f"{folder}/image.tar"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60)
        answer["import"] = done.stdout + done.stderr
        pod = source._ask("RunPodSandbox", {"config": SANDBOX}).pod_sandbox_id
        answer["error"] = started(source, pod, "server")
        answer["api"] = msgspec.to_builtins(source.snapshot())
        tasks = (f"{folder}/state/run/io.containerd.runtime.v2.task/*",)
        answer["bundles"] = msgspec.to_builtins(Bundles(tree, states=(), tasks=tasks).snapshot())
        refuses.append(True)
        answer["refused"] = started(source, pod, "refused")
        if client is not None:  # an agent that starts again
            client.close()
            client = NriClient(Path(folder, "nri.sock"), tree, pause=0.1).start(lambda one, _: again.append(msgspec.to_builtins(one)))
            answer["found"] = waited(lambda: again)
    except BadAnswerError as error:
        answer["failed"] = str(error)
    finally:
        for method in ("StopPodSandbox", "RemovePodSandbox") if pod else ():
            source._ask(method, {"pod_sandbox_id": pod})
        source.stop()
        if client is not None:
            client.close()
        daemon.terminate()
        daemon.wait(60)
        server.close()
        for level in (f"/besteffort/pod{UID}", "/besteffort", ""):
            subprocess.run(["rmdir", f"/sys/fs/cgroup/kubepods{level}"], check=False)
    print(json.dumps(answer | {"told": told, "again": again, "said": said, "pod": pod, "log": Path(folder, "log").read_text()[-3000:]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
