# SPDX-License-Identifier: Apache-2.0
"""A profile on one machine in, the classic BPF program that the kernel takes out.

Called by the CLI and by what applies filters. Rules go to libseccomp architecture by architecture, as runc and crun would give them, with
one difference (which `interpret.verify` checks): calls that the installed libseccomp does not know are decided by a few instructions in
front of its program, where runtimes skip them. So are calls that libseccomp gets wrong: before 2.6.1 (`libseccomp.MENDED`), several 64-bit
comparisons on one argument of a call may shadow each other. `interpret.compile_verified` finds them.
"""

from __future__ import annotations

import errno as errno_module
import itertools
import struct
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from typing import Final, Literal

import msgspec

from bpfence.errors import CompileError, Diagnostic
from bpfence.seccomp import libseccomp
from bpfence.seccomp.model import Arg, ArgOp, Effective, Profile, ProfileAction, ProfileFlag, ProfileRule, ProfileVerdict
from bpfence.seccomp.profile import DOCKER_CAPABILITIES, resolve
from bpfence.syscalls.architectures import ARCHES, X32_BIT, Arch
from bpfence.syscalls.table import available, known, multiplexed, name, number, numbers

MAX_INSTRUCTIONS: Final = 4096
MAX_CONDITIONS: Final = 1000
"""Most argument conditions of one call on one architecture. Far fewer than these fill the kernel's limit."""
LIBRARY_CONDITIONS: Final = 100
"""Most argument conditions of a call that libseccomp is given: its time grows with more than their cube (for 200, libseccomp 2.5.4 takes a
second; for 400, half a minute)."""
LIBRARY_CHAINS: Final = 8
"""Most rules with several conditions each of a call that libseccomp is given: its time doubles with every three (40 take twelve seconds).

A call with more of either is decided in front of libseccomp's program.
"""
TREE_RULES: Final = 32
"""runc's threshold. With fewer calls a list is as fast as a tree, and no tree is made that libseccomp up to 2.5.4 gets wrong."""
BAD_ARCH: Final = ProfileVerdict(ProfileAction.KILL_THREAD)
"""What libseccomp's filters, and so runtimes, do with calls of an architecture that is not in the profile."""
ENOSYS: Final = ProfileVerdict(ProfileAction.ERRNO, errno_module.ENOSYS)
FLAG_BITS: Final = {ProfileFlag.TSYNC: 1, ProfileFlag.LOG: 2, ProfileFlag.SPEC_ALLOW: 4, ProfileFlag.WAIT_KILLABLE_RECV: 32}
NEW_LISTENER: Final = 8
Optimize = Literal["auto", "tree", "linear"]

# include/uapi/linux/bpf_common.h; offsets into struct seccomp_data of include/uapi/linux/seccomp.h.
LD_W_ABS: Final = 0x20
JA: Final = 0x05
JEQ: Final = 0x15
JGT: Final = 0x25
JGE: Final = 0x35
AND_K: Final = 0x54
RET_K: Final = 0x06
SHORT: Final = 255
SKIPPED: Final = 0xFFFFFFFF
"""The number -1, by which a tracer skips a call. It belongs to no architecture; libseccomp gives it the default."""
NUMBER: Final = 0
ARCH: Final = 4
ARGUMENTS: Final = 16


class FilterClause(msgspec.Struct, frozen=True):
    """Conditions that must all hold, with a verdict. Without conditions: every call of that name."""

    args: tuple[Arg, ...]
    verdict: ProfileVerdict
    rule: ProfileRule


class CompiledFilter(msgspec.Struct, frozen=True, kw_only=True):
    """A filter and what it was made of. `program` is struct sock_filter after struct sock_filter, in this machine's byte order.

    `flags` are bits for seccomp(2); `own` are the calls, as `arch/name`, that are not left to libseccomp; `unknown` are names that Linux
    does not have, which are left out as runtimes leave them out.
    """

    program: bytes
    flags: int
    effective: Effective
    own: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    tree: bool = False

    @property
    def length(self) -> int:
        """How many instructions it has."""
        return len(self.program) // 8

    @property
    def needs_listener(self) -> bool:
        """Whether it hands some call to a supervisor."""
        return (
            any(rule.action is ProfileAction.NOTIFY for rule in self.effective.rules)
            or self.effective.default.action is ProfileAction.NOTIFY
        )


