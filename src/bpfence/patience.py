# SPDX-License-Identifier: Apache-2.0
"""Work that may hang in, its result within a moment, or None, out.

Called for every look at what others can make slow: a process's memory, a container's files, file systems in user space or on the network,
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
    """Runs work in a thread of its own and gives its result, or None where it has not ended in time or could not be done.

    Work has a key: whose work it is, such as a container. While too many threads of a key hang, no more work of it is begun. Whenever work
    of a key has hung, the time for that key is halved for a minute, so that whoever can make it hang cannot hold up everything. Other keys
    lose nothing by it, unless so many hang that together they would hold things up; then all get less time.
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
        """How many seconds work of a key may take now."""
        since = self._clock() - HUNG_FOR
        own = sum(moment > since for moment in self._hung.get(key, ()))
        everybody = sum(moment > since for moment in self._hung_all)
        return self._seconds / (1 << max(own, (everybody - own) // MAX_HUNG))

    def hangs(self, key: Hashable = None) -> bool:
        """Whether so much work of a key hangs that no more is begun."""
        self._stuck = [work for work in self._stuck if work[0].is_alive()]
        return len(self._stuck) >= self._limit_all or sum(whose == key for _, whose in self._stuck) >= self._limit

    def call(self, work: Callable[[], T], key: Hashable = None) -> T | None:
        """The result of `work`; None where there is none. An OSError of the work counts as none."""
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
