# SPDX-License-Identifier: Apache-2.0
"""Final Falco rules in, policies of bpfence's own IR out.

Called by what loads Falco rules into the kernel. Two policies at most: "falco" watches, every Falco rule is one rule of it under its own
name, with a condition for each native event and the results that it waits for; "falco-enforce" holds the rules with
`bpfence: {action: deny|kill}`. What "falco" lets through is finished in user space (`rules`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from bpfence.frontends.falco.atoms import Paths
from bpfence.frontends.falco.document import SEVERITY_OF
from bpfence.frontends.falco.lower import enforced, lower
from bpfence.frontends.falco.resolve import Rule
from bpfence.policy import Action, Condition, Policy
from bpfence.policy import Rule as NativeRule

WATCHING: Final = "falco"
ENFORCING: Final = "falco-enforce"
_ACTIONS: Final = {"deny": Action.DENY, "kill": Action.KILL}


def policies(rules: Iterable[Rule], *, paths: Paths = "kernel") -> tuple[Policy, ...]:
    """The policies of some rules, in their order. Rules that can never be true are left out.

    A rule that blocks must be exact (`lower.enforced`), which the loader has checked; ValueError where it is not.
    """
    watching: list[NativeRule] = []
    enforcing: list[NativeRule] = []
    for rule in rules:
        if rule.enforcement is None or rule.enforcement.action not in _ACTIONS:
            lowered = lower(rule, paths=paths)
            if lowered.conditions:
                watching.append(_rule(rule, WATCHING, lowered.conditions, Action.AUDIT, results=lowered.results))
            continue
        lowered = enforced(rule, paths=paths)
        if not lowered.exact:
            raise ValueError(f"rule {rule.name!r} cannot be enforced: " + "; ".join(left.text for left in lowered.left))
        if lowered.conditions:
            action = _ACTIONS[rule.enforcement.action]
            enforcing.append(_rule(rule, ENFORCING, lowered.conditions, action, errno=rule.enforcement.errno))
    made = (Policy(name=WATCHING, mode="audit", rules=tuple(watching)), Policy(name=ENFORCING, mode="enforce", rules=tuple(enforcing)))
    return tuple(policy for policy in made if policy.rules)


def _rule(
    rule: Rule, policy: str, conditions: Mapping[str, Condition], action: Action, *, errno: int = 1, results: int = 0
) -> NativeRule:  # fmt: skip
    return NativeRule(
        policy=policy, name=rule.name, events=tuple(conditions), conditions=dict(conditions), action=action, errno=errno,
        message=rule.desc, severity=SEVERITY_OF[rule.priority], tags=rule.tags, results=results, location=rule.location,
    )  # fmt: skip
