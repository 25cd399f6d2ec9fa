# SPDX-License-Identifier: Apache-2.0
"""A place and methods in, a gRPC server on a socket out; and lines in, what waits for each client that listens out.

Used by `services`. In two steps, because threads keep the privileges of whoever begins them: `prepare` makes the socket's folder while
there are privileges, `start` begins the server when they are given up (`listen`(2) must still be permitted). Whoever may connect to the
socket may call all methods; nobody is asked for a name. Calls are bounded in number and size, and each runs in a thread of the server: the
agent's loop waits for none of them.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

from bpfence.errors import KernelError
from bpfence.host.sockets import checked, listens, number_of_group, safe_folder
from bpfence.rpc.messages import NEEDED

MAX_CALLS: Final = 32
"""Calls at once, of all clients; further ones are refused (RESOURCE_EXHAUSTED)."""
MAX_CONNECTIONS: Final = 64
"""Of all clients; further ones are closed at once, as each takes a descriptor of the agent."""
MAX_LISTENERS: Final = 16
"""Those of them that listen for events."""
MAX_REQUEST: Final = 4 << 20
MAX_LINES: Final = 8192
MAX_BYTES: Final = 8 << 20
"""What waits for a client at most."""
TAKE_SECONDS: Final = 1.0
STOP_SECONDS: Final = 0.5
HANDSHAKE_SECONDS: Final = 10.0
"""Who has connected and says nothing is put out after so long."""


class CallError(Exception):
    """What a client is told instead of an answer. `code`: a status of gRPC by its name."""

    def __init__(self, code: str, text: str) -> None:
        self.code = code
        super().__init__(text)


class Method(NamedTuple):
    """`answer` makes a response of a request, or, where it `streams`, an iterator of them of a request and a `Call`."""

    request: Any
    response: Any
    answer: Callable[..., Any]
    streams: bool = False


class Call(NamedTuple):
    """One client's call that streams. `on_end`: have something called when it is over; False where it is over already. `begin`: tell the
    client that it has begun."""

    on_end: Callable[[Callable[[], None]], bool]
    begin: Callable[[], None]


class Server:
    """Answers from `start` until it is closed. What is made of it listens at one place."""

    def __init__(self) -> None:
        self._server: Any = None

    def prepare(self) -> None:
        """See that it can listen, while there are privileges. KernelError where the library is missing or the place is taken."""
        for module, package in (("grpc", "grpcio"), ("google.protobuf", "protobuf")):
            with contextlib.suppress(ModuleNotFoundError):  # there is no package `google` at all
                if find_spec(module) is not None:  # not imported yet: nothing of it is to run with these privileges
                    continue
            raise KernelError(NEEDED, missing=package)

    def folders(self) -> Sequence[Path]:
        """Where something is made or removed after `prepare`."""
        return ()

    def start(self, services: Mapping[str, Mapping[str, Method]]) -> None:
        """Answer from now on, in threads with the privileges of the caller. `services`: methods by their names, by name of the service.
        OSError where the socket cannot be made; RuntimeError where there is no room for threads."""
        from concurrent.futures import ThreadPoolExecutor

        import grpc

        pool = ThreadPoolExecutor(MAX_CALLS, "bpfence-rpc")
        options = [
            ("grpc.max_receive_message_length", MAX_REQUEST),
            ("grpc.max_concurrent_streams", MAX_CALLS),
            ("grpc.so_reuseport", 0),
            ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
            ("grpc.server_handshake_timeout_ms", int(HANDSHAKE_SECONDS * 1000)),
        ]
        server = grpc.server(pool, options=options, maximum_concurrent_rpcs=MAX_CALLS)
        for name, methods in services.items():
            handlers = {method: _handler(grpc, about) for method, about in methods.items()}
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
        self._listen(server)
        server.start()
        self._server = server

    def _listen(self, server: Any) -> None:
        """Have the library's server listen. OSError."""
        raise NotImplementedError

    def close(self) -> None:
        """End all calls."""
        server, self._server = self._server, None
        if server is not None:
            server.stop(STOP_SECONDS).wait(2 * STOP_SECONDS)


