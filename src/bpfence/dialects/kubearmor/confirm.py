# SPDX-License-Identifier: Apache-2.0
"""An observation that the kernel decided by an entry in, what that entry says of it in KubeArmor's words out.

Called by the agent's pipeline. Nothing is left to confirm: the kernel decides every rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bpfence.alerts.alert import Said
from bpfence.dialects.kubearmor.dialect import KubeArmorRules
from bpfence.dialects.kubearmor.lower.policies import late_name
from bpfence.dialects.kubearmor.model import KubeArmorPolicy
from bpfence.dialects.kubearmor.options import HOST_POLICY, NAME, POLICY, POSTURE
from bpfence.dialects.saying import RuleKey, Saying
from bpfence.events.source import Observation
from bpfence.events.values import escape
from bpfence.policy import Action

OPERATIONS = {
    "process": "Process",
    "file": "File",
    "network": "Network",
    "capabilities": "Capabilities",
    "syscalls": "Syscall",
    "presets": "Process",
    "ingress": "NetworkFirewall",
    "egress": "NetworkFirewall",
}
"""By section, KubeArmor's word for what was done."""
OF_FILES = ("protectEnv", "protectProc")
"""Presets that are about files."""
POSTURE_NAME = "DefaultPosture"


def facts(rules: KubeArmorRules) -> dict[RuleKey, dict[str, Any]]:
    """What each rule of the IR is in KubeArmor's words: policy, kind, operation, severity, action and tags."""
    known: dict[RuleKey, dict[str, Any]] = {}
    for policy in rules.given:
        known |= _of_policy(policy)
    for made in rules.policy_set.policies:
        for rule in made.rules if made.name == POSTURE else ():
            host, section = rule.name.startswith("host-"), rule.name.removeprefix("host-").partition("-")[0]
            known[made.name, rule.name] = {
                "kind": HOST_POLICY if host else POLICY,
                "policy": POSTURE_NAME,
                "operation": OPERATIONS[section],
                "action": "Block" if rule.action is Action.DENY else "Audit",
            }
    return known


def _of_policy(policy: KubeArmorPolicy) -> dict[RuleKey, dict[str, Any]]:
    return {
        (policy.key, name): {
            "kind": policy.kind,
            "policy": policy.name,
            **({"namespace": policy.namespace} if policy.namespace else {}),
            "operation": "File" if entry.value in OF_FILES else OPERATIONS[entry.section],
            "severity": entry.severity,
            # System calls are only ever reported, and of what is allowed only what is refused.
            "action": "Audit" if entry.section == "syscalls" else "Block" if entry.action == "Allow" else entry.action,
            **({"message": escape(entry.message)} if entry.message else {}),
        }
        for entry in policy.entries
        for name in ((entry.where,) if entry.arguments is None else (entry.where, late_name(entry)))
    }


def confirm(kept: int) -> Saying[dict[str, Any]]:
    """What alerts say of entries. `kept`: of how many rule sets records may still come."""
    return Saying(kept, facts, SeenAct)


class SeenAct:
    """One observation, and what is known of the rules that decided it."""

    refused = False

    def __init__(self, seen: Observation, known: Mapping[RuleKey, dict[str, Any]]) -> None:
        self._seen = seen
        self._known = known

    def said(self, policy: str, rule: str) -> Said | None:
        """What a rule says of it: its message, or what was done; None where the rule is not known any more."""
        found = self._known.get((policy, rule))
        if found is None:
            return None
        path = self._seen.own("file.path")
        about = f" of {escape(path)}" if isinstance(path, (str, bytes)) else ""
        return Said(NAME, found.get("message") or f"{found['operation']}: {self._seen.event}{about}", found)
