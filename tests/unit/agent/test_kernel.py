# SPDX-License-Identifier: Apache-2.0
"""The live kernel has what the protocol asks for; and it is imported only when an engine is loaded."""

from __future__ import annotations

import inspect
import subprocess
import sys

from bpfence.agent.kernel import Engine
from bpfence.kernel.engine import Engine as LiveEngine


def test_the_live_engine_has_every_method() -> None:
    wanted = {name for name, _ in inspect.getmembers(Engine) if not name.startswith("_")}
    assert wanted - set(dir(LiveEngine)) == set()
    assert len(wanted) > 10


def test_importing_the_agent_binds_no_library() -> None:
    script = "import sys, bpfence.agent.agent; print([name for name in sys.modules if 'libbpf' in name or name == 'cffi'])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == "[]"
