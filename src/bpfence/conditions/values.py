# SPDX-License-Identifier: Apache-2.0
"""One field and the text of one value in, a condition out.

Called by `native` for the values under match, unless and scope, and by `conditions` for those of expressions. Raises TextError with the
offset of the mistake; knows nothing of files and lines. Users and groups are looked up on this host.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from typing import Final

from bpfence import glob, names
from bpfence.documents.report import TextError
from bpfence.evaluate import holds
from bpfence.fields import ANY_NUMBER, EVENTS, FIELD_BY_NAME, FIELDS, Field, Kind, applies, measure
from bpfence.policy import FALSE, TRUE, And, Atom, Condition, Not, Op, Or, atoms
from bpfence.words import quoted, suggest

U64: Final = 2**64 - 1
_LIMITS: Final = {"port": 0xFFFF, "user": 0xFFFF_FFFF, "group": 0xFFFF_FFFF}
_COMM_MAX: Final = 15
_COMMANDS: Final = ("process.name", "process.parent.name", "process.ancestors.name")
_BRANCHES: Final = 64
_LOWER: Final = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}
_MAX_TRIALS: Final = 200_000
_BRACES: Final = re.compile(r"\{([^{}\\\[\]]*)\}")
_RANGE: Final = re.compile(r"\s*([^\s<>=-][^\s-]*)\s*-\s*([^\s-]+)\s*")
_COMPARED: Final = re.compile(r"\s*(>=|<=|>|<)\s*(.*\S)\s*")


# ---- conditions put together ----


def conj(parts: Iterable[Condition]) -> Condition:
    """All of `parts`, flattened, repeats and the trivial left out."""
    flat: dict[Condition, None] = {}
    for part in parts:
        if part == FALSE:
            return FALSE
        for p in part.parts if isinstance(part, And) else (part,):
            flat[p] = None
    return next(iter(flat)) if len(flat) == 1 else And(tuple(flat))


def disj(parts: Iterable[Condition]) -> Condition:
    """Any of `parts`, flattened, repeats and the trivial left out."""
    flat: dict[Condition, None] = {}
    for part in parts:
        if part == TRUE:
            return TRUE
        for p in part.parts if isinstance(part, Or) else (part,):
            flat[p] = None
    return next(iter(flat)) if len(flat) == 1 else Or(tuple(flat))


def negation(part: Condition) -> Condition:
    """Not `part`."""
    if isinstance(part, Not):
        return part.part
    return TRUE if part == FALSE else FALSE if part == TRUE else Not(part)


# ---- values by kind ----


def condition_of(field: Field, text: str) -> Condition:
    """The condition that one value of `match` stands for: a glob, a number or range, a name, a network, a boolean."""
    if text.startswith("!"):
        raise TextError("a value cannot be negated with '!'", "list what is excepted under unless:")
    if field.kind is not Kind.STRING:
        no_field(field, text)
    match field.kind:
        case Kind.PATH | Kind.STRINGS | Kind.STRING:
            return pattern(field, text)
        case Kind.NUMBER | Kind.NAMED | Kind.USER:
            return between(field, *numeric(field, text))
        case Kind.FLAGS:
            return bits(field, [text])
        case Kind.BOOL:
            return boolean(field, text)
        case Kind.ADDRESS:
            return network_condition(field, text)


def named_field(text: str) -> Field | None:
    """The field that a value without quotes names; None where it is a text of its own."""
    return FIELD_BY_NAME.get(text.lower()) if "." in text else None


def no_field(field: Field, text: str) -> None:
    """Refuse the name of a field as a value of `match`, whose values are patterns, ranges and networks."""
    if other := named_field(text):
        what = f"{field.name} is compared with the field {other.name}: only a condition compares a field with a field"
        raise TextError(what, f"list the values in question, or write condition: {field.name} = {other.name}", "not-supported")


def slot_field(field: Field) -> str:
    """The field that an atom names. Behind the dialects, users are numbers: process.uid."""
    return "process.uid" if field.kind is Kind.USER else field.name


def between(field: Field, low: int, high: int) -> Condition:
    """The number lies in low..high."""
    return Atom(slot_field(field), Op.RANGE, (low, high))


def equals(field: Field, text: str) -> Condition:
    """The whole string."""
    if not text and field.kind is not Kind.STRING:
        raise TextError("an empty path never matches", "write the path", "unreachable")
    _check_length(field, text)
    return Atom(field.name, Op.EQUALS, text)


def pattern(field: Field, text: str) -> Condition:
    """A glob, as the simplest atoms that mean the same."""
    kind: glob.GlobKind = "string" if field.kind is Kind.STRING or field.name in _COMMANDS else "path"
    try:
        pieces = glob.parse(text, kind)
    except glob.GlobError as e:
        raise TextError(e.message, e.hint, "bad-glob", e.position) from None
    if field.name in _COMMANDS:
        _check_name(field, text, shortest(pieces), text)
    elif kind == "path":
        _check_path(field, text, pieces)
    simple = [_simple(field, glob.parse(branch, kind)) for branch in branches(text)]
    if all(part is not None for part in simple):
        return disj(part for part in simple if part is not None)
    return Atom(field.name, Op.STRGLOB if kind == "string" else Op.GLOB, text)


def _simple(field: Field, pieces: glob.Glob) -> Condition | None:
    """The atom for a glob that is a literal, a prefix, a suffix, a `contains`, or matches everything; None for any other."""
    match pieces:
        case () | (glob.Text(),):
            text = _decode(pieces)
            _check_length(field, text)
            return Atom(field.name, Op.EQUALS, text)
        case (glob.Star(True),):
            return Atom(field.name, Op.EXISTS)
        case (glob.Text(data), glob.Star(True)):
            return Atom(field.name, Op.PREFIX, _text(data))
        case (glob.Star(True), glob.Text(data)):
            return Atom(field.name, Op.SUFFIX, _text(data))
        case (glob.Star(True), glob.Text(data), glob.Star(True)):
            return Atom(field.name, Op.CONTAINS, _text(data))
    return None


def _decode(pieces: glob.Glob) -> str:
    return _text(glob.literal(pieces) or b"")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def branches(text: str) -> list[str]:
    """A glob with its braces written out as several globs; the glob itself where that would be too many."""
    done: list[str] = []
    todo = [text]
    while todo:
        if len(done) + len(todo) > _BRANCHES:
            return [text]
        item = todo.pop(0)
        braces = _BRACES.search(item) if "\\" not in item and "[" not in item else None
        if braces:
            todo.extend(item[: braces.start()] + branch + item[braces.end() :] for branch in braces.group(1).split(","))
        else:
            done.append(item)
    return done


def _check_length(field: Field, text: str) -> None:
    if field.name in _COMMANDS:
        _check_name(field, text, len(glob.encode(text)), text)


def _check_name(field: Field, text: str, shortest: int, start: str) -> None:
    """Check a test on a command name, which has at most 15 bytes and no '/'. `shortest`: the length of the shortest match, in bytes;
    `start`: what it begins with."""
    if start.startswith("/"):
        exe = field.name.removesuffix("name") + "exe"
        what = f"a command name is no path: {quoted(text)} never matches"
        raise TextError(what, f"write {exe}: {text}, or the name alone: {text.rpartition('/')[2] or '*'!r}", "unreachable")
    if shortest > _COMM_MAX:
        cut = glob.encode(text)[:_COMM_MAX].decode("utf-8", "ignore")
        what = f"the kernel keeps {_COMM_MAX} bytes of a name: {quoted(text)} never matches"
        exe = field.name.removesuffix("name") + "exe"
        raise TextError(what, f"write {cut!r}, or use {exe}", "unreachable")


def part(field: Field, text: str, *, first: bool) -> None:
    """Check a part of a string, its beginning where `first`: TextError where no value of the field holds it."""
    if field.name in _COMMANDS:
        _check_name(field, text, len(glob.encode(text)), text if first else "")


def shortest(pieces: glob.Glob) -> int:
    """The length, in bytes, of the shortest string that a glob matches."""
    length = 0
    for piece in pieces:
        match piece:
            case glob.Text(data):
                length += len(data)
            case glob.One(sequences):
                length += min((len(sequence) for sequence in sequences), default=1)
            case glob.Either(branches_):
                length += min(shortest(branch) for branch in branches_)
    return length


_PATTERNS: Final = (Kind.PATH, Kind.STRINGS, Kind.STRING)
_ARGUMENTS: Final = ("process.args", "process.parent.args")
_LOGIN_SHELL: Final = re.compile(r"-\w*sh\b")
_REGEX: Final = re.compile(r"^\^|\$$|\([^()]*\|[^()]*\)|\\[dws.]|\.\+|\[\^|\)[*+?]")
_GLOBS: Final = "{a,b} for alternatives, [!a] for any character but a, ** for any text"
_OWNER_BITS: Final = 0o600
_SPECIAL_BITS: Final = 0o7000


def odd(field: Field, text: str) -> Iterator[TextError]:
    """What is odd about one value that is accepted: it means something else than it seems to mean. These become warnings."""
    if field.kind is Kind.FLAGS and field.names == "mode":
        yield from _odd_mode(text)
    if field.kind not in _PATTERNS:
        return
    if field.kind is not Kind.STRING and "***" in text and not re.search(r"[\\\[]", text):
        simpler = re.sub(r"\*{3,}", "**", text)
        what = f"'***' is no more than '**': {quoted(text)} means {quoted(simpler)}"
        yield TextError(what, f"write {quoted(simpler)}", "odd-glob")
    if _REGEX.search(text):
        yield TextError(f"{quoted(text)} looks like a regular expression, and is read as a glob", f"write {_GLOBS}", "looks-like-regex")
    if field.name in _ARGUMENTS and text.startswith("-") and not _LOGIN_SHELL.match(text):
        what = f"{field.name} is all arguments in one text that begins with the program's name: {quoted(text)} matches none of them alone"
        ways = dict.fromkeys((quoted("* " + text), quoted("* " + text.rstrip("*").rstrip() + " *")))
        yield TextError(what, f"write {' or '.join(ways)}", "whole-arguments")
    if field.kind is Kind.PATH:
        yield from _as_in_proc(field, text)


def _as_in_proc(field: Field, text: str) -> Iterator[TextError]:
    """Names that only /proc/PID/exe and the like have."""
    if text.startswith("/memfd:"):
        what = f"{quoted(text)} is how /proc shows a file in memory: {field.name} has no '/' before memfd:"
        yield TextError(what, f"write {quoted(text[1:])}", "as-in-proc")
    elif text.endswith(" (deleted)"):
        what = f"' (deleted)' is what /proc adds to the name of a file that is gone: {field.name} has the name alone"
        yield TextError(what, f"write {quoted(text.removesuffix(' (deleted)'))}; file.deleted tells whether it is gone", "as-in-proc")


def _odd_mode(text: str) -> Iterator[TextError]:
    """A whole mode where any one of its bits is enough."""
    written = re.fullmatch(r"0[oO]?([0-7]+)", text.strip())
    mode = int(written.group(1), 8) if written else 0
    special = mode & _SPECIAL_BITS
    if (special and special != mode) or (mode & _OWNER_BITS and mode & (mode - 1)):
        hint = f"write 0o{special:o} for the special bits alone" if special else "write the one bit that matters: 0o002 is write for others"
        example = mode & -mode if special and not mode & _OWNER_BITS else 0o600
        what = f"any one of these bits is enough: {text} matches mode 0o{example:o} as well"
        yield TextError(what, hint, "any-bit")


def _check_path(field: Field, text: str, pieces: glob.Glob) -> None:
    if not text:
        raise TextError("an empty path never matches", "write the path", "unreachable")
    bound = field.name == "net.unix.path"
    pseudo = text.startswith("@" if bound else "memfd:")
    if not pseudo and not any(_can_start(pieces, ord(first)) for first in ("/@" if bound else "/")):
        if text.startswith(("~", "$")):
            what = f"{quoted(text)} never matches: nothing expands {text[0]!r} in a policy"
            raise TextError(what, _without_shell(text), "unreachable")
        what = "a path begins with '/'" + (", an abstract name with '@'" if bound else "")
        raise TextError(f"{quoted(text)} never matches: {what}", _whole(text), "unreachable")
    if bound and pseudo:
        return
    if text.endswith("/") and not glob.compiled(text, "path").fullmatch(b"/"):
        directory = text.rstrip("/")
        hint = f"write {directory!r} for the directory, {directory + '/**'!r} for what is below"
        raise TextError("a path never ends in '/'", hint, "unreachable", len(text) - 1)
    own = re.match(r"/proc/(?:self|thread-self)(?=/|$)", text)
    if own:
        hint = f"write {'/proc/*' + text[own.end() :]!r}: any process's, with a test on who acts"
        raise TextError(f"{own.group()} is a link to the process's own number, so {quoted(text)} never matches", hint, "unreachable")
    dots = re.search(r"//|/\.\.?(?=/|$)", text)
    if dots and not pseudo:
        raise TextError(
            f"a resolved path never contains {dots.group()!r}", "write the path as realpath(1) prints it", "unreachable", dots.start()
        )


def _whole(text: str) -> str:
    """What to write for a path that does not begin with '/'."""
    if _REGEX.search(text):
        return f"patterns are globs, not regular expressions: {_GLOBS}"
    return f"write '/{text}' or '**/{text}'" if "/" in text else f"write the whole path, or '**/{text}' for this name in any directory"


def _without_shell(text: str) -> str:
    """What to write for a path that only a shell would understand."""
    rest = re.sub(r"^(~[^/]*|\$\{?\w*\}?)/?", "", text)
    if text.startswith(("~/", "$HOME", "${HOME")) or text == "~":
        homes = "{/root,/home/*}"
        return f"write '{homes}/{rest}' for the home directories of all users, or the whole path of one" if rest else f"write '{homes}'"
    return f"write the whole path, beginning with '/', or '**/{rest}'"


def _can_start(pieces: glob.Glob, byte: int) -> bool:
    """Whether some string that the glob matches begins with `byte`."""
    for piece in pieces:
        match piece:
            case glob.Text(data):
                return data[0] == byte
            case glob.Star(crosses):
                if crosses:
                    return True
            case glob.Below():
                return True
            case glob.One(sequences):
                return any(sequence[0][0] <= byte <= sequence[0][1] for sequence in sequences)
            case glob.Either(branches):
                if any(branch and _can_start(branch, byte) for branch in branches):
                    return True
                if not any(_nullable(branch) for branch in branches):
                    return False
    return False


def _nullable(pieces: glob.Glob) -> bool:
    return all(
        isinstance(piece, (glob.Star, glob.Below)) or (isinstance(piece, glob.Either) and any(_nullable(b) for b in piece.branches))
        for piece in pieces
    )


# ---- numbers ----


def numeric(field: Field, text: str) -> tuple[int, int]:
    """The inclusive range that a number, a name, `low-high`, or a comparison stands for."""
    limit = _LIMITS.get(field.names, U64)
    compared = _COMPARED.fullmatch(text)
    if compared:
        sign, rest = compared.groups()
        value = _single(field, rest, compared.start(2))
        low, high = {">=": (value, limit), "<=": (0, value), ">": (value + 1, limit), "<": (0, value - 1)}[sign]
        if low > high:
            raise TextError(f"no number is {text.strip()}", f"the field holds 0 to {limit}", "unreachable")
        return low, high
    ranged = _RANGE.fullmatch(text)
    if ranged and ranged.group(1)[0].isdigit():
        low = _single(field, ranged.group(1), ranged.start(1))
        high = _single(field, ranged.group(2), ranged.start(2))
        if low > high:
            raise TextError(f"the range {text} is empty", f"write {high}-{low}", "bad-number")
        return low, high
    value = _single(field, text, 0)
    return value, value


def _single(field: Field, text: str, offset: int) -> int:
    text = text.strip()
    value = _integer(field, text, offset)
    if value is None:
        value = _named(field, text, offset)
    limit = _LIMITS.get(field.names, U64)
    if value > limit:
        raise TextError(f"{text} is too large for {field.name}", f"the field holds 0 to {limit}", "bad-number", offset)
    return value


def _integer(field: Field, text: str, offset: int) -> int | None:
    """A decimal, hexadecimal or octal number; None where the text is not one."""
    if len(text) > 40:
        return None
    if re.fullmatch(r"0[xX][0-9a-fA-F]+|0[oO][0-7]+|0[bB][01]+|0|[1-9][0-9]*", text):
        if field.names == "mode" and re.fullmatch(r"[1-9][0-9]*", text):
            hint = f"write 0o{text}" if re.fullmatch("[0-7]+", text) else "write it as 0o644"
            raise TextError(f"{text} is not clearly octal", hint, "bad-number", offset)
        return int(text, 0)
    if re.fullmatch(r"0[0-9]+", text):
        if field.names == "mode" and re.fullmatch(r"0[0-7]+", text):
            return int(text, 8)
        digits = text.lstrip("0") or "0"
        raise TextError(f"{text} is not clearly decimal or octal", f"write {digits} or 0o{digits}", "bad-number", offset)
    if re.fullmatch(r"-[0-9]+", text):
        if field.unit == ANY_NUMBER and int(text) >= -(1 << 63):
            return int(text) & U64
        raise TextError(f"{field.name} is never negative", "", "bad-number", offset)
    return None


def _named(field: Field, text: str, offset: int) -> int:
    table = field.names
    if not table:
        hint = f"{field.name} takes numbers and ranges such as 1024-65535 or >=1024"
        raise TextError(f"{quoted(text)} is not a number", hint, "bad-number", offset)
    try:
        value = names.number(table, text)
    except names.NoAnswerError:
        message = f"this host's {table} database does not answer, so {quoted(text)} has no number"
        raise TextError(message, "write the number instead of the name", "unknown-user", offset) from None
    if value is not None:
        return value
    if table in ("user", "group"):
        known = suggest(text, names.known(table), "create it, write the number, or check policies of another host with --no-host")
        raise TextError(f"this host has no {table} {quoted(text)}", known, "unknown-user", offset)
    hint = suggest(text, names.known(table), _examples(table))
    raise TextError(f"{quoted(text)} is not a {_WORDS.get(table, table)}", hint, "bad-name", offset)


_WORDS: Final = {
    "access": "kind of access", "bpf_cmd": "command of bpf(2)", "clone": "clone flag", "family": "address family",
    "io_uring_op": "operation of io_uring", "mode": "permission bit", "mount": "mount flag", "open": "open flag",
    "port": "port number or known service", "prot": "memory protection", "ptrace_mode": "mode of ptrace", "socktype": "socket type",
}  # fmt: skip


def _examples(table: str) -> str:
    return "known are " + ", ".join(list(names.TABLES[table].numbers)[:6]) + " ..."


def bits(field: Field, texts: Iterable[str]) -> Condition:
    """Any of the named bits. A name that stands for several bits (O_SYNC, O_TMPFILE) needs all of them."""
    mask = 0
    parts: list[Condition] = []
    for text in texts:
        value = _integer(field, text.strip(), 0)
        if value is not None and field.names == "capability":
            value = 1 << min(value, 64)
        if value is None:
            _named_flag(field, text)
            value = names.mask(field.names, text.strip()) or 0
            if value & (value - 1):
                parts.append(Atom(field.name, Op.MASKED, (value, value)))
                continue
        if value == 0:
            raise TextError(f"{text} has no bit: it never matches", "name the bits to look for", "unreachable")
        if value > U64:
            raise TextError(f"{text} is too large for {field.name}", "", "bad-number")
        mask |= value
    if mask:
        parts.insert(0, Atom(field.name, Op.ANYBITS, mask))
    return disj(parts)


def _named_flag(field: Field, text: str) -> None:
    if text.strip().upper() in ("O_RDONLY", "RDONLY") and field.names == "open":
        raise TextError("O_RDONLY has no bit: it never matches", "use file.access: read", "unreachable")
    if text.strip().upper() in ("NONE", "PROT_NONE") and field.names == "prot":
        raise TextError("PROT_NONE has no bit: it never matches", "name the bits to look for", "unreachable")
    _named(field, text.strip(), len(text) - len(text.lstrip()))


def boolean(field: Field, text: str) -> Condition:
    """true or false."""
    value = {"true": 1, "false": 0}.get(text.lower())
    if value is None:
        raise TextError(f"{field.name} is true or false, not {quoted(text)}", "write true or false", "wrong-type")
    return Atom(field.name, Op.RANGE, (value, value))


def network_condition(field: Field, text: str) -> Condition:
    """An address or network. Networks of IPv4-mapped addresses become IPv4: that is what the kernel programs report."""
    try:
        net = ipaddress.ip_network(text.strip())
    except ValueError as e:
        raise _bad_network(text.strip(), str(e)) from None
    if isinstance(net, ipaddress.IPv6Network) and net.network_address.ipv4_mapped and net.prefixlen >= 96:
        return Atom(field.name, Op.CIDR, f"{net.network_address.ipv4_mapped}/{net.prefixlen - 96}")
    return Atom(field.name, Op.CIDR, str(net))


def _bad_network(text: str, why: str) -> TextError:
    hint = "write an address (10.1.2.3, 2001:db8::1) or a network (10.0.0.0/8, 2001:db8::/32)"
    offset = 0
    try:
        if "has host bits set" in why:
            hint = f"write {ipaddress.ip_network(text, strict=False)}, or {text.partition('/')[0]} for the one address"
            return TextError(f"{quoted(text)} has bits set beyond the prefix length", hint, "bad-address", text.index("/") + 1)
        ipaddress.ip_address(text.partition("/")[0])
        offset = text.find("/") + 1
    except ValueError:
        pass
    if re.search("[A-Za-z]", text) and ":" not in text:
        hint = "names are not resolved: write the address or network"
    return TextError(f"{quoted(text)} is not an address or network", hint, "bad-address", offset)


# ---- a field with another field ----

_ORDERED: Final = (Kind.NUMBER, Kind.NAMED)
_TEXTUAL: Final = (Kind.PATH, Kind.STRING)
_SHOWN: Final = 5
_SIGNS: Final = ("=", "!=", "<", "<=", ">", ">=")


def comparison(field: Field, word: str, other: Field) -> Condition:
    """A comparison of two fields: `word` is = (or ==), !=, <, <=, >, >=, startswith or endswith; false where one of them is absent."""
    word = "=" if word == "==" else word
    _check_comparable(field, other)
    if word in ("startswith", "endswith"):
        if field.kind not in _TEXTUAL:
            raise TextError(f"{word} is for strings, and {field.name} is not one", "use =, !=, < or >", "bad-condition")
    elif word not in _SIGNS:
        hint = "compare fields by =, !=, startswith or endswith, numbers also by <, <=, > or >=; where the text itself is meant, quote it"
        raise TextError(f"{word} takes a value, not the field {other.name}", hint, "not-supported")
    elif word not in ("=", "!="):
        for compared in (field, other):
            if compared.kind not in _ORDERED:
                raise TextError(f"{compared.name} has no order", f"{word} is for numbers: use = or !=", "bad-condition")
    first, second = slot_field(field), slot_field(other)
    if first == second:
        itself = f"{field.name} is compared with itself" if field is other else f"{field.name} and {other.name} are the same"
        if word in ("!=", "<", ">"):
            raise TextError(f"{itself}: that never holds", "name another field", "unreachable")
        raise TextError(f"{itself}: that holds wherever it is known", f"name another field, or write {field.name} exists", "useless")
    return _comparison(first, word, second)


def _comparison(left: str, word: str, right: str) -> Condition:
    same = Atom(left, Op.SAME, right)
    match word:
        case "=":
            return same
        case "!=":
            return Atom(left, Op.DIFFERENT, right)
        case "<":
            return Atom(left, Op.LESS, right)
        case ">":
            return Atom(right, Op.LESS, left)
        case "<=":
            return disj((Atom(left, Op.LESS, right), same))
        case ">=":
            return disj((Atom(right, Op.LESS, left), same))
    return Atom(left, Op.BEGINS if word == "startswith" else Op.ENDS, right)


def _check_comparable(field: Field, other: Field) -> None:
    """TextError where no event has both fields, or where their values have nothing to do with each other."""
    for compared in (field, other):
        if not measure(compared):
            what = "a set of flags" if compared.kind is Kind.FLAGS else "a list"
            message = f"{compared.name} is {what}, which is not compared with a field"
            raise TextError(message, f"test {compared.name} by values", "not-supported")
    measures = measure(field), measure(other)
    if measures[0] != measures[1] and not (ANY_NUMBER in measures and "text" not in measures and "address" not in measures):
        partners = [f.name for f in FIELDS if measure(f) == measures[0] and slot_field(f) != slot_field(field) and _together(f, field)]
        what = f"{field.name} is {_one(measures[0])}, {other.name} {_one(measures[1])}: they say nothing about each other"
        shown = ", ".join(partners[:_SHOWN]) + (" and others" if len(partners) > _SHOWN else "")
        hint = f"{field.name} can be compared with {shown}" if partners else f"compare {field.name} with values"
        raise TextError(what, hint, "wrong-type")
    if not _together(field, other):
        what = f"no event has both {field.name} and {other.name}"
        raise TextError(what, f"docs/events.md lists the fields of each event; or compare {field.name} with values", "field-not-on-event")


def _together(field: Field, other: Field) -> bool:
    """Whether some event has both."""
    return any(applies(field, event.name) and applies(other, event.name) for event in EVENTS)


def _one(what: str) -> str:
    return f"{'an' if what[0] in 'aeio' else 'a'} {what}"


# ---- what can never be true ----


def contradiction(condition: Condition) -> str | None:
    """The field whose tests in a conjunction exclude each other; None where none is seen.

    Looks at one field at a time, and only where a finite set of values can stand for all. That is complete for numbers, for strings tested
    with equality and prefixes, and wherever one conjunct lists the possible strings.
    """
    if condition == FALSE:
        return ""
    by_field: dict[str, list[Condition]] = {}
    for part in condition.parts if isinstance(condition, And) else (condition,):
        touched = {field for atom in atoms(part) for field in atom.fields}
        if len(touched) == 1:
            by_field.setdefault(touched.pop(), []).append(part)
    for field, parts in by_field.items():
        if len(parts) > 1 or isinstance(parts[0], And):
            samples = _samples(parts)
            if samples is None or len(samples) * sum(len(list(atoms(p))) for p in parts) > _MAX_TRIALS:
                continue
            if not any(all(holds(p, {field: s} if s is not None else {}) for p in parts) for s in samples):
                return field
    return None


def _samples(parts: list[Condition]) -> list[str | int | None] | None:
    """Values that stand for all values of a field, as far as `parts` can tell values apart; None where there is no such list. A None in the
    list is the absent field."""
    tests = [atom for part in parts for atom in atoms(part)]
    ops = {atom.op for atom in tests}
    if tests[0].field == "process.ancestors.exe" or ops & {Op.OBJECT, Op.ANYBITS, Op.MASKED, Op.CIDR}:
        return None
    if ops <= {Op.RANGE, Op.EXISTS}:
        ends = [atom.value for atom in tests if isinstance(atom.value, tuple)]
        return [None, 0, *(low for low, _ in ends), *(high + 1 for _, high in ends if high < U64)]
    for part in parts:
        choices = part.parts if isinstance(part, Or) else (part,)
        listed = [c.value for c in choices if isinstance(c, Atom) and c.op is Op.EQUALS and isinstance(c.value, str)]
        if len(listed) == len(choices):
            return list(listed)
    if ops <= {Op.EQUALS, Op.PREFIX, Op.EXISTS}:
        texts = [atom.value for atom in tests if isinstance(atom.value, str)]
        # "\x01" continues no listed text: such a string differs from all of them from this point on.
        return [None, "\x01", *texts, *(text + "\x01" for text in texts)]
    return None


def fold(text: str) -> str:
    """A text with its ASCII letters, and no others, in lower case, as C's tolower in the C locale: what Op.ICONTAINS takes."""
    return text.lower() if text.isascii() else text.translate(_LOWER)
