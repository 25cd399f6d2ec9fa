"""Outputs: what is text, what is a field, what is wrong where."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfence.dialects.falco.read.output import MAX_OUTPUT, parse
from bpfence.documents.report import TextError


def parts(text: str) -> list[tuple[str, bool, int]]:
    return [(part.text, part.getter is not None, part.width) for part in parse(text).parts]


def test_the_longest_field_after_a_percent_sign() -> None:
    assert parts("x=%fd.name y %evt.arg.flags, %proc.aname[2]|%10proc.names") == [
        ("x=", False, 0),
        ("fd.name", True, 0),
        (" y ", False, 0),
        ("evt.arg.flags", True, 0),
        (", ", False, 0),
        ("proc.aname[2]", True, 0),
        ("|", False, 0),
        ("proc.name", True, 10),
        ("s", False, 0),
    ]


def test_a_star_makes_it_lenient() -> None:
    assert parse("*%fd.name").lenient
    assert not parse("%fd.name*").lenient
    assert parts("**") == [("*", False, 0)]
    assert parts("") == []


def test_transformers_and_what_they_are_applied_to() -> None:
    template = parse("start %tolower(toupper(proc.name)) end")
    part = template.parts[1]
    assert part.text == "tolower(toupper(proc.name))"
    assert [name for name, _ in part.inner] == ["proc.name"]
    assert template.parts[2].text == " end"


@pytest.mark.parametrize(
    ("text", "code", "offset"),
    [
        ("ab %proc.nam", "unknown-field", 3),
        ("%", "bad-output", 0),
        ("100%", "bad-output", 3),
        ("%% x", "unknown-field", 0),
        ("%5", "bad-output", 0),
        ("%99999proc.name", "bad-output", 0),
        ("%evt.arg", "field-argument", 0),
        ("%proc.aname[x]", "field-argument", 0),
        ("%tolower(proc.nam)", "unknown-field", 9),
        ("%tolower(fd.num)", "transformer", 1),
        ("%tolower(proc.name", "condition-syntax", 17),
    ],
)
def test_mistakes(text: str, code: str, offset: int) -> None:
    with pytest.raises(TextError) as caught:
        parse(text)
    assert (caught.value.code, caught.value.offset) == (code, offset)
    assert caught.value.hint


def test_length_is_bounded() -> None:
    with pytest.raises(TextError, match="longer"):
        parse("x" * (MAX_OUTPUT + 1))


@given(
    st.one_of(
        st.text(max_size=30), st.lists(st.sampled_from(["%", "proc.name", "12", "[", "]", "*", "tolower(", ")", "evt.arg."])).map("".join)
    )
)
@settings(deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        template = parse(text)
    except TextError as error:
        offset = error.offset
    else:
        offset = 0
        plain = "".join(part.text for part in template.parts if part.getter is None)
        assert len(plain) <= len(text)
    assert 0 <= offset <= len(text)
