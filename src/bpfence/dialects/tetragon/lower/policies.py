# SPDX-License-Identifier: Apache-2.0
"""A tracing policy in, the policy of the model that means the same out, and every part of it that cannot be put in force.

Called by the dialect. Each selector of a hook becomes a rule; that the first selector that matches decides is part of the rules'
conditions. A policy is lowered whole or not at all: what is not supported is an error with its place.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from enum import Enum
from functools import partial
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec
import re2

from bpfence import abi
from bpfence.conditions.containers import untold
from bpfence.conditions.sensors import is_call
from bpfence.conditions.values import conj, negation
from bpfence.dialects.tetragon import kinds
from bpfence.dialects.tetragon.lower import conditions, scopes, uprobes
from bpfence.dialects.tetragon.lower.conditions import UnsupportedError
from bpfence.dialects.tetragon.lower.hooks import Known, Parameter, Reads, known, name_of
from bpfence.dialects.tetragon.lower.sensors import UnreadableError, lsm_of, placed, result_of
from bpfence.dialects.tetragon.read import words
from bpfence.dialects.tetragon.read.checks import selectors_of
from bpfence.dialects.tetragon.read.model import Action as WrittenAction
from bpfence.dialects.tetragon.read.model import (
    Argument,
    ArgumentTest,
    Enforcer,
    Hook,
    Ignore,
    KProbe,
    LsmHook,
    NamedList,
    Selector,
    Spec,
    Tracepoint,
    TracingPolicy,
    UProbe,
    Usdt,
    Workloads,
)
from bpfence.documents.report import Report
from bpfence.errors import Location
from bpfence.fields import EVENT_BY_NAME
from bpfence.policy import FALSE, TRUE, Action, And, Atom, Condition, Op, Or, Policy, Probe, Rule, Way, atoms, turned
from bpfence.syscalls import table as syscalls
from bpfence.syscalls.architectures import Arch
from bpfence.words import quoted

LANGUAGE: Final = "tetragon"
_SEVERITY: Final = {Action.OBSERVE: "info", Action.AUDIT: "high", Action.DENY: "high", Action.KILL: "high"}
_REFUSED_ACTIONS: Final = {"Set": "arguments are not written yet"}
_REFUSED_FILTERS: Final = (("match_data", "matchData"),)
_SENSED: Final = (KProbe, Tracepoint, LsmHook, UProbe, Usdt)
_SIGKILL: Final = 9
MAX_GENERATED: Final = 512
"""How many functions a list of generated_ftrace may have."""
_PADDING: Final = "__pfx_"
"""What the names of the room in front of functions begin with, in which nothing runs."""
_PATTERN_BYTES: Final = 1 << 20
_COMPAT_CALLS: Final = ("i386/sys_", "__ia32_sys_")
"""What names of calls of the 32-bit table begin with."""
_EVERY_CALL: Final = "raw_syscalls/sys_enter"
"""The tracepoint where every system call is entered."""
_ENTERS: Final = "sys_enter_"
"""What the names of those begin with where one is."""
_DEFAULT_NAMESPACE: Final = "default"
"""Where objects are that name no namespace."""
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600}
"""Units of times."""
_FORMS: Final = {
    "lsmhooks": "process_lsm", "tracepoints": "process_tracepoint", "uprobes": "process_uprobe", "usdts": "process_usdt",
}  # fmt: skip
"""Members of events by the section of the hook."""


class Shown(NamedTuple):
    """An argument as events show it: what it is in the engine's event, type, label. `constant`, `field`: as of `hooks.Parameter`."""

    reads: Reads
    type: str
    label: str
    constant: int = 0
    field: str = ""


class Limit(NamedTuple):
    """Events with the same arguments are told once in so many seconds: of each thread, each process, or all, by `scope`."""

    seconds: int
    scope: str


class Sensor(NamedTuple):
    """What events of a rule say of its hook. `form`: the member of the event, one of "process_kprobe", "process_tracepoint", "process_lsm",
    "process_uprobe" and "process_usdt"; `function`: of a tracepoint its subsystem, "/" and its name; `action`: as events name
    it; `returns`: what the function returns is told, as the engine has decided it; `result`: the same as a sensor has seen it; `limit`: how
    often what is alike is told; `members`: of a program or library, in place of the function."""

    policy: str
    form: str
    function: str
    arguments: tuple[Shown, ...]
    action: str
    message: str
    tags: tuple[str, ...]
    returns: bool
    limit: Limit | None = None
    result: Shown | None = None
    return_action: str = "KPROBE_ACTION_POST"
    members: Mapping[str, str] = MappingProxyType({})


