# SPDX-License-Identifier: Apache-2.0
"""From the hook to the written line: nothing waits for a buffer to fill.

The bound is loose because other guests share this machine: it does not show the goal of 5 ms at p99, which needs a deterministic clock.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from datetime import datetime

from tests.kernel.cases import TRIGGER
from tests.kernel.harness import SENTINEL, Range, cgroup_folder, enter

ACTS = 200
LIMIT_MS = 1000.0


def nanoseconds(stamp: str) -> int:
    """An alert's time as nanoseconds since the epoch: RFC 3339 with nine digits."""
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    return int(datetime.fromisoformat(whole + "+00:00").timestamp()) * 10**9 + int(fraction.ljust(9, "0"))


def test_an_alert_is_written_at_once(shooting: Range) -> None:
    agent = shooting.agent
    agent.settle()
    cgroup = cgroup_folder(SENTINEL.cgroup)
    words = [str(TRIGGER), "pace", str(ACTS), "20", "open", SENTINEL.fill("{dir}/decisions")]
    delays: list[float] = []
    with agent.alerts_path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, preexec_fn=lambda: enter(cgroup))  # noqa: PLW1509
        deadline = time.monotonic() + 120
        pending = b""
        while len(delays) < ACTS and time.monotonic() < deadline:
            data = file.read()
            if not data:
                time.sleep(0.0002)
                continue
            now = time.time_ns()
            pending += data
            *lines, pending = pending.split(b"\n")
            records = [json.loads(line) for line in lines]
            delays += [(now - nanoseconds(record["time"])) / 1e6 for record in records if record.get("policy") == SENTINEL.name]
        assert process.wait(timeout=60) == 0
    agent.poll()
    assert len(delays) == ACTS
    delays.sort()
    p50, p99 = delays[ACTS // 2], delays[ACTS * 99 // 100 - 1]
    print(f"hook to output: p50 {p50:.2f} ms, p99 {p99:.2f} ms, most {delays[-1]:.2f} ms")
    assert delays[0] >= 0
    assert p99 < LIMIT_MS, f"p50 {p50:.2f} ms, p99 {p99:.2f} ms"
