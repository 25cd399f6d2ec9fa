# SPDX-License-Identifier: Apache-2.0
"""An event and the rules that it matched in, those that must still be told of it out: one act is one alert.

Called by the agent before rate limits. The kernel passes several hooks during one act: reading a file is an open, then a permission for
each read; a write with O_TRUNC makes, opens, cuts and writes the file. A rule on a group is asked at each of them, so that no way goes past
it. Where the rule only reports, whoever reads the alerts wants one alert for the act. So what opens (file.open, net.connect, process.exec)
is always told; what the same process then does to the same object is not told again, unless it is a new kind of use. Denials are never held
back. Neither is a rule that does not name the event that opens: it asks for every use.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from bpfence import abi
from bpfence.alerts.alert import RuleInfo
from bpfence.events.source import Observation
from bpfence.policy import Action, Value

MAX_KNOWN: Final = 16384
"""How many acts are remembered. With more, the oldest is forgotten, and may be told again."""

_FILE: Final = ("file.ino", "file.fstype", "file.path")
_PEER: Final = ("net.type", "net.protocol", "net.peer.ip", "net.peer.port", "net.unix.path")
OPENS: Final = ("file.open", "process.exec", "net.connect")
USES: Final = {
    "file.permission": ("file.open",), "file.mmap": ("file.open", "process.exec"), "file.truncate": ("file.open",),
    "file.mprotect": ("file.open", "file.mmap", "process.exec"), "net.send": ("net.connect",),
}  # fmt: skip
"""Events of use → the events that may have opened the object. A rule that names none of these asks for each use."""
_TOLD_ONCE: Final = frozenset((*USES, "file.create"))
"""A rule that asks for none of these tells of each of its events."""
_READS: Final = abi.ACCESS_READ | abi.ACCESS_EXEC
_USED: Final = abi.ACCESS_READ | abi.ACCESS_WRITE
_CUTS: Final = 1 << 61
_AUDIT: Final = Action.AUDIT

ActKey = tuple[object, ...]


class Acts:
    """What has been told, by rule, process and object."""

    def __init__(self, limit: int = MAX_KNOWN) -> None:
        self._limit = limit
        self._told: OrderedDict[ActKey, int] = OrderedDict()

    def clear(self) -> None:
        """Other rules are in force: what was told under the names of the old ones does not count any more."""
        self._told.clear()

    def is_new(self, seen: Observation, rule: RuleInfo) -> bool:
        """Whether a match tells something new. What counts has been told less often by the kernel, and need not be the first use."""
        return rule.action is not _AUDIT or rule.threshold is not None or _TOLD_ONCE.isdisjoint(rule.events) or self._is_new(seen, rule)

    def _is_new(self, seen: Observation, rule: RuleInfo) -> bool:
        record = seen.record
        if record is None or not seen.event.startswith(("file.", "net.", "process.exec")):
            return True
        who = (rule.key, record.pid, record.start_time)
        made = (*who, "made", seen.own("file.path"))
        if seen.event == "file.create":
            if "file.open" in rule.events:
                self._note(made, 0)
            return True
        about = _object(seen)
        if about is None:
            return True
        key = (*who, *about)
        if seen.event in OPENS:
            self._note(key, _use(seen))
            return seen.event != "file.open" or self._told.pop(made, None) is None
        if set(USES.get(seen.event, ())).isdisjoint(rule.events):
            return True
        return self._is_new_use(seen, key)

    def _is_new_use(self, seen: Observation, key: ActKey) -> bool:
        told = self._told.get(key)
        if seen.event == "net.send":
            return told is None
        if seen.event == "file.truncate":
            if told is not None:
                self._note(key, told & ~_CUTS)
            return not (told or 0) & _CUTS
        fresh = _use(seen) & ~(told or 0)
        self._note(key, (told or 0) | fresh)
        return told is None or bool(fresh)

    def _note(self, key: ActKey, value: int) -> None:
        self._told[key] = value
        self._told.move_to_end(key)
        if len(self._told) > self._limit:
            self._told.popitem(last=False)


def _object(seen: Observation) -> tuple[Value | None, ...] | None:
    """What identifies the object of an event; None where nothing does."""
    names = _PEER if seen.event.startswith("net.") else _FILE
    values = tuple(seen.own(name) for name in names)
    known = values[2:] if names is _PEER else (values[0], values[2])
    return None if all(value is None for value in known) else values


def _use(seen: Observation) -> int:
    """The kinds of use that an event is, or opens. Reading and mapping as code count as one kind. An open with O_TRUNC also cuts the file,
    once."""
    access = seen.own("file.access")
    bits = access if isinstance(access, int) else 0
    use = bits & _USED | (abi.ACCESS_READ if bits & _READS else 0)
    if seen.event == "file.mprotect":
        use |= abi.ACCESS_READ
    return use | (_CUTS if seen.event == "file.open" and bits & abi.ACCESS_TRUNCATE else 0)
