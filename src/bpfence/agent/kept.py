# SPDX-License-Identifier: Apache-2.0
"""Policies in, the tables that an earlier start has compiled of them out, where there are any.

Called by `tables`. Most starts have the policies of the one before. What is kept is a pure function of its key: the policies, the events
that the kernel supports, the classes of containers, and the code that compiles. One file for each pin folder, private to the agent;
where it cannot be read, is another's or holds something else, tables are compiled.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Final

import msgspec

from bpfence import abi
from bpfence.agent.generations import read_private, write_whole
from bpfence.compiler.compile import Compiled
from bpfence.compiler.workloads import Class
from bpfence.policy import PolicySet

CACHE_DIR: Final = Path("/var/cache/bpfence")
MAX_BYTES: Final = 64 << 20
_PACKAGE: Final = Path(__file__).parents[1]
_CODE: Final = (_PACKAGE, _PACKAGE / "compiler", _PACKAGE / "conditions")
"""Folders of the modules that tables depend on."""
_DIGEST_BYTES: Final = 32
_NOT_WRITTEN: Final = (OverflowError, RecursionError, UnicodeEncodeError)
"""Numbers of more than 64 bits, conditions that are nested deeply, names of files that are no text: no message holds them."""


class Kept:
    """The last tables that were compiled, in a file. Threads may share one: the file is replaced as a whole."""

    def __init__(self, pin_dir: str, folder: Path = CACHE_DIR) -> None:
        self._path = folder / f"tables-{_digest(os.path.abspath(pin_dir).encode('utf-8', 'surrogateescape')).hex()[:12]}"

    def get(
        self, policies: PolicySet, events: Collection[str], workloads: Collection[Class], make: Callable[[], Compiled], *, details: bool
    ) -> Compiled:
        """What is kept for these policies, else what `make` compiles, which is kept from now on. See `compile_policies`."""
        if not policies.policies:
            return make()
        try:
            classes = [sorted(map(msgspec.msgpack.encode, one)) for one in workloads]  # sets of structures have no order of their own
            key = _digest(msgspec.msgpack.encode((policies, sorted(events), classes, details, tuple(_code())), order="deterministic"))
        except _NOT_WRITTEN:
            return make()
        found = self._read(key)
        if found is None:
            found = make()
            self._write(key, found)
        return found

    def _read(self, key: bytes) -> Compiled | None:
        try:
            data = read_private(self._path, MAX_BYTES)
            body = memoryview(data)[2 * _DIGEST_BYTES :]
            if data[: 2 * _DIGEST_BYTES] != key + _digest(body):
                return None
            return msgspec.msgpack.decode(body, type=Compiled)
        except (OSError, msgspec.DecodeError, UnicodeError, RecursionError):
            return None

    def _write(self, key: bytes, compiled: Compiled) -> None:
        with contextlib.suppress(OSError, *_NOT_WRITTEN):  # the next start compiles
            body = msgspec.msgpack.encode(compiled)
            if len(body) + 2 * _DIGEST_BYTES > MAX_BYTES:
                return
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(self._path, key + _digest(body) + body, 0o600)


def _digest(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()


def _code() -> Iterator[tuple[str, int, int]]:
    """What tells this code from another version's, installed or being worked on."""
    yield abi.ABI_HASH, abi.ABI_VERSION, 0
    for folder in _CODE:
        with os.scandir(folder) as entries:
            files = sorted((entry for entry in entries if entry.name.endswith((".py", ".so"))), key=lambda entry: entry.name)
        for entry in files:
            about = entry.stat()
            yield f"{folder.name}/{entry.name}", about.st_size, about.st_mtime_ns
