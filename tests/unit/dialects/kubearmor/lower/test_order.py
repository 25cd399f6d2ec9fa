# SPDX-License-Identifier: Apache-2.0
"""What many policies have to do with each other."""

from __future__ import annotations

import time
from typing import Any

import pytest

from bpfence import abi
from bpfence.dialects.facts import Facts
from bpfence.dialects.kubearmor.dialect import KUBEARMOR, KubeArmorRules
from bpfence.dialects.kubearmor.lower import entries, order
from bpfence.dialects.kubearmor.lower.order import Order
from bpfence.dialects.kubearmor.lower.policies import lowered
from bpfence.dialects.kubearmor.lower.scopes import scope
from bpfence.dialects.kubearmor.options import KubeArmorOptions
from bpfence.documents.files import SourceFile
from bpfence.errors import CompileError
from bpfence.policy import Action, PolicySet
from tests.unit.dialects.kubearmor.corpus import decided, document, pod, read

FILES: list[dict[str, Any]] = [
    {"dir": "/data/", "recursive": True, "action": "Block"},
    {"dir": "/data/free/", "recursive": True, "action": "Allow"},
]


def made(number: int, selector: dict[str, Any], spec: dict[str, Any] | None = None) -> str:
    return document({"selector": selector, **(spec or {"file": {"matchDirectories": FILES}})}, name=f"p{number}")


def of_app(*names: str) -> dict[str, Any]:
    if len(names) == 1:
        return {"matchLabels": {"app": names[0]}}
    return {"matchExpressions": [{"key": "label", "operator": "In", "values": [f"app={name}" for name in names]}]}


@pytest.mark.parametrize("values", [1, 2])
def test_a_thousand_policies_of_two_hundred_workloads(values: int) -> None:
    names: dict[str, Any] = {"matchPaths": [{"execname": "x", "action": "Allow"}, {"path": "/usr/bin/x"}]}
    spec = {"file": {"matchDirectories": FILES}, "process": names}
    selectors = [of_app(*(f"{letter}{number % 200}" for letter in "ab"[:values])) for number in range(1000)]
    policies, _ = read(*(made(number, selector, spec) for number, selector in enumerate(selectors)))
    began = time.process_time()
    found, told = lowered(policies, KubeArmorOptions())
    assert (len(found), told) == (1001, ())
    assert time.process_time() - began < 20, "some seconds, on a slow machine"


def rules(*texts: str) -> KubeArmorRules:
    found, _ = KUBEARMOR.read([SourceFile("p.yaml", "---\n".join(texts).encode())], None)
    return found


def test_too_many_exceptions_are_told_with_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "MAX_EXCUSES", 1000)
    many = [made(number, {}) for number in range(20)]
    apart = [made(number, of_app(f"a{number}")) for number in range(20)]
    found, diagnostics = KUBEARMOR.read([SourceFile("p.yaml", "---\n".join(many).encode())], None)
    [error] = [one for one in diagnostics if one.severity == "error"]
    assert (error.code, error.location.file, error.location.line > 1, bool(error.hint)) == ("too-large", "p.yaml", True, True)
    assert found.policy_set == PolicySet()
    _, diagnostics = KUBEARMOR.read([SourceFile("p.yaml", "---\n".join(apart).encode())], None)
    assert diagnostics == []


def test_those_that_are_too_many_together_are_refused_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "MAX_EXCUSES", 1000)
    one, *others = [rules(made(number, {})) for number in range(20)]
    assert len(one.joined(others[:2]).policies(Facts())) == 4
    with pytest.raises(CompileError) as raised:
        one.joined(others).policies(Facts())
    assert [found.code for found in raised.value.diagnostics] == ["too-large"]


def test_what_lets_anything_through_anywhere_is_put_together_once() -> None:
    texts = [
        made(
            number,
            of_app("web"),
            {
                "process": {
                    "matchPaths": [{"execname": f"x{number}", "action": "Allow"}],
                    "matchDirectories": [{"dir": f"/d{number}/", "recursive": True}],
                }
            },
        )
        for number in range(3)
    ]
    policies, _ = read(*texts)
    before = Order(policies)
    found = []
    for policy in policies:
        block = next(entry for entry in policy.entries if entry.action == "Block")
        [way] = entries.ways(block)
        [excuse] = before.excuses(policy, block, scope(policy))(way, "process.exec")
        found.append(excuse)
    assert found[0] is found[1] is found[2]


def test_what_is_let_through_is_told_apart_by_event() -> None:
    """readOnly lets reading through, and no change; who may change the owner is not told by the owner."""
    spec = {"file": {"matchDirectories": [FILES[0], {**FILES[1], "readOnly": True, "ownerOnly": True}]}}
    policies = PolicySet(rules(made(0, of_app("web"), spec), made(1, of_app("web"))).policies(Facts()))
    inside = pod(app="web")
    for event, fields, action in (
        ("file.open", {"file__access": abi.ACCESS_READ}, Action.NONE), ("file.open", {"file__access": abi.ACCESS_WRITE}, Action.DENY),
        ("file.unlink", {}, Action.DENY), ("file.chown", {}, Action.DENY),
    ):  # fmt: skip
        found = decided(policies, event, inside, file__path="/data/free/x", file__uid=0, **fields)
        assert found.action is action, event
