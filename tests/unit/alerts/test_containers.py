"""What lines say of containers and pods: what is known, escaped, and no more than fits."""

from __future__ import annotations

import json

import pytest

from bpfence.alerts.containers import MAX_KEPT, MAX_LISTED, Belonging
from bpfence.workloads.model import Container, Mount, Pod

ID = "ab" * 32
WEB = Container(
    id=ID,
    cgroup=f"/docker/{ID}",
    cgroup_id=5,
    name="web",
    image="nginx:1.27",
    image_digest="sha256:12",
    runtime="docker",
    labels={"app": "web"},
    privileged=False,
    mounts=(Mount("/srv", "/data", "bind", writable=False),),
    started=1_000_000_000,
    pid=4,
    pod=Pod("web-1", "shop", "u-1", {"app": "web"}, service_account="shopper", node="n1", owner=("Deployment", "web")),
)


def test_everything_that_is_known() -> None:
    container, k8s = Belonging(lambda _: WEB).members(f"/docker/{ID}/below")
    assert container == {
        "id": ID,
        "name": "web",
        "image": "nginx:1.27",
        "digest": "sha256:12",
        "runtime": "docker",
        "privileged": False,
        "start": "1970-01-01T00:00:01.000000000Z",
        "labels": {"app": "web"},
        "mounts": [{"source": "/srv", "destination": "/data", "type": "bind", "writable": False}],
    }
    assert k8s == {
        "namespace": "shop",
        "pod": "web-1",
        "uid": "u-1",
        "serviceAccount": "shopper",
        "node": "n1",
        "labels": {"app": "web"},
        "owner": {"kind": "Deployment", "name": "web"},
    }


@pytest.mark.parametrize(("owner", "shown"), [(("", ""), {}), (("J\x1b", "j"), {"kind": "J\\x1b", "name": "j"}), (None, None)])
def test_what_keeps_a_pod_running(owner: tuple[str, str] | None, shown: dict[str, str] | None) -> None:
    pod = Container(id="c", cgroup="/c", pod=Pod("web-1", "shop", owner=owner))
    _, k8s = Belonging(lambda _: pod).members("/c")
    assert (k8s or {}).get("owner") == shown


@pytest.mark.parametrize(
    ("cgroup", "container"),
    [("", None), ("/user.slice", None), (f"/system.slice/docker-{ID}.scope/x", {"id": ID}), ("/lxc/web", {"id": "web"})],
)
def test_of_what_nobody_has_told_the_path_tells_the_id(cgroup: str, container: dict[str, str] | None) -> None:
    assert Belonging().members(cgroup) == (container, None)


def test_the_json_is_that_of_the_members() -> None:
    belonging = Belonging(lambda cgroup: WEB if cgroup == "/docker/x" else None)
    for cgroup in ("", "/docker/x"):
        container, k8s = belonging.members(cgroup)
        assert json.loads(b"{" + belonging.json(cgroup) + b"}") == {"container": container, "k8s": k8s}


def test_strings_are_escaped_and_lists_are_cut() -> None:
    many = {f"k{n}": "v" for n in range(1000)}
    hostile = Container(id="i\x1b", cgroup="/c", name="a\nb", labels={"\x00": "\u202e", **many}, mounts=(Mount("/s\x07", "/d"),) * 1000)
    container, _ = Belonging(lambda _: hostile).members("/c")
    assert container is not None
    assert (container["id"], container["name"]) == ("i\\x1b", "a\\x0ab")
    assert (len(container["labels"]), len(container["mounts"])) == (MAX_LISTED, MAX_LISTED)
    assert json.dumps(container).isprintable()


def test_labels_are_left_out_where_nobody_has_told_of_them() -> None:
    for labels, shown in ((None, {}), ({}, {"labels": {}})):
        told = Container(id="i", cgroup="/c", labels=labels, pod=Pod("web-1", "shop", labels=labels))
        assert Belonging(lambda _, told=told: told).members("/c") == ({"id": "i"} | shown, {"namespace": "shop", "pod": "web-1"} | shown)  # type: ignore[misc]


def test_what_changes_is_looked_up_anew() -> None:
    version, asked = [0], []

    def of(cgroup: str) -> Container | None:
        asked.append(cgroup)
        return WEB

    belonging = Belonging(of, lambda: version[0])
    belonging.members("/a")
    belonging.json("/a")
    assert asked == ["/a"]
    version[0] += 1
    belonging.members("/a")
    assert asked == ["/a", "/a"]
    for n in range(MAX_KEPT + 1):
        belonging.members(f"/{n}")
    belonging.members("/a")
    assert asked[-1] == "/a"
