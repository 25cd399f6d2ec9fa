# SPDX-License-Identifier: Apache-2.0
"""Calls that were seen, made a profile."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfence.seccomp.interpret import Program, compile_verified, verdict_of
from bpfence.seccomp.learned import BY_CHANCE, Seen, learn
from bpfence.seccomp.model import ProfileAction
from bpfence.seccomp.profile import dump, load_bytes, resolve
from bpfence.seccomp.runtimes import needs, runtime_names
from bpfence.syscalls.architectures import Arch
from bpfence.syscalls.table import available, known, number

numbers = st.integers(0, 1023)
seen = st.builds(Seen, st.sampled_from([Arch.X86_64, Arch.X86, Arch.X32]), numbers)


def call(arch: Arch, name: str) -> Seen:
    return Seen(arch, (number(arch, name) or 0) & ~0x40000000)


def test_names_are_found_by_door() -> None:
    assert call(Arch.X86_64, "getppid").name == "getppid"
    assert call(Arch.X86, "getppid").name == "getppid"
    assert call(Arch.X32, "getppid").name == "getppid"
    assert Seen(Arch.X86, 110).name == "iopl"
    assert Seen(Arch.X86_64, 1000).name is None


def test_a_profile_of_what_was_seen() -> None:
    found = learn([call(Arch.X86_64, "write"), call(Arch.X86_64, "execve"), Seen(Arch.X86_64, 1000)], machine=Arch.X86_64)
    assert found.seen == ("execve", "write")
    assert found.nameless == (Seen(Arch.X86_64, 1000),)
    assert found.profile.architectures == (Arch.X86_64,)
    (rule,) = found.profile.rules
    assert {"write", "writev"} <= set(rule.names)
    assert rule.names == tuple(sorted({"execve", "write", *found.by_chance}))
    assert (str(found.profile.default), rule.action) == ("ERRNO(EPERM)", ProfileAction.ALLOW)


def test_what_depends_on_chance_is_that_of_the_architectures() -> None:
    native = learn([], machine=Arch.X86_64)
    assert {"restart_syscall", "rt_sigreturn", "futex", "clock_gettime", "mmap"} <= set(native.by_chance)
    assert not {"sigreturn", "mmap2", "clock_gettime64"} & set(native.by_chance)
    both = learn([call(Arch.X86, "read")], machine=Arch.X86_64)
    assert {"sigreturn", "mmap2", "clock_gettime64"} <= set(both.by_chance)
    assert both.profile.architectures == (Arch.X86_64, Arch.X86)


def test_every_word_of_the_table_is_a_call() -> None:
    words = [word for words in BY_CHANCE.values() for word in words]
    assert all(known(word) for word in words)
    assert len(words) == len(set(words))


@pytest.mark.parametrize("runtime", runtime_names())
def test_what_a_runtime_needs_is_added_on_request(runtime: str) -> None:
    found = learn([call(Arch.X86_64, "execve")], runtime, machine=Arch.X86_64)
    wanted = {name for name in needs(runtime) if available(Arch.X86_64, name)}
    assert wanted <= set(found.profile.rules[0].names)
    assert not set(found.by_runtime) & {*found.seen, *found.by_chance}


def test_sockets_by_family() -> None:
    sockets = [call(Arch.X86_64, "socket"), call(Arch.X86_64, "read")]
    found = learn(sockets, families={2, 17}, machine=Arch.X86_64).profile
    program = Program(compile_verified(resolve(found, Arch.X86_64)).program)
    rets = [program.run(Arch.X86_64.audit, 41, (family, 0, 0, 0, 0, 0)) for family in (1, 2, 10, 16, 17, 38, 40)]
    verdicts = [str(verdict_of(ret)) for ret in rets]
    assert verdicts == ["ALLOW"] * 5 + ["ERRNO(EPERM)"] * 2
    assert "socket" in learn(sockets, machine=Arch.X86_64).profile.rules[0].names, "not known: every family"
    compat = learn([*sockets, call(Arch.X86, "socketcall")], families={2}, machine=Arch.X86_64).profile
    assert "socket" in compat.rules[0].names, "socketcall hides the family"
    assert all("socket" not in rule.names for rule in learn([call(Arch.X86_64, "read")], families=set(), machine=Arch.X86_64).profile.rules)


@given(st.lists(seen, max_size=40), st.randoms(use_true_random=False))
def test_order_and_repetition_do_not_matter(calls: list[Seen], random: object) -> None:
    again = [*calls, *calls]
    random.shuffle(again)  # type: ignore[attr-defined]
    assert dump(learn(calls, machine=Arch.X86_64).profile) == dump(learn(again, machine=Arch.X86_64).profile)


@given(st.lists(seen, max_size=20))
def test_it_can_be_read_back(calls: list[Seen]) -> None:
    found, diagnostics = load_bytes(dump(learn(calls, machine=Arch.X86_64).profile))
    assert found is not None
    assert diagnostics == []


@given(st.lists(seen, max_size=20), st.lists(seen, max_size=20))
def test_more_calls_never_allow_less(calls: list[Seen], more: list[Seen]) -> None:
    less, all_of_them = learn(calls, machine=Arch.X86_64).profile, learn([*calls, *more], machine=Arch.X86_64).profile
    assert set(less.rules[0].names) <= set(all_of_them.rules[0].names)
