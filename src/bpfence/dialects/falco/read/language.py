# SPDX-License-Identifier: Apache-2.0
"""The text of a Falco condition in, its syntax tree out, and back.

Called by `resolve` after lists have been put in. The grammar is the one of Falco's filter parser; it is written by hand because its
words mean different things by place (`in` is an operator after a field and a value after `=`), which a grammar with one lexer
cannot say. Without recursion, so that nesting costs no stack; bounded by MAX_LENGTH and MAX_NESTING.

    or      = and {"or" and}          and = unary {"and" unary}        unary = {"not"} ( "(" or ")" | check | macro )
    check   = operand "exists" | operand ("<" | "<=" | ">" | ">=") number | operand text-operator [modifier] value
              | operand list-operator list
    operand = field ["[" argument "]"] | transformer "(" operand {"," operand} ")" ["[" selector "]"]
              and, inside a transformer, a quoted text or a list in parentheses

Two deliberate differences to Falco, both in favour of what was meant: a backslash that is itself escaped does not escape the quote
after it, and `a or(b) and c` means `a or ((b) and c)` where Falco reports an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Union

from bpfence.conditions.text import quote
from bpfence.documents.report import TextError
from bpfence.words import quoted

MAX_LENGTH: Final = 1 << 20
MAX_NESTING: Final = 100

NUMBER_OPERATORS: Final = ("<=", "<", ">=", ">")
TEXT_OPERATORS: Final = (
    "=", "!=", "glob", "iglob", "contains", "icontains", "bcontains", "startswith", "bstartswith", "endswith", "regex",
)  # fmt: skip
LIST_OPERATORS: Final = ("intersects", "in", "pmatch")
OPERATORS: Final = ("exists", *NUMBER_OPERATORS, *TEXT_OPERATORS, *LIST_OPERATORS)
MODIFIERS: Final = ("oneof", "anyof", "allof")
TRANSFORMERS: Final = ("tolower", "toupper", "b64", "basename", "len", "join", "concat", "getopt")


class Spot(NamedTuple):
    """Where a node was written: an offset, and the text that it is in (whose type does not matter here)."""

    origin: object
    offset: int


_NOWHERE: Final = Spot(None, 0)


@dataclass(frozen=True, slots=True)
class Word:
    """A literal value, without quotes and escapes. Bytes that are not UTF-8 are surrogate escapes."""

    text: str
    spot: Spot = field(default=_NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Words:
    """A list of literal values."""

    items: tuple[Word, ...] = ()
    spot: Spot = field(default=_NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class FieldRef:
    """A field, with its argument in brackets."""

    name: str
    argument: str | None = None
    spot: Spot = field(default=_NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class TransformerCall:
    """A transformer and what it is applied to. `val` stands only on the right of a check. `selector`: the [x] after getopt()."""

    function: str
    arguments: tuple[Operand, ...]
    selector: str | None = None
    spot: Spot = field(default=_NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison. `right` is None for exists; `==` is written `=`."""

    left: FieldRef | TransformerCall
    operator: str
    right: Word | Words | TransformerCall | None = None
    modifier: str = ""
    spot: Spot = field(default=_NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class MacroRef:
    """The name of a macro."""

    name: str
    spot: Spot = field(default=_NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class NotNode:
    """Negation."""

    part: ConditionNode


@dataclass(frozen=True, slots=True)
class AndNode:
    """All of two or more parts."""

    parts: tuple[ConditionNode, ...]


@dataclass(frozen=True, slots=True)
class OrNode:
    """Any of two or more parts."""

    parts: tuple[ConditionNode, ...]


@dataclass(frozen=True, slots=True)
class Mixed:
    """A list inside a transformer in which there are fields or transformers."""

    items: tuple[Word | FieldRef | TransformerCall, ...]
    spot: Spot = field(default=_NOWHERE, compare=False, repr=False)


Operand = Union[FieldRef, TransformerCall, Word, Words, Mixed]
ConditionNode = Union[Check, MacroRef, NotNode, AndNode, OrNode]

_BLANK: Final = re.compile(r"[ \t\x08\r\n]*")
_NOT: Final = re.compile(r"not(?=[ \t\x08\r\n(])")
_JOIN: Final = re.compile(r"(and|or)(?=[ \t\x08\r\n(]|$)")
_IDENTIFIER: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_FIELD: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*(?:\.[A-Za-z][A-Za-z0-9_]*)+")
_NUMBER: Final = re.compile(r"0[xX][0-9A-Za-z]+|[+-]?[0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?")
_LIST_HINT: Final = "separate values by ',' and end the list with ')'; quote a value that holds blanks or parentheses"
MAX_LISTS: Final = 50
"""How many lists may stand inside the transformers of one condition: they may nest."""
_BARE: Final = re.compile(r"[^()\"'=, \t\n\r\f\v]+")
_BARE_ARGUMENT: Final = re.compile(r"[^\]\[\"' \t\n\r\f\v]+")
_QUOTED: Final = re.compile(r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'", re.DOTALL)
_CALL: Final = re.compile("(" + "|".join(TRANSFORMERS) + r")\(")
_VAL: Final = re.compile(r"val\(")
_WORDED: Final = "|".join(sorted((op for op in OPERATORS if op[0].isalpha()), key=len, reverse=True))
_OPERATOR: Final = re.compile(rf"(==|=|!=|<=|<|>=|>)|({_WORDED})(?![A-Za-z0-9_.])")
_MODIFIER: Final = re.compile(r"(oneof|anyof|allof)(?=[ \t\x08\r\n]*\(|[ \t\x08\r\n]+(?!(?:and|or)(?![A-Za-z0-9_]))[A-Za-z])")
_ESCAPE: Final = re.compile(r"\\(x[0-9A-Fa-f]{2}|.)", re.DOTALL)
_ESCAPES: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", " ": "\\", "\\": "\\", "/": "/"}
# What people write who are used to other languages.
_FOREIGN: Final = {"&": "write 'and'", "|": "write 'or'", "!": "write 'not', or != between a field and a value", "~": "write 'regex'"}


def parse(text: str, origin: object = None) -> ConditionNode:
    """The tree of one condition; TextError with the offset of the mistake. `origin` goes into every node's spot."""
    if not text.strip():
        raise TextError("the condition is empty", "write an expression", "condition-syntax")
    if len(text) > MAX_LENGTH:
        raise TextError(f"the condition is longer than {MAX_LENGTH} characters", "split it into rules", "limit")
    return _Parser(text, origin).run()


def parse_call(text: str, at: int) -> tuple[TransformerCall, int]:
    """The transformer that begins at an offset of an output, and the offset after it."""
    parser = _Parser(text, None)
    parser.at = at
    made = parser.operand()
    assert isinstance(made, TransformerCall)
    return made, parser.at


@dataclass(slots=True)
class _Frame:
    """One open parenthesis: the parts of the `or` and of the `and` that are being read, and whether the next part is negated."""

    ors: list[ConditionNode] = field(default_factory=list)
    ands: list[ConditionNode] = field(default_factory=list)
    negated: bool = False

    def add(self, node: ConditionNode) -> None:
        self.ands.append(NotNode(node) if self.negated else node)
        self.negated = False

    def close(self) -> ConditionNode:
        self.end_and()
        return self.ors[0] if len(self.ors) == 1 else OrNode(tuple(self.ors))

    def end_and(self) -> None:
        self.ors.append(self.ands[0] if len(self.ands) == 1 else AndNode(tuple(self.ands)))
        self.ands = []


class _Parser:
    def __init__(self, text: str, origin: object) -> None:
        self.text = text
        self.origin = origin
        self.at = 0
        self.lists = 0  # inside transformers

    def run(self) -> ConditionNode:
        frames = [_Frame()]
        while True:
            self.open(frames)
            frames[-1].add(self.check())
            while len(frames) > 1 and self.take(")"):
                node = frames.pop().close()
                frames[-1].add(node)
            joint = _JOIN.match(self.text, self.blank())
            if joint is None:
                break
            self.at = joint.end()
            if joint.group() == "or":
                frames[-1].end_and()
        self.check_end(len(frames) > 1)
        return frames[0].close()

    def open(self, frames: list[_Frame]) -> None:
        """`not` and opening parentheses before an operand."""
        while True:
            negation = _NOT.match(self.text, self.blank())
            if negation:
                self.at = negation.end()
                frames[-1].negated = not frames[-1].negated
            elif self.take("("):
                frames.append(_Frame())
                if len(frames) > MAX_NESTING:
                    what = f"the condition nests deeper than {MAX_NESTING} parentheses"
                    raise TextError(what, "split it with macros, or remove parentheses", "limit", self.at - 1)
            else:
                return

    def check_end(self, nested: bool) -> None:
        at = self.blank()
        if at < len(self.text) and not self.text.startswith(")", at):
            word = (self.text[at:].split() or [self.text[at]])[0]
            hint = next((hint for sign, hint in _FOREIGN.items() if word.startswith(sign)), "")
            joined = next(
                (modifier for modifier in MODIFIERS if word.startswith("(") and self.text[:at].rstrip().endswith(f"={modifier}")), None
            )
            hint = f"write a blank before {joined}" if joined else hint
            raise self.error("expected 'and' or 'or' here", hint or f"{quoted(word, 40)} cannot follow a complete test", at)
        if nested or at < len(self.text):
            what = "a '(' is not closed" if nested else "a ')' closes nothing"
            raise self.error(what, "add a ')'" if nested else "remove it", at)

    # ---- small steps ----

    def blank(self) -> int:
        blanks = _BLANK.match(self.text, self.at)
        assert blanks is not None
        self.at = blanks.end()
        return self.at

    def take(self, sign: str) -> bool:
        if not self.text.startswith(sign, self.blank()):
            return False
        self.at += len(sign)
        return True

    def spot(self, offset: int) -> Spot:
        return Spot(self.origin, offset)

    def error(self, message: str, hint: str, at: int | None = None, code: str = "condition-syntax") -> TextError:
        at = self.at if at is None else at
        end = len(self.text.rstrip(" \t\b\r\n"))
        if at >= end:
            return TextError(f"the condition ends too early: {message}", hint, code, max(end - 1, 0))
        return TextError(message, hint, code, at)

    # ---- one check ----

    def check(self) -> ConditionNode:
        start = self.blank()
        left = self.operand()
        if left is None:
            name = _IDENTIFIER.match(self.text, start)
            if name is None or name.group() in ("and", "or", "not"):
                word = self.text[start : start + 1]
                hint = _FOREIGN.get(word, "a test is FIELD OPERATOR VALUE; a macro is named as it is")
                raise self.error("expected a field, a macro or '(' here", hint, start)
            self.at = name.end()
            return MacroRef(name.group(), self.spot(start))
        return self.comparison(left, start)

    def operand(self) -> FieldRef | TransformerCall | None:
        """A field or transformer on the left of an operator, None where neither begins."""
        start = self.blank()
        call = _CALL.match(self.text, start)
        if call:
            return self.call(call.group(1), call.end(), start)
        field = _FIELD.match(self.text, start)
        if field is None:
            return None
        self.at = field.end()
        return FieldRef(field.group(), self.bracketed(), self.spot(start))

    def bracketed(self) -> str | None:
        """`[argument]`, which must follow without a blank."""
        if not self.text.startswith("[", self.at):
            return None
        self.at += 1
        written = _QUOTED.match(self.text, self.at) or _BARE_ARGUMENT.match(self.text, self.at)
        if written is None:
            raise self.error("expected the field's argument here", "write a name, a number, or a quoted text between [ and ]")
        argument = unquote(written.group(), self.at) if written.group()[0] in "\"'" else written.group()
        self.at = written.end()
        if not self.text.startswith("]", self.at):
            raise self.error("the field's argument is not closed", "add a ']'")
        self.at += 1
        return argument

    def call(self, function: str, at: int, start: int) -> TransformerCall:
        """The rest of a transformer; arguments may nest."""
        stack: list[tuple[str, int, list[Operand]]] = [(function, start, [])]
        self.at = at
        while True:
            self.argument(stack)
            while not self.take(","):
                if not self.take(")"):
                    raise self.error(f"{stack[-1][0]}( is not closed", "add a ')'")
                function, start, arguments = stack.pop()
                made = TransformerCall(function, tuple(arguments), self.bracketed(), self.spot(start))
                if not stack:
                    return made
                stack[-1][2].append(made)

    def argument(self, stack: list[tuple[str, int, list[Operand]]]) -> None:
        """One argument. Of nested transformers: their beginnings, and the first argument of the innermost."""
        while True:
            start = self.blank()
            call = _CALL.match(self.text, start)
            if call is None:
                break
            if len(stack) >= MAX_NESTING:
                raise TextError(f"transformers nest deeper than {MAX_NESTING}", "remove some", "limit", start)
            stack.append((call.group(1), start, []))
            self.at = call.end()
        field = _FIELD.match(self.text, start)
        if field:
            self.at = field.end()
            stack[-1][2].append(FieldRef(field.group(), self.bracketed(), self.spot(start)))
            return
        if self.text.startswith("(", start):
            stack[-1][2].append(self.elements())
            return
        if _NUMBER.match(self.text, start):
            stack[-1][2].append(self.number())
            return
        quote = _QUOTED.match(self.text, start)
        if quote is None:
            hint = "known transformers: " + ", ".join(TRANSFORMERS)
            raise self.error(f"expected a field, a transformer, a quoted text or a number inside {stack[-1][0]}()", hint)
        self.at = quote.end()
        stack[-1][2].append(Word(unquote(quote.group(), start), self.spot(start)))

    def elements(self) -> Words | Mixed:
        """A list inside a transformer. Unlike one on the right of a check, it may hold fields and transformers."""
        start = self.blank()
        self.at += 1
        if self.take(")"):
            return Words((), self.spot(start))
        self.lists += 1
        if self.lists > MAX_LISTS:
            raise TextError(f"more than {MAX_LISTS} lists stand inside transformers", "remove some", "limit", start)
        items: list[Word | FieldRef | TransformerCall] = []
        while not items or self.take(","):
            items.append(self.operand() or self.word("a value"))
        if not self.take(")"):
            raise self.error("expected ',' or ')' in this list", _LIST_HINT)
        texts = tuple(item for item in items if isinstance(item, Word))
        return Words(texts, self.spot(start)) if len(texts) == len(items) else Mixed(tuple(items), self.spot(start))

    def comparison(self, left: FieldRef | TransformerCall, start: int) -> Check:
        at = self.blank()
        written = _OPERATOR.match(self.text, at)
        if written is None:
            word = self.text[at:].split()[0] if self.text[at:].strip() else ""
            hint = next((hint for sign, hint in _FOREIGN.items() if word.startswith(sign)), "known operators: " + " ".join(OPERATORS))
            raise self.error("expected an operator after the field", hint)
        operator = "=" if written.group() == "==" else written.group()
        self.at = written.end()
        spot = self.spot(start)
        if operator == "exists":
            return Check(left, operator, spot=spot)
        if operator in NUMBER_OPERATORS:
            return Check(left, operator, self.computed() or self.number(), spot=spot)
        if operator in LIST_OPERATORS:
            return Check(left, operator, self.list_value(), spot=spot)
        apart = self.blank() > written.end() or self.text.startswith("(", self.at)
        modifier = _MODIFIER.match(self.text, self.at) if apart else None
        if modifier:
            self.at = modifier.end()
            return Check(left, operator, self.list_value(), modifier.group(1), spot)
        return Check(left, operator, self.computed() or self.word("a value"), spot=spot)

    # ---- the right side ----

    def computed(self) -> TransformerCall | None:
        """`val(field)` or a transformer, None where neither begins."""
        start = self.blank()
        if _VAL.match(self.text, start):
            self.at = start + 4
            at = self.blank()
            field = _FIELD.match(self.text, at)
            if field is None:
                raise self.error("expected a field inside val()", "write val(proc.pname)")
            self.at = field.end()
            ref = FieldRef(field.group(), self.bracketed(), self.spot(at))
            if not self.take(")"):
                raise self.error("val( is not closed", "add a ')'")
            return TransformerCall("val", (ref,), None, self.spot(start))
        call = _CALL.match(self.text, start)
        return self.call(call.group(1), call.end(), start) if call else None

    def number(self) -> Word:
        start = self.blank()
        digits = _NUMBER.match(self.text, start)
        if digits is None:
            raise self.error("expected a number after this operator", "<, <=, > and >= compare numbers")
        self.at = digits.end()
        return Word(digits.group(), self.spot(start))

    def word(self, what: str) -> Word:
        start = self.blank()
        quote = _QUOTED.match(self.text, start)
        if quote:
            self.at = quote.end()
            return Word(unquote(quote.group(), start), self.spot(start))
        if self.text.startswith(("'", '"'), start):
            raise self.error("the quotes are not closed", "close them, or escape a quote inside with a backslash", start)
        bare = _BARE.match(self.text, start)
        if bare is None:
            raise self.error(f"expected {what} here", "quote a value that is empty or holds blanks, quotes, '=', ',' or parentheses", start)
        self.at = bare.end()
        return Word(bare.group(), self.spot(start))

    def list_value(self) -> Words | Word | TransformerCall:
        if self.text.startswith("(", self.blank()):
            return self.words()
        computed = self.computed()
        if computed:
            return computed
        start = self.at
        name = _IDENTIFIER.match(self.text, start)
        if name is None:
            raise self.error("expected a list in parentheses here", "write (a, b), or the name of a list in parentheses")
        self.at = name.end()
        return Word(name.group(), self.spot(start))

    def words(self) -> Words:
        start = self.blank()
        self.at += 1
        items: list[Word] = []
        if self.take(")"):
            return Words((), self.spot(start))
        while True:
            items.append(self.word("a value"))
            if self.take(")"):
                return Words(tuple(items), self.spot(start))
            if not self.take(","):
                raise self.error("expected ',' or ')' in this list", _LIST_HINT)


def unquote(literal: str, offset: int = 0) -> str:
    r"""The text of a quoted literal. Escapes: \b \f \n \r \t \\ \/ \xHH, and the quote. As in Falco, a backslash and a blank are a
    backslash."""
    quote, body = literal[0], literal[1:-1]
    if "\\" not in body:
        return body
    data = bytearray()
    at = 0
    for escape in _ESCAPE.finditer(body):
        data += body[at : escape.start()].encode("utf-8", "surrogateescape")
        code = escape.group(1)
        if len(code) == 3:
            data.append(int(code[1:], 16))
        elif code == quote:
            data += code.encode()
        elif code in _ESCAPES:
            data += _ESCAPES[code].encode()
        else:
            hint = r"write \\ for a backslash; known escapes: \b \f \n \r \t \\ \/ \xHH and the quote"
            raise TextError(f"\\{code} is no escape in a {quote}-quoted text", hint, "bad-escape", offset + 1 + escape.start())
        at = escape.end()
    data += body[at:].encode("utf-8", "surrogateescape")
    return data.decode("utf-8", "surrogateescape")


# ---- printing ----

_PLAIN: Final = re.compile(r"[^()\"'=, \t\n\r\f\v\\<>\x00-\x1f\x7f-\x9f\ud800-\udfff]+")


def show(node: ConditionNode) -> str:
    """The text of a condition: parse(show(node)) == node."""
    match node:
        case Check():
            return _show_check(node)
        case MacroRef(name):
            return name
        case NotNode(part):
            return f"not {_grouped(part, (AndNode, OrNode, NotNode))}"
        case AndNode(parts):
            return " and ".join(_grouped(part, (AndNode, OrNode)) for part in parts)
        case OrNode(parts):
            return " or ".join(_grouped(part, (OrNode,)) for part in parts)


def _grouped(node: ConditionNode, kinds: tuple[type[ConditionNode], ...]) -> str:
    return f"({show(node)})" if isinstance(node, kinds) else show(node)


def _show_check(check: Check) -> str:
    left = show_operand(check.left)
    if check.right is None:
        return f"{left} {check.operator}"
    right = check.right
    if isinstance(right, Words):
        value = show_operand(right)
    elif isinstance(right, Word) and check.operator in (*NUMBER_OPERATORS, *LIST_OPERATORS):
        value = right.text
    else:
        value = show_operand(right)
    return " ".join(part for part in (left, check.operator, check.modifier, value) if part)


def show_operand(operand: Operand) -> str:
    """A field, transformer or value."""
    match operand:
        case Word(text):
            return show_word(text)
        case Mixed(items):
            return "(" + ", ".join(quote(item.text) if isinstance(item, Word) else show_operand(item) for item in items) + ")"
        case Words(items):
            return "(" + ", ".join(show_word(item.text) for item in items) + ")"
        case FieldRef(name, argument):
            return name if argument is None else f"{name}[{_show_argument(argument)}]"
        case TransformerCall(function, arguments, selector):
            shown = ", ".join(quote(a.text) if isinstance(a, Word) else show_operand(a) for a in arguments)
            return f"{function}({shown})" + ("" if selector is None else f"[{_show_argument(selector)}]")


def _show_argument(argument: str) -> str:
    return argument if _BARE_ARGUMENT.fullmatch(argument) and _PLAIN.fullmatch(argument) else quote(argument)


def show_word(text: str) -> str:
    """A value, in quotes where it needs them."""
    return text if _PLAIN.fullmatch(text) and text not in MODIFIERS else quote(text)


# ---- walking ----


def checks(node: ConditionNode) -> list[Check]:
    """Every check of a tree, left to right. A shared subtree is visited once."""
    every_check: list[Check] = []
    seen: set[int] = set()
    stack: list[ConditionNode] = [node]
    while stack:
        item = stack.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        match item:
            case Check():
                every_check.append(item)
            case NotNode(part):
                stack.append(part)
            case AndNode(parts) | OrNode(parts):
                stack.extend(reversed(parts))
            case _:
                pass
    return every_check
