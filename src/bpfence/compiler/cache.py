# SPDX-License-Identifier: Apache-2.0
"""What was compiled before in, the same again out: automata by their patterns.

Called by `compiler.automaton`. A reload changes few rules, and most fields are asked for the same texts as before. What is kept is a pure
function of its key, so that nothing depends on what came before but the time it takes. An agent lives long: what was used least recently is
dropped beyond MAX_SIZE.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Final, Generic, TypeVar

MAX_SIZE: Final = 1 << 20
"""States and exceptions of all automata that are kept: each takes some 10 bytes."""

Value = TypeVar("Value")


class Cache(Generic[Value]):
    """At most `room` in all, by the `size` of each; what alone takes more than half of it is not kept. Threads may share one."""

    def __init__(self, room: int, size: Callable[[Value], int]) -> None:
        self._room = room
        self._size = size
        self._kept: OrderedDict[Hashable, tuple[int, Value]] = OrderedDict()
        self._lock = Lock()
        self.used = 0

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """What is kept under a key, else what is made for it. What `make` raises is not kept."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found[1]
        value = make()
        size = self._size(value)
        if 2 * size > self._room:
            return value
        with self._lock:
            if key not in self._kept:
                self._kept[key] = size, value
                self.used += size
            while self.used > self._room:
                self.used -= self._kept.popitem(last=False)[1][0]
        return value

    def clear(self) -> None:
        """Keep nothing."""
        with self._lock:
            self._kept.clear()
            self.used = 0

    def __len__(self) -> int:
        return len(self._kept)
