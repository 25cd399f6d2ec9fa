# SPDX-License-Identifier: Apache-2.0
"""The chart's DaemonSet as a node has it: its pod, of the image that `make image` made, by a containerd with NRI, beside a real API server.

What a kubelet does with the pod is done here by hand: its security context, mounts and environment become a container of the CRI. But for
the network, which is the node's. Run by `pytest --kernels 6.12 --whole tests/kernel/test_daemonset.py`, after `make image` and
`make kubernetes`.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from bpfence.dialects.native.schema import KIND
from bpfence.seccomp import objects as seccomp
from tests.conftest import PREPARED
from tests.kernel import runtimes
from tests.kernel.cases import ROOT
from tests.kernel.cluster import FILES, PODS, PORT, Client, Line, eventually, lined
from tests.kernel.harness import COMMAND, Playground
from tests.kernel.runtimes import GUARDED, SECRET, WAIT, Cri, Daemon, Done, Wanted
from tools.build_image import ARCHITECTURES, DIST
from tools.build_kubernetes import helm

IMAGE: Final = "localhost/bpfence"
NODE: Final = "n1"
TOKENS: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
VALUES: Final[dict[str, Any]] = {
    "image": {"repository": IMAGE},
    "agent": {"nri": {"socket": runtimes.NRI, "onFailure": "deny"}},
    "webhook": {"enabled": False},
}
MASKED: Final = ("/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/sched_debug", "/proc/scsi")
READ_ONLY: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
"""Of kubelets, for what is not privileged."""
RULE: Final = {"name": "secret", "on": "open", "match": {"file.path": SECRET}, "action": "deny", "rate": "100000/s"}
EPERM: Final = 1


def archive() -> Path | None:
    """The newest image."""
    made = DIST.glob(f"bpfence-*-{ARCHITECTURES[platform.machine()]}.oci.tar")
    return max(made, key=lambda path: path.stat().st_mtime, default=None)


def rendered(folder: Path) -> dict[str, Any]:
    """The pod of the DaemonSet, as helm makes it of the chart."""
    values = folder / "values.yaml"
    values.write_text(yaml.safe_dump(VALUES))
    command = [str(helm()), "template", "guard", str(ROOT / "deploy/helm/bpfence"), "--namespace", "bpfence", "--values", str(values)]
    home = os.environ | {"HOME": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=home)
    assert done.returncode == 0, done.stderr
    [daemon_set] = [one for one in yaml.safe_load_all(done.stdout) if one and one["kind"] == "DaemonSet"]
    pod: dict[str, Any] = daemon_set["spec"]["template"]["spec"]
    return pod


class Kubelet:
    """Makes a pod of what a DaemonSet asks for."""

    def __init__(self, cri: Cri, folder: Path, pod: Mapping[str, Any]) -> None:
        self._cri, self._folder = cri, folder
        [self._container] = pod["containers"]
        self._volumes = {volume["name"]: volume for volume in pod["volumes"]}
        self._pids = 2 if pod["hostPID"] else 0
        self._sandbox = ""
        self._attempt = 0
        self.container = ""

    @property
    def log(self) -> Path:
        """Where the runtime writes what the container says."""
        return self._folder / f"agent-{self._attempt}.log"

    def start(self) -> None:
        """Another container of the pod."""
        namespaces = {1: 2, 2: self._pids}
        security = {1: namespaces}
        config: dict[int, Any] = {
            1: {1: "guard-bpfence-agent", 2: "a0000000-0000-4000-8000-000000000000", 3: "bpfence"},
            3: str(self._folder),
            8: {1: "/kubepods/burstable/poda0000000-0000-4000-8000-000000000000", 2: security},
        }
        if not self._sandbox:
            self._sandbox = self._cri.call("RunPodSandbox", {1: config})[1][0].decode()
        self._attempt += 1
        one = self._container
        assert [entry["name"] for entry in one["env"]] == ["NODE_NAME"]
        told = {"NODE_NAME": NODE, "KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(PORT)}
        asked: dict[int, Any] = {
            1: {1: one["name"], 2: self._attempt},
            2: {1: one["image"]},
            3: one["command"],
            4: one["args"],
            6: [{1: name, 2: value} for name, value in told.items()],
            7: [*self._mounts(), {1: TOKENS, 2: str(self._token()), 3: 1}],
            11: self.log.name,
            15: {2: self._security(one["securityContext"])},
        }
        self.container = self._cri.call("CreateContainer", {1: self._sandbox, 2: asked, 3: config})[1][0].decode()
        self._cri.call("StartContainer", {1: self.container})

    def _mounts(self) -> Iterator[dict[int, Any]]:
        for mount in self._container["volumeMounts"]:
            volume = self._volumes[mount["name"]]
            if "hostPath" in volume:
                path, kind = Path(volume["hostPath"]["path"]), volume["hostPath"]["type"]
                if kind == "DirectoryOrCreate":
                    path.mkdir(parents=True, exist_ok=True)
            else:
                assert "emptyDir" in volume
                path = self._folder / volume["name"]
                path.mkdir(exist_ok=True)
                path.chmod(0o777)
            assert path.is_dir(), path
            yield {1: mount["mountPath"], 2: str(path), **({3: 1} if mount.get("readOnly") else {})}

    def _token(self) -> Path:
        folder = self._folder / "token"
        folder.mkdir(exist_ok=True)
        held = {"token": "secret-agent", "namespace": "bpfence", "ca.crt": (FILES / "certs" / "apiserver.crt").read_text()}
        for name, text in held.items():
            (folder / name).write_text(text)
        return folder

    def _security(self, context: Mapping[str, Any]) -> dict[int, Any]:
        known = {"allowPrivilegeEscalation", "capabilities", "seccompProfile", "appArmorProfile", "readOnlyRootFilesystem", "runAsUser"}
        assert context.keys() == known, "what else a kubelet makes of it is not done here"
        assert (context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"]) == (False, True)
        assert {context[name]["type"] for name in ("seccompProfile", "appArmorProfile")} == {"Unconfined"}
        return {
            1: {1: context["capabilities"]["add"], 2: context["capabilities"]["drop"]},
            3: {1: 2, 2: self._pids},
            5: {1: context["runAsUser"]},
            7: 1,
            11: 1,
            13: list(MASKED),
            14: list(READ_ONLY),
            15: {1: 1},
            16: {1: 1},
        }

    def ready(self) -> bool:
        """What the readiness probe says. AssertionError where the container has ended."""
        status = runtimes.decoded(self._cri.call("ContainerStatus", {1: self.container})[1][0])
        assert status[3][0] == 1, (status, self.said())
        return self._cri.execute(self.container, self._container["readinessProbe"]["exec"]["command"]).code == 0

    def stop(self, seconds: int) -> None:
        """As for an upgrade: SIGTERM, and SIGKILL after so many seconds; then it is removed."""
        self._cri.call("StopContainer", {1: self.container, 2: seconds})
        self._cri.remove(self.container)

    def close(self) -> None:
        if self._sandbox:
            self._cri.call("StopPodSandbox", {1: self._sandbox})
            self._cri.call("RemovePodSandbox", {1: self._sandbox})

    def said(self) -> str:
        return self.log.read_text()[-4000:] if self.log.exists() else ""

    def alerts(self) -> list[dict[str, Any]]:
        """From the container's standard output, as a collector of the node reads it: time, stream, whether the line is whole, the line."""
        lines = [line.split(" ", 3) for line in self.log.read_text().splitlines()]
        found = [json.loads(text) for _, stream, whole, text in lines if (stream, whole) == ("stdout", "F")]
        return [record for record in found if record.get("rule") == "secret"]


