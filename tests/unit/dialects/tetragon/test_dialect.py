# SPDX-License-Identifier: Apache-2.0
"""Tracing policies from text to line, beside the other languages."""

from __future__ import annotations

import base64
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from bpfence import abi
from bpfence.agent.agent import Agent, Settings
from bpfence.agent.loading import load
from bpfence.conditions.links import Resolution
from bpfence.dialects.facts import Facts
from bpfence.dialects.registry import claimed
from bpfence.dialects.tetragon.dialect import TETRAGON
from bpfence.dialects.tetragon.lower.hooks import FUNCTIONS
from bpfence.dialects.tetragon.show import line_as_json
from bpfence.documents.files import SourceFile
from bpfence.errors import PolicyError
from bpfence.policy import Atom, Op, atoms
from tests.unit.agent.fakes import FakeKernel, Kept, reloaded, write_policy
from tests.unit.agent.falco_rig import verdict_of
from tests.unit.dialects.tetragon.texts import kprobe, on, text
from tests.unit.events.samples import record

WATCH = text(kprobes=[kprobe(on(0, "Prefix", "/etc/"), message="touched", tags=["a.b"]), kprobe(on(0, "Equal", "/x"))])


def read(*texts: str) -> Any:
    return TETRAGON.read([SourceFile(f"{n}.yaml", written.encode()) for n, written in enumerate(texts)], None)


@pytest.mark.parametrize(
    ("data", "claims"),
    [
        (b"apiVersion: cilium.io/v1alpha1\nkind: TracingPolicy\n", True), (b'# x\n---\n"apiVersion": "cilium.io/v1alpha1"\n', True),
        (WATCH.encode(), True), (b"apiVersion: bpfence.io/v1alpha1\n", False), (b"- rule: cilium.io/v1\n", False), (b"", False),
    ],
)  # fmt: skip
def test_claims(data: bytes, claims: bool) -> None:
    assert TETRAGON.claims(data) == claims
    assert ("tetragon" in claimed([SourceFile("a", data)])) == claims


def test_diagnostics_come_in_the_order_of_files_and_lines() -> None:
    _, found = read(
        text(kprobes=[kprobe(call="sys_open", args=[]), kprobe(call="sys_read", args=[])], loader=True), text(kprobes=[{"x": 1}])
    )
    places = [(one.location.file, one.location.line) for one in found]
    assert places == sorted(places)
    assert {one.code for one in found} == {"not-supported", "unknown-key", "missing-key"}


def test_links_widen_paths() -> None:
    rules, _ = read(text(kprobes=[kprobe(on(0, "Equal", "/bin/x"))]))
    assert list(rules.paths()) == ["/bin/x"]
    made, told = rules.resolved(lambda path: Resolution(names=("/usr/bin/x",), links=(("/bin", "/usr/bin"),)), "here")
    (policy,) = made.policies(Facts())
    assert {Atom("file.path", Op.EQUALS, path) for path in ("/bin/x", "/usr/bin/x")} <= set(atoms(policy.rules[0].condition))
    assert ([one.code for one in told], made.sensors) == (["link"], rules.sensors)


def test_names_are_taken_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(WATCH)
    write_policy(tmp_path / "b.yaml", "p")
    with pytest.raises(PolicyError, match="there is a policy 'p' among the policies already"):
        load([str(tmp_path)])


def test_the_example_is_in_force() -> None:
    rules, found = read((Path(__file__).parents[4] / "examples" / "tetragon" / "file-monitoring.yaml").read_text())
    assert found == []
    (policy,) = rules.policies(Facts())
    assert len(policy.rules) == 5


def test_the_example_of_sensors_is_in_force() -> None:
    rules, found = read((Path(__file__).parents[4] / "examples" / "tetragon" / "sensors.yaml").read_text())
    assert found == []
    (policy,) = rules.policies(Facts())
    assert [probe.place for probe in policy.probes] == ["tcp_connect", "sys_linkat", "sched/sched_process_exec"]


def test_the_example_of_programs_is_in_force() -> None:
    rules, found = read((Path(__file__).parents[4] / "examples" / "tetragon" / "programs.yaml").read_text())
    assert found == []
    (policy,) = rules.policies(Facts())
    assert [probe.target.symbol for probe in policy.probes if probe.target] == ["getaddrinfo", "setenv", "dlopen"]


