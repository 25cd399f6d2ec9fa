# SPDX-License-Identifier: Apache-2.0
"""Requests and watches: bounded, and every failure an ApiError."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpfence.errors import UsageError
from bpfence.k8s import client
from bpfence.k8s.client import Api, ApiError, GoneError, Page, connect
from tests.unit.k8s.server import Answer, Asked, FakeServer


def test_an_answer_and_who_asks() -> None:
    server = FakeServer(lambda _: Answer(body={"a": 1}))
    assert server.api.request("PATCH", Page("/x", {"q": "a b"}, "text/plain"), b'{"b": 2}', "application/json") == b'{"a": 1}'
    assert server.asked == [Asked("PATCH", "/x", {"q": "a b"}, "text/plain", {"b": 2})]
    server.close()


@pytest.mark.parametrize(("status", "kind"), [(403, ApiError), (410, GoneError), (302, ApiError), (500, ApiError)])
def test_a_refusal_says_why(status: int, kind: type[ApiError]) -> None:
    server = FakeServer(lambda _: Answer(status, {"message": "you may not\x1b"}))
    with pytest.raises(kind, match=r"you may not\\x1b") as caught:
        server.api.request("GET", Page("/x"))
    assert caught.value.status == status
    server.close()


def test_an_answer_that_is_too_large_or_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_ANSWER", 1000)
    server = FakeServer(lambda asked: Answer(lines=[b"x" * 1001]) if asked.path == "/large" else Answer(lines=[b"x", 30]))
    with pytest.raises(ApiError, match="larger"):
        server.api.request("GET", Page("/large"))
    with pytest.raises(ApiError):
        server.api.request("GET", Page("/slow"), seconds=0.2)
    server.close()


def test_lines_are_whole_however_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeServer(lambda _: Answer(lines=[b"on", b"e\ntwo\nth", b"ree\n", b"rest"]))
    with server.api.lines(Page("/w")) as lines:
        assert list(lines) == [b"one", b"two", b"three"]
    monkeypatch.setattr(client, "MAX_LINE", 10)
    server.respond = lambda _: Answer(lines=[b"x" * 11])
    with pytest.raises(ApiError, match="larger"), server.api.lines(Page("/w")) as lines:
        list(lines)
    server.close()


def test_a_watch_in_which_nothing_comes_ends() -> None:
    server = FakeServer(lambda _: Answer(lines=[b"one\n", 30]))
    with pytest.raises(ApiError), server.api.lines(Page("/w"), idle=0.2) as lines:
        assert list(lines) == [b"one"]
    server.close()


def test_nobody_listens() -> None:
    server = FakeServer(lambda _: Answer())
    api = server.api
    server.close()
    with pytest.raises(ApiError) as caught:
        api.request("GET", Page("/x"))
    assert caught.value.status == 0


def test_a_kubeconfig_says_where_and_as_whom(tmp_path: Path) -> None:
    server = FakeServer(lambda _: Answer(body={}))
    path = tmp_path / "kubeconfig"
    path.write_text(f"""
apiVersion: v1
kind: Config
current-context: c
clusters: [{{name: k, cluster: {{server: "{server.api._host}"}}}}]
users: [{{name: u, user: {{token: secret}}}}]
contexts: [{{name: c, context: {{cluster: k, user: u}}}}]
""")
    api = connect(path)
    assert isinstance(api, Api)
    assert api._authorize() == {"authorization": "Bearer secret"}
    assert api.request("GET", Page("/version")) == b"{}"
    api._pool.clear()
    server.close()


def test_what_is_no_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / "k").write_text("nonsense: [")
    with pytest.raises(UsageError, match="kubeconfig"):
        connect(tmp_path / "k")


def test_outside_of_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(UsageError, match="--kubeconfig"):
        connect(None)
