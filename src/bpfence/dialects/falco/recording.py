# SPDX-License-Identifier: Apache-2.0
"""Falco events in, lines that `bpfence test` replays out.

`--record PATH`: the agent gives every candidate that it has evaluated. A line holds the fields that the loaded rules look at, in conditions
and in outputs, and a fixed set of others. So a replay by the same rules gives the same matches, and other rules have something to work
with. The file is private and append-only like every file of lines. A recording that fails is reported once and never stops the agent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from bpfence.dialects.falco.confirm.event import FalcoEvent, encode, record_of
from bpfence.dialects.falco.confirm.rules import RuleSet
from bpfence.dialects.falco.read.checks import Applied, Comparison, FieldGetter, Getter
from bpfence.dialects.falco.read.language import NotNode
from bpfence.events.source import MAX_LINE
from bpfence.host.lines import LinesFile

MAX_BYTES: Final = 1 << 30
"""A recording stops when its file has this size. When the file is moved away, the next one begins."""

BASE: Final = (
    "evt.rawres", "evt.res", "evt.hostname", "bpfence.path",
    "proc.name", "proc.exe", "proc.exepath", "proc.cmdline", "proc.cwd", "proc.pid", "proc.vpid", "proc.ppid", "proc.pname", "proc.pexe",
    "proc.pexepath", "proc.pcmdline", "proc.sid", "proc.vpgid", "proc.tty", "proc.pid.ts", "proc.ppid.ts",
    "proc.is_exe_upper_layer", "proc.is_exe_writable", "proc.is_exe_from_memfd", "proc.exe_ino", "proc.exe_ino.ctime", "proc.exe_ino.mtime",
    "thread.tid", "thread.vtid", "thread.cap_effective", "thread.cap_permitted", "thread.cap_inheritable",
    "fd.num", "fd.type", "fd.typechar", "fd.name", "fd.nameraw", "fd.directory", "fd.filename", "fd.dev", "fd.ino", "fd.l4proto",
    "fd.cip", "fd.sip", "fd.lip", "fd.rip", "fd.cport", "fd.sport", "fd.lport", "fd.rport",
    "user.uid", "user.name", "user.loginuid", "user.loginname", "user.homedir", "user.shell", "group.gid", "group.name",
    "fs.path.name", "fs.path.source", "fs.path.target", "container.id", "container.name",
)  # fmt: skip
"""Fields that every record holds, if they are there. What follows from `args`, `argv`, `env` and `lineage` of a record is not stored
again."""

_FROM_TIME: Final = ("evt.time", "evt.datetime", "evt.rawtime")
_ELSEWHERE: Final = frozenset(("evt.num", "evt.type", "proc.args", "proc.env"))


def recorded_fields(rules: RuleSet) -> tuple[str, ...]:
    """The fields to record for some rules, as `record_of` takes them, without those that a record holds in another place."""
    fields = dict.fromkeys(BASE)
    for rule in rules.rules:
        parts = (*rule.output.parts, *rules.appended)
        getters = [part.getter for part in parts if part.getter is not None]
        for source in _sources([*_getters(rule.condition), *getters]):
            field, argument = source.use.field.name, source.use.argument
            if field not in _ELSEWHERE and not field.startswith(_FROM_TIME):
                fields[field if argument is None else f"{field}[{argument}]"] = None
    return tuple(fields)


def _getters(condition: Any) -> Iterator[Getter]:
    stack = [condition]
    while stack:
        node = stack.pop()
        if isinstance(node, Comparison):
            yield node.left
            if node.right is not None:
                yield node.right
        elif isinstance(node, NotNode):
            stack.append(node.part)
        else:
            stack.extend(node.parts)


def _sources(getters: Iterable[Getter]) -> Iterator[FieldGetter]:
    stack: list[Getter | str | tuple[str, ...]] = list(getters)
    while stack:
        getter = stack.pop()
        if isinstance(getter, Applied):
            stack.extend(getter.arguments)
        elif isinstance(getter, FieldGetter):
            yield getter


class Recorder:
    """Events to be written with the next `flush`. OSError where the file cannot be opened.

    `report` gets the first failure, and the first success after it. `lost` counts the events that are not in the file.
    """

    def __init__(
        self,
        path: Path,
        host: str,
        report: Callable[[str], None],
        *,
        limit: int = MAX_BYTES,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = LinesFile(path, monotonic)
        self._path = path
        self._host = host
        self._report = report
        self._limit = limit
        self._waiting: list[bytes] = []
        self._fields: tuple[str, ...] = BASE
        self._failing = False
        self._full = False
        self.number = 0
        self.lost = 0

    def use(self, rules: RuleSet | None) -> None:
        """Record from now on what these rules look at."""
        self._fields = BASE if rules is None else recorded_fields(rules)

    def add(self, event: FalcoEvent) -> None:
        """Add one event."""
        self.number += 1
        given = event.get("evt.num")
        line = encode(record_of(event, self._fields, num=given if isinstance(given, int) else self.number, host=self._host))
        if len(line) > MAX_LINE:  # a line that long could not be read back
            self.lost += 1
        else:
            self._waiting.append(line)

    def flush(self) -> None:
        """Write what was added."""
        if not self._waiting:
            return
        lines, self._waiting = self._waiting, []
        written = 0
        try:
            if not self._has_room(lines):
                self.lost += len(lines)
                return
            while written < len(lines):
                written += self._file.append(lines[written:])
        except (OSError, ValueError) as error:
            self.lost += len(lines) - written
            self._failed(error)
        else:
            if self._failing:
                self._report(f"recording to {self._path} works again; {self.lost} events were lost so far")
            self._failing = False

    def _has_room(self, lines: list[bytes]) -> bool:
        if self._file.size() + sum(map(len, lines)) + len(lines) <= self._limit:
            self._full = False
            return True
        if not self._full:
            self._report(f"the recording {self._path} is full ({self._limit:,} bytes); move it away to go on")
        self._full = True
        return False

    def reopen(self) -> None:
        """Open the file again after it was moved away."""
        try:
            self._file.reopen()
        except (OSError, ValueError) as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        if not self._failing:
            self._report(f"recording to {self._path} failed: {error}; events are not recorded until it works again")
        self._failing = True

    def close(self) -> None:
        """Write what is waiting and let go of the file."""
        self.flush()
        try:
            self._file.close()
        except OSError as error:
            self._failed(error)
