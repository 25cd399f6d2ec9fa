# SPDX-License-Identifier: Apache-2.0
"""Observations and the rules they matched in, the lines that outputs write out.

Called by the agent. A line is one of four kinds: an alert (one for each matching rule), an event (telemetry), a loss, a status. The
order of keys is part of the format (docs/alerts.md). Every string that is not bpfence's own has passed `values.escape`.
"""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Callable, Collection, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, Final, Union

import msgspec
from msgspec import UNSET, UnsetType

from bpfence import abi, names
from bpfence.alerts.containers import Belonging
from bpfence.evaluate import OBJECT_KEYS
from bpfence.events.loss import Loss
from bpfence.events.process import Process, rfc3339
from bpfence.events.records import KernelEvent, own_field, own_slots
from bpfence.events.source import Observation
from bpfence.events.values import escape, grouped, phrase, printable
from bpfence.fields import FIELD_BY_NAME
from bpfence.policy import Action, Rule, Threshold, Value, When

SEVERITIES: Final = ("info", "low", "medium", "high", "critical")
ABSENT: Final = "<none>"
MAX_MESSAGE: Final = 8192


class RuleInfo(msgspec.Struct, frozen=True):
    """What an alert says of a rule. `action` is what the rule does in its policy's mode, `declared` what is written in the rule.

    `when`, `confirm`, `language` and `signal` as in policy.Rule: the kernel only names candidates of a rule that a dialect confirms.
    """

    policy: str
    rule: str
    mode: str
    action: Action
    declared: Action
    severity: str = "medium"
    tags: tuple[str, ...] = ()
    message: str = ""
    rate: float = 0.0
    burst: int = 0
    when: When = When.DECIDED
    confirm: str = ""
    events: tuple[str, ...] = ()
    language: str = ""
    signal: int = 0
    threshold: Threshold | None = None
    counter: int = 0  # of a rule with a threshold: NUM_COUNT_0 + counter of a record is how many events it has counted

    @property
    def key(self) -> tuple[str, str]:
        """What a rule is counted under: names survive a reload."""
        return self.policy, self.rule


def rule_info(rule: Rule, mode: str, counter: int = 0) -> RuleInfo:
    """The part of a rule that alerts need. The mode comes from the compiler, beside the rule; it may already have lowered the action by
    it."""
    action = Action.AUDIT if mode == "audit" and rule.action > Action.AUDIT else rule.action
    return RuleInfo(
        policy=rule.policy,
        rule=rule.name,
        mode=mode,
        action=action,
        declared=rule.action,
        severity=rule.severity,
        tags=rule.tags,
        message=rule.message,
        rate=rule.rate,
        burst=rule.burst,
        when=rule.when,
        confirm=rule.confirm,
        events=rule.events,
        language=rule.language,
        signal=0 if mode == "audit" else rule.signal,
        threshold=rule.threshold,
        counter=counter,
    )


Details = Union[dict[str, Any], UnsetType]


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """A matched rule, or (kind "event") an event that was only asked for."""

    time: str
    kind: str = "alert"
    policy: str | None
    rule: str | None
    severity: str
    tags: tuple[str, ...]
    action: str
    mode: str | None
    would: str | UnsetType = UNSET
    uncertain: bool | UnsetType = UNSET
    causes: tuple[str, ...] | UnsetType = UNSET  # why it is uncertain
    may_match: tuple[str, ...] | UnsetType = UNSET  # policy/rule of the other rules that are uncertain for the same reason
    kill: str | UnsetType = UNSET  # "refused" where the kernel does not let the process be killed
    sent: str | UnsetType = UNSET  # the signal that the rule has sent the process; "refused" where the kernel has not
    event: str
    message: str
    errno: str | None
    count: dict[str, Any] | UnsetType = UNSET  # of a rule that counts: how many, within which time, of whom
    seq: int
    host: str
    process: dict[str, Any] | Process | None
    file: Details = UNSET
    net: Details = UNSET
    target: Details = UNSET
    signal: str | int | UnsetType = UNSET
    capability: str | int | UnsetType = UNSET
    ipc: Details = UNSET
    module: Details = UNSET
    bpf: Details = UNSET
    mount: Details = UNSET
    setns: Details = UNSET
    io_uring: Details = UNSET
    sensor: Details = UNSET
    call: Details = UNSET
    syscall: Details = UNSET
    dialect: Details = UNSET  # by name of the language: what its rule says of the event in its own terms
    container: dict[str, Any] | None = None
    k8s: dict[str, Any] | None = None


