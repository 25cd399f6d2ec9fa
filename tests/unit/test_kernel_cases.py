# SPDX-License-Identifier: Apache-2.0
"""What the kernel cases ask of the tables, told before any guest starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpfence.agent.loading import read_policies
from bpfence.compiler.compile import compile_policies
from tests.kernel.cases import load_cases, write_yaml


@pytest.mark.parametrize("apart", [False, True])
def test_what_is_loaded_at_once_has_room_in_the_tables(tmp_path: Path, apart: bool) -> None:
    """On every kernel but one the cases are in force together: those that are apart, and all others."""
    for case in load_cases():
        if case.apart == apart:
            (tmp_path / f"{case.name}.yaml").write_text(write_yaml(case.policy()))
    policies, _ = read_policies([str(tmp_path)])
    compile_policies(policies)
