# SPDX-License-Identifier: Apache-2.0
"""What dialects build in, what back ends read out: the policy model (the IR).

Built by dialects, read by `compiler/` and the agent. A condition is a tree of And, Or and Not over atoms; an atom is
one test on one field. `Rule.matches` is the reference evaluator: plain, slow, obviously right; the kernel must agree with it.

An event, for the evaluator, is a mapping from field name to value: str for paths, strings and addresses, int for numbers,
a tuple of str for list fields (`process.ancestors.exe`). A missing key is an absent value: every atom on it is false.
`process.container` is a tuple of the selectors that select the container; it is absent where nobody has told of one.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, Union

import msgspec

from bpfence.errors import Location

if TYPE_CHECKING:
    from bpfence.seccomp.model import Profile

API_VERSION: Final = "bpfence.io/v1alpha1"
"""Of every object that bpfence has."""

Value = Union[str, int, bytes, tuple[str, ...]]
Event = Mapping[str, Value]


class Action(enum.IntEnum):
    """What a rule does. The numbers are ACTION_* of bpf/abi.h; the greater wins."""

    NONE = 0
    ALLOW = 1
    OBSERVE = 2
    AUDIT = 3
    DENY = 4
    KILL = 5


class Op(enum.Enum):
    """The tests an atom can make; what `value` holds for each."""

    GLOB = "glob"  # value: str, a path glob: `*` and `?` stop at '/', `**` crosses, `[a-z]`, `{a,b}`
    STRGLOB = "strglob"  # value: str, a glob on a plain string: `*` crosses everything
    EQUALS = "equals"  # value: str, the whole string
    PREFIX = "prefix"  # value: str
    SUFFIX = "suffix"  # value: str
    CONTAINS = "contains"  # value: str
    ICONTAINS = "icontains"  # value: str, in lower case; ASCII letters of the string are folded
    RANGE = "range"  # value: (low, high), inclusive
    WORDS = "words"  # value: str, words that NULs separate; of arguments: all but the first are among them
    CIDR = "cidr"  # value: str, an address or network, v4 or v6
    ANYBITS = "anybits"  # value: int mask: (number & mask) != 0
    MASKED = "masked"  # value: (mask, wanted): (number & mask) == wanted
    EXISTS = "exists"  # value: None
    OBJECT = "object"  # value: str, a literal path or `prefix/**`: device and inode of it, or below it, see follow: object
    # Of two fields; where one of them is absent, each is false.
    SAME = "="  # value: str, another field: it has the same value
    DIFFERENT = "!="  # value: str, another field: it has another value
    LESS = "<"  # value: str, another field: its number is greater
    BEGINS = "begins"  # value: str, another field: the text begins with its text
    ENDS = "ends"  # value: str, another field: the text ends with its text
    SELECTS = "selects"  # value: Selector, of process.container: the process runs in one of these containers

    __hash__ = object.__hash__  # there is one of each; that of Enum is a call of Python's, and atoms are hashed by the hundred thousand


COMPARISONS: Final = frozenset((Op.SAME, Op.DIFFERENT, Op.LESS, Op.BEGINS, Op.ENDS))
"""Tests of a field by another field."""


class Label(msgspec.Struct, frozen=True):
    """A test on one label, as Kubernetes makes them. `op`: "in" and "notin" with `values`, "exists", "absent"."""

    key: str
    op: str
    values: tuple[str, ...] = ()


class Selector(msgspec.Struct, frozen=True, tag=True, cache_hash=True):
    """Which containers: the values of one member are alternatives, an empty member asks for nothing, and all members are required.

    `names`, `namespaces`, `pods`, `service_accounts` and `runtimes` are globs in which `*` crosses everything; `images` are patterns of
    conditions/images.py; `labels` are those of the pod, or of a container that is part of none; `namespace_labels` those of the
    pod's namespace, as `namespace_annotations` are. `unknown`: whether a container counts of
    which it is not known, or not yet.
    """

    names: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    pods: tuple[str, ...] = ()
    service_accounts: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = ()
    labels: tuple[Label, ...] = ()
    namespace_labels: tuple[Label, ...] = ()
    namespace_annotations: tuple[Label, ...] = ()
    unknown: bool = False


class Atom(msgspec.Struct, frozen=True, tag=True, cache_hash=True):
    """One test on one field; of COMPARISONS, on two."""

    field: str
    op: Op
    value: str | int | tuple[int, int] | Selector | None = None

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that it is about: where one of them is absent it is false."""
        return (self.field, str(self.value)) if self.op in COMPARISONS else (self.field,)


