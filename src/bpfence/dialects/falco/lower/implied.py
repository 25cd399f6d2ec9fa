# SPDX-License-Identifier: Apache-2.0
"""A test on a text that the kernel keeps in another form, what follows from it for what the kernel has out.

Called by `lower`. The kernel has all arguments of a process in one text, argv[0] first, where Falco has argv[0] (proc.exe), the others
(proc.args), and the command name with the others (proc.cmdline). Of an opening it has the name as it was given and the directory that it
is relative to, where Falco has them joined and normalised (fd.name). Everything here is an implication: where a test is true, so is the
condition; the rest is finished in user space.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from bpfence import abi
from bpfence.conditions.values import U64, conj, disj, fold, negation
from bpfence.dialects.falco.lower.atoms import COMM_MAX, Bounds, Build, On, at_most, glob_atom, text_atom
from bpfence.dialects.falco.read.checks import Comparison
from bpfence.policy import FALSE, TRUE, Atom, Condition, Op

Follows = Callable[[str, str], Condition]
AT_FDCWD: Final = U64 + 1 - 100
_SEARCHES: Final = ("contains", "icontains", "startswith", "endswith")


def _at_most(test: Comparison, follows: Follows, reason: str, hint: str = "") -> Bounds:
    """The values of a test joined. `follows` gives what follows from one operator and value; TRUE where nothing does."""
    if test.operator in ("exists", "!="):
        return at_most(TRUE, reason, hint)
    operator = "=" if test.operator in ("in", "intersects") else test.operator
    parts = [follows(operator, str(value)) for value in test.values]
    return at_most(conj(parts) if test.modifier == "allof" and parts else disj(parts), reason, hint)


# ---- command lines ----

_CUT: Final = f"the kernel has all arguments as one text of at most {abi.ABI_ARGS_MAX} bytes"
_NAMES: Final = "test proc.exepath or proc.name"


class _Command(NamedTuple):
    """Fields of a process: its command name and its arguments."""

    name: str
    args: str

    def exe(self, operator: str, value: str) -> Condition:
        """What follows from a test on argv[0]: the arguments begin with it."""
        match operator:
            case "=":
                return disj([Atom(self.args, Op.EQUALS, value), Atom(self.args, Op.PREFIX, value + " ")])
            case "startswith" if value:
                return Atom(self.args, Op.PREFIX, value)
            case "endswith" | "contains" if value:
                return Atom(self.args, Op.CONTAINS, value)
            case "icontains" if value:
                return Atom(self.args, Op.ICONTAINS, fold(value))
        return TRUE

    def rest(self, operator: str, value: str) -> Condition:
        """What follows from a test on the arguments after argv[0], joined by blanks: in the kernel's text a blank stands before them."""
        match operator:
            case "=" if value:
                return Atom(self.args, Op.SUFFIX, " " + value)
            case "startswith" if value:
                return Atom(self.args, Op.CONTAINS, " " + value)
            case "endswith" if value:
                return Atom(self.args, Op.SUFFIX, value)
            case "contains" if value:
                return Atom(self.args, Op.CONTAINS, value)
            case "icontains" if value:
                return Atom(self.args, Op.ICONTAINS, fold(value))
            case "glob" if value.strip("*"):
                return glob_atom(self.args, "* " + value) or TRUE
        return TRUE

    def line(self, operator: str, value: str) -> Condition:
        """What follows from a test on the name and the arguments after argv[0], joined by a blank. What is looked for lies in the name, or
        in the arguments, or it contains the blank between them."""
        if not value or operator not in ("=", *_SEARCHES):
            return TRUE
        parts = [text_atom(self.name, operator, value) or FALSE]
        if operator in ("contains", "icontains", "endswith"):
            parts.append(self.rest(operator, value))
        parts += [conj(self.across(operator, head, tail)) for head, tail in _splits(value)]
        return disj(parts)

    def across(self, operator: str, head: str, tail: str) -> Iterator[Condition]:
        """What follows if `head` belongs to the name (all of it, or its end) and `tail`, which begins with the blank, to the arguments (all
        of them, or their beginning)."""
        whole = operator in ("=", "startswith")
        if operator != "icontains" and (head or whole):
            yield Atom(self.name, Op.EQUALS if whole else Op.SUFFIX, head)
        if tail != " ":
            op = {"=": Op.SUFFIX, "endswith": Op.SUFFIX, "icontains": Op.ICONTAINS}.get(operator, Op.CONTAINS)
            yield Atom(self.args, op, fold(tail) if op is Op.ICONTAINS else tail)


def _splits(value: str) -> Iterator[tuple[str, str]]:
    """A text cut before each blank at which a command name can end."""
    for at, char in enumerate(value):
        if len(value[:at].encode("utf-8", "surrogateescape")) > COMM_MAX:
            return
        if char == " ":
            yield value[:at], value[at:]


