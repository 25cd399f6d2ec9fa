# SPDX-License-Identifier: Apache-2.0
"""YAML in, the values that JSON would have given out, with their places.

For readers of JSON formats that people also write as YAML. Scalars mean what YAML 1.2's core schema says: `on` is a text. Or what
Kubernetes' reader (sigs.k8s.io/yaml) makes of them: `on` is true, and 017 fifteen.
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


_OLD_TRUE: Final = frozenset(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"))
_OLD_FALSE: Final = frozenset(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"))
_OLD_NUMBER: Final = re.compile(r"[-+]?(0[bB][01]+|0[oO]?[0-7]+|0[xX][0-9a-fA-F]+|0|[1-9][0-9]*)")


def truth(text: str) -> bool | None:
    """What Kubernetes' reader makes of a scalar without quotes; None where it is no truth value."""
    return True if text in _OLD_TRUE else False if text in _OLD_FALSE else None


def as_value(node: YamlNode, *, kubernetes: bool = False) -> JsonValue:
    """A node and all below it, with the values that JSON would have. `kubernetes`: as its reader has them."""
    if node.kind == "map":
        made = JsonValue(node.source, "object", node.start)
        made.pairs = [
            (JsonValue(node.source, "string", key.start, key.text), as_value(value, kubernetes=kubernetes)) for key, value in node.pairs
        ]
        return made
    if node.kind == "list":
        made = JsonValue(node.source, "array", node.start)
        made.items = [as_value(item, kubernetes=kubernetes) for item in node.items]
        return made
    return _scalar(node, kubernetes)


def _scalar(node: YamlNode, kubernetes: bool) -> JsonValue:
    text = node.text
    if node.style or node.tag in TEXT_TAGS or len(text) > _TOO_LONG:
        return JsonValue(node.source, "string", node.start, text)
    if node.empty:
        return JsonValue(node.source, "null", node.start, "null")
    if kubernetes and truth(text) is not None:
        return JsonValue(node.source, "boolean", node.start, "true" if truth(text) else "false")
    if kubernetes and not text.startswith("_") and _OLD_NUMBER.fullmatch(text.replace("_", "")):
        return JsonValue(node.source, "number", node.start, str(_old_number(text.replace("_", ""))))
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return JsonValue(node.source, "boolean", node.start, text.lower())
    if _DECIMAL.fullmatch(text):
        return JsonValue(node.source, "number", node.start, str(int(text)))
    if _BASED.fullmatch(text):
        return JsonValue(node.source, "number", node.start, str(int(text, 0)))
    if _FLOAT.fullmatch(text):
        return JsonValue(node.source, "number", node.start, text)
    return JsonValue(node.source, "string", node.start, text)


def _old_number(text: str) -> int:
    digits = text.lstrip("+-").lower()
    octal = digits.isdigit() and digits.startswith("0") and digits != "0"
    return (-1 if text.startswith("-") else 1) * (int(digits, 8) if octal else int(digits, 0))


def documents(data: bytes, file: str) -> list[JsonValue]:
    """Every document of a YAML (or JSON) text as a value; DocumentError with the place of the first mistake."""
    text = yaml_nodes.decode(data, file, limit_code="json-limit", limit_hint="split it")
    return [as_value(root) for root in yaml_nodes.documents(text, file)]
