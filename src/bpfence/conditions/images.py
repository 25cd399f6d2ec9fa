# SPDX-License-Identifier: Apache-2.0
"""Names of container images and patterns of them in, what they stand for and whether they match out.

Called by the languages for what a policy says of images, and by what finds the policies of a container. Names are normalised as Docker,
containerd and Kubernetes do (github.com/distribution/reference): `nginx` is docker.io/library/nginx. Pure.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

from bpfence import glob

REGISTRY: Final = "docker.io"
_OTHER_NAMES: Final = {"index.docker.io": REGISTRY, "registry-1.docker.io": REGISTRY}
LATEST: Final = "latest"
MAX_NAME: Final = 1024
"""Longer than any that a registry takes: 255 of the repository, 128 of the tag, a host name, a digest."""
_DIGEST: Final = re.compile(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[0-9a-f]{32,}")
_HEX: Final = re.compile(r"(?:sha256:)?[0-9a-f]{64}")
_WILD: Final = re.compile(r"[*?\[{]")


class Image(NamedTuple):
    """`repository`: with its registry, docker.io/library/nginx. `tag`, `digest`: "" where the name has none."""

    repository: str
    tag: str = ""
    digest: str = ""


@lru_cache(maxsize=4096)
def parse(name: str) -> Image | None:
    """The parts of an image's name; None where it names none: the bare id of an image, nothing at all, or what is too long."""
    if not name or len(name) > MAX_NAME or _HEX.fullmatch(name):
        return None
    whole, _, digest = name.partition("@")
    repository, tag = _tagged(whole)
    return Image(_with_registry(repository), tag or ("" if digest else LATEST), digest) if repository else None


def split(name: str) -> tuple[str, str, str]:
    """Repository, tag and digest of a name as it is written; all "" where it names no image."""
    image = parse(name)
    if image is None:
        return "", "", ""
    return _tagged(name.partition("@")[0])[0], image.tag, image.digest


def _tagged(name: str) -> tuple[str, str]:
    """What stands before and behind the colon of the tag; that of a port is none."""
    last = name.rfind(":")
    return (name, "") if last < name.rfind("/") or last < 0 else (name[:last], name[last + 1 :])


def _with_registry(repository: str) -> str:
    first, slash, rest = repository.partition("/")
    first = _OTHER_NAMES.get(first, first)
    if slash and (first == "localhost" or "." in first or ":" in first or _WILD.search(first)):
        return f"{REGISTRY}/library/{rest}" if first == REGISTRY and "/" not in rest and not _WILD.search(rest) else f"{first}/{rest}"
    return f"{REGISTRY}/{repository}" if slash else f"{REGISTRY}/library/{repository}"


class ImagePattern(NamedTuple):
    """Globs in which `*` crosses everything. `tag` "*": any; `digest` "": any."""

    repository: str
    tag: str
    digest: str


@lru_cache(maxsize=1024)
def pattern(text: str) -> ImagePattern:
    """What a pattern asks for: `nginx` any tag of it, `nginx:1.*` some, `nginx@sha256:…` one image. glob.GlobError or ValueError with the
    reason where it is none.

    A pattern that begins with `*` is one of the whole name, registry included: `*/nginx`, `*nginx*`.
    """
    if not text or len(text) > MAX_NAME or "://" in text:
        raise ValueError("an image is named like nginx:1.27 or registry.example.com/team/app")
    if re.search(r"\s", text):
        raise ValueError("there is no blank in the name of an image")
    whole, at, digest = text.partition("@")
    if _HEX.fullmatch(text):
        return ImagePattern("*", "*", text if text.startswith("sha256:") else f"sha256:{text}")
    if at and not _DIGEST.fullmatch(digest):
        raise ValueError(f"{digest!r} is not a digest, which is written like sha256: and 64 digits")
    repository, tag = _tagged(whole)
    if not repository or (not tag and whole.endswith(":")):
        raise ValueError("an image is named like nginx:1.27 or registry.example.com/team/app")
    first, slash, rest = repository.partition("/")
    path = rest if slash and re.search("[.:]", first) else repository
    if path != path.lower():
        raise ValueError("a repository is written in lower case")
    if ":" in repository.rpartition("/")[2]:
        raise ValueError("an image has one tag, in which there is no ':'")
    made = ImagePattern(repository if repository.startswith("*") else _with_registry(repository), tag or "*", digest)
    for part in (made.repository, made.tag):
        glob.compiled(part, "string")
    return made


def matches(text: str, name: str, digest: str = "", identity: str = "") -> bool:
    """Whether an image is one that a pattern means. `digest`: of its manifest; `identity`: its id."""
    wanted, image = pattern(text), parse(name)
    if wanted.digest and wanted.digest not in (digest, image.digest if image else "", identity, f"sha256:{identity}"):
        return False
    if image is None:
        return bool(wanted.digest) and wanted.repository == "*"
    return _fits(wanted.repository, image.repository) and (wanted.tag == "*" or _fits(wanted.tag, image.tag))


def _fits(text: str, value: str) -> bool:
    return glob.compiled(text, "string").fullmatch(glob.encode(value)) is not None
