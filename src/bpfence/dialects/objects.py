# SPDX-License-Identifier: Apache-2.0
"""Nothing in, what a language says of its objects in a cluster out. Read by `k8s`, which watches them.

A kind is a line in a dialect's `objects`: its reader reads an object as a file of one document, so nothing else is needed.
"""

from __future__ import annotations

from typing import NamedTuple


class Choice(NamedTuple):
    """An annotation of namespaces that chooses something for the policies of a language: one of these values, in capitals or not. `lists`:
    or several with commas between them, in any order; the empty text is none of them."""

    key: str
    values: tuple[str, ...]
    lists: bool = False

    def normal(self, text: str) -> str | None:
        """A value as selectors have it: in small letters, of a list each once and in the order of `values`. None: it is no value."""
        words = {word.strip() for word in text.lower().split(",")} if self.lists else {text.lower()}
        if not words.issubset(self.values):
            return None
        return ",".join(value for value in self.values if value in words)


class ObjectKind(NamedTuple):
    """A kind of objects of the API server whose `spec` is that of a file. `version`: as in apiVersion; `plural`: its name in paths.
    `choices`: the annotations that say something about it."""

    version: str
    kind: str
    plural: str
    namespaced: bool
    choices: tuple[Choice, ...] = ()
