# SPDX-License-Identifier: Apache-2.0
"""Generic sensors on real acts: kprobes on functions that are no events of the engine's own, system calls and tracepoints report with what
they were given, and kill; the nearest twin is left alone.
"""

from __future__ import annotations

import base64
import ctypes
import os
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.cases import PLAYGROUND, TRIGGER
from tests.kernel.harness import CGROUP_ROOT, SENTINEL, Agent, Playground, go_out, make_files, run_act
from tests.kernel.test_tetragon import arguments, on, policy
from tests.kernel.test_uncertain import counters

WORK = PLAYGROUND / "sensors"
MINE = {"matchBinaries": [{"operator": "In", "values": [str(TRIGGER)]}]}


def selector(*tests: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"matchArgs": list(tests), **MINE, **more}


POLICIES = (
    policy(
        "truncates", "kprobes",
        {
            "call": "do_truncate", "args": [{"index": 1, "type": "nop"}, {"index": 2, "type": "int64"}],
            "selectors": [selector(on(2, "Equal", "4321"))],
        },
    ),
    policy(
        "sockets", "kprobes",
        {
            "call": "tcp_connect", "args": arguments({"type": "sock"}),
            "selectors": [selector(on(0, "DAddr", "127.0.0.8/29"), on(0, "Family", "AF_INET"))],
        },
    ),
    policy(
        "files", "kprobes",
        {
            "call": "vfs_fallocate", "args": arguments({"type": "file"}, {"type": "int"}),
            "selectors": [selector(on(0, "Postfix", "/deadly"), matchActions=[{"action": "Sigkill"}])],
        },
    ),
    policy(
        "programs", "tracepoints",
        {
            "subsystem": "sched", "event": "sched_process_exec", "args": [{"index": 4, "type": "string"}],
            "selectors": [{"matchArgs": [on(4, "Postfix", "/tool")]}],
        },
    ),
)  # fmt: skip
LINKAT = {"call": "sys_linkat", "args": [{"index": 0, "type": "int"}, {"index": 3, "type": "string"}]}
DEVICES = policy(
    "devices", "kprobes",
    {"call": "dev_hard_start_xmit", "args": [{"index": 1, "type": "net_device"}], "selectors": [selector(on(1, "Equal", "lo"))]},
)  # fmt: skip
CREDS = policy(
    "creds", "kprobes",
    {
        "call": "commit_creds", "args": [{"index": 0, "type": "cred"}, {"index": 1, "type": "nop"}],
        "selectors": [{"matchBinaries": [{"operator": "In", "values": [f"{WORK}/tool"]}]}],
    },
)  # fmt: skip
BUFFERS = policy(
    "buffers", "kprobes",
    {
        "call": "sys_pwrite64", "args": [{"index": 1, "type": "char_buf", "sizeArgIndex": 3}, {"index": 2, "type": "size_t"}],
        "selectors": [selector(on(1, "Prefix", "x"), on(2, "LT", "4096"))],
    },
)  # fmt: skip
NAMES = policy("names", "kprobes", {**LINKAT, "selectors": [selector(on(3, "Postfix", "/watched-link")), selector(on(0, "LT", "-100"))]})
DEADLY = policy("deadly", "kprobes", {**LINKAT, "selectors": [selector(on(3, "Prefix", "deadly"), matchActions=[{"action": "Sigkill"}])]})
SIGKILL = [{"action": "Sigkill"}]
BY_TOOL = {"matchBinaries": [{"operator": "In", "values": [f"{WORK}/tool"]}]}
CERTAIN = policy("certain", "kprobes", {**LINKAT, "selectors": [{"matchArgs": [on(0, "GT", "2")], **BY_TOOL, "matchActions": SIGKILL}]})
PEERS = policy(
    "peers", "kprobes",
    {
        "call": "sys_connect", "args": arguments({"type": "int"}, {"type": "sockaddr"}),
        "selectors": [selector(on(1, "SAddr", "127.0.0.16/30"), on(0, "GT", "2"))],
    },
)  # fmt: skip
CALLS = (NAMES, DEADLY, CERTAIN, PEERS, BUFFERS)
for call in CALLS:
    call["spec"]["kprobes"][0]["syscall"] = True