class LossLine(msgspec.Struct, frozen=True, kw_only=True):
    """Records lost: by event, as the kernel counted them; and as missing sequence numbers by buffer. The kernel has not counted all of the
    latter."""

    time: str
    kind: str = "loss"
    severity: str = "high"
    message: str
    lost: int
    events: dict[str, int]
    gaps: dict[str, int]
    uncounted: int
    undecodable: dict[str, int]
    refused: dict[str, int] | UnsetType = UNSET  # of those in `events`: denials without a record, by cause
    host: str


class StatusLine(msgspec.Struct, frozen=True, kw_only=True):
    """Something about bpfence itself. `status` is one of docs/alerts.md."""

    time: str
    kind: str = "status"
    status: str
    severity: str = "info"
    message: str
    policy: str | UnsetType = UNSET
    rule: str | UnsetType = UNSET
    suppressed: int | UnsetType = UNSET
    generation: int | UnsetType = UNSET
    policies: list[str] | UnsetType = UNSET
    skipped: dict[str, int] | UnsetType = UNSET
    candidates: int | UnsetType = UNSET
    confirmed: int | UnsetType = UNSET
    faults: int | UnsetType = UNSET
    output: str | UnsetType = UNSET
    dropped: int | UnsetType = UNSET
    host: str


class Rendered(msgspec.Struct, gc=False):  # it is in no cycle
    """An alert whose JSON is made already. Other forms make the rest of it, by `again` of `made_of`."""

    json: bytes
    again: Callable[..., Alert]
    made_of: tuple[Any, ...]

    @property
    def record(self) -> KernelEvent | None:
        """The record that it tells of."""
        record: KernelEvent | None = self.made_of[0].record
        return record

    @property
    def alert(self) -> Alert:
        """The alert that this is the JSON of."""
        return self.again(*self.made_of)


WholeLine = Union[Alert, LossLine, StatusLine]
Line = Union[WholeLine, Rendered]
_ENCODER: Final = msgspec.json.Encoder()


def encode(line: Line) -> bytes:
    """The line as JSON, without a newline."""
    return line.json if isinstance(line, Rendered) else _ENCODER.encode(line)


def whole(line: Line) -> WholeLine:
    """The line with all its members."""
    return line.alert if isinstance(line, Rendered) else line


def host_name() -> str:
    """This host's name, escaped."""
    return escape(socket.gethostname())


class Said:
    """What a rule says of an event in its own language: the alert's message, and what goes under the language's name.

    Both as JSON, too, where that was made already; the message then is printable, and `later` makes both where they are asked for.
    `repeated`: by its own words the rule says nothing of this event, as it has told of others like it.
    """

    __slots__ = ("_later", "_made", "details_json", "dialect", "message_json", "repeated")

    def __init__(self, dialect: str, message: str, details: dict[str, Any], *, repeated: bool = False) -> None:
        self.dialect = dialect
        self.repeated = repeated
        self.message_json = self.details_json = b""
        self._made: tuple[str, dict[str, Any]] | None = message, details
        self._later: Callable[[], tuple[str, dict[str, Any]]] = lambda: (message, details)

    @staticmethod
    def written(dialect: str, message_json: bytes, details_json: bytes, later: Callable[[], tuple[str, dict[str, Any]]]) -> Said:
        """What was made as JSON already."""
        said = Said.__new__(Said)
        said.dialect, said.message_json, said.details_json = dialect, message_json, details_json
        said._made, said._later, said.repeated = None, later, False
        return said

    def _both(self) -> tuple[str, dict[str, Any]]:
        if self._made is None:
            self._made = self._later()
        return self._made

    @property
    def message(self) -> str:
        """The alert's message."""
        return self._both()[0]

    @property
    def details(self) -> dict[str, Any]:
        """What goes under the language's name."""
        return self._both()[1]


