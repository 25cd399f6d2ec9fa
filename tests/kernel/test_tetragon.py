# SPDX-License-Identifier: Apache-2.0
"""Tracing policies on real acts: each hook that is an event reports with the arguments it was given, denies and kills what it says, and
leaves the nearest twin alone. In both forms: bpfence's own, and that of Tetragon's export.
"""

from __future__ import annotations

import grp
import json
import shutil
import socket
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from bpfence.dialects.tetragon import wire
from tests.kernel.cases import PLAYGROUND, TRIGGER, write_yaml
from tests.kernel.harness import ALERT_SECONDS, CGROUP_ROOT, SENTINEL, Agent, Playground, go_out, make_files, run_act
from tests.unit.services.client import Client
from tests.unit.services.watcher import Watcher

WORK = PLAYGROUND / "tetragon"
SOCKET = Path("/run/bpfence-tetragon/tetragon.sock")
SERVICE = "127.0.0.1:32767"
GROUP = "daemon"
FILE, INT, UINT, PATH, BINPRM = ({"type": name} for name in ("file", "int", "uint32", "path", "linux_binprm"))
RETURNS = {"return": True, "returnArg": {"index": 0, "type": "int"}, "returnArgAction": "Post"}
OVERRIDE = [{"action": "Override", "argError": -1}]


def arguments(*types: dict[str, str]) -> list[dict[str, Any]]:
    return [{"index": index, **type_} for index, type_ in enumerate(types)]


def on(index: int, operator: str, *values: str) -> dict[str, Any]:
    return {"index": index, "operator": operator, "values": list(values)}


def policy(name: str, section: str, *hooks: dict[str, Any], **spec: Any) -> dict[str, Any]:
    head = {"apiVersion": "cilium.io/v1alpha1", "kind": "TracingPolicy", "metadata": {"name": name}}
    plain = {"syscall": False} if section == "kprobes" else {}
    return {**head, "spec": {section: [{**hook, **plain} for hook in hooks], **spec}}


WATCHED = on(0, "Prefix", f"{WORK}/watched/")
MONITORING = policy(
    "file-monitoring",
    "kprobes",
    {
        "call": "security_file_permission", "args": arguments(FILE, INT), **RETURNS, "message": "a watched file", "tags": ["a.b"],
        "selectors": [{"matchArgs": [WATCHED, on(1, "Equal", mask)]} for mask in ("4", "2")],
    },
    {
        "call": "security_mmap_file", "args": arguments(FILE, UINT, UINT), **RETURNS,
        "selectors": [{"matchArgs": [WATCHED, on(1, "Mask", "2")]}],
    },
    {"call": "security_path_truncate", "args": arguments(PATH), "selectors": [{"matchArgs": [WATCHED]}]},
)  # fmt: skip
GUARD = policy(
    "guard",
    "kprobes",
    {
        "call": "security_path_truncate", "args": arguments(PATH),
        "selectors": [{"matchArgs": [on(0, "Equal", f"{WORK}/guarded")], "matchActions": OVERRIDE}],
    },
    {
        "call": "security_file_open", "args": arguments(FILE),
        "selectors": [
            {"matchArgs": [on(0, "Postfix", "/deadly")], "matchBinaries": [{"operator": "In", "values": [f"{WORK}/spared"]}],
             "matchActions": [{"action": "NoPost"}]},
            {"matchArgs": [on(0, "Equal", f"{WORK}/deadly")], "matchActions": [{"action": "Sigkill"}]},
            {"matchArgs": [on(0, "Equal", f"{WORK}/offspring")], "matchActions": OVERRIDE,
             "matchBinaries": [{"operator": "In", "values": [f"{WORK}/tool"], "followChildren": True}]},
            {"matchArgs": [on(0, "Equal", f"{WORK}/mighty")], "matchActions": OVERRIDE,
             "matchCapabilities": [{"operator": "NotIn", "values": ["CAP_SYS_ADMIN"]}]},
        ],
    },
)  # fmt: skip
LSM = policy(
    "programs",
    "lsmhooks",
    {
        "hook": "bprm_check_security", "args": arguments(BINPRM),
        "selectors": [{"matchArgs": [on(0, "Equal", f"{WORK}/forbidden")], "matchActions": [{"action": "Override", "argError": -13}]}],
    },
)  # fmt: skip
NETWORK = policy(
    "network",
    "kprobes",
    {
        "call": "security_socket_connect", "args": arguments({"type": "socket"}, {"type": "sockaddr"}, INT),
        "selectors": [{"matchArgs": [on(0, "Protocol", "IPPROTO_TCP"), on(1, "SAddr", "127.0.0.8/29"), on(1, "Family", "AF_INET")]}],
    },
)  # fmt: skip
MODULES = policy(
    "modules",
    "kprobes",
    {
        "call": "security_kernel_read_file", "args": arguments(FILE, INT), **RETURNS,
        "selectors": [{"matchArgs": [on(0, "Postfix", "/rootkit.ko"), on(1, "Equal", "2")], "matchActions": OVERRIDE}],
    },
)  # fmt: skip