ENTERED = policy(
    "entered", "tracepoints",
    {
        "subsystem": "syscalls", "event": "sys_enter_linkat", "args": [{"index": 8, "type": "string"}],
        "selectors": [selector(on(8, "Equal", "entered-link"))],
    },
)  # fmt: skip
OPENED = policy(
    "opened", "tracepoints",
    {
        "subsystem": "syscalls", "event": "sys_enter_openat", "args": [{"index": 5, "type": "int"}, {"index": 6, "type": "string"}],
        "selectors": [selector(on(5, "Equal", "-100"), on(6, "Equal", f"{WORK}/opened"))],
    },
)  # fmt: skip
ADMIN = {"operator": "In", "values": ["CAP_SYS_ADMIN"]}
PRIVILEGES = tuple(
    policy(
        name, "kprobes",
        {
            "call": "do_truncate", "args": [{"index": 1, "type": "nop"}, {"index": 2, "type": "int64"}],
            "selectors": [{"matchArgs": [on(2, "Equal", size)], **BY_TOOL, **filter_} for size, filter_ in selectors.items()],
        },
    )
    for name, selectors in (
        (
            "namespaces",
            {
                "501": {"matchNamespaces": [{"namespace": "Mnt", "operator": "NotIn", "values": ["host_ns"]}]},
                "502": {"matchNamespaceChanges": [{"operator": "In", "values": ["Mnt"]}]},
                "503": {"matchNamespaceChanges": [{"operator": "NotIn", "values": ["Net"]}], "matchActions": SIGKILL},
            },
        ),
        (
            "privileges",
            {
                "511": {"matchCapabilities": [{"type": "Permitted", **ADMIN}]},
                "512": {"matchCapabilityChanges": [ADMIN]},
                "513": {"matchCapabilities": [{**ADMIN, "isNamespaceCapability": True}]},
            },
        ),
    )
)  # fmt: skip
PARENTS = policy(
    "parents", "kprobes",
    {
        "call": "do_truncate", "args": [{"index": 1, "type": "nop"}, {"index": 2, "type": "int64"}],
        "selectors": [{"matchArgs": [on(2, "Equal", "521")], "matchParentBinaries": [{"operator": "In", "values": [f"{WORK}/tool"]}]}],
    },
)  # fmt: skip
SETS = policy(
    "sets", "kprobes",
    {
        "call": "cap_capset", "args": arguments({"type": "nop"}, {"type": "nop"}, {"type": "cap_effective"}),
        "selectors": [{"matchArgs": [on(2, "NotEqual", str(0xFFFFFFFFFFFFFFFF))], **BY_TOOL}],
    },
)  # fmt: skip
STATES = policy(
    "states", "kprobes",
    {
        "call": "tcp_set_state", "args": arguments({"type": "sock"}, {"type": "int"}),
        "selectors": [selector(on(0, "State", state), on(1, "Equal", "2")) for state in ("TCP_CLOSE", "TCP_LISTEN")],
    },
)  # fmt: skip
PACKETS = policy(
    "packets", "kprobes",
    {
        "call": "ip_output", "args": [{"index": 1, "type": "sock"}, {"index": 2, "type": "skb"}],
        "selectors": [selector(on(2, "DAddr", "127.0.0.24/30"), on(2, "Protocol", "IPPROTO_UDP"), on(2, "DPort", "9901:9902"))],
    },
)  # fmt: skip
MAPS = [
    {"call": call, "args": arguments({"type": "bpf_map"}), "ignore": {"callNotFound": True}}
    for call in ("security_bpf_map_alloc", "security_bpf_map_create")
]
LOADS = policy(
    "loads", "kprobes", {"call": "bpf_check", "args": [{"index": 1, "type": "bpf_attr"}]}, *MAPS,
    {"call": "security_bpf_prog", "args": arguments({"type": "bpf_prog"})},
)  # fmt: skip
PERF = policy("perf", "kprobes", {"call": "security_perf_event_alloc", "args": arguments({"type": "perf_event"}), "selectors": [MINE]})
SOCKETS_MADE = policy(
    "sockets-made", "kprobes",
    {
        "call": "sk_alloc", "args": [{"index": 1, "type": "int"}], "return": True, "returnArg": {"index": 0, "type": "sock"},
        "selectors": [{"matchArgs": [on(1, "Equal", "2")], **BY_TOOL}],
    },
)  # fmt: skip
GENERATED = policy(
    "generated", "kprobes",
    {"call": "list:made", "selectors": [{"matchBinaries": [{"operator": "In", "values": [f"{WORK}/generated-tool"]}]}]},
)  # fmt: skip
GENERATED["spec"]["lists"] = [{"name": "made", "type": "generated_ftrace", "pattern": "^vfs_(fallocate|truncate)$"}]
NATIVE: dict[str, Any] = {
    "apiVersion": "bpfence.io/v1alpha1", "kind": "SecurityPolicy", "metadata": {"name": "native"},
    "spec": {
        "scope": {"exe": f"{WORK}/native-tool"},
        "rules": [
            {"name": "call", "on": {"kprobe": "do_truncate", "args": ["nop", "nop", "sint64"]}, "match": {"sensor.number2": "5000-5010"}},
            {
                "name": "return", "on": {"kprobe": "vfs_fallocate", "args": ["file", "int"], "return": "int"},
                "condition": f"file.path = {WORK}/native and file.mode = 0o600 and sensor.result = 0", "action": "observe",
                "message": "{process.name} had {sensor.result} for {file.path}",
            },
            {
                "name": "text", "on": {"kprobe": "sys_linkat", "args": [{"index": 3, "type": "string"}]},
                "match": {"sensor.text0": "native-*"}, "unless": {"sensor.text0": "native-twin"}, "action": "kill",
            },
            {
                "name": "field", "on": {"tracepoint": "sched/sched_process_exec", "args": [{"index": 4, "type": "string"}]},
                "match": {"sensor.text0": f"{WORK}/native-tool"}, "action": "observe",
            },
            {
                "name": "hook", "on": {"lsm": "inode_mkdir", "args": ["nop", "nop", "uint16"]},
                "match": {"sensor.number2": ["0o755", "0o40755"]}, "action": "observe",
            },
        ],
    },
}  # fmt: skip
STRUCTURES = (PARENTS, STATES, PACKETS, LOADS, PERF, SOCKETS_MADE)
PINS = "/sys/fs/bpf/bpfence-sensors"
RETURNER = WORK / "returner"
"""The rules about returns are about what this one does."""


