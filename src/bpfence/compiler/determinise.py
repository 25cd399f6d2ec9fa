# SPDX-License-Identifier: Apache-2.0
"""Trees of patterns in, one minimised byte automaton out: the reference of automata.c, and what is used where that is not built.

Called by `compiler.automaton`, which says what the automaton means. The NFA is a tree: patterns with a common beginning share it, so that
thousands of paths are a trie; `*` and `**` are a node with a loop. A deterministic state is a set of NFA nodes, stored sparsely: a default
target and the bytes that leave it. The result is the same whichever of the two makes it: it has the fewest states there can be, the default
of a row is its most frequent target, states are numbered depth first, and classes by their patterns.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from bpfence.glob import Below, Either, Glob, One, Piece, Repeat, Star, Text

SLASH: Final = 0x2F
DEAD: Final = 0


class TooManyStates(Exception):  # noqa: N818  control flow inside the compiler, answered by splitting
    """The patterns multiply beyond the budget."""


class Automaton(NamedTuple):
    """A minimised automaton; state 0 is the start.

    `default[s]` is where bytes without an exception lead; the exceptions of s are `labels[k]`, ascending, leading to `targets[k]`, for k
    from `first[s]` to before `first[s + 1]`; `accept[s]` is the class of a string that ends in s; `class_sets[c]` is the set of pattern
    numbers of class c (classes 0, uncertain, and 1, none, are empty sets).
    """

    default: array[int]
    first: array[int]
    labels: bytes
    targets: array[int]
    accept: array[int]
    class_sets: list[frozenset[int]]

    def run(self, data: bytes) -> int:
        """The class of a string."""
        state = 0
        for byte in data:
            at = self.labels.find(byte, self.first[state], self.first[state + 1])
            state = self.default[state] if at < 0 else self.targets[at]
        return self.accept[state]

    @property
    def exceptions(self) -> list[dict[int, int]]:
        """By state: the bytes that do not go where the default does, and where they go."""
        return [dict(zip(self.labels[low:high], self.targets[low:high], strict=True)) for low, high in pairwise(self.first)]


def build(trees: Sequence[Glob], budget: int, members: int, first: bool = False) -> Automaton:
    """The automaton of some patterns. TooManyStates beyond `budget` states before minimisation, 0: grows with the patterns, or beyond
    `members` NFA nodes in all of them together. `first`: a string is of the class of the patterns that match its
    shortest beginning which any matches: what comes then is not looked at.
    """
    nfa = _Nfa()
    for number, tree in enumerate(trees):
        nfa.add(number, tree)
    return _finish(_determinise(nfa, budget or BASE_BUDGET + 2 * len(nfa.edges), members, first))


BASE_BUDGET: Final = 30_000


class _Nfa:
    """The tree of all patterns. Node 0 is the start."""

    def __init__(self) -> None:
        self.edges: list[dict[int, int]] = []
        self.ranges: list[list[tuple[int, int, int]]] = []
        self.loop: list[int] = []  # 0: none, 1: any byte but '/', 2: any byte
        self.epsilon: list[list[int]] = []
        self.accept: list[list[int]] = []
        self.shared: dict[tuple[int, Piece], int] = {}
        self.node()

    def node(self, loop: int = 0) -> int:
        self.edges.append({})
        self.ranges.append([])
        self.loop.append(loop)
        self.epsilon.append([])
        self.accept.append([])
        return len(self.edges) - 1

    def add(self, pattern: int, tree: Glob) -> None:
        self.accept[self.follow(0, tree)].append(pattern)

    def follow(self, node: int, tree: Glob) -> int:
        """The node after `tree`, from `node` on."""
        for piece in tree:
            if isinstance(piece, Text):
                for byte in piece.data:
                    following = self.edges[node].get(byte)
                    if following is None:
                        following = self.edges[node][byte] = self.node()
                    node = following
                continue
            end = self.shared.get((node, piece))
            if end is None:
                end = self.shared[node, piece] = self.extend(node, piece)
            node = end
        return node

    def extend(self, node: int, piece: Piece) -> int:
        if isinstance(piece, Star):
            end = self.node(2 if piece.crosses else 1)
            self.epsilon[node].append(end)
            return end
        end = self.node()
        if isinstance(piece, Below):
            inside = self.node(2)
            self.epsilon[node] += [end, inside]
            self.edges[inside][SLASH] = end
        elif isinstance(piece, One):
            for sequence in piece.sequences:
                at = node
                for low, high in sequence[:-1]:
                    following = self.node()
                    self.ranges[at].append((low, high, following))
                    at = following
                self.ranges[at].append((*sequence[-1], end))
        elif isinstance(piece, Either):
            for branch in piece.branches:
                self.epsilon[self.follow(node, branch)].append(end)
        elif isinstance(piece, Repeat):
            # A node of its own, since texts from `node` on are shared with those that do not repeat.
            again = self.node()
            self.epsilon[node].append(again)
            self.epsilon[again].append(end)
            for branch in piece.branches:
                self.epsilon[self.follow(again, branch)].append(again)
        return end

    def alike(self) -> dict[tuple[int, int], list[list[int]]]:
        """Per byte range in use, the bytes in it, those together that no edge or range tells apart."""
        used = {(low, high) for ranges in self.ranges for low, high, _ in ranges}
        single = {SLASH, *(byte for edges in self.edges for byte in edges)}
        cuts = sorted({0, 256, *(low for low, _ in used), *(high + 1 for _, high in used), *single, *(byte + 1 for byte in single)})
        blocks = [list(range(low, high)) for low, high in pairwise(cuts)]
        return {(low, high): [block for block in blocks if low <= block[0] <= high] for low, high in used}

    def closures(self) -> list[tuple[int, ...]]:
        """Per node, the sorted nodes reached without a byte."""
        out: list[tuple[int, ...]] = []
        for node in range(len(self.edges)):
            if not self.epsilon[node]:
                out.append((node,))
                continue
            seen = {node}
            stack = [node]
            while stack:
                for following in self.epsilon[stack.pop()]:
                    if following not in seen:
                        seen.add(following)
                        stack.append(following)
            out.append(tuple(sorted(seen)))
        return out


class _Raw(NamedTuple):
    """A deterministic automaton before minimisation; state 0 is dead; `accept` numbers `sets`."""

    default: list[int]
    exceptions: list[dict[int, int]]
    accept: list[int]
    sets: list[frozenset[int]]
    start: int


def _determinise(nfa: _Nfa, budget: int, members: int, first: bool) -> _Raw:
    closures = nfa.closures()
    alike = nfa.alike()
    numbers: dict[tuple[int, ...], int] = {(): DEAD}
    order: list[tuple[int, ...]] = [()]
    sets: dict[frozenset[int], int] = {frozenset(): 0}
    default: list[int] = []
    exceptions: list[dict[int, int]] = []
    accept: list[int] = []
    left = members

    def number(nodes: tuple[int, ...]) -> int:
        nonlocal left
        found = numbers.get(nodes)
        if found is None:
            found = numbers[nodes] = len(order)
            order.append(nodes)
            left -= len(nodes)
            if found > budget or left < 0:
                raise TooManyStates
        return found

    start = number(closures[0])
    at = 0
    while at < len(order):
        nodes = order[at]
        at += 1
        accepted = [p for n in nodes for p in nfa.accept[n]]
        accept.append(sets.setdefault(frozenset(accepted), len(sets)) if accepted else 0)
        if first and accepted:
            default.append(at - 1)
            exceptions.append({})
            continue
        if len(nodes) == 1 and not nfa.loop[nodes[0]] and not nfa.ranges[nodes[0]]:
            default.append(DEAD)
            exceptions.append({byte: number(closures[target]) for byte, target in nfa.edges[nodes[0]].items()})
            continue
        row_default, row = _row(nfa, closures, alike, nodes)
        default.append(number(row_default))
        exceptions.append({byte: number(target) for byte, target in row.items()})
    return _Raw(default, exceptions, accept, list(sets), start)


def _row(
    nfa: _Nfa, closures: list[tuple[int, ...]], alike: dict[tuple[int, int], list[list[int]]], nodes: tuple[int, ...]
) -> tuple[tuple[int, ...], dict[int, tuple[int, ...]]]:
    """Default and exceptional successors of a set of NFA nodes, as sets of NFA nodes."""
    stay: set[int] = set()
    cross: set[int] = set()
    targets: dict[int, list[int]] = {}
    blocks: dict[int, list[int]] = {}  # first byte -> bytes that go where it goes
    slash_leaves = False
    for node in nodes:
        loop = nfa.loop[node]
        if loop:
            stay.update(closures[node])
            if loop == 2:
                cross.update(closures[node])
            else:
                slash_leaves = True
        for byte, target in nfa.edges[node].items():
            targets.setdefault(byte, []).append(target)
        for low, high, target in nfa.ranges[node]:
            for block in alike[low, high]:
                blocks[block[0]] = block
                targets.setdefault(block[0], []).append(target)
    known: dict[tuple[bool, tuple[int, ...]], tuple[int, ...]] = {}
    row: dict[int, tuple[int, ...]] = {}
    if slash_leaves and SLASH not in targets:
        row[SLASH] = tuple(sorted(cross))
    for byte, following in targets.items():
        key = (byte == SLASH, tuple(following))
        union = known.get(key)
        if union is None:
            union = known[key] = tuple(sorted((cross if key[0] else stay).union(*(closures[n] for n in following))))
        for member in blocks.get(byte, (byte,)):
            row[member] = union
    # A default that no byte takes must not count as a successor.
    return (row[0] if len(row) == 256 else tuple(sorted(stay))), row


def _components(raw: _Raw) -> list[list[int]]:
    """Strongly connected components, successors first (Tarjan 1972, iterative)."""
    count = len(raw.default)
    index = [0] * count
    low = [0] * count
    on_stack = bytearray(count)
    stack: list[int] = []
    out: list[list[int]] = []
    clock = 0
    for root in (DEAD, raw.start):
        if index[root]:
            continue
        work: list[tuple[int, list[int]]] = []
        descend = root
        while True:
            if descend >= 0:
                clock += 1
                index[descend] = low[descend] = clock
                stack.append(descend)
                on_stack[descend] = 1
                work.append((descend, [raw.default[descend], *raw.exceptions[descend].values()]))
                descend = -1
            state, successors = work[-1]
            while successors:
                following = successors.pop()
                if not index[following]:
                    descend = following
                    break
                if on_stack[following] and index[following] < low[state]:
                    low[state] = index[following]
            if descend >= 0:
                continue
            work.pop()
            if low[state] == index[state]:
                cut = len(stack) - 1
                while stack[cut] != state:
                    cut -= 1
                component = stack[cut:]
                del stack[cut:]
                for member in component:
                    on_stack[member] = 0
                out.append(component)
            if not work:
                break
            parent = work[-1][0]
            if low[state] < low[parent]:
                low[parent] = low[state]
    return out


Row = tuple[int, tuple[tuple[int, int], ...]]


def _normal(default: int, exceptions: Iterable[tuple[int, int]]) -> Row:
    """One form for equal rows: the default is the most frequent target, of equals the one of the lowest byte."""
    kept = sorted(item for item in exceptions if item[1] != default)
    if len(kept) < 128:
        return default, tuple(kept)
    full = [default] * 256
    for byte, target in kept:
        full[byte] = target
    counts: dict[int, int] = {}
    for target in full:
        counts[target] = counts.get(target, 0) + 1
    default = max(counts, key=lambda target: (counts[target], -full.index(target)))
    return default, tuple((byte, target) for byte, target in enumerate(full) if target != default)


class _Minimiser:
    """Merges equivalent states: hash-consing from the leaves up, partition refinement where states form cycles.

    `kept[s]` is the state that s is merged into, `rows` holds the kept states' rows over kept states. A cycle may be equal to one
    that was kept before: to one with the same ways out (`alike`), or to one that it leads into.
    """

    def __init__(self, raw: _Raw) -> None:
        self.raw = raw
        self.kept: list[int] = [-1] * len(raw.default)
        self.rows: dict[int, Row] = {}
        self.by_row: dict[tuple[int, Row], int] = {}
        self.alike: dict[tuple[tuple[int, Row], ...], list[list[int]]] = {}
        self.looks: dict[int, tuple[int, Row]] = {}
        self.cycle_of: dict[int, list[int]] = {}

    def run(self) -> None:
        kept, default, exceptions, accept = self.kept, self.raw.default, self.raw.exceptions, self.raw.accept
        for component in _components(self.raw):
            state = component[0]
            if len(component) > 1 or default[state] == state or state in exceptions[state].values():
                self.cycle(component)
                continue
            row = _normal(kept[default[state]], [(b, kept[t]) for b, t in exceptions[state].items()])
            found = kept[state] = self.by_row.setdefault((accept[state], row), state)
            if found == state:
                self.rows[state] = row

    def cycle(self, component: list[int]) -> None:
        """Blocks of equivalent states of one component, then a look for an equal component seen before."""
        block = self.refine(component)
        members: dict[int, int] = {}
        for state in component:
            members.setdefault(block[state], state)
        rows = {b: self.block_row(state, block) for b, state in members.items()}
        keys = {b: self.shallow_key(state, rows[b]) for b, state in members.items()}
        alike = self.alike.setdefault(tuple(sorted(keys.values())), [])
        equal = self.find_equal(members, rows, keys, alike)
        target = equal or members
        for state in component:
            self.kept[state] = target[block[state]]
        if equal:
            return
        states = list(members.values())
        alike.append(states)
        for b, state in members.items():
            self.looks[state] = keys[b]
            self.cycle_of[state] = states
            default, exceptions = rows[b]
            row = _normal(members[~default] if default < 0 else default, [(c, members[~t] if t < 0 else t) for c, t in exceptions])
            self.rows[state] = row
            self.by_row[self.raw.accept[state], row] = state

    def block_row(self, state: int, block: dict[int, int]) -> Row:
        """Targets: kept states, or ~block inside the component."""
        kept = self.kept
        default = self.raw.default[state]
        return _normal(
            ~block[default] if default in block else kept[default],
            ((b, ~block[t] if t in block else kept[t]) for b, t in self.raw.exceptions[state].items()),
        )

    def refine(self, component: list[int]) -> dict[int, int]:
        """Moore's refinement; a round looks again only at states with a successor whose block changed."""
        raw = self.raw
        inside = set(component)
        before: dict[int, list[int]] = {}
        for state in component:
            for target in {raw.default[state], *raw.exceptions[state].values()}:
                if target in inside:
                    before.setdefault(target, []).append(state)
        block = dict.fromkeys(component, 0)
        members: dict[int, set[int]] = {}
        signature: dict[int, tuple[int, Row] | None] = {}
        by_accept: dict[int, int] = {}
        for state in component:
            block[state] = by_accept.setdefault(raw.accept[state], len(by_accept))
            members.setdefault(block[state], set()).add(state)
        signature = dict.fromkeys(members)
        dirty = list(component)
        while dirty:
            groups: dict[int, dict[Row, list[int]]] = {}
            for state in dirty:
                groups.setdefault(block[state], {}).setdefault(self.block_row(state, block), []).append(state)
            moved: list[int] = []
            for old, rows in groups.items():
                rest = len(members[old]) - sum(map(len, rows.values()))
                stay: Row | None = None
                if rest:
                    known = signature[old]
                    stay = known[1] if known and known[1] in rows else None
                else:
                    stay = max(rows, key=lambda row: len(rows[row]))
                    signature[old] = (0, stay)
                for row, states in rows.items():
                    if row == stay:
                        continue
                    new = len(members)
                    members[new] = set(states)
                    members[old].difference_update(states)
                    signature[new] = (0, row)
                    moved += states
                    for state in states:
                        block[state] = new
            dirty = list(dict.fromkeys(p for state in moved for p in before.get(state, ())))
        return block

    def shallow_key(self, state: int, row: Row) -> tuple[int, Row]:
        default, exceptions = row
        return self.raw.accept[state], (max(default, -1), tuple((b, max(t, -1)) for b, t in exceptions))

    def find_equal(
        self, members: dict[int, int], rows: dict[int, Row], keys: dict[int, tuple[int, Row]], alike: list[list[int]]
    ) -> dict[int, int] | None:
        """Block -> kept state of an equivalent component, when there is one."""
        first = next(iter(members))
        accept = self.raw.accept[members[first]]
        candidates = [state for states in alike for state in states if self.looks[state] == keys[first]]
        entered: dict[int, None] = {}
        for default, exceptions in rows.values():
            for target in (default, *(t for _, t in exceptions)):
                if target in self.cycle_of:
                    entered.update(dict.fromkeys(self.cycle_of[target]))
        for candidate in (*candidates, *(state for state in entered if self.raw.accept[state] == accept)):
            pairs = self.same(first, candidate, members, rows)
            if pairs is not None:
                return pairs
        return None

    def same(self, first: int, candidate: int, members: dict[int, int], rows: dict[int, Row]) -> dict[int, int] | None:
        pairs = {first: candidate}
        stack = [first]
        while stack:
            b = stack.pop()
            other = pairs[b]
            if self.raw.accept[members[b]] != self.raw.accept[other]:
                return None
            (default, exceptions), (other_default, other_exceptions) = rows[b], self.rows[other]
            mine, theirs = dict(exceptions), dict(other_exceptions)
            for byte in (*{*mine, *theirs}, -1):
                target, wanted = mine.get(byte, default), theirs.get(byte, other_default)
                if target >= 0:
                    if target != wanted:
                        return None
                elif ~target not in pairs:
                    pairs[~target] = wanted
                    stack.append(~target)
                elif pairs[~target] != wanted:
                    return None
        return pairs


