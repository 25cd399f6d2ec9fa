# SPDX-License-Identifier: Apache-2.0
"""A shell below a service is stopped, by whatever way and with any programs between, though the service is older than the agent."""

from __future__ import annotations

import http.client
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kernel.cases import CGROUP, PLAYGROUND, TRIGGER
from tests.kernel.harness import Elder, Range, cgroup_folder, enter

POLICY = "lineage"
WEB = PLAYGROUND / "lineage-web"
WEB_CGROUP = f"{CGROUP}/lineage-web"


def policy(scope: dict[str, str], shell: str) -> dict[str, Any]:
    rule = {"name": "shell", "on": "exec", "match": {"file.path": shell}, "action": "deny"}
    return {
        "apiVersion": "bpfence.io/v1alpha1", "kind": "SecurityPolicy", "metadata": {"name": POLICY},
        "spec": {"scope": scope, "rules": [rule]},
    }  # fmt: skip


def denials(shooting: Range) -> list[dict[str, Any]]:
    return [alert for alert in shooting.agent.settle() if alert.get("policy") == POLICY and alert.get("action") == "deny"]


@pytest.fixture
def below(shooting: Range) -> Iterator[Elder]:
    """The policy about what descends from the elder, in force."""
    elder = shooting.playground.elder
    shooting.clear()
    path = shooting.agent.write_policy(POLICY, policy({"ancestor": str(elder.program)}, str(elder.folder / "shell")))
    for name in ("shell", "middle", "other"):
        shutil.copy(TRIGGER, elder.folder / name)
    shooting.agent.reload()
    shooting.agent.settle()
    yield elder
    path.unlink()


@pytest.mark.parametrize("way", ["at once", "a fork", "two programs", "a daemon of its own"])
def test_a_shell_below_a_daemon_that_is_older_than_the_agent(way: str, below: Elder, shooting: Range) -> None:
    shell, middle = str(below.folder / "shell"), str(below.folder / "middle")
    words = {
        "at once": ["exec", shell, "ok"],
        "a fork": ["then", shell, "ok"],
        "two programs": ["exec", middle, "then", middle, "then", shell, "ok"],
        "a daemon of its own": ["then", middle, "exec-as", shell, "innocent", "ok"],
    }[way]
    assert below.act(*words) == "EPERM"
    (alert,) = denials(shooting)
    assert alert["file.path"] == shell
    assert str(below.program) in {ancestor["exe"] for ancestor in alert["process.ancestors"]} | {alert["process.exe"]}


def test_others_may_have_their_shell(below: Elder, shooting: Range) -> None:
    assert below.act("exec", str(below.folder / "other"), "ok") == "ok"
    assert subprocess.run([str(below.folder / "shell"), "ok"], check=False).returncode == 0
    assert denials(shooting) == []


def request(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read()


@pytest.fixture
def web_server() -> Iterator[int]:
    """A web server with CGI scripts, which run as nobody, in a cgroup of its own; its port."""
    scripts = WEB / "cgi-bin"
    scripts.mkdir(parents=True)
    shutil.copy("/bin/sh", WEB / "shell")
    page = "print('Content-Type: text/plain', flush=True); print(flush=True)"
    (scripts / "page.py").write_text(f"#!/usr/bin/python3\n{page}\nprint('fine')\n")
    (scripts / "shell.py").write_text(
        f"#!/usr/bin/python3\nimport subprocess\n{page}\nsubprocess.run(['env', '{WEB}/shell', '-c', 'echo a shell'])\n"
    )
    for script in scripts.iterdir():
        script.chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    folder = cgroup_folder(WEB_CGROUP)
    command = [sys.executable, "-m", "http.server", "--cgi", "--bind", "127.0.0.1", "--directory", str(WEB), str(port)]
    server = subprocess.Popen(
        command,
        cwd=WEB,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: enter(folder),  # noqa: PLW1509 - the tests have one thread
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield port
    server.kill()
    server.wait()


def test_a_shell_below_a_web_server(web_server: int, shooting: Range) -> None:
    """The server is older than the policy, and Python, a script and env(1) are between it and the shell."""
    shooting.clear()
    assert request(web_server, "/cgi-bin/shell.py")[1].strip() == b"a shell"
    path = shooting.agent.write_policy(POLICY, policy({"cgroup": WEB_CGROUP}, str(WEB / "shell")))
    try:
        shooting.agent.reload()
        shooting.agent.settle()
        assert request(web_server, "/cgi-bin/page.py") == (200, b"fine\n")
        assert denials(shooting) == []
        assert b"a shell" not in request(web_server, "/cgi-bin/shell.py")[1]
        assert denials(shooting) != []
    finally:
        path.unlink()