class Tracing:
    """An agent with the policies; its events in the form of Tetragon's export go to a file."""

    def __init__(self, folder: Path) -> None:
        self.agent = Agent(folder, "tetragon")
        self.export = self.agent.log_path.with_name("tetragon-export.jsonl")

    def start(self) -> None:
        self.agent.write_policy(SENTINEL.name, SENTINEL.policy())
        for document in (MONITORING, GUARD, LSM, NETWORK, MODULES):
            self.agent.write_policy(document["metadata"]["name"], document)
        with self.export.open("wb") as file:
            more = ("--pin-dir", "/sys/fs/bpf/bpfence-tetragon", "--tetragon-socket", str(SOCKET), "--tetragon-group", GROUP)
            more = (*more, "--kubearmor-service", SERVICE)
            self.agent.start("--format", "tetragon", *more, stdout=file.fileno())
        self.agent.settle()

    def act(self, *words: str) -> tuple[str, list[dict[str, Any]]]:
        """How an act ended, and what was told of it."""
        result = run_act(words, CGROUP_ROOT).result
        return result, [line for line in self.agent.settle() if line["kind"] in ("alert", "event")]

    def exported(self, call: str, *begin: str) -> dict[str, Any]:
        """The event of a function in the other form, of the trigger with arguments that begin so. That output has a thread of its own."""
        deadline = time.monotonic() + ALERT_SECONDS
        while time.monotonic() < deadline:
            data = self.export.read_bytes()
            for line in data[: data.rfind(b"\n") + 1].splitlines():
                event = next(iter(json.loads(line).values()))
                if event.get("function_name") == call and event["process"].get("arguments", "").startswith(" ".join(begin)):
                    return dict(event)
            time.sleep(0.1)
        raise AssertionError(f"no event of {call} in {self.export}")


@pytest.fixture(scope="module")
def tracing(playground: Playground, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracing]:
    go_out()
    make_files(SENTINEL)
    (WORK / "watched").mkdir(parents=True, exist_ok=True)
    for name in ("watched/file", "other", "guarded", "deadly", "offspring", "mighty", "rootkit.ko", "honest.ko"):
        (WORK / name).write_bytes(b"x" * 8192)
        (WORK / name).chmod(0o666)
    for name in ("tool", "spared", "forbidden", "allowed"):
        shutil.copy(TRIGGER, WORK / name)
    whole = Tracing(tmp_path_factory.mktemp("tetragon"))
    whole.start()
    yield whole
    whole.agent.stop()


