# SPDX-License-Identifier: Apache-2.0
"""Profiles: read and written back, resolved for machines as runtimes do, and never an exception."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfence.seccomp.model import DEFAULT_FLAGS, MachineConditions, Profile, ProfileAction, ProfileFlag, ProfileRule, ProfileVerdict
from bpfence.seccomp.profile import bare, dump, kernel_version, load, load_bytes, plain, resolve
from bpfence.syscalls.architectures import Arch
from tests.unit.documents.single_mistakes import single_mistakes
from tests.unit.seccomp.random_profiles import profiles

CORPORA = Path(__file__).resolve().parents[4] / "shared" / "corpora"


def read(**given: Any) -> Profile:
    found, diagnostics = load_bytes(json.dumps({"defaultAction": "SCMP_ACT_ERRNO", **given}).encode())
    assert diagnostics == []
    assert found is not None
    return found


def rule(**given: Any) -> ProfileRule:
    return read(syscalls=[{"names": ["read"], "action": "SCMP_ACT_ALLOW", **given}]).rules[0]


@given(profiles())
def test_what_is_written_is_read_back(profile: Profile) -> None:
    again, diagnostics = load_bytes(dump(profile))
    assert [str(d) for d in diagnostics if d.severity == "error"] == []
    assert again is not None
    assert bare(again) == profile


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.sampled_from(["SCMP_ACT_ALLOW", "read", "", "\ud800", "\x1b[31m"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["defaultAction", "syscalls", "names", "args", "includes", "x"]), inner, max_size=4)
        ),
        max_leaves=15,
    )
)
def test_no_document_makes_it_fail_otherwise(document: Any) -> None:
    profile, diagnostics = load_bytes(json.dumps(document).encode())
    assert (profile is None) == any(d.severity == "error" for d in diagnostics)


@pytest.mark.parametrize("name", ["oci-seccomp/moby-default.json", "tutorial/seccomp-profile.json"])
def test_profiles_that_people_have(name: str) -> None:
    if not (CORPORA / name).exists():
        pytest.skip(f"no {CORPORA / name}")
    profile, diagnostics = load(CORPORA / name)
    assert diagnostics == []
    assert profile is not None
    again, _ = load_bytes(dump(profile))
    assert again is not None
    assert bare(again) == bare(profile)


def test_errno_is_eperm_where_it_is_left_out() -> None:
    assert rule(action="SCMP_ACT_ERRNO").verdict == ProfileVerdict(ProfileAction.ERRNO, 1)
    assert rule(action="SCMP_ACT_ERRNO", errnoRet=38).verdict == ProfileVerdict(ProfileAction.ERRNO, 38)
    assert rule(action="SCMP_ACT_TRACE").verdict == ProfileVerdict(ProfileAction.TRACE, 1)
    assert rule(action="SCMP_ACT_ERRNO", errno="ENOSYS").verdict == ProfileVerdict(ProfileAction.ERRNO, 38)
    assert rule().verdict == ProfileVerdict(ProfileAction.ALLOW)
    assert read(defaultErrnoRet=38).default == ProfileVerdict(ProfileAction.ERRNO, 38)
    assert read(defaultErrno="EACCES").default == ProfileVerdict(ProfileAction.ERRNO, 13)


def test_kill_is_kill_thread() -> None:
    assert rule(action="SCMP_ACT_KILL").action is rule(action="SCMP_ACT_KILL_THREAD").action is ProfileAction.KILL_THREAD


def test_the_old_name_key() -> None:
    assert read(syscalls=[{"name": "read", "action": "SCMP_ACT_ALLOW"}]).rules[0].names == ("read",)


def test_missing_flags_are_not_empty_flags() -> None:
    assert read().effective_flags == DEFAULT_FLAGS == (ProfileFlag.SPEC_ALLOW,)
    assert read(flags=None).effective_flags == DEFAULT_FLAGS
    assert read(flags=[]).effective_flags == ()
    assert read(flags=["SECCOMP_FILTER_FLAG_LOG"]).effective_flags == (ProfileFlag.LOG,)


def test_different_indices_are_and() -> None:
    found = rule(args=[{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 2, "op": "SCMP_CMP_GT"}])
    assert found.matches((1, 3, 0, 0, 0, 0))
    assert not found.matches((1, 2, 0, 0, 0, 0))
    assert not found.matches((0, 3, 0, 0, 0, 0))


def test_one_index_twice_makes_all_of_them_or() -> None:
    found = rule(
        args=[
            {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"},
            {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"},
            {"index": 1, "value": 9, "op": "SCMP_CMP_EQ"},
        ]
    )
    assert found.matches((1, 0, 0, 0, 0, 0))
    assert found.matches((2, 0, 0, 0, 0, 0))
    assert found.matches((5, 9, 0, 0, 0, 0))
    assert not found.matches((5, 8, 0, 0, 0, 0))


def names_of(profile: Profile, **given: Any) -> set[str]:
    return {name for found in resolve(profile, **given).rules for name in found.names}


CONDITIONAL = Profile(
    default_action=ProfileAction.ERRNO,
    rules=(
        ProfileRule(names=("always",), action=ProfileAction.ALLOW),
        ProfileRule(names=("admin",), action=ProfileAction.ALLOW, includes=MachineConditions(caps=("CAP_SYS_ADMIN",))),
        ProfileRule(names=("both",), action=ProfileAction.ALLOW, includes=MachineConditions(caps=("CAP_SYS_ADMIN", "CAP_BPF"))),
        ProfileRule(names=("no-admin",), action=ProfileAction.ALLOW, excludes=MachineConditions(caps=("CAP_BPF", "CAP_SYS_ADMIN"))),
        ProfileRule(names=("arm",), action=ProfileAction.ALLOW, includes=MachineConditions(arches=("arm", "arm64"))),
        ProfileRule(names=("new",), action=ProfileAction.ALLOW, includes=MachineConditions(min_kernel=(5, 8))),
        ProfileRule(names=("old",), action=ProfileAction.ALLOW, excludes=MachineConditions(min_kernel=(5, 8))),
        ProfileRule(
            names=("never",),
            action=ProfileAction.ALLOW,
            includes=MachineConditions(caps=("CAP_BPF",)),
            excludes=MachineConditions(caps=("CAP_BPF",)),
        ),
    ),
)


@pytest.mark.parametrize(
    ("arch", "caps", "kernel", "expected"),
    [
        (Arch.X86_64, (), (5, 7), {"always", "no-admin", "old"}),
        (Arch.X86_64, (), (5, 10), {"always", "no-admin", "new"}),
        (Arch.X86_64, (), None, {"always", "no-admin", "new"}),
        (Arch.AARCH64, ("CAP_SYS_ADMIN",), (4, 19), {"always", "admin", "arm", "old"}),
        (Arch.X86_64, ("CAP_SYS_ADMIN", "CAP_BPF"), (6, 1), {"always", "admin", "both", "new"}),
        (Arch.X86_64, ("CAP_BPF",), (6, 1), {"always", "new"}),
    ],
)
def test_includes_and_excludes(arch: Arch, caps: tuple[str, ...], kernel: tuple[int, int] | None, expected: set[str]) -> None:
    assert names_of(CONDITIONAL, arch=arch, caps=caps, kernel=kernel) == expected
    left = resolve(CONDITIONAL, arch, caps, kernel).left_out
    assert {name for entry in left for name in entry.rule.names} == {n for r in CONDITIONAL.rules for n in r.names} - expected
    assert all(entry.reason for entry in left)


def test_the_excludes_are_named_before_the_includes() -> None:
    left = {entry.rule.names[0]: entry.reason for entry in resolve(CONDITIONAL, Arch.X86_64, ("CAP_BPF",), (6, 1)).left_out}
    assert left["never"] == "excludes: CAP_BPF"
    assert left["admin"] == "includes: needs CAP_SYS_ADMIN"
    assert left["arm"] == "includes: only arm, arm64"


def test_architectures() -> None:
    mapped = read(archMap=[{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}])
    assert resolve(mapped, Arch.X86_64).architectures == (Arch.X86_64, Arch.X86)
    assert resolve(mapped, Arch.AARCH64).architectures == (Arch.AARCH64,)
    listed = read(architectures=["SCMP_ARCH_X86"])
    assert resolve(listed, Arch.X86_64).architectures == (Arch.X86_64, Arch.X86)
    assert resolve(read(), Arch.X32).architectures == (Arch.X32,)
    assert resolve(read()).architectures == (Arch.native(),)


def test_plain_has_no_conditions_left() -> None:
    found = plain(resolve(CONDITIONAL, Arch.AARCH64, ("CAP_SYS_ADMIN",), (4, 19)))
    assert found.architectures == (Arch.AARCH64,)
    assert [r.names[0] for r in found.rules] == ["always", "admin", "arm", "old"]
    assert not any(r.includes or r.excludes for r in found.rules)


def test_kernel_version() -> None:
    assert kernel_version("6.1.0-13-amd64") == (6, 1)
    assert kernel_version("5.10") == (5, 10)
    assert kernel_version("5.1000") is None
    assert kernel_version("x") is None


def test_what_is_not_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "none", tmp_path / "fifo", "a\0b"):
        profile, (found,) = load(path)
        assert profile is None
        assert found.code == "cannot-read"


def test_places_of_names() -> None:
    found, _ = load_bytes(b'{"defaultAction": "SCMP_ACT_ERRNO",\n"syscalls": [{"names": ["a",\n "b"], "action": "SCMP_ACT_ALLOW"}]}')
    assert found is not None
    assert (found.rules[0].place("b").line, found.rules[0].place("b").column) == (3, 2)


def test_an_empty_kernel_is_every_kernel_as_docker_reads_it() -> None:
    for key, kept in (("includes", 1), ("excludes", 0)):
        written = {"names": ["read"], "name": "", "action": "SCMP_ACT_ALLOW", key: {"minKernel": ""}}
        found, diagnostics = load_bytes(json.dumps({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [written]}).encode())
        assert found is not None
        assert [(d.severity, d.code) for d in diagnostics] == [("warning", "empty")]
        effective = resolve(found, Arch.X86_64, kernel=(3, 10))
        assert len(effective.rules) == kept
        assert [left.reason for left in effective.left_out] == ["excludes: an empty minKernel, which every kernel reaches"][kept:]
        again, _ = load_bytes(dump(found))
        assert again is not None
        assert bare(again) == bare(found)


def test_rules_about_nothing_do_no_harm() -> None:
    found, diagnostics = load_bytes(b'{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": [], "action": "SCMP_ACT_ALLOW"}]}')
    assert found is not None
    assert [d.code for d in diagnostics] == ["empty"]
    assert found.rules[0].names == ()


WITHOUT_MISTAKE = {
    "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
    "flags": ["SECCOMP_FILTER_FLAG_LOG"], "listenerPath": "/run/x", "listenerMetadata": "m",
    "syscalls": [
        {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13, "comment": "x",
         "args": [{"index": 1, "value": 511, "valueTwo": 511, "op": "SCMP_CMP_MASKED_EQ"}],
         "includes": {"caps": ["CAP_SYS_ADMIN"], "arches": ["amd64"], "minKernel": "4.8"}, "excludes": {}},
        {"names": ["ptrace"], "action": "SCMP_ACT_NOTIFY"},
    ],
}  # fmt: skip


def test_a_mistake_is_told_once() -> None:
    assert load_bytes(json.dumps(WITHOUT_MISTAKE).encode())[1] == []
    for path, what, made in single_mistakes(WITHOUT_MISTAKE):
        found = load_bytes(json.dumps(made).encode())[1]
        errors = [one for one in found if one.severity == "error"]
        assert len(errors) <= 1, (path, what, [str(one) for one in found])
        assert not errors or found == errors, (path, what, [str(one) for one in found])
