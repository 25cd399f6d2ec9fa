"""The shapes of containers: what is not said is not known, and they are values."""

from __future__ import annotations

import msgspec
import pytest

from bpfence.workloads.model import Container, Mount, Pod

WEB = Container(
    id="c" * 64,
    cgroup="/system.slice/docker-" + "c" * 64 + ".scope",
    image="docker.io/library/nginx:1.27",
    labels={"app": "web"},
    mounts=(Mount("/srv", "/data", writable=False),),
    pod=Pod("web-1", "shop", labels={"app": "web"}),
)


def test_what_is_not_said_is_not_known() -> None:
    bare = Container(id="c", cgroup="/c")
    assert (bare.cgroup_id, bare.image, bare.privileged, bare.pod, bare.pid, bare.started) == (0, "", None, None, 0, 0)
    assert (bare.labels, Pod("p", "ns").labels, Pod("p", "ns").namespace_labels) == (None, None, None)
    assert Pod("p", "ns").namespace_annotations is None


def test_they_are_values() -> None:
    assert msgspec.json.decode(msgspec.json.encode(WEB), type=Container) == WEB
    with pytest.raises(AttributeError):
        WEB.image = "other"  # type: ignore[misc]
