# SPDX-License-Identifier: Apache-2.0
"""Words of messages."""

from __future__ import annotations

from bpfence.words import quoted, suggest


def test_suggest() -> None:
    assert suggest("opne", ["open", "close"]) == "did you mean 'open'?"
    assert suggest("zzz", ["open"], "else") == "else"


def test_quoted_is_short_and_safe() -> None:
    assert quoted("a\x1b[31m") == r"'a\x1b[31m'"
    assert len(quoted("x" * 1000)) < 70
