# SPDX-License-Identifier: Apache-2.0
"""An agent and a real API server: policies by an ordinary client, status and Events read back, pods, outages. The kernel is made of lists.

The agents ask as the service account that the chart binds its role to, with nothing but that role.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bpfence.dialects.kubearmor.options import API_VERSION as ARMOR
from bpfence.k8s.client import Page, connect
from bpfence.k8s.objects import LANGUAGES, PLURALS
from bpfence.k8s.webhook import Server
from bpfence.workloads.model import Container
from tests.kubernetes.conftest import AGENT, ApiServer
from tests.kubernetes.rig import GROUP, NAMESPACED, UID_CGROUP, VERSION, WHOLE, Client, Node, crd_condition, eventually
from tests.unit.k8s.samples import BROKEN, SECRET, armor, spec
from tests.unit.k8s.test_webhook import certificate

kubernetes = pytest.importorskip("kubernetes", reason="needs the Kubernetes client: pip install bpfence[kubernetes]")


def test_the_api_server_takes_the_schemas_as_structural(client: Client) -> None:
    for name in (f"{plural}.{GROUP}" for plural in PLURALS.values()):
        assert crd_condition(client, name, "NonStructuralSchema") in ("", "False")


def test_policies_are_applied_changed_broken_and_removed(client: Client, nodes: Callable[..., Node]) -> None:
    node = nodes()
    client.create("guard", SECRET)
    client.create("whole", SECRET, "")
    node.until(lambda: node.names() == ["whole", "shop/guard"])
    node.until(lambda: client.condition("guard", "InForce") == "True")
    status = client.status("guard")
    assert status["summary"] == {"nodes": 1, "inForce": 1, "refused": 0, "text": "1/1"}
    assert [(entry["name"], entry["generation"]) for entry in status["nodes"]] == [("n1", 1)]
    client.change("guard", spec(image="nginx"))
    node.until(lambda: client.status("guard")["nodes"][0].get("generation") == 2)
    client.create("other", BROKEN)
    client.change("guard", BROKEN)
    node.until(lambda: client.condition("guard", "Accepted") == client.condition("other", "Accepted") == "False")
    [entry] = client.status("guard")["nodes"]
    assert (entry["observed"], entry["generation"]) == (3, 2), "what was in force stays"
    assert entry["findings"][0]["path"] == 'spec.rules[0].match."file.pth"'
    assert entry["findings"][0]["hint"] == "did you mean 'file.path'?"
    assert "generation" not in client.status("other")["nodes"][0]
    assert node.names() == ["whole", "shop/guard"]
    client.change("guard", SECRET)
    node.until(lambda: client.condition("guard", "Accepted") == "True")
    client.delete("guard")
    node.until(lambda: node.names() == ["whole"])


def test_a_refused_policy_has_an_event(client: Client, nodes: Callable[..., Node]) -> None:
    node = nodes()
    client.create("loud", BROKEN)

    def found() -> Any:
        return [one for one in client.core.list_namespaced_event("shop").items if one.involved_object.name == "loud"]

    [event] = node.until(found)
    assert (event.reason, event.type, event.source.component) == ("Refused", "Warning", "bpfence")
    assert "unknown field 'file.pth'" in event.message


def test_a_misspelt_key_is_kept_and_refused(client: Client, nodes: Callable[..., Node]) -> None:
    """A rule that lost it on its way would deny everything."""
    node = nodes()
    rule = SECRET["rules"][0]
    client.create("typo", {"rules": [{"name": "a", "on": "open", "mtch": rule["match"], "action": "deny"}]})
    assert "mtch" in client.get("typo")["spec"]["rules"][0]
    [finding] = node.until(lambda: client.status("typo").get("nodes", [{}])[0].get("findings"))
    assert (finding["path"], finding["code"]) == ("spec.rules[0].mtch", "unknown-key")


def test_nodes_do_not_undo_each_other(client: Client, nodes: Callable[..., Node]) -> None:
    several = [nodes(f"n{n}") for n in range(3)]
    client.create("guard", SECRET)

    def step() -> None:
        for node in several:
            node.agent.step(0.02)

    eventually(lambda: client.status("guard").get("summary", {}).get("text") == "3/3", step)
    assert [entry["name"] for entry in sorted(client.status("guard")["nodes"], key=lambda one: str(one["name"]))] == ["n0", "n1", "n2"]
    assert client.condition("guard", "InForce") == "True"


def test_a_label_of_a_pod_moves_it_in_and_out_without_new_tables(client: Client, nodes: Callable[..., Node]) -> None:
    node = nodes()
    client.create("guard", spec(labels={"tier": "front"}, unknown="outside"))
    node.until(lambda: node.names() == ["shop/guard"])
    uid = client.pod("web-1", tier="back")
    client.pod("web-2", node="n2")
    node.agent.containers.found("cgroups", [Container("ab" * 32, UID_CGROUP.format(uid), cgroup_id=7)])
    node.until(lambda: (pod := node.agent.containers.containers()[0].pod) is not None and pod.namespace_labels)
    pod = node.agent.containers.containers()[0].pod
    assert pod is not None
    assert (pod.namespace, pod.service_account, (pod.namespace_labels or {})["team"]) == ("shop", "web", "shop")
    assert len(node.cluster._pods) == 1, "pods of other nodes are not asked for"
    node.until(lambda: not node.agent.containers.due and not node.agent._remake.busy)
    tables = node.agent.life.tables.compiled
    for tier in ("front", "back", "front"):
        client.core.patch_namespaced_pod("web-1", "shop", {"metadata": {"labels": {"tier": tier}}})
        began = time.monotonic()
        node.until(lambda tier=tier: node.selected() == (tier == "front") and not node.agent.containers.due)  # type: ignore[misc]
        print(f"in force {time.monotonic() - began:.3f} s after the API server took it")
    assert node.agent.life.tables.compiled is tables


def test_labels_of_a_namespace_reach_its_pods(client: Client, nodes: Callable[..., Node]) -> None:
    node = nodes()
    uid = client.pod("web-1")
    node.agent.containers.found("cgroups", [Container("ab" * 32, UID_CGROUP.format(uid), cgroup_id=7)])
    client.core.patch_namespace("shop", {"metadata": {"labels": {"colour": "blue"}}})
    node.until(lambda: (pod := node.agent.containers.containers()[0].pod) and (pod.namespace_labels or {}).get("colour") == "blue")


def test_the_agents_role_is_enough_and_no_more(client: Client, nodes: Callable[..., Node], api_server: ApiServer) -> None:
    agent = kubernetes.client.AuthorizationV1Api(kubernetes.config.new_client_from_config(str(api_server.kubeconfig(AGENT))))

    def may(verb: str, resource: str, group: str = "", subresource: str = "") -> bool:
        attributes = {"verb": verb, "resource": resource, "group": group, "subresource": subresource, "namespace": "shop"}
        return bool(agent.create_self_subject_access_review({"spec": {"resourceAttributes": attributes}}).status.allowed)

    assert may("list", "pods")
    assert may("patch", NAMESPACED, GROUP, "status")
    assert not any(may(verb, "secrets") for verb in ("get", "list", "watch"))
    assert not any(may(verb, NAMESPACED, GROUP) for verb in ("create", "update", "patch", "delete"))
    assert not may("create", "pods")
    node = nodes()
    assert not [text for text in node.said if "403" in text]


@pytest.fixture
def webhook(client: Client, tmp_path: Path) -> Iterator[None]:
    """The webhook, and an API server that asks it: as the chart has it, but for the address."""
    files = certificate(tmp_path)
    server = Server(("127.0.0.1", 0), *files, lambda _: None)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    url = f"https://127.0.0.1:{server.server_address[1]}/validate"
    hook = {
        "name": "policies.bpfence.io", "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Fail",
        "timeoutSeconds": 30,
        "clientConfig": {"url": url, "caBundle": base64.b64encode(files[0].read_bytes()).decode()},
        "rules": [{"apiGroups": [GROUP], "apiVersions": [VERSION], "operations": ["CREATE", "UPDATE"], "resources": [NAMESPACED, WHOLE]}],
    }  # fmt: skip
    client.admission.create_validating_webhook_configuration({"metadata": {"name": "bpfence"}, "webhooks": [hook]})
    eventually(lambda: _refused(client))
    yield
    client.admission.delete_validating_webhook_configuration("bpfence")
    eventually(lambda: not _refused(client))
    server.shutdown()
    server.server_close()


def _refused(client: Client) -> bool:
    """Whether the API server asks by now."""
    name = f"probe-{time.monotonic_ns()}"
    try:
        client.create(name, BROKEN)
    except kubernetes.client.ApiException:
        return True
    client.delete(name)
    return False


def test_the_webhook_refuses_what_check_refuses(client: Client, webhook: None) -> None:
    client.create("right", spec(serviceAccount="web"))
    client.create("right", spec(serviceAccount="web"), "")
    for namespace in ("shop", ""):
        with pytest.raises(kubernetes.client.ApiException) as caught:
            client.create("wrong", BROKEN, namespace)
        assert caught.value.status == 422
        assert "unknown field 'file.pth'; did you mean 'file.path'?" in caught.value.body
    with pytest.raises(kubernetes.client.ApiException, match="its own namespace"):
        client.create("theirs", spec(namespace="kube-system"))
    with pytest.raises(kubernetes.client.ApiException, match="mtch"):
        client.create("typo", {"rules": [{"name": "a", "on": "open", "mtch": {}, "action": "deny"}]})
    with pytest.raises(kubernetes.client.ApiException, match=r"file\.pth"):
        client.change("right", BROKEN)
    client.delete("right")
    client.custom.delete_cluster_custom_object(GROUP, VERSION, WHOLE, "right")


def test_kubectl_is_told_what_is_wrong(client: Client, webhook: None, api_server: ApiServer, tmp_path: Path) -> None:
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("needs kubectl (Debian: apt install kubernetes-client)")

    def kubectl(*words: str, given: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
        command = [program, "--kubeconfig", str(api_server.kubeconfig("admin")), "--cache-dir", str(tmp_path), "-n", "shop", *words]
        text = yaml.safe_dump({"apiVersion": f"{GROUP}/{VERSION}", "kind": "SecurityPolicy", "metadata": {"name": "guard"}, "spec": given})
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=120)

    done = kubectl("apply", "-f", "-", given=BROKEN)
    assert done.returncode == 1
    assert 'admission webhook "policies.bpfence.io" denied the request' in done.stderr
    assert "unknown field 'file.pth'; did you mean 'file.path'?" in done.stderr
    assert kubectl("apply", "-f", "-", given={**SECRET, "mode": "audit"}).stdout == "securitypolicy.bpfence.io/guard created\n"
    assert kubectl("apply", "-f", "-", given=spec(container=False)).stdout == "securitypolicy.bpfence.io/guard configured\n"
    header, row = (line.split() for line in kubectl("get", "bpol").stdout.splitlines())
    assert (header, row[0]) == (["NAME", "MODE", "ACCEPTED", "IN", "FORCE", "AGE"], "guard")
    assert kubectl("delete", "bpol", "guard").returncode == 0


def test_what_the_schema_refuses_is_refused_without_a_webhook(client: Client) -> None:
    with pytest.raises(kubernetes.client.ApiException, match="deni"):
        client.create("wrong", {"rules": [{**SECRET["rules"][0], "action": "deni"}]})


def test_columns_of_kubectl(client: Client, nodes: Callable[..., Node]) -> None:
    node = nodes()
    client.create("guard", {**SECRET, "mode": "audit"})
    node.until(lambda: client.condition("guard", "InForce") == "True")
    path = f"/apis/{GROUP}/{VERSION}/namespaces/shop/{NAMESPACED}"
    api = connect(node.kubeconfig)
    table = json.loads(api.request("GET", Page(path, {}, "application/json;as=Table;g=meta.k8s.io;v=v1")))
    names = [column["name"] for column in table["columnDefinitions"]]
    assert names == ["Name", "Mode", "Accepted", "In force", "Age", "Reason"]
    assert table["rows"][0]["cells"][:4] == ["guard", "audit", "True", "1/1"]


def test_what_was_known_outlives_a_restart_while_the_api_server_is_away(
    client: Client, nodes: Callable[..., Node], api_server: ApiServer
) -> None:
    node = nodes()
    client.create("guard", spec(labels={"tier": "front"}, unknown="outside"))
    uid = client.pod("web-1")
    node.until(lambda: node.names() == ["shop/guard"] and uid in node.cluster._pods)
    node.until(lambda: client.condition("guard", "InForce") == "True")
    client.change("guard", BROKEN)
    node.until(lambda: client.condition("guard", "Accepted") == "False")
    node.until(lambda: not node.cluster._keeper._changed.is_set())
    api_server.kill()
    assert node.names() == ["shop/guard"]
    node.stop()
    node.agent.stopping = True
    later = nodes()
    assert later.names() == ["shop/guard"]
    later.agent.containers.found("cgroups", [Container("ab" * 32, UID_CGROUP.format(uid), cgroup_id=7)])
    assert later.selected()
    api_server.start()
    client.change("guard", SECRET)
    later.until(lambda: client.condition("guard", "Accepted") == "True")


def test_watches_go_on_after_the_api_server_was_killed(client: Client, nodes: Callable[..., Node], api_server: ApiServer) -> None:
    node = nodes()
    client.create("before", SECRET)
    node.until(lambda: node.names() == ["shop/before"])
    for _ in range(2):
        api_server.kill()
        for _ in range(5):
            node.step()
        assert node.names() == ["shop/before"]
        api_server.start()
    client.delete("before")
    client.create("after", SECRET)
    node.until(lambda: node.names() == ["shop/after"])
    uid = client.pod("late")
    node.until(lambda: uid in node.cluster._pods)


def test_changes_while_nobody_could_watch_are_not_missed(client: Client, nodes: Callable[..., Node], api_server: ApiServer) -> None:
    """The watches of an agent that hangs are cut; what it then asks to go on from may be compacted away: 410."""
    node = nodes()
    client.create("one", SECRET)
    node.until(lambda: node.names() == ["shop/one"])
    for watcher in node.cluster._watchers:
        watcher._version = "1"
        if watcher._lines is not None:
            watcher._lines.close()
    client.create("two", SECRET)
    node.until(lambda: node.names() == ["shop/one", "shop/two"])


# ---- policies of other languages ----


def other_kinds(client: Client) -> None:
    """CRDs of our own words: any spec."""
    for _, one in LANGUAGES.values():
        group, _, version = one.version.partition("/")
        anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        versions = [{"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": anything}}]
        names = {"kind": one.kind, "plural": one.plural, "singular": one.kind.lower()}
        spec_ = {"group": group, "names": names, "scope": "Namespaced" if one.namespaced else "Cluster", "versions": versions}
        name = f"{one.plural}.{group}"
        client.crds.create_custom_resource_definition({"metadata": {"name": name}, "spec": spec_})
        eventually(lambda name=name: crd_condition(client, name, "Established") == "True")  # type: ignore[misc]


def test_policies_of_other_languages(client: Client, nodes: Callable[..., Node]) -> None:
    node = nodes(languages={"kubearmor": None, "tetragon": None})
    assert any("cannot be watched just now" in text for text in node.said), "the kinds are not there yet"
    other_kinds(client)
    custom = client.custom

    def body(path: str) -> dict[str, Any]:
        given = json.loads(armor(path).spec)
        return {"apiVersion": ARMOR, "kind": "KubeArmorPolicy", "metadata": {"name": "guard"}, "spec": given}

    group, _, version = ARMOR.partition("/")
    where = (group, version, "shop", "kubearmorpolicies")
    custom.create_namespaced_custom_object(*where, body("/a"))
    tracing = {"apiVersion": "cilium.io/v1alpha1", "kind": "TracingPolicy", "metadata": {"name": "opens"}}
    hook = {"call": "security_file_open", "syscall": False}
    custom.create_cluster_custom_object("cilium.io", "v1alpha1", "tracingpolicies", {**tracing, "spec": {"kprobes": [hook]}})
    node.until(lambda: sorted(node.names()) == ["KubeArmorPolicy/shop/guard", "opens"])

    def changed(path: str) -> dict[str, Any]:
        current = custom.get_namespaced_custom_object(*where, "guard")
        made: dict[str, Any] = custom.replace_namespaced_custom_object(*where, "guard", {**current, "spec": body(path)["spec"]})
        return made

    changed("relative")
    node.until(lambda: any("KubeArmorPolicy shop/guard is refused" in text for text in node.said))
    told = next(text for text in node.said if "is refused" in text)
    assert "spec.file.matchPaths[0].path" in told
    assert "generation 1 of it stays in force" in told
    assert "KubeArmorPolicy/shop/guard" in node.names()
    assert "status" not in custom.get_namespaced_custom_object(*where, "guard"), "it is not ours"
    custom.delete_namespaced_custom_object(*where, "guard")
    custom.delete_cluster_custom_object("cilium.io", "v1alpha1", "tracingpolicies", "opens")
    node.until(lambda: node.names() == [])
