"""Globs, regular expressions and path sets."""

from __future__ import annotations

import fnmatch
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfence.dialects.falco.read.patterns import MAX_PATTERN, PathSet, glob, regex
from bpfence.documents.report import TextError


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("/home/*/.ssh/*", ["/home/ann/.ssh/id", "/home/a/b/.ssh/c/d"], ["/home/.ssh/x", "/home/ann/.ssh"]),
        ("*../*../*", ["../../etc/passwd", "a/../../b"], ["../etc", "a..b"]),
        ("a?c", ["abc", "a/c", "a\udcffc", "aéc"], ["ac", "abbc"]),
        ("[a-c]x", ["ax", "cx"], ["dx", "x"]),
        ("[!a-c]x", ["dx", "/x"], ["ax"]),
        ("[]a]", ["]", "a"], ["b"]),
        ("[[:digit:]]", ["7"], ["x"]),
        ("a[b", ["a[b"], ["ab"]),
        (r"a\*", ["a*"], ["ab"]),
        ("a{b}.c", ["a{b}.c"], ["ab.c", "abxc"]),
        ("\udcff*", ["\udcffx"], ["ÿx"]),
        ("", [""], ["x"]),
        ("[z-a]", [], ["z", "a", "b"]),
    ],
)
def test_globs(pattern: str, matching: list[str], others: list[str]) -> None:
    match = glob(pattern)
    assert [text for text in (*matching, *others) if match(text)] == matching


def test_a_glob_without_regard_to_case() -> None:
    assert glob("*PassWD", True)("/etc/passwd")
    assert not glob("*PassWD")("/etc/passwd")


@given(st.text("ab*?/.", max_size=8), st.text("ab/.", max_size=8))
@settings(deadline=None)
def test_globs_without_sets_are_those_of_the_standard_library(pattern: str, text: str) -> None:
    assert glob(pattern)(text) == (re.fullmatch(fnmatch.translate(pattern), text) is not None)


@given(st.text(max_size=20), st.text(max_size=20))
@settings(deadline=None)
def test_any_glob_is_compiled_or_refused(pattern: str, text: str) -> None:
    try:
        code = str(glob(pattern)(text))
    except TextError as error:
        code = error.code
    assert code in ("True", "False", "bad-glob", "limit")


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        (
            "[a-z]*/proc/[0-9]+/cmdline",
            ["/proc/12/cmdline", "x/proc/1/cmdline"],
            ["/proc/x/cmdline", "/proc/1/cmdline2", "!/proc/1/cmdline"],
        ),
        ("a|ab", ["a", "ab"], ["abc"]),
        ("/tmp/bad.", ["/tmp/bad\udcff"], ["/tmp/bad"]),
        ("/tmp/bad\ufffd", ["/tmp/bad\udcff"], ["/tmp/badx"]),
    ],
)
def test_regular_expressions_match_the_whole_text(pattern: str, matching: list[str], others: list[str]) -> None:
    match = regex(pattern)
    assert [text for text in (*matching, *others) if match(text)] == matching


@pytest.mark.parametrize("pattern", ["[a-", "(", "a{2000}", r"(a)\1", r"\d", "(?=x)", "x" * (MAX_PATTERN + 1), "((a{100}){100}){100}"])
def test_what_re2_does_not_take_is_refused(pattern: str) -> None:
    with pytest.raises(TextError) as caught:
        regex(pattern)
    assert caught.value.code in ("bad-regex", "limit")


def test_time_is_linear_in_the_text() -> None:
    start = time.process_time()
    assert not regex("(a*)*b")("a" * 50_000)
    assert not glob("*a*a*a*a*a*a*a*a*b")("a" * 50_000)
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["/opt/dir"], True),
        (["/opt/dir/"], True),
        (["/opt/dir/subdir"], True),
        (["/opt/dir2"], False),
        (["/opt/dir3", "/opt/dir2"], False),
        (["/opt/dir", "/opt/dir2"], True),
        (["/opt/*"], True),
        (["/opt/*/subdir"], True),
        (["/opt/di?/subdir"], True),
        (["/opt/di[r]/subdir"], True),
        (["/opt/di[!r]/subdir"], False),
        (["/opt/*/*/subsubdir"], False),
        (["/opt/dir/subdir/file.txt/more"], False),
        (["/"], True),
        ([], False),
    ],
)
def test_path_sets_go_by_component(paths: list[str], expected: bool) -> None:
    assert PathSet(paths)("/opt/dir/subdir/file.txt") is expected
