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
        "no-links", "kprobes",
        {
            "call": "sys_linkat", "args": [{"index": 1, "type": "string"}, {"index": 3, "type": "string"}],
            "selectors": [selector(on(1, "Equal", "deadly"), **override(-16)), selector(on(3, "Equal", "seen-link"))],
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


def signals(number: int) -> dict[str, Any]:
    return {"matchActions": [{"action": "Signal", "argSig": number}]}


TOOL = f"{WORK}/tool"
SIGNALS = (
    policy(
        "at-function", "kprobes",
        {"call": "vfs_fallocate", "args": arguments({"type": "file"}), "selectors": [selector(AT_DEADLY, **signals(10))]},
    ),
    policy(
        "at-tracepoint", "tracepoints",
        {
            "subsystem": "syscalls", "event": "sys_enter_linkat", "args": [{"index": 8, "type": "string"}],
            "selectors": [selector(on(8, "Equal", "signalled-link"), **signals(34))],
        },
    ),
    policy("in-program", "uprobes", {"path": TOOL, "symbols": ["do_ok"], "selectors": [signals(15)]}),
    policy(
        "at-event", "lsmhooks",
        {"hook": "file_open", "args": arguments({"type": "file"}), "selectors": [selector(on(0, "Postfix", "/opened"), **signals(12))]},
    ),
)  # fmt: skip
ENFORCED = policy(
    "enforced", "tracepoints",
    {
        "subsystem": "raw_syscalls", "event": "sys_enter", "args": [{"index": 4, "type": "syscall64"}],
        "selectors": [{**BY_TOOL, "matchActions": [{"action": "NotifyEnforcer", "argError": -1, "argSig": 9}]}],
    },
)  # fmt: skip
ENFORCED["spec"]["enforcers"] = [{"calls": ["sys_chmod"]}]
next(one for one in POLICIES if one["metadata"]["name"] == "no-links")["spec"]["kprobes"][0]["syscall"] = True
WATCHED = policy("watched", "kprobes", {"call": "security_inode_mkdir", "args": [{"index": 2, "type": "uint16"}], "selectors": [MINE]})


@pytest.fixture
def refusing(probed: dict[str, str], playground: Playground, tmp_path: Path, need: Callable[[list[str]], None]) -> Iterator[Agent]:
    need(["attach_cookie"])
    make_work()
    agent = Agent(tmp_path, "overrides")
    agent.write_policy(SENTINEL.name, SENTINEL.policy())
    for document in (*POLICIES, *SIGNALS, ENFORCED, WATCHED):
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
    linked = (WORK / "new-link", WORK / "seen-link")
    result, told = acted(agent, "linkat", str(WORK), "deadly", linked[0].name)
    assert (result, told) == ("EBUSY", [("no-links", [{"string_arg": "deadly"}, {"string_arg": linked[0].name}], "deny")])
    assert acted(agent, "linkat", str(WORK), "other", linked[0].name) == ("ok", [])
    result, told = acted(agent, "linkat", str(WORK), "other", linked[1].name)
    assert (result, told) == ("ok", [("no-links", [{"string_arg": "other"}, {"string_arg": linked[1].name}], "observe")])
    assert acted(agent, "link", str(WORK / "deadly"), str(WORK / "third-link")) == ("ok", []), "by another system call"
    for path in (*linked, WORK / "third-link"):
        path.unlink()


def signalled(agent: Agent, *words: str) -> tuple[str, list[tuple[str, str, str, str]]]:
    result = run_act(words, CGROUP_ROOT).result
    lines = [line for line in agent.settle() if "sent" in line]
    return result, [(line["policy"], line["action"], line["sent"], line["dialect.tetragon.action"]) for line in lines]


def signals_are_sent(agent: Agent) -> None:
    """At every kind of hook, and the act that they are sent for goes on."""
    at, other = str(WORK / "deadly"), str(WORK / "other")
    links = [("linkat", str(WORK), "other", name) for name in ("signalled-link", "other-link")]
    for words, twin, name, number, title in (
        (("fd", "rdwr", "fallocate", at), ("fd", "rdwr", "fallocate", other), "at-function", 10, "SIGUSR1"),
        (links[0], links[1], "at-tracepoint", 34, "SIGRTMIN"),
        (("exec", TOOL, "ok"), ("exec", f"{WORK}/twin", "ok"), "in-program", 15, "SIGTERM"),
        (("open", str(WORK / "opened")), ("open", other), "at-event", 12, "SIGUSR2"),
    ):
        assert signalled(agent, *words) == (f"signal {number}", [(name, "audit", title, "KPROBE_ACTION_SIGNAL")])
        assert signalled(agent, *twin) == ("ok", [])
    result, told = acted(agent, "exec", TOOL, "chmod", other, "600")
    assert (result, told) == ("killed", [("enforced", [{"syscall_id": {"id": 90, "abi": "x64"}}], "kill")])
    assert acted(agent, "chmod", other, "600") == ("ok", [])
    for link in links:
        (WORK / link[-1]).unlink()  # the first is there, too


def test_what_a_sensor_refuses_does_not_happen(refusing: Agent) -> None:
    refused(refusing)
    line = next(line for line in refusing.seen if line.get("policy") == "no-folders")
    assert (line["errno"], line["dialect.tetragon.return.int_arg"], line["dialect.tetragon.action"]) == (
        "EACCES",
        -13,
        "KPROBE_ACTION_OVERRIDE",
    )
    signals_are_sent(refusing)
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


def test_a_kernel_that_has_no_sensors_refuses_what_is_to_refuse(playground: Playground, tmp_path: Path) -> None:
    """Nothing is put in force that would let acts pass; without the policy the same agent starts."""
    make_work()
    agent = Agent(tmp_path, "no-overrides")
    agent.write_policy(SENTINEL.name, SENTINEL.policy())
    path = agent.write_policy("no-folders", POLICIES[0])
    with pytest.raises(AssertionError, match="bpf_get_attach_cookie"):
        agent.start("--pin-dir", "/sys/fs/bpf/bpfence-no-overrides")
    path.unlink()
    agent.start("--pin-dir", "/sys/fs/bpf/bpfence-no-overrides")
    agent.settle()
    agent.stop()
