# SPDX-License-Identifier: Apache-2.0
"""Sequence numbers and the kernel's lost counters in, what was lost out.

Called by `source`, for every record and about once a second after some came. Two accounts of the same losses: the kernel counts what
found no room, by event; gaps in the sequence numbers of each stream show where, and also catch what was lost on our side of the buffer.
A gap shows with the next record of its stream, which may be long after the kernel has counted it: both accounts are kept from the start,
and what only the gaps know is the part by which they are ahead.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Loss(msgspec.Struct, frozen=True):
    """Records lost since the last report: `events` as the kernel counted them, with those that were given up; `gaps` as missing sequence
    numbers by buffer.

    `undecodable`: records that came but could not be read, by reason. `refused`: of those in `events`, denials that had no record to begin
    with, because what the kernel needs to decide was not to be had, by cause. `uncounted`: those in the gaps, of this report or an
    earlier one, that the kernel has not counted.
    """

    events: dict[str, int]
    gaps: dict[str, int]
    undecodable: dict[str, int]
    refused: dict[str, int] = {}
    uncounted: int = 0

    @property
    def total(self) -> int:
        """What either account has of lost records, and what could not be read."""
        return sum(self.events.values()) + self.uncounted + sum(self.undecodable.values())


class LossMeter:
    """Losses of one engine. `counters` and `refused`: of an engine that was going before we came, what `take` is given, as far as an
    earlier agent has told it; then the first sequence numbers seen are the baseline, too.
    """

    def __init__(self, counters: Mapping[str, int] | None = None, refused: Mapping[str, int] | None = None) -> None:
        self._adopted = counters is not None
        self._next: dict[tuple[str, int], int] = {}
        self._counted = dict(counters or {})
        self._refused = dict(refused or {})
        self._gaps: dict[str, int] = {}
        self._undecodable: dict[str, int] = {}
        self._given_up: dict[str, int] = {}
        self._ahead = 0  # by how many records the gaps are ahead of the kernel's account, those told left out; mostly below 0

    def record(self, buffer: str, stream: int, sequence: int, count: int = 1) -> int:
        """One record came, or `count` in a row, the first with that number; how many before it in its stream did not. Records of one stream
        arrive in order."""
        key = buffer, stream
        expected = self._next.get(key)
        if expected == sequence:
            self._next[key] = sequence + count
            return 0
        if expected is None:
            expected = sequence if self._adopted else 1
        self._next[key] = max(sequence + count, expected)
        missing = max(0, sequence - expected)
        if missing:
            self._gaps[buffer] = self._gaps.get(buffer, 0) + missing
        return missing

    def undecodable(self, reason: str) -> None:
        """One record came that could not be read. Its sequence number will show as a gap too if it had one."""
        self._undecodable[reason] = self._undecodable.get(reason, 0) + 1

    def give_up(self, event: str) -> None:
        """One record came that nobody has looked at, and nobody will."""
        self._given_up[event] = self._given_up.get(event, 0) + 1

    def take(self, counters: Mapping[str, int], refused: Mapping[str, int] | None = None) -> Loss | None:
        """What was lost since the last call, None if nothing. `counters`: the kernel's lost records by event, ever growing; `refused`: of
        those the denials without a record, by cause.
        """
        events, fresh = grown(self._counted, counters), grown(self._refused, refused or {})
        self._ahead += sum(self._gaps.values()) - (sum(events.values()) - sum(fresh.values()))
        uncounted = max(0, self._ahead)
        self._ahead -= uncounted
        for event, count in self._given_up.items():
            events[event] = events.get(event, 0) + count
        loss = Loss(events, self._gaps, self._undecodable, fresh, uncounted)
        self._counted, self._refused = dict(counters), dict(refused or {})
        self._gaps, self._undecodable, self._given_up = {}, {}, {}
        return loss if loss.total else None


def grown(before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    """By how much each counter has grown, where it has. A counter below what it was: the maps were made anew."""
    by = {name: count - before.get(name, 0) if count >= before.get(name, 0) else count for name, count in now.items()}
    return {name: count for name, count in by.items() if count}
