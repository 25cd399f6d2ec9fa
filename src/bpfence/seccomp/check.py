# SPDX-License-Identifier: Apache-2.0
"""A profile that can be read in, what is wrong with it out.

Called by `bpfence seccomp check`. The passes are functions of the profile on one machine: rules against each other, their arguments,
architectures, what others need of the profile, what gets around it, listeners and flags. The last one compares the filter itself with the
profile, by the interpreter. An error is what makes a profile mean something else than it says, or keeps it from starting; a warning is what
its author will not have meant; the rest is information.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final

from bpfence.errors import CompileError, Diagnostic, KernelError, Location
from bpfence.seccomp import libseccomp
from bpfence.seccomp.filter import LIBRARY_CHAINS, LIBRARY_CONDITIONS, always_holds, too_heavy
from bpfence.seccomp.findings import Findings
from bpfence.seccomp.interpret import argument_tuples, differences
from bpfence.seccomp.model import (
    ARGUMENTS,
    MAX_ARGUMENT,
    Arg,
    ArgOp,
    Effective,
    MachineConditions,
    Profile,
    ProfileAction,
    ProfileFlag,
    ProfileRule,
)
from bpfence.seccomp.profile import DOCKER_CAPABILITIES, resolve
from bpfence.seccomp.runtimes import SETTINGS, WITH, WITHOUT, DenialKind, described, failing, kind_of, needs, runtime_names
from bpfence.seccomp.table import CallTable, Case, conditions_text
from bpfence.syscalls.architectures import Arch
from bpfence.syscalls.arguments import NARROW, POINTERS
from bpfence.syscalls.table import (
    DANGEROUS,
    FALLS_BACK,
    FAMILIES,
    HANDLES,
    IO_URING,
    LIBC_NEEDS,
    SOCKETCALL,
    STARTS_IO_URING,
    all_names,
    available,
    known,
    signature,
)
from bpfence.words import quoted, suggest

SINCE_LIBSECCOMP_2_6: Final = frozenset({Arch.M68K, Arch.SH, Arch.SHEB})
MAX_NAMES: Final = 10
MAX_PAIRS: Final = 4000
MAX_TRIES: Final = 200_000
"""How many argument tuples rules are tried with, all rules together. Only absurd profiles need more."""
MAX_SUGGESTIONS: Final = 100
"""For how many unknown names the nearest of 500 names is looked for, which takes a few milliseconds each."""
ENOSYS: Final = 38
EACCES: Final = 13

ESSENTIAL: Final = frozenset({
    "execve", "brk", "mmap", "mprotect", "munmap", "openat", "pread64", "newfstatat", "arch_prctl", "set_tid_address", "set_robust_list",
    "rseq", "prlimit64", "getrandom", "access", "exit_group", "futex",
})  # fmt: skip
"""The calls of LIBC_NEEDS without which no dynamically linked program of today's Debian or Fedora starts undisturbed."""

# Calls that 32-bit architectures have beside the 64-bit one, or in place of it; and the other way round.
TWINS: Final = {
    "mmap": ("mmap2",), "lseek": ("_llseek",), "select": ("_newselect",), "getrlimit": ("ugetrlimit",), "newfstatat": ("fstatat64",),
    "fadvise64": ("fadvise64_64",), "sendfile": ("sendfile64",),
}  # fmt: skip

OLDER: Final = {
    "getdents64": "getdents", "clone3": "clone", "statx": "newfstatat", "faccessat2": "faccessat", "epoll_pwait2": "epoll_wait",
    "close_range": "clone", "pidfd_open": "clone",
}  # fmt: skip
"""New call → the older one; permission for that shows that the new one is meant, too."""


class Machine:
    """What the passes work on: a profile on one machine, and their findings."""

    def __init__(self, effective: Effective, findings: Findings) -> None:
        self.effective = effective
        self.profile = effective.profile
        self.findings = findings
        self.arch = effective.architectures[0]
        self.arches = [arch for arch in effective.architectures if arch.supported]
        self.table = CallTable(effective)
        self.tries = MAX_TRIES

    @property
    def place(self) -> Location:
        """Where findings about the whole profile are placed."""
        return self.profile.location

    @property
    def denies_by_default(self) -> bool:
        """Whether calls that are not listed are denied."""
        return not self.effective.default.action.permits


