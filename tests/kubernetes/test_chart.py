# SPDX-License-Identifier: Apache-2.0
"""The chart: linted and rendered by helm, and what it renders taken by a real API server, which stores none of it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bpfence.k8s.objects import PLURALS
from tests.kubernetes.conftest import ApiServer
from tools import gen_crds
from tools.build_kubernetes import helm

kubernetes = pytest.importorskip("kubernetes", reason="needs the Kubernetes client: pip install bpfence[kubernetes]")

CHART = gen_crds.FOLDER.parent
NAMESPACE = "chart-test"
VALUES: dict[str, Any] = {"image": {"repository": "registry.example/bpfence"}}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"webhook": {"enabled": False}},
    {
        "agent": {"privileged": True, "args": ["--mode", "audit"], "runtimePaths": ["/run/crio", "/run/crun"]},
        "imagePullSecrets": [{"name": "a"}],
    },
    {"agent": {"nri": {"socket": "/run/nri/nri.sock", "onFailure": "deny"}}},
    {"webhook": {"seccompProfiles": {"enabled": False}}, "agent": {"seccompFolder": "/var/lib/k0s/kubelet/seccomp"}},
    {
        "webhook": {"tlsSecret": "own", "caBundle": "PEM", "failurePolicy": "Fail", "seccompProfiles": {"failurePolicy": "Fail"}},
        "image": {"digest": "sha256:" + "0" * 64},
    },
]


def merged(more: dict[str, Any]) -> dict[str, Any]:
    made = {**VALUES, **more}
    return {**made, "image": {**VALUES["image"], **more.get("image", {})}}


class Helm:
    """helm, with values from a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not os.access(helm(), os.X_OK):
            pytest.skip(f"needs helm: `make kubernetes` builds it ({helm()} is not there)")

    def call(self, *words: str, values: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        path = self.folder / "values.yaml"
        path.write_text(yaml.safe_dump(values))
        home = {
            "HOME": str(self.folder),
            "PATH": os.environ["PATH"],
            "XDG_CACHE_HOME": str(self.folder),
            "XDG_CONFIG_HOME": str(self.folder),
        }
        return subprocess.run([str(helm()), *words, "--values", str(path)], capture_output=True, text=True, check=False, env=home)

    def rendered(self, more: dict[str, Any]) -> list[dict[str, Any]]:
        words = ("template", "guard", str(CHART), "--namespace", NAMESPACE, "--kube-version", "1.37.2")
        done = self.call(*words, values=merged(more))
        assert done.returncode == 0, done.stderr
        return [one for one in yaml.safe_load_all(done.stdout) if one]


@pytest.fixture
def chart(tmp_path: Path) -> Helm:
    return Helm(tmp_path)


@pytest.fixture(scope="module")
def dynamic(api_server: ApiServer) -> Iterator[Any]:
    api = kubernetes.config.new_client_from_config(str(api_server.kubeconfig("admin")))
    core = kubernetes.client.CoreV1Api(api)
    core.create_namespace({"metadata": {"name": NAMESPACE}})
    yield kubernetes.dynamic.DynamicClient(api)
    core.delete_namespace(NAMESPACE)


def of_kind(rendered: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next(one for one in rendered if one["kind"] == kind)


@pytest.mark.parametrize("more", VARIANTS)
def test_it_is_without_a_mistake_to_helm(chart: Helm, more: dict[str, Any]) -> None:
    done = chart.call("lint", "--strict", str(CHART), values=merged(more))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"image": {"repository": ""}},
        merged({"agent": {"privilegd": True}}),
        merged({"agent": {"runtimePaths": ["/"]}}),
        merged({"agent": {"nri": {"socket": "/etc/nri.sock"}}}),
        merged({"webhook": {"failurePolicy": "Maybe"}}),
    ],
)
def test_values_that_are_none_are_refused(chart: Helm, values: dict[str, Any]) -> None:
    assert chart.call("template", "guard", str(CHART), values=values).returncode != 0