def waiting(name: str, call: str, args: list[dict[str, Any]], *selectors: dict[str, Any], syscall: bool = False) -> dict[str, Any]:
    own = [{**one, "matchBinaries": [{"operator": "In", "values": [str(RETURNER)]}]} for one in selectors]
    hook = {"call": call, "args": args, "return": True, "returnArg": {"index": 0, "type": "int"}, "selectors": own}
    document = policy(name, "kprobes", hook)
    document["spec"]["kprobes"][0]["syscall"] = syscall
    return document


RETURNS = (
    waiting("ends", "vfs_fallocate", arguments({"type": "file"}, {"type": "int"}), {"matchArgs": [on(0, "Postfix", "/file")]}),
    waiting("outer", "vfs_truncate", [{"index": 0, "type": "path"}, {"index": 1, "type": "int64"}], {"matchArgs": [on(1, "Equal", "77")]}),
    waiting("outer-too", "vfs_truncate", [{"index": 1, "type": "int64"}], {"matchArgs": [on(1, "Equal", "77")]}),
    waiting(
        "inner", "do_truncate", [{"index": 1, "type": "nop"}, {"index": 2, "type": "int64"}],
        {"matchArgs": [on(2, "Equal", "77")], "matchReturnArgs": [on(0, "Equal", "0")]},
    ),
    waiting("joined", "tcp_connect", arguments({"type": "sock"}), {"matchReturnArgs": [on(0, "Equal", "0")]}),
    waiting(
        "exists", "sys_linkat", LINKAT["args"],
        {"matchArgs": [on(3, "Prefix", "twice")], "matchReturnArgs": [on(0, "Equal", "-17")]},
        {"matchArgs": [on(3, "Prefix", "fatal")], "matchReturnArgs": [on(0, "LT", "0")], "matchReturnActions": SIGKILL},
        {"matchArgs": [on(3, "Prefix", "early")], "matchActions": SIGKILL}, syscall=True,
    ),
    waiting(
        "opens", "vfs_open", arguments({"type": "path"}),
        {"matchArgs": [on(0, "Postfix", "/read-me")], "matchReturnArgs": [on(0, "Equal", "0")]},
    ),
    waiting(
        "reads", "sys_pread64",
        [{"index": 1, "type": "char_buf", "sizeArgIndex": 3, "returnCopy": True}, {"index": 2, "type": "size_t"}],
        {"matchArgs": [on(1, "Equal", "r")], "matchReturnArgs": [on(0, "GT", "0")]}, syscall=True,
    ),
)  # fmt: skip
CROWD = waiting("crowd", "sys_read", arguments({"type": "int"}), {"matchReturnArgs": [on(0, "Equal", "0")]}, syscall=True)
MADE = policy(
    "made", "lsmhooks",
    {
        "hook": "inode_mkdir", "args": [{"index": 2, "type": "uint16"}],
        "selectors": [{"matchArgs": [on(2, "Equal", "493", "16877")], "matchBinaries": [{"operator": "In", "values": [str(RETURNER)]}]}],
    },
)  # fmt: skip
PTRACE = ("101", str(0x80000000 | 26))
TABLES = policy(
    "tables", "tracepoints",
    {
        "subsystem": "raw_syscalls", "event": "sys_enter", "args": [{"index": 4, "type": "syscall64"}],
        "selectors": [selector(on(4, "Equal", *PTRACE))],
    },
)  # fmt: skip
MISSING = policy(
    "missing", "kprobes", {"call": "tcp_conect", "args": []}, {"call": "vfs_falocate", "args": [], "ignore": {"callNotFound": True}}
)


def make_work() -> None:
    go_out()
    make_files(SENTINEL)
    WORK.mkdir(parents=True, exist_ok=True)
    for name in ("file", "deadly", "other", "opened", "native", "native-other"):
        (WORK / name).write_bytes(b"x" * 8192)
    (WORK / "native").chmod(0o600)
    for name in ("tool", "twin", "native-tool", "generated-tool"):
        (WORK / name).write_bytes(TRIGGER.read_bytes())
        (WORK / name).chmod(0o755)
    RETURNER.write_bytes(TRIGGER.read_bytes())
    RETURNER.chmod(0o755)


@pytest.fixture(scope="module")
def running(probed: dict[str, str], playground: Playground, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent | None]:
    if probed["attach_cookie"] != "yes":
        yield None
        return
    make_work()
    agent = Agent(tmp_path_factory.mktemp("sensors"), "sensors")
    agent.write_policy(SENTINEL.name, SENTINEL.policy())
    for document in (
        *POLICIES,
        DEVICES,
        CREDS,
        *CALLS,
        ENTERED,
        OPENED,
        TABLES,
        MISSING,
        MADE,
        CROWD,
        SETS,
        GENERATED,
        NATIVE,
        *STRUCTURES,
        *PRIVILEGES,
        *RETURNS,
    ):
        agent.write_policy(document["metadata"]["name"], document)
    agent.start("--pin-dir", PINS)
    agent.settle()
    yield agent
    agent.stop()


@pytest.fixture
def sensing(running: Agent | None, need: Callable[[list[str]], None]) -> Agent:
    need(["attach_cookie"])
    assert running is not None
    return running


