# SPDX-License-Identifier: Apache-2.0
"""One test of a Falco rule and the native event it is made on in, what the kernel can decide of it out.

Called by `lower`, whose table says which of these functions a field takes on which events; `implied` has those for texts that the kernel
keeps in another form. Each gives Bounds: what the test is at least (`must` implies it) and at most (it implies `may`); where the two are
the same, the kernel decides it. What is said of results holds for one class of them at a time: of calls that succeed, or that fail.
"""

from __future__ import annotations

import errno
import ipaddress
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Literal, NamedTuple

from bpfence import names
from bpfence.conditions.containers import in_container
from bpfence.conditions.values import U64, conj, disj, fold, negation
from bpfence.dialects.facts import Hosts
from bpfence.dialects.falco.options import PathSource
from bpfence.dialects.falco.read import patterns
from bpfence.dialects.falco.read.checks import Comparison, LiteralValue, Network, interval, spans
from bpfence.dialects.falco.read.events import FalcoEventType
from bpfence.fields import FIELD_BY_NAME, applies
from bpfence.policy import FALSE, TRUE, Atom, Condition, Op

COMM_MAX: Final = 15
COMMANDS: Final = ("process.name", "process.parent.name", "process.ancestors.name")
I64: Final = 2**63
FD_MAX: Final = 2**31 - 1
ERRNO_MAX: Final = 4095
MAX_SPANS: Final = 16
"""Into how many ranges of errors a test on their names may be turned for the kernel."""
FAILED: Final = tuple(errno.errorcode.get(number, str(number)) for number in range(1, ERRNO_MAX + 1))
"""The values of evt.res for a call that fails."""

CallResult = Literal["success", "failure", ""]


class Bounds(NamedTuple):
    """What a test is at least and at most. `reason` and `hint` say why the kernel does not decide it exactly."""

    must: Condition
    may: Condition
    reason: str = ""
    hint: str = ""

    @property
    def exact(self) -> bool:
        return self.must == self.may


class On(NamedTuple):
    """Where a test is made: an event type as one native event reports it.

    `result`: the test is about calls with this result; empty: the result is not known yet. `enforcing`: what is to be stopped is the call
    that would succeed. `hosts`: None where names of hosts are left to user space.
    """

    kind: FalcoEventType
    native: str
    paths: PathSource = "kernel"
    enforcing: bool = False
    result: CallResult = ""
    hosts: Hosts | None = None


Build = Callable[[On, Comparison], Bounds]


def exact(condition: Condition) -> Bounds:
    """The kernel decides it exactly."""
    return Bounds(condition, condition)


def at_most(may: Condition, reason: str, hint: str = "") -> Bounds:
    """The kernel only drops what `may` excludes."""
    return Bounds(FALSE, may, reason, hint)


# ---- texts ----


def text(field: str) -> Build:
    """A test on a text that the kernel has as it is."""

    def build(_: On, test: Comparison) -> Bounds:
        return text_bounds(field, test, lambda operator, value: text_atom(field, operator, value))

    return build


def text_bounds(field: str, test: Comparison, atom_of: Callable[[str, str], Condition | None]) -> Bounds:
    """The values of a test joined. `atom_of` gives the condition for one operator and value; None where the kernel cannot tell."""
    if test.operator == "exists":
        return exact(Atom(field, Op.EXISTS))
    made = [atom_of("=" if test.operator in ("in", "intersects", "!=") else test.operator, str(value)) for value in test.values]
    parts = [part for part in made if part is not None]
    if len(parts) < len(made) or (test.modifier == "oneof" and len(parts) > 1):
        word = test.modifier if test.modifier == "oneof" else test.operator
        return at_most(Atom(field, Op.EXISTS), f"{word} is finished in user space", "use =, in, startswith, endswith, contains or pmatch")
    if test.operator == "!=":
        parts = [conj([Atom(field, Op.EXISTS), negation(part)]) for part in parts]
    if test.modifier == "allof":
        return exact(conj(parts) if parts else FALSE)
    return exact(disj(parts))


