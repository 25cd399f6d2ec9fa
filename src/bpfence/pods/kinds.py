# SPDX-License-Identifier: Apache-2.0
"""Facts of the Kubernetes API: where objects have their pods, what contexts hold, what annotations meant. No code that reads anything.

Used by this package, and by `seccomp.export`, which brings manifests up to date. Sources: the API reference of Kubernetes 1.37 (core/v1
PodSpec, PodSecurityContext, SecurityContext), and for annotations the page "Well-Known Labels, Annotations and Taints".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Union

# Where each kind of object has the template of its pods.
TEMPLATES: Final[Mapping[str, tuple[str, ...]]] = {
    "Pod": (), "Deployment": ("spec", "template"), "ReplicaSet": ("spec", "template"), "DaemonSet": ("spec", "template"),
    "StatefulSet": ("spec", "template"), "Job": ("spec", "template"), "CronJob": ("spec", "jobTemplate", "spec", "template"),
    "PodTemplate": ("template",), "ReplicationController": ("spec", "template"),
}  # fmt: skip
USUAL_TEMPLATE: Final = ("spec", "template")
"""Where objects of other kinds (Argo's Rollout, Knative's Service) have it."""

CONTAINERS: Final = ("initContainers", "containers", "ephemeralContainers")

POD_SECCOMP: Final = "seccomp.security.alpha.kubernetes.io/pod"
CONTAINER_SECCOMP: Final = "container.seccomp.security.alpha.kubernetes.io/"
CONTAINER_APPARMOR: Final = "container.apparmor.security.beta.kubernetes.io/"

POD_CONTEXT: Final = frozenset({
    "appArmorProfile", "fsGroup", "fsGroupChangePolicy", "runAsGroup", "runAsNonRoot", "runAsUser", "seLinuxChangePolicy", "seLinuxOptions",
    "seccompProfile", "supplementalGroups", "supplementalGroupsPolicy", "sysctls", "windowsOptions",
})  # fmt: skip
CONTAINER_CONTEXT: Final = frozenset({
    "allowPrivilegeEscalation", "appArmorProfile", "capabilities", "privileged", "procMount", "readOnlyRootFilesystem", "runAsGroup",
    "runAsNonRoot", "runAsUser", "seLinuxOptions", "seccompProfile", "windowsOptions",
})  # fmt: skip
PROFILE: Final = frozenset({"localhostProfile", "type"})
CAPABILITIES: Final = frozenset({"add", "drop"})

Shape = Union[str, tuple["Shape"], Mapping[str, "Shape"]]
"""What a field holds: "boolean", "number" or "text"; a tuple with the shape of a list's elements; a map's fields, "*" for any."""

_HOST: Final[Shape] = {"httpGet": {"host": "text"}, "tcpSocket": {"host": "text"}}
_PROFILE: Final[Shape] = {"type": "text", "localhostProfile": "text"}
_BOTH_CONTEXTS: Final[Mapping[str, Shape]] = {
    "runAsUser": "number", "runAsGroup": "number", "runAsNonRoot": "boolean", "seccompProfile": _PROFILE, "appArmorProfile": _PROFILE,
    "seLinuxOptions": {"user": "text", "role": "text", "type": "text", "level": "text"}, "windowsOptions": {"hostProcess": "boolean"},
}  # fmt: skip
_RESOURCES: Final[Shape] = {"limits": {}, "requests": {}}
_CONTAINER: Final[Shape] = {
    "name": "text", "image": "text", "resources": _RESOURCES, "ports": ({"hostPort": "number"},), "livenessProbe": _HOST,
    "readinessProbe": _HOST, "startupProbe": _HOST, "lifecycle": {"postStart": _HOST, "preStop": _HOST},
    "securityContext": {
        **_BOTH_CONTEXTS, "privileged": "boolean", "allowPrivilegeEscalation": "boolean", "readOnlyRootFilesystem": "boolean",
        "procMount": "text", "capabilities": {"add": ("text",), "drop": ("text",)},
    },
}  # fmt: skip
TEMPLATE: Final[Shape] = {
    "metadata": {"annotations": {"*": "text"}},
    "spec": {
        "hostNetwork": "boolean", "hostPID": "boolean", "hostIPC": "boolean", "hostUsers": "boolean",
        "shareProcessNamespace": "boolean", "os": {"name": "text"},
        "automountServiceAccountToken": "boolean", "resources": _RESOURCES,
        "securityContext": {**_BOTH_CONTEXTS, "sysctls": ({"name": "text", "value": "text"},)},
        "volumes": ({"name": "text", "hostPath": {"path": "text"}},),
        "initContainers": (_CONTAINER,), "containers": (_CONTAINER,), "ephemeralContainers": (_CONTAINER,),
    },
}  # fmt: skip
"""The types of what is read of a pod's template."""


def annotated_profile(text: str) -> dict[str, str] | None:
    """What the value of a seccomp or AppArmor annotation is as a field; None for what names no profile."""
    if text in ("runtime/default", "docker/default"):
        return {"type": "RuntimeDefault"}
    if text == "unconfined":
        return {"type": "Unconfined"}
    kind, _, path = text.partition("/")
    return {"type": "Localhost", "localhostProfile": path} if kind == "localhost" and path else None
