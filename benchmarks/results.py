# SPDX-License-Identifier: Apache-2.0
"""Figures of one part of the benchmarks in, all figures of this source tree out.

Each part (a program of this folder) keeps its figures in a file of its own, .build/bench/PART.json, with the state of the sources that it
measured. What was measured of other sources is not given out again: a page never shows it as today's. Called by every part and by
report.py.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

import msgspec

ROOT: Final = Path(__file__).resolve().parent.parent
FOLDER: Final = ROOT / ".build" / "bench"
MEASURED: Final = (("src", "*.py"), ("src", "*.[ch]"), ("src", "*.lark"), ("bpf", "*"), ("examples/policies", "*.yaml"))
"""What figures depend on: folders and the names in them. Generated C is left out with everything else that begins with `_`."""


class Figure(msgspec.Struct, frozen=True, omit_defaults=True):
    """`value` in `unit`; `base`: the same with no program, where that has a meaning."""

    value: float
    unit: str
    base: float | None = None


class Part(msgspec.Struct, frozen=True):
    """One file. `tree`: see `tree`; `about`: what else the page says of the run (the kernel's release), by name."""

    tree: str
    figures: dict[str, Figure]
    about: dict[str, str] = {}


@functools.cache
def tree() -> str:
    """A hash of the sources that figures depend on."""
    digest = hashlib.sha256()
    paths = {
        path for folder, names in MEASURED for path in (ROOT / folder).rglob(names) if not path.name.startswith("_") and path.is_file()
    }
    for path in sorted(paths):
        digest.update(b"%s\0%s\0" % (str(path.relative_to(ROOT)).encode(), hashlib.sha256(path.read_bytes()).digest()))
    return digest.hexdigest()


def keep(part: str, figures: Mapping[str, Figure], about: Mapping[str, str] | None = None, folder: Path = FOLDER) -> None:
    """Write the figures of a part; those of its last run are gone."""
    folder.mkdir(parents=True, exist_ok=True)
    data = msgspec.json.encode(Part(tree(), dict(figures), dict(about or {})))
    (folder / f"{part}.json").write_bytes(msgspec.json.format(data, indent=1) + b"\n")


def kept(folder: Path = FOLDER, names: Collection[str] = ()) -> Part:
    """What all parts, or those named, have measured of this tree, as one."""
    figures: dict[str, Figure] = {}
    about: dict[str, str] = {}
    for path in sorted(folder.glob("*.json")):
        if names and path.stem not in names:
            continue
        try:
            part = msgspec.json.decode(path.read_bytes(), type=Part)
        except msgspec.MsgspecError:  # of another version of these programs
            continue
        if part.tree == tree():
            figures |= part.figures
            about |= part.about
    return Part(tree(), figures, about)


def under(setting: str, operation: str, subject: str = "") -> str:
    """The name of the figure of an operation under a setting of the guest, by a process that its rules concern or not."""
    return f"{operation}, {setting}" + (f", {subject}" if subject else "")