def check(
    profile: Profile,
    arch: Arch | None = None,
    caps: Collection[str] = DOCKER_CAPABILITIES,
    kernel: tuple[int, int] | None = None,
    *,
    quick: bool = False,
) -> list[Diagnostic]:
    """Everything that is wrong with a profile on a machine, in the order of the text; `quick`: but for what only its filter shows."""
    findings = Findings()
    machine = Machine(resolve(profile, arch, caps, kernel), findings)
    for examine in PASSES:
        if not (quick and examine is filters):
            examine(machine)
    return list(dict.fromkeys(findings.sorted()))


def _listed(names: Iterable[str]) -> str:
    all_names = list(names)
    return ", ".join(all_names[:MAX_NAMES]) + (f" and {len(all_names) - MAX_NAMES} more" if len(all_names) > MAX_NAMES else "")


# ---- names ----


def unknown_names(machine: Machine) -> None:
    """Names that are no system call, and those that the installed libseccomp does not know."""
    suggestions = 0
    for rule in machine.profile.rules:
        skipped: list[str] = []
        for name, place in zip(rule.names, rule.places or (rule.location,) * len(rule.names), strict=False):
            if not known(name):
                effect = "so it is denied" if rule.action.permits and machine.denies_by_default else "so the rule has no effect on it"
                what = f"Linux has no system call {quoted(name)}: runtimes skip it without a word, {effect}"
                suggestions += 1
                near = suggest(name, all_names()) if suggestions <= MAX_SUGGESTIONS else ""
                machine.findings.add(place, "unknown-syscall", what, near or "look it up in syscalls(2)")
            elif not _library_knows(name):
                skipped.append(name)
        if skipped:
            what = f"libseccomp {libseccomp.version()} does not know {_listed(skipped)}: runtimes built on it skip them without a word"
            machine.findings.note(rule.place(skipped[0]), "runtime-skips", what, "bpfence's own filters cover them")


def _library_knows(name: str) -> bool:
    try:
        return libseccomp.knows(name)
    except KernelError:
        return True


def duplicate_names(machine: Machine) -> None:
    """One name twice in one rule."""
    for rule in machine.profile.rules:
        seen: dict[str, Location] = {}
        for name, place in zip(rule.names, rule.places, strict=False):
            if name in seen:
                what = f"{name} was already given on line {seen[name].line}"
                machine.findings.warn(place, "duplicate-name", what, "remove one of them")
            seen.setdefault(name, place)


# ---- rules against each other ----


def rules_against_each_other(machine: Machine) -> None:
    """Rules that repeat, silence or contradict each other, and rules that say what the default says."""
    default = machine.profile.default
    deciding = [rule for rule in machine.profile.rules if rule.verdict != default]
    by_name: dict[str, list[ProfileRule]] = {}
    for rule in deciding:
        for name in dict.fromkeys(rule.names):
            by_name.setdefault(name, []).append(rule)
    for rule in machine.profile.rules:
        if rule.verdict == default:
            _default_entry(machine, rule, by_name)
    pairs = 0
    for name, rules in by_name.items():
        for n, later in enumerate(rules):
            for earlier in rules[:n]:
                pairs += 1
                if pairs > MAX_PAIRS:
                    return
                if _together(earlier, later) and _pair(machine, name, earlier, later):
                    break


def _default_entry(machine: Machine, rule: ProfileRule, by_name: dict[str, list[ProfileRule]]) -> None:
    what = f"{rule.verdict} is the default: runtimes leave the rule out, and it denies nothing that another rule lets through"
    if rule.action.permits:
        what = f"{rule.verdict} is the default: runtimes leave the rule out"
    hint = "remove it"
    if rule.action is ProfileAction.ERRNO:
        hint += "; a denial that counts beside other rules needs another errnoRet than the default"
    machine.findings.warn(rule.location, "default-entry", what, hint)
    for name in dict.fromkeys(rule.names):
        other = next((r for r in by_name.get(name, []) if _together(rule, r) and _holds_wherever(r, rule)), None)
        if other is not None and not rule.args:
            what = f"{name} gets {other.verdict} all the same, from line {other.place(name).line}"
            machine.findings.add(rule.place(name), "shadowed", what, "remove the name from one of the two rules")


