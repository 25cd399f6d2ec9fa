# SPDX-License-Identifier: Apache-2.0
"""What lowering may know of the world.

Light: what reads and lowers rules imports it, and must know neither events nor this machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

Hosts = Mapping[str, Iterable[str]]
"""Names of hosts → their addresses, in their usual spelling. A name without addresses is the name of no host. A name that is missing may
yet turn out to be that of any address."""


class Facts(NamedTuple):
    """`hosts`: None: no name of a host is known. Rules that ask for one are then left to user space."""

    hosts: Hosts | None = None
