# SPDX-License-Identifier: Apache-2.0
"""One filter of a selector in, a condition of the model out; UnsupportedError where the engine cannot decide it.

A filter on an argument is true of exactly the values that the reference says; where what is tested is absent, it is false, for operators
that deny as well.
"""

from __future__ import annotations

import ipaddress
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from bpfence import abi, names
from bpfence.conditions.sensors import NUMBERS
from bpfence.conditions.values import conj, disj, negation
from bpfence.dialects.tetragon.lower.hooks import Parameter, Reads
from bpfence.dialects.tetragon.read import words
from bpfence.dialects.tetragon.read.checks import HOST, integer, number_range
from bpfence.dialects.tetragon.read.model import ArgumentTest, Binaries, Capabilities, NamespaceChanges, Namespaces, Pids
from bpfence.fields import NAMESPACES
from bpfence.policy import FALSE, Atom, Condition, Op

U64: Final = 2**64 - 1
MAX_RANGE: Final = 64
"""How many numbers the ranges of a test on bits may have in all."""
MASKS: Final = 8
"""How many values the kernel's mask of an access has."""
_ACCESS_OF: Final = {1: abi.ACCESS_EXEC, 2: abi.ACCESS_WRITE, 4: abi.ACCESS_READ}
"""Bits of the kernel's mask (MAY_*), and those of file.access."""
_FILE_TYPES: Final = {
    "sock": stat.S_IFSOCK, "socket": stat.S_IFSOCK, "lnk": stat.S_IFLNK, "link": stat.S_IFLNK, "reg": stat.S_IFREG, "regular": stat.S_IFREG,
    "blk": stat.S_IFBLK, "block": stat.S_IFBLK, "dir": stat.S_IFDIR, "chr": stat.S_IFCHR, "char": stat.S_IFCHR, "fifo": stat.S_IFIFO,
    "pipe": stat.S_IFIFO,
}  # fmt: skip
_TYPE_BITS: Final = 0o170000
TEXT_OPS: Final = {
    "Equal": Op.EQUALS, "Prefix": Op.PREFIX, "Postfix": Op.SUFFIX, "SubString": Op.CONTAINS, "SubStringIgnCase": Op.ICONTAINS,
    "In": Op.EQUALS,
}  # fmt: skip
_CAPABILITY_SETS: Final = {"Effective": "process.caps", "Permitted": "process.permitted_caps", "Inheritable": "process.inheritable_caps"}
_WORDS: Final = re.compile(r"(?<=[a-z])([A-Z])")
"""Where a word begins within a name as PidForChildren."""
_LOWER: Final = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}
_PLACED: Final = disj((Atom("file.path", Op.PREFIX, "/"), Atom("file.memfd", Op.RANGE, (1, 1))))
"""The file has a path: pipes and sockets have none."""


class UnsupportedError(Exception):
    """A filter that cannot be decided. The message completes "operator X: …" and the like."""


def argument(parameter: Parameter, test: ArgumentTest, values: tuple[str, ...]) -> Condition:
    """A filter on an argument. `values`: those of the test, lists written out."""
    operator = test.operator
    match parameter.reads:
        case Reads.FILE | Reads.NAME:
            return _file(operator, values, parameter.reads is Reads.FILE)
        case Reads.NUMBER:
            return _number(parameter.field, operator, values)
        case Reads.ACCESS:
            return _access(operator, values)
        case Reads.PROTECTION:
            return _protection(operator, values)
        case Reads.ADDRESS:
            return _address(operator, values)
        case Reads.SOCKET:
            return _socket(operator, values)
        case Reads.INTEGER:
            return _integer(parameter, operator, values)
        case Reads.TEXT:
            return _texts(parameter.field, operator, values, Atom(parameter.field, Op.EXISTS))
        case Reads.PLACE:
            return _place(parameter.field, operator, values)
        case Reads.SOCK:
            return _sock(operator, values)
        case Reads.MODULE:
            return _texts("module.name", operator, values, Atom("module.name", Op.EXISTS))
    raise UnsupportedError(f"this argument ({parameter.reads.value}) can be shown, and not tested yet")


def _texts(field: str, operator: str, values: tuple[str, ...], there: Condition) -> Condition:
    """A test on a text. `there`: the condition that there is one."""
    denies = operator.startswith("Not")
    op = TEXT_OPS[operator.removeprefix("Not")]
    texts = (value.translate(_LOWER) if op is Op.ICONTAINS else value for value in values)
    found = disj(Atom(field, op, text) for text in texts)
    return conj((there, negation(found))) if denies else found


