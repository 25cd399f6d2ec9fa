"""Falco rules and kernel records that may match them: what detection, and the agent with it, are tested with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bpfence import abi
from bpfence.compiler.compile import Compiled
from bpfence.dialects.falco.confirm.event import Record, RecordedEvent
from bpfence.dialects.falco.confirm.rules import RuleSet
from bpfence.events.records import KernelEvent, signed
from bpfence.events.values import escape

RULES = """
- rule: Shadow by sh
  desc: d
  condition: evt.type in (open, openat) and fd.name=/etc/shadow and proc.name=sh and evt.rawres >= 0
  output: "sh opened %fd.name (result %evt.res, number %fd.num)"
  priority: ERROR
  tags: [t2, t1]
- rule: Shadow by anyone
  desc: d
  condition: evt.type in (open, openat) and fd.name=/etc/shadow
  output: "%proc.name opened %fd.name"
  priority: NOTICE
- rule: Secret
  desc: d
  condition: evt.type in (open, openat) and fd.name startswith /secret/
  output: "%proc.name was refused %fd.name: %evt.res"
  priority: CRITICAL
  bpfence: {action: deny, errno: EACCES}
"""
APPENDED = (
    " container_id=host container_name=host container_image_repository=<NA> container_image_tag=<NA> k8s_pod_name=<NA> k8s_ns_name=<NA>"
)


class FakeEvents:
    """Opens as Falco has them, made of what a record of the tests holds."""

    def __init__(self) -> None:
        self.asked: list[KernelEvent] = []
        self.none = False
        self.used: list[RuleSet | None] = []
        self.begun = self.closed = 0
        self.addresses: dict[str, frozenset[str]] = {}
        self.changed: Callable[[], None] = lambda: None

    def use(self, rules: RuleSet | None) -> None:
        self.used.append(rules)

    def hosts(self) -> dict[str, frozenset[str]]:
        return self.addresses

    def start(self, changed: Callable[[], None]) -> None:
        self.begun += 1
        self.changed = changed

    def close(self) -> None:
        self.closed += 1

    def passed(self, count: int, moment: int) -> None: ...

    def event(self, record: KernelEvent) -> RecordedEvent | None:
        self.asked.append(record)
        if self.none:
            return None
        path = record.strings.get(abi.STR_FILE_PATH, b"")
        result = signed(record.numbers[abi.NUM_RESULT]) if abi.NUM_RESULT in record.numbers else -record.error
        fields: dict[str, Any] = {
            "fd.name": escape(path),
            "bpfence.path": escape(path),
            "fd.num": max(result, -1),
            "proc.name": escape(record.comm),
            "evt.rawres": result,
        }
        return RecordedEvent(Record(type="openat", time=record.time, fields=fields))


def verdict_of(compiled: Compiled, *names: str, event: str = "file.open") -> int:
    """The number of the verdict that says exactly these rules, for an event."""
    for number, verdict in enumerate(compiled.verdicts):
        if {compiled.rules[rule].name for rule in verdict.rules} == set(names):
            return number
    raise AssertionError(f"no verdict of {names} among {[[compiled.rules[n].name for n in v.rules] for v in compiled.verdicts]}")
