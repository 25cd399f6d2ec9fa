# SPDX-License-Identifier: Apache-2.0
"""The path of a unix socket in, whether somebody listens there out: before one is made in its place."""

from __future__ import annotations

import socket
from pathlib import Path


def listens(path: Path) -> bool | None:
    """Whether an agent listens at a socket; None: that cannot be told, by whoever may not reach it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (TimeoutError, BlockingIOError):  # more wait there than it takes: somebody does listen
            return True
        except PermissionError:
            return None
        except OSError:
            return False
    return True
