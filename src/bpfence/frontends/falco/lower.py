# SPDX-License-Identifier: Apache-2.0
"""A final Falco rule in, the part of it that the kernel can decide out, as conditions of bpfence's own IR.

Called by `load_files` (may the rule deny?), `bpfence explain` and `bpfence convert`, and by what loads rules into the kernel. For every
native event that reports one of the rule's event types there is a condition that is true whenever the rule is: the kernel drops only what
cannot match, `rules` finishes the rest. Each test gives a pair: what it is at least (`must` implies the test) and at most (the test implies
`may`); where the two are the same, the kernel decides it. `not` swaps them. A rule that denies must come out exact; a
test that looks at the result of the call is then taken for the call that would succeed, because that is the one to be stopped.

A native event is the act, whichever call it was: file.open is every way of opening. A rule on some of those calls stands for the act, as
long as it says the same of all the calls that it names.

What of Falco's fields the kernel has today is the table `_MAPPED`; events and fields of later sensors go there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal, NamedTuple

from bpfence import abi, names
from bpfence.errors import Location
from bpfence.frontends.falco import events, language
from bpfence.frontends.falco.checks import Comparison, Network, Source, Value
from bpfence.frontends.falco.language import And, Not
from bpfence.frontends.falco.resolve import Rule, decides_type, place_of
from bpfence.frontends.values import U64, conj, disj, negation
from bpfence.policy import FALSE, TRUE, Atom, Condition, Op

COMM_MAX: Final = 15
Paths = Literal["kernel", "text"]


class Left(NamedTuple):
    """A test that the kernel does not decide: its text, why, what to do, and where it was written."""

    text: str
    reason: str
    hint: str
    place: Location


class Lowered(NamedTuple):
    """`conditions`: by native event. `exact`: they decide the rule alone. `unsensed`: event types of the rule that nothing reports yet."""

    conditions: Mapping[str, Condition]
    exact: bool
    left: tuple[Left, ...]
    unsensed: tuple[str, ...]


class _Pair(NamedTuple):
    must: Condition
    may: Condition
    reason: str = ""
    hint: str = ""

    @property
    def exact(self) -> bool:
        return self.must == self.may


def _exact(condition: Condition) -> _Pair:
    return _Pair(condition, condition)


def _at_most(may: Condition, reason: str, hint: str = "") -> _Pair:
    return _Pair(FALSE, may, reason, hint)


def lower(rule: Rule, *, paths: Paths = "kernel") -> Lowered:
    """For detection: over-approximated. `paths`: what fd.name means, see docs/falco.md."""
    return _lower(rule, paths, enforcing=False)


def enforced(rule: Rule, *, paths: Paths = "kernel") -> Lowered:
    """For deny and kill: where `left` is not empty, the kernel cannot enforce the rule."""
    found = _lower(rule, paths, enforcing=True)
    problems = list(found.left)
    for name in found.unsensed:
        text = f"evt.type = {name}"
        problems.append(Left(text, f"nothing in the kernel stops {name} yet", "leave the type out, or action: audit", Location("<none>")))
    return found._replace(left=tuple(problems), exact=found.exact and not problems)


def _lower(rule: Rule, paths: Paths, *, enforcing: bool) -> Lowered:
    by_event: dict[str, list[Condition]] = {}
    left: dict[Left, None] = {}
    exact = True
    unsensed = []
    for name in sorted(rule.types):
        kind = events.EVENT_BY_NAME.get(name)
        if kind is None:
            continue
        if not kind.native:
            unsensed.append(name)
        for native in kind.native:
            lowerer = _Lowerer(kind, native, paths, enforcing)
            pair = lowerer.pair(rule.condition)
            by_event.setdefault(native, []).append(pair.may)
            exact = exact and pair.exact
            lowerer.collect(rule.condition, left)
    others = rule.types & events.OTHERS
    if others and len(others) < len(events.OTHERS):
        unsensed += sorted(others)
    for native, parts in by_event.items():
        if len(set(parts)) > 1:
            exact = False
            left[_undistinguished(native, rule)] = None
    conditions = {native: disj(parts) for native, parts in by_event.items()}
    return Lowered({native: c for native, c in conditions.items() if c != FALSE}, exact and not unsensed, tuple(left), tuple(unsensed))


def _undistinguished(native: str, rule: Rule) -> Left:
    """A native event stands for several calls, which the rule treats differently."""
    calls = [name for name in sorted(rule.types) if name in events.EVENT_BY_NAME and native in events.EVENT_BY_NAME[name].native]
    reason = f"{native} is the act, whichever call it was"
    return Left(f"evt.type in ({', '.join(calls)})", reason, "let the rule say the same of all of them", rule.location)


class _Lowerer:
    """One event type as one native event reports it."""

    def __init__(self, kind: events.EventType, native: str, paths: Paths, enforcing: bool) -> None:
        self.kind = kind
        self.native = native
        self.paths = paths
        self.enforcing = enforcing
        self.known: dict[int, _Pair] = {}

    def pair(self, node: Any) -> _Pair:
        found = self.known.get(id(node))
        if found is None:
            if isinstance(node, Comparison):
                found = self.test(node)
            elif isinstance(node, Not):
                inner = self.pair(node.part)
                found = _Pair(negation(inner.may), negation(inner.must))
            else:
                pairs = []
                for part in node.parts:
                    pairs.append(self.pair(part))  # noqa: PERF401  # a comprehension costs a stack frame a level
                join = conj if isinstance(node, And) else disj
                found = _Pair(join([pair.must for pair in pairs]), join([pair.may for pair in pairs]))
            self.known[id(node)] = found
        return found

    def collect(self, node: Any, left: dict[Left, None]) -> None:
        """The tests that keep a condition from being exact, left to right."""
        stack = [node]
        seen: set[int] = set()
        while stack:
            item = stack.pop()
            pair = self.known[id(item)]
            if pair.exact or id(item) in seen:
                continue
            seen.add(id(item))
            if isinstance(item, Comparison):
                left[Left(language.show(item.check), pair.reason, pair.hint, place_of(item.spot))] = None
            elif isinstance(item, Not):
                stack.append(item.part)
            else:
                stack.extend(reversed(item.parts))

    def test(self, test: Comparison) -> _Pair:
        decided = decides_type(test)
        if decided is not None:
            return _exact(TRUE if self.kind.name in decided else FALSE)
        if not isinstance(test.left, Source):
            return _at_most(TRUE, f"{test.left.function}() is computed in user space", "compare the field itself")
        if test.right is not None:
            return _at_most(TRUE, "two fields are compared in user space", "compare with a value")
        use = test.left.use
        named = use.field.name in ("evt.arg", "evt.rawarg") and use.argument is not None and not use.argument.isdigit()
        if named and use.argument not in self.kind.args:
            return _exact(FALSE)  # absent on this event: every operator is false
        spelled = use.spelled
        build = _RESULT.get(spelled)
        if build is not None:
            if not self.enforcing:
                return _at_most(TRUE, "the result is known only when the call has returned", "the rule is finished in user space")
            return build(test)
        for wanted, mapped in _MAPPED.get(spelled, ()):
            if wanted(self.native):
                return mapped(self, test)
        return _at_most(TRUE, *self.why(spelled))

    def why(self, name: str) -> tuple[str, str]:
        """Why a field is not decided in the kernel."""
        if self.native == "process.exec" and name.startswith(("proc.", "thread.", "user.", "group.")):
            return (
                f"before the new program runs, {name} is not known yet",
                "test proc.exepath or proc.is_exe_from_memfd, or write a native policy on process.exec",
            )
        prefix = name.partition(".")[0]
        return (
            _REASONS.get(name)
            or _REASONS.get(prefix)
            or (f"{name} is read in user space", "use a field that docs/falco.md lists for the kernel")
        )


_REASONS: Final = {
    "container": ("containers are recognised in user space", "scope a native policy by cgroup"),
    "k8s": ("pods are recognised in user space", "scope a native policy by cgroup"),
    "proc.args": (f"the kernel keeps {abi.ABI_ARGS_MAX} bytes of all arguments, which may cut them", "test proc.exepath or proc.name"),
    "proc.cmdline": (f"the kernel keeps {abi.ABI_ARGS_MAX} bytes of all arguments, which may cut them", "test proc.exepath or proc.name"),
    "proc.pname": ("names of parents are kept in user space", "test proc.aexepath"),
    "proc.aname": ("names of ancestors are kept in user space", "test proc.aexepath"),
    "fd.nameraw": ("the kernel decides on the path that was opened, not on the text of the argument", "test fd.name"),
    "evt.arg": ("the argument's text is read in user space", "test fd.name"),
    "user.name": ("names depend on the user database of the process's root", "test user.uid"),
}  # fmt: skip


# ---- texts ----


def _text(field: str) -> Callable[[_Lowerer, Comparison], _Pair]:
    """A test on a text that the kernel has as it is."""

    def build(_: _Lowerer, test: Comparison) -> _Pair:
        return _text_pair(field, test, lambda operator, value: _text_atom(field, operator, value))

    return build


def _text_pair(field: str, test: Comparison, one: Callable[[str, str], Condition | None]) -> _Pair:
    """The values of a test joined; `one` gives the condition of one value, None where the kernel cannot tell."""
    if test.operator == "exists":
        return _exact(Atom(field, Op.EXISTS))
    made = [one("=" if test.operator in ("in", "intersects", "!=") else test.operator, str(value)) for value in test.values]
    parts = [part for part in made if part is not None]
    if len(parts) < len(made) or (test.modifier == "oneof" and len(parts) > 1):
        word = test.modifier if test.modifier == "oneof" else test.operator
        return _at_most(Atom(field, Op.EXISTS), f"{word} is finished in user space", "use =, in, startswith, endswith, contains or pmatch")
    if test.operator == "!=":
        parts = [conj([Atom(field, Op.EXISTS), negation(part)]) for part in parts]
    if test.modifier == "allof":
        return _exact(conj(parts) if parts else FALSE)
    return _exact(disj(parts))


def _text_atom(field: str, operator: str, value: str) -> Condition | None:
    match operator:
        case "=":
            too_long = field == "process.name" and len(value.encode("utf-8", "surrogateescape")) > COMM_MAX
            return FALSE if too_long else Atom(field, Op.EQUALS, value)
        case "startswith" | "endswith" | "contains":
            op = {"startswith": Op.PREFIX, "endswith": Op.SUFFIX, "contains": Op.CONTAINS}[operator]
            return Atom(field, op, value) if value else Atom(field, Op.EXISTS)
        case "pmatch":
            return _pmatch_atom(field, value)
        case "glob":
            return _glob_atom(field, value)
    return None


def _pmatch_atom(field: str, value: str) -> Condition | None:
    if any(char in value for char in "?*[") or not value.startswith("/") or "//" in value:
        return None
    path = value.rstrip("/")
    return disj([Atom(field, Op.EQUALS, path), Atom(field, Op.PREFIX, path + "/")]) if path else Atom(field, Op.EXISTS)


def _glob_atom(field: str, value: str) -> Condition | None:
    """fnmatch's pattern as the simplest atom that means the same."""
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


