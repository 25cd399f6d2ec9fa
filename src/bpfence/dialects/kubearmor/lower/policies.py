# SPDX-License-Identifier: Apache-2.0
"""KubeArmor's policies and the user's choices in, policies of the IR and what they could not say out.

Called by `dialect`. Each policy becomes one of the IR, its entries that block or report become rules. Entries that allow become one rule
for each resource and all policies together, which denies or reports what none of them covers: an allow list of one policy is widened by
that of another for the same workload. Block wins over Allow, as any deny does. Containers that may be in a scope, but are not known well
enough to tell, are outside, or what would be done is reported: the user chooses.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from bpfence.conditions import expand
from bpfence.conditions.containers import untold
from bpfence.conditions.values import conj, disj
from bpfence.dialects.kubearmor.lower import entries, scopes
from bpfence.dialects.kubearmor.model import Entry, KubeArmorPolicy
from bpfence.dialects.kubearmor.options import ACTIONS, NAME, POSTURE, KubeArmorOptions
from bpfence.errors import Diagnostic, Location
from bpfence.policy import FALSE, Action, Condition, Op, Policy, Rule, atoms

SEVERITIES: Final = ("info", "low", "low", "low", "medium", "medium", "medium", "high", "high", "critical", "critical")
"""By KubeArmor's number, from 0 (none) to 10."""
ACTION: Final = {"Audit": Action.AUDIT, "Block": Action.DENY}
_RESOURCES: Final = {"process": "file", "ingress": "network", "egress": "network"}
"""By section, what the posture is of that it has, where that is another."""
POSTURES: Final = {"audit": Action.AUDIT, "block": Action.DENY}


def here(policies: Iterable[KubeArmorPolicy], options: KubeArmorOptions) -> tuple[tuple[KubeArmorPolicy, ...], list[Diagnostic]]:
    """The policies without those for other nodes, where it is known which this one is."""
    chosen: list[KubeArmorPolicy] = []
    told: list[Diagnostic] = []
    for policy in policies:
        lacking = scopes.missing(policy, options.node) if options.node is not None else None
        if lacking is None:
            chosen.append(policy)
            continue
        what = f"{policy.name!r} is left out: this node has no label {lacking[0]}={lacking[1]}"
        told.append(Diagnostic(policy.location, what, "--node-label KEY=VALUE says that it has", "warning", "other-node"))
    return tuple(chosen), told


def warnings(policies: Iterable[KubeArmorPolicy]) -> Iterator[Diagnostic]:
    """What of the entries the kernel does not say, or says otherwise."""
    for policy in policies:
        for entry in policy.entries:
            if entry.section != "syscalls":
                continue
            unseen, too = entries.unseen(entry), entries.seen_too(entry)
            if unseen:
                of = " of a path" if entry.kind else ""
                what = f"{entry.where}: there is no event{of} for {', '.join(unseen)}; this is left out"
                yield Diagnostic(entry.location, what, "`bpfence events` lists what there is", "warning", "not-supported")
            if too:
                what = f"{entry.where}: what is done is reported, by whatever call; that is also {', '.join(too)}"
                yield Diagnostic(entry.location, what, "name them as well", "warning", "other-acts")


def lowered(policies: Sequence[KubeArmorPolicy], options: KubeArmorOptions) -> tuple[Policy, ...]:
    """The policies of the IR."""
    made = [policy for one in policies if (policy := _policy(one, options)).rules]
    posture = _posture(policies, options)
    return (*made, *((posture,) if posture.rules else ()))


