# SPDX-License-Identifier: Apache-2.0
"""The table of all calls agrees with the reference, and says why."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfence.seccomp.interpret import Reference, argument_tuples, verdict_of
from bpfence.seccomp.model import Arg, ArgOp, MachineConditions, Profile, ProfileAction, ProfileRule
from bpfence.seccomp.profile import load_bytes, resolve
from bpfence.seccomp.table import CallTable, Case, conditions_text
from bpfence.syscalls.architectures import Arch
from tests.unit.seccomp.random_profiles import profiles


def table(*rules: ProfileRule, default: ProfileAction = ProfileAction.ERRNO, arches: tuple[Arch, ...] = ()) -> CallTable:
    return CallTable(resolve(Profile(default_action=default, rules=rules, architectures=arches), Arch.X86_64, (), (6, 1)))


def allow(*names: str, args: tuple[Arg, ...] = (), action: ProfileAction = ProfileAction.ALLOW) -> ProfileRule:
    return ProfileRule(names=names, action=action, args=args)


@settings(max_examples=50, deadline=None)
@given(profiles(), st.booleans())
def test_cases_cover_what_the_reference_says(profile: Profile, enosys: bool) -> None:
    effective = resolve(profile, Arch.X86_64, (), (6, 1), enosys=enosys)
    reference, made = Reference(effective), CallTable(effective)
    for arch in effective.architectures:
        for entry in made.entries(arch).values():
            conditions = reference.conditions(arch, entry.number)
            for args in argument_tuples(conditions, 40):
                said = reference.verdicts(arch.audit, entry.number, args)
                seen = [arg & (1 << arch.bits) - 1 for arg in args]
                holding = [c.verdict for c in entry.cases if all(a.holds(seen[a.index]) for a in c.args)]
                assert holding[0] in said.verdicts, (entry, args)
                if "now one, now the other" not in entry.why:
                    assert holding[0] == reference.decide(arch.audit, entry.number, args) or reference.filter() is None, (entry, args)
            if entry.status != "conditional":
                verdicts = {case.verdict.action.permits for case in entry.cases}
                assert verdicts == {entry.status == "permitted"}


def test_of_overlapping_rules_the_one_comes_first_that_the_filter_takes() -> None:
    write, append = Arg(1, ArgOp.EQ, 1), Arg(2, ArgOp.EQ, 2)
    for args, other in (((write,), (append,)), ((append,), (write,))):
        made = table(allow("openat", args=args), allow("openat", args=other, action=ProfileAction.KILL_PROCESS))
        entry = made.entries(Arch.X86_64)["openat"]
        program = made._reference.filter()
        assert program is not None
        taken = verdict_of(program.run(Arch.X86_64.audit, entry.number, (0, 1, 2, 0, 0, 0)))
        assert entry.cases[0].verdict == taken
        assert "where more than one holds, the first counts" in entry.why
    apart = table(allow("openat", args=(write,)), allow("openat", args=(Arg(1, ArgOp.EQ, 2),), action=ProfileAction.KILL_PROCESS))
    assert apart.entries(Arch.X86_64)["openat"].why == "a rule"


def test_conditions_that_every_call_fulfils_are_the_last_word() -> None:
    made = table(allow("openat", args=(Arg(1, ArgOp.GE, 0),)))
    assert made.status(Arch.X86_64, "openat") == "permitted"


def test_without_libseccomp_overlaps_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reference, "filter", lambda _: None)
    made = table(allow("openat", args=(Arg(1, ArgOp.EQ, 1),)), allow("openat", args=(Arg(2, ArgOp.EQ, 2),), action=ProfileAction.LOG))
    assert "depends on how libseccomp orders them" in made.entries(Arch.X86_64)["openat"].why


def test_status() -> None:
    made = table(allow("read"), allow("personality", args=(Arg(0, ArgOp.EQ, 8),)), allow("mount", action=ProfileAction.KILL_PROCESS))
    assert [made.status(Arch.X86_64, name) for name in ("read", "personality", "mount", "bpf", "chown32")] == [
        "permitted", "conditional", "denied", "denied", None,
    ]  # fmt: skip


def test_the_first_rule_for_every_argument_counts_and_an_empty_mask_is_no_condition() -> None:
    always = allow("read", args=(Arg(0, ArgOp.MASKED_EQ, 0, 4),), action=ProfileAction.KILL_PROCESS)
    rest = allow("read", action=ProfileAction.KILL_THREAD)
    assert [str(table(*rules).entries(Arch.X86_64)["read"].verdict) for rules in ((always, rest), (rest, always))] == [
        "KILL_PROCESS",
        "KILL_THREAD",
    ]


def test_calls_that_only_a_multiplexer_makes() -> None:
    made = table(allow("accept"), allow("semop", args=(Arg(1, ArgOp.EQ, 1),)), arches=(Arch.X86,))
    assert made.entry(Arch.X86, "accept") is None
    assert made.status(Arch.X86, "accept") == "permitted"
    assert made.status(Arch.X86, "semop") == "conditional"
    assert made.status(Arch.X86, "recv") == "denied"
    assert table(allow("socketcall"), arches=(Arch.X86,)).status(Arch.X86, "recv") == "permitted"


def test_text() -> None:
    made = table(allow("socket", args=(Arg(0, ArgOp.LT, 38), Arg(1, ArgOp.MASKED_EQ, 0xF, 1))))
    entry = made.entry(Arch.X86_64, "socket")
    assert entry is not None
    assert entry.text() == "ALLOW if family < 38 and (type & 0xf) == 0x1; else ERRNO(EPERM)"
    unnamed = Case((Arg(5, ArgOp.GE, 4096),), entry.verdict)
    assert conditions_text("getegid", unnamed) == "arg5 >= 0x1000"
    assert conditions_text("getegid", Case((), entry.verdict)) == "always"


def test_why() -> None:
    text = b"""{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
    {"names": ["read", "statx",
      "write"], "action": "SCMP_ACT_ALLOW"},
    {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_BPF"]}},
    {"names": ["mount"], "action": "SCMP_ACT_ERRNO"}]}"""
    profile, _ = load_bytes(text)
    assert profile is not None
    entries = CallTable(resolve(profile, Arch.X86_64, (), (6, 1), enosys=True)).entries(Arch.X86_64)
    assert entries["write"].why == "line 3"
    assert entries["bpf"].why == "default; line 4 does not hold (includes: needs CAP_BPF)"
    assert entries["mount"].why == "default (line 5 says the same)"
    assert entries["open"].why == "default"
    assert entries["mseal"].why == "newer than the profile"
    assert str(entries["mseal"].verdict) == "ERRNO(ENOSYS)"


def test_a_rule_of_a_profile_without_places() -> None:
    entry = table(ProfileRule(names=("read",), action=ProfileAction.ALLOW, includes=MachineConditions())).entry(Arch.X86_64, "read")
    assert entry is not None
    assert entry.why == "a rule"
