# SPDX-License-Identifier: Apache-2.0
"""The interpreter, the reference, and filters of random profiles held against it."""

from __future__ import annotations

import contextlib
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from bpfence.errors import CompileError
from bpfence.seccomp import interpret
from bpfence.seccomp.filter import CompiledFilter, compile_effective
from bpfence.seccomp.interpret import (
    Program,
    ProgramError,
    Reference,
    argument_tuples,
    compile_verified,
    differences,
    precedence,
    verdict_of,
    verify,
)
from bpfence.seccomp.model import Arg, ArgOp, Effective, Profile, ProfileAction, ProfileRule, ProfileVerdict
from bpfence.seccomp.profile import DOCKER_CAPABILITIES, load, resolve
from bpfence.syscalls.architectures import Arch
from bpfence.syscalls.table import number, numbers
from tests.unit.seccomp.random_profiles import arguments, profiles

MOBY = Path(__file__).resolve().parents[4] / "shared" / "corpora" / "oci-seccomp" / "moby-default.json"
ALLOW, EPERM = ProfileVerdict(ProfileAction.ALLOW), ProfileVerdict(ProfileAction.ERRNO, 1)


def code(*lines: tuple[int, int, int, int]) -> bytes:
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


RETURN_A = (0x16, 0, 0, 0)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([(0x00, 0, 0, 7), (0x04, 0, 0, 0xFFFFFFFF)], 6),
        ([(0x00, 0, 0, 7), (0x14, 0, 0, 8)], 0xFFFFFFFF),
        ([(0x00, 0, 0, 7), (0x24, 0, 0, 3)], 21),
        ([(0x00, 0, 0, 7), (0x34, 0, 0, 2)], 3),
        ([(0x00, 0, 0, 6), (0x44, 0, 0, 1)], 7),
        ([(0x00, 0, 0, 6), (0x54, 0, 0, 3)], 2),
        ([(0x00, 0, 0, 6), (0x64, 0, 0, 31)], 0),
        ([(0x00, 0, 0, 6), (0x74, 0, 0, 1)], 3),
        ([(0x00, 0, 0, 1), (0x84, 0, 0, 0)], 0xFFFFFFFF),
        ([(0x00, 0, 0, 6), (0xA4, 0, 0, 3)], 5),
        ([(0x01, 0, 0, 5), (0x87, 0, 0, 0)], 5),
        ([(0x00, 0, 0, 5), (0x07, 0, 0, 0), (0x0C, 0, 0, 0)], 10),
        ([(0x00, 0, 0, 5), (0x02, 0, 0, 3), (0x00, 0, 0, 0), (0x60, 0, 0, 3)], 5),
        ([(0x01, 0, 0, 5), (0x03, 0, 0, 15), (0x61, 0, 0, 15), (0x87, 0, 0, 0)], 5),
        ([(0x80, 0, 0, 0)], 64),
        ([(0x81, 0, 0, 0), (0x87, 0, 0, 0)], 64),
        ([(0x20, 0, 0, 0)], 9),
        ([(0x20, 0, 0, 4)], 0xC000003E),
        ([(0x20, 0, 0, 16)], 0x44332211),
        ([(0x20, 0, 0, 20)], 0x88776655),
        ([(0x20, 0, 0, 8)], 0x1234),
        ([(0x00, 0, 0, 6), (0x45, 0, 1, 2), (0x00, 0, 0, 99)], 99),
        ([(0x00, 0, 0, 6), (0x45, 0, 1, 1), (0x00, 0, 0, 99)], 6),
        ([(0x01, 0, 0, 6), (0x00, 0, 0, 6), (0x1D, 0, 1, 0), (0x00, 0, 0, 99)], 99),
        ([(0x00, 0, 0, 6), (0x05, 0, 0, 1), (0x00, 0, 0, 99)], 6),
        ([(0x01, 0, 0, 0), (0x00, 0, 0, 6), (0x3C, 0, 0, 0)], 0),
    ],
)
def test_instructions(lines: list[tuple[int, int, int, int]], expected: int) -> None:
    program = Program(code(*lines, RETURN_A))
    assert program.run(0xC000003E, 9, (0x8877665544332211, 0, 0, 0, 0, 0), 0x1234) == expected


