# SPDX-License-Identifier: Apache-2.0
"""The control socket's service, asked over a real socket; the agent has a kernel made of lists."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfence.agent import metrics
from bpfence.host.sockets import Peer
from bpfence.kernel.measured import Measured
from bpfence.rpc import lines
from bpfence.rpc.lines import asked
from bpfence.services import control
from tests.unit.agent.fakes import POLICY, write_policy
from tests.unit.events.samples import record
from tests.unit.services.control_rig import WAIT, Rig, native

TRACING = """
apiVersion: cilium.io/v1alpha1
kind: TracingPolicy
metadata: {name: traced}
spec:
  kprobes:
  - call: security_file_open
    syscall: false
    args: [{index: 0, type: file}]
    selectors: [{matchArgs: [{index: 0, operator: Prefix, values: ["/secret/"]}], matchActions: [{action: Override, argError: -1}]}]
"""
ARMOR = """
apiVersion: security.kubearmor.com/v1
kind: KubeArmorHostPolicy
metadata: {name: %s}
spec:
  nodeSelector: {}
  file: {matchPaths: [{path: %s}]}
  action: Block
"""


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path, write_policy(tmp_path / "guard.yaml"))
    yield made
    made.close()


def test_policies_are_listed_shown_and_counted(rig: Rig) -> None:
    rig.kernel.engine.say(pid=os.getpid())
    rig.until(lambda: rig.result("policies")["policies"][0]["matched"])
    [listed] = rig.result("policies")["policies"]
    place = listed.pop("place")
    assert listed == {
        "name": "guard", "mode": "enforce", "set": False, "language": "native", "rules": 1, "matched": 1, "added": False,
    }  # fmt: skip
    assert place.endswith("guard.yaml:2:1")
    shown = rig.result("policy", name="guard")
    assert [(one["name"], one["on"], one["action"], one["matched"]) for one in shown["rules"]] == [("secret", ["file.open"], "deny", 1)]
    assert rig.refusal("policy", name="other") == "there is no policy 'other' in force"
    status = rig.result("status")
    assert (status["agent"], status["pid"], status["policies"], status["added"]) == ("0.0 of a test", os.getpid(), 1, [])
    assert [one["name"] for one in status["outputs"]] == ["control-socket"]


def test_policies_are_added_and_removed_whole(rig: Rig) -> None:
    assert rig.add(native("one"), native("two"))["result"] == {"policies": ["one", "two"], "findings": []}
    assert list(rig.modes()) == ["guard", "one", "two"]
    assert {one["name"]: one["added"] for one in rig.result("policies")["policies"]} == {"guard": False, "one": True, "two": True}
    assert rig.result("remove", names=["one"]) == {"policies": ["one"]}
    assert list(rig.modes()) == ["guard", "two"]
    assert "was not added here" in rig.refusal("remove", names=["two", "guard"])
    assert "no policy 'one'" in rig.refusal("remove", names=["one"])
    assert list(rig.modes()) == ["guard", "two"]
    assert rig.result("remove", names=["two"]) == {"policies": ["two"]}
    assert list(rig.modes()) == ["guard"]
    changes = [text for text in rig.said if "has added" in text or "has removed" in text]
    assert changes[0] == f"control-socket: user {os.geteuid()} (pid {os.getpid()}) has added: one, two"
    assert len(changes) == 3


def test_what_was_added_gives_way_to_a_file_and_that_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    folder.mkdir()
    write_policy(folder / "guard.yaml")
    rig = Rig(tmp_path, folder)
    try:
        rig.add(native("mine"), native("other"))
        (folder / "mine.yaml").write_text(native("mine", "audit"))
        rig.agent.reload()
        rig.until(lambda: not rig.agent.reloading)
        rig.until(lambda: any("in force no more: mine, other" in text and "already is a policy 'mine'" in text for text in rig.said))
        assert rig.modes() == {"guard": "enforce", "mine": "audit"}
        assert not any(one["added"] for one in rig.result("policies")["policies"])
        assert rig.result("status")["added"] == ["other"]
        assert rig.result("remove", names=["mine"]) == {"policies": ["mine"]}
        assert rig.modes() == {"guard": "enforce", "mine": "audit", "other": "enforce"}
        rig.result("remove", names=["other"])
        assert sum("in force no more" in text for text in rig.said) == 1
    finally:
        rig.close()


def test_policies_of_other_languages_are_added_and_removed(rig: Rig) -> None:
    assert rig.add(TRACING)["result"]["policies"] == ["traced"]
    added = rig.add(ARMOR % ("armed", "/a/b"), ARMOR % ("barred", "/a/c"))["result"]["policies"]
    assert [name.rpartition("/")[2] for name in added] == ["armed", "barred"]
    assert {one["name"]: one["language"] for one in rig.result("policies")["policies"]}["traced"] == "tetragon"
    rig.result("remove", names=added[:1])
    assert added[0] not in rig.modes()
    assert added[1] in rig.modes()
    rig.result("remove", names=["traced", added[1]])
    assert not {"traced", *added} & rig.modes().keys()


def test_what_is_wrong_is_refused_with_its_place_and_costs_nothing(rig: Rig) -> None:
    error = rig.add(native("fine"), native("wrong").replace("match:", "macht:"))["error"]
    assert [(one["file"], one["line"], one["code"]) for one in error["findings"]] == [
        ("1.yaml", 8, "stops-host"),
        ("1.yaml", 8, "unknown-key"),
    ]
    error = rig.add(native("fine"), native("guard"))["error"]
    assert "already is a policy 'guard'" in error["findings"][0]["message"]
    assert "one language at a time" in rig.add(native("fine"), TRACING)["error"]["message"]
    assert (
        "come from files"
        in rig.add("- rule: a\n  desc: b\n  condition: evt.type=open\n  output: c\n  priority: INFO\n")["error"]["message"]
    )
    assert "error" in rig.add("")
    rig.add(native("fine"))
    assert "was added already" in rig.add(native("fine"))["error"]["message"]
    assert list(rig.modes()) == ["guard", "fine"]


def test_what_this_kernel_cannot_have_is_refused_and_taken_back(rig: Rig) -> None:
    rig.kernel.engine.unsupported.add("file.unlink")
    error = rig.add(native("fine"), native("late").replace("on: open", "on: unlink"))
    assert "file.unlink" in error["error"]["findings"][0]["message"]
    assert list(rig.modes()) == ["guard"]
    assert rig.add(native("fine"))["result"]["policies"] == ["fine"]


def test_modes_are_set_of_any_policy_and_outlive_a_reload(rig: Rig) -> None:
    rig.add(native("mine", "audit"))
    assert rig.result("set-mode", names=["guard"], mode="audit") == {"policies": ["guard"], "mode": "audit"}
    assert rig.modes() == {"guard": "audit", "mine": "audit"}
    rig.result("set-mode", names=["guard", "mine"], mode="enforce")
    assert rig.modes() == {"guard": "enforce", "mine": "enforce"}
    rig.result("set-mode", names=["guard"], mode="audit")
    rig.agent.reload()
    rig.until(lambda: not rig.agent.reloading)
    assert rig.modes() == {"guard": "audit", "mine": "enforce"}
    assert rig.result("policies")["policies"][0]["set"] is True
    shown = rig.result("policy", name="guard")["rules"][0]
    assert (shown["action"], shown["declared"]) == ("audit", "deny")
    assert rig.result("status")["modes"] == {"guard": "audit", "mine": "enforce"}
    rig.result("set-mode", names=["guard", "mine"], mode="declared")
    assert rig.modes() == {"guard": "enforce", "mine": "audit"}
    assert "no policy 'other'" in rig.refusal("set-mode", names=["guard", "other"], mode="audit")
    assert rig.modes() == {"guard": "enforce", "mine": "audit"}


def test_a_mode_that_the_kernel_cannot_enforce_is_refused(tmp_path: Path) -> None:
    text = POLICY % ("guard", "audit", "late", "/x", "")
    (tmp_path / "late.yaml").write_text(text.replace("on: open", "on: unlink"))
    rig = Rig(tmp_path, tmp_path / "late.yaml")
    try:
        rig.kernel.engine.unsupported.add("file.unlink")
        assert rig.answer("set-mode", names=["guard"], mode="enforce")["error"]["findings"]
        assert rig.modes() == {"guard": "audit"}
    finally:
        rig.close()


def test_a_change_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    rig = Rig(tmp_path, write_policy(tmp_path / "guard.yaml"), seconds=0.3)
    try:
        rig.over.set()
        rig.thread.join()  # the loop stands still
        assert "given up" in rig.add(native("late"))["error"]["message"]
        assert "given up" in rig.refusal("set-mode", names=["guard"], mode="audit")
        rig.over.clear()
        rig.thread = threading.Thread(target=rig._work)
        rig.thread.start()
        rig.until(lambda: rig.answer("remove", names=["late"]))
        rig.until(lambda: rig.modes() == {"guard": "enforce"})
    finally:
        rig.close()


def test_only_root_and_who_is_named_change_anything(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "peer", lambda _: Peer(7, 1000, 1000))
    assert "only root may change" in rig.add(native("mine"))["error"]["message"]
    assert "only root may change" in rig.refusal("set-mode", names=["guard"], mode="audit")
    assert rig.result("policies")["policies"][0]["name"] == "guard"
    folder = tmp_path / "named"
    folder.mkdir()
    named = Rig(folder, users=(1000,))
    try:
        assert named.add(native("mine"))["result"]["policies"] == ["mine"]
    finally:
        named.close()


def test_lines_are_followed_with_filters(rig: Rig) -> None:
    rig.kernel.engine.say(pid=1)
    rig.until(lambda: len(rig.service.clients.last()) > 1)
    followed = asked(rig.path, b'{"version":1,"ask":"events","follow":true,"last":10,"policy":["g*"],"action":["deny"]}', WAIT)
    assert json.loads(next(followed))["result"] == {"follow": True}
    first = json.loads(next(followed))
    assert (first["kind"], first["policy"]) == ("alert", "guard")
    rig.kernel.engine.say(pid=2)
    assert json.loads(next(followed))["seq"] == first["seq"] + 1
    followed.close()
    for more in ({"severity": "high"}, {"policy": ["other"]}, {"rule": ["other"]}, {"pod": ["*"]}, {"action": ["kill"]}, {"last": 0}):
        request = json.dumps({"version": 1, "ask": "events", "last": 10, **more}).encode()
        assert not [one for one in list(asked(rig.path, request, WAIT))[1:] if json.loads(one)["kind"] == "alert"]
    kept = [json.loads(one) for one in list(asked(rig.path, b'{"version":1,"ask":"events","last":2,"severity":"info"}', WAIT))[1:]]
    assert [one["seq"] for one in kept] == [first["seq"], first["seq"] + 1]


def test_lines_of_pods_are_told_apart(rig: Rig) -> None:
    def said(pod: str) -> bytes:
        return json.dumps(
            {"kind": "alert", "severity": "low", "policy": "p", "rule": "r", "k8s": {"namespace": "shop", "pod": pod}}
        ).encode()

    rig.service.clients.write([said("web-1"), said("db-1"), b'{"kind":"loss","severity":"high"}'])
    asking = b'{"version":1,"ask":"events","last":10,"pod":["web-*"],"namespace":["shop"]}'
    found = [json.loads(one) for one in list(asked(rig.path, asking, WAIT))[1:]]
    assert [one.get("k8s", {}).get("pod") for one in found] == ["web-1", None]


def test_who_does_not_read_loses_lines_and_is_told_and_the_agent_does_not_grow(rig: Rig) -> None:
    with socket.socket(socket.AF_UNIX) as stuck:
        stuck.connect(str(rig.path))
        stuck.settimeout(WAIT)
        stuck.sendall(b'{"version":1,"ask":"events","follow":true}\n')
        file = stuck.makefile("rb")
        assert json.loads(file.readline())["result"] == {"follow": True}
        line = json.dumps({"kind": "alert", "severity": "low", "message": "x" * 1000}).encode()
        for _ in range(100):
            rig.service.clients.write([line] * 100)
        rig.kernel.engine.say(pid=1)
        rig.until(lambda: rig.result("policies")["policies"][0]["matched"])
        [listener] = rig.service.clients._all
        assert listener._size <= control.MAX_WAITING[1]
        assert sum(map(len, rig.service.clients.last())) <= control.LAST_BYTES
        told = next(one for one in map(json.loads, file) if one["kind"] == "status" and one["status"] == "dropped")
        assert told["dropped"] > 1000
        file.close()


def test_what_is_counted(rig: Rig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(metrics, "STATISTICS", tmp_path / "bpf_stats_enabled")
    metrics.STATISTICS.write_text("1\n")
    rig.kernel.engine.measures = Measured(
        counters={"denied": 3, "audited": 1}, lost={"file.open": 2}, programs={"open__a": (10, 5000), "file_open__decide": (0, 0)}
    )
    program = next(name for name, events in control.EVENTS_OF.items() if "file.open" in events)
    rig.kernel.engine.measures = Measured(counters={"denied": 3}, lost={"file.open": 2}, programs={program: (10, 5000), "other": (1, 7)})
    rig.add(native("mine", "audit"))
    rig.kernel.engine.say(pid=1)
    rig.until(lambda: rig.result("policies")["policies"][0]["matched"])
    counted = rig.result("counters")
    assert counted["decisions"] == {"denied": 3, "audited": 0, "killed": 0}
    assert (counted["lost"], counted["statistics"], counted["events"]) == (2, True, {"file.open": 1})
    assert counted["programs"] == {program: [10, 5000], "other": [1, 7]}
    by_name = {one["name"]: (one["mode"], one["matched"], one["denied"], one["spent"]) for one in counted["policies"]}
    assert by_name == {"guard": ("enforce", 1, 1, 2500), "mine": ("audit", 0, 0, 2500)}
    metrics.STATISTICS.write_text("0\n")
    assert rig.result("counters")["statistics"] is False  # whatever was counted before


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{}", b"null", b"\xff\xfe", b"[" * 100000, b'{"version":1}', b'{"version":1,"ask":"nothing"}',
        b'{"version":2,"ask":"status"}',
        b'{"version":1,"ask":"status","more":1}', b'{"version":1,"ask":"policy","name":""}', b'{"version":1,"ask":"remove","names":[]}',
        b'{"version":1,"ask":"set-mode","names":["a"],"mode":"off"}', b'{"version":1,"ask":"events","last":100000}',
        b'{"version":1,"ask":"events","policy":["' + b"*a" * 500 + b'"]}', b'{"version":1,"ask":"add","files":[]}',
        b"GET / HTTP/1.1\r", b'{"version":1,"ask":"policy","name":"\\ud800"}',
    ],
)  # fmt: skip
def test_rubbish_is_refused(rig: Rig, line: bytes) -> None:
    [answer] = asked(rig.path, line, WAIT)
    assert json.loads(answer)["error"]["message"]
    assert rig.result("policies")["policies"]


def test_texts_that_are_made_to_hurt_are_refused(rig: Rig) -> None:
    for text in ("[" * 50000, "a: &a [*a]", "&a [" + "*a," * 1000 + "]", "\x00", "apiVersion: bpfence.io/v1alpha1\n" + "{" * 20000):
        assert "error" in rig.add(text)
    assert list(rig.modes()) == ["guard"]


def test_a_record_that_is_no_text_is_followed(rig: Rig) -> None:
    rig.kernel.engine.put(record("file.open", strings={"STR_FILE_PATH": b"/secret/\xff\x1b"}, generation=1, verdicts=(1,), sequence=1))
    rig.until(lambda: any(b'"alert"' in line for line in rig.service.clients.last()))
    found = [json.loads(one) for one in list(asked(rig.path, b'{"version":1,"ask":"events","last":9,"rule":["*"]}', WAIT))[1:]]
    assert found[0]["file"]["path"].startswith("/secret/")
