# SPDX-License-Identifier: Apache-2.0
"""What the user makes visible in, a policy of the IR that observes it out: its events are KubeArmor's logs.

Called by `policies`. What of a container is told says the annotation of its namespace, else the option. Of a container of which nobody has
told yet that is the option's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Final

from bpfence import abi
from bpfence.conditions import expand
from bpfence.conditions.containers import inside
from bpfence.conditions.values import conj, disj, negation
from bpfence.dialects.kubearmor.options import DNS, NOTHING, VISIBILITY, VISIBILITY_ANNOTATION, VISIBLE, KubeArmorOptions
from bpfence.errors import Location
from bpfence.policy import CONTAINER_FIELD, FALSE, TRUE, Action, Atom, Condition, Label, Op, Policy, Rule, Selector

EVENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "process": ("process.executed",),
    "file": ("file.open", "file.unlink", "file.rmdir", "file.chown", "file.rename"),
    "network": ("net.create", "net.bind", "net.listen", "net.connect", "net.accept"),
    "capabilities": ("process.capable",),
}
"""By what is visible, the events that are told."""
_WHAT: Final[Mapping[str, Condition]] = {
    # A program that is opened to be executed is a process.
    "file.open": negation(Atom("file.access", Op.ANYBITS, abi.ACCESS_EXEC)),
}
"""Of an event, what of it is told, where that is not all."""
_PLACE: Final = Location("<--visibility>")


def policy(options: KubeArmorOptions) -> Policy:
    """Without rules where nothing is visible."""
    rules = tuple(_rules(options))
    # What the namespace of a pod says is told by its class, and classes are made of the selectors in scopes.
    told = (disj((one, negation(one))) for word in VISIBLE if (one := _annotated(word, options)) != FALSE)
    return Policy(name=VISIBILITY, severity="info", scope=conj(told), rules=rules, location=_PLACE)


def _rules(options: KubeArmorOptions) -> Iterator[Rule]:
    for word in VISIBLE:
        whom = disj((_containers(word, options), negation(inside()) if word in options.host_visible else FALSE))
        if whom != FALSE:
            condition, conditions = expand.shared({event: conj((whom, _WHAT.get(event, TRUE))) for event in EVENTS[word]})
            yield Rule(
                policy=VISIBILITY,
                name=word,
                events=EVENTS[word],
                condition=condition,
                conditions=conditions,
                action=Action.OBSERVE,
                severity="info",
                location=_PLACE,
            )


def _containers(word: str, options: KubeArmorOptions) -> Condition:
    """The containers of which it is told."""
    if options.visible is None:
        return FALSE
    annotated = _annotated(word, options)
    return conj((inside(), negation(annotated))) if word in options.visible else annotated


def _annotated(word: str, options: KubeArmorOptions) -> Condition:
    """The condition that the namespace says otherwise than the option."""
    if options.visible is None:
        return FALSE
    words = (*VISIBLE, DNS, NOTHING)
    lists = (found for count in range(1, len(words) + 1) for found in combinations(words, count))
    values = tuple(",".join(found) for found in lists if (word in found) is not (word in options.visible))
    return Atom(CONTAINER_FIELD, Op.SELECTS, Selector(namespace_annotations=(Label(VISIBILITY_ANNOTATION, "in", values),)))
