"""apt's file formats, Debian's index formats and the checks on what is downloaded, without a network."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import pytest

from vmtest import MirrorError, mirror
from vmtest.mirror import Source

DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://one.example/debian
 https://two.example/debian/
Suites: bookworm bookworm-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb-src
URIs: http://sources.example/debian
Suites: bookworm

Enabled: no
Types: deb
URIs: http://disabled.example/debian
Suites: bookworm
"""

ONE_LINE = """\
# deb http://commented.example/debian bookworm main
deb http://one.example/debian bookworm main contrib
deb [arch=amd64 signed-by=/usr/share/keyrings/a.gpg] https://two.example/debian-security bookworm-security main # why
deb-src http://sources.example/debian bookworm main
  deb file:/srv/debian ./
"""


def test_deb822_sources() -> None:
    assert list(mirror.parse_deb822_sources(DEB822)) == [
        Source("http://one.example/debian", ("bookworm", "bookworm-updates")),
        Source("https://two.example/debian/", ("bookworm", "bookworm-updates")),
    ]


def test_one_line_sources() -> None:
    assert list(mirror.parse_one_line_sources(ONE_LINE)) == [
        Source("http://one.example/debian", ("bookworm",)),
        Source("https://two.example/debian-security", ("bookworm-security",)),
        Source("file:/srv/debian", ("./",)),
    ]


def test_apt_sources_come_from_the_configured_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/debian.sources").write_text(DEB822)
    (tmp_path / "parts/debian.sources.save").write_text(ONE_LINE)
    (tmp_path / "main.list").write_text("deb http://main.example/debian sid main\n")
    paths = f"list='{tmp_path}/main.list'\nparts='{tmp_path}/parts/'\n"
    monkeypatch.setattr(mirror, "apt_settings", lambda *arguments: paths)
    assert [source.uri for source in mirror.read_apt_sources()] == [
        "http://main.example/debian",
        "http://one.example/debian",
        "https://two.example/debian/",
    ]


def test_mirrors_are_those_with_debian_suites() -> None:
    sources = [
        Source("http://one.example/debian/", ("bookworm",)),
        Source("http://one.example/debian", ("bookworm-updates",)),
        Source("http://one.example/debian-security", ("stable/updates",)),
        Source("https://vendor.example/node", ("nodistro",)),
        Source("cdrom:[Debian]/", ("bookworm",)),
    ]
    assert mirror.debian_mirrors(sources, {}) == ["http://one.example/debian", "http://one.example/debian-security"]


def test_mirror_list_file(tmp_path: Path) -> None:
    path = tmp_path / "debian.list"
    path.write_text("# nearest first\nhttps://one.example/debian/ priority:1\n\nhttps://two.example/debian\n")
    assert mirror.debian_mirrors([Source(f"mirror+file://{path}", ("trixie",))], {}) == [
        "https://one.example/debian",
        "https://two.example/debian",
    ]


def test_the_variable_replaces_apt() -> None:
    environment = {mirror.MIRROR_VARIABLE: "http://mine.example/debian/  http://archive.example/debian"}
    assert mirror.debian_mirrors([Source("http://one.example/debian", ("bookworm",))], environment) == [
        "http://mine.example/debian",
        "http://archive.example/debian",
    ]


def test_ubuntu_is_told_what_to_set() -> None:
    with pytest.raises(MirrorError, match=mirror.MIRROR_VARIABLE):
        mirror.debian_mirrors([Source("http://archive.example/ubuntu", ("noble", "noble-updates"))], {})


@pytest.mark.parametrize(
    ("uri", "settings", "expected"),
    [
        ("http://a.example/x", {}, None),
        ("http://a.example/x", {"acquire::http::proxy": "http://p:3142"}, "http://p:3142"),
        ("http://a.example/x", {"acquire::http::proxy": "http://p:3142", "acquire::http::proxy::a.example": "DIRECT"}, ""),
        ("https://a.example/x", {"acquire::http::proxy": "http://p:3142"}, "http://p:3142"),
        ("https://a.example/x", {"acquire::http::proxy": "http://p:3142", "acquire::https::proxy": "DIRECT"}, ""),
    ],
)
def test_proxy_follows_apt(uri: str, settings: dict[str, str], expected: str | None) -> None:
    assert mirror.apt_proxy(uri, settings) == expected


VERSIONS = ["1.0~rc1", "1.0", "1.0-1~bpo13+1", "1.0-1", "1.0-1a", "1.0-1+b1", "1.0.1-1", "1.9-1", "1.10-1", "1:0.1-1"]


def test_versions_sort_as_in_deb_version_7() -> None:
    assert all(mirror.version_key(low) < mirror.version_key(high) for low, high in itertools.combinations(VERSIONS, 2))


