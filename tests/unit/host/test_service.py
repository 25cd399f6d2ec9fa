# SPDX-License-Identifier: Apache-2.0
"""Word to the service manager."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from bpfence.host.service import notify


def test_notify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notify("READY=1")
        assert manager.recv(100) == b"READY=1"
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", "nonsense")
    notify("READY=1")
