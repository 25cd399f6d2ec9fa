# SPDX-License-Identifier: Apache-2.0
"""The tables of the interface: no number twice, and everything that events show has a place."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpfence import names
from bpfence.dialects.tetragon import wire

json_format = pytest.importorskip("google.protobuf.json_format", reason="needs protobuf: pip install 'bpfence[grpc]'")


@pytest.mark.parametrize("message", wire.MESSAGES)
def test_no_field_has_the_name_or_number_of_another(message: str) -> None:
    fields = wire.MESSAGES[message]
    assert len({name for name, _, _ in fields}) == len({number for _, number, _ in fields}) == len(fields)


def test_all_types_are_there() -> None:
    assert wire.messages().keys() == wire.MESSAGES.keys()
    for request, response in wire.METHODS.values():
        assert {request, response} <= wire.MESSAGES.keys()


def test_members_of_events_have_the_numbers_of_their_types() -> None:
    members = {name: number for name, number, _ in wire.MESSAGES["GetEventsResponse"]}
    assert {name.upper(): number for name, number in members.items() if name.upper() in wire.EVENTS} == {
        name: number for name, number in wire.EVENTS.items() if name not in ("UNDEF", "TEST")
    }


def test_bytes_of_an_event() -> None:
    """Written here by the numbers of Tetragon's files."""
    made = json_format.ParseDict(
        {"process_lsm": {"process": {"pid": 3}, "function_name": "f", "action": "KPROBE_ACTION_SIGKILL"}, "node_name": "n"},
        wire.messages()["GetEventsResponse"](),
    )
    assert made.SerializeToString() == b"\xe2\x01\x0b\x0a\x04\x12\x02\x08\x03\x1a\x01f\x40\x03\xc2\x3e\x01n"


def test_every_capability_and_command_has_its_name() -> None:
    assert wire.ENUMS["CapabilitiesType"]["DAC_OVERRIDE"] == 1
    assert wire.ENUMS["CapabilitiesType"]["CAP_SYS_ADMIN"] == names.TABLES["capability"].numbers["CAP_SYS_ADMIN"] == 21
    assert wire.ENUMS["BpfCmd"]["BPF_PROG_LOAD"] == 5


def test_an_argument_that_is_zero_is_sent() -> None:
    argument = json_format.ParseDict({"int_arg": 0}, wire.messages()["KprobeArgument"]())
    assert argument.SerializeToString() == b"\x10\x00"


def test_methods_are_documented() -> None:
    text = Path("docs/tetragon.md").read_text(encoding="utf-8")
    assert [name for name in wire.METHODS if f"`{name}`" not in text] == []
