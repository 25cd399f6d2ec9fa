#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Go modules in, an API server with etcd, and helm, out: what tests/kubernetes runs.

Run by `make kubernetes`. It takes ten minutes on two idle cores, so the program is kept in the cache beside the test kernels, under the
hash of what it is made of; go's own cache keeps what was compiled when it is stopped. Prints where the programs are.
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
HELM = "v4.3.2"
MISSING = "needs Go (Debian: apt install golang, or go.dev)"


def program() -> Path:
    """Where the program is, or will be."""
    digest = hashlib.sha256(b"".join((MODULE / name).read_bytes() for name in SOURCES)).hexdigest()[:16]
    return cache_folder().parent / "kubernetes" / digest / "server"


def helm() -> Path:
    """Where helm is, or will be."""
    return cache_folder().parent / "kubernetes" / f"helm-{HELM}" / "helm"


def command(target: Path) -> list[str]:
    """What builds it."""
    major, minor, _ = VERSION.removeprefix("v").split(".")
    said = {"gitVersion": VERSION, "gitMajor": major, "gitMinor": minor, "gitCommit": "0", "gitTreeState": "clean"}
    flags = " ".join(("-s", "-w", *(f"-X k8s.io/component-base/version.{key}={value}" for key, value in said.items())))
    return ["go", "build", "-trimpath", "-ldflags", flags, "-o", str(target), "."]


def built(path: Path, words: list[str], folder: Path, **more: str) -> bool:
    """Whether a program is there, by now."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        if subprocess.run(words, cwd=folder, env={**os.environ, "CGO_ENABLED": "0", **more}, check=False).returncode:
            return False
    return True


def main() -> int:
    """Build what is not there yet."""
    server, part = program(), program().with_suffix(f".{os.getpid()}")
    if not (server.exists() and helm().exists()) and shutil.which("go") is None:
        print(MISSING, file=sys.stderr)
        return 3
    install = ["go", "install", "-trimpath", "-ldflags", "-s -w", f"helm.sh/helm/v4/cmd/helm@{HELM}"]
    if not server.exists() and built(part, command(part), MODULE):
        os.replace(part, server)
    if not (server.exists() and built(helm(), install, MODULE, GOBIN=str(helm().parent))):
        return 1
    print(server, helm(), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
