# SPDX-License-Identifier: Apache-2.0
"""The kubelet's seccomp folder: files in place at once, never through links, never where others can write."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bpfence.errors import UsageError
from bpfence.host import kubelet
from bpfence.host.kubelet import MAX_DEPTH, SeccompFolder, parts


@pytest.fixture
def root(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    made = tmp_path / "seccomp"
    made.mkdir(mode=0o755)
    return made


def test_what_a_file_holds(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = SeccompFolder(root)
    assert folder.get("team/a.json") is None
    folder.put("team/a.json", b"{}")
    assert folder.get("team/a.json") == b"{}"
    monkeypatch.setattr(kubelet, "MAX_FILE", 1)
    assert folder.get("team/a.json") == b"{"
    (root / "b.json").symlink_to(root / "team/a.json")
    with pytest.raises(UsageError):
        folder.get("b.json")


@pytest.mark.parametrize("path", ["a.json", "team/a.json", "/".join("a" * MAX_DEPTH), "a b.json", "é.json"])
def test_paths(path: str) -> None:
    assert "/".join(parts(path)) == path


@pytest.mark.parametrize(
    "path",
    [
        "", "/a.json", "a/", "a//b", "../a.json", "a/../b", "./a", ".a.json", "a/.b/c", "a\nb", "a\0b", "\x1b[31m", "x" * 201,
        "/".join("a" * (MAX_DEPTH + 1)), "a/" * 3 + "x" * 2000, "\udc80.json",
    ],
)  # fmt: skip
def test_what_cannot_be_a_path(path: str) -> None:
    with pytest.raises(UsageError):
        parts(path)


def test_put(root: Path) -> None:
    folder = SeccompFolder(root)
    assert folder.put("team/web.json", b"1") == "new"
    assert folder.put("team/web.json", b"1") == "same"
    before = (root / "team" / "web.json").stat()
    assert folder.put("team/web.json", b"22") == "changed"
    path = root / "team" / "web.json"
    assert path.read_bytes() == b"22"
    assert path.stat().st_ino != before.st_ino  # whoever has the old one open still reads it whole
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o022) == (0o644, 0)
    assert os.listdir(path.parent) == ["web.json"]
    assert folder.put("team/web.json", b"2") == "changed"  # a beginning of what is there is not the same
    assert folder.paths() == ["team/web.json"]


def test_the_folder_is_made_where_a_kubelet_is(tmp_path: Path) -> None:
    assert SeccompFolder(tmp_path / "seccomp").put("a.json", b"") == "new"
    with pytest.raises(FileNotFoundError):
        SeccompFolder(tmp_path / "nowhere" / "seccomp").put("a.json", b"")
    assert SeccompFolder(tmp_path / "other").paths() == []


def test_the_folder_itself_may_be_a_link(root: Path) -> None:
    (root.parent / "link").symlink_to(root)
    SeccompFolder(root.parent / "link").put("a.json", b"1")
    assert (root / "a.json").read_bytes() == b"1"


def test_links_below_it_are_not_followed(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    victim = outside / "web.json"
    victim.write_bytes(b"precious")
    (root / "team").symlink_to(outside)
    (root / "web.json").symlink_to(victim)
    (root / "dangling.json").symlink_to(tmp_path / "made")
    folder = SeccompFolder(root)
    for path in ("team/web.json", "team/more/web.json", "web.json", "dangling.json"):
        with pytest.raises(UsageError, match="symbolic link"):
            folder.put(path, b"evil")
        with pytest.raises(UsageError, match="symbolic link"):
            folder.remove(path)
    assert victim.read_bytes() == b"precious"
    assert sorted(os.listdir(outside)) == ["web.json"]
    assert not (tmp_path / "made").exists()
    assert folder.paths() == []


def test_what_is_no_file(root: Path) -> None:
    (root / "folder.json").mkdir()
    os.mkfifo(root / "pipe.json")
    (root / "file").write_text("")
    for path in ("folder.json", "pipe.json", "file/a.json"):
        with pytest.raises(UsageError):
            SeccompFolder(root).put(path, b"1")
        with pytest.raises(UsageError):
            SeccompFolder(root).remove(path)
    assert SeccompFolder(root).paths() == ["file"]


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757, 0o1777])
def test_where_others_can_write(root: Path, mode: int) -> None:
    (root / "team").mkdir()
    (root / "team").chmod(mode)
    with pytest.raises(UsageError, match="others may write"):
        SeccompFolder(root).put("team/web.json", b"1")
    (root / "team").chmod(0o755)
    root.chmod(mode)
    with pytest.raises(UsageError, match="others may write"):
        SeccompFolder(root).put("web.json", b"1")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders to others")
def test_folders_of_others(root: Path) -> None:
    (root / "team").mkdir(mode=0o755)
    os.chown(root / "team", 1000, 1000)
    with pytest.raises(UsageError, match="others may write"):
        SeccompFolder(root).put("team/web.json", b"1")


def test_a_file_that_others_can_reach_is_made_anew(root: Path) -> None:
    folder = SeccompFolder(root)
    folder.put("a.json", b"1")
    os.link(root / "a.json", root.parent / "another-name")
    assert folder.put("a.json", b"1") == "changed"
    (root / "a.json").chmod(0o666)
    assert folder.put("a.json", b"1") == "changed"
    assert (root / "a.json").stat().st_mode & 0o777 == 0o644
    assert folder.put("a.json", b"1") == "same"


def test_nothing_is_left_of_what_failed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = SeccompFolder(root)
    folder.put("a.json", b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kubelet.os, "fsync", full)
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="No space"):
        folder.put("a.json", b"new")
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert os.listdir(root) == ["a.json"]
    assert (root / "a.json").read_bytes() == b"old"


def test_remove(root: Path) -> None:
    folder = SeccompFolder(root)
    for path in ("team/sub/a.json", "team/b.json"):
        folder.put(path, b"1")
    assert folder.remove("team/sub/a.json")
    assert os.listdir(root / "team") == ["b.json"]
    assert not folder.remove("team/sub/a.json")
    assert not folder.remove("elsewhere/a.json")
    assert folder.remove("team/b.json")
    assert os.listdir(root) == []


def test_paths_below(root: Path) -> None:
    folder = SeccompFolder(root)
    for path in ("a.json", "bpfence/shop/b.json", "bpfence/c.json"):
        folder.put(path, b"1")
    (root / ".hidden").write_text("")
    assert folder.paths() == ["a.json", "bpfence/c.json", "bpfence/shop/b.json"]
    assert folder.paths("bpfence") == ["bpfence/c.json", "bpfence/shop/b.json"]
    assert folder.paths("nothing") == []