@pytest.mark.parametrize(
    "lines",
    [
        [(0x28, 0, 0, 0)],  # half a word
        [(0x20, 0, 0, 2)],
        [(0x20, 0, 0, 64)],
        [(0x34, 0, 0, 0)],
        [(0x64, 0, 0, 32)],
        [(0x60, 0, 0, 16)],
        [(0x02, 0, 0, 16)],
        [(0x05, 0, 0, 1)],
        [(0x15, 1, 0, 0)],
        [(0x15, 0, 1, 0)],
        [(0xFFFF, 0, 0, 0)],
        [(0x94, 0, 0, 1)],  # modulo
    ],
)
def test_what_the_kernel_refuses(lines: list[tuple[int, int, int, int]]) -> None:
    with pytest.raises(ProgramError):
        Program(code(*lines, RETURN_A))


@pytest.mark.parametrize("data", [b"", b"x", code((0x00, 0, 0, 0)), code(RETURN_A) * 4097])
def test_programs_that_are_none(data: bytes) -> None:
    with pytest.raises(ProgramError):
        Program(data)


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 3), st.integers(0, 3), st.integers(0, 70)), max_size=8))
def test_no_program_makes_it_fail_otherwise(lines: list[tuple[int, int, int, int]]) -> None:
    with contextlib.suppress(ProgramError):
        assert 0 <= Program(code(*lines, RETURN_A)).run(1, 2, (3, 4, 5, 6, 7, 8)) <= 0xFFFFFFFF


def test_returned_values() -> None:
    assert verdict_of(0x7FFF0000) == ALLOW
    assert verdict_of(0x00050026) == ProfileVerdict(ProfileAction.ERRNO, 38)
    assert verdict_of(0x0005FFFF) == ProfileVerdict(ProfileAction.ERRNO, 4095)
    assert verdict_of(0x7FF00005) == ProfileVerdict(ProfileAction.TRACE, 5)
    assert verdict_of(0x12340000) == ProfileVerdict(ProfileAction.KILL_PROCESS)


def test_the_strictest_of_stacked_filters_wins_and_of_equal_ones_the_latest() -> None:
    order = [
        ProfileAction.KILL_PROCESS,
        ProfileAction.KILL_THREAD,
        ProfileAction.TRAP,
        ProfileAction.ERRNO,
        ProfileAction.NOTIFY,
        ProfileAction.TRACE,
        ProfileAction.LOG,
        ProfileAction.ALLOW,
    ]
    rets = [ProfileVerdict(action).ret for action in order]
    for n, ret in enumerate(rets):
        assert precedence(rets[n:]) == precedence(rets[n:][::-1]) == ret
    assert (
        precedence([ProfileVerdict(ProfileAction.ERRNO, 1).ret, ProfileVerdict(ProfileAction.ERRNO, 2).ret])
        == ProfileVerdict(ProfileAction.ERRNO, 2).ret
    )
    assert precedence([]) == ALLOW.ret


# ---- the reference ----


def reference(*rules: ProfileRule, arches: tuple[Arch, ...] = ()) -> Reference:
    return Reference(resolve(Profile(default_action=ProfileAction.ERRNO, rules=rules, architectures=arches), Arch.X86_64))


def allow(*names: str, args: tuple[Arg, ...] = (), action: ProfileAction = ProfileAction.ALLOW) -> ProfileRule:
    return ProfileRule(names=names, action=action, args=args)


def test_a_rule_for_all_arguments_silences_the_others() -> None:
    conditional = allow("read", args=(Arg(0, ArgOp.EQ, 1),), action=ProfileAction.LOG)
    for rules in ((allow("read"), conditional), (conditional, allow("read"))):
        assert reference(*rules).verdicts(Arch.X86_64.audit, 0, (1, 0, 0, 0, 0, 0)).verdicts == (ALLOW,)
    first = reference(allow("read"), allow("read", action=ProfileAction.KILL_PROCESS))
    assert first.verdicts(Arch.X86_64.audit, 0).verdicts == (ALLOW,)


def test_conditional_rules_that_contradict_each_other_are_ambiguous() -> None:
    found = reference(
        allow("read", args=(Arg(0, ArgOp.EQ, 1),)), allow("read", args=(Arg(1, ArgOp.EQ, 2),), action=ProfileAction.KILL_PROCESS)
    ).verdicts(Arch.X86_64.audit, 0, (1, 2, 0, 0, 0, 0))
    assert found.ambiguous
    assert found.verdict == ProfileVerdict(ProfileAction.KILL_PROCESS)
    assert len(found.rules) == 2


