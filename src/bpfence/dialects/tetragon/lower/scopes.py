# SPDX-License-Identifier: Apache-2.0
"""Selectors of pods, containers and the host in, the condition that the acting process is one of what they select out.

Called by `policies`. All that is said of a container is required; the host's own processes are those that run in no container. A policy
that says nothing is about all processes.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from bpfence.conditions import images
from bpfence.conditions.containers import inside, untold
from bpfence.conditions.values import conj, disj, negation
from bpfence.dialects.tetragon.read.model import HostSelector, LabelExpression, LabelSelector
from bpfence.errors import Location
from bpfence.policy import CONTAINER_FIELD, TRUE, Atom, Condition, Label, Op, Selector, unknown_too
from bpfence.words import quoted

NAMESPACE: Final = "k8s:io.kubernetes.pod.namespace"
"""The label of the pod's namespace, which the pod itself does not have."""
_NAMESPACES: Final = frozenset((NAMESPACE, NAMESPACE.removeprefix("k8s:")))
_OPERATORS: Final = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "absent"}
_OF_CONTAINERS: Final = {"name": "names", "repo": "images"}
"""Keys of containerSelector, and members of a selector: a pattern of an image without a tag is any image of the repository."""
_SPECIAL: Final = re.compile(r"([\\*?\[\]{},])")
_ANY: Final = ("*",)


class UnselectableError(Exception):
    """A selector that cannot be put in force: where, and what helps."""

    def __init__(self, place: Location, what: str, hint: str) -> None:
        super().__init__(what)
        self.place = place
        self.hint = hint


def scope(pods: LabelSelector | None, containers: LabelSelector | None, host: HostSelector | None, namespace: str = "") -> Condition:
    """`namespace`: the one whose pods alone a policy is about. UnselectableError: something cannot be selected by."""
    if pods is None and containers is None and not namespace:
        return negation(inside()) if host is not None else TRUE
    base = Selector(namespaces=(_literal(namespace),) if namespace else _ANY if pods is not None else ())
    parts: list[Condition] = []
    for expression in _expressions(pods):
        if expression.key not in _NAMESPACES:
            base = msgspec.structs.replace(base, labels=(*base.labels, _label(expression)))
        else:
            parts.append(_named(expression, "namespaces"))
    for expression in _expressions(containers):
        if expression.key not in _OF_CONTAINERS:
            what = f"containers are not selected by {quoted(expression.key)}"
            raise UnselectableError(expression.place, what, f"select them by {' or '.join(_OF_CONTAINERS)}")
        if expression.key == "repo":
            for value in expression.values:
                _check_repository(expression, value)
        parts.append(_named(expression, _OF_CONTAINERS[expression.key]))
    whole = Atom(CONTAINER_FIELD, Op.SELECTS, base) if base != Selector() else inside()
    selected = conj((whole, *parts))
    return disj((negation(inside()), selected)) if host is not None else selected


def _expressions(selector: LabelSelector | None) -> tuple[LabelExpression, ...]:
    if selector is None:
        return ()
    place = selector.place
    plain = (LabelExpression(place=place, key=key, operator="In", values=(value,)) for key, value in selector.match_labels.items())
    return (*plain, *selector.match_expressions)


def _check_repository(expression: LabelExpression, value: str) -> None:
    """UnselectableError where a value is no repository of images."""
    image = images.parse(value)
    if image is None or image.digest or _SPECIAL.search(value) or images.split(value)[0] != value:
        what = f"{quoted(value)} is no repository of images"
        raise UnselectableError(expression.place, what, "write it without tag and digest, such as docker.io/library/nginx")


def _label(expression: LabelExpression) -> Label:
    return Label(expression.key, _OPERATORS[expression.operator], expression.values)


def _named(expression: LabelExpression, member: str) -> Condition:
    """What a selector says of the name of a pod's namespace, or of a container's own; both have one."""
    if expression.operator in ("Exists", "DoesNotExist"):
        there = Atom(CONTAINER_FIELD, Op.SELECTS, msgspec.structs.replace(Selector(), **{member: _ANY}))
        return there if expression.operator == "Exists" else negation(there)
    names = tuple(map(_literal, expression.values))
    selector = msgspec.structs.replace(Selector(), **{member: names})
    if expression.operator == "In":
        return Atom(CONTAINER_FIELD, Op.SELECTS, selector)
    return negation(unknown_too(selector, untold()))  # what is not known is not selected: it may be one of them


def _literal(text: str) -> str:
    """The glob that is nothing but a text."""
    return _SPECIAL.sub(r"\\\1", text)
