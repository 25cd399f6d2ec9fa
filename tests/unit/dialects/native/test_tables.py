# SPDX-License-Identifier: Apache-2.0
"""The parser's tables against the grammar that they were made of."""

from __future__ import annotations

from importlib.resources import files

import pytest
from lark import Lark, UnexpectedInput, __version__

from bpfence.dialects.native import language, tables

GRAMMAR = Lark(files("bpfence.dialects.native").joinpath("conditions.lark").read_text(), parser="lalr", maybe_placeholders=False)
TEXTS = (
    "process.uid = 1000",
    "not (process.uid >= 1000 and file.path glob ('/etc/**', \"/root/*\")) or process.pid exists",
    "file.path pmatch (/tmp, /var/tmp) and process.exe in (/bin/sh) and not process.args contains 'a b'",
    "process.uid = 1 or or",
    "process.uid",
    "(process.uid = 1",
    "process.uid & 1",
    "file.path = 'open",
    "",
)


def outcome(parser: Lark, text: str) -> object:
    """The tree, or the mistake with what could have stood there."""
    try:
        return parser.parse(text)
    except UnexpectedInput as error:
        return type(error), error.line, error.column, set(getattr(error, "accepts", None) or getattr(error, "allowed", None) or ())


@pytest.mark.parametrize("text", TEXTS)
def test_they_read_what_the_grammar_says(text: str) -> None:
    assert outcome(language._parser(), text) == outcome(GRAMMAR, text)


def test_tables_of_another_version_of_lark_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "DATA", {})
    monkeypatch.setattr(tables, "LARK", f"not {__version__}")
    assert outcome(language._parser.__wrapped__(), TEXTS[1]) == outcome(GRAMMAR, TEXTS[1])
