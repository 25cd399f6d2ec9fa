# SPDX-License-Identifier: Apache-2.0
"""What the agent does in, word of it to the service manager out: sd_notify(3)."""

from __future__ import annotations

import os
import socket


def watchdog_seconds() -> float:
    """How often the service manager wants to hear of us: sd_watchdog_enabled(3). 0: it does not."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    told = os.environ.get("WATCHDOG_USEC", "")
    return int(told) / 1e6 if told.isascii() and told.isdecimal() else 0.0


def notify(state: str) -> None:
    """Tell the service manager, where there is one: sd_notify(3). Nothing depends on it, so failures are ignored."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect("\0" + address[1:] if address.startswith("@") else address)
            sock.send(state.encode())
    except OSError:
        pass
