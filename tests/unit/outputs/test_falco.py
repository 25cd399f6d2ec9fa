"""Falco's lines, from matches, alerts, losses and statuses."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import pytest

from bpfence.events.alert import Alert, LossLine, StatusLine
from bpfence.events.falco import Record, RecordedEvent
from bpfence.frontends.falco import load_text
from bpfence.outputs import open_outputs
from bpfence.outputs.falco import FalcoStream, details, encode, form, of_line, of_match
from bpfence.rules import Match, RuleSet

MOMENT = 1764000000123456789
RULES = """
- rule: Sensitive file
  desc: d
  condition: evt.type=open
  output: file=%fd.name user=%user.name uid=%user.uid
  priority: CRITICAL
  tags: [b, T1555, a]
"""


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def match() -> tuple[Match, RecordedEvent]:
    event = RecordedEvent(Record(type="open", time=MOMENT, fields={"fd.name": "/etc/shadow", "user.uid": 0}))
    loaded, _ = load_text(RULES)
    return RuleSet(loaded.rules, append="").matches(event)[0], event


def alert(**more: Any) -> Alert:
    given: dict[str, Any] = {
        "time": "2025-11-24T16:00:00.123456789Z", "policy": "p", "rule": "r", "severity": "high", "tags": ("t",), "action": "deny",
        "mode": "enforce",
        "event": "file.open", "message": "blocked /etc/shadow", "errno": "EPERM", "seq": 1, "host": "node1",
        "process": {"pid": 4, "name": "cat", "exe": "/usr/bin/cat", "args": ["cat",
        "/etc/shadow"], "uid": 0}, "file": {"path": "/etc/shadow"},
    }  # fmt: skip
    return Alert(**{**given, **more})


def test_the_json_line_is_falcos() -> None:
    line = encode(of_match(*match(), "node1"))
    assert line.decode() == (
        '{"hostname":"node1","output":"16:00:00.123456789: Critical file=/etc/shadow user=<NA> uid=0",'
        '"output_fields":{"evt.time":1764000000123456789,"fd.name":"/etc/shadow","user.name":null,"user.uid":0},"priority":"Critical",'
        '"rule":"Sensitive file","source":"syscall","tags":["T1555","a","b"],"time":"2025-11-24T16:00:00.123456789Z"}'
    )


def test_the_text_line_is_falcos() -> None:
    assert form(of_match(*match(), "node1"), as_text=True) == "16:00:00.123456789: Critical file=/etc/shadow user=<NA> uid=0"


def test_an_alert_that_carries_a_falco_rule_comes_out_the_same() -> None:
    found, event = match()
    carried = alert(rule="Sensitive file", tags=found.rule.tags, falco=details(found))
    assert of_line(carried) == of_match(found, event, "node1")


def test_an_alert_of_a_native_policy() -> None:
    found = json.loads(encode(of_line(alert())))
    assert (found["rule"], found["priority"], found["output"]) == ("r", "Error", "16:00:00.123456789: Error blocked /etc/shadow")
    fields = found["output_fields"]
    assert fields["fd.name"] == "/etc/shadow"
    assert fields["proc.cmdline"] == "cat /etc/shadow"
    assert fields["bpfence.action"] == "deny"
    assert fields["evt.time"] == MOMENT
    assert json.loads(encode(of_line(alert(rule=None, process=None))))["rule"] == "file.open"


def test_losses_and_statuses() -> None:
    loss = LossLine(
        time="2025-11-24T16:00:00.5Z", message="3 records were lost", lost=3, events={"file.open": 3}, gaps={}, undecodable={}, host="n"
    )
    found = of_line(loss)
    assert (found.rule, found.source, found.output_fields["lost.file.open"]) == ("Falco internal: syscall event drop", "internal", 3)
    assert found.output_fields["evt.time"] == 1764000000500000000
    status = of_line(StatusLine(time="2025-11-24T16:00:00Z", status="started", message="started", host="n"))
    assert (status.priority, status.output) == ("Informational", "16:00:00.000000000: Informational started")


@pytest.mark.parametrize(("name", "first"), [("falco", '{"hostname"'), ("falco-text", "16:00:00")])
def test_the_stream(name: str, first: str) -> None:
    stream = io.StringIO()
    outputs = open_outputs([name], pytest.fail, stream=stream)
    outputs.write([alert(), alert()])
    outputs.reopen()
    outputs.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert all(line.startswith(first) for line in lines)
    assert FalcoStream(stream).name == "falco"