class Composer:
    """Makes lines. `now` gives ns since 1970; `belonging` tells containers. Numbers events from 1; lines of one event share the number."""

    def __init__(self, host: str, now: Callable[[], int], belonging: Belonging | None = None) -> None:
        self.host = host
        self.belonging = belonging or Belonging()
        self._now = now
        self._seq = 0

    def number(self) -> int:
        """The number of the next event."""
        self._seq += 1
        return self._seq

    def alerts(
        self,
        seen: Observation,
        matched: Collection[tuple[RuleInfo, bool]],
        objects: tuple[str, ...] = (),
        said: Mapping[tuple[str, str], Said] = MappingProxyType({}),
        others: Collection[RuleInfo] = (),
        number: int | None = None,
    ) -> list[tuple[RuleInfo, Alert]]:
        """One line for each matching rule: an event where the rule observes, else an alert. Each match has whether it is uncertain.

        `objects`: the paths of the object bits of the event's generation. `said`: by a rule's key, what it says in its own language. With
        no match the event only counts. `others`: rules that an uncertain alert speaks for, too; see `joined`. `number`: the event's, where
        it has one already.
        """
        number = self.number() if number is None else number
        if not matched:
            return []
        common = self._common(seen, objects, number)
        return [
            (rule, self._alert(seen, rule, uncertain, common, said.get(rule.key), others if uncertain else ()))
            for rule, uncertain in matched
        ]

    def _common(self, seen: Observation, objects: tuple[str, ...], number: int) -> dict[str, Any]:
        own = {name: value for name, value in seen.fields.items() if name in FIELD_BY_NAME and FIELD_BY_NAME[name].events}
        groups: dict[str, Any] = dict(grouped(own))
        process: Any = seen.process
        if "process" in groups:
            process = {**(msgspec.to_builtins(process) if process else {}), **groups.pop("process")}
        for field, bits in seen.objects.items():
            group, _, name = OBJECT_KEYS[field].partition(".")
            named = [escape(path) for bit, path in enumerate(objects) if bits >> bit & 1]
            if named:
                groups.setdefault(group, {})[name] = named
        own_cgroup = seen.process.cgroup if seen.process is not None else UNSET
        container, k8s = self.belonging.members("" if own_cgroup is UNSET else own_cgroup)
        base = {"time": rfc3339(seen.time), "seq": number, "host": self.host, "container": container, "k8s": k8s}
        return {**base, "process": process, **groups}

    def _alert(
        self,
        seen: Observation,
        rule: RuleInfo,
        uncertain: bool,
        common: dict[str, Any],
        said: Said | None = None,
        others: Collection[RuleInfo] = (),
    ) -> Alert:
        head = told(rule, seen)
        causes = causes_of(seen.flags) if uncertain else ()
        text = message(rule, seen.fields, head["action"]) if said is None else printable(said.message)
        return Alert(
            **head,
            uncertain=uncertain or UNSET,
            causes=causes or UNSET,
            may_match=tuple(escape(f"{other.policy}/{other.rule}") for other in others) or UNSET,
            message=_bounded(text + doubt(causes, len(others)) if uncertain else text),
            count=counted(rule, seen, common["container"]),
            dialect=UNSET if said is None else {said.dialect: said.details},
            **common,
        )

    def loss(self, loss: Loss) -> LossLine:
        """A loss, as a line."""
        counted = f"{loss.total} records were lost" if loss.total != 1 else "1 record was lost"
        return LossLine(
            time=rfc3339(self._now()),
            message=counted,
            lost=loss.total,
            events=loss.events,
            gaps=loss.gaps,
            uncounted=loss.uncounted,
            undecodable={escape(reason): count for reason, count in loss.undecodable.items()},
            refused=loss.refused or UNSET,
            host=self.host,
        )

    def status(self, status: str, text: str, *, severity: str = "info", **more: Any) -> StatusLine:
        """A status line; `more` are its further keys."""
        return StatusLine(time=rfc3339(self._now()), status=status, severity=severity, message=printable(text), host=self.host, **more)