class And(msgspec.Struct, frozen=True, tag=True, cache_hash=True):
    """True when every part is; empty: true."""

    parts: tuple[Condition, ...] = ()


class Or(msgspec.Struct, frozen=True, tag=True, cache_hash=True):
    """True when some part is; empty: false."""

    parts: tuple[Condition, ...] = ()


class Not(msgspec.Struct, frozen=True, tag=True, cache_hash=True):
    """True when `part` is false, an absent field included."""

    part: Condition


Condition = Union[Atom, And, Or, Not]
CONTAINER_FIELD: Final = "process.container"
TRUE: Condition = And()
FALSE: Condition = Or()


DEFAULT_RULE: Final = "default"
"""The name under which decisions of a policy's default posture are reported."""


class When(enum.Flag):
    """When a rule is reported: as soon as it is decided, or once the call has succeeded or failed. The bits are REPORT_* of abi.h."""

    DECIDED = 1
    SUCCESS = 2
    FAILURE = 4


class Threshold(msgspec.Struct, frozen=True):
    """From which event on a rule acts: its `count`th within `within` milliseconds, of events of one subject. `by`: of COUNTED_BY."""

    count: int
    within: int
    by: str = "process"


COUNTED_BY: Final = ("process", "exe", "user", "container", "host")
"""What events can be counted by: COUNT_BY_* of bpf/abi.h."""
STEPS: Final = 8
"""Steps of a window: COUNTED_STEPS of bpf/abi.h."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One rule on one or more events. The dialect has and-ed the scope into `condition` already.

    `events` are full names of fields.EVENTS. `conditions` gives the condition of each event that needs another one than the rest (a rename
    under `file.modify` looks at both names). `allow` rules only matter against their policy's default. What
    `observe` rules see are events, not alerts. `signal`: sent to the acting process beside the action, where the policy's mode is not
    audit; 0: none. `limit` is set on process.fork
    rules; the rule's atoms already test `process.fork.live` against it. What denies or kills is reported when it is DECIDED. `confirm`: the
    dialect that must still confirm in user space what the kernel lets through; "": none. `language`: the dialect that has more to say of a
    match in its own terms; "": that of `confirm`, or none. `threshold`: the rule does nothing before the event that it names.
    """

    policy: str
    name: str
    events: tuple[str, ...]
    condition: Condition = TRUE
    conditions: Mapping[str, Condition] = msgspec.field(default_factory=dict)
    action: Action = Action.AUDIT
    errno: int = 1
    message: str = ""
    severity: str = "medium"
    tags: tuple[str, ...] = ()
    rate: float = 0.0  # alerts a second, 0: the agent's default
    burst: int = 0
    limit: int = 0
    signal: int = 0
    when: When = When.DECIDED
    confirm: str = ""
    language: str = ""
    threshold: Threshold | None = None
    location: Location = Location("<none>")

    def condition_for(self, event: str) -> Condition:
        """The condition that decides this rule on `event`, scope included."""
        return self.conditions.get(event, self.condition)

    def matches(self, event: Event) -> bool:
        """Whether the rule's condition holds, whatever it counts; `event["event"]` is the full event name."""
        from bpfence.evaluate import holds

        name = event["event"]
        return name in self.events and holds(self.condition_for(str(name)), event)