def compile_filter(
    profile: Profile,
    arch: Arch | None = None,
    caps: Collection[str] = DOCKER_CAPABILITIES,
    kernel: tuple[int, int] | None = None,
    *,
    optimize: Optimize = "auto",
    enosys: bool = False,
) -> CompiledFilter:
    """The filter of a profile on a machine; see `profile.resolve`. CompileError where libseccomp or the kernel would refuse it,
    KernelError without libseccomp."""
    return compile_effective(resolve(profile, arch, caps, kernel, enosys=enosys), optimize=optimize)


def compile_effective(effective: Effective, *, optimize: Optimize = "auto", wrong: Collection[ArchCall] = ()) -> CompiledFilter:
    """The filter of a profile that was resolved already. Calls of `wrong` are not left to libseccomp."""
    tree = _as_tree(effective, optimize)
    with ExitStack() as stack:
        context, unknown = _contexts(effective, stack)
        if tree:
            context.tree()
        program = context.program()
    own = {arch: _own(effective, arch, unknown | set(wrong)) for arch in effective.architectures if arch.supported}
    prologue = _prologue(effective, own)
    program = prologue + program
    if len(program) > 8 * MAX_INSTRUCTIONS:
        what = f"the filter has {len(program) // 8} instructions; the kernel takes {MAX_INSTRUCTIONS}"
        hint = "use fewer argument conditions, or list fewer architectures"
        raise CompileError([Diagnostic(effective.profile.location, what, hint, code="filter-limit")])
    return CompiledFilter(
        program=program,
        flags=sum(FLAG_BITS[flag] for flag in set(effective.flags)),
        effective=effective,
        own=tuple(f"{arch.name.lower()}/{name(arch, call) or call}" for arch, calls in own.items() for call in calls),
        unknown=tuple(dict.fromkeys(call for rule in effective.rules for call in rule.names if not known(call))),
        tree=tree,
    )


def pseudo_code(effective: Effective, *, optimize: Optimize = "auto") -> str:
    """The filter as libseccomp writes it for people; what stands in front of its program comes first, as comments."""
    with ExitStack() as stack:
        context, unknown = _contexts(effective, stack)
        if _as_tree(effective, optimize):
            context.tree()
        text = context.pseudo_code()
    front = "# in front of libseccomp's program:"
    lines = [f"{front} {name(arch, call)} ({arch.name.lower()} {call})" for arch, call in _in_order(unknown)]
    if effective.enosys:
        lines.append("# in front: ENOSYS for numbers above the greatest of the profile")
    return "\n".join([*lines, text])


def _in_order(calls: Collection[ArchCall]) -> list[ArchCall]:
    return sorted(calls, key=lambda call: (call[0].name, call[1]))


def _as_tree(effective: Effective, optimize: Optimize) -> bool:
    names = sum(len(rule.names) for rule in effective.rules if rule.verdict != effective.default)
    return names > TREE_RULES if optimize == "auto" else optimize == "tree" and names > 0


# ---- clauses ----

ArchCall = tuple[Arch, int]


def clauses(effective: Effective, arch: Arch) -> Iterator[tuple[str, FilterClause]]:
    """Names and clauses of the calls that an architecture has, in the order of the profile. Rules whose verdict is the default are left
    out, as runtimes do; conditions are cut to the width of the architecture."""
    for rule in effective.rules:
        if rule.verdict == effective.default:
            continue
        for call in rule.names:
            if available(arch, call):
                for args in rule.on(arch.bits):
                    yield call, FilterClause(args, rule.verdict, rule)


def _own(effective: Effective, arch: Arch, wanted: Collection[ArchCall]) -> dict[int, list[FilterClause]]:
    """The clauses of some numbers, multiplexed ones included."""
    by_number: dict[int, list[FilterClause]] = {call: [] for other, call in sorted(wanted, key=lambda c: c[1]) if other is arch}
    for call, clause in clauses(effective, arch) if by_number else ():
        through = multiplexed(arch, call)
        if through is not None and (multiplexer := number(arch, through[0])) in by_number:
            args = (Arg(0, ArgOp.EQ, through[1]), *(arg for arg in clause.args if arg.index))
            by_number[multiplexer].append(FilterClause(args, clause.verdict, clause.rule))
        direct = number(arch, call)
        if direct in by_number:
            by_number[direct].append(clause)
    return by_number