def told(rule: RuleInfo, seen: Observation) -> dict[str, Any]:
    """The members of an alert that its rule has, for what was done by `seen`."""
    blocked = rule.action >= Action.DENY and seen.action >= Action.DENY
    spared = rule.action is Action.KILL and bool(seen.flags & abi.EVENT_KILL_REFUSED)
    action = min(Action.DENY, Action(seen.action)) if spared else Action.AUDIT if doubted(rule, seen) else rule.action
    observed = rule.action is Action.OBSERVE
    return {
        "kind": "event" if observed else "alert",
        "policy": escape(rule.policy),
        "rule": escape(rule.rule),
        "severity": "info" if observed else rule.severity,
        "tags": tuple(escape(tag) for tag in rule.tags),
        "action": action.name.lower(),
        "mode": rule.mode,
        "would": rule.declared.name.lower() if rule.declared > (rule.action if spared else action) else UNSET,
        "kill": "refused" if spared else UNSET,
        "sent": _sent(rule, seen),
        "event": seen.event,
        "errno": _errno_name(seen.error) if blocked else None,
    }


def _sent(rule: RuleInfo, seen: Observation) -> str | UnsetType:
    """The signal of a rule. One that only may match has sent it at hooks that fail closed, and nowhere else."""
    if rule.signal and seen.flags & abi.EVENT_SIGNALLED:
        return names.name("signal", rule.signal) or str(rule.signal)
    return "refused" if rule.signal and not seen.flags & abi.EVENT_UNCERTAIN else UNSET


def counted(rule: RuleInfo, seen: Observation, container: Mapping[str, Any] | None) -> dict[str, Any] | UnsetType:
    """What an alert says of a rule that counts: `events` are those that count with this one, and absent where it could not be counted."""
    threshold = rule.threshold
    if threshold is None:
        return UNSET
    found = seen.record.number(abi.NUM_COUNT_0 + rule.counter, 0) if seen.record is not None else 0
    key: Any = None
    if threshold.by == "container":
        key = (container or {}).get("id")
    elif threshold.by in _COUNTED_BY:
        key = seen.fields.get(_COUNTED_BY[threshold.by])
    said = escape(key) if isinstance(key, (str, bytes)) else key
    told = {"events": found} if found else {}
    return {**told, "threshold": threshold.count, "within": f"{threshold.within / 1000:g}s", "by": threshold.by, "key": said}


_COUNTED_BY: Final = {"process": "process.pid", "exe": "process.exe", "user": "process.uid"}


def doubted(rule: RuleInfo, seen: Observation) -> bool:
    """Whether a rule that kills has killed nobody, because a sensor could not read what it asks for."""
    return rule.action is Action.KILL and seen.action == Action.AUDIT and bool(seen.flags & abi.EVENT_UNCERTAIN)


_CAUSE: Final = "CAUSE_"
CAUSES: Final = tuple(sorted((name for name in vars(abi) if name.startswith(_CAUSE)), key=vars(abi).__getitem__))
"""Why a decision may be uncertain, in the order of the bits in `flags` from EVENT_CAUSES_SHIFT on."""


CAUSE_WORDS: Final = {
    "memory": "there was no memory for the decision",
    "record": "not all is known of the process", "lineage": "not all of its ancestors are known",
    "path": "the path is too long, or has no name in the process's mount namespace",
    "value": "a value is longer than what is kept, or could not be read",
    "table": "the tables contradict themselves, which is a bug",
    "count": "there was no room to count the events of its subject",
}  # fmt: skip


