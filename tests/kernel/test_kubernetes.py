# SPDX-License-Identifier: Apache-2.0
"""`bpfence run --kubernetes` beside a real API server: policies by an ordinary client, in force for the processes in a pod's cgroup."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfence.dialects.native.schema import KIND
from bpfence.seccomp import objects as seccomp
from tests.conftest import AGENT_KUBECONFIG, PREPARED
from tests.kernel.cases import TRIGGER
from tests.kernel.cluster import FILES, PODS, Client, Line, eventually, lined
from tests.kernel.harness import Agent, Playground, cgroup_folder, run_act

IDENTITY = "ab" * 32


@pytest.fixture
def line() -> Iterator[Line]:
    with lined() as made:
        yield made


class Node(Agent):
    """An agent that asks the API server, with nothing but the chart's role."""

    def __init__(self, folder: Path, kubeconfig: Path) -> None:
        super().__init__(folder, "kubernetes")
        self.seccomp = folder / "kubelet" / "seccomp"
        self.seccomp.parent.mkdir()
        self.words = ["--kubernetes", "--kubeconfig", str(kubeconfig), "--node", "n1", "--seccomp-folder", str(self.seccomp)]
        self.words += ["--kubernetes-cache", str(folder / "kubernetes.json"), "--pin-dir", "/sys/fs/bpf/bpfence-kubernetes"]


def test_policies_of_a_cluster_are_in_force_in_its_pods(line: Line, playground: Playground, tmp_path: Path) -> None:
    eventually((FILES / PREPARED).exists)
    client = Client()
    assert TRIGGER.exists()
    (tmp_path / "node").mkdir()
    secret = tmp_path / "node" / "secret"
    secret.write_text("")
    rule = {"name": "secret", "on": "open", "match": {"file.path": str(secret)}, "action": "deny"}
    node = Node(tmp_path / "node", FILES / AGENT_KUBECONFIG)
    node.write_policy("own", {
        "apiVersion": "bpfence.io/v1alpha1", "kind": "SecurityPolicy", "metadata": {"name": "own"},
        "spec": {"scope": {"cgroup": "/nowhere"}, "rules": [rule]},
    })  # fmt: skip
    made = {
        "metadata": {"name": "web-1", "labels": {"tier": "back"}},
        "spec": {"nodeName": "n1", "serviceAccountName": "web", "containers": [{"name": "c", "image": "busybox"}]},
    }
    uid = client.ask("POST", PODS, made)["metadata"]["uid"]
    pod = cgroup_folder(f"/kubepods/besteffort/pod{uid}/{IDENTITY}")
    other = cgroup_folder(f"/kubepods/besteffort/pod{uid.replace(uid[0], 'f' if uid[0] != 'f' else 'e')}/{'cd' * 32}")

    def opened(folder: Path = pod) -> str:
        return run_act(["open", str(secret)], folder).result

    def becomes(result: str) -> None:
        eventually(lambda: opened() == result)

    node.start(*node.words)
    try:
        assert opened() == "ok"
        client.create(KIND, "guard", {"scope": {"labels": {"tier": "front"}, "unknown": "outside"}, "rules": [rule]})
        eventually(lambda: client.in_force(KIND, "guard"))
        assert opened() == "ok"
        for tier, result in (("front", "EPERM"), ("back", "ok"), ("front", "EPERM")):
            client.patch(f"{PODS}/web-1", {"metadata": {"labels": {"tier": tier}}})
            becomes(result)
        assert opened(other) == "ok"
        alert = eventually(lambda: [one for one in node.poll() if one.get("policy") == "shop/guard"])[0]
        assert (alert["k8s.pod"], alert["k8s.namespace"], alert["container.id"][:12]) == ("web-1", "shop", IDENTITY[:12])
        calls = {"names": ["read"], "action": "SCMP_ACT_ALLOW"}
        client.create(seccomp.KIND, "web", {"profile": {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [calls]}})
        eventually(lambda: client.in_force(seccomp.KIND, "web"))
        assert (node.seccomp / "bpfence/shop/web.json").exists(), "written by an agent that has given up its privileges"

        line.cut()
        assert opened() == "EPERM", "the API server is away"
        node.stop(signal.SIGKILL)
        assert opened() == "EPERM", "the agent is away, too"
        node.start(*node.words)
        assert opened() == "EPERM", "it knows what it knew"
        line.mend()
        client.ask("DELETE", client.at(seccomp.KIND, "web"))
        eventually(lambda: not (node.seccomp / "bpfence/shop/web.json").exists())
        client.patch(client.at(KIND, "guard"), {"spec": {"scope": {"labels": {"tier": "back"}}}})
        becomes("ok")
        assert node.stop() == 0
    except BaseException:
        print(node.log())
        raise
    finally:
        if node.process is not None and node.process.poll() is None:
            node.stop(signal.SIGKILL)