def test_a_rule_that_equals_the_default_denies_nothing() -> None:
    found = reference(allow("read", action=ProfileAction.ERRNO), allow("read"))
    assert found.verdicts(Arch.X86_64.audit, 0).verdicts == (ALLOW,)


def test_socketcall_comes_with_socket() -> None:
    found = reference(allow("socket", args=(Arg(0, ArgOp.EQ, 1),)), arches=(Arch.X86,))
    socketcall, direct = number(Arch.X86, "socketcall"), number(Arch.X86, "socket")
    assert socketcall is not None
    assert direct is not None
    assert found.verdicts(Arch.X86.audit, direct, (2, 0, 0, 0, 0, 0)).verdict == EPERM
    assert found.verdicts(Arch.X86.audit, socketcall, (1, 0, 0, 0, 0, 0)).verdict == ALLOW
    assert found.verdicts(Arch.X86.audit, socketcall, (2, 0, 0, 0, 0, 0)).verdict == EPERM


def test_arguments_of_32_bit_calls_are_32_bits_wide() -> None:
    found = reference(allow("read", args=(Arg(0, ArgOp.EQ, 1 << 32),)), arches=(Arch.X86,))
    assert found.verdicts(Arch.X86.audit, 3, (0, 0, 0, 0, 0, 0)).verdict == ALLOW  # the value of the condition is cut, too
    assert found.verdicts(Arch.X86.audit, 3, (1, 0, 0, 0, 0, 0)).verdict == EPERM
    assert found.verdicts(Arch.X86_64.audit, 0, (0, 0, 0, 0, 0, 0)).verdict == EPERM
    assert found.verdicts(Arch.X86_64.audit, 0, (1 << 32, 0, 0, 0, 0, 0)).verdict == ALLOW


def test_bits_outside_the_mask_do_not_count() -> None:
    found = reference(allow("access", args=(Arg(1, ArgOp.MASKED_EQ, 0, 4),)))
    assert found.verdicts(Arch.X86_64.audit, 21, (0, 1, 0, 0, 0, 0)).verdict == ALLOW
    found = reference(allow("access", args=(Arg(1, ArgOp.MASKED_EQ, 6, 5),)))
    assert found.verdicts(Arch.X86_64.audit, 21, (0, 13, 0, 0, 0, 0)).verdict == ALLOW
    assert found.verdicts(Arch.X86_64.audit, 21, (0, 6, 0, 0, 0, 0)).verdict == EPERM


def test_an_empty_mask_is_no_condition() -> None:
    conditional = allow("access", args=(Arg(1, ArgOp.EQ, 4),), action=ProfileAction.LOG)
    for rules in ((allow("access", args=(Arg(1, ArgOp.MASKED_EQ, 0, 4),)), conditional), (conditional, allow("access"))):
        found = reference(*rules)
        assert found.verdicts(Arch.X86_64.audit, 21, (0, 4, 0, 0, 0, 0)).verdicts == (ALLOW,)
        assert verify(compile_effective(found.effective)).differences == ()


def test_foreign_architectures() -> None:
    assert reference(allow("read")).verdicts(Arch.AARCH64.audit, 63).verdict == ProfileVerdict(ProfileAction.KILL_THREAD)
    assert reference(allow("read")).verdicts(Arch.X32.audit, 0x40000000).verdict == ProfileVerdict(ProfileAction.KILL_THREAD)


# ---- filters against the reference ----


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(profiles(), st.sampled_from(["tree", "linear"]), st.booleans())
def test_filters_of_random_profiles_mean_what_the_profiles_say(profile: Profile, optimize: str, enosys: bool) -> None:
    effective = resolve(profile, Arch.X86_64, ("CAP_BPF",), (6, 1), enosys=enosys)
    compiled = None
    with contextlib.suppress(ConflictError):
        compiled = compiled_or_conflict(effective, optimize)
    assume(compiled is not None)
    assert compiled is not None
    assert verify(compiled).differences == ()


class ConflictError(Exception):
    """libseccomp refuses a rule that contradicts another."""


def compiled_or_conflict(effective: Effective, optimize: str) -> CompiledFilter:
    try:
        return compile_verified(effective, optimize="tree" if optimize == "tree" else "linear")
    except CompileError as error:
        if {found.code for found in error.diagnostics} == {"conflict"}:
            raise ConflictError from error
        raise


