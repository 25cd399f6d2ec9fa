# SPDX-License-Identifier: Apache-2.0
"""The rules in force and an observation in, the rules that their languages confirm out: one `Confirm` for each language that has any.

Called by the pipeline and by what puts tables in force. What confirms a language is made when rules of it come for the first time, and
kept: records of before a reload may still wait in the ring buffer, and are confirmed by the rules that they were let through for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeVar

from bpfence.alerts.alert import RuleInfo
from bpfence.alerts.faults import Fault, Faults
from bpfence.dialects.dialect import Confirm, Context, Rules
from bpfence.dialects.registry import Dialects

T = TypeVar("T")


class Confirms:
    """What confirms, by the names of languages. `faults` are those of no language."""

    def __init__(self, context: Context, dialects: Dialects) -> None:
        self._context = context
        self._dialects = dialects
        self._made: dict[str, Confirm] = {}
        self._used: set[str] = set()
        self.faults = Faults()

    def record(self) -> None:
        """Make those that would record events, so that a file that cannot be opened ends the start. UsageError."""
        if self._context.record is not None:
            for name in self._dialects:
                self._make(name)

    def _make(self, name: str) -> Confirm | None:
        if name not in self._made:
            made = self._dialects[name].confirm(self._context)
            if made is None:
                return None
            self._made[name] = made
        return self._made[name]

    def names(self) -> tuple[str, ...]:
        """The languages that have had rules to confirm."""
        return tuple(name for name in self._made if name in self._used)

    def get(self, name: str) -> Confirm | None:
        """What confirms rules of a language; None where there are none, or where none have to be confirmed."""
        return self._made.get(name)

    def use(self, generation: int, rules: Mapping[str, Rules], infos: Collection[RuleInfo]) -> None:
        """These rules are in force now."""
        for name in {**dict.fromkeys(self._made), **dict.fromkeys(rules)}:
            try:
                confirm = self._make(name)
                if confirm is not None:
                    self._used |= rules.keys() & {name}
                    confirm.use(generation, rules.get(name), infos)
            except Exception as error:  # the kernel decides by these rules already
                self.faults.add("", f"rules of {name} that are in force now are not confirmed", error)

    def _all(self, what: str, do: Callable[[Confirm], T]) -> list[T]:
        """Call something on all of them. An exception is a bug, which costs neither the others nor the agent anything."""
        results = []
        for name, confirm in self._made.items():
            try:
                results.append(do(confirm))
            except Exception as error:
                self.faults.add("", f"{name}: {what}", error)
        return results

    def hosts(self) -> dict[str, Iterable[str]]:
        """The addresses of names of hosts, as far as they are known."""
        by_language = self._all("addresses of hosts cannot be had", lambda confirm: confirm.hosts())
        return {name: addresses for hosts in by_language for name, addresses in hosts.items()}

    def start(self, changed: Callable[[], None]) -> None:
        """The agent works now: its privileges will not change any more, and its command runs."""
        self._all("what goes on beside events cannot begin", lambda confirm: confirm.start(changed))

    def flush(self) -> None:
        """Write what was recorded."""
        self._all("what was recorded cannot be written", lambda confirm: confirm.flush())

    def reopen(self) -> None:
        """Log rotation."""
        self._all("the recording cannot be opened anew", lambda confirm: confirm.reopen())

    def take_faults(self) -> list[Fault]:
        """Those that nobody was told of yet."""
        return [fault for faults in self._all_faults() for fault in faults.take()]

    def _all_faults(self) -> Iterable[Faults]:
        return (self.faults, *(confirm.faults for confirm in self._made.values()))

    def counted(self) -> dict[str, int]:
        """How many candidates came, and how many were confirmed; nothing where there were no rules to confirm."""
        candidates = sum(confirm.candidates for confirm in self._made.values())
        counted = {"candidates": candidates, "confirmed": sum(confirm.confirmed for confirm in self._made.values())} if self._used else {}
        faults = sum(faults.counts.total() for faults in self._all_faults())
        return counted | ({"faults": faults} if faults else {})

    def close(self) -> None:
        """Write what was recorded, and let go of everything."""
        self._all("it does not end as it should", lambda confirm: confirm.close())