def always_holds(arg: Arg, bits: int) -> bool | None:
    """Whether every argument of that width fulfils a condition (True), or none does (False); None: it depends on the argument."""
    most = (1 << bits) - 1
    cut = arg.on(bits)
    match cut.op:
        case ArgOp.LT:
            return False if cut.value == 0 else None
        case ArgOp.LE:
            return True if cut.value == most else None
        case ArgOp.GE:
            return True if cut.value == 0 else None
        case ArgOp.GT:
            return False if cut.value == most else None
        case ArgOp.MASKED_EQ:
            return True if cut.is_none else None
        case _:
            return None


# ---- libseccomp ----


def _contexts(effective: Effective, stack: ExitStack) -> tuple[libseccomp.FilterContext, set[ArchCall]]:
    """One context for all architectures, and the calls that libseccomp does not know."""
    first: libseccomp.FilterContext | None = None
    unknown: set[ArchCall] = set()
    if not effective.architectures[0].supported:
        what = f"filters for {effective.architectures[0].value} cannot be made: there is no table of its system calls"
        hint = "supported machines: " + ", ".join(arch.name.lower() for arch in ARCHES)
        raise CompileError([Diagnostic(effective.profile.location, what, hint, code="not-covered")])
    # Architectures without a table belong to other machines. Their calls cannot come; if they did, libseccomp's filter would kill the
    # thread.
    for arch in (arch for arch in effective.architectures if arch.supported):
        context = stack.enter_context(libseccomp.FilterContext(effective.default, arch, BAD_ARCH))
        distinct = list(_distinct(effective, arch))
        heavy = _heavy(distinct)
        for call, clause in distinct:
            if call in heavy:
                unknown |= _numbers_of(arch, call)
            elif _known_to_library(arch, call):
                _add(context, call, clause)
            else:
                unknown.add((arch, numbers(arch)[call]))
        if first is None:
            first = context
        else:
            first.merge(context)
    assert first is not None
    return first, unknown


def too_heavy(effective: Effective) -> dict[str, ProfileRule]:
    """The calls with more conditions than libseccomp can be given, each with its last rule."""
    heavy: dict[str, ProfileRule] = {}
    for arch in effective.architectures:
        if arch.supported:
            heavy |= _heavy(list(_distinct(effective, arch)))
    return heavy


def _heavy(by_call: list[tuple[str, FilterClause]]) -> dict[str, ProfileRule]:
    chains = Counter(call for call, clause in by_call if len(clause.args) > 1)
    conditions: Counter[str] = Counter()
    for call, clause in by_call:
        conditions[call] += len(clause.args)
    heavy = {call for call in conditions if chains[call] > LIBRARY_CHAINS or conditions[call] > LIBRARY_CONDITIONS}
    return {call: clause.rule for call, clause in by_call if call in heavy}


def _numbers_of(arch: Arch, call: str) -> set[ArchCall]:
    """A call's own number, and its multiplexer's."""
    through = multiplexed(arch, call)
    wanted = (number(arch, call), number(arch, through[0]) if through else None)
    return {(arch, call_number) for call_number in wanted if call_number is not None}


def _distinct(effective: Effective, arch: Arch) -> Iterator[tuple[str, FilterClause]]:
    """The clauses without repetitions. CompileError where one call has too many."""
    seen: set[tuple[str, tuple[tuple[int, ArgOp, int, int], ...], ProfileVerdict]] = set()
    conditions: Counter[str] = Counter()
    total = 0
    for call, clause in clauses(effective, arch):
        key = (call, tuple((arg.index, arg.op, arg.value, arg.value_two) for arg in clause.args), clause.verdict)
        if key in seen:
            continue
        seen.add(key)
        conditions[call] += len(clause.args)
        total += len(clause.args)
        if conditions[call] > MAX_CONDITIONS or total > MAX_INSTRUCTIONS:
            what = f"{call} has more than {MAX_CONDITIONS} argument conditions"
            if total > MAX_INSTRUCTIONS:
                what = f"the profile has more than {MAX_INSTRUCTIONS} argument conditions, and the kernel takes as many instructions"
            raise CompileError([Diagnostic(clause.rule.place(call), what, "compare ranges instead of values", code="filter-limit")])
        yield call, clause


