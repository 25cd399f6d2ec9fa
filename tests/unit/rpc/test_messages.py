# SPDX-License-Identifier: Apache-2.0
"""Classes of protobuf from tables, against bytes written by the numbers."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bpfence.rpc.messages import classes, unknown

pytest.importorskip("google.protobuf", reason="needs protobuf: pip install 'bpfence[grpc]'")

TABLE = {
    "Inner": (("text", 1, "string"), ("number", 2, "?uint32")),
    "Outer": (
        ("plain", 1, "int32"), ("maybe", 2, "?int32"), ("inner", 3, "Inner"), ("many", 4, "*Inner"), ("labels", 5, "map"),
        ("color", 6, "Color"), ("colors", 7, "*Color"), ("since", 8, "Timestamp"), ("count", 9, "UInt32Value"),
    ),
}  # fmt: skip
MADE = classes("a.test", TABLE, {"Color": {"RED": 0, "BLUE": 7}})


def test_fields_have_their_numbers_and_types() -> None:
    outer = MADE["Outer"](
        plain=3,
        maybe=0,
        inner={"text": "x"},
        many=[{"number": 0}],
        labels={"a": "b"},
        color="BLUE",
        colors=["RED", "BLUE"],
        since={"seconds": 1},
        count={"value": 4},
    )
    data = (
        b"\x08\x03\x10\x00\x1a\x03\x0a\x01x\x22\x02\x10\x00\x2a\x06\x0a\x01a\x12\x01b\x30\x07\x3a\x02\x00\x07"
        b"\x42\x02\x08\x01\x4a\x02\x08\x04"
    )
    assert outer.SerializeToString() == data
    assert MADE["Outer"].FromString(data) == outer


def test_a_plain_number_that_is_zero_is_not_sent_and_one_that_is_there_or_not_is() -> None:
    assert MADE["Outer"](plain=0).SerializeToString() == b""
    assert not MADE["Outer"].FromString(b"").HasField("maybe")
    assert MADE["Outer"].FromString(b"\x10\x00").HasField("maybe")


@pytest.mark.parametrize(
    ("data", "number"),
    [(b"\x08\x03", None), (b"\x50\x03", 10), (b"\x1a\x02\x18\x01", 3), (b"\x22\x02\x10\x00\x22\x02\x28\x01", 5)],
)
def test_fields_that_the_table_does_not_have_are_found_at_any_depth(data: bytes, number: int | None) -> None:
    assert unknown(MADE["Outer"].FromString(data)) == number


def test_tables_of_one_name_do_not_meet() -> None:
    assert classes("a.test", {"Inner": (("other", 9, "bool"),)})["Inner"](other=True).SerializeToString() == b"\x48\x01"


def test_without_the_library_it_is_told_what_to_install() -> None:
    code = """
import sys
sys.modules["google.protobuf"] = None
from bpfence.errors import KernelError
from bpfence.rpc.messages import classes
try:
    classes("x", {"M": ()})
except KernelError as error:
    print(error.missing, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "protobuf needs grpcio and protobuf: pip install 'bpfence[grpc]'\n"
