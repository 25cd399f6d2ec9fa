"""YAML trees: what they hold, where it stands, and their bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfence.documents import yaml_nodes
from bpfence.documents.placed import MAX_BYTES, DocumentError
from bpfence.documents.yaml_nodes import YamlNode
from bpfence.errors import Diagnostic


def root(text: str) -> YamlNode:
    (node,) = yaml_nodes.documents(text, "f")
    return node


def value(text: str) -> YamlNode:
    return root(text).pairs[0][1]


def test_scalars_stay_text() -> None:
    assert [(key.text, node.text) for key, node in root("on: yes\nn: 017\nz: null\n~: x").pairs] == [
        ("on", "yes"), ("n", "017"), ("z", "null"), ("~", "x"),
    ]  # fmt: skip


def test_empty() -> None:
    assert [value(f"a: {text}").empty for text in ("", "null", "~", "''", "'null'", "0")] == [True, True, True, False, False, False]
    assert list(yaml_nodes.documents("", "f")) == []
    assert list(yaml_nodes.documents("# nothing\n---\n---\n...\n", "f")) == []
    assert len(list(yaml_nodes.documents("a: 1\n---\n---\nb: 2\n", "f"))) == 2


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("k: plain text HERE", "HERE"),
        ("k: 'it''s HERE'", "HERE"),
        (r'k: "a\tb\u00e9\"c HERE"', "HERE"),
        ("k: |\n  first\n  second HERE\n", "HERE"),
        ("k: |2\n    first\n  second HERE\n", "HERE"),
        ("k: >-\n  first\n  second\n\n  third HERE\n", "HERE"),
        ("k: >\n\n\n  first\n    indented HERE\n", "HERE"),
        ("k: first\n  second HERE", "HERE"),
        ('k: "first\n  second HERE"', "HERE"),
        ('k: "first \\\n   second HERE"', "HERE"),
        ("k: 'first\n\n  second HERE'", "HERE"),
        ("k: &anchor HERE", "HERE"),
        ("k: !!str HERE", "HERE"),
        ("é: 'ü' \nk: HERE", "HERE"),
        ("k: 'é\u2603 HERE'", "HERE"),
        ("k: > # comment\n  x HERE", "HERE"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_places_inside_scalars(text: str, word: str, end: str) -> None:
    text = text.replace("\n", end)
    node = root(text).pairs[-1][1]
    location = node.place(node.text.index(word))
    line = text.split(end)[location.line - 1]
    assert line[location.column - 1 :].startswith(word)


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Zl", "Zp")), max_size=30), st.data())
def test_every_character_of_a_quoted_scalar_has_its_place(text: str, data: st.DataObject) -> None:
    single = "k: '" + text.replace("'", "''") + "'"
    if any(c in "\ufffe\uffff\x7f" or 0xFFFE <= ord(c) <= 0xFFFF for c in text):
        return
    node = value(single)
    assert node.text == text
    if text:
        offset = data.draw(st.integers(0, len(text) - 1))
        if not text[offset].isspace():
            assert node.place(offset).column == 5 + offset + text[:offset].count("'")


@given(
    st.lists(st.sampled_from(["a", "b ", "''", "\n\n  ", "\n  ", "é", "  "]), min_size=1),
    st.lists(st.integers(0, 40)),
    st.sampled_from("'>|"),
)
def test_places_do_not_depend_on_those_asked_for_before(pieces: list[str], offsets: list[int], style: str) -> None:
    text = f"k: {style}{'' if style == chr(39) else chr(10) + '  x'}{''.join(pieces)}{style if style == chr(39) else ''}"
    node = value(text)
    assert [node.place(offset) for offset in offsets] == [value(text).place(offset) for offset in offsets]


def test_places_of_nodes() -> None:
    node = root("a:\n  - x\n  - {b: c}\n")
    listed = node.pairs[0][1]
    assert (listed.location.line, listed.location.column) == (2, 3)
    assert (listed.items[1].location.line, listed.items[1].location.column) == (3, 5)
    assert str(listed.items[1].pairs[0][1].location) == "f:3:9"


@pytest.mark.parametrize(
    ("text", "line", "column", "code"),
    [
        ("a: [", 1, 5, "yaml-syntax"),
        ("a: b: c", 1, 5, "yaml-syntax"),
        ("a: *x", 1, 4, "yaml-syntax"),
        ("a: &x [*x]", 1, 8, "yaml-syntax"),
        ("a: \x01", 1, 4, "yaml-syntax"),
        ("a: b\n\tc: d", 2, 1, "yaml-syntax"),
        ("[" * 65, 1, 65, "yaml-limit"),
        ("a: " + "[" * 64, 1, 67, "yaml-limit"),
    ],
)
def test_mistakes(text: str, line: int, column: int, code: str) -> None:
    with pytest.raises(DocumentError) as e:
        list(yaml_nodes.documents(text, "f"))
    found = e.value.diagnostic
    assert (found.location.line, found.location.column, found.code) == (line, column, code), found
    assert found.hint


def test_depth_is_allowed_up_to_its_bound() -> None:
    assert root("[" * 64 + "]" * 64).kind == "list"


def test_aliases_are_counted_as_often_as_they_are_used() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(DocumentError) as e:
        list(yaml_nodes.documents("\n".join(lines), "f"))
    assert e.value.diagnostic.code == "yaml-limit"
    assert list(yaml_nodes.documents("\n".join(lines[:4]), "f"))


def test_an_alias_is_the_node_of_its_anchor() -> None:
    node = root("a: &x [1]\nb: *x")
    assert node.pairs[0][1] is node.pairs[1][1]


def test_anchors_do_not_outlive_their_document() -> None:
    with pytest.raises(DocumentError):
        list(yaml_nodes.documents("a: &x 1\n---\nb: *x", "f"))


def test_decode() -> None:
    assert yaml_nodes.decode("\ufeffé".encode(), "f") == "é"
    with pytest.raises(DocumentError) as e:
        yaml_nodes.decode(b"a\nb\xc3\xa9\xff", "f")
    assert (e.value.diagnostic.location.line, e.value.diagnostic.location.column, e.value.diagnostic.code) == (2, 3, "not-utf8")
    with pytest.raises(DocumentError) as e:
        yaml_nodes.decode(b" " * (MAX_BYTES + 1), "f")
    assert (str(e.value.diagnostic.location), e.value.diagnostic.code) == ("f", "yaml-limit")


YAML_BITS = st.lists(
    st.sampled_from([*"abk0-:[]{}&*!|>'\"%@`#,? \n\t", "\n  ", ": ", "- ", "---\n", "...\n", "\x85", "\u2028", "é", "<<"]),
    max_size=40,
)


@given(st.one_of(st.text(max_size=80), YAML_BITS.map("".join)))
def test_nothing_else_is_raised(text: str) -> None:
    try:
        nodes = list(yaml_nodes.documents(text, "f"))
    except DocumentError:
        nodes = []
    while nodes:
        node = nodes.pop()
        place = node.place(len(node.text) // 2)
        assert place.line >= 1
        assert place.column >= 1
        nodes += [*node.items, *(n for pair in node.pairs for n in pair)]


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("k: plain text # c\n", " # c\n"),
        ("k: 'it''s' # c\n", " # c\n"),
        ("k: first\n  second\nx: 1\n", "\nx: 1\n"),
        ("k: |\n  a\n\n  b\nx: 1\n", "x: 1\n"),
        ("k: |+\n  a\n\nx: 1\n", "x: 1\n"),
        ("k:\nx: 1\n", "\nx: 1\n"),
        ("k: # nothing\nx: 1\n", " # nothing\nx: 1\n"),
        ("k: {a: 1, b: [2]} # c\n", " # c\n"),
        ("k:\n  a: 1 # c\n# d\nx: 1\n", " # c\n# d\nx: 1\n"),
        ("k:\n- a\n- [1, 2] # c\nx: 1\n", " # c\nx: 1\n"),
        ("k: &n\n  a:\n    b: c\n\nx: 1\n", "\n\nx: 1\n"),
        ("y: &a 1\nk:\n  - *a # c\n", " # c\n"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_where_nodes_end(text: str, rest: str, end: str) -> None:
    text, rest = text.replace("\n", end), rest.replace("\n", end)
    node = next(node for key, node in root(text).pairs if key.text == "k")
    assert text[node.end :] == rest


def test_flow_and_mark() -> None:
    outer = root("a: &x {b: []}\nc: &y\n  - d\n")
    assert [outer.flow, *(node.flow for _, node in outer.pairs)] == [False, True, False]
    assert value("a: &x {b: []}").mark == 3
    assert value("a: &x {b: []}").start == 6


def test_aliases_do_not_nest_deeper_than_what_is_written_out() -> None:
    """Whoever walks a tree may recurse: a chain of aliases is as deep as if it were written out."""
    links = [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 400)]
    with pytest.raises(DocumentError) as caught:
        root("\n".join(["a0: &a0 x", *links]))
    assert caught.value.diagnostic.code == "yaml-limit"
    assert root("\n".join(["a0: &a0 x", *links[:60]])).height == 62


# ---- merge keys ----


def merged(text: str) -> dict[str, str]:
    [node] = yaml_nodes.documents(text, "f", merge=True)
    return {key.text: value.text for key, value in node.pairs[-1][1].pairs}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}", {"y": "3", "x": "1"}),
        ("a: &a {x: 1}\nb: &b {x: 2, z: 2}\nc: {<<: [*a, *b]}", {"x": "1", "z": "2"}),
        ("a: &a {x: 1}\nb: &b {<<: *a, y: 2}\nc: {<<: *b}", {"y": "2", "x": "1"}),
        ("b: {<<: {x: 1}}", {"x": "1"}),
        ('a: &a {x: 1}\nb: {"<<": *a}', {"<<": ""}),
    ],
)
def test_merge_keys(text: str, found: dict[str, str]) -> None:
    assert merged(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("b: {<<: {x: 1}, <<: {y: 1}}", [("duplicate-key", "error", 17)]),
        ("b: {x: 0, <<: {x: 1}}", [("merge-order", "warning", 5)]),
        ("b: {x: 0, <<: [{x: 1}, {x: 2}]}", [("merge-order", "warning", 5)]),
        ("b: {<<: {x: 1}, x: 0}", []),
        ("b: {x: 0, <<: {y: 1}}", []),
        ("b: {<<: [{x: 1}, {x: 2}]}", []),
        ("b: {'<<': 1, <<: {x: 1}}", []),
    ],
)
def test_what_is_told_of_merge_keys(text: str, found: list[tuple[str, str, int]]) -> None:
    told: list[Diagnostic] = []
    assert len(list(yaml_nodes.documents(text, "f", merge=True, told=told))) == 1
    assert [(one.code, one.severity, one.location.column) for one in told] == found
    assert all(one.hint for one in told)


def test_merge_keys_that_merge_nothing_and_readers_without_them() -> None:
    with pytest.raises(DocumentError) as caught:
        merged("b: {<<: x}")
    assert (caught.value.diagnostic.location.column, caught.value.diagnostic.code) == (9, "yaml-syntax")
    assert [key.text for key, _ in root("<<: {x: 1}").pairs] == ["<<"]


def test_what_is_merged_is_where_it_was_written() -> None:
    [node] = yaml_nodes.documents("a: &a\n  x: 1\nb:\n  <<: *a\n", "f", merge=True)
    assert node.pairs[1][1].pairs[0][1].location.line == 2
