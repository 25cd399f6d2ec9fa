# SPDX-License-Identifier: Apache-2.0
"""Which maps are measured: hash maps of the kernel side, which alone have entries to count."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bpfence.kernel.measured import FILLED

MAPS = (Path(__file__).parents[3] / "bpf" / "maps.h").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", FILLED)
def test_a_map_that_fills_is_a_hash(name: str) -> None:
    body = MAPS[: MAPS.index(f"}} {name} SEC(")].rpartition("MAP struct {")[2]
    if values := re.search(r"__array\(values, (struct \w+)\)", body):
        body = MAPS.partition(f"{values[1]} {{")[2].partition("}")[0]
    kind = re.search(r"__uint\(type, BPF_MAP_TYPE_(\w+)\)", body)
    assert kind is not None
    assert kind[1] in ("HASH", "LRU_HASH")