def _together(rule: ProfileRule, other: ProfileRule) -> bool:
    """Whether both may hold on one machine, as far as that can be told."""
    if rule.includes == other.includes and rule.excludes == other.excludes:
        return True
    return not (rule.includes or rule.excludes) or not (other.includes or other.excludes)


def _holds_wherever(rule: ProfileRule, other: ProfileRule) -> bool:
    """Whether `rule` holds on every machine on which `other` does."""
    return not (rule.includes or rule.excludes) or (rule.includes == other.includes and rule.excludes == other.excludes)


def _pair(machine: Machine, name: str, earlier: ProfileRule, later: ProfileRule) -> bool:
    """Report what is wrong about two rules for one name. Returns whether something was."""
    place, line = later.place(name), earlier.place(name).line
    findings = machine.findings
    if earlier.verdict == later.verdict:
        if (_unconditional(machine, earlier) or _same(earlier, later)) and _holds_wherever(earlier, later):
            findings.warn(place, "duplicate-rule", f"{name} already gets {later.verdict} from line {line}", "remove it here")
            return True
        if _unconditional(machine, later) and _holds_wherever(later, earlier):
            what = f"the conditions on {name} have no effect: line {place.line} gives it {later.verdict} whatever its arguments"
            if earlier.includes or earlier.excludes:
                what = f"{name} gets {later.verdict} from line {place.line} on every machine, whatever its arguments: this adds nothing"
                findings.warn(earlier.place(name), "duplicate-rule", what, "remove it here")
                return True
            hint = f"remove the name from line {place.line} if the conditions are meant, and from here if they are not"
            findings.add(earlier.place(name), "shadowed", what, hint)
            return True
        return False
    alone = [_unconditional(machine, rule) for rule in (earlier, later)]
    if all(alone):
        if not _holds_wherever(earlier, later):
            return False
        what = f"{name} already gets {earlier.verdict} from line {line}: of rules for the same arguments the first counts"
        findings.add(place, "shadowed", what, "remove the name from one of the two rules")
        return True
    if any(alone):
        wide, narrow = (earlier, later) if alone[0] else (later, earlier)
        if not _holds_wherever(wide, narrow):
            return False
        what = f"{narrow.verdict} for {name} has no effect: line {wide.place(name).line} gives {wide.verdict} whatever the arguments,"
        what += " and libseccomp keeps only that"
        findings.add(narrow.place(name), "shadowed", what, "give the other rule the opposite conditions")
        return True
    both = _both_match(machine, earlier, later)
    if both is not None:
        shown = ", ".join(hex(arg) for arg in both)
        what = f"{name}({shown}) matches this rule with {later.verdict} and line {line} with {earlier.verdict}:"
        what += " which one counts depends on how libseccomp orders the conditions"
        findings.add(place, "conflict", what, "make the conditions exclude each other")
        return True
    return False


def _same(rule: ProfileRule, other: ProfileRule) -> bool:
    def key(compared: ProfileRule) -> set[frozenset[tuple[int, str, int, int]]]:
        return {frozenset((a.index, a.op.value, a.value, a.value_two) for a in alternative) for alternative in compared.on()}

    return key(rule) == key(other)


def _tuples(machine: Machine, args: Sequence[Arg]) -> Iterator[tuple[int, ...]]:
    """Argument tuples that matter for conditions, while there are tries left; a few in any case."""
    for arguments in argument_tuples(args, 500 if machine.tries > 0 else 5):
        machine.tries -= 1 + len(args)
        yield arguments


def _both_match(machine: Machine, rule: ProfileRule, other: ProfileRule) -> tuple[int, ...] | None:
    """Arguments that both rules match on one of the architectures; None where there are none."""
    for bits in dict.fromkeys(arch.bits for arch in machine.arches):
        for args in _tuples(machine, [arg.on(bits) for arg in (*rule.args, *other.args)]):
            if rule.matches(args, bits) and other.matches(args, bits):
                return args
    return None


def _unconditional(machine: Machine, rule: ProfileRule) -> bool:
    """Whether libseccomp takes the condition for none at all."""
    return () in rule.on(machine.arch.bits)


# ---- arguments ----


