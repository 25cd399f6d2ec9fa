# SPDX-License-Identifier: Apache-2.0
"""KubeArmor's policies and the user's choices in, policies of the IR and what they could not say out.

Called by `dialect`. Each policy becomes one of the IR, its entries that block or report become rules. Of the entries of all policies for a
workload the one decides about an act that KubeArmor looks up first: a rule leaves out what an earlier entry lets through. Entries that
allow also become one rule for each resource and all policies together, which denies or reports what no entry decides about: an allow list
of one policy is widened by that of another for the same workload. Containers that may be in a scope, but are not known well enough to tell,
are outside, or what would be done is reported: the user chooses.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Final

import msgspec

from bpfence.conditions import expand
from bpfence.conditions.containers import untold
from bpfence.conditions.values import conj, disj, negation
from bpfence.dialects.kubearmor.lower import entries, scopes, visibility
from bpfence.dialects.kubearmor.lower.order import LOOKED_UP, Order, TooManyError
from bpfence.dialects.kubearmor.model import Entry, KubeArmorPolicy
from bpfence.dialects.kubearmor.options import ACTIONS, ANNOTATION, NAME, POSTURE, KubeArmorOptions
from bpfence.errors import Diagnostic, Location
from bpfence.policy import CONTAINER_FIELD, FALSE, Action, Atom, Condition, Label, Op, Policy, Rule, Selector, atoms

SEVERITIES: Final = ("info", "low", "low", "low", "medium", "medium", "medium", "high", "high", "critical", "critical")
"""By KubeArmor's number, from 0 (none) to 10."""
ACTION: Final = {"Audit": Action.AUDIT, "Block": Action.DENY, "Allow": Action.DENY}
"""Of an entry that allows: what it refuses, whatever the posture."""
_RESOURCES: Final = {"process": "file", "ingress": "network", "egress": "network"}
"""By section, what the posture is of that it has, where that is another."""
TOLD_ONCE: Final = 256
"""Beside an allow list, so many entries that block are told apart from what the posture refuses; with more the tables grow too large, and
what they block is told as the posture's, too."""
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


def lowered(policies: Sequence[KubeArmorPolicy], options: KubeArmorOptions) -> tuple[tuple[Policy, ...], tuple[Diagnostic, ...]]:
    """The policies of the IR; none, and why, where they have more to do with each other than can be said."""
    order = Order(policies)
    try:
        made = [policy for one in policies if (policy := _policy(one, order, options)).rules]
    except TooManyError as error:
        return (), (error.diagnostic,)
    more = (_posture(policies, options), visibility.policy(options))
    return (*made, *(policy for policy in more if policy.rules)), ()


def alone(policies: Sequence[KubeArmorPolicy], mode: str) -> Iterator[tuple[KubeArmorPolicy, Entry, Policy | None]]:
    """Each entry that blocks or reports as a policy of its own, under a name that a native policy can have; None where it is none: an
    entry of an allow list means something beside all others only, and some system calls have no event."""
    order = Order(policies)
    for policy in policies:
        yield from ((policy, entry, made) for entry, made in _each_alone(policy, order, mode))


def _each_alone(policy: KubeArmorPolicy, order: Order, mode: str) -> Iterator[tuple[Entry, Policy | None]]:
    scope = scopes.scope(policy)
    for entry in policy.entries:
        rule = _rule(policy, entry, scope, order) if entry.action != "Allow" and entry.arguments is None else None
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


def _policy(policy: KubeArmorPolicy, order: Order, options: KubeArmorOptions) -> Policy:
    scope = scopes.scope(policy)
    made = (
        rule
        for entry in policy.entries
        if _refuses(entry)
        for rule in (_rule(policy, entry, scope, order), _late(policy, entry, scope, order))
    )
    rules = tuple(rule for rule in made if rule is not None)
    return Policy(name=policy.key, scope=scope, doubt=_doubt(scope, options), rules=rules, location=policy.location)


def _doubt(scope: Condition, options: KubeArmorOptions) -> Condition:
    """Where every policy may be about a container, tables must tell all of them apart at once: that is what `audit` costs."""
    asked = options.unknown == "audit" and any(atom.op is Op.SELECTS for atom in atoms(scope))
    return untold() if asked else FALSE


def _refuses(entry: Entry) -> bool:
    """Whether an entry makes a rule of its own: one that allows all that it names does not."""
    return entry.action != "Allow" or (entry.section in LOOKED_UP and entries.bound(entry))


def _rule(policy: KubeArmorPolicy, entry: Entry, scope: Condition, order: Order) -> Rule | None:
    decided = entries.decided(entry, scope, order.excuses(policy, entry, scope))
    each = {event: condition for event, condition in decided.items() if condition != FALSE}
    if not each:
        return None
    return _made(policy, entry, entry.where, each, Action.AUDIT if entry.section == "syscalls" else ACTION[entry.action])


