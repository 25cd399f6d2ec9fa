# SPDX-License-Identifier: Apache-2.0
"""What was compiled before in, the same again out: automata by their patterns, diagrams by what they depend on.

Called by `compiler.automaton` and `compiler.compile`. A reload changes few rules: most fields are asked for the same texts as before, and a
rule that is about another path than before leaves the diagrams as they were. What is kept is a pure
function of its key, so that nothing depends on what came before but the time it takes. An agent lives long: what was used least recently is
dropped beyond MAX_SIZE.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

MAX_SIZE: Final = 1 << 20
"""States and exceptions of all automata that are kept: each takes some 10 bytes."""
CACHED_EDGES: Final = 700_000
"""Nodes, children and rows of all diagrams that are kept: each takes some 100 bytes."""
CACHED_RULES: Final = 1000
"""Of fewer rules diagrams are made anew: that is soon done, and memory is dearer."""

Value = TypeVar("Value")


class Cache(Generic[Value]):
    """At most `room` in all, by the `size` of each; what alone takes more than half of it is not kept. Threads may share one: each step is
    one of the dictionary's own.
    """

    def __init__(self, room: int, size: Callable[[Value], int]) -> None:
        self._room = room
        self._size = size
        self._kept: dict[Hashable, tuple[int, Value]] = {}  # what was used last comes last

    @property
    def used(self) -> int:
        """The size of all that is kept."""
        return sum(size for size, _ in tuple(self._kept.values()))

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """What is kept under a key, else what is made for it. What `make` raises is not kept."""
        found = self._kept.pop(key, None)
        if found is None:
            value = make()
            found = self._size(value), value
        if 2 * found[0] <= self._room:
            self._kept[key] = found
            for oldest in tuple(self._kept):
                if self.used <= self._room:
                    break
                self._kept.pop(oldest, None)
        return found[1]

    def clear(self) -> None:
        """Keep nothing."""
        self._kept.clear()

    def __len__(self) -> int:
        return len(self._kept)
