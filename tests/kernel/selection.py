# SPDX-License-Identifier: Apache-2.0
"""A kernel test's node id and a row of the kernel table in, whether it runs there out.

Two tables narrow what would otherwise be every test on every kernel: a row of vmtest/kernels.py may name the tests it is there for
(`only`), and tests/kernel/selection.yaml the kernels that a test is there for. Called by tests/conftest.py on the host. It never skips:
what is not selected for a kernel is no item of it, and a test that no kernel of the table selects fails the matrix, but where the table
says so of it: it names no kernel.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from vmtest.kernels import Kernel

TABLE = Path(__file__).parent / "selection.yaml"


def load_table(path: Path = TABLE) -> dict[str, tuple[str, ...]]:
    """Beginning of a node id -> the names of the kernels it runs on."""
    rows: dict[str, list[str]] = yaml.safe_load(path.read_text()) or {}
    return {f"tests/kernel/{prefix}": tuple(kernels) for prefix, kernels in rows.items()}


def begins(nodeid: str, prefix: str) -> bool:
    """Whether `prefix` names the test, its file, or the function whose parameters make it. `*` stands for any text."""
    pattern = ".*".join(re.escape(part) for part in prefix.split("*"))
    return re.fullmatch(pattern + r"(::.*|\[.*)?", nodeid, re.DOTALL) is not None


def narrowed_to(nodeid: str, table: Mapping[str, tuple[str, ...]]) -> tuple[str, ...] | None:
    """The kernels that the table of tests names for a test, None where it names none. The longest beginning decides."""
    found = [prefix for prefix in table if begins(nodeid, prefix)]
    return table[max(found, key=len)] if found else None


def runs_on(nodeid: str, kernel: Kernel, table: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether the test runs on the kernel. A row with `only` runs nothing else; for its tests the table of tests has no say there."""
    if kernel.only:
        return any(begins(nodeid, prefix) for prefix in kernel.only)
    kernels = narrowed_to(nodeid, table)
    return kernels is None or kernel.name in kernels


def expected(nodeids: Sequence[str], table: Mapping[str, tuple[str, ...]]) -> list[str]:
    """The tests that some kernel has to run: the table names no kernel for those that are run by hand."""
    return [nodeid for nodeid in nodeids if narrowed_to(nodeid, table) != ()]


def select(nodeids: Sequence[str], kernel: Kernel, table: Mapping[str, tuple[str, ...]]) -> list[str]:
    """The tests that run on a kernel, in order."""
    return [nodeid for nodeid in nodeids if runs_on(nodeid, kernel, table)]
