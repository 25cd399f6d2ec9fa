# SPDX-License-Identifier: Apache-2.0
"""The text of `condition:` in, a condition and the mistakes in it out.

Called by `native`. The language is Falco's (and, or, not, comparisons, `in`, `contains`, `icontains`, `startswith`, `endswith`,
`glob`, `pmatch`, `exists`) over native fields; grammar in conditions.lark. A value may be another field. As in Falco every test on an
absent field is false, `!=` included. Offsets count characters of the text; the caller turns them into lines and columns.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib.resources import files
from typing import Any, Final, NamedTuple

from lark import Lark, Token, __version__
from lark.exceptions import UnexpectedCharacters, UnexpectedEOF, UnexpectedInput, UnexpectedToken
from lark.visitors import Transformer_NonRecursive

from bpfence.conditions import values
from bpfence.conditions.values import fold
from bpfence.dialects.native import tables
from bpfence.documents.report import TextError
from bpfence.fields import FIELD_BY_NAME, Field, Kind
from bpfence.policy import FALSE, Atom, Condition, Op
from bpfence.words import quoted, suggest

MAX_LENGTH: Final = 64 << 10
MAX_NESTING: Final = 64
_STRINGS: Final = (Kind.PATH, Kind.STRING, Kind.STRINGS)
_NUMBERS: Final = (Kind.NUMBER, Kind.NAMED)
_LIST_WORDS: Final = ("glob", "pmatch")


class FieldMention(NamedTuple):
    """A field that a condition names, and where. `beside`: the field that it is compared with."""

    field: Field
    offset: int
    beside: Field | None = None


class Parsed(NamedTuple):
    """A condition, the fields it uses, and what is wrong with it. Where there are `problems`, the condition means nothing."""

    condition: Condition
    uses: tuple[FieldMention, ...]
    problems: tuple[TextError, ...]
    warnings: tuple[TextError, ...]


def parse(text: str) -> Parsed:
    """Read one condition."""
    try:
        _check_size(text)
        tree = _parser().parse(text)
    except TextError as e:
        return Parsed(FALSE, (), (e,), ())
    except UnexpectedInput as e:
        return Parsed(FALSE, (), (_syntax(e, text),), ())
    reader = _Reader()
    condition: Condition = reader.transform(tree)
    return Parsed(condition, tuple(reader.uses), tuple(reader.problems), tuple(reader.warnings))


@lru_cache(maxsize=1)
def _parser() -> Lark:
    if __version__ == tables.LARK:
        made: Lark = Lark._load_from_dict(tables.DATA, tables.MEMO)  # type: ignore[no-untyped-call]  # as stand-alone parsers of lark do
        return made
    grammar = files("bpfence.dialects.native").joinpath("conditions.lark").read_text()
    return Lark(grammar, parser="lalr", maybe_placeholders=False)


def _check_size(text: str) -> None:
    if not text.strip():
        raise TextError("the condition is empty", "write an expression, or leave condition: out", "bad-condition")
    if len(text) > MAX_LENGTH:
        raise TextError(f"the condition is longer than {MAX_LENGTH} characters", "split it into rules", "bad-condition")
    depth = 0
    for n, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth > MAX_NESTING:
            raise TextError(f"the condition nests deeper than {MAX_NESTING} parentheses", "split it into rules", "bad-condition", n)


_EXPECTED: Final = {
    "FIELD": "a field", "WORDY": "an operator", "COMPARE": "an operator", "EXISTS": "an operator", "IN": "an operator", "STRING": "a value",
    "WORD": "a value", "LPAR": "'('", "RPAR": "')'", "AND": "'and'", "OR": "'or'", "NOT": "'not'", "COMMA": "','", "$END": "the end",
}  # fmt: skip
_FOREIGN: Final = {"&": "write 'and'", "|": "write 'or'", "!": "write 'not', or != between a field and a value"}


def _syntax(error: UnexpectedInput, text: str) -> TextError:
    offset: int = len(text)
    if isinstance(error, UnexpectedCharacters):
        offset = getattr(error, "pos_in_stream", 0)  # lark's own annotation says None
    elif isinstance(error, UnexpectedToken) and error.token.type != "$END":
        offset = error.token.start_pos or 0
    names: set[str] = set()
    if isinstance(error, UnexpectedCharacters):
        names = set(error.allowed or ())
    elif isinstance(error, (UnexpectedToken, UnexpectedEOF)):
        names = set(error.expected)
    wanted = sorted({_EXPECTED.get(name, name.lower()) for name in names})
    if "an operator" in wanted or "a value" in wanted:
        wanted = [what for what in wanted if what in ("an operator", "a value")]
    elif text[:offset].count("(") <= text[:offset].count(")"):
        wanted = [what for what in wanted if what not in ("')'", "','")]
    rest = text[offset:].strip()
    word = rest.split()[0][:40] if rest else ""
    hint = next((hint for sign, hint in _FOREIGN.items() if word.startswith(sign)), "")
    if word[:1] in ("'", '"'):
        hint = "close the quotes"
    elif not hint and wanted:
        hint = "expected here: " + " or ".join(wanted)
    if not rest:
        return TextError("the condition ends too early", hint, "bad-condition", len(text.rstrip()))
    return TextError(f"{quoted(word)} cannot stand here", hint, "bad-condition", offset)


def _offset(token: Token) -> int:
    return token.start_pos or 0


def _text(token: Token) -> str:
    if token.type != "STRING":
        return str(token)
    out = []
    raw = str(token)[1:-1]
    n = 0
    while n < len(raw):
        n += raw[n] == "\\"
        out.append(raw[n])
        n += 1
    return "".join(out)


class _Reader(Transformer_NonRecursive[Token, Condition]):
    """Conditions from the parse tree. A test that is wrong becomes FALSE, so that all mistakes are found in one go."""

    def __init__(self) -> None:
        super().__init__(visit_tokens=False)
        self.uses: list[FieldMention] = []
        self.problems: list[TextError] = []
        self.warnings: list[TextError] = []

    # The grammar chooses the names of these methods.
    def start(self, children: list[Condition]) -> Condition:
        return children[0]

    def any_of(self, children: list[Condition]) -> Condition:
        return values.disj(children)

    def all_of(self, children: list[Condition]) -> Condition:
        return values.conj(children)

    def negated(self, children: list[Condition]) -> Condition:
        return values.negation(children[0])

    def values(self, children: list[Token]) -> list[Token]:
        return children

    def exists(self, children: list[Token]) -> Condition:
        return self.test(children[0], _exists)

    def bare(self, children: list[Token]) -> Condition:
        def build(field: Field) -> Condition:
            hint = f"write {field.name} = true" if field.kind is Kind.BOOL else f"write {field.name} exists, or compare it with a value"
            raise TextError("a field alone is no test", hint, "bad-condition", _offset(children[0]))

        return self.test(children[0], build)

    def compared(self, children: list[Token]) -> Condition:
        name, sign, value = children
        return self.test(name, lambda field: self.compare(field, sign, value))

    def member(self, children: list[Any]) -> Condition:
        name, tokens = children[0], children[-1]

        def build(field: Field) -> Condition:
            if not tokens:
                raise TextError("in () never matches", "list the values", "unreachable", _offset(name))
            return values.disj(self.equal(field, token) for token in tokens)

        return self.test(name, build)

    def worded(self, children: list[Any]) -> Condition:
        name, word, given = children
        return self.test(name, lambda field: self.word(field, word, given if isinstance(given, list) else [given]))

    def test(self, token: Token, build: Callable[[Field], Condition]) -> Condition:
        name = str(token).partition("[")[0]
        field = FIELD_BY_NAME.get(name.lower())
        if field is None:
            hint = suggest(name, FIELD_BY_NAME, "docs/fields.md lists the fields")
            self.problems.append(TextError(f"unknown field {quoted(name)}", hint, "unknown-field", _offset(token)))
            return FALSE
        self.uses.append(FieldMention(field, _offset(token)))
        try:
            return build(field)
        except TextError as e:
            self.problems.append(e)
            return FALSE

    def equal(self, field: Field, token: Token) -> Condition:
        """The field equals the value: literally for strings."""
        if other := _other(token):
            return self.with_field(field, "=", token, other)
        text = _text(token)
        shift = _offset(token) + (token.type == "STRING")
        try:
            if field.kind in _STRINGS:
                if "*" in text:
                    hint = f"write {field.name} glob {quoted(text)}"
                    self.warnings.append(TextError("= and in compare literally: '*' stands for itself", hint, "literal-glob", shift))
                return values.equals(field, text)
            return values.condition_of(field, text)
        except TextError as e:
            raise TextError(e.message, e.hint, e.code, shift + e.offset) from None

    def compare(self, field: Field, sign: Token, value: Token) -> Condition:
        if other := _other(value):
            return self.with_field(field, str(sign), value, other)
        if sign in ("=", "=="):
            return self.equal(field, value)
        if sign == "!=":
            return values.conj([_exists(field), values.negation(self.equal(field, value))])
        if field.kind not in _NUMBERS:
            raise TextError(f"{field.name} has no order", f"{sign} is for numbers: use = or in", "bad-condition", _offset(sign))
        try:
            return values.between(field, *values.numeric(field, f"{sign}{_text(value)}"))
        except TextError as e:
            raise TextError(e.message, e.hint, e.code, _offset(value)) from None

    def with_field(self, field: Field, word: str, token: Token, other: Field) -> Condition:
        """The field compared with another one, which `token` names."""
        try:
            made = values.comparison(field, word, other)
        except TextError as e:
            raise TextError(e.message, e.hint, e.code, _offset(token)) from None
        self.uses.append(FieldMention(other, _offset(token), field))
        return made

    def word(self, field: Field, word: Token, tokens: list[Token]) -> Condition:
        if word not in _BUILD and word not in _LIST_WORDS:
            hint = _INSTEAD.get(str(word), "use contains, startswith, endswith, glob or pmatch")
            raise TextError(f"{word} is not supported", hint, "not-supported", _offset(word))
        if field.kind not in _STRINGS:
            raise TextError(f"{word} is for strings, and {field.name} is not one", "use =, in, < or >", "bad-condition", _offset(word))
        if len(tokens) != 1 and word not in _LIST_WORDS:
            raise TextError(f"{word} takes one value", "join several tests with 'or'", "bad-condition", _offset(word))
        if not tokens:
            raise TextError(f"{word} () never matches", "list the values", "unreachable", _offset(word))
        return values.disj(self.one_word(field, str(word), token) for token in tokens)

    def one_word(self, field: Field, word: str, token: Token) -> Condition:
        if other := _other(token):
            return self.with_field(field, word, token, other)
        text = _text(token)
        shift = _offset(token) + (token.type == "STRING")
        if not text:
            raise TextError(f"an empty text for {word} says nothing", f"write {field.name} exists", "bad-condition", shift)
        try:
            if word == "glob":
                made = values.pattern(field, text)
                self.warnings += [TextError(warning.message, warning.hint, warning.code, shift) for warning in values.odd(field, text)]
                return made
            if word == "pmatch":
                path = text.rstrip("/")
                return values.disj([Atom(field.name, Op.EQUALS, path or "/"), Atom(field.name, Op.PREFIX, path + "/")])
            values.part(field, text, first=word == "startswith")
        except TextError as e:
            raise TextError(e.message, e.hint, e.code, shift + e.offset) from None
        return Atom(field.name, _BUILD[word], fold(text) if word == "icontains" else text)


_BUILD: Final = {"contains": Op.CONTAINS, "icontains": Op.ICONTAINS, "startswith": Op.PREFIX, "endswith": Op.SUFFIX}
_INSTEAD: Final = {
    "iglob": "spell out the cases: [Aa]",
    "regex": "use glob, startswith, endswith or contains",
}


def _other(token: Token) -> Field | None:
    """The field that a value names; None for a quoted value, which is a text."""
    return values.named_field(str(token)) if token.type != "STRING" else None


def _exists(field: Field) -> Condition:
    return Atom(values.slot_field(field), Op.EXISTS)