def _late(policy: KubeArmorPolicy, entry: Entry, scope: Condition, order: Order) -> Rule | None:
    """What of an entry can be told only when the program is there: then it is too late for an error."""
    if entry.arguments is None:
        return None
    condition = entries.executed(entry, scope, order.excuses(policy, entry, scope))
    each = {entries.EXECUTED: condition}
    return _made(policy, entry, late_name(entry), each, Action.AUDIT if entry.action == "Audit" else Action.KILL)


def late_name(entry: Entry) -> str:
    """The name of the rule about a program's arguments."""
    return f"{entry.where}.allowedArgs"


def _made(policy: KubeArmorPolicy, entry: Entry, name: str, each: Mapping[str, Condition], action: Action) -> Rule:
    condition, conditions = expand.shared(each)
    return Rule(
        policy=policy.key,
        name=name,
        events=tuple(each),
        condition=condition,
        conditions=conditions,
        action=action,
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
    """What no entry decides about, in workloads that have an allow list for the resource."""
    allowed = {key: found for key, found in _listed(policies).items() if any(entry.action == "Allow" for _, entry in found)}
    annotated = {key: _annotated(*key, options) for key in allowed}
    rules = tuple(rule for key, found in allowed.items() for rule in _posture_rules(*key, found, annotated[key], options))
    # Which of two postures a pod has is told by its class, and classes are made of the selectors in scopes.
    told = (disj((one, negation(one))) for one in annotated.values() if one != FALSE)
    scope = conj((disj(dict.fromkeys(rule_scope for found in allowed.values() for rule_scope in _scopes(found))), *told))
    place = rules[0].location if rules else Location("<none>")
    return Policy(name=POSTURE, scope=scope, doubt=_doubt(scope, options), rules=rules, location=place)


def _listed(policies: Iterable[KubeArmorPolicy]) -> dict[tuple[bool, str], list[tuple[Condition, Entry]]]:
    """Of the host or of containers, by section: the entries that decide about acts, as far as they are beside one that allows. What one of
    them refuses it tells itself."""
    found: dict[tuple[bool, str], list[tuple[Condition, scopes.Reach, Entry]]] = {}
    allowing: dict[tuple[bool, str], set[scopes.Reach]] = {}
    for policy in policies:
        scope, reach = scopes.scope(policy), scopes.reach(policy)
        for entry in policy.entries:
            if entry.section in entries.RESOURCE_EVENTS and entry.action != "Audit":
                key = policy.host, entry.section
                found.setdefault(key, []).append((scope, reach, entry))
                if entry.action == "Allow":
                    allowing.setdefault(key, set()).add(reach)
    apart = cache(lambda key, reach: all(map(reach.apart, allowing.get(key, ()))))
    near = {key: [(scope, entry) for scope, reach, entry in some if not apart(key, reach)] for key, some in found.items()}
    few = {key for key, some in near.items() if sum(not entries.lets(entry) for _, entry in some) <= TOLD_ONCE}
    return {key: [one for one in some if key in few or entries.lets(one[1])] for key, some in near.items()}


def _scopes(listed: Iterable[tuple[Condition, Entry]]) -> dict[Condition, None]:
    """Whose resource has an allow list."""
    return dict.fromkeys(scope for scope, entry in listed if entry.action == "Allow")


def _other(action: str) -> str:
    return next(other for other in ACTIONS if other != action)


def _annotated(host: bool, section: str, options: KubeArmorOptions) -> Condition:
    """The condition that a namespace has another posture than the one that is chosen."""
    if host:
        return FALSE
    resource = _RESOURCES.get(section, section)
    label = Label(ANNOTATION.format(resource), "in", (_other(options.posture(resource, host=host)),))
    return Atom(CONTAINER_FIELD, Op.SELECTS, Selector(namespace_annotations=(label,)))


def _posture_rules(
    host: bool, section: str, listed: list[tuple[Condition, Entry]], annotated: Condition, options: KubeArmorOptions
) -> Iterator[Rule]:
    """The rule of the posture that is chosen, and for pods that of namespaces with another one. Where nothing is known of the namespace,
    the posture is the one that is chosen."""
    chosen = options.posture(_RESOURCES.get(section, section), host=host)
    if annotated != FALSE:
        yield _posture_rule(f"{section}-{_other(chosen)}", section, listed, _other(chosen), annotated)
    yield _posture_rule(f"host-{section}" if host else section, section, listed, chosen, negation(annotated))


def _posture_rule(name: str, section: str, listed: list[tuple[Condition, Entry]], action: str, also: Condition) -> Rule:
    scope = conj((disj(_scopes(listed)), also))
    covers = cache(lambda field: entries.any_covers(listed, field))
    each = {event: conj((scope, entries.uncovered(section, event, covers))) for event in entries.RESOURCE_EVENTS[section]}
    condition, conditions = expand.shared(each)
    return Rule(
        policy=POSTURE,
        name=name,
        events=tuple(each),
        condition=condition,
        conditions=conditions,
        action=POSTURES[action],
        errno=errno.EACCES,
        language=NAME,
        location=next(entry.location for _, entry in listed if entry.action == "Allow"),
    )
