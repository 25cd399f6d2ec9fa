# SPDX-License-Identifier: Apache-2.0
"""Every registered language has the one shape."""

from __future__ import annotations

import inspect

import pytest

from bpfence.dialects.dialect import Dialect, Facts, Rules
from bpfence.dialects.registry import DIALECTS


@pytest.mark.parametrize("name", DIALECTS)
def test_a_dialect_has_every_member_and_reads_nothing_into_nothing(name: str) -> None:
    dialect = DIALECTS[name]
    members = {member for member, _ in inspect.getmembers(Dialect) if not member.startswith("_")}
    assert members - set(dir(dialect)) == set()
    assert dialect.name == name
    rules, _ = dialect.read([], None)
    assert {member for member, _ in inspect.getmembers(Rules) if not member.startswith("_")} - set(dir(rules)) == set()
    assert (rules.policies(Facts()), list(rules.paths()), list(rules.locations)) == ((), [], [])
    assert list(rules.resolved(pytest.fail, "here")[0].policies(Facts())) == []
