# SPDX-License-Identifier: Apache-2.0
"""A document without a mistake in, the same with one mistake each out: every value made another kind or nonsense, every key misspelt.

For the tests that a mistake is told once: what follows from it is not another one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Final

Path = tuple[str | int, ...]

WRONG: Final[tuple[Any, ...]] = ("zzz$", "", {"zzz": "allow"}, ["zzz"], [], {}, "12345678901234567890", "-1")


def single_mistakes(document: Any) -> Iterator[tuple[Path, str, Any]]:
    """Where, what was done there, and the document."""
    for path, value in _places(document):
        for wrong in WRONG:
            if wrong != value:
                yield path, f"is {wrong!r}", _changed(document, path, lambda parent, key, wrong=wrong: parent.__setitem__(key, wrong))
        if isinstance(path[-1], str):
            yield path, "misspelt", _changed(document, path, _misspell)
        yield path, "removed", _changed(document, path, lambda parent, key: parent.__delitem__(key))


def _places(node: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    if path:
        yield path, node
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from _places(value, (*path, key))


def _changed(document: Any, path: Path, change: Any) -> Any:
    made = parent = copy.deepcopy(document)
    for key in path[:-1]:
        parent = parent[key]
    change(parent, path[-1])
    return made


def _misspell(parent: dict[str, Any], key: str) -> None:
    entries = [("zzz" if name == key else name, value) for name, value in parent.items()]
    parent.clear()
    parent.update(entries)
