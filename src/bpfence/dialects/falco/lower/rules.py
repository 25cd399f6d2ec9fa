# SPDX-License-Identifier: Apache-2.0
"""A final Falco rule in, the part of it that the kernel can decide out, as conditions of bpfence's own IR.

Called by `load_files` (may the rule deny?), `policies`, `bpfence explain` and `bpfence convert`. For every native event that reports one
of the rule's event types there is a condition that is true whenever the rule is: the kernel drops only what cannot match, `rules` finishes
the rest. Each test gives bounds (`atoms`): what it is at least and what it is at most; where the two are the same, the kernel decides it.
`not` swaps them.

Detection waits for the result of the call. So a condition is made twice, for calls that succeed and for calls that fail, with the tests on
the result put in; the rule's `when` are the classes in which it can be true at all. A rule that denies must come out exact, and its
tests on the result are taken for the call that would succeed, because that is the one to be stopped.

A native event is the act, whichever call it was: file.open is every way of opening. A rule on some of those calls stands for the act, as
long as it says the same of all the calls that it names.

Which of Falco's fields the kernel decides on which events is the table `_MAPPED`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal, NamedTuple

from bpfence import names
from bpfence.conditions.values import conj, disj, negation
from bpfence.dialects.facts import Hosts
from bpfence.dialects.falco.lower import atoms, implied
from bpfence.dialects.falco.lower.atoms import Bounds, Build, CallResult, On, at_most, exact
from bpfence.dialects.falco.options import PathSource
from bpfence.dialects.falco.read import events, language
from bpfence.dialects.falco.read.checks import Comparison, FieldGetter
from bpfence.dialects.falco.read.language import AndNode, NotNode
from bpfence.dialects.falco.read.resolve import FalcoRule, decides_type, place_of
from bpfence.errors import Location
from bpfence.policy import FALSE, TRUE, Atom, Condition, Op, When

_Purpose = Literal["detect", "enforce", "act"]
_WHEN: Final[Mapping[CallResult, When]] = {"success": When.SUCCESS, "failure": When.FAILURE}


class Left(NamedTuple):
    """A test that the kernel does not decide: its text, why, what to do, and where it was written."""

    text: str
    reason: str
    hint: str
    place: Location


class LoweredRule(NamedTuple):
    """`conditions`: by native event. `exact`: they alone decide the rule. `unsensed`: event types of the rule that nothing reports.

    `when`: the results of calls that the rule can be true of; empty where it does not wait for them.
    """

    conditions: Mapping[str, Condition]
    exact: bool
    left: tuple[Left, ...]
    unsensed: tuple[str, ...]
    when: When = When(0)


def lower_rule(rule: FalcoRule, *, paths: PathSource = "kernel", hosts: Hosts | None = None) -> LoweredRule:
    """For detection: conditions that are true of more than the rule is, with the results. `paths`: what fd.name means, see docs/falco.md.

    `hosts`: the addresses of names, in their usual spelling. Names that it does not have are left to user space; names without addresses
    are those of no host. ValueError where one is no address.
    """
    return _lower(rule, paths, "detect", hosts)


def acts(rule: FalcoRule, *, paths: PathSource = "kernel") -> LoweredRule:
    """For rules of the native language: they report an act when it is decided, and know no result."""
    return _lower(rule, paths, "act")


def enforced(rule: FalcoRule, *, paths: PathSource = "kernel") -> LoweredRule:
    """For deny and kill. Where `left` is not empty, the kernel cannot enforce the rule."""
    lowered = _lower(rule, paths, "enforce")
    problems = list(lowered.left)
    for name in lowered.unsensed:
        text = f"evt.type = {name}"
        problems.append(Left(text, f"nothing in the kernel stops {name} yet", "leave the type out, or action: audit", Location("<none>")))
    return lowered._replace(left=tuple(problems), exact=lowered.exact and not problems)


def _natives(kind: events.FalcoEventType, purpose: _Purpose) -> tuple[str, ...]:
    return kind.seen if purpose == "detect" else kind.native if purpose == "enforce" else kind.native or kind.seen


def results_of(native: str) -> tuple[CallResult, ...]:
    """The results that a native event can have."""
    if native == "process.executed":
        return ("success",)
    return ("failure",) if native.endswith("_failed") else ("success", "failure")


def _lower(rule: FalcoRule, paths: PathSource, purpose: _Purpose, hosts: Hosts | None = None) -> LoweredRule:
    by_event: dict[str, dict[CallResult, list[Bounds]]] = {}
    left: dict[Left, None] = {}
    unsensed = []
    for name in sorted(rule.types):
        kind = events.FALCO_EVENT_BY_NAME.get(name)
        if kind is None:
            continue
        natives = _natives(kind, purpose)
        if not natives:
            unsensed.append(name)
        for native in natives:
            for result in results_of(native) if purpose == "detect" else ("",):
                lowerer = _Lowerer(On(kind, native, paths, purpose == "enforce", result, hosts))
                by_event.setdefault(native, {}).setdefault(result, []).append(lowerer.bounds(rule.condition))
                lowerer.collect(rule.condition, left)
    others = rule.types & events.OTHERS
    if others and len(others) < len(events.OTHERS):
        unsensed += sorted(others)
    alike = True
    for native, by_result in by_event.items():
        if any(len({bounds.may for bounds in bounds_list}) > 1 for bounds_list in by_result.values()):
            alike = False
            left[_undistinguished(native, rule, purpose)] = None
    when = When(0)
    for by_result in by_event.values():
        for result, bounds_list in by_result.items():
            when |= _WHEN.get(result, When(0)) if any(bounds.may != FALSE for bounds in bounds_list) else When(0)
    conditions = {
        native: disj([bounds.may for bounds_list in by_result.values() for bounds in bounds_list]) for native, by_result in by_event.items()
    }
    whole = alike and not unsensed and all(_decided(by_result, conditions[native], when) for native, by_result in by_event.items())
    return LoweredRule({native: c for native, c in conditions.items() if c != FALSE}, whole, tuple(left), tuple(unsensed), when)


def _decided(by_result: Mapping[CallResult, list[Bounds]], condition: Condition, when: When) -> bool:
    """Whether an event's condition means the same as the rule for every result that the rule waits for."""
    for result, bounds_list in by_result.items():
        if not all(bounds.exact for bounds in bounds_list):
            return False
        if (not result or when & _WHEN[result]) and any(bounds.may != condition for bounds in bounds_list):
            return False
    return True


