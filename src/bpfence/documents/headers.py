# SPDX-License-Identifier: Apache-2.0
"""A file's bytes in, the API groups of its documents out: what tells a policy's language. Called by the dialects.

Only the root of each document is looked at: a text or a comment in it may hold the header of any other.
"""

from __future__ import annotations

import re
from typing import Final

import yaml

from bpfence.documents import lists
from bpfence.documents.placed import DocumentError

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def has_group(data: bytes, group: bytes) -> bool:
    """Whether a document of the file is of an API group. What is no YAML is told by the first line that looks like its header."""
    if group + b"/" not in data:
        return False
    try:
        found = _versions(data)
        if b"<<" in data or (b"&" in data and b"*" in data):
            found += _merged(data)
        return any(version.startswith(group.decode() + "/") for version in found)
    except (yaml.YAMLError, ValueError, RecursionError):
        return re.search(rb"^[ \t]*[\"']?apiVersion[\"']?[ \t]*:[ \t]*[\"']?" + re.escape(group) + b"/", data, re.MULTILINE) is not None


def _versions(data: bytes) -> list[str]:
    """The apiVersion at the root of each document, and of each item of a list of objects."""
    found: list[str] = []
    open_: list[_Open] = []
    for event in yaml.parse(data, Loader=_LOADER):
        if isinstance(event, yaml.DocumentStartEvent):
            open_ = []
        elif isinstance(event, yaml.CollectionEndEvent):
            open_.pop()
        elif isinstance(event, yaml.NodeEvent):
            key = open_[-1].next(event) if open_ else None
            if key == "apiVersion" and isinstance(event, yaml.ScalarEvent) and [one.under for one in open_] in _OBJECTS:
                found.append(event.value)
            if isinstance(event, yaml.CollectionStartEvent):
                open_.append(_Open(isinstance(event, yaml.MappingStartEvent), key))
    return found


def _merged(data: bytes) -> list[str]:
    """The same where it stands in another map, or behind an anchor."""
    found: list[str] = []
    try:
        for root in lists.objects(data.decode("utf-8-sig", "replace"), ""):
            found += (value.text for key, value in root.pairs if key.kind == value.kind == "scalar" and key.text == "apiVersion")
    except DocumentError:
        pass  # what is wrong is told by whoever reads it
    return found


_OBJECTS: Final[list[list[str | None]]] = [[None], [None, "items", None]]
"""The keys under which the collections stand that an object is in: the root's, and those of a list's item."""


class _Open:
    """A collection that has not ended. `under`: the key that it is the value of."""

    def __init__(self, is_map: bool, under: str | None) -> None:
        self.under = under
        self._is_map = is_map
        self._key: str | None = None

    def next(self, event: yaml.NodeEvent) -> str | None:
        """The key whose value a node in it is; None where it is a key itself, or an item."""
        key = self._key
        if self._is_map:
            self._key = (event.value if isinstance(event, yaml.ScalarEvent) else "") if key is None else None
        return key
