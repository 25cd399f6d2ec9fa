# SPDX-License-Identifier: Apache-2.0
"""Matches of Falco rules, or alerts, in; Falco's own lines out: one JSON object a line, or text.

`--format falco` and `--output falco`. Keys, their order, the spelling of priorities and the form of `time` and `output` are Falco's, so
that what reads Falco's output (falcosidekick and the like) reads this. Alerts of native policies come out in the same form; losses and
statuses become messages of Falco's internal rules, whose form is another one (userspace/falco/falco_outputs.cpp, handle_msg): `output`
without time and priority, no tags, numbers as text; as a text line the fields follow in parentheses.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from bpfence.alerts.alert import Alert, Line, LossLine, StatusLine, WholeLine, whole
from bpfence.dialects.falco.confirm.event import SECOND, FalcoEvent
from bpfence.dialects.falco.confirm.rules import FalcoMatch
from bpfence.dialects.falco.options import WATCHING
from bpfence.dialects.falco.read.resolve import FalcoRule
from bpfence.events.values import printable

PRIORITY_OF: Final = {"critical": "Critical", "high": "Error", "medium": "Warning", "low": "Notice", "info": "Informational"}
"""Falco's priority for a severity of bpfence."""
INTERNAL: Final = "internal"
DROP_RULE: Final = "Falco internal: syscall event drop"
RELOAD_RULE: Final = "Falco internal: hot restart failure"
STATUS_RULE: Final = "Falco internal: status"
DROP_KINDS: Final = {
    "clone_fork": ("process.fork",), "close": (), "connect": ("net.connect",), "proc": ("process.exit",),
    "execve": ("process.exec", "process.executed", "process.exec_failed"), "open": ("file.open", "file.create", "file.open_failed"),
    "dir_file": ("file.link", "file.mkdir", "file.rename", "file.rmdir", "file.symlink", "file.unlink", "process.chdir"),
}  # fmt: skip
"""Falco's groups of lost events, and our events in each."""


class FalcoAlert(msgspec.Struct, frozen=True, kw_only=True):
    """One line. The order of the keys is Falco's."""

    hostname: str
    output: str
    output_fields: dict[str, Any]
    priority: str
    rule: str
    source: str
    tags: tuple[str, ...] | UnsetType = UNSET
    time: str


_ENCODER: Final = msgspec.json.Encoder()


def encode(alert: FalcoAlert) -> bytes:
    """The line as JSON, without a newline."""
    return _ENCODER.encode(alert)


def of_match(match: FalcoMatch, event: FalcoEvent, host: str) -> FalcoAlert:
    """The line of a rule that an event matches."""
    rule = match.rule
    return FalcoAlert(
        hostname=host,
        output=f"{_clock(event.time)}: {rule.priority} {match.output}",
        output_fields={"evt.time": event.time, **match.fields},
        priority=rule.priority,
        rule=rule.name,
        source=rule.source,
        tags=rule.tags,
        time=_iso(event.time),
    )


