# SPDX-License-Identifier: Apache-2.0
"""Escaping is safe and can be undone; readable values can be read back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfence.events.values import BadValueError, escape, grouped, parse, phrase, printable, readable, unescape
from bpfence.fields import FIELD_BY_NAME, Kind
from bpfence.policy import Value


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"/tmp/x", "/tmp/x"),
        ("/tmp/ünï".encode(), "/tmp/ünï"),
        (b"a\xff\xfe", r"a\xff\xfe"),
        (b"a\nb\x1b[31m\x7f", r"a\x0ab\x1b[31m\x7f"),
        ("\u202egpj.exe".encode(), r"\xe2\x80\xaegpj.exe"),
        ("a\u200bb\u2028c\u0085".encode(), r"a\xe2\x80\x8bb\xe2\x80\xa8c\xc2\x85"),
        (rb"\xff", r"\\xff"),
        ("\udcffx", r"\xffx"),
    ],
)
def test_escape(raw: bytes | str, shown: str) -> None:
    assert escape(raw) == shown


@given(st.binary())
def test_escaped_bytes_are_printable_and_can_be_undone(raw: bytes) -> None:
    shown = escape(raw)
    assert shown.isprintable()
    assert unescape(shown).encode("utf-8", "surrogateescape") == raw


@given(st.text())
def test_any_text_can_be_escaped(text: str) -> None:
    assert escape(text).isprintable()
    assert printable(text).isprintable()
    escape(text).encode()


def test_printable_leaves_backslashes() -> None:
    assert printable("a\\b\x1b") == "a\\b\\x1b"


@pytest.mark.parametrize(
    ("field", "raw", "shown"),
    [
        ("file.flags", 0o1101, ["O_WRONLY", "O_CREAT", "O_TRUNC"]),
        ("file.access", 3, ["read", "write"]),
        ("file.mode", 0o104755, "4755"),
        ("process.caps", 1 << 21, "0000000000200000"),
        ("signal", 9, "SIGKILL"),
        ("signal", 200, 200),
        ("capability", 21, "CAP_SYS_ADMIN"),
        ("net.family", 2, "AF_INET"),
        ("net.peer.ip", b"\x7f\0\0\1", "127.0.0.1"),
        ("net.peer.ip", bytes(15) + b"\1", "::1"),
        ("net.peer.ip", bytes(10) + b"\xff\xff\x7f\0\0\1", "127.0.0.1"),
        ("net.peer.ip", b"odd", "odd"),
        ("file.deleted", 1, True),
        ("process.uid", 0, 0),
        ("process.ancestors.exe", ("/a", "/b\n"), ["/a", r"/b\x0a"]),
        ("file.path", b"/\x01", r"/\x01"),
    ],
)
def test_readable(field: str, raw: Value, shown: object) -> None:
    assert readable(FIELD_BY_NAME[field], raw) == shown


_NUMBERS = [field for field in FIELD_BY_NAME.values() if field.kind in (Kind.FLAGS, Kind.NAMED, Kind.NUMBER) and field.name != "file.mode"]


@given(st.sampled_from(_NUMBERS), st.integers(0, 2**32 - 1))
def test_numbers_can_be_read_back(field: object, number: int) -> None:
    assert parse(field, readable(field, number)) == number  # type: ignore[arg-type]


@given(st.binary())
def test_strings_can_be_read_back(raw: bytes) -> None:
    field = FIELD_BY_NAME["file.path"]
    assert str(parse(field, readable(field, raw))).encode("utf-8", "surrogateescape") == raw


@pytest.mark.parametrize(
    ("field", "value", "raw"),
    [
        ("file.mode", "0644", 0o644), ("process.caps", "0000000000200000", 1 << 21), ("process.caps", ["CAP_SYS_ADMIN"], 1 << 21),
        ("signal", "kill", 9), ("file.flags", "O_WRONLY|O_CREAT", 0o101), ("file.deleted", "true", 1), ("process.uid", "root", 0),
        ("process.args", ["a", "b c"], "a b c"), ("net.peer.port", "https", 443), ("process.ancestors.exe", "/x", ("/x",)),
    ],
)  # fmt: skip
def test_parse_what_people_write(field: str, value: object, raw: Value) -> None:
    assert parse(FIELD_BY_NAME[field], value) == raw


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("file.path", 5),
        ("signal", "SIGNOPE"),
        ("file.deleted", "maybe"),
        ("file.flags", ["O_NOPE"]),
        ("process.pid", [1]),
        ("file.access", None),
    ],
)
def test_parse_refuses(field: str, value: object) -> None:
    with pytest.raises(BadValueError, match=field):
        parse(FIELD_BY_NAME[field], value)


def test_phrase() -> None:
    assert phrase(FIELD_BY_NAME["file.access"], 6) == "write|exec"
    assert phrase(FIELD_BY_NAME["file.access"], 0) == "none"
    assert phrase(FIELD_BY_NAME["file.deleted"], 0) == "false"
    assert phrase(FIELD_BY_NAME["process.user"], 0) == "root"
    assert phrase(FIELD_BY_NAME["process.user"], 4_000_000_000) == "4000000000"


def test_grouped_nests_by_dots_in_table_order() -> None:
    nested = grouped({"net.peer.port": 4444, "net.peer.ip": b"\x7f\0\0\1", "net.family": 2})
    assert nested == {"net": {"family": "AF_INET", "peer": {"ip": "127.0.0.1", "port": 4444}}}
    assert list(nested["net"]) == ["family", "peer"]  # type: ignore[call-overload, arg-type]
    assert grouped({"signal": 9}) == {"signal": "SIGKILL"}


def test_signed_numbers() -> None:
    field = FIELD_BY_NAME["call.result"]
    assert [readable(field, value) for value in (3, (1 << 64) - 13)] == [3, -13]
    assert [parse(field, value) for value in (3, -13, (1 << 64) - 13)] == [3, (1 << 64) - 13, (1 << 64) - 13]