def _undistinguished(native: str, rule: FalcoRule, purpose: _Purpose) -> Left:
    """A native event stands for several calls, which the rule treats differently."""
    known = (events.FALCO_EVENT_BY_NAME[name] for name in sorted(rule.types) if name in events.FALCO_EVENT_BY_NAME)
    calls = [kind.name for kind in known if native in _natives(kind, purpose)]
    reason = f"{native} is the act, whichever call it was"
    return Left(f"evt.type in ({', '.join(calls)})", reason, "let the rule say the same of all of them", rule.location)


class _Lowerer:
    """Lowers a condition for one event type as one native event reports it."""

    def __init__(self, on: On) -> None:
        self.on = on
        self.known: dict[int, Bounds] = {}

    def bounds(self, node: Any) -> Bounds:
        known_bounds = self.known.get(id(node))
        if known_bounds is None:
            if isinstance(node, Comparison):
                known_bounds = self.test(node)
            elif isinstance(node, NotNode):
                inner = self.bounds(node.part)
                known_bounds = Bounds(negation(inner.may), negation(inner.must))
            else:
                inner_bounds = []
                for part in node.parts:
                    inner_bounds.append(self.bounds(part))  # noqa: PERF401  # a comprehension costs a stack frame a level
                join = conj if isinstance(node, AndNode) else disj
                known_bounds = Bounds(join([bounds.must for bounds in inner_bounds]), join([bounds.may for bounds in inner_bounds]))
            self.known[id(node)] = known_bounds
        return known_bounds

    def collect(self, node: Any, left: dict[Left, None]) -> None:
        """Collect the tests that keep a condition from being exact, left to right."""
        stack = [node]
        seen: set[int] = set()
        while stack:
            item = stack.pop()
            bounds = self.known[id(item)]
            if bounds.exact or id(item) in seen:
                continue
            seen.add(id(item))
            if isinstance(item, Comparison):
                left[Left(language.show(item.check), bounds.reason, bounds.hint, place_of(item.spot))] = None
            elif isinstance(item, NotNode):
                stack.append(item.part)
            else:
                stack.extend(reversed(item.parts))

    def test(self, test: Comparison) -> Bounds:
        decided = decides_type(test)
        if decided is not None:
            return exact(TRUE if self.on.kind.name in decided else FALSE)
        if not isinstance(test.left, FieldGetter):
            return at_most(TRUE, f"{test.left.function}() is computed in user space", "compare the field itself")
        if test.right is not None:
            return at_most(TRUE, "two fields are compared in user space", "compare with a value")
        use = test.left.use
        named = use.field.name in ("evt.arg", "evt.rawarg") and use.argument is not None and not use.argument.isdigit()
        if named and use.argument not in self.on.kind.args:
            return exact(FALSE)  # absent on this event: every operator is false
        for wanted, mapped in _mapped(use.spelled, use.field.name, use.argument):
            if wanted(self.on.native):
                return self.known_or_not(test, mapped(self.on, test)) if named and use.field.name == "evt.arg" else mapped(self.on, test)
        return at_most(TRUE, *self.why(use.field.name if use.argument is None or named else use.spelled))

    def known_or_not(self, test: Comparison, bounds: Bounds) -> Bounds:
        """Bounds of a test on an argument that may have no value. To Falco it is the text <NA> then; to the kernel it is absent."""
        if not self.on.result:
            return bounds
        if test.operator == "exists":
            return exact(TRUE)
        if atoms.text_holds(test, "<NA>") is False:
            return bounds
        return at_most(TRUE, "an argument without a value is the text <NA>, which is compared in user space", "use = or contains")

    def why(self, name: str) -> tuple[str, str]:
        """Why a field is not decided in the kernel."""
        if self.on.native == "process.exec" and name.startswith(("proc.", "thread.", "user.", "group.")):
            return (
                f"before the new program runs, {name} is not known yet",
                "test proc.exepath or proc.is_exe_from_memfd, or write a native policy on process.exec",
            )
        prefix = name.partition(".")[0]
        return (
            _REASONS.get(name)
            or _REASONS.get(prefix)
            or (f"{name} is read in user space", "use a field that docs/falco-fields.md lists for the kernel")
        )