def test_every_hook_is_documented() -> None:
    page = (Path(__file__).parents[4] / "docs" / "tetragon.md").read_text()
    written = re.sub(r"`_(\w+)`", r"`security_path_\1`", page)
    assert {name for name in FUNCTIONS if f"`{name}`" not in written} == set()


def test_a_policy_that_cannot_be_put_in_force_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text(kprobes=[kprobe()], containerSelector={"matchLabels": {"image": "x"}}))
    with pytest.raises(PolicyError) as caught:
        load([str(tmp_path)])
    assert [one.code for one in caught.value.diagnostics] == ["not-supported"]


def test_from_text_to_line(tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "watch.yaml").write_text(WATCH)
    write_policy(tmp_path / "policies" / "native.yaml")
    kernel, output = FakeKernel(), Kept()
    settings = Settings(policies=(str(tmp_path / "policies"),), drop_privileges=False)
    agent = Agent(settings, output, report=pytest.fail, kernel=kernel)
    agent.start()

    def write() -> None:
        assert agent.life.tables.compiled is not None
        kernel.engine.sequence += 1
        verdict = verdict_of(agent.life.tables.compiled, "kprobes[0].selectors[0]")
        header = {
            "sequence": kernel.engine.sequence,
            "generation": kernel.engine.generation,
            "verdicts": (verdict,),
            "action": abi.ACTION_OBSERVE,
        }
        numbers = {"NUM_FILE_ACCESS": abi.ACCESS_WRITE, "NUM_FILE_MODE": 0o100644}
        strings = {"STR_FILE_PATH": b"/etc/\x1b[2Jx"}
        kernel.engine.batches.append([("telemetry", record("file.permission", numbers, strings, error=0, **header))])
        os.write(kernel.engine._bell, b"!")
        agent.step(0)

    write()
    (seen,) = output.dicts("event")
    assert (seen["policy"], seen["rule"], seen["action"], seen["message"]) == ("p", "kprobes[0].selectors[0]", "observe", "touched")
    file = {"path": "/etc/\\x1b[2Jx", "permission": "-rw-r--r--"}
    assert seen["dialect"]["tetragon"]["args"] == [{"file_arg": file}, {"int_arg": 2}]
    line = next(line for line in output.lines if json.loads(line_as_json(line)).keys() & {"process_kprobe"})
    shown = json.loads(line_as_json(line))
    event = shown["process_kprobe"]
    assert (event["function_name"], event["policy_name"], event["tags"], event["args"][1]) == (
        "security_file_permission",
        "p",
        ["a.b"],
        {"int_arg": 2},
    )
    assert (event["process"]["binary"], event["process"]["pid"], event["parent"]["pid"]) == ("/usr/bin/dash", 412, 400)
    assert base64.b64decode(event["process"]["exec_id"]).decode() == f"{shown['node_name']}:{0x700001}:412"
    (tmp_path / "policies" / "watch.yaml").unlink()
    assert reloaded(agent)
    agent.stop()


def test_what_a_rate_limit_leaves_out(tmp_path: Path) -> None:
    limited = {**on(0, "Prefix", "/etc/"), "matchActions": [{"action": "Post", "rateLimit": "1m"}]}
    (tmp_path / "watch.yaml").write_text(text(kprobes=[kprobe(limited)]))
    kernel, output = FakeKernel(), Kept()
    agent = Agent(Settings(policies=(str(tmp_path),), drop_privileges=False), output, report=pytest.fail, kernel=kernel)
    agent.start()
    assert agent.life.tables.compiled is not None
    verdict = verdict_of(agent.life.tables.compiled, "kprobes[0].selectors[0]")
    for path in (b"/etc/a", b"/etc/a", b"/etc/b"):
        kernel.engine.sequence += 1
        header = {"sequence": kernel.engine.sequence, "generation": kernel.engine.generation, "verdicts": (verdict,)}
        made = record("file.permission", {}, {"STR_FILE_PATH": path}, error=0, action=abi.ACTION_OBSERVE, **header)
        kernel.engine.batches.append([("telemetry", made)])
        os.write(kernel.engine._bell, b"!")
        agent.step(0)
    assert [line["file"]["path"] for line in output.dicts("event")] == ["/etc/a", "/etc/b"]
    agent.stop()
