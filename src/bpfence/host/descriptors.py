# SPDX-License-Identifier: Apache-2.0
"""How many files this process may have open in, as many as it may allow itself out.

Called by the agent at its start: each sensor takes a descriptor.
"""

from __future__ import annotations

import contextlib
import resource
from typing import Final

MOST: Final = 1 << 16
"""More than all programs and sensors that there can be, their maps and what outputs have open."""


def raise_limit(most: int = MOST) -> int:
    """Raises the soft limit (RLIMIT_NOFILE) to the hard one, up to `most`; never lowers it. Returns what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most if hard == resource.RLIM_INFINITY else min(hard, most)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # what runs out of them says so
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
