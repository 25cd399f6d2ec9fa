# SPDX-License-Identifier: Apache-2.0
"""Hooks of the LSM that are no events of the engine's own, as sensors that refuse: what they refuse does not happen, also while there is no
agent, and the caller gets the policy's error; the nearest twin is left alone.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.harness import CGROUP_ROOT, SENTINEL, Agent, Playground, run_act
from tests.kernel.test_sensors import LIFE, MINE, WORK, acted, make_work, selector
from tests.kernel.test_tetragon import arguments, on, policy

FOLDER = WORK / "refused"
AT_DEADLY = on(0, "Postfix", "/deadly")
BY_TOOL = {"matchBinaries": [{"operator": "In", "values": [f"{WORK}/tool"]}]}


def override(error: int, *more: str) -> dict[str, Any]:
    return {"matchActions": [{"action": "Override", "argError": error}, *({"action": action} for action in more)]}


POLICIES = (
    policy(
        "no-folders", "kprobes",
        {
            "call": "security_inode_mkdir", "args": [{"index": 2, "type": "uint16"}], "return": True,
            "returnArg": {"index": 0, "type": "int"}, "selectors": [{**BY_TOOL, **override(-13)}],
        },
    ),
    policy(
        "no-looks", "lsmhooks",
        {"hook": "inode_getattr", "args": arguments({"type": "path"}), "selectors": [selector(AT_DEADLY, **override(-2))]},
    ),
    policy(
        "no-priorities", "lsmhooks",
        {
            "hook": "task_setnice", "args": [{"index": 1, "type": "int"}],
            "selectors": [{"matchArgs": [on(1, "LT", "0")], **BY_TOOL, **override(-1, "Sigkill")}],
        },
    ),
)  # fmt: skip
WATCHED = policy("watched", "kprobes", {"call": "security_inode_mkdir", "args": [{"index": 2, "type": "uint16"}], "selectors": [MINE]})


@pytest.fixture
def refusing(probed: dict[str, str], playground: Playground, tmp_path: Path, need: Callable[[list[str]], None]) -> Iterator[Agent]:
    need(["attach_cookie"])
    make_work()
    agent = Agent(tmp_path, "overrides")
    agent.write_policy(SENTINEL.name, SENTINEL.policy())
    for document in (*POLICIES, WATCHED):
        agent.write_policy(document["metadata"]["name"], document)
    agent.start(*LIFE)
    agent.settle()
    yield agent
    if agent.process is not None and agent.process.poll() is None:
        agent.stop()
    if FOLDER.exists():
        FOLDER.rmdir()


def refused(agent: Agent) -> None:
    """That acts are refused, and their twins not."""
    result, told = acted(agent, "exec", str(WORK / "tool"), "mkdir", str(FOLDER))
    assert (result, FOLDER.exists()) == ("EACCES", False)
    [(_, given, action)] = [one for one in told if one[0] == "no-folders"]
    assert (given[0]["uint_arg"] & 0o777, action) == (0o755, "deny")
    result, told = acted(agent, "mkdir", str(FOLDER))
    assert (result, [(name, action) for name, _, action in told]) == ("ok", [("watched", "observe")])
    FOLDER.rmdir()
    result, told = acted(agent, "stat", str(WORK / "deadly"))
    assert (result, told) == ("ENOENT", [("no-looks", [{"path_arg": {"path": str(WORK / "deadly")}}], "deny")])
    assert acted(agent, "stat", str(WORK / "other")) == ("ok", [])
    assert acted(agent, "exec", str(WORK / "tool"), "nice") == ("killed", [("no-priorities", [{"int_arg": -1}], "kill")])
    assert acted(agent, "nice") == ("ok", [])


def test_what_a_sensor_refuses_does_not_happen(refusing: Agent) -> None:
    refused(refusing)
    line = next(line for line in refusing.seen if line.get("policy") == "no-folders")
    assert (line["errno"], line["dialect.tetragon.return.int_arg"], line["dialect.tetragon.action"]) == (
        "EACCES",
        -13,
        "KPROBE_ACTION_OVERRIDE",
    )
    refusing.stop(signal.SIGKILL)
    assert run_act(("exec", str(WORK / "tool"), "mkdir", str(FOLDER)), CGROUP_ROOT).result == "EACCES"
    assert run_act(("mkdir", str(FOLDER)), CGROUP_ROOT).result == "ok"
    FOLDER.rmdir()
    refusing.start(*LIFE)
    refusing.settle()
    assert "adopted" in {line.get("status") for line in refusing.seen}
    refused(refusing)
    missing = policy("missing", "lsmhooks", {"hook": "inode_mkdri", "args": [], "selectors": [override(-1)]})
    silent = policy("silent", "lsmhooks", {"hook": "d_instantiate", "args": [], "selectors": [override(-1)]})
    for document, reason in ((missing, "there is inode_mkdir"), (silent, "returns nothing")):
        path = refusing.write_policy(document["metadata"]["name"], document)
        with pytest.raises(AssertionError):
            refusing.reload()
        assert reason in refusing.log()
        path.unlink()
        refusing.settle()
    refused(refusing)
