# SPDX-License-Identifier: Apache-2.0
"""Policy files in, native ones and Falco's mixed; one policy set, the rules that user space finishes, and diagnostics out.

Called by the agent at every start and reload, and by `bpfence check` and its like for native files alone. Falco rules become the policies
"falco" (detection: the kernel names candidates) and "falco-enforce" (rules with `bpfence: {action: deny}`, decided in the kernel).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Literal, NamedTuple

import msgspec

from bpfence.compiler.compile import Compiled
from bpfence.conditions import links as link_paths
from bpfence.dialects.falco import load as falco
from bpfence.dialects.falco.confirm.rules import RuleSet
from bpfence.dialects.falco.lower import links as falco_links
from bpfence.dialects.falco.lower.atoms import Hosts
from bpfence.dialects.falco.lower.policies import ENFORCING, WATCHING, candidates
from bpfence.dialects.falco.lower.policies import policies as falco_policies
from bpfence.dialects.falco.read.document import CODES
from bpfence.dialects.falco.read.output import SUGGESTED
from bpfence.dialects.falco.read.resolve import Rule as FalcoRule
from bpfence.dialects.native import read as native
from bpfence.documents.report import Report, TextError
from bpfence.errors import CompileError, Diagnostic, Location, PolicyError, UsageError
from bpfence.host.links import Links
from bpfence.policy import And, Condition, Policy, PolicySet, Rule


class FalcoOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How Falco's rules are chosen, compared and shown; see `load.select`, `RuleSet` and `lower.links` of Falco."""

    matching: Literal["first", "all"] = "first"
    paths: Literal["kernel", "text"] = "kernel"
    append: str = SUGGESTED
    names: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    disabled: tuple[str, ...] = ()
    priority: str = "Debug"
    links: Literal["resolve", "as-written"] = "resolve"


class Loaded(NamedTuple):
    """`rules`: None where no Falco file was given."""

    policies: PolicySet
    rules: RuleSet | None
    diagnostics: list[Diagnostic]


DEFAULTS: Final = FalcoOptions()


def load(
    paths: Sequence[str], mode: str | None = None, scope: Condition | None = None, options: FalcoOptions = DEFAULTS,
    hosts: Hosts | None = None, links: Links | None = None,
) -> Loaded:  # fmt: skip
    """The policies of files and directories, with another mode or a narrower scope where asked.

    PolicyError where one is wrong; UsageError where the options choose no rule.

    `mode` is that of native policies and of enforced Falco rules: a detection stays one. `hosts`: see `with_hosts`. `links`: where paths
    are looked up; None: they stay as written.
    """
    files, theirs = falco.split(paths)
    found, diagnostics = native.load_files(files)
    rules: RuleSet | None = None
    if theirs:
        loaded, more = falco.load_files(theirs)
        diagnostics = [*diagnostics, *_taken(found), *(diagnostic for diagnostic in more if diagnostic.severity != "info")]
        rules = rule_set(loaded.rules, options)
        diagnostics = list(dict.fromkeys([*diagnostics, *_undecided(rules)]))
        if loaded.rules and not rules.rules and (options.names or options.tags):
            raise UsageError("no Falco rule has such a name or tag at this priority")
    if any(diagnostic.severity == "error" for diagnostic in diagnostics):
        raise PolicyError(diagnostics)
    if links is not None:
        found, rules, told = resolved(found, rules, options, links)
        diagnostics = [*diagnostics, *(diagnostic for diagnostic in told if diagnostic.severity != "info")]
    native_ones = PolicySet(tuple(_narrowed(policy, mode, scope) for policy in found.policies))
    return with_hosts(Loaded(native_ones, rules, diagnostics), mode, scope, hosts)


def resolved(
    policies: PolicySet, rules: RuleSet | None, options: FalcoOptions, links: Links
) -> tuple[PolicySet, RuleSet | None, list[Diagnostic]]:  # fmt: skip
    """Policies and rules whose paths also stand for what they lead to through symbolic links, and what that changes."""
    theirs = rules.rules if rules is not None and options.links == "resolve" else ()
    links.look_up([*link_paths.paths(policies), *falco_links.paths_of(theirs, options.paths)])
    policies, told = link_paths.widened(policies, links.find, links.where)
    if rules is not None and theirs:
        made, more = falco_links.widened(theirs, links.find, options.paths, links.where)
        rules = _set_of(made, options)
        told += more
    places = [policy.location.file for policy in policies.policies] + [rule.location.file for rule in theirs]
    return policies, rules, [*links.findings(Location(places[0] if places else "<policies>")), *told]


