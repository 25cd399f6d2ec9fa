# SPDX-License-Identifier: Apache-2.0
"""Loops that Linux 5.10 takes, and those that it does not."""

from __future__ import annotations

import pytest

from tools import bpf_stack

MOVE, ADD, CALL, EXIT, ALWAYS, IF_ZERO, WIDE = 0xB7, 0x07, 0x85, 0x95, 0x05, 0x15, 0x18


def code(*instructions: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    return [(operation, 0, offset, 0) for operation, offset in instructions]


@pytest.mark.parametrize(
    ("instructions", "edge"),
    [
        # A head, a body, a jump back.
        (((MOVE, 0), (IF_ZERO, 2), (ADD, 0), (ALWAYS, -3), (EXIT, 0)), None),
        # The same, with the condition at its end.
        (((MOVE, 0), (ADD, 0), (IF_ZERO, -2), (EXIT, 0)), None),
        # The head behind the body, which is jumped over at first and falls into it.
        (((MOVE, 0), (ALWAYS, 1), (ADD, 0), (IF_ZERO, -2), (EXIT, 0)), (2, 3)),
        (((WIDE, 0), (0, 0), (ALWAYS, 1), (CALL, 0), (IF_ZERO, -2), (EXIT, 0)), (3, 4)),
    ],
)  # fmt: skip
def test_back_edges(instructions: tuple[tuple[int, int], ...], edge: tuple[int, int] | None) -> None:
    assert bpf_stack._back_edge(code(*instructions)) == edge
