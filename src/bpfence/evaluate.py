# SPDX-License-Identifier: Apache-2.0
"""A condition and an event in, yes or no out: the reference semantics of policies.

Called by `policy.Rule.matches`, Falco's `confirm` (what the kernel leaves to user space), `explain`, `test` and the differential tests. It
is written to be plainly right, not fast: the compiler's tables and the kernel must agree with it. It never looks at the host.

An event maps field names to values, "event" to the full event name. Paths and strings are str (undecodable bytes as surrogate
escapes) or bytes; numbers are int (or bool); addresses are str, or 4 or 16 bytes; list fields are tuples. What is missing, or
None, is absent: every atom on it is false. The sets of `follow: object` that a file belongs to are a tuple of their patterns
under the keys of OBJECT_KEYS; `process.container` is a tuple of the selectors that select the container that the process runs in, and
absent where nobody has told of one.
"""

from __future__ import annotations

import ipaddress
from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple, Union

from bpfence import glob
from bpfence.fields import CONTAINER, KERNEL_FIELDS, Kind
from bpfence.policy import (
    COMPARISONS,
    DEFAULT_RULE,
    STEPS,
    Action,
    And,
    Atom,
    Condition,
    Event,
    Not,
    Op,
    Or,
    Policy,
    PolicySet,
    Rule,
    with_doubts,
)

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]

OBJECT_KEYS: Final = {"file.path": "file.object", "file.new_path": "file.new_object"}
"""Where an event keeps the patterns whose objects a path's file belongs to."""


class Match(NamedTuple):
    """One rule that took part in a verdict; `action` is what it did: in audit mode deny and kill have become AUDIT."""

    policy: str
    rule: str
    action: Action


class Verdict(NamedTuple):
    """What happens: the greatest action of all matches (NONE when there is none), and for DENY and KILL the positive errno.

    The errno is that of the first match, in load order, with the winning action. `allow` rules never appear among the matches.
    `signals`: those that the acting process is sent, each once, ascending; SIGKILL of KILL is not among them.
    """

    action: Action
    errno: int
    matches: tuple[Match, ...]
    signals: tuple[int, ...] = ()


class Counts:
    """What the rules of one policy set have counted, event after event. The events' times, ns of one clock, do not go back.

    The clock is cut into steps of an eighth of a rule's window; what counts are the events of the last eight steps, the event's own
    included. So all that is counted has happened within the window, and of what has, only what is older than seven steps may be left out.
    """

    def __init__(self) -> None:
        self._steps: dict[tuple[str, str, str, object], deque[int]] = {}
        self._told: dict[tuple[str, str, str, object], int] = {}

    def reached(self, policy: Policy, rule: Rule, event: Event, time: int, *, once: bool) -> bool:
        """Counts an event that a rule's condition holds of, and says whether the rule acts on it; `once`: on one in a window, at most."""
        threshold = rule.threshold
        if threshold is None:
            return True
        key = policy.name, policy.mode, rule.name, subject(threshold.by, event)
        step = time // (threshold.within * 1_000_000 // STEPS)
        steps = self._steps.setdefault(key, deque())
        steps.append(step)
        while steps[0] <= step - STEPS:
            steps.popleft()
        if len(steps) < threshold.count or (once and step - self._told.get(key, step - STEPS) < STEPS):
            return False
        if once:
            self._told[key] = step
        return True


def subject(by: str, event: Event) -> object:
    """Whom a rule counts an event for. Two processes of one pid are one here, and two files of one path; not so in the kernel."""
    match by:
        case "process":
            return event.get("process.pid")
        case "exe":
            return event.get("process.exe")
        case "user":
            return event.get("process.uid")
        case "container":
            return event.get("process.cgroup") if event.get(CONTAINER.name) is not None else None
    return None


def holds(condition: Condition, event: Event) -> bool:
    """Whether `condition` is true of `event`."""
    match condition:
        case And(parts):
            return all(holds(part, event) for part in parts)
        case Or(parts):
            return any(holds(part, event) for part in parts)
        case Not(part):
            return not holds(part, event)
        case Atom():
            return _atom_holds(condition, event)


def verdict(policies: PolicySet, event: Event, counts: Counts | None = None, time: int = 0) -> Verdict:
    """The verdict of a policy set on one event: deny wins over everything; an allow exempts from its own policy's default only.

    `counts`: what has happened before, which the event is added to, at its `time` in ns; None: nothing has.
    """
    counts = Counts() if counts is None else counts
    matches: list[Match] = []
    errno = 0
    best = Action.NONE
    signals: set[int] = set()
    for policy in with_doubts(policies).policies:
        for name, action, code, signal in _policy_matches(policy, event, counts, time):
            if signal and policy.mode != "audit":
                signals.add(signal)
            effective = Action.AUDIT if policy.mode == "audit" and action > Action.AUDIT else action
            matches.append(Match(policy.name, name, effective))
            if effective > best:
                best = effective
                errno = code if effective >= Action.DENY else 0
    return Verdict(best, errno, tuple(matches), tuple(sorted(signals)))