class Mode(Enum):
    """What a policy does with its actions: takes them, would take them, or has none but those that tell."""

    ENFORCE = "enforce"
    MONITOR = "monitor"
    MONITOR_ONLY = "monitor_only"


class Lowered(NamedTuple):
    """`sensors`: by the names of the rules."""

    policy: Policy
    sensors: Mapping[str, Sensor]
    mode: Mode


Functions = Callable[[], Collection[str]]
"""Tells the names of this kernel's functions; none where nobody tells them."""


def lower(policy: TracingPolicy, report: Report, *, monitors: bool | None = None, functions: Functions = tuple) -> Lowered:
    """The policy, as far as it could be made. What cannot be put in force is in the report. `monitors`: instead of its `policy-mode`.
    `functions`: asked where a list is to be generated of them."""
    lowering = _Lowering(policy, report, monitors, functions)
    made = lowering.run()
    if made.mode is Mode.MONITOR_ONLY and lowering.monitors:
        enforced = _Lowering(policy, Report(report.codes), False, functions).run()
        return made if enforced.mode is Mode.MONITOR_ONLY else made._replace(mode=Mode.MONITOR)
    return made


class _Done(NamedTuple):
    """What a rule does: the word for it in events, the errno, and the signal, 0: none but that of KILL."""

    action: Action
    told: str
    errno: int
    signal: int


