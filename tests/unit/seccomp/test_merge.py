# SPDX-License-Identifier: Apache-2.0
"""Unions let through what either side does, and nothing else; differences are real."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bpfence.errors import CompileError
from bpfence.seccomp.interpret import Reference, argument_tuples
from bpfence.seccomp.merge import diff, normalised, union
from bpfence.seccomp.model import ArchMap, Arg, ArgOp, MachineConditions, Profile, ProfileAction, ProfileFlag, ProfileRule
from bpfence.seccomp.profile import bare, dump, load_bytes, resolve
from bpfence.syscalls.architectures import Arch
from bpfence.syscalls.table import numbers
from tests.unit.seccomp.random_profiles import profiles, rules

DENIALS = [action for action in ProfileAction if not action.permits]


@st.composite
def deny_by_default(draw: st.DrawFn, conditional: bool = False) -> Profile:
    return Profile(
        default_action=draw(st.sampled_from(DENIALS)),
        architectures=(Arch.X86_64, Arch.X86),
        rules=tuple(draw(st.lists(rules(conditional=conditional), max_size=5))),
    )


def allow(*names: str, args: Sequence[Arg] = (), action: ProfileAction = ProfileAction.ALLOW, errno: int | None = None) -> ProfileRule:
    return ProfileRule(names=names, action=action, args=tuple(args), errno=errno)


def deny(*rules: ProfileRule, **given: object) -> Profile:
    return msgspec.structs.replace(Profile(default_action=ProfileAction.ERRNO, rules=rules), **given)


def passes(reference: Reference, arch: Arch, call: int, args: Sequence[int]) -> bool | None:
    """None where the profile contradicts itself."""
    found = {verdict.action.permits for verdict in reference.verdicts(arch.audit, call, args).verdicts}
    return found.pop() if len(found) == 1 else None


def by_width(first: ProfileAction, then: ProfileAction, name: str = "read") -> Profile:
    """`first` with 32-bit arguments, where nothing is left of the mask; `then` with 64-bit ones."""
    both = (allow(name, args=[Arg(0, ArgOp.MASKED_EQ, 1 << 32)], action=first), allow(name, action=then))
    return deny(*both, architectures=(Arch.X86_64, Arch.X86))


def looks_beyond_32_bits(profile: Profile) -> bool:
    return any((() in rule.on(32)) is not (() in rule.on(64)) for rule in profile.rules)


def union_if_any(one: Profile, other: Profile) -> Profile | None:
    """None where rules cannot say it; and it may be only because of conditions that every 32-bit argument fulfils, or none."""
    try:
        return union(one, other)
    except CompileError as error:
        problem = error
    assert [diagnostic.code for diagnostic in problem.diagnostics] == ["cannot-express"]
    assert looks_beyond_32_bits(one) or looks_beyond_32_bits(other)
    return None


SOME = deny(allow("read", args=[Arg(1, ArgOp.EQ, 3)]), architectures=(Arch.X86_64, Arch.X86))
NONE = deny(allow("read", action=ProfileAction.TRAP), architectures=(Arch.X86_64, Arch.X86))
SILENCED = deny(
    allow("read", action=ProfileAction.ERRNO), allow("read"), default_action=ProfileAction.TRAP, architectures=(Arch.X86_64, Arch.X86)
)


@settings(max_examples=60, deadline=None)
@given(deny_by_default(), deny_by_default())
@example(by_width(ProfileAction.LOG, ProfileAction.KILL_THREAD), NONE)
@example(NONE, by_width(ProfileAction.LOG, ProfileAction.KILL_THREAD))
@example(NONE, by_width(ProfileAction.ALLOW, ProfileAction.ERRNO))
@example(by_width(ProfileAction.KILL_THREAD, ProfileAction.ALLOW), NONE)
@example(by_width(ProfileAction.KILL_THREAD, ProfileAction.ALLOW), SOME)
@example(
    msgspec.structs.replace(NONE, rules=()),
    msgspec.structs.replace(by_width(ProfileAction.LOG, ProfileAction.ERRNO), default_action=ProfileAction.TRAP),
)
@example(msgspec.structs.replace(NONE, rules=()), SILENCED)
@example(NONE, msgspec.structs.replace(NONE, rules=(allow("read", args=[Arg(0, ArgOp.GE, 0)]), *NONE.rules)))
@example(NONE, msgspec.structs.replace(NONE, rules=(*SOME.rules, *by_width(ProfileAction.TRAP, ProfileAction.TRAP).rules[:1])))
def test_a_union_lets_through_what_either_does(one: Profile, other: Profile) -> None:
    made = union_if_any(one, other)
    if made is None:
        return
    merged = Reference(resolve(made, Arch.X86_64))
    first, second = (Reference(resolve(profile, Arch.X86_64)) for profile in (one, other))
    for arch, call in {*first.by_call, *second.by_call, *merged.by_call}:
        conditions = [*first.conditions(arch, call), *second.conditions(arch, call)]
        for args in argument_tuples(conditions, 200):
            sides = [passes(reference, arch, call, args) for reference in (first, second)]
            if None not in sides:
                assert passes(merged, arch, call, args) is any(sides), (arch, call, args)


@settings(max_examples=40, deadline=None)
@given(deny_by_default(conditional=True), deny_by_default(conditional=True))
def test_a_union_of_profiles_for_many_machines_loses_nothing(one: Profile, other: Profile) -> None:
    made = union_if_any(one, other)
    if made is None:
        return
    for caps in ((), ("CAP_BPF",)):
        merged = Reference(resolve(made, Arch.X86_64, caps, (6, 1)))
        for profile in (one, other):
            reference = Reference(resolve(profile, Arch.X86_64, caps, (6, 1)))
            for arch, call in reference.by_call:
                for args in argument_tuples(reference.conditions(arch, call), 100):
                    if passes(reference, arch, call, args):
                        assert passes(merged, arch, call, args) is not False


@settings(max_examples=60, deadline=None)
@given(profiles(), profiles())
def test_differences_are_real(one: Profile, other: Profile) -> None:
    before, after = (resolve(profile, Arch.X86_64, (), (6, 1)) for profile in (one, other))
    first, second = Reference(before), Reference(after)
    for change in diff(before, after):
        if change.name == "*":
            assert (change.arch in before.architectures) != (change.arch in after.architectures)
            continue
        call = numbers(change.arch)[change.name]
        args = change.args or (0,) * 6
        assert first.decide(change.arch.audit, call, args) == change.before != change.after
        assert second.decide(change.arch.audit, call, args) == change.after
        expected = {(False, True): "more", (True, False): "less"}.get((change.before.action.permits, change.after.action.permits), "other")
        assert change.kind == expected
    assert diff(before, before) == []


@settings(max_examples=40, deadline=None)
@given(profiles())
def test_normalising_changes_no_meaning(profile: Profile) -> None:
    made = normalised(profile)
    again, _ = load_bytes(dump(made))
    assert again is not None
    assert bare(again) == made
    for caps in ((), ("CAP_BPF",)):
        before, after = (Reference(resolve(p, Arch.X86_64, caps, (6, 1))) for p in (profile, made))
        for arch, call in {*before.by_call, *after.by_call}:
            for args in argument_tuples(before.conditions(arch, call), 100):
                found = [set(reference.verdicts(arch.audit, call, args).verdicts) for reference in (before, after)]
                assert found[0] == found[1]


def test_conditions_of_two_profiles_stay_apart() -> None:
    one = deny(allow("socket", args=[Arg(0, ArgOp.EQ, 1)]))
    other = deny(allow("socket", args=[Arg(0, ArgOp.EQ, 2), Arg(1, ArgOp.EQ, 3)]))
    assert [len(rule.args) for rule in union(one, other).rules] == [1, 2]


def test_a_permission_outweighs_a_denial_by_name() -> None:
    one = deny(allow("read"), allow("clone3", action=ProfileAction.ERRNO, errno=38))
    assert [(r.names, r.action) for r in union(one, deny(allow("clone3"))).rules] == [(("clone3", "read"), ProfileAction.ALLOW)]
    kept = union(one, deny(allow("write"))).rules
    assert (("clone3",), ProfileAction.ERRNO) in [(r.names, r.action) for r in kept]


def test_what_depends_on_the_width_of_arguments_is_kept_where_one_side_says_it_all() -> None:
    wide = by_width(ProfileAction.LOG, ProfileAction.KILL_THREAD)
    assert union(NONE, wide).rules == union(wide, NONE).rules == wide.rules
    assert union(wide, deny(allow("read"), architectures=(Arch.X86_64,))).rules == (allow("read"),)
    only_64 = msgspec.structs.replace(wide, architectures=(Arch.X86_64,))
    assert union(only_64, msgspec.structs.replace(SOME, architectures=(Arch.X86_64,))).rules == SOME.rules


@pytest.mark.parametrize("first", [ProfileAction.LOG, ProfileAction.KILL_THREAD])
def test_what_depends_on_the_width_of_arguments_is_refused_where_no_rules_say_it(first: ProfileAction) -> None:
    then = ProfileAction.KILL_THREAD if first is ProfileAction.LOG else ProfileAction.ALLOW
    with pytest.raises(CompileError, match="what read may be called with depends on the width of its arguments"):
        union(SOME, by_width(first, then))


def test_a_permission_without_conditions_outweighs_those_with() -> None:
    one = deny(allow("socket", args=[Arg(0, ArgOp.EQ, 1)]))
    assert union(one, deny(allow("socket"))).rules == (allow("socket"),)
    capable = ProfileRule(names=("socket",), action=ProfileAction.ALLOW, includes=MachineConditions(caps=("CAP_NET_RAW",)))
    assert len(union(one, deny(capable)).rules) == 2


def test_names_are_put_together_in_order() -> None:
    assert union(deny(allow("write", "read")), deny(allow("close", "read"))).rules == (allow("close", "read", "write"),)


@pytest.mark.parametrize("allows", [0, 1])
def test_deny_lists_are_refused(allows: int) -> None:
    pair = [deny(allow("read")), Profile(default_action=ProfileAction.LOG)]
    with pytest.raises(CompileError, match="only profiles that deny by default"):
        union(pair[allows], pair[1 - allows])


def test_architectures() -> None:
    mapped = deny(arch_map=(ArchMap(Arch.X86_64, (Arch.X86,)),))
    assert union(deny(architectures=(Arch.X86_64,)), deny(architectures=(Arch.X86,))).architectures == (Arch.X86_64, Arch.X86)
    assert union(deny(), deny()).architectures == ()
    assert Arch.native() in union(deny(architectures=(Arch.X86,)), deny()).architectures
    assert union(mapped, deny(architectures=(Arch.X86_64,))).arch_map == mapped.arch_map
    assert union(mapped, deny(architectures=(Arch.AARCH64,))).arch_map == (*mapped.arch_map, ArchMap(Arch.AARCH64))


def test_flags() -> None:
    assert union(deny(), deny()).flags is None
    assert union(deny(flags=()), deny()).flags == (ProfileFlag.SPEC_ALLOW,)
    assert union(deny(flags=(ProfileFlag.LOG,)), deny(flags=(ProfileFlag.LOG,))).flags == (ProfileFlag.LOG,)


def test_diff_says_for_which_arguments() -> None:
    before = resolve(deny(allow("socket", args=[Arg(0, ArgOp.LT, 38)])), Arch.X86_64)
    after = resolve(deny(allow("socket", args=[Arg(0, ArgOp.LT, 40)])), Arch.X86_64)
    (found,) = diff(before, after)
    assert (found.name, found.kind) == ("socket", "more")
    assert found.args[0] in (38, 39)
    (found,) = diff(after, before)
    assert found.kind == "less"


def test_diff_of_whole_calls_and_of_architectures() -> None:
    before, after = deny(allow("read")), deny(allow("read"), allow("write"), architectures=(Arch.X86,))
    found = diff(resolve(before, Arch.X86_64), resolve(after, Arch.X86_64))
    assert ("write", Arch.X86_64, "more", ()) in [(c.name, c.arch, c.kind, c.args) for c in found]
    assert [(c.name, c.kind) for c in found if c.arch is Arch.X86] == [("*", "more")]
    found = diff(resolve(after, Arch.X86_64), resolve(before, Arch.X86_64))
    assert [(c.name, c.kind) for c in found if c.arch is Arch.X86] == [("*", "less")]
