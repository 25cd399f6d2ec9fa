# SPDX-License-Identifier: Apache-2.0
"""YAML in, the values that JSON would have given out, with their places.

For readers of JSON formats that people also write as YAML. Scalars mean what YAML 1.2's core schema says: `on` is a text.
"""

from __future__ import annotations

import re
from typing import Final

from bpfence.documents import yaml_nodes
from bpfence.documents.json_values import JsonValue
from bpfence.documents.yaml_nodes import TEXT_TAGS, YamlNode

_DECIMAL: Final = re.compile(r"[-+]?[0-9]+")
_BASED: Final = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_TOO_LONG: Final = 40


def as_value(node: YamlNode) -> JsonValue:
    """A node and all below it, with the values that JSON would have."""
    if node.kind == "map":
        made = JsonValue(node.source, "object", node.start)
        made.pairs = [(JsonValue(node.source, "string", key.start, key.text), as_value(value)) for key, value in node.pairs]
        return made
    if node.kind == "list":
        made = JsonValue(node.source, "array", node.start)
        made.items = [as_value(item) for item in node.items]
        return made
    return _scalar(node)


def _scalar(node: YamlNode) -> JsonValue:
    text = node.text
    if node.style or node.tag in TEXT_TAGS or len(text) > _TOO_LONG:
        return JsonValue(node.source, "string", node.start, text)
    if node.empty:
        return JsonValue(node.source, "null", node.start, "null")
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return JsonValue(node.source, "boolean", node.start, text.lower())
    if _DECIMAL.fullmatch(text):
        return JsonValue(node.source, "number", node.start, str(int(text)))
    if _BASED.fullmatch(text):
        return JsonValue(node.source, "number", node.start, str(int(text, 0)))
    if _FLOAT.fullmatch(text):
        return JsonValue(node.source, "number", node.start, text)
    return JsonValue(node.source, "string", node.start, text)


def documents(data: bytes, file: str) -> list[JsonValue]:
    """Every document of a YAML (or JSON) text as a value; DocumentError with the place of the first mistake."""
    text = yaml_nodes.decode(data, file, limit_code="json-limit", limit_hint="split it")
    return [as_value(root) for root in yaml_nodes.documents(text, file)]
