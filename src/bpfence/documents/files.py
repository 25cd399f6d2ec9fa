# SPDX-License-Identifier: Apache-2.0
"""Paths in, the bytes of policy files out, and what could not be read.

Called by every dialect. Files in a directory may belong to an attacker: only regular files are read, and only up to a bound.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from bpfence.documents.placed import MAX_BYTES
from bpfence.documents.report import Report
from bpfence.errors import Location


def policy_files(path: Path, report: Report) -> list[Path]:
    """A file itself, or the policy files of a directory by name; what is not read is reported."""
    if not os.path.isdir(path):  # as Path.is_dir, which raises where a path may not be looked at
        return [path]
    try:
        entries = sorted(path.iterdir())
    except OSError as e:
        report.add(Location(str(path)), "cannot-read", f"the directory cannot be read: {e.strerror}", "check its permissions")
        return []
    named = [entry for entry in entries if entry.suffix in (".yaml", ".yml") and not entry.name.startswith(".")]
    chosen = [entry for entry in named if not os.path.isdir(entry)]
    for entry in entries:
        if entry not in chosen:
            what = "directories are not searched" if os.path.isdir(entry) else "only *.yaml and *.yml are"
            report.add(Location(str(entry)), "not-read", f"not read: {what}", "name it on the command line to have it read", "info")
    if not chosen:
        report.add(Location(str(path)), "no-rules", "the directory holds no policy", "policies are *.yaml or *.yml files", "warning")
    return chosen


def read_bytes(path: Path, report: Report) -> bytes | None:
    """The bytes of a regular file, at most MAX_BYTES + 1 of them; None, and a finding, where it cannot be read."""
    place = Location(str(path))
    try:
        # Without O_NONBLOCK a FIFO dropped into the directory would stop the agent here.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                report.add(place, "cannot-read", "this is not a regular file", "give a file, or a directory of *.yaml and *.yml files")
                return None
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) else str(e)
        report.add(place, "cannot-read", f"the file cannot be read: {reason}", "check the path and its permissions")
        return None
    return data


class SourceFile(NamedTuple):
    """A file as it was read. It is read once, because a second read may give something else."""

    file: str
    data: bytes


def sources(paths: Iterable[str | os.PathLike[str]], report: Report) -> list[SourceFile]:
    """The policy files of some files and directories, in order; what cannot be read is reported."""
    files = [file for path in paths for file in policy_files(Path(path), report)]
    read = ((file, read_bytes(file, report)) for file in files)
    return [SourceFile(str(file), data) for file, data in read if data is not None]
