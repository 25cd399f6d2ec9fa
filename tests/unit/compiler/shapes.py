"""A number in, policies of a shape that once was dear to compile out: for test_scale.py and benchmarks/compile.py."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from bpfence.policy import Action, And, Atom, Condition, Not, Op, Or, Policy, PolicySet, Rule

SYLLABLES = ("ka", "lo", "mi", "ne", "pu", "ra", "so", "te", "vi", "zu", "ba", "de", "fi", "go", "hu", "ju")
ALTERED = frozenset((
    "file.path", "file.text", "file.target", "process.ancestors.name", "process.args", "process.cwd", "process.exe", "process.name",
    "process.parent.args", "process.parent.name",
))  # fmt: skip
"""Fields whose values a rule's author has chosen; the others are what an event or a container is known by."""
PORTS = frozenset(("net.peer.port",))
_NAME = re.compile(r"[A-Za-z0-9_]{2,}")


def word(number: int) -> str:
    """A text of its own for every number, not contained in another's."""
    digits = []
    for _ in range(4):
        number, digit = divmod(number, len(SYLLABLES))
        digits.append(SYLLABLES[digit])
    return "".join(digits)


def policies(rules: Iterable[Rule]) -> PolicySet:
    return PolicySet((Policy(name="p", rules=tuple(rules)),))


def rule(number: int, condition: Condition, action: Action = Action.DENY, errno: int = 1) -> Rule:
    return Rule(policy="p", name=f"r{number}", events=("file.open",), condition=condition, action=action, errno=errno)


def contained(count: int, field: str = "file.path") -> PolicySet:
    """Rules that each look for another text anywhere."""
    return policies(rule(n, Atom(field, Op.CONTAINS, word(n))) for n in range(count))


def excepted(count: int, changed: int = -1) -> PolicySet:
    """Rules about a path each, but for one program each. `changed`: the number of a rule that is about another path."""
    return policies(
        rule(
            n,
            And(
                (
                    Atom("file.path", Op.GLOB, f"/srv/{word(n)}/{'other' if n == changed else 'data'}/**"),
                    Not(Atom("process.exe", Op.GLOB, f"/usr/bin/{word(n)}")),
                )
            ),
        )
        for n in range(count)
    )


def altered(policy: Policy, copies: int) -> PolicySet:
    """The rules of a policy, and copies of them in which every literal is another."""
    rules = []
    for copy in range(copies):
        for one in policy.rules:
            conditions = {event: alter(condition, copy) for event, condition in one.conditions.items()}
            rules.append(
                msgspec.structs.replace(one, name=f"{one.name} {copy}", condition=alter(one.condition, copy), conditions=conditions)
            )
    return PolicySet((msgspec.structs.replace(policy, rules=tuple(rules)),))


def alter(condition: Condition, copy: int) -> Condition:
    """The condition with every literal changed; copy 0 is as it was."""
    match condition:
        case Atom(field, op, value) if copy and field in ALTERED and isinstance(value, str):
            return Atom(field, op, _NAME.sub(lambda found: f"{found[0]}{word(copy)}", value, count=1))
        case Atom(field, op, (int(low), int(high))) if copy and field in PORTS:
            return Atom(field, op, (low + copy, high + copy))
        case Not(part):
            return Not(alter(part, copy))
        case And(parts):
            return And(tuple(alter(part, copy) for part in parts))
        case Or(parts):
            return Or(tuple(alter(part, copy) for part in parts))
    return condition
