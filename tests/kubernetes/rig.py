# SPDX-License-Identifier: Apache-2.0
"""An ordinary client of the API server, and agents of nodes whose kernel is made of lists."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import yaml

from bpfence.agent.agent import Agent, Settings
from bpfence.dialects.native.schema import KIND
from bpfence.k8s.client import connect
from bpfence.k8s.objects import PLURALS
from bpfence.k8s.source import Cluster
from bpfence.policy import Label, Selector
from tests.kubernetes.conftest import AGENT, WEBHOOK, ApiServer
from tests.unit.agent.fakes import FakeKernel, Kept
from tools import gen_crds

kubernetes = pytest.importorskip("kubernetes", reason="needs the Kubernetes client: pip install bpfence[kubernetes]")

GROUP, VERSION, NAMESPACED, WHOLE = "bpfence.io", "v1alpha1", "securitypolicies", "clustersecuritypolicies"
UID_CGROUP = "/kubepods/besteffort/pod{}/" + "ab" * 32
FRONT = Selector(labels=(Label("tier", "in", ("front",)),), namespaces=("shop",))
CHART = gen_crds.FOLDER.parent


def eventually(holds: Callable[[], Any], step: Callable[[], None] = lambda: time.sleep(0.05), seconds: float = 300) -> Any:
    """What it comes to, once it is something."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, "it did not come about"
        step()
    return found


class Client:
    """The library, as an administrator's kubeconfig has it."""

    def __init__(self, kubeconfig: Path) -> None:
        api = kubernetes.config.new_client_from_config(str(kubeconfig))
        self.core = kubernetes.client.CoreV1Api(api)
        self.custom = kubernetes.client.CustomObjectsApi(api)
        self.crds = kubernetes.client.ApiextensionsV1Api(api)
        self.rbac = kubernetes.client.RbacAuthorizationV1Api(api)
        self.admission = kubernetes.client.AdmissionregistrationV1Api(api)
        self.api = api

    def create(self, name: str, given: dict[str, Any], namespace: str = "shop", kind: str = KIND) -> None:
        body = {"apiVersion": f"{GROUP}/{VERSION}", "metadata": {"name": name}, "spec": given}
        if namespace:
            self.custom.create_namespaced_custom_object(GROUP, VERSION, namespace, PLURALS[kind], {**body, "kind": kind})
        else:
            kind = f"Cluster{kind}"
            self.custom.create_cluster_custom_object(GROUP, VERSION, PLURALS[kind], {**body, "kind": kind})

    def change(self, name: str, given: dict[str, Any], kind: str = KIND) -> None:
        def changed() -> bool:
            current = self.get(name, kind)
            try:
                self.custom.replace_namespaced_custom_object(GROUP, VERSION, "shop", PLURALS[kind], name, {**current, "spec": given})
            except kubernetes.client.ApiException as error:
                if error.status != 409:  # an agent has written the status in between
                    raise
                return False
            return True

        eventually(changed)

    def get(self, name: str, kind: str = KIND) -> dict[str, Any]:
        found: dict[str, Any] = self.custom.get_namespaced_custom_object(GROUP, VERSION, "shop", PLURALS[kind], name)
        return found

    def status(self, name: str, kind: str = KIND) -> dict[str, Any]:
        found: dict[str, Any] = self.get(name, kind).get("status", {})
        return found

    def condition(self, name: str, condition: str, kind: str = KIND) -> str:
        return next((one["status"] for one in self.status(name, kind).get("conditions", ()) if one["type"] == condition), "")

    def delete(self, name: str, kind: str = KIND) -> None:
        self.custom.delete_namespaced_custom_object(GROUP, VERSION, "shop", PLURALS[kind], name)

    def pod(self, name: str, node: str = "n1", tier: str = "front") -> str:
        container = {"name": "c", "image": "busybox"}
        body = {
            "metadata": {"name": name, "labels": {"tier": tier}},
            "spec": {"nodeName": node, "serviceAccountName": "web", "containers": [container]},
        }
        return str(self.core.create_namespaced_pod("shop", body).metadata.uid)


def prepared(kubeconfig: Path) -> Client:
    """A cluster with the CRDs, the chart's roles, and a namespace."""
    made = Client(kubeconfig)
    for text in gen_crds.files().values():
        made.crds.create_custom_resource_definition(yaml.safe_load(text))
    for name in ("shop", "bpfence"):
        made.core.create_namespace({"metadata": {"name": name, "labels": {"team": name}}})
    for user, file in ((AGENT, "agent-rules.yaml"), (WEBHOOK, "webhook-rules.yaml")):
        name = user.rpartition(":")[2]
        made.rbac.create_cluster_role({"metadata": {"name": name}, "rules": yaml.safe_load((CHART / "files" / file).read_text())})
        subject = {"kind": "ServiceAccount", "name": name, "namespace": "bpfence"}
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
        made.rbac.create_cluster_role_binding({"metadata": {"name": name}, "roleRef": reference, "subjects": [subject]})
    for text in gen_crds.files().values():
        name = yaml.safe_load(text)["metadata"]["name"]
        eventually(lambda name=name: crd_condition(made, name, "Established") == "True")  # type: ignore[misc]
    return made


def crd_condition(client: Client, name: str, kind: str) -> str:
    status = client.crds.read_custom_resource_definition(name).status
    return next((str(one.status) for one in status.conditions or () if one.type == kind), "")


class Node:
    """An agent of one node."""

    def __init__(self, server: ApiServer, folder: Path, name: str = "n1", languages: Mapping[str, Any] = MappingProxyType({})) -> None:
        self.said: list[str] = []
        self.kernel = FakeKernel()
        self.kubeconfig = server.kubeconfig(AGENT)
        self.seccomp = folder / name / "kubelet" / "seccomp"
        self.seccomp.parent.mkdir(parents=True, exist_ok=True)
        path = folder / name / "kubernetes.json"
        self.cluster = Cluster(
            connect(self.kubeconfig), name, self.said.append, path=path, folder=self.seccomp, pause=0.1, languages=languages
        )
        settings = Settings(policies=(), pin_dir=None, drop_privileges=False)
        self.output = Kept()
        self.agent = Agent(settings, self.output, report=self.said.append, kernel=self.kernel, sources=self.cluster.pods, feed=self.cluster)
        self.agent.start()

    def step(self) -> None:
        self.agent.step(0.05)

    def until(self, holds: Callable[[], Any], seconds: float = 300) -> Any:
        return eventually(holds, self.step, seconds)

    def names(self) -> list[str]:
        loaded = self.agent.life.tables.loaded
        return [policy.name for policy in loaded.policies.policies] if loaded is not None else []

    def selected(self) -> bool:
        return any(FRONT in entry.selected for entry in self.agent.containers.entries())

    def stop(self) -> None:
        self.agent.stop()
