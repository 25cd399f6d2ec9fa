# SPDX-License-Identifier: Apache-2.0
"""What weakens a pod in, an ordered and bounded list of findings out.

`CODES` is the list of every code that this package reports; docs/pods.md is its reference, and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from bpfence.errors import Diagnostic, DiagnosticSeverity, Location

Level = Literal["privileged", "baseline", "restricted"]
LEVELS: Final[tuple[Level, ...]] = ("privileged", "baseline", "restricted")
"""The Pod Security Standards' levels; each contains the demands of the one before."""

MAX_FINDINGS: Final = 5_000
"""Of one file. Whoever has more has a generator to mend, or means harm."""

CODES: Final[Mapping[str, str]] = {
    # reading
    "cannot-read": "a file that cannot be read",
    "json-syntax": "a file that is not JSON",
    "not-utf8": "a file in another encoding",
    "yaml-limit": "a file too large, too deep, or with too much behind aliases",
    "yaml-syntax": "a file that is not YAML",
    "no-workload": "a file without anything that has pods",
    "not-an-object": "a document that is no object of Kubernetes",
    "too-many": "more findings than are shown",
    "unknown-kind": "an object of a kind that is not Kubernetes' own, judged by the pod template that it has",
    "wrong-type": "a value of another type than the field has: the API server refuses the object",
    "duplicate-key": "a key written twice in one map: the last one counts",
    "unknown-key": "a key that a security context does not have: it is dropped, or the object refused",
    # the Pod Security Standards, baseline
    "host-process": "a Windows container with the host's privileges",
    "host-namespace": "a pod in a namespace of the node",
    "privileged": "a privileged container",
    "capability-added": "a capability beyond those that the level allows",
    "host-path": "a directory or file of the node in the pod",
    "host-port": "a port of the node's own addresses",
    "host-probe": "a probe or hook that the kubelet sends to a host of the pod's choice",
    "apparmor-off": "an AppArmor profile that is neither the runtime's nor one of the node's",
    "selinux-options": "an SELinux user, role or type of the pod's choice",
    "proc-mount": "a /proc without the runtime's masks",
    "seccomp-off": "a seccomp profile that is neither the runtime's nor one of the node's",
    "sysctl": "a sysctl that is not known to stay inside the pod",
    # the Pod Security Standards, restricted
    "volume-type": "a volume that is not of the types for everybody",
    "privilege-escalation": "a container whose programs may gain privileges",
    "run-as-root": "a container that may run as root",
    "root-user": "a user id of 0",
    "seccomp-missing": "a container without a seccomp profile",
    "capabilities-kept": "a container that does not drop all capabilities",
    # beyond the standards
    "host-takeover": "a path of the node that whoever can write there takes the node over with",
    "obsolete-annotation": "an annotation that fields have taken the place of",
    "seccomp-profile": "a profile of the node's that it must have, or a path that cannot be one",
    "shared-processes": "containers of a pod that see each other's processes",
    "host-users": "a pod that is said to have the node's users",
    "writable-root": "a container that can change its own programs",
    "service-account-token": "a pod that is given a token for the API server",
    "no-memory-limit": "a container that can take all memory of the node",
    "no-cpu-limit": "a container that can take all processors of the node",
    "image-tag": "an image that may be another one tomorrow",
    "image-digest": "an image that is not pinned by its digest",
    # hardening
    "hardened": "what a manifest lacked and was given, or what was taken out",
    "left": "what breaks the level and was left, and why",
    "kept": "what may be more than the program needs, and was kept",
    "not-known": "what only those can set who know the program",
    "cannot-edit": "what cannot be changed without changing other text, too",
}
"""Every code of this package, and what it means."""


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that weakens a pod.

    `control` is the official name of the Pod Security Standards' control that it breaks, `level` the lowest level that has it. `path` is
    the field, `workload` and `container` whose it is.
    """

    code: str
    severity: DiagnosticSeverity
    location: Location
    what: str
    why: str = ""
    hint: str = ""
    control: str = ""
    level: str = ""
    path: str = ""
    workload: str = ""
    container: str = ""

    def diagnostic(self) -> Diagnostic:
        """For people."""
        because = f": {self.why}" if self.why else ""
        standard = f" ({self.level}: {self.control})" if self.control else ""
        return Diagnostic(self.location, f"{self.what}{standard}{because}", self.hint, self.severity, self.code)


class Findings:
    """The findings of one file, in the order they were found, and bounded."""

    def __init__(self) -> None:
        self.found: list[Finding] = []
        self.left_out = 0

    def add(self, finding: Finding) -> None:
        """One finding."""
        if finding.code not in CODES:
            raise KeyError(finding.code)
        if len(self.found) < MAX_FINDINGS:
            self.found.append(finding)
        else:
            self.left_out += 1

    def sorted(self, file: str) -> list[Finding]:
        """In the order of the text; what was left out is an error, because it may have been one."""
        found = sorted(self.found, key=lambda finding: finding.location)
        if self.left_out:
            what = f"{self.left_out:,} more findings are not shown"
            found.append(Finding("too-many", "error", Location(file), what, hint="split the file"))
        return found
