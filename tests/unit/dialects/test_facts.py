# SPDX-License-Identifier: Apache-2.0
"""What lowering may know of the world."""

from __future__ import annotations

import subprocess
import sys

from bpfence.dialects.facts import Facts


def test_by_default_no_host_is_known() -> None:
    assert Facts().hosts is None


def test_facts_load_nothing_else_of_bpfence() -> None:
    code = "import sys, bpfence.dialects.facts; print(*sorted(name for name in sys.modules if name.startswith('bpfence')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == ["bpfence", "bpfence.dialects", "bpfence.dialects.facts"]
