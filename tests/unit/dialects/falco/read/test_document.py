"""Entries of rule files: shapes, keys, raw scalars."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from bpfence.dialects.falco.load import load_files, load_text
from bpfence.dialects.falco.options import PRIORITIES
from bpfence.dialects.falco.read.document import (
    CODES,
    SEVERITY_OF,
    Entry,
    ListEntry,
    MacroEntry,
    PluginEntry,
    RuleEntry,
    entries,
    priority,
)
from bpfence.documents.report import Report
from bpfence.documents.yaml_nodes import documents
from bpfence.errors import Diagnostic
from tests.unit.documents.single_mistakes import single_mistakes

CASES = sorted((Path(__file__).parents[4] / "cases" / "falco" / "broken").glob("*.yaml"))
EXPECT = re.compile(r"^# expect: (\d+):(\d+) (\w+) ([a-z0-9-]+): (.*?) \|(?: (.*))?$", re.MULTILINE)
DOCS = Path(__file__).parents[5] / "docs" / "falco.md"


def read(text: str) -> tuple[list[Entry], list[Diagnostic]]:
    report = Report(CODES)
    found = [entry for root in documents(text, "t.yaml") for entry in entries(root, report)]
    return found, report.diagnostics


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_each_mistake_is_found_where_it_stands(case: Path) -> None:
    expected = EXPECT.findall(case.read_text())
    assert expected, "the case expects nothing"
    _, found = load_files([case])
    assert [(str(d.location.line), str(d.location.column), d.severity, d.code) for d in found] == [e[:4] for e in expected]
    for diagnostic, (*_, message, hint) in zip(found, expected, strict=True):
        assert message in diagnostic.message
        assert hint in diagnostic.hint
        assert diagnostic.location.file == str(case)
        assert diagnostic.hint or diagnostic.severity != "error"


def test_there_are_enough_cases_and_nearly_every_code_has_one() -> None:
    assert len(CASES) >= 60
    shown = {code for case in CASES for *_, code, _, _ in EXPECT.findall(case.read_text())}
    elsewhere = {"cannot-read", "not-read", "not-utf8", "yaml-limit", "limit", "bad-glob"}
    assert shown | elsewhere == set(CODES)


def test_every_code_is_in_the_guide() -> None:
    text = DOCS.read_text()
    assert {code for code, meaning in CODES.items() if f"| `{code}` | {meaning} |" not in text} == set()


def test_scalars_are_taken_as_written() -> None:
    found, problems = read("- list: l\n  items: [on, no, 017, 1.10, ~, null, 0x1F, 1e3, 2024-01-01, '', \"a\\tb\"]\n")
    assert not problems
    (entry,) = found
    assert isinstance(entry, ListEntry)
    assert [item.text for item in entry.items] == ["on", "no", "017", "1.10", "~", "null", "0x1F", "1e3", "2024-01-01", "", "a\tb"]


@pytest.mark.parametrize(("text", "value"), [("true", True), ("Yes", True), ("on", True), ("n", False), ("FALSE", False), ("Off", False)])
def test_switches_are_those_of_yaml_cpp(text: str, value: bool) -> None:
    found, problems = read(f"- rule: R\n  enabled: {text}\n")
    assert [problem.code for problem in problems] == ["deprecated"]
    (entry,) = found
    assert isinstance(entry, RuleEntry)
    assert (entry.kind, entry.enabled) == ("enable", value)


def test_kinds_of_rule_entries() -> None:
    found, _ = read(
        "- rule: A\n  desc: d\n  condition: c\n  output: o\n  priority: info\n  tags: [x, y]\n  bpfence: {action: deny, errno: EACCES}\n"
        "- rule: B\n  condition: c\n  override: {condition: append}\n- rule: C\n  bpfence: {action: kill}\n"
        "- rule: D\n  append: yes\n  condition: c\n"
    )
    kinds = [(entry.name, entry.kind) for entry in found if isinstance(entry, RuleEntry)]
    assert kinds == [("A", "define"), ("B", "override"), ("C", "enforce"), ("D", "append")]
    first = found[0]
    assert isinstance(first, RuleEntry)
    assert (first.priority, first.tags) == ("Informational", ("x", "y"))
    assert first.enforcement is not None
    assert (first.enforcement.action, first.enforcement.errno) == ("deny", 13)


def test_macros_lists_and_plugins() -> None:
    found, problems = read(
        "- macro: m\n  condition: c\n- list: l\n  items: []\n  override: {items: append}\n"
        "- required_plugin_versions:\n    - name: a\n      version: 1.0.0\n      alternatives: [{name: b, version: 2.0.0}]\n- ~\n"
    )
    assert not problems
    macro, listed, plugin = found
    assert isinstance(macro, MacroEntry)
    assert isinstance(listed, ListEntry)
    assert listed.append
    assert isinstance(plugin, PluginEntry)
    assert plugin.choices == (("a", "1.0.0"), ("b", "2.0.0"))


def test_priorities() -> None:
    spelled = ("WARNING", "info", "Informational", "debug", "High")
    assert [priority(text) for text in spelled] == [
        "Warning",
        "Informational",
        "Informational",
        "Debug",
        None,
    ]
    assert set(SEVERITY_OF) == set(PRIORITIES)


WITHOUT_MISTAKE = """
- required_engine_version: 0.31.0
- {list: shells, items: [bash, sh]}
- {macro: spawned, condition: "evt.type in (execve, execveat)"}
- {rule: one, desc: d, condition: "spawned and proc.name in (shells) and not proc.pname = cron", output: "x %proc.name", priority: WARNING,
   tags: [a], enabled: true, source: syscall, warn_evttypes: true,
   exceptions: [{name: e, fields: [proc.name, fd.name], comps: [in, startswith], values: [[[bash], /tmp]]}]}
- {rule: two, desc: d, condition: "evt.type = open and fd.name startswith /etc", output: "y %fd.name", priority: INFO,
   bpfence: {action: deny, errno: EPERM}}
- {rule: two, condition: and proc.name = sh, override: {condition: append}}
"""


def test_a_mistake_is_told_once() -> None:
    document = yaml.load(WITHOUT_MISTAKE, yaml.BaseLoader)  # noqa: S506  # texts alone
    assert load_text(yaml.safe_dump(document))[1] == []
    for path, what, made in single_mistakes(document):
        if path[0] in (2, 4) and path[1:] in ((), ("macro",), ("rule",)):
            continue  # without its name, others do name what is not there
        found = load_text(yaml.safe_dump(made, sort_keys=False))[1]
        errors = [one for one in found if one.severity == "error"]
        assert len(errors) <= 1, (path, what, [str(one) for one in found])
        assert not errors or not [one for one in found if one.code == "unused"], (path, what, [str(one) for one in found])
