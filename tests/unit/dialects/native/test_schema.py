"""The models: they are what shipped policies look like, and what the reader knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from bpfence.dialects.native import schema
from bpfence.dialects.native.read import LABELS, SUBJECTS, WORKLOADS
from bpfence.documents import yaml_nodes
from bpfence.documents.yaml_nodes import YamlNode
from bpfence.fields import FIELD_BY_NAME

SHIPPED = sorted((Path(__file__).parents[4] / "examples" / "policies").glob("*.yaml"))


def plain(node: YamlNode) -> Any:
    if node.kind == "list":
        return [plain(item) for item in node.items]
    if node.kind == "map":
        return {key.text: plain(value) for key, value in node.pairs}
    return {"true": True, "false": False}.get(node.text, node.text)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_policies_are_what_the_models_say(path: Path) -> None:
    for document in yaml_nodes.documents(path.read_text(), str(path)):
        assert msgspec.convert(plain(document), schema.SecurityPolicy).metadata.name == path.stem


def test_the_models_refuse_other_keys() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"name": "x", "on": "exec", "nope": 1}, schema.RuleSpec)


def test_keys() -> None:
    assert schema.keys(schema.SecurityPolicy) == ("apiVersion", "kind", "metadata", "spec")
    assert schema.required_keys(schema.RuleSpec) == ("name", "on")
    assert set(SUBJECTS) | set(WORKLOADS) | set(LABELS) | {"container", "unknown", "unless"} == set(schema.keys(schema.Scope))
    assert set(SUBJECTS.values()) <= set(FIELD_BY_NAME)


def test_the_json_schema_knows_fields_and_events() -> None:
    definitions = schema.json_schema()["$defs"]
    assert set(definitions["Match"]["properties"]) == set(FIELD_BY_NAME)
    assert not any(name.startswith("sensor.") for name in definitions["RuleSpec"]["properties"]["on"]["anyOf"][0]["enum"])
    assert definitions["Match"]["additionalProperties"] is False
    assert "file.modify" in definitions["RuleSpec"]["properties"]["on"]["anyOf"][0]["enum"]
    assert "file.modify" not in definitions["Spec"]["properties"]["default"]["propertyNames"]["enum"]
    assert definitions["RuleSpec"]["additionalProperties"] is False


def test_what_narrows_is_never_null() -> None:
    """The models allow null for what is left out; no document may say it, where a rule would be about more."""
    definitions = schema.json_schema()["$defs"]
    for model in (schema.Spec, schema.Scope, schema.Subjects, schema.RuleSpec, schema.Threshold):
        for key in schema.narrowing_keys(model):
            assert key in schema.keys(model)
            assert {"type": "null"} not in definitions[model.__name__]["properties"][key].get("anyOf", ())
