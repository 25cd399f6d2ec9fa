# SPDX-License-Identifier: Apache-2.0
"""JSON text in, a bounded tree of values with their places out.

Called by `seccomp`. Strict RFC 8259: no comments, no trailing commas, no NaN. Bounded against hostile files: size, nesting, number of
values; nothing recurses. What reads YAML builds the same `JsonValue`s, so that one reader serves both.
"""

from __future__ import annotations

import json
import re
from typing import Final, Literal

from bpfence.documents import placed
from bpfence.documents.placed import MAX_DEPTH, DocumentError, Placed, PlacedText

MAX_VALUES: Final = 300_000
MAX_DIGITS: Final = 40

ValueKind = Literal["object", "array", "string", "number", "boolean", "null"]
WORDS: Final = {"object": "an object", "array": "a list", "string": "a text", "number": "a number", "boolean": "a boolean", "null": "null"}

_SPACE: Final = re.compile(r"[ \t\r\n]*")
_STRING: Final = re.compile(r'"(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9A-Fa-f]{4})*"')
_ESCAPE: Final = re.compile(r'\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4})')
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_WORD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LINE: Final = re.compile("\r\n|\r|\n")


class JsonValue(Placed):
    """One value. `text` holds a string's content, a number as it was written, `true` or `false`; `end` is the offset behind it in JSON."""

    __slots__ = ("end", "items", "kind", "pairs")

    def __init__(self, source: PlacedText, kind: ValueKind, start: int, text: str = "") -> None:
        super().__init__(source, start, text)
        self.kind = kind
        self.end = start
        self.items: list[JsonValue] = []
        self.pairs: list[tuple[JsonValue, JsonValue]] = []

    @property
    def what(self) -> str:
        """The value for a message: "a list", "a text"."""
        return WORDS[self.kind]


def decode(data: bytes, file: str) -> str:
    """See `placed.decode`."""
    return placed.decode(data, file, _LINE, limit_code="json-limit", limit_hint="a profile is a few kilobytes")


def parse(text: str, file: str) -> JsonValue:
    """The value of a whole JSON text; DocumentError with the place of the first mistake."""
    return _Parser(PlacedText(file, text, _LINE)).document()


class _Parser:
    """One pass over the text. Open objects and arrays are on a stack, so that nothing recurses."""

    def __init__(self, source: PlacedText) -> None:
        self.source = source
        self.text = source.text
        self.at = 0
        self.count = 0
        self.open: list[JsonValue] = []
        self.keys: list[JsonValue | None] = []  # the key of each open object that waits for its value

    def document(self) -> JsonValue:
        self.space()
        value = self.value()
        while self.open:
            self.step()
        self.space()
        if self.at < len(self.text):
            raise self.error("there is something after the end of the document", "a profile is one JSON object")
        return value

    def step(self) -> None:
        """One more value of the innermost open object or array, or its end."""
        holder = self.open[-1]
        end = "}" if holder.kind == "object" else "]"
        first = not (holder.pairs or holder.items)
        self.space()
        if self.peek() == end:
            self.at += 1
            holder.end = self.at
            self.open.pop()
            self.keys.pop()
            return
        if not first:
            self.expect(",", f"',' or '{end}'")
            self.space()
            if self.peek() == end:
                raise self.error(f"there must be no ',' before '{end}'", "remove the comma")
        if holder.kind == "object":
            if self.peek() != '"':
                self.no_comment()
                message = "a key must be a text in double quotes" if self.peek() else "the file ends in the middle of an object"
                raise self.error(message, _QUOTES)
            key = self.string()
            self.space()
            self.expect(":", "':'")
            self.space()
            self.keys[-1] = key
        self.attach(holder)

    def attach(self, holder: JsonValue) -> None:
        key = self.keys[-1]
        value = self.value()
        if holder.kind == "object":
            assert key is not None
            holder.pairs.append((key, value))
        else:
            holder.items.append(value)

    def value(self) -> JsonValue:
        self.count += 1
        if self.count > MAX_VALUES:
            raise self.error(f"the file holds more than {MAX_VALUES} values", "a profile has a few hundred", "json-limit")
        char = self.peek()
        if char in ("{", "["):
            return self.container("object" if char == "{" else "array")
        if char == '"':
            return self.string()
        if char and char in "-0123456789":
            return self.number()
        return self.word()

    def container(self, kind: ValueKind) -> JsonValue:
        if len(self.open) >= MAX_DEPTH:
            raise self.error(f"the file nests deeper than {MAX_DEPTH} levels", "a profile needs 5 levels", "json-limit")
        value = JsonValue(self.source, kind, self.at)
        self.at += 1
        self.open.append(value)
        self.keys.append(None)
        return value

    def string(self) -> JsonValue:
        match = _STRING.match(self.text, self.at)
        if match is None:
            raise self.bad_string()
        value = JsonValue(self.source, "string", self.at, json.loads(match.group()))
        value.end = self.at = match.end()
        return value

    def bad_string(self) -> DocumentError:
        at = self.at + 1
        while at < len(self.text):
            char = self.text[at]
            if char == "\\":
                if not _ESCAPE.match(self.text, at):
                    self.at = at
                    return self.error("an escape that JSON does not have", "write \\\\ for a backslash")
                at += 1
            elif char < " ":
                self.at = at
                return self.error("a text must end on its line, and hold control characters as escapes", 'write \\n, or close it with "')
            at += 1
        return self.error("the text never ends", 'close it with "')

    def number(self) -> JsonValue:
        match = _NUMBER.match(self.text, self.at)
        after = self.text[match.end() : match.end() + 1] if match else ""
        if match is None or after.isalnum() or after in ("_", "."):
            hexadecimal = self.text[self.at : self.at + 2].lower() == "0x"
            hint = "write it in decimal" if hexadecimal else "leading zeros, signs and digit separators are not allowed"
            raise self.error("not a JSON number", hint)
        if len(match.group()) > MAX_DIGITS:
            raise self.error("the number is far too long", "no argument has more than 20 digits", "json-limit")
        value = JsonValue(self.source, "number", self.at, match.group())
        value.end = self.at = match.end()
        return value

    def word(self) -> JsonValue:
        match = _WORD.match(self.text, self.at)
        word = match.group() if match else ""
        if word in ("true", "false", "null"):
            value = JsonValue(self.source, "null" if word == "null" else "boolean", self.at, word)
            value.end = self.at = self.at + len(word)
            return value
        if not self.peek():
            raise self.error("the file ends where a value is expected", 'close what is open, or write the profile: {"defaultAction": …}')
        if word in ("NaN", "Infinity"):
            raise self.error(f"{word} is not a JSON value", "write a whole number")
        self.no_comment()
        raise self.error("expected a value here", _QUOTES if word or self.peek() == "'" else "")

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def space(self) -> None:
        match = _SPACE.match(self.text, self.at)
        assert match is not None
        self.at = match.end()

    def expect(self, char: str, what: str) -> None:
        if self.peek() != char:
            self.no_comment()
            message = f"{what} is missing here" if self.peek() else f"the file ends where {what} is expected"
            raise self.error(message, "check the line before, too")
        self.at += 1

    def no_comment(self) -> None:
        if self.text.startswith(("//", "/*", "#"), self.at):
            raise self.error("JSON has no comments", 'rules may carry one under "comment"')

    def error(self, message: str, hint: str = "", code: str = "json-syntax") -> DocumentError:
        return DocumentError(self.source.location(self.at), message, hint, code)


_QUOTES: Final = "texts and keys stand in double quotes"
