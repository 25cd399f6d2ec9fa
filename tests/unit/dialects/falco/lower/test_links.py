# SPDX-License-Identifier: Apache-2.0
"""Falco rules whose paths are links: the kernel's tests and those of user space know both names."""

from __future__ import annotations

from typing import Literal

import pytest

from bpfence.dialects.falco.confirm.event import Record, RecordedEvent
from bpfence.dialects.falco.confirm.rules import RuleSet
from bpfence.dialects.falco.load import load_text
from bpfence.dialects.falco.lower.links import paths_of, widened
from bpfence.dialects.falco.lower.policies import policies
from bpfence.dialects.falco.read.resolve import FalcoRule
from bpfence.evaluate import verdict
from bpfence.policy import Action, PolicySet
from tests.unit.conditions.test_links import find

RULE = "- rule: r\n  desc: d\n  condition: evt.type in (open, openat) and {}\n  output: x\n  priority: INFO\n"


def rules(condition: str) -> list[FalcoRule]:
    loaded, found = load_text(RULE.format(condition))
    assert not [problem for problem in found if problem.severity == "error"], found
    return loaded.rules


def opened(path: str, **more: str) -> RecordedEvent:
    fields = {"fd.name": path, "proc.exepath": "/x", "proc.cwd": "/", "evt.rawres": 3, **more}
    return RecordedEvent(Record(type="openat", num=1, time=1, args={"fd": 3, "name": path}, fields=fields))


@pytest.mark.parametrize(
    ("condition", "matches", "others"),
    [
        ("fd.name = /bin/sleep", ["/bin/sleep", "/usr/bin/sleep"], ["/usr/bin/sleepy"]),
        ("fd.name in (/etc/x, /bin/sleep)", ["/etc/x", "/usr/bin/sleep"], ["/etc/y"]),
        ("fd.name startswith /var/run/do", ["/run/docker.sock", "/var/run/docker.sock"], ["/run/x"]),
        ("fd.name pmatch (/bin)", ["/usr/bin/a/b", "/usr/bin"], ["/usr/sbin"]),
        ("fd.directory = /bin", ["/usr/bin/a"], ["/usr/sbin/a"]),
        ("fd.name != /bin/sleep", ["/etc/x"], ["/bin/sleep", "/usr/bin/sleep"]),
        ("not fd.name = /bin/sleep", ["/etc/x"], ["/bin/sleep", "/usr/bin/sleep"]),
    ],
)
def test_both_names_match(condition: str, matches: list[str], others: list[str]) -> None:
    made, _ = widened(rules(condition), find)
    chosen = RuleSet(made)
    tables = PolicySet(policies(made))
    for path in matches:
        assert [match.rule.name for match in chosen.matches(opened(path))] == ["r"], path
        assert verdict(tables, {"event": "file.open", "file.path": path, "file.access": 1}).action is Action.AUDIT, path
    for path in others:
        assert not chosen.matches(opened(path)), path


def test_executables_and_directories() -> None:
    made, found = widened(rules("fd.name exists and (proc.exepath = /bin/sleep or proc.cwd = /var/run/)"), find)
    chosen = RuleSet(made)
    assert chosen.matches(opened("/a", **{"proc.exepath": "/usr/bin/sleep"}))
    assert chosen.matches(opened("/a", **{"proc.cwd": "/run/"}))
    assert not chosen.matches(opened("/a"))
    assert [problem.severity for problem in found] == ["info", "info"]
    assert found[0].location.line == 1


@pytest.mark.parametrize(("paths", "wanted"), [("kernel", True), ("text", False)])
def test_texts_of_the_caller_are_left_alone(paths: Literal["kernel", "text"], wanted: bool) -> None:
    given = rules("fd.name = /bin/sleep")
    made, _ = widened(given, find, paths)
    assert (made != given) is wanted
    assert bool(list(paths_of(given, paths))) is wanted
    assert widened(rules("fd.nameraw = /bin/sleep"), find)[1] == []


def test_a_program_of_many_names() -> None:
    made, found = widened(rules("proc.exepath = /usr/bin/nc"), find)
    assert [(problem.severity, problem.code) for problem in found] == [("warning", "link-to-many")]
    assert found[0].hint.endswith("; for /usr/bin/nc alone: proc.exepath = /bin/busybox and proc.name = nc")
    assert not RuleSet(made).matches(opened("/a", **{"proc.exepath": "/bin/busybox"}))


def test_rules_that_no_link_concerns_are_the_same_objects() -> None:
    given = rules("fd.name in (/etc/x, /usr/bin/sleep) and not proc.exepath startswith /usr/")
    made, found = widened(given, find)
    assert made[0] is given[0]
    assert found == []


def test_what_names_both_already_says_nothing() -> None:
    assert widened(rules("fd.name in (/bin/sleep, /usr/bin/sleep) and fd.name pmatch (/bin, /usr)"), find)[1] == []
