# SPDX-License-Identifier: Apache-2.0
"""A tracing policy of the right shape in, what its loader would refuse out; and the selectors of a hook with macros put in.

What goes together: arguments that filters refer to, operators and types, values, actions and hooks, lists and options.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from bpfence import names
from bpfence.dialects.tetragon import kinds
from bpfence.dialects.tetragon.read import words
from bpfence.dialects.tetragon.read.model import (
    Action,
    Argument,
    ArgumentTest,
    Binaries,
    Hook,
    KProbe,
    Part,
    Selector,
    Spec,
    Tracepoint,
    TracingPolicy,
    UProbe,
)
from bpfence.documents.report import Report
from bpfence.errors import Location
from bpfence.words import quoted, suggest

MAX_MESSAGE: Final = 256
MAX_ARGUMENTS: Final = 5
MAX_TESTS: Final = 5
MAX_BINARY: Final = 255
MAX_ERRNO: Final = 4095
_FILTERS: Final = tuple(field.name for field in msgspec.structs.fields(Selector) if field.name not in ("place", "places", "macros"))
_KEY_OF: Final = {field.name: field.encode_name for field in msgspec.structs.fields(Selector)}
_RATE: Final = re.compile(r"[0-9]{1,9}[smhSMH]?")
_INTEGER: Final = re.compile(r"[+-]?(0[xX][0-9a-fA-F]+|0[oO]?[0-7]+|0[bB][01]+|[1-9][0-9]*|0)")
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
HOST: Final = "host_ns"
"""A namespace of the host's first process."""
_TRACEPOINT: Final = re.compile(r"[A-Za-z0-9_]+")
_RESOLVE: Final = re.compile(r"[A-Za-z_]\w*(\[\d+\])*(\.[A-Za-z_]\w*(\[\d+\])*)*")
MAX_STEPS: Final = 10
_CAPABILITIES: Final = names.TABLES["capability"].numbers


def integer(text: str) -> int | None:
    """A number as policies write it: decimal, 0x, 0 (octal), 0b; None where it is none."""
    if len(text) > 40 or not _INTEGER.fullmatch(text):
        return None
    sign, digits = (-1, text[1:]) if text[0] == "-" else (1, text.lstrip("+"))
    octal = len(digits) > 1 and digits[0] == "0" and digits[1].isdigit()
    return sign * (int(digits, 8) if octal else int(digits, 0))


def number_range(text: str) -> tuple[int, int] | None:
    """`a:b`, or one number as a range of one; None where it is neither."""
    low, colon, high = text.partition(":")
    first, last = integer(low), integer(high if colon else low)
    return None if first is None or last is None else (first, last)


def with_macros(selector: Selector, macros: Mapping[str, Selector]) -> Selector:
    """The selector with the filters of its macros. Where a filter comes twice, the first counts (`Checks` has reported it)."""
    filters = {name: getattr(selector, name) for name in _FILTERS}
    places = dict(selector.places)
    for macro in selector.macros:
        for name in _FILTERS:
            found = getattr(macros[macro], name) if macro in macros else None
            if found and not filters[name]:
                filters[name] = found
                places[_KEY_OF[name]] = macros[macro].at(_KEY_OF[name])
    return msgspec.structs.replace(selector, **filters, places=places, macros=()) if selector.macros else selector


def selectors_of(hook: Hook, spec: Spec) -> tuple[Selector, ...]:
    """The selectors of a hook as they count."""
    return tuple(with_macros(selector, spec.selectors_macros) for selector in hook.selectors)


