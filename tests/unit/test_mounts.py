# SPDX-License-Identifier: Apache-2.0
"""The mount table, hostile names included."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfence.mounts import Mount, mounts

OTHER = "34 24 0:29 / /sys/fs/bpf rw - bpf none rw"


def written(name: str) -> str:
    return "".join(f"\\{ord(char):03o}" if char in " \t\n\\#" else char for char in name)


def test_a_line() -> None:
    assert mounts(f"35 24 0:30 /../pod /cg rw shared:9 master:1 - cgroup2 none rw\n{OTHER}\n") == [
        Mount("0:30", "/../pod", "/cg", "cgroup2"),
        Mount("0:29", "/", "/sys/fs/bpf", "bpf"),
    ]


def test_names_are_unescaped() -> None:
    assert mounts(r"1 2 0:3 /r\040t /a\040b\134c rw - ext4 /dev/x rw") == [Mount("0:3", "/r t", "/a b\\c", "ext4")]


@pytest.mark.parametrize("line", ["", "x", "1 2 0:3 / /a rw", "1 2 0:3 - bpf", " - bpf none rw"])
def test_what_is_no_line_is_left_out(line: str) -> None:
    assert mounts(f"{line}\n{OTHER}\n") == [Mount("0:29", "/", "/sys/fs/bpf", "bpf")]


@pytest.mark.parametrize("char", ["\r", "\v", "\f", "\x1c", "\x85", "\u2028", "\u3000", "\udcff"])
def test_nothing_else_ends_a_line_or_a_word(char: str) -> None:
    name = f"/home/u/a{char}0:9{char}b - bpf"
    assert mounts(f"1 2 0:3 / {written(name)} rw - fuse x rw\n{OTHER}") == [
        Mount("0:3", "/", name, "fuse"),
        Mount("0:29", "/", "/sys/fs/bpf", "bpf"),
    ]


@given(st.text(min_size=1).map(lambda text: "/" + text))
def test_any_name_is_read_as_it_is(name: str) -> None:
    assert mounts(f"1 2 0:3 {written(name)} {written(name)} rw - fuse x rw\n") == [Mount("0:3", name, name, "fuse")]


def test_our_own() -> None:
    assert any(mount.point == "/proc" and mount.kind == "proc" for mount in mounts()) or not os.path.ismount("/proc")
