# SPDX-License-Identifier: Apache-2.0
"""The CustomResourceDefinitions: structural, and of the models. tests/kubernetes has a real API server take them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bpfence.dialects.native import schema
from bpfence.fields import FIELDS
from bpfence.k8s.crds import crds, profile_schema, spec_schema, status_schema
from bpfence.k8s.objects import Condition, Finding, NodeStatus, Status

ROOT = Path(__file__).resolve().parents[3]


def levels(level: Any) -> Iterator[dict[str, Any]]:
    yield level
    for inner in level.get("properties", {}).values():
        yield from levels(inner)
    for key in ("items", "additionalProperties"):
        if isinstance(level.get(key), dict):
            yield from levels(level[key])


def test_the_levels_have_the_keys_of_the_models() -> None:
    spec = spec_schema()
    assert tuple(spec["properties"]) == schema.keys(schema.Spec)
    assert tuple(spec["properties"]["scope"]["properties"]) == schema.keys(schema.Scope)
    rule = spec["properties"]["rules"]["items"]
    assert tuple(rule["properties"]) == schema.keys(schema.RuleSpec)
    assert rule["required"] == ["name", "on"]
    assert set(rule["properties"]["match"]["properties"]) == {field.name for field in FIELDS}


def test_every_level_is_structural() -> None:
    allowed = {
        "type", "description", "properties", "items", "additionalProperties", "required", "enum", "pattern", "minimum", "maximum", "format",
        "minItems", "maxItems", "maxLength", "minLength", "x-kubernetes-preserve-unknown-fields", "x-kubernetes-list-type",
        "x-kubernetes-list-map-keys",
    }  # fmt: skip
    for level in (*levels(spec_schema()), *levels(profile_schema()), *levels(status_schema())):
        assert level.keys() <= allowed
        assert "type" in level or level.get("x-kubernetes-preserve-unknown-fields") is True
        assert not ("properties" in level and "additionalProperties" in level)


def test_no_key_is_lost_on_the_way() -> None:
    """A rule without its misspelt condition would deny what it does not mean."""
    for level in (*levels(spec_schema()), *levels(profile_schema())):
        if "properties" in level:
            assert level["x-kubernetes-preserve-unknown-fields"] is True


def test_the_status_is_that_of_the_models() -> None:
    status = status_schema()["properties"]
    assert tuple(status) == schema.keys(Status)  # type: ignore[arg-type]
    assert tuple(status["nodes"]["items"]["properties"]) == schema.keys(NodeStatus)  # type: ignore[arg-type]
    assert tuple(status["nodes"]["items"]["properties"]["findings"]["items"]["properties"]) == schema.keys(Finding)  # type: ignore[arg-type]
    assert set(status["conditions"]["items"]["properties"]) == set(schema.keys(Condition))  # type: ignore[arg-type]


def test_all_kinds() -> None:
    assert [(crd["spec"]["names"]["kind"], crd["spec"]["scope"]) for crd in crds()] == [
        ("SecurityPolicy", "Namespaced"),
        ("ClusterSecurityPolicy", "Cluster"),
        ("SeccompProfile", "Namespaced"),
        ("ClusterSeccompProfile", "Cluster"),
    ]


def test_the_checked_in_files_are_current() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "tools" / "gen_crds.py"), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
