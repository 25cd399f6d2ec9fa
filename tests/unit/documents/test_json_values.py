# SPDX-License-Identifier: Apache-2.0
"""JSON with places: agreement with the standard library, mistakes where they stand, bounds."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfence.documents.json_values import MAX_VALUES, JsonValue, decode, parse
from bpfence.documents.placed import MAX_BYTES, MAX_DEPTH, DocumentError

texts = st.text(st.characters(exclude_categories=("Cs",)))
documents = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


def built(value: JsonValue) -> Any:
    match value.kind:
        case "object":
            return {key.text: built(inner) for key, inner in value.pairs}
        case "array":
            return [built(item) for item in value.items]
        case "string":
            return value.text
        case "number":
            return int(value.text)
        case "boolean":
            return value.text == "true"
    return None


@given(documents, st.sampled_from([None, 0, 3]))
def test_reads_what_json_writes(document: Any, indent: int | None) -> None:
    assert built(parse(json.dumps(document, indent=indent), "f")) == document


@given(st.text(st.sampled_from('{}[]":,\\ntrue1-.e \n'), max_size=30))
def test_takes_no_more_and_no_less_than_json(text: str) -> None:
    def refuse(word: str) -> None:
        raise ValueError(word)

    try:
        expected = json.loads(text, parse_constant=refuse, parse_float=str)
    except ValueError:
        with pytest.raises(DocumentError) as caught:
            parse(text, "f")
        assert caught.value.diagnostic.location.line >= 1
    else:
        if len(json.dumps(expected)) < 1000:
            parse(text, "f")


@given(st.binary(max_size=200))
def test_no_bytes_make_it_fail_otherwise(data: bytes) -> None:
    with contextlib.suppress(DocumentError):
        parse(decode(data, "f"), "f")


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ('{"a": NaN}', 1, 7, "NaN is not"),
        ('{"a": Infinity}', 1, 7, "Infinity is not"),
        ('{"a": 1,}', 1, 9, "no ',' before '}'"),
        ('{\n  "a": [1,\n  ]}', 3, 3, "no ',' before ']'"),
        ("{'a': 1}", 1, 2, "double quotes"),
        ('{"a" 1}', 1, 6, "':' is missing"),
        ('{"a": 1 "b": 2}', 1, 9, "',' or '}' is missing"),
        ('{"a": // why\n1}', 1, 7, "no comments"),
        ('{"a": 1 // why\n}', 1, 9, "no comments"),
        ('{"a": 0x10}', 1, 7, "not a JSON number"),
        ('{"a": 017}', 1, 7, "not a JSON number"),
        ('{"a": "x', 1, 7, "never ends"),
        ('{"a": "x\ny"}', 1, 9, "end on its line"),
        ('{"a": "\\x41"}', 1, 8, "escape that JSON does not have"),
        ('{"a": 1', 1, 8, "the file ends"),
        ("", 1, 1, "the file ends where a value"),
        ("{} {}", 1, 4, "after the end"),
        ('{"a": ' + "9" * 50 + "}", 1, 7, "far too long"),
        ('{"a": yes}', 1, 7, "expected a value here"),
    ],
)
def test_each_mistake_where_it_stands(text: str, line: int, column: int, message: str) -> None:
    with pytest.raises(DocumentError) as caught:
        parse(text, "f.json")
    found = caught.value.diagnostic
    assert (found.location.file, found.location.line, found.location.column) == ("f.json", line, column)
    assert message in found.message


def test_places_of_values() -> None:
    root = parse('{\r\n  "a": [1,\n   "b"]}', "f")
    ((key, value),) = root.pairs
    assert (key.location.line, key.location.column) == (2, 3)
    assert (value.location.line, value.location.column) == (2, 8)
    assert (value.items[1].location.line, value.items[1].location.column) == (3, 4)


def test_a_byte_order_mark_is_not_in_the_way() -> None:
    assert parse(decode(b"\xef\xbb\xbf{}", "f"), "f").kind == "object"


def test_other_encodings() -> None:
    with pytest.raises(DocumentError) as caught:
        decode(b'{\n"a": "\xff"}', "f")
    found = caught.value.diagnostic
    assert (found.code, found.location.line, found.location.column) == ("not-utf8", 2, 7)


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000, "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)])
def test_depth_is_bounded(text: str) -> None:
    with pytest.raises(DocumentError) as caught:
        parse(text, "f")
    assert caught.value.diagnostic.code == "json-limit"


def test_size_is_bounded() -> None:
    with pytest.raises(DocumentError) as caught:
        decode(b" " * (MAX_BYTES + 1), "f")
    assert caught.value.diagnostic.code == "json-limit"
    with pytest.raises(DocumentError) as caught:
        parse("[" + "1," * MAX_VALUES + "1]", "f")
    assert caught.value.diagnostic.code == "json-limit"


def test_a_long_string_is_read_in_one_go() -> None:
    assert len(parse('"' + "x" * (1 << 20) + '"', "f").text) == 1 << 20


@pytest.mark.parametrize("text", ["1.5", "true", "null", '"a\\"b"', "[]", "[1, {}]", '{"a": [1]}'])
def test_where_values_end(text: str) -> None:
    inner = parse(f' {{"k": {text} , "l": 0}} ', "f").pairs[0][1]
    assert inner.source.text[inner.start : inner.end] == text
    assert parse(f" {text} ", "f").end == len(text) + 1
