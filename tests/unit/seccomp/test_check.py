# SPDX-License-Identifier: Apache-2.0
"""Every file of tests/cases/seccomp in, the diagnostics that the .expect file beside it asks for out.

A line is `LINE:COLUMN SEVERITY CODE: part of the message | part of the hint`. The lines are all the diagnostics there may be, in order;
those of the codes in NOISE, which every small profile has, count only where the file names their code. A new case is two new files.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings

from bpfence.errors import Diagnostic, KernelError
from bpfence.seccomp import check as checks
from bpfence.seccomp import libseccomp
from bpfence.seccomp.check import check
from bpfence.seccomp.findings import CODES
from bpfence.seccomp.model import Profile, ProfileAction, ProfileRule
from bpfence.seccomp.profile import load
from bpfence.syscalls.architectures import Arch
from tests.unit.seccomp.random_profiles import profiles

ROOT = Path(__file__).resolve().parents[3]
CASES = sorted((ROOT / "tests" / "cases" / "seccomp").glob("*.json"))
CORPORA = ROOT.parent / "shared" / "corpora"
EXPECT = re.compile(r"^(\d+):(\d+) (\w+) ([a-z0-9-]+): (.*?) \| (.*)$", re.MULTILINE)
NOISE = {"libc-needs", "runtime-needs", "runtime-skips", "missing-on-architecture", "allows-all"}
ELSEWHERE = {
    "cannot-read", "json-limit", "not-utf8", "errno-zero", "no-libseccomp", "filter-limit", "cannot-express", "obsolete", "hardened",
    "runtime-skips", "filter-differs", "bad-value",
}  # fmt: skip


def found_in(case: Path) -> list[Diagnostic]:
    profile, found = load(case)
    return found + (check(profile, Arch.X86_64, kernel=(6, 12)) if profile is not None else [])


def expected_of(case: Path) -> list[tuple[str, ...]]:
    return EXPECT.findall(case.with_suffix(".expect").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_each_mistake_is_found_where_it_stands(case: Path) -> None:
    expected = expected_of(case)
    assert expected, "the case expects nothing"
    named = {code for *_, code, _, _ in expected}
    found = [d for d in found_in(case) if d.code not in NOISE - named]
    assert [(str(d.location.line), str(d.location.column), d.severity, d.code) for d in found] == [e[:4] for e in expected]
    for diagnostic, (*_, message, hint) in zip(found, expected, strict=True):
        assert message in diagnostic.message
        assert hint in diagnostic.hint
        assert diagnostic.location.file == str(case)


def test_a_fault_of_libseccomp_is_named(tmp_path: Path) -> None:
    rules = [
        '{"names": ["read"], "action": "SCMP_ACT_NOTIFY", "args": [{"index": 2, "value": 9223372036854775808, "op": "SCMP_CMP_LT"}]}',
        '{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 2, "value": 8702103164424358963, "op": "SCMP_CMP_GE"}]}',
        '{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 2, "value": 2147483647, "op": "SCMP_CMP_EQ"}]}',
    ]
    (tmp_path / "p.json").write_text('{"defaultAction": "SCMP_ACT_KILL", "syscalls": [\n' + ",\n".join(rules) + "]}")
    wrong = [d for d in found_in(tmp_path / "p.json") if d.code == "filter-differs"]
    if not wrong:
        pytest.skip(f"libseccomp {libseccomp.version()} gets it right")
    assert wrong[0].location.line == 4
    assert "the filter gives KILL_THREAD" in wrong[0].message
    assert "libseccomp 2.6.1" in wrong[0].hint


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 60
    assert {case.with_suffix(".expect").name for case in CASES} == {path.name for path in CASES[0].parent.glob("*.expect")}


def test_nearly_every_code_has_a_case() -> None:
    """The rest cannot be shown by one small file: they have tests of their own."""
    shown = {code for case in CASES for *_, code, _, _ in expected_of(case)}
    assert shown | ELSEWHERE == set(CODES)


def test_an_error_has_a_hint() -> None:
    for case in CASES:
        for diagnostic in found_in(case):
            assert diagnostic.hint or diagnostic.severity != "error", diagnostic


def test_every_code_is_in_the_reference() -> None:
    reference = (ROOT / "docs" / "seccomp.md").read_text()
    assert [code for code in CODES if f"`{code}`" not in reference] == []


@settings(max_examples=30, deadline=None)
@given(profiles())
def test_no_profile_makes_it_fail(profile: Profile) -> None:
    for diagnostic in check(profile, Arch.X86_64, (), (6, 1)):
        assert diagnostic.code in CODES


def test_without_libseccomp_everything_else_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise KernelError("no library", missing="libseccomp", hint="install it")

    monkeypatch.setattr(checks, "differences", missing)
    monkeypatch.setattr(libseccomp, "knows", missing)
    profile = Profile(default_action=ProfileAction.ERRNO, rules=(ProfileRule(names=("raed",), action=ProfileAction.ALLOW),))
    codes = {d.code for d in check(profile, Arch.X86_64)}
    assert {"no-libseccomp", "unknown-syscall"} <= codes


def test_what_the_installed_libseccomp_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libseccomp, "knows", lambda name: name != "statx")
    profile = Profile(default_action=ProfileAction.ERRNO, rules=(ProfileRule(names=("statx", "read"), action=ProfileAction.ALLOW),))
    (found,) = [d for d in check(profile, Arch.X86_64) if d.code == "runtime-skips"]
    assert "does not know statx:" in found.message


def codes_of(name: str) -> list[Diagnostic]:
    if not (CORPORA / name).exists():
        pytest.skip(f"no {CORPORA / name}")
    return found_in(CORPORA / name)


def test_dockers_profile_has_no_errors() -> None:
    found = codes_of("oci-seccomp/moby-default.json")
    assert [d for d in found if d.severity == "error"] == []
    warnings = {d.code: d for d in found if d.severity == "warning"}
    # The two ways past its rule on socket families: socketcall, and garbage above the lower 32 bits of `family`.
    assert warnings.keys() == {"socketcall", "wide-argument"}
    assert "family of socket" in warnings["wide-argument"].message


def test_the_tutorials_profile() -> None:
    found = codes_of("tutorial/seccomp-profile.json")
    assert [d for d in found if d.severity == "error"] == []
    lacking = {d.message.partition(" ")[0] for d in found if d.code == "libc-needs"}
    assert {"clone3", "rseq", "statx", "faccessat2", "getdents64", "close_range"} <= lacking
    assert [(d.message.partition(" ")[0], d.location.line) for d in found if d.code == "duplicate-name"] == [("dup3", 67)]
    assert [d.location.line for d in found if d.code == "default-entry"] == [75]


@pytest.mark.parametrize("machine", [Arch.X86_64, Arch.AARCH64])
def test_our_own_example_has_no_warnings(machine: Arch) -> None:
    profile, found = load(ROOT / "examples" / "seccomp" / "web-service.json")
    assert profile is not None
    found += check(profile, machine, (), (6, 12))
    assert [d for d in found if d.severity != "info"] == []
