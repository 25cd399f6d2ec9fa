# SPDX-License-Identifier: Apache-2.0
"""The selectors of a policy in, the condition that a process is what the policy is about out; and whether a policy is for this node.

A policy of KubeArmor is about pods, or (in the namespace `container_namespace`) containers that are part of none; a host policy about what
runs in no container. What becomes of containers that nobody has told of: see `policies`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import re2

from bpfence.conditions.containers import inside, untold
from bpfence.conditions.values import conj, disj, negation
from bpfence.dialects.kubearmor.model import CONTAINER_NAME, KubeArmorPolicy, Test, container_names
from bpfence.dialects.kubearmor.options import CLUSTER_POLICY, HOSTNAME_PATTERN, NETWORK_POLICY
from bpfence.dialects.kubearmor.patterns import QUIET, literal
from bpfence.policy import CONTAINER_FIELD, Atom, Condition, Label, Op, Selector, unknown_too

UNORCHESTRATED: Final = "container_namespace"
HOSTNAME: Final = "kubearmor.io/hostname"
_ANY: Final = ("*",)


def scope(policy: KubeArmorPolicy) -> Condition:
    """The condition that the acting process is in the policy's scope."""
    if policy.host:
        return negation(inside())
    wanted = [test for test in policy.tests if test.among]
    # One selector for all that is plainly required: each more is a class of containers more.
    namespaces = [test.values for test in wanted if test.key == "namespace"]
    single = [_selector("label", test.values[0]) for test in wanted if test.key == "label" and len(test.values) == 1]
    parts: list[Condition] = []
    if policy.kind in (CLUSTER_POLICY, NETWORK_POLICY):
        base = Selector(namespaces=tuple(map(literal, namespaces[0])) if namespaces else _ANY)
    elif policy.namespace == UNORCHESTRATED:
        base = Selector()
        parts.append(negation(unknown_too(Selector(namespaces=_ANY), untold())))
    else:
        base = Selector(namespaces=(literal(policy.namespace),))
    labels = tuple(label for one in single for label in one.labels)
    named = [one.names for one in single if one.names]
    whole = Selector(names=named[0] if named else (), namespaces=base.namespaces, labels=labels)
    parts.append(Atom(CONTAINER_FIELD, Op.SELECTS, whole) if whole != Selector() else inside())
    parts += (Atom(CONTAINER_FIELD, Op.SELECTS, Selector(namespaces=tuple(map(literal, values)))) for values in namespaces[1:])
    parts += (Atom(CONTAINER_FIELD, Op.SELECTS, Selector(names=names)) for names in named[1:])
    parts += (_any(test) for test in wanted if test.key == "label" and len(test.values) > 1)
    parts += (negation(_none(test)) for test in policy.tests if not test.among)
    return conj(parts)


class Reach(NamedTuple):
    """What a policy's selectors say plainly: the namespaces that it is about (None: there is no list of them), and labels that are required
    with one of some values. Of policies about the host nothing."""

    host: bool
    namespaces: frozenset[str] | None
    labels: tuple[tuple[str, frozenset[str]], ...]

    def apart(self, other: Reach) -> bool:
        """Whether no process is in the scopes of both."""
        if self.host is not other.host:
            return True
        if self.namespaces is not None and other.namespaces is not None and self.namespaces.isdisjoint(other.namespaces):
            return True
        more = dict(other.labels)
        return any(key in more and values.isdisjoint(more[key]) for key, values in self.labels)


def reach(policy: KubeArmorPolicy) -> Reach:
    """How far a policy reaches."""
    if policy.host:
        return Reach(True, None, ())
    wanted = [test for test in policy.tests if test.among]
    labels: dict[str, frozenset[str]] = {}
    for test in wanted:
        pairs = [value.partition("=") for value in test.values] if test.key == "label" else []
        key = pairs[0][0] if pairs else CONTAINER_NAME
        if key != CONTAINER_NAME and all(other == key for other, _, _ in pairs):
            values = frozenset(value for _, _, value in pairs)
            labels[key] = labels.get(key, values) & values
    listed = next((frozenset(test.values) for test in wanted if test.key == "namespace"), None)
    every = policy.kind in (CLUSTER_POLICY, NETWORK_POLICY)
    return Reach(False, listed if every else frozenset((policy.namespace,)), tuple(sorted(labels.items())))


def _any(test: Test) -> Condition:
    return disj(Atom(CONTAINER_FIELD, Op.SELECTS, _selector(test.key, value)) for value in test.values)


def _none(test: Test) -> Condition:
    """That one of the values holds, or may: what is left out is left out where it is not known, too."""
    return disj(unknown_too(_selector(test.key, value), untold()) for value in test.values)


def _selector(key: str, value: str) -> Selector:
    if key == "namespace":
        return Selector(namespaces=(literal(value),))
    label, _, text = value.partition("=")
    if label == CONTAINER_NAME:
        return Selector(names=tuple("*" if name == "*" else literal(name) for name in container_names(text)))
    return Selector(labels=(Label(label, "in", (text,)),))


# ---- nodes ----


def missing(policy: KubeArmorPolicy, labels: Mapping[str, str]) -> tuple[str, str] | None:
    """The label that a host policy asks for and that a node with `labels` does not have; None where it is for the node."""
    return next(((key, value) for key, value in policy.node if not _has(key, value, labels)), None)


def _has(key: str, value: str, labels: Mapping[str, str]) -> bool:
    own = labels.get(HOSTNAME if key == HOSTNAME_PATTERN else key)
    if own is None:
        return False
    if key == HOSTNAME_PATTERN:
        return any(_fits(text, own) for text in _listed(value))
    return value == "*" or own in ((value, *_listed(value)) if key == HOSTNAME else (value,))


def _listed(value: str) -> Iterator[str]:
    return (part.strip() for part in value.split(","))


def _fits(pattern: str, text: str) -> bool:
    try:
        return re2.fullmatch(pattern, text, QUIET) is not None
    except re2.error:  # said by `read`
        return False
