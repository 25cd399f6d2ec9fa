# SPDX-License-Identifier: Apache-2.0
"""Bugs of ours that an event has brought to light in, each told once and counted out.

No one who can cause an event may end the agent by it: an exception is caught by the caller of the code that failed, and noted here.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple

MAX_FAULT: Final = 300


class Fault(NamedTuple):
    """A bug of ours that an event has brought to light: the rule (empty: none in particular), what could not be done, and the exception."""

    rule: str
    what: str
    error: str

    @property
    def text(self) -> str:
        """One sentence for people."""
        about = f"rule {self.rule!r}: " if self.rule else ""
        return f"{about}{self.what} ({self.error}). This is a fault of bpfence; please report it"


class Faults:
    """Faults that were contained: counted by rule (or, where no rule is concerned, by what could not be done). The first of each is kept to
    be told once.

    A fault costs the one rule, or the one field of an output, and nothing else.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._waiting: list[Fault] = []

    def add(self, rule: str, what: str, error: Exception) -> None:
        """Note one more fault of a rule."""
        key = rule or what
        self.counts[key] += 1
        if self.counts[key] == 1:
            self._waiting.append(Fault(rule, what, f"{type(error).__name__}: {error}"[:MAX_FAULT]))

    def take(self) -> list[Fault]:
        """Those that nobody was told of yet."""
        untold, self._waiting = self._waiting, []
        return untold