def arguments(machine: Machine) -> None:
    """Conditions that mean something else than they seem to mean."""
    for rule in machine.profile.rules:
        if rule.args and rule.verdict != machine.profile.default:
            _as_a_whole(machine, rule)
            for arg in rule.args:
                _one_argument(machine, rule, arg)


def _as_a_whole(machine: Machine, rule: ProfileRule) -> None:
    findings = machine.findings
    if len(rule.args) > ARGUMENTS:
        what = f"crun reads the first {ARGUMENTS} of the {len(rule.args)} conditions only"
        findings.warn(rule.args[ARGUMENTS].location, "argument-ignored", what, "write more rules, with fewer conditions each")
    indices = [arg.index for arg in rule.args]
    twice = next((arg for n, arg in enumerate(rule.args) if arg.index in indices[:n]), None)
    if twice is not None:
        others = len(set(indices)) > 1
        what = f"index {twice.index} stands twice: then every condition of the rule counts by itself (OR)"
        what += ", those on other arguments included" if others else ""
        if all(rule.matches(args) for args in _tuples(machine, rule.args)):
            what += ", and together they match every call"
            hint = "no rule can ask two things of one argument at once: use a mask, or deny the rest with rules of their own"
            findings.add(twice.location, "arguments-or", what, hint)
        else:
            findings.warn(twice.location, "arguments-or", what, "write one rule for each alternative, to say so")
    for alternative in rule.alternatives:
        never = next((arg for arg in alternative if always_holds(arg, machine.arch.bits) is False), None)
        if never is not None:
            what = "no call fulfils this condition" if len(alternative) == 1 else "no call fulfils these conditions"
            findings.add(never.location, "never-matches", what, "compare with a value that the argument can have")


def _one_argument(machine: Machine, rule: ProfileRule, arg: Arg) -> None:
    findings = machine.findings
    if arg.op is ArgOp.MASKED_EQ and arg.value_two & ~arg.value:
        what = f"valueTwo has bits that are not in the mask ({arg.value_two & ~arg.value:#x}), and libseccomp drops them:"
        what += f" runtimes, and bpfence, {_compared(rule, arg)}"
        hint = "value is the mask, valueTwo what must remain: put the bits into value, too, or take them out of valueTwo"
        findings.add(arg.location, "argument-ignored", what, hint)
        if arg.on().is_none:
            return
    if always_holds(arg, 64):
        findings.warn(arg.location, "argument-ignored", "every call fulfils this condition", "remove it, or compare with something else")
        return
    narrow = [arch for arch in machine.arches if arch.bits == 32]
    if narrow and (arg.value > 0xFFFFFFFF or arg.on().value_two > 0xFFFFFFFF) and arg.value != MAX_ARGUMENT:
        names = _listed(arch.name.lower() for arch in narrow)
        what = f"arguments on {names} have 32 bits: there runtimes, and bpfence, {_compared(rule, arg, 32)}"
        hint = "compare with a value of 32 bits, or take the 32-bit architectures out of the profile"
        findings.warn(arg.location, "wide-argument", what, hint)
    for name in dict.fromkeys(rule.names):
        _argument_of(machine, rule, arg, name)


def _compared(rule: ProfileRule, arg: Arg, bits: int = 64) -> str:
    """What becomes of a condition where arguments have `bits` bits, as the end of a sentence."""
    cut = arg.on(bits)
    always = always_holds(arg, bits)
    if cut.is_none:
        return "compare nothing: every call fulfils the condition"
    end = "" if always is None else ", which every call fulfils" if always else ", which no call fulfils"
    return f"ask for {conditions_text(rule.names[0] if len(rule.names) == 1 else '', Case((cut,), rule.verdict))}{end}"


