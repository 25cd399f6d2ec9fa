# SPDX-License-Identifier: Apache-2.0
"""Targets: what they are compared with, and that each names a figure once."""

from __future__ import annotations

import pytest

from benchmarks import compile as compiling
from benchmarks import macro
from benchmarks.results import Figure, under
from benchmarks.targets import BY_NAME, CONCERNED, SHIPPED, TARGETS, Target


@pytest.mark.parametrize(
    ("how", "limit", "figure", "judged", "met"),
    [
        ("percent", 2, Figure(1019, "instructions", 1000), 1.9, True),
        ("percent", 2, Figure(1021, "instructions", 1000), 2.1, False),
        ("added", 250, Figure(1823, "instructions", 1573), 250, True),
        ("added", 250, Figure(1824, "instructions", 1573), 251, False),
        ("most", 5, Figure(5.1, "ms"), 5.1, False),
        ("least", 100, Figure(100, "a second"), 100, True),
        ("least", 100, Figure(99, "a second"), 99, False),
    ],
)
def test_judged(how: str, limit: float, figure: Figure, judged: float, met: bool) -> None:
    target = Target("name", "title", how, limit)
    assert target.judged(figure) == pytest.approx(judged)
    assert target.met(figure) is met


def test_each_figure_has_one_target() -> None:
    assert len(BY_NAME) == len(TARGETS)
    assert {target.how for target in TARGETS} == {"percent", "added", "most", "least"}


def test_every_row_of_programs_has_one() -> None:
    assert {name for name in macro.ROWS if under(SHIPPED, name, CONCERNED) in BY_NAME} == set(macro.ROWS)


def test_every_shape_that_is_compiled_has_one() -> None:
    assert [row.name for row in compiling.ROWS if row.name not in BY_NAME] == []
