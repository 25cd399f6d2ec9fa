# SPDX-License-Identifier: Apache-2.0
"""What lowering may know of the world. Light: what reads and lowers rules imports it, and must know neither events nor this machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

Hosts = Mapping[str, Iterable[str]]
"""Names of hosts → their addresses, in their usual spelling; no addresses: it is the name of no host. A name that is not in it may yet
turn out to be that of any address."""


class Facts(NamedTuple):
    """`hosts`: None: no name of a host is known; rules that ask for one are left to user space."""

    hosts: Hosts | None = None
