"""Conditions: what parses to what, what is wrong where, and that printing and parsing are inverse."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfence.dialects.falco.read import language
from bpfence.dialects.falco.read.language import (
    AndNode,
    Check,
    ConditionNode,
    FieldRef,
    MacroRef,
    Mixed,
    NotNode,
    OrNode,
    TransformerCall,
    Word,
    Words,
    parse,
    show,
)
from bpfence.documents.report import TextError
from tests.unit.dialects.falco.trees import nodes


def check(name: str, operator: str, value: str) -> Check:
    return Check(FieldRef(name), operator, Word(value))


A, B, C = check("a.b", "=", "1"), check("c.d", "=", "2"), check("e.f", "=", "3")


@given(nodes)
@settings(max_examples=400, deadline=None)
def test_printing_and_parsing_are_inverse(node: ConditionNode) -> None:
    assert parse(show(node)) == node


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("a.b=1", A),
        ("a.b == 1", A),
        ("a.b=1 or c.d=2 and e.f=3", OrNode((A, AndNode((B, C))))),
        ("(a.b=1 or c.d=2) and e.f=3", AndNode((OrNode((A, B)), C))),
        ("not a.b=1 and c.d=2", AndNode((NotNode(A), B))),
        ("not(a.b=1)", NotNode(A)),
        ("not not a.b=1", A),
        ("not (not a.b=1)", NotNode(NotNode(A))),
        ("a.b=1 and(c.d=2)or(e.f=3)", OrNode((AndNode((A, B)), C))),
        ("a.b=1 or(c.d=2)and e.f=3", OrNode((A, AndNode((B, C))))),
        ("((a.b=1))", A),
        ("a.b=1\n  and\tc.d=2\r\n", AndNode((A, B))),
        ("order", MacroRef("order")),
        ("nothing or android", OrNode((MacroRef("nothing"), MacroRef("android")))),
        ("proc.name exists", Check(FieldRef("proc.name"), "exists")),
        ("fd.num>=0", check("fd.num", ">=", "0")),
        ("fd.num <= 0x1F", check("fd.num", "<=", "0x1F")),
        ("proc.name in (a, 'b c',\"d\")", Check(FieldRef("proc.name"), "in", Words((Word("a"), Word("b c"), Word("d"))))),
        ("proc.name in()", Check(FieldRef("proc.name"), "in", Words())),
        ("proc.name in shells", Check(FieldRef("proc.name"), "in", Word("shells"))),
        ("proc.aname[2]=x", Check(FieldRef("proc.aname", "2"), "=", Word("x"))),
        ('proc.env["A B"]=x', Check(FieldRef("proc.env", "A B"), "=", Word("x"))),
        ("proc.name = runc:[1:CHILD]", check("proc.name", "=", "runc:[1:CHILD]")),
        ("proc.name contains in", check("proc.name", "contains", "in")),
        ("proc.name=contains", check("proc.name", "=", "contains")),
        ("proc.name startswith anyof (a, b)", Check(FieldRef("proc.name"), "startswith", Words((Word("a"), Word("b"))), "anyof")),
        ("proc.name = anyof", check("proc.name", "=", "anyof")),
        ("proc.name = val(proc.pname)", Check(FieldRef("proc.name"), "=", TransformerCall("val", (FieldRef("proc.pname"),)))),
        (
            "tolower( basename(fd.name) ) = x",
            Check(TransformerCall("tolower", (TransformerCall("basename", (FieldRef("fd.name"),)),)), "=", Word("x")),
        ),
        ('getopt(proc.args, "e:")[e] = x', Check(TransformerCall("getopt", (FieldRef("proc.args"), Word("e:")), "e"), "=", Word("x"))),
        (
            'join("-", (proc.name, "a", 5)) = x',
            Check(TransformerCall("join", (Word("-"), Mixed((FieldRef("proc.name"), Word("a"), Word("5"))))), "=", Word("x")),
        ),
        ("concat(proc.name, 5) = x", Check(TransformerCall("concat", (FieldRef("proc.name"), Word("5"))), "=", Word("x"))),
        (
            'len(join(", ", fd.types)) > 3',
            Check(TransformerCall("len", (TransformerCall("join", (Word(", "), FieldRef("fd.types"))),)), ">", Word("3")),
        ),
    ],
)
def test_what_parses_to_what(text: str, tree: ConditionNode) -> None:
    assert parse(text) == tree


@pytest.mark.parametrize(
    ("literal", "text"),
    [
        ('"a b"', "a b"),
        (r'"a\"b"', 'a"b'),
        (r"'a\'b'", "a'b"),
        (r'"\\"', "\\"),
        (r'"a\\\"b"', 'a\\"b'),
        (r'"\b\f\n\r\t\/"', "\b\f\n\r\t/"),
        (r'"C:\ x"', "C:\\x"),
        (r'"\xff"', "\udcff"),
        (r'"\xc3\xa9"', "é"),
        ("'\"'", '"'),
        ('""', ""),
    ],
)
def test_quotes_and_escapes(literal: str, text: str) -> None:
    assert parse(f"a.b = {literal}") == check("a.b", "=", text)


@pytest.mark.parametrize(
    ("text", "offset", "message", "hint"),
    [
        ("  ", 0, "empty", "expression"),
        ("a.b", 2, "too early: expected an operator", "known operators"),
        ("a.b = ", 4, "too early: expected a value", "quote"),
        ("a.b=1 c.d=2", 6, "expected 'and' or 'or'", "cannot follow"),
        ("a.b=1 andc.d=2", 6, "expected 'and' or 'or'", "cannot follow"),
        ("a.b=1 || c.d=2", 6, "expected 'and' or 'or'", "write 'or'"),
        ("!a.b=1", 0, "expected a field", "write 'not'"),
        ("(a.b=1", 5, "not closed", "add a ')'"),
        ("a.b=1)", 5, "closes nothing", "remove"),
        ("a.b=1 and or c.d=2", 10, "expected a field", "macro"),
        ("a.b like x", 4, "expected an operator", "known operators"),
        ("a.b =~ x", 7, "expected 'and' or 'or'", "'x' cannot follow"),
        ("a\xa0", 1, "expected 'and' or 'or'", "cannot follow"),
        ("a.b < x", 6, "expected a number", "numbers"),
        ("a.b in (x y)", 10, "expected ',' or ')'", "separate"),
        ("a.b in (x,)", 10, "expected a value", "quote"),
        ("a.b in 'x'", 7, "expected a list", "parentheses"),
        ("a.b[ = 1", 4, "argument", "between"),
        ("a.b[x = 1", 5, "not closed", "]"),
        ("a.b = 'x", 6, "quotes are not closed", "close"),
        (r"a.b = 'a\d'", 8, "no escape", r"\\"),
        (r"""a.b = "a\'" """, 8, "no escape", r"\\"),
        ("tolower(a.b = x", 12, "not closed", "add"),
        ("tolower() = x", 8, "expected a field", "known"),
        ("a.b = val(x)", 10, "expected a field", "val"),
    ],
)
def test_what_is_wrong_where(text: str, offset: int, message: str, hint: str) -> None:
    with pytest.raises(TextError) as caught:
        parse(text)
    assert (caught.value.offset, caught.value.code) == (offset, "bad-escape" if "escape" in message else "condition-syntax")
    assert message in caught.value.message
    assert hint in caught.value.hint


def problem_of(text: str) -> TextError | None:
    try:
        parse(text)
    except TextError as error:
        return error
    return None


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_parses_or_says_where_it_does_not(text: str) -> None:
    problem = problem_of(text)
    if problem is not None:
        assert 0 <= problem.offset <= len(text)
        assert problem.hint


@given(
    st.lists(
        st.sampled_from(["(", ")", "not ", "a.b=1", " and ", " or ", "m", "tolower(", "'", '"', ",", "[", "]", "in ", "\\"]), max_size=30
    )
)
@settings(max_examples=300, deadline=None)
def test_pieces_of_the_language_parse_or_say_where_they_do_not(pieces: list[str]) -> None:
    problem = problem_of("".join(pieces))
    assert problem is None or problem.code in ("condition-syntax", "bad-escape", "limit")


def test_nesting_has_a_limit_and_needs_no_stack() -> None:
    deep = language.MAX_NESTING - 1
    assert parse("(" * deep + "a.b=1" + ")" * deep) == A
    for hostile in ("(" * 100_000, "not (" * 100_000, "tolower(" * 100_000, "a.b=1 and (" * 50_000):
        with pytest.raises(TextError) as caught:
            parse(hostile)
        assert caught.value.code == "limit"


def test_a_long_condition_takes_no_long_time() -> None:
    text = " or ".join(["proc.name in (" + ", ".join(["abc"] * 200) + ")"] * 500)
    start = time.process_time()
    parse(text)
    assert time.process_time() - start < 10
    with pytest.raises(TextError, match="longer"):
        parse("a" * (language.MAX_LENGTH + 1))


def test_spots_say_where_a_node_was_written() -> None:
    tree = parse("a.b=1 and not proc.name in (x, yy)", "origin")
    assert isinstance(tree, AndNode)
    negated = tree.parts[1]
    assert isinstance(negated, NotNode)
    member = negated.part
    assert isinstance(member, Check)
    assert isinstance(member.right, Words)
    assert [(item.spot.origin, item.spot.offset) for item in (member, member.left, member.right, *member.right.items)] == [
        ("origin", offset) for offset in (14, 14, 27, 28, 31)
    ]


def test_checks_lists_every_check_once() -> None:
    assert language.checks(OrNode((A, NotNode(AndNode((B, A))), MacroRef("m")))) == [A, B]


def test_a_call_of_an_output_ends_where_it_ends() -> None:
    call, end = language.parse_call("x tolower(proc.name) y", 2)
    assert (show(Check(call, "exists")), end) == ("tolower(proc.name) exists", 20)
