# SPDX-License-Identifier: Apache-2.0
"""Bundles and states of runtimes, written by hand after their formats, and hostile ones."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bpfence import names
from bpfence.workloads.bundle import Bundles, Config, Running, is_privileged, read_regular, runtime_of
from bpfence.workloads.model import Mount, Pod
from bpfence.workloads.texts import moment
from tests.unit.workloads.hosts import ID, OTHER, UID, FakeHost

EVERYTHING = sorted(names.TABLES["capability"].numbers)
CREATED = "2026-12-01T10:00:00.5Z"


class Runtimes:
    """The folders of a host's runtimes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = FakeHost(folder)
        self.bundles = Bundles(
            self.host.tree,
            states=(str(folder / "runc"), str(folder / "crun"), str(folder / "runtime-runc" / "*")),
            tasks=(str(folder / "io.containerd.runtime.v2.task" / "*"),),
            owner=os.getuid(),
        )

    def bundle(self, path: str, **config: Any) -> str:
        folder = self.folder / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config))
        return str(folder)

    def task(self, identity: str, pid: int, namespace: str = "k8s.io", **config: Any) -> str:
        path = self.bundle(f"io.containerd.runtime.v2.task/{namespace}/{identity}", **config)
        Path(path, "init.pid").write_text(str(pid))
        return path

    def crun(self, identity: str, **status: Any) -> Path:
        folder = self.folder / "crun" / identity
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "status").write_text(json.dumps({"created": CREATED, "process-start-time": 100} | status))
        return folder

    def runc(self, identity: str, bundle: str, parent: str = "runc", **state: Any) -> Path:
        folder = self.folder / parent / identity
        folder.mkdir(parents=True, exist_ok=True)
        told = {"id": identity, "created": CREATED, "init_process_start": 100, "config": {"labels": ["a=b", f"bundle={bundle}"]}}
        (folder / "state.json").write_text(json.dumps(told | state))
        return folder


@pytest.fixture
def runtimes(tmp_path: Path) -> Runtimes:
    return Runtimes(tmp_path)


def test_a_container_of_runc(runtimes: Runtimes) -> None:
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/data", "type": "none", "source": "/srv", "options": ["rbind", "ro", "rslave"]},
    ]
    bundle = runtimes.bundle("anywhere", mounts=mounts, process={"capabilities": {"bounding": ["CAP_KILL"]}})
    path = runtimes.host.cgroup("/web")
    runtimes.runc("web", bundle, init_process_pid=runtimes.host.process(70, path), cgroup_paths={"": str(runtimes.host.root) + path})
    (found,) = runtimes.bundles.snapshot()
    assert (found.id, found.cgroup, found.runtime, found.pid, found.started) == ("web", "/web", "runc", 70, moment(CREATED))
    assert found.cgroup_id == runtimes.host.tree.number("/web") > 0
    assert found.mounts == (Mount("proc", "/proc", "proc"), Mount("/srv", "/data", "bind", False, "rslave"))
    assert found.privileged is False
    assert (found.name, found.image, found.labels, found.pod) == ("", "", None, None)


def test_a_container_of_crun_in_a_cgroup_of_another_name(runtimes: Runtimes) -> None:
    bundle = runtimes.bundle("anywhere")
    runtimes.crun("web", pid=runtimes.host.process(70, "/slice/a/inner"), bundle=bundle, **{"cgroup-path": "/slice/a"})
    (found,) = runtimes.bundles.snapshot()
    assert (found.cgroup, found.runtime, found.privileged) == ("/slice/a", "crun", None)


def test_containerd_tells_pods(runtimes: Runtimes) -> None:
    said = {
        "io.kubernetes.cri.container-name": "server",
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.image-name": f"docker.io/library/nginx:1.27@sha256:{ID}",
        "io.kubernetes.cri.sandbox-id": OTHER,
        "io.kubernetes.cri.sandbox-name": "web-0",
        "io.kubernetes.cri.sandbox-namespace": "prod",
        "io.kubernetes.cri.sandbox-uid": UID,
    }
    process = {"capabilities": {"bounding": EVERYTHING}}
    pod = f"/kubepods/besteffort/pod{UID}"
    runtimes.task(ID, runtimes.host.process(70, f"{pod}/{ID}"), annotations=said, process=process)
    said = {name: value for name, value in said.items() if "sandbox" in name} | {"io.kubernetes.cri.container-type": "sandbox"}
    runtimes.task(OTHER, runtimes.host.process(71, f"{pod}/{OTHER}"), annotations=said)
    server, pause = sorted(runtimes.bundles.snapshot(), key=lambda found: found.sandbox)
    assert (server.name, server.runtime, server.sandbox, server.privileged) == ("server", "containerd", False, True)
    assert server.image.startswith("docker.io/library/nginx:1.27")
    assert server.image_digest == f"sha256:{ID}"
    assert server.pod == pause.pod == Pod("web-0", "prod", UID)
    assert server.labels is None
    assert (pause.name, pause.sandbox) == ("", True)


