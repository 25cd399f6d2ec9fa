# SPDX-License-Identifier: Apache-2.0
"""A glob, a regular expression or a set of paths in, a function from text to yes or no out.

Called by `checks` (is it well formed?) and `rules` (does it match?). Everything runs in time linear in the text: globs and regular
expressions are RE2's, whatever a rule file holds. Text is str with undecodable bytes as surrogate escapes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Final

import re2

from bpfence.documents.report import TextError
from bpfence.words import quoted

Matcher = Callable[[str], bool]

MAX_PATTERN: Final = 16 << 10
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_PRIVATE: Final = 0x10F000  # RE2 takes UTF-8 only, so surrogate escapes are moved here: U+DC80 becomes U+10FC80
_CLASSES: Final = ("alnum", "alpha", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "xdigit")


def _options(**settings: bool) -> Any:
    options = re2.Options()
    options.log_errors = False
    for name, value in settings.items():
        setattr(options, name, value)
    return options


def _private(text: str) -> str:
    """A text with its surrogate escapes as private characters, so that an undecodable byte is one character that only itself and `?`
    match."""
    return text if text.isascii() else _SURROGATE.sub(lambda surrogate: chr(ord(surrogate.group()) - 0xD000 + _PRIVATE), text)


@lru_cache(maxsize=4096)
def regex(pattern: str) -> Matcher:
    """A full match of an RE2 expression in POSIX syntax, as Falco's `regex`. TextError where it is none.

    Bytes that are not UTF-8 are U+FFFD to it, in the text and in the pattern.
    """
    _check_length(pattern)
    try:
        compiled = re2.compile(_replaced(pattern), _options(posix_syntax=True, longest_match=True))
    except re2.error as error:
        reason = error.args[0].decode("utf-8", "replace") if error.args and isinstance(error.args[0], bytes) else str(error)
        reason = reason.replace("invalid UTF-8", "it ends too early")  # how RE2 words a set that is cut off
        raise TextError(
            f"{quoted(pattern)} is no regular expression: {reason}", r"RE2, POSIX syntax: [0-9] instead of \d", "bad-regex"
        ) from None
    fullmatch = compiled.fullmatch
    return lambda text: fullmatch(_replaced(text)) is not None


def _replaced(text: str) -> str:
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


@lru_cache(maxsize=4096)
def glob(pattern: str, fold: bool = False) -> Matcher:
    """fnmatch(3) without flags: `*` and `?` match '/' and a leading '.', sets and backslashes work; `fold` ignores case."""
    _check_length(pattern)
    try:
        compiled = re2.compile(_private(_as_regex(pattern)), _options(dot_nl=True, case_sensitive=not fold))
    except re2.error:
        raise TextError(f"{quoted(pattern)} is no glob that can be compiled", "use fewer or smaller sets", "bad-glob") from None
    fullmatch = compiled.fullmatch
    return lambda text: fullmatch(_private(text)) is not None


def _check_length(pattern: str) -> None:
    if len(pattern) > MAX_PATTERN:
        raise TextError(f"the pattern is longer than {MAX_PATTERN} characters", "split it", "limit")


def _as_regex(pattern: str) -> str:
    out: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*":
            if not out or out[-1] != ".*":
                out.append(".*")
        elif char == "?":
            out.append(".")
        elif char == "\\" and at < len(pattern):
            out.append(re2.escape(_private(pattern[at])))
            at += 1
        elif char == "[":
            made, at = _set(pattern, at)
            out.append(made)
        else:
            out.append(re2.escape(_private(char)))
    return "".join(out)


def _set(pattern: str, at: int) -> tuple[str, int]:
    """A bracket expression that begins after `[`. A set that is not closed, or is empty, is the bracket itself."""
    start = at
    negated = pattern[at : at + 1] in ("!", "^")
    at += negated
    items: list[str] = []
    first = True
    while at < len(pattern) and (first or pattern[at] != "]"):
        first = False
        named = re.compile(r"\[:([a-z]+):\]").match(pattern, at)
        if named and named.group(1) in _CLASSES:
            items.append(named.group())
            at = named.end()
            continue
        low, at = _member(pattern, at)
        if pattern[at : at + 1] == "-" and pattern[at + 1 : at + 2] not in ("", "]"):
            high, at = _member(pattern, at + 1)
            if low <= high:
                items.append(f"{_escaped(low)}-{_escaped(high)}")
        else:
            items.append(_escaped(low))
    if at >= len(pattern):
        return re2.escape("["), start
    if not items:
        return ("." if negated else r"[^\x00-\x{10FFFF}]"), at + 1
    return f"[{'^' if negated else ''}{''.join(items)}]", at + 1


def _member(pattern: str, at: int) -> tuple[str, int]:
    if pattern[at] == "\\" and at + 1 < len(pattern):
        at += 1
    return pattern[at], at + 1


def _escaped(char: str) -> str:
    return f"\\x{{{ord(_private(char)):x}}}"


def is_plain(pattern: str) -> bool:
    """Whether no character of a path component is special in a glob."""
    return not any(char in pattern for char in "?*[")


class PathSet:
    """`pmatch`: whether some path of the set is the text itself or a directory above it. Compares component by component; components may be
    globs."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._plain: set[tuple[str, ...]] = set()
        self._globs: list[tuple[Matcher, ...]] = []
        for path in paths:
            parts = _components(path)
            if all(is_plain(part) for part in parts):
                self._plain.add(parts)
            else:
                self._globs.append(tuple(glob(part) for part in parts))
        self._lengths = sorted({len(parts) for parts in self._plain})

    def __call__(self, text: str) -> bool:
        parts = _components(text)
        if any(length <= len(parts) and parts[:length] in self._plain for length in self._lengths):
            return True
        return any(len(tests) <= len(parts) and all(test(part) for test, part in zip(tests, parts, strict=False)) for tests in self._globs)


def _components(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("/") if part)