def _mapped(spelled: str, field: str, argument: str | None) -> Iterable[tuple[Callable[[str], bool], Build]]:
    mapped = _MAPPED.get(spelled)
    if mapped is None and argument is not None and argument.isdigit():
        mapped = _MAPPED.get(f"{field}[N]")
    return mapped or _MAPPED.get(f"{field.partition('.')[0]}.*", ())


_REASONS: Final = {
    "container": ("what a container is made of is known in user space", "scope a native policy by cgroup"),
    "k8s": ("pods are recognised in user space", "scope a native policy by cgroup"),
    "evt.arg": ("the argument's text is read in user space", "test fd.name"),
    "user.name": ("names depend on the user database of the process's root", "test user.uid"),
}  # fmt: skip


# ---- which field is decided how, on which native events ----


def _on(*wanted: str) -> Callable[[str], bool]:
    return lambda native: native in wanted


def _not_exec(native: str) -> bool:
    return native != "process.exec"


def _always(_: str) -> bool:
    return True


def _file(kernel: Build, given: Build) -> tuple[tuple[Callable[[str], bool], Build], ...]:
    """fd.name and its parts. Of an opened file it is the path that the kernel resolved, unless strict_paths says text."""

    def opened(on: On, test: Comparison) -> Bounds:
        if on.paths == "kernel":
            return kernel(on, test)
        bounds = given(on, test)
        return bounds._replace(reason="strict_paths: text decides on the argument's text", hint="strict_paths: kernel decides on the file")

    return (_OPENED, opened), (_on("file.open_failed"), given)


def _path_text(atom_of: Callable[[str, str], Condition | None]) -> Build:
    return lambda _, test: atoms.text_bounds("file.path", test, atom_of)


