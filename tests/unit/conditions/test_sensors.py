"""Types of arguments: each is read, and becomes fields that events of sensors have."""

from __future__ import annotations

import pytest

from bpfence.conditions import sensors
from bpfence.fields import FIELD_BY_NAME
from bpfence.policy import Read

TYPES = (*sensors.NUMBERS, *sensors.FILES, *sensors.TEXTS, *sensors.SOCKETS, "nop")


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_is_read_and_has_fields_of_sensors(kind: str) -> None:
    fields = sensors.fields_of(kind, 3, ())
    assert (sensors.read_of(kind) is Read.NOTHING) == (kind == "nop") == (not fields)
    assert all("sensor." in FIELD_BY_NAME[name].events for name in fields)


def test_records_and_programs_have_types_that_are_known() -> None:
    assert {*sensors.IN_RECORDS, *sensors.IN_PROGRAMS, *sensors.IN_STATIC_PROBES} <= set(TYPES)


def test_the_second_file_is_the_other_path() -> None:
    assert sensors.fields_of("path", 0, ()) == ("file.path",)
    assert sensors.fields_of("file", 2, ("int", "path")) == ("file.new_path",)
    assert sensors.fields_of("fd", 1, ("path",)) == ("file.new_path", "sensor.number1")


@pytest.mark.parametrize(("name", "call"), [("sys_openat", True), ("__x64_sys_openat", True), ("do_sys_openat2", False)])
def test_functions_of_system_calls(name: str, call: bool) -> None:
    assert sensors.is_call(name) is call
