# SPDX-License-Identifier: Apache-2.0
"""Where the API server for tests is, and what builds it. That it works, tests/kubernetes shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools import build_kubernetes
from tools.build_kubernetes import MODULE, VERSION, command, helm, main, program


def test_another_source_is_another_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BPFENCE_CACHE", str(tmp_path))
    before = program()
    assert before.is_relative_to(tmp_path)
    for name in build_kubernetes.SOURCES:
        (tmp_path / name).write_text("x")
    monkeypatch.setattr(build_kubernetes, "MODULE", tmp_path)
    assert program() != before


def test_it_says_the_version_that_it_is_built_from() -> None:
    assert re.search(rf"^\s*k8s\.io/kubernetes {re.escape(VERSION)}$", (MODULE / "go.mod").read_text(), re.MULTILINE)
    assert any("gitMinor=37" in word for word in command(Path("x")))


def test_what_is_there_is_not_built_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("BPFENCE_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    assert main() == 3
    assert "needs Go" in capsys.readouterr().err
    for path in (program(), helm()):
        path.parent.mkdir(parents=True)
        path.touch()
    assert main() == 0
    assert capsys.readouterr().out == f"{program()}\n{helm()}\n"
