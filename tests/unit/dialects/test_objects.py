# SPDX-License-Identifier: Apache-2.0
"""Kinds of objects that languages have."""

from __future__ import annotations

from bpfence.dialects.registry import DIALECTS


def test_each_kind_is_of_one_language_and_read_by_it() -> None:
    kinds = [(name, one) for name, dialect in DIALECTS.items() for one in dialect.objects]
    assert {name for name, _ in kinds} == {"kubearmor", "tetragon"}
    assert len({one.kind for _, one in kinds}) == len({(one.version, one.plural) for _, one in kinds}) == len(kinds)
    for name, one in kinds:
        header = f"apiVersion: {one.version}\nkind: {one.kind}\n".encode()
        assert [other for other, dialect in DIALECTS.items() if other != "native" and dialect.claims(header)] == [name]
