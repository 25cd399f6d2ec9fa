# SPDX-License-Identifier: Apache-2.0
"""The view for people: compact, coloured, and deaf to hostile names."""

from __future__ import annotations

import io
import re

import msgspec
import pytest
from rich.console import Console

from bpfence.alerts.alert import Composer, RuleInfo, Said
from bpfence.events.loss import Loss
from bpfence.events.process import Ancestor, Process
from bpfence.outputs.terminal import People
from bpfence.policy import Action
from tests.unit.events.samples import observation

RULE = RuleInfo("shadow", "read", "enforce", Action.DENY, Action.DENY, "critical", (), "blocked {file.path}")
PROCESS = Process(412, 412, 400, "ab-1", "sh", "/usr/bin/dash", ["sh", "[red]x[/]"], "/root", 0, 0, None, [Ancestor(1, "/sbin/init")])


def shown(*lines: object, color: bool = False) -> str:
    console = Console(
        file=io.StringIO(),
        force_terminal=color,
        color_system="truecolor" if color else None,
        markup=False,
        emoji=False,
        highlight=False,
        _environ={"TERM": "xterm"},
    )
    form = People(console)
    return "".join(form(line).decode() + "\n" for line in lines)  # type: ignore[arg-type]


def alert(**changes: object) -> object:
    return Composer("h", lambda: 0).alerts(observation(process=PROCESS, **changes), [(RULE, False)])[0][1]


def test_an_alert_is_a_line_and_who_did_it() -> None:
    first, second = shown(alert()).splitlines()
    assert first == "10:00:00.123 critical deny  shadow/read  blocked /etc/shadow"
    assert second.strip() == "pid 412 uid 0 /usr/bin/dash [sh [red]x[/]] ← /sbin/init"


def test_severity_has_a_colour() -> None:
    assert "\x1b[1;37;41mcritical" in shown(alert(), color=True)


def test_hostile_names_have_no_effect() -> None:
    text = shown(alert(fields={"file.path": "/\x1b]0;owned\x07[bold]:skull:\r\n"}), color=True)
    assert "\x1b]0" not in text
    assert "\x07" not in text
    assert r"/\x1b]0;owned\x07[bold]:skull:\x0d\x0a" in re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_long_lines_are_not_wrapped() -> None:
    assert len(shown(alert(fields={"file.path": "/x" * 300})).splitlines()) == 2


def test_audit_uncertain_and_the_other_kinds() -> None:
    made = Composer("h", lambda: 0)
    rule = msgspec.structs.replace(RULE, action=Action.AUDIT, mode="audit")
    assert "(would deny) (uncertain)" in shown(made.alerts(observation(), [(rule, True)])[0][1])
    assert "LOSS 3 records were lost" in shown(made.loss(Loss({"file.open": 3}, {}, {})))
    assert "00:00:00.000 started 1 policy in force" in shown(made.status("started", "1 policy in force"))


def test_a_falco_rule_is_shown_by_priority_rule_and_output() -> None:
    rule = RuleInfo("falco", "Shadow [bold]file", "audit", Action.AUDIT, Action.AUDIT, "low")
    said = Said("falco", "cat opened\x1b /etc/shadow", {"priority": "Notice"})
    [(_, made)] = Composer("h", lambda: 0).alerts(observation(process=PROCESS), [(rule, False)], (), {rule.key: said})
    first, second = shown(made).splitlines()
    assert first == r"10:00:00.123 Notice   audit Shadow [bold]file  cat opened\x1b /etc/shadow"
    assert second.strip().startswith("pid 412 uid 0 /usr/bin/dash")


def test_the_colours_are_those_of_the_terminal_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "COLORTERM", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    line = alert()
    monkeypatch.setenv("TERM", "xterm-256color")
    assert b"\x1b[1;37;41mcritical" in People()(line)  # type: ignore[arg-type]
    monkeypatch.setenv("TERM", "dumb")
    assert b"\x1b" not in People()(line)  # type: ignore[arg-type]