class Read(enum.IntEnum):
    """What an argument of a sensor is, and where it comes to: SENSOR_* of bpf/abi.h."""

    NOTHING = 0
    NUMBER = 1  # sensor.numberN
    TEXT = 2  # a pointer to a text: sensor.textN
    FILENAME = 3  # struct filename: sensor.textN
    FILE = 4  # struct file: file.path and what goes with it; the second such argument file.new_path
    PATH = 5  # struct path, in the same way
    BINPRM = 6  # struct linux_binprm, in the same way
    FD = 7  # a descriptor of the acting process, in the same way, and sensor.numberN
    SOCK = 8  # struct sock: net.*
    SOCKET = 9  # struct socket, in the same way
    SOCKADDR = 10  # struct sockaddr: net.family, net.peer.*
    MODULE = 11  # struct module: its name, sensor.textN
    NET_DEVICE = 14  # struct net_device, in the same way
    BYTES = 15  # a pointer to bytes: sensor.textN; how many there are: sensor.numberN
    CRED = 16  # struct cred: what events show alone
    USER_NS = 17  # struct user_namespace, in the same way
    SYSCALL = 18  # the number of a system call: sensor.numberN, with bit 31 where it is one of the 32-bit table
    CAPS = 19  # a pointer to a set of capabilities: sensor.numberN
    SKB = 20  # struct sk_buff: net.* by the packet's headers; how many bytes it has: sensor.numberN
    SOCK_WHOLE = 21  # struct sock: what events show alone
    SOCKET_WHOLE = 22  # struct socket, in the same way
    SKB_WHOLE = 23  # struct sk_buff, in the same way
    BPF_ATTR = 24  # union bpf_attr of BPF_PROG_LOAD, in the same way
    BPF_PROG = 25  # struct bpf_prog, in the same way
    BPF_MAP = 26  # struct bpf_map, in the same way
    PERF_EVENT = 27  # struct perf_event, in the same way


class ProbeArgument(msgspec.Struct, frozen=True):
    """One argument: which one, counted from 0 (of a tracepoint which field of its record, common ones counted), and what it is. `size`: of
    a number, in bytes; of a tracepoint's field the record knows better. `length`: of bytes, the argument that says how many there are.
    `at_return`: they are read when the function returns, no more than it returns.
    """

    index: int
    read: Read
    size: int = 8
    signed: bool = False
    length: int = 0
    at_return: bool = False


class Way(enum.Enum):
    """How a sensor is attached: the event that it makes. Rules about Way.LSM alone can deny."""

    KPROBE = "sensor.kprobe"
    KRETPROBE = "sensor.kretprobe"
    TRACEPOINT = "sensor.tracepoint"
    LSM = "sensor.lsm"
    UPROBE = "sensor.uprobe"
    URETPROBE = "sensor.uretprobe"
    USDT = "sensor.usdt"

    __hash__ = object.__hash__


class Target(msgspec.Struct, frozen=True):
    """Where in a program or library a sensor is: of Way.UPROBE and Way.URETPROBE by `symbol`, or else `offset` (bytes from the beginning of
    the file), or else `address` (as the file says where it is loaded); of Way.USDT the static probe `symbol` of `provider`. `counter`: the
    offset in the file of a number of 16 bits that is more than 0 as long as somebody watches; 0: there is none, or the file names it.
    """

    path: str
    symbol: str = ""
    offset: int | None = None
    address: int | None = None
    provider: str = ""
    counter: int = 0


class Probe(msgspec.Struct, frozen=True):
    """A sensor: where it is, and what it reads of each call. At most 5 arguments.

    `place`: a function of the kernel; a hook of the LSM, by its name; a tracepoint as "subsystem/name"; of a file what messages call it.
    `call`: the function is that of a system call, `place` begins with "sys_" and arguments are the caller's; of Way.LSM it is the hook that
    this call asks. `optional`: where there is no such place, nothing is missed. `result`: what the function returns, a number, or with
    Read.SOCK_WHOLE a socket; of Way.KRETPROBE and Way.URETPROBE, whose events are told then, with what was read when it was called.
    `target`: of the ways that are about files. `location`: where a policy asks for it. Two with the same place and arguments are one,
    whoever asks for them.
    """

    way: Way
    place: str
    arguments: tuple[ProbeArgument, ...] = ()
    call: bool = False
    optional: bool = False
    result: ProbeArgument | None = None
    target: Target | None = None
    location: Location = Location("<none>")

    @property
    def identity(self) -> Probe:
        """What two that are one have in common."""
        return msgspec.structs.replace(self, optional=False, location=Location("<none>"))

    @property
    def number(self) -> int:
        """Its number in conditions (sensor.number) and in the kernel: of 32 bits, never 0, the same wherever it is computed."""
        return int.from_bytes(hashlib.blake2b(msgspec.msgpack.encode(self.identity), digest_size=4).digest(), "little") or 1


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """A named set of rules with one scope, one mode and default postures.

    `default` maps full event names to the action for what no allow rule of this policy covers, inside `scope`. `seccomp` is a system-call
    filter for what is started under the policy (`bpfence exec`): a filter cannot be given to processes that run already. `links`: the
    policy's paths also stand for what they lead to through symbolic links. `doubt`: in containers that may be in the scope, but are not
    known well enough to tell, the policy is in audit mode; it is the condition that nobody has told of a container. FALSE: the scope alone
    says what becomes of them. `probes`: the sensors that its rules are about.
    """

    name: str
    mode: str = "enforce"  # or "audit": nothing is blocked; what would have been blocked is reported
    severity: str = "medium"
    tags: tuple[str, ...] = ()
    scope: Condition = TRUE
    default: Mapping[str, Action] = msgspec.field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    seccomp: Profile | None = None
    links: bool = True
    doubt: Condition = FALSE
    probes: tuple[Probe, ...] = ()
    location: Location = Location("<none>")