def acted(agent: Agent, *words: str) -> tuple[str, list[tuple[str, list[dict[str, Any]], str]]]:
    """How an act ended, and what was told of it: policy, arguments, action."""
    result = run_act(words, CGROUP_ROOT).result
    lines = [line for line in agent.settle() if line["kind"] in ("alert", "event")]
    return result, [(line["policy"], line["dialect.tetragon.args"], line["action"]) for line in lines]


def about(
    done: tuple[str, list[tuple[str, list[dict[str, Any]], str]]], policy_: str
) -> tuple[str, list[tuple[str, list[dict[str, Any]], str]]]:
    """The same with what one policy tells alone."""
    return done[0], [one for one in done[1] if one[0] == policy_]


def test_a_number(sensing: Agent) -> None:
    assert acted(sensing, "truncate", str(WORK / "file"), "4321") == ("ok", [("truncates", [{"long_arg": "4321"}], "observe")])
    assert acted(sensing, "truncate", str(WORK / "file"), "4322") == ("ok", [])


def test_a_socket(sensing: Agent) -> None:
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert about(acted(sensing, "connect", "127.0.0.1", str(port)), "sockets") == ("ok", [])
        result, told = about(acted(sensing, "connect", "127.0.0.9", str(port)), "sockets")
    assert (result, [(name, action) for name, _, action in told]) == ("ok", [("sockets", "observe")])
    assert told[0][1][0]["sock_arg"].items() >= {"family": "AF_INET", "daddr": "127.0.0.9", "dport": port}.items()


def test_a_file_and_a_kill(sensing: Agent) -> None:
    result, told = acted(sensing, "fd", "rdwr", "fallocate", str(WORK / "deadly"))
    assert (result, [(name, action) for name, _, action in told]) == ("killed", [("files", "kill")])
    assert told[0][1][0]["file_arg"]["path"] == str(WORK / "deadly")
    assert acted(sensing, "fd", "rdwr", "fallocate", str(WORK / "other")) == ("ok", [])


def linked(agent: Agent, name: str) -> tuple[str, list[tuple[str, list[dict[str, Any]], str]]]:
    try:
        return acted(agent, "linkat", str(WORK), "other", name)
    finally:
        (WORK / name).unlink(missing_ok=True)


@pytest.mark.parametrize("name", ["./watched-link", f"{'./' * 121}/watched-link", f"{'./' * 300}watched-link"])
def test_a_text_of_a_system_call(sensing: Agent, name: str) -> None:
    result, told = linked(sensing, name)
    assert (result, [(policy_, arguments_[-1], action) for policy_, arguments_, action in told]) == (
        "ok",
        [("names", {"string_arg": name}, "observe")],
    )


def test_another_text(sensing: Agent) -> None:
    assert linked(sensing, "./watched") == ("ok", [])


def test_a_text_that_kills(sensing: Agent) -> None:
    result, told = linked(sensing, "deadly-link")
    assert (result, [(name, action) for name, _, action in told]) == ("killed", [("deadly", "kill")])


def test_a_text_that_cannot_be_read_kills_nobody(sensing: Agent) -> None:
    result, told = acted(sensing, "linkat-unreadable", str(WORK), "other")
    assert (result, {(name, action) for name, _, action in told}) == ("EFAULT", {("deadly", "audit"), ("entered", "observe")})


def test_what_is_certain_kills_beside_a_text_that_cannot_be_read(sensing: Agent) -> None:
    result, told = about(acted(sensing, "exec", str(WORK / "tool"), "linkat-unreadable", str(WORK), "other"), "certain")
    assert (result, [(name, action) for name, _, action in told]) == ("killed", [("certain", "kill")])
    result, told = about(acted(sensing, "exec", str(WORK / "twin"), "linkat-unreadable", str(WORK), "other"), "certain")
    assert (result, told) == ("EFAULT", [])


def test_an_address_in_the_memory_of_a_process(sensing: Agent) -> None:
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen()
        port = listener.getsockname()[1]
        result, told = about(acted(sensing, "connect", "127.0.0.17", str(port)), "peers")
        assert about(acted(sensing, "connect", "127.0.0.20", str(port)), "peers") == ("ok", [])
    assert (result, [(name, arguments_[1]["sockaddr_arg"]["addr"]) for name, arguments_, _ in told]) == ("ok", [("peers", "127.0.0.17")])


def test_a_tracepoint(sensing: Agent) -> None:
    result, told = about(acted(sensing, "exec", str(WORK / "tool"), "ok"), "programs")
    assert (result, told) == ("ok", [("programs", [{"string_arg": f"{WORK}/tool"}], "observe")])
    assert acted(sensing, "exec", str(WORK / "twin"), "ok") == ("ok", [])


def test_a_tracepoint_of_a_system_call(sensing: Agent) -> None:
    assert linked(sensing, "entered-link") == ("ok", [("entered", [{"string_arg": "entered-link"}], "observe")])
    assert linked(sensing, "entered-lin") == ("ok", [])


def test_a_number_that_a_record_has_more_room_for(sensing: Agent) -> None:
    """AT_FDCWD, in the 64 bits of a register without its sign."""
    assert acted(sensing, "open", str(WORK / "opened")) == (
        "ok",
        [("opened", [{"int_arg": -100}, {"string_arg": f"{WORK}/opened"}], "observe")],
    )