@pytest.mark.parametrize("more", VARIANTS)
def test_the_api_server_takes_what_it_renders(chart: Helm, dynamic: Any, more: dict[str, Any]) -> None:
    for one in chart.rendered(more):
        kind = dynamic.resources.get(api_version=one["apiVersion"], kind=one["kind"])
        namespace = one["metadata"].get("namespace")
        assert (namespace == NAMESPACE) == kind.namespaced, one["kind"]
        kind.create(body=one, namespace=namespace, query_params=[("dryRun", "All"), ("fieldValidation", "Strict")])
    assert dynamic.resources.get(api_version="apps/v1", kind="DaemonSet").get(namespace=NAMESPACE).items == []


def test_privileges_are_those_that_are_named(chart: Helm) -> None:
    rendered = chart.rendered({})
    [container] = of_kind(rendered, "DaemonSet")["spec"]["template"]["spec"]["containers"]
    context = container["securityContext"]
    assert "privileged" not in context
    assert context["capabilities"]["drop"] == ["ALL"]
    assert len(context["capabilities"]["add"]) == 7
    assert context["readOnlyRootFilesystem"] is True
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"/sys/fs/bpf", "/run/bpfence", "/var/lib/bpfence", "/var/lib/kubelet/seccomp", "/tmp"}


def test_nobody_may_read_secrets_or_write_policies(chart: Helm) -> None:
    rules = [rule for one in chart.rendered({}) if one["kind"] in ("ClusterRole", "Role") for rule in one["rules"]]
    assert rules
    assert not [rule for rule in rules if "secrets" in rule["resources"] or "*" in (*rule["resources"], *rule["verbs"], *rule["apiGroups"])]
    written = {
        (resource, verb)
        for rule in rules
        for resource in rule["resources"]
        for verb in rule["verbs"]
        if verb not in ("get", "list", "watch")
    }
    assert written == {*((f"{plural}/status", "patch") for plural in PLURALS.values()), ("events", "create")}


def test_what_starts_the_webhook_does_not_wait_for_it(chart: Helm) -> None:
    for more in ({}, {"webhook": {"seccompProfiles": {"excludedNamespaces": []}}}):
        [hook] = of_kind(chart.rendered(more), "MutatingWebhookConfiguration")["webhooks"]
        assert hook["failurePolicy"] == "Ignore"
        [excluded] = hook["namespaceSelector"]["matchExpressions"]
        assert (excluded["key"], excluded["operator"]) == ("kubernetes.io/metadata.name", "NotIn")
        assert excluded["values"] == [*(["kube-system"] if not more else []), NAMESPACE]
    rendered = chart.rendered({"webhook": {"seccompProfiles": {"enabled": False}}})
    assert not [one for one in rendered if one["kind"] == "MutatingWebhookConfiguration"]


def test_the_webhook_needs_no_privileges(chart: Helm) -> None:
    rendered = chart.rendered({})
    pod = of_kind(rendered, "Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    hook = of_kind(rendered, "ValidatingWebhookConfiguration")["webhooks"][0]
    assert hook["rules"][0]["apiGroups"] == ["bpfence.io"]
    assert hook["clientConfig"]["service"]["name"] == of_kind(rendered, "Service")["metadata"]["name"]
    assert hook["clientConfig"]["caBundle"]


def test_the_agent_is_started_as_the_command_takes_it(chart: Helm) -> None:
    from click.testing import CliRunner

    from bpfence.cli.main import cli

    [container] = of_kind(chart.rendered({}), "DaemonSet")["spec"]["template"]["spec"]["containers"]
    assert container["command"][-2:] == ["bpfence", "run"]
    known = CliRunner().invoke(cli, ["run", "--help"]).output
    assert not [word for word in container["args"] if word.partition("=")[0] not in known]
    [container] = of_kind(chart.rendered({}), "Deployment")["spec"]["template"]["spec"]["containers"]
    known = CliRunner().invoke(cli, ["webhook", "--help"]).output
    assert not [word for word in container["args"] if word.partition("=")[0] not in known]
