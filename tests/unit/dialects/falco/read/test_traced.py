"""Texts put together, and traced back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfence.dialects.falco.read.traced import MAX_EXPANDED, Traced, quote_item, substitute
from bpfence.documents.report import TextError
from bpfence.documents.yaml_nodes import YamlNode, documents


def node(text: str, line: int = 1) -> YamlNode:
    return next(documents("\n" * (line - 1) + "- " + text, f"line{line}.yaml")).items[0]


def traced(text: str, line: int = 1) -> Traced:
    return Traced().add(text, node(text, line))


def put(text: str, **lists: str) -> str:
    return substitute(traced(text), lists, set()).text


@pytest.mark.parametrize(
    ("text", "lists", "expected"),
    [
        ("proc.name in (shells)", {"shells": "bash, sh"}, "proc.name in (bash, sh)"),
        ("proc.name in (a,shells , b)", {"shells": "bash, sh"}, "proc.name in (a,bash, sh , b)"),
        ("proc.name in (shells)", {"shells": ""}, "proc.name in ()"),
        ("proc.name in (a, shells)", {"shells": ""}, "proc.name in (a)"),
        ("proc.name in (shells, a)", {"shells": ""}, "proc.name in ( a)"),
        ("proc.name in (a, shells, b)", {"shells": ""}, "proc.name in (a, b)"),
        ("proc.name=shells", {"shells": "bash"}, "proc.name=bash"),
        ("proc.name in ('shells', \"x shells y\")", {"shells": "bash"}, "proc.name in ('shells', \"x shells y\")"),
        ("proc.name in (shells2, xshells)", {"shells": "bash"}, "proc.name in (shells2, xshells)"),
        ("proc.name in (a, b)", {"a": "b", "b": "c"}, "proc.name in (b, c)"),
        ("shells", {"shells": "x"}, "x"),
    ],
)
def test_lists_are_put_in_as_text(text: str, lists: dict[str, str], expected: str) -> None:
    assert put(text, **lists) == expected


def test_used_lists_are_noted() -> None:
    used: set[str] = set()
    substitute(traced("a.b in (one)"), {"one": "x", "two": "y"}, used)
    assert used == {"one"}


def test_what_came_from_a_list_is_traced_to_its_name() -> None:
    source = traced("a.b in (one, zwei)")
    made = substitute(source, {"one": "x, y"}, set())
    assert made.text == "a.b in (x, y, zwei)"
    columns = [made.place(n).column for n in range(len(made.text))]
    assert columns[:8] == list(range(3, 11))
    assert set(columns[8:12]) == {11}
    assert columns[12:14] == [14, 15]


def test_pieces_of_several_nodes() -> None:
    made = traced("abc", 1)
    made.add(" and ", node("x", 9), fixed=True).extend(traced("defg", 5), 1, 3)
    assert made.text == "abc and ef"
    assert [(made.place(n).line, made.place(n).column) for n in (0, 2, 3, 7, 8, 9)] == [(1, 3), (1, 5), (9, 3), (9, 3), (5, 4), (5, 5)]


def test_nothing_has_no_place() -> None:
    assert Traced().place(0).line == 0


def test_growth_is_bounded() -> None:
    with pytest.raises(TextError, match="grows") as caught:
        put("a.b in (" + ", ".join(["big"] * 100) + ")", big="x" * (MAX_EXPANDED // 50))
    assert caught.value.code == "limit"


@pytest.mark.parametrize(("item", "quoted"), [("a", "a"), ("a b", '"a b"'), ('"a b"', '"a b"'), ("'a b'", "'a b'")])
def test_items_with_blanks_are_quoted(item: str, quoted: str) -> None:
    assert quote_item(item) == quoted


@given(st.lists(st.sampled_from(["a", "list", "(", ")", ",", " ", "=", '"', "'", "\\"]), max_size=20).map("".join))
@settings(deadline=None)
def test_without_lists_nothing_changes(text: str) -> None:
    source = Traced().add(text, node("x"))
    assert substitute(source, {}, set()).text == text
