# SPDX-License-Identifier: Apache-2.0
"""The table of arguments: well formed, and known kinds only."""

from __future__ import annotations

from bpfence import names
from bpfence.syscalls.architectures import Arch
from bpfence.syscalls.arguments import ARGUMENTS, NARROW, POINTERS
from bpfence.syscalls.table import numbers, signature

KINDS = NARROW | POINTERS | {"long", "size", "offset", "clone", "mount", "prot"}


def test_every_argument_has_a_name_and_a_known_kind() -> None:
    for call, text in ARGUMENTS.items():
        words = [word.partition(":") for word in text.split()]
        assert len(words) <= 6, call
        assert [(name, kind) for name, _, kind in words if not name or kind not in KINDS] == [], call
        assert len({name for name, _, _ in words}) == len(words), call


def test_every_call_of_x86_64_is_in_the_table() -> None:
    assert [call for call in numbers(Arch.X86_64) if signature(call) is None] == []
    assert ARGUMENTS["geteuid"] == ""
    assert list(ARGUMENTS) == sorted(ARGUMENTS)


def test_kinds_with_names_have_a_table() -> None:
    assert {"open", "clone", "mount", "prot", "family", "socktype", "protocol", "signal"} <= names.TABLES.keys()