def _joins_userns(_: On, test: Comparison) -> Bounds:
    """evt.arg.flags of unshare, where the act is a new user namespace."""
    if test.operator == "contains" and not test.modifier and test.values == ("CLONE_NEWUSER",):
        return exact(TRUE)
    return at_most(TRUE, "the act is the new user namespace, whatever else was asked for", "use contains CLONE_NEWUSER")


_OPEN_FLAGS: Final = {name: names.mask("open", name) or 0 for name in names.TABLES["open"].numbers}
_CAPABILITIES: Final = {name: 1 << bit for name, bit in names.TABLES["capability"].numbers.items()}
_CLONE_FLAGS: Final = {name: bit for name, bit in names.TABLES["clone"].numbers.items() if name != "CLONE_NEWTIME"}
_NAMESPACES: Final = {name: bit for name, bit in names.TABLES["clone"].numbers.items() if name.startswith("CLONE_NEW")}
_MEMFD: Final = {"MFD_CLOEXEC": 1, "MFD_ALLOW_SEALING": 2, "MFD_HUGETLB": 4, "MFD_NOEXEC_SEAL": 8, "MFD_EXEC": 16}
_USERFAULTFD: Final = {"UFFD_USER_MODE_ONLY": 1, "O_CLOEXEC": _OPEN_FLAGS["O_CLOEXEC"], "O_NONBLOCK": _OPEN_FLAGS["O_NONBLOCK"]}
_ACCESS: Final = {what: Atom("file.access", Op.ANYBITS, names.mask("access", what) or 0) for what in ("read", "write")}
_EXE: Final = {what: atoms.truth(Atom("process.exe_flags", Op.ANYBITS, bit)) for what, bit in names.TABLES["exe"].numbers.items()}
_DIRECTORY: Final = Atom("file.flags", Op.ANYBITS, _OPEN_FLAGS["O_DIRECTORY"])
_OPENED: Final = _on("file.open")
_OPENS: Final = _on("file.open", "file.open_failed")
_CONNECT: Final = _on("net.connect")
_SENDS: Final = _on("net.connect", "net.send")
_RECEIVES: Final = _on("net.recv")
_PEERS: Final = _on("net.connect", "net.send", "net.recv")
_BIND: Final = _on("net.bind")
_LINKS: Final = _on("file.link", "file.rename")
_ONE_PATH: Final = _on("file.unlink", "file.rmdir", "file.mkdir", "file.chmod", "file.chown", "file.create")


def _family(*wanted: str) -> Condition:
    return disj([Atom("net.family", Op.RANGE, (number, number)) for number in (names.TABLES["family"].numbers[name] for name in wanted)])


_V4: Final = Atom("net.peer.ip", Op.CIDR, "0.0.0.0/0")
_V6: Final = Atom("net.peer.ip", Op.CIDR, "::/0")
_UNIX: Final = _family("AF_UNIX")
_PROTOCOLS: Final = {"tcp": 6, "udp": 17}
_OPEN_TYPES: Final[Mapping[str, Condition]] = {
    "f": negation(_DIRECTORY), "d": _DIRECTORY, "file": negation(_DIRECTORY), "directory": _DIRECTORY,
}  # fmt: skip
_SOCKET_TYPES: Final[Mapping[str, Condition]] = {"4": _V4, "6": _V6, "u": _UNIX, "ipv4": _V4, "ipv6": _V6, "unix": _UNIX}
# A socket of IPv6 may talk IPv4. The character u stands for other descriptors, too.
_FAMILIES: Final[Mapping[str, Condition]] = {
    "4": _family("AF_INET", "AF_INET6"), "6": _family("AF_INET6"), "ipv4": _family("AF_INET", "AF_INET6"), "ipv6": _family("AF_INET6"),
    "unix": _UNIX,
}  # fmt: skip
_NOT_RAW: Final = negation(Atom("net.type", Op.RANGE, (3, 3)))  # a raw socket's protocol means something else: its fd.l4proto is raw
_L4: Final[Mapping[str, Condition]] = {
    name: conj([Atom("net.protocol", Op.RANGE, (number, number)), _NOT_RAW]) for name, number in _PROTOCOLS.items()
}