def _number(field: str, operator: str, values: tuple[str, ...]) -> Condition:
    """A number that is not negative."""
    spans = [span for value in values if (span := number_range(value)) is not None]
    match operator.removeprefix("Not"):
        case "Equal" | "InRange" | "InMap":
            found = _within(field, spans)
        case "Mask":
            found = disj(Atom(field, Op.ANYBITS, low & U64) for low, _ in spans if low & U64)
        case "GT" | "GreaterThan":
            found = _within(field, [(low + 1, U64) for low, _ in spans])
        case "LT" | "LessThan":
            found = _within(field, [(0, low - 1) for low, _ in spans])
        case _:
            raise UnsupportedError(f"operator {operator} is not decided in the kernel yet")
    return conj((Atom(field, Op.EXISTS), negation(found))) if operator.startswith("Not") else found


def _within(field: str, spans: Iterable[tuple[int, int]]) -> Condition:
    """The number is in one of some spans; what lies outside of numbers of 64 bits is in none."""
    inside = ((max(low, 0), min(high, U64)) for low, high in spans)
    return disj(Atom(field, Op.RANGE, (low, high)) for low, high in inside if low <= high)


def unlike_a_path(operator: str, value: str) -> tuple[str, str]:
    """What no path of the kernel's has of a text that is tested for, and what to write; two empty texts where one may."""
    begins, ends = operator in ("Equal", "In", "Prefix"), operator in ("Equal", "In", "Postfix")
    if begins and not value.startswith(("/", "memfd:")):
        return "a path begins with '/'", "write the whole path"
    if dots := re.search(r"//|/\.\.?/|/\.\.?$" if ends else r"//|/\.\.?/", value):
        return f"no path has {dots.group()!r} in it", "write the path as realpath(1) prints it"
    if ends and value.endswith("/") and value != "/":
        return "no path ends in '/'", "leave the '/' at its end out" + (", or test with Prefix what lies below" if begins else "")
    return "", ""


def _integer(parameter: Parameter, operator: str, values: tuple[str, ...]) -> Condition:
    """A number of a sensor, which has 64 bits there: with its sign put in, where its type has one."""
    field, kind = parameter.field, parameter.types[0]
    bits, signed = NUMBERS[kind], kind in words.SIGNED
    spans = [span for value in values if (span := number_range(value)) is not None]
    least, most = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    match operator.removeprefix("Not"):
        case "Equal" | "InRange" | "InMap":
            wanted = [_as_typed(low, high, bits, signed) for low, high in spans]
        case "Mask":
            mask = (1 << bits) - 1
            return disj(Atom(field, Op.ANYBITS, low & mask) for low, _ in spans if low & mask)
        case "GT" | "GreaterThan":
            wanted = [(low + 1, most) for low, _ in spans]
        case "LT" | "LessThan":
            wanted = [(least, low - 1) for low, _ in spans]
        case _:
            raise UnsupportedError(f"operator {operator} is not decided in the kernel yet")
    parts = [part for low, high in wanted for part in _unsigned(max(low, least), min(high, most))]
    found = disj(Atom(field, Op.RANGE, part) for part in parts)
    return conj((Atom(field, Op.EXISTS), negation(found))) if operator.startswith("Not") else found


def _as_typed(low: int, high: int, bits: int, signed: bool) -> tuple[int, int]:
    """A range; one number that the type has in another form only (-1 for 0xffffffff, and the other way round) in the type's own."""
    if low != high:
        return low, high
    number = low & (1 << bits) - 1
    number -= 1 << bits if signed and number >> bits - 1 else 0
    return number, number


def _unsigned(low: int, high: int) -> Iterator[tuple[int, int]]:
    """A range of numbers with signs, as ranges of numbers of 64 bits without."""
    if low > high:
        return
    if low < 0:
        yield low & U64, min(high, -1) & U64
    if high >= 0:
        yield max(low, 0), high


def _place(field: str, operator: str, values: tuple[str, ...]) -> Condition:
    if operator in ("FileType", "NotFileType"):
        raise UnsupportedError(f"operator {operator} is not decided on this argument yet")
    return _texts(field, operator, values, _PLACED if field == "file.path" else Atom(field, Op.PREFIX, "/"))


def _sock(operator: str, values: tuple[str, ...]) -> Condition:
    """A socket of a sensor: S is its own side, D the other one."""
    denies = operator.startswith("Not")
    match operator.removeprefix("Not"):
        case "SAddr" | "DAddr" as side:
            field = "net.local.ip" if side == "SAddr" else "net.peer.ip"
            found = disj(Atom(field, Op.CIDR, str(ipaddress.ip_network(value, strict=False))) for value in values)
        case "SPort" | "DPort" as side:
            field = "net.local.port" if side == "SPort" else "net.peer.port"
            found = disj(Atom(field, Op.RANGE, span) for value in values if (span := number_range(value)) is not None)
        case "SPortPriv" | "SportPriv":
            field, found = "net.local.port", Atom("net.local.port", Op.RANGE, (0, 1023))
        case "DPortPriv":
            field, found = "net.peer.port", Atom("net.peer.port", Op.RANGE, (0, 1023))
        case "State":
            return _named("net.state", "tcp_state", values)
        case _:
            return _socket(operator, values)
    return conj((Atom(field, Op.EXISTS), negation(found))) if denies else found