def _file(what: str) -> Callable[[_Lowerer, Comparison], _Pair]:
    """fd.name, fd.directory or fd.filename of an opened file: the path that the kernel resolved."""

    def build(lowerer: _Lowerer, test: Comparison) -> _Pair:
        if lowerer.paths == "text":
            return _at_most(TRUE, "strict_paths: text decides on the argument's text", "strict_paths: kernel decides on the opened file")
        return _text_pair("file.path", test, _FILE[what])

    return build


def _directory_atom(operator: str, value: str) -> Condition | None:
    if operator != "=":
        return None
    if not value.startswith("/") or (value.endswith("/") and value != "/") or any(char in value for char in "*?[]{}\\"):
        return FALSE if value and not value.startswith("/") else None
    return Atom("file.path", Op.GLOB, f"{value.rstrip('/')}/*")


def _filename_atom(operator: str, value: str) -> Condition | None:
    if operator == "=" and value:
        return FALSE if "/" in value else Atom("file.path", Op.SUFFIX, "/" + value)
    return None


_FILE: Final[Mapping[str, Callable[[str, str], Condition | None]]] = {
    "name": lambda operator, value: _text_atom("file.path", operator, value),
    "directory": _directory_atom,
    "filename": _filename_atom,
}


def _cwd(_: _Lowerer, test: Comparison) -> _Pair:
    return _text_pair("process.cwd", test, _cwd_atom)


