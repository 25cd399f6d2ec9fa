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
from bpfence.dialects.tetragon.read import words
from bpfence.dialects.tetragon.read.model import ArgumentTest, Binaries, Capabilities, NamespaceChanges, Namespaces, Pids
from bpfence.evaluate import holds
from bpfence.fields import NAMESPACES
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


@pytest.mark.parametrize(
    ("operator", "value", "passes"),
    [
        ("In", "/bin/bash", True),
        ("NotIn", "/bin/bash", False),
        ("Prefix", "/bin/", True),
        ("Postfix", "/ls", False),
        ("NotPostfix", "/ls", True),
    ],
)
def test_binaries_of_parents(operator: str, value: str, passes: bool) -> None:
    event = {"process.exe": "/bin/ls", "process.parent.exe": "/bin/bash"}
    assert holds(conditions.parent_binaries(Binaries(operator=operator, values=(value,))), event) is passes
    followed = Binaries(operator=operator, values=(value,), follow_children=True)
    with pytest.raises(UnsupportedError):
        conditions.parent_binaries(followed)


def test_processes_and_capabilities() -> None:
    event = {"process.pid": 7, "process.caps": 1 << 21 | 1}
    assert holds(conditions.pids(Pids(operator="In", values=(1, 7))), event)
    assert not holds(conditions.pids(Pids(operator="NotIn", values=(1, 7))), event)
    assert holds(conditions.capabilities(Capabilities(operator="In", values=("CAP_SYS_ADMIN", "CAP_KILL"))), event)
    assert holds(conditions.capabilities(Capabilities(operator="NotIn", values=("CAP_KILL",))), event)
    with pytest.raises(UnsupportedError):
        conditions.pids(Pids(operator="In", values=(1,), follow_forks=True))


CAPS = {"Effective": "process.caps", "Permitted": "process.permitted_caps", "Inheritable": "process.inheritable_caps"}
USER = 1 << NAMESPACES.index("user")


@pytest.mark.parametrize("kind", CAPS)
@pytest.mark.parametrize("changes", [False, True])
def test_sets_of_capabilities_and_their_changes(kind: str, changes: bool) -> None:
    kill, admin = 1 << 5, 1 << 21
    make = conditions.capability_changes if changes else conditions.capabilities
    field = CAPS[kind].replace("process.", "process.changed_") if changes else CAPS[kind]
    for bits, in_, not_in in ((0, False, not changes), (kill, True, False), (kill | admin, True, False), (admin, False, True)):
        for elsewhere, host in ((False, 0), (False, USER), (True, 0), (True, USER)):
            event = {field: bits, "process.ns.host": host}
            for operator, passes in (("In", in_), ("NotIn", not_in)):
                test = Capabilities(operator=operator, values=("CAP_KILL",), type=kind, is_namespace_capability=elsewhere)
                assert holds(make(test), event) is (passes and not (elsewhere and host)), (test, event)


@pytest.mark.parametrize(
    ("name", "values", "passes"),
    [
        ("User", ("host_ns",), True),
        ("User", ("4026531837",), True),
        ("Mnt", ("host_ns",), False),
        ("Mnt", ("host_ns", "4026532001"), True),
        ("PidForChildren", ("1", "4026532000"), True),
        ("PidForChildren", ("1",), False),
    ],
)
def test_namespaces(name: str, values: tuple[str, ...], passes: bool) -> None:
    numbers = {"process.ns.user": 4026531837, "process.ns.pid_for_children": 4026532000, "process.ns.mnt": 4026532001}
    for operator in ("In", "NotIn"):
        test = Namespaces(namespace=name, operator=operator, values=values)
        assert holds(conditions.namespaces(test), {"process.ns.host": USER, **numbers}) is (passes == (operator == "In"))


def test_changes_of_namespaces() -> None:
    """NotIn is about a change of any other."""
    for changed, in_, not_in in ((0, False, False), (USER, True, False), (USER | 1, True, True), (1, False, True)):
        event = {"process.ns.changed": changed}
        assert holds(conditions.namespace_changes(NamespaceChanges(operator="In", values=("User",))), event) is in_
        assert holds(conditions.namespace_changes(NamespaceChanges(operator="NotIn", values=("User",))), event) is not_in
    nothing = NamespaceChanges(operator="NotIn", values=words.NAMESPACES)
    assert not holds(conditions.namespace_changes(nothing), {"process.ns.changed": 2 ** len(NAMESPACES) - 1})