def _known_to_library(arch: Arch, call: str) -> bool:
    call_number = libseccomp.number_of(arch, call)
    return call_number is not None and libseccomp.knows(call) and (call_number >= 0 or multiplexed(arch, call) is not None)


def _add(context: libseccomp.FilterContext, call: str, clause: FilterClause) -> None:
    try:
        context.add(call, clause.verdict, clause.args)
    except libseccomp.RuleError as error:
        if error.errno == errno_module.EEXIST:
            what = f"libseccomp refuses {call} with {clause.verdict}: an earlier rule with the same conditions has another action"
            code = "conflict"
        else:
            what, code = f"libseccomp refuses {call} with {clause.verdict}: {error}", "filter-differs"
        hint = "runtimes would not start the container: give each call one action for the same arguments"
        raise CompileError([Diagnostic(clause.rule.place(call), what, hint, code=code)]) from None


# ---- what stands in front of libseccomp's program ----


class _Code:
    """Instructions with labels. A conditional jump that is too far for its eight bits goes over a long jump."""

    def __init__(self) -> None:
        self.lines: list[
            tuple[int, int | str, str | None, str | None]
        ] = []  # code; k, or the label of a jump; where to go if true; where to go if false
        self.labels: dict[str, int] = {}  # label: the number of the line that follows

    def label(self) -> str:
        """A new label; `here` gives it its place."""
        name = f"L{len(self.labels)}"
        self.labels[name] = -1
        return name

    def here(self, label: str) -> None:
        self.labels[label] = len(self.lines)

    def emit(self, code: int, k: int) -> None:
        self.lines.append((code, k, None, None))

    def jump(self, label: str) -> None:
        self.lines.append((JA, label, None, None))

    def test(self, code: int, k: int, if_true: str | None, if_false: str | None) -> None:
        """A conditional jump. Without a label, execution goes on with the next instruction."""
        self.lines.append((code, k, if_true, if_false))

    def assembled(self) -> bytes:
        """The program. Tests grow until every jump reaches its target; they never shrink, so this ends."""
        long: set[int] = set()
        while True:
            sizes = [1 + sum(target is not None for target in line[2:]) if n in long else 1 for n, line in enumerate(self.lines)]
            starts = [0, *itertools.accumulate(sizes)]
            places = {label: starts[line] for label, line in self.labels.items()}
            far = {
                n
                for n, line in enumerate(self.lines)
                if n not in long and any(target is not None and places[target] - starts[n] - 1 > SHORT for target in line[2:])
            }
            if not far:
                return b"".join(self._line(n, starts[n], places, n in long) for n in range(len(self.lines)))
            long |= far

    def _line(self, n: int, at: int, places: dict[str, int], long: bool) -> bytes:
        code, k, if_true, if_false = self.lines[n]
        if isinstance(k, str):
            return struct.pack("=HBBI", code, 0, 0, places[k] - at - 1)
        if not long:
            offsets = (places[target] - at - 1 if target is not None else 0 for target in (if_true, if_false))
            return struct.pack("=HBBI", code, *offsets, k)
        targets = [target for target in (if_true, if_false) if target is not None]
        # The long jumps follow in this order. A side without one skips them.
        hops = (0 if if_true is not None else len(targets), len(targets) - (if_false is not None))
        jumps = b"".join(struct.pack("=HBBI", JA, 0, 0, places[target] - at - 2 - i) for i, target in enumerate(targets))
        return struct.pack("=HBBI", code, *hops, k) + jumps


_MAIN: Final = "main"


def _prologue(effective: Effective, own: dict[Arch, dict[int, list[FilterClause]]]) -> bytes:
    """Instructions that decide the calls of `own` and those above the greatest number. All others go on to what follows."""
    supported = [arch for arch in effective.architectures if arch.supported]
    greatest = {arch: greatest_number(effective, arch) for arch in supported} if effective.enosys else {}
    if not any(own.values()) and not any(greatest.values()):
        return b""
    code = _Code()
    by_audit: dict[int, list[Arch]] = {}
    for arch in supported:
        if own.get(arch) or greatest.get(arch):
            by_audit.setdefault(arch.audit, []).append(arch)
    code.emit(LD_W_ABS, ARCH)
    for audit, arches in by_audit.items():
        following = code.label()
        code.test(JEQ, audit, None, following)
        code.emit(LD_W_ABS, NUMBER)
        for arch in sorted(arches, key=lambda a: a is not Arch.X32):
            _numbers(code, effective, arch, own.get(arch, {}), greatest.get(arch) or None)
        code.jump(_MAIN)
        code.here(following)
    code.here(_MAIN)
    return code.assembled()


