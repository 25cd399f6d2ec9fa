# SPDX-License-Identifier: Apache-2.0
"""Whether somebody listens at a socket, and sockets that only their owner reaches."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from bpfence.host import sockets
from bpfence.host.sockets import listening, listens


def test_somebody_listens_or_has_gone_or_was_never_there(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    assert listens(path) is False
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        assert listens(path) is True
    assert listens(path) is False


def test_a_socket_is_its_owners_alone_from_the_first_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sock"
    path.write_text("left by another")
    seen = []

    class Socket(socket.socket):
        def listen(self, backlog: int = 1, /) -> None:
            seen.append(stat.S_IMODE(os.stat(path).st_mode))
            super().listen(backlog)

    monkeypatch.setattr(sockets.socket, "socket", Socket)
    before = os.umask(0)
    try:
        with listening(path, 1):
            assert listens(path) is True
    finally:
        os.umask(before)
    assert seen == [0o600]