def _cwd_atom(operator: str, value: str) -> Condition | None:
    """proc.cwd ends in '/', the kernel's does not."""
    plain = value[:-1] or "/"
    if operator == "=":
        return Atom("process.cwd", Op.EQUALS, plain) if value.endswith("/") else FALSE
    if operator == "startswith" and value.endswith("/") and len(value) > 1:
        return disj([Atom("process.cwd", Op.EQUALS, plain), Atom("process.cwd", Op.PREFIX, value)])
    if operator == "startswith" and value:
        return Atom("process.cwd", Op.PREFIX, value)
    return None


def _ancestors(_: _Lowerer, test: Comparison) -> _Pair:
    """Any ancestor: the kernel's lineage holds more, earlier programs of the same process too."""
    if test.operator in ("!=", "exists") or test.modifier:
        return _at_most(TRUE, "only positive tests on ancestors are narrowed in the kernel", "use =, in, startswith, endswith or contains")
    pair = _text_pair("process.ancestors.exe", test, lambda operator, value: _text_atom("process.ancestors.exe", operator, value))
    return _at_most(pair.may, "the kernel's lineage also holds earlier programs of the same process", "")


# ---- numbers, truth, flags ----


def _number(field: str) -> Callable[[_Lowerer, Comparison], _Pair]:
    def build(_: _Lowerer, test: Comparison) -> _Pair:
        return _exact(_ranges(field, test))

    return build


