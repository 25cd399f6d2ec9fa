# SPDX-License-Identifier: Apache-2.0
"""Native policies as commands ask for them. As people see it: tests/unit/cli/test_policies.py."""

from __future__ import annotations

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
