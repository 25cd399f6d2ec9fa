# SPDX-License-Identifier: Apache-2.0
"""Tests on labels, as Kubernetes decides them."""

from __future__ import annotations

from typing import get_args, get_type_hints

import pytest

from bpfence.conditions.labels import LABEL_KEY, OPERATORS, Expression, label_holds
from bpfence.policy import Label


@pytest.mark.parametrize(
    ("label", "labels", "holds"),
    [
        (Label("app", "in", ("web", "api")), {"app": "api"}, True), (Label("app", "in", ("web",)), {"app": "api"}, False),
        (Label("app", "in", ("",)), {}, False), (Label("app", "in", ("",)), {"app": ""}, True),
        (Label("app", "notin", ("web",)), {"app": "web"}, False), (Label("app", "notin", ("web",)), {}, True),
        (Label("app", "exists"), {"app": ""}, True), (Label("app", "exists"), {"App": ""}, False),
        (Label("app", "absent"), {}, True), (Label("app", "absent"), {"app": ""}, False),
    ],
)  # fmt: skip
def test_label_holds(label: Label, labels: dict[str, str], holds: bool) -> None:
    assert label_holds(label, labels) == holds


@pytest.mark.parametrize(
    ("key", "valid"),
    [
        ("app", True), ("App_1.x-y", True), ("example.com/app", True), ("a" * 63, True), ("a" * 64, False),
        ("-app", False), ("app-", False),
        ("", False), ("a/b/c", False), ("Example.com/app", False), ("/app", False), ("a b", False), (f"{'a.' * 126}a/b", True),
        (f"{'a.' * 127}a/b", False), ("app\n", False),
    ],
)  # fmt: skip
def test_keys(key: str, valid: bool) -> None:
    assert bool(LABEL_KEY.fullmatch(key)) == valid


def test_every_operator_has_its_meaning() -> None:
    assert set(OPERATORS) == set(get_args(get_type_hints(Expression)["operator"]))
