# SPDX-License-Identifier: Apache-2.0
"""Which language a file is of."""

from __future__ import annotations

import subprocess
import sys

from bpfence.dialects.registry import DIALECTS, claimed, owner
from bpfence.documents.files import Source

NATIVE = b"apiVersion: bpfence.io/v1alpha1\nkind: SecurityPolicy\n"
FALCO = b"- rule: x\n  desc: d\n"


def test_files_by_language_in_their_order() -> None:
    files = [Source("1", FALCO), Source("2", NATIVE), Source("3", b"nobody's"), Source("4", FALCO)]
    found = {name: [source.file for source in sources] for name, sources in claimed(files).items()}
    assert found == {"native": ["2", "3"], "falco": ["1", "4"]}
    assert claimed([]) == {}


def test_no_two_languages_claim_one_file() -> None:
    for data in (NATIVE, FALCO, NATIVE + FALCO, b"", b"{}"):
        assert sum(dialect.claims(data) for dialect in DIALECTS.values()) <= 1


def test_policies_that_languages_report_under() -> None:
    assert (owner("falco"), owner("falco-enforce"), owner("mine")) == ("falco", "falco", "native")


def test_the_registry_costs_little() -> None:
    script = "import sys, bpfence.dialects.registry; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    heavy = ("lark", "re2", "bpfence.dialects.falco.read", "bpfence.dialects.falco.lower", "bpfence.dialects.falco.confirm")
    assert [name for name in loaded if name.startswith(heavy)] == []
