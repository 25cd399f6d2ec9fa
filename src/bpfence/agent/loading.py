# SPDX-License-Identifier: Apache-2.0
"""Policy files in, of any language and mixed; one policy set, the rules behind it and diagnostics out.

Called by the agent at every start and reload, and by commands for native files alone. Every file is opened, read and claimed once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

from bpfence.compiler.compile import Compiled
from bpfence.dialects.dialect import Rules
from bpfence.dialects.facts import Facts
from bpfence.dialects.native import effects
from bpfence.dialects.native.dialect import NATIVE
from bpfence.dialects.registry import DIALECTS, Dialects, claimed, owner
from bpfence.documents.files import SourceFile, sources
from bpfence.documents.report import Report
from bpfence.errors import CompileError, Diagnostic, Location, PolicyError
from bpfence.evaluate import verdict
from bpfence.host.links import Links
from bpfence.policy import Action, And, Condition, Policy, PolicySet, Rule

NO_FACTS: Final = Facts()
Options = Mapping[str, Any]
"""By name of the language, what its `read` takes."""
Modes = Mapping[str, str]
"""By name of a policy, the mode that it has instead of what is said for all."""


class Loaded(NamedTuple):
    """`rules`: by language, where there are files of it. What came from no file (`agent.feed`): `more`, native policies, which are of
    `policies`, too; `fed`: by language, rules in which those of its files are, too."""

    policies: PolicySet
    rules: Mapping[str, Rules]
    diagnostics: list[Diagnostic]
    more: tuple[Policy, ...] = ()
    fed: Mapping[str, Rules] = MappingProxyType({})

    @property
    def in_force(self) -> dict[str, Rules]:
        """All rules, by language."""
        return {**self.rules, **self.fed}


def load(
    paths: Sequence[str], mode: str | None = None, scope: Condition | None = None, options: Options | None = None,
    facts: Facts = NO_FACTS, links: Links | None = None, dialects: Dialects = DIALECTS, modes: Modes = MappingProxyType({}),
) -> Loaded:  # fmt: skip
    """The policies of files and directories, with another mode or a narrower scope where asked.

    PolicyError where one is wrong; UsageError where the options of a language choose no rule. `mode` is that of what the kernel decides
    whole: what user space must confirm stays a watch. `modes`: of single policies, instead of it. `links`: where paths are looked up; None:
    they stay as written.
    """
    report = Report()
    rules: dict[str, Rules] = {}
    diagnostics: list[Diagnostic] = []
    files = claimed(sources(paths, report), dialects)
    files |= {name: [] for name, asked in (options or {}).items() if name not in files and getattr(asked, "stands_alone", False)}
    for name, given in files.items():
        rules[name], found = dialects[name].read(given, (options or {}).get(name))
        diagnostics += found
    diagnostics = [*report.diagnostics, *diagnostics, *_taken(rules, dialects)]
    if any(diagnostic.severity == "error" for diagnostic in diagnostics):
        raise PolicyError(diagnostics)
    if links is not None:
        rules, told = resolved(rules, links)
        diagnostics += (diagnostic for diagnostic in told if diagnostic.severity != "info")
    return with_facts(Loaded(PolicySet(), rules, diagnostics), mode, scope, facts, modes)


def resolved(rules: Mapping[str, Rules], links: Links) -> tuple[dict[str, Rules], list[Diagnostic]]:
    """Rules whose paths also stand for what they lead to through symbolic links, and what that changes."""
    links.look_up(path for found in rules.values() for path in found.paths())
    made: dict[str, Rules] = {}
    told: list[Diagnostic] = []
    for name, found in rules.items():
        made[name], more = found.resolved(links.find, links.where)
        told += more
    places = [place.file for found in rules.values() for place in found.locations]
    return made, [*links.findings(Location(places[0] if places else "<policies>")), *told]


def own_programs() -> tuple[str, ...]:
    """What has to be executed to run `bpfence`: its script, where it was started by one, and the interpreter."""
    script = os.path.realpath(sys.argv[0])
    return tuple(path for path in (script, os.path.realpath(sys.executable)) if os.path.isfile(path) and os.access(path, os.X_OK))


def locking_out(policies: PolicySet, programs: Iterable[str]) -> list[Diagnostic]:
    """Warnings where root may not execute bpfence: nobody can take such policies away but the agent that put them in force."""
    found = []
    places = {policy.name: policy.location for policy in policies.policies}
    rules = {(rule.policy, rule.name): rule.location for _, rule in policies.rules() if rule.action >= Action.DENY}
    asked = PolicySet(tuple(policy for policy in policies.policies if policy.mode != "audit"))
    for path in programs:
        decided = verdict(asked, effects.executed(path))
        for match in decided.matches if decided.action >= Action.DENY else ():
            if match.action >= Action.DENY:
                what = f"policy {match.policy!r}, rule {match.rule!r} denies executing {path}, which is bpfence itself"
                hint = "as long as it is in force, `bpfence unload` cannot be run: leave bpfence out under unless, or install it elsewhere"
                place = rules.get((match.policy, match.rule), places[match.policy])
                found.append(Diagnostic(place, what, hint, "warning", "locks-out"))
    return found


def with_facts(
    loaded: Loaded, mode: str | None, scope: Condition | None, facts: Facts, modes: Modes = MappingProxyType({})
) -> Loaded:  # fmt: skip
    """The same with the policies of its rules made anew, for other facts. `mode` and `scope`: those it was loaded with."""
    made = [policy for rules in loaded.in_force.values() for policy in rules.policies(facts)]
    made_narrow = (narrowed(policy, None if is_confirmed(policy) else modes.get(policy.name, mode), scope) for policy in made)
    return loaded._replace(policies=PolicySet((*made_narrow, *loaded.more)))


def is_confirmed(policy: Policy) -> bool:
    """Whether user space must confirm what the kernel lets through for a policy."""
    return any(rule.confirm for rule in policy.rules)


def read_policies(
    paths: Sequence[str], mode: str | None = None, scope: Condition | None = None, links: Links | None = None
) -> tuple[PolicySet, list[Diagnostic]]:  # fmt: skip
    """The same for native policies alone; everything that links change is told, information too."""
    report = Report()
    files = sources(paths, report)
    if report.errors:
        raise PolicyError(report.diagnostics)
    policies, diagnostics = native_policies(files, mode, scope, links)
    return policies, [*report.diagnostics, *diagnostics]


def native_policies(
    files: Sequence[SourceFile], mode: str | None = None, scope: Condition | None = None, links: Links | None = None
) -> tuple[PolicySet, list[Diagnostic]]:  # fmt: skip
    """The same of files that were read."""
    found, diagnostics = NATIVE.read(files, None)
    if any(diagnostic.severity == "error" for diagnostic in diagnostics):
        raise PolicyError(diagnostics)
    rules: Mapping[str, Rules] = {NATIVE.name: found}
    if links is not None:
        rules, told = resolved(rules, links)
        diagnostics += told
    return with_facts(Loaded(PolicySet(), rules, diagnostics), mode, scope, NO_FACTS).policies, diagnostics


TOO_MUCH: Final = frozenset(("too-large", "pattern-too-large", "too-many-dimensions", "too-many-bits", "too-many-counters"))
"""Codes of what the kernel's tables have no room for."""