class Checks:
    """The checks of one policy. `report` takes what is wrong."""

    def __init__(self, policy: TracingPolicy, report: Report) -> None:
        self.policy = policy
        self.spec = policy.spec
        self.report = report

    def _add(self, place: Location, code: str, message: str, hint: str = "") -> None:
        self.report.add(place, code, message, hint)

    def run(self) -> None:
        """All of them."""
        self._header()
        self._lists()
        self._options()
        self._macros()
        for section, hook in self.spec.hooks():
            self._hook(section, hook)
        if not self.spec.hooks() and not self.spec.loader:
            self.report.add(self.policy.at("spec"), "no-rules", f"policy {quoted(self.policy.name)} has no hook", "", "warning")

    # ---- the policy ----

    def _header(self) -> None:
        policy = self.policy
        meta = policy.metadata
        if policy.api_version != kinds.API_VERSION:
            what = f"there is no {policy.kind} of version {quoted(policy.api_version)}"
            self._add(policy.at("apiVersion"), "wrong-kind", what, f"write apiVersion: {kinds.API_VERSION}")
        for key, name in (("name", meta.name), ("namespace", meta.namespace)):
            if name and not _NAME.fullmatch(name):
                hint = "use lower case letters, digits, '-' and '.'"
                self._add(meta.at(key), "bad-value", f"nothing in Kubernetes is named {quoted(name)}", hint)
        if policy.kind == kinds.NAMESPACED_KIND and self.spec.host_selector is not None:
            hint = f"leave it out, or write a {kinds.KIND}"
            self._add(self.spec.at("hostSelector"), "bad-value", f"a {kinds.NAMESPACED_KIND} has no power over the host", hint)

    def _lists(self) -> None:
        seen: set[str] = set()
        for found in self.spec.lists:
            if found.name in seen:
                self._add(found.at("name"), "duplicate-key", f"there are two lists {quoted(found.name)}", "rename one of them")
            seen.add(found.name)
            if found.type == "generated_ftrace" and not found.pattern:
                self._add(found.place, "missing-key", "a list of type generated_ftrace needs a pattern", "add pattern:")
            if found.type in ("", "syscalls") and not found.values:
                self._add(found.place, "missing-key", f"list {quoted(found.name)} has no values", "add values:")
        for enforcer in self.spec.enforcers:
            for call in enforcer.calls:
                self._listed(call, enforcer.at("calls"))

    def _listed(self, text: str, place: Location) -> None:
        """Where a text names a list, the list must be there."""
        known = {found.name for found in self.spec.lists}
        if text.startswith("list:") and text[5:] not in known:
            hint = suggest(text[5:], known, "define it under lists:")
            self._add(place, "unknown-name", f"there is no list {quoted(text[5:])}", hint)

    def _options(self) -> None:
        for option in self.spec.options:
            values = words.OPTIONS[option.name]
            if (option.value not in values) if values else (integer(option.value) is None):
                hint = f"it is one of {', '.join(values)}" if values else "write a number"
                self._add(option.at("value"), "bad-value", f"option {option.name} has no value {quoted(option.value)}", hint)

    def _macros(self) -> None:
        for macro in self.spec.selectors_macros.values():
            if macro.macros:
                self._add(macro.at("macros"), "bad-value", "a macro cannot use macros", "write its filters out")

    # ---- hooks ----

    def _hook(self, section: str, hook: Hook) -> None:
        data = hook.data if isinstance(hook, KProbe | UProbe) else ()
        if len(hook.args) + len(data) > MAX_ARGUMENTS:
            self._add(hook.at("data"), "too-many", f"args and data together must be at most {MAX_ARGUMENTS}", "leave some out")
        if len(hook.message) > MAX_MESSAGE:
            what = f"a message has at most {MAX_MESSAGE} characters: the rest is cut off"
            self.report.add(hook.at("message"), "too-long", what, "shorten it", "warning")
        for argument in (*hook.args, *data):
            self._argument(section, argument)
        match hook:
            case KProbe():
                self._kprobe(hook)
            case UProbe():
                self._uprobe(hook)
            case Tracepoint():
                self._tracepoint(hook)
        if not isinstance(hook, KProbe | UProbe) or not hook.returns:
            for selector in hook.selectors:
                if selector.match_return_args or selector.match_return_actions:
                    key = "matchReturnArgs" if selector.match_return_args else "matchReturnActions"
                    self._add(selector.at(key), "no-return", f"{key} on a hook that does not wait for the return", "add return: true")
        for selector in hook.selectors:
            self._used_macros(selector)
        for selector in selectors_of(hook, self.spec):
            self._selector(section, hook, data, selector)

    def _argument(self, section: str, argument: Argument) -> None:
        limited = section in ("kprobes", "fentries", "lsmhooks") and not argument.source
        if limited and argument.index >= MAX_ARGUMENTS:
            what = f"a hook of {section} has arguments 0 to {MAX_ARGUMENTS - 1}, not {argument.index}"
            self._add(argument.at("index"), "bad-number", what)
        if section in ("kprobes", "fentries") and argument.type in ("auto", "syscall64") and not argument.resolve:
            what = f"argument {argument.index} of a function needs a type" if argument.type == "auto" else "syscall64 is for tracepoints"
            self._add(argument.at("type"), "bad-value", what, "write type: with one of int, string, file, path …")
        if argument.source and argument.source == "pt_regs" and section != "uprobes":
            self._add(argument.at("source"), "bad-value", "registers are those of uprobes", "write source: current_task")
        if argument.resolve:
            steps = re.split(r"[.\[]", argument.resolve)
            if not _RESOLVE.fullmatch(argument.resolve) or len(steps) > MAX_STEPS:
                hint = f"write names with '.' and [number] between them, at most {MAX_STEPS}"
                self._add(argument.at("resolve"), "bad-value", f"{quoted(argument.resolve)} is no way through structures", hint)

    def _kprobe(self, hook: KProbe) -> None:
        self._listed(hook.call, hook.at("call"))
        if hook.returns and hook.return_arg is None:
            hint = 'add returnArg: {index: 0, type: "int"}'
            self._add(hook.at("return"), "missing-key", "return: true without returnArg", hint)
        if not hook.returns and hook.return_arg is not None:
            self.report.add(hook.at("returnArg"), "useless", "returnArg without return: true", "add return: true", "warning")

    def _tracepoint(self, hook: Tracepoint) -> None:
        for key, name in (("subsystem", hook.subsystem), ("event", hook.event)):
            if not _TRACEPOINT.fullmatch(name):
                hint = "write letters, digits and '_', as in subsystem: sched and event: sched_process_exec"
                self._add(hook.at(key), "bad-value", f"{quoted(name)} is no name of a tracepoint's {key}", hint)

    def _uprobe(self, hook: UProbe) -> None:
        given = [key for key, found in (("symbols", hook.symbols), ("offsets", hook.offsets), ("addrs", hook.addrs)) if found]
        if len(given) != 1:
            what = f"{' and '.join(given)} together" if given else "none of symbols, offsets and addrs"
            self._add(hook.place, "missing-key" if not given else "bad-value", f"a uprobe with {what}", "write exactly one of them")
        if hook.ref_ctr_offsets and len(hook.ref_ctr_offsets) != len(hook.symbols or hook.offsets or hook.addrs):
            self._add(hook.at("refCtrOffsets"), "bad-value", "there must be one offset of a counter for each symbol")
        if hook.returns and hook.return_arg is None:
            self._add(hook.at("return"), "missing-key", "return: true without returnArg", "add returnArg:")

    # ---- selectors ----

    def _used_macros(self, selector: Selector) -> None:
        given = {name for name in _FILTERS if getattr(selector, name)}
        known = self.spec.selectors_macros
        for name in selector.macros:
            if name not in known:
                hint = suggest(name, known, "define it under selectorsMacros:")
                self._add(selector.at("macros"), "unknown-name", f"there is no macro {quoted(name)}", hint)
                continue
            own = {filter_ for filter_ in _FILTERS if getattr(known[name], filter_)}
            for twice in sorted(own & given):
                what = f"{_KEY_OF[twice]} comes twice: here or in another macro, and in macro {quoted(name)}"
                self._add(selector.at("macros"), "duplicate-key", what, "write it once")
            given |= own

    def _selector(self, section: str, hook: Hook, data: tuple[Argument, ...], selector: Selector) -> None:
        if len(selector.match_args) + len(selector.match_data) > MAX_TESTS:
            what = f"matchArgs and matchData together have at most {MAX_TESTS} filters"
            self._add(selector.at("matchData"), "too-many", what, "split the policy")
        for test in selector.match_args:
            self._test(test, self._tested(section, hook, test))
        for test in selector.match_data:
            self._test(test, _at_positions(data, test.args or (test.index,), self, test))
        returned = hook.return_arg if isinstance(hook, KProbe | UProbe) else None
        for test in selector.match_return_args:
            self._test(test, [returned] if returned is not None else [])
        for binaries in (*selector.match_binaries, *selector.match_parent_binaries):
            self._binaries(binaries)
        for namespace in selector.match_namespaces:
            for value in namespace.values:
                if value != HOST and not integer(value):
                    hint = f"write its inode number, or {HOST}"
                    self._add(namespace.at("values"), "bad-value", f"{quoted(value)} is no namespace", hint)
        for caps in (*selector.match_capabilities, *selector.match_capability_changes):
            for value in caps.values:
                if value not in _CAPABILITIES:
                    hint = suggest(value, _CAPABILITIES, "write names like CAP_SYS_ADMIN")
                    self._add(caps.at("values"), "bad-value", f"there is no capability {quoted(value)}", hint)
        for action in (*selector.match_actions, *selector.match_return_actions):
            self._action(section, hook, action)

    def _tested(self, section: str, hook: Hook, test: ArgumentTest) -> list[Argument]:
        """The arguments that a filter is about."""
        if test.args:
            return _at_positions(hook.args, test.args, self, test)
        found = [argument for argument in hook.args if argument.index == test.index]
        if not found and section == "tracepoints" and test.index < len(hook.args):
            found = [hook.args[test.index]]  # the position in args is accepted, too
        if not found:
            declared = ", ".join(str(argument.index) for argument in hook.args) or "none"
            what = f"the filter is about argument {test.index}, which args does not declare (it declares {declared})"
            self._add(test.at("index"), "unknown-name", what, "declare it under args: with its type")
        return found[:1]

    def _test(self, test: ArgumentTest, arguments: list[Argument]) -> None:
        if not test.values and test.operator not in words.WITHOUT_VALUES:
            self._add(test.place, "missing-key", f"operator {test.operator} needs values", "add values:")
        if test.operator == "CapabilitiesGained" and len(test.args) != 2:
            self._add(test.place, "bad-value", "CapabilitiesGained compares two sets", "write args: [old, new]")
        most = words.MAX_VALUES.get(test.operator)
        if most is not None and len(test.values) > most:
            self._add(test.at("values"), "too-many", f"operator {test.operator} has at most {most} values", "split the filter")
        for argument in arguments:
            allowed = words.operators_of(argument.type)
            if test.operator not in allowed:
                hint = f"it can be tested with {', '.join(allowed)}" if allowed else "no operator tests it"
                what = f"operator {test.operator} does not go with argument {argument.index} of type {argument.type}"
                self._add(test.at("operator"), "bad-operator", what, hint)
                continue
            for value in test.values:
                self._value(test, argument.kind, value)
            if test.operator in ("Equal", "NotEqual") and argument.kind in words.NUMBERS and len(test.values) > words.MAX_EQUAL_NUMBERS:
                what = f"{test.operator} compares a number with at most {words.MAX_EQUAL_NUMBERS} values"
                self._add(test.at("values"), "too-many", what, f"use {'In' if test.operator == 'Equal' else 'NotIn'}Map")

    def _value(self, test: ArgumentTest, kind: str, value: str) -> None:
        place, operator = test.at("values"), test.operator
        if value.startswith("list:") and operator in ("InMap", "NotInMap"):
            self._listed(value, place)
            return
        problem, hint = _problem(operator, kind, value)
        if problem:
            self._add(place, "bad-value", f"operator {operator}: {quoted(value)} {problem}", hint)

    def _binaries(self, binaries: Binaries) -> None:
        if binaries.follow_children and binaries.operator not in words.SET_OPERATORS:
            what = f"followChildren does not go with operator {binaries.operator}"
            self._add(binaries.at("followChildren"), "bad-operator", what, "use In or NotIn")
        for value in binaries.values:
            if not value or len(value.encode("utf-8", "surrogatepass")) > MAX_BINARY:
                self._add(binaries.at("values"), "bad-value", f"the path of a binary has 1 to {MAX_BINARY} bytes", "")

    def _action(self, section: str, hook: Hook, action: Action) -> None:
        name = action.action
        if section == "lsmhooks" and name not in words.LSM_ACTIONS and name not in words.OLD_ACTIONS:
            hint = f"it can {', '.join(sorted(words.LSM_ACTIONS))}"
            self._add(action.at("action"), "bad-value", f"an LSM hook cannot {name}", hint)
        if section == "lsmhooks" and (action.kernel_stack_trace or action.user_stack_trace):
            self._add(action.place, "bad-value", "an LSM hook has no stack traces", "leave them out")
        if name == "Set" and section != "usdts":
            self._add(action.at("action"), "bad-value", "Set is for usdts", "")
        needs = {"Signal": ("argSig", action.arg_sig), "GetUrl": ("argUrl", action.arg_url), "DnsLookup": ("argFqdn", action.arg_fqdn)}
        key, given = needs.get(name, ("", True))
        if not given:
            self._add(action.place, "missing-key", f"action {name} needs {key}", f"add {key}:")
        if name == "Override" and section != "uprobes" and not -MAX_ERRNO <= action.arg_error <= 0:
            hint = "write the negative of an errno, as -1 for EPERM"
            if action.arg_error > MAX_ERRNO or action.arg_error < 0:
                self._add(action.at("argError"), "bad-number", f"{action.arg_error} is no error", hint)
            else:
                what = f"{action.arg_error} is taken for the error {-action.arg_error}"
                self.report.add(action.at("argError"), "error-sign", what, hint, "warning")
        if name == "NotifyEnforcer" and not self.spec.enforcers:
            self._add(action.at("action"), "missing-key", "NotifyEnforcer without enforcers", "add spec.enforcers")
        if name in words.OLD_ACTIONS:
            what = f"action {name} has no effect: {words.WITHOUT_EFFECT[name]}"
            self.report.add(action.at("action"), "useless", what, "leave it out", "warning")
        if action.rate_limit and not _RATE.fullmatch(action.rate_limit):
            self._add(action.at("rateLimit"), "bad-value", f"{quoted(action.rate_limit)} is no time", "write seconds, or 5s, 1m, 2h")
        if name in ("TrackSock", "UntrackSock"):
            _at_index(hook.args, action.arg_sock, self, action, "argSock")