_PEER: Final = atoms.address("net.peer.ip")
_LOCAL: Final = atoms.address("net.local.ip")
_PEER_NAME: Final = atoms.name_of_address("net.peer.ip")
_LOCAL_NAME: Final = atoms.name_of_address("net.local.ip")
_KINDS: Final = (
    (_OPENED, atoms.choice(_OPEN_TYPES, "other kinds of files are told apart in user space")),
    (_SENDS, atoms.choice(_SOCKET_TYPES, "other kinds of sockets are told apart in user space")),
    (_on("file.dup", "net.bind", "net.listen", "net.accept", "net.recv"),
     atoms.choice(_FAMILIES, "the kernel knows a socket's family, which is not the addresses that it uses", loose=True)),
)  # fmt: skip
_FIRST_PATH: Final = atoms.path_argument("file.path")
_SECOND_PATH: Final = atoms.path_argument("file.new_path")
_MAPPED: Final[Mapping[str, tuple[tuple[Callable[[str], bool], Build], ...]]] = {
    "evt.num": ((_always, atoms.event_number),),
    "evt.dir": ((_always, atoms.direction),),
    "evt.res": ((_always, atoms.result),),
    "evt.failed": ((_always, atoms.failed),),
    "evt.rawres": ((_always, atoms.raw_result),),
    "evt.arg.res": ((_always, atoms.result_argument),),
    "evt.rawarg.res": ((_always, atoms.raw_result_argument),),
    "evt.is_open_read": ((_OPENS, atoms.truth(_ACCESS["read"])),),
    "evt.is_open_write": ((_OPENS, atoms.truth(_ACCESS["write"])),),
    "evt.arg.flags": (
        (_OPENS, atoms.flag_names("file.flags", "open", "|", _OPEN_FLAGS)),
        (_on("process.fork"), atoms.flag_names("process.fork.flags", "clone", "|", _CLONE_FLAGS)),
        (_on("process.unshare"), atoms.flag_names("call.arg0", "unshare", "|", _NAMESPACES)),
        (_on("kernel.userns"), _joins_userns),
        (_on("kernel.mount"), atoms.flag_names("mount.flags", "mount", "|", names.TABLES["mount"].numbers)),
        (_on("kernel.memfd"), atoms.flag_names("call.arg1", "memfd_create", "|", _MEMFD)),
        (_on("kernel.userfaultfd"), atoms.flag_names("call.arg0", "userfaultfd", "|", _USERFAULTFD)),
    ),
    "evt.arg.mode": ((_on("file.chmod"), atoms.flag_names("file.mode", "chmod", "|", events.MODES)),),
    "evt.arg.nstype": ((_on("process.setns"), atoms.flag_names("call.arg1", "setns", "|", _NAMESPACES)),),
    "evt.arg.request": ((_on("process.trace"), atoms.named_number("call.arg0", "ptrace_request")),),
    "evt.arg.domain": ((_on("net.create"), atoms.family),),
    "evt.arg.target": ((_on("file.symlink"), atoms.text("file.target")),),
    "evt.arg.linkpath": ((_on("file.symlink"), _FIRST_PATH),),
    "evt.arg.oldpath": ((_LINKS, _FIRST_PATH),),
    "evt.arg.newpath": ((_LINKS, _SECOND_PATH),),
    "evt.arg.path": ((_ONE_PATH, _FIRST_PATH),),
    "evt.arg.pathname": ((_ONE_PATH, _FIRST_PATH),),
    "evt.arg.filename": ((_ONE_PATH, _FIRST_PATH),),
    "evt.arg.name": ((_ONE_PATH, _FIRST_PATH),),
    "proc.name": ((_not_exec, atoms.text("process.name")),),
    "proc.exepath": ((_on("process.exec"), atoms.text("file.path")), (_not_exec, atoms.text("process.exe"))),
    "proc.exe": ((_not_exec, implied.exe),),
    "proc.args": ((_not_exec, implied.args),),
    "proc.cmdline": ((_not_exec, implied.cmdline),),
    "proc.is_exe_from_memfd": (
        (_on("process.exec"), atoms.truth(Atom("file.memfd", Op.RANGE, (1, 1)))),
        (_not_exec, _EXE["memfd"]),
    ),
    "proc.is_exe_upper_layer": ((_not_exec, _EXE["upper"]),),
    "proc.is_exe_lower_layer": ((_not_exec, _EXE["lower"]),),
    "proc.is_exe_writable": ((_not_exec, _EXE["writable"]),),
    "proc.cwd": ((_not_exec, atoms.cwd),),
    "proc.pid": ((_always, atoms.number("process.pid")),),
    "proc.ppid": ((_always, atoms.number("process.parent.pid")),),
    "proc.tty": ((_always, atoms.number("process.tty")),),
    "proc.pname": ((_always, atoms.text("process.parent.name")),),
    "proc.pexe": ((_always, implied.parent_exe),),
    "proc.pcmdline": ((_always, implied.parent_cmdline),),
    "proc.aname": ((_always, atoms.ancestor_names),),
    "proc.aname[0]": ((_not_exec, atoms.text("process.name")),),
    "proc.aname[1]": ((_always, atoms.text("process.parent.name")),),
    "proc.aname[N]": ((_always, atoms.nth_ancestor),),
    "proc.aexepath": ((_not_exec, atoms.ancestor_exes),),
    "user.uid": ((_on("process.setuid"), atoms.changed("process.uid", "process.setuid.uid")), (_not_exec, atoms.number("process.uid"))),
    "group.gid": ((_on("process.setgid"), atoms.changed("process.gid", "process.setgid.gid")), (_not_exec, atoms.number("process.gid"))),
    "thread.cap_effective": ((_not_exec, atoms.flag_names("process.caps", "capabilities", " ", _CAPABILITIES)),),
    "container.id": ((_always, atoms.container_id),),
    "container.image": ((_always, atoms.contained),),
    "container.image.id": ((_always, atoms.contained),),
    "container.image.repository": ((_always, atoms.contained),),
    "container.image.tag": ((_always, atoms.contained),),
    "container.image.digest": ((_always, atoms.contained),),
    "container.privileged": ((_always, atoms.contained),),
    "k8s.*": ((_always, atoms.contained),),
    "fd.num": ((_always, atoms.descriptor),),
    "fd.name": _file(_path_text(lambda operator, value: atoms.text_atom("file.path", operator, value)), implied.name),
    "fd.directory": _file(_path_text(atoms.directory_atom), implied.directory),
    "fd.filename": _file(_path_text(atoms.filename_atom), implied.filename),
    "fd.nameraw": ((_OPENS, atoms.text("file.text")),),
    "bpfence.path": ((_OPENED, atoms.text("file.path")),),
    "fd.ino": ((_OPENED, atoms.number("file.ino")),),
    "fd.typechar": _KINDS,
    "fd.type": _KINDS,
    "fd.l4proto": ((_PEERS, atoms.choice(_L4, "protocols other than tcp and udp are told apart in user space")),),
    "fd.sip": ((_CONNECT, _PEER), (_BIND, _LOCAL)),
    "fd.rip": ((_PEERS, _PEER),),
    "fd.sip.name": ((_CONNECT, _PEER_NAME), (_BIND, _LOCAL_NAME)),
    "fd.rip.name": ((_PEERS, _PEER_NAME),),
    "fd.snet": ((_CONNECT, _PEER), (_BIND, _LOCAL)),
    "fd.rnet": ((_PEERS, _PEER),),
    "fd.sport": ((_CONNECT, atoms.number("net.peer.port")), (_BIND, atoms.port("net.local.port"))),
    "fd.rport": ((_PEERS, atoms.number("net.peer.port")),),
    "fd.connected": ((_RECEIVES, atoms.truth(Atom("net.connected", Op.RANGE, (1, 1)))),),
    "fd.lport": ((_BIND, atoms.port("net.local.port")),),
    "fd.ip": ((_PEERS, atoms.either(_PEER)),),
    "fd.net": ((_PEERS, atoms.either(_PEER)),),
    "fd.port": ((_PEERS, atoms.either(atoms.number("net.peer.port"))),),
}  # fmt: skip


def decided_fields() -> Iterable[str]:
    """The Falco fields that the kernel decides, or narrows, on some event; for the reference."""
    return sorted({name.partition("[")[0] for name in _MAPPED if not name.endswith("*")})
