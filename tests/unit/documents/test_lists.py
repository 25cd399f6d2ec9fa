# SPDX-License-Identifier: Apache-2.0
"""bpfence.documents.lists: objects one by one, and as kubectl lists them."""

from __future__ import annotations

import pytest

from bpfence.documents.lists import objects


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("kind: A\n---\nkind: B\n", [(1, 1), (3, 1)]),
        ("apiVersion: v1\nkind: List\nitems:\n- kind: A\n- kind: B\n---\nkind: C\n", [(4, 3), (5, 3), (7, 1)]),
        ("kind: KubeArmorPolicyList\nitems: [{kind: A}]\n", [(2, 9)]),
        ("kind: List\nitems: []\n", []),
        ("kind: List\nitems: a\n", [(1, 1)]),
        ("kind: List\n", [(1, 1)]),
        ("items: [{kind: A}]\n", [(1, 1)]),
        ("- kind: A\n", [(1, 1)]),
    ],
)
def test_objects_have_their_places(text: str, places: list[tuple[int, int]]) -> None:
    found = [root.location for root in objects(text, "f")]
    assert [(place.line, place.column) for place in found] == places


def test_merge_keys_are_merged() -> None:
    [root] = objects("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n", "f")
    assert [(key.text, value.text) for key, value in root.pairs[1][1].pairs] == [("y", "3"), ("x", "1")]
