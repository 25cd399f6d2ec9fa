# SPDX-License-Identifier: Apache-2.0
"""Objects of the API server in, the little that is kept of each out.

Called by `watch` for every object. Whoever may make a pod or a policy chooses what stands in it: what is kept is bounded.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final

import msgspec

from bpfence.dialects.native.schema import API_VERSION, CLUSTER_KIND, KIND
from bpfence.dialects.registry import DIALECTS
from bpfence.k8s.client import Page
from bpfence.seccomp import objects as seccomp
from bpfence.words import quoted
from bpfence.workloads.model import Namespace, Pod
from bpfence.workloads.texts import decode, labels, short

POLICIES: Final = (KIND, CLUSTER_KIND)
PROFILES: Final = seccomp.KINDS
PLURALS: Final = {
    KIND: "securitypolicies", CLUSTER_KIND: "clustersecuritypolicies", seccomp.KIND: "seccompprofiles",
    seccomp.CLUSTER_KIND: "clusterseccompprofiles",
}  # fmt: skip
"""The kinds of policies and of profiles, and their names in paths."""
API: Final = f"/apis/{API_VERSION}"
LANGUAGES: Final = {one.kind: (dialect.name, one) for dialect in DIALECTS.values() for one in dialect.objects}
"""Kinds of policies of other languages: the language and what it says of the kind. Their status is not ours to write."""
METADATA_ONLY: Final = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1"
MAX_SPEC: Final = 256 << 10
"""Bytes of one policy: what can be read in some seconds, for which others may have to wait."""
MAX_OBJECTS: Final = 1024
MAX_SPECS: Final = 16 << 20
"""Of each kind: policies or profiles, and bytes of all their specs."""
MAX_OF_NAMESPACE: Final = 128
MAX_SPECS_OF_NAMESPACE: Final = 4 << 20
"""Of a kind in one namespace, so that whoever may write them there leaves room for others."""
NO_ROOM: Final = (
    f"there are more than {MAX_OBJECTS} of a kind or {MAX_OF_NAMESPACE} of a namespace, or more than {MAX_SPECS >> 20} or "
    f"{MAX_SPECS_OF_NAMESPACE >> 20} MiB of them"
)
_MIRROR: Final = "kubernetes.io/config.mirror"
"""Of the API server's image of a static pod: the uid that kubelet and runtimes know that pod by."""
_STATIC_UID: Final = re.compile("[0-9a-f]{32}")
"""As kubelet makes them. Whoever may make a pod may annotate it so, and with the uid of any other pod: those that the API server gives
are of another form."""
CHOICES: Final = {choice.key: choice for _, one in LANGUAGES.values() for choice in one.choices}
"""Annotations of namespaces that policies ask about, by their keys: others may be anything, and large."""


class _Owner(msgspec.Struct):
    """One of ownerReferences."""

    kind: str = ""
    name: str = ""
    controller: bool = False


class Meta(msgspec.Struct):
    """What is read of metadata."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = msgspec.field(name="resourceVersion", default="")
    generation: int = 0
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owners: list[_Owner] | None = msgspec.field(name="ownerReferences", default=None)


class _PodSpec(msgspec.Struct):
    service_account: str = msgspec.field(name="serviceAccountName", default="")
    node: str = msgspec.field(name="nodeName", default="")


class _Pod(msgspec.Struct):
    metadata: Meta
    spec: _PodSpec


class _Namespace(msgspec.Struct):
    metadata: Meta


class Condition(msgspec.Struct, omit_defaults=True):
    """As Kubernetes has them: `metav1.Condition`."""

    type: str
    status: str
    reason: str
    message: str = ""
    observed_generation: int = msgspec.field(name="observedGeneration", default=0)
    last_transition_time: str = msgspec.field(name="lastTransitionTime", default="")


class Finding(msgspec.Struct, omit_defaults=True):
    """A diagnostic: `path` is the field that it is about."""

    path: str
    message: str
    hint: str = ""
    code: str = ""
    severity: str = "error"


class NodeStatus(msgspec.Struct, omit_defaults=True):
    """What became of a policy on one node. `generation`: the one in force, 0: none; `observed`: the newest that the node knows."""

    name: str
    observed: int = 0
    generation: int = 0
    changed: str = ""
    findings: list[Finding] = []


class Summary(msgspec.Struct):
    """How many nodes tell of a policy."""

    nodes: int = 0
    in_force: int = msgspec.field(name="inForce", default=0)
    refused: int = 0
    text: str = ""


class Status(msgspec.Struct, omit_defaults=True):
    """The status of a policy. Each node writes its entry of `nodes`; whoever has written one sees to the rest."""

    nodes: list[NodeStatus] = []
    conditions: list[Condition] = []
    summary: Summary | None = None


class _Policy(msgspec.Struct):
    metadata: Meta
    spec: msgspec.Raw = msgspec.Raw(b"")
    status: msgspec.Raw = msgspec.Raw(b"")


class PolicyObject(msgspec.Struct, frozen=True):
    """A policy, or a seccomp profile, as the API server has it. `spec`: JSON; `own`: what this node has written into its status."""

    kind: str
    name: str
    namespace: str
    uid: str
    generation: int
    spec: bytes
    own: NodeStatus | None = None

    @property
    def key(self) -> str:
        """What it is called in messages, unique among policies: `SecurityPolicy shop/no-shells`."""
        return f"{self.kind} {self.policy_name}"

    @property
    def policy_name(self) -> str:
        """What alerts call it."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