class PolicySet(msgspec.Struct, frozen=True):
    """All policies of one generation, in load order."""

    policies: tuple[Policy, ...] = ()

    def rules(self) -> Iterator[tuple[Policy, Rule]]:
        """Every rule with its policy, in order."""
        for policy in self.policies:
            for rule in policy.rules:
                yield policy, rule


def unknown_too(selector: Selector, untold: Condition) -> Condition:
    """The condition that a selector selects the container, or may: where it is not known, or nobody has told of it (`untold`)."""
    return Or((Atom(CONTAINER_FIELD, Op.SELECTS, msgspec.structs.replace(selector, unknown=True)), untold))


def with_doubts(policies: PolicySet) -> PolicySet:
    """Each policy with `doubt` as two: itself, and the same in audit mode for containers of which it is not known whether they are in its
    scope. The same object where there is none."""
    if all(policy.doubt == FALSE for policy in policies.policies):
        return policies
    doubted = (((policy,) if policy.doubt == FALSE else (policy, _doubted(policy))) for policy in policies.policies)
    return PolicySet(tuple(part for parts in doubted for part in parts))


def _doubted(policy: Policy) -> Policy:
    known: dict[int, Condition] = {}
    outside = Not(policy.scope)
    of_scope = set(_conjuncts(policy.scope))

    def doubted(condition: Condition) -> Condition:
        if id(condition) not in known:
            # A rule may ask for containers by itself: then it is in doubt where it does not surely hold, wherever the scope does.
            within = of_scope.issubset(_conjuncts(condition))
            known[id(condition)] = And((outside if within else Not(condition), turned(condition, policy.doubt)))
        return known[id(condition)]

    rules = (
        msgspec.structs.replace(
            rule, condition=doubted(rule.condition), conditions={event: doubted(own) for event, own in rule.conditions.items()}
        )
        for rule in policy.rules
    )
    return msgspec.structs.replace(policy, mode="audit", doubt=FALSE, scope=doubted(policy.scope), rules=tuple(rules))


def _conjuncts(condition: Condition) -> tuple[Condition, ...]:
    return condition.parts if isinstance(condition, And) else (condition,)


def turned(condition: Condition, untold: Condition) -> Condition:
    """The same condition, with containers that are not known on the other side of each selector."""
    match condition:
        case Or((Atom(value=Selector(unknown=True) as selector), other)) if other == untold:
            return Atom(CONTAINER_FIELD, Op.SELECTS, msgspec.structs.replace(selector, unknown=False))
        case Atom(value=Selector() as selector):
            return unknown_too(selector, untold)
        case Not(part):
            return Not(turned(part, untold))
        case And(parts) | Or(parts):
            return msgspec.structs.replace(condition, parts=tuple(turned(part, untold) for part in parts))
    return condition


def replaced(condition: Condition, made: Callable[[Atom], Condition]) -> Condition:
    """A condition with something else in the place of each atom. Parts that stay the same are the same objects."""
    match condition:
        case Atom():
            return made(condition)
        case Not(part):
            new = replaced(part, made)
            return condition if new is part else Not(new)
        case And(parts) | Or(parts):
            news = tuple(replaced(part, made) for part in parts)
            same = all(new is part for new, part in zip(news, parts, strict=True))
            return condition if same else msgspec.structs.replace(condition, parts=news)


def atoms(condition: Condition) -> Iterator[Atom]:
    """Every atom of a condition, left to right, repeats included."""
    stack: list[Condition] = [condition]
    while stack:
        node = stack.pop()
        if isinstance(node, Atom):
            yield node
        elif isinstance(node, Not):
            stack.append(node.part)
        else:
            stack.extend(reversed(node.parts))
