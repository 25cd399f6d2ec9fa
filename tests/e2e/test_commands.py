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
OVERLAY = ROOT / "examples" / "falco" / "local_rules.yaml"
FALCO_RULES = ROOT.parent / "shared" / "corpora" / "falco" / "falco_rules.yaml"
COMMANDS = ("run", "check", "explain", "test", "exec", "status", "doctor", "unload", "events", "policy", "top", "service")


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


@pytest.fixture
def stable() -> str:
    if not FALCO_RULES.exists():
        pytest.skip(f"{FALCO_RULES} is missing: the corpora lie beside the repository")
    return str(FALCO_RULES)


def test_the_shipped_overlay_makes_a_stable_rule_block_in_the_kernel(stable: str) -> None:
    done = bpfence("check", "--strict", stable, str(OVERLAY))
    assert done.returncode == 0, done.stdout + done.stderr
    rules = {rule["rule"]: rule for rule in json.loads(bpfence("explain", "--json", stable, str(OVERLAY)).stdout)["rules"]}
    assert len(rules) == 26
    assert {name: (rule["action"], rule["exact"]) for name, rule in rules.items() if rule["action"] != "audit"} == {
        "Clear Log Activities": ("deny", True)
    }
    assert rules["Write to authorized keys"]["unsensed"] == []


def test_the_overlays_own_rule_on_recorded_events(stable: str, tmp_path: Path) -> None:
    event = {
        "type": "openat", "time": 1764000000123456789, "args": {"flags": "O_WRONLY|O_APPEND"}, "expect": ["Write to authorized keys"],
        "fields": {"fd.num": 3, "fd.type": "file", "fd.name": "/home/a/.ssh/authorized_keys", "proc.name": "tee", "evt.rawres": 3},
    }  # fmt: skip
    fields = event["fields"]
    assert isinstance(fields, dict)
    other = {**event, "fields": {**fields, "proc.name": "sshd"}, "expect": []}
    (tmp_path / "events").write_text(json.dumps(event) + "\n" + json.dumps(other) + "\n")
    words = ("test", stable, str(OVERLAY), str(tmp_path / "events"), "--format", "falco-text", "--append-output", "", "--matching", "all")
    done = bpfence(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    [line] = done.stdout.splitlines()
    assert ": Warning Keys of an account were written | file=/home/a/.ssh/authorized_keys resolved=<NA>" in line
    assert bpfence(*words, "--disable-rule", "Write*").returncode == 1


def test_run_tells_mistakes_in_falco_rules_before_it_needs_a_kernel(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("- rule: X\n  desc: d\n  condition: evt.type=open and proc.nam=x\n  output: o\n  priority: INFO\n")
    done = bpfence("run", "-p", str(rules), "--no-pin")
    assert done.returncode == 2
    assert f"{rules}:3:" in done.stderr
    assert "proc.name" in done.stderr