def tells(rule: Rule, mode: str) -> bool:
    """Whether a rule of a policy in such a mode blocks nothing, and only tells."""
    return mode == "audit" or rule.action <= Action.AUDIT


def _policy_matches(policy: Policy, event: Event, counts: Counts, time: int) -> Iterator[tuple[str, Action, int, int]]:
    allowed = False
    name = event["event"]
    for rule in policy.rules:
        if name not in rule.events or not rule.matches(event):
            continue
        if rule.action == Action.ALLOW:
            allowed = True
        elif rule.action != Action.NONE and counts.reached(policy, rule, event, time, once=tells(rule, policy.mode)):
            yield rule.name, rule.action, rule.errno, rule.signal
    default = policy.default.get(str(event["event"]), Action.NONE)
    if default > Action.ALLOW and not allowed and holds(policy.scope, event):
        yield DEFAULT_RULE, default, 1, 0


def _atom_holds(atom: Atom, event: Event) -> bool:
    key = OBJECT_KEYS[atom.field] if atom.op is Op.OBJECT else atom.field
    value = event.get(key)
    if value is None:
        return False
    if atom.field == CONTAINER.name:
        return atom.op is Op.EXISTS or (isinstance(value, tuple) and atom.value in value)
    if atom.op in COMPARISONS:
        return _comparison_holds(atom, value, event.get(str(atom.value)))
    if isinstance(value, (tuple, list)):
        return any(_test(atom, element) for element in value)
    return _test(atom, value)


def _comparison_holds(atom: Atom, value: object, other: object) -> bool:
    """Of two fields: numbers by size, texts by their bytes, addresses as addresses."""
    if other is None:
        return False
    if atom.op is Op.LESS:
        return _number(value) < _number(other)
    if atom.op is Op.BEGINS:
        return _bytes(value).startswith(_bytes(other))
    if atom.op is Op.ENDS:
        return _bytes(value).endswith(_bytes(other))
    if KERNEL_FIELDS[atom.field].kind is Kind.ADDRESS:
        one, two = _address(value), _address(other)
        return None not in (one, two) and (one == two) is (atom.op is Op.SAME)
    same = value == other if isinstance(value, int) and isinstance(other, int) else _bytes(value) == _bytes(other)
    return same is (atom.op is Op.SAME)


def _test(atom: Atom, value: str | bytes | int) -> bool:
    wanted = atom.value
    match atom.op:
        case Op.EXISTS:
            return True
        case Op.RANGE:
            low, high = _pair(wanted)
            return low <= _number(value) <= high
        case Op.ANYBITS:
            assert isinstance(wanted, int)
            return _number(value) & wanted != 0
        case Op.MASKED:
            mask, bits = _pair(wanted)
            return _number(value) & mask == bits
        case Op.CIDR:
            network = ipaddress.ip_network(_text(wanted))
            address = _address(value)
            return address is not None and address.version == network.version and address in network
    data, text = _bytes(value), _text(wanted)
    match atom.op:
        case Op.GLOB:
            return glob.compiled(text, "path").fullmatch(data) is not None
        case Op.STRGLOB:
            return glob.compiled(text, "string").fullmatch(data) is not None
        case Op.WORDS:
            return set(data.split(b"\0")[1:]) <= set(glob.encode(text).split(b"\0") if text else ())
        case Op.EQUALS | Op.OBJECT:
            return data == glob.encode(text)
        case Op.PREFIX:
            return data.startswith(glob.encode(text))
        case Op.SUFFIX:
            return data.endswith(glob.encode(text))
        case Op.CONTAINS:
            return glob.encode(text) in data
        case Op.ICONTAINS:
            return glob.encode(text).lower() in data.lower()  # bytes.lower() folds ASCII letters only
    raise AssertionError(atom.op)


def _pair(value: object) -> tuple[int, int]:
    assert isinstance(value, tuple)
    low, high = value
    return int(low), int(high)


def _text(value: object) -> str:
    assert isinstance(value, str)
    return value


def _number(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"a number is needed, not {value!r}")
    return value


def _bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return glob.encode(value)
    raise TypeError(f"a string is needed, not {value!r}")


def _address(value: object) -> Address | None:
    """An IPv4-mapped IPv6 address is the IPv4 address. Text that is no address gives None."""
    if not isinstance(value, (str, bytes)):
        raise TypeError(f"an address is needed, not {value!r}")
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
