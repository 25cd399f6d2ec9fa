# SPDX-License-Identifier: Apache-2.0
"""Facts of the API: what annotations meant; that what is read has a type."""

from __future__ import annotations

import pytest

from bpfence.pods import kinds


@pytest.mark.parametrize(
    ("text", "profile"),
    [
        ("runtime/default", {"type": "RuntimeDefault"}), ("docker/default", {"type": "RuntimeDefault"}),
        ("unconfined", {"type": "Unconfined"}),
        ("localhost/a/b.json", {"type": "Localhost", "localhostProfile": "a/b.json"}), ("localhost/", None), ("", None),
        ("Unconfined", None),
    ],
)  # fmt: skip
def test_annotated_profile(text: str, profile: dict[str, str] | None) -> None:
    assert kinds.annotated_profile(text) == profile


def test_what_has_a_type_is_a_field_of_its_context() -> None:
    spec = kinds.TEMPLATE["spec"]  # type: ignore[index,call-overload]
    assert set(spec["securityContext"]) <= kinds.POD_CONTEXT
    for name in kinds.CONTAINERS:
        assert set(spec[name][0]["securityContext"]) <= kinds.CONTAINER_CONTEXT
    assert all(kind == "Pod" or path[-1] == "template" for kind, path in kinds.TEMPLATES.items())