def test_crio_tells_pods_whatever_the_pod_is_annotated_with(runtimes: Runtimes) -> None:
    said = {
        "io.container.manager": "cri-o",
        "io.kubernetes.cri-o.ContainerType": "container",
        "io.kubernetes.cri-o.ImageName": "quay.io/a/b:1",
        "io.kubernetes.cri-o.ImageRef": f"sha256:{OTHER}",
        "io.kubernetes.pod.name": "web-0",
        "io.kubernetes.pod.namespace": "prod",
        "io.kubernetes.cri-o.KubeName": "chosen",
        "io.kubernetes.cri-o.Namespace": "kube-system",
        "io.kubernetes.cri-o.Labels": json.dumps({"io.kubernetes.pod.uid": UID, "app": "web"}),
        "io.kubernetes.container.name": "server",
        "io.kubernetes.cri.sandbox-namespace": "kube-system",
        "io.kubernetes.cri.sandbox-name": "another",
    }
    bundle = runtimes.bundle(f"overlay-containers/{ID}/userdata", annotations=said)
    runtimes.crun(ID, pid=runtimes.host.process(70, f"/kubepods.slice/crio-{ID}.scope"), bundle=bundle)
    (found,) = runtimes.bundles.snapshot()
    assert (found.name, found.image, found.image_id, found.runtime) == ("server", "quay.io/a/b:1", f"sha256:{OTHER}", "cri-o")
    assert found.pod == Pod("web-0", "prod", UID)
    assert found.labels == {"io.kubernetes.pod.uid": UID, "app": "web"}
    assert found.pod.labels is None


def test_podman_keeps_names_in_its_store(runtimes: Runtimes) -> None:
    bundle = runtimes.bundle(f"overlay-containers/{ID}/userdata", annotations={"io.container.manager": "libpod"})
    known = {"image-name": "docker.io/library/nginx:1.27", "image-id": OTHER, "name": "web"}
    stored = [{"id": OTHER}, {"id": ID, "image": OTHER, "metadata": json.dumps(known)}]
    (runtimes.folder / "overlay-containers" / "containers.json").write_text(json.dumps(stored))
    runtimes.crun(ID, pid=runtimes.host.process(70, f"/libpod_parent/libpod-{ID}"), bundle=bundle)
    (found,) = runtimes.bundles.snapshot()
    assert (found.name, found.image, found.image_id, found.runtime) == ("web", "docker.io/library/nginx:1.27", OTHER, "podman")
    assert found.labels is None


@pytest.mark.parametrize(("said", "expected"), [("TRUE", True), ("FALSE", False)])
def test_podman_says_what_is_privileged_where_it_lacks_capabilities_itself(runtimes: Runtimes, said: str, expected: bool) -> None:
    annotations = {"io.container.manager": "libpod", "io.podman.annotations.privileged": said}
    process = {"capabilities": {"bounding": EVERYTHING[1:]}}
    bundle = runtimes.bundle(f"overlay-containers/{ID}/userdata", annotations=annotations, process=process)
    runtimes.crun(ID, pid=runtimes.host.process(70, f"/libpod_parent/libpod-{ID}"), bundle=bundle)
    assert [found.privileged for found in runtimes.bundles.snapshot()] == [expected]


@pytest.mark.parametrize(
    ("config", "image", "labels"),
    [
        ({"Image": "nginx:1.27", "Labels": {"app": "web"}}, "nginx:1.27", {"app": "web"}),
        ({"Image": "nginx:1.27", "Labels": {}}, "nginx:1.27", {}),
        (None, "", None),
    ],
)
def test_docker_keeps_names_beside_the_host_name(
    runtimes: Runtimes, config: dict[str, Any] | None, image: str, labels: dict[str, str] | None
) -> None:
    own = runtimes.folder / "docker" / "containers" / ID
    own.mkdir(parents=True)
    known = {"Name": "/web", "Image": f"sha256:{OTHER}", "Config": config}
    (own / "config.v2.json").write_text(json.dumps(known))
    mounts = [{"destination": "/etc/hostname", "source": str(own / "hostname"), "options": ["rbind"]}]
    runtimes.task(ID, runtimes.host.process(70, f"/docker/{ID}"), "moby", mounts=mounts)
    (found,) = runtimes.bundles.snapshot()
    assert (found.name, found.image, found.image_id, found.runtime) == ("web", image, f"sha256:{OTHER}", "docker")
    assert found.labels == labels


def test_docker_is_not_asked_for_another_containers_file(runtimes: Runtimes) -> None:
    own = runtimes.folder / "docker" / "containers" / OTHER
    own.mkdir(parents=True)
    (own / "config.v2.json").write_text(json.dumps({"Name": "/other"}))
    mounts = [{"destination": "/etc/hostname", "source": str(own / "hostname")}]
    runtimes.task(ID, runtimes.host.process(70, f"/docker/{ID}"), "moby", mounts=mounts)
    assert [found.name for found in runtimes.bundles.snapshot()] == [""]


