# SPDX-License-Identifier: Apache-2.0
"""Whether somebody listens at a socket."""

from __future__ import annotations

import socket
from pathlib import Path

from bpfence.host.sockets import listens


def test_somebody_listens_or_has_gone_or_was_never_there(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    assert listens(path) is False
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        assert listens(path) is True
    assert listens(path) is False
