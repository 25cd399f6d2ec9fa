# SPDX-License-Identifier: Apache-2.0
"""One line of a request in, an answer of lines out, on a unix socket: a thread that nobody can hold up, and that holds nobody up.

Used by `services.control`, and `asked` by its clients. A connection has one request, and is closed after the answer; an answer may go on
(`Stream`), or be made in a second thread (`Later`), one at a time. What lines mean only `answer` knows. Everything that a client can take
of the agent is bounded: connections, bytes that it sends, seconds that it takes, lines that wait for it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from bpfence.errors import KernelError
from bpfence.host.hostnames import Notice
from bpfence.host.sockets import Peer, checked, listening_alone, number_of_group, peer, safe_folder
from bpfence.rpc.server import Listener

MAX_CLIENTS: Final = 64
MAX_OF_USER: Final = 8
"""Connections of one user other than root."""
MAX_REQUEST: Final = 4 << 20
MAX_RECEIVED: Final = 8 << 20
"""Bytes of requests that are not complete yet, of all clients together."""
MAX_WORK: Final = 8
"""Answers that wait to be made in the second thread."""
MAX_SECONDS: Final = 10.0
"""For a whole request, and for taking the whole answer."""
STUCK_SECONDS: Final = 5.0
"""Who takes nothing of a stream for so long makes room for the next one where there is none."""
CLOSE_SECONDS: Final = 1.0
BACKLOG: Final = 64
PART: Final = 1 << 16
MAX_LINE: Final = 64 << 20
"""Of an answer, for `asked`."""


class Later(NamedTuple):
    """An answer that takes its time."""

    work: Callable[[], bytes]


class Stream(NamedTuple):
    """An answer that goes on: `first`, then what `shown` makes of the lines that a listener takes and the number of those it has lost.
    `over` is called when the client has gone."""

    first: bytes
    listener: Listener
    shown: Callable[[list[bytes], int], bytes]
    over: Callable[[], None]


Answer = Callable[[bytes, Peer], bytes | Later | Stream]
"""A request, without its newline, and who asks → whole lines."""


class _Client:
    """A connection. `until`: when it is closed, whatever it does; `left`: what it has yet to take; `since`: since when it takes nothing."""

    def __init__(self, connection: socket.socket, who: Peer, until: float) -> None:
        self.connection = connection
        self.who = who
        self.until: float | None = until
        self.received = bytearray()
        self.left = memoryview(b"")
        self.stream: Stream | None = None
        self.asked = False
        self.since = 0.0
        self.events = selectors.EVENT_READ


class LineServer:
    """Answers at a path from `start` until it is closed. `group`: who may connect beside root. `report` takes messages for people.

    UsageError where the path is too long, or where there is no such group.
    """

    def __init__(self, path: Path, group: str | None = None, report: Callable[[str], None] = lambda _: None) -> None:
        self.path = checked(path)
        self._group = number_of_group(group) if group is not None else None
        self._report = report
        self._listener: socket.socket | None = None
        self._made = 0
        self._notice = Notice()
        self._threads: list[threading.Thread] = []
        self._answer: Answer = lambda _, __: b""
        self._clients: dict[int, _Client] = {}
        self._received = 0
        self._work: queue.SimpleQueue[tuple[_Client, Later] | None] = queue.SimpleQueue()
        self._waiting = 0
        self._done: deque[tuple[_Client, bytes]] = deque()
        self._closed = self._fault_told = False
        self._selector: selectors.BaseSelector | None = None

    def prepare(self) -> None:
        """Make the socket, while there are privileges; who connects waits until `start`. KernelError where that is not possible."""
        folder = self.path.parent
        try:
            found = safe_folder(folder, self._group)
            if self._group is not None and not (found.st_gid == self._group and found.st_mode & 0o010) and not found.st_mode & 0o001:
                hint = f"chgrp {self._group} {folder}; chmod g+x {folder}"
                raise KernelError(f"the group cannot reach a socket in {folder}", missing="a folder of the group", hint=hint)
            self._listener = listening_alone(self.path, BACKLOG)
            if self._group is not None:
                os.chown(self.path, -1, self._group)
                os.chmod(self.path, 0o660)
            self._made = os.stat(self.path).st_ino
        except OSError as error:
            why = error.strerror or str(error)
            raise KernelError(f"no socket can be made at {self.path}: {why}", missing="the socket", hint="name another path") from error
        self._listener.setblocking(False)

    def start(self, answer: Answer) -> None:
        """Answer from now on, by threads with the privileges of the caller. RuntimeError where there is no room for them."""
        self._answer = answer
        for work, name in ((self._serve, "bpfence-lines"), (self._make, "bpfence-answers")):
            thread = threading.Thread(target=work, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def wake(self) -> None:
        """Listeners have something to take. For any thread; never waits."""
        self._notice.tell()

    def make_room(self, streams: int, who: Peer) -> None:
        """Where so many streams go on, end the one whose client has taken nothing for the longest time, for root else the latest of another
        user. Called by `answer`."""
        going = [client for client in self._clients.values() if client.stream is not None]
        if len(going) < streams:
            return
        oldest = min((one for one in going if one.since), key=lambda client: client.since, default=None)
        if oldest is not None and time.monotonic() - oldest.since >= STUCK_SECONDS:
            self._drop(oldest)
        elif not who.uid and (others := [client for client in going if client.who.uid]):
            self._drop(others[-1])

    def close(self) -> None:
        """Answer no more, and take the socket away."""
        self._closed = True
        self._notice.tell()
        self._work.put(None)
        for thread in self._threads:
            thread.join(CLOSE_SECONDS)
        if self._listener is not None:
            self._listener.close()
            with contextlib.suppress(OSError):
                if os.stat(self.path).st_ino == self._made:
                    self.path.unlink()
        self._notice.close()

    # ---- the second thread ----

    def _make(self) -> None:
        while (asked := self._work.get()) is not None and not self._closed:
            client, later = asked
            self._done.append((client, self._guarded(later.work)))
            self._notice.tell()

    def _guarded(self, work: Callable[[], bytes]) -> bytes:
        """What work gives; nothing where it fails, which is a fault of ours and costs this answer alone."""
        try:
            return work()
        except Exception as error:
            if not self._fault_told:
                self._fault_told = True
                text = f"{type(error).__name__}: {error}"
                self._report(f"{self.path}: a request could not be answered, which is a bug in bpfence: {text}; please report it")
            return b""

    # ---- the thread ----

    def _serve(self) -> None:
        assert self._listener is not None
        with selectors.DefaultSelector() as selector:
            self._selector = selector
            selector.register(self._notice.fileno(), selectors.EVENT_READ)
            selector.register(self._listener, selectors.EVENT_READ)
            listens, paused = True, 0.0
            while not self._closed:
                now = time.monotonic()
                if not listens and now >= paused:
                    selector.register(self._listener, selectors.EVENT_READ)
                    listens = True
                for key, events in selector.select(self._wait(now, None if listens else paused)):
                    if key.fileobj is self._listener:
                        if not self._accept(self._listener):
                            selector.unregister(self._listener)
                            listens, paused = False, time.monotonic() + 0.1  # out of descriptors: others will be given back
                    elif key.data is None:
                        self._notice.take()
                    elif (client := self._clients.get(key.fd)) is not None and client is key.data:
                        self._go_on(client, events)  # else it was put out for another, who may have its number already
                self._answered()
                self._expire(time.monotonic())
            for client in list(self._clients.values()):
                self._drop(client)

    def _wait(self, now: float, paused: float | None) -> float | None:
        ends = [client.until for client in self._clients.values() if client.until is not None]
        ends += [paused] if paused is not None else []
        return max(0.0, min(ends) - now) if ends else None

    def _expire(self, now: float) -> None:
        for client in [client for client in self._clients.values() if client.until is not None and client.until <= now]:
            self._drop(client)

    def _accept(self, listener: socket.socket) -> bool:
        """Take the next client; False where that is not possible now."""
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, ConnectionError):
            return True
        except OSError:
            return False
        try:
            who = peer(connection)
        except OSError:
            connection.close()
            return True
        if who.uid and sum(client.who.uid == who.uid for client in self._clients.values()) >= MAX_OF_USER:
            connection.close()
            return True
        if len(self._clients) >= MAX_CLIENTS:
            # Whoever has not even asked yet goes first, and for root anybody else.
            silent = [client for client in self._clients.values() if not client.asked or (client.who.uid and not who.uid)]
            if not silent:
                connection.close()
                return True
            self._drop(min(silent, key=lambda client: client.until or 0.0))
        connection.setblocking(False)
        client = self._clients[connection.fileno()] = _Client(connection, who, time.monotonic() + MAX_SECONDS)
        assert self._selector is not None
        self._selector.register(connection, client.events, client)
        return True

    def _drop(self, client: _Client) -> None:
        del self._clients[client.connection.fileno()]
        self._look_for(client, 0)
        self._received -= len(client.received)
        client.connection.close()
        if client.stream is not None:
            client.stream.over()

    def _look_for(self, client: _Client, events: int) -> None:
        assert self._selector is not None
        if events == client.events:
            return
        if not client.events:
            self._selector.register(client.connection, events, client)
        elif events:
            self._selector.modify(client.connection, events, client)
        else:
            self._selector.unregister(client.connection)
        client.events = events

    def _go_on(self, client: _Client, events: int) -> None:
        try:
            if events & selectors.EVENT_READ and not self._read(client):
                self._drop(client)
                return
            if events & selectors.EVENT_WRITE:
                self._write(client)
        except BlockingIOError:
            return
        except OSError:
            if client.connection.fileno() in self._clients:
                self._drop(client)

    def _read(self, client: _Client) -> bool:
        """Take a part of a request; False: nothing comes any more, or what was not asked for."""
        part = client.connection.recv(PART)
        if not part or client.asked:
            return False
        client.received += part
        self._received += len(part)
        end = client.received.find(b"\n", -len(part))
        if end < 0:
            return len(client.received) <= MAX_REQUEST and self._fits(client)
        request = bytes(client.received[:end])
        self._received -= len(client.received)
        client.received = bytearray()
        client.asked = True
        client.until = None
        self._begin(client, request)
        return True

    def _fits(self, client: _Client) -> bool:
        """Whether there is room for what a client has sent. Who has sent the most makes room, root after all others."""
        while self._received > MAX_RECEIVED:
            greedy = max(self._clients.values(), key=lambda one: (bool(one.received and one.who.uid), len(one.received)))
            if greedy is client:
                return False
            self._drop(greedy)
        return True

    def _begin(self, client: _Client, request: bytes) -> None:
        """Have a request answered."""
        made: list[Later | Stream] = []

        def answer() -> bytes:
            found = self._answer(request, client.who)
            if isinstance(found, bytes):
                return found
            made.append(found)
            return b""

        plain = self._guarded(answer)
        if not made:
            self._say(client, plain)
        elif isinstance(made[0], Stream):
            client.stream = made[0]
            self._say(client, client.stream.first)
        elif self._waiting >= MAX_WORK:
            self._say(client, self._guarded(lambda: self.busy))
        else:
            self._waiting += 1
            self._look_for(client, 0)
            self._work.put((client, made[0]))

    busy: bytes = b""
    """What those are told who ask for a `Later` while MAX_WORK wait."""

    def _say(self, client: _Client, answer: bytes) -> None:
        client.left = memoryview(answer)
        if client.stream is None:
            client.until = time.monotonic() + MAX_SECONDS
            self._look_for(client, selectors.EVENT_WRITE)
        else:
            client.since = 0.0
            self._look_for(client, selectors.EVENT_READ | selectors.EVENT_WRITE)

    def _write(self, client: _Client) -> None:
        if client.left:
            client.left = client.left[client.connection.send(client.left[: 4 * PART]) :]
            client.since = time.monotonic()
        if client.left:
            return
        if client.stream is None:
            self._drop(client)
        else:
            client.since = 0.0
            self._fill(client)

    def _fill(self, client: _Client) -> None:
        """Give a stream's client what waits for it."""
        stream = client.stream
        assert stream is not None
        taken = stream.listener.take(0)
        if taken is None:
            self._drop(client)
            return
        client.left = memoryview(self._guarded(lambda: stream.shown(*taken)) if any(taken) else b"")
        if client.left:
            client.since = time.monotonic()
        self._look_for(client, selectors.EVENT_READ | (selectors.EVENT_WRITE if client.left else 0))

    def _answered(self) -> None:
        """What was made in the second thread, and what listeners have to take."""
        while self._done:
            client, answer = self._done.popleft()
            self._waiting -= 1
            if self._clients.get(client.connection.fileno()) is client:
                self._say(client, answer)
        for client in [client for client in self._clients.values() if client.stream is not None and not client.left]:
            self._fill(client)


def asked(path: Path, request: bytes, seconds: float | None) -> Iterator[bytes]:
    """The lines of an answer, without their newlines, as they come. `seconds`: to wait for the next part; None: for ever. OSError where
    nobody answers, or not in time."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(MAX_SECONDS)
        _connect(connection, path)
        with contextlib.suppress(BrokenPipeError):  # it was refused, and the answer may say why
            connection.sendall(request + b"\n")
        connection.settimeout(seconds)
        waiting = bytearray()
        while part := connection.recv(PART):
            *lines, rest = part.split(b"\n")
            for line in lines:
                yield bytes(waiting) + line
                waiting.clear()
            waiting += rest
            if len(waiting) > MAX_LINE:
                raise OSError(None, "an answer that does not end")


def _connect(connection: socket.socket, path: Path) -> None:
    until = time.monotonic() + MAX_SECONDS
    while True:
        try:
            connection.connect(str(path))
            return
        except BlockingIOError:  # more wait than the backlog takes
            if time.monotonic() >= until:
                raise TimeoutError(None, "too many others wait") from None
            time.sleep(0.01)
