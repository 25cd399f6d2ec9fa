# SPDX-License-Identifier: Apache-2.0
"""An observation that the kernel decided by an entry in, what that entry says of it in KubeArmor's words out.

Called by the agent's pipeline. Nothing is left to confirm: the kernel decides every rule. The facts of the last generations are kept,
because records wait in the ring buffer across a reload.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from bpfence.alerts.alert import RuleInfo, Said
from bpfence.alerts.faults import Faults
from bpfence.dialects.facts import Hosts
from bpfence.dialects.kubearmor.dialect import KubeArmorRules
from bpfence.dialects.kubearmor.model import KubeArmorPolicy
from bpfence.dialects.kubearmor.options import HOST_POLICY, NAME, POLICY, POSTURE
from bpfence.events.source import Observation
from bpfence.events.values import escape
from bpfence.policy import Action

RuleKey = tuple[str, str]
OPERATIONS = {"process": "Process", "file": "File", "network": "Network", "capabilities": "Capabilities", "syscalls": "Syscall"}
"""By section, KubeArmor's word for what was done."""
POSTURE_NAME = "DefaultPosture"


def facts(rules: KubeArmorRules) -> dict[RuleKey, dict[str, Any]]:
    """What each rule of the IR is in KubeArmor's words: policy, kind, operation, severity, action and tags."""
    known: dict[RuleKey, dict[str, Any]] = {}
    for policy in rules.given:
        known |= _of_policy(policy)
    for made in rules.policy_set.policies:
        for rule in made.rules if made.name == POSTURE else ():
            host, section = rule.name.startswith("host-"), rule.name.removeprefix("host-")
            known[made.name, rule.name] = {
                "kind": HOST_POLICY if host else POLICY,
                "policy": POSTURE_NAME,
                "operation": OPERATIONS[section],
                "action": "Block" if rule.action is Action.DENY else "Audit",
            }
    return known


def _of_policy(policy: KubeArmorPolicy) -> dict[RuleKey, dict[str, Any]]:
    return {
        (policy.key, entry.where): {
            "kind": policy.kind,
            "policy": policy.name,
            **({"namespace": policy.namespace} if policy.namespace else {}),
            "operation": OPERATIONS[entry.section],
            "severity": entry.severity,
            # System calls are only ever reported.
            "action": "Audit" if entry.section == "syscalls" else entry.action,
            **({"message": escape(entry.message)} if entry.message else {}),
        }
        for entry in policy.entries
    }


class Confirmed:
    """Confirms nothing. `kept`: of how many rule sets records may still come."""

    def __init__(self, kept: int) -> None:
        self.faults = Faults()
        self.candidates = self.confirmed = 0
        self._kept = kept
        self._known: dict[int, dict[RuleKey, dict[str, Any]]] = {}
        self._newest: dict[RuleKey, dict[str, Any]] = {}
        self._of: KubeArmorRules | None = None

    def use(self, generation: int, rules: KubeArmorRules | None, infos: Iterable[RuleInfo]) -> None:
        """The rules of the generation that is in force now; None: there are none."""
        if rules is not self._of:
            self._newest = facts(rules) if rules is not None else {}
            self._of = rules
        self._known.pop(generation, None)
        self._known[generation] = self._newest
        while len({id(known) for known in self._known.values()}) > self._kept or len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]

    def view(self, seen: Observation) -> SeenAct:
        """An observation as entries see it."""
        return SeenAct(seen, self._known.get(seen.generation, self._newest))

    def confirm(self, view: Any, among: Collection[str] | None) -> list[RuleInfo]:
        """None: no rule of this language waits for it."""
        return []

    def refused(self, count: int, moment: int) -> None:
        """Nothing is ever refused."""

    def hosts(self) -> Hosts:
        """No names of hosts."""
        return {}

    def start(self, changed: Any) -> None:
        """Nothing goes on beside events."""

    def flush(self) -> None:
        """Nothing is recorded."""

    def reopen(self) -> None:
        """Nothing is recorded."""

    def close(self) -> None:
        """Nothing is open."""


MAX_KNOWN = 4096


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
