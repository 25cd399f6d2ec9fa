# SPDX-License-Identifier: Apache-2.0
"""Offsets, lines and columns of a text; how bytes become one."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfence.documents.placed import MAX_BYTES, DocumentError, Placed, PlacedText, decode
from bpfence.errors import Location

LINE_END = re.compile("\r\n|\r|\n")


@given(st.text(st.sampled_from("ab\r\n"), max_size=30), st.data())
def test_every_offset_has_one_place(text: str, data: st.DataObject) -> None:
    source = PlacedText("f", text, LINE_END)
    offset = data.draw(st.integers(0, len(text)))
    place = source.location(offset)
    assert source.offset(place.line - 1, place.column - 1) == offset
    assert place.line == 1 + sum(end.end() <= offset for end in LINE_END.finditer(text))
    assert Placed(source, offset).location == place


def test_a_place_after_the_end_is_the_end() -> None:
    source = PlacedText("f", "a\nb", LINE_END)
    assert source.offset(1, 9) == source.offset(7, 0) == 3


def test_bytes_that_are_no_text() -> None:
    def refused(data: bytes) -> tuple[Location, str, str]:
        with pytest.raises(DocumentError) as caught:
            decode(data, "f", LINE_END, limit_code="too-large", limit_hint="write less")
        return caught.value.diagnostic.location, caught.value.diagnostic.code, caught.value.diagnostic.hint

    assert decode("\ufeffé".encode(), "f", LINE_END, limit_code="", limit_hint="") == "é"
    assert refused(b"a\r\nb\xff") == (Location("f", 2, 2), "not-utf8", "save it as UTF-8")
    assert refused(b" " * (MAX_BYTES + 1)) == (Location("f"), "too-large", "write less")