def doubt(causes: tuple[str, ...], others: int) -> str:
    """What follows the message of an uncertain alert: what was uncertain, and how many more rules it may concern."""
    why = "; ".join(CAUSE_WORDS[cause] for cause in causes) or "what it tests is not known completely"
    also = f", and {others} more rule{'s' if others > 1 else ''}" if others else ""
    return f" (uncertain: the rule{also} may or may not match, because {why})"


def joined(matched: Collection[tuple[RuleInfo, bool]]) -> tuple[list[tuple[RuleInfo, bool]], list[RuleInfo]]:
    """The matches of one event with only the strictest of the uncertain ones; and the others, which that one speaks for.

    One thing is uncertain, such as a path, and every rule that asks for it may match: that is one report, not one for each rule.
    """
    unsure = [rule for rule, uncertain in matched if uncertain]
    if len(unsure) < 2:
        return list(matched), []
    lead = max(unsure, key=lambda rule: rule.action)  # the first of the strictest: the errno is its
    told = [(rule, uncertain) for rule, uncertain in matched if not uncertain or rule is lead]
    return told, [rule for rule in unsure if rule is not lead]


def causes_of(flags: int) -> tuple[str, ...]:
    """The causes that the flags of an event name."""
    return tuple(name.removeprefix(_CAUSE).lower() for bit, name in enumerate(CAUSES) if flags >> abi.EVENT_CAUSES_SHIFT >> bit & 1)


def _action_name(action: int) -> str:
    try:
        return Action(action).name.lower()
    except ValueError:
        return str(action)


def _errno_name(error: int) -> str | None:
    return errno.errorcode.get(error, str(error)) if error else None


PIECE: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")


def message(rule: RuleInfo, fields: Mapping[str, Value], action: str) -> str:
    """The rule's message with its fields filled in. Only whole names from one table are looked up: no attribute or index can be reached."""
    words = message_words(rule, str(fields.get("event", ABSENT)), action)

    def fill(placeholder: re.Match[str]) -> str:
        name = placeholder.group(1)
        if name is None:
            return placeholder.group()[0]
        if name in words:
            return escape(words[name])
        if name in FIELD_BY_NAME and name in fields:
            return phrase(FIELD_BY_NAME[name], fields[name])
        return ABSENT

    template = rule.message or _default_message(fields.keys())
    text = PIECE.sub(fill, template)
    # The template is policy text: outside of braces, too, it may hold characters that a terminal would act on.
    return _bounded(printable(text))


def message_words(rule: RuleInfo, event: str, action: str) -> dict[str, str]:
    """What placeholders may name beside fields."""
    return {"event": event, "policy": rule.policy, "rule": rule.rule, "action": action, "severity": rule.severity}


def _bounded(text: str) -> str:
    return text if len(text) <= MAX_MESSAGE else text[:MAX_MESSAGE] + "…"


_SUBJECTS: Final = (
    ("file.path", "file.new_path"), ("net.peer.ip", "net.peer.port"), ("net.unix.path",), ("net.local.ip", "net.local.port"),
    ("target.exe",), ("capability",), ("module.name",), ("mount.source",), ("bpf.cmd",),
)  # fmt: skip


def default_message(event: str, record: KernelEvent) -> str:
    """What a rule without a message says of a record."""
    return _default_message([name for name in _subjects_of(event) if own_field(record, name) is not None])


@cache
def _subjects_of(event: str) -> tuple[str, ...]:
    slots = own_slots(event)
    return tuple(name for names in _SUBJECTS for name in names if name in slots)


def _default_message(known: Collection[str]) -> str:
    """What a rule without a message says: the event and what it was about. `known`: the fields that there are."""
    for subject in _SUBJECTS:
        present = [f"{{{name}}}" for name in subject if name in known]
        if present:
            return " ".join(["{event}", *present, "by {process.exe}"])
    return "{event} by {process.exe}"