def told(lines: Sequence[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(line["policy"], line["dialect.tetragon.function_name"], line["action"]) for line in lines]


@pytest.mark.parametrize(
    ("words", "call", "numbers"),
    [
        (("read", "{}"), "security_file_permission", [{"int_arg": 4}]),
        (("write", "{}"), "security_file_permission", [{"int_arg": 2}]),
        (("mmap", "{}", "rw", "shared"), "security_mmap_file", [{"uint_arg": 3}, {"uint_arg": 1}]),
        (("truncate", "{}"), "security_path_truncate", []),
    ],
)
def test_acts_on_watched_files_are_reported(words: tuple[str, ...], call: str, numbers: list[dict[str, int]], tracing: Tracing) -> None:
    watched, other = str(WORK / "watched/file"), str(WORK / "other")
    Path(watched).write_bytes(b"x" * 8192)
    tracing.agent.settle()
    assert tracing.act(*(word.format(other) for word in words)) == ("ok", [])
    result, lines = tracing.act(*(word.format(watched) for word in words))
    assert result == "ok"
    assert told(lines) == [("file-monitoring", call, "observe")], lines
    file = {"path": watched, "permission": "-rw-rw-rw-"}
    given = lines[0]["dialect.tetragon.args"]
    assert given == [{"path_arg" if call == "security_path_truncate" else "file_arg": file}, *numbers]
    event = tracing.exported(call, words[0], watched)
    assert (event["policy_name"], event["args"], event["action"]) == ("file-monitoring", given, "KPROBE_ACTION_POST")
    if call != "security_path_truncate":
        assert event["return"] == {"int_arg": 0}
    if call == "security_file_permission":
        assert (event["message"], event["tags"]) == ("a watched file", ["a.b"])
    assert event["process"]["binary"] == str(TRIGGER)
    assert event["process"]["exec_id"] != event["process"]["parent_exec_id"]


def test_a_mapping_that_only_reads_is_another_act(tracing: Tracing) -> None:
    assert tracing.act("mmap", str(WORK / "watched/file"), "r", "private") == ("ok", [])


def test_override_refuses_the_act(tracing: Tracing) -> None:
    result, lines = tracing.act("truncate", str(WORK / "guarded"))
    assert (result, told(lines)) == ("EPERM", [("guard", "security_path_truncate", "deny")])
    assert lines[0]["dialect.tetragon.action"] == "KPROBE_ACTION_OVERRIDE"
    assert (WORK / "guarded").stat().st_size == 8192
    assert tracing.act("truncate", str(WORK / "other"), "8192") == ("ok", [])


def test_an_lsm_hook_refuses_with_its_own_error(tracing: Tracing) -> None:
    result, lines = tracing.act("exec", str(WORK / "forbidden"), "ok")
    assert (result, told(lines)) == ("EACCES", [("programs", "bprm_check_security", "deny")])
    event = tracing.exported("bprm_check_security", "exec")
    assert event["args"][0]["linux_binprm_arg"]["path"] == str(WORK / "forbidden")
    assert tracing.act("exec", str(WORK / "allowed"), "ok") == ("ok", [])


def test_the_first_selector_that_matches_decides(tracing: Tracing) -> None:
    result, lines = tracing.act("open", str(WORK / "deadly"))
    assert (result, told(lines)) == ("killed", [("guard", "security_file_open", "kill")])
    assert tracing.act("exec", str(WORK / "spared"), "open", str(WORK / "deadly")) == ("ok", [])


def test_children_are_followed(tracing: Tracing) -> None:
    asked = ("open", str(WORK / "offspring"))
    result, lines = tracing.act("exec", str(WORK / "tool"), "then", str(WORK / "allowed"), *asked)
    assert (result, told(lines)) == ("EPERM", [("guard", "security_file_open", "deny")])
    assert tracing.act("exec", str(WORK / "allowed"), *asked) == ("ok", [])


def test_capabilities(tracing: Tracing) -> None:
    result, lines = tracing.act("as", "1000", "open", str(WORK / "mighty"))
    assert (result, told(lines)) == ("EPERM", [("guard", "security_file_open", "deny")])
    assert tracing.act("open", str(WORK / "mighty")) == ("ok", [])


def test_connections(tracing: Tracing) -> None:
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert tracing.act("connect", "127.0.0.1", str(port)) == ("ok", [])
        result, lines = tracing.act("connect", "127.0.0.9", str(port))
    assert (result, told(lines)) == ("ok", [("network", "security_socket_connect", "observe")])
    sock, *others = lines[0]["dialect.tetragon.args"]
    assert sock["sock_arg"].items() >= {"family": "AF_INET", "type": "SOCK_STREAM", "protocol": "IPPROTO_TCP"}.items()
    assert others == [{"sockaddr_arg": {"family": "AF_INET", "addr": "127.0.0.9", "port": port}}, {"int_arg": 16}]


def test_modules(tracing: Tracing) -> None:
    result, lines = tracing.act("finit-module", str(WORK / "rootkit.ko"))
    assert (result, told(lines)) == ("EPERM", [("modules", "security_kernel_read_file", "deny")])
    file, what = lines[0]["dialect.tetragon.args"]
    assert (file["file_arg"]["path"], what) == (f"{WORK}/rootkit.ko", {"int_arg": 2})
    assert tracing.act("finit-module", str(WORK / "honest.ko")) == ("ok", [])


def test_a_client_of_tetragon_adds_a_policy_listens_and_takes_it_away(tracing: Tracing) -> None:
    """The agent has given up its privileges when it makes the socket, and enforces what is added in the next act."""
    found = SOCKET.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o660, grp.getgrnam(GROUP).gr_gid)
    added = policy(
        "added",
        "kprobes",
        {
            "call": "security_path_truncate", "args": arguments(PATH),
            "selectors": [{"matchArgs": [on(0, "Equal", f"{WORK}/added")], "matchActions": OVERRIDE}],
        },
    )  # fmt: skip
    (WORK / "added").write_bytes(b"x" * 8192)
    client = Client(SOCKET)
    assert set(client.listed()) == {"file-monitoring", "guard", "programs", "network", "modules"}
    assert tracing.act("truncate", str(WORK / "added"), "8192") == ("ok", [])
    client.call("AddTracingPolicy", yaml=write_yaml(added))
    assert client.listed()["added"].state == wire.ENUMS["TracingPolicyState"]["TP_STATE_ENABLED"]
    with client.listening(allow_list=[{"policy_names": ["added"]}], deny_list=[{"binary_regex": ["python"]}]) as stream:
        result, lines = tracing.act("truncate", str(WORK / "added"), "0")
        assert (result, told(lines)) == ("EPERM", [("added", "security_path_truncate", "deny")])
        event = next(stream).process_kprobe
    assert event.process.binary == str(TRIGGER)
    assert event.args[0].path_arg.path == f"{WORK}/added"
    assert event.action == wire.ENUMS["KprobeAction"]["KPROBE_ACTION_OVERRIDE"]
    client.call("ConfigureTracingPolicy", name="added", mode=wire.ENUMS["TracingPolicyMode"]["TP_MODE_MONITOR"])
    result, lines = tracing.act("truncate", str(WORK / "added"), "8192")
    assert (result, told(lines)) == ("ok", [("added", "security_path_truncate", "observe")])
    client.call("DeleteTracingPolicy", name="added")
    assert tracing.act("truncate", str(WORK / "added"), "8192") == ("ok", [])
    assert client.refused("DeleteTracingPolicy", name="guard")[0] == "FAILED_PRECONDITION"