class TcpServer(Server):
    """One at an address of this host: whoever reaches it may call. `port` 0: one that is free."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__()
        self.host, self.port = host, port

    def prepare(self) -> None:
        """See Server."""
        super().prepare()
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            socket.create_server((self.host, self.port), family=family).close()
        except OSError as error:
            hint = "stop who listens there, or name another port, not below 1024"
            what = f"{self.host}:{self.port} cannot be listened at: {error.strerror or error}"
            raise KernelError(what, missing="the port", hint=hint) from None

    def _listen(self, server: Any) -> None:
        place = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        try:
            self.port = server.add_insecure_port(place)
        except RuntimeError as error:
            raise OSError(f"no socket can be made at {place}: {error}") from None


class UnixServer(Server):
    """One at a path. `group`: who may write to the socket beside root."""

    def __init__(self, path: Path, group: str | None = None) -> None:
        super().__init__()
        self.path = checked(path)
        self._group = group

    def folders(self) -> Sequence[Path]:
        """Where the socket is made."""
        return [self.path.absolute().parent]

    def prepare(self) -> None:
        """Make the socket's folder. KernelError where that is another's, where the library is missing, or where somebody listens already;
        UsageError where there is no such group; OSError."""
        super().prepare()
        folder = self.path.parent
        number = number_of_group(self._group) if self._group is not None else None
        found = safe_folder(folder, number)  # the socket gets the folder's group: nobody may give it one later
        if number is not None and (found.st_gid != number or not found.st_mode & stat.S_ISGID or not found.st_mode & stat.S_IXGRP):
            hint = f"name a folder that is not there yet, or: chgrp {self._group} {folder}; chmod 2750 {folder}"
            raise KernelError(f"a socket in {folder} would not be of the group {self._group}", missing="a folder of the group", hint=hint)
        if listens(self.path) is not False:
            raise KernelError(f"somebody listens at {self.path} already", missing="the socket", hint="stop it first, or name another path")

    def _listen(self, server: Any) -> None:
        # The library makes the socket and cannot be given one: its mode is what the mask leaves of 0777.
        before = os.umask(0o117 if self._group is not None else 0o177)
        try:
            server.add_insecure_port(f"unix://{os.path.abspath(self.path)}")
        except RuntimeError as error:
            raise OSError(f"no socket can be made at {self.path}: {error}") from None
        finally:
            os.umask(before)

    def close(self) -> None:
        """End all calls, and take the socket away."""
        made = self._server is not None
        super().close()
        if made:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)


def _handler(grpc: Any, about: Method) -> Any:
    """A method as the library takes it. What is raised by a fault of ours costs the call alone."""

    def refuse(context: Any, error: Exception) -> None:
        known = isinstance(error, CallError)
        code = error.code if isinstance(error, CallError) else "INTERNAL"
        text = str(error) if known else f"{type(error).__name__}: {error}. This is a fault of bpfence; please report it"
        context.abort(getattr(grpc.StatusCode, code), text.encode("utf-8", "replace").decode()[:4096])

    def one(request: Any, context: Any) -> Any:
        try:
            return about.answer(request)
        except Exception as error:
            return refuse(context, error)

    def many(request: Any, context: Any) -> Iterator[Any]:
        try:
            yield from about.answer(request, Call(context.add_callback, lambda: context.send_initial_metadata(())))
        except Exception as error:
            refuse(context, error)

    given = {"request_deserializer": about.request.FromString, "response_serializer": about.response.SerializeToString}
    return grpc.unary_stream_rpc_method_handler(many, **given) if about.streams else grpc.unary_unary_rpc_method_handler(one, **given)


class Listener:
    """Lines that wait for one client: at most MAX_LINES and MAX_BYTES. What finds no room is dropped and counted."""

    def __init__(self, max_lines: int = MAX_LINES, max_bytes: int = MAX_BYTES) -> None:
        self._max_lines, self._max_bytes = max_lines, max_bytes
        self._changed = threading.Condition(threading.Lock())
        self._waiting: deque[bytes] = deque()
        self._size = self._dropped = 0
        self._over = False

    def put(self, lines: Iterable[bytes]) -> int:
        """Never waits. How many found no room."""
        lost = 0
        with self._changed:
            for line in lines:
                if self._over or len(self._waiting) >= self._max_lines or self._size + len(line) > self._max_bytes:
                    lost += 1
                else:
                    self._waiting.append(line)
                    self._size += len(line)
            self._dropped += lost
            self._changed.notify()
        return lost

    def take(self, seconds: float = TAKE_SECONDS) -> tuple[list[bytes], int] | None:
        """What waits, after at most so many seconds, and how many were dropped since the last time. None: it is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._dropped or self._over, seconds)
            if self._over:
                return None
            taken, dropped = list(self._waiting), self._dropped
            self._waiting.clear()
            self._size = self._dropped = 0
            return taken, dropped

    def end(self) -> None:
        """Wake whoever takes: nothing comes any more."""
        with self._changed:
            self._over = True
            self._waiting.clear()
            self._changed.notify_all()


class Listeners:
    """All clients that listen, as a place of an output (`outputs.places.Place`): one that is slow loses its own lines, and nobody else's.

    `report` takes messages for people. `max_lines` and `max_bytes` wait for each at most. Methods may be called by any thread.
    """

    def __init__(self, name: str, report: Callable[[str], None], max_lines: int = MAX_LINES, max_bytes: int = MAX_BYTES) -> None:
        self.name = name
        self.dropped = 0
        self._report = report
        self._room = max_lines, max_bytes
        self._lock = threading.Lock()
        self._all: tuple[Listener, ...] = ()
        self._told = False

    def __bool__(self) -> bool:
        return bool(self._all)

    def add(self) -> Listener:
        """One more. CallError where there are too many."""
        made = Listener(*self._room)
        with self._lock:
            if len(self._all) >= MAX_LISTENERS:
                raise CallError("RESOURCE_EXHAUSTED", f"{MAX_LISTENERS} clients listen already")
            self._all = (*self._all, made)
        return made

    def remove(self, listener: Listener) -> None:
        """It listens no more."""
        listener.end()
        with self._lock:
            self._all = tuple(one for one in self._all if one is not listener)

    def write(self, lines: Sequence[bytes]) -> int:
        """Give lines to all of them."""
        lost = sum(listener.put(lines) for listener in self._all)
        self.dropped += lost
        if lost and not self._told:
            self._told = True
            self._report(f"output {self.name}: a client is too slow and loses events, which it is told; others do not")
        return len(lines)

    def wait(self, seconds: float) -> None:
        """There always is room."""

    def reopen(self) -> None:
        """There is nothing to open."""

    def close(self) -> None:
        """End all of them."""
        for listener in self._all:
            listener.end()
