"""Falco's lines, from matches, alerts, losses and statuses."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import pytest

from bpfence.alerts.alert import Alert, LossLine, StatusLine
from bpfence.dialects.falco.confirm.event import Record, RecordedEvent
from bpfence.dialects.falco.confirm.rules import FalcoMatch, RuleSet
from bpfence.dialects.falco.load import load_text
from bpfence.dialects.falco.show import DROP_KINDS, details, details_json, encode, form, of_line, of_match
from bpfence.fields import EVENT_BY_NAME
from bpfence.outputs.routes import open_outputs

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


def match() -> tuple[FalcoMatch, RecordedEvent]:
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


def test_details_are_the_same_as_json() -> None:
    found, _ = match()
    assert details_json(found.rule, found.output_json, found.fields_json) == encode(details(found))  # type: ignore[arg-type]


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
    carried = alert(rule="Sensitive file", tags=found.rule.tags, dialect={"falco": details(found)})
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


LOSS = LossLine(
    time="2025-11-24T16:00:00.5Z",
    message="9 records were lost",
    lost=9,
    events={"file.open": 3, "process.fork": 1, "net.bind": 2},
    gaps={"decisions": 8},
    uncounted=0,
    undecodable={"too short": 1},
    host="n",
)


def test_a_loss_is_falcos_message_of_drops() -> None:
    found = json.loads(encode(of_line(LOSS)))
    assert list(found) == ["hostname", "output", "output_fields", "priority", "rule", "source", "time"]
    assert found["rule"] == "Falco internal: syscall event drop"
    assert found["output"] == "Falco internal: syscall event drop: 9 records were lost"
    assert (found["priority"], found["source"], found["time"]) == ("Debug", "internal", "2025-11-24T16:00:00.5Z")
    assert found["output_fields"] == {
        "ebpf_enabled": "1", "n_drops": "9", "n_drops_buffer_clone_fork_exit": "1", "n_drops_buffer_close_exit": "0",
        "n_drops_buffer_connect_exit": "0", "n_drops_buffer_dir_file_exit": "0", "n_drops_buffer_execve_exit": "0",
        "n_drops_buffer_open_exit": "3", "n_drops_buffer_other_interest_exit": "2", "n_drops_buffer_proc_exit": "0",
        "n_drops_buffer_total": "6", "n_drops_bug": "1", "n_drops_page_faults": "0", "n_drops_scratch_map": "0",
    }  # fmt: skip
    assert list(found["output_fields"]) == sorted(found["output_fields"])
    text = form(of_line(LOSS), as_text=True)
    assert text.startswith("16:00:00.500000000: Debug Falco internal: syscall event drop: 9 records were lost (ebpf_en")
    assert text.endswith('n_drops_page_faults="0" n_drops_scratch_map="0")')


def test_every_event_that_is_counted_by_group_exists() -> None:
    assert {event for events in DROP_KINDS.values() for event in events} <= EVENT_BY_NAME.keys()


def test_statuses() -> None:
    status = of_line(StatusLine(time="2025-11-24T16:00:00Z", status="started", message="started", host="n"))
    assert (status.rule, status.priority, status.output, status.output_fields) == (
        "Falco internal: status", "Informational", "started", {"status": "started"},
    )  # fmt: skip
    assert form(status, as_text=True) == '16:00:00.000000000: Informational started (status="started")'
    stopped = StatusLine(time="2025-11-24T16:00:00Z", status="stopped", message="stopped", candidates=7, confirmed=2, host="n")
    assert of_line(stopped).output_fields == {"candidates": "7", "confirmed": "2", "status": "stopped"}
    failed = of_line(StatusLine(time="2025-11-24T16:00:00Z", status="reload-failed", severity="high", message="no", host="n"))
    assert (failed.rule, failed.priority) == ("Falco internal: hot restart failure", "Critical")
    assert failed.output == "Falco internal: hot restart failure: no"


def test_a_text_line_is_one_line_and_printable() -> None:
    found, event = match()
    line = form(of_match(found._replace(output="a\nb\x1b[31m"), event, "n"), as_text=True)
    assert line == "16:00:00.123456789: Critical a\\x0ab\\x1b[31m"


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