def version_of(one: PolicyObject) -> str:
    """What tells the contents of a policy apart."""
    return f"{one.generation}-{hashlib.blake2b(one.spec, digest_size=8).hexdigest()}"


def has_room(beside: Iterable[tuple[str, int]], namespace: str, size: int) -> bool:
    """Whether one more of a kind is taken, of so many bytes. `beside`: namespace and bytes of those that are."""
    taken = list(beside)
    own = [bytes_of_it for other, bytes_of_it in taken if namespace and other == namespace]
    if len(own) >= MAX_OF_NAMESPACE or (namespace and sum(own) + size > MAX_SPECS_OF_NAMESPACE):
        return False
    return len(taken) < MAX_OBJECTS and sum(bytes_of_it for _, bytes_of_it in taken) + size <= MAX_SPECS


def policies_path(kind: str, namespace: str = "", name: str = "") -> str:
    """The path of all policies of a kind, or of one."""
    where = f"/namespaces/{namespace}" if namespace else ""
    api = API if kind in PLURALS else f"/apis/{LANGUAGES[kind][1].version}"
    return f"{api}{where}/{plural(kind)}{'/' + name if name else ''}"


def plural(kind: str) -> str:
    """The name of a kind in paths."""
    return PLURALS[kind] if kind in PLURALS else LANGUAGES[kind][1].plural


def is_namespaced(kind: str) -> bool:
    """Whether objects of a kind of policies have a namespace."""
    return LANGUAGES[kind][1].namespaced if kind in LANGUAGES else kind == KIND


def pods_page(node: str) -> Page:
    """The pods of one node."""
    return Page("/api/v1/pods", {"fieldSelector": f"spec.nodeName={node}"})


def namespaces_page() -> Page:
    """All namespaces: their metadata alone."""
    return Page("/api/v1/namespaces", {}, METADATA_ONLY.format("List"), METADATA_ONLY.format(""))


def pod(data: bytes) -> tuple[str, Pod]:
    """The uid that runtimes know a pod by, and the pod. BadAnswerError where it is none."""
    found = decode(data, _Pod)
    meta = found.metadata
    mirrored = (meta.annotations or {}).get(_MIRROR, "")
    uid = mirrored if _STATIC_UID.fullmatch(mirrored) else meta.uid
    account, node = short(found.spec.service_account), short(found.spec.node)
    made = Pod(short(meta.name), short(meta.namespace), short(uid), labels(meta.labels), None, account, node, owner=_owner(meta))
    return made.uid, made


def _owner(meta: Meta) -> tuple[str, str]:
    """What keeps a pod running. A ReplicaSet of a Deployment is named after it and the hash of its template, a label of its pods."""
    found = next((one for one in meta.owners or () if one.controller), None)
    if found is None:
        return "", ""
    hash_ = (meta.labels or {}).get("pod-template-hash", "")
    if found.kind == "ReplicaSet" and hash_ and found.name.endswith(f"-{hash_}"):
        return "Deployment", short(found.name.removesuffix(f"-{hash_}"))
    return short(found.kind), short(found.name)


def namespace(data: bytes) -> tuple[str, Namespace]:
    """The name of a namespace, and the namespace."""
    meta = decode(data, _Namespace).metadata
    asked = {key: CHOICES[key].normal(value) or value for key, value in (meta.annotations or {}).items() if key in CHOICES}
    return meta.name, Namespace(labels(meta.labels), labels(asked))


def without_effect(name: str, one: Namespace) -> list[str]:
    """What is wrong with the annotations of a namespace that policies ask about."""
    return [
        f"the namespace {short(name)} has the annotation {key}: {quoted(value)}, which is {'no list' if CHOICES[key].lists else 'none'} of"
        f" {', '.join(CHOICES[key].values)} and has no effect"
        for key, value in (one.annotations or {}).items()
        if key in CHOICES and CHOICES[key].normal(value) is None
    ]


def policy(kind: str, node: str, data: bytes) -> PolicyObject:
    """A policy. What is too large has an empty spec, which is refused."""
    found = decode(data, _Policy)
    meta, spec = found.metadata, bytes(found.spec)
    return PolicyObject(
        kind,
        short(meta.name),
        short(meta.namespace),
        short(meta.uid),
        meta.generation,
        spec if len(spec) <= MAX_SPEC else b"",
        own_status(bytes(found.status), node),
    )


def own_status(data: bytes, node: str) -> NodeStatus | None:
    """The entry of a node in a status; None where there is none, or the status cannot be read."""
    try:
        nodes = msgspec.json.decode(data, type=Status).nodes if data else []
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return next((entry for entry in nodes if entry.name == node), None)
