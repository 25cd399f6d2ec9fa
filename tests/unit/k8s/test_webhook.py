# SPDX-License-Identifier: Apache-2.0
"""Answers to admission reviews, and the server that gives them: with real certificates, over real connections."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bpfence.errors import UsageError
from bpfence.k8s import webhook
from bpfence.k8s.webhook import MAX_REVIEW, Server, address_of, review
from bpfence.pods.bind import Binding
from bpfence.workloads.texts import BadAnswerError
from tests.unit.k8s.samples import BROKEN, as_stored, made, spec


def asked(one: Any, kind: str = "SecurityPolicy", operation: str = "CREATE") -> bytes:
    stored = as_stored(one) if not isinstance(one, dict) else one
    request = {"uid": "42", "kind": {"group": "bpfence.io", "kind": kind}, "operation": operation, "object": stored}
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).encode()


def answered(*args: Any, **more: Any) -> dict[str, Any]:
    whole = json.loads(review(asked(*args, **more)))
    assert (whole["apiVersion"], whole["kind"], whole["response"]["uid"]) == ("admission.k8s.io/v1", "AdmissionReview", "42")
    found: dict[str, Any] = whole["response"]
    return found


def test_a_policy_without_a_mistake_is_let_through() -> None:
    assert answered(made()) == {"uid": "42", "allowed": True}
    assert answered(made(namespace=""), kind="ClusterSecurityPolicy")["allowed"] is True


def test_a_mistake_is_refused_with_the_words_of_check() -> None:
    response = answered(made(BROKEN))
    assert response["allowed"] is False
    message = "SecurityPolicy shop/guard, spec.rules[0].match.\"file.pth\": unknown field 'file.pth'; did you mean 'file.path'?"
    assert response["status"] == {"code": 422, "message": message}


def test_a_trap_is_a_warning() -> None:
    response = answered(made(spec(container=False)))
    assert response["allowed"] is True
    assert "never match" in response["warnings"][0]


def test_many_mistakes_are_some_lines() -> None:
    rules = [{"name": f"r{n}", "on": "opn", "action": "deny"} for n in range(20)]
    assert len(answered(made({"rules": rules}))["status"]["message"].splitlines()) == 9


def test_names_of_users_are_those_of_nodes() -> None:
    assert answered(made(spec(user="only-on-nodes")))["allowed"] is True


def test_a_seccomp_profile_with_a_mistake_is_refused() -> None:
    good = {"profile": {"defaultAction": "SCMP_ACT_ALLOW"}}
    assert answered(made(good), kind="SeccompProfile")["allowed"] is True
    assert answered(made(good, namespace=""), kind="ClusterSeccompProfile")["allowed"] is True
    response = answered(made({"profile": {"defaultAction": "SCMP_ACT_ALOW"}}), kind="SeccompProfile")
    assert response["allowed"] is False
    assert response["status"]["message"].startswith("SeccompProfile shop/guard, spec.profile.defaultAction: ")


def test_nothing_but_policies_is_refused() -> None:
    assert answered({"metadata": {}}, kind="Pod")["allowed"] is True
    assert answered({"metadata": {}}, kind="")["allowed"] is True


def test_a_name_that_is_yet_to_be_made() -> None:
    stored = as_stored(made())
    del stored["metadata"]["name"]
    assert answered(stored)["allowed"] is True


def test_a_deletion_is_never_refused() -> None:
    assert answered({}, operation="DELETE")["allowed"] is True


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[" * 100_000, b"\xff", json.dumps({"apiVersion": "v1", "kind": "Pod", "request": {"uid": "", "kind": {}}}).encode()],
)
def test_what_is_no_review(data: bytes) -> None:
    with pytest.raises(BadAnswerError):
        review(data)


def test_a_policy_that_is_nested_deeply_is_refused() -> None:
    """And does not pass as one that could not be checked."""
    deep = json.dumps(as_stored(made(spec(exe="DEEP")))).replace('"DEEP"', "[" * 5000 + "]" * 5000)
    request = f'{{"uid": "u", "kind": {{"kind": "SecurityPolicy"}}, "operation": "CREATE", "object": {deep}}}'
    answer = json.loads(review(f'{{"apiVersion": "v1", "kind": "AdmissionReview", "request": {request}}}'.encode()))["response"]
    assert answer["allowed"] is False
    assert "nested more than" in answer["status"]["message"]


@pytest.mark.parametrize(("text", "address"), [(":9443", ("0.0.0.0", 9443)), ("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:1", ("::1", 1))])
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert address_of(text) == address


@pytest.mark.parametrize("text", ["", "9443", "x:y", ":99999", ":-1"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError):
        address_of(text)


def certificate(folder: Path, name: str = "localhost") -> tuple[Path, Path]:
    paths = folder / "tls.crt", folder / "tls.key"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        f"/CN={name}",
    ]
    command += ["-addext", f"subjectAltName=DNS:{name},IP:127.0.0.1", "-keyout", str(paths[1]), "-out", str(paths[0])]
    subprocess.run(command, check=True, capture_output=True)
    return paths


class Rig:
    def __init__(self, folder: Path) -> None:
        self.files = certificate(folder)
        self.said: list[str] = []
        self.server = Server(("127.0.0.1", 0), *self.files, self.said.append)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.files[0]))

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=self.trust(), timeout=30)
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        data = response.read()
        connection.close()
        return response.status, data

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    one = Rig(tmp_path)
    yield one
    one.close()


def test_over_tls(rig: Rig) -> None:
    status, data = rig.request("POST", "/validate?timeout=10s", asked(made()))
    assert (status, json.loads(data)["response"]["allowed"]) == (200, True)
    assert rig.request("GET", "/healthz") == (200, b"ok\n")


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [("GET", "/validate", None, 404), ("POST", "/other", b"{}", 404), ("POST", "/validate", b"{}", 400), ("PUT", "/validate", b"{}", 501)],
)
def test_other_requests(rig: Rig, method: str, path: str, body: bytes | None, status: int) -> None:
    assert rig.request(method, path, body)[0] == status


@pytest.mark.parametrize(("length", "status"), [(str(MAX_REVIEW + 1), 413), ("9" * 30, 411), ("-1", 411), ("", 411)])
def test_a_body_that_is_too_large_is_not_read(rig: Rig, length: str, status: int) -> None:
    with socket.create_connection(("127.0.0.1", rig.port), 30) as raw, rig.trust().wrap_socket(raw, server_hostname="localhost") as secure:
        secure.sendall(f"POST /validate HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode())
        assert secure.recv(100).split()[1] == str(status).encode()


@pytest.mark.parametrize("tls", [True, False])
def test_who_says_nothing_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tls: bool) -> None:
    monkeypatch.setattr(webhook, "REQUEST_SECONDS", 0.3)
    rig = Rig(tmp_path)
    with socket.create_connection(("127.0.0.1", rig.port), 30) as raw:
        connection = rig.trust().wrap_socket(raw, server_hostname="localhost") if tls else raw
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            assert connection.recv(100) == b""
        connection.close()
    rig.close()


def test_more_than_it_answers_at_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = [socket.create_connection(("127.0.0.1", rig.port), 30) for _ in range(webhook.MAX_REQUESTS)]
    deadline = time.monotonic() + 30
    while rig.server._free._value and time.monotonic() < deadline:
        time.sleep(0.01)
    with socket.create_connection(("127.0.0.1", rig.port), 30) as one_more:
        assert one_more.recv(1) == b""
    for one in waiting:
        one.close()
    while rig.server._free._value < webhook.MAX_REQUESTS:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert rig.request("GET", "/healthz")[0] == 200


def test_who_is_gone_before_the_handshake_keeps_no_place(rig: Rig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for _ in range(webhook.MAX_REQUESTS + 1):
            client = socket.create_connection(listener.getsockname(), 30)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # its end is a reset
            client.close()
            rig.server.process_request(*listener.accept())
    deadline = time.monotonic() + 30
    while rig.server._free._value < webhook.MAX_REQUESTS:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert rig.request("GET", "/healthz")[0] == 200


def test_a_new_certificate_is_taken_up(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    for old, new in zip(rig.files, certificate(tmp_path / "new"), strict=True):
        os.replace(new, old)
        os.utime(old, (1, 1))
    rig.server._load()
    assert rig.request("GET", "/healthz")[0] == 200


def test_a_certificate_that_is_broken_later_changes_nothing(rig: Rig) -> None:
    trust = rig.trust()
    rig.files[0].write_text("nonsense")
    rig.server._load()
    assert "cannot be read again" in rig.said[0]
    connection = http.client.HTTPSConnection("127.0.0.1", rig.port, context=trust, timeout=30)
    connection.request("GET", "/healthz")
    assert connection.getresponse().status == 200
    connection.close()


def test_a_certificate_or_an_address_that_cannot_be_had(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("nonsense")
    with pytest.raises(UsageError, match="certificate"):
        Server(("127.0.0.1", 0), tmp_path / "x", tmp_path / "x", rig.said.append)
    with pytest.raises(UsageError, match="listened on"):
        Server(("192.0.2.1", 1), *rig.files, rig.said.append)


def test_a_bug_of_ours_is_told(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "review", lambda _: 1 // 0)
    assert rig.request("POST", "/validate", b"{}")[0] == 500
    assert "please report it" in rig.said[0]


class Bound:
    """Profiles that are not known yet, and then are."""

    ready = False

    def of(self, namespace: str) -> tuple[Any, ...]:
        return (Binding(profile="bpfence/web.json", images=("*",)),)


def test_pods_are_asked_about_when_profiles_are_known(rig: Rig) -> None:
    pod = {"metadata": {}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}}
    body = asked(pod, kind="Pod")
    assert rig.request("GET", "/readyz") == (200, b"ok\n")
    assert rig.request("POST", "/mutate", body)[0] == 404, "nobody looks at the cluster"
    bound: Any = Bound()
    rig.server._bound = bound
    assert rig.request("POST", "/mutate", body)[0] == rig.request("GET", "/readyz")[0] == 503
    assert rig.request("GET", "/healthz")[0] == 200
    bound.ready = True
    status, data = rig.request("POST", "/mutate?timeout=10s", body)
    assert (status, json.loads(data)["response"]["patchType"]) == (200, "JSONPatch")
    assert rig.request("POST", "/mutate", b"{}")[0] == 400
    assert rig.request("GET", "/readyz")[0] == 200
