# SPDX-License-Identifier: Apache-2.0
"""The messages of KubeArmor's log service; how they are sent: `services.test_kubearmor`."""

from __future__ import annotations

import msgspec
import pytest

from bpfence.dialects.kubearmor import wire
from bpfence.dialects.kubearmor.show import KubeArmorAlert, KubeArmorLog, KubeArmorMessage


@pytest.mark.parametrize(("name", "form"), [("Alert", KubeArmorAlert), ("Log", KubeArmorLog), ("Message", KubeArmorMessage)])
def test_every_member_of_a_line_has_a_number_but_those_without_one(name: str, form: type[msgspec.Struct]) -> None:
    known = {field for field, _, _ in wire.MESSAGES[name]}
    assert {field.name for field in msgspec.structs.fields(form)} - known <= {"EventData"}


@pytest.mark.parametrize("name", wire.MESSAGES)
def test_no_number_is_there_twice(name: str) -> None:
    numbers = [number for _, number, _ in wire.MESSAGES[name]]
    assert len(set(numbers)) == len(numbers)
    wire.messages()[name]()
