"""Every file of tests/cases/broken in, the diagnostics its `# expect:` lines ask for out.

A line is `# expect: LINE:COLUMN SEVERITY CODE: part of the message | part of the hint`. The lines are all the diagnostics there
may be, in order. A new case is a new file, nothing else.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bpfence.dialects.native.read import load_files
from bpfence.documents.report import CODES

CASES = sorted((Path(__file__).parents[3] / "cases" / "broken").glob("*.yaml"))
EXPECT = re.compile(r"^# expect: (\d+):(\d+) (\w+) ([a-z0-9-]+): (.*?) \| (.*)$", re.MULTILINE)


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_each_mistake_is_found_where_it_stands(case: Path) -> None:
    expected = EXPECT.findall(case.read_text())
    assert expected, "the case expects nothing"
    policies, found = load_files([case])
    assert [(str(d.location.line), str(d.location.column), d.severity, d.code) for d in found] == [e[:4] for e in expected]
    for diagnostic, (*_, message, hint) in zip(found, expected, strict=True):
        assert message in diagnostic.message
        assert hint in diagnostic.hint
        assert diagnostic.location.file == str(case)
    documents = case.read_text().count("\n---\n") + 1
    assert (len(policies.policies) < documents) == any(d.severity == "error" for d in found)


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 60


def test_nearly_every_code_has_a_case() -> None:
    """The rest cannot be shown by one small UTF-8 file: they have tests of their own."""
    shown = {code for case in CASES for *_, code, _, _ in EXPECT.findall(case.read_text())}
    elsewhere = {"cannot-read", "not-read", "not-utf8", "yaml-limit", "follow-partly", "literal-glob"}
    assert shown | elsewhere == set(CODES)


def test_an_error_has_a_hint() -> None:
    for case in CASES:
        for diagnostic in load_files([case])[1]:
            assert diagnostic.hint or diagnostic.severity != "error", diagnostic


def test_every_code_is_in_the_reference() -> None:
    reference = (Path(__file__).parents[4] / "docs" / "policy-reference.md").read_text()
    assert {code for code, meaning in CODES.items() if f"| `{code}` | {meaning} |" not in reference} == set()
