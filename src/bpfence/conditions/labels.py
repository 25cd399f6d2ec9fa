# SPDX-License-Identifier: Apache-2.0
"""Nothing in, what tests on labels look like and mean out.

Called by the languages and objects that have selectors of labels, and by what finds whom they select. The shapes and their meaning are
those of Kubernetes: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from bpfence.policy import Label

OPERATORS: Final = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "absent"}
"""Operators as they are written → those of Label."""
LABEL_KEY: Final = re.compile(
    r"(?:(?=[^/]{1,253}/)[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*/)?"
    r"(?=[^/]{1,63}\Z)[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?"
)


class Expression(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A test on one label."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: list[str] = []


class LabelSelector(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Tests on labels, as Kubernetes writes them; all are required."""

    match_labels: Annotated[dict[str, str], Meta(description="label: value")] = msgspec.field(default_factory=dict, name="matchLabels")
    match_expressions: list[Expression] = msgspec.field(default_factory=list, name="matchExpressions")


def label_holds(label: Label, labels: Mapping[str, str]) -> bool:
    """Whether labels pass a test, as Kubernetes decides."""
    match label.op:
        case "in":
            return labels.get(label.key) in label.values
        case "notin":
            return labels.get(label.key) not in label.values
        case "exists":
            return label.key in labels
    return label.key not in labels
