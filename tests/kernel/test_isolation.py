# SPDX-License-Identifier: Apache-2.0
"""A busy process outside every scope meets no denial and no alert while the scopes beside it deny."""

from __future__ import annotations

import subprocess

from tests.kernel.cases import CGROUP, PLAYGROUND, TRIGGER, Case
from tests.kernel.harness import Range, cgroup_folder, enter

OPENS = 50_000
EXECS = 500


def test_nothing_is_denied_outside_the_scopes(shooting: Range, cases: list[Case]) -> None:
    case = next(case for case in cases if case.name == "open-by-path")
    shooting.load_alone(case)
    outside = cgroup_folder(f"{CGROUP}/outside")
    file = PLAYGROUND / "open-by-path" / "secret"
    shooting.agent.settle()

    def start(*words: str) -> subprocess.Popen[str]:
        return subprocess.Popen([str(TRIGGER), *words], stdout=subprocess.PIPE, text=True, preexec_fn=lambda: enter(outside))  # noqa: PLW1509

    workers = [
        (start("repeat", str(OPENS), "open", str(file)), OPENS),
        (start("repeat", str(EXECS), "then", str(TRIGGER), "ok"), EXECS),
    ]
    attack = next(step for kind, step in case.steps() if kind == "attack")
    rounds, others = 0, []
    while any(worker.poll() is None for worker, _ in workers[1:]) or rounds < 5:
        outcome = shooting.playground.act(case, attack)
        assert outcome.result == "EPERM"
        rounds += 1
        if rounds > 500:
            break
    for worker, count in workers:
        printed, _ = worker.communicate(timeout=280)
        assert worker.returncode == 0
        assert printed.splitlines()[-1] == f"good {count} of {count}"
    others = [record for record in shooting.agent.settle() if record.get("policy") != case.name]
    assert others == []
