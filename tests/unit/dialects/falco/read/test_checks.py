"""Checks: fields looked up, operands converted, operators against types."""

from __future__ import annotations

import pytest

from bpfence.dialects.falco.read import language
from bpfence.dialects.falco.read.checks import (
    OPERATORS_OF,
    Applied,
    CheckError,
    Comparison,
    FieldGetter,
    Network,
    parse_address,
    parse_network,
    resolve_check,
)
from bpfence.dialects.falco.read.fields import FALCO_FIELDS, FieldArgument, Type
from bpfence.dialects.falco.read.language import NUMBER_OPERATORS, OPERATORS, TEXT_OPERATORS, Check
from bpfence.documents.report import TextError


def typed(text: str) -> Comparison:
    node = language.parse(text)
    assert isinstance(node, Check)
    return resolve_check(node)


VALUES = {
    Type.STRING: "x", Type.PATH: "/x", Type.INT: "-3", Type.UINT: "3", Type.DOUBLE: "1.5", Type.BOOL: "true", Type.IP: "10.0.0.1",
    Type.NET: "10.0.0.0/8", Type.PORT: "443", Type.DURATION: "5000000000", Type.TIME: "1", Type.BYTES: "CAFE", Type.DYNAMIC: "3",
}  # fmt: skip


@pytest.mark.parametrize("field", FALCO_FIELDS, ids=lambda field: field.name)
def test_the_matrix_of_operators_and_types(field) -> None:  # type: ignore[no-untyped-def]
    argument = {FieldArgument.INDEX: "[1]", FieldArgument.KEY: "[x]"}.get(field.argument, "")
    for operator in OPERATORS:
        value = VALUES[field.type]
        if operator in NUMBER_OPERATORS and field.type in (Type.STRING, Type.PATH, Type.BYTES, Type.DYNAMIC):
            value = "3"
        right = "" if operator == "exists" else value if operator in (*NUMBER_OPERATORS, *TEXT_OPERATORS) else f"({value})"
        allowed = operator in OPERATORS_OF[field.type] and (field.many != "list" or operator in ("in", "intersects", "exists"))
        if operator in NUMBER_OPERATORS and value in ("true", "10.0.0.1", "10.0.0.0/8"):
            continue  # the grammar itself has no room for it
        if field.name in ("evt.type", "syscall.type"):
            right = right.replace("x", "open") if operator in ("=", "!=", "in", "intersects") else right
        text = f"{field.name}{argument} {operator} {right}"
        if allowed:
            assert typed(text).operator == operator
        else:
            with pytest.raises(CheckError) as caught:
                typed(text)
            assert caught.value.code == "operator-type"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("proc.name in (a, 'b c')", ("a", "b c")),
        ("fd.num = -1", (-1,)),
        ("fd.num >= 0x10", (16,)),
        ("proc.duration <= 5e+9", (5_000_000_000,)),
        ("evt.failed = false", (False,)),
        ("fd.sport in (https, 80)", (443, 80)),
        ("fd.sip = 2001:0DB8:0:0::1", ("2001:db8::1",)),
        ("fd.snet in ('10.1.2.3/8')", (Network(4, 10 << 24, 0xFF << 24),)),
        ("fd.net = 127.0.0.1", (Network(4, (127 << 24) + 1, 0xFFFFFFFF),)),
        ("evt.buffer bcontains CAFE01", (b"\xca\xfe\x01",)),
        ("evt.buffer contains CAFE01", (b"CAFE01",)),
        (r'evt.buffer contains "\x00\xff"', (b"\x00\xff",)),
        ("evt.rawarg.fd = 3", (3,)),
        ("evt.rawarg.type = 3", ("3",)),
    ],
)
def test_operands_are_converted(text: str, values: tuple[object, ...]) -> None:
    assert typed(text).values == values


@pytest.mark.parametrize(
    ("text", "code", "offset"),
    [
        ("proc.nam = x", "unknown-field", 0),
        ("proc.name[1] = x", "field-argument", 0),
        ("proc.aname[x] = y", "field-argument", 0),
        ("evt.type in (open, opne)", "unknown-event", 19),
        ("evt.failed = 1", "bad-value", 13),
        ("fd.num = x", "bad-number", 9),
        ("user.uid = -1", "bad-number", 11),
        ("fd.sport = 70000", "bad-number", 11),
        ("fd.sport = no-such-service", "bad-number", 11),
        ("fd.num = 99999999999999999999999", "bad-number", 9),
        ("fd.sip = localhost", "bad-address", 9),
        ("fd.snet = 10.0.0.0/99", "bad-address", 10),
        ("evt.buffer bstartswith ABC", "bad-value", 23),
        (r'proc.name = "a\x00"', "bad-value", 12),
        ("fd.name regex '('", "bad-regex", 14),
        ("fd.types = file", "operator-type", 0),
        ("proc.name = val(proc.pid)", "wrong-type", 12),
        ("proc.name glob val(proc.pname)", "wrong-type", 15),
        ("tolower(proc.pid) = x", "transformer", 0),
        ("join(proc.name, fd.types) = x", "transformer", 0),
        ("join(',', proc.name) = x", "transformer", 0),
        ("concat(proc.name) = x", "transformer", 0),
        ("concat(proc.name, fd.num) = x", "transformer", 0),
        ("getopt(proc.args, proc.name) in (x)", "transformer", 0),
        ("getopt(proc.args, 'e:')[ee] = x", "transformer", 0),
        ("tolower(proc.name)[1] = x", "transformer", 0),
        ("tolower('x') = x", "transformer", 0),
        ("tolower(proc.name, proc.pname) = x", "transformer", 0),
        ("len(fd.num) = 1", "transformer", 0),
        ("getopt(proc.args, 'e:') = x", "operator-type", 0),
    ],
)
def test_mistakes(text: str, code: str, offset: int) -> None:
    with pytest.raises(CheckError) as caught:
        typed(text)
    assert (caught.value.code, caught.value.spot.offset) == (code, offset)
    assert caught.value.hint


def test_transformers_have_types() -> None:
    for text, kind, many in (
        ("tolower(proc.name) = x", Type.STRING, ""),
        ("basename(proc.aexepath) = x", Type.PATH, "ancestors"),
        ("b64(evt.buffer) contains x", Type.BYTES, ""),
        ("len(fd.types) = 3", Type.UINT, ""),
        ("len(proc.name) > 3", Type.UINT, ""),
        ("join(',', proc.args) contains x", Type.STRING, ""),
        ("concat(proc.name, '-', proc.pname) = x", Type.STRING, ""),
        ("getopt(proc.args, 'e:') intersects (e)", Type.STRING, "list"),
        ("getopt(proc.args, 'e:')[e] = x", Type.STRING, ""),
    ):
        left = typed(text).left
        assert isinstance(left, Applied)
        assert (left.type, left.many) == (kind, many)


def test_a_computed_right_side() -> None:
    found = typed("tolower(proc.name) = tolower(proc.pname)")
    assert isinstance(found.right, Applied)
    assert isinstance(typed("fd.num > val(proc.pid)").right, FieldGetter)


def test_addresses_and_networks() -> None:
    assert parse_address("::ffff:0:1") == "::ffff:0:1"
    assert parse_network("2001:db8::1/32").version == 6
    for wrong in ("", "x", "10.0.0", "1.2.3.4.5"):
        with pytest.raises(TextError):
            parse_address(wrong)
        with pytest.raises(TextError):
            parse_network(wrong)