@pytest.mark.parametrize(("act", "number", "table"), [("ptrace-request", 101, "x64"), ("ptrace-compat", 26, "i386")])
def test_system_calls_of_both_tables(sensing: Agent, act: str, number: int, table: str) -> None:
    told = about(acted(sensing, act, "7"), "tables")[1]
    assert told == [("tables", [{"syscall_id": {"id": number, "abi": table}}], "observe")]


def test_a_network_device(sensing: Agent) -> None:
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen()
        result, told = about(acted(sensing, "connect", "127.0.0.1", str(listener.getsockname()[1])), "devices")
    assert (result, {(name, arguments_[0]["net_dev_arg"]["name"]) for name, arguments_, _ in told}) == ("ok", {("devices", "lo")})


def test_credentials(sensing: Agent) -> None:
    result, told = acted(sensing, "exec", str(WORK / "tool"), "setresuid", "1234")
    creds = [arguments_[0]["process_credentials_arg"] for name, arguments_, _ in told if name == "creds"]
    assert (result, creds[-1].items() >= {"uid": 1234, "euid": 1234, "suid": 1234, "fsuid": 1234, "gid": 0}.items()) == ("ok", True)
    assert not creds[-1].get("caps", {}).get("effective")


def test_bytes_of_a_buffer(sensing: Agent) -> None:
    (WORK / "file").write_bytes(b"x" * 8192)
    result, told = acted(sensing, "fd", "rdwr", "pwrite", str(WORK / "file"))
    assert (result, told) == ("ok", [("buffers", [{"bytes_arg": "eA=="}, {"size_arg": "1"}], "observe")])
    assert acted(sensing, "fd", "rdwr", "ftruncate", str(WORK / "file")) == ("ok", [])


def returned(agent: Agent, *words: str) -> tuple[str, dict[str, tuple[list[dict[str, Any]], int | None, str]]]:
    """How an act of the returner ended, and by policy what was told of returns: each once."""
    result = run_act(("exec", str(RETURNER), *words), CGROUP_ROOT).result
    names = {document["metadata"]["name"] for document in RETURNS}
    lines = [line for line in agent.settle() if line["kind"] in ("alert", "event") and line["policy"] in names]
    told = {line["policy"]: (line["dialect.tetragon.args"], line.get("dialect.tetragon.return.int_arg"), line["action"]) for line in lines}
    assert len(told) == len(lines)
    return result, told


@pytest.mark.parametrize(("threads", "fit"), [(5, True), (1500, False)])
def test_calls_for_which_there_is_no_room_are_counted(sensing: Agent, threads: int, fit: bool) -> None:
    """All wait at once, then call once more. The kernel tells of the returns of few, and whoever else waits takes of them: that a return
    was missed shows when the same thread calls again."""
    before = counters(PINS)["returns_missed"]
    assert run_act(("exec", str(RETURNER), "threads", str(threads)), CGROUP_ROOT).result == "ok"
    told = [line for line in sensing.settle() if line.get("policy") == "crowd"]
    missed = counters(PINS)["returns_missed"] - before
    assert (missed == 0) is fit
    assert len(told) + missed == 2 * threads if fit else len(told) + missed <= 2 * threads


def test_what_a_function_returns_comes_with_what_it_was_given(sensing: Agent) -> None:
    result, told = returned(sensing, "fd", "rdwr", "fallocate", str(WORK / "file"))
    assert (result, set(told)) == ("ok", {"ends"})
    assert told["ends"][0][0]["file_arg"].items() >= {"path": str(WORK / "file"), "permission": "-rw-r--r--"}.items()
    assert told["ends"][1:] == (0, "observe")
    assert returned(sensing, "fd", "rdwr", "fallocate", str(WORK / "other")) == ("ok", {})


def test_a_call_within_another_is_told_apart(sensing: Agent) -> None:
    result, told = returned(sensing, "truncate", str(WORK / "file"), "77")
    path = {"path_arg": {"path": str(WORK / "file"), "permission": "-rw-r--r--"}}
    assert (result, set(told)) == ("ok", {"outer", "outer-too", "inner"})  # of one function there are two sensors
    assert told["outer-too"] == ([{"long_arg": "77"}], 0, "observe")
    assert told["outer"][0][0]["path_arg"]["path"] == path["path_arg"]["path"]
    assert (told["outer"][0][1], told["outer"][1]) == ({"long_arg": "77"}, 0)
    assert told["inner"] == ([{"long_arg": "77"}], 0, "observe")
    assert returned(sensing, "truncate", str(WORK / "file"), "78") == ("ok", {})
    missing = returned(sensing, "truncate", str(WORK / "not-there"), "77")
    assert missing == ("ENOENT", {})


def test_a_call_of_the_same_function_within_it(sensing: Agent) -> None:
    """Who opens a file of an overlay opens that of the layer within it, which has no path."""
    lower, seen = WORK / "lower", WORK / "overlay"
    for folder in (lower, seen):
        folder.mkdir(exist_ok=True)
    (lower / "read-me").write_bytes(b"x")
    result, told = returned(sensing, "via-overlay", str(lower), str(seen), "read", str(seen / "read-me"))
    assert (result, set(told)) == ("ok", {"opens"})
    assert (told["opens"][0][0]["path_arg"]["path"], told["opens"][1]) == (str(seen / "read-me"), 0)
    (lower / "other").write_bytes(b"x")
    assert returned(sensing, "via-overlay", str(lower), str(seen), "read", str(seen / "other")) == ("ok", {})


