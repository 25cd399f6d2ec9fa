# SPDX-License-Identifier: Apache-2.0
"""Clauses in, the diagrams that decide.c makes of them, as Python's types, out.

Called by `compiler.compile` where the compiled core is built; `diagram.Builder` is the reference.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from itertools import accumulate, chain, pairwise
from typing import Any, Final

from bpfence.compiler import core
from bpfence.compiler.core import WORDS, check
from bpfence.compiler.diagram import FALSE, Builder, Clause, Group, Leaf, Node, TooLarge

if core.BUILT:
    from bpfence.compiler._core import ffi, lib

_MASK: Final = (1 << 64) - 1


class Diagrams(Builder):
    """See `diagram.Builder`, which takes clauses apart here, too."""

    def build(self, clauses: Iterable[Clause]) -> Group:
        """See `Builder`."""
        self.begin()
        confirmed = set(self.confirmed)
        dimensions = ffi.new("struct bpfence_dimension[]", [(found.joined, found.column >= 0) for found in self.dimensions])
        rules = ffi.new("struct bpfence_rule[]", [(severity, rule in confirmed) for rule, severity in enumerate(self.severity)])
        whom = ffi.new_handle(self)
        made = lib.bpfence_diagrams_new(
            len(dimensions), dimensions, self.subjects, len(rules), rules, self.n_events, self.budget, lib.diagrams_ask, whom
        )
        if not made:
            raise MemoryError
        self.masks: dict[int, int] = {}
        self.made = ffi.gc(made, lib.bpfence_diagrams_free)
        self.failed: BaseException | None = None
        clauses = list(clauses)
        try:
            state = array("I", [self.clause(clause) for clause in clauses if clause.condition != FALSE])
            error = lib.bpfence_diagrams_build(self.made, ffi.from_buffer(WORDS, state), len(state))
            if self.failed is not None:
                raise self.failed
            if error == -lib.E2BIG:
                raise TooLarge
            check(error)
            return self.group(clauses)
        finally:
            self.failed = None
            ffi.release(self.made)

    def clause(self, clause: Clause) -> int:
        """See `Builder`."""
        known = len(self.clauses)
        number = super().clause(clause)
        if number == known:
            mask = self.masks.get(clause.events)
            if mask is None:
                mask = self.masks[clause.events] = len(self.masks)
                words = ffi.new("uint64_t[]", [clause.events >> 64 * n & _MASK for n in range(lib.EVENTS // 64)])
                check(lib.bpfence_diagrams_mask(self.made, words))
            check(lib.bpfence_diagrams_clause(self.made, clause.rule, self.first[number], mask))
        return number

    def answer(self, what: int, number: int) -> None:
        """What becomes of a clause."""
        if what == lib.ASK_BARE:
            check(lib.bpfence_diagrams_bare(self.made, number, self.take_from_events(number)[1]))
            return
        base, some, others = self.take_apart(number)
        values = array("I", [new if new >= 0 else lib.NONE for (_, new), _ in others])
        ends = array("I", accumulate(len(classes) for _, classes in others))
        classes = array("I", chain.from_iterable(classes for _, classes in others))
        base, some = (lib.NONE if found < 0 else found for found in (base, some))
        found = (ffi.from_buffer(WORDS, words) for words in (values, ends, classes))
        check(lib.bpfence_diagrams_parts(self.made, number, base, some, len(others), *found))

    def group(self, clauses: Iterable[Clause]) -> Group:
        """What was built."""
        made = ffi.new("struct bpfence_group *")
        lib.bpfence_diagrams_made(self.made, made)
        of = self.columns()
        nodes = []
        for words in _rows(made.node_first, made.nodes, made.n_nodes, "i"):
            dimension, uncertain, default, *children = words
            nodes.append(Node(of[dimension], uncertain, default, tuple(zip(children[::2], children[1::2], strict=True))))
        leaves = []
        for rules in _rows(made.leaf_first, made.leaves, made.n_leaves):
            uncertain = bool(rules) and rules[-1] == lib.NONE
            leaves.append(Leaf(tuple(rules[:-1] if uncertain else rules), uncertain))
        rows = []
        for roots in _rows(made.row_first, made.rows, made.n_rows, "i"):
            row = [~0] * self.n_events
            for event, root in zip(roots[::2], roots[1::2], strict=True):
                row[event] = root
            rows.append(tuple(row))
        return Group(tuple(sorted({clause.rule for clause in clauses})), nodes, leaves, rows, made.subject, made.edges)


if core.BUILT:

    @ffi.def_extern(error=-1)
    def diagrams_ask(whom: Any, what: int, number: int) -> int:
        builder: Diagrams = ffi.from_handle(whom)
        try:
            builder.answer(what, number)
        except BaseException as error:
            builder.failed = error
            return -1
        return 0


def _rows(first: Any, words: Any, count: int, kind: str = "I") -> Iterable[list[int]]:
    """Rows of words that lie behind each other."""
    ends = ffi.unpack(first, count + 1) if count else [0]
    found = array(kind)
    if ends[-1]:
        found.frombytes(ffi.buffer(words, 4 * ends[-1]))
    listed = found.tolist()
    return [listed[low:high] for low, high in pairwise(ends)]
