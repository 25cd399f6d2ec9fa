# SPDX-License-Identifier: Apache-2.0
"""Two profiles in, their union, or what one allows that the other does not, out.

`union` is what `learn --merge` and `bpfence seccomp merge` need: a call passes under the result exactly when it passes under one of the
two, argument conditions included. Conditions are never moved from one rule to another: two rules are OR, one rule is AND, and one index
twice in a rule would turn the AND of all of it into an OR. `diff` compares two profiles on one machine; every difference comes with
arguments that show it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from bpfence.errors import CompileError, Diagnostic
from bpfence.seccomp.filter import BAD_ARCH
from bpfence.seccomp.interpret import Reference, argument_tuples
from bpfence.seccomp.model import ArchMap, Arg, Effective, MachineConditions, Profile, ProfileAction, ProfileRule, ProfileVerdict
from bpfence.seccomp.profile import bare
from bpfence.syscalls.architectures import Arch
from bpfence.syscalls.table import numbers

MAX_TRIED: Final = 3000
MIN_TRIED: Final = 20
MAX_WORK: Final = 300_000
"""Argument tuples times conditions, of all calls together. The more conditions there are, the fewer tuples each call is tried with."""
ALL_CALLS: Final = "*"
Args = tuple[tuple[int, str, int, int], ...]
Permission = tuple[Args, MachineConditions, MachineConditions]
EffectKey = tuple[ProfileAction, int | None, Args, MachineConditions, MachineConditions]


# ---- the union ----


def union(first: Profile, second: Profile) -> Profile:
    """The profile that lets through what either does.

    Both must deny by default, otherwise CompileError: what both of two deny lists deny cannot be said in rules. CompileError also, rarely,
    where what is let through depends on the width of arguments. Where they differ in how they deny, `first` decides.
    """
    for profile in (first, second):
        if profile.default.action.permits:
            what = f"the default is {profile.default}: only profiles that deny by default can be merged"
            hint = "make ERRNO the default, and list what is needed"
            raise CompileError([Diagnostic(profile.location, what, hint, code="cannot-express")])
    architectures, arch_map = _architectures(first, second)
    return Profile(
        default_action=first.default_action,
        default_errno=first.default_errno,
        architectures=architectures,
        arch_map=arch_map,
        flags=first.flags if first.flags == second.flags else tuple(dict.fromkeys((*first.effective_flags, *second.effective_flags))),
        listener_path=first.listener_path or second.listener_path,
        listener_metadata=first.listener_metadata or second.listener_metadata,
        rules=_rules(first, second, _widths(architectures, arch_map)),
        location=first.location,
    )


def _architectures(first: Profile, second: Profile) -> tuple[tuple[Arch, ...], tuple[ArchMap, ...]]:
    """`architectures` of both. Where one has an archMap: that, and the architectures of the other that it does not cover."""
    if not first.arch_map and not second.arch_map:
        both = first.architectures and second.architectures
        if both or first.architectures == second.architectures:
            return tuple(dict.fromkeys((*first.architectures, *second.architectures))), ()
        listed = first.architectures or second.architectures
        return tuple(dict.fromkeys((Arch.native(), *listed))), ()
    maps: dict[Arch, tuple[Arch, ...]] = {}
    for entry in (*first.arch_map, *second.arch_map):
        maps[entry.arch] = tuple(dict.fromkeys((*maps.get(entry.arch, ()), *entry.subs)))
    covered = {*maps, *(sub for subs in maps.values() for sub in subs)}
    extra = [arch for arch in (*first.architectures, *second.architectures) if arch not in covered]
    return (), (*(ArchMap(arch, subs) for arch, subs in maps.items()), *(ArchMap(arch) for arch in dict.fromkeys(extra)))


def _widths(arches: tuple[Arch, ...], arch_map: tuple[ArchMap, ...]) -> tuple[Arch, ...]:
    """One architecture for each width of arguments that the profile is for."""
    listed = (*arches, *(arch for entry in arch_map for arch in (entry.arch, *entry.subs))) or (Arch.native(),)
    return tuple({arch.bits: arch for arch in listed}.values())


def _rules(first: Profile, second: Profile, widths: Sequence[Arch]) -> tuple[ProfileRule, ...]:
    mine, theirs = _by_name(first), _by_name(second)
    chosen: list[tuple[str, ProfileRule]] = []
    for name in dict.fromkeys((*mine, *theirs)):
        chosen += [(name, rule) for rule in _both(name, mine.get(name, []), theirs.get(name, []), first.default, widths)]
    return grouped_rules(chosen)


def _by_name(profile: Profile) -> dict[str, list[ProfileRule]]:
    """The rules of each name, without those that say what the default says."""
    by_name: dict[str, list[ProfileRule]] = {}
    for rule in profile.rules:
        if rule.verdict != profile.default:
            for name in dict.fromkeys(rule.names):
                by_name.setdefault(name, []).append(rule)
    return by_name


def _both(
    name: str, mine: list[ProfileRule], theirs: list[ProfileRule], default: ProfileVerdict, widths: Sequence[Arch]
) -> list[ProfileRule]:
    """What both together say about a name. A permission of one side outweighs a denial of the other, and the default denies the rest. Rules
    that do not permit are kept only where one side alone says it all.

    Which permissions count may depend on the width of arguments: a mask of upper bits alone is no condition for a 32-bit argument, and then
    the rule silences all others of the name. CompileError where no rules let through what they should for every width.
    """
    permits = {width: [*_permits(mine, width), *_permits(theirs, width)] for width in widths}
    wanted = {width: _meaning(of_width, width) for width, of_width in permits.items()}
    # A rule that says what the new default says is left out. Then it no longer silences the rules after it.
    sides = [[rule for rule in side if rule.verdict != default] for side in (mine, theirs)]
    together = [_together(of_width) for of_width in permits.values()]
    both_count = mine and theirs and any(permits.values())
    for candidate in (*together, *sides) if both_count else (sides[0] or sides[1], *together):
        if all(_meaning(_permits(candidate, width), width) == wanted[width] for width in widths):
            return candidate
    what = f"what {name} may be called with depends on the width of its arguments, in a way that no rules can say for both profiles"
    hint = "leave out masks that have no bit among the lower 32, or list no 32-bit architecture"
    raise CompileError([Diagnostic((mine or theirs)[0].place(name), what, hint, code="cannot-express")])


def _together(permits: Sequence[ProfileRule]) -> list[ProfileRule]:
    """Permissions of both sides as one list."""
    always = [rule for rule in permits if not rule.args and not rule.includes and not rule.excludes]
    if always:
        return [min(always, key=lambda rule: rule.action is not ProfileAction.ALLOW)]
    if len({rule.action for rule in permits}) > 1:  # libseccomp refuses two actions for one set of conditions
        permits = [msgspec.structs.replace(rule, action=ProfileAction.ALLOW) for rule in permits]
    return list({key_of(rule): rule for rule in reversed(permits)}.values())[::-1]


def _permits(rules: Sequence[ProfileRule], width: Arch) -> list[ProfileRule]:
    """The permissions that count. If there are rules for every argument, libseccomp keeps only the first of them, and no other."""
    wide = next((rule for rule in rules if () in _alternatives(rule, width)), None)
    if wide is None or any((rule.includes, rule.excludes) != (wide.includes, wide.excludes) for rule in rules):
        return [rule for rule in rules if rule.action.permits]
    return [wide] if wide.action.permits else []


def _meaning(permits: Sequence[ProfileRule], width: Arch) -> frozenset[Permission]:
    """What permissions let through, without those that a permission for every argument covers. Equal results mean the same; different ones
    may, too."""
    permissions = {(args, rule.includes, rule.excludes) for rule in permits for args in _alternatives(rule, width)}
    anywhere = ((), MachineConditions(), MachineConditions())
    if anywhere in permissions:
        return frozenset((anywhere,))
    return frozenset(each for each in permissions if not each[0] or ((), *each[1:]) not in permissions)


def _alternatives(rule: ProfileRule, width: Arch) -> list[Args]:
    """The sets of conditions that must hold together, as they are compared for arguments of a width."""
    return [_bare(args) for args in rule.on(width.bits)]


def _bare(args: Iterable[Arg]) -> Args:
    return tuple(sorted((arg.index, arg.op.value, arg.value, arg.value_two) for arg in args))


def key_of(rule: ProfileRule) -> EffectKey:
    """Everything about a rule except names, places and comment."""
    return rule.action, rule.errno, _bare(rule.args), rule.includes, rule.excludes


def grouped_rules(chosen: Iterable[tuple[str, ProfileRule]]) -> tuple[ProfileRule, ...]:
    """Rules that differ only in their names as one rule, with its names in order; the rules in the order of their first name. Where a name
    has rules with different verdicts their order counts, and they stay single."""
    by_name: dict[str, dict[EffectKey, ProfileRule]] = {}
    for name, rule in chosen:
        by_name.setdefault(name, {}).setdefault(key_of(rule), rule)
    groups: dict[EffectKey, tuple[ProfileRule, list[str]]] = {}
    alone: list[ProfileRule] = []
    for name, rules in by_name.items():
        if len({rule.verdict for rule in rules.values()}) > 1:
            alone += [msgspec.structs.replace(rule, names=(name,), places=()) for rule in rules.values()]
            continue
        for key, rule in rules.items():
            groups.setdefault(key, (rule, []))[1].append(name)
    return (*(msgspec.structs.replace(rule, names=tuple(sorted(names)), places=()) for rule, names in groups.values()), *alone)


def normalised(profile: Profile) -> Profile:
    """The same meaning with as few rules as possible. Dropped are rules that say what the default says, repetitions, and conditions that
    libseccomp drops; names of equal rules are put together, in order."""
    chosen = [(name, rule) for rule in map(_simplified, profile.rules) if rule.verdict != profile.default for name in rule.names]
    return bare(msgspec.structs.replace(profile, rules=grouped_rules(chosen)))


def _simplified(rule: ProfileRule) -> ProfileRule:
    """The rule without the conditions, and bits of conditions, that libseccomp drops."""
    if () in rule.on():
        return msgspec.structs.replace(rule, args=())
    args = tuple(arg.on() for arg in rule.args)
    return msgspec.structs.replace(rule, args=tuple(arg for arg in args if not arg.is_none))


# ---- the difference ----


class Change(msgspec.Struct, frozen=True):
    """A call that two profiles treat differently, with arguments that show it; no arguments where it is so for all.

    `kind`: `more` passes under the second and not under the first, `less` the other way round. `other` passes under neither or under both,
    with another action.
    """

    arch: Arch
    name: str
    kind: str
    before: ProfileVerdict
    after: ProfileVerdict
    args: tuple[int, ...] = ()


def diff(old: Effective, new: Effective) -> list[Change]:
    """How two profiles on one machine differ, by architecture and call. An architecture that only one of them covers is one change of the
    call `*`: the filter of the other kills the thread for all its calls."""
    old_reference, new_reference = Reference(old), Reference(new)
    total = sum(len(rule.args) * len(rule.names) for effective in (old, new) for rule in effective.rules) * len(old.architectures)
    most = max(MIN_TRIED, min(MAX_TRIED, MAX_WORK // max(total, 1)))
    changes: list[Change] = []
    for arch in dict.fromkeys((*old.architectures, *new.architectures)):
        if not arch.supported:
            continue
        if arch not in new.architectures:
            changes.append(Change(arch, ALL_CALLS, "less", old.default, BAD_ARCH))
        elif arch not in old.architectures:
            changes.append(Change(arch, ALL_CALLS, "more", BAD_ARCH, new.default))
        else:
            for name, call in sorted(numbers(arch).items(), key=lambda item: item[1]):
                changes += _compared(old_reference, new_reference, arch, name, call, most)
    return changes


def _compared(first: Reference, second: Reference, arch: Arch, name: str, call: int, most: int) -> list[Change]:
    """The changes of one call: at most one of each kind."""
    conditions = [*first.conditions(arch, call), *second.conditions(arch, call)]
    seen: dict[str, Change] = {}
    same = 0
    tried = 0
    for args in argument_tuples(conditions, most):
        tried += 1
        before, after = (reference.decide(arch.audit, call, args) for reference in (first, second))
        if before == after:
            same += 1
            continue
        kind = "other" if before.action.permits == after.action.permits else "more" if after.action.permits else "less"
        seen.setdefault(kind, Change(arch, name, kind, before, after, args))
    if len(seen) == 1 and same == 0 and not conditions:
        return [msgspec.structs.replace(change, args=()) for change in seen.values()]
    return list(seen.values())
