# SPDX-License-Identifier: Apache-2.0
"""The last test of a kernel: `bpfence unload` takes everything out."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.kernel.cases import ROOT, Case
from tests.kernel.harness import COMMAND, Range

PINS = Path("/sys/fs/bpf/bpfence")


def bpfence(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.last  # there is no agent for others afterwards
def test_status_then_unload(shooting: Range, cases: list[Case]) -> None:
    case = next(case for case in cases if case.name == "open-by-path")
    attack = next(step for kind, step in case.steps() if kind == "attack")
    shooting.load_alone(case)
    status = bpfence("status", "--json")
    assert status.returncode == 0, status.stderr
    assert json.loads(status.stdout)
    assert shooting.playground.act(case, attack).result == "EPERM"
    shooting.agent.stop()
    done = bpfence("unload")
    assert done.returncode == 0, done.stderr
    assert not PINS.exists() or not list(PINS.iterdir())
    assert shooting.playground.act(case, attack).result == "ok"
