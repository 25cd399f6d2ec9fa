# SPDX-License-Identifier: Apache-2.0
"""The control socket of a real agent, which has given up its privileges: policies that come, change their mode and go again decide real
acts, by the commands and by a member of the group; hostile clients change nothing of that."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bpfence.kernel.pins import in_use
from tests.kernel.cases import PLAYGROUND, ROOT, write_yaml
from tests.kernel.harness import CGROUP_ROOT, COMMAND, SENTINEL, Agent, Playground, go_out, make_files, run_act

WORK = PLAYGROUND / "control"
SOCKET = Path("/run/bpfence-control/control.sock")
PINS = Path("/sys/fs/bpf/bpfence-control")
GROUP, MEMBER = "daemon", 1


def policy(name: str, path: Path, mode: str = "enforce") -> dict[str, Any]:
    rules = [{"name": "no-truncate", "on": "truncate", "match": {"file.path": str(path)}, "action": "deny"}]
    head = {"apiVersion": "bpfence.io/v1alpha1", "kind": "SecurityPolicy", "metadata": {"name": name}}
    return {**head, "spec": {"mode": mode, "rules": rules}}


def ask(*words: str, user: int = 0, code: int = 0) -> str:
    """What a command says, asked by root or by a user of the group."""
    command = [*COMMAND, *words, "--socket", str(SOCKET)]
    given = {"user": user, "group": grp.getgrnam(GROUP).gr_gid, "extra_groups": []} if user else {}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300, **given)  # type: ignore[call-overload]
    assert done.returncode == code, done.stdout + done.stderr
    return str(done.stdout if not code else done.stderr)


def filled(name: str) -> None:
    """Something to be cut off, without an act that a policy denies."""
    file = os.open(WORK / name, os.O_WRONLY | os.O_CREAT, 0o666)
    os.pwrite(file, b"x" * 8192, 0)
    os.close(file)


def truncated(agent: Agent, name: str) -> tuple[str, list[tuple[str, str]]]:
    """How the act ended, and what was told of it."""
    filled(name)
    agent.settle()
    result = run_act(("truncate", str(WORK / name), "0"), CGROUP_ROOT).result
    return result, [(line["policy"], line["action"]) for line in agent.settle() if line["kind"] == "alert"]


@pytest.fixture(scope="module")
def agent(playground: Playground, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    go_out()
    make_files(SENTINEL)
    WORK.mkdir(parents=True, exist_ok=True)
    made = Agent(tmp_path_factory.mktemp("control"), "control")
    made.write_policy(SENTINEL.name, SENTINEL.policy())
    made.write_policy("guard", policy("guard", WORK / "guarded"))
    made.start("--pin-dir", str(PINS), "--control-socket", str(SOCKET), "--control-group", GROUP)
    made.settle()
    yield made
    if made.process is not None and made.process.poll() is None:
        made.stop()


def test_policies_come_change_and_go(agent: Agent, tmp_path: Path) -> None:
    found = SOCKET.stat()
    assert (stat.S_IMODE(found.st_mode), grp.getgrgid(found.st_gid).gr_name) == (0o660, GROUP)
    assert truncated(agent, "guarded") == ("EPERM", [("guard", "deny")])
    assert truncated(agent, "added") == ("ok", [])
    for name in ("added", "beside"):
        (tmp_path / f"{name}.yaml").write_text(write_yaml(policy(name, WORK / name)))
    (tmp_path / "wrong.yaml").write_text(write_yaml(policy("wrong", WORK / "added")).replace("truncate", "trunkate"))
    assert "unknown event" in ask("policy", "add", str(tmp_path), code=2)
    assert truncated(agent, "added") == ("ok", [])
    (tmp_path / "wrong.yaml").unlink()
    assert ask("policy", "add", str(tmp_path)) == "added: added, beside\n"
    assert truncated(agent, "added") == ("EPERM", [("added", "deny")])
    assert truncated(agent, "other") == ("ok", [])
    ask("policy", "set-mode", "added", "guard", "audit")
    assert truncated(agent, "added") == ("ok", [("added", "audit")])
    assert truncated(agent, "guarded") == ("ok", [("guard", "audit")])
    agent.reload()
    agent.settle()
    assert truncated(agent, "guarded") == ("ok", [("guard", "audit")])
    assert truncated(agent, "beside") == ("EPERM", [("beside", "deny")])
    ask("policy", "set-mode", "guard", "declared")
    assert truncated(agent, "guarded") == ("EPERM", [("guard", "deny")])
    ask("policy", "remove", "added", "beside")
    assert truncated(agent, "added") == truncated(agent, "beside") == ("ok", [])
    assert "was not added here" in ask("policy", "remove", "guard", code=2)


def test_a_member_of_the_group_looks_and_changes_nothing(agent: Agent) -> None:
    truncated(agent, "guarded")
    listed = {one["name"]: one for one in json.loads(ask("policy", "list", "--json", user=MEMBER))["policies"]}
    assert listed["guard"]["matched"] > 0
    assert "deny" in ask("policy", "show", "guard", user=MEMBER)
    assert "only root may change" in ask("policy", "set-mode", "guard", "audit", user=MEMBER, code=2)
    assert json.loads(ask("status", "--pin-dir", str(PINS), "--json", user=MEMBER))["agent"]["policies"] == 2
    lines = [json.loads(line) for line in ask("events", "--policy", "guard", "--last", "1", "--json", user=MEMBER).splitlines()]
    assert [(line["policy"], line["action"]) for line in lines] == [("guard", "deny")]


def test_top_knows_costs_while_the_kernel_measures(agent: Agent) -> None:
    statistics = Path("/proc/sys/kernel/bpf_stats_enabled")
    before = statistics.read_text()
    statistics.write_text("1")
    try:
        filled("guarded")
        for _ in range(20):
            run_act(("truncate", str(WORK / "guarded"), "0"), CGROUP_ROOT)
        look = json.loads(ask("top", "--once", "--interval", "0.2", "--json"))
    finally:
        statistics.write_text(before)
    assert look["statistics"] is True
    guard = next(one for one in look["policies"] if one["name"] == "guard")
    assert guard["denied"] >= 20
    assert guard["spent"] > 0
    assert look["programs"]


def test_hostile_clients_change_nothing(agent: Agent) -> None:
    """Some follow and never read, many say nothing, some talk rubbish, some talk on and on."""
    assert agent.process is not None
    before = os.listdir(f"/proc/{agent.process.pid}/fd")
    clients = []
    for kind in range(400):
        client = socket.socket(socket.AF_UNIX)
        client.setblocking(False)
        with contextlib.suppress(OSError):
            client.connect(str(SOCKET))
            client.send((b'{"version":1,"ask":"events","follow":true}\n', b"", b"\xff{[\n", b"x" * 65536)[kind % 4])
        clients.append(client)
    assert truncated(agent, "guarded") == ("EPERM", [("guard", "deny")])
    for _ in range(200):
        run_act(("truncate", str(WORK / "guarded"), "0"), CGROUP_ROOT)
    assert len(os.listdir(f"/proc/{agent.process.pid}/fd")) <= len(before) + 64
    assert "guard" in ask("policy", "list")
    for client in clients:
        client.close()
    assert agent.process.poll() is None


def test_at_the_end_the_socket_is_gone(agent: Agent) -> None:
    """The last test: the agent is stopped."""
    with subprocess.Popen([*COMMAND, "events", "-f", "--socket", str(SOCKET)], cwd=ROOT, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline()
        assert agent.stop() == 0
        rest = follower.stdout.read()
        assert follower.wait(60) == 0
    assert not SOCKET.exists()
    assert not in_use(PINS)
    assert rest is not None
