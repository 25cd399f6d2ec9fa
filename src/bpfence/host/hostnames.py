# SPDX-License-Identifier: Apache-2.0
"""Names of hosts that rules mention in, the names of an address out.

Called by `live` for fd.sip.name and its kin. As in Falco, names are resolved forward only: an address has those of the mentioned names that
resolve to it, because what it calls itself in reverse is its owner's choice. A thread resolves in the background. An event never waits for
it; a name that is not resolved yet belongs to no address. The kernel is told the addresses too (by `agent`): `addresses` has them, and
`changed` is called when they change.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

FIRST: Final = 120.0
"""Seconds until a name is resolved again; doubled whenever its addresses have not changed, up to LAST."""
LAST: Final = 3600.0
RETRY: Final = 15.0
"""Seconds until a name that could not be resolved is tried again; doubled as well, up to FIRST."""
MAX_NAMES: Final = 4096
MAX_ADDRESSES: Final = 256

Resolve = Callable[[str, None], Iterable[tuple[Any, ...]]]


class Notice:
    """Lets a thread wake a selector up. `tell` never blocks, and may be called after `close`."""

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()
        self._open = True

    def fileno(self) -> int:
        """Readable from `tell` until `take`."""
        return self._descriptor

    def tell(self) -> None:
        """There is something new."""
        # Under the lock, because after `close` the number may be that of another descriptor.
        with self._lock:
            if self._open:
                os.eventfd_write(self._descriptor, 1)

    def take(self) -> bool:
        """Whether `tell` was called since the last `take`."""
        try:
            return os.eventfd_read(self._descriptor) > 0
        except BlockingIOError:
            return False

    def close(self) -> None:
        """Nobody listens any more."""
        with self._lock:
            if self._open:
                self._open = False
                os.close(self._descriptor)


class _Entry:
    """One name: its addresses, whether it was asked for, and when it is resolved next."""

    def __init__(self, known: _Entry | None = None) -> None:
        self.addresses: frozenset[str] = known.addresses if known else frozenset()
        self.asked: bool = known.asked if known else False
        self.due: float = known.due if known else 0.0
        self.pause: float = known.pause if known else 0.0


class Hostnames:
    """The names, resolved by a daemon thread from `start` on. `resolve` is called as getaddrinfo(name, None); `clock` gives seconds.

    `known`: what was resolved before, of which the same names keep their addresses.
    """

    def __init__(
        self,
        names: Iterable[str],
        resolve: Resolve = socket.getaddrinfo,
        *,
        clock: Callable[[], float] = time.monotonic,
        known: Hostnames | None = None,
    ) -> None:
        earlier: dict[str, _Entry] = known._entries if known is not None else {}
        self._entries: dict[str, _Entry] = {name: _Entry(earlier.get(name)) for name in list(dict.fromkeys(names))[:MAX_NAMES]}
        self._resolve = resolve
        self._clock = clock
        self._changed: Callable[[], None] = lambda: None
        self._by_address = self._table()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, changed: Callable[[], None] = lambda: None) -> None:
        """Begin to resolve; does nothing where there is no name. The thread calls `changed` whenever `addresses` has changed."""
        if self._entries and self._thread is None:
            self._changed = changed
            self._thread = threading.Thread(target=self._run, name="bpfence-names", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Tell the thread to end; it does so when the resolver returns."""
        self._wake.set()

    def names_of(self, address: str) -> tuple[str, ...]:
        """The names that an address belongs to, in the order of the names."""
        return self._by_address.get(address, ())

    def name_of(self, address: str) -> str | None:
        """The first of them."""
        names = self.names_of(address)
        return names[0] if names else None

    def addresses(self) -> dict[str, frozenset[str]]:
        """The addresses of every name that was asked for, whether or not it could be resolved."""
        return {name: entry.addresses for name, entry in self._entries.items() if entry.asked}

    def _run(self) -> None:
        while not self._wake.is_set():
            self._wake.wait(max(0.5, self.refresh()))

    def refresh(self) -> float:
        """Resolve what is due; seconds until the next is. For the thread, and for tests."""
        for name, entry in self._entries.items():
            if entry.due <= self._clock() and not self._wake.is_set():
                self._refresh(name, entry)
        now = self._clock()
        return min((entry.due for entry in self._entries.values()), default=now + LAST) - now

    def _refresh(self, name: str, entry: _Entry) -> None:
        addresses = self._addresses(name)
        changed = not entry.asked
        if addresses is None:
            # A resolver that is down for a while must not make names lose their addresses.
            entry.pause = min(max(RETRY, entry.pause * 2), FIRST)
        elif addresses != entry.addresses:
            entry.addresses, entry.pause = addresses, FIRST
            # One assignment: whoever reads sees the old table or the new one.
            self._by_address = self._table()
            changed = True
        else:
            entry.pause = min(max(FIRST, entry.pause * 2), LAST)
        entry.asked = True
        entry.due = self._clock() + entry.pause
        if changed:
            self._changed()

    def _table(self) -> dict[str, tuple[str, ...]]:
        table: dict[str, tuple[str, ...]] = {}
        for name, entry in self._entries.items():
            for address in entry.addresses:
                table[address] = (*table.get(address, ()), name)
        return table

    def _addresses(self, name: str) -> frozenset[str] | None:
        """The addresses of a name; None where it cannot be resolved now. Whatever a resolver answers, the thread goes on."""
        addresses = set()
        try:
            for entry in self._resolve(name, None):
                address = ipaddress.ip_address(str(entry[4][0]).partition("%")[0])
                mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
                addresses.add(str(mapped or address))
                if len(addresses) == MAX_ADDRESSES:
                    break
        except (OSError, ValueError, LookupError, UnicodeError):
            return None
        return frozenset(addresses)