def greatest_number(effective: Effective, arch: Arch) -> int:
    """The greatest number on an architecture of a call that the rules which hold name; 0 where there is none."""
    call_numbers = (number(arch, call) for rule in effective.rules for call in rule.names)
    return max((n for n in call_numbers if n is not None), default=0)


def _numbers(code: _Code, effective: Effective, arch: Arch, calls: dict[int, list[FilterClause]], greatest: int | None) -> None:
    """The calls of one architecture. The number is in the accumulator, here and at every exit."""
    after = code.label()
    if arch is Arch.X32:
        code.test(JGE, X32_BIT, None, after)
        code.test(JEQ, SKIPPED, _MAIN, None)
    elif arch is Arch.X86_64:
        code.test(JGE, X32_BIT, _MAIN, None)  # x32's, or of no architecture of the profile: libseccomp tells which
    if calls:
        beyond = code.label() if greatest else after
        code.test(JGE, min(calls), None, beyond)
        for call, call_clauses in sorted(calls.items()):
            following = code.label()
            code.test(JEQ, call, None, following)
            _decide(code, effective, arch, call_clauses)
            code.here(following)
        if greatest:
            code.here(beyond)
    if greatest:
        code.test(JGT, greatest, None, after)
        code.emit(RET_K, ENOSYS.ret)
    code.here(after)


def _decide(code: _Code, effective: Effective, arch: Arch, call_clauses: list[FilterClause]) -> None:
    """Return the verdict of a call: that of its first clause without conditions, else of the first whose conditions hold, else the
    default."""
    for clause in call_clauses:
        if not clause.args:
            code.emit(RET_K, clause.verdict.ret)
            return
    for clause in call_clauses:
        following = code.label()
        for arg in clause.args:
            _condition(code, arg, arch, following)
        code.emit(RET_K, clause.verdict.ret)
        code.here(following)
    code.emit(RET_K, effective.default.ret)


_JUMPS: Final = {
    ArgOp.EQ: (JEQ, True),
    ArgOp.NE: (JEQ, False),
    ArgOp.GT: (JGT, True),
    ArgOp.LE: (JGT, False),
    ArgOp.GE: (JGE, True),
    ArgOp.LT: (JGE, False),
}
"""Comparison → the jump that tests it on 32 bits, and whether it holds where the jump is taken."""


def _condition(code: _Code, arg: Arg, arch: Arch, otherwise: str) -> None:
    """Go on if an argument fulfils a condition, else jump. Little endian, as all architectures of the table are."""
    low = ARGUMENTS + 8 * arg.index
    halves = [(low + 4, arg.value >> 32, arg.value_two >> 32)] if arch.bits == 64 else []
    halves.append((low, arg.value & 0xFFFFFFFF, arg.value_two & 0xFFFFFFFF))
    holds = code.label()
    if arg.op is ArgOp.MASKED_EQ:
        for offset, mask, datum in halves:
            code.emit(LD_W_ABS, offset)
            code.emit(AND_K, mask)
            code.test(JEQ, datum, None, otherwise)
        return
    for offset, value, _ in halves[:-1]:  # the upper half decides, unless it is the same
        code.emit(LD_W_ABS, offset)
        if arg.op in (ArgOp.GT, ArgOp.GE):
            code.test(JGT, value, holds, None)
            code.test(JEQ, value, None, otherwise)
        elif arg.op in (ArgOp.LT, ArgOp.LE):
            code.test(JGT, value, otherwise, None)
            code.test(JEQ, value, None, holds)
        elif arg.op is ArgOp.EQ:
            code.test(JEQ, value, None, otherwise)
        else:
            code.test(JEQ, value, None, holds)
    offset, value, _ = halves[-1]
    code.emit(LD_W_ABS, offset)
    test, wanted = _JUMPS[arg.op]
    code.test(test, value, None if wanted else otherwise, otherwise if wanted else None)
    code.here(holds)
