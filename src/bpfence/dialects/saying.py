# SPDX-License-Identifier: Apache-2.0
"""Rules that the kernel decides completely and an observation in, what that is in the language of its policy out.

Nothing is left to confirm; a language gives what it knows of its rules, and how it sees an observation. What was known of the last rule
sets is kept, because records wait in the ring buffer across a reload.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, Generic, TypeVar

from bpfence.alerts.alert import RuleInfo
from bpfence.alerts.faults import Faults
from bpfence.dialects.dialect import View
from bpfence.dialects.facts import Hosts
from bpfence.events.source import Observation

RuleKey = tuple[str, str]
"""The policy of a rule, and its name there."""
T = TypeVar("T")
MAX_GENERATIONS: Final = 4096
"""That are kept, where many have the same rules: each swap of tables is one."""


class Saying(Generic[T]):
    """See `dialects.dialect.Confirm`. `kept`: of how many rule sets records may still come; `known`: what there is to know of the rules;
    `view`: an observation with that. Of a generation that is not kept nothing is known."""

    def __init__(
        self, kept: int, known: Callable[[Any], Mapping[RuleKey, T]], view: Callable[[Observation, Mapping[RuleKey, T]], View]
    ) -> None:
        self.faults = Faults()
        self.candidates = self.confirmed = 0
        self._kept = kept
        self._know = known
        self._view = view
        self._generations: dict[int, Mapping[RuleKey, T]] = {}
        self._newest: Mapping[RuleKey, T] = {}
        self._of: object = None

    def use(self, generation: int, rules: Any, infos: Iterable[RuleInfo]) -> None:
        """The rules of the generation that is in force now; None: there are none."""
        if rules is not self._of:
            self._newest = self._know(rules) if rules is not None else {}
            self._of = rules
        self._generations.pop(generation, None)
        self._generations[generation] = self._newest
        while len({id(known) for known in self._generations.values()}) > self._kept or len(self._generations) > MAX_GENERATIONS:
            del self._generations[next(iter(self._generations))]

    def view(self, seen: Observation) -> View:
        """An observation as the language sees it."""
        return self._view(seen, self._generations.get(seen.generation, {}))

    def confirm(self, view: Any, among: Collection[str] | None) -> list[RuleInfo]:
        """None: no rule waits for it."""
        return []

    def refused(self, count: int, moment: int) -> None:
        """Nothing is."""

    def hosts(self) -> Hosts:
        """No rule names a host."""
        return {}

    def start(self, changed: Callable[[], None]) -> None:
        """Nothing goes on beside events."""

    def flush(self) -> None:
        """Nothing is recorded."""

    def reopen(self) -> None:
        """Nothing is recorded."""

    def close(self) -> None:
        """Nothing is open."""
