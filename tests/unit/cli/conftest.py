# SPDX-License-Identifier: Apache-2.0
"""Commands as on a machine where nobody has configured bpfence, wherever the tests run."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpfence.cli import settings


@pytest.fixture(autouse=True)
def unconfigured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """There is no configuration file, and none in the environment."""
    monkeypatch.setattr(settings, "CONFIG", tmp_path / "none" / "bpfence.yaml")
    monkeypatch.delenv("BPFENCE_CONFIG", raising=False)
