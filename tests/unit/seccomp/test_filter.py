# SPDX-License-Identifier: Apache-2.0
"""Compiling: how conditions are compared, what is left to libseccomp, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfence.errors import CompileError
from bpfence.seccomp import libseccomp
from bpfence.seccomp.filter import BAD_ARCH, always_holds, clauses, compile_effective, compile_filter, pseudo_code, too_heavy
from bpfence.seccomp.interpret import Program, argument_tuples, verdict_of, verify
from bpfence.seccomp.model import Arg, ArgOp, Profile, ProfileAction, ProfileFlag, ProfileRule, ProfileVerdict
from bpfence.seccomp.profile import resolve
from bpfence.syscalls.architectures import Arch
from bpfence.syscalls.table import numbers as numbers_of
from tests.unit.seccomp.random_profiles import arguments, numbers

NAMES = tuple(list(numbers_of(Arch.X86_64))[:40])
EQ1 = Arg(0, ArgOp.EQ, 1)
DENIED = ProfileVerdict(ProfileAction.ERRNO, 1)


def profile(
    *rules: ProfileRule,
    default: ProfileAction = ProfileAction.ERRNO,
    arches: Sequence[Arch] = (),
    flags: Sequence[ProfileFlag] | None = None,
) -> Profile:
    return Profile(default_action=default, rules=rules, architectures=tuple(arches), flags=None if flags is None else tuple(flags))


def allow(*names: str, args: Sequence[Arg] = (), action: ProfileAction = ProfileAction.ALLOW) -> ProfileRule:
    return ProfileRule(names=names, action=action, args=tuple(args))


@given(arguments(), numbers, st.sampled_from([Arch.X86_64, Arch.X86]))
def test_what_always_or_never_holds_does(arg: Arg, argument: int, arch: Arch) -> None:
    argument &= (1 << arch.bits) - 1
    always = always_holds(arg, arch.bits)
    if always is not None:
        assert arg.on(arch.bits).holds(argument) is always


@settings(max_examples=150, deadline=None)
@given(st.lists(arguments(), max_size=3, unique_by=lambda arg: arg.index), st.sampled_from([Arch.X86_64, Arch.X86, Arch.X32, Arch.ARM]))
def test_conditions_are_compared_as_libseccomp_compares_them(args: list[Arg], arch: Arch) -> None:
    """One rule, given to libseccomp as it was written: bits outside the mask and beyond the argument's width are dropped. One condition an
    argument: several 64-bit ones libseccomp may merge wrongly."""
    rule = allow("read", args=args)
    with libseccomp.FilterContext(DENIED, arch, BAD_ARCH) as context:
        for alternative in rule.alternatives:
            context.add("read", rule.verdict, alternative)
        program = Program(context.program())
    call = numbers_of(arch)["read"]
    for values in argument_tuples([*args, *(arg.on(arch.bits) for arg in args)], 300):
        assert verdict_of(program.run(arch.audit, call, values)).action.permits == rule.matches(values, arch.bits), values


def test_clauses_leave_out_what_runtimes_leave_out() -> None:
    effective = resolve(profile(allow("read", "open"), ProfileRule(names=("write",), action=ProfileAction.ERRNO)), Arch.AARCH64)
    assert [name for name, _ in clauses(effective, Arch.AARCH64)] == ["read"]


def test_a_filter() -> None:
    compiled = compile_filter(profile(allow("read")), Arch.X86_64)
    program = Program(compiled.program)
    assert compiled.length == len(program)
    assert verdict_of(program.run(Arch.X86_64.audit, 0)) == ProfileVerdict(ProfileAction.ALLOW)
    assert verdict_of(program.run(Arch.X86_64.audit, 1)) == ProfileVerdict(ProfileAction.ERRNO, 1)


def test_calls_of_other_architectures_kill_the_thread() -> None:
    program = Program(compile_filter(profile(allow("read")), Arch.X86_64).program)
    assert verdict_of(program.run(Arch.X86.audit, 3)) == ProfileVerdict(ProfileAction.KILL_THREAD)
    assert verdict_of(program.run(Arch.X32.audit, 0x40000000)) == ProfileVerdict(ProfileAction.KILL_THREAD)


def test_flags() -> None:
    assert compile_filter(profile(), Arch.X86_64).flags == 4
    assert compile_filter(profile(flags=[]), Arch.X86_64).flags == 0
    assert compile_filter(profile(flags=list(ProfileFlag)), Arch.X86_64).flags == 1 | 2 | 4 | 32


def test_a_call_that_libseccomp_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libseccomp, "knows", lambda name: name != "mseal")
    args = [Arg(0, ArgOp.GE, 1 << 33), Arg(1, ArgOp.MASKED_EQ, 6, 2)]
    compiled = compile_filter(profile(allow("read"), allow("mseal", args=args), arches=[Arch.X32]), Arch.X86_64)
    assert compiled.own == ("x86_64/mseal", "x32/mseal")
    program = Program(compiled.program)
    for address, length, held in [(1 << 33, 2, True), ((1 << 33) - 1, 2, False), (1 << 40, 0x3A, True), (1 << 40, 4, False)]:
        assert (verdict_of(program.run(Arch.X86_64.audit, 462, (address, length, 0, 0, 0, 0))).action is ProfileAction.ALLOW) == held
    assert verdict_of(program.run(Arch.X86_64.audit, 0)).action is ProfileAction.ALLOW
    assert verdict_of(program.run(Arch.X32.audit, 0x40000000)).action is ProfileAction.ALLOW


def test_a_name_that_linux_does_not_have_is_named() -> None:
    assert compile_filter(profile(allow("raed", "read")), Arch.X86_64).unknown == ("raed",)


def test_enosys_above_the_greatest_number() -> None:
    made = profile(allow("read", "cachestat"), arches=[Arch.X32, Arch.X86])
    program = Program(compile_filter(made, Arch.X86_64, enosys=True).program)
    for arch, base in ((Arch.X86_64, 0), (Arch.X86, 0), (Arch.X32, 0x40000000)):
        assert verdict_of(program.run(arch.audit, base + 451)) == ProfileVerdict(ProfileAction.ALLOW)
        assert verdict_of(program.run(arch.audit, base + 450)) == ProfileVerdict(ProfileAction.ERRNO, 1)
        assert verdict_of(program.run(arch.audit, base + 452)) == ProfileVerdict(ProfileAction.ERRNO, 38)
    assert not resolve(profile(default=ProfileAction.LOG), Arch.X86_64, enosys=True).enosys


def test_two_actions_for_the_same_conditions_are_refused() -> None:
    with pytest.raises(CompileError) as caught:
        compile_filter(profile(allow("read", args=[EQ1]), allow("read", args=[EQ1], action=ProfileAction.LOG)), Arch.X86_64)
    (found,) = caught.value.diagnostics
    assert found.code == "conflict"
    assert "read with LOG" in found.message


def test_a_machine_without_a_table_is_refused() -> None:
    with pytest.raises(CompileError, match="SCMP_ARCH_S390X"):
        compile_filter(profile(allow("read")), Arch.S390X)


def test_architectures_of_other_machines_without_a_table_are_left_out() -> None:
    with_s390x = compile_filter(profile(allow("read"), arches=[Arch.X86_64, Arch.S390X]), Arch.X86_64, enosys=True)
    assert with_s390x.program == compile_filter(profile(allow("read")), Arch.X86_64, enosys=True).program


def test_a_filter_that_is_too_long_is_refused() -> None:
    many = [allow(*NAMES[n % 20 :: 20], args=[Arg(n % 6, ArgOp.EQ, (n + 1) << 32 | n)]) for n in range(1200)]
    with pytest.raises(CompileError, match="instructions; the kernel takes 4096"):
        compile_filter(profile(*many), Arch.X86_64)


def test_too_many_conditions_on_one_call_are_refused_before_they_cost_much() -> None:
    many = [allow("read", args=[Arg(n % 6, ArgOp.EQ, n)]) for n in range(100_000)]
    with pytest.raises(CompileError, match="read has more than") as caught:
        compile_filter(profile(*many), Arch.X86_64)
    assert caught.value.diagnostics[0].code == "filter-limit"


def test_too_many_conditions_on_many_calls_are_refused_before_they_cost_much() -> None:
    many = [allow(*NAMES, args=[Arg(n % 6, ArgOp.GE, (n + 1) << 32)]) for n in range(200)]
    with pytest.raises(CompileError, match="more than 4096 argument conditions"):
        compile_filter(profile(*many), Arch.X86_64)


def test_repetitions_cost_nothing() -> None:
    many = [allow("read", args=[EQ1])] * 5000
    once, often = (compile_filter(profile(*rules), Arch.X86_64, optimize="linear") for rules in (many[:1], many))
    assert once.program == often.program


def test_a_tree_takes_fewer_steps_and_is_not_made_of_nothing() -> None:
    made = profile(allow(*NAMES))
    tree, linear = (compile_filter(made, Arch.X86_64, optimize=how) for how in ("tree", "linear"))
    assert compile_filter(made, Arch.X86_64).tree
    assert not compile_filter(profile(), Arch.X86_64, optimize="tree").tree
    assert not compile_filter(profile(allow("read")), Arch.X86_64).tree
    steps = [sum(Program(f.program).trace(Arch.X86_64.audit, n)[1] for n in range(100)) for f in (tree, linear)]
    assert steps[0] < steps[1]


def test_pseudo_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libseccomp, "knows", lambda name: name != "mseal")
    text = pseudo_code(resolve(profile(allow("read", "mseal")), Arch.X86_64, enosys=True))
    assert "# in front of libseccomp's program: mseal (x86_64 462)" in text
    assert "ENOSYS for numbers above" in text
    assert 'syscall "read"' in text


def test_who_needs_a_listener() -> None:
    assert compile_filter(profile(allow("read", action=ProfileAction.NOTIFY)), Arch.X86_64).needs_listener
    assert not compile_filter(profile(allow("read")), Arch.X86_64).needs_listener


def test_many_conditions_cost_little() -> None:
    """libseccomp's time grows with more than their cube; they are not left to it."""
    many = [allow("prctl", args=[Arg(n % 6, ArgOp.GE, n << 33)]) for n in range(250)]
    effective = resolve(profile(*many), Arch.X86_64)
    assert set(too_heavy(effective)) == {"prctl"}
    assert verify(compile_effective(effective)).differences == ()


def test_many_rules_of_several_conditions_cost_little() -> None:
    """libseccomp's time doubles with every three of them; they are not left to it."""
    many = [allow("prctl", "socket", args=[Arg(0, ArgOp.GE, n), Arg(1, ArgOp.LT, n * n)]) for n in range(1, 50)]
    effective = resolve(profile(*many, arches=[Arch.X86]), Arch.X86_64)
    assert set(too_heavy(effective)) == {"prctl", "socket"}
    compiled = compile_effective(effective)
    assert {"x86_64/prctl", "x86/socket", "x86/socketcall"} <= set(compiled.own)
    assert verify(compiled).differences == ()
