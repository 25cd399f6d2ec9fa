# SPDX-License-Identifier: Apache-2.0
"""The place of a socket in, whether somebody listens there, or a socket that listens there, out."""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path
from typing import Final

from bpfence.errors import UsageError

FORM: Final = "unix:PATH, or HOST:PORT with an address of this host"
FAMILY: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
"""By the version of an address."""


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


def address(option: str, place: str, why: str, *, anywhere: bool, port: int) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]:
    """Address and port of `HOST:PORT`; no name is looked up but localhost. `why`: what speaks against an address that other machines reach,
    which with `anywhere` is no mistake; `port`: one for an example. UsageError, which names the option."""
    host, _, number = place.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host.removeprefix("[").removesuffix("]")
    example = f"it takes {FORM}: 127.0.0.1:{port}, say"
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        raise UsageError(f"{option} {place}: {host!r} is no address; {example}") from None
    if not (number.isascii() and number.isdecimal() and int(number) < 65536):
        raise UsageError(f"{option} {place}: {number!r} is no port; {example}")
    if not (anywhere or found.is_loopback):
        raise UsageError(f"{option} {place}: {found} is reached from other machines, and {why}. With {option}-public that is no mistake")
    return found, int(number)
