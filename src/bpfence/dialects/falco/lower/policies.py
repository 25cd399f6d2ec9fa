# SPDX-License-Identifier: Apache-2.0
"""Final Falco rules in, policies of bpfence's own IR out.

Called by what loads Falco rules into the kernel. Two policies at most: "falco" watches, every Falco rule is one rule of it under its own
name, with a condition for each native event and the results that it waits for; "falco-enforce" holds the rules with
`bpfence: {action: deny|kill}`. What "falco" lets through is finished in user space (`confirm`): where rules together need more than the
kernel's tables hold, it may let through more, and still misses nothing (`smaller_versions`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from bpfence.conditions.values import conj, disj, negation
from bpfence.dialects.facts import Hosts
from bpfence.dialects.falco.lower.rules import enforced, lower_rule
from bpfence.dialects.falco.options import ENFORCING, WATCHING, PathSource
from bpfence.dialects.falco.read.document import SEVERITY_OF
from bpfence.dialects.falco.read.resolve import FalcoRule
from bpfence.policy import FALSE, TRUE, Action, And, Atom, Condition, Not, Or, Policy, Rule, When

GIVEN_UP: Final = (
    ("process.parent.args",), ("file.text strglob", "process.cwd contains"), ("process.ancestors.name",), ("process.args",),
    ("process.cwd",),
    ("process.parent.name",),
)  # fmt: skip
"""What is left to user space first, when the tables are too large: fields, or fields with operators, whose tests cost most for the events
that they exclude."""
_ACTIONS: Final = {"deny": Action.DENY, "kill": Action.KILL}
MAX_ADDRESSES: Final = 1024
"""How many addresses of hosts the kernel is told. With more, names are left to user space: what a resolver answers must not take the room
of other tests."""


def policies(rules: Iterable[FalcoRule], *, paths: PathSource = "kernel", hosts: Hosts | None = None) -> tuple[Policy, ...]:
    """The policies of some rules, in their order. Rules that can never be true are left out.

    `hosts`: see `rules.lower_rule`; what a rule blocks never depends on it. A rule that blocks must be exact (`rules.enforced`). The loader
    has checked that; ValueError where it is not.
    """
    if hosts is not None and len({address for addresses in hosts.values() for address in addresses}) > MAX_ADDRESSES:
        hosts = None
    watching: list[Rule] = []
    enforcing: list[Rule] = []
    for rule in rules:
        if rule.enforcement is None or rule.enforcement.action not in _ACTIONS:
            lowered = lower_rule(rule, paths=paths, hosts=hosts)
            if lowered.conditions:
                watching.append(_rule(rule, WATCHING, lowered.conditions, Action.AUDIT, when=lowered.when, confirm=WATCHING))
            continue
        lowered = enforced(rule, paths=paths)
        if not lowered.exact:
            raise ValueError(f"rule {rule.name!r} cannot be enforced: " + "; ".join(left.text for left in lowered.left))
        if lowered.conditions:
            action = _ACTIONS[rule.enforcement.action]
            enforcing.append(_rule(rule, ENFORCING, lowered.conditions, action, errno=rule.enforcement.errno))
    made = (Policy(name=WATCHING, mode="audit", rules=tuple(watching)), Policy(name=ENFORCING, mode="enforce", rules=tuple(enforcing)))
    return tuple(policy for policy in made if policy.rules)


def smaller_versions(policy: Policy) -> Iterator[tuple[Policy, tuple[str, ...]]]:
    """The policy that watches, and versions of it that decide less and less in the kernel. With each: the fields that it leaves to user
    space.

    Load the first that compiles: a CompileError of the codes too-large, pattern-too-large, too-many-dimensions or too-many-bits may not
    come with the next.
    """
    yield policy, ()
    fields: tuple[str, ...] = ()
    for more in GIVEN_UP:
        fields += more
        yield _without(policy, fields), fields


def _without(policy: Policy, fields: tuple[str, ...]) -> Policy:
    rules = []
    for rule in policy.rules:
        conditions = {event: relaxed(condition, fields) for event, condition in rule.conditions.items()}
        rules.append(msgspec.structs.replace(rule, conditions=conditions))
    return msgspec.structs.replace(policy, rules=tuple(rules))


def relaxed(condition: Condition, fields: Iterable[str], *, outcome: Condition = TRUE) -> Condition:
    """A condition that is true wherever the given one is, without tests on these fields (or fields with operators). `outcome`: what such a
    test becomes."""
    chosen = frozenset(fields)
    match condition:
        case Atom(field, op):
            return condition if chosen.isdisjoint((field, f"{field} {op.value}")) else outcome
        case Not(part):
            return negation(relaxed(part, chosen, outcome=FALSE if outcome == TRUE else TRUE))
        case And(parts):
            return conj([relaxed(part, chosen, outcome=outcome) for part in parts])
        case Or(parts):
            return disj([relaxed(part, chosen, outcome=outcome) for part in parts])


def _rule(
    rule: FalcoRule,
    policy: str,
    conditions: Mapping[str, Condition],
    action: Action,
    *,
    errno: int = 1,
    when: When = When.DECIDED,
    confirm: str = "",
) -> Rule:
    return Rule(
        policy=policy,
        name=rule.name,
        events=tuple(conditions),
        conditions=dict(conditions),
        action=action,
        errno=errno,
        message=rule.desc,
        severity=SEVERITY_OF[rule.priority],
        tags=rule.tags,
        when=when,
        confirm=confirm,
        language=WATCHING,
        location=rule.location,
    )