class _Lowering:
    def __init__(self, policy: TracingPolicy, report: Report, monitors: bool | None, functions: Functions) -> None:
        self.policy = policy
        self.functions = functions
        self.spec: Spec = policy.spec
        self.report = report
        self.monitors = self.spec.option("policy-mode") == "monitor" if monitors is None else monitors
        self.rules: list[Rule] = []
        self.sensors: dict[str, Sensor] = {}
        self.probes: dict[int, Probe] = {}
        self.scope: Condition = TRUE
        self.enforced: frozenset[int] = frozenset()
        """The system calls of the enforcers, by their numbers."""
        self.workloads: list[Condition] = []

    def refuse(self, place: Location, what: str, hint: str = "") -> None:
        self.report.add(place, "not-supported", what, hint)

    def run(self) -> Lowered:
        self._whole()
        numbers: dict[str, int] = {}
        for section, hook in self.spec.hooks():
            numbers[section] = numbers.get(section, -1) + 1
            where = f"{section}[{numbers[section]}]"
            for name, one in self._listed(hook):
                self._hook(section, f"{where}{name}", one)
        place = self.policy.metadata.at("name")
        scope = self.scope
        if any(asked != TRUE for asked in self.workloads):
            scope = And((scope, Or(tuple(dict.fromkeys(self.workloads)))))  # written out: scopes say which containers are told apart
        selects = any(atom.op is Op.SELECTS for atom in atoms(scope))
        made = Policy(
            name=self.policy.name,
            severity="info",
            scope=scope,
            doubt=untold() if selects else FALSE,
            rules=tuple(self.rules),
            probes=tuple(self.probes.values()),
            location=place,
        )
        enforces = any(rule.action >= Action.DENY or rule.signal for rule in self.rules)
        return Lowered(made, self.sensors, Mode.ENFORCE if enforces else Mode.MONITOR_ONLY)

    def _scope(self, of: Spec | Workloads, namespace: str = "") -> Condition:
        try:
            return scopes.scope(of.pod_selector, of.container_selector, of.host_selector, namespace)
        except scopes.UnselectableError as problem:
            self.refuse(problem.place, str(problem), problem.hint)
            return TRUE

    def _whole(self) -> None:
        """What is about the whole policy."""
        spec = self.spec
        if spec.node_selector is not None:
            what = "nodeSelector is read, and cannot be put in force yet"
            self.refuse(spec.at("nodeSelector"), what, "leave it out: the policy is in force on every node that has it")
        namespace = ""
        if self.policy.kind == kinds.NAMESPACED_KIND:
            namespace = self.policy.metadata.namespace or _DEFAULT_NAMESPACE
        self.scope = self._scope(spec, namespace)
        if spec.loader:
            self.refuse(spec.at("loader"), "loads of libraries are not reported yet", "leave loader out")
        self.enforced = frozenset(number for enforcer in spec.enforcers for number in self._calls(enforcer))

    def _listed(self, hook: Hook) -> Iterator[tuple[str, Hook]]:
        """A hook; of one on a list of functions one for each, with what sets its rules' names apart. So of one on a program or library."""
        if isinstance(hook, UProbe):
            yield from uprobes.each(hook)
            return
        name = hook.call.removeprefix("list:") if isinstance(hook, KProbe) and hook.call.startswith("list:") else ""
        found = next((one for one in self.spec.lists if one.name == name), None) if name else None
        if found is None:
            yield "", hook
        elif found.type == "generated_syscalls":
            for call in syscalls.numbers(Arch.X86_64):
                one = msgspec.structs.replace(hook, call=f"sys_{call}", syscall=True, ignore=Ignore(call_not_found=True))
                yield f".sys_{call}", one
        elif found.type == "generated_ftrace":
            for function in self._generated(found):
                yield f".{function}", msgspec.structs.replace(hook, call=function, syscall=False, ignore=Ignore(call_not_found=True))
        else:
            for function in found.values:
                yield f".{function}", msgspec.structs.replace(hook, call=function, syscall=found.type == "syscalls")

    def _generated(self, found: NamedList) -> list[str]:
        """The functions of this kernel that a list is generated of; none, and a finding, where there are none or too many."""
        options = re2.Options()
        options.max_mem, options.log_errors = _PATTERN_BYTES, False
        try:
            pattern = re2.compile(found.pattern, options)
        except re2.error:
            self.report.add(found.at("pattern"), "bad-value", f"{quoted(found.pattern)} is no pattern of RE2", "write one, such as ^ksys_")
            return []
        known = self.functions()
        names = sorted({name for name in known if "." not in name and not name.startswith(_PADDING) and pattern.search(name) is not None})
        if len(names) > MAX_GENERATED:
            what = f"pattern {quoted(found.pattern)} is about {len(names)} functions of this kernel, more than {MAX_GENERATED}"
            self.refuse(found.at("pattern"), what, "make it longer: each function is a sensor")
            return []
        if not names:
            what = (
                f"this kernel has no function that matches {quoted(found.pattern)}" if known else "this kernel does not tell its functions"
            )
            self.report.add(found.at("pattern"), "never-matches", what, "the list is generated again at each load", "warning")
        return names

    def _sensor(self, hook: Hook, *, returns: bool = False) -> Known | None:
        """A hook that a sensor makes an event of; None, and a finding, where none can. `returns`: when the function returns; else one that
        may refuse, where a selector asks for that and the hook can."""
        if isinstance(hook, Tracepoint) and hook.raw:
            self.refuse(hook.at("raw"), "raw tracepoints cannot be put in force yet", "leave raw out, and count fields of the format")
            return None
        if not isinstance(hook, _SENSED):
            return None
        try:
            at = (
                uprobes.placed(hook, returns=returns)
                if isinstance(hook, UProbe | Usdt)
                else placed(hook, self._tested(hook), returns=returns, refuses=not returns and self._refuses(hook))
            )
        except UnreadableError as problem:
            self.refuse(problem.place, str(problem), problem.hint)
            return None
        probe, found = at
        other = self.probes.get(probe.number, probe)
        if other.identity != probe.identity:
            what = f"the sensor on {probe.place} has by chance the number of the one on {other.place}"
            key = "call" if isinstance(hook, KProbe) else "hook" if isinstance(hook, LsmHook) else "event"
            self.refuse(hook.at(key), what, "add an argument of type nop to one of them")
            return None
        self.probes[probe.number] = other if probe.optional else probe  # one that cannot be done without is not optional
        return found

    def _refuses(self, hook: Hook) -> bool:
        """Whether the sensor of a hook of the LSM must be able to refuse."""
        return bool(lsm_of(hook)) and any(map(self._overrides, selectors_of(hook, self.spec)))

    def _overrides(self, selector: Selector) -> bool:
        return not self.monitors and any(one.action == "Override" for one in selector.match_actions)

    def _tested(self, hook: Hook) -> set[int]:
        """The arguments that filters of a hook are about."""
        return {self._argument(hook, test) for selector in selectors_of(hook, self.spec) for test in selector.match_args}

    def _hook(self, section: str, where: str, hook: Hook) -> None:
        selectors = selectors_of(hook, self.spec)
        waits = isinstance(hook, KProbe | UProbe) and hook.returns
        found = None if waits and any(map(_late, selectors)) else known(hook)
        late = False
        if found is None:
            if not isinstance(hook, _SENSED):
                self.refuse(hook.place, f"{section} are read, and cannot be put in force yet", "")
                return
            late = waits and not all(map(self._at_call, selectors or (Selector(place=hook.place),)))
            found = self._sensor(hook, returns=late)
            if found is None:
                return
        shown = self._arguments(section, hook, found)
        if isinstance(hook, KProbe):
            self._function(hook)
        if isinstance(hook, UProbe | Usdt):
            self._file(hook)
        earlier: list[Condition] = []
        for n, selector in enumerate(selectors or (Selector(place=hook.place),)):
            place = f"{where}.selectors[{n}]" if selectors else where
            condition = conj((self._selector(hook, found, selector), self._notified(hook, found, selector)))
            exact = [condition, *map(negation, earlier)]
            # The next one may not act where this one may be the first that matches.
            earlier.append(condition if selector.match_workloads is None else turned(condition, untold()))
            if not (late and self._at_call(selector)):
                exact = [found.also, *exact, *self._returned(hook, selector)]
                self._rule(section, place, hook, found, selector, conj(exact), shown)
            elif (at_call := self._sensor(hook)) is not None:
                exact = [at_call.also, *exact]
                self._rule(section, place, hook, at_call, selector, conj(exact), self._arguments(section, hook, at_call))

    def _at_call(self, selector: Selector) -> bool:
        """Whether a selector of a hook that waits for the return is decided without it: nobody is to be killed too late, or not at all,
        because the kernel misses a return."""
        kills = not self.monitors and any(one.action in ("Sigkill", "Signal", "NotifyEnforcer") for one in selector.match_actions)
        return (kills or self._overrides(selector)) and not _late(selector)

    def _returned(self, hook: Hook, selector: Selector) -> list[Condition]:
        """What a selector asks of what the function returns."""
        if not isinstance(hook, KProbe | UProbe):
            return []
        parameter, made = result_of(hook), list[Condition]()
        for test in selector.match_return_args:
            made += self._tried(test.place, partial(conditions.argument, parameter, test, self._values(test)))
        return made

    def _function(self, hook: KProbe) -> None:
        if hook.syscall and hook.args and (known(hook) is not None or not is_call(hook.call)):
            what = f"{hook.call} is no system call, and its arguments would be read as those of one"
            self.report.add(hook.at("syscall"), "bad-value", what, "write syscall: false")
        if hook.data:
            self.refuse(hook.at("data"), "data is read, and cannot be put in force yet", "leave it out")
        if hook.return_arg_action in ("TrackSock", "UntrackSock"):
            what = f"action {hook.return_arg_action} has no effect: {words.WITHOUT_EFFECT[hook.return_arg_action]}"
            self.report.add(hook.at("returnArgAction"), "useless", what, "leave it out", "warning")
        if known(hook) is not None and hook.returns and hook.return_arg is not None and hook.return_arg.kind not in words.INTEGERS:
            self.report.add(hook.return_arg.at("type"), "bad-value", f"{hook.call} returns a number", "write type: int")

    def _file(self, hook: UProbe | Usdt) -> None:
        if isinstance(hook, UProbe):
            for key, given in (("data", hook.data), ("binaryDigests", hook.binary_digests)):
                if given:
                    self.refuse(hook.at(key), f"{key} is read, and cannot be put in force yet", "leave it out")
        if hook.btf_path:
            what = "nothing is read by the types of this file yet"
            self.report.add(hook.at("btfPath"), "useless", what, "leave it out", "warning")

    def _arguments(self, section: str, hook: Hook, found: Known) -> tuple[Shown, ...]:
        shown = []
        for argument in hook.args:
            parameter = self._parameter(hook, found, argument)
            if parameter is not None and parameter.reads is not Reads.NOTHING:
                kind = parameter.types[0] if argument.type == "auto" else argument.kind
                shown.append(Shown(parameter.reads, kind, argument.label, parameter.constant, parameter.field))
        return tuple(shown)

    def _parameter(self, hook: Hook, found: Known, argument: Argument) -> Parameter | None:
        """What an argument is; None, and a finding, where it cannot be read."""
        if argument.type == "nop":
            return Parameter(Reads.NOTHING, ())
        parameter = found.parameters.get(argument.index)
        given = argument.resolve or argument.source or argument.btf_type or argument.size_arg_index or argument.return_copy
        given = given and not found.event.startswith("sensor.")  # those have been looked at where the sensor was made
        if parameter is None or given:
            can = ", ".join(f"{index} ({known.types[0]})" for index, known in found.parameters.items()) or "none"
            what = f"argument {argument.index} of {name_of(hook)} cannot be read yet" + (" in this way" if given else "")
            self.refuse(argument.place, what, f"arguments that can be are: {can}")
            return None
        if argument.type != "auto" and argument.kind not in parameter.types:
            what = f"argument {argument.index} of {name_of(hook)} has another type than {argument.type}"
            self.report.add(argument.at("type"), "bad-value", what, f"write type: {parameter.types[0]}")
            return None
        return parameter

    # ---- selectors ----

    def _selector(self, hook: Hook, found: Known, selector: Selector) -> Condition:
        for member, key in _REFUSED_FILTERS:
            if getattr(selector, member):
                self.refuse(selector.at(key), f"{key} is read, and cannot be put in force yet", "leave it out")
        if found.needs_file and not any(self._argument(hook, test) == 0 for test in selector.match_args):
            what = "a selector without a test on argument 0 is also about memory without a file, which is not reported yet"
            self.refuse(selector.place, what, "add a filter under matchArgs on argument 0")
        self._constants(hook, found, selector)
        parts: list[Condition] = []
        workloads = self._scope(selector.match_workloads) if selector.match_workloads is not None else TRUE
        self.workloads.append(workloads)
        parts.append(workloads)
        for pids in selector.match_pids:
            parts += self._tried(pids.place, partial(conditions.pids, pids))
        for binaries in selector.match_binaries:
            possible = self._possible(binaries.at("values"), binaries.operator, binaries.values)
            parts.append(conditions.binaries(msgspec.structs.replace(binaries, values=possible)))
        for binaries in selector.match_parent_binaries:
            possible = self._possible(binaries.at("values"), binaries.operator, binaries.values)
            parts += self._tried(binaries.place, partial(conditions.parent_binaries, msgspec.structs.replace(binaries, values=possible)))
        parts += map(conditions.capabilities, selector.match_capabilities)
        parts += map(conditions.capability_changes, selector.match_capability_changes)
        parts += map(conditions.namespaces, selector.match_namespaces)
        parts += map(conditions.namespace_changes, selector.match_namespace_changes)
        for test in selector.match_args:
            parts += self._test(hook, found, test)
        self._together(hook, found, selector)
        return conj(parts)

    def _together(self, hook: Hook, found: Known, selector: Selector) -> None:
        """Tell of tests on one mask that no mask passes all of."""
        tests = [test for test in selector.match_args if self._reads(hook, found, test) is Reads.ACCESS]
        if len(tests) < 2:
            return
        try:
            passed = [conditions.predicate(test.operator, self._values(test)) for test in tests]
        except UnsupportedError:
            return  # refused already
        alone = all(any(passes(mask) for mask in range(conditions.MASKS)) for passes in passed)
        if alone and not any(all(passes(mask) for passes in passed) for mask in range(conditions.MASKS)):
            what = f"no value of argument {tests[-1].index} passes this test and those before it"
            hint = "selectors are alternatives, the tests of one are all required"
            self.report.add(tests[-1].place, "never-matches", what, hint, "warning")

    def _reads(self, hook: Hook, found: Known, test: ArgumentTest) -> Reads:
        parameter = found.parameters.get(self._argument(hook, test))
        return parameter.reads if parameter is not None else Reads.NOTHING

    def _constants(self, hook: Hook, found: Known, selector: Selector) -> None:
        """Refuse a selector that is about other values of an argument than the one that the event has."""
        for index, parameter in found.parameters.items():
            if parameter.reads is not Reads.CONSTANT:
                continue
            tests = [test for test in selector.match_args if self._argument(hook, test) == index]
            if not any(self._only(parameter.constant, test) for test in tests):
                what = f"{name_of(hook)} is only put in force where argument {index} is {parameter.constant}"
                hint = f'add to matchArgs: {{index: {index}, operator: Equal, values: ["{parameter.constant}"]}}'
                self.refuse(selector.place, what, hint)

    def _only(self, constant: int, test: ArgumentTest) -> bool:
        try:
            return conditions.only(constant, test, self._values(test))
        except UnsupportedError:
            return False

    def _argument(self, hook: Hook, test: ArgumentTest) -> int:
        """The index of the argument that a filter is about; -1 where `read` has refused it."""
        if not test.args:
            if isinstance(hook, Tracepoint) and test.index < len(hook.args) and all(one.index != test.index for one in hook.args):
                return hook.args[test.index].index  # published policies count both ways
            return test.index
        return hook.args[test.args[0]].index if test.args[0] < len(hook.args) else -1

    def _test(self, hook: Hook, found: Known, test: ArgumentTest) -> list[Condition]:
        parameter = found.parameters.get(self._argument(hook, test))
        if parameter is None:
            return []  # the argument has been refused where it is declared
        if len(test.args) > 1:
            self.refuse(test.at("args"), "tests of two arguments cannot be put in force yet")
            return []
        if parameter.reads is Reads.CONSTANT:
            return []  # it asks for what the event is, or has been refused
        values = self._values(test)
        if parameter.reads in (Reads.FILE, Reads.NAME, Reads.PLACE) and test.operator.removeprefix("Not") in conditions.TEXT_OPS:
            values = self._possible(test.at("values"), test.operator, values)
        elif not test.operator.startswith("Not"):
            made = self._tried(test.place, partial(conditions.argument, parameter, test, values))
            if made == [FALSE]:
                what = f"no value of argument {test.index} passes {test.operator} with {', '.join(values)}: the selector matches nothing"
                self.report.add(test.place, "never-matches", what, "write another value, or leave the selector out", "warning")
            return made
        return self._tried(test.place, partial(conditions.argument, parameter, test, values))

    def _possible(self, place: Location, operator: str, values: tuple[str, ...]) -> tuple[str, ...]:
        """The values that some path passes a test with: the kernel's have no '/./' and the like, which reading links would mend."""
        possible = []
        for value in values:
            problem, hint = conditions.unlike_a_path(operator.removeprefix("Not"), value)
            if problem:
                what = f"operator {operator} with {quoted(value)} matches nothing: {problem}"
                self.report.add(place, "never-matches", what, hint, "warning")
            else:
                possible.append(value)
        return tuple(possible)

    def _values(self, test: ArgumentTest) -> tuple[str, ...]:
        made: list[str] = []
        for value in test.values:
            named = next((listed for listed in self.spec.lists if value == f"list:{listed.name}"), None)
            if named is not None and named.type == "syscalls":
                made += self._numbers(test.at("values"), named.values)
                continue
            if named is not None and named.type == "generated_syscalls":
                made += map(str, sorted(syscalls.numbers(Arch.X86_64).values()))
                continue
            if named is not None and named.type:
                self.refuse(test.at("values"), f"list {quoted(named.name)} of {named.type} cannot be put in force yet")
            made += named.values if named is not None else (value,)
        return tuple(made)

    def _numbers(self, place: Location, calls: Sequence[str]) -> Iterator[str]:
        """The numbers of system calls."""
        for call in calls:
            number = _call_number(call)
            if number is None:
                self.refuse(place, f"there is no system call {quoted(call)}")
            else:
                yield str(number)

    def _calls(self, enforcer: Enforcer) -> Iterator[int]:
        """The numbers of the system calls of an enforcer."""
        place = enforcer.at("calls")
        for call in enforcer.calls:
            named = next((listed for listed in self.spec.lists if call == f"list:{listed.name}"), None)
            if named is None:
                yield from map(int, self._numbers(place, (call,)))
            elif named.type == "generated_syscalls":
                yield from syscalls.numbers(Arch.X86_64).values()
            elif named.type == "generated_ftrace":
                self.refuse(place, f"list {quoted(named.name)} of {named.type} cannot be put in force yet")
            else:
                yield from map(int, self._numbers(place, named.values))

    def _notified(self, hook: Hook, found: Known, selector: Selector) -> Condition:
        """Of a selector that notifies enforcers: that the call which it is about is one of theirs."""
        if not any(one.action == "NotifyEnforcer" for one in selector.match_actions):
            return TRUE
        entered = _entered(hook)
        if entered is not None:
            return TRUE if entered in self.enforced else FALSE
        parameter = next((one for one in found.parameters.values() if one.types == ("syscall64",)), None)
        if parameter is None or name_of(hook) != _EVERY_CALL:
            what = "enforcers are notified where a system call is entered, and nowhere else"
            hint = f"use the tracepoint {_EVERY_CALL} with an argument of type syscall64, or kprobes of sys_ functions"
            self.refuse(selector.place, what, hint)
            return TRUE
        return Or(tuple(Atom(parameter.field, Op.RANGE, (number, number)) for number in sorted(self.enforced)))

    def _tried(self, place: Location, make: Callable[[], Condition]) -> list[Condition]:
        try:
            return [make()]
        except UnsupportedError as problem:
            self.refuse(place, str(problem))
            return []

    # ---- rules ----

    def _rule(
        self, section: str, where: str, hook: Hook, found: Known, selector: Selector, condition: Condition, shown: tuple[Shown, ...]
    ) -> None:
        action, told, errno, signal = self._actions((*selector.match_actions, *selector.match_return_actions))
        if action is Action.NONE:
            return
        returned = self._actions(selector.match_return_actions).told
        if self._overrides(selector) and not EVENT_BY_NAME[found.event].deniable:
            late = "what has returned cannot be overridden" if _late(selector) else ""
            what = late or f"{name_of(hook)} cannot be overridden: only what asks the LSMs can be refused"
            self.refuse(selector.place, what, "leave matchReturnArgs out" if late else "use Sigkill, or a hook of the LSM")
            return
        name = self.policy.name
        self.sensors[where] = Sensor(
            name,
            _FORMS.get(section, "process_kprobe"),
            name_of(hook),
            shown,
            f"KPROBE_ACTION_{told.upper()}",
            hook.message[:256],
            hook.tags,
            isinstance(hook, KProbe) and hook.returns and EVENT_BY_NAME[found.event].deniable,
            _limit(selector.match_actions),
            self._result(hook) if found.event in (Way.KRETPROBE.value, Way.URETPROBE.value) else None,
            f"KPROBE_ACTION_{returned.upper()}",
            uprobes.members(hook) if isinstance(hook, UProbe | Usdt) else {},
        )
        self.rules.append(
            Rule(
                policy=name,
                name=where,
                events=(found.event,),
                condition=conj((self.scope, condition)),
                action=action,
                errno=errno,
                signal=signal,
                severity=_SEVERITY[action],
                tags=hook.tags,
                language=LANGUAGE,
                location=selector.place,
            )
        )

    def _result(self, hook: Hook) -> Shown | None:
        if not isinstance(hook, KProbe | UProbe) or hook.return_arg is None:
            return None
        parameter = result_of(hook)
        return Shown(parameter.reads, parameter.types[0], hook.return_arg.label, parameter.constant, parameter.field)

    def _actions(self, written: Sequence[WrittenAction]) -> _Done:
        """What a rule does."""
        action, told, errno, signal = Action.OBSERVE, "post", 1, 0
        silent = False
        for one in written:
            self._refused(one)
            match one.action:
                case "NoPost":
                    silent = True
                case "Sigkill" | "Signal" | "NotifyEnforcer" if one.action == "Sigkill" or one.arg_sig == _SIGKILL:
                    action, told = Action.KILL, one.action
                case "Signal" | "NotifyEnforcer" if one.arg_sig:
                    if signal not in (0, one.arg_sig):
                        self.refuse(one.at("argSig"), "one rule sends one signal, besides Sigkill", "write a second policy for this one")
                    action, signal = max(action, Action.AUDIT), one.arg_sig
                    told = told if action is Action.KILL else one.action
                case "Override":
                    action, errno = max(action, Action.DENY), abs(one.arg_error) or 1
                    told = told if action is Action.KILL else one.action
        if self.monitors and action > Action.OBSERVE:
            action, signal = Action.OBSERVE, 0
        if silent and action > Action.OBSERVE:
            what = "what is denied, killed or sent a signal is told all the same, in spite of NoPost"
            self.report.add(written[0].place, "not-told", what, "", "warning")
        return _Done(Action.NONE if silent and action is Action.OBSERVE else action, told, errno, signal)

    def _enforced(self, one: WrittenAction) -> None:
        """Tell what an enforcer does less than is asked of it."""
        if one.arg_index:
            self.refuse(one.at("argIndex"), "errors that are arguments cannot be put in force yet", "write argError or argSig")
        if one.arg_error and one.arg_sig != _SIGKILL:
            what = "system calls cannot be overridden: that needs a kernel with error injection"
            self.refuse(one.at("argError"), what, "write argSig: 9, or use Override on a hook of the LSM")
        elif one.arg_error:
            what = "the process is killed, and does not see the error; the call that it is in may still be completed"
            self.report.add(one.at("argError"), "not-told", what, "use Override on a hook of the LSM where it must not be", "warning")
        if not one.arg_error and not one.arg_sig:
            self.refuse(one.place, "NotifyEnforcer with neither an error nor a signal enforces nothing", "write argSig: 9")

    def _refused(self, one: WrittenAction) -> None:
        name = one.action
        if name in _REFUSED_ACTIONS:
            self.refuse(one.at("action"), f"action {name} cannot be put in force: {_REFUSED_ACTIONS[name]}")
        if name == "NotifyEnforcer":
            self._enforced(one)
        if name in words.WITHOUT_EFFECT and name not in words.OLD_ACTIONS:  # of those `read` tells
            what = f"action {name} has no effect: {words.WITHOUT_EFFECT[name]}"
            self.report.add(one.at("action"), "useless", what, "leave it out", "warning")
        if name == "Override" and (one.arg_regs or one.arg_new_symbol or one.arg_new_addr or one.arg_new_offset):
            self.refuse(one.place, "registers are not written yet", "write argError")
        elif name == "Override" and not one.arg_error:
            what = "Override with error 0 would let an act pass that others have not been asked about"
            self.refuse(one.at("argError"), what, "write argError: -1")
        for member, key in (
            ("kernel_stack_trace", "kernelStackTrace"), ("user_stack_trace", "userStackTrace"),
            ("ima_hash", "imaHash"),
        ):  # fmt: skip
            if getattr(one, member):
                self.refuse(one.at(key), f"{key} is read, and cannot be put in force yet", "leave it out")


