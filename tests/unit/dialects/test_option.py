# SPDX-License-Identifier: Apache-2.0
"""Options that languages add to commands: no two want the same flag, and their defaults are among their choices."""

from __future__ import annotations

import pytest

from bpfence.dialects.option import Option
from bpfence.dialects.registry import DIALECTS

OPTIONS = [option for dialect in DIALECTS.values() for option in dialect.options]


def test_no_flag_is_taken_twice() -> None:
    flags = [flag for option in OPTIONS for flag in option.flags]
    assert len(flags) == len(set(flags))


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.member)
def test_defaults_are_allowed(option: Option) -> None:
    assert not option.choices or option.default is None or option.default in option.choices
    assert option.many == (option.default == ())


@pytest.mark.parametrize("name", DIALECTS)
def test_a_language_takes_its_defaults(name: str) -> None:
    dialect = DIALECTS[name]
    given = {option.member: option.default for option in dialect.options}
    assert dialect.read([], dialect.choose(given))[1] == dialect.read([], None)[1]
