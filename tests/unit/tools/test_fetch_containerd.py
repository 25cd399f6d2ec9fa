# SPDX-License-Identifier: Apache-2.0
"""Where the containerd for tests is kept. That it works, tests/e2e/test_nri.py shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import fetch_containerd
from tools.fetch_containerd import PROGRAMS, folder, main, with_nri
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


def program(folder: Path, version: str) -> str:
    """A folder with a containerd of some version."""
    folder.mkdir(parents=True)
    (folder / "containerd").write_text(f"#!/bin/sh\necho 'containerd example/containerd {version} ~ds1'\n")
    (folder / "containerd").chmod(0o755)
    return str(folder)


def test_one_that_has_nri(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What was fetched, or the first on the PATH that is not too old. Debian writes versions without the v of others."""
    monkeypatch.setenv("BPFENCE_CACHE", str(tmp_path / "kernels"))
    old, new, newer = (program(tmp_path / name, name) for name in ("1.6.20~ds1", "1.7.24", "v2.0.0"))
    monkeypatch.setenv("PATH", f"{old}:{new}:{newer}")
    assert with_nri() == new
    monkeypatch.setenv("PATH", f"{old}:{newer}")
    assert with_nri() == newer
    program(folder(), "2.1.3")
    assert with_nri() == str(folder())
