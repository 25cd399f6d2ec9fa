# SPDX-License-Identifier: Apache-2.0
"""Falco rules in, the names of hosts that they ask for out. Called by `confirm`, which has them resolved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from bpfence.dialects.falco.read.checks import Comparison, FieldGetter
from bpfence.dialects.falco.read.language import NotNode
from bpfence.dialects.falco.read.resolve import FalcoRule

HOST_FIELDS: Final = frozenset({"fd.sip.name", "fd.cip.name", "fd.lip.name", "fd.rip.name"})
EQUALITY: Final = frozenset({"=", "==", "!=", "in", "intersects"})


def mentioned(rules: Iterable[FalcoRule]) -> tuple[str, ...]:
    """The names of hosts that rules test for equality, in order: only such names can be looked up."""
    names: dict[str, None] = {}
    for rule in rules:
        for test in _comparisons(rule.condition):
            if isinstance(test.left, FieldGetter) and test.left.use.field.name in HOST_FIELDS and test.operator in EQUALITY:
                names |= {value: None for value in test.values if isinstance(value, str) and value}
    return tuple(names)


def _comparisons(condition: Any) -> Iterator[Comparison]:
    pending = [condition]
    while pending:
        node = pending.pop()
        if isinstance(node, Comparison):
            yield node
        elif isinstance(node, NotNode):
            pending.append(node.part)
        else:
            pending += reversed(node.parts)
