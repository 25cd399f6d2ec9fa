# SPDX-License-Identifier: Apache-2.0
"""The Pod Security Standards: each control by its allowed and forbidden values, and all of them against a second implementation."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfence.pods import standards
from bpfence.pods.manifest import Workload, read
from tests.unit.pods import oracle, random_manifests

GOOD: dict[str, Any] = {
    "kind": "Pod",
    "metadata": {"name": "p", "annotations": {}},
    "spec": {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "a", "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}}],
    },
}


def workload(document: dict[str, Any]) -> Workload:
    (one,) = read(json.dumps(document).encode(), "f").workloads
    return one


def with_(path: str, value: Any, document: dict[str, Any] = GOOD) -> dict[str, Any]:
    """The same, with a value at a path of keys and numbers; DELETE takes it out."""
    made = copy.deepcopy(document)
    *way, last = [int(step) if step.isdigit() else step.replace("~", ".") for step in path.split(".")]
    holder: Any = made
    for step, then in zip(way, [*way[1:], last], strict=True):
        if isinstance(step, str) and step not in holder:
            holder[step] = [{}] if isinstance(then, int) else {}
        if isinstance(step, int) and step == len(holder):
            holder.append({})
        holder = holder[step]
    if value == "DELETE":
        del holder[last]
    elif isinstance(holder, list):
        holder[last:] = [value]
    else:
        holder[last] = value
    return made


CONTEXT = "spec.containers.0.securityContext"
APPARMOR_NOTE = "metadata.annotations.container~apparmor~security~beta~kubernetes~io/a"
BIND = ["NET_BIND_SERVICE"]
SELINUX = [None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"]
SYSCTLS = ["kernel.msgmax", "net/ipv4/tcp_syncookies"]
# path, its allowed values, its forbidden values, the control's official name and level
TABLE: list[tuple[str, list[Any], list[Any], str, str]] = [
    ("spec.securityContext.windowsOptions.hostProcess", [None, False], [True], "HostProcess", "baseline"),
    (f"{CONTEXT}.windowsOptions.hostProcess", [None, False], [True], "HostProcess", "baseline"),
    ("spec.hostNetwork", [None, False], [True], "Host Namespaces", "baseline"),
    ("spec.hostPID", [None, False], [True], "Host Namespaces", "baseline"),
    ("spec.hostIPC", [None, False], [True], "Host Namespaces", "baseline"),
    (f"{CONTEXT}.privileged", [None, False], [True], "Privileged Containers", "baseline"),
    (f"{CONTEXT}.capabilities.add", [None, [], BIND], [["SYS_ADMIN"], ["NET_RAW"], ["ALL"], ["CAP_CHOWN"]], "Capabilities", "baseline"),
    ("spec.volumes.0.hostPath", [], [{"path": "/x"}, {}], "HostPath Volumes", "baseline"),
    ("spec.containers.0.ports.0.hostPort", [None, 0], [80], "Host Ports", "baseline"),
    *(
        (f"spec.containers.0.{handler}.{kind}.host", [None, ""], ["h", "127.0.0.1"], "Host Probes / Lifecycle Hooks", "baseline")
        for handler in ("livenessProbe", "readinessProbe", "startupProbe", "lifecycle.postStart", "lifecycle.preStop")
        for kind in ("httpGet", "tcpSocket")
    ),
    ("spec.securityContext.appArmorProfile.type", ["RuntimeDefault", "Localhost"], ["Unconfined", "odd"], "AppArmor", "baseline"),
    (f"{CONTEXT}.appArmorProfile.type", ["RuntimeDefault", "Localhost"], ["Unconfined"], "AppArmor", "baseline"),
    (APPARMOR_NOTE, ["", "runtime/default", "localhost/x"], ["unconfined", "odd"], "AppArmor", "baseline"),
    (f"{CONTEXT}.seLinuxOptions.type", SELINUX, ["spc_t"], "SELinux", "baseline"),
    ("spec.securityContext.seLinuxOptions.user", [None, ""], ["u"], "SELinux", "baseline"),
    (f"{CONTEXT}.seLinuxOptions.role", [None, ""], ["r"], "SELinux", "baseline"),
    (f"{CONTEXT}.seLinuxOptions.level", ["s0"], [], "SELinux", "baseline"),
    (f"{CONTEXT}.procMount", [None, "Default"], ["Unmasked"], "/proc Mount Type", "baseline"),
    ("spec.securityContext.seccompProfile.type", ["RuntimeDefault", "Localhost"], ["Unconfined"], "Seccomp", "baseline"),
    (f"{CONTEXT}.seccompProfile.type", ["RuntimeDefault", "Localhost"], ["Unconfined"], "Seccomp", "baseline"),
    ("spec.securityContext.sysctls.0.name", sorted(oracle.SAFE_SYSCTLS), SYSCTLS, "Sysctls", "baseline"),
    *((f"spec.volumes.0.{kind}", [{}], [], "Volume Types", "restricted") for kind in sorted(oracle.VOLUMES)),
    ("spec.volumes.0.nfs", [], [{}], "Volume Types", "restricted"),
    ("spec.volumes.0.gitRepo", [], [{}], "Volume Types", "restricted"),
    ("spec.volumes.0.name", ["typeless"], [], "Volume Types", "restricted"),
    (f"{CONTEXT}.allowPrivilegeEscalation", [False], [True, None], "Privilege Escalation", "restricted"),
    ("spec.securityContext.runAsNonRoot", [True], [False, None], "Running as Non-root", "restricted"),
    (f"{CONTEXT}.runAsNonRoot", [True, None], [False], "Running as Non-root", "restricted"),
    ("spec.securityContext.runAsUser", [None, 1], [0], "Running as Non-root user", "restricted"),
    (f"{CONTEXT}.runAsUser", [None, 1], [0], "Running as Non-root user", "restricted"),
    ("spec.securityContext.seccompProfile", [], ["DELETE", None], "Seccomp", "restricted"),
    (f"{CONTEXT}.capabilities.drop", [["ALL"], ["KILL", "ALL"]], [None, [], ["all"], ["KILL"]], "Capabilities", "restricted"),
    (f"{CONTEXT}.capabilities.add", [["NET_BIND_SERVICE"]], [["CHOWN"], ["MKNOD", "KILL"]], "Capabilities", "restricted"),
]  # fmt: skip
CASES = [(path, value, True, name, level) for path, good, _, name, level in TABLE for value in good]
CASES += [(path, value, False, name, level) for path, _, bad, name, level in TABLE for value in bad]
CASES += [
    (path.replace("containers", kind), *rest)
    for kind in ("initContainers", "ephemeralContainers")
    for path, *rest in CASES
    if "containers.0" in path
]


def test_the_good_pod_is_good() -> None:
    assert standards.met(workload(GOOD)) == "restricted"


@pytest.mark.parametrize(("path", "value", "allowed", "name", "level"), CASES)
def test_controls(path: str, value: Any, allowed: bool, name: str, level: str) -> None:
    document = copy.deepcopy(GOOD)
    document["spec"] |= {kind: copy.deepcopy(document["spec"]["containers"]) for kind in ("initContainers", "ephemeralContainers")}
    document = with_(path, value, document)
    found = list(standards.breaks(workload(document), "restricted"))
    assert {(one.control.name, one.control.level) for one in found} == (set() if allowed else {(name, level)})
    assert standards.met(workload(document)) == ("restricted" if allowed else {"baseline": "privileged", "restricted": "baseline"}[level])
    assert standards.met(workload(document)) == oracle.level(document)
    if not allowed and "spec.containers.0" in path:
        assert {one.container.name for one in found if one.container} == {"a"}
        assert all(one.field.path.startswith("spec.containers[0]") for one in found)


WINDOWS = with_("spec.os.name", "windows")
MAPPED = with_("spec.hostUsers", False)


@pytest.mark.parametrize(
    ("document", "level"),
    [
        (with_(f"{CONTEXT}.allowPrivilegeEscalation", None, WINDOWS), "restricted"),
        (with_("spec.securityContext.seccompProfile", None, WINDOWS), "restricted"),
        (with_(f"{CONTEXT}.capabilities", None, WINDOWS), "restricted"),
        (with_("spec.securityContext.runAsNonRoot", None, WINDOWS), "baseline"),
        (with_(f"{CONTEXT}.windowsOptions.hostProcess", True, WINDOWS), "privileged"),
        (with_("spec.os.name", "linux", with_(f"{CONTEXT}.capabilities", None)), "baseline"),
        (with_("spec.securityContext.runAsNonRoot", False, MAPPED), "restricted"),
        (with_(f"{CONTEXT}.runAsUser", 0, MAPPED), "restricted"),
        (with_(f"{CONTEXT}.procMount", "Unmasked", MAPPED), "baseline"),
        (with_(f"{CONTEXT}.capabilities.add", ["SYS_ADMIN"], MAPPED), "privileged"),
        (with_("spec.hostUsers", True, with_(f"{CONTEXT}.procMount", "Unmasked")), "privileged"),
    ],
)
def test_windows_and_pods_with_users_of_their_own(document: dict[str, Any], level: str) -> None:
    assert standards.met(workload(document)) == level == oracle.level(document)


def test_containers_go_before_the_pod() -> None:
    """A container's own value counts for it; a bad one of the pod's counts whoever overrides it, as for Pod Security Admission."""
    own = with_(f"{CONTEXT}.runAsNonRoot", True, with_("spec.securityContext.runAsNonRoot", "DELETE"))
    assert standards.met(workload(own)) == "restricted"
    assert standards.met(workload(with_("spec.securityContext.runAsNonRoot", False, own))) == "baseline"
    one = workload(with_("spec.securityContext.runAsUser", 5, with_(f"{CONTEXT}.runAsUser", 6)))
    assert one.effective(one.containers[0], "runAsUser").value == 6
    assert one.effective(one.containers[0], "runAsNonRoot").true


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
def test_random_pods_against_the_second_implementation(seed: int) -> None:
    random = Random(seed)
    document = random_manifests.manifest(random)
    text = random_manifests.text(random, document)
    assert random_manifests.load(text) == document, text  # the writer means what it writes
    (one,) = read(text.encode(), "f").workloads
    assert standards.met(one) == oracle.level(random_manifests.template(document)), text


@pytest.mark.parametrize(
    ("path", "bad"),
    [
        ("/", True), ("//", True), ("/.", True), ("/x/..", True), ("/proc", True), ("/proc/sys", True), ("/etc", True),
        ("/etc/kubernetes", True),
        ("/etc/localtime", False), ("/etc/../etc/localtime", False), ("/etc/localtime/../shadow", True), ("/var/run/docker.sock", True),
        ("/run/docker.sock", True), ("/anywhere/containerd.sock", True), ("/var/run", True), ("/run", True), ("/run/mine", False),
        ("/var", True), ("/var/lib", True), ("/var/lib/kubelet/pods", True), ("/var/lib/mine", False), ("/data", False), ("", False),
        ("/dev", True), ("/dev/sda", True), ("/dev/shm", False), ("/dev/fuse", False), ("/sys/fs/cgroup", True), ("/opt", True),
        ("/opt/x", False),
        ("/opt/cni/bin", True), ("relative/../../etc", True), ("/home", True), ("/home/x", False), ("/procx", False),
    ],
)  # fmt: skip
def test_paths_by_which_a_node_is_taken_over(path: str, bad: bool) -> None:
    assert bool(standards.host_takeover(path)) == bad