def _ranges(field: str, test: Comparison) -> Condition:
    if test.operator == "exists":
        return Atom(field, Op.EXISTS)
    parts = []
    for value in test.values:
        assert isinstance(value, (int, float))
        low, high = _range(test.operator, int(value))
        parts.append(Atom(field, Op.RANGE, (max(low, 0), min(high, U64))) if low <= U64 and high >= 0 and low <= high else FALSE)
    found = disj(parts)
    return conj([Atom(field, Op.EXISTS), negation(found)]) if test.operator == "!=" else found


def _range(operator: str, value: int) -> tuple[int, int]:
    return {"<": (-U64, value - 1), "<=": (-U64, value), ">": (value + 1, U64), ">=": (value, U64)}.get(operator, (value, value))


def _truth(condition: Condition) -> Callable[[_Lowerer, Comparison], _Pair]:
    """A field that is always there and true where `condition` is."""

    def build(_: _Lowerer, test: Comparison) -> _Pair:
        if test.operator == "exists":
            return _exact(TRUE)
        parts = [condition if value else negation(condition) for value in test.values]
        found = disj(parts)
        return _exact(negation(found) if test.operator == "!=" else found)

    return build


def _flag_names(field: str, table: str, split: str, known: Mapping[str, int]) -> Callable[[_Lowerer, Comparison], _Pair]:
    """A text of flag names: `contains` names some of them."""

    def build(_: _Lowerer, test: Comparison) -> _Pair:
        if test.operator not in ("contains", "icontains") or test.modifier:
            return _at_most(TRUE, f"{test.operator} on a text of flags is finished in user space", "use contains with one flag")
        needle = str(test.values[0])
        fold = test.operator == "icontains"
        chosen = [name for name in known if (needle.upper() in name if fold else needle in name)]
        masks = [known[name] for name in chosen]
        if not needle or split in needle or any(mask & (mask - 1) or not mask for mask in masks):
            return _at_most(TRUE, f"{needle!r} is more than one flag", "use contains with one flag")
        if not chosen:
            return _at_most(TRUE, f"{table} has no flag {needle!r}", "check its spelling")
        return _exact(Atom(field, Op.ANYBITS, sum(set(masks))))

    return build


_OPEN_FLAGS: Final = {name: names.mask("open", name) or 0 for name in names.TABLES["open"].numbers}
_CAPABILITIES: Final = {name: 1 << bit for name, bit in names.TABLES["capability"].numbers.items()}


def _family(_: _Lowerer, test: Comparison) -> _Pair:
    """evt.arg.domain: a number and the family's name in parentheses."""
    needle = str(test.values[0]) if len(test.values) == 1 else ""
    if test.operator != "contains" or test.modifier or not needle.startswith("AF_"):
        return _at_most(TRUE, "the text of the domain is finished in user space", "use contains with the family's name")
    numbers = {number for name, number in names.TABLES["family"].numbers.items() if needle in name}
    return _exact(disj([Atom("net.family", Op.RANGE, (number, number)) for number in sorted(numbers)]))


def _constant(low: int, high: int, reason: str) -> Callable[[Comparison], _Pair]:
    """A number of which only the bounds are known."""

    def build(test: Comparison) -> _Pair:
        answers = {_interval(test, low, high)}
        answer = answers.pop()
        return _Pair(FALSE, TRUE, reason) if answer is None else _exact(TRUE if answer else FALSE)

    return build


def _interval(test: Comparison, low: int, high: int) -> bool | None:
    """Whether a test is true of every number in low..high, of none, or None: of some."""
    if test.operator == "exists":
        return True
    inside, outside = False, True
    for value in test.values:
        assert isinstance(value, (int, float))
        first, last = _range(test.operator, int(value))
        if first <= low and high <= last:
            inside = True
        if first <= high and low <= last:
            outside = False
    if test.operator == "!=":
        inside, outside = outside, inside
    return True if inside else False if outside else None


