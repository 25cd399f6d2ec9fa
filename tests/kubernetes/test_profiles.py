# SPDX-License-Identifier: Apache-2.0
"""Seccomp profiles of a real API server on nodes and in pods, and the status that is left when a node goes.

Agents and the webhook ask as the service accounts that the chart binds its roles to, with nothing but those roles.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bpfence.k8s.bindings import Bindings
from bpfence.k8s.client import connect
from bpfence.k8s.tidy import Tidier
from bpfence.k8s.webhook import MUTATE, Server
from bpfence.seccomp.objects import KIND
from tests.kubernetes.conftest import WEBHOOK, ApiServer
from tests.kubernetes.rig import Client, Node, eventually
from tests.unit.k8s.samples import SECRET
from tests.unit.k8s.test_webhook import certificate

kubernetes = pytest.importorskip("kubernetes", reason="needs the Kubernetes client: pip install bpfence[kubernetes]")

WEB = "bpfence/shop/web.json"
MISSPELT = {"profile": {"defaultAction": "SCMP_ACT_ERRNO", "syscals": []}}


def profile(*calls: str, **more: Any) -> dict[str, Any]:
    rule = {"names": ["read", "write", *calls], "action": "SCMP_ACT_ALLOW"}
    return {"profile": {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule]}, **more}


def allowed(path: Path) -> list[str]:
    if not path.exists():
        return []
    names: list[str] = json.loads(path.read_text())["syscalls"][0]["names"]
    return names


def test_profiles_come_to_nodes_and_go(client: Client, nodes: Callable[..., Node]) -> None:
    node = nodes()
    file = node.seccomp / WEB
    client.create("web", profile("openat"), kind=KIND)
    client.create("web", profile("mmap"), "", kind=KIND)
    node.until(lambda: client.condition("web", "InForce", KIND) == "True")
    assert allowed(file) == ["openat", "read", "write"]
    assert file.stat().st_mode & 0o777 == 0o644
    assert allowed(node.seccomp / "bpfence/web.json") == ["mmap", "read", "write"]
    client.change("web", profile("openat", "close"), KIND)
    node.until(lambda: client.status("web", KIND)["nodes"][0].get("generation") == 2)
    assert allowed(file) == ["close", "openat", "read", "write"]
    client.change("web", MISSPELT, KIND)
    node.until(lambda: client.condition("web", "Accepted", KIND) == "False")
    [entry] = client.status("web", KIND)["nodes"]
    assert (entry["observed"], entry["generation"]) == (3, 2), "what was in place stays"
    assert "syscals" in entry["findings"][0]["path"]
    assert allowed(file) == ["close", "openat", "read", "write"]
    (file.parent / "own.json").write_text("{}")
    client.delete("web", KIND)
    node.until(lambda: not file.exists())
    assert [path.name for path in file.parent.iterdir()] == ["own.json"], "what others have put there is theirs"
    assert (node.seccomp / "bpfence/web.json").exists()


def test_a_profile_that_goes_while_the_agent_is_away(client: Client, nodes: Callable[..., Node]) -> None:
    node = nodes()
    client.create("web", profile(), kind=KIND)
    client.create("stays", profile(), kind=KIND)
    node.until(lambda: client.condition("web", "InForce", KIND) == client.condition("stays", "InForce", KIND) == "True")
    node.until(lambda: not node.cluster._keeper._changed.is_set())
    node.stop()
    node.agent.stopping = True
    assert (node.seccomp / WEB).exists()
    client.delete("web", KIND)
    later = nodes()
    later.until(lambda: not (later.seccomp / WEB).exists())
    assert (later.seccomp / "bpfence/shop/stays.json").exists()


class Hook:
    """The webhook, and an API server that asks it about pods: as the chart has it, but for the address."""

    def __init__(self, client: Client, api_server: ApiServer, folder: Path, policy: str) -> None:
        self.said: list[str] = []
        self.client = client
        self.bindings = Bindings(connect(api_server.kubeconfig(WEBHOOK)), self.said.append, pause=0.1)
        self.bindings.start()
        files = certificate(folder)
        self.server = Server(("127.0.0.1", 0), *files, self.said.append, self.bindings)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        hook = {
            "name": "pods.bpfence.io", "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": policy,
            "timeoutSeconds": 30, "reinvocationPolicy": "IfNeeded",
            "clientConfig": {
                "url": f"https://127.0.0.1:{self.server.server_address[1]}{MUTATE}",
                "caBundle": base64.b64encode(files[0].read_bytes()).decode(),
            },
            "rules": [
                {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]},
                {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["pods/ephemeralcontainers"]},
            ],
            "namespaceSelector": {
                "matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["bpfence"]}],
            },
        }  # fmt: skip
        client.admission.create_mutating_webhook_configuration({"metadata": {"name": "bpfence"}, "webhooks": [hook]})

    def pod(self, name: str, image: str = "nginx:1.27", namespace: str = "shop", **context: Any) -> str:
        """Make a pod; what its container runs under."""
        container = {"name": "c", "image": image, **({"securityContext": context} if context else {})}
        body = {"metadata": {"name": name, "labels": {"app": "web"}}, "spec": {"containers": [container], "nodeName": "n1"}}
        made = self.client.core.create_namespaced_pod(namespace, body)
        return self.given(made.spec.containers[0])

    @staticmethod
    def given(container: Any) -> str:
        found = container.security_context.seccomp_profile if container.security_context else None
        return f"{found.type}:{found.localhost_profile or ''}" if found else ""

    def works(self) -> bool:
        """Whether the API server asks by now, and all profiles are known."""
        try:
            return bool(self.pod(f"probe-{time.monotonic_ns()}"))
        except kubernetes.client.ApiException:
            return False

    def away(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def close(self) -> None:
        self.client.admission.delete_mutating_webhook_configuration("bpfence")
        self.bindings.close()
        self.away()


@pytest.fixture
def hooks(client: Client, api_server: ApiServer, tmp_path: Path, nodes: Any) -> Iterator[Callable[[str], Hook]]:
    made: list[Hook] = []

    def make(policy: str) -> Hook:
        made.append(Hook(client, api_server, tmp_path, policy))
        return made[-1]

    yield make
    for hook in made:
        hook.close()


def test_pods_are_given_the_profiles_that_are_bound_to_them(client: Client, hooks: Callable[[str], Hook]) -> None:
    hook = hooks("Fail")
    client.create("web", profile(bindings=[{"images": ["nginx:*"], "labels": {"matchLabels": {"app": "web"}}}]), kind=KIND)
    eventually(hook.works)
    assert hook.pod("a") == f"Localhost:{WEB}"
    assert hook.pod("other", "redis:7") == ""
    assert hook.pod("default", seccompProfile={"type": "RuntimeDefault"}) == f"Localhost:{WEB}"
    assert hook.pod("own", seccompProfile={"type": "Localhost", "localhostProfile": "own.json"}) == "Localhost:own.json"
    assert hook.pod("left", namespace="bpfence") == "", "excluded"
    debugger = {"name": "d", "image": "nginx:debug", "targetContainerName": "c"}
    patched = client.core.patch_namespaced_pod_ephemeralcontainers("a", "shop", {"spec": {"ephemeralContainers": [debugger]}})
    assert hook.given(patched.spec.ephemeral_containers[0]) == f"Localhost:{WEB}"
    client.change("web", MISSPELT, KIND)
    client.create("broken", MISSPELT, kind=KIND)
    wide = [{"images": [f"nginx:{n}.{m}*" for m in range(100)]} for n in range(100)]
    client.create("wide", profile(bindings=wide), kind=KIND)
    eventually(lambda: len([text for text in hook.said if "has a mistake" in text]) == 2)
    assert hook.pod("b") == f"Localhost:{WEB}", "it is bound to whom it was before"
    eventually(lambda: hook.pod(f"c-{time.monotonic_ns()}") and any("bound to nobody" in text for text in hook.said))
    client.delete("web", KIND)
    eventually(lambda: hook.pod(f"d-{time.monotonic_ns()}") == "")
    client.core.delete_collection_namespaced_pod("bpfence", grace_period_seconds=0)


@pytest.mark.parametrize("policy", ["Ignore", "Fail"])
def test_while_the_webhook_is_away(client: Client, hooks: Callable[[str], Hook], policy: str) -> None:
    hook = hooks(policy)
    client.create("web", profile(bindings=[{"images": ["*"]}]), kind=KIND)
    eventually(hook.works)
    hook.away()
    if policy == "Ignore":
        assert hook.pod("a") == ""
    else:
        with pytest.raises(kubernetes.client.ApiException, match=r"pods\.bpfence\.io"):
            hook.pod("a")
    assert hook.pod("b", namespace="bpfence") == "", "excluded: the webhook itself can start"
    client.core.delete_collection_namespaced_pod("bpfence", grace_period_seconds=0)


def test_entries_of_nodes_that_are_gone_are_taken_out(client: Client, nodes: Callable[..., Node], api_server: ApiServer) -> None:
    for name in ("n1", "n2"):
        client.core.create_node({"metadata": {"name": name}})
    several = [nodes("n1"), nodes("n2")]
    client.create("guard", SECRET)
    client.create("web", profile(), kind=KIND)

    def step() -> None:
        for node in several:
            if not node.agent.stopping:
                node.agent.step(0.02)

    def entries(kind: str) -> list[str]:
        return sorted(entry["name"] for entry in client.status("guard" if kind != KIND else "web", kind).get("nodes", ()))

    eventually(lambda: entries("SecurityPolicy") == entries(KIND) == ["n1", "n2"], step)
    tidier = Tidier(connect(api_server.kubeconfig(WEBHOOK)), print, gone=10)
    assert tidier.look(0) == 0
    several[1].stop()
    several[1].agent.stopping = True
    client.core.delete_node("n2")
    assert tidier.look(1) == 0, "it may come back"
    eventually(lambda: client.status("guard")["summary"]["text"] == "2/2", step)
    assert tidier.look(20) == 2
    assert entries("SecurityPolicy") == entries(KIND) == ["n1"]
    assert client.status("guard")["summary"]["text"] == "1/1"
    client.core.delete_node("n1")
    client.core.create_node({"metadata": {"name": "n3"}})
    assert tidier.look(30) == 0
    assert tidier.look(50) == 2
    eventually(lambda: entries("SecurityPolicy") == entries(KIND) == ["n1"], step)
    client.core.delete_node("n3")
