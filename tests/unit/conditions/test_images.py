"""Names of images and patterns of them: what people expect."""

from __future__ import annotations

import pytest

from bpfence.conditions.images import Image, matches, parse, pattern, split
from bpfence.glob import GlobError

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("nginx", Image("docker.io/library/nginx", "latest")),
        ("nginx:1.27", Image("docker.io/library/nginx", "1.27")),
        ("bitnami/nginx", Image("docker.io/bitnami/nginx", "latest")),
        ("docker.io/nginx", Image("docker.io/library/nginx", "latest")),
        ("index.docker.io/library/nginx:1", Image("docker.io/library/nginx", "1")),
        ("localhost/app", Image("localhost/app", "latest")),
        ("registry:5000/app", Image("registry:5000/app", "latest")),
        ("registry.example.com:5000/team/app:v1", Image("registry.example.com:5000/team/app", "v1")),
        (f"nginx@{DIGEST}", Image("docker.io/library/nginx", "", DIGEST)),
        (f"nginx:1.27@{DIGEST}", Image("docker.io/library/nginx", "1.27", DIGEST)),
        (DIGEST, None),
        ("ab" * 32, None),
        ("", None),
        ("x" * 2000, None),
    ],
)  # fmt: skip
def test_parse(name: str, found: Image | None) -> None:
    assert parse(name) == found


@pytest.mark.parametrize("wanted", [
    "nginx", "nginx:*", "nginx:1.27", "nginx:1.*", "docker.io/library/nginx:1.27", "docker.io/nginx", "*/nginx", "*nginx*", "*", "ngin?",
    "docker.io/*", f"nginx@{DIGEST}", f"nginx:1.27@{DIGEST}", DIGEST, "ab" * 32, "{nginx,httpd}:1.27",
])  # fmt: skip
def test_patterns_that_match(wanted: str) -> None:
    assert matches(wanted, "docker.io/library/nginx:1.27", DIGEST)
    assert matches(wanted, "nginx:1.27", DIGEST)


@pytest.mark.parametrize("wanted", [
    "nginx:1.28", "nginx:latest", "bitnami/nginx", "quay.io/nginx", "quay.io/*", "library", "nginx-unprivileged", "httpd",
    "nginx@sha256:" + "cd" * 32, "sha256:" + "cd" * 32,
])  # fmt: skip
def test_patterns_that_do_not(wanted: str) -> None:
    assert not matches(wanted, "docker.io/library/nginx:1.27", DIGEST)


def test_a_name_in_another_registry_is_another_image() -> None:
    assert not matches("nginx", "evil.example.com/library/nginx:1.27")
    assert not matches("nginx", "evil.example.com/nginx")
    assert matches("*/nginx", "evil.example.com/x/nginx")


def test_an_image_without_a_name_is_found_by_its_digest_or_id() -> None:
    assert matches(DIGEST, "", DIGEST)
    assert matches(DIGEST, DIGEST, "", DIGEST)
    assert matches(DIGEST, "", "", "ab" * 32)
    assert not matches("*", "")


@pytest.mark.parametrize("text", [
    "", " nginx", "nginx:", ":1", "nginx@1", "nginx@sha256:12", "https://example.com/nginx", "x" * 2000, "Nginx", "a.b/C/d", "C/d:1",
    "nginx 1", "nginx\t:1", "a:1:2", "a.b:1/c:1:2", "{a:1,b:2}",
])  # fmt: skip
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(ValueError):
        pattern(text)


@pytest.mark.parametrize("text", ["A.example:5000/b:V1", "localhost:5000", "*:5000/a:1", "a:V1", "*.Example.com/a"])
def test_only_repositories_are_of_lower_case_and_a_port_is_no_tag(text: str) -> None:
    pattern(text)


def test_a_broken_glob_is_told() -> None:
    with pytest.raises(GlobError):
        pattern("nginx[")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("nginx", ("nginx", "latest", "")),
        ("registry:5000/a/b:v1", ("registry:5000/a/b", "v1", "")),
        (f"nginx:1@{DIGEST}", ("nginx", "1", DIGEST)),
        (f"nginx@{DIGEST}", ("nginx", "", DIGEST)),
        (DIGEST, ("", "", "")),
    ],
)
def test_split_leaves_names_as_they_are_written(name: str, parts: tuple[str, str, str]) -> None:
    assert split(name) == parts