def text_atom(field: str, operator: str, value: str) -> Condition | None:
    """The condition for one operator and value; None where no atom says it."""
    match operator:
        case "=":
            return FALSE if _too_long(field, value) else Atom(field, Op.EQUALS, value)
        case "startswith" | "endswith" | "contains" | "icontains":
            op = {"startswith": Op.PREFIX, "endswith": Op.SUFFIX, "contains": Op.CONTAINS, "icontains": Op.ICONTAINS}[operator]
            if _too_long(field, value):
                return FALSE
            return Atom(field, op, fold(value) if op is Op.ICONTAINS else value) if value else Atom(field, Op.EXISTS)
        case "pmatch":
            return _pmatch_atom(field, value)
        case "glob":
            return glob_atom(field, value)
    return None


def _too_long(field: str, value: str) -> bool:
    return field in COMMANDS and len(value.encode("utf-8", "surrogateescape")) > COMM_MAX


def _pmatch_atom(field: str, value: str) -> Condition | None:
    if any(char in value for char in "?*[") or not value.startswith("/") or "//" in value:
        return None
    path = value.rstrip("/")
    return disj([Atom(field, Op.EQUALS, path), Atom(field, Op.PREFIX, path + "/")]) if path else Atom(field, Op.EXISTS)


def glob_atom(field: str, value: str) -> Condition | None:
    """A pattern of fnmatch(3) as the simplest atom that means the same."""
    if "[" in value or "\\" in value:
        return None
    while "**" in value:
        value = value.replace("**", "*")
    inner = value.strip("*")
    if not any(char in inner for char in "*?"):
        if not inner and value:
            return Atom(field, Op.EXISTS)
        op = {(True, True): Op.CONTAINS, (True, False): Op.SUFFIX, (False, True): Op.PREFIX, (False, False): Op.EQUALS}
        return Atom(field, op[value.startswith("*"), value.endswith("*")], inner)
    return Atom(field, Op.STRGLOB, value.replace("{", "\\{").replace("}", "\\}"))


def path_argument(field: str) -> Build:
    """An argument that names a file: under strict_paths "kernel" it stands for the path that the kernel resolved."""

    def build(on: On, test: Comparison) -> Bounds:
        if on.paths == "text":
            return at_most(TRUE, "strict_paths: text decides on the argument's text", "strict_paths: kernel decides on the file")
        return text(field)(on, test)

    return build


def directory_atom(operator: str, value: str) -> Condition | None:
    """fd.directory of the path that the kernel resolved."""
    if operator != "=":
        return None
    if not value.startswith("/") or (value.endswith("/") and value != "/") or any(char in value for char in "*?[]{}\\"):
        return FALSE if value and not value.startswith("/") else None
    return Atom("file.path", Op.GLOB, f"{value.rstrip('/')}/*")


def filename_atom(operator: str, value: str) -> Condition | None:
    """fd.filename of the path that the kernel resolved."""
    if operator == "=" and value:
        return FALSE if "/" in value else Atom("file.path", Op.SUFFIX, "/" + value)
    return None


def cwd(_: On, test: Comparison) -> Bounds:
    """proc.cwd ends in '/'; the kernel's text does not."""
    return text_bounds("process.cwd", test, _cwd_atom)


def _cwd_atom(operator: str, value: str) -> Condition | None:
    plain = value[:-1] or "/"
    if operator == "=":
        return Atom("process.cwd", Op.EQUALS, plain) if value.endswith("/") else FALSE
    if operator == "startswith" and value.endswith("/") and len(value) > 1:
        return disj([Atom("process.cwd", Op.EQUALS, plain), Atom("process.cwd", Op.PREFIX, value)])
    if operator == "startswith" and value:
        return Atom("process.cwd", Op.PREFIX, value)
    return None


def ancestor_exes(_: On, test: Comparison) -> Bounds:
    """Executables of any ancestor. The kernel's lineage holds more: earlier programs of the same process, too."""
    if test.operator in ("!=", "exists") or test.modifier:
        return at_most(TRUE, "only positive tests on ancestors are narrowed in the kernel", "use =, in, startswith, endswith or contains")
    bounds = text_bounds("process.ancestors.exe", test, lambda operator, value: text_atom("process.ancestors.exe", operator, value))
    return at_most(bounds.may, "the kernel's lineage also holds earlier programs of the same process", "")