def _at_positions(arguments: tuple[Argument, ...], positions: Iterable[int], checks: Checks, test: ArgumentTest) -> list[Argument]:
    found = []
    for position in positions:
        if position < len(arguments):
            found.append(arguments[position])
        else:
            what = f"there is no argument at position {position} (counted from 0, there are {len(arguments)})"
            checks.report.add(test.at("args"), "unknown-name", what, "positions are those in the list")
    return found


def _at_index(arguments: tuple[Argument, ...], index: int, checks: Checks, part: Part, key: str) -> None:
    if not any(argument.index == index for argument in arguments):
        checks.report.add(part.at(key), "unknown-name", f"{key} is argument {index}, which args does not declare", "declare it under args:")


def _problem(operator: str, kind: str, value: str) -> tuple[str, str]:
    """What is wrong with a value, and what to write; two empty texts where it is right."""
    if operator in words.RANGES:
        found = number_range(value)
        if found is None:
            return "is no range of numbers", "write a number, or low:high"
        return ("is empty", "write the smaller number first") if found[0] > found[1] else _fits(kind, *found)
    if operator in ("SAddr", "DAddr", "NotSAddr", "NotDAddr"):
        return ("", "") if _is_network(value) else ("is no address", "write an address, or address/bits")
    if operator in ("SPort", "DPort", "NotSPort", "NotDPort"):
        found = number_range(value)
        fine = found is not None and 0 <= found[0] <= found[1] <= 0xFFFF
        return ("", "") if fine else ("is no port", "write 0 to 65535, or low:high")
    if operator in ("FileType", "NotFileType"):
        return ("", "") if value.lower() in words.FILE_TYPES else ("is no type of file", suggest(value, words.FILE_TYPES))
    if operator in ("Family", "Protocol", "State"):
        return _named(operator, value)
    if kind in words.TEXTS or operator in ("Prefix", "NotPrefix", "Postfix", "NotPostfix", "SubString", "SubStringIgnCase"):
        most, size = words.MAX_TEXT.get(operator, words.MAX_EQUAL_TEXT), len(value.encode("utf-8", "surrogatepass"))
        if not value and operator not in ("Equal", "NotEqual"):
            return "is empty, so it says nothing", "write a text"
        return ("", "") if size <= most else (f"has {size} bytes, and {most} are compared", "shorten it")
    if operator in ("CelExpr", "CapabilitiesGained"):
        return ("", "")
    number = integer(value)
    return ("is no number", "write decimal, 0x… or 0…") if number is None else _fits(kind, number, number)


def _fits(kind: str, low: int, high: int) -> tuple[str, str]:
    """Whether numbers can be values of a type. Of types with a sign both readings of the bits are taken, as the reference does."""
    bits = words.INTEGERS.get(kind)
    if bits is None:
        return "", ""
    least = -(1 << (bits - 1)) if kind in words.SIGNED else 0
    if least <= low and high < 1 << bits:
        return "", ""
    return f"does not fit into {kind}", f"it has {bits} bits"


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _named(operator: str, value: str) -> tuple[str, str]:
    """Whether a family, protocol or state is a name that there is, or a number."""
    known = names.TABLES[{"Family": "family", "Protocol": "protocol", "State": "tcp_state"}[operator]].numbers
    fine = value in known or integer(value) is not None
    return ("", "") if fine else (f"is no {operator.lower()}", suggest(value, known, "write its name or number"))
