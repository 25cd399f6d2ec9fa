# SPDX-License-Identifier: Apache-2.0
"""The service of Tetragon's clients, asked by a client of the gRPC library; the agent has a kernel made of lists."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bpfence.agent.agent import Agent, Settings
from bpfence.dialects.tetragon import wire
from bpfence.outputs.routes import Outputs
from bpfence.policy import PolicySet
from bpfence.rpc import server as rpc
from bpfence.rpc.server import UnixServer
from bpfence.services.tetragon import TetragonService
from bpfence.workloads.model import Pod
from bpfence.workloads.registry import Registry
from tests.unit.agent.fakes import FakeKernel, write_policy
from tests.unit.services.client import WAIT, Client

grpc = pytest.importorskip("grpc", reason="needs grpcio: pip install 'bpfence[grpc]'")

POLICY = """
apiVersion: cilium.io/v1alpha1
kind: TracingPolicy
metadata: {name: "%s"}
spec:
  kprobes:
  - call: security_file_open
    syscall: false
    args: [{index: 0, type: file}]
    selectors:
    - matchArgs: [{index: 0, operator: Prefix, values: ["/secret/"]}]
%s
"""
OVERRIDE = "      matchActions: [{action: Override, argError: -1}]"
MODES = wire.ENUMS["TracingPolicyMode"]
STATES = wire.ENUMS["TracingPolicyState"]


class Rig:
    """An agent that answers clients; its loop runs in a thread."""

    def __init__(self, folder: Path, *policies: str) -> None:
        self.said: list[str] = []
        self.path = folder / "tetragon" / "tetragon.sock"
        self.service = TetragonService(UnixServer(self.path), self.said.append, "0.0 of a test", seconds=WAIT)
        self.kernel = FakeKernel()
        outputs = Outputs([(self.service.form, self.service.clients)], self.said.append)
        settings = Settings(policies=policies, state_dir=folder / "state", drop_privileges=False)
        self.agent = Agent(settings, outputs, report=self.said.append, kernel=self.kernel, feed=self.service)
        self.service.join(lambda: self.agent.loaded, self.agent.containers)
        self.over = threading.Event()
        self.agent.start()
        self.thread = threading.Thread(target=self._work)
        self.thread.start()
        self.client = Client(self.path)

    def _work(self) -> None:
        while not self.over.is_set():
            self.agent.step(0.02)

    def until(self, done: Callable[[], object]) -> None:
        deadline = time.monotonic() + WAIT
        while not done():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def listening(self, **given: Any) -> Any:
        """Events from now on."""
        stream = self.client.events(**given)
        stream.initial_metadata()
        return stream

    def opened(self, path: bytes = b"/secret/a", count: int = 1) -> None:
        """The kernel tells that the newest rules have matched."""
        for _ in range(count):
            self.kernel.engine.say(path=path, pid=os.getpid())

    def close(self) -> None:
        self.over.set()
        self.thread.join()
        self.agent.stop()
        self.client.channel.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.close()


def test_what_a_client_asks_first(rig: Rig) -> None:
    [health] = rig.client.call("GetHealth").health_status
    assert (health.event, health.status, health.details) == (1, 1, "running")
    assert rig.client.call("GetVersion").version == "0.0 of a test"
    assert rig.client.call("GetInfo").name == "bpfence"
    assert rig.client.call("GetDebug").level == wire.ENUMS["LogLevel"]["LOG_LEVEL_INFO"]
    assert rig.client.refused("GetDebug", flag=1)[0] == "UNIMPLEMENTED"
    assert rig.client.listed() == {}
    assert stat.S_IMODE(rig.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(rig.path.parent.stat().st_mode) == 0o700


def test_a_policy_that_is_added_is_in_force_and_is_listed(rig: Rig) -> None:
    rig.client.call("AddTracingPolicy", yaml=POLICY % ("guard", OVERRIDE))
    assert rig.agent.loaded is not None
    assert [policy.name for policy in rig.agent.loaded.policies.policies] == ["guard"]
    rig.client.call("AddTracingPolicy", yaml=POLICY % ("watch", ""))
    listed = rig.client.listed()
    assert {name: (one.state, one.mode, one.enabled, one.error, one.namespace) for name, one in listed.items()} == {
        "guard": (STATES["TP_STATE_ENABLED"], MODES["TP_MODE_ENFORCE"], True, "", ""),
        "watch": (STATES["TP_STATE_ENABLED"], MODES["TP_MODE_MONITOR_ONLY"], True, "", ""),
    }
    assert list(listed["guard"].sensors) == ["kprobes[0].selectors[0]"]
    assert [(one.name, one.collection) for one in rig.client.call("ListSensors").sensors] == [
        ("kprobes[0].selectors[0]", "guard"),
        ("kprobes[0].selectors[0]", "watch"),
    ]


def test_a_policy_with_a_mistake_is_refused_with_its_place_and_costs_nothing(rig: Rig) -> None:
    rig.client.call("AddTracingPolicy", yaml=POLICY % ("guard", OVERRIDE))
    code, text = rig.client.refused("AddTracingPolicy", yaml=(POLICY % ("other", OVERRIDE)).replace("Prefix", "Perfix"))
    assert code == "INVALID_ARGUMENT"
    assert "<added>:11:" in text
    assert rig.client.refused("AddTracingPolicy", yaml="a: b")[0] == "INVALID_ARGUMENT"
    assert rig.client.refused("AddTracingPolicy", yaml=f"{POLICY % ('a', '')}\n---{POLICY % ('b', '')}")[0] == "INVALID_ARGUMENT"
    assert rig.client.refused("AddTracingPolicy", yaml=POLICY % ("guard", ""))[0] == "ALREADY_EXISTS"
    assert list(rig.client.listed()) == ["guard"]


def test_one_that_cannot_be_compiled_is_refused_and_leaves_nothing(rig: Rig) -> None:
    rig.kernel.engine.unsupported.add("file.open")
    code, text = rig.client.refused("AddTracingPolicy", yaml=POLICY % ("guard", OVERRIDE))
    assert code == "INVALID_ARGUMENT"
    assert "file.open" in text
    assert rig.client.listed() == {}


def test_a_policy_is_deleted_disabled_and_enabled(rig: Rig) -> None:
    def in_force() -> list[str]:
        assert rig.agent.loaded is not None
        return [policy.name for policy in rig.agent.loaded.policies.policies]

    rig.client.call("AddTracingPolicy", yaml=POLICY % ("guard", OVERRIDE))
    rig.client.call("ConfigureTracingPolicy", name="guard", enable=False)
    assert in_force() == []
    assert rig.client.listed()["guard"].state == STATES["TP_STATE_DISABLED"]
    rig.client.call("EnableTracingPolicy", name="guard")
    assert in_force() == ["guard"]
    rig.client.call("DisableTracingPolicy", name="guard")
    rig.client.call("ConfigureTracingPolicy", name="guard", enable=True)
    assert in_force() == ["guard"]
    rig.client.call("DeleteTracingPolicy", name="guard")
    assert in_force() == []
    assert rig.client.listed() == {}
    for method in ("DeleteTracingPolicy", "EnableTracingPolicy", "DisableTracingPolicy", "ConfigureTracingPolicy"):
        assert rig.client.refused(method, name="guard")[0] == "NOT_FOUND"
    assert rig.client.refused("DeleteTracingPolicy", name="guard", namespace="web")[0] == "NOT_FOUND"


def test_the_mode_of_a_policy_changes_at_run_time(rig: Rig) -> None:
    def actions() -> list[str]:
        assert rig.agent.loaded is not None
        return [action for _, action in sorted((policy.name, rule.action.name) for policy, rule in rig.agent.loaded.policies.rules())]

    rig.client.call("AddTracingPolicy", yaml=POLICY % ("guard", OVERRIDE))
    rig.client.call("AddTracingPolicy", yaml=POLICY % ("watch", ""))
    assert actions() == ["DENY", "OBSERVE"]
    rig.client.call("ConfigureTracingPolicy", name="guard", mode=MODES["TP_MODE_MONITOR"])
    assert actions() == ["OBSERVE", "OBSERVE"]
    assert rig.client.listed()["guard"].mode == MODES["TP_MODE_MONITOR"]
    rig.client.call("ConfigureTracingPolicy", name="guard", mode=MODES["TP_MODE_ENFORCE"])
    assert actions() == ["DENY", "OBSERVE"]
    assert rig.client.refused("ConfigureTracingPolicy", name="guard", mode=MODES["TP_MODE_MONITOR_ONLY"])[0] == "INVALID_ARGUMENT"
    assert rig.client.refused("ConfigureTracingPolicy", name="watch", mode=MODES["TP_MODE_MONITOR"])[0] == "FAILED_PRECONDITION"
    assert rig.client.listed()["guard"].mode == MODES["TP_MODE_ENFORCE"]


def test_policies_of_files_are_listed_and_stay_theirs(tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "one.yaml").write_text(POLICY % ("filed", OVERRIDE))
    write_policy(tmp_path / "policies" / "native.yaml", "native")
    rig = Rig(tmp_path, str(tmp_path / "policies"))
    try:
        assert {name: (one.state, one.mode) for name, one in rig.client.listed().items()} == {
            "filed": (STATES["TP_STATE_ENABLED"], MODES["TP_MODE_ENFORCE"])
        }
        rig.client.call("AddTracingPolicy", yaml=POLICY % ("added", OVERRIDE))
        assert set(rig.client.listed()) == {"filed", "added"}
        for method in ("DeleteTracingPolicy", "ConfigureTracingPolicy"):
            assert rig.client.refused(method, name="filed")[0] == "FAILED_PRECONDITION"
        for name in ("filed", "native"):
            code, text = rig.client.refused("AddTracingPolicy", yaml=POLICY % (name, ""))
            assert (code, "there already is a policy" in text) == ("INVALID_ARGUMENT", True)
        assert set(rig.client.listed()) == {"filed", "added"}
    finally:
        rig.close()


def test_events_reach_the_clients_that_ask_for_them(rig: Rig) -> None:
    rig.client.call("AddTracingPolicy", yaml=POLICY % ("watch", ""))
    plain = rig.listening()
    binary = rig.listening(allow_list=[{"binary_regex": ["^/nowhere/"]}])
    policies = rig.listening(
        allow_list=[{"event_set": ["PROCESS_KPROBE"], "policy_names": ["watch"]}], field_filters=[{"fields": {"paths": ["process.pid"]}}]
    )
    denied = rig.listening(deny_list=[{"pid": [os.getpid()]}])
    rig.opened()
    event = next(plain)
    assert event.process_kprobe.process.pid.value == os.getpid()
    assert event.process_kprobe.function_name == "security_file_open"
    assert event.process_kprobe.policy_name == "watch"
    assert event.process_kprobe.args[0].file_arg.path == "/secret/a"
    assert event.process_kprobe.action == wire.ENUMS["KprobeAction"]["KPROBE_ACTION_POST"]
    assert event.node_name
    assert event.time.seconds > 0
    shown = next(policies)
    assert shown.process_kprobe.process.pid.value == os.getpid()
    assert (shown.process_kprobe.function_name, shown.process_kprobe.process.exec_id) == ("", "")
    for silent in (binary, denied):
        silent.cancel()
    rig.until(lambda: len(rig.service.clients._all) == 2)
    for stream in (plain, policies):
        stream.cancel()
    rig.until(lambda: not rig.service.clients)
    rig.opened(b"/secret/b")
    assert rig.service.clients.dropped == 0


def test_a_filter_that_is_not_understood_is_refused(rig: Rig) -> None:
    def refused(**given: Any) -> tuple[str, str]:
        with pytest.raises(grpc.RpcError) as error:
            next(rig.client.events(**given))
        return error.value.code().name, error.value.details()

    assert refused(allow_list=[{"binary_regex": ["("]}])[0] == "INVALID_ARGUMENT"
    code, text = refused(deny_list=[{"cel_expression": ["true"]}])
    assert (code, "cel_expression" in text) == ("INVALID_ARGUMENT", True)
    newer = wire.messages()["Filter"].FromString(b"\x92\x01\x01a")  # field 18, a text
    code, text = refused(allow_list=[newer])
    assert (code, "number 18" in text) == ("INVALID_ARGUMENT", True)
    assert not rig.service.clients


def test_a_client_that_does_not_read_loses_its_own_events_and_is_told(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "MAX_LINES", 3)
    rig.client.call("AddTracingPolicy", yaml=POLICY % ("watch", ""))
    stream = rig.listening()
    [listener] = rig.service.clients._all
    listener._max_lines = 3
    with rig.service.clients._lock, listener._changed:  # as one whose thread waits for the client
        lines = [b"{}"] * 8
    assert listener.put(lines) >= 5
    told = next(stream)
    while told.rate_limit_info.number_of_dropped_process_events == 0:
        told = next(stream)
    assert told.rate_limit_info.number_of_dropped_process_events >= 5
    rig.opened()
    assert next(event for event in stream if event.HasField("process_kprobe")).process_kprobe.policy_name == "watch"
    stream.cancel()


def test_there_is_an_end_to_clients_that_listen(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "MAX_LISTENERS", 2)
    streams = [rig.listening(), rig.listening()]
    with pytest.raises(grpc.RpcError) as error:
        next(rig.client.events())
    assert error.value.code().name == "RESOURCE_EXHAUSTED"
    for stream in streams:
        stream.cancel()


def test_a_container_that_a_runtime_hook_tells_of_has_a_class_when_it_is_answered(rig: Rig) -> None:
    registry = Registry(lambda: None, lambda path: 77 if path == "/pods/one" else 0)
    rig.service.join(lambda: rig.agent.loaded, registry)
    container = {
        "cgroupsPath": "/pods/one", "containerID": "ab" * 32, "containerName": "web", "containerImage": "nginx:1", "podName": "web-0",
        "podNamespace": "prod", "podUID": "u",
    }  # fmt: skip
    assert rig.client.refused("RuntimeHook", createContainer=container) == ("UNAVAILABLE", "no policies are in force yet")
    registry.use(rig.kernel.engine)
    with registry.swapping(tuple(registry.seen(PolicySet()))):  # as tables that have no classes come in force
        pass
    rig.client.call("RuntimeHook", createContainer=container)
    [told] = registry.containers()
    assert (told.id, told.cgroup, told.cgroup_id, told.name, told.image) == ("ab" * 32, "/pods/one", 77, "web", "nginx:1")
    assert told.pod == Pod("web-0", "prod", "u")
    assert rig.client.refused("RuntimeHook", createContainer={**container, "cgroupsPath": "/nowhere"})[0] == "UNAVAILABLE"
    for path in ("", "slice:runc:1", "/../x"):
        assert rig.client.refused("RuntimeHook", createContainer={**container, "cgroupsPath": path})[0] == "INVALID_ARGUMENT"


def test_the_end_of_the_agent_ends_calls_and_the_socket(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    stream = rig.listening()
    rig.close()
    assert next(stream, None) is None
    assert not rig.path.exists()