def _succeeded(value: Value) -> Callable[[Comparison], _Pair]:
    """A text or truth of a call that succeeds."""

    def build(test: Comparison) -> _Pair:
        from bpfence.frontends.falco import patterns

        match test.operator:
            case "exists":
                answer = True
            case "=" | "in" | "intersects":
                answer = value in test.values
            case "!=":
                answer = value not in test.values
            case "startswith" | "endswith" | "contains" if isinstance(value, str) and not test.modifier:
                needle = str(test.values[0])
                answer = {"startswith": value.startswith, "endswith": value.endswith, "contains": value.__contains__}[test.operator](needle)
            case "glob" if isinstance(value, str) and not test.modifier:
                answer = patterns.glob(str(test.values[0]))(value)
            case _:
                return _at_most(TRUE, f"{test.operator} on the result is finished in user space", "compare with = or startswith")
        return _exact(TRUE if answer else FALSE)

    return build


_NOT_NEGATIVE: Final = _constant(0, 2**63 - 1, "the number that the call returns is not known before")
_RESULT: Final[Mapping[str, Callable[[Comparison], _Pair]]] = {
    "evt.res": _succeeded("SUCCESS"), "evt.failed": _succeeded(False), "evt.rawres": _NOT_NEGATIVE, "fd.num": _NOT_NEGATIVE,
    "evt.arg.res": _succeeded("0"), "evt.rawarg.res": lambda test: _at_most(TRUE, "the result is compared in user space", "use evt.rawres"),
}  # fmt: skip


# ---- the network ----


def _address(field: str) -> Callable[[_Lowerer, Comparison], _Pair]:
    def build(_: _Lowerer, test: Comparison) -> _Pair:
        return _exact(_address_condition(field, test))

    return build


def _address_condition(field: str, test: Comparison) -> Condition:
    if test.operator == "exists":
        return Atom(field, Op.EXISTS)
    found = disj([Atom(field, Op.CIDR, _cidr(value)) for value in test.values])
    return conj([Atom(field, Op.EXISTS), negation(found)]) if test.operator == "!=" else found


def _cidr(value: Value) -> str:
    import ipaddress

    if isinstance(value, Network):
        base = (ipaddress.IPv4Address if value.version == 4 else ipaddress.IPv6Address)(value.base)
        return f"{base}/{bin(value.mask).count('1')}"
    return str(ipaddress.ip_network(str(value)))


def _either(known: Callable[[str, Comparison], Condition], field: str) -> Callable[[_Lowerer, Comparison], _Pair]:
    """Either side, of which the kernel knows one: != needs both."""

    def build(_: _Lowerer, test: Comparison) -> _Pair:
        condition = known(field, test)
        reason = "the own address is known only when the call has returned"
        if test.operator == "!=":
            return _at_most(condition, reason, "test fd.sip, fd.snet or fd.sport")
        return _Pair(condition, TRUE, reason, "test fd.sip, fd.snet or fd.sport")

    return build


_V4: Final = Atom("net.peer.ip", Op.CIDR, "0.0.0.0/0")
_V6: Final = Atom("net.peer.ip", Op.CIDR, "::/0")
_UNIX: Final = Atom("net.family", Op.RANGE, (names.number("family", "AF_UNIX") or 1,) * 2)
_PROTOCOLS: Final = {"tcp": 6, "udp": 17}


def _choice(table: Mapping[str, Condition], reason: str) -> Callable[[_Lowerer, Comparison], _Pair]:
    """A text of few values, each with a condition of its own."""

    def build(_: _Lowerer, test: Comparison) -> _Pair:
        if test.operator == "exists":
            return _at_most(TRUE, reason)
        if test.operator not in ("=", "!=", "in", "intersects") or any(value not in table for value in test.values) or test.modifier:
            return _at_most(TRUE, reason, "compare with = or in: " + ", ".join(table))
        found = disj([table[str(value)] for value in test.values])
        if test.operator == "!=":
            return _at_most(negation(found), reason, "use = or in")
        return _exact(found)

    return build


def _evt_num(_: _Lowerer, test: Comparison) -> _Pair:
    return _constant(1, U64, "events are counted in user space")(test)


def _direction(_: _Lowerer, test: Comparison) -> _Pair:
    return _succeeded("<")(test)


# ---- which field is decided how, on which native events ----


def _on(*wanted: str) -> Callable[[str], bool]:
    return lambda native: native in wanted


def _not_exec(native: str) -> bool:
    return native != "process.exec"