_NAMES: Final = "process.ancestors.name"


def ancestor_names(_: On, test: Comparison) -> Bounds:
    """Names of any ancestor."""
    if test.operator == "!=" or test.modifier in ("oneof", "allof"):
        word = test.modifier or test.operator
        return at_most(Atom(_NAMES, Op.EXISTS), f"{word} on each ancestor is finished in user space", "use =, in, startswith or contains")
    return text_bounds(_NAMES, test, lambda operator, value: text_atom(_NAMES, operator, value))


def nth_ancestor(on: On, test: Comparison) -> Bounds:
    """The name of one ancestor. The kernel tests whether it is the name of any."""
    return at_most(ancestor_names(on, test).may, "the kernel does not count ancestors", "test proc.pname, or proc.aname without index")


def container_id(_: On, test: Comparison) -> Bounds:
    """container.id. It is `host` exactly where the cgroup is not a container's."""
    inside = in_container()
    outside = text_holds(test, "host")
    if outside is None:
        return at_most(TRUE, f"{test.operator} on the id of a container is finished in user space", "compare with host")
    may = TRUE if outside else inside
    if test.operator == "exists" or (test.operator == "!=" and not outside):
        return exact(TRUE if outside else inside)
    if all(value == "host" for value in test.values) and test.operator in ("=", "!=", "in", "intersects"):
        return exact(negation(inside) if outside else FALSE)
    return Bounds(negation(inside) if outside else FALSE, may, "ids of containers are compared in user space", "compare with host")


def contained(_: On, test: Comparison) -> Bounds:
    """Fields that only containers have. Outside of a container they are absent, and every test on them is false."""
    return at_most(in_container(), "what a container is made of is known in user space", "scope a native policy by cgroup")


# ---- numbers, truth, flags ----


def number(field: str) -> Build:
    """A number that the kernel has as it is."""

    def build(_: On, test: Comparison) -> Bounds:
        return exact(ranges(field, test))

    return build


def changed(before: str, after: str) -> Build:
    """A number that the call itself changes. Falco sees the new one, after the call. A rule that denies is about the old one."""

    def build(on: On, test: Comparison) -> Bounds:
        return exact(ranges(after if on.result == "success" else before, test))

    return build


def ranges(field: str, test: Comparison) -> Condition:
    """A comparison with unsigned numbers."""
    if test.operator == "exists":
        return Atom(field, Op.EXISTS)
    parts = []
    for low, high in spans(test, -U64, U64):
        parts.append(Atom(field, Op.RANGE, (max(low, 0), min(high, U64))) if low <= U64 and high >= 0 and low <= high else FALSE)
    return _unless(field, test, disj(parts))


def signed_ranges(field: str, test: Comparison) -> Condition:
    """A comparison with signed numbers, which the kernel keeps as unsigned ones of 64 bits."""
    if test.operator == "exists":
        return Atom(field, Op.EXISTS)
    parts: list[Condition] = []
    for low, high in spans(test, -I64, I64 - 1):
        if high >= max(low, 0):
            parts.append(Atom(field, Op.RANGE, (max(low, 0), high)))
        if low < 0 and low <= high:
            parts.append(Atom(field, Op.RANGE, (U64 + 1 + low, U64 + 1 + min(high, -1))))
    return _unless(field, test, disj(parts))


def _unless(field: str, test: Comparison, condition: Condition) -> Condition:
    return conj([Atom(field, Op.EXISTS), negation(condition)]) if test.operator == "!=" else condition


def truth(condition: Condition) -> Build:
    """A field that always has a value, which is true where `condition` is."""

    def build(_: On, test: Comparison) -> Bounds:
        if test.operator == "exists":
            return exact(TRUE)
        holds = disj([condition if value else negation(condition) for value in test.values])
        return exact(negation(holds) if test.operator == "!=" else holds)

    return build


