#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A Debian mirror in, a containerd that has NRI out: what tests run where the machine's own is older.

Run by `make containerd`. It is kept in the cache beside the test kernels, and is not installed. Prints where it is.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from vmtest import MirrorError
from vmtest.kernels import cache_folder, fetch_package
from vmtest.mirror import debian_mirrors, fetch_packages, fetch_release, find_tool, newest_stanza, read_apt_sources

SUITES: Final = ("trixie",)
PROGRAMS: Final = ("containerd", "containerd-shim-runc-v2", "ctr")
FIRST: Final = (1, 7)
"""The first version that has NRI."""


def folder() -> Path:
    """Where the programs are, or will be."""
    return cache_folder().parent / "containerd"


def with_nri() -> str:
    """A folder that has a containerd with NRI, and the programs beside it: what was fetched, or one of the PATH; "" where there is none."""
    for name in (str(folder()), *f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin".split(":")):
        program = Path(name, "containerd")
        if program.exists():
            said = subprocess.run([program, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False).stdout
            version = re.search(r" v?(\d+)\.(\d+)\.\d", said)
            if version and (int(version[1]), int(version[2])) >= FIRST:
                return name
    return ""


def fetch(target: Path) -> None:
    """Put the programs into a folder. MirrorError, OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        staging = Path(name)
        suite = fetch_release(debian_mirrors(read_apt_sources(), os.environ), SUITES)
        newest = newest_stanza(fetch_packages(suite, staging), "(containerd)")
        if newest is None:
            raise MirrorError(f"{' or '.join(SUITES)} has no containerd")
        package = staging / "package.deb"
        fetch_package(suite, newest[0], package, f"containerd {newest[0]['Version']}", sys.stderr)
        subprocess.run([find_tool("dpkg-deb"), "-x", package, staging / "unpacked"], check=True)
        made = staging / "programs"
        made.mkdir()
        for program in PROGRAMS:
            (staging / "unpacked" / "usr" / "bin" / program).rename(made / program)
        if target.exists():
            shutil.rmtree(target)
        made.rename(target)


def main() -> int:
    """Fetch it where it is not there yet."""
    if not all((folder() / program).exists() for program in PROGRAMS):
        try:
            fetch(folder())
        except (MirrorError, OSError, subprocess.CalledProcessError) as error:
            print(f"containerd could not be had: {error}", file=sys.stderr)
            return 1
    print(folder())
    return 0


if __name__ == "__main__":
    sys.exit(main())
