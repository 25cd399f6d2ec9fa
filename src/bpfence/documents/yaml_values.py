# SPDX-License-Identifier: Apache-2.0
"""YAML in, the values that JSON would have given out, with their places.

For readers of JSON formats that people also write as YAML. Scalars mean what YAML 1.2's core schema says: `on` is a text.
"""

from __future__ import annotations

import re
from typing import Final

from bpfence.documents import yaml_nodes
from bpfence.documents.json_values import DocumentError, Value
from bpfence.documents.yaml_nodes import Node, YamlError
from bpfence.errors import Location

_DECIMAL: Final = re.compile(r"[-+]?[0-9]+")
_BASED: Final = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_TOO_LONG: Final = 40


def as_value(node: Node) -> Value:
    """A node, and all below it, as JSON would have it."""
    if node.kind == "map":
        made = Value(node.source, "object", node.start)
        made.pairs = [(Value(node.source, "string", key.start, key.text), as_value(value)) for key, value in node.pairs]
        return made
    if node.kind == "list":
        made = Value(node.source, "array", node.start)
        made.items = [as_value(item) for item in node.items]
        return made
    return _scalar(node)


def _scalar(node: Node) -> Value:
    text = node.text
    if node.style or node.tag == "!!str" or len(text) > _TOO_LONG:
        return Value(node.source, "string", node.start, text)
    if node.empty:
        return Value(node.source, "null", node.start, "null")
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return Value(node.source, "boolean", node.start, text.lower())
    if _DECIMAL.fullmatch(text):
        return Value(node.source, "number", node.start, str(int(text)))
    if _BASED.fullmatch(text):
        return Value(node.source, "number", node.start, str(int(text, 0)))
    if _FLOAT.fullmatch(text):
        return Value(node.source, "number", node.start, text)
    return Value(node.source, "string", node.start, text)


def documents(data: bytes, file: str) -> list[Value]:
    """Every document of a YAML (or JSON) text as a value; DocumentError with the place of the first mistake."""
    if len(data) > yaml_nodes.MAX_BYTES:
        raise DocumentError(Location(file), f"the file is larger than {yaml_nodes.MAX_BYTES >> 20} MiB", "split it", "json-limit")
    try:
        return [as_value(root) for root in yaml_nodes.documents(yaml_nodes.decode(data, file), file)]
    except YamlError as error:
        found = error.diagnostic
        raise DocumentError(found.location, found.message, found.hint, found.code) from None
