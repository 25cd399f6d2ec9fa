# SPDX-License-Identifier: Apache-2.0
"""Cgroup ids become paths, on this machine's own hierarchy."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpfence.errors import KernelError
from bpfence.host import cgroups
from bpfence.host.cgroups import INITIAL_CGROUP_NAMESPACE, CgroupPaths, Hierarchy, find_hierarchy


@pytest.fixture
def root() -> Path:
    try:
        found = find_hierarchy().root
    except KernelError:
        pytest.skip("no cgroup v2 hierarchy")
    paths = CgroupPaths(found)
    allowed = paths.path(found.stat().st_ino)
    paths.close()
    if allowed is None:
        pytest.skip("CAP_DAC_READ_SEARCH is missing")
    return found


def test_a_cgroups_id_is_its_inode_number(root: Path) -> None:
    paths = CgroupPaths(root)
    assert paths.path(root.stat().st_ino) == "/"
    for folder in [entry for entry in root.iterdir() if entry.is_dir()][:3]:
        assert paths.path(folder.stat().st_ino) == f"/{folder.name}"
        assert paths.path(folder.stat().st_ino) == f"/{folder.name}"
    paths.close()


def test_what_is_no_cgroup_has_no_path(root: Path) -> None:
    paths = CgroupPaths(root)
    assert paths.path(2**63 + 5) is None
    assert paths.path(0) is None
    paths.close()


def test_the_cache_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "CACHE_SIZE", 2)
    paths = CgroupPaths(tmp_path)
    asked: list[int] = []
    monkeypatch.setattr(paths, "_look_up", lambda number: asked.append(number) or f"/{number}")
    assert [paths.path(number) for number in (1, 2, 1, 3, 1, 2)] == ["/1", "/2", "/1", "/3", "/1", "/2"]
    assert asked == [1, 2, 3, 2]
    paths.close()


def test_no_hierarchy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        CgroupPaths(tmp_path / "none")


@pytest.mark.parametrize(
    ("line", "namespace", "found"),
    [
        ("35 24 0:30 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw", INITIAL_CGROUP_NAMESPACE, Hierarchy(Path("/sys/fs/cgroup"), True)),
        ("35 24 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw", 4026532000, Hierarchy(Path("/sys/fs/cgroup"), False)),
        ("35 24 0:30 /../pod /cg\\040roup rw - cgroup2 none rw", INITIAL_CGROUP_NAMESPACE, Hierarchy(Path("/cg roup"), False)),
    ],
)
def test_find_hierarchy(line: str, namespace: int, found: Hierarchy) -> None:
    other = "34 24 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
    assert find_hierarchy(other + line + "\n", namespace) == found


def test_where_none_is_mounted() -> None:
    with pytest.raises(KernelError, match="not mounted"):
        find_hierarchy("34 24 0:29 / /cg2 rw - tmpfs cgroup2 rw\n", 1)
