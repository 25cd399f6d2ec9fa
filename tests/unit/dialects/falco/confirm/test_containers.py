# SPDX-License-Identifier: Apache-2.0
"""Falco's fields of containers and pods, from what runtimes tell of them."""

from __future__ import annotations

import pytest

from bpfence.dialects.falco.confirm.containers import CONTAINER_FIELDS, short_id
from bpfence.workloads.model import Container, Mount, Pod

ID, DIGEST = "ab" * 32, "sha256:" + "cd" * 32
WEB = Container(
    id=ID,
    cgroup="/c",
    name="web",
    image=f"registry.example.com:5000/team/web:v1@{DIGEST}",
    image_id=f"sha256:{ID}",
    runtime="containerd",
    labels={"a": "1", "b": "2"},
    mounts=(Mount("/srv", "/data", "bind", writable=False, propagation="rprivate"), Mount("/x", "/y")),
    started=7,
    pod=Pod("web-1", "shop", "u1", {"app": "web"}),
)
BARE = Container(id=ID, cgroup="/c")


@pytest.mark.parametrize(
    ("field", "key", "value"),
    [
        ("container.full_id", None, ID),
        ("container.name", None, "web"),
        ("container.image", None, WEB.image),
        ("container.image.id", None, "ab" * 6),
        ("container.image.repository", None, "registry.example.com:5000/team/web"),
        ("container.image.tag", None, "v1"),
        ("container.image.digest", None, DIGEST),
        ("container.type", None, "containerd"),
        ("container.mounts", None, "/srv:/data:ro:false:rprivate /x:/y:rw:true:"),
        ("container.mount", "0", "/srv:/data:ro:false:rprivate"),
        ("container.mount", "/x", "/x:/y:rw:true:"),
        ("container.mount", "7", None),
        ("container.mount", "/none", None),
        ("container.mount", None, None),
        ("container.mount.source", "/data", "/srv"),
        ("container.mount.dest", "/srv", "/data"),
        ("container.mount.mode", "/srv", "ro"),
        ("container.mount.rdwr", "1", "true"),
        ("container.mount.propagation", "/srv", "rprivate"),
        ("container.label", "a", "1"),
        ("container.label", "c", None),
        ("container.labels", None, "a:1, b:2"),
        ("container.start_ts", None, 7),
        ("k8s.ns.name", None, "shop"),
        ("k8s.pod.name", None, "web-1"),
        ("k8s.pod.uid", None, "u1"),
        ("k8s.pod.label", "app", "web"),
        ("k8s.pod.labels", None, "app:web"),
    ],
)
def test_fields(field: str, key: str | None, value: str | int | None) -> None:
    assert CONTAINER_FIELDS[field](WEB, key) == value


@pytest.mark.parametrize("field", sorted(CONTAINER_FIELDS.keys() - {"container.full_id"}))
def test_what_is_not_known_is_absent(field: str) -> None:
    assert CONTAINER_FIELDS[field](BARE, "0") is None


def test_ids_are_shown_short() -> None:
    assert short_id(WEB) == "ab" * 6
