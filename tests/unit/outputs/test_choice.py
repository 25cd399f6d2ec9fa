# SPDX-License-Identifier: Apache-2.0
"""Which lines an output shows, and what of them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from bpfence.alerts.alert import Alert, Composer, Line, Rendered, RuleInfo, encode
from bpfence.alerts.lines import LineWriter
from bpfence.events.loss import Loss
from bpfence.outputs.choice import REDACTED, chosen, redacted, unknown
from bpfence.policy import Action
from tests.unit.alerts.test_lines import bench
from tests.unit.events.samples import record

COMPOSER = Composer("h", lambda: 0)


def alert(**more: Any) -> Line:
    """An alert as the agent makes it: its JSON is there already."""
    source, seen = bench(record("file.open", strings={"STR_FILE_PATH": b"/secret", "STR_PROCESS_ARGS": b"cat\0/secret\0"}))
    rule = RuleInfo("guard", "r", "enforce", Action.DENY, Action.DENY, message="{process.args} read {file.path}", **more)
    [line] = LineWriter(COMPOSER, source).lines(seen, [(rule, False)], (), {})
    assert isinstance(line, Rendered)
    return line


def in_pod(namespace: str) -> Line:
    line = alert()
    assert isinstance(line, Rendered)
    return msgspec.structs.replace(line.alert, k8s={"namespace": namespace, "pod": "p"})


LOSS = COMPOSER.loss(Loss(events={"file.open": 3}, gaps={}, uncounted=0, undecodable={}, refused={}))
DROPPED = COMPOSER.status("dropped", "5 lines are missing", severity="high")
STARTED = COMPOSER.status("started", "1 policy in force")


@pytest.mark.parametrize(
    ("line", "choice", "shown"),
    [
        (alert(severity="medium"), ("medium", (), ()), True),
        (alert(severity="low"), ("medium", (), ()), False),
        (alert(severity="critical"), ("info", ("gu*",), ()), True),
        (alert(severity="critical"), ("info", ("other", "g"), ()), False),
        (alert(), ("info", (), ("shop",)), False),
        (in_pod("shop"), ("info", (), ("sh*", "x")), True),
        (in_pod("bank"), ("info", (), ("sh*", "x")), False),
        (in_pod("shop"), ("high", (), ("shop",)), False),
        (STARTED, ("medium", (), ()), False),
        (STARTED, ("info", ("other",), ("shop",)), True),
        (LOSS, ("critical", ("other",), ("shop",)), True),
        (DROPPED, ("critical", ("other",), ("shop",)), True),
    ],
)
def test_filters(line: Line, choice: tuple[str, tuple[str, ...], tuple[str, ...]], shown: bool) -> None:
    assert (chosen(encode, *choice)(line) is not None) is shown


def test_no_filter_is_the_form_itself() -> None:
    assert chosen(encode, "info", (), ()) is encode


def test_members_are_left_out_and_texts_that_may_repeat_them() -> None:
    shown = json.loads(redacted(["args", "file.path", "host"], msgspec.json.encode)(alert()))
    assert shown["process"]["args"] == shown["file"]["path"] == shown["host"] == REDACTED
    assert shown["message"] == "file.open matched guard/r"
    assert "secret" not in json.dumps(shown)
    whole = json.loads(encode(alert()))
    assert list(shown) == list(whole)
    assert shown["process"]["pid"] == whole["process"]["pid"]


def test_what_a_rule_says_in_another_language_is_left_out_whole() -> None:
    line = alert()
    assert isinstance(line, Rendered)
    shown = redacted(["process.cwd"], msgspec.json.encode)(
        msgspec.structs.replace(line.alert, dialect={"falco": {"output": "cat /secret"}})
    )
    assert b"falco" not in shown


def test_a_path_is_looked_for_in_lists_too() -> None:
    line = alert()
    assert isinstance(line, Rendered)
    process = {"ancestors": [{"pid": 1, "exe": "/a"}, {"pid": 2, "exe": "/b"}], "exe": "/c"}
    shown = json.loads(redacted(["process.ancestors.exe"], msgspec.json.encode)(msgspec.structs.replace(line.alert, process=process)))
    assert [ancestor["exe"] for ancestor in shown["process"]["ancestors"]] == [REDACTED, REDACTED]
    assert shown["process"]["exe"] == "/c"


def test_other_lines_are_shown_whole() -> None:
    assert redacted(["host"], msgspec.json.encode)(STARTED) == encode(STARTED)


@pytest.mark.parametrize(
    ("path", "part"), [("args", ""), ("process.parent.args", ""), ("k8s.labels", ""), ("process.argz", "argz"), ("kind", "kind"), ("", "")]
)
def test_names_of_members(path: str, part: str) -> None:
    assert unknown(path) == part


def test_every_member_of_a_line_can_be_left_out_but_those_that_say_what_it_is() -> None:
    kept = {name for name in Alert.__struct_fields__ if unknown(name)}
    assert kept == {"time", "kind", "policy", "rule", "severity", "action", "event", "message", "seq"}
