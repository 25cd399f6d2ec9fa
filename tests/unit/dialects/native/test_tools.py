# SPDX-License-Identifier: Apache-2.0
"""Native policies as commands ask for them. As people see it: tests/unit/cli/test_policies.py."""

from __future__ import annotations

import json

import pytest

from bpfence.compiler.compile import Compiled
from bpfence.dialects.native.dialect import NATIVE
from bpfence.documents.files import SourceFile
from bpfence.errors import CompileError, Diagnostic, Location, PolicyError, UsageError
from bpfence.host.links import Links
from bpfence.policy import Policy, PolicySet, Rule

HEAD = "apiVersion: bpfence.io/v1alpha1\nkind: SecurityPolicy\nmetadata: {name: p}\nspec:\n  rules:\n"
DENY = HEAD + "    - {name: r, on: open, match: {file.path: /secret}, action: deny}\n"


def given(text: str) -> list[SourceFile]:
    return [SourceFile("p.yaml", text.encode())]


def test_a_check_compiles_what_has_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: PolicySet) -> Compiled:
        raise CompileError([Diagnostic(Location("p.yaml"), "no room", code="too-large")])

    found, summary = NATIVE.tools().check(given(DENY), Links())
    assert summary == [{"name": "p", "mode": "enforce", "rules": 1}]
    monkeypatch.setattr("bpfence.dialects.native.tools.compile_policies", refuse)
    more, _ = NATIVE.tools().check(given(DENY), Links())
    assert [finding.code for finding in more if finding not in found] == ["too-large"]
    wrong, _ = NATIVE.tools().check(given(DENY.replace("deny", "dney")), Links())
    assert "too-large" not in [finding.code for finding in wrong]


def test_events_are_decided_and_a_mode_overrides() -> None:
    line = '{"event": "open", "file.path": "/secret", "expect": "%s"}'
    lines = [(line % expected).encode() for expected in ("deny", "audit")]
    assert NATIVE.tools().test(given(DENY), lines)[0].mismatches == 1
    tested, _ = NATIVE.tools().test(given(DENY), lines[1:], mode="audit")
    assert (tested.events, tested.expected, tested.mismatches) == (1, 1, 0)


def test_what_has_a_mistake_is_neither_explained_nor_tested() -> None:
    with pytest.raises(PolicyError):
        NATIVE.tools().explain(given(DENY.replace("deny", "dney")), Links())
    with pytest.raises(PolicyError):
        NATIVE.tools().test(given(DENY.replace("deny", "dney")), [])


def test_rules_are_not_chosen() -> None:
    with pytest.raises(UsageError, match="without --rule"):
        NATIVE.tools().explain(given(DENY), Links(), names=["r"])


def test_a_policy_is_written() -> None:
    rule = Rule(policy="p", name="r", events=("file.open",))
    assert NATIVE.tools().document(Policy(name="p", rules=(rule,)))[1] == ""


SELECTING = DENY.replace(
    "spec:", "spec:\n  scope: {image: [nginx, httpd], container: true, labels: {app: web}, unless: {namespace: kube-*}}"
)


def test_events_say_in_which_container_they_are() -> None:
    cases = (
        ("deny", {"id": "x", "image": "nginx:1.27", "labels": {"app": "web"}}, None),
        ("none", {"id": "x", "image": "redis", "labels": {"app": "web"}}, None),
        (
            "none",
            {"id": "x", "image": "nginx", "labels": {"app": "web"}},
            {"namespace": "kube-system", "pod": "p", "labels": {"app": "web"}},
        ),
        ("deny", {"id": "x", "image": "nginx"}, {"namespace": "shop", "pod": "p", "labels": {"app": "web"}}),
        ("audit", {"id": "x"}, None),
        ("audit", None, None),
    )
    event = {"event": "open", "file.path": "/secret", "process.cgroup": "/docker/x"}
    lines = [json.dumps({**event, "container": one, "k8s": pod, "expect": expect}).encode() for expect, one, pod in cases]
    tested, _ = NATIVE.tools().test(given(SELECTING), lines)
    assert (tested.mismatches, tested.notes) == (0, [])
    for (expect, _, _), line in zip(cases, lines, strict=True):
        shown, _ = NATIVE.tools().explain(given(SELECTING), Links(), event=line.replace(b', "expect"', b', "message"').decode())
        assert shown.json["route"]["action"] == expect


def test_scopes_are_explained() -> None:
    shown, _ = NATIVE.tools().explain(given(SELECTING), Links())
    (scope,) = shown.json["scopes"]
    assert (scope["policy"], scope["unknown"]) == ("p", "audit")
    assert "process.container selects (image: nginx, httpd; labels: app in (web))" in scope["processes"]
    assert "namespace: kube-*" in scope["processes"].replace('"', "")
    assert shown.json["container_classes"] > 1
    assert NATIVE.tools().explain(given(DENY), Links())[0].json["scopes"] == []
