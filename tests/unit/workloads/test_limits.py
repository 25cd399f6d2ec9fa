# SPDX-License-Identifier: Apache-2.0
"""Limits of containers: own ones, those of pods and of containers around them, shared ones, and what cannot be told."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfence.errors import KernelError
from bpfence.workloads.cgroups import Tree
from bpfence.workloads.limits import Limits, Machine, limits
from bpfence.workloads.model import Container
from tests.unit.workloads.hosts import ID, OTHER, UID, FakeHost

MACHINE = Machine(memory=8 << 30, pids=32768)
POD = f"/kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice"
FORK_BOMB = "no limit of processes: a fork bomb in it takes the machine's"
ALL_MEMORY = "no limit of memory: it can take the machine's from others"


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    made = FakeHost(tmp_path)
    made.cgroup("/", cgroup_controllers="cpuset cpu io memory pids")
    return made


def of(host: FakeHost, path: str, *, sandbox: bool = False) -> Limits:
    return limits(host.tree, Container(ID, path, sandbox=sandbox), MACHINE)


def test_its_own(host: FakeHost) -> None:
    files = {"pids_max": "100", "pids_current": "3", "memory_max": "1048576", "memory_current": "4096", "cpu_max": "150000 100000"}
    assert of(host, host.cgroup(f"/docker/{ID}", **files)) == Limits(100, 3, "container", 1048576, 4096, "container", 1.5, "container")


def test_none(host: FakeHost) -> None:
    files = {"pids_max": "max", "pids_current": "3", "memory_max": "max", "memory_current": "4096", "cpu_max": "max 100000"}
    found = of(host, host.cgroup(f"/docker/{ID}", **files))
    assert (found.pids_max, found.memory_max, found.cpu_max) == (None, None, None)
    assert (found.pids, found.memory) == (3, 4096)
    assert found.none == ("pids", "memory", "cpu")
    assert found.notes == (FORK_BOMB, ALL_MEMORY)


def test_of_the_pod(host: FakeHost) -> None:
    """kubelet limits processes of pods, runtimes memory of containers; the lower of the two counts."""
    host.cgroup("/kubepods.slice", pids_max="max", memory_max="4000000")
    host.cgroup(POD, pids_max="64", memory_max="2097152", cpu_max="max 100000")
    path = host.cgroup(f"{POD}/cri-containerd-{ID}.scope", pids_max="max", memory_max="1048576", cpu_max="50000 100000")
    found = of(host, path)
    assert (found.pids_max, found.pids_of, found.memory_max, found.memory_of) == (64, "pod", 1048576, "container")
    assert (found.cpu_max, found.cpu_of, found.notes) == (0.5, "container", ())
    host.cgroup(POD, memory_max="1000")
    assert (of(host, path).memory_max, of(host, path).memory_of) == (1000, "pod")


def test_of_a_pod_of_podman(host: FakeHost) -> None:
    pod = host.cgroup(f"/machine.slice/machine-libpod_pod_{OTHER}.slice", pids_max="64")
    assert of(host, host.cgroup(f"{pod}/libpod-{ID}.scope")).pids_of == "pod"


def test_of_a_container_around_it(host: FakeHost) -> None:
    host.cgroup(f"/docker/{OTHER}", memory_max="5")
    found = of(host, host.cgroup(f"/docker/{OTHER}/docker/{ID}", memory_max="max"))
    assert (found.memory_max, found.memory_of) == (5, "outer")
    assert "memory" not in found.none


def test_what_others_share_is_no_limit_of_its_own(host: FakeHost) -> None:
    host.cgroup("/machine.slice", pids_max="500", memory_max="max")
    path = host.cgroup(f"/machine.slice/libpod-{ID}.scope", pids_max="max", memory_max="7")
    found = of(host, path)
    assert (found.pids_max, found.pids_of, found.none) == (500, "shared", ("pids", "cpu"))
    assert found.notes == (FORK_BOMB + ", up to a limit that others share",)
    host.cgroup(path, pids_max="900")  # its own counts, whatever the lower one around it
    assert (of(host, path).pids_max, of(host, path).pids_of) == (900, "container")


def test_more_than_there_is(host: FakeHost) -> None:
    found = of(host, host.cgroup(f"/docker/{ID}", pids_max="32768", memory_max=str(8 << 30)))
    assert found.notes == (
        "its limit of processes is no less than the machine's",
        "its limit of memory is no less than what the machine has",
    )
    assert limits(host.tree, Container(ID, f"/docker/{ID}"), Machine()).notes == ()


def test_pause_containers_are_not_judged(host: FakeHost) -> None:
    found = of(host, host.cgroup(f"/docker/{ID}"), sandbox=True)
    assert (found.none, found.notes) == (("pids", "memory", "cpu"), ())


def test_what_cannot_be_told(host: FakeHost) -> None:
    """A container that has ended; controllers that cgroup v1 has; files that hold something else."""
    for path in ("/gone", "", "elsewhere", "/\0"):
        assert of(host, path) == Limits()
    odd = host.cgroup(f"/docker/{ID}", cpu_max="1 0", pids_max="\xb2", memory_max="-1", memory_current="", pids_current="x")
    assert of(host, odd).none == ("pids", "memory", "cpu")
    host.cgroup("/", cgroup_controllers="hugetlb")
    assert of(host, odd) == Limits()


@given(st.lists(st.sampled_from(["max", "7", "50", "5 0", "", "-3", "\x00", "9" * 30, "100000 100000"]), min_size=3, max_size=3))
@settings(deadline=None, max_examples=60)
def test_any_files(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    host = FakeHost(tmp_path_factory.mktemp("host"))
    host.cgroup("/", cgroup_controllers="pids memory cpu")
    files = dict(zip(("pids_max", "memory_max", "cpu_max"), texts, strict=True))
    host.cgroup(POD, **files)
    found = of(host, host.cgroup(f"{POD}/{ID}", **files))
    for what, most, whose in (("pids", found.pids_max, found.pids_of), ("memory", found.memory_max, found.memory_of)):
        assert (most is None) == (whose == "") == (what in found.none)


def test_this_machine() -> None:
    machine = Machine.here()
    assert machine.memory > 1 << 20
    assert machine.pids > 1
    try:
        tree = Tree()
    except KernelError:
        pytest.skip("needs cgroup v2")
    for container in tree.containers():
        assert isinstance(limits(tree, container), Limits)
