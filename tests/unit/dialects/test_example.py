# SPDX-License-Identifier: Apache-2.0
"""The example of a dialect, from text to alert, beside the others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from bpfence import abi
from bpfence.agent.agent import Agent, Settings
from bpfence.agent.loading import load
from bpfence.dialects.registry import DIALECTS, claimed
from bpfence.errors import PolicyError
from tests.unit.agent.fakes import FakeKernel, Kept, reloaded, write_policy
from tests.unit.agent.falco_rig import verdict_of
from tests.unit.cli.test_policies import call, code
from tests.unit.dialects.example import PATHS
from tests.unit.events.samples import record

WITH_PATHS = {**DIALECTS, PATHS.name: PATHS}
TEXT = "# paths\nwatch /etc/shadow unless cat\ndeny /etc/secret\n"


def test_from_text_to_alert(tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "paths.yaml").write_text(TEXT)
    write_policy(tmp_path / "policies" / "native.yaml")
    kernel, output = FakeKernel(), Kept()
    settings = Settings(policies=(str(tmp_path / "policies"),), drop_privileges=False)
    agent = Agent(settings, output, report=pytest.fail, kernel=kernel, dialects=WITH_PATHS)
    agent.start()

    def open_(rule: str, program: bytes, **header: Any) -> None:
        assert agent.life.tables.compiled is not None
        kernel.engine.sequence += 1
        header |= {"sequence": kernel.engine.sequence, "generation": kernel.engine.generation, "comm": program}
        header["verdicts"] = (verdict_of(agent.life.tables.compiled, rule),)
        kernel.engine.batches.append([("decisions", record("file.open", {"NUM_RESULT": 3}, {"STR_FILE_PATH": b"/etc/shadow"}, **header))])
        os.write(kernel.engine._bell, b"!")
        agent.step(0)

    for program in (b"cat", b"vi"):
        open_("line 2", program, flags=abi.EVENT_RESULT, action=abi.ACTION_AUDIT, error=0)
    open_("line 3", b"cat", flags=0)
    watched, denied = output.dicts("alert")
    assert (watched["policy"], watched["action"], watched["message"]) == ("paths", "audit", "vi opened /etc/shadow")
    assert watched["dialect"] == {"paths": {"line": 2}}
    assert (denied["policy"], denied["action"]) == ("paths-deny", "deny")
    assert output.dicts("status")[0]["policies"] == ["guard", "paths", "paths-deny"]
    (tmp_path / "policies" / "paths.yaml").unlink()
    assert reloaded(agent)
    agent.stop()
    assert (output.dicts("status")[-1]["candidates"], output.dicts("status")[-1]["confirmed"]) == (2, 1)


def test_mistakes_have_their_place_and_a_hint(tmp_path: Path) -> None:
    file = tmp_path / "paths.txt"
    file.write_text(TEXT + "wtach /x\n")
    with pytest.raises(PolicyError) as caught:
        load([str(file)], dialects=WITH_PATHS)
    [found] = caught.value.diagnostics
    assert (found.location.line, found.code, "watch PATH" in found.hint) == (4, "bad-line", True)


def test_links_modes_and_names_work_as_in_every_language(tmp_path: Path) -> None:
    (tmp_path / "paths.txt").write_text(TEXT)
    found = load([str(tmp_path / "paths.txt")], "audit", dialects=WITH_PATHS).policies
    assert {policy.name: policy.mode for policy in found.policies} == {"paths": "audit", "paths-deny": "audit"}
    write_policy(tmp_path / "mine.yaml", "paths")
    with pytest.raises(PolicyError, match="cannot be named 'paths' beside path rules"):
        load([str(tmp_path / "paths.txt"), str(tmp_path / "mine.yaml")], dialects=WITH_PATHS)


def test_commands_work_by_what_every_language_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bpfence.cli.policies.DIALECTS", WITH_PATHS)
    monkeypatch.setattr("bpfence.cli.given.DIALECTS", WITH_PATHS)
    monkeypatch.setattr("bpfence.cli.given.claimed", lambda sources: claimed(sources, WITH_PATHS))
    file = tmp_path / "paths.txt"
    file.write_text(TEXT + "wtach /x\n")
    checked = call("check", file)
    assert (code(checked), "paths.txt:4:1: error" in checked.output, "write: watch PATH" in checked.output) == (1, True, True)
    file.write_text(TEXT)
    assert "2 policies, 2 rules: 0 errors, 0 warnings" in call("check", file).output
    explained = call("explain", file).output
    assert "file.path = /etc/shadow" in explained
    tested = call("test", file, file)
    assert (code(tested), "path rules cannot be tested without a kernel" in tested.output) == (2, True)
    write_policy(tmp_path / "native.yaml")
    both = call("explain", file, tmp_path / "native.yaml")
    assert (code(both), "policies and path rules are explained apart from each other" in both.output) == (2, True)


def test_the_example_is_short_and_nobody_knows_it() -> None:
    root = Path(__file__).parents[3]
    assert len((root / "tests/unit/dialects/example.py").read_text().splitlines()) < 150
    assert [path for path in (root / "src").rglob("*.py") if "PathRules" in path.read_text()] == []