def _finish(raw: _Raw) -> Automaton:
    """Minimised, unreachable states dropped, numbered depth first from the start so that neighbours lie together."""
    minimiser = _Minimiser(raw)
    minimiser.run()
    rows = minimiser.rows
    numbers: dict[int, int] = {}
    stack = [minimiser.kept[raw.start]]
    order: list[int] = []
    while stack:
        state = stack.pop()
        if state in numbers:
            continue
        numbers[state] = len(order)
        order.append(state)
        default, exceptions = rows[state]
        stack += [t for _, t in reversed(exceptions) if t not in numbers]
        if default not in numbers:
            stack.append(default)
    # In the order of their patterns, so that another pattern in the place of one changes no other's class.
    found = sorted({raw.accept[state] for state in order} - {0}, key=lambda number: sorted(raw.sets[number]))
    classes = {0: 1} | {number: n for n, number in enumerate(found, 2)}
    class_sets = [frozenset[int](), frozenset[int](), *(raw.sets[number] for number in found)]
    accept = [classes[raw.accept[state]] for state in order]
    first = array("I", [0])
    for state in order:
        first.append(first[-1] + len(rows[state][1]))
    return Automaton(
        array("I", [numbers[rows[state][0]] for state in order]),
        first,
        bytes(byte for state in order for byte, _ in rows[state][1]),
        array("I", [numbers[target] for state in order for _, target in rows[state][1]]),
        array("I", accept),
        class_sets,
    )
