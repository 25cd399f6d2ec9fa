# SPDX-License-Identifier: Apache-2.0
"""The stage without being root; what it does as root is played in a guest by tests/kernel/test_range.py."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from bpfence.errors import UsageError
from bpfence.range.stage import Stage, _ending_in_order, staged


def test_it_needs_root_and_makes_nothing_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    before = {*Path("/run").glob("bpfence-range-*")}
    with pytest.raises(UsageError, match="needs root"), staged():
        pass
    assert {*Path("/run").glob("bpfence-range-*")} == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_who_asks_for_an_end_has_what_was_made_taken_away(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    taken = []
    with pytest.raises(KeyboardInterrupt), _ending_in_order():
        try:
            os.kill(os.getpid(), number)
            signal.pause()
        finally:
            taken.append(True)
    assert (taken, signal.getsignal(number)) == ([True], before)


def test_scripts_inherit_nothing_but_what_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    environment = Stage(tmp_path, tmp_path / "drop", None, True).environment()
    assert set(environment) == {"PATH", "LC_ALL", "HOME", "RANGE", "DROP", "SERVER", "PYTHON"}
    assert environment["PYTHON"] == sys.executable