_OWN: Final = _Command("process.name", "process.args")
_PARENT: Final = _Command("process.parent.name", "process.parent.args")


def _command(follows: Follows) -> Build:
    def build(_: On, test: Comparison) -> Bounds:
        return _at_most(test, follows, _CUT, _NAMES)

    return build


exe: Final = _command(_OWN.exe)
args: Final = _command(_OWN.rest)
cmdline: Final = _command(_OWN.line)
parent_exe: Final = _command(_PARENT.exe)
parent_cmdline: Final = _command(_PARENT.line)


# ---- names of files ----


class _Piece(NamedTuple):
    """A part of one component of a path. `first`, `last`: the part begins, or ends, where the component does."""

    text: str
    first: bool
    last: bool


def _pieces(operator: str, value: str) -> list[_Piece]:
    """The parts of components that a path must hold if this operator with this value is true of it."""
    parts = value.split("/")
    end = len(parts) - 1
    return [_Piece(part, n > 0, n < end or operator in ("=", "endswith")) for n, part in enumerate(parts) if part not in ("", ".", "..")]


_RELATIVE: Final = negation(Atom("file.text", Op.PREFIX, "/"))
_UNLIKE: Final = disj(
    [
        *(Atom("file.text", Op.CONTAINS, part) for part in ("//", "/./", "/../")),
        *(Atom("file.text", Op.SUFFIX, part) for part in ("/", "/.", "/..")),
        _RELATIVE,
    ]
)
"""Texts that joining and normalising may change. Any other text is the name already."""


def _name(operator: str, value: str) -> Condition:
    """What follows from a test on the joined and normalised name: it is true of the text itself, or each component stands in the text or in
    the directory."""
    if operator == "pmatch":
        operator = "startswith"
        value = "/" + "/".join(part for part in value.split("/") if part)  # pmatch compares component by component
        value = re.split(r"[*?\[\\]", value, maxsplit=1)[0].rpartition("/")[0] if re.search(r"[*?\[\\]", value) else value.rstrip("/")
    if operator == "glob":
        if "[" in value or "\\" in value:
            return TRUE
        pieces = [piece for run in re.split(r"[*?]", value) for piece in _pieces("contains", run)]
    elif operator in ("=", *_SEARCHES):
        pieces = _pieces(operator, value)
    else:
        return TRUE
    if not pieces:
        return TRUE
    piece = max(pieces, key=lambda piece: (len(piece.text), piece.first and piece.last))
    same = text_atom("file.text", operator, value) or TRUE
    return disj([same, conj([_UNLIKE, _holds(piece, folds=operator == "icontains")])])


def _holds(piece: _Piece, *, folds: bool) -> Condition:
    if folds:
        inside: Condition = Atom("file.text", Op.ICONTAINS, fold(piece.text))
        below: Condition = Atom("process.cwd", Op.ICONTAINS, fold(piece.text))
    else:
        # One pattern for each component. Patterns for each place where it may stand would multiply.
        before, after = "{,*/}" if piece.first else "*", "{,/*}" if piece.last else "*"
        inside = Atom("file.text", Op.STRGLOB, before + re.sub(r"([\\*?\[\]{},])", r"\\\1", piece.text) + after)
        if before == after:
            inside = Atom("file.text", Op.CONTAINS, piece.text)
        below = Atom("process.cwd", Op.CONTAINS, ("/" if piece.first else "") + piece.text)
    elsewhere = negation(Atom("file.dirfd", Op.RANGE, (AT_FDCWD, AT_FDCWD)))
    return disj([inside, conj([_RELATIVE, disj([below, elsewhere])])])


def _directory(operator: str, value: str) -> Condition:
    """What follows from a test on the name up to its last '/'."""
    match operator:
        case "=":
            return _name("startswith", value.rstrip("/") + "/")
        case "endswith":
            return _name("contains", value + "/")
        case "startswith" | "contains" | "icontains":
            return _name(operator, value)
    return TRUE


def _filename(operator: str, value: str) -> Condition:
    """What follows from a test on the last component of the name."""
    match operator:
        case "=" if value:
            return _name("endswith", "/" + value)
        case "startswith" if value:
            return _name("contains", "/" + value)
        case "endswith" | "contains" | "icontains":
            return _name(operator, value)
    return TRUE


def _given(follows: Follows) -> Build:
    def build(_: On, test: Comparison) -> Bounds:
        return _at_most(test, follows, "the kernel has the name as it was given, not yet joined and normalised", "test fd.nameraw")

    return build


name: Final = _given(_name)
directory: Final = _given(_directory)
filename: Final = _given(_filename)
