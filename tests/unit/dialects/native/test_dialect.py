# SPDX-License-Identifier: Apache-2.0
"""The native language in the shape of a dialect."""

from __future__ import annotations

from bpfence.dialects.dialect import Facts
from bpfence.dialects.native.dialect import NATIVE
from bpfence.documents.files import SourceFile

POLICY = b"""apiVersion: bpfence.io/v1alpha1
kind: SecurityPolicy
metadata: {name: p}
spec: {rules: [{name: r, on: open, match: {file.path: /x}}]}
"""


def test_policies_pass_through_and_lose_nothing() -> None:
    rules, found = NATIVE.read([SourceFile("p.yaml", POLICY)], None)
    assert [finding for finding in found if finding.severity == "error"] == []
    (policy,) = rules.policies(Facts())
    assert (policy.name, list(rules.smaller(policy)), list(rules.paths())) == ("p", [(policy, ())], ["/x"])
    assert rules.locations == [policy.location]
