# SPDX-License-Identifier: Apache-2.0
"""What is made visible, of whom."""

from __future__ import annotations

from typing import Any

import pytest

from bpfence import abi
from bpfence.dialects.kubearmor.lower import visibility
from bpfence.dialects.kubearmor.options import OBJECTS, VISIBILITY_ANNOTATION, KubeArmorOptions
from bpfence.policy import Action, PolicySet
from bpfence.workloads.model import Container
from tests.unit.dialects.kubearmor.corpus import decided, pod

ACTS: dict[str, tuple[str, dict[str, Any]]] = {
    "process": ("process.executed", {}),
    "file": ("file.open", {"file__path": "/etc/hosts", "file__access": 1}),
    "network": ("net.connect", {}),
    "capabilities": ("process.capable", {}),
}
[CHOICE] = (choice for choice in OBJECTS[0].choices if choice.key == VISIBILITY_ANNOTATION)


def annotated(text: str) -> Container:
    return pod(annotations={VISIBILITY_ANNOTATION: CHOICE.normal(text) or text})


def seen(options: KubeArmorOptions, container: Container | None) -> list[str]:
    """What is told of a container, or of the host."""
    policies = PolicySet((visibility.policy(options),))
    told = {name: decided(policies, event, container, **about).action for name, (event, about) in ACTS.items()}
    assert set(told.values()) <= {Action.OBSERVE, Action.NONE}
    return [name for name, action in told.items() if action is Action.OBSERVE]


def test_nothing_is_visible_unless_asked_for() -> None:
    assert visibility.policy(KubeArmorOptions()).rules == ()


def test_a_namespace_goes_before_the_option() -> None:
    some, nothing = KubeArmorOptions(visible=("process", "file")), KubeArmorOptions(visible=())
    for options, plain in ((some, ["process", "file"]), (nothing, [])):
        assert seen(options, pod()) == plain
        assert seen(options, annotated("network, File")) == ["file", "network"]
        assert seen(options, annotated("capabilities,dns")) == ["capabilities"]
        assert seen(options, annotated("none")) == []
        assert seen(options, annotated("everything")) == plain
        assert seen(options, None) == []


def test_the_host_has_an_option_of_its_own() -> None:
    options = KubeArmorOptions(host_visible=("network",))
    assert seen(options, None) == ["network"]
    assert seen(options, pod()) == seen(options, annotated("network")) == []
    both = KubeArmorOptions(host_visible=("network",), visible=("process",))
    assert (seen(both, None), seen(both, pod())) == (["network"], ["process"])


@pytest.mark.parametrize(("access", "told"), [(abi.ACCESS_READ, ["file"]), (abi.ACCESS_EXEC, [])])
def test_a_program_that_is_opened_to_be_executed_is_no_file(access: int, told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ACTS, "file", ("file.open", {"file__path": "/bin/ls", "file__access": access}))
    assert seen(KubeArmorOptions(visible=("file",)), pod()) == told