def _ordered(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields in the order of their names, as Falco has them."""
    return dict(sorted(fields.items()))


def details(match: FalcoMatch) -> dict[str, Any]:
    """What an alert of bpfence says in Falco's terms, under `dialect.falco`."""
    rule = match.rule
    return {"priority": rule.priority, "source": rule.source, "output": match.output, "output_fields": match.fields}


@lru_cache(maxsize=1024)
def _details_begin(priority: str, source: str) -> bytes:
    return _ENCODER.encode({"priority": priority, "source": source})[:-1] + b',"output":'


def details_json(rule: FalcoRule, output: bytes, fields: bytes) -> bytes:
    """`details` as JSON, of the output and its fields as JSON."""
    return b'%b%b,"output_fields":%b}' % (_details_begin(rule.priority, rule.source), output, fields)


def of_line(line: WholeLine) -> FalcoAlert:
    """The line of an alert, a loss or a status of bpfence."""
    match line:
        case Alert():
            return _alert(line)
        case LossLine():
            return _internal(line, DROP_RULE, "Debug", f"{DROP_RULE}: {line.message}", _drops(line))
        case StatusLine(status="reload-failed"):
            return _internal(line, RELOAD_RULE, "Critical", f"{RELOAD_RULE}: {line.message}", {})
        case StatusLine():
            return _internal(line, STATUS_RULE, PRIORITY_OF.get(line.severity, "Informational"), line.message, _status(line))


def _internal(line: LossLine | StatusLine, rule: str, priority: str, text: str, fields: dict[str, str]) -> FalcoAlert:
    return FalcoAlert(
        hostname=line.host, output=text, output_fields=_ordered(fields), priority=priority, rule=rule, source=INTERNAL, time=line.time
    )


def _drops(line: LossLine) -> dict[str, str]:
    """Falco's counters of drops, as far as they have a meaning here (userspace/falco/event_drops.cpp)."""
    counts = dict.fromkeys((f"n_drops_buffer_{kind}_exit" for kind in (*DROP_KINDS, "other_interest")), 0)
    for event, lost in line.events.items():
        kind = next((kind for kind, events in DROP_KINDS.items() if event in events), "other_interest")
        counts[f"n_drops_buffer_{kind}_exit"] += lost
    counts |= {
        "n_drops": line.lost,
        "n_drops_buffer_total": sum(line.events.values()),
        "n_drops_bug": sum(line.undecodable.values()),
        "n_drops_page_faults": 0,
        "n_drops_scratch_map": 0,
        "ebpf_enabled": 1,
    }
    return {name: str(count) for name, count in counts.items()}


def _status(line: StatusLine) -> dict[str, str]:
    named = {"status": line.status, "policy": line.policy, "rule": line.rule, "suppressed": line.suppressed,
             "candidates": line.candidates, "confirmed": line.confirmed, "faults": line.faults, "output": line.output,
             "dropped": line.dropped}  # fmt: skip
    return {name: str(value) for name, value in named.items() if value is not UNSET}


def _alert(alert: Alert) -> FalcoAlert:
    when = _moment(alert.time)
    own: Mapping[str, Any] = alert.dialect.get(WATCHING, {}) if alert.dialect is not UNSET else {}
    priority = str(own.get("priority") or PRIORITY_OF.get(alert.severity, "Warning"))
    fields = own["output_fields"] if "output_fields" in own else _fields(alert)
    return FalcoAlert(
        hostname=alert.host,
        output=f"{_clock(when)}: {priority} {own.get('output', alert.message)}",
        output_fields={"evt.time": when, **fields},
        priority=priority,
        rule=str(alert.rule or alert.event),
        source=str(own.get("source", "syscall")),
        tags=alert.tags,
        time=alert.time,
    )


def _fields(alert: Alert) -> dict[str, Any]:
    """output_fields of a native alert: those of its values that have a name in Falco, and what was done."""
    process: dict[str, Any] = msgspec.to_builtins(alert.process) if alert.process else {}
    words = process.get("args") or []
    fields = {
        "evt.type": alert.event,
        "proc.pid": process.get("pid"),
        "proc.ppid": process.get("ppid"),
        "proc.name": process.get("name"),
        "proc.exepath": process.get("exe"),
        "proc.cmdline": " ".join([str(process.get("name") or ""), *map(str, words[1:])]) or None,
        "proc.cwd": process.get("cwd"),
        "user.uid": process.get("uid"),
        "group.gid": process.get("gid"),
        "fd.name": alert.file.get("path") if alert.file is not UNSET else None,
        "bpfence.action": alert.action,
        "bpfence.policy": alert.policy,
        "evt.res": alert.errno or None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _clock(when: int) -> str:
    return dt.datetime.fromtimestamp(when // SECOND, dt.UTC).astimezone().strftime("%H:%M:%S") + f".{when % SECOND:09d}"


def _iso(when: int) -> str:
    return dt.datetime.fromtimestamp(when // SECOND, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{when % SECOND:09d}Z"


def _moment(text: str) -> int:
    """ns since 1970 of a time as bpfence writes it."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    seconds = int(dt.datetime.fromisoformat(whole).replace(tzinfo=dt.UTC).timestamp())
    return seconds * SECOND + int((fraction + "0" * 9)[:9])


def line_as_json(line: Line) -> bytes:
    """The form `falco`."""
    return encode(of_line(whole(line)))


def line_as_text(line: Line) -> bytes:
    """The form `falco-text`."""
    return form(of_line(whole(line)), as_text=True).encode()


def form(alert: FalcoAlert, *, as_text: bool) -> str:
    """A line in one of the two forms. The text of a rule around its fields may hold characters that are not printable."""
    if not as_text:
        return encode(alert).decode()
    if alert.source != INTERNAL:
        return printable(alert.output)
    fields = " ".join(f"{name}={_ENCODER.encode(value).decode()}" for name, value in alert.output_fields.items())
    return printable(f"{_clock(_moment(alert.time))}: {alert.priority} {alert.output} ({fields})")