def test_clients_of_kubearmor_are_told_the_same(tracing: Tracing) -> None:
    """The address is listened at once privileges are given up; denials are alerts there, and what was only seen is a log."""
    client = Watcher(SERVICE)
    assert client.health_check(7) == 7
    with client.watching("WatchAlerts", "policy") as alerts, client.watching("WatchLogs", "system") as logs:
        assert tracing.act("truncate", str(WORK / "guarded"), "0")[0] == "EPERM"
        alert = next(alerts)
        assert tracing.act("read", str(WORK / "watched/file"))[0] == "ok"
        log = next(one for one in logs if one.ProcessName == str(TRIGGER) and "/sentinel/" not in one.Resource)
    assert (alert.PolicyName, alert.Type, alert.ProcessName, alert.Resource, alert.Result) == (
        "guard", "MatchedHostPolicy", str(TRIGGER), f"{WORK}/guarded", "Operation not permitted",
    )  # fmt: skip
    assert (log.Type, log.Operation, log.Resource, log.Result) == ("HostLog", "File", f"{WORK}/watched/file", "Passed")


def test_monitor_mode_after_a_reload(tracing: Tracing) -> None:
    """The last test: nothing of the policy is enforced any more."""
    spec = {**GUARD["spec"], "options": [{"name": "policy-mode", "value": "monitor"}]}
    tracing.agent.write_policy("guard", {**GUARD, "spec": spec})
    tracing.agent.reload()
    tracing.agent.settle()
    result, lines = tracing.act("truncate", str(WORK / "guarded"), "8192")
    assert (result, told(lines)) == ("ok", [("guard", "security_path_truncate", "observe")])
    assert lines[0]["dialect.tetragon.action"] == "KPROBE_ACTION_OVERRIDE"
    result, lines = tracing.act("truncate", str(WORK / "watched/file"))
    assert (result, told(lines)) == ("ok", [("file-monitoring", "security_path_truncate", "observe")])
