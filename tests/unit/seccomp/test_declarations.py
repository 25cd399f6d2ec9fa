# SPDX-License-Identifier: Apache-2.0
"""What was read of the library's declarations before."""

from __future__ import annotations

import subprocess
import sys


def test_the_library_is_bound_without_a_parser_of_c() -> None:
    """Which takes longer than all that an agent asks of the library."""
    script = "import sys; from bpfence.seccomp.libseccomp import version; version(); sys.exit('pycparser' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
