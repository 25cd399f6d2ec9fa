# SPDX-License-Identifier: Apache-2.0
"""Kinds of tracing policies."""

from __future__ import annotations

from bpfence.dialects.tetragon.dialect import TETRAGON
from bpfence.dialects.tetragon.kinds import API_VERSION, KIND, NAMESPACED_KIND, OBJECTS
from bpfence.documents.files import SourceFile


def test_files_of_both_kinds_are_read() -> None:
    assert [(one.kind, one.namespaced) for one in OBJECTS] == [(KIND, False), (NAMESPACED_KIND, True)]
    for one in OBJECTS:
        text = f"apiVersion: {API_VERSION}\nkind: {one.kind}\nmetadata: {{name: a}}\nspec: {{}}\n"
        assert "wrong-kind" not in {found.code for found in TETRAGON.read([SourceFile("p", text.encode())], None)[1]}
