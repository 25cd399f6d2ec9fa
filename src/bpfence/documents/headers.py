# SPDX-License-Identifier: Apache-2.0
"""A file's bytes in, the API groups of its documents out: what tells a policy's language. Called by the dialects.

Only the root of each document is looked at: a text or a comment in it may hold the header of any other.
"""

from __future__ import annotations

import re

import yaml

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def has_group(data: bytes, group: bytes) -> bool:
    """Whether a document of the file is of an API group. What is no YAML is told by the first line that looks like its header."""
    if group + b"/" not in data:
        return False
    try:
        return any(version.startswith(group.decode() + "/") for version in _versions(data))
    except (yaml.YAMLError, ValueError, RecursionError):
        return re.search(rb"^[ \t]*[\"']?apiVersion[\"']?[ \t]*:[ \t]*[\"']?" + re.escape(group) + b"/", data, re.MULTILINE) is not None


def _versions(data: bytes) -> list[str]:
    """The apiVersion at the root of each document."""
    found: list[str] = []
    depth, key, in_map = 0, None, False  # `key`: that of the value which comes next at the root, None: a key comes
    for event in yaml.parse(data, Loader=_LOADER):
        if isinstance(event, yaml.DocumentStartEvent):
            depth, key = 0, None
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.NodeEvent):
            if depth == 0:
                in_map = isinstance(event, yaml.MappingStartEvent)
            elif depth == 1 and in_map:
                value = event.value if isinstance(event, yaml.ScalarEvent) else ""
                if key == "apiVersion":
                    found.append(value)
                key = value if key is None else None
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
    return found
