# SPDX-License-Identifier: Apache-2.0
"""Nothing in, the CustomResourceDefinitions of policies and of seccomp profiles out.

Called by tools/gen_crds.py, which writes them into the chart. The schemas are those of files, as far as structural schemas go: they have no
references, no alternatives of types and no closed maps. Keys that no level knows are kept, not pruned: a rule that loses a misspelt
condition on its way would deny what it does not mean. The webhook and the agent refuse them, with what was meant.
https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema
"""

from __future__ import annotations

from typing import Any, Final

from bpfence.dialects.native.schema import API_VERSION, CLUSTER_KIND, KIND, json_schema
from bpfence.k8s.objects import PLURALS
from bpfence.seccomp import objects as seccomp

GROUP, _, VERSION = API_VERSION.partition("/")
SHORT_NAMES: Final = {KIND: "bpol", CLUSTER_KIND: "cbpol", seccomp.KIND: "bsp", seccomp.CLUSTER_KIND: "cbsp"}
_ABOUT: Final = {
    KIND: "Which acts are denied or reported, for the pods of its namespace.",
    CLUSTER_KIND: "Which acts are denied or reported, for all processes of a node.",
    seccomp.KIND: "A seccomp profile, which is put on every node, and the containers of its namespace that it is bound to.",
    seccomp.CLUSTER_KIND: "A seccomp profile, which is put on every node, and the containers of any namespace that it is bound to.",
}
MAX_NODES: Final = 1000
_KEEP: Final = "x-kubernetes-preserve-unknown-fields"
_PLAIN: Final = ("description", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems")
_TEXT: Final = {"type": "string"}
_NUMBER: Final = {"type": "integer", "format": "int64"}
_TIME: Final = {"type": "string", "format": "date-time"}


def crds() -> list[dict[str, Any]]:
    """All of them, as the API server takes them."""
    policy, profile = spec_schema(), profile_schema()
    return [
        _crd(KIND, "Namespaced", policy),
        _crd(CLUSTER_KIND, "Cluster", policy),
        _crd(seccomp.KIND, "Namespaced", profile),
        _crd(seccomp.CLUSTER_KIND, "Cluster", profile),
    ]


def spec_schema() -> dict[str, Any]:
    """The structural schema of a policy's `spec`."""
    schema = json_schema()
    return _structural(schema["$defs"]["Spec"], schema["$defs"])


def profile_schema() -> dict[str, Any]:
    """The structural schema of a seccomp profile's `spec`."""
    schema = seccomp.json_schema()
    return _structural(schema["$defs"]["Spec"], schema["$defs"])


def _crd(kind: str, scope: str, spec: dict[str, Any]) -> dict[str, Any]:
    plural = PLURALS[kind]
    first = (
        {"name": "Mode", "type": "string", "jsonPath": ".spec.mode"}
        if kind in (KIND, CLUSTER_KIND)
        else {"name": "Default", "type": "string", "jsonPath": ".spec.profile.defaultAction"}
    )
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {
            "openAPIV3Schema": {
                "description": _ABOUT[kind],
                "type": "object",
                "required": ["spec"],
                "properties": {"spec": spec, "status": status_schema()},
            }
        },
        "subresources": {"status": {}},
        "additionalPrinterColumns": [
            first,
            {"name": "Accepted", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Accepted")].status'},
            {"name": "In force", "type": "string", "jsonPath": ".status.summary.text", "description": "nodes, of those that have told"},
            {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
            {
                "name": "Reason", "type": "string", "priority": 1,
                "jsonPath": '.status.conditions[?(@.type=="Accepted")].message',
            },
        ],
    }  # fmt: skip
    names = {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower(), "shortNames": [SHORT_NAMES[kind]]}
    names["categories"] = ["bpfence"]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {"group": GROUP, "scope": scope, "names": names, "versions": [version]},
    }


def _structural(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """One level, and those below it."""
    while "$ref" in schema:
        found = definitions[schema["$ref"].rpartition("/")[2]]
        schema = {**found, **{key: value for key, value in schema.items() if key != "$ref"}}
    made: dict[str, Any] = {key: schema[key] for key in _PLAIN if key in schema}
    if "anyOf" in schema:
        options = [option for option in schema["anyOf"] if option != {"type": "null"}]
        if len(options) == 1:
            return {**_structural(options[0], definitions), **made}
        return {**made, _KEEP: True}
    if "enum" in schema and all(isinstance(value, str) for value in schema["enum"]):
        return (
            {**made, "type": "string", "enum": [value for value in schema["enum"] if value]} if all(schema["enum"]) else {**made, **_TEXT}
        )
    match schema.get("type"):
        case "object" if "properties" in schema:
            properties = {key: _structural(value, definitions) for key, value in schema["properties"].items()}
            required = {"required": schema["required"]} if schema.get("required") else {}
            return {**made, "type": "object", "properties": properties, **required, _KEEP: True}
        case "object":
            inner = schema.get("additionalProperties")
            return (
                {**made, "type": "object", "additionalProperties": _structural(inner, definitions)}
                if inner
                else {**made, "type": "object", _KEEP: True}
            )
        case "array":
            return {**made, "type": "array", "items": _structural(schema["items"], definitions)}
        case "string" | "integer" | "boolean" as plain:
            return {**made, "type": plain}
    return {**made, _KEEP: True}


def status_schema() -> dict[str, Any]:
    """The structural schema of `status`: see `objects.Status`. Entries are merged by their names, so each may have another writer."""
    finding = _object(path=_TEXT, message=_TEXT, hint=_TEXT, code=_TEXT, severity=_TEXT)
    node = _object(
        name={**_TEXT, "maxLength": 253},
        observed={**_NUMBER, "description": "the newest generation that the node knows"},
        generation={**_NUMBER, "description": "the generation in force there; absent: none"},
        changed={**_TIME, "description": "when that last changed"},
        findings={"type": "array", "items": finding, "maxItems": 32, "x-kubernetes-list-type": "atomic"},
    )
    condition = _object(
        type=_TEXT,
        status={**_TEXT, "enum": ["True", "False", "Unknown"]},
        reason=_TEXT,
        message=_TEXT,
        observedGeneration=_NUMBER,
        lastTransitionTime=_TIME,
    )
    counts = {name: {"type": "integer", "format": "int32"} for name in ("nodes", "inForce", "refused")}
    return _object(
        nodes=_merged({**node, "required": ["name"]}, "name", MAX_NODES),
        conditions=_merged({**condition, "required": ["type", "status"]}, "type", 16),
        summary={**_object(**counts, text=_TEXT), "description": "what the entries of all nodes come to"},
    )


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def _merged(items: dict[str, Any], key: str, most: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "maxItems": most, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}
