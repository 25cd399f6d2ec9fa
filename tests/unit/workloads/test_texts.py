# SPDX-License-Identifier: Apache-2.0
"""Values of runtimes, made safe to keep."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfence.workloads import texts
from bpfence.workloads.model import Mount


def test_moments() -> None:
    assert texts.moment("1970-01-01T00:00:01.5Z") == 1_500_000_000
    assert texts.moment("2026-12-01T10:00:00.123456789+02:00") == texts.moment("2026-12-01T08:00:00.123456789123Z")
    assert texts.moment("2026-12-01 10:00:00") % texts.SECOND == 0
    assert texts.moment("2026-13-01T10:00:00Z") == texts.moment("0001-01-01T00:00:00Z") == texts.moment(None) == texts.moment("soon") == 0


@given(st.text(max_size=80) | st.from_regex(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,12}([+-]\d\d:\d\d|Z)", fullmatch=True))
def test_any_text_is_a_moment_or_none(text: str) -> None:
    assert texts.moment(text) >= 0


def test_sizes() -> None:
    many = {f"{number:05}": "x" * 10_000 for number in range(1000)}
    kept = texts.labels(many)
    assert len(kept) == texts.MAX_LABELS
    assert {len(value) for value in kept.values()} == {texts.MAX_TEXT}
    assert texts.labels(None) == {}
    assert texts.labels({"a": None}) == {"a": ""}
    assert len(texts.first(range(1000))) == texts.MAX_MOUNTS


def test_digests() -> None:
    digest = "sha256:" + "ab" * 32
    assert texts.digest(f"nginx@{digest}") == digest
    assert texts.digest("nginx:latest") == texts.digest(None) == texts.digest("sha256:short") == ""


@pytest.mark.parametrize("data", [b"", b"{", b"[" * 100_000, b'"x"', b'{"source": 1, "destination": ""}', b"\xff", b'{"source":"\\ud800"}'])
def test_bad_answers(data: bytes) -> None:
    with pytest.raises(texts.BadAnswerError):
        texts.decode(data, Mount)


def test_what_is_not_asked_for_does_not_matter() -> None:
    assert texts.decode(b'{"source": "/a", "destination": "/b", "more": 1}', Mount) == Mount("/a", "/b")