def alone(policy: KubeArmorPolicy, mode: str) -> Iterator[tuple[Entry, Policy | None]]:
    """Each entry that blocks or reports as a policy of its own, under a name that a native policy can have; None where it is none: an
    entry of an allow list means something beside all others only, and some system calls have no event."""
    scope = scopes.scope(policy)
    for entry in policy.entries:
        rule = _rule(policy, entry, scope) if entry.action != "Allow" else None
        if rule is None:
            yield entry, None
            continue
        # With a dot between what has none, and a dash that the last part has not: no two policies come to one name.
        name = f"{'.'.join(policy.key.split('/'))}-{entry.where.replace('[', '.').removesuffix(']')}"
        rules = tuple(
            msgspec.structs.replace(
                rule,
                policy=name,
                name=event.replace(".", "-").replace("_", "-"),
                events=(event,),
                condition=rule.condition_for(event),
                conditions={},
            )
            for event in rule.events
        )
        severity = SEVERITIES[entry.severity]
        yield entry, Policy(name=name, mode=mode, severity=severity, tags=entry.tags, scope=scope, rules=rules, location=entry.location)


def _policy(policy: KubeArmorPolicy, options: KubeArmorOptions) -> Policy:
    scope = scopes.scope(policy)
    rules = tuple(rule for entry in policy.entries if entry.action != "Allow" and (rule := _rule(policy, entry, scope)) is not None)
    return Policy(name=policy.key, scope=scope, doubt=_doubt(scope, options), rules=rules, location=policy.location)


def _doubt(scope: Condition, options: KubeArmorOptions) -> Condition:
    """Where every policy may be about a container, tables must tell all of them apart at once: that is what `audit` costs."""
    asked = options.unknown == "audit" and any(atom.op is Op.SELECTS for atom in atoms(scope))
    return untold() if asked else FALSE


def _rule(policy: KubeArmorPolicy, entry: Entry, scope: Condition) -> Rule | None:
    each = {event: condition for event, condition in entries.decided(entry, scope).items() if condition != FALSE}
    if not each:
        return None
    condition, conditions = expand.shared(each)
    return Rule(
        policy=policy.key,
        name=entry.where,
        events=tuple(each),
        condition=condition,
        conditions=conditions,
        action=Action.AUDIT if entry.section == "syscalls" else ACTION[entry.action],
        errno=errno.EACCES,
        language=NAME,
        message=_template(entry.message),
        severity=SEVERITIES[entry.severity],
        tags=entry.tags,
        location=entry.location,
    )


def _template(text: str) -> str:
    """A message, in which braces are nothing but braces."""
    return text.replace("{", "{{").replace("}", "}}")


# ---- postures ----


def _posture(policies: Iterable[KubeArmorPolicy], options: KubeArmorOptions) -> Policy:
    """What no allow list covers, in workloads that have one for the resource."""
    allowed: dict[tuple[bool, str], list[tuple[Condition, Entry]]] = {}
    for policy in policies:
        scope = scopes.scope(policy)
        for entry in policy.entries:
            if entry.action == "Allow" and entry.section in entries.RESOURCE_EVENTS:
                allowed.setdefault((policy.host, entry.section), []).append((scope, entry))
    rules = tuple(_posture_rule(host, section, found, options) for (host, section), found in allowed.items())
    scope = disj(dict.fromkeys(scope for found in allowed.values() for scope, _ in found))
    place = rules[0].location if rules else Location("<none>")
    return Policy(name=POSTURE, scope=scope, doubt=_doubt(scope, options), rules=rules, location=place)


def _posture_rule(host: bool, section: str, allowed: list[tuple[Condition, Entry]], options: KubeArmorOptions) -> Rule:
    scope = disj(dict.fromkeys(scope for scope, _ in allowed))
    each = {event: conj((scope, entries.uncovered(section, event, allowed))) for event in entries.RESOURCE_EVENTS[section]}
    condition, conditions = expand.shared(each)
    action = options.posture(_RESOURCES.get(section, section), host=host)
    assert action in ACTIONS
    return Rule(
        policy=POSTURE,
        name=f"host-{section}" if host else section,
        events=tuple(each),
        condition=condition,
        conditions=conditions,
        action=POSTURES[action],
        errno=errno.EACCES,
        language=NAME,
        location=allowed[0][1].location,
    )
