# SPDX-License-Identifier: Apache-2.0
"""Lines in, sockets of other programs and machines out: unix(7), tcp(7) and TLS, udp(7); and syslog's form for them (RFC 5424).

Made by `specs`; written by a `Sink` in its thread, which may wait here for SECONDS, and nothing else does. What a stream's other side has
not acknowledged (of a unix socket: not read) when a connection breaks is sent once again through the next one: lines may come twice there.
Datagrams are acknowledged by nobody.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import ssl
import struct
import termios
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from bpfence.alerts.alert import Line
from bpfence.host.lines import LineWriter
from bpfence.outputs.forms import Form, head

SECONDS: Final = 10.0
"""For how long a connection may take to be made, and for how long the other side may take nothing."""
LINGER_SECONDS: Final = 1.0
"""For how long the other side may take to end a connection that we have ended."""
MAX_DATAGRAM: Final = 65_000
"""Bytes of a datagram; what is longer is cut. UDP over IPv4 takes 65,507 (RFC 768, RFC 791)."""
MAX_SAID: Final = 1 << 16
"""Bytes that the other side may say at once; they are thrown away."""
LEVELS: Final = {"info": 6, "low": 5, "medium": 4, "high": 3, "critical": 2}
"""Syslog's severities (RFC 5424, 6.2.1): informational, notice, warning, error, critical."""

Connect = Callable[[], socket.socket]


class HungUpError(OSError):
    """The other side has ended the connection."""


class Streamed:
    """Lines through a stream socket. `connect` makes a connected one; `counted`: with their lengths before them (RFC 6587, 3.4.1)."""

    def __init__(self, name: str, connect: Connect, *, counted: bool = False) -> None:
        self.name = name
        self._connect = connect
        self._counted = counted
        self._socket: socket.socket | None = None
        self._writer = LineWriter()
        self._under_way: deque[bytes] = deque()
        self._under_way_bytes = 0

    def write(self, lines: Sequence[bytes]) -> int:
        """Send lines; what a broken connection may have lost goes first."""
        made = [b"%d %s" % (len(line) + 1, line) for line in lines] if self._counted else lines
        try:
            connection = self._connected()
            count = self._writer.write(connection.send, made)
        except OSError:
            self.close()
            raise
        self._under_way.extend(made[:count])
        self._under_way_bytes += sum(map(len, made[:count])) + count
        if count < len(lines):
            self.close()  # it broke, and what it says of itself now counts for nothing
        else:
            self._acknowledged(connection)
        return count

    def _connected(self) -> socket.socket:
        if self._socket is not None and _hung_up(self._socket):
            self.close()
        if self._socket is None:
            self._writer = LineWriter()
            self._socket = self._connect()
            self._socket.settimeout(SECONDS)
            again = list(self._under_way)
            if again:
                # Once: a side that ends every connection after a few lines would get the same ones for ever.
                count = self._writer.write(self._socket.send, again)
                for _ in range(count):
                    self._under_way_bytes -= len(self._under_way.popleft()) + 1
                if count < len(again):
                    raise HungUpError(None, "the connection broke again, with lines on the way that had been sent twice")
        return self._socket

    def _acknowledged(self, connection: socket.socket) -> None:
        """Forget lines that the other side has for sure."""
        try:
            (left,) = struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))
        except OSError:
            left = 0  # a socket that cannot tell
        if _hung_up(connection):  # then nothing is left because nobody will read it any more
            self.close()
            return
        while self._under_way and self._under_way_bytes - len(self._under_way[0]) - 1 >= left:
            self._under_way_bytes -= len(self._under_way.popleft()) + 1

    def wait(self, seconds: float) -> None:
        """Never needed: a write waits by itself."""

    def reopen(self) -> None:
        """Connect anew with the next line."""
        if self._ended():
            self._under_way.clear()
            self._under_way_bytes = 0

    def close(self) -> None:
        """End the connection."""
        self._ended()

    def _ended(self) -> bool:
        connection, self._socket = self._socket, None
        return connection is not None and _end(connection)


