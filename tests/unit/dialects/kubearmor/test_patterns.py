# SPDX-License-Identifier: Apache-2.0
"""AppArmor's patterns: which paths they match, as apparmor.d(5) says."""

from __future__ import annotations

import pytest

from bpfence import glob
from bpfence.dialects.kubearmor.patterns import condition, never, translated
from bpfence.documents.report import TextError
from bpfence.policy import FALSE


@pytest.mark.parametrize(
    ("pattern", "matches", "others"),
    [
        ("/a/*", ["/a/b"], ["/a/", "/a", "/a/b/c"]),
        ("/a/**", ["/a/b", "/a/b/c"], ["/a/", "/a"]),
        ("/**/b", ["/x/b", "/x/y/b"], ["/b", "/xb"]),
        ("/a/*.conf", ["/a/.conf", "/a/x.conf"], ["/a/x/y.conf"]),
        ("/a/**.so", ["/a/.so", "/a/x/y.so"], ["/a"]),
        ("/a/b*", ["/a/b", "/a/bc"], ["/a/b/c"]),
        ("/a/?", ["/a/b", "/a/ä"], ["/a/", "/a/bc", "/a//"]),
        ("/a/[b-d]", ["/a/c"], ["/a/e"]),
        ("/a/[^b]", ["/a/c"], ["/a/b", "/a//"]),
        ("/a/[!b]", ["/a/!", "/a/b"], ["/a/c"]),
        ("/a/{b,c/*}", ["/a/b", "/a/c/x"], ["/a/c"]),
        ("{/a,/b}/c", ["/a/c", "/b/c"], ["/c"]),
        ("/a/\\*", ["/a/*"], ["/a/b"]),
        ("/**/crypto/**/", ["/x/crypto/y"], ["/x/crypto"]),
        ("/a/", ["/a"], ["/a/b"]),
        ("/", ["/"], ["/a"]),
    ],
)
def test_matches(pattern: str, matches: list[str], others: list[str]) -> None:
    found = glob.compiled(translated(pattern), "path")
    assert [path for path in (*matches, *others) if found.fullmatch(path.encode())] == matches


@pytest.mark.parametrize(("pattern", "at"), [("a", 0), ("@{PROC}/x", 0), ("/x/@{y}", 3), ("/[a", 1), ("/{a", 1), ("/a\\", 2)])
def test_mistakes(pattern: str, at: int) -> None:
    with pytest.raises(TextError) as caught:
        translated(pattern)
    assert (caught.value.offset, bool(caught.value.hint)) == (at, True)


@pytest.mark.parametrize("pattern", ["/a//b", "/a/../b", "/x/./*", "/proc/self/environ"])
def test_what_no_file_is_named(pattern: str) -> None:
    assert condition(pattern, "file.path") == FALSE
    assert all(never(translated(pattern)))
    assert never("/a/*") == ("", "")
