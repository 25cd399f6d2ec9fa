# SPDX-License-Identifier: Apache-2.0
"""The table of cases: what it names is there and can be read."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from bpfence.range.cases import BY_NAME, CASES, PROFILES, SERVER_PORTS, SHADOW, SHARE, Act, Case

ROOT = Path(__file__).resolve().parents[3]
ACTS = [
    pytest.param(act, id=f"{case.name}-{kind}") for case in CASES for kind, act in (("attack", case.attack), ("ordinary", case.ordinary))
]
each = pytest.mark.parametrize("case", CASES, ids=list(BY_NAME))


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(CASES) >= 12


@each
def test_techniques_are_told_by_number_and_name(case: Case) -> None:
    assert case.techniques
    assert all(re.fullmatch(r"T\d{4}(\.\d{3})? [A-Z/].+", technique) for technique in case.techniques)


@each
def test_a_case_has_its_policies_and_is_in_the_documents(case: Case) -> None:
    native = (ROOT / "examples" / case.policy).read_text()
    falco = (ROOT / "examples" / "cases" / "falco" / f"{case.name}.yaml").read_text()
    page = (ROOT / "docs" / "cases.md").read_text()
    assert f"## {case.name}\n" in page
    assert f"`examples/{case.policy}`" in page
    assert f"`examples/cases/falco/{case.name}.yaml`" in page
    for number in (technique.split()[0] for technique in case.techniques):
        assert number.split(".")[0] in native, f"{case.policy} does not have the tag {number}"
        assert number in page
    assert case.techniques[0].split()[0] in falco


@pytest.mark.parametrize("act", ACTS)
def test_scripts_can_be_read_by_the_shell(act: Act) -> None:
    done = subprocess.run(("/bin/sh", "-n", "-c", act.script), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("act", ACTS)
def test_ports_that_are_reached_answer(act: Act) -> None:
    asked = re.findall(r"\$SERVER(?:\" |/)(\d+)", act.script)
    assert ("$SERVER" in act.script) == bool(asked)
    assert {*map(int, asked)} <= {*SERVER_PORTS}


@pytest.mark.parametrize("act", ACTS)
def test_what_is_the_hosts_is_touched_only_where_the_stage_lies_over_it(act: Act) -> None:
    """A script without `over` names nothing of the host but what is there for all to read."""
    named = {place for place in (SHADOW, PROFILES, SHARE) if place in act.script}
    assert named == ({act.over} if act.over else set())
    rest = re.sub(rf"{re.escape(act.over)}[\w/.*]*", "", act.script) if act.over else act.script
    harmless = {"/bin/sh", "/usr/bin/id", "/dev/null", "/dev/zero", "/dev/tcp/$SERVER/4444", "/proc/modules", "/proc/self/mountinfo",
                "/etc/passwd", "/tmp/update"}  # fmt: skip
    assert {*re.findall(r"(?<![\w$\"}~])/[\w/.$]+", rest)} - harmless <= {"/"}