FAULTY = Profile(
    default_action=ProfileAction.KILL_PROCESS,
    rules=(
        allow("read", args=(Arg(0, ArgOp.LT, 1 << 63),), action=ProfileAction.NOTIFY),
        allow("read", args=(Arg(0, ArgOp.GE, 0x78C71EE427A88C33),)),
        allow("read", args=(Arg(0, ArgOp.EQ, 0x7FFFFFFF),)),
    ),
)
"""libseccomp 2.5.4 kills read(1 << 63) under it."""


def test_what_libseccomp_gets_wrong_is_decided_in_front_of_it() -> None:
    effective = resolve(FAULTY, Arch.X86_64)
    if not verify(compile_effective(effective)).differences:
        pytest.skip("this libseccomp gets it right")
    (found,) = differences(effective)
    assert found.code == "filter-differs"
    assert "read(" in found.message
    compiled = compile_verified(effective)
    assert compiled.own == ("x86_64/read",)
    assert verify(compiled).differences == ()


@pytest.mark.parametrize("what", ["return", "number", "compared"])
def test_a_changed_filter_is_noticed(what: str) -> None:
    profile = Profile(default_action=ProfileAction.ERRNO, rules=(allow("read"), allow("openat", args=(Arg(2, ArgOp.EQ, 0x42),))))
    compiled = compile_effective(resolve(profile, Arch.X86_64))
    old, new = {
        "return": (struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000), struct.pack("=HBBI", 6, 0, 0, 0x7FFC0000)),
        "number": (struct.pack("=I", 257), struct.pack("=I", 2)),
        "compared": (struct.pack("=I", 0x42), struct.pack("=I", 0x43)),
    }[what]
    assert old in compiled.program
    changed = CompiledFilter(program=compiled.program.replace(old, new), flags=0, effective=compiled.effective)
    found = verify(changed)
    assert found.differences
    assert found.wrong
    assert "the profile says" in str(found.differences[0])


def test_a_filter_that_cannot_be_mended_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = interpret.compile_effective

    def broken(*args: object, **kwargs: object) -> CompiledFilter:
        made = real(*args, **kwargs)  # type: ignore[arg-type]
        return CompiledFilter(program=made.program.replace(b"\x00\x00\xff\x7f", b"\x00\x00\xfc\x7f"), flags=0, effective=made.effective)

    monkeypatch.setattr(interpret, "compile_effective", broken)
    with pytest.raises(CompileError, match="the filter gives LOG"):
        compile_verified(resolve(Profile(default_action=ProfileAction.ERRNO, rules=(allow("read"),)), Arch.X86_64))


def test_boundaries_reach_both_answers() -> None:
    for op in ArgOp:
        arg = Arg(3, op, 0x1_0000_0010, 0x10 if op is ArgOp.MASKED_EQ else 0)
        assert {arg.holds(args[3]) for args in argument_tuples([arg])} == {True, False}


def test_the_number_of_tuples_is_bounded() -> None:
    many = [Arg(index, ArgOp.EQ, 1 << shift) for index in range(6) for shift in range(0, 60, 4)]
    assert len(list(argument_tuples(many))) < 2 * interpret.MAX_TUPLES


# ---- the profile of Docker ----


@pytest.mark.parametrize(
    ("machine", "arches"), [(Arch.X86_64, [Arch.X86_64, Arch.X86, Arch.X32]), (Arch.AARCH64, [Arch.AARCH64, Arch.ARM])]
)
@pytest.mark.parametrize("caps", [DOCKER_CAPABILITIES, ("CAP_SYS_ADMIN", "CAP_BPF", "CAP_SYS_PTRACE"), ()])
def test_the_filter_of_docker_means_what_dockers_profile_says(machine: Arch, arches: list[Arch], caps: tuple[str, ...]) -> None:
    if not MOBY.exists():
        pytest.skip(f"no {MOBY}")
    profile, _ = load(MOBY)
    assert profile is not None
    effective = resolve(profile, machine, caps, (6, 1))
    assert list(effective.architectures) == arches
    for optimize in ("tree", "linear"):
        found = verify(compile_effective(effective, optimize="tree" if optimize == "tree" else "linear"))
        assert found.differences == ()
        assert found.calls > 900