INDEX = "\n".join(
    f"Package: {name}\nVersion: {version}\nDescription: an image\n Package: not-a-package\n"
    for name, version in [
        ("linux-image-6.12.9+deb13-amd64", "6.12.9-1"),
        ("linux-image-6.12.107+deb13-amd64", "6.12.107-1"),
        ("linux-image-6.12.200+deb13-cloud-amd64", "6.12.200-1"),
        ("linux-image-6.12.107+deb13-amd64-unsigned", "6.12.107-2"),
        ("linux-image-6.12.41+deb13-amd64", "6.12.41-1"),
    ]
)


def test_newest_matching_package() -> None:
    found = mirror.newest_stanza(INDEX, r"linux-image-(6\.12\.\d+\+deb13-amd64)")
    assert found is not None
    stanza, match = found
    assert (stanza["Version"], match[1]) == ("6.12.107-1", "6.12.107+deb13-amd64")


def test_no_matching_package() -> None:
    assert mirror.newest_stanza(INDEX, r"linux-image-(7\.\d+)") is None


RELEASE = """\
Suite: stable
Codename: trixie
Acquire-By-Hash: yes
SHA256:
 aa 10 main/binary-amd64/Packages
 bb 5 main/binary-amd64/Packages.xz
"""


def test_release_names_digests_and_sizes() -> None:
    release = mirror.parse_release(RELEASE, "http://one.example/debian", "trixie")
    assert release.by_hash
    assert release.files["main/binary-amd64/Packages.xz"] == ("bb", 5)


def test_release_of_another_suite_is_refused() -> None:
    with pytest.raises(MirrorError, match="asked for bullseye"):
        mirror.parse_release(RELEASE, "http://one.example/debian", "bullseye")


@pytest.fixture
def no_apt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "apt_dump", dict)


@pytest.mark.usefixtures("no_apt")
def test_download_reports_progress(tmp_path: Path) -> None:
    source, target, seen = tmp_path / "source", tmp_path / "target", []
    source.write_bytes(b"x" * 1000)
    mirror.download(
        source.as_uri(),
        target,
        sha256=hashlib.sha256(b"x" * 1000).hexdigest(),
        size=1000,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert target.read_bytes() == source.read_bytes()
    assert seen[-1] == (1000, 1000)


@pytest.mark.usefixtures("no_apt")
@pytest.mark.parametrize(("content", "size"), [(b"changed", 7), (b"good and more", 4)])
def test_download_refuses_another_digest_or_length(tmp_path: Path, content: bytes, size: int) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(content)
    with pytest.raises(MirrorError, match="the index promises"):
        mirror.download(source.as_uri(), target, sha256=hashlib.sha256(b"good").hexdigest(), size=size)
    assert not target.exists()


@pytest.mark.usefixtures("no_apt")
def test_suite_missing_everywhere_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(MirrorError, match=mirror.MIRROR_VARIABLE):
        mirror.fetch_release([tmp_path.as_uri()], ["bullseye"])


@pytest.mark.parametrize(
    ("status", "accepted"),
    [
        ("[GNUPG:] GOODSIG AA ftpmaster\n[GNUPG:] VALIDSIG AA\n", True),
        ("[GNUPG:] ERRSIG BB\n[GNUPG:] NO_PUBKEY BB\n[GNUPG:] GOODSIG AA ftpmaster\n[GNUPG:] VALIDSIG AA\n", True),
        ("[GNUPG:] GOODSIG AA ftpmaster\n[GNUPG:] VALIDSIG AA\n[GNUPG:] BADSIG BB ftpmaster\n", False),
        ("[GNUPG:] EXPKEYSIG AA ftpmaster\n[GNUPG:] VALIDSIG AA\n", False),
        ("[GNUPG:] ERRSIG BB\n[GNUPG:] NO_PUBKEY BB\n", False),
        ("", False),
    ],
)
def test_signature_needs_one_good_and_no_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str, accepted: bool) -> None:
    gpgv = tmp_path / "gpgv"
    gpgv.write_text(f'#!/bin/sh\nwhile [ "$1" != --output ]; do shift; done\necho signed >"$2"\nprintf %s "{status}"\nexit 2\n')
    gpgv.chmod(0o755)
    monkeypatch.setattr(mirror, "find_tool", lambda name: str(tmp_path / name))
    monkeypatch.setattr(mirror, "find_keyring", lambda: tmp_path / "keyring.gpg")
    if accepted:
        assert mirror.verify_inrelease(b"", "there") == "signed\n"
    else:
        with pytest.raises(MirrorError, match="does not verify"):
            mirror.verify_inrelease(b"", "there")
