# SPDX-License-Identifier: Apache-2.0
"""What every language can be asked. Commands show the rest: tests/unit/cli; the defaults: test_example."""

from __future__ import annotations

import inspect

import pytest

from bpfence.dialects.registry import DIALECTS
from bpfence.dialects.tools import NOTHING, TextTable, Tools, diagnostic_as_json
from bpfence.errors import Diagnostic, Location
from bpfence.host.links import Links


@pytest.mark.parametrize("name", DIALECTS)
def test_each_tool_takes_what_the_common_one_takes(name: str) -> None:
    tools = DIALECTS[name].tools()
    for member, function in inspect.getmembers(Tools, inspect.isfunction):
        assert inspect.signature(function).parameters.keys() == inspect.signature(getattr(type(tools), member)).parameters.keys()


@pytest.mark.parametrize("name", [name for name, dialect in DIALECTS.items() if type(dialect.tools()).fields is not Tools.fields])
def test_fields_and_events_are_chosen_by_a_part_of_their_names(name: str) -> None:
    tools = DIALECTS[name].tools()
    for listing in (lambda pattern: tools.fields(pattern, kernel=False), tools.events):
        every, none = listing(""), listing("no such name")
        assert every.parts
        assert not [part for part in none.parts if isinstance(part, TextTable)]
        assert none.json.keys() == every.json.keys()
    assert len(str(tools.fields("", kernel=True).json)) <= len(str(tools.fields("", kernel=False).json))


def test_a_finding_is_flat_and_printable() -> None:
    found = diagnostic_as_json(Diagnostic(Location("a\x1b", 3, 4), "m\n", "h", "warning", "c"))
    assert found == {
        "file": r"a\x1b", "line": 3, "column": 4, "severity": "warning", "code": "c", "message": r"m\x0a", "hint": "h",
    }  # fmt: skip


def test_nothing_is_nothing() -> None:
    assert (NOTHING.json, NOTHING.parts) == ({}, ())
    assert Links().where