def compile_smaller(loaded: Loaded, compile_set: Callable[[PolicySet], Compiled]) -> tuple[Compiled, tuple[str, ...]]:
    """The tables of a policy set, and the fields whose tests had to be left to user space for want of room in the kernel.

    What user space confirms may lose tests there and still misses nothing; what the kernel decides may not: its CompileError is raised.
    """
    for smaller, left in _versions(loaded):
        try:
            return compile_set(smaller), left
        except CompileError as error:
            last = error
            if not TOO_MUCH.issuperset(found.code for found in error.diagnostics if found.severity == "error"):
                raise
    raise last


def _versions(loaded: Loaded) -> Iterator[tuple[PolicySet, tuple[str, ...]]]:
    """The policy set, and smaller ones: of one policy after the other, each as small as it gets before the next."""
    policies = list(loaded.policies.policies)
    given_up: tuple[str, ...] = ()
    yield loaded.policies, ()
    for n, policy in enumerate(policies):
        names = {rule.confirm for rule in policy.rules if rule.confirm}
        for name in names & loaded.rules.keys():  # nothing of `fed` is confirmed
            left: tuple[str, ...] = ()
            for policies[n], left in loaded.rules[name].smaller(policy):
                if left:
                    yield PolicySet(tuple(policies)), (*given_up, *left)
            given_up += left


def _taken(rules: Mapping[str, Rules], dialects: Dialects) -> list[Diagnostic]:
    """Policies that have names under which the rules of another language are reported, or that a policy of another language has."""
    found = []
    taken: dict[str, tuple[str, Location]] = {}
    for language in rules:
        if dialects[language].policies:
            continue  # its policies have no names of their own
        for policy in rules[language].policies(NO_FACTS):
            name = owner(policy.name, dialects)
            if name in rules and policy.name in dialects[name].policies:
                theirs, title = dialects[name].policies, dialects[name].title
                hint = f"rename it: {title} are reported as the policies {' and '.join(theirs)}"
                what = f"a policy cannot be named {policy.name!r} beside {title}"
                found.append(Diagnostic(policy.location, what, hint, code="duplicate-policy"))
            other, place = taken.setdefault(policy.name, (language, policy.location))
            if other != language:
                what = f"there is a policy {policy.name!r} among the {dialects[other].title} already, at {place}"
                found.append(Diagnostic(policy.location, what, "rename one of them", code="duplicate-policy"))
    return found


def narrowed(policy: Policy, mode: str | None, scope: Condition | None) -> Policy:
    """A policy with another mode, and with a scope and-ed to its own."""
    if mode:
        policy = msgspec.structs.replace(policy, mode=mode)
    if scope is None:
        return policy
    return msgspec.structs.replace(policy, scope=And((scope, policy.scope)), rules=tuple(_scoped(rule, scope) for rule in policy.rules))


def _scoped(rule: Rule, scope: Condition) -> Rule:
    return msgspec.structs.replace(
        rule, condition=And((scope, rule.condition)), conditions={event: And((scope, own)) for event, own in rule.conditions.items()}
    )
