# SPDX-License-Identifier: Apache-2.0
"""Which cgroups are containers', and whose: globs and regular expressions of one table agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bpfence import glob
from bpfence.conditions.containers import LAYOUTS, Layout, container_id, container_of, in_container, inside, of_runtime, untold
from bpfence.evaluate import holds
from bpfence.policy import Atom, Op

ROOT = Path(__file__).resolve().parents[3]
ID = "0123456789abcdef" * 4
NAMES = st.sampled_from(["web", "a.b", "x-1", "", "0123", ID, "\udcff", "scope", "init.scope", "c", "conmon", "conmon-", "cafe"])
# What layouts are made of, put together anyhow: most of these paths are no container's, and some nearly are.
WORDS = sorted({word for layout in LAYOUTS for word in re.split(r"[/*{},]|<>", layout.path) if word})
COMPONENTS = st.lists(st.one_of(st.sampled_from(WORDS), NAMES), min_size=1, max_size=3).map("".join)
PATHS = st.lists(COMPONENTS, max_size=5).map(lambda components: "/" + "/".join(components))


@pytest.mark.parametrize(
    "path",
    [
        "/system.slice/docker-0123abcd.scope",
        "/system.slice/docker-0123abcd.scope/init.scope/x",
        "/docker/0123abcd",
        "/kubepods/besteffort/pod1/0123",
        "/kubepods.slice/kubepods-burstable.slice/x.slice/cri-containerd-0123.scope",
        "/kubelet.slice/kubelet-kubepods.slice/x",
        "/system.slice/crio-0123.scope",
        "/machine.slice/libpod-0123.scope/container",
        f"/libpod_parent/libpod-{ID}/init",
        f"/libpod_parent/{ID}/libpod-c0{ID[2:]}",
        f"/machine.slice/libpod-ca{ID[2:]}.scope",
        "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-0123.scope/container",
        "/lxc.payload.web/init.scope",
        "/lxc/web",
        "/machine.slice/systemd-nspawn@web.service/payload",
        "/machine.slice/machine-web.scope",
        "/system.slice/nerdctl-0123.scope",
    ],
)
def test_containers(path: str) -> None:
    assert holds(in_container(), {"process.cgroup": path})


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/init.scope",
        "/system.slice/docker.service",
        "/system.slice/containerd.service",
        "/kubepods",
        "/lxc.monitor.web",
        "/docker",
        "/libpod_parent/conmon",
        f"/libpod_parent/{ID}/conmon",
        f"/machine.slice/libpod-conmon-{ID}.scope",
        f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-conmon-{ID}.scope",
        f"/system.slice/crio-conmon-{ID}.scope",
        "/user.slice/user-0.slice/session-1.scope",
    ],
)
def test_what_is_no_container(path: str) -> None:
    assert not holds(in_container(), {"process.cgroup": path})


@given(st.sampled_from(LAYOUTS), PATHS)
def test_globs_and_regular_expressions_agree(layout: Layout, path: str) -> None:
    inside = holds(Atom("process.cgroup", Op.GLOB, layout.pattern + "{,/**}"), {"process.cgroup": path})
    assert (re.search(layout.regex, glob.encode(path), re.DOTALL) is not None) is inside


@given(PATHS)
def test_a_cgroup_is_a_container_s_in_both_forms_or_in_none(path: str) -> None:
    found = any(re.search(layout.regex, glob.encode(path), re.DOTALL) for layout in LAYOUTS)
    assert found is holds(in_container(), {"process.cgroup": path}) is (container_of(path) is not None)


@given(st.sampled_from(LAYOUTS), NAMES.filter(bool), st.sampled_from(["", "/init.scope", "/a/b"]))
def test_every_layout_tells_its_container(layout: Layout, name: str, below: str) -> None:
    assume(glob.compiled(layout.part).fullmatch(glob.encode(name)))
    own = re.sub(r"\{([^,}]*),[^}]*\}", r"\1", layout.path.replace("**", "/x").replace("*", "y")).replace("<>", name)
    assert holds(in_container(), {"process.cgroup": own + below})
    if layout.named or name == ID:
        assert container_of(own + below) == (ID[:12] if name == ID else name)


@pytest.mark.parametrize(
    ("path", "container"),
    [
        ("/", None),
        (f"/user.slice/{ID}", None),
        (f"/system.slice/docker-{ID}.scope", ID[:12]),
        (f"/system.slice/docker-{ID}.scope/init", ID[:12]),
        (f"/docker/{ID[::-1]}/docker/{ID}", ID[:12]),
        ("/docker/short", "short"),
        ("/docker/.scope", ""),
        ("/machine.slice/libpod-abc.scope", "abc"),
        ("/machine.slice/systemd-nspawn@web.service/payload", "web"),
        ("/lxc.payload.db/system.slice/x.service", "db"),
        ("/lxc/c1", "c1"),
        ("/lxc.monitor.c1/docker/x", "x"),
    ],
)
def test_the_container_of_a_cgroup(path: str, container: str | None) -> None:
    assert container_of(path) == container


def test_the_reference_names_every_runtime() -> None:
    [row] = [line for line in (ROOT / "docs/policy-reference.md").read_text().splitlines() if line.startswith("| `container` |")]
    assert all(layout.runtime in row for layout in LAYOUTS)


def test_ids_are_whole_and_shown_short() -> None:
    assert container_id(f"/docker/{ID}/x") == ID
    assert container_of(f"/docker/{ID}/x") == ID[:12]
    assert container_id("/lxc/web") == container_of("/lxc/web") == "web"
    assert container_id("/user.slice") is None


def test_inside_and_untold() -> None:
    for path, told, expected in (("/docker/x", False, (True, True)), ("/docker/x", True, (True, False)), ("/x", True, (True, False))):
        event = {"process.cgroup": path, **({"process.container": ()} if told else {})}
        assert (holds(inside(), event), holds(untold(), event)) == expected
    assert not holds(inside(), {"process.cgroup": "/x"})


def test_runtimes_that_cgroups_tell() -> None:
    docker, crio = of_runtime("docker"), of_runtime("cri-o")
    assert docker is not None
    assert crio is not None
    assert holds(docker, {"process.cgroup": "/system.slice/docker-0.scope/x"})
    assert not holds(docker, {"process.cgroup": "/system.slice/crio-0.scope"})
    assert holds(crio, {"process.cgroup": "/system.slice/crio-0.scope"})
    assert of_runtime("runc") is None
