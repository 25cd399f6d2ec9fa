# SPDX-License-Identifier: Apache-2.0
"""What a user may choose of KubeArmor's policies, and the names that they go under. Light: every command imports it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from bpfence.dialects.objects import Choice, ObjectKind
from bpfence.dialects.option import Option

NAME: Final = "kubearmor"
POLICY: Final = "KubeArmorPolicy"
HOST_POLICY: Final = "KubeArmorHostPolicy"
CLUSTER_POLICY: Final = "KubeArmorClusterPolicy"
NETWORK_POLICY: Final = "KubeArmorNetworkPolicy"
KINDS: Final = (POLICY, HOST_POLICY, CLUSTER_POLICY, NETWORK_POLICY)
GROUP: Final = b"security.kubearmor.com"
API_VERSION: Final = f"{GROUP.decode()}/v1"
HOSTNAME_PATTERN: Final = "kubearmor.io/hostnamereg"
"""A label of no node: regular expressions of its name."""
POSTURE: Final = "KubeArmor/DefaultPosture"
"""The policy of the IR that decides what no allow list covers."""
RESOURCES: Final = ("file", "network", "capabilities")
"""What has a posture. That of processes is the posture of files."""
ACTIONS: Final = ("audit", "block")
ANNOTATION: Final = "kubearmor-{}-posture"
"""The annotation of a namespace that has another posture than the one that is chosen, of a resource."""
VISIBILITY: Final = "KubeArmor/Visibility"
"""The policy of the IR whose events are KubeArmor's logs."""
VISIBLE: Final = ("process", "file", "network", "capabilities")
"""What can be made visible. NOTHING is an annotation's, or an option's, word for none of it, DNS what KubeArmor has beside them."""
NOTHING: Final = "none"
DNS: Final = "dns"
VISIBILITY_ANNOTATION: Final = "kubearmor-visibility"
_POSTURES: Final = (
    *(Choice(ANNOTATION.format(resource), ACTIONS) for resource in RESOURCES),
    Choice(VISIBILITY_ANNOTATION, (*VISIBLE, DNS, NOTHING), lists=True),
)
OBJECTS: Final = (
    ObjectKind(API_VERSION, POLICY, "kubearmorpolicies", True, _POSTURES),
    ObjectKind(API_VERSION, HOST_POLICY, "kubearmorhostpolicies", False),
    ObjectKind(API_VERSION, CLUSTER_POLICY, "kubearmorclusterpolicies", False, _POSTURES),
    ObjectKind(API_VERSION, NETWORK_POLICY, "kubearmornetworkpolicies", False, _POSTURES),
)
UNKNOWN: Final = ("outside", "audit")


THROTTLING: Final = {"alertThrottling": "throttling", "maxAlertPerSec": "max_alerts", "throttleSec": "pause"}
"""KubeArmor's settings of its throttling, and the options for them."""
MAX_ALERTS, PAUSE = 10, 30
"""KubeArmor's defaults."""
MOST: Final = 1_000_000
"""Of alerts in a second, and of seconds."""


class Throttling(NamedTuple):
    """After so many alerts of a workload within a second there are none for `seconds`."""

    alerts: int = MAX_ALERTS
    seconds: int = PAUSE


class KubeArmorOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`postures`: "file" or "host_file" and so on → audit or block, in containers and on the host; audit where it says nothing. `node`: the
    labels of this node; None: they are not known, and host policies are taken to be for it. `unknown`: what becomes of containers of which
    it is not known whether a policy is about them: "outside", or "audit": what it would do is reported. `visible`: what of VISIBLE is
    told of containers whose namespace says nothing else; None: of no container, whatever its namespace says. `host_visible`: of the
    host. `throttling`: of alerts in KubeArmor's form; None: there is none."""

    postures: Mapping[str, str] = {}
    visible: tuple[str, ...] | None = None
    host_visible: tuple[str, ...] = ()
    throttling: Throttling | None = None
    unknown: str = UNKNOWN[0]
    node: Mapping[str, str] | None = None

    def posture(self, resource: str, *, host: bool) -> str:
        """What becomes of acts that no allow list covers: audit or block."""
        return self.postures.get(f"host_{resource}" if host else resource, ACTIONS[0])

    @property
    def stands_alone(self) -> bool:
        """Whether there is something to put in force without a policy."""
        return self.visible is not None or bool(self.host_visible)


OPTIONS: Final = (
    *(
        Option(
            (f"--{'host-' if host else ''}default-{resource}-posture",),
            f"{'host_' if host else ''}{resource}",
            f"KubeArmor policies: what becomes of {what} that no allow list covers, {'on the host' if host else 'in containers'};"
            " audit, where neither this nor --kubearmor-config says it.",
            None,
            ACTIONS,
        )
        for host in (False, True)
        for resource, what in (("file", "files and programs"), ("network", "sockets"), ("capabilities", "capabilities"))
    ),
    Option(
        ("--kubearmor-config",),
        "config",
        "KubeArmor policies: take default postures from KubeArmor's ConfigMap, or its kubearmor.yaml; the options above go before them.",
        None,
        metavar="FILE",
    ),
    Option(
        ("--visibility",),
        "visible",
        "KubeArmor's logs of containers: process, file, network, capabilities, with commas between them, or none; the annotation"
        f" {VISIBILITY_ANNOTATION} of a namespace goes before it. Without it there are none.",
        None,
        metavar="LIST",
    ),
    Option(("--host-visibility",), "host_visible", "The same of what runs in no container.", None, metavar="LIST"),
    Option(
        ("--alert-throttling",),
        "throttling",
        "KubeArmor's form: alerts of a container beyond so many in a second are left out for a while; off, where neither this nor"
        " --kubearmor-config says it.",
        None,
        ("on", "off"),
    ),
    Option(("--max-alert-per-sec",), "max_alerts", f"Of --alert-throttling: how many in a second. {MAX_ALERTS}.", None, metavar="NUMBER"),
    Option(("--throttle-sec",), "pause", f"Of --alert-throttling: for how many seconds. {PAUSE}.", None, metavar="SECONDS"),
    Option(
        ("--unknown-containers",),
        "unknown",
        "KubeArmor policies: containers of which it is not known yet whether a policy is about them are outside, or what it would do is"
        " reported.",
        UNKNOWN[0],
        UNKNOWN,
    ),
    Option(
        ("--node-label",),
        "labels",
        "KubeArmor host policies: a label of this node, beside those of its name, system and architecture. Repeatable.",
        (),
        many=True,
        metavar="KEY=VALUE",
    ),
)
"""The options of `run`, `exec` and `test`."""
