# SPDX-License-Identifier: Apache-2.0
"""Nothing in, the shapes of KubeArmor's policies out: what `read` makes and `lower` takes.

What stood outside has been handed down already: each entry has its own action, severity, tags and message.
"""

from __future__ import annotations

from typing import Final

import msgspec

from bpfence.dialects.kubearmor.options import HOST_POLICY, NETWORK_POLICY
from bpfence.errors import Location

CONTAINER_NAME: Final = "kubearmor.io/container.name"
"""A label that no pod has: the name of the container, or a list of them."""


def container_names(text: str) -> tuple[str, ...]:
    """The names that a value of CONTAINER_NAME lists."""
    return tuple(name for part in text.removeprefix("[").removesuffix("]").split(",") if (name := part.strip()))


class Source(msgspec.Struct, frozen=True):
    """Where an act comes from: the program at a path, or those in a directory (`path` ends in "/"), those below it too if `recursive`."""

    path: str
    recursive: bool = False


class Ports(msgspec.Struct, frozen=True):
    """Ports of a protocol (TCP, UDP, SCTP; "" for any of them), the ends among them."""

    low: int = 0
    high: int = 65535
    protocol: str = ""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a policy.

    `section` is process, file, network, capabilities, syscalls, presets, ingress or egress, `where` the entry in the policy
    ("file.matchPaths[0]"). `kind` says what `value` is: a path, a dir (with "/" at its end), the name of a program, a pattern, a protocol,
    a capability or a preset; "" for system calls of any file, and for traffic. `networks` and `ports` of traffic, and `sources`: any where
    there are none. `terminals`: those with a terminal count as others do. `arguments`: those that a program may have; None: any.
    """

    section: str
    where: str
    kind: str
    value: str
    recursive: bool = False
    read_only: bool = False
    owner_only: bool = False
    terminals: bool = True
    sources: tuple[Source, ...] = ()
    arguments: tuple[str, ...] | None = None
    calls: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    ports: tuple[Ports, ...] = ()
    action: str = "Block"
    severity: int = 1
    tags: tuple[str, ...] = ()
    message: str = ""
    location: Location = Location("<none>")


class Test(msgspec.Struct, frozen=True):
    """A test on the workload. `key` is "namespace" or "label"; a label's values are pairs "key=value". `among`: one of them holds; else
    none does."""

    key: str
    values: tuple[str, ...]
    among: bool = True


class KubeArmorPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """One policy. `kind` is one of options.KINDS; `tests` are all required; `node`: labels that the node must have, of one about the
    host."""

    kind: str
    name: str
    namespace: str = ""
    tests: tuple[Test, ...] = ()
    node: tuple[tuple[str, str], ...] = ()
    entries: tuple[Entry, ...] = ()
    location: Location = Location("<none>")

    @property
    def key(self) -> str:
        """What alerts call it, unique among all policies. No native policy has a "/" after such a word in its name."""
        return "/".join(part for part in (self.kind, self.namespace, self.name) if part)

    @property
    def host(self) -> bool:
        """It is about the host and not about containers."""
        return self.kind == HOST_POLICY or (self.kind == NETWORK_POLICY and not self.tests)
