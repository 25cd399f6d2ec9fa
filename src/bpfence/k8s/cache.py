# SPDX-License-Identifier: Apache-2.0
"""What is known of a cluster in, a file of it out, and back after a restart.

Called by `source`. With it an agent that starts while the API server is away has the policies and pods that there were. The file is root's
alone, is replaced as a whole, and is of one node: what another wrote, or another version, counts for nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from bpfence.agent.generations import read_private, write_whole
from bpfence.k8s.install import Installed
from bpfence.k8s.objects import PolicyObject
from bpfence.workloads.model import Namespace, Pod

VERSION: Final = 2
MAX_CACHE: Final = 64 << 20


class Kept(msgspec.Struct, frozen=True):
    """A policy: as it is, and as it was last in force where that is something else."""

    newest: PolicyObject
    good: PolicyObject | None = None


class Known(msgspec.Struct):
    """What one node knows of its cluster. `namespaces`: those that its pods are in; `profiles`: files that were written for
    seccomp profiles, by their paths."""

    node: str
    policies: list[Kept] = []
    pods: dict[str, Pod] = {}
    namespaces: dict[str, Namespace] = {}
    profiles: dict[str, Installed] = {}
    version: int = VERSION


class _Version(msgspec.Struct):
    version: int = 0
    node: str = ""


def load(path: Path, node: str) -> Known:
    """What is kept in a file; nothing where there is none, or it is of another node or version. OSError where it cannot be read."""
    try:
        data = read_private(path, MAX_CACHE)
    except FileNotFoundError:
        return Known(node)
    try:
        about = msgspec.json.decode(data, type=_Version)
        return msgspec.json.decode(data, type=Known) if (about.version, about.node) == (VERSION, node) else Known(node)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise OSError(f"{path} cannot be understood: {str(error)[:200]}") from None


def save(path: Path, known: Known) -> None:
    """Replace the file. OSError where that is not possible, or there is too much."""
    data = msgspec.json.encode(known)
    if len(data) > MAX_CACHE:
        raise OSError(f"what is known of the cluster is larger than {MAX_CACHE >> 20} MiB")
    write_whole(path, data, 0o600)
