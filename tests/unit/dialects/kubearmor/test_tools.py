# SPDX-License-Identifier: Apache-2.0
"""Entries as native policies, and which have none."""

from __future__ import annotations

from typing import Any

import pytest

from bpfence.convert import Converted, convert
from bpfence.dialects.kubearmor.dialect import KUBEARMOR
from bpfence.dialects.kubearmor.lower import order
from bpfence.dialects.native.dialect import NATIVE
from bpfence.dialects.native.read import load_text
from bpfence.documents.files import SourceFile
from bpfence.host.links import Links
from bpfence.policy import Action
from tests.unit.dialects.kubearmor.corpus import WEB, corpus, decided, document, lowered


def converted(*texts: str, mode: str = "enforce") -> Converted:
    exact, _ = KUBEARMOR.tools().exactly([SourceFile("p.yaml", "---\n".join(texts).encode())], mode)
    return convert(exact, NATIVE.tools().document)


def test_no_two_policies_come_to_one_name() -> None:
    given = {"file": {"matchPaths": [{"path": "/a"}]}}
    texts = (document(given, name=name, namespace=namespace) for namespace, name in (("a", "b-c"), ("a-b", "c"), ("a", "b.c")))
    policies, diagnostics = load_text(converted("\n---\n".join(texts)).text)
    assert (diagnostics, len({policy.name for policy in policies.policies})) == ([], 3)


def test_an_entry_becomes_a_policy_that_means_the_same() -> None:
    given = {"file": {"matchPaths": [{"path": "/a", "severity": 8, "tags": ["T1"], "message": 'no "{a}"'}]}}
    text = document(given)
    found = converted(text)
    assert (found.converted, found.left_out) == (["KubeArmorPolicy/shop/p file.matchPaths[0]"], [])
    policies, diagnostics = load_text(found.text)
    assert diagnostics == []
    [policy] = policies.policies
    assert (policy.name, policy.mode, policy.severity, policy.tags) == (
        "KubeArmorPolicy.shop.p-file.matchPaths.0",
        "enforce",
        "high",
        ("T1",),
    )
    [before] = lowered(text).policies
    assert {rule.message for rule in policy.rules} == {rule.message for rule in before.rules} == {'no "{{a}}"'}
    assert (policy.scope, policy.doubt) == (before.scope, before.doubt)
    for event, path in (("file.open", "/a"), ("file.unlink", "/a"), ("file.open", "/b")):
        for where in (WEB, None):
            fields: dict[str, Any] = {"file__path": path, "file__access": 1}
            now, then = (decided(one, event, where, **fields) for one in (policies, lowered(text)))
            assert (now.action, now.errno) == (then.action, then.errno)


def test_what_an_earlier_entry_lets_through_is_left_out_of_a_block() -> None:
    directory = {"dir": "/data/", "recursive": True}
    allowing = {"file": {"matchDirectories": [{**directory, "fromSource": [{"path": "/app"}]}]}, "action": "Allow"}
    blocking = {"file": {"matchDirectories": [directory]}}
    found = converted(document(allowing, name="a"), document(blocking, name="b"))
    policies, _ = load_text(found.text)
    for exe, action in (("/app", Action.NONE), ("/x", Action.DENY)):
        assert decided(policies, "file.open", WEB, file__path="/data/x", file__access=1, process__exe=exe).action is action
    elsewhere = converted(document(allowing, name="a"), document({**blocking, "selector": {}}, name="b"))
    assert (elsewhere.converted, len(elsewhere.left_out)) == ([], 2)


def test_a_host_policy() -> None:
    text = document({"process": {"matchPaths": [{"path": "/a"}]}}, "KubeArmorHostPolicy")
    [policy], [before] = load_text(converted(text, mode="audit").text)[0].policies, lowered(text).policies
    assert (policy.mode, policy.scope) == ("audit", before.scope)


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ({"file": {"matchPaths": [{"path": "/a"}]}, "action": "Allow"}, "allow list"),
        ({"syscalls": {"matchSyscalls": [{"syscall": ["getpid"]}]}}, "no event"),
        (
            {
                "selector": {"matchExpressions": [{"key": "label", "operator": "NotIn", "values": ["app=web"]}]},
                "file": {"matchPaths": [{"path": "/a"}]},
            },
            "no such scope",
        ),
    ],
)
def test_what_has_none_is_told(spec: dict[str, Any], what: str) -> None:
    found = converted(document(spec))
    [told] = found.left_out
    assert (found.text, told.code, told.location.file, told.location.line > 1) == ("", "not-expressible", "p.yaml", True)
    assert what in told.message


def test_policies_that_are_too_many_together_are_told_as_all_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is found beside it, too."""
    monkeypatch.setattr(order, "MAX_EXCUSES", 1)
    entries = [{"dir": "/data/", "recursive": True, "action": "Block"}]
    entries += [{"dir": f"/data/{name}/", "recursive": True, "action": "Allow"} for name in "ab"]
    text = document({"selector": {}, "file": {"matchDirectories": entries}})
    found, summary = KUBEARMOR.tools().check([SourceFile("p.yaml", text.encode())], Links())
    assert (sorted(one.code for one in found), summary) == (["selects-all", "too-large"], [])


def test_published_policies() -> None:
    """Every entry is converted or told."""
    total = 0
    for source in corpus():
        rules, diagnostics = KUBEARMOR.read([source], None)
        if any(found.severity == "error" for found in diagnostics):
            continue
        found = converted(source.data.decode())
        entries = sum(len(policy.entries) for policy in rules.given)
        assert len(found.converted) + len(found.left_out) == entries, source.file
        total += len(found.converted)
    assert total > 300
