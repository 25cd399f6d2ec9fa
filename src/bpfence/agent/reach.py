# SPDX-License-Identifier: Apache-2.0
"""A container and policies in, how far each policy reaches into it out.

For those who ask which policies apply (`bpfence workloads -p`, `bpfence explain --workload`). Decided by what is known of a container
alone: its cgroup, and the selectors that select it. What depends on a process (its program, its user) may hold for some of its processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

from bpfence.evaluate import holds
from bpfence.fields import CONTAINER
from bpfence.policy import COMPARISONS, DEFAULT_RULE, Action, And, Atom, Condition, Not, Or, Policy, PolicySet, Selector, with_doubts
from bpfence.workloads.model import Container
from bpfence.workloads.select import selects

Extent = Literal["all", "some", "unknown", "none"]
"""Of the container's processes. unknown: too little is known of the container; until it is, the policy reports there and denies nothing."""
_CGROUP: Final = "process.cgroup"


class Reach(NamedTuple):
    """How far one policy reaches into a container, and the rules of it that can hold there, a default posture (DEFAULT_RULE) among them."""

    policy: Policy
    extent: Extent
    rules: tuple[str, ...]


def reaches(policies: PolicySet, container: Container) -> Iterator[Reach]:
    """Of each policy, in order."""
    for policy in policies.policies:
        yield reach(policy, container)


def reach(policy: Policy, container: Container) -> Reach:
    """Of one policy."""
    whole, *doubted = with_doubts(PolicySet((policy,))).policies
    for asked, found in ((whole, None), *((one, "unknown") for one in doubted)):
        scope = within(asked.scope, container)
        rules = tuple(_rules(asked, container)) if scope is not False else ()
        if rules:
            extent: Extent = "unknown" if found else "all" if scope else "some"
            return Reach(policy, extent, rules)
    return Reach(policy, "none", ())


def _rules(policy: Policy, container: Container) -> Iterator[str]:
    for rule in policy.rules:
        if any(within(rule.condition_for(event), container) is not False for event in rule.events):
            yield rule.name
    if any(action > Action.ALLOW for action in policy.default.values()):
        yield DEFAULT_RULE


def within(condition: Condition, container: Container) -> bool | None:
    """Whether a condition holds for what happens in a container; None: that depends on more than the container."""
    match condition:
        case And(parts):
            found = [within(part, container) for part in parts]
            return False if False in found else None if None in found else True
        case Or(parts):
            found = [within(part, container) for part in parts]
            return True if True in found else None if None in found else False
        case Not(part):
            answer = within(part, container)
            return None if answer is None else not answer
        case Atom(field=field, op=op) if field == _CGROUP and container.cgroup and op not in COMPARISONS:
            below = isinstance(condition.value, str) and condition.value.startswith(f"{container.cgroup}/")
            return None if below else holds(condition, {_CGROUP: container.cgroup})
        case Atom(field=field, value=value) if field == CONTAINER.name:
            return selects(value, container) if isinstance(value, Selector) else True
    return None
