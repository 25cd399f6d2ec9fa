# SPDX-License-Identifier: Apache-2.0
"""What is freed goes back to the system."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator

import pytest

from bpfence.host import memory
from bpfence.host.memory import settle


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_what_there_is_is_left_alone_by_the_collector() -> None:
    settle()
    assert gc.get_freeze_count() > 1000
    settle()
    assert gc.get_freeze_count() > 1000


def test_a_c_library_without_a_way_to_give_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    settle()


def test_dead_cycles_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_walked", 0)
    settle()
    before = gc.get_freeze_count()
    blocks = sys.getallocatedblocks()
    for _ in range(2):  # each alone is less than the growth that is waited for
        rings: list[list[object]] = [[] for _ in range(int(blocks * (memory.GROWTH - 1) * 0.4))]  # two blocks each
        for ring in rings:
            ring.append(ring)
        settle()
    assert gc.get_freeze_count() < before + 1.2 * len(rings)
