# SPDX-License-Identifier: Apache-2.0
"""The mount table in, its mounts out. In containers and with FUSE, others choose every byte of where a file system is mounted."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final, NamedTuple

TABLE: Final = Path("/proc/self/mountinfo")
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    """One line: device as major:minor, what of the file system is mounted, where, and its type."""

    device: str
    root: str
    point: str
    kind: str


def mounts(table: str | None = None) -> list[Mount]:
    """The mounts that this process sees, in order; with `table`, those of a text in the form of proc(5)'s mountinfo. OSError.

    Blank, tab, newline and backslash are written in octal there. Anything else may be in a name, even what Python takes for the end of a
    line.
    """
    mounted = []
    for line in (os.fsdecode(TABLE.read_bytes()) if table is None else table).split("\n"):
        mount, _, system = line.partition(" - ")
        words = mount.split(" ")
        if len(words) > 4 and system:
            mounted.append(Mount(words[2], _unescaped(words[3]), _unescaped(words[4]), system.split(" ")[0]))
    return mounted


def _unescaped(name: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), name)
