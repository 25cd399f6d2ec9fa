#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A Go module in, an API server with etcd out: what tests/kubernetes runs against.

Run by `make kubernetes`. It takes ten minutes on two idle cores, so the program is kept in the cache beside the test kernels, under the
hash of what it is made of; go's own cache keeps what was compiled when it is stopped. Prints where the program is.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from vmtest.kernels import cache_folder

ROOT = Path(__file__).resolve().parent.parent
MODULE = ROOT / "tests" / "kubernetes" / "server"
SOURCES = ("go.mod", "go.sum", "main.go")
VERSION = "v1.37.2"
"""What the API server says it is: that of k8s.io/kubernetes in go.mod."""
MISSING = "needs Go (Debian: apt install golang, or go.dev)"


def program() -> Path:
    """Where the program is, or will be."""
    digest = hashlib.sha256(b"".join((MODULE / name).read_bytes() for name in SOURCES)).hexdigest()[:16]
    return cache_folder().parent / "kubernetes" / digest / "server"


def command(target: Path) -> list[str]:
    """What builds it."""
    major, minor, _ = VERSION.removeprefix("v").split(".")
    said = {"gitVersion": VERSION, "gitMajor": major, "gitMinor": minor, "gitCommit": "0", "gitTreeState": "clean"}
    flags = " ".join(("-s", "-w", *(f"-X k8s.io/component-base/version.{key}={value}" for key, value in said.items())))
    return ["go", "build", "-trimpath", "-ldflags", flags, "-o", str(target), "."]


def main() -> int:
    """Build it where it is not there yet."""
    path = program()
    if not path.exists():
        if shutil.which("go") is None:
            print(MISSING, file=sys.stderr)
            return 3
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        built = subprocess.run(command(part), cwd=MODULE, env={**os.environ, "CGO_ENABLED": "0"}, check=False)
        if built.returncode:
            return 1
        os.replace(part, path)
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
