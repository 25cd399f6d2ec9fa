# SPDX-License-Identifier: Apache-2.0
"""Policies that select containers in, the classes of containers and the same policies over class numbers out.

Called by `compiler.compile_policies` before lowering, and by the agent, which finds the class of each container. A class is a set of
selectors that select the same containers: what a container is called, how it is labelled and which image it runs is nothing to the kernel
but the number of its class. Only classes that there are containers of, or that are likely, get a number: all subsets would be too many. A
container of another class waits, as one that is not known, until tables with it are made; one whose labels change within its class needs
none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, groupby, islice, product
from typing import Final

import msgspec

from bpfence import abi
from bpfence.fields import CONTAINER
from bpfence.policy import And, Atom, Condition, Op, Or, Policy, PolicySet, Selector, atoms, replaced

Class = frozenset[Selector]
"""The selectors that select a container."""
MAX_CLASSES: Final = 4096
ALL_OF: Final = 4
"""Of so many different selectors all combinations get a class."""
ALTERNATIVES: Final = 64
"""Of what a rule asks for together, so many get one."""
_MAX: Final = (1 << 32) - 1
_Number = Callable[[Atom], Condition]


def selectors(policies: PolicySet) -> tuple[Selector, ...]:
    """The selectors of a policy set, in order of appearance. They only stand in scopes."""
    found = (atom.value for policy in policies.policies for atom in atoms(policy.scope))
    return tuple(dict.fromkeys(value for value in found if isinstance(value, Selector)))


def classes(policies: PolicySet, seen: Iterable[Class] = ()) -> tuple[Class, ...]:
    """The classes that tables of a policy set tell apart: those `seen`, and likely ones. That at n has the number WORKLOAD_FIRST + n.

    Likely is a container that no selector selects, or one of them, or any of them where they are few, or those that a rule asks for
    together; and one of which nothing is known.
    """
    known = selectors(policies)
    if not known:
        return ()
    asked: dict[Selector, list[Selector]] = {}
    for selector in known:
        asked.setdefault(msgspec.structs.replace(selector, unknown=False), []).append(selector)
    groups = list(asked.values())
    if len(groups) <= ALL_OF:
        likely = [frozenset(chosen) for chosen in _chosen(groups)]
    else:
        likely = [frozenset(), *map(frozenset, groups), *_together(policies, asked)]
    likely.append(frozenset(selector for selector in known if selector.unknown))
    found = dict.fromkeys((*likely, *(one & frozenset(known) for one in seen)))
    return tuple(found)[:MAX_CLASSES]


def _together(policies: PolicySet, groups: Mapping[Selector, list[Selector]]) -> Iterator[Class]:
    """For each rule, selectors that a container may have to be selected by at once."""
    found: dict[frozenset[Selector], None] = {}
    for _, rule in policies.rules():
        if len(found) < MAX_CLASSES:
            found |= dict.fromkeys(one for one in _needed(rule.condition) if len(one) > 1)
    for one in found:
        yield frozenset(chain.from_iterable(groups[msgspec.structs.replace(selector, unknown=False)] for selector in one))


def _needed(condition: Condition) -> list[frozenset[Selector]]:
    """Selectors that have to select for a condition to hold, for each of its alternatives; of those the first ALTERNATIVES."""
    match condition:
        case Atom(op=Op.SELECTS, value=Selector() as selector):
            return [frozenset((selector,))]
        case Or(parts):
            return list(islice(dict.fromkeys(one for part in parts for one in _needed(part)), ALTERNATIVES))
        case And(parts):
            made = [frozenset[Selector]()]
            for part in parts:
                each = _needed(part)
                made = list(dict.fromkeys(islice((one | other for one in made for other in each), ALTERNATIVES)))
            return made
    return [frozenset()]


def _chosen(groups: list[list[Selector]]) -> Iterator[list[Selector]]:
    for choice in product((False, True), repeat=len(groups)):
        yield [selector for group, chosen in zip(groups, choice, strict=True) if chosen for selector in group]


def numbered(policies: PolicySet, known: tuple[Class, ...]) -> PolicySet:
    """The same policies, which ask for numbers of classes. The same object where none of them selects containers."""
    made: dict[Atom, Condition] = {}

    def number(atom: Atom) -> Condition:
        if atom.field != CONTAINER.name:
            return atom
        if atom not in made:
            made[atom] = _ranges(atom, known)
        return made[atom]

    changed = tuple(_changed(policy, number) if _selects(policy) else policy for policy in policies.policies)
    return policies if all(new is old for new, old in zip(changed, policies.policies, strict=True)) else PolicySet(changed)


def numbered_classes(known: tuple[Class, ...]) -> dict[Class, int]:
    """The number of each class. A container of another one has WORKLOAD_PENDING."""
    return {one: abi.WORKLOAD_FIRST + n for n, one in enumerate(known)}


def _selects(policy: Policy) -> bool:
    return any(atom.field == CONTAINER.name for atom in atoms(policy.scope))


def _changed(policy: Policy, number: _Number) -> Policy:
    known: dict[int, Condition] = {}

    def change(condition: Condition) -> Condition:
        if id(condition) not in known:
            known[id(condition)] = replaced(condition, number)
        return known[id(condition)]

    rules = tuple(
        msgspec.structs.replace(
            rule, condition=change(rule.condition), conditions={event: change(own) for event, own in rule.conditions.items()}
        )
        for rule in policy.rules
    )
    return msgspec.structs.replace(policy, scope=change(policy.scope), rules=rules)


def _ranges(atom: Atom, known: tuple[Class, ...]) -> Condition:
    """Tests on the number of the class."""
    if atom.op is Op.EXISTS:
        return Atom(CONTAINER.name, Op.RANGE, (abi.WORKLOAD_PENDING, _MAX))
    selector = atom.value
    if atom.op is not Op.SELECTS or not isinstance(selector, Selector):
        return atom
    numbers = [abi.WORKLOAD_FIRST + n for n, one in enumerate(known) if selector in one]
    parts: list[Condition] = [Atom(CONTAINER.name, Op.RANGE, span) for span in _spans(numbers)]
    if selector.unknown:
        parts.append(Atom(CONTAINER.name, Op.RANGE, (abi.WORKLOAD_PENDING, abi.WORKLOAD_PENDING)))
    return Or(tuple(parts))


def _spans(numbers: list[int]) -> Iterator[tuple[int, int]]:
    for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        consecutive = [number for _, number in run]
        yield consecutive[0], consecutive[-1]
