# SPDX-License-Identifier: Apache-2.0
"""Which words go together."""

from __future__ import annotations

import pytest

from bpfence.dialects.tetragon.read import words


@pytest.mark.parametrize(
    ("type_", "goes", "does_not"),
    [
        ("int32", ("Equal", "Mask", "InMap", "CelExpr"), ("Prefix", "SAddr", "FileType")),
        ("file", ("Prefix", "NotPostfix", "SubString", "FileType"), ("Mask", "GT")),
        ("string", ("Equal", "SubStringIgnCase"), ("FileType", "InRange")),
        ("sock", ("DAddr", "NotDPort", "State", "Protocol"), ("Equal", "Prefix")),
        ("skb", ("DAddr", "Family"), ("State",)),
        ("sockaddr", ("SAddr", "SPort", "Family"), ("DAddr", "Protocol")),
        ("cap_effective", ("CapabilitiesGained",), ("Prefix",)),
        ("nop", (), ("Equal",)),
    ],
)
def test_operators_by_type(type_: str, goes: tuple[str, ...], does_not: tuple[str, ...]) -> None:
    allowed = set(words.operators_of(type_))
    assert allowed >= set(goes)
    assert not allowed & set(does_not)


def test_every_operator_tests_something() -> None:
    used = {operator for type_ in words.TYPES if type_ != "auto" for operator in words.operators_of(type_)}
    assert used == set(words.OPERATORS)


def test_aliases_lead_to_types() -> None:
    assert {words.plain(alias) for alias in words.ALIASES} <= set(words.TYPES)
    assert set(words.INTEGERS) | words.TEXTS | words.SOCKETS <= set(words.TYPES)
    assert len(set(words.TYPES)) == len(words.TYPES)
