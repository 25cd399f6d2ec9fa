# SPDX-License-Identifier: Apache-2.0
"""Policies of Kubernetes to test with."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from bpfence.dialects.native.schema import CLUSTER_KIND, KIND
from bpfence.k8s.objects import PolicyObject

SECRET: dict[str, Any] = {"rules": [{"name": "secret", "on": "open", "match": {"file.path": "/secret/**"}, "action": "deny"}]}
BROKEN: dict[str, Any] = {"rules": [{"name": "secret", "on": "open", "match": {"file.pth": "/secret/**"}, "action": "deny"}]}


def spec(**scope: Any) -> dict[str, Any]:
    """The rule above in a scope."""
    return {**SECRET, "scope": scope}


def made(given: Any = SECRET, name: str = "guard", namespace: str = "shop", generation: int = 1, uid: str = "") -> PolicyObject:
    """A SecurityPolicy; in no namespace: a ClusterSecurityPolicy."""
    return PolicyObject(KIND if namespace else CLUSTER_KIND, name, namespace, uid or f"uid-{name}", generation, json.dumps(given).encode())


def armor(path: str = "/secret/x", action: str = "Block", kind: str = "KubeArmorPolicy", **more: Any) -> PolicyObject:
    """A policy of KubeArmor about one file; one with a `namespace` of "" is a policy of the cluster."""
    whom = "nodeSelector" if kind == "KubeArmorHostPolicy" else "selector"
    given = {whom: {"matchLabels": {"app": "web"}}, "file": {"matchPaths": [{"path": path}]}, "action": action}
    one = made(given, **more)
    return msgspec.structs.replace(one, kind=kind)


def as_stored(one: PolicyObject, **status: Any) -> dict[str, Any]:
    """As the API server has it."""
    metadata = {"name": one.name, "namespace": one.namespace, "uid": one.uid, "generation": one.generation, "resourceVersion": "1"}
    return {"kind": one.kind, "metadata": metadata, "spec": msgspec.json.decode(one.spec), "status": status}