def with_hosts(loaded: Loaded, mode: str | None = None, scope: Condition | None = None, hosts: Hosts | None = None) -> Loaded:
    """The same with the policies of its Falco rules made anew, for names of hosts with these addresses: see `lower.rules.lower`.

    `mode` and `scope`: those it was loaded with.
    """
    if loaded.rules is None:
        return loaded
    native = (policy for policy in loaded.policies.policies if policy.name not in (WATCHING, ENFORCING))
    made = falco_policies(loaded.rules.rules, paths=loaded.rules.paths, hosts=hosts)
    narrowed = (_narrowed(policy, None if policy.name == WATCHING else mode, scope) for policy in made)
    return loaded._replace(policies=PolicySet((*native, *narrowed)))


def rule_set(rules: Iterable[FalcoRule], options: FalcoOptions) -> RuleSet:
    """The chosen ones of some rules. UsageError where what is to be appended is no output."""
    return _set_of(
        falco.select(rules, names=options.names, tags=options.tags, disabled=options.disabled, priority=options.priority), options
    )


def _set_of(chosen: Iterable[FalcoRule], options: FalcoOptions) -> RuleSet:
    try:
        return RuleSet(chosen, matching=options.matching, paths=options.paths, append=options.append)
    except TextError as error:
        raise UsageError(f"--append-output: {error.message}") from None


def read_policies(
    paths: Sequence[str], mode: str | None = None, scope: Condition | None = None, links: Links | None = None
) -> tuple[PolicySet, list[Diagnostic]]:  # fmt: skip
    """The same for native policies alone."""
    found, diagnostics = native.load_files(paths)
    if any(diagnostic.severity == "error" for diagnostic in diagnostics):
        raise PolicyError(diagnostics)
    if links is not None:
        found, _, told = resolved(found, None, DEFAULTS, links)
        diagnostics = [*diagnostics, *told]
    return PolicySet(tuple(_narrowed(policy, mode, scope) for policy in found.policies)), diagnostics


TOO_MUCH: Final = frozenset(("too-large", "pattern-too-large", "too-many-dimensions", "too-many-bits"))
"""Codes of what the kernel's tables have no room for."""


def compile_smaller(policies: PolicySet, compile_set: Callable[[PolicySet], Compiled]) -> tuple[Compiled, tuple[str, ...]]:
    """The tables of a policy set, and the fields whose tests had to be left to user space for want of room in the kernel.

    Falco's rules may lose tests there and still miss nothing, which native policies may not: their CompileError is raised.
    """
    for smaller, left in _versions(policies):
        try:
            return compile_set(smaller), left
        except CompileError as error:
            last = error
            if not TOO_MUCH.issuperset(found.code for found in error.diagnostics if found.severity == "error"):
                raise
    raise last


def _versions(policies: PolicySet) -> Iterator[tuple[PolicySet, tuple[str, ...]]]:
    watching = next((policy for policy in policies.policies if policy.name == WATCHING), None)
    if watching is None:
        yield policies, ()
        return
    for smaller, left in candidates(watching):
        yield PolicySet(tuple(smaller if policy is watching else policy for policy in policies.policies)), left


def _undecided(rules: RuleSet) -> list[Diagnostic]:
    """What the kernel cannot decide of the chosen rules that deny, where paths are compared otherwise than `load_files` has checked."""
    report = Report(CODES)
    for rule in rules.rules:
        falco.check_enforcement(rule, report, paths=rules.paths)
    return report.diagnostics


def _taken(policies: PolicySet) -> list[Diagnostic]:
    """Native policies that have the names that Falco's rules go under."""
    hint = f"rename it: Falco rules are reported as the policies {WATCHING} and {ENFORCING}"
    return [
        Diagnostic(policy.location, f"a policy cannot be named {policy.name!r} beside Falco rules", hint, code="duplicate-policy")
        for policy in policies.policies
        if policy.name in (WATCHING, ENFORCING)
    ]


def _narrowed(policy: Policy, mode: str | None, scope: Condition | None) -> Policy:
    if mode:
        policy = msgspec.structs.replace(policy, mode=mode)
    if scope is None:
        return policy
    return msgspec.structs.replace(policy, scope=And((scope, policy.scope)), rules=tuple(_scoped(rule, scope) for rule in policy.rules))


def _scoped(rule: Rule, scope: Condition) -> Rule:
    return msgspec.structs.replace(
        rule, condition=And((scope, rule.condition)), conditions={event: And((scope, own)) for event, own in rule.conditions.items()}
    )
