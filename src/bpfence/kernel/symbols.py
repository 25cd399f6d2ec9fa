# SPDX-License-Identifier: Apache-2.0
"""Names of the kernel's symbols in, their addresses out, as /proc/kallsyms tells them to whoever has CAP_SYSLOG.

Called by `engine` when an instance is made: later the agent has dropped the privilege, and libbpf, which would look for itself, finds
nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final

_LIST: Final = Path("/proc/kallsyms")


def addresses(names: Collection[str], path: Path = _LIST) -> dict[str, int]:
    """The address of each name: 0 where the kernel has no such symbol, or does not tell. Of a module's symbols none is meant."""
    found = dict.fromkeys(names, 0)
    missing = {name.encode() for name in names}
    try:
        with path.open("rb") as lines:
            for line in lines:
                words = line.split()
                if len(words) == 3 and words[2] in missing:
                    found[words[2].decode()] = int(words[0], 16)
                    missing.remove(words[2])
                    if not missing:
                        break
    except (OSError, ValueError):
        return dict.fromkeys(names, 0)
    return found
