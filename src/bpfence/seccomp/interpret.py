# SPDX-License-Identifier: Apache-2.0
"""A filter or a profile and a call in, what happens to the call out; and whether the two agree.

`Program` runs classic BPF as the kernel runs seccomp filters (kernel/seccomp.c, net/core/filter.c), after the same checks. `Reference`
tells what a profile says about a call, straight from its rules: slow and plainly right. `verify` compares the two for every number of every
architecture; where rules look at arguments, also for the values around every value that they compare with. `check` and `export` refuse a
filter on which the two differ.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from bpfence.errors import CompileError, Diagnostic, KernelError
from bpfence.seccomp import libseccomp
from bpfence.seccomp.filter import (
    BAD_ARCH,
    ENOSYS,
    MAX_INSTRUCTIONS,
    SKIPPED,
    ArchCall,
    CompiledFilter,
    Optimize,
    compile_effective,
    greatest_number,
)
from bpfence.seccomp.model import ARGUMENTS, MAX_ARGUMENT, RET, Arg, ArgOp, Effective, ProfileAction, ProfileRule, ProfileVerdict
from bpfence.syscalls.architectures import ARCHES, X32_BIT, Arch
from bpfence.syscalls.table import multiplexed, name, number, numbers

WORD: Final = 0xFFFFFFFF
DATA_SIZE: Final = 64
MEMORY: Final = 16
NO_ARGUMENTS: Final = (0,) * ARGUMENTS
MAX_TUPLES: Final = 3000
"""Most argument tuples that one call is tried with. Of more, a sample is taken, the same every time."""
MAX_TRIED: Final = 100_000
"""Most argument tuples of all calls. With many conditional calls each is tried with fewer, but at least with MIN_TUPLES."""
MIN_TUPLES: Final = 100
MAX_REPORTED: Final = 20

_ACTIONS: Final = {ret: action for action, ret in RET.items()}
_FULL: Final = 0xFFFF0000
# The kernel takes the smallest, as a signed number: kill process, kill thread, trap, errno, notify, trace, log, allow.
_SIGN: Final = 0x80000000


class ProgramError(ValueError):
    """The kernel would not take the program."""


def verdict_of(ret: int) -> ProfileVerdict:
    """What the kernel does for a returned value. It kills the process if it does not know the action."""
    action = _ACTIONS.get(ret & _FULL, ProfileAction.KILL_PROCESS)
    data = ret & 0xFFFF
    return ProfileVerdict(action, min(data, 4095) if action is ProfileAction.ERRNO else data if action is ProfileAction.TRACE else 0)


def precedence(rets: Iterable[int]) -> int:
    """The value that counts of what stacked filters return, in the order they were added: the one with the strictest action, and of several
    such the latest filter's.

    kernel/seccomp.c, seccomp_run_filters goes from the latest on and keeps a value unless a later one in that order is stricter.
    """
    result: int | None = None
    for ret in reversed(list(rets)):
        if result is None or _strictness(ret) < _strictness(result):
            result = ret
    return RET[ProfileAction.ALLOW] if result is None else result


def _strictness(ret: int) -> int:
    action = ret & _FULL
    return action - (1 << 32) if action & _SIGN else action


# ---- classic BPF ----

_LOADS: Final = {0x20, 0x80, 0x00, 0x60, 0x81, 0x01, 0x61}
_STORES: Final = {0x02, 0x03}
_MOVES: Final = {0x07, 0x87}
_ALU: Final = {0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0xA0}
_TESTS: Final = {0x10, 0x20, 0x30, 0x40}


class Program:
    """A filter that the kernel would take. ProgramError where it would not."""

    def __init__(self, code: bytes) -> None:
        if len(code) % 8 or not 8 <= len(code) <= 8 * MAX_INSTRUCTIONS:
            raise ProgramError(f"a filter has 1 to {MAX_INSTRUCTIONS} instructions of 8 bytes, not {len(code)} bytes")
        self.instructions = [(op, jt, jf, k) for op, jt, jf, k in struct.iter_unpack("=HBBI", code)]
        for at, instruction in enumerate(self.instructions):
            self._check(at, *instruction)
        if self.instructions[-1][0] not in (0x06, 0x16):
            raise ProgramError("the last instruction must return")

    def _check(self, at: int, op: int, jt: int, jf: int, k: int) -> None:
        left = len(self.instructions) - at - 1
        kind = op & 0x07
        if op in (0x06, 0x16) or op in _MOVES or op in (0x80, 0x81):
            return
        if op in _LOADS | _STORES:
            if op == 0x20 and (k >= DATA_SIZE or k & 3):
                raise ProgramError(f"instruction {at}: there is no word at {k} of struct seccomp_data")
            if op in (0x60, 0x61, 0x02, 0x03) and k >= MEMORY:
                raise ProgramError(f"instruction {at}: there is no memory {k}")
        elif kind == 0x04 and op & 0xF0 in _ALU and op <= 0xFF:
            if op == 0x34 and k == 0:
                raise ProgramError(f"instruction {at}: division by zero")
            if op in (0x64, 0x74) and k >= 32:
                raise ProgramError(f"instruction {at}: shift by {k}")
        elif op == 0x05:
            if k >= left:
                raise ProgramError(f"instruction {at}: jump behind the end")
        elif kind == 0x05 and op & 0xF0 in _TESTS and op <= 0xFF:
            if jt >= left or jf >= left:
                raise ProgramError(f"instruction {at}: jump behind the end")
        else:
            raise ProgramError(f"instruction {at}: seccomp does not know {op:#04x}")

    def run(self, audit: int, call: int, args: Sequence[int] = NO_ARGUMENTS, pointer: int = 0) -> int:
        """What the filter returns for a call: AUDIT_ARCH_*, number, six 64-bit arguments, instruction pointer."""
        return self.trace(audit, call, args, pointer)[0]

    def trace(self, audit: int, call: int, args: Sequence[int] = NO_ARGUMENTS, pointer: int = 0) -> tuple[int, int]:
        """The same, and how many instructions were executed."""
        words = struct.unpack("=16I", struct.pack("=IIQ6Q", call & WORD, audit, pointer & MAX_ARGUMENT, *args))
        program = self.instructions
        a = x = at = steps = 0
        memory = [0] * MEMORY
        while True:
            op, jt, jf, k = program[at]
            at += 1
            steps += 1
            if op == 0x20:
                a = words[k >> 2]
            elif op == 0x15:
                at += jt if a == k else jf
            elif op == 0x35:
                at += jt if a >= k else jf
            elif op == 0x25:
                at += jt if a > k else jf
            elif op == 0x06:
                return k, steps
            elif op == 0x05:
                at += k
            elif op & 0x07 == 0x05:
                other = x if op & 0x08 else k
                test = op & 0xF0
                held = a == other if test == 0x10 else a > other if test == 0x20 else a >= other if test == 0x30 else bool(a & other)
                at += jt if held else jf
            elif op & 0x07 == 0x04:
                if op & 0x08 and op & 0xF0 == 0x30 and x == 0:
                    return 0, steps  # the kernel ends the program with 0 here
                a = _computed(op & 0xF0, a, x if op & 0x08 else k)
            elif op == 0x16:
                return a, steps
            else:
                a, x = _moved(op, k, a, x, memory)

    def __len__(self) -> int:
        return len(self.instructions)


def _computed(what: int, a: int, b: int) -> int:
    match what:
        case 0x00:
            return a + b & WORD
        case 0x10:
            return a - b & WORD
        case 0x20:
            return a * b & WORD
        case 0x30:
            return a // b
        case 0x40:
            return a | b
        case 0x50:
            return a & b
        case 0x60:
            return a << (b & 31) & WORD
        case 0x70:
            return a >> (b & 31)
        case 0x80:
            return -a & WORD
        case _:
            return a ^ b


def _moved(op: int, k: int, a: int, x: int, memory: list[int]) -> tuple[int, int]:
    match op:
        case 0x00:
            return k, x
        case 0x01:
            return a, k
        case 0x60:
            return memory[k], x
        case 0x61:
            return a, memory[k]
        case 0x80:
            return DATA_SIZE, x
        case 0x81:
            return a, DATA_SIZE
        case 0x02:
            memory[k] = a
        case 0x03:
            memory[k] = x
        case 0x07:
            return a, a
        case 0x87:
            return x, x
    return a, x


# ---- what a profile says ----


class ProfileVerdicts(msgspec.Struct, frozen=True):
    """What a profile says about one call. `verdicts` has more than one where rules contradict each other and none of them decides alone;
    `rules` are those that match, in order."""

    verdicts: tuple[ProfileVerdict, ...]
    rules: tuple[ProfileRule, ...] = ()

    @property
    def verdict(self) -> ProfileVerdict:
        """The verdict; of several, the strictest."""
        return min(self.verdicts, key=lambda verdict: _strictness(verdict.ret))

    @property
    def ambiguous(self) -> bool:
        """Whether it depends on the order in which libseccomp keeps conditions."""
        return len(self.verdicts) > 1


class Reference:
    """What a profile says about calls, on the architectures of its filter."""

    def __init__(self, effective: Effective) -> None:
        self.effective = effective
        self.rules = [rule for rule in effective.rules if rule.verdict != effective.default]
        self.by_call: dict[ArchCall, list[tuple[ProfileRule, int | None, tuple[tuple[Arg, ...], ...]]]] = {}
        for arch in effective.architectures:
            if arch.supported:
                self._collect(arch)
        self.greatest = {arch: greatest_number(effective, arch) for arch in effective.architectures if arch.supported}
        self._filter: Program | None = None
        self._compiled = False

    def _collect(self, arch: Arch) -> None:
        for rule in self.rules:
            alternatives = rule.on(arch.bits)
            for call in rule.names:
                direct, through = number(arch, call), multiplexed(arch, call)
                # libseccomp writes the rule for the multiplexer before the one for the call itself.
                if through is not None:
                    multiplexer = number(arch, through[0])
                    assert multiplexer is not None
                    self.by_call.setdefault((arch, multiplexer), []).append((rule, through[1], alternatives))
                if direct is not None:
                    self.by_call.setdefault((arch, direct), []).append((rule, None, alternatives))

    def conditions(self, arch: Arch, call: int) -> list[Arg]:
        """The conditions that may matter for a number, with those on the first argument of a multiplexer."""
        about = self.by_call.get((arch, call), ())
        multiplexers = sorted({through for _, through, _ in about if through is not None})
        own = (arg for _, _, alternatives in about for alternative in alternatives for arg in alternative)
        return [*(Arg(0, ArgOp.EQ, through) for through in multiplexers), *own]

    def verdicts(self, audit: int, call: int, args: Sequence[int] = NO_ARGUMENTS) -> ProfileVerdicts:
        """What the profile says about a call: AUDIT_ARCH_*, number and six arguments."""
        arch = self.arch(audit, call)
        if arch is None:
            return ProfileVerdicts((BAD_ARCH,))
        if call == SKIPPED:
            return ProfileVerdicts((self.effective.default,))
        seen = tuple(arg & (1 << arch.bits) - 1 for arg in args)
        matching = [(rule, wide) for rule, wide in self._matching(arch, call, seen)]
        for rule, wide in matching:
            if wide:
                return ProfileVerdicts((rule.verdict,), tuple(r for r, _ in matching))
        verdicts = tuple(dict.fromkeys(rule.verdict for rule, _ in matching))
        if not verdicts:
            above = self.effective.enosys and self.greatest.get(arch, 0) and call > self.greatest[arch]
            return ProfileVerdicts((ENOSYS if above else self.effective.default,))
        return ProfileVerdicts(verdicts, tuple(rule for rule, _ in matching))

    def decide(self, audit: int, call: int, args: Sequence[int] = NO_ARGUMENTS) -> ProfileVerdict:
        """What runtimes do with the call: where rules contradict each other, what libseccomp's filter does; without it, the strictest."""
        verdicts = self.verdicts(audit, call, args)
        program = self.filter() if verdicts.ambiguous else None
        return verdicts.verdict if program is None else verdict_of(program.run(audit, call, args))

    def filter(self) -> Program | None:
        """The filter that runtimes make; None without libseccomp, and where it refuses the profile."""
        if not self._compiled:
            self._compiled = True
            with contextlib.suppress(CompileError, KernelError):
                self._filter = Program(compile_effective(self.effective).program)
        return self._filter

    def arch(self, audit: int, call: int) -> Arch | None:
        """The architecture of the profile that a call belongs to."""
        for arch in self.effective.architectures:
            shared = audit == Arch.X86_64.audit and call != SKIPPED
            if arch.supported and arch.audit == audit and not (shared and (arch is Arch.X32) != (call >= X32_BIT)):
                return arch
        return None

    def _matching(self, arch: Arch, call: int, args: Sequence[int]) -> Iterator[tuple[ProfileRule, bool]]:
        """Rules that match, and whether they match whatever the arguments are. Such a rule silences the others: libseccomp keeps only it,
        and of several the first."""
        for rule, sub, alternatives in self.by_call.get((arch, call), ()):
            if sub is None:
                if any(all(arg.holds(args[arg.index]) for arg in alternative) for alternative in alternatives):
                    yield rule, () in alternatives
            # Of a call through a multiplexer, the conditions are on the multiplexer's own arguments; one on the first argument is dropped.
            elif args[0] == sub and any(all(arg.holds(args[arg.index]) for arg in rest if arg.index) for rest in alternatives):
                yield rule, False


