# SPDX-License-Identifier: Apache-2.0
"""Rules of one language in, policy files of another that mean exactly the same out, and why the rest has none.

Called by `bpfence convert`. It goes through the policy model: one dialect lowers the rules exactly, the other writes the policies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from bpfence.dialects.tools import NamedRule
from bpfence.errors import Diagnostic
from bpfence.policy import Policy


class Converted(NamedTuple):
    """`text`: YAML documents, empty where nothing could be converted. `converted`: names of the rules in it."""

    text: str
    converted: list[str]
    left_out: list[Diagnostic]


def convert(rules: Iterable[tuple[NamedRule, Policy | list[Diagnostic]]], document: Callable[[Policy], tuple[str, str]]) -> Converted:
    """`rules`: each with what it lowers to. `document`: gives a policy's text in the other language, or "" and why it has none."""
    documents: list[str] = []
    converted: list[str] = []
    left_out: list[Diagnostic] = []
    for rule, lowered in rules:
        if isinstance(lowered, list):
            left_out += lowered
            continue
        text, problem = document(lowered)
        if text:
            documents.append(text)
            converted.append(rule.name)
        else:
            left_out.append(Diagnostic(rule.location, f"{rule.name}: {problem}", "", "warning", "not-expressible"))
    return Converted("---\n".join(documents), converted, left_out)