def test_a_socket_as_it_was_at_the_call(sensing: Agent) -> None:
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen()
        port = listener.getsockname()[1]
        result, told = returned(sensing, "connect", "127.0.0.9", str(port))
    assert (result, set(told), told["joined"][1]) == ("ok", {"joined"}, 0)
    assert told["joined"][0][0]["sock_arg"].items() >= {"daddr": "127.0.0.9", "dport": port}.items()


def linked_again(agent: Agent, name: str) -> list[tuple[str, dict[str, tuple[list[dict[str, Any]], int | None, str]]]]:
    try:
        return [returned(agent, "linkat", str(WORK), "other", name) for _ in range(2)]
    finally:
        (WORK / name).unlink(missing_ok=True)


def test_what_a_system_call_returns_is_tested(sensing: Agent) -> None:
    first, again = linked_again(sensing, "twice-link")
    assert first == ("ok", {})
    assert (again[0], set(again[1])) == ("EEXIST", {"exists"})
    assert again[1]["exists"][0][-1] == {"string_arg": "twice-link"}
    assert again[1]["exists"][1:] == (-17, "observe")
    assert linked_again(sensing, "thrice-link") == [("ok", {}), ("EEXIST", {})]


def test_what_is_returned_kills(sensing: Agent) -> None:
    first, again = linked_again(sensing, "fatal-link")
    assert first == ("ok", {})
    assert (again[0], again[1]["exists"][1:]) == ("killed", (-17, "kill"))


def test_a_kill_that_asks_for_no_return_is_one_at_the_call(sensing: Agent) -> None:
    first, again = linked_again(sensing, "early-link")
    assert (first[0], first[1]["exists"][1:]) == ("killed", (None, "kill"))
    assert again[0] == "killed"


def test_a_buffer_as_it_is_at_the_return(sensing: Agent) -> None:
    (WORK / "file").write_bytes(b"returned text")
    result, told = returned(sensing, "fd", "rdonly", "pread", str(WORK / "file"))
    assert (result, set(told)) == ("ok", {"reads"})
    assert told["reads"] == ([{"bytes_arg": base64.b64encode(b"r").decode()}, {"size_arg": "1"}], 1, "observe")
    (WORK / "file").write_bytes(b"other")
    assert returned(sensing, "fd", "rdonly", "pread", str(WORK / "file")) == ("ok", {})


def test_any_lsm_hook(sensing: Agent) -> None:
    try:
        result, told = acted(sensing, "exec", str(RETURNER), "mkdir", str(WORK / "made"))
        assert (result, [(name, action) for name, _, action in told]) == ("ok", [("made", "observe")])
        assert told[0][1][0]["uint_arg"] & 0o777 == 0o755, "with the type of the file, on some kernels"
        assert acted(sensing, "exec", str(RETURNER), "mkdir", str(WORK / "made"))[0] == "EEXIST"
        assert acted(sensing, "exec", str(WORK / "twin"), "mkdir", str(WORK / "other-made")) == ("ok", [])
    finally:
        for name in ("made", "other-made"):
            if (WORK / name).exists():
                (WORK / name).rmdir()


@pytest.mark.parametrize(
    ("size", "act", "twin", "result", "policy_"),
    [
        ("501", ("exec", "TOOL", "in-mount-ns"), ("exec", "TOOL"), "ok", "namespaces"),
        ("502", ("exec", "TOOL", "in-mount-ns"), ("in-mount-ns", "exec", "TOOL"), "ok", "namespaces"),
        ("503", ("exec", "TOOL", "in-mount-ns"), ("in-mount-ns", "exec", "TOOL"), "killed", "namespaces"),
        ("511", ("exec", "TOOL"), ("exec", "TOOL", "as", "1234"), "ok", "privileges"),
        ("512", ("exec", "TOOL", "as", "1234"), ("as", "1234", "exec", "TOOL"), "ok", "privileges"),
        ("513", ("exec", "TOOL", "in-user-ns"), ("exec", "TOOL"), "ok", "privileges"),
        ("521", ("exec", "TOOL", "exec", str(WORK / "twin")), ("exec", str(WORK / "twin")), "ok", "parents"),
    ],
)
def test_namespaces_and_capabilities(
    sensing: Agent, size: str, act: tuple[str, ...], twin: tuple[str, ...], result: str, policy_: str
) -> None:
    """What a process has, and what it has other than when its program was executed."""
    (WORK / "file").chmod(0o666)
    acts = [[str(WORK / "tool") if word == "TOOL" else word for word in words] for words in (act, twin)]
    told = [about(acted(sensing, *words, "truncate", str(WORK / "file"), size), policy_) for words in acts]
    expected = (policy_, [{"long_arg": size}], "kill" if result == "killed" else "observe")
    assert told == [(result, [expected]), ("ok", [])]


def test_a_set_of_capabilities(sensing: Agent) -> None:
    result, told = about(acted(sensing, "exec", str(WORK / "tool"), "without-cap", "21", "ok"), "sets")
    assert (result, len(told)) == ("ok", 1)
    bits = int(told[0][1][0]["cap_effective_arg"], 16)
    assert (bits >> 21 & 1, bits >> 20 & 1) == (0, 1)
    assert about(acted(sensing, "exec", str(WORK / "twin"), "without-cap", "21", "ok"), "sets") == ("ok", [])


