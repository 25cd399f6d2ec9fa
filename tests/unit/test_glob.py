"""bpfence.glob: what each construct matches, what is refused, and UTF-8 ranges."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfence import glob
from bpfence.glob import GlobError, GlobKind


def matches(pattern: str, text: str, kind: GlobKind = "path") -> bool:
    return glob.compiled(pattern, kind).fullmatch(glob.encode(text)) is not None


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("/tmp/x", ["/tmp/x"], ["/tmp/xy", "/tmp", "tmp/x"]),
        ("/tmp/*", ["/tmp/x", "/tmp/"], ["/tmp/x/y", "/tmp"]),
        ("/tmp/*.so", ["/tmp/.so", "/tmp/a.so"], ["/tmp/a/b.so"]),
        ("/a/**", ["/a/b", "/a/b/c", "/a/"], ["/a", "/ab"]),
        ("/a/**/b", ["/a/b", "/a/x/b", "/a/x/y/b"], ["/ab", "/a/xb", "/a/b/c"]),
        ("/a/**/**/b", ["/a/b", "/a/x/b"], ["/ab"]),
        ("/a**/b", ["/a/b", "/ax/b", "/a/x/b"], ["/ab"]),
        ("**/b", ["/b", "/a/b", "x/b"], ["b", "/a/bb"]),
        ("**", ["", "/", "/a/b"], []),
        ("/a***b", ["/ab", "/a/x/b"], ["/a"]),
        ("/?", ["/a", "/é", "/\udcff", "/€", "/𝄞"], ["/", "//", "/ab"]),
        ("/[a-c]", ["/a", "/c"], ["/d", "/"]),
        ("/[!a-c]", ["/d", "/é", "/\udc80"], ["/a", "//"]),
        ("/[^é-ü]x", ["/ax", "/ýx"], ["/éx", "/öx"]),
        ("/[é-ü]", ["/é", "/ö"], ["/e", "/ý"]),
        ("/[]a]", ["/]", "/a"], ["/b"]),
        ("/[a-]", ["/a", "/-"], ["/b"]),
        ("/[\\]a]", ["/]"], ["/\\"]),
        ("/{usr,opt/{x,y}}/bin", ["/usr/bin", "/opt/x/bin", "/opt/y/bin"], ["/opt/bin"]),
        ("/a{,.bak}", ["/a", "/a.bak"], ["/a."]),
        ("/{*.c,**/h}", ["/x.c", "/a/b/h"], ["/a/x.c"]),
        ("/a\\*\\{,", ["/a*{,"], ["/ab{,"]),
    ],
)
def test_path_globs(pattern: str, yes: list[str], no: list[str]) -> None:
    assert [text for text in yes if not matches(pattern, text)] == []
    assert [text for text in no if matches(pattern, text)] == []


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("curl *", ["curl http://x/y", "curl "], ["curl", "a curl x"]),
        ("a?b", ["a/b", "aéb"], ["ab"]),
        ("a[!x]b", ["a/b"], ["axb"]),
        ("/a/**/b", ["/a//b", "/a/x/b"], ["/a/b"]),
    ],
)
def test_string_globs(pattern: str, yes: list[str], no: list[str]) -> None:
    assert [text for text in yes if not matches(pattern, text, "string")] == []
    assert [text for text in no if matches(pattern, text, "string")] == []


@pytest.mark.parametrize(
    ("pattern", "position", "hint"),
    [
        ("/a[b", 2, "\\["),
        ("/a{b,c", 2, "\\{"),
        ("/{a,{b,c}", 1, "\\{"),
        ("/a}", 2, "\\}"),
        ("/a\\", 2, "\\\\"),
        ("/[z-a]", 4, "a-z"),
        ("/[[:alpha:]]", 2, "A-Za-z"),
        ("/[/]", 1, "outside"),
        ("{" * 40 + "}" * 40, 16, ""),
        ("a" * 9000, 8192, ""),
    ],
)
def test_refused(pattern: str, position: int, hint: str) -> None:
    with pytest.raises(GlobError) as caught:
        glob.parse(pattern)
    assert caught.value.position == position
    assert hint in caught.value.hint


@given(st.integers(0, 0x10FFFF), st.integers(0, 0x10FFFF), st.lists(st.integers(0, 0x10FFFF), max_size=20))
def test_utf8_sequences_are_exactly_the_range(a: int, b: int, points: list[int]) -> None:
    low, high = min(a, b), max(a, b)
    one = glob.characters([(low, high)], negated=False, slash=True)
    sequences = [s for s in one.sequences if not (len(s) == 1 and s[0][0] >= 0x80)]
    for point in {low, high, max(low - 1, 0), min(high + 1, 0x10FFFF), *points}:
        if 0xD800 <= point <= 0xDFFF:
            continue
        data = chr(point).encode()
        found = [s for s in sequences if len(s) == len(data) and all(lo <= x <= hi for x, (lo, hi) in zip(data, s, strict=True))]
        assert len(found) == (low <= point <= high)


@given(st.binary(max_size=12))
def test_encode_restores_any_bytes(data: bytes) -> None:
    assert glob.encode(data.decode("utf-8", "surrogateescape")) == data


@given(st.text(max_size=12))
def test_escaped_text_is_literal(text: str) -> None:
    pattern = "".join("\\" + char for char in text)
    assert glob.literal(glob.parse(pattern)) == glob.encode(text)
    assert re.fullmatch(glob.to_regex(pattern), glob.encode(text), re.DOTALL)


def test_literal_is_none_for_patterns() -> None:
    assert glob.literal(glob.parse("/a/*")) is None
    assert glob.literal(glob.parse("/a/b")) == b"/a/b"
