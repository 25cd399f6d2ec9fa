# SPDX-License-Identifier: Apache-2.0
"""KubeArmor's policies in the shape of every dialect."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from bpfence import abi
from bpfence.agent.agent import Agent, Settings
from bpfence.alerts.alert import Alert
from bpfence.conditions.links import Resolution
from bpfence.dialects.facts import Facts
from bpfence.dialects.kubearmor.dialect import KUBEARMOR
from bpfence.dialects.kubearmor.lower.entries import bound
from bpfence.dialects.kubearmor.options import OPTIONS, Throttling
from bpfence.dialects.kubearmor.show import line_as_json
from bpfence.dialects.registry import claimed
from bpfence.documents.files import SourceFile
from bpfence.errors import UsageError
from bpfence.policy import Action, PolicySet
from tests.unit.agent.fakes import FakeKernel, Kept, write_policy
from tests.unit.agent.falco_rig import verdict_of
from tests.unit.cli.test_policies import call, code
from tests.unit.dialects.kubearmor.corpus import WEB, corpus, decided, document
from tests.unit.events.samples import record

BLOCK: dict[str, Any] = {"process": {"matchPaths": [{"path": "/bin/sleep"}]}}
GIVEN: dict[str, Any] = {option.member: option.default for option in OPTIONS}


def test_files_are_claimed_by_their_api_group() -> None:
    ours = [document(BLOCK).encode(), b'"apiVersion": "security.kubearmor.com/v1"\n', b"kind: x\napiVersion: security.kubearmor.com/v9\n"]
    others = [b"apiVersion: bpfence.io/v1alpha1\n", b"# apiVersion: security.kubearmor.com/v1\n", b"- rule: x\n"]
    assert [KUBEARMOR.claims(data) for data in (*ours, *others)] == [True] * 3 + [False] * 3
    assert list(claimed([SourceFile("a", ours[0])])) == ["kubearmor"]


def test_paths_stand_for_what_they_lead_to() -> None:
    rules, _ = KUBEARMOR.read([SourceFile("p", document(BLOCK).encode())], None)
    assert list(rules.paths()) == ["/bin/sleep"]
    resolved, _ = rules.resolved(lambda path: Resolution(("/usr/bin/sleep",) if path == "/bin/sleep" else ()), "here")
    policies = PolicySet(resolved.policies(Facts()))
    for path in ("/bin/sleep", "/usr/bin/sleep"):
        assert decided(policies, "process.exec", WEB, file__path=path).action is Action.DENY
    assert [policy for policy, _ in rules.smaller(policies.policies[0])] == [policies.policies[0]]


def test_options() -> None:
    chosen = KUBEARMOR.choose({**GIVEN, "labels": ("tier=front", "kubernetes.io/os=plan9"), "file": "block"})
    assert chosen.node is not None
    assert (chosen.node["tier"], chosen.node["kubernetes.io/os"]) == ("front", "plan9")
    assert chosen.node["kubearmor.io/hostname"] == chosen.node["kubernetes.io/hostname"]
    assert (chosen.posture("file", host=False), chosen.unknown, chosen.posture("network", host=True)) == ("block", "outside", "audit")
    with pytest.raises(UsageError, match="KEY=VALUE"):
        KUBEARMOR.choose({**GIVEN, "labels": ("tier",)})


def test_what_is_visible() -> None:
    chosen = KUBEARMOR.choose(GIVEN)
    assert (chosen.visible, chosen.host_visible, chosen.stands_alone) == (None, (), False)
    chosen = KUBEARMOR.choose({**GIVEN, "visible": "none", "host_visible": "network, Process"})
    assert (chosen.visible, chosen.host_visible, chosen.stands_alone) == ((), ("process", "network"), True)
    with pytest.raises(UsageError, match="'files' is none of process, file"):
        KUBEARMOR.choose({**GIVEN, "visible": "files"})
    with pytest.raises(UsageError, match="leave out dns"):
        KUBEARMOR.choose({**GIVEN, "host_visible": "dns"})


def test_policies_of_a_file_and_of_a_cluster_are_visible_once() -> None:
    options = KUBEARMOR.choose({**GIVEN, "visible": "none"})
    alone, _ = KUBEARMOR.read([], options)
    more, _ = KUBEARMOR.read([SourceFile("p", document(BLOCK, name="p").encode())], options)
    assert [policy.name for policy in alone.policies(Facts())] == ["KubeArmor/Visibility"]
    names = [policy.name for policy in alone.joined([more]).policies(Facts())]
    assert names == ["KubeArmorPolicy/shop/p", "KubeArmor/Visibility"]
    assert list(alone.joined([more]).names()) == ["KubeArmorPolicy/shop/p"]


def test_throttling(tmp_path: Path) -> None:
    assert KUBEARMOR.choose(GIVEN).throttling is None
    assert KUBEARMOR.choose({**GIVEN, "throttling": "on"}).throttling == Throttling(10, 30)
    assert KUBEARMOR.choose({**GIVEN, "throttling": "on", "max_alerts": "3", "pause": "5"}).throttling == Throttling(3, 5)
    (tmp_path / "c.yaml").write_text("alertThrottling: true\nmaxAlertPerSec: 4\nthrottleSec: '6'\n")
    of_file = {**GIVEN, "config": str(tmp_path / "c.yaml")}
    assert KUBEARMOR.choose(of_file).throttling == Throttling(4, 6)
    assert KUBEARMOR.choose({**of_file, "pause": "7"}).throttling == Throttling(4, 7)
    assert KUBEARMOR.choose({**of_file, "throttling": "off"}).throttling is None
    for text in ("0", "x", "-1", "99999999999"):
        with pytest.raises(UsageError, match="--throttle-sec"):
            KUBEARMOR.choose({**GIVEN, "pause": text})


def test_postures_of_a_file_and_of_options(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("defaultFilePosture: block\ndefaultNetworkPosture: block\n")
    chosen = KUBEARMOR.choose({**GIVEN, "config": str(tmp_path / "c.yaml"), "network": "audit"})
    assert [chosen.posture(name, host=False) for name in ("file", "network", "capabilities")] == ["block", "audit", "audit"]


def test_a_host_policy_for_another_node_is_left_out_and_said() -> None:
    source = SourceFile("p", document(BLOCK, "KubeArmorHostPolicy").encode())
    everywhere, diagnostics = KUBEARMOR.read([source], None)
    assert (len(everywhere.policies(Facts())), diagnostics) == (1, [])
    there, [found] = KUBEARMOR.read([source], KUBEARMOR.choose(GIVEN))
    assert (there.policies(Facts()), found.code, "a=b" in found.message) == ((), "other-node", True)
    here, diagnostics = KUBEARMOR.read([source], KUBEARMOR.choose({**GIVEN, "labels": ("a=b",)}))
    assert (len(here.policies(Facts())), diagnostics) == (1, [])


def test_from_text_to_a_line_of_kubearmors(tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    spec = {"file": {"matchPaths": [{"path": "/etc/secret"}]}, "severity": 9, "message": "a secret"}
    (tmp_path / "policies" / "ksp.yaml").write_text(document(spec, name="secrets"))
    write_policy(tmp_path / "policies" / "native.yaml")
    kernel, output = FakeKernel(), Kept()
    settings = Settings(policies=(str(tmp_path / "policies"),), drop_privileges=False)
    agent = Agent(settings, output, report=pytest.fail, kernel=kernel)
    agent.start()
    assert agent.life.tables.compiled is not None
    kernel.engine.sequence += 1
    header = {"sequence": kernel.engine.sequence, "generation": kernel.engine.generation, "comm": b"cat", "error": 13}
    header |= {"verdicts": (verdict_of(agent.life.tables.compiled, "file.matchPaths[0]"),), "action": abi.ACTION_DENY}
    kernel.engine.batches.append([("decisions", record("file.open", {}, {"STR_FILE_PATH": b"/etc/secret"}, **header))])
    os.write(kernel.engine._bell, b"!")
    agent.step(0)
    [alert] = [line for line in output.lines if isinstance(line, Alert)]
    agent.stop()
    assert (alert.policy, alert.rule, alert.message) == ("KubeArmorPolicy/shop/secrets", "file.matchPaths[0]", "a secret")
    shown = json.loads(line_as_json(alert))
    assert [shown[key] for key in ("PolicyName", "Severity", "Action", "Result", "Resource")] == [
        "secrets", "9", "Block", "Permission denied", "/etc/secret",
    ]  # fmt: skip
    assert output.dicts("status")[0]["policies"] == ["guard", "KubeArmorPolicy/shop/secrets"]


def test_check_and_explain_take_every_published_policy_that_loads(tmp_path: Path) -> None:
    """Together, as people give them: every entry of every policy is a rule, or part of what a posture decides."""
    files = corpus()
    loads = [source for source in files if not any(found.severity == "error" for found in KUBEARMOR.read([source], None)[1])]
    for source in loads:
        (tmp_path / source.file).write_bytes(source.data)
    checked = call("check", tmp_path)
    assert code(checked) == 0, checked.output
    rules, _ = KUBEARMOR.read(loads, None)
    lowered = {(rule.policy, rule.name) for policy in rules.policies(Facts()) for rule in policy.rules}
    listed = [(policy.key, entry) for policy in rules.given for entry in policy.entries]
    wanted = {(key, entry.where) for key, entry in listed if entry.action != "Allow" or bound(entry)}
    postures = {f"{name}{other}" for name in ("process", "file", "network") for other in ("", "-block")}
    assert lowered - wanted == {("KubeArmor/DefaultPosture", name) for name in postures}
    assert wanted - lowered == set()
    explained = call("explain", "--json", tmp_path)
    assert code(explained) == 0
    assert all(f'"{name}"' in explained.stdout for _, name in wanted)
