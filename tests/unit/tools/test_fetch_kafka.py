# SPDX-License-Identifier: Apache-2.0
"""Where the Kafka broker for tests is kept. That it works, tests/e2e/test_kafka.py shows."""

from __future__ import annotations

import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tools import fetch_kafka
from tools.fetch_kafka import WANTED, folder, main, project


def test_what_is_there_is_not_fetched_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("BPFENCE_CACHE", str(tmp_path / "kernels"))

    def refused(_target: Path) -> None:
        raise subprocess.CalledProcessError(1, "mvn")

    monkeypatch.setattr(fetch_kafka, "fetch", refused)
    assert main() == 1
    assert "Kafka could not be had" in capsys.readouterr().err
    folder().mkdir(parents=True)
    assert main() == 0
    assert capsys.readouterr().out == f"{folder()}\n"


def test_maven_is_asked_for_all_of_it() -> None:
    root = ET.fromstring(project())
    found = [part.text for part in root.iter("{http://maven.apache.org/POM/4.0.0}version")]
    assert [version for _, _, version in WANTED] == found[-len(WANTED) :]
