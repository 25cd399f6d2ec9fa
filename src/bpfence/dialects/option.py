# SPDX-License-Identifier: Apache-2.0
"""One option that a language adds to the commands that load rules, as data."""

from __future__ import annotations

from typing import NamedTuple


class Option(NamedTuple):
    """One option that a language adds to the commands that load rules. `member`: its name in what `choose` is given.

    `choices`: the words that it takes, case ignored; none: any text. `many`: it may be given several times, and is a tuple.
    """

    flags: tuple[str, ...]
    member: str
    help: str
    default: str | tuple[()] | None
    choices: tuple[str, ...] = ()
    many: bool = False
    metavar: str | None = None
