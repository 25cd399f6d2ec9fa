# SPDX-License-Identifier: Apache-2.0
"""Token buckets and what is said of what they held back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bpfence.alerts.limit import DEFAULT_BURST, REPORT_SECONDS, RateLimiter, Suppressed, TokenBucket

KEY = ("p", "r")


def test_burst_then_rate() -> None:
    bucket = TokenBucket(2.0, 3, now=0.0)
    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(0.5), bucket.take(0.5), bucket.take(1.0)] == [True, False, True]
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]


def test_a_clock_that_goes_back_gives_nothing() -> None:
    bucket = TokenBucket(1.0, 1, now=10.0)
    assert bucket.take(10.0)
    assert not bucket.take(3.0)
    assert not bucket.take(10.5)
    assert bucket.take(11.0)


@given(st.lists(st.floats(0, 5), max_size=60), st.floats(0.5, 20), st.integers(1, 20))
def test_never_more_than_burst_and_rate_allow(pauses: list[float], rate: float, burst: int) -> None:
    bucket, now, taken = TokenBucket(rate, burst, 0.0), 0.0, 0
    for pause in pauses:
        now += pause
        taken += bucket.take(now)
        assert taken <= burst + rate * now + 1e-6


def test_defaults_and_a_rules_own_rate() -> None:
    limiter = RateLimiter()
    assert sum(limiter.allow(KEY, 0.0, 0, 0.0) for _ in range(1000)) == DEFAULT_BURST
    assert sum(limiter.allow(("p", "slow"), 3.0, 0, 0.0) for _ in range(1000)) == 6
    assert sum(limiter.allow(("p", "burst"), 3.0, 40, 0.0) for _ in range(1000)) == 40


def test_suppressed_alerts_are_reported_when_the_bucket_is_full_again() -> None:
    limiter = RateLimiter()
    for _ in range(5):
        limiter.allow(KEY, 1.0, 2, 0.0)
    assert limiter.next_report(0.0) == 2.0
    assert limiter.reports(1.9) == []
    assert limiter.reports(2.0) == [Suppressed("p", "r", 3)]
    assert limiter.reports(50.0) == []
    assert limiter.next_report(50.0) is None


def test_a_rule_that_does_not_calm_down_is_reported_every_ten_seconds() -> None:
    limiter = RateLimiter()
    reports = []
    for tick in range(251):
        limiter.allow(KEY, 1.0, 1, tick / 10)
        reports += [(tick / 10, report.alerts) for report in limiter.reports(tick / 10)]
    assert [moment for moment, _ in reports] == [REPORT_SECONDS + 0.1, 2 * REPORT_SECONDS + 0.2]
    assert 85 <= reports[0][1] <= 95


def test_everything_is_reported_at_the_end_and_owed_counts_survive_a_reload() -> None:
    limiter = RateLimiter()
    for _ in range(3):
        limiter.allow(KEY, 1.0, 1, 0.0)
    limiter.keep(set())
    assert limiter.reports(0.0, everything=True) == [Suppressed("p", "r", 2)]
    assert not limiter.allow(KEY, 1.0, 1, 0.0), "the bucket of a rule that owes a report is not refilled by a reload"
    limiter.reports(0.0, everything=True)
    limiter.keep(set())
    assert limiter.allow(KEY, 1.0, 1, 0.0)


def test_new_limits_count_from_now_on() -> None:
    limiter = RateLimiter()
    assert limiter.allow(KEY, 1.0, 100, 0.0)
    assert sum(limiter.allow(KEY, 1.0, 2, 0.0) for _ in range(10)) == 2