def _entered(hook: Hook) -> int | None:
    """The number of the system call that a hook is the entry of; None where it is none, or that of all."""
    if isinstance(hook, KProbe) and is_call(hook.call):
        return _call_number(hook.call)
    if isinstance(hook, Tracepoint) and hook.subsystem == "syscalls" and hook.event.startswith(_ENTERS):
        return _call_number(hook.event.removeprefix(_ENTERS))
    return None


def _call_number(call: str) -> int | None:
    """The number of a system call as sensors tell it, of the 32-bit table where its name says so; None where there is none."""
    for prefix in _COMPAT_CALLS:
        if call.startswith(prefix):
            number = syscalls.number(Arch.X86, call.removeprefix(prefix))
            return None if number is None else number | abi.CALL_COMPAT
    return syscalls.number(Arch.X86_64, call.removeprefix("__x64_").removeprefix("sys_"))


def _late(selector: Selector) -> bool:
    """Whether it is decided by what the function returns, or does something then."""
    return bool(selector.match_return_args or selector.match_return_actions)


def _limit(written: Sequence[WrittenAction]) -> Limit | None:
    """The rate limit of a Post."""
    for one in written:
        if one.action == "Post" and one.rate_limit:
            unit = _SECONDS.get(one.rate_limit[-1].lower(), 0)
            seconds = int(one.rate_limit[:-1]) * unit if unit else int(one.rate_limit)
            return Limit(seconds, one.rate_limit_scope or "thread")
    return None
