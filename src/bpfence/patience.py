# SPDX-License-Identifier: Apache-2.0
"""Work that may hang in, its result or None within a moment out.

Called for every look at what others can make slow: a process's memory, a container's files, file systems in user space or over the network,
the name service. Threads that hang are left behind, because nothing can end them.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Final, TypeVar

T = TypeVar("T")

PATIENCE: Final = 0.25
"""Seconds that reading a process's memory, or a container's file, may take."""
MAX_STUCK: Final = 4
"""Threads that may hang for one key; and for all keys together:"""
MAX_STUCK_ALL: Final = 64
MAX_HUNG: Final = 8
HUNG_FOR: Final = 60.0
MAX_KEYS: Final = 1024


class Patience:
    """Work done on a thread of its own: its result, or None where it has not ended in time or could not be done.

    Work has a key: whose it is, such as a container. While too many threads of a key hang, no more work is begun for it; and whenever its
    work has hung, the time it is given is halved for a minute: whoever can make it hang must not be able to hold up everything. Other keys
    do not lose by it, unless so many hang that together they would (then all are given less).
    """

    def __init__(
        self,
        seconds: float = PATIENCE,
        stuck: int = MAX_STUCK,
        clock: Callable[[], float] = time.monotonic,
        *,
        stuck_all: int = MAX_STUCK_ALL,
    ) -> None:
        self._seconds = seconds
        self._limit = stuck
        self._limit_all = stuck_all
        self._clock = clock
        self._stuck: list[tuple[threading.Thread, Hashable]] = []
        self._hung: OrderedDict[Hashable, deque[float]] = OrderedDict()
        self._hung_all: deque[float] = deque(maxlen=MAX_HUNG * MAX_HUNG)

    def seconds(self, key: Hashable = None) -> float:
        """How long work for a key may take now."""
        since = self._clock() - HUNG_FOR
        own = sum(moment > since for moment in self._hung.get(key, ()))
        everybody = sum(moment > since for moment in self._hung_all)
        return self._seconds / (1 << max(own, (everybody - own) // MAX_HUNG))

    def hangs(self, key: Hashable = None) -> bool:
        """Whether work for a key hangs still, so that no more is begun."""
        self._stuck = [work for work in self._stuck if work[0].is_alive()]
        return len(self._stuck) >= self._limit_all or sum(whose == key for _, whose in self._stuck) >= self._limit

    def call(self, work: Callable[[], T], key: Hashable = None) -> T | None:
        """The result of `work`, None where there is none. OSError of the work counts as none."""
        if self.hangs(key):
            return None
        results: list[T] = []

        def run() -> None:
            try:
                results.append(work())
            except OSError:
                pass

        thread = threading.Thread(target=run, name="bpfence-read", daemon=True)
        thread.start()
        thread.join(self.seconds(key))
        if thread.is_alive():
            self._stuck.append((thread, key))
            self._note(key)
            return None
        return results[0] if results else None

    def _note(self, key: Hashable) -> None:
        now = self._clock()
        self._hung_all.append(now)
        self._hung.setdefault(key, deque(maxlen=MAX_HUNG)).append(now)
        self._hung.move_to_end(key)
        if len(self._hung) > MAX_KEYS:
            self._hung.popitem(last=False)
