# SPDX-License-Identifier: Apache-2.0
"""`seccomp:` of a policy, inline and by file; mistakes in it where they stand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bpfence.dialects.native.read import load_files, load_text
from bpfence.dialects.native.schema import json_schema
from bpfence.seccomp.model import ArgOp, ProfileAction
from bpfence.seccomp.profile import dump, load_bytes

HEAD = "apiVersion: bpfence.io/v1alpha1\nkind: SecurityPolicy\nmetadata: {name: p}\nspec:\n"
INLINE = """  seccomp:
    defaultAction: SCMP_ACT_ERRNO
    syscalls:
      - names: [read, "on", write]
        action: SCMP_ACT_ALLOW
      - names: [personality]
        action: SCMP_ACT_ALLOW
        args: [{index: 0, value: 0xffffffff, op: SCMP_CMP_EQ}]
"""


def test_inline() -> None:
    policies, found = load_text(HEAD + INLINE)
    assert found == []
    profile = policies.policies[0].seccomp
    assert profile is not None
    assert profile.default_action is ProfileAction.ERRNO
    assert profile.rules[0].names == ("read", "on", "write")
    assert (profile.rules[1].args[0].value, profile.rules[1].args[0].op) == (0xFFFFFFFF, ArgOp.EQ)
    assert (profile.rules[0].place("write").line, profile.rules[0].place("write").column) == (8, 29)


def test_no_profile() -> None:
    policies, _ = load_text(HEAD + "  rules: [{name: a, on: exec, action: audit}]\n")
    assert policies.policies[0].seccomp is None


def test_by_file(tmp_path: Path) -> None:
    profile, _ = load_bytes(b'{"defaultAction": "SCMP_ACT_LOG"}')
    assert profile is not None
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "own.json").write_bytes(dump(profile))
    (tmp_path / "p.yaml").write_text(HEAD + "  seccomp: profiles/own.json\n")
    policies, found = load_files([tmp_path / "p.yaml"])
    assert found == []
    assert policies.policies[0].seccomp is not None
    assert policies.policies[0].seccomp.default_action is ProfileAction.LOG


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(HEAD + "  seccomp: none.json\n")
    policies, (found,) = load_files([tmp_path / "p.yaml"])
    assert policies.policies == ()
    assert (found.code, found.location.line, found.location.column) == ("cannot-read", 5, 12)
    assert "none.json" in found.message


def test_mistakes_in_a_file_stand_in_that_file(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('{"defaultAction": "SCMP_ACT_ERNO"}')
    (tmp_path / "p.yaml").write_text(HEAD + "  seccomp: bad.json\n")
    policies, (found,) = load_files([tmp_path / "p.yaml"])
    assert policies.policies == ()
    assert found.location.file == str(tmp_path / "bad.json")
    assert (found.code, found.location.line) == ("bad-action", 1)


@pytest.mark.parametrize(
    ("old", "new", "line", "column", "code"),
    [
        ("SCMP_ACT_ERRNO", "errno", 6, 20, "bad-action"),
        ("names: [read", "name: [read", 8, 15, "wrong-type"),
        ("index: 0", "index: 6", 12, 24, "bad-number"),
        ("0xffffffff", "-1", 12, 34, "bad-number"),
        ("0xffffffff", "1.5", 12, 34, "bad-number"),
        ("    syscalls:", "    rules:", 7, 5, "unknown-key"),
    ],
)
def test_mistakes_inline(old: str, new: str, line: int, column: int, code: str) -> None:
    policies, found = load_text(HEAD + INLINE.replace(old, new, 1), "p.yaml")
    assert policies.policies == ()
    assert (found[0].code, found[0].location.file, found[0].location.line, found[0].location.column) == (code, "p.yaml", line, column)


def test_a_list_is_no_profile() -> None:
    _, (found,) = load_text(HEAD + "  seccomp: [a]\n")
    assert found.code == "wrong-type"


def test_the_schema_knows_the_profile() -> None:
    schema = json_schema()
    profile = schema["$defs"]["SeccompProfile"]
    assert "SCMP_ACT_KILL" in profile["properties"]["defaultAction"]["enum"]
    assert {"$ref": "#/$defs/SeccompProfile"} in schema["$defs"]["Spec"]["properties"]["seccomp"]["anyOf"]
    json.dumps(schema)