def _argument_of(machine: Machine, rule: ProfileRule, arg: Arg, name: str) -> None:
    findings = machine.findings
    call_signature = signature(name)
    if call_signature is None:
        return
    if arg.index >= len(call_signature.arguments):
        what = f"{name} has {len(call_signature.arguments)} arguments: number {arg.index} (from 0) is whatever the register holds"
        findings.warn(arg.location, "argument-ignored", what, "count arguments from 0")
        return
    argument, kind = call_signature.arguments[arg.index]
    if kind in POINTERS and not (arg.value == 0 and arg.op in (ArgOp.EQ, ArgOp.NE)):
        what = f"{argument} of {name} is an address: the filter compares the address, not what lies there"
        findings.warn(arg.location, "pointer-argument", what, "only NULL can be told: what a pointer leads to is for an LSM policy")
    elif kind in NARROW and machine.arch.bits == 64 and _upper_half_matters(rule, arg):
        what = f"the kernel takes the lower 32 bits of {argument} of {name}, the filter compares all 64: with a bit set in the upper half"
        what += " the call passes whatever the lower half says" if rule.action.permits else " the call gets past this rule"
        hint = "compare values with SCMP_CMP_EQ" if rule.action.permits else "use SCMP_CMP_MASKED_EQ with mask 4294967295"
        findings.warn(arg.location, "wide-argument", what, hint)
    elif kind in NARROW and machine.arch.bits == 64 and arg.op is ArgOp.EQ and rule.action.permits:
        what = f"the kernel takes the lower 32 bits of {argument} of {name}, the filter compares all 64: a call with anything in the upper"
        what += " half, which C libraries may leave there, is not permitted by this rule"
        findings.note(arg.location, "wide-argument", what, "SCMP_CMP_MASKED_EQ with mask 4294967295 compares the lower half alone")


def _upper_half_matters(rule: ProfileRule, arg: Arg) -> bool:
    """Whether garbage in the upper half lets a call through: it may make the condition of a permission true, or that of a denial false."""
    if arg.op is ArgOp.MASKED_EQ:
        return not rule.action.permits and arg.value > 0xFFFFFFFF
    if arg.value > 0xFFFFFFFF:
        return False
    return arg.op in ((ArgOp.NE, ArgOp.GT, ArgOp.GE) if rule.action.permits else (ArgOp.EQ, ArgOp.LT, ArgOp.LE))


# ---- conditions and architectures ----


def conditions(machine: Machine) -> None:
    """includes and excludes that no machine fulfils."""
    for rule in machine.profile.rules:
        reason = _contradiction(rule.includes, rule.excludes)
        if reason:
            machine.findings.warn(rule.location, "never-applies", f"the rule holds on no machine: {reason}", "remove one of the two")


def _contradiction(includes: MachineConditions, excludes: MachineConditions) -> str:
    caps = set(includes.caps) & set(excludes.caps)
    if caps:
        return f"it includes and excludes {min(caps)}"
    if includes.arches and set(includes.arches) <= set(excludes.arches):
        return f"it includes and excludes {includes.arches[0]}"
    if includes.min_kernel and excludes.min_kernel and excludes.min_kernel <= includes.min_kernel:
        return "it excludes every kernel that it includes"
    return ""


def architectures(machine: Machine) -> None:
    """Architectures that are added, cannot be handled, or lack what the profile names."""
    profile, findings = machine.profile, machine.findings
    if profile.architectures and machine.arch not in profile.architectures:
        what = f"the filter also covers {machine.arch.value}, this machine's own: libseccomp always adds it"
        findings.note(machine.place, "architecture-added", what, "use --arch to check for another machine")
    if profile.arch_map and all(entry.arch is not machine.arch for entry in profile.arch_map):
        what = f"archMap has no entry for {machine.arch.value}: the filter covers it alone"
        findings.note(machine.place, "architecture-added", what, "")
    for arch in machine.effective.architectures:
        if not arch.supported:
            what = f"{arch.value} is not examined, and bpfence's own filters leave it out: there is no table of its calls"
            hint = "take it out if the profile is not for such machines"
            if arch in SINCE_LIBSECCOMP_2_6:
                what += "; runtimes on a libseccomp before 2.6 refuse the profile"
            findings.note(machine.place, "not-covered", what, hint)
            continue
        wanted = dict.fromkeys(name for rule in machine.effective.rules if rule.verdict != profile.default for name in rule.names)
        missing = [name for name in wanted if known(name) and not available(arch, name)]
        if missing:
            what = f"{len(missing)} of {len(wanted)} names do not exist on {arch.name.lower()}: {_listed(missing)}"
            findings.note(machine.place, "missing-on-architecture", what, "the rules about them have no effect there")
        _twins(machine, arch)


