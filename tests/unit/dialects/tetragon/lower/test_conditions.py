# SPDX-License-Identifier: Apache-2.0
"""Filters against what the reference says of values, one by one."""

from __future__ import annotations

import stat
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfence import abi
from bpfence.dialects.tetragon.lower import conditions
from bpfence.dialects.tetragon.lower.conditions import UnsupportedError, argument
from bpfence.dialects.tetragon.lower.hooks import Parameter, Reads
from bpfence.dialects.tetragon.read.model import ArgumentTest, Binaries, Capabilities, Pids
from bpfence.evaluate import holds
from bpfence.policy import Condition


def made(reads: Reads, operator: str, *values: str) -> Condition:
    return argument(Parameter(reads, (), field="signal"), ArgumentTest(operator=operator, values=values), values)


NUMERIC = {
    "Equal": lambda number, values: number in values, "NotEqual": lambda number, values: number not in values,
    "Mask": lambda number, values: any(number & value for value in values),
    "GT": lambda number, values: any(number > value for value in values),
    "LT": lambda number, values: any(number < value for value in values),
}  # fmt: skip


@given(st.sampled_from(sorted(NUMERIC)), st.lists(st.integers(0, 9), min_size=1, max_size=4))
def test_the_mask_of_an_access(operator: str, values: list[int]) -> None:
    condition = made(Reads.ACCESS, operator, *map(str, values))
    for mask in range(8):
        access = (mask & 4 and abi.ACCESS_READ) | (mask & 2 and abi.ACCESS_WRITE) | (mask & 1 and abi.ACCESS_EXEC)
        assert holds(condition, {"file.access": access}) == NUMERIC[operator](mask, values)


@given(st.sampled_from(["Equal", "NotEqual", "Mask"]), st.lists(st.integers(0, 15), min_size=1, max_size=4), st.integers(0, 2**25))
def test_the_protection_of_a_mapping(operator: str, values: list[int], prot: int) -> None:
    assert holds(made(Reads.PROTECTION, operator, *map(str, values)), {"file.prot": prot}) == NUMERIC[operator](prot, values)


@given(st.sampled_from(sorted(NUMERIC)), st.lists(st.integers(-3, 70), min_size=1, max_size=4), st.integers(0, 64))
def test_numbers(operator: str, values: list[int], number: int) -> None:
    assert holds(made(Reads.NUMBER, operator, *map(str, values)), {"signal": number}) == NUMERIC[operator](number, values)
    assert not holds(made(Reads.NUMBER, operator, *map(str, values)), {})


def test_ranges() -> None:
    inside, outside = made(Reads.PROTECTION, "InRange", "1:3"), made(Reads.PROTECTION, "NotInMap", "1:3", "0x7")
    assert [number for number in range(9) if holds(inside, {"file.prot": number})] == [1, 2, 3]
    assert [number for number in range(9) if holds(outside, {"file.prot": number})] == [0, 4, 5, 6, 8]


TEXTS = {
    "Equal": lambda path, value: path == value, "Prefix": lambda path, value: path.startswith(value),
    "Postfix": lambda path, value: path.endswith(value), "SubString": lambda path, value: value in path,
    "SubStringIgnCase": lambda path, value: value.lower() in path.lower(),
}  # fmt: skip
paths = st.text(st.sampled_from("/aAb*?"), min_size=1, max_size=5)


@given(st.sampled_from(sorted(TEXTS)), st.lists(paths, min_size=1, max_size=3), paths.map("/".__add__))
def test_paths(operator: str, values: list[str], path: str) -> None:
    event = {"file.path": path, "file.memfd": 0}
    assert holds(made(Reads.FILE, operator, *values), event) == any(TEXTS[operator](path, value) for value in values)


@given(st.sampled_from(["NotEqual", "NotPrefix", "NotPostfix"]), st.lists(paths, min_size=1, max_size=3), paths.map("/".__add__))
def test_paths_that_are_none_of_some(operator: str, values: list[str], path: str) -> None:
    matches = any(TEXTS[operator.removeprefix("Not")](path, value) for value in values)
    assert holds(made(Reads.FILE, operator, *values), {"file.path": path, "file.memfd": 0}) == (not matches)


@pytest.mark.parametrize(("path", "memfd", "passes"), [("pipe:[7]", 0, False), (None, 0, False), ("memfd:x", 1, True), ("/bin/x", 0, True)])
def test_only_what_has_a_path_is_another_path(path: str | None, memfd: int, passes: bool) -> None:
    """A program in memory is none of those below /usr; a pipe has no path at all."""
    event = {"file.memfd": memfd, **({} if path is None else {"file.path": path})}
    assert holds(made(Reads.FILE, "NotPrefix", "/usr/"), event) == passes


