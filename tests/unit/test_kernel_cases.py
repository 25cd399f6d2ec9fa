# SPDX-License-Identifier: Apache-2.0
"""What the kernel cases ask of the tables, told before any guest starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpfence.agent.loading import read_policies
from bpfence.compiler.compile import compile_policies
from tests.kernel.cases import TURNS, load_cases, write_yaml


@pytest.mark.parametrize("turn", TURNS)
def test_what_is_loaded_at_once_has_room_in_the_tables(tmp_path: Path, turn: str) -> None:
    """On every kernel but one the cases of a turn are in force together."""
    for case in load_cases():
        if case.turn == turn:
            (tmp_path / f"{case.name}.yaml").write_text(write_yaml(case.policy()))
    policies, _ = read_policies([str(tmp_path)])
    compile_policies(policies)
