# SPDX-License-Identifier: Apache-2.0
"""The table of hooks. What a kernel takes of it: test_programs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bpfence.fields import EVENTS
from bpfence.kernel.hooks import PROGRAMS, hooks_of


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.name)
def test_every_event_is_seen_somewhere(event: object) -> None:
    assert hooks_of(event.name)  # type: ignore[attr-defined]


def test_rows_are_of_events_that_exist() -> None:
    assert {event for row in PROGRAMS for event in row.events} <= {event.name for event in EVENTS}


def test_ways_are_told_by_what_they_are() -> None:
    assert hooks_of("process.exit") == ("tp:sched_process_exit",)
    assert hooks_of("file.unlink") == ("path_unlink", "inode_unlink")
    assert "fn:do_filp_open" in hooks_of("file.open_failed")


def test_the_table_binds_no_library() -> None:
    script = "import sys, bpfence.kernel.hooks; print([name for name in sys.modules if 'libbpf' in name])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == "[]"