def _always(_: str) -> bool:
    return True


_ACCESS: Final = {what: Atom("file.access", Op.ANYBITS, names.mask("access", what) or 0) for what in ("read", "write")}
_DIRECTORY: Final = Atom("file.flags", Op.ANYBITS, _OPEN_FLAGS["O_DIRECTORY"])
_OPENED: Final = _on("file.open")
_CONNECT: Final = _on("net.connect")
_SENDS: Final = _on("net.connect", "net.send")
_BIND: Final = _on("net.bind")
_OPEN_TYPES: Final[Mapping[str, Condition]] = {
    "f": negation(_DIRECTORY),
    "d": _DIRECTORY,
    "file": negation(_DIRECTORY),
    "directory": _DIRECTORY,
}
_SOCKET_TYPES: Final[Mapping[str, Condition]] = {"4": _V4, "6": _V6, "u": _UNIX, "ipv4": _V4, "ipv6": _V6, "unix": _UNIX}
_L4: Final[Mapping[str, Condition]] = {name: Atom("net.protocol", Op.RANGE, (number, number)) for name, number in _PROTOCOLS.items()}

_Build = Callable[[_Lowerer, Comparison], _Pair]
_KINDS: Final = (
    (_OPENED, _choice(_OPEN_TYPES, "other kinds of files are told apart in user space")),
    (_SENDS, _choice(_SOCKET_TYPES, "other kinds of sockets are told apart in user space")),
)
_MAPPED: Final[Mapping[str, tuple[tuple[Callable[[str], bool], _Build], ...]]] = {
    "evt.num": ((_always, _evt_num),),
    "evt.dir": ((_always, _direction),),
    "evt.is_open_read": ((_OPENED, _truth(_ACCESS["read"])),),
    "evt.is_open_write": ((_OPENED, _truth(_ACCESS["write"])),),
    "evt.arg.flags": ((_OPENED, _flag_names("file.flags", "open", "|", _OPEN_FLAGS)),),
    "evt.arg.domain": ((_on("net.create"), _family),),
    "proc.name": ((_not_exec, _text("process.name")),),
    "proc.exepath": ((_on("process.exec"), _text("file.path")), (_not_exec, _text("process.exe"))),
    "proc.is_exe_from_memfd": ((_on("process.exec"), _truth(Atom("file.memfd", Op.RANGE, (1, 1)))),),
    "proc.cwd": ((_not_exec, _cwd),),
    "proc.pid": ((_always, _number("process.pid")),),
    "proc.ppid": ((_always, _number("process.parent.pid")),),
    "proc.aexepath": ((_not_exec, _ancestors),),
    "user.uid": ((_not_exec, _number("process.uid")),),
    "group.gid": ((_not_exec, _number("process.gid")),),
    "thread.cap_effective": ((_not_exec, _flag_names("process.caps", "capabilities", " ", _CAPABILITIES)),),
    "fd.name": ((_OPENED, _file("name")),),
    "fd.directory": ((_OPENED, _file("directory")),),
    "fd.filename": ((_OPENED, _file("filename")),),
    "bpfence.path": ((_OPENED, _text("file.path")),),
    "fd.ino": ((_OPENED, _number("file.ino")),),
    "fd.typechar": _KINDS,
    "fd.type": _KINDS,
    "fd.l4proto": ((_SENDS, _choice(_L4, "protocols other than tcp and udp are told apart in user space")),),
    "fd.sip": ((_CONNECT, _address("net.peer.ip")), (_BIND, _address("net.local.ip"))),
    "fd.rip": ((_SENDS, _address("net.peer.ip")),),
    "fd.snet": ((_CONNECT, _address("net.peer.ip")), (_BIND, _address("net.local.ip"))),
    "fd.rnet": ((_SENDS, _address("net.peer.ip")),),
    "fd.sport": ((_CONNECT, _number("net.peer.port")), (_BIND, _number("net.local.port"))),
    "fd.rport": ((_SENDS, _number("net.peer.port")),),
    "fd.lport": ((_BIND, _number("net.local.port")),),
    "fd.ip": ((_SENDS, _either(_address_condition, "net.peer.ip")),),
    "fd.net": ((_SENDS, _either(_address_condition, "net.peer.ip")),),
    "fd.port": ((_SENDS, _either(_ranges, "net.peer.port")),),
}  # fmt: skip


def decided_fields() -> Iterable[str]:
    """The Falco fields that the kernel decides on some event, for the reference."""
    return sorted(_MAPPED)