def test_the_state_of_a_socket(sensing: Agent) -> None:
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen()
        result, told = about(acted(sensing, "connect", "127.0.0.9", str(listener.getsockname()[1])), "states")
    assert (result, [(arguments_[0]["sock_arg"]["state"], arguments_[1]) for _, arguments_, _ in told]) == (
        "ok",
        [("TCP_CLOSE", {"int_arg": 2})],
    )


@pytest.mark.parametrize(
    ("address", "port", "seen"), [("127.0.0.25", "9902", True), ("127.0.0.25", "9903", False), ("127.0.0.28", "9902", False)]
)
def test_a_packet_beside_its_socket(sensing: Agent, address: str, port: str, seen: bool) -> None:
    result, told = about(acted(sensing, "udp-send", address, port), "packets")
    assert (result, len(told)) == ("ok", int(seen))
    for _, (sock, packet), _ in told:
        assert sock["sock_arg"].items() >= {"family": "AF_INET", "type": "SOCK_DGRAM", "protocol": "IPPROTO_UDP"}.items()
        expected = {"family": "AF_INET", "protocol": "IPPROTO_UDP", "proto": 17, "daddr": address, "dport": int(port), "len": 29}
        assert packet["skb_arg"].items() >= expected.items()


def bpf(command: int, attributes: bytes) -> int:
    return int(ctypes.CDLL(None, use_errno=True).syscall(321, command, attributes, len(attributes)))


def test_programs_and_maps_of_bpf(sensing: Agent) -> None:
    made = bpf(0, struct.pack("<7I16s", 2, 4, 8, 3, 0, 0, 0, b"sensed_map"))
    instructions = ctypes.create_string_buffer(bytes.fromhex("b700000000000000") + bytes.fromhex("9500000000000000"))
    licence = ctypes.create_string_buffer(b"GPL")
    loaded = bpf(5, struct.pack("<2I2Q2IQ2I16s", 1, 2, ctypes.addressof(instructions), ctypes.addressof(licence), 0, 0, 0, 0, 0, b"sensed"))
    assert min(made, loaded) >= 0
    os.close(made)
    os.close(loaded)
    told = [line["dialect.tetragon.args"][0] for line in sensing.settle() if line.get("policy") == "loads"]
    program = {"ProgType": "BPF_PROG_TYPE_SOCKET_FILTER", "InsnCnt": 2, "ProgName": "sensed"}
    array = {"MapType": "BPF_MAP_TYPE_ARRAY", "KeySize": 4, "ValueSize": 8, "MaxEntries": 3, "MapName": "sensed_map"}
    assert told == [{"bpf_map_arg": array}, {"bpf_attr_arg": program}, {"bpf_prog_arg": program}]


def test_an_event_of_perf(sensing: Agent) -> None:
    result, told = about(acted(sensing, "perf"), "perf")
    assert (result, [(list(arguments_[0]), action) for _, arguments_, action in told]) == ("ok", [(["perf_event_arg"], "observe")])
    # Since Linux 6.6 the processor's clock is a source of its own, which the kernel writes into what it was asked for.
    assert told[0][1][0]["perf_event_arg"]["Type"] in ("PERF_TYPE_SOFTWARE", "6")
    assert about(acted(sensing, "exec", str(WORK / "twin"), "perf"), "perf") == ("ok", [])


def test_a_socket_that_is_returned(sensing: Agent) -> None:
    assert run_act(("exec", str(WORK / "tool"), "udp-send", "127.0.0.9", "9901"), CGROUP_ROOT).result == "ok"
    [line] = [line for line in sensing.settle() if line.get("policy") == "sockets-made"]
    assert (line["dialect.tetragon.args"], line["dialect.tetragon.return.sock_arg.family"]) == ([{"int_arg": 2}], "AF_INET")
    assert about(acted(sensing, "exec", str(WORK / "twin"), "udp-send", "127.0.0.9", "9901"), "sockets-made") == ("ok", [])


def native(agent: Agent, *words: str) -> tuple[str, list[tuple[str, str, str]]]:
    """How an act of the tool ended, and what the native policy told of it but for its start: rule, action, message."""
    result = run_act(("exec", f"{WORK}/native-tool", *words), CGROUP_ROOT).result
    told = [(line["rule"], line["action"], line["message"]) for line in agent.settle() if line.get("policy") == "native"]
    assert told[:1] == [("field", "observe", f"tracepoint sched/sched_process_exec by {WORK}/native-tool")]
    return result, told[1:]


def test_native_rules_on_sensors(sensing: Agent) -> None:
    """What calls and returns bring, in the language's own fields; each beside an act that is left alone."""
    tool = f"{WORK}/native-tool"
    assert native(sensing, "truncate", f"{WORK}/file", "5010") == ("ok", [("call", "audit", f"call of do_truncate by {tool}")])
    assert native(sensing, "truncate", f"{WORK}/file", "5011") == ("ok", [])
    said = f"native-tool had 0 for {WORK}/native"
    assert native(sensing, "fd", "rdwr", "fallocate", f"{WORK}/native") == ("ok", [("return", "observe", said)])
    assert native(sensing, "fd", "rdwr", "fallocate", f"{WORK}/native-other") == ("ok", [])
    try:
        made = [("hook", "observe", f"call of security_inode_mkdir by {tool}")]
        assert native(sensing, "mkdir", f"{WORK}/native-made") == ("ok", made)
        assert native(sensing, "rmdir", f"{WORK}/native-made") == ("ok", [])
    finally:
        if (WORK / "native-made").exists():
            (WORK / "native-made").rmdir()
    killed = ("killed", [("text", "kill", f"call of sys_linkat by {tool}")])
    assert native(sensing, "linkat", str(WORK), "other", "native-link") == killed
    try:
        assert native(sensing, "linkat", str(WORK), "other", "native-twin") == ("ok", [])
    finally:
        for name in ("native-link", "native-twin"):
            (WORK / name).unlink(missing_ok=True)


