# SPDX-License-Identifier: Apache-2.0
"""The lines that outputs write: keys, order, messages."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfence import abi
from bpfence.alerts.alert import (
    ABSENT,
    CAUSE_WORDS,
    MAX_MESSAGE,
    Alert,
    Composer,
    LossLine,
    RuleInfo,
    StatusLine,
    causes_of,
    encode,
    joined,
    message,
    rule_info,
)
from bpfence.events.loss import Loss
from bpfence.events.process import Ancestor, Process
from bpfence.events.records import KernelEvent, decode
from bpfence.fields import FIELDS
from bpfence.policy import Action, Rule, Threshold
from tests.unit.events.samples import observation, record

RULE = RuleInfo("shadow", "read", "enforce", Action.DENY, Action.DENY, "critical", ("T1003",), "blocked {file.path}")
PROCESS = Process(
    412, 412, 400, "ab-1", "sh", "/usr/bin/dash", ["sh"], "/root", 0, 0, "1970-01-01T00:00:00.000000000Z", [Ancestor(1, "/i")]
)


def composer() -> Composer:
    return Composer("node1", lambda: 1_769_853_600_000_000_000)


def written(line: Any) -> dict[str, Any]:
    found = json.loads(encode(line))
    assert isinstance(found, dict)
    return found


def alert(rule: RuleInfo = RULE, uncertain: bool = False, **changes: Any) -> dict[str, Any]:
    [(_, line)] = composer().alerts(observation(**changes), [(rule, uncertain)])
    return written(line)


def test_alert_has_the_documented_keys_in_order() -> None:
    line = alert(process=PROCESS)
    assert list(line) == [
        "time", "kind", "policy", "rule", "severity", "tags", "action", "mode", "event", "message", "errno", "seq", "host", "process",
        "file", "container", "k8s",
    ]  # fmt: skip
    assert line["time"] == "2026-01-31T10:00:00.123456789Z"
    assert (line["kind"], line["policy"], line["rule"], line["severity"], line["tags"]) == (
        "alert",
        "shadow",
        "read",
        "critical",
        ["T1003"],
    )
    assert (line["action"], line["mode"], line["event"], line["errno"]) == ("deny", "enforce", "file.open", "EPERM")
    assert (line["message"], line["seq"], line["host"]) == ("blocked /etc/shadow", 1, "node1")
    assert line["file"] == {"path": "/etc/shadow"}
    assert (line["container"], line["k8s"]) == (None, None)
    assert list(line["process"]) == [
        "pid", "tid", "ppid", "exec_id", "name", "exe", "args", "cwd", "uid", "gid", "start_time", "ancestors",
    ]  # fmt: skip
    assert line["process"]["ancestors"] == [{"pid": 1, "exe": "/i"}]


def test_rules_of_one_event_share_its_number() -> None:
    made = composer()
    other = msgspec.structs.replace(RULE, rule="other")
    first = [line.seq for _, line in made.alerts(observation(), [(RULE, False), (other, False)])]
    second = [line.seq for _, line in made.alerts(observation(), [(RULE, False)])]
    assert (first, second) == ([1, 1], [2])


def test_audit_mode_tells_what_enforce_would_have_done() -> None:
    rule = rule_info(Rule(policy="p", name="r", events=("file.open",), action=Action.KILL), "audit")
    line = alert(rule, action=Action.AUDIT, error=0)
    assert (line["action"], line["mode"], line["would"], line["errno"]) == ("audit", "audit", "kill", None)
    assert "would" not in alert()


def test_a_signal_is_told_as_it_went() -> None:
    rule = rule_info(Rule(policy="p", name="r", events=("file.open",), signal=15), "enforce")
    sent, refused, unread = (
        alert(rule, action=Action.AUDIT, error=0, flags=flags) for flags in (abi.EVENT_SIGNALLED, 0, abi.EVENT_UNCERTAIN)
    )
    assert [line.get("sent") for line in (sent, refused, unread)] == ["SIGTERM", "refused", None]
    audited = rule_info(Rule(policy="p", name="r", events=("file.open",), signal=15), "audit")
    assert "sent" not in alert(audited, action=Action.AUDIT, error=0)


def test_an_audit_rule_beside_a_deny_has_no_errno() -> None:
    rule = msgspec.structs.replace(RULE, action=Action.AUDIT, declared=Action.AUDIT)
    assert alert(rule)["errno"] is None


@pytest.mark.parametrize(("by", "key"), [("process", 412), ("exe", "/usr/bin/cat"), ("user", 0), ("container", None), ("host", None)])
def test_a_rule_that_counts_tells_how_many_of_whom(by: str, key: object) -> None:
    rule = Rule(policy="p", name="r", events=("file.open",), action=Action.DENY, threshold=Threshold(100, 10_000, by))
    counted = decode("decisions", record("file.open", {"NUM_COUNT_0": 7, "NUM_COUNT_LAST": 123}))
    assert isinstance(counted, KernelEvent)
    line = alert(rule_info(rule, "enforce", abi.COUNTERS - 1), record=counted, fields={"process.pid": 412})
    assert line["count"] == {"events": 123, "threshold": 100, "within": "10s", "by": by, "key": key}
    unknown = alert(rule_info(rule, "enforce", 1), record=counted)
    assert "events" not in unknown["count"]
    assert "count" not in alert()


def test_uncertain_is_said_only_where_it_is_so() -> None:
    assert alert(uncertain=True)["uncertain"] is True
    assert "uncertain" not in alert()


def test_causes_are_named_with_what_is_uncertain() -> None:
    seen = observation("file.open", flags=(abi.CAUSE_PATH | abi.CAUSE_RECORD) << abi.EVENT_CAUSES_SHIFT)
    [(_, sure), (_, unsure)] = Composer("h", lambda: 0).alerts(seen, [(RULE, False), (RULE, True)])
    assert (sure.causes, unsure.causes) == (msgspec.UNSET, ("record", "path"))
    assert len(causes_of(0xFFFFFFFF)) == abi.CAUSES


def test_every_cause_has_words() -> None:
    assert set(CAUSE_WORDS) == set(causes_of(0xFFFFFFFF))


def test_what_is_uncertain_is_told_once_by_the_strictest_rule() -> None:
    audits = [msgspec.structs.replace(RULE, rule=f"audit{n}", action=Action.AUDIT, declared=Action.AUDIT) for n in (1, 2)]
    denies = [msgspec.structs.replace(RULE, policy="other", rule=f"deny{n}") for n in (1, 2)]
    sure = msgspec.structs.replace(RULE, rule="sure")
    matched = [(audits[0], True), (sure, False), (denies[0], True), (denies[1], True), (audits[1], True)]
    told, others = joined(matched)
    assert told == [(sure, False), (denies[0], True)]
    seen = observation("file.open", flags=abi.CAUSE_PATH << abi.EVENT_CAUSES_SHIFT)
    certain, unsure = (written(line) for _, line in composer().alerts(seen, told, others=others))
    assert "may_match" not in certain
    assert "uncertain" not in certain["message"]
    assert unsure["may_match"] == ["shadow/audit1", "other/deny2", "shadow/audit2"]
    assert unsure["message"] == (
        "blocked /etc/shadow (uncertain: the rule, and 3 more rules may or may not match, because the path is too long, or has no name in"
        " the process's mount namespace)"
    )
    assert joined([(sure, False), (denies[0], True)]) == ([(sure, False), (denies[0], True)], [])


def test_who_cannot_be_killed_was_denied() -> None:
    rule = msgspec.structs.replace(RULE, action=Action.KILL, declared=Action.KILL)
    seen = observation("file.open", action=abi.ACTION_DENY, error=1, flags=abi.EVENT_KILL_REFUSED)
    [(_, alert)] = Composer("h", lambda: 0).alerts(seen, [(rule, False)])
    assert (alert.action, alert.kill, alert.errno) == ("deny", "refused", "EPERM")


def test_details_by_event() -> None:
    net = alert(event="net.connect", fields={"net.peer.ip": b"\x7f\0\0\1", "net.peer.port": 4444})
    assert net["net"] == {"peer": {"ip": "127.0.0.1", "port": 4444}}
    assert alert(event="process.signal", fields={"signal": 9, "target.pid": 5})["signal"] == "SIGKILL"
    fork = alert(event="process.fork", process=PROCESS, fields={"process.fork.live": 9})
    assert fork["process"]["fork"] == {"live": 9}
    assert fork["process"]["pid"] == 412


def test_followed_objects_are_named() -> None:
    [(_, made)] = composer().alerts(observation(objects={"file.path": 0b10}), [(RULE, False)], ("/a", "/etc/shadow"))
    assert written(made)["file"] == {"path": "/etc/shadow", "object": ["/etc/shadow"]}


def test_hostile_names_are_escaped_everywhere() -> None:
    line = alert(fields={"file.path": "/tmp/\x1b[2J\n{process.exe}\u202e\udcff"})
    assert line["message"] == r"blocked /tmp/\x1b[2J\x0a{process.exe}\xe2\x80\xae\xff"
    assert line["file"]["path"] == r"/tmp/\x1b[2J\x0a{process.exe}\xe2\x80\xae\xff"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{file.path} by {process.exe}", "/etc/shadow by /usr/bin/cat"),
        ("{{file.path}} {", "{file.path} {"),
        ("{net.peer.ip}", ABSENT),
        ("{file.path.__class__} {0} {} {__init__}", f"{ABSENT} {ABSENT} {ABSENT} {ABSENT}"),
        ("{policy}/{rule} {action} {severity} {event}", "shadow/read deny critical file.open"),
        ("{process.user}", "root"),
        ("bell \x07", r"bell \x07"),
        ("", "file.open /etc/shadow by /usr/bin/cat"),
    ],
)
def test_message(template: str, text: str) -> None:
    fields = {**observation().fields, "process.user": 0}
    assert message(msgspec.structs.replace(RULE, message=template), fields, "deny") == text


@given(
    st.text(), st.dictionaries(st.sampled_from([field.name for field in FIELDS if field.name.endswith(("path", "exe", "args"))]), st.text())
)
def test_any_message_is_one_printable_line(template: str, fields: dict[str, Any]) -> None:
    text = message(msgspec.structs.replace(RULE, message=template), {"event": "file.open", **fields}, "deny")
    assert text.isprintable()
    assert len(text) <= MAX_MESSAGE + 1


def test_other_kinds() -> None:
    made = composer()
    loss = written(made.loss(Loss({"file.open": 3}, {"decisions": 2}, {})))
    assert (loss["kind"], loss["lost"], loss["events"], loss["gaps"]) == ("loss", 3, {"file.open": 3}, {"decisions": 2})
    status = written(made.status("suppressed", "3 more\n", policy="p", rule="r", suppressed=3))
    assert list(status) == ["time", "kind", "status", "severity", "message", "policy", "rule", "suppressed", "host"]
    assert status["message"] == r"3 more\x0a"


def test_every_key_and_status_is_documented() -> None:
    text = Path("docs/alerts.md").read_text()
    structs = (Alert, LossLine, StatusLine, Process, Ancestor)
    keys = {field.name for struct in structs for field in msgspec.structs.fields(struct)}
    assert {key for key in keys if f"`{key}`" not in text and f'"{key}"' not in text} == set()
    sources = "".join(Path("src/bpfence", name).read_text() for name in ("agent/agent.py", "outputs/routes.py"))
    statuses = set(re.findall(r'(?:status|in_force)\(\s*"([a-z-]+)"', sources)) | {"started", "adopted"}
    assert "dropped" in statuses
    assert len(statuses) >= 7
    assert {status for status in statuses if f"| `{status}` |" not in text} == set()