def _file(operator: str, values: tuple[str, ...], typed: bool) -> Condition:
    if operator in ("FileType", "NotFileType"):
        if not typed:
            raise UnsupportedError(f"operator {operator} is not decided on this hook yet")
        kinds = dict.fromkeys(_FILE_TYPES[value.lower()] for value in values)
        found = disj(Atom("file.mode", Op.MASKED, (_TYPE_BITS, kind)) for kind in kinds)
        return conj((Atom("file.mode", Op.EXISTS), negation(found))) if operator == "NotFileType" else found
    return _texts("file.path", operator, values, _PLACED)


def predicate(operator: str, values: tuple[str, ...]) -> Callable[[int], bool]:
    """Whether a number that is not negative passes a test."""
    ranges = [found for value in values if (found := number_range(value)) is not None]
    wanted = {low for low, _ in ranges}
    match operator:
        case "Equal":
            return lambda number: number in wanted
        case "NotEqual":
            return lambda number: number not in wanted
        case "Mask":
            return lambda number: any(number & mask for mask in wanted)
        case "GT" | "GreaterThan":
            return lambda number: any(number > low for low in wanted)
        case "LT" | "LessThan":
            return lambda number: any(number < low for low in wanted)
        case "InRange" | "InMap":
            return lambda number: any(low <= number <= high for low, high in ranges)
        case "NotInRange" | "NotInMap":
            return lambda number: not any(low <= number <= high for low, high in ranges)
    raise UnsupportedError(f"operator {operator} is not decided in the kernel yet")


def _access(operator: str, values: tuple[str, ...]) -> Condition:
    """The mask has three bits: each of its values is tried."""
    passes = predicate(operator, values)
    masks = [mask for mask in range(MASKS) if passes(mask)]
    return _bits("file.access", 7, [sum(bit for may, bit in _ACCESS_OF.items() if mask & may) for mask in masks])


def _protection(operator: str, values: tuple[str, ...]) -> Condition:
    """PROT_* is a set of bits without bounds, so only tests are decided that name values."""
    if operator == "Mask":
        return disj(Atom("file.prot", Op.ANYBITS, mask) for value in values if (mask := (integer(value) or 0) & U64))
    ranges = [found for value in values if (found := number_range(value)) is not None]
    if sum(high - low + 1 for low, high in ranges) > MAX_RANGE:
        raise UnsupportedError(f"a range of more than {MAX_RANGE} values of PROT_* is not decided in the kernel")
    numbers = [number & U64 for low, high in ranges for number in range(low, high + 1)]
    match operator:
        case "Equal" | "InRange" | "InMap":
            return _bits("file.prot", U64, numbers)
        case "NotEqual" | "NotInRange" | "NotInMap":
            return negation(disj(Atom("file.prot", Op.MASKED, (U64, number)) for number in numbers))
    raise UnsupportedError(f"operator {operator} on PROT_* is not decided in the kernel: test its bits with Mask, or its values with Equal")


def _bits(field: str, mask: int, numbers: list[int]) -> Condition:
    """The number is one of some."""
    found = disj(Atom(field, Op.MASKED, (mask, number)) for number in dict.fromkeys(numbers))
    if not numbers or 0 in numbers:
        return found
    union = 0
    for number in numbers:
        union |= number
    return conj((Atom(field, Op.ANYBITS, union), found))  # what the kernel can tell before it looks at a path


def only(constant: int, test: ArgumentTest, values: tuple[str, ...]) -> bool:
    """Whether a test is true of a number and of none beside it."""
    passes = predicate(test.operator, values)
    return [number for number in range(MAX_RANGE) if passes(number)] == [constant]


def _named(field: str, table: str, values: tuple[str, ...]) -> Condition:
    known = names.TABLES[table].numbers
    numbers = (known.get(value, integer(value)) for value in values)
    return disj(Atom(field, Op.RANGE, (number, number)) for number in numbers if number is not None)


def _socket(operator: str, values: tuple[str, ...]) -> Condition:
    match operator:
        case "Family":
            return _named("net.family", "family", values)
        case "Protocol":
            return _named("net.protocol", "protocol", values)
    raise UnsupportedError(f"operator {operator} on a socket is not decided in the kernel yet")