@pytest.fixture
def line() -> Iterator[Line]:
    with lined() as made:
        yield made


@pytest.fixture
def daemon(line: Line, playground: Playground, tmp_path: Path) -> Iterator[Daemon]:
    """containerd, with the images of the tests to be loaded from a file beside its log. Skips where something is missing."""
    if gone := runtimes.missing("nri"):
        pytest.skip(f"{gone} is not installed here")
    for program in (helm(), archive()):
        if program is None or not program.exists():
            pytest.skip("needs an image and helm: `make image kubernetes`")
    runtimes.prepare(tmp_path)
    made = runtimes.start_with_nri(tmp_path)
    try:
        yield made
    finally:
        made.stop()
        runtimes.clean()


def ready(kubelet: Kubelet) -> float:
    """The seconds that it took."""
    began = time.monotonic()
    kubelet.start()
    eventually(kubelet.ready)
    return time.monotonic() - began


def test_a_node_of_the_daemon_set(daemon: Daemon, tmp_path: Path) -> None:
    """A pod's first act is denied by a policy of the cluster, and told in the log; so are others while the agent is away, and after."""
    eventually((FILES / PREPARED).exists)
    client = Client()
    cri = Cri(tmp_path / "images.tar", daemon)
    command = ["ctr", "-n", "k8s.io", "images", "import", str(archive())]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    kubelet = Kubelet(cri, tmp_path, rendered(tmp_path))
    try:
        client.create(KIND, "daemon", {"scope": {"labels": {"tier": "front"}, "image": "guarded"}, "rules": [RULE]})
        calls = {"names": ["read"], "action": "SCMP_ACT_ALLOW"}
        client.create(seccomp.KIND, "daemon", {"profile": {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [calls]}})
        made = {
            "metadata": {"name": "pod0", "labels": {"tier": "front"}},
            "spec": {"nodeName": NODE, "serviceAccountName": "web", "containers": [{"name": "c", "image": "guarded"}]},
        }
        cri.uid = client.ask("POST", PODS, made)["metadata"]["uid"]
        print(f"ready after {ready(kubelet):.0f} s", file=sys.stderr)
        eventually(lambda: client.in_force(KIND, "daemon"))
        eventually(lambda: client.in_force(seccomp.KIND, "daemon"))
        assert Path("/var/lib/kubelet/seccomp/bpfence/shop/daemon.json").exists()

        asked = ("/trigger", "open", SECRET)
        done = cri.run(Wanted(GUARDED, asked, "first"))
        assert done.code == EPERM, (done, kubelet.said())
        kept = cri.start(Wanted(GUARDED, WAIT, "kept"))
        twin = cri.start(Wanted(runtimes.PLAIN, WAIT, "twin"))

        def opened() -> list[Done]:
            return [cri.execute(one, asked) for one in (kept, twin)]

        assert [one.said.strip() for one in opened()] == ["EPERM", "OK"]
        eventually(lambda: len(kubelet.alerts()) >= 2)
        alerts = kubelet.alerts()
        assert [alert["container"]["name"] for alert in alerts] == ["first", "kept"]
        assert {(alert["policy"], alert["k8s"]["pod"], alert["k8s"]["namespace"]) for alert in alerts} == {("shop/daemon", "pod0", "shop")}
        assert alerts[1]["container"]["id"] == kept

        kubelet.stop(100)
        assert [one.said.strip() for one in opened()] == ["EPERM", "OK"], "the agent is away"
        print(f"ready again after {ready(kubelet):.0f} s", file=sys.stderr)
        assert [one.said.strip() for one in opened()] == ["EPERM", "OK"]
        client.ask("DELETE", client.at(KIND, "daemon"))
        eventually(lambda: opened()[0].said.strip() == "OK")
    except BaseException:
        print(kubelet.said(), daemon.tail())
        raise
    finally:
        cri.close()
        kubelet.close()
        subprocess.run([*COMMAND, "unload"], check=True, capture_output=True)  # the agent of the chart keeps what is in force
