# SPDX-License-Identifier: Apache-2.0
"""Every case of the firing range works without policies, and is stopped by its native policy and seen by its Falco rule with them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bpfence.range.cases import BY_NAME, CASES
from tests.kernel.cases import ROOT
from tests.kernel.harness import CGROUP_ROOT, COMMAND, Agent, mount_cgroups

PINS = "/sys/fs/bpf/bpfence-range"
AWAITED = "120"
"""Seconds; alerts come in a fraction of one, on a machine that is not busy."""

Outcomes = dict[str, dict[str, Any]]


def play(*arguments: str) -> Outcomes:
    """`bpfence range run`: case → outcome."""
    done = subprocess.run([*COMMAND, "range", "run", "--json", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return {case["name"]: case for case in json.loads(done.stdout)["cases"]}


@pytest.fixture(scope="module")
def without() -> Outcomes:
    """What becomes of the cases where none of their policies is in force."""
    mount_cgroups()
    return play()


def under(agent: Agent) -> Outcomes:
    """What becomes of them under what this agent has in force."""
    agent.start("--pin-dir", PINS)
    try:
        return play("--alerts", str(agent.alerts_path), "--wait", AWAITED)
    finally:
        agent.stop()
        subprocess.run([*COMMAND, "unload", "--pin-dir", PINS], cwd=ROOT, check=True, capture_output=True)


@pytest.fixture(scope="module")
def within(tmp_path_factory: pytest.TempPathFactory, without: Outcomes) -> Outcomes:
    """What becomes of them under the native policies of all cases."""
    agent = Agent(tmp_path_factory.mktemp("native"), "range-native", rings=())
    for policy in {case.policy for case in CASES}:
        shutil.copy(ROOT / "examples" / policy, agent.policies)
    return under(agent)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, within: Outcomes) -> Outcomes:
    """The same under Falco's rules of all cases, which deny nothing."""
    agent = Agent(tmp_path_factory.mktemp("falco"), "range-falco", rings=())
    for rules in (ROOT / "examples" / "cases" / "falco").iterdir():
        shutil.copy(rules, agent.policies)
    return under(agent)


@pytest.mark.parametrize("name", BY_NAME)
def test_it_works_without_policies(name: str, without: Outcomes) -> None:
    assert (without[name]["attack"]["verdict"], without[name]["ordinary"]["verdict"]) == ("worked", "works"), without[name]


@pytest.mark.parametrize("name", BY_NAME)
def test_its_policy_stops_it(name: str, within: Outcomes) -> None:
    found, policy = within[name], Path(BY_NAME[name].policy).stem
    assert (found["attack"]["verdict"], found["ordinary"]["verdict"]) == ("stopped", "works"), found
    rules = found["attack"]["by"]
    assert rules[0].split("/")[0] == (policy if BY_NAME[name].policy.startswith("policies/") else f"case-{policy}"), found


@pytest.mark.parametrize("name", BY_NAME)
def test_its_rule_of_falco_sees_it(name: str, seen: Outcomes) -> None:
    found, rules = seen[name], (ROOT / "examples" / "cases" / "falco" / f"{name}.yaml").read_text()
    told = [rule.removeprefix("falco/") for rule in found["attack"]["by"]]
    assert (found["attack"]["verdict"], found["ordinary"]["verdict"]) == ("seen", "works"), found
    assert [rule for rule in told if f"- rule: {rule}\n" in rules], found


def test_nothing_is_left(seen: Outcomes) -> None:
    assert seen
    left = [*Path("/run").glob("bpfence-range-*"), *Path("/tmp").glob("bpfence-range-*"), *CGROUP_ROOT.glob("bpfence-range-*")]
    assert left == []
    assert not Path("/etc/profile.d/update.sh").exists()
