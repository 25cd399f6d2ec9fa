# SPDX-License-Identifier: Apache-2.0
"""Which language a file is of."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bpfence.dialects.registry import DIALECTS, claimed, owner
from bpfence.documents.files import SourceFile

NATIVE = b"apiVersion: bpfence.io/v1alpha1\nkind: SecurityPolicy\n"
FALCO = b"- rule: x\n  desc: d\n"
TRACING = b"apiVersion: cilium.io/v1alpha1\nkind: TracingPolicy\n"


def test_files_by_language_in_their_order() -> None:
    files = [SourceFile("1", FALCO), SourceFile("2", NATIVE), SourceFile("3", b"nobody's"), SourceFile("4", FALCO)]
    found = {name: [source.file for source in sources] for name, sources in claimed(files).items()}
    assert found == {"native": ["2", "3"], "falco": ["1", "4"]}
    assert claimed([]) == {}


@pytest.mark.parametrize("blank", [b"", b"# Your own rules.\n\n  # More.\n", b"---\n"])
def test_a_file_with_nothing_in_it_is_of_the_language_beside_it(blank: bytes) -> None:
    local, falco, native = SourceFile("local", blank), SourceFile("1", FALCO), SourceFile("2", NATIVE)
    assert claimed([local, falco]) == {"falco": [local, falco]}
    assert claimed([local, native]) == claimed([local, native]) == {"native": [local, native]}
    assert claimed([falco, local, native]) == {"native": [local, native], "falco": [falco]}
    assert claimed([local]) == {"native": [local]}


def test_no_two_languages_claim_one_file() -> None:
    for data in (NATIVE, FALCO, TRACING, NATIVE + FALCO, FALCO + TRACING, b"", b"{}"):
        assert sum(dialect.claims(data) for dialect in DIALECTS.values()) <= 1


def test_policies_that_languages_report_under() -> None:
    assert (owner("falco"), owner("falco-enforce"), owner("mine")) == ("falco", "falco", "native")


def test_the_registry_costs_little() -> None:
    script = "import sys, bpfence.dialects.registry; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    heavy = (
        "lark",
        "re2",
        "bpfence.dialects.tetragon.read",
        "bpfence.dialects.tetragon.lower",
        "bpfence.dialects.falco.read",
        "bpfence.dialects.falco.lower",
        "bpfence.dialects.falco.confirm",
    )
    assert [name for name in loaded if name.startswith(heavy)] == []
