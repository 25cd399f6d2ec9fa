# SPDX-License-Identifier: Apache-2.0
"""The shape of a profile: it has the keys and values that the reader knows."""

from __future__ import annotations

from typing import Any

from bpfence.seccomp.model import ArgOp, ProfileAction
from bpfence.seccomp.profile import load_bytes
from bpfence.seccomp.schema import profile_schema


def test_its_keys_and_actions_are_those_of_the_reader() -> None:
    schema = profile_schema()
    rule = schema["properties"]["syscalls"]["items"]
    argument = rule["properties"]["args"]["items"]
    for known, text in [
        (schema["properties"], '{"defaultAction": "SCMP_ACT_ERRNO", "x": 1}'),
        (rule["properties"], '{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"x": 1}]}'),
        (
            argument["properties"],
            '{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["a"], "action": "SCMP_ACT_ALLOW", "args": [{"x": 1}]}]}',
        ),
    ]:
        _, found = load_bytes(text.encode())
        hints = [one.hint for one in found if one.code == "unknown-key"]
        assert hints == ["known keys: " + ", ".join(hints[0].removeprefix("known keys: ").split(", "))]
        assert set(hints[0].removeprefix("known keys: ").split(", ")) == set(known)
    assert {action.value for action in ProfileAction} <= set(schema["properties"]["defaultAction"]["enum"])
    assert {op.value for op in ArgOp} == set(argument["properties"]["op"]["enum"])


def test_numbers_are_as_large_as_what_holds_them() -> None:
    def value(most: int | None) -> Any:
        return profile_schema(most)["properties"]["syscalls"]["items"]["properties"]["args"]["items"]["properties"]["value"]

    assert value(None) == {"type": "integer", "minimum": 0}
    number, text = value(7)["anyOf"]
    assert (number["maximum"], text["type"]) == (7, "string")
