# SPDX-License-Identifier: Apache-2.0
"""`bpfence exec` with rules and a system-call filter: each denies its own, the rest works, and the command's exit code comes through."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.cases import PLAYGROUND, ROOT, TRIGGER, write_yaml
from tests.kernel.harness import COMMAND, Playground, cgroup_folder, flatten

FOLDER = PLAYGROUND / "exec-seccomp"
SCRIPT = f"""
act() {{ {TRIGGER} "$@"; echo "$1 $?"; }}
act open {FOLDER}/secret
act open {FOLDER}/public
act mkdir {FOLDER}/made
act rmdir {FOLDER}/gone
"""
EPERM, EACCES, SIGSYS = 1, 13, 31


def profile(name: str, action: str, **more: Any) -> dict[str, Any]:
    rule = {"names": [name, f"{name}at"] if name == "mkdir" else [name], "action": f"SCMP_ACT_{action}", **more}
    return {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}


REFUSED_MKDIR = profile("mkdir", "ERRNO", errnoRet=EACCES)
KILLED_RMDIR = profile("rmdir", "KILL_PROCESS")


@pytest.fixture(autouse=True)
def folder(playground: Playground) -> Iterator[Path]:
    """Files of its own, outside every other policy's scope."""
    (FOLDER / "gone").mkdir(parents=True, exist_ok=True)
    for name in ("secret", "public"):
        (FOLDER / name).write_text(name)
    yield FOLDER
    for path in (FOLDER / "made", FOLDER / "gone"):
        if path.exists():
            path.rmdir()


def run_exec(folder: Path, script: str, *options: str, **spec: Any) -> tuple[int, list[str], list[dict[str, Any]]]:
    """`bpfence exec` of a shell script under a policy with one rule: exit code, what the acts printed, alerts."""
    rule = {"name": "secret", "on": "open", "match": {"file.path": str(folder / "secret")}, "action": "deny"}
    policy = {
        "apiVersion": "bpfence.io/v1alpha1", "kind": "SecurityPolicy", "metadata": {"name": "beside"},
        "spec": {"mode": "enforce", "rules": [rule], **spec},
    }  # fmt: skip
    path, alerts = folder / "policy.yaml", folder / "alerts.jsonl"
    path.write_text(write_yaml(policy))
    alerts.unlink(missing_ok=True)
    command = [*COMMAND, "exec", "-p", str(path), "--output", f"jsonl:{alerts}", *options, "--", "/bin/sh", "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    lines = [flatten(json.loads(line)) for line in alerts.read_text().splitlines()] if alerts.exists() else []
    assert done.stdout or lines, done.stderr
    return done.returncode, done.stdout.split("\n"), [line for line in lines if line.get("kind") == "alert"]


def test_a_rule_and_two_filters_hold_at_once(folder: Path) -> None:
    """A profile beside the policy and one inside it. A command that its filter kills is 128 and the signal's number, here as in a shell."""
    path = folder / "profile.json"
    path.write_text(json.dumps(REFUSED_MKDIR))
    script = SCRIPT + f"exec {TRIGGER} rmdir {folder}/gone"
    code, printed, alerts = run_exec(folder, script, "--seccomp", str(path), seccomp=KILLED_RMDIR)
    assert code == 128 + SIGSYS
    assert [line for line in printed if " " in line] == [f"open {EPERM}", "open 0", f"mkdir {EACCES}", f"rmdir {128 + SIGSYS}"]
    assert [(alert["rule"], alert["file.path"]) for alert in alerts] == [("secret", str(folder / "secret"))]
    assert (folder / "gone").exists()
    assert not (folder / "made").exists()
    assert not [path for path in cgroup_folder("").iterdir() if path.name.startswith("bpfence-exec-")]


def test_in_audit_mode_nothing_is_denied_and_the_exit_code_is_the_commands(folder: Path) -> None:
    code, printed, alerts = run_exec(folder, SCRIPT + "exit 7", mode="audit", seccomp=KILLED_RMDIR)
    assert code == 7
    assert [line for line in printed if " " in line] == ["open 0", "open 0", "mkdir 0", "rmdir 0"]
    assert [alert["rule"] for alert in alerts] == ["secret"]
