# SPDX-License-Identifier: Apache-2.0
"""Conditions as text, which reads back."""

from __future__ import annotations

import pytest

from bpfence.conditions.text import condition_text, selector_text
from bpfence.dialects.native import language as native_conditions
from bpfence.policy import FALSE, TRUE, And, Atom, Condition, Label, Not, Op, Or, Selector


@pytest.mark.parametrize(
    ("condition", "text"),
    [
        (TRUE, "always"),
        (FALSE, "never"),
        (Atom("file.path", Op.EQUALS, "/a b"), 'file.path = "/a b"'),
        (Or((Atom("file.path", Op.EQUALS, "/a"), Atom("file.path", Op.EQUALS, "/b"))), "file.path in (/a, /b)"),
        (Atom("file.memfd", Op.RANGE, (1, 1)), "file.memfd = true"),
        (Atom("process.uid", Op.RANGE, (5, 9)), "process.uid >= 5 and process.uid <= 9"),
        (Not(Atom("process.uid", Op.RANGE, (5, 9))), "not (process.uid >= 5 and process.uid <= 9)"),
        (Atom("file.access", Op.ANYBITS, 3), "file.access = read or file.access = write"),
        (And((Atom("file.access", Op.ANYBITS, 3), Atom("file.path", Op.EXISTS))),
        "(file.access = read or file.access = write) and file.path exists"),
    ],
)  # fmt: skip
def test_conditions_as_text(condition, text: str) -> None:  # type: ignore[no-untyped-def]
    assert condition_text(condition) == text
    if condition not in (TRUE, FALSE):
        assert native_conditions.parse(text).problems == ()


@pytest.mark.parametrize(
    ("condition", "text"),
    [
        (Atom("file.uid", Op.DIFFERENT, "process.uid"), "file.uid != process.uid"),
        (Or((Atom("file.uid", Op.LESS, "process.uid"), Atom("file.uid", Op.SAME, "process.uid"))),
         "file.uid < process.uid or file.uid = process.uid"),
        (Atom("file.path", Op.BEGINS, "process.cwd"), "file.path startswith process.cwd"),
        (Not(Atom("process.exe", Op.ENDS, "process.name")), "not process.exe endswith process.name"),
        (Atom("process.args", Op.CONTAINS, "process.uid"), 'process.args contains "process.uid"'),
    ],
)  # fmt: skip
def test_a_field_and_its_name_as_a_text_read_back_as_they_were(condition: Condition, text: str) -> None:
    assert condition_text(condition) == text
    assert native_conditions.parse(text).condition == condition


def test_constants_within_a_condition_are_words() -> None:
    assert condition_text(And((Atom("process.uid", Op.RANGE, (1, 1)), Or()))) == "process.uid = 1 and never"
    assert condition_text(Not(And())) == "not always"


def test_the_text_of_a_selector_of_annotations() -> None:
    selector = Selector(namespaces=("shop",), namespace_annotations=(Label("a/b", "in", ("c",)),))
    assert selector_text(selector) == "namespace: shop; namespaceAnnotations: a/b in (c)"