def _address(operator: str, values: tuple[str, ...]) -> Condition:
    denies = operator.startswith("Not")
    match operator.removeprefix("Not"):
        case "SAddr":
            networks = (str(ipaddress.ip_network(value, strict=False)) for value in values)
            found, field = disj(Atom("net.peer.ip", Op.CIDR, network) for network in networks), "net.peer.ip"
        case "SPort":
            spans = (span for value in values if (span := number_range(value)) is not None)
            found, field = disj(Atom("net.peer.port", Op.RANGE, span) for span in spans), "net.peer.port"
        case "SPortPriv" | "SportPriv":
            found, field = Atom("net.peer.port", Op.RANGE, (0, 1023)), "net.peer.port"
        case "Family":
            return _named("net.family", "family", values)
        case _:
            raise UnsupportedError(f"operator {operator} on an address is not decided in the kernel yet")
    return conj((Atom(field, Op.EXISTS), negation(found))) if denies else found


def binaries(test: Binaries) -> Condition:
    """A filter on the executable of the acting process, or with followChildren on those that it descends from as well."""
    denies = test.operator.startswith("Not")
    op = TEXT_OPS[test.operator.removeprefix("Not")]
    fields = ("process.exe", "process.ancestors.exe") if test.follow_children else ("process.exe",)
    found = disj(Atom(field, op, value) for field in fields for value in test.values)
    return negation(found) if denies else found


def parent_binaries(test: Binaries) -> Condition:
    """A filter on the executable that the acting process was started from."""
    if test.follow_children:
        raise UnsupportedError("followChildren of matchParentBinaries is not decided: write it in matchBinaries")
    denies = test.operator.startswith("Not")
    found = disj(Atom("process.parent.exe", TEXT_OPS[test.operator.removeprefix("Not")], value) for value in test.values)
    return negation(found) if denies else found


def pids(test: Pids) -> Condition:
    """A filter on the id of the process."""
    if test.is_namespace_pid or test.follow_forks:
        what = "isNamespacePID" if test.is_namespace_pid else "followForks"
        raise UnsupportedError(f"{what} is not decided in the kernel yet")
    found = disj(Atom("process.pid", Op.RANGE, (pid, pid)) for pid in test.values)
    return negation(found) if test.operator == "NotIn" else found


def capabilities(test: Capabilities) -> Condition:
    """A filter on a set of capabilities: In is true where one of them is there, NotIn where none is."""
    found = Atom(_CAPABILITY_SETS[test.type], Op.ANYBITS, _mask("capability", test.values))
    return conj((negation(found) if test.operator == "NotIn" else found, *_elsewhere(test)))


def capability_changes(test: Capabilities) -> Condition:
    """A filter on what a set of capabilities has got and lost since the program was executed: In is true where one of them is among that,
    NotIn where others are, and none of them."""
    field = _CAPABILITY_SETS[test.type].replace("process.", "process.changed_")
    found = Atom(field, Op.ANYBITS, _mask("capability", test.values))
    any_ = Atom(field, Op.RANGE, (1, U64))
    return conj((*((any_, negation(found)) if test.operator == "NotIn" else (found,)), *_elsewhere(test)))


def _mask(table: str, values: Iterable[str]) -> int:
    numbers = names.TABLES[table].numbers
    bits = {numbers[value] if table == "namespace" else 1 << numbers[value] for value in values}
    return sum(bits)


def _elsewhere(test: Capabilities) -> tuple[Condition, ...]:
    """Where capabilities are asked for that count in a namespace of users alone: that it is not the host's."""
    own = negation(Atom("process.ns.host", Op.ANYBITS, _mask("namespace", ("user",))))
    return (own,) if test.is_namespace_capability else ()


def _namespace(name: str) -> str:
    """A type of namespaces as the model has it."""
    return _WORDS.sub(r"_\1", name).lower()


def namespace_changes(test: NamespaceChanges) -> Condition:
    """A filter on the namespaces that are others than when the program was executed: In is true where one of these is, NotIn where one is
    that is none of these."""
    named = _mask("namespace", map(_namespace, test.values))
    wanted = _mask("namespace", NAMESPACES) & ~named if test.operator == "NotIn" else named
    return Atom("process.ns.changed", Op.ANYBITS, wanted) if wanted else FALSE


def namespaces(test: Namespaces) -> Condition:
    """A filter on the namespace of one type that the acting task is in: In is true where it is one of them, NotIn where it is none."""
    name = _namespace(test.namespace)
    found = disj(
        Atom("process.ns.host", Op.ANYBITS, names.TABLES["namespace"].numbers[name])
        if value == HOST
        else Atom(f"process.ns.{name}", Op.RANGE, (number, number))
        for value in test.values
        if (number := integer(value) or 0) or value == HOST
    )
    return negation(found) if test.operator == "NotIn" else found