def _twins(machine: Machine, arch: Arch) -> None:
    """On a 32-bit architecture, the calls that do what a permitted 64-bit one does and are denied."""
    if arch.bits != 32 or arch is Arch.X32 or not machine.denies_by_default or machine.arch.bits != 64:
        return
    lacking: list[str] = []
    for name, entry in machine.table.entries(machine.arch).items():
        if entry.status != "permitted":
            continue
        twins = (*TWINS.get(name, ()), f"{name}64", f"{name}32", f"{name}_time64")
        lacking += [twin for twin in twins if machine.table.status(arch, twin) == "denied"]
    if lacking:
        what = f"programs on {arch.name.lower()} use {_listed(lacking)} in place of calls that are allowed, and these are denied"
        machine.findings.warn(machine.place, "not-covered", what, f"allow them, too, or take {arch.value} out of the profile")


# ---- what others need ----


def runtimes(machine: Machine) -> None:
    """Calls that a container runtime makes between the filter and the program."""

    def denied(name: str) -> DenialKind | None:
        entry = machine.table.entry(machine.arch, name)
        kinds = {kind_of(case.verdict) for case in entry.cases} if entry is not None and entry.status == "denied" else {None}
        return kinds.pop() if len(kinds) == 1 else None

    stopped: dict[tuple[str, ...], dict[str, tuple[str, ...]]] = {}  # calls → runtime → settings in which it starts nothing
    for runtime in runtime_names():
        for names, settings in failing(runtime, denied).items():
            stopped.setdefault(names, {})[runtime] = settings
    told: dict[tuple[Location, str], list[str]] = {}
    for names, where in stopped.items():
        place, effect = _where(machine, names[0]), _stops(where)
        if len(names) > 1:  # one of these names is enough
            machine.findings.warn(place, "runtime-needs", f"{' and '.join(names)} are both denied: {effect}", f"allow {names[0]}")
        else:
            told.setdefault((place, effect), []).append(names[0])
    for (place, effect), single in told.items():
        what = f"{', '.join(single)} {'is' if len(single) == 1 else 'are'} denied: {effect}"
        machine.findings.warn(place, "runtime-needs", what, f"allow {', '.join(single)}")
    for runtime in runtime_names():
        told_already = {name for names, where in stopped.items() if runtime in where for name in names}
        kinds = {name: denied(name) for name in sorted(needs(runtime) - told_already)}
        rest = [name for name, kind in kinds.items() if kind is not None and not (kind == "ENOSYS" and name in FALLS_BACK)]
        if rest:
            what = f"{runtime} may call {_listed(rest)} after the filter is in force, and the profile denies it"
            hint = "none of them alone kept a container from starting when it was tried; it depends on version, no_new_privs and user"
            machine.findings.note(machine.place, "runtime-needs", what, hint)


def _stops(where: Mapping[str, tuple[str, ...]]) -> str:
    """Which containers do not start: the runtimes, and in which settings."""
    if set(where) == set(runtime_names()) and all(settings == SETTINGS for settings in where.values()):
        return f"no container starts ({' and '.join(map(described, where))})"
    manner = {SETTINGS: "", (WITH,): " with no_new_privs", (WITHOUT,): " without no_new_privs"}
    return "; ".join(f"{described(runtime)} starts no container{manner[settings]}" for runtime, settings in where.items())


def _where(machine: Machine, name: str) -> Location:
    """The place of the rule about a call; the beginning of the profile where there is none."""
    for rule in machine.effective.rules:
        if name in rule.names:
            return rule.place(name)
    return machine.place


def libraries(machine: Machine) -> None:
    """Calls of today's C libraries that are denied."""
    if not machine.denies_by_default:
        return
    for name, purpose in LIBC_NEEDS.items():
        entry = machine.table.entry(machine.arch, name)
        if entry is None or entry.status != "denied" or entry.verdict.action is ProfileAction.NOTIFY:
            continue
        if name in FALLS_BACK and _gives_enosys(entry.verdict.action, entry.verdict.data):
            continue
        hint = f"allow {name}"
        if name in FALLS_BACK:
            hint += f", or deny it with errnoRet {ENOSYS} (ENOSYS): after {entry.verdict} libraries do not try the older call"
        meant = name in OLDER and machine.table.status(machine.arch, OLDER[name]) in ("permitted", "conditional")
        severe = name in ESSENTIAL or meant
        what = f"{name} is denied: {purpose}"
        machine.findings.add(_where(machine, name), "libc-needs", what, hint, "warning" if severe else "info")