def test_who_is_gone_or_another_now_is_left_out(runtimes: Runtimes) -> None:
    bundle = runtimes.bundle("anywhere")
    runtimes.runc("gone", bundle, init_process_pid=71)
    runtimes.runc("another", bundle, init_process_pid=runtimes.host.process(72, "/another", started=99))
    runtimes.crun("without", pid=runtimes.host.process(73, "/user.slice/session.scope"), bundle=bundle)
    runtimes.crun("root", pid=runtimes.host.process(74, "/"), bundle=bundle, **{"cgroup-path": "/"})
    assert runtimes.bundles.snapshot() == []


def test_a_state_that_others_may_write_is_not_believed(runtimes: Runtimes) -> None:
    folder = runtimes.crun("web", pid=runtimes.host.process(70, "/web"), bundle=runtimes.bundle("anywhere"))
    assert len(runtimes.bundles.snapshot()) == 1
    (folder / "status").chmod(0o666)
    assert runtimes.bundles.snapshot() == []
    (folder / "status").rename(folder / "elsewhere")
    (folder / "status").symlink_to(folder / "elsewhere")
    assert runtimes.bundles.snapshot() == []


@pytest.mark.parametrize("data", [b"", b"{", b"null", b'{"annotations": 3}', b"[" * 50_000, b'{"mounts": [{"options": [1]}]}'])
def test_a_broken_bundle_leaves_a_container_that_little_is_known_of(runtimes: Runtimes, data: bytes) -> None:
    path = runtimes.task(ID, runtimes.host.process(70, f"/docker/{ID}"))
    Path(path, "config.json").write_bytes(data)
    (found,) = runtimes.bundles.snapshot()
    assert (found.id, found.mounts, found.privileged) == (ID, (), None)


def test_a_bundle_that_is_no_file_does_not_hang(runtimes: Runtimes) -> None:
    path = runtimes.task(ID, runtimes.host.process(70, f"/docker/{ID}"))
    Path(path, "config.json").unlink()
    os.mkfifo(Path(path, "config.json"))
    assert [found.id for found in runtimes.bundles.snapshot()] == [ID]
    with pytest.raises(OSError, match="not a regular file"):
        read_regular("/dev/zero", 100)
    with pytest.raises(OSError, match="bytes"):
        read_regular("/proc/self/environ", 0)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
)
PARTS = st.fixed_dictionaries(
    {},
    optional={
        "annotations": st.dictionaries(
            st.sampled_from(["io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.Labels", "x"]),
            st.text(max_size=30),
        )
        | JSON,
        "mounts": st.lists(st.fixed_dictionaries({"destination": st.text(max_size=9), "options": st.lists(st.text(max_size=9))})) | JSON,
        "linux": JSON,
        "process": st.fixed_dictionaries({"capabilities": st.fixed_dictionaries({"bounding": st.lists(st.text(max_size=9))})}) | JSON,
    },
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(config=PARTS, status=st.dictionaries(st.sampled_from(["bundle", "pid", "created", "cgroup-path"]), JSON))
def test_any_bundle_and_any_state(runtimes: Runtimes, config: Any, status: dict[str, Any]) -> None:
    path = runtimes.bundle(f"overlay-containers/{ID}/userdata", **config)
    pid = runtimes.host.process(70, f"/libpod_parent/libpod-{ID}")
    runtimes.crun(ID, **({"bundle": path, "pid": pid} | status))
    for found in runtimes.bundles.snapshot():
        assert found.cgroup == f"/libpod_parent/libpod-{ID}"
        msgspec.json.encode(found)


def testis_privileged() -> None:
    def asked(bounding: list[str], **linux: Any) -> bool | None:
        return is_privileged(msgspec.convert({"process": {"capabilities": {"bounding": bounding}}, "linux": linux}, Config))

    older = [name for name, number in names.TABLES["capability"].numbers.items() if number <= 37]
    assert asked(EVERYTHING) is True
    assert asked(older) is True
    assert asked(EVERYTHING, maskedPaths=["/proc/kcore"]) is False
    assert asked([name for name in EVERYTHING if name != "CAP_SYS_ADMIN"]) is False
    assert asked([]) is asked(["CAP_CHECKPOINT_RESTORE"]) is False
    assert is_privileged(None) is is_privileged(Config()) is None


def test_who_asked_for_a_container() -> None:
    def asked(bundle: str, **annotations: str) -> str:
        return runtime_of(Running(ID, 1, bundle, "runc"), {name.replace("_", "."): value for name, value in annotations.items()})

    assert asked(f"/run/containerd/io.containerd.runtime.v2.task/k8s.io/{ID}") == "containerd"
    assert asked(f"/run/docker/containerd/daemon/io.containerd.runtime.v2.task/moby/{ID}") == "docker"
    assert asked(f"/var/lib/containers/storage/overlay-containers/{ID}/userdata") == "podman"
    assert asked(f"/var/lib/containers/storage/overlay-containers/{OTHER}/userdata") == "runc"
    assert asked("/home/me/bundle") == "runc"
