# SPDX-License-Identifier: Apache-2.0
"""Containers as Falco's fields show them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfence.dialects.falco.confirm.containers import FIELDS, Image, image, values
from bpfence.dialects.falco.read.fields import FALCO_FIELDS
from bpfence.workloads.model import Container, Mount, Pod

ID = "0123456789abcdef" * 4
DIGEST = f"sha256:{ID}"
MOUNTS = (Mount("/srv", "/data", "bind", False, "rprivate"), Mount("/var/run/docker.sock", "/run/docker.sock", "bind"))
FULL = Container(
    ID,
    f"/docker/{ID}",
    name="web",
    image="registry:5000/team/nginx:1.27",
    image_digest=DIGEST,
    image_id=DIGEST,
    runtime="docker",
    labels={"b": "2", "app.kubernetes.io/name": "web"},
    privileged=False,
    mounts=MOUNTS,
    started=1000,
    pod=Pod("web-0", "prod", "uid", {"app": "web"}),
)


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("nginx", Image("nginx", "latest", "")),
        ("nginx:1.27", Image("nginx", "1.27", "")),
        ("docker.io/library/nginx:1.27", Image("docker.io/library/nginx", "1.27", "")),
        ("registry:5000/nginx", Image("registry:5000/nginx", "latest", "")),
        ("registry:5000/nginx:a", Image("registry:5000/nginx", "a", "")),
        (f"nginx@{DIGEST}", Image("nginx", "", DIGEST)),
        (f"nginx:1@{DIGEST}", Image("nginx", "1", DIGEST)),
        ("", Image("", "", "")),
    ],
)
def test_references_to_images(reference: str, expected: Image) -> None:
    assert image(reference) == expected


def test_everything_that_is_known() -> None:
    assert values(FULL, 1500) == {
        "container.full_id": ID,
        "container.name": "web",
        "container.image": "registry:5000/team/nginx:1.27",
        "container.image.id": ID,
        "container.image.repository": "registry:5000/team/nginx",
        "container.image.tag": "1.27",
        "container.image.digest": DIGEST,
        "container.type": "docker",
        "container.mounts": "/srv:/data::false:rprivate /var/run/docker.sock:/run/docker.sock::true:",
        "container.labels": "app.kubernetes.io/name:web, b:2",
        "container.start_ts": 1000,
        "container.duration": 500,
        "k8s.ns.name": "prod",
        "k8s.pod.name": "web-0",
        "k8s.pod.uid": "uid",
        "k8s.pod.id": "uid",
        "k8s.pod.labels": "app:web",
    }


def test_what_is_not_known_is_absent() -> None:
    assert values(Container(ID, "/docker/x")) == {"container.full_id": ID}
    assert values(Container(ID, "/docker/x", image=DIGEST)) == {"container.full_id": ID, "container.image": DIGEST}
    assert values(Container(ID, "/x", sandbox=True, pod=Pod("a", "b")))["container.name"] == "a"


@pytest.mark.parametrize(
    ("field", "argument", "expected"),
    [
        ("container.mount", "0", "/srv:/data::false:rprivate"),
        ("container.mount", "/srv", "/srv:/data::false:rprivate"),
        ("container.mount", "/var/run/*", "/var/run/docker.sock:/run/docker.sock::true:"),
        ("container.mount", "/data", None),
        ("container.mount", "2", None),
        ("container.mount", "99999999999999999999", None),
        ("container.mount", "²", None),
        ("container.mount.source", "/data", "/srv"),
        ("container.mount.dest", "/srv", "/data"),
        ("container.mount.dest", "/*.sock", "/run/docker.sock"),
        ("container.mount.rdwr", "/srv", "false"),
        ("container.mount.rdwr", "1", "true"),
        ("container.mount.mode", "1", ""),
        ("container.mount.propagation", "0", "rprivate"),
        ("container.mount.propagation", "*" * 300, None),
        ("container.label", "app.kubernetes.io/name", "web"),
        ("container.label", "none", None),
        ("k8s.pod.label", "app", "web"),
    ],
)
def test_fields_with_an_argument(field: str, argument: str, expected: str | None) -> None:
    assert FIELDS[field](FULL, argument, 0) == expected


def test_they_are_in_the_table_of_fields() -> None:
    filled = {field.name for field in FALCO_FIELDS if field.filled}
    assert FIELDS.keys() <= filled


@given(st.builds(Container, id=st.text(), cgroup=st.text(), image=st.text(), labels=st.dictionaries(st.text(), st.text())), st.text())
def test_any_container(container: Container, argument: str) -> None:
    for take in FIELDS.values():
        for given_argument in (None, argument):
            value = take(container, given_argument, 5)
            assert value is None or isinstance(value, (str, int))
