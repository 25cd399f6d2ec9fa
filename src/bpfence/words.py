# SPDX-License-Identifier: Apache-2.0
"""Words of messages: what a misspelt word may have meant, and a user's text where it cannot do harm."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import islice
from typing import Final

MAX_OPTIONS: Final = 400
"""Among how many words a near one is looked for. A hostile file may have any number of names that resemble each other."""


def suggest(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """A "did you mean" for a misspelt word; `otherwise` where nothing is near."""
    options: dict[str, str] = {}
    for option in islice(known, MAX_OPTIONS):
        options.setdefault(option.lower(), option)
    near = difflib.get_close_matches(word.lower()[:100], options, n=1, cutoff=0.6)
    if not near:
        tails = [option for option in options.values() if option.rpartition(".")[2].lower() == word.lower()]
        near = [tails[0].lower()] if tails else []
    return f"did you mean {options[near[0]]!r}?" if near else otherwise


def quoted(text: str, limit: int = 60) -> str:
    """A user's text for a message: control characters escaped, long ones cut."""
    return repr(text if len(text) <= limit else text[:limit] + "…")
