# SPDX-License-Identifier: Apache-2.0
"""The tutorial, typed as it is written: its `sh` blocks are run in order, and what follows as `text` must be in what they print."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TUTORIAL = ROOT / "docs" / "tutorial.md"
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def test_the_tutorial_works_as_typed(tmp_path: Path) -> None:
    program = tmp_path / ".venv" / "bin" / "bpfence"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m bpfence "$@"\n')
    program.chmod(0o755)
    blocks = re.findall(r"^```(sh|text)\n(.*?)^```$", TUTORIAL.read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) >= 7
    printed = ""
    for kind, text in blocks:
        if kind == "text":
            assert text.strip() in printed
            continue
        done = subprocess.run(
            ["bash", "-e", "-c", text],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout
        printed = done.stdout


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_links_lead_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    links = LINK.findall((ROOT / page).read_text(encoding="utf-8"))
    assert len(links) > 5
    assert [link for link in links if not (folder / link).exists()] == []


def test_the_readme_links_the_manual() -> None:
    links = set(LINK.findall((ROOT / "README.md").read_text(encoding="utf-8")))
    pages = ("tutorial", "policy-reference", "events", "fields", "operations", "alerts")
    assert {f"docs/{page}.md" for page in pages} | {"examples/policies"} <= {link.rstrip("/") for link in links}
