# SPDX-License-Identifier: Apache-2.0
"""Admission reviews in, yes or no with what `bpfence check` would say, or seccomp profiles for a pod, out: `bpfence webhook`.

Reads what the API server is about to store, and refuses policies and seccomp profiles with a mistake; everything else is let through,
whatever it is. Pods are given the profiles that are bound to them (`bindings`), where they are asked about at MUTATE. Requests
are bounded in size, time and number. Who may ask is not checked: an answer tells nothing but what stands in the question.
https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Final

import msgspec

from bpfence import names
from bpfence.errors import Diagnostic, UsageError
from bpfence.events.values import printable
from bpfence.k8s import bindings, profiles
from bpfence.k8s.bindings import Bindings
from bpfence.k8s.objects import PLURALS, PROFILES, PolicyObject, policy
from bpfence.k8s.policies import check
from bpfence.workloads.texts import BadAnswerError, decode

MAX_REVIEW: Final = 4 << 20
"""A review holds the object twice where it is a change, with the objects' metadata and status."""
REQUEST_SECONDS: Final = 8.0
"""From the connection to the answer. The API server waits ten at most, by the chart's configuration."""
MAX_REQUESTS: Final = 16
MAX_FINDINGS: Final = 8
MAX_WARNING: Final = 250
"""The API server cuts longer warnings."""
RELOAD_SECONDS: Final = 10.0
VALIDATE, MUTATE = "/validate", "/mutate"


class _Group(msgspec.Struct):
    kind: str = ""


class _Request(msgspec.Struct):
    uid: str
    kind: _Group
    object: msgspec.Raw = msgspec.Raw(b"null")
    operation: str = ""


class _Review(msgspec.Struct):
    api_version: str = msgspec.field(name="apiVersion")
    kind: str
    request: _Request


def review(data: bytes) -> bytes:
    """The answer to an AdmissionReview. BadAnswerError where it is none."""
    asked = decode(data, _Review)
    if asked.kind != "AdmissionReview":
        raise BadAnswerError(f"{asked.kind[:60]!r} is no AdmissionReview")
    response: dict[str, Any] = {"uid": asked.request.uid, "allowed": True}
    kind = asked.request.kind.kind
    if asked.request.operation != "DELETE" and kind in PLURALS:
        one = policy(kind, "", bytes(asked.request.object))
        diagnostics = _judged(one if one.name else msgspec.structs.replace(one, name="unnamed"))  # it will have one by generateName
        errors = [diagnostic for diagnostic in diagnostics if diagnostic.severity == "error"]
        warnings = [diagnostic for diagnostic in diagnostics if diagnostic.severity == "warning"]
        if errors:  # without a reason: by `Invalid` older kubectl show their own words in place of ours
            response |= {"allowed": False, "status": {"code": 422, "message": "\n".join(_shown(errors))}}
        if warnings:
            response["warnings"] = [text[:MAX_WARNING] for text in _shown(warnings)]
    return msgspec.json.encode({"apiVersion": asked.api_version, "kind": "AdmissionReview", "response": response})


def _judged(one: PolicyObject) -> tuple[Diagnostic, ...]:
    if one.kind in PROFILES:
        return profiles.read(one).diagnostics
    with names.symbolic():  # users and groups are those of nodes
        return check(one).diagnostics


def _shown(diagnostics: list[Diagnostic]) -> list[str]:
    shown = [
        printable(f"{diagnostic.location}: {diagnostic.message}{'; ' + diagnostic.hint if diagnostic.hint else ''}")
        for diagnostic in diagnostics[:MAX_FINDINGS]
    ]
    more = len(diagnostics) - MAX_FINDINGS
    return [*shown, f"and {more} more"] if more > 0 else shown


