# SPDX-License-Identifier: Apache-2.0
"""The commands a user types that need neither root nor a kernel, run as the installed program."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
POLICIES = ROOT / "examples" / "policies"
COMMANDS = ("run", "check", "explain", "test", "exec", "status", "doctor", "unload")


def bpfence(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "bpfence", *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_helps_with_examples(command: str) -> None:
    done = bpfence(command, "--help")
    assert done.returncode == 0, done.stderr
    assert "Example" in done.stdout


def test_the_shipped_policies_are_right_all_together() -> None:
    done = bpfence("check", str(POLICIES))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", sorted(POLICIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_explain_speaks_of_every_rule(path: Path) -> None:
    done = bpfence("explain", "--json", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)


def test_explain_shows_the_route_of_an_event() -> None:
    event = json.dumps({"event": "process.exec", "file.path": "/tmp/x", "process.exe": "/usr/bin/dash"})
    done = bpfence("explain", str(POLICIES / "no-exec-from-world-writable.yaml"), "--event", event)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "exec-from-world-writable" in done.stdout
    assert "deny" in done.stdout


def test_a_broken_policy_is_told_with_its_place(tmp_path: Path) -> None:
    policy = tmp_path / "wrong.yaml"
    policy.write_text("apiVersion: bpfence.io/v1alpha1\nkind: SecurityPolicy\nmetadata: {name: wrong}\nspec:\n  rulez: []\n")
    done = bpfence("check", str(policy))
    assert done.returncode != 0
    assert f"{policy}:5:3" in done.stdout + done.stderr
    assert "rules" in done.stdout + done.stderr


def test_doctor_answers_every_probe() -> None:
    done = bpfence("doctor", "--json")
    assert done.returncode in (0, 1, 3), done.stderr
    answer = json.loads(done.stdout)
    assert answer["enforcement"] in ("lsm", "fmod_ret", "none")
    assert {probe["answer"] for probe in answer["probes"]} <= {"yes", "no", "could not tell"}