# ---- whether they agree ----


class Difference(msgspec.Struct, frozen=True):
    """A call for which a filter and its profile say different things."""

    arch: str
    call: str
    args: tuple[int, ...]
    filter: ProfileVerdict
    profile: tuple[ProfileVerdict, ...]

    def __str__(self) -> str:
        shown = ", ".join(hex(arg) for arg in self.args)
        said = " or ".join(str(verdict) for verdict in self.profile)
        return f"{self.call}({shown}) on {self.arch}: the filter gives {self.filter}, the profile says {said}"


class Verified(msgspec.Struct, frozen=True):
    """How many calls were tried, on which the two differ (the first few of them), and all numbers that this concerns."""

    calls: int
    differences: tuple[Difference, ...]
    wrong: frozenset[ArchCall] = frozenset()
    elsewhere: bool = False  # whether they differ on an architecture that is not in the profile


def verify(compiled: CompiledFilter) -> Verified:
    """Compare a filter with its profile: for every number of every architecture, numbers next to them, and other architectures. For calls
    with argument conditions, with every combination of the values that matter."""
    reference = Reference(compiled.effective)
    program = Program(compiled.program)
    tried = 0
    differing: list[Difference] = []
    wrong: set[ArchCall | None] = set()
    conditional = sum(1 for arch, call in reference.by_call if reference.conditions(arch, call))
    most = max(MIN_TUPLES, min(MAX_TUPLES, MAX_TRIED // max(conditional, 1)))
    for arch_name, audit, call in _calls(compiled.effective):
        arch = reference.arch(audit, call)
        for args in argument_tuples(reference.conditions(arch, call), most) if arch else (NO_ARGUMENTS,):
            tried += 1
            ret = program.run(audit, call, args)
            said = reference.verdicts(audit, call, args)
            if all(ret != verdict.ret for verdict in said.verdicts):
                wrong.add((arch, call) if arch else None)
                if len(differing) < MAX_REPORTED:
                    text = (name(arch, call) if arch else None) or f"call {call & ~X32_BIT if call >= X32_BIT else call}"
                    differing.append(Difference(arch_name, text, tuple(args), verdict_of(ret), said.verdicts))
    return Verified(tried, tuple(differing), frozenset(call for call in wrong if call is not None), None in wrong)


def compile_verified(effective: Effective, *, optimize: Optimize = "auto") -> CompiledFilter:
    """A filter that means what its profile says. What libseccomp gets wrong is decided in front of its program; CompileError where
    the filter still differs."""
    compiled = compile_effective(effective, optimize=optimize)
    verified = verify(compiled)
    if verified.wrong and not verified.elsewhere:
        compiled = compile_effective(effective, optimize=optimize, wrong=verified.wrong)
        verified = verify(compiled)
    if verified.differences:
        raise CompileError(_diagnostics(verified, effective, "do not use the filter; this is a fault of libseccomp or of bpfence"))
    return compiled


def differences(effective: Effective, *, optimize: Optimize = "auto") -> list[Diagnostic]:
    """What this libseccomp would get wrong about a profile for runtimes."""
    verified = verify(compile_effective(effective, optimize=optimize))
    hint = f"bpfence's own filter is right; for runtimes, use fewer comparisons on one argument of the call, or {libseccomp.MENDED}"
    return _diagnostics(verified, effective, hint)


def _diagnostics(verified: Verified, effective: Effective, hint: str) -> list[Diagnostic]:
    seen: set[tuple[str, str]] = set()
    diagnostics: list[Diagnostic] = []
    for difference in verified.differences:
        if (difference.arch, difference.call) in seen:
            continue
        seen.add((difference.arch, difference.call))
        rules = [rule for rule in effective.rules if difference.call in rule.names]
        place = rules[-1].place(difference.call) if rules else effective.profile.location
        diagnostics.append(Diagnostic(place, str(difference), hint, code="filter-differs"))
    return diagnostics


def _calls(effective: Effective) -> Iterator[tuple[str, int, int]]:
    """Architecture, AUDIT_ARCH_* and number of every call that is worth trying."""
    for arch in effective.architectures:
        if not arch.supported:
            continue
        named = set(numbers(arch).values())
        base = X32_BIT if arch is Arch.X32 else 0
        tried = named | {n + 1 for n in named} | {n - 1 for n in named if n > base} | {base, base + 1000, base + 0x3FFFFFFF}
        for call in sorted(tried):
            yield arch.name.lower(), arch.audit, call
    others = [arch for arch in ARCHES if arch not in effective.architectures]
    for arch in others:
        for known in ("read", "execve"):
            yield arch.name.lower(), arch.audit, numbers(arch)[known]
    yield "s390x", 0x80000016, 3
    yield effective.architectures[0].name.lower(), effective.architectures[0].audit, WORD


def boundaries(conditions: Iterable[Arg]) -> dict[int, list[int]]:
    """For every argument that conditions look at, the values around which their answer may change."""
    values: dict[int, set[int]] = {}
    for arg in conditions:
        wanted = values.setdefault(arg.index, {0, MAX_ARGUMENT, WORD, WORD + 1})
        for value in {arg.value, arg.value_two, arg.value ^ MAX_ARGUMENT, arg.value | arg.value_two}:
            low, high = value & WORD, value >> 32
            wanted |= {value + step & MAX_ARGUMENT for step in (-1, 0, 1)}
            wanted |= {low | upper << 32 for upper in (0, high + 1 & WORD, high - 1 & WORD)}
            wanted |= {high << 32 | lower for lower in (low + 1 & WORD, low - 1 & WORD)}
        if arg.op is ArgOp.MASKED_EQ:
            wanted |= {arg.value_two | ~arg.value & MAX_ARGUMENT, arg.value_two ^ arg.value & -arg.value}
    return {index: sorted(of_argument) for index, of_argument in sorted(values.items())}


def argument_tuples(conditions: Sequence[Arg], most: int = MAX_TUPLES) -> Iterator[tuple[int, ...]]:
    """Argument tuples for conditions: all combinations of boundary values, or about as many as `most` of them."""
    values = boundaries(conditions)
    total = 1
    for of_argument in values.values():
        total *= len(of_argument)
    if total <= most:
        for chosen in itertools.product(*values.values()):
            yield _tuple(values, chosen)
        return
    chance = random.Random(total)
    singles = [(index, value) for index, of_argument in values.items() for value in of_argument]
    for index, value in singles if len(singles) <= most else chance.sample(singles, most):
        yield _tuple({index: [value]}, (value,))
    for _ in range(most):
        yield _tuple(values, tuple(chance.choice(of_argument) for of_argument in values.values()))


def _tuple(values: dict[int, list[int]], chosen: Sequence[int]) -> tuple[int, ...]:
    args = [0] * ARGUMENTS
    for index, value in zip(values, chosen, strict=True):
        args[index] = value
    return tuple(args)