def test_sockets() -> None:
    tcp = {"net.family": 2, "net.protocol": 6}
    assert holds(made(Reads.SOCKET, "Protocol", "IPPROTO_TCP", "IPPROTO_UDP"), tcp)
    assert not holds(made(Reads.SOCKET, "Protocol", "17"), tcp)
    assert holds(made(Reads.SOCKET, "Family", "AF_INET"), tcp)


def test_modules() -> None:
    assert holds(made(Reads.MODULE, "Prefix", "net-"), {"module.name": "net-pf-10"})
    assert not holds(made(Reads.MODULE, "NotPrefix", "net-"), {})


def test_types_of_files() -> None:
    for operator, expected in (("FileType", [True, False]), ("NotFileType", [False, True])):
        condition = made(Reads.FILE, operator, "reg", "pipe")
        assert [holds(condition, {"file.mode": kind | 0o644}) for kind in (stat.S_IFREG, stat.S_IFDIR)] == expected
        assert not holds(condition, {})


@pytest.mark.parametrize(
    ("operator", "values", "passes"),
    [
        ("SAddr", ["10.0.0.0/8"], ["a"]), ("NotSAddr", ["10.0.0.1/8"], ["b", "c"]), ("SAddr", ["fd00::/8", "192.0.2.1"], ["b", "c"]),
        ("SPort", ["80", "1000:2000"], ["a", "c"]), ("NotSPort", ["80"], ["b", "c"]), ("SPortPriv", [], ["a"]),
        ("NotSportPriv", [], ["b", "c"]),
        ("Family", ["AF_INET"], ["a", "b"]), ("Family", ["10", "AF_UNIX"], ["c", "d"]),
    ],
)  # fmt: skip
def test_addresses(operator: str, values: list[str], passes: list[str]) -> None:
    events: dict[str, dict[str, Any]] = {
        "a": {"net.family": 2, "net.peer.ip": "10.1.1.1", "net.peer.port": 80},
        "b": {"net.family": 2, "net.peer.ip": "192.0.2.1", "net.peer.port": 8080},
        "c": {"net.family": 10, "net.peer.ip": "fd00::1", "net.peer.port": 1024},
        "d": {"net.family": 1},
    }
    condition = made(Reads.ADDRESS, operator, *values)
    assert [name for name, event in events.items() if holds(condition, event)] == passes


@pytest.mark.parametrize(
    ("reads", "operator", "values"),
    [
        (Reads.MAP_FLAGS, "Equal", ["1"]), (Reads.LENGTH, "GT", ["1"]), (Reads.PROTECTION, "GT", ["1"]), (Reads.ACCESS, "CelExpr", ["1"]),
        (Reads.PROTECTION, "InRange", ["0:1000"]), (Reads.ADDRESS, "DAddr", ["10.0.0.0/8"]),
        (Reads.SOCKET, "SAddr", ["10.0.0.0/8"]), (Reads.NAME, "FileType", ["reg"]), (Reads.NUMBER, "CelExpr", ["1"]),
    ],
)  # fmt: skip
def test_what_cannot_be_decided_is_said(reads: Reads, operator: str, values: list[str]) -> None:
    with pytest.raises(UnsupportedError):
        made(reads, operator, *values)


def test_binaries() -> None:
    child = {"process.exe": "/bin/ls", "process.ancestors.exe": ("/usr/bin/bash", "/sbin/init")}
    for operator, values, follow, passes in (
        ("In", ("/usr/bin/bash",), False, False), ("In", ("/usr/bin/bash",), True, True), ("NotIn", ("/usr/bin/bash",), True, False),
        ("NotIn", ("/usr/bin/bash",), False, True), ("Prefix", ("/bin/",), False, True), ("NotPostfix", ("/ls",), False, False),
    ):  # fmt: skip
        test = Binaries(operator=operator, values=values, follow_children=follow)
        assert holds(conditions.binaries(test), child) == passes


def test_processes_and_capabilities() -> None:
    event = {"process.pid": 7, "process.caps": 1 << 21 | 1}
    assert holds(conditions.pids(Pids(operator="In", values=(1, 7))), event)
    assert not holds(conditions.pids(Pids(operator="NotIn", values=(1, 7))), event)
    assert holds(conditions.capabilities(Capabilities(operator="In", values=("CAP_SYS_ADMIN", "CAP_KILL"))), event)
    assert holds(conditions.capabilities(Capabilities(operator="NotIn", values=("CAP_KILL",))), event)
    for bad in (
        Capabilities(operator="In", values=("CAP_KILL",), type="Permitted"),
        Capabilities(operator="In", values=(), is_namespace_capability=True),
    ):
        with pytest.raises(UnsupportedError):
            conditions.capabilities(bad)
    with pytest.raises(UnsupportedError):
        conditions.pids(Pids(operator="In", values=(1,), follow_forks=True))