def _end(connection: socket.socket) -> bool:
    """Close a connection so that the other side can read all that was sent: one closed with something unread, tickets of a TLS session
    say, is reset, and what is under way is lost then (RFC 2525, 2.17). Whether the other side has read all and ended it, too."""
    until = time.monotonic() + LINGER_SECONDS
    try:
        connection.settimeout(LINGER_SECONDS)
        if isinstance(connection, ssl.SSLSocket):
            with contextlib.suppress(OSError, ValueError):
                connection = connection.unwrap()
        connection.shutdown(socket.SHUT_WR)
        said = 0
        while said < MAX_SAID and (left := until - time.monotonic()) > 0:
            connection.settimeout(left)
            part = connection.recv(8192)
            if not part:
                return True
            said += len(part)
    except (OSError, ValueError):
        return False
    finally:
        connection.close()
    return False


def _hung_up(connection: socket.socket) -> bool:
    """Whether the other side has ended the connection. What it says is thrown away."""
    said = 0
    try:
        connection.settimeout(0)
        while said < MAX_SAID:
            part = connection.recv(8192)
            if not part:
                return True
            said += len(part)
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        pass
    except OSError:
        return True
    connection.settimeout(SECONDS)
    return False


class Datagrams:
    """A datagram for each line; what is too long for one is cut."""

    def __init__(self, name: str, connect: Connect) -> None:
        self.name = name
        self._connect = connect
        self._socket: socket.socket | None = None

    def write(self, lines: Sequence[bytes]) -> int:
        """Send lines. How many the system took."""
        sent = 0
        try:
            if self._socket is None:
                self._socket = self._connect()
                self._socket.settimeout(SECONDS)
            for line in lines:
                self._socket.send(line if len(line) <= MAX_DATAGRAM else _cut(line))
                sent += 1
        except OSError:
            self.close()
            if not sent:
                raise
        return sent

    def wait(self, seconds: float) -> None:
        """Never needed: a write waits by itself."""

    def reopen(self) -> None:
        """Look the address up anew with the next line."""
        self.close()

    def close(self) -> None:
        """Let go of the socket."""
        connection, self._socket = self._socket, None
        if connection is not None:
            connection.close()


def _cut(line: bytes) -> bytes:
    return line[: MAX_DATAGRAM - 3].decode(errors="ignore").encode() + "…".encode()


def unix(path: str, kind: socket.SocketKind) -> Connect:
    """How a socket at a path is reached."""

    def connect() -> socket.socket:
        made = socket.socket(socket.AF_UNIX, kind)
        made.settimeout(SECONDS)
        try:
            made.connect(path)
        except BaseException:
            made.close()
            raise
        return made

    return connect


def tcp(host: str, port: int) -> Connect:
    """How a port of a host is reached. Of a peer that is gone the system finds out after SECONDS without an acknowledgement."""

    def connect() -> socket.socket:
        made = socket.create_connection((host, port), timeout=SECONDS)
        with contextlib.suppress(OSError):
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SECONDS * 1000))
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return made

    return connect


def over_tls(connect: Connect, context: Callable[[], ssl.SSLContext], name: str) -> Connect:
    """The same under TLS; the other side's certificate must be for `name`. `context` is asked for each time: certificates are renewed."""

    def connected() -> socket.socket:
        plain = connect()
        try:
            return context().wrap_socket(plain, server_hostname=name)
        except BaseException:
            plain.close()
            raise

    return connected


def udp(host: str, port: int) -> Connect:
    """How a port of a host takes datagrams."""

    def connect() -> socket.socket:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        made = socket.socket(family, kind, protocol)
        try:
            made.connect(address)
        except BaseException:
            made.close()
            raise
        return made

    return connect


def syslog(form: Form, facility: int, host: str, pid: int) -> Form:
    """A form as messages of RFC 5424. `host`: this host's name."""
    named = host if host and len(host) <= 255 and all("!" <= char <= "~" for char in host) else "-"

    def made(line: Line) -> bytes:
        kind, severity, moment = head(line)
        # RFC 5424 knows microseconds. Without a byte order mark the message is MSG-ANY (6.4): readers of JSON do not expect one.
        begin = f"<{8 * facility + LEVELS.get(severity, 6)}>1 {moment[:26]}Z {named} bpfence {pid} {kind} - "
        shown = form(line)
        return begin.encode() + shown if shown else b""

    return made