def test_a_list_of_functions_that_is_generated(sensing: Agent) -> None:
    def told(tool: str, *words: str) -> list[str]:
        assert run_act(("exec", f"{WORK}/{tool}", *words), CGROUP_ROOT).result == "ok"
        return [line["rule"] for line in sensing.settle() if line.get("policy") == "generated"]

    fallocate = ("fd", "rdwr", "fallocate", f"{WORK}/other")
    assert told("generated-tool", *fallocate) == ["kprobes[0].vfs_fallocate.selectors[0]"]
    assert told("generated-tool", "truncate", f"{WORK}/other", "4096") == ["kprobes[0].vfs_truncate.selectors[0]"]
    assert told("twin", *fallocate) == []


def test_a_function_that_is_not_there_is_told(sensing: Agent) -> None:
    log = sensing.log()
    assert "policy 'missing'" in log
    assert "tcp_connect" in log
    assert "vfs_falocate" not in log


LIFE = ("--pin-dir", "/sys/fs/bpf/bpfence-sensors-life")
TRUNCATE, TWIN = ("truncate", str(WORK / "file"), "4321"), ("truncate", str(WORK / "file"), "4322")
FALLOCATE, HARMLESS = ("fd", "rdwr", "fallocate", str(WORK / "deadly")), ("fd", "rdwr", "fallocate", str(WORK / "other"))


def senses(agent: Agent) -> None:
    assert about(acted(agent, *TRUNCATE), "truncates")[1] == [("truncates", [{"long_arg": "4321"}], "observe")]
    assert about(acted(agent, *TWIN), "truncates") == ("ok", [])
    assert acted(agent, *FALLOCATE)[0] == "killed"
    assert acted(agent, *HARMLESS)[0] == "ok"


@pytest.fixture
def alone(probed: dict[str, str], playground: Playground, tmp_path: Path, need: Callable[[list[str]], None]) -> Iterator[Agent]:
    """An agent with a life of its own, in which privileges are given up after the start."""
    need(["attach_cookie"])
    make_work()
    agent = Agent(tmp_path, "sensors-life")
    agent.write_policy(SENTINEL.name, SENTINEL.policy())
    agent.start(*LIFE)
    agent.settle()
    yield agent
    if agent.process is not None and agent.process.poll() is None:
        agent.stop()


def test_sensors_come_with_reloads_and_go_on_with_the_next_agent(alone: Agent) -> None:
    assert acted(alone, *TRUNCATE) == ("ok", [])
    for document in (POLICIES[0], POLICIES[2]):
        alone.write_policy(document["metadata"]["name"], document)
    alone.reload()
    senses(alone)
    alone.stop(signal.SIGKILL)
    assert run_act(FALLOCATE, CGROUP_ROOT).result == "killed"
    alone.start(*LIFE)
    alone.settle()
    assert "adopted" in {line.get("status") for line in alone.seen}
    senses(alone)
    alone.write_policy("programs", POLICIES[3])
    alone.reload()
    senses(alone)
    told = about(acted(alone, "exec", str(WORK / "tool"), "ok"), "programs")[1]
    assert told == [("programs", [{"string_arg": f"{WORK}/tool"}], "observe")]


def test_an_adoption_without_descriptors_leaves_what_is_in_force(alone: Agent) -> None:
    alone.write_policy("files", POLICIES[2])
    alone.reload()
    alone.stop(signal.SIGKILL)
    with pytest.raises(AssertionError, match=r"(?i)too many open files; 40 may be open here"):
        alone.start(*LIFE, wrapper=("prlimit", "--nofile=40:40"))
    assert run_act(FALLOCATE, CGROUP_ROOT).result == "killed"
    assert run_act(HARMLESS, CGROUP_ROOT).result == "ok"
    alone.write_policy("truncates", POLICIES[0])
    alone.start(*LIFE)
    alone.settle()
    senses(alone)


def test_a_kernel_that_has_no_sensors_refuses_what_kills(probed: dict[str, str], playground: Playground, tmp_path: Path) -> None:
    """What only reports is told to be left out; nothing else is."""
    go_out()
    make_files(SENTINEL)
    agent = Agent(tmp_path, "no-sensors")
    agent.write_policy(SENTINEL.name, SENTINEL.policy())
    agent.write_policy("programs", POLICIES[3])
    agent.start("--pin-dir", "/sys/fs/bpf/bpfence-no-sensors")
    agent.settle()
    agent.stop()
    if probed["attach_cookie"] == "yes":
        assert "bpf_get_attach_cookie" not in agent.log()
        return
    assert "bpf_get_attach_cookie" in agent.log()
    agent.write_policy("deadly", DEADLY)
    with pytest.raises(AssertionError, match="bpf_get_attach_cookie"):
        agent.start("--pin-dir", "/sys/fs/bpf/bpfence-no-sensors")