def flag_names(field: str, table: str, split: str, known: Mapping[str, int]) -> Build:
    """A text of flag names, of which `contains` names some."""

    def build(_: On, test: Comparison) -> Bounds:
        if test.operator not in ("contains", "icontains") or test.modifier:
            return at_most(TRUE, f"{test.operator} on a text of flags is finished in user space", "use contains with one flag")
        needle = str(test.values[0])
        folds = test.operator == "icontains"
        chosen = [name for name in known if (needle.upper() in name if folds else needle in name)]
        masks = [known[name] for name in chosen]
        if not needle or split in needle or any(mask & (mask - 1) or not mask for mask in masks):
            return at_most(TRUE, f"{needle!r} is more than one flag", "use contains with one flag")
        if not chosen:
            return at_most(TRUE, f"{table} has no flag {needle!r}", "check its spelling")
        return exact(Atom(field, Op.ANYBITS, sum(set(masks))))

    return build


def named_number(field: str, table: str) -> Build:
    """A text that is the name of a number; `contains`, `=` and `in` choose some of the names."""
    known = names.TABLES[table].numbers
    prefix = names.TABLES[table].prefix

    def build(_: On, test: Comparison) -> Bounds:
        values = [str(value) for value in test.values]
        if test.operator not in ("contains", "=", "in", "startswith") or not all(value.startswith(prefix) for value in values):
            return at_most(TRUE, f"only names of {prefix}* are decided in the kernel", f"use contains, = or in with {prefix}*")
        if test.modifier in ("oneof", "allof"):
            return at_most(TRUE, f"{test.modifier} is finished in user space", "use contains or in")
        holds = {"contains": str.__contains__, "startswith": str.startswith}.get(test.operator, str.__eq__)
        chosen = {number for name, number in known.items() if any(holds(name, value) for value in values)}
        if not chosen:
            return at_most(TRUE, "none of these names is known", "check their spelling")
        return exact(disj([Atom(field, Op.RANGE, (number, number)) for number in sorted(chosen)]))

    return build


def family(_: On, test: Comparison) -> Bounds:
    """evt.arg.domain: a number and the family's name in parentheses."""
    needle = str(test.values[0]) if len(test.values) == 1 else ""
    if test.operator != "contains" or test.modifier or not needle.startswith("AF_"):
        return at_most(TRUE, "the text of the domain is finished in user space", "use contains with the family's name")
    numbers = {number for name, number in names.TABLES["family"].numbers.items() if needle in name}
    return exact(disj([Atom("net.family", Op.RANGE, (number, number)) for number in sorted(numbers)]))


def choice(table: Mapping[str, Condition], reason: str, *, loose: bool = False) -> Build:
    """A text that has one of few values, each with a condition of its own. `loose`: the condition only follows from the value."""

    def build(_: On, test: Comparison) -> Bounds:
        if test.operator not in ("=", "!=", "in", "intersects") or any(value not in table for value in test.values) or test.modifier:
            return at_most(TRUE, reason, "compare with = or in: " + ", ".join(table))
        any_value = disj([table[str(value)] for value in test.values])
        if test.operator == "!=":
            return at_most(TRUE if loose else negation(any_value), reason, "use = or in")
        return at_most(any_value, reason) if loose else exact(any_value)

    return build


# ---- results ----

_WAIT: Final = "the result is known only when the call has returned"
_FINISHED: Final = "the rule is finished in user space"


def text_holds(test: Comparison, value: str | bool) -> bool | None:
    """Whether a test is true of a text or a boolean; None where that is not worked out here."""
    match test.operator:
        case "exists":
            return True
        case "=" | "in" | "intersects":
            return value in test.values
        case "!=":
            return value not in test.values
    if not isinstance(value, str) or test.modifier == "oneof":
        return None
    judges: Mapping[str, Callable[[str], bool]] = {
        "startswith": value.startswith,
        "endswith": value.endswith,
        "contains": value.__contains__,
        "icontains": lambda wanted: fold(wanted) in fold(value),
        "glob": lambda wanted: patterns.glob(wanted)(value),
    }
    judge = judges.get(test.operator)
    if judge is None or not test.values:
        return None
    outcomes = [judge(str(wanted)) for wanted in test.values]
    return all(outcomes) if test.modifier == "allof" else any(outcomes)