def _gives_enosys(action: ProfileAction, data: int) -> bool:
    return action is ProfileAction.ERRNO and data == ENOSYS


def defaults(machine: Machine) -> None:
    """A default that lets through what nobody listed."""
    if not machine.denies_by_default:
        what = f"the default is {machine.effective.default}: every call that is not listed passes, those of coming kernels included"
        machine.findings.warn(machine.place, "allows-all", what, "list what is needed, and make ERRNO the default")


# ---- what gets around ----


def ways_around(machine: Machine) -> None:
    """Calls that do the work of denied ones."""
    for arch in machine.arches:
        seen: set[str] = set()
        for name, place in _restricted(machine, arch):
            if name not in seen:
                seen.add(name)
                _relatives(machine, arch, name, place)
    _socketcall(machine)
    _io_uring(machine)
    _handles(machine)


def _restricted(machine: Machine, arch: Arch) -> Iterator[tuple[str, Location]]:
    """Calls that the profile denies by name, or permits under conditions only."""
    for rule in machine.effective.rules:
        for name in dict.fromkeys(rule.names):
            status = machine.table.status(arch, name)
            if (status == "denied" and not rule.action.permits) or status == "conditional":
                yield name, rule.place(name)


def _relatives(machine: Machine, arch: Arch, name: str, place: Location) -> None:
    family = next((family for family in FAMILIES if name in family), frozenset({name}))
    relatives = set(family) | {f"{name}{ending}" for ending in ("64", "32", "_time64")}
    conditional = machine.table.status(arch, name) == "conditional"
    if not (conditional or relatives & DANGEROUS or not machine.denies_by_default):
        return
    passing = sorted(other for other in relatives - {name} if _passes(machine, arch, other))
    if name in ("clone", "clone3"):
        passing = [other for other in passing if other not in ("fork", "vfork")]  # these make no namespaces
    if passing:
        verb = "passes" if len(passing) == 1 else "pass"
        manner = "only permitted under conditions" if conditional else "denied"
        what = f"{name} is {manner} on {arch.name.lower()}, and {_listed(passing)}, which can do the same, {verb}"
        machine.findings.warn(place, "gets-around", what, f"{_deny(machine, passing)}, too, or do not count on this rule")


def _deny(machine: Machine, names: Sequence[str]) -> str:
    """The hint to deny calls that pass. Where the default denies, one must stop allowing them: a rule that denies would have no effect."""
    return f"do not allow {_listed(names)}" if machine.denies_by_default else f"deny {_listed(names)}"


def _passes(machine: Machine, arch: Arch, name: str) -> bool:
    return machine.table.status(arch, name) == "permitted"


def _socketcall(machine: Machine) -> None:
    """Rules with conditions on socket calls, on architectures that also have socketcall."""
    if Arch.X86 not in machine.arches:
        return
    seen: set[str] = set()
    for rule in machine.effective.rules:
        for name in dict.fromkeys(rule.names):
            if name not in SOCKETCALL or name in seen or machine.table.status(Arch.X86, name) == "denied":
                continue
            outer = machine.table.entry(Arch.X86, "socketcall")
            if rule.args and outer is not None and outer.status != "denied":
                seen.add(name)
                what = f"32-bit programs can make {name} through socketcall, where its arguments lie in memory and no filter sees them:"
                what += " the conditions do not hold there"
                hint = "take SCMP_ARCH_X86 out of the profile, or deny socketcall"
                if machine.denies_by_default:
                    errno = EACCES if machine.effective.default.data == ENOSYS else ENOSYS
                    hint += f" by a rule of its own with errnoRet {errno}: rules about socket calls allow it, too, and a rule that says"
                    hint += " what the default says is left out"
                machine.findings.warn(rule.place(name), "socketcall", what, hint)


def _io_uring(machine: Machine) -> None:
    """Calls that are denied, and that io_uring makes all the same."""
    if not any(_passes(machine, machine.arch, name) for name in STARTS_IO_URING):
        return
    denied = [name for name in IO_URING if machine.table.status(machine.arch, name) in ("denied", "conditional")]
    if denied:
        place = _where(machine, "io_uring_setup")
        ops = _listed(f"{name} (IORING_OP_{IO_URING[name]})" for name in denied)
        what = f"io_uring_setup is allowed, and what a ring does passes no filter: it gets around the denial of {ops}"
        hint = f"{_deny(machine, ['io_uring_setup'])}, or restrict rings with an LSM policy"
        machine.findings.warn(place, "io-uring", what, hint)


