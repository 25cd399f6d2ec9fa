# SPDX-License-Identifier: Apache-2.0
"""Where the containerd for tests is kept. That it works, tests/e2e/test_nri.py shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import fetch_containerd
from tools.fetch_containerd import PROGRAMS, folder, main
from vmtest import MirrorError


def test_what_is_there_is_not_fetched_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("BPFENCE_CACHE", str(tmp_path / "kernels"))

    def refused(_target: Path) -> None:
        raise MirrorError("no mirror")

    monkeypatch.setattr(fetch_containerd, "fetch", refused)
    assert main() == 1
    assert "no mirror" in capsys.readouterr().err
    folder().mkdir(parents=True)
    for name in PROGRAMS:
        assert main() == 1
        (folder() / name).touch()
    assert main() == 0
    assert capsys.readouterr().out == f"{folder()}\n"