def _of_texts(test: Comparison, values: Iterable[str | bool]) -> Bounds:
    """A test on a text that is one of these."""
    outcomes = {text_holds(test, value) for value in values}
    if len(outcomes) > 1 or None in outcomes:
        return at_most(TRUE, _WAIT, _FINISHED)
    return exact(TRUE if outcomes.pop() else FALSE)


def _of_numbers(test: Comparison, low: int, high: int, reason: str = _WAIT) -> Bounds:
    """A test on a number of which only the bounds are known."""
    answer = interval(test, low, high)
    return at_most(TRUE, reason, _FINISHED) if answer is None else exact(TRUE if answer else FALSE)


def _unknown(on: On) -> bool:
    """Whether nothing is known of the result yet. The end of a process never has one."""
    return on.native == "process.exit" or not (on.enforcing or on.result)


def result(on: On, test: Comparison) -> Bounds:
    """evt.res"""
    if _unknown(on):
        return at_most(TRUE, _WAIT, _FINISHED)
    bounds = _of_texts(test, FAILED if on.result == "failure" else ("SUCCESS",))
    if bounds.exact or on.result != "failure" or not _returned(on.native):
        return bounds
    return _of_errors(test) or bounds


def _of_errors(test: Comparison) -> Bounds | None:
    """A test on an error's name, for a call whose result is known when it is decided; None where that takes too many tests."""
    outcomes = [text_holds(test, name) for name in FAILED]
    if None in outcomes:
        return None
    wanted = [number for number, holds in enumerate(outcomes, 1) if holds]
    spans = [
        Atom("call.result", Op.RANGE, (U64 + 1 - max(run), U64 + 1 - min(run)))
        for _, group in itertools.groupby(enumerate(wanted), lambda pair: pair[1] - pair[0])
        for run in [[number for _, number in group]]
    ]
    return exact(disj(spans)) if len(spans) <= MAX_SPANS else None


def failed(on: On, test: Comparison) -> Bounds:
    """evt.failed"""
    return at_most(TRUE, _WAIT, _FINISHED) if _unknown(on) else _of_texts(test, (on.result == "failure",))


def raw_result(on: On, test: Comparison) -> Bounds:
    """evt.rawres"""
    if on.native == "process.exit":
        return at_most(TRUE, _WAIT, _FINISHED)
    if on.enforcing or on.result:
        low, high = (-ERRNO_MAX, -1) if on.result == "failure" else (0, 0 if on.native == "process.executed" else I64 - 1)
        bounds = _of_numbers(test, low, high, "the number that the call returns is not known before")
        if bounds.exact or on.enforcing:
            return bounds
    return exact(signed_ranges("call.result", test)) if _returned(on.native) else at_most(TRUE, _WAIT, _FINISHED)


def _returned(native: str) -> bool:
    return applies(FIELD_BY_NAME["call.result"], native)


_GIVEN: Final = ("net.connect", "net.bind", "net.listen", "net.send", "net.recv")
_MADE: Final = ("file.open", "file.open_failed", "file.dup", "net.accept")


def descriptor(on: On, test: Comparison) -> Bounds:
    """fd.num: the descriptor that the call makes, or that it is given."""
    if on.native in _GIVEN and (on.enforcing or on.result):
        return _of_numbers(test, 0, FD_MAX, "the descriptor's number is compared in user space")
    if on.native not in _MADE or not (on.enforcing or on.result):
        return at_most(TRUE, _WAIT, _FINISHED)
    if on.result != "failure":
        bounds = _of_numbers(test, 0, FD_MAX)
        return bounds if bounds.exact or on.native != "file.dup" else exact(signed_ranges("call.result", test))
    opening = on.native.startswith("file.open")
    return _of_numbers(test, -1 if opening else -ERRNO_MAX, -1)


