# SPDX-License-Identifier: Apache-2.0
"""Falco's language in the shape of a dialect."""

from __future__ import annotations

import pytest

from bpfence.dialects.dialect import Facts
from bpfence.dialects.falco.dialect import FALCO
from bpfence.dialects.falco.options import ENFORCING, WATCHING, FalcoOptions
from bpfence.documents.files import SourceFile
from bpfence.errors import UsageError
from tests.unit.agent.falco_rig import RULES

NATIVE = "apiVersion: bpfence.io/v1alpha1\nkind: SecurityPolicy\n"
FILES = [SourceFile("rules.yaml", RULES.encode())]


def test_rules_become_two_policies() -> None:
    rules, found = FALCO.read(FILES, None)
    watching, enforcing = rules.policies(Facts())
    assert (found, watching.name, enforcing.name) == ([], WATCHING, ENFORCING)
    assert {rule.confirm for rule in watching.rules} == {FALCO.name}
    assert {rule.confirm for rule in enforcing.rules} == {""}
    assert list(rules.smaller(enforcing)) == [(enforcing, ())]
    assert len(list(rules.smaller(watching))) > 1


def test_options_choose_and_may_choose_nothing() -> None:
    rules, _ = FALCO.read(FILES, FalcoOptions(names=("Secret",), links="as-written"))
    assert ([rule.name for rule in rules.set.rules], list(rules.paths())) == (["Secret"], [])
    with pytest.raises(UsageError, match="no Falco rule"):
        FALCO.read(FILES, FalcoOptions(tags=("none",)))
    with pytest.raises(UsageError, match="--append-output"):
        FALCO.read(FILES, FalcoOptions(append="%nope"))


@pytest.mark.parametrize(
    ("text", "falco"),
    [
        ("- rule: x\n", True),
        ("- {macro: x}\n", True),
        ('  - "list": x\n', True),
        ("- required_engine_version: 0.1\n", True),
        (NATIVE, False),
        (NATIVE + "spec:\n  rules:\n    - rule: x\n", False),
        ("", False),
    ],
)
def test_whose_a_text_is(text: str, falco: bool) -> None:
    assert FALCO.claims(text.encode()) is falco
