# SPDX-License-Identifier: Apache-2.0
"""The path of a unix socket in, whether somebody listens there, or a socket that listens there, out."""

from __future__ import annotations

import os
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


def listening(path: Path, backlog: int) -> socket.socket:
    """A stream socket at a path, which only its owner reaches; what was at the path is taken away. OSError."""
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(made.fileno(), 0o600)  # the file that bind(2) makes has the mode of the socket: it is never anybody else's
        made.bind(str(path))
        made.listen(backlog)
    except BaseException:
        made.close()
        raise
    return made
