# SPDX-License-Identifier: Apache-2.0
"""Cgroups by their paths: whose they are, which of them is a container's own, and what they are limited to."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfence.conditions.containers import container_of
from bpfence.errors import KernelError
from bpfence.workloads.cgroups import MAX_DEPTH, Tree, pod_uid, recognised
from tests.unit.workloads.hosts import ID, OTHER, UID, FakeHost

SYSTEMD_UID = UID.replace("-", "_")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"/system.slice/docker-{ID}.scope", (ID, "docker")),
        (f"/docker/{ID}", (ID, "docker")),
        (f"/docker/{OTHER}/docker/{ID}", (ID, "docker")),
        (f"/kubepods/besteffort/pod{UID}/{ID}", (ID, "")),
        (
            f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SYSTEMD_UID}.slice/cri-containerd-{ID}.scope",
            (ID, "containerd"),
        ),
        (f"/kubepods.slice/kubepods-pod{SYSTEMD_UID}.slice/crio-{ID}.scope", (ID, "cri-o")),
        (f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{SYSTEMD_UID}.slice/cri-containerd-{ID}.scope", (ID, "containerd")),
        (f"/machine.slice/libpod-{ID}.scope", (ID, "podman")),
        (f"/libpod_parent/libpod-{ID}", (ID, "podman")),
        (f"/ecs/task/{ID}", (ID, "docker")),
        ("/lxc.payload.web", ("web", "lxc")),
        ("/machine.slice/systemd-nspawn@web.service", ("web", "systemd-nspawn")),
        ("/docker/buildkit/abc", ("abc", "buildkit")),
    ],
)
def test_containers_are_recognised(path: str, expected: tuple[str, str]) -> None:
    assert recognised(path) == expected
    assert container_of(path) is not None


@pytest.mark.parametrize(
    "path",
    [
        "/", "/system.slice/ssh.service", "/kubepods/besteffort", f"/kubepods/besteffort/pod{UID}", f"/docker-like/{ID}/x",
        f"/machine.slice/libpod-conmon-{ID}.scope", f"/kubepods.slice/crio-conmon-{ID}.scope", f"/docker/{ID}/init.scope",
        f"/docker/{ID}/system.slice/x.service", f"/docker/{ID[:40]}/x", "/lxc.payload.web/init.scope", f"/user.slice/{ID}",
    ],
)  # fmt: skip
def test_what_is_no_containers_own_cgroup(path: str) -> None:
    assert recognised(path) is None


@given(st.text(st.characters(codec="utf-8") | st.sampled_from("/-.:\udcff\n"), max_size=200))
def test_any_path_has_an_answer(path: str) -> None:
    found = recognised("/" + path)
    assert found is None or (found[0] and container_of("/" + path) is not None)


def test_pods() -> None:
    assert pod_uid(f"/kubepods/besteffort/pod{UID}/{ID}") == UID
    assert pod_uid(f"/kubepods.slice/kubepods-burstable-pod{SYSTEMD_UID}.slice/crio-{ID}.scope") == UID
    assert pod_uid(f"/docker/{ID}") == ""
    assert pod_uid("/kubepods/podcast") == ""


def test_the_pod_of_a_cgroup_is_not_what_somebody_in_a_container_calls_one() -> None:
    other = "22222222-2222-2222-2222-222222222222"
    inside = f"kubepods/besteffort/pod{other}/{'b' * 64}"
    assert pod_uid(f"/kubepods/besteffort/pod{UID}/{ID}/{inside}") == UID
    assert pod_uid(f"/docker/{ID}/{inside}") == ""
    assert pod_uid(f"/system.slice/docker-{ID}.scope/{inside}") == ""


@pytest.mark.parametrize(
    ("path", "identity", "told", "expected"),
    [
        (f"/docker/{ID}", ID, "", f"/docker/{ID}"),
        (f"/docker/{ID}/init.scope", ID, "", f"/docker/{ID}"),
        (f"/machine.slice/libpod-{ID}.scope/container", ID, "", f"/machine.slice/libpod-{ID}.scope"),
        (f"/docker/{ID}/docker/{ID}", ID, "", f"/docker/{ID}"),
        ("/default/web", "web", "/default/web", "/default/web"),
        ("/default/default", "default", "/default/default", "/default/default"),
        ("/web", "web", "", "/web"),
        ("/slice/other/inner", "web", "/slice/other", "/slice/other"),
        ("/user.slice/session-1.scope", ID, "", None),
        ("/user.slice/session-1.scope", "web", "/elsewhere", None),
        ("/user.slice/session-1.scope", "web", "/", None),
        ("/slice/others", "web", "/slice/other", None),
        (f"/docker/{OTHER}", ID, "", None),
        ("/", "", "", None),
    ],
)
def test_a_containers_own_cgroup(tmp_path: Path, path: str, identity: str, told: str, expected: str | None) -> None:
    assert FakeHost(tmp_path).tree.own(path, identity, told) == expected


def test_the_cgroup_of_a_process(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    host.process(70, "/docker/x", started=500)
    assert host.tree.path_of(70) == host.tree.path_of(70, 500) == "/docker/x"
    assert host.tree.path_of(70, 499) is None
    assert host.tree.path_of(71) is None
    assert host.tree.path_of(0) is None
    (host.proc / "70" / "cgroup").write_text("0::/docker/x (deleted)\n")
    assert host.tree.path_of(70) is None
    (host.proc / "70" / "cgroup").write_text("4:memory:/a\n")
    assert host.tree.path_of(70) is None
    (host.proc / "70" / "cgroup").write_text("0::/../outside\n")
    assert host.tree.path_of(70) is None


def test_the_tree_is_walked(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    inner = host.cgroup(f"/docker/{OTHER}/docker/{ID}")
    host.cgroup("/system.slice/ssh.service")
    (host.root / "system.slice" / "link").symlink_to(host.root)
    host.cgroup("/deep" * (MAX_DEPTH + 3))
    found = host.tree.containers()
    assert [(known.id, known.cgroup, known.runtime) for known in found] == [
        (OTHER, f"/docker/{OTHER}", "docker"),
        (ID, inner, "docker"),
    ]
    assert found[1].cgroup_id == (host.root / inner[1:]).stat().st_ino
    assert max(path.count("/") for path in host.tree.folders()) == MAX_DEPTH
    assert host.tree.number("/gone") == 0


def test_words_of_files(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    path = host.cgroup("/a", cpu_max="150000 100000", pids_max="9" * 500)
    assert host.tree.words(path, "cpu.max") == ["150000", "100000"]
    assert host.tree.words(path, "pids.max") == ["9" * 20]
    assert host.tree.words(path, "gone") == host.tree.words("/gone", "pids.max") == host.tree.words("/\0", "pids.max") == []


def test_the_machines_own_tree() -> None:
    try:
        tree = Tree()
    except KernelError:
        pytest.skip("needs cgroup v2")
    assert all(path.startswith("/") for path in tree.folders())