def result_argument(on: On, test: Comparison) -> Bounds:
    """evt.arg.res"""
    if on.enforcing or (on.native == "process.executed" and on.result):
        return _of_texts(test, ("0",))
    return at_most(TRUE, _WAIT, "use evt.res")


def raw_result_argument(_: On, test: Comparison) -> Bounds:
    """evt.rawarg.res"""
    return at_most(TRUE, "the result is compared in user space", "use evt.rawres")


def event_number(_: On, test: Comparison) -> Bounds:
    """evt.num"""
    return _of_numbers(test, 1, U64, "events are counted in user space")


def direction(_: On, test: Comparison) -> Bounds:
    """evt.dir"""
    return _of_texts(test, ("<",))


# ---- the network ----


def address(field: str) -> Build:
    """An address of a connection: the kernel knows one side when it decides. A socket without an address gets one by the call."""

    def build(on: On, test: Comparison) -> Bounds:
        condition = address_condition(field, test)
        return exact(condition) if test.operator == "exists" else _settled(on, field, condition)

    return build


def _settled(on: On, field: str, condition: Condition) -> Bounds:
    if on.enforcing or not on.result:
        return exact(condition)
    unset = disj([Atom(field, Op.CIDR, "0.0.0.0/32"), Atom(field, Op.CIDR, "::/128")])
    reason = "the call may give a socket another address than 0.0.0.0"
    return Bounds(conj([condition, negation(unset)]), disj([condition, unset]), reason)


def name_of_address(field: str) -> Build:
    """The names of an address: those to whose addresses it belongs. A name that is not in `On.hosts` may yet turn out to be its name."""

    def build(on: On, test: Comparison) -> Bounds:
        if on.hosts is None or test.operator not in ("=", "in", "intersects") or test.modifier:
            return at_most(TRUE, "names of hosts are resolved in user space", "test fd.sip or fd.snet")
        known = [on.hosts[value] for value in test.values if isinstance(value, str) and value in on.hosts]
        addresses = dict.fromkeys(address for known_addresses in known for address in sorted(known_addresses))
        condition = disj([Atom(field, Op.CIDR, _host_cidr(address)) for address in addresses])
        # A name without addresses is the name of no address, not even of the one that the socket will get.
        bounds = _settled(on, field, condition) if addresses else exact(FALSE)
        if len(known) == len(test.values):
            return bounds
        return at_most(TRUE, "not every name has been resolved yet")._replace(must=bounds.must)

    return build


def _host_cidr(value: str) -> str:
    """An address as the kernel keeps it: of an IPv4-mapped one only the last four bytes."""
    address = ipaddress.ip_address(value)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(ipaddress.ip_network(mapped or address))


def port(field: str) -> Build:
    """A port; as `address`."""

    def build(on: On, test: Comparison) -> Bounds:
        condition = ranges(field, test)
        if on.enforcing or not on.result or test.operator == "exists":
            return exact(condition)
        unset = Atom(field, Op.RANGE, (0, 0))
        return Bounds(conj([condition, negation(unset)]), disj([condition, unset]), "the call may give a socket another port than 0")

    return build


def address_condition(field: str, test: Comparison) -> Condition:
    """A comparison with addresses or networks."""
    if test.operator == "exists":
        return Atom(field, Op.EXISTS)
    return _unless(field, test, disj([Atom(field, Op.CIDR, _cidr(value)) for value in test.values]))


def _cidr(value: LiteralValue) -> str:
    if isinstance(value, Network):
        base = (ipaddress.IPv4Address if value.version == 4 else ipaddress.IPv6Address)(value.base)
        return f"{base}/{bin(value.mask).count('1')}"
    return str(ipaddress.ip_network(str(value)))


def either(known: Build) -> Build:
    """A field that is true of either side, of which the kernel knows one. For != both sides must differ."""

    def build(on: On, test: Comparison) -> Bounds:
        bounds = known(on, test)
        reason = "the own address is known only when the call has returned"
        if test.operator == "!=":
            return at_most(bounds.may, reason, "test fd.sip, fd.snet or fd.sport")
        return Bounds(bounds.must, TRUE, reason, "test fd.sip, fd.snet or fd.sport")

    return build
