# SPDX-License-Identifier: Apache-2.0
"""Sequence numbers and the kernel's lost counters in, what was lost out.

Called by `source`, for every record and about once a second after some came. Two accounts of the same losses: the kernel counts what
found no room, by event; gaps in the per-CPU sequence numbers show where, and also catch what was lost on our side of the buffer.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Loss(msgspec.Struct, frozen=True):
    """Records lost since the last report: `events` as the kernel counted them, `gaps` as missing sequence numbers by buffer.

    `undecodable`: records that came but could not be read, by reason.
    """

    events: dict[str, int]
    gaps: dict[str, int]
    undecodable: dict[str, int]

    @property
    def total(self) -> int:
        """The larger of both accounts of lost records, and what could not be read."""
        return max(sum(self.events.values()), sum(self.gaps.values())) + sum(self.undecodable.values())


class LossMeter:
    """Losses of one engine. `adopted`: sequences and counters were going before we came, so the first numbers seen are the baseline."""

    def __init__(self, *, adopted: bool, counters: Mapping[str, int] | None = None) -> None:
        self._adopted = adopted
        self._next: dict[tuple[str, int], int] = {}
        self._counted = dict(counters or {}) if adopted else {}
        self._gaps: dict[str, int] = {}
        self._undecodable: dict[str, int] = {}

    def record(self, buffer: str, cpu: int, sequence: int) -> int:
        """One record came; how many before it on its CPU and buffer did not. Records of one CPU arrive in order."""
        key = buffer, cpu
        expected = self._next.get(key, sequence if self._adopted else 1)
        self._next[key] = max(sequence + 1, expected)
        missing = max(0, sequence - expected)
        if missing:
            self._gaps[buffer] = self._gaps.get(buffer, 0) + missing
        return missing

    def undecodable(self, reason: str) -> None:
        """One record came that could not be read. Its sequence number will show as a gap too if it had one."""
        self._undecodable[reason] = self._undecodable.get(reason, 0) + 1

    def take(self, counters: Mapping[str, int]) -> Loss | None:
        """What was lost since the last call, None if nothing. `counters`: the kernel's lost records by event, ever growing."""
        events = {}
        for event, count in counters.items():
            # A counter below what it was: the maps were made anew.
            before = self._counted.get(event, 0)
            if count != before:
                events[event] = count - before if count > before else count
        self._counted = dict(counters)
        loss = Loss({event: count for event, count in events.items() if count}, self._gaps, self._undecodable)
        self._gaps, self._undecodable = {}, {}
        return loss if loss.events or loss.gaps or loss.undecodable else None
