# SPDX-License-Identifier: Apache-2.0
"""What the real runtimes did, as the file has it."""

from __future__ import annotations

import pytest

from bpfence.seccomp.check import check
from bpfence.seccomp.model import Profile, ProfileAction, ProfileRule, ProfileVerdict
from bpfence.seccomp.runtimes import (
    OTHERS,
    SETTINGS,
    WITH,
    WITHOUT,
    DenialKind,
    described,
    failing,
    kind_of,
    musts,
    needs,
    runtime_names,
    seen,
)
from bpfence.syscalls.architectures import Arch
from bpfence.syscalls.table import known


def test_both_runtimes_were_traced() -> None:
    assert runtime_names() == ("runc", "crun")
    assert [described(runtime) for runtime in runtime_names()] == ["runc 1.1.5", "crun 1.8.1"]
    for runtime in runtime_names():
        assert all(known(name) for name in needs(runtime))
        assert OTHERS[runtime] - seen(runtime)
        assert {name for must in musts(runtime) for name in must.names} <= seen(runtime)
        assert {setting for must in musts(runtime) for setting in must.kinds} == set(SETTINGS)


def test_runc_looks_the_program_up_after_the_filter_is_in_force() -> None:
    assert {"faccessat", "faccessat2"} <= needs("runc")


def failing_with(denied: dict[str, DenialKind], runtime: str = "runc") -> dict[tuple[str, ...], tuple[str, ...]]:
    return failing(runtime, denied.get)


def test_what_keeps_containers_from_starting() -> None:
    assert failing_with({"execve": "EPERM"}) == {("execve",): SETTINGS}
    assert failing_with({"exit_group": "EPERM", "futex": "EPERM"}) == {}
    assert failing_with({"faccessat2": "EPERM"}) == {}, "runc tries faccessat"
    assert failing_with({"faccessat2": "EPERM", "faccessat": "ENOSYS"}) == {("faccessat2", "faccessat"): (WITHOUT,)}
    assert failing_with({"faccessat2": "KILL"}) == {("faccessat2",): (WITHOUT,)}
    assert failing_with({"close": "EPERM"}, "crun") == {}
    assert failing_with({"close": "KILL"}, "crun") == {("close",): SETTINGS}
    assert failing_with({"write": "EPERM"}) == {("write",): (WITH, WITHOUT)}


@pytest.mark.parametrize(
    ("verdict", "kind"),
    [
        (ProfileVerdict(ProfileAction.ERRNO, 1), "EPERM"),
        (ProfileVerdict(ProfileAction.ERRNO, 13), "EPERM"),
        (ProfileVerdict(ProfileAction.ERRNO, 38), "ENOSYS"),
        (ProfileVerdict(ProfileAction.ERRNO, 0), None),
        (ProfileVerdict(ProfileAction.TRACE), "ENOSYS"),
        (ProfileVerdict(ProfileAction.TRAP), "KILL"),
        (ProfileVerdict(ProfileAction.KILL_THREAD), "KILL"),
        (ProfileVerdict(ProfileAction.NOTIFY), None),
        (ProfileVerdict(ProfileAction.LOG), None),
    ],
)
def test_kinds_of_denials(verdict: ProfileVerdict, kind: str | None) -> None:
    assert kind_of(verdict) == kind


def warnings(action: ProfileAction, *names: str) -> list[str]:
    profile = Profile(default_action=ProfileAction.ALLOW, rules=(ProfileRule(names=names, action=action),))
    return [d.message for d in check(profile, Arch.X86_64) if d.code == "runtime-needs" and d.severity == "warning"]


def test_a_warning_says_which_runtime_starts_nothing() -> None:
    assert warnings(ProfileAction.ERRNO, "execve") == ["execve is denied: no container starts (runc 1.1.5 and crun 1.8.1)"]
    assert warnings(ProfileAction.ERRNO, "fstatfs") == ["fstatfs is denied: runc 1.1.5 starts no container"]
    assert warnings(ProfileAction.ERRNO, "setresuid") == ["setresuid is denied: crun 1.8.1 starts no container without no_new_privs"]
    both = "faccessat2 and faccessat are both denied: runc 1.1.5 starts no container without no_new_privs"
    assert warnings(ProfileAction.ERRNO, "faccessat", "faccessat2") == [both]
    assert warnings(ProfileAction.ERRNO, "exit_group", "futex") == []
    assert warnings(ProfileAction.NOTIFY, "execve") == [], "a supervisor decides"
