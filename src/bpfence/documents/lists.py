# SPDX-License-Identifier: Apache-2.0
"""The text of a file of Kubernetes' objects in, the root of each object out: lists taken apart, `<<` merged. Called by dialects.

`kubectl get -o yaml` writes several objects as one of kind List, and kubectl takes that wherever it takes them one by one.
"""

from __future__ import annotations

from collections.abc import Iterator

from bpfence.documents import yaml_nodes
from bpfence.documents.yaml_nodes import YamlNode
from bpfence.errors import Diagnostic


def objects(text: str, file: str, told: list[Diagnostic] | None = None) -> Iterator[YamlNode]:
    """The root of every object of every document; raises DocumentError. `told`: see `yaml_nodes.documents`."""
    for root in yaml_nodes.documents(text, file, merge=True, told=told):
        yield from items(root)


def items(root: YamlNode) -> list[YamlNode]:
    """The objects of a list, the root itself where it is none."""
    given = {key.text: value for key, value in root.pairs if key.kind == "scalar"}
    kind, found = given.get("kind"), given.get("items")
    if kind is None or kind.kind != "scalar" or not kind.text.endswith("List") or found is None or found.kind != "list":
        return [root]
    return found.items
