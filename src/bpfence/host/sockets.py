# SPDX-License-Identifier: Apache-2.0
"""The place of a socket in, whether somebody listens there, or a socket that listens there, out; a connection in, whose it is out."""

from __future__ import annotations

import grp
import ipaddress
import os
import pwd
import re
import socket
import stat
import struct
from pathlib import Path
from typing import Final, NamedTuple

from bpfence.errors import KernelError, UsageError

FORM: Final = "unix:PATH, or HOST:PORT with an address of this host"
FAMILY: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
"""By the version of an address."""
MAX_PATH: Final = 107
"""Bytes of a unix socket's path: unix(7)."""
_NUMBER: Final = re.compile("[0-9]{1,9}")
_CREDENTIALS: Final = struct.Struct("3i")


class Peer(NamedTuple):
    """Who was at the other end when it was connected: SO_PEERCRED, unix(7)."""

    pid: int
    uid: int
    gid: int


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


def listening_alone(path: Path, backlog: int) -> socket.socket:
    """The same where the path is free, or a socket that nobody listens at any more. OSError where something else is there, or somebody
    listens."""
    if path.is_symlink() or (path.exists() and not path.is_socket()):
        raise OSError(None, "something else is there")
    if path.exists() and listens(path) is not False:
        raise OSError(None, "another process listens there")
    return listening(path, backlog)


def peer(connection: socket.socket) -> Peer:
    """Who is at the other end of a connection. OSError where the kernel does not say."""
    return Peer(*_CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)))


def checked(path: Path) -> Path:
    """The path, which a socket can have. UsageError where it is too long."""
    if len(os.fsencode(path)) > MAX_PATH:
        raise UsageError(f"{path} is longer than the {MAX_PATH} bytes that a socket's path may have")
    return path


def number_of_group(group: str) -> int:
    """The number of a group. UsageError where there is none of that name."""
    try:
        return int(group) if _NUMBER.fullmatch(group) else grp.getgrnam(group).gr_gid
    except KeyError:
        raise UsageError(f"there is no group {group}") from None


def number_of_user(user: str) -> int:
    """The number of a user. UsageError where there is none of that name."""
    try:
        return int(user) if _NUMBER.fullmatch(user) else pwd.getpwnam(user).pw_uid
    except KeyError:
        raise UsageError(f"there is no user {user}") from None


def safe_folder(folder: Path, group: int | None) -> os.stat_result:
    """Make the folder of a socket that `group` may reach, too, or look at the one that is there. KernelError where others write it;
    OSError."""
    if not folder.exists():
        folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
        if group is not None:
            os.chown(folder, -1, group)
            folder.chmod(0o2750)
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise KernelError(f"{folder} must be a folder that only root writes", missing="a safe folder", hint="name another one")
    return found