def test_the_table_of_dockers_profile() -> None:
    """Every name on every architecture, told from the text of the profile alone."""
    if not MOBY.exists():
        pytest.skip(f"no {MOBY}")
    profile, _ = load(MOBY)
    assert profile is not None
    seen = set()
    for machine in (Arch.X86_64, Arch.AARCH64):
        effective = resolve(profile, machine, DOCKER_CAPABILITIES, (6, 1))
        program = Program(compile_effective(effective).program)
        unconditional = {name for rule in effective.rules if not rule.args and rule.action is ProfileAction.ALLOW for name in rule.names}
        conditional = {name for rule in effective.rules if rule.args for name in rule.names}
        every = {name for rule in profile.rules for name in rule.names}
        for arch in effective.architectures:
            for name in every & numbers(arch).keys():
                call = numbers(arch)[name]
                verdict = verdict_of(program.run(arch.audit, call))
                seen.add((arch, name))
                if name in unconditional:
                    assert verdict == ALLOW, (arch, name)
                elif name == "clone3":
                    assert verdict == ProfileVerdict(ProfileAction.ERRNO, 38)
                elif name not in conditional:
                    assert verdict == EPERM, (arch, name)
    assert len({arch for arch, _ in seen}) == 5
    assert len(seen) > 1700


@pytest.mark.parametrize(
    ("call", "args", "expected"),
    [
        ("socket", (1,), ALLOW), ("socket", (38,), EPERM), ("socket", (39,), ALLOW), ("socket", (40,), EPERM), ("socket", (41,), ALLOW),
        ("personality", (0xFFFFFFFF,), ALLOW), ("personality", (1,), EPERM), ("clone", (0x11,), ALLOW), ("clone", (0x10000000,), EPERM),
        ("unshare", (), EPERM), ("mount", (), EPERM), ("keyctl", (), EPERM), ("bpf", (), EPERM), ("io_uring_setup", (), EPERM),
        ("chroot", (), ALLOW), ("ptrace", (), ALLOW), ("mseal", (), ALLOW), ("arch_prctl", (), ALLOW),
    ],
)  # fmt: skip
def test_arguments_of_dockers_profile(call: str, args: tuple[int, ...], expected: ProfileVerdict) -> None:
    if not MOBY.exists():
        pytest.skip(f"no {MOBY}")
    profile, _ = load(MOBY)
    assert profile is not None
    program = Program(compile_effective(resolve(profile, Arch.X86_64, DOCKER_CAPABILITIES, (6, 1))).program)
    given_args = (*args, *(0,) * (6 - len(args)))
    assert verdict_of(program.run(Arch.X86_64.audit, numbers(Arch.X86_64)[call], given_args)) == expected


# ---- the interpreter against the kernel ----

CHILD = """
import ctypes, json, sys
given = json.load(sys.stdin)
code = bytes.fromhex(given["program"])
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
kept = ctypes.create_string_buffer(code, len(code))
program = Program(len(code) // 8, ctypes.addressof(kept))
assert libc.prctl(38, 1, 0, 0, 0) == 0
loaded = libc.syscall(ctypes.c_long(given["seccomp"]), 1, 0, ctypes.byref(program))
assert loaded == 0, ctypes.get_errno()
found = []
for args in given["calls"]:
    result = libc.syscall(ctypes.c_long(given["getppid"]), *map(ctypes.c_ulong, args))
    found.append(ctypes.get_errno() if result == -1 else 0)
print(json.dumps(found))
"""


@settings(max_examples=12, deadline=None)
@given(st.lists(st.lists(arguments(), min_size=1, max_size=3), min_size=1, max_size=4), st.booleans())
def test_the_kernel_decides_as_the_interpreter_does(conditions: list[list[Arg]], own: bool) -> None:
    """getppid ignores its arguments, so that any can be tried."""
    machine = Arch.native()
    if not machine.supported or not sys.platform.startswith("linux"):
        pytest.skip("needs a machine of the table")
    rules = tuple(allow("getppid", args=tuple(args), action=ProfileAction.ERRNO) for args in conditions)
    effective = resolve(Profile(default_action=ProfileAction.ALLOW, rules=rules))
    getppid = numbers(machine)["getppid"]
    compiled = compile_effective(effective, wrong={(machine, getppid)}) if own else compile_verified(effective)
    calls = list(argument_tuples([arg for args in conditions for arg in args], 60))
    given_to = {
        "program": compiled.program.hex(),
        "calls": calls,
        "getppid": getppid,
        "seccomp": numbers(machine)["seccomp"],
    }
    done = subprocess.run([sys.executable, "-c", CHILD], input=json.dumps(given_to), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    program = Program(compiled.program)
    expected = [verdict_of(program.run(machine.audit, getppid, args)) for args in calls]
    assert json.loads(done.stdout) == [verdict.data if verdict.action is ProfileAction.ERRNO else 0 for verdict in expected]
