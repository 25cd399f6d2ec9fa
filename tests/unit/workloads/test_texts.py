# SPDX-License-Identifier: Apache-2.0
"""Values of runtimes, made safe to keep."""

from __future__ import annotations

import json
from typing import Any

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


DEEP = 100_000


@given(
    st.recursive(
        st.none() | st.integers() | st.text('a"\\[]{}é'), lambda inner: st.lists(inner) | st.dictionaries(st.text('"\\[{}]'), inner)
    )
)
def test_what_is_not_nested_deeply_stays_as_it_is(value: object) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1)):
        assert texts.flattened(text.encode()) == text.encode()


def test_one_that_is_nested_deeply_costs_no_other_anything() -> None:
    for opening, closing in ((b"[", b"]"), (b'{"a": ', b"}")):
        deep = opening * DEEP + b'"]]}[\\""' + closing * DEEP
        found = texts.decode(b'[{"a": 1, "deep": %b}, {"a": 2}]' % deep, list[dict[str, Any]])
        assert [one["a"] for one in found] == [1, 2]
        for _ in range(texts.MAX_DEPTH - 2):
            (found[0]["deep"],) = found[0]["deep"].values() if isinstance(found[0]["deep"], dict) else found[0]["deep"]
        assert found[0]["deep"] is None


@pytest.mark.parametrize(
    "data",
    [b"[" * DEEP, b"]" * DEEP, b"[" * DEEP + b'"' + b'\\"' * DEEP, b"[" * DEEP + b"]" * (DEEP - 1), b"[" * DEEP + b"}" * DEEP + b"x"],
)
def test_what_is_nested_deeply_and_no_json(data: bytes) -> None:
    with pytest.raises(texts.BadAnswerError):
        texts.decode(data, list[Any])