class Server(ThreadingMixIn, TCPServer):
    """Answers on an address, by TLS. The certificate is read again when its files change. UsageError where it cannot be had."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(
        self, address: tuple[str, int], certificate: Path, key: Path, report: Callable[[str], None], bound: Bindings | None = None
    ) -> None:
        self._files = (certificate, key)
        self._report = report
        self._bound = bound
        self._free = threading.BoundedSemaphore(MAX_REQUESTS)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._seen: tuple[float, ...] = ()
        self._due = 0.0
        self._load()
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        try:
            super().__init__(address, _Handler)
        except OSError as error:
            raise UsageError(f"{address[0]}:{address[1]} cannot be listened on: {error.strerror or error}") from None

    def _load(self) -> None:
        certificate, key = self._files
        try:
            seen = (os.stat(certificate).st_mtime, os.stat(key).st_mtime)
            if seen != self._seen:
                self._context.load_cert_chain(certificate, key)
                self._seen = seen
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            if not self._seen:
                raise UsageError(f"the certificate cannot be read: {error}") from None
            self._report(f"the certificate cannot be read again: {error}; the one before stays in use")

    def service_actions(self) -> None:
        """Look after the certificate's files."""
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + RELOAD_SECONDS
            self._load()

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread of its own, if there is one free: whoever asks more waits for none, and asks again."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no room for a thread
            self._free.release()
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """One connection, one request."""
        try:
            request.getpeername()  # of one that has gone, wrap_socket would leave the descriptor to the collector
            with self._context.wrap_socket(request, server_side=True, do_handshake_on_connect=False) as wrapped:
                wrapped.settimeout(REQUEST_SECONDS)
                # All of it takes no longer, however little comes at a time.
                end = threading.Timer(REQUEST_SECONDS, _cut, (wrapped,))
                end.daemon = True
                end.start()
                try:
                    wrapped.do_handshake()
                    self.finish_request(wrapped, client_address)
                    self.shutdown_request(wrapped)
                finally:
                    end.cancel()
        except (OSError, RuntimeError, ValueError):  # no TLS, gone away, cut off, or no room for a thread: theirs to ask again
            pass
        finally:
            self._free.release()
            self.shutdown_request(request)

    @property
    def ready(self) -> bool:
        """Whether all reviews can be answered."""
        return self._bound is None or self._bound.ready

    def answers(self, path: str) -> bool:
        """Whether reviews are answered at a path."""
        return path == VALIDATE or (path == MUTATE and self._bound is not None)

    def answered(self, path: str, data: bytes) -> tuple[int, bytes]:
        """The HTTP status and body for a request's path and body."""
        try:
            if path == MUTATE and self._bound is not None:
                return (200, bindings.review(data, self._bound)) if self._bound.ready else (503, b"the profiles are not known yet")
            return 200, review(data)
        except BadAnswerError as error:
            return 400, str(error)[:300].encode()
        except Exception as error:  # a bug of ours is not the policy's fault; the chart says what the API server makes of it
            what = "a pod" if path == MUTATE else "a policy"
            self._report(f"{what} could not be checked: {type(error).__name__}: {printable(str(error))[:300]}; please report it")
            return 500, b"a fault of bpfence"


def _cut(request: socket.socket) -> None:
    with contextlib.suppress(OSError):
        socket.socket.shutdown(request, socket.SHUT_RDWR)  # not TLS's, which another thread is at work in


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version = "bpfence"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer(*((200, b"ok\n") if self.path == "/healthz" else self._readiness()))

    def _readiness(self) -> tuple[int, bytes]:
        if self.path != "/readyz":
            return 404, b""
        return (200, b"ok\n") if self.server.ready else (503, b"the profiles are not known yet\n")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        path = self.path.partition("?")[0]
        if not self.server.answers(path):
            self._answer(404, b"")
        elif not length.isascii() or not length.isdigit() or len(length) > 9:
            self._answer(411, b"")
        elif int(length) > MAX_REVIEW:
            self._answer(413, b"")
        else:
            data = self.rfile.read(int(length))
            self._answer(*(self.server.answered(path, data) if len(data) == int(length) else (400, b"")))

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if status == 200 and self.command == "POST" else "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged: whoever can connect could fill the log."""


def address_of(text: str) -> tuple[str, int]:
    """HOST:PORT, [HOST]:PORT or :PORT. UsageError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"{text!r} is no address: write HOST:PORT or :PORT")
    return host.strip("[]") or "0.0.0.0", int(port)  # as asked for: a pod's address is not known before
