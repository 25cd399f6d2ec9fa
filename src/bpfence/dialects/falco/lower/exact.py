# SPDX-License-Identifier: Apache-2.0
"""Final Falco rules in, policies that mean exactly the same out, and why the rest has none. Called by `bpfence convert`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from bpfence.dialects.falco.lower import rules as lower
from bpfence.dialects.falco.read.document import SEVERITY_OF
from bpfence.dialects.falco.read.resolve import FalcoRule
from bpfence.errors import Diagnostic
from bpfence.policy import Action, Policy, Rule

_ACTIONS: Final = {"audit": Action.AUDIT, "deny": Action.DENY, "kill": Action.KILL}


def exactly(rules: Iterable[FalcoRule], mode: str = "audit") -> Iterator[tuple[FalcoRule, Policy | list[Diagnostic]]]:
    """For every enabled rule a policy that has one rule for each native event; or the reasons why it cannot be said exactly."""
    taken: set[str] = set()
    for rule in rules:
        if not rule.enabled:
            continue
        enforcing = rule.enforcement is not None and rule.enforcement.action != "audit"
        lowered = lower.enforced(rule) if enforcing else lower.acts(rule)
        name = _slug(rule.name, taken)
        yield rule, _policy(rule, lowered, mode, name) if lowered.exact and lowered.conditions else _why(rule, lowered)


def _policy(rule: FalcoRule, lowered: lower.LoweredRule, mode: str, name: str) -> Policy:
    action = _ACTIONS[rule.enforcement.action if rule.enforcement else "audit"]
    errno = rule.enforcement.errno if rule.enforcement else 1
    made = (
        Rule(
            policy=name,
            name=re.sub("[._]", "-", event),
            events=(event,),
            condition=condition,
            action=action,
            errno=errno,
            location=rule.location,
        )
        for event, condition in lowered.conditions.items()
    )
    return Policy(name=name, mode=mode, severity=SEVERITY_OF[rule.priority], tags=rule.tags, rules=tuple(made), location=rule.location)


def _why(rule: FalcoRule, lowered: lower.LoweredRule) -> list[Diagnostic]:
    diagnostics = [
        Diagnostic(
            left.place if left.place.line else rule.location,
            f"{rule.name}: {left.text}: {left.reason}",
            left.hint,
            "warning",
            "not-expressible",
        )
        for left in lowered.left
    ]
    if lowered.unsensed:
        what = f"{rule.name}: nothing reports {', '.join(lowered.unsensed)} yet"
        diagnostics.append(Diagnostic(rule.location, what, "", "warning", "not-expressible"))
    return diagnostics or [Diagnostic(rule.location, f"{rule.name}: it can never match", "", "warning", "not-expressible")]


def _slug(name: str, taken: set[str]) -> str:
    base = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:56].strip("-") or "rule"
    slug, n = base, 1
    while slug in taken:
        n += 1
        slug = f"{base}-{n}"
    taken.add(slug)
    return slug
