# SPDX-License-Identifier: Apache-2.0
"""A profile on one machine in, what happens to every system call, and why, out.

Called by `check`, `merge` and `bpfence seccomp explain`. `interpret.Reference` answers for one call with its arguments; this tells it for
all: a call is permitted, denied, or depends on its arguments, and which line of the profile says so.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from bpfence.seccomp import libseccomp
from bpfence.seccomp.filter import ENOSYS, always_holds, greatest_number
from bpfence.seccomp.interpret import Reference, argument_tuples, verdict_of
from bpfence.seccomp.model import Arg, ArgOp, Effective, ProfileRule, ProfileVerdict
from bpfence.syscalls.architectures import Arch
from bpfence.syscalls.table import multiplexed, number, numbers, signature

CallStatus = Literal["permitted", "denied", "conditional"]

MAX_TRIED: Final = 500
SIGNS: Final = {ArgOp.NE: "!=", ArgOp.LT: "<", ArgOp.LE: "<=", ArgOp.EQ: "==", ArgOp.GE: ">=", ArgOp.GT: ">"}


class Case(msgspec.Struct, frozen=True):
    """What happens under conditions that hold together. Without conditions: otherwise, or always. `through`: the first argument of the
    multiplexer."""

    args: tuple[Arg, ...]
    verdict: ProfileVerdict
    rule: ProfileRule | None = None
    through: int | None = None


class CallEntry(msgspec.Struct, frozen=True):
    """One call of one architecture. `cases` ends with one without conditions; `why` is where its verdict comes from."""

    arch: Arch
    name: str
    number: int
    cases: tuple[Case, ...]
    why: str

    @property
    def status(self) -> CallStatus:
        """Whether the call is made: always, never, or depending on its arguments."""
        permits = {case.verdict.action.permits for case in self.cases}
        return "conditional" if len(permits) > 1 else "permitted" if permits == {True} else "denied"

    @property
    def verdict(self) -> ProfileVerdict:
        """What happens where no condition holds."""
        return self.cases[-1].verdict

    def text(self) -> str:
        """`ALLOW if family < 38; else ERRNO(EPERM)`."""
        parts = [f"{case.verdict} if {conditions_text(self.name, case)}" for case in self.cases[:-1]]
        return "; ".join([*parts, f"else {self.verdict}" if parts else str(self.verdict)])


class CallTable:
    """The calls of all architectures of a filter."""

    def __init__(self, effective: Effective) -> None:
        self.effective = effective
        self._left: dict[str, list[str]] = {}
        for left in effective.left_out:
            for name in left.rule.names:
                self._left.setdefault(name, []).append(f"{self._line(left.rule, name)} does not hold ({left.reason})")
        self._rules: dict[str, list[ProfileRule]] = {}
        for rule in effective.rules:
            for name in dict.fromkeys(rule.names):
                self._rules.setdefault(name, []).append(rule)
        self._reference = Reference(effective)
        self._order = {id(rule): n for n, rule in enumerate(effective.rules)}
        self._statuses: dict[tuple[Arch, str], CallStatus | None] = {}
        self._entries: dict[Arch, dict[str, CallEntry]] = {}

    def entries(self, arch: Arch) -> dict[str, CallEntry]:
        """Every call of a supported architecture, by name, in the order of numbers."""
        if arch not in self._entries:
            through: dict[str, list[tuple[str, int]]] = {}
            for name in self._rules:
                multiplexer = multiplexed(arch, name)
                if multiplexer is not None:
                    through.setdefault(multiplexer[0], []).append((name, multiplexer[1]))
            greatest = greatest_number(self.effective, arch) if self.effective.enosys else 0
            ordered = sorted(numbers(arch).items(), key=lambda item: item[1])
            self._entries[arch] = {name: self._entry(arch, name, n, through.get(name, []), greatest) for name, n in ordered}
        return self._entries[arch]

    def entry(self, arch: Arch, name: str) -> CallEntry | None:
        """One call; None where the architecture has no such call of its own."""
        return self.entries(arch).get(name) if number(arch, name) is not None else None

    def status(self, arch: Arch, name: str) -> CallStatus | None:
        """Whether a call is made, if necessary through a multiplexer; None where the architecture does not have it."""
        if (arch, name) not in self._statuses:
            self._statuses[arch, name] = self._status(arch, name)
        return self._statuses[arch, name]

    def _status(self, arch: Arch, name: str) -> CallStatus | None:
        entry = self.entry(arch, name)
        if entry is not None:
            return entry.status
        multiplexer = multiplexed(arch, name)
        if multiplexer is None:
            return None
        outer = self.entries(arch)[multiplexer[0]]
        cases = [case for case in outer.cases if case.through in (None, multiplexer[1])]
        if not cases[0].args or (cases[0].through is not None and len(cases[0].args) == 1):
            return "permitted" if cases[0].verdict.action.permits else "denied"
        return "denied" if not any(case.verdict.action.permits for case in cases) else "conditional"

    def _entry(self, arch: Arch, name: str, call: int, inner: list[tuple[str, int]], greatest: int) -> CallEntry:
        cases: list[Case] = []
        for rule, through in self._about(arch, name, inner):
            if rule.verdict == self.effective.default:
                continue
            for alternative in rule.on(arch.bits):
                if through is not None:
                    alternative = (Arg(0, ArgOp.EQ, through), *(arg for arg in alternative if arg.index))
                if not alternative:
                    return CallEntry(arch, name, call, (Case((), rule.verdict, rule),), self._line(rule, name))
                if all(always_holds(arg, arch.bits) is not False for arg in alternative):
                    cases.append(Case(alternative, rule.verdict, rule, through))
        last = ENOSYS if greatest and call > greatest else self.effective.default
        cases, order = self._ordered(arch, call, cases)
        places = ", ".join(dict.fromkeys(self._line(case.rule, name) for case in cases if case.rule is not None))
        why = f"{places}{order}" or self._default(name, last)
        for n, case in enumerate(cases):
            if all(always_holds(arg, arch.bits) for arg in case.args):
                return CallEntry(arch, name, call, (*cases[:n], Case((), case.verdict, case.rule)), why)
        return CallEntry(arch, name, call, (*cases, Case((), last)), why)

    def _ordered(self, arch: Arch, call: int, cases: list[Case]) -> tuple[list[Case], str]:
        """The cases in the order in which libseccomp's filter decides, so that the first that holds counts; and a remark where the order
        matters."""
        if len({case.verdict for case in cases}) < 2:
            return cases, ""
        overlaps: list[tuple[list[int], tuple[int, ...]]] = []
        for args in argument_tuples([arg for case in cases for arg in case.args], MAX_TRIED):
            seen = [arg & (1 << arch.bits) - 1 for arg in args]
            holding = [n for n, case in enumerate(cases) if all(arg.holds(seen[arg.index]) for arg in case.args)]
            if len({cases[n].verdict for n in holding}) > 1:
                overlaps.append((holding, args))
        if not overlaps:
            return cases, ""
        program = self._reference.filter()
        if program is None:
            return cases, "; more than one may hold, and which counts depends on how libseccomp orders them"
        decided = [(holding, verdict_of(program.run(arch.audit, call, args))) for holding, args in overlaps]
        rank = list(range(len(cases)))
        for _ in cases:  # each round moves a case before those that it wins against; after as many rounds as cases nothing changes any more
            for holding, verdict in decided:
                winners = [n for n in holding if cases[n].verdict == verdict]
                first = min(winners, key=rank.index, default=None)
                losers = [n for n in holding if cases[n].verdict != verdict]
                if first is not None and any(rank.index(n) < rank.index(first) for n in losers):
                    rank.remove(first)
                    rank.insert(min(rank.index(n) for n in losers), first)
        ordered = [cases[n] for n in rank]
        if all(cases[min(holding, key=rank.index)].verdict == verdict for holding, verdict in decided):
            return ordered, f"; where more than one holds, the first counts (as libseccomp {libseccomp.version()} orders them)"
        return ordered, f"; where more than one holds, libseccomp {libseccomp.version()} takes now one, now the other"

    def _about(self, arch: Arch, name: str, inner: list[tuple[str, int]]) -> list[tuple[ProfileRule, int | None]]:
        """Rules about a call and, for a multiplexer, about the calls that go through it, in the order of the profile."""
        rules: list[tuple[ProfileRule, int | None]] = []
        rules += [(rule, None) for rule in self._rules.get(name, [])]
        rules += [(rule, through) for other, through in inner for rule in self._rules[other]]
        rules.sort(key=lambda pair: self._order[id(pair[0])])
        # A rule for every argument silences the others. Of several such rules the first counts.
        for rule, through in rules:
            if through is None and () in rule.on(arch.bits) and rule.verdict != self.effective.default:
                return [(rule, None)]
        return rules

    def _line(self, rule: ProfileRule, name: str) -> str:
        place = rule.place(name) if name in rule.names else rule.location
        return f"line {place.line}" if place.line else "a rule"

    def _default(self, name: str, verdict: ProfileVerdict) -> str:
        if verdict != self.effective.default:
            return "newer than the profile"
        same = [rule for rule in self._rules.get(name, []) if rule.verdict == self.effective.default]
        if same:
            return f"default ({self._line(same[0], name)} says the same)"
        left = self._left.get(name, [])
        return f"default; {'; '.join(left)}" if left else "default"


def conditions_text(name: str, case: Case) -> str:
    """Conditions in words: `family < 38`, with the names of arguments where they are known."""
    known = signature(name)
    words = []
    for arg in case.args:
        named = known.arguments[arg.index][0] if known is not None and arg.index < len(known.arguments) else f"arg{arg.index}"
        if arg.op is ArgOp.MASKED_EQ:
            words.append(f"({named} & {arg.value:#x}) == {arg.value_two:#x}")
        else:
            words.append(f"{named} {SIGNS[arg.op]} {_number(arg.value)}")
    return " and ".join(words) or "always"


def _number(value: int) -> str:
    return str(value) if value < 1024 else hex(value)