def _handles(machine: Machine) -> None:
    """Opening by handle, where opening by name is restricted."""
    if _passes(machine, machine.arch, HANDLES[1]):
        restricted = [name for name, _ in _restricted(machine, machine.arch) if name in ("open", "openat", "openat2", "creat")]
        if restricted:
            what = f"{HANDLES[1]} opens files that {_listed(restricted)} may not, given CAP_DAC_READ_SEARCH"
            machine.findings.warn(_where(machine, HANDLES[1]), "gets-around", what, _deny(machine, HANDLES[1:]))


# ---- listeners and flags ----


def listeners(machine: Machine) -> None:
    """NOTIFY and TRACE, and the flags that go with them."""
    profile, findings = machine.profile, machine.findings
    notifying = [rule for rule in profile.rules if rule.action is ProfileAction.NOTIFY]
    if profile.default_action is ProfileAction.NOTIFY:
        findings.add(machine.place, "listener", "NOTIFY cannot be the default: runtimes refuse the profile", "name the calls")
    for rule in notifying:
        if "write" in rule.names:
            what = "runc cannot start a container whose write is NOTIFY: it hands the listener over with it"
            findings.add(rule.place("write"), "listener", what, "leave write out")
    if notifying and not profile.listener_path:
        what = "NOTIFY needs a listener: runtimes refuse a profile without listenerPath"
        findings.add(notifying[0].location, "listener", what, 'add "listenerPath", or use the profile with bpfence seccomp supervise')
    if profile.listener_path and not notifying and profile.default_action is not ProfileAction.NOTIFY:
        findings.warn(machine.place, "listener", "there is a listenerPath, and no rule with SCMP_ACT_NOTIFY", "remove it")
    flags = profile.effective_flags
    if ProfileFlag.WAIT_KILLABLE_RECV in flags and not notifying:
        what = f"{ProfileFlag.WAIT_KILLABLE_RECV.value} needs a listener: the kernel refuses it without one"
        findings.warn(machine.place, "bad-flag", what, "remove it")
    if ProfileFlag.TSYNC in flags and notifying:
        together = "go together since Linux 5.7 only, and only with a third flag that profiles cannot name"
        what = f"{ProfileFlag.TSYNC.value} and a listener {together}"
        findings.warn(machine.place, "bad-flag", what, "remove it: a container has one thread when its filter is loaded")
    tracing = [rule for rule in profile.rules if rule.action is ProfileAction.TRACE]
    place = tracing[0].location if tracing else machine.place
    if tracing or profile.default_action is ProfileAction.TRACE:
        what = "TRACE without a tracer fails the call with ENOSYS, and runtimes have none"
        findings.note(place, "trace-without-tracer", what, "use LOG to watch and ERRNO to deny")


# ---- the filter ----


def filters(machine: Machine) -> None:
    """Whether the filter can be made, and means what the profile says."""
    try:
        for name, rule in too_heavy(machine.effective).items():
            what = f"{name} has more than {LIBRARY_CHAINS} rules with several conditions each, or {LIBRARY_CONDITIONS} conditions in all:"
            what += " the time that libseccomp takes for them explodes, and runtimes may hang"
            hint = "bpfence's own filter decides the call by itself; use fewer rules"
            machine.findings.warn(rule.place(name), "filter-limit", what, hint)
        diagnostics = differences(machine.effective)
    except CompileError as error:
        diagnostics = list(error.diagnostics)
    except KernelError as error:
        machine.findings.warn(machine.place, "no-libseccomp", f"the filter was not made and not examined: {error}", error.hint)
        return
    for diagnostic in diagnostics:
        machine.findings.add(diagnostic.location, diagnostic.code, diagnostic.message, diagnostic.hint)


PASSES: Final[tuple[Callable[[Machine], None], ...]] = (
    unknown_names, duplicate_names, rules_against_each_other, arguments, conditions, architectures, runtimes, libraries, defaults,
    ways_around, listeners, filters,
)  # fmt: skip
"""The passes in order. `filters` comes last because it takes the longest."""
