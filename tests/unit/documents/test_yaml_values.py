# SPDX-License-Identifier: Apache-2.0
"""YAML read as the values of JSON."""

from __future__ import annotations

import pytest

from bpfence.documents import yaml_nodes
from bpfence.documents.placed import DocumentError
from bpfence.documents.yaml_values import as_value, documents


def test_scalars_mean_what_the_core_schema_says() -> None:
    text = 'a: ~\nb: null\nc: true\nd: "true"\ne: on\nf: 017\ng: 0o17\nh: 0x1F\ni: 1.5\nj: "5"\nk: +3\nl: -3\nm: ""\nn: 1e3\n'
    text += "o: !!str 5\np: ! 6\n"
    (root,) = documents(text.encode(), "f")
    kinds = {key.text: (value.kind, value.text) for key, value in root.pairs}
    assert kinds == {
        "a": ("null", "null"), "b": ("null", "null"), "c": ("boolean", "true"), "d": ("string", "true"), "e": ("string", "on"),
        "f": ("number", "17"), "g": ("number", "15"), "h": ("number", "31"), "i": ("number", "1.5"), "j": ("string", "5"),
        "k": ("number", "3"), "l": ("number", "-3"), "m": ("string", ""), "n": ("number", "1e3"),
        "o": ("string", "5"), "p": ("string", "6"),
    }  # fmt: skip


def test_scalars_mean_what_kubernetes_makes_of_them() -> None:
    [node] = yaml_nodes.documents('a: [yes, On, y, no, "no", off, 017, 0o17, -0b11, 1_000, 08, 0x1f, 0, 1.5, ~, yep, _1, -_1, 1_]', "f")
    found = [(value.kind, value.text) for value in as_value(node, kubernetes=True).pairs[0][1].items]
    assert found == [
        *[("boolean", "true")] * 3, ("boolean", "false"), ("string", "no"), ("boolean", "false"), ("number", "15"), ("number", "15"),
        ("number", "-3"), ("number", "1000"), ("number", "8"), ("number", "31"), ("number", "0"), ("number", "1.5"), ("null", "null"),
        ("string", "yep"), ("string", "_1"), ("number", "-1"), ("number", "1"),
    ]  # fmt: skip


def test_documents_that_cannot_be_read() -> None:
    for data, code in [(b"a: [", "yaml-syntax"), (b"\xff", "not-utf8"), (b"x" * (5 << 20), "json-limit"), (b"[" * 100, "yaml-limit")]:
        with pytest.raises(DocumentError) as caught:
            documents(data, "f")
        assert caught.value.diagnostic.code == code
