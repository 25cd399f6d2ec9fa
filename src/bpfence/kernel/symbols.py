# SPDX-License-Identifier: Apache-2.0
"""Names of the kernel's symbols in, their addresses out, which the kernel tells to whoever has CAP_SYSLOG.

Called by `engine` when an instance is made: later the agent has dropped the privilege, and libbpf, which would look for itself, finds
nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final

from bpfence.kernel import libbpf

_LIST: Final = Path("/proc/kallsyms")
_PIECE: Final = 1 << 18


def addresses(names: Collection[str]) -> dict[str, int]:
    """The address of each name: 0 where the kernel has no such symbol, or does not tell."""
    asked = {name: libbpf.symbol(name) for name in names}
    # To write the list out takes the kernel longer than all else that is done to start, but for the verifier.
    return asked if all(asked.values()) else listed(names)


def listed(names: Collection[str], path: Path = _LIST) -> dict[str, int]:
    """The address of each name: 0 where the kernel has no such symbol, or does not tell. Of a module's symbols none is meant."""
    found = dict.fromkeys(names, 0)
    missing = set(names)
    rest = b"\n"
    try:
        with path.open("rb", buffering=0) as lines:
            # In large pieces, which are searched as they are: there are some hundred thousand lines.
            while missing and (piece := lines.read(_PIECE)):
                whole, end, rest = (rest + piece).rpartition(b"\n")
                text, rest = whole + end, end + rest
                for name in tuple(missing):
                    if (at := text.find(f" {name}\n".encode())) >= 0:
                        found[name] = int(text[text.rfind(b"\n", 0, at) + 1 : at].split()[0], 16)
                        missing.remove(name)
    except (OSError, ValueError, IndexError):
        return dict.fromkeys(names, 0)
    return found
