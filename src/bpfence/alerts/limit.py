# SPDX-License-Identifier: Apache-2.0
"""Alerts of a rule in, which to write and how many were left out, out.

Called by the agent for every alert. One token bucket a rule, by policy and rule name, so that a reload does not refill it. What is
left out is counted and reported when the rule has calmed down, every REPORT_SECONDS while it has not, and at the end.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple

DEFAULT_RATE: Final = 100.0
DEFAULT_BURST: Final = 200
REPORT_SECONDS: Final = 10.0

RuleId = tuple[str, str]


class Suppressed(NamedTuple):
    """How many alerts of one rule were left out since its last report."""

    policy: str
    rule: str
    alerts: int

    @property
    def text(self) -> str:
        """For people."""
        return f"{self.alerts} more alerts of {self.policy}/{self.rule} were left out by its rate limit"


class TokenBucket:
    """At most `burst` tokens; `rate` more a second. Times are seconds of any clock that does not go back."""

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self.tokens = float(burst)
        self.filled = now

    def _fill(self, now: float) -> None:
        if now > self.filled:
            self.tokens = min(float(self.burst), self.tokens + (now - self.filled) * self.rate)
            self.filled = now

    def take(self, now: float) -> bool:
        """Take one token if there is one."""
        tokens = self.tokens
        if now > self.filled:
            tokens += (now - self.filled) * self.rate
            self.filled = now
            if tokens > self.burst:
                tokens = float(self.burst)
        taken = tokens >= 1
        self.tokens = tokens - 1 if taken else tokens
        return taken

    def full_at(self, now: float) -> float:
        """When it will be full if nothing is taken."""
        self._fill(now)
        return now + (self.burst - self.tokens) / self.rate

    def change(self, rate: float, burst: int) -> None:
        """Other limits, from now on."""
        self.rate, self.burst = rate, burst
        self.tokens = min(self.tokens, float(burst))


class _Held:
    """The alerts of one rule that were left out and not reported yet. `since` is when the count began."""

    def __init__(self, since: float) -> None:
        self.count = 0
        self.since = since


class RateLimiter:
    """Every rule's bucket and what is still to be reported."""

    def __init__(self) -> None:
        self._buckets: dict[RuleId, TokenBucket] = {}
        self._held: dict[RuleId, _Held] = {}

    def allow(self, key: RuleId, rate: float, burst: int, now: float) -> bool:
        """Whether an alert of this rule may be written. `rate` or `burst` 0: the defaults."""
        rate, burst = rate or DEFAULT_RATE, burst or (DEFAULT_BURST if not rate else max(1, round(2 * rate)))
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(rate, burst, now)
        elif bucket.rate != rate or bucket.burst != burst:
            bucket.change(rate, burst)
        if bucket.take(now):
            return True
        self._held.setdefault(key, _Held(now)).count += 1
        return False

    def _due(self, key: RuleId, held: _Held, now: float) -> float:
        return min(self._buckets[key].full_at(now), held.since + REPORT_SECONDS)

    def next_report(self, now: float) -> float | None:
        """When `reports` will have something; None while nothing waits to be reported."""
        return min((self._due(key, held, now) for key, held in self._held.items()), default=None)

    def reports(self, now: float, *, everything: bool = False) -> list[Suppressed]:
        """What is due to be reported now; with `everything`, all that waits. It is not reported again."""
        due = [key for key, held in self._held.items() if everything or self._due(key, held, now) <= now]
        return [Suppressed(*key, self._held.pop(key).count) for key in due]

    def keep(self, keys: Collection[RuleId]) -> None:
        """Forget the buckets of rules that are gone. What they still have to report is kept."""
        for key in [key for key in self._buckets if key not in keys and key not in self._held]:
            del self._buckets[key]
