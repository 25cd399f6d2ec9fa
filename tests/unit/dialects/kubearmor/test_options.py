# SPDX-License-Identifier: Apache-2.0
"""What a user chooses of KubeArmor's policies."""

from __future__ import annotations

from bpfence.dialects.kubearmor.options import OPTIONS, RESOURCES, KubeArmorOptions


def test_every_resource_has_a_posture_in_containers_and_on_the_host() -> None:
    flags = [flag for option in OPTIONS for flag in option.flags]
    assert {f"--{host}default-{name}-posture" for host in ("", "host-") for name in RESOURCES} < set(flags)
    chosen = KubeArmorOptions(postures={"file": "block", "host_network": "block"})
    assert [chosen.posture(name, host=False) for name in RESOURCES] == ["block", "audit", "audit"]
    assert [chosen.posture(name, host=True) for name in RESOURCES] == ["audit", "block", "audit"]
