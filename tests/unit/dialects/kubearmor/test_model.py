# SPDX-License-Identifier: Apache-2.0
"""What policies are called."""

from __future__ import annotations

from bpfence.dialects.kubearmor.model import KubeArmorPolicy


def test_keys_tell_policies_of_every_kind_and_namespace_apart() -> None:
    made = [KubeArmorPolicy(kind="KubeArmorPolicy", name="a", namespace=name) for name in ("x", "y")]
    made += [KubeArmorPolicy(kind=kind, name="a") for kind in ("KubeArmorHostPolicy", "KubeArmorClusterPolicy")]
    assert [one.key for one in made] == [
        "KubeArmorPolicy/x/a", "KubeArmorPolicy/y/a", "KubeArmorHostPolicy/a", "KubeArmorClusterPolicy/a",
    ]  # fmt: skip
    assert [one.host for one in made] == [False, False, True, False]
