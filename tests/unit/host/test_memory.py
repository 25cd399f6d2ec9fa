# SPDX-License-Identifier: Apache-2.0
"""What is freed goes back to the system."""

from __future__ import annotations

import ctypes
import gc
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
    rings: list[list[object]] = [[] for _ in range(int(before * (memory.GROWTH - 1)) + 1000)]
    for ring in rings:
        ring.append(ring)
    settle()
    assert gc.get_freeze_count() > before + len(rings) // 2
    del rings, ring
    settle()
    assert gc.get_freeze_count() < before * 1.2
