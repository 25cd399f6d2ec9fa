# SPDX-License-Identifier: Apache-2.0
"""What hangs is given up, and costs only those whose work it was."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from bpfence.host.procfs import read_file
from bpfence.patience import HUNG_FOR, MAX_HUNG, MAX_STUCK, Patience


@pytest.fixture
def release() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_patience_shrinks_for_a_minute(release: threading.Event) -> None:
    now = [0.0]
    patience = Patience(0.04, clock=lambda: now[0])
    for wanted in (0.04, 0.02, 0.01):
        assert patience.seconds() == wanted
        assert patience.call(release.wait) is None
    now[0] = HUNG_FOR
    assert patience.seconds() == 0.04


def test_what_hangs_is_given_up(release: threading.Event) -> None:
    patience = Patience(0.02)
    assert patience.call(lambda: 7) == 7
    assert patience.call(lambda: read_file("/nonexistent", 1)) is None
    for _ in range(MAX_STUCK):
        assert patience.call(release.wait) is None
    begun: list[int] = []
    assert patience.call(lambda: begun.append(1)) is None
    assert begun == []
    assert patience.hangs()
    release.set()
    for thread, _ in list(patience._stuck):
        thread.join(10)
    assert not patience.hangs()
    assert patience.call(lambda: 7) == 7


def test_one_container_does_not_blind_the_lookups_of_others(release: threading.Event) -> None:
    patience = Patience(0.02)
    for _ in range(MAX_STUCK):
        assert patience.call(release.wait, "hostile") is None
    assert patience.hangs("hostile")
    assert patience.call(lambda: 7, "hostile") is None
    assert patience.call(lambda: 7, "another") == 7
    assert patience.seconds("another") == 0.02


def test_many_that_hang_together_do_not_hold_everything_up(release: threading.Event) -> None:
    patience = Patience(0.016, stuck_all=MAX_HUNG + 2)
    for number in range(MAX_HUNG):
        assert patience.call(release.wait, number) is None
    assert patience.seconds("another") == 0.008
    for number in range(2):
        assert patience.call(release.wait, -1 - number) is None
    assert patience.call(lambda: 7, "another") is None  # no more threads than that
