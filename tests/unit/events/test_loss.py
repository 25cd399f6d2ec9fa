# SPDX-License-Identifier: Apache-2.0
"""Both accounts of lost records."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bpfence.events.loss import Loss, LossMeter


def test_gaps_by_stream_and_buffer() -> None:
    meter = LossMeter()
    assert [meter.record("decisions", 0, number) for number in (1, 2, 5)] == [0, 0, 2]
    assert meter.record("decisions", 1, 1) == 0
    assert meter.record("telemetry", 0, 4) == 3
    assert meter.take({}) == Loss({}, {"decisions": 2, "telemetry": 3}, {}, uncounted=5)
    assert meter.take({}) is None


def test_losses_before_the_first_record_count_unless_adopted() -> None:
    assert LossMeter().record("decisions", 0, 3) == 2
    adopted = LossMeter({"file.open": 40})
    assert adopted.record("decisions", 0, 3) == 0
    assert adopted.record("decisions", 0, 5) == 1
    assert adopted.take({"file.open": 41}) == Loss({"file.open": 1}, {"decisions": 1}, {})


def test_what_the_kernel_has_counted_is_not_told_again_when_its_gap_shows() -> None:
    meter = LossMeter()
    meter.record("decisions", 0, 1)
    assert meter.take({"file.open": 5}) == Loss({"file.open": 5}, {}, {})
    meter.record("decisions", 0, 7)
    assert meter.take({"file.open": 5}) is None
    meter.record("decisions", 0, 10)
    assert meter.take({"file.open": 5}) == Loss({}, {"decisions": 2}, {}, uncounted=2)


def test_denials_without_a_record_leave_no_gap() -> None:
    meter = LossMeter()
    assert meter.take({"file.open": 5}, {"memory": 5}) == Loss({"file.open": 5}, {}, {}, {"memory": 5})
    meter.record("decisions", 0, 3)
    assert meter.take({"file.open": 5}, {"memory": 5}) == Loss({}, {"decisions": 2}, {}, uncounted=2)


def test_what_nobody_looked_at_is_lost_and_leaves_no_gap() -> None:
    meter = LossMeter()
    meter.record("decisions", 0, 1)
    meter.give_up("file.open")
    assert meter.take({"file.open": 5}) == Loss({"file.open": 6}, {}, {})
    assert meter.take({"file.open": 5}) is None


@given(st.lists(st.tuples(st.sampled_from(["came", "lost", "silent", "look"]), st.integers(0, 2)), max_size=60))
def test_every_lost_record_is_told_once_whenever_its_gap_shows(steps: list[tuple[str, int]]) -> None:
    """`silent`: lost on our side, so that the kernel has not counted it."""
    meter = LossMeter()
    sequence, counted, silent, told = {0: 0, 1: 0, 2: 0}, 0, 0, 0
    for what, stream in steps:
        if what == "look":
            loss = meter.take({"file.open": counted})
            told += loss.total if loss else 0
            assert counted <= told <= counted + silent
            continue
        sequence[stream] += 1
        counted += what == "lost"
        silent += what == "silent"
        if what == "came":
            meter.record("decisions", stream, sequence[stream])
    for stream, last in sequence.items():
        meter.record("decisions", stream, last + 1)
    loss = meter.take({"file.open": counted})
    assert told + (loss.total if loss else 0) == counted + silent


def test_repeated_and_older_numbers_are_no_loss() -> None:
    meter = LossMeter()
    assert [meter.record("decisions", 0, number) for number in (1, 1, 2, 1, 3)] == [0, 0, 0, 0, 0]


def test_counters_count_from_the_last_look_and_may_start_anew() -> None:
    meter = LossMeter()
    assert meter.take({"file.open": 7}) == Loss({"file.open": 7}, {}, {})
    assert meter.take({"file.open": 7}) is None
    assert meter.take({"file.open": 2}) == Loss({"file.open": 2}, {}, {})


def test_undecodable_records_are_loss() -> None:
    meter = LossMeter()
    meter.undecodable("ABI 9")
    meter.undecodable("ABI 9")
    loss = meter.take({})
    assert loss == Loss({}, {}, {"ABI 9": 2})
    assert loss is not None
    assert loss.total == 2


@given(st.sets(st.integers(1, 200), min_size=1))
def test_gaps_are_exactly_what_is_missing(came: set[int]) -> None:
    meter = LossMeter()
    for number in sorted(came):
        meter.record("decisions", 0, number)
    loss = meter.take({})
    assert (loss.gaps["decisions"] if loss else 0) == max(came) - len(came)
