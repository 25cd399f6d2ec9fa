# SPDX-License-Identifier: Apache-2.0
"""Nothing in, the kinds of tracing policies out. Light: every command imports it."""

from __future__ import annotations

from typing import Final

from bpfence.dialects.objects import ObjectKind

GROUP: Final = b"cilium.io"
API_VERSION: Final = f"{GROUP.decode()}/v1alpha1"
KIND: Final = "TracingPolicy"
NAMESPACED_KIND: Final = "TracingPolicyNamespaced"
OBJECTS: Final = (
    ObjectKind(API_VERSION, KIND, "tracingpolicies", False),
    ObjectKind(API_VERSION, NAMESPACED_KIND, "tracingpoliciesnamespaced", True),
)
