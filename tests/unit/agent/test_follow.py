# SPDX-License-Identifier: Apache-2.0
"""Paths become identities, and changes on the way to them are noticed."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfence.agent import follow
from bpfence.agent.follow import (
    IN_CREATE,
    IN_DELETE_SELF,
    IN_Q_OVERFLOW,
    Lookup,
    Watch,
    kernel_device,
    linked,
    relevant,
    target,
)
from bpfence.patience import Patience


@pytest.mark.parametrize(
    ("path", "looked_up"), [("/etc/shadow", "/etc/shadow"), ("/etc/ssl/**", "/etc/ssl"), ("/**", "/"), ("/a/b**", "/a/b**")]
)
def test_target(path: str, looked_up: str) -> None:
    assert target(path) == looked_up


def test_resolve_gives_inode_device_and_bits(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    (tmp_path / "hard").hardlink_to(tmp_path / "a")
    (tmp_path / "soft").symlink_to(tmp_path / "a")
    (tmp_path / "d").mkdir()
    paths = [f"{tmp_path}/{name}" for name in ("a", "none", "d/**", "hard", "soft", "x\0y")]
    found = Lookup().resolve(paths)
    file, folder = (tmp_path / "a").stat(), (tmp_path / "d").stat()
    device = os.major(file.st_dev) << 20 | os.minor(file.st_dev)
    assert found.objects == {(file.st_ino, device): 0b11001, (folder.st_ino, device): 0b100}
    assert found.missing == (paths[1], paths[5])


def test_files_of_a_followed_directory_are_found_by_their_other_names(tmp_path: Path) -> None:
    (tmp_path / "d" / "deep").mkdir(parents=True)
    for name in ("d/one", "d/deep/two", "d/alone"):
        (tmp_path / name).write_text("")
    (tmp_path / "out").hardlink_to(tmp_path / "d/one")
    (tmp_path / "d/again").hardlink_to(tmp_path / "d/deep/two")
    (tmp_path / "d/soft").symlink_to(tmp_path / "d/one")
    found = Lookup().resolve([f"{tmp_path}/d", f"{tmp_path}/d/**"])
    keys = {name: ((tmp_path / name).stat().st_ino, kernel_device(tmp_path.stat().st_dev)) for name in ("d", "d/one", "d/deep/two")}
    assert found.objects == {keys["d"]: 0b11, keys["d/one"]: 0b10, keys["d/deep/two"]: 0b10}
    assert found.partly == ()


def test_a_directory_with_too_much_below_is_told(tmp_path: Path) -> None:
    for n in range(4):
        (tmp_path / f"f{n}").write_text("")
        (tmp_path / f"g{n}").hardlink_to(tmp_path / f"f{n}")
    inodes = {path.stat().st_ino for path in tmp_path.iterdir()}
    assert linked(str(tmp_path), tmp_path.stat()) == ({(inode, kernel_device(tmp_path.stat().st_dev)) for inode in inodes}, True)
    assert not linked(str(tmp_path), tmp_path.stat(), entries=7)[1]
    assert not linked(str(tmp_path), tmp_path.stat(), links=2)[1]
    assert linked("/proc", os.stat("/proc"), entries=0) == (set(), True), "the root of a file system holds every name of its files"


def test_kernel_device() -> None:
    assert kernel_device(os.makedev(259, 3)) == 259 << 20 | 3
    assert kernel_device(os.makedev(0, 300)) == 300


def test_every_directory_on_the_way_is_watched_also_behind_links(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    wanted, complete = Lookup().watched_names([f"{tmp_path}/link/f"])
    assert complete
    assert {"link", "real"} <= wanted[str(tmp_path)]
    assert wanted[f"{tmp_path}/link"] == wanted[f"{tmp_path}/real"] == {"f"}
    assert tmp_path.parts[1] in wanted["/"]


@pytest.fixture
def watch() -> Iterator[Watch]:
    made = Watch()
    yield made
    made.close()


def test_watch(tmp_path: Path, watch: Watch) -> None:
    (tmp_path / "d").mkdir()
    assert watch.set_paths([f"{tmp_path}/d/f"])
    assert not watch.changed()
    (tmp_path / "d" / "other").write_text("")
    (tmp_path / "other").write_text("")
    assert not watch.changed()
    (tmp_path / "d" / "f").write_text("")
    assert watch.changed()
    assert not watch.changed()
    (tmp_path / "d").rename(tmp_path / "e")
    assert watch.changed()
    (tmp_path / "d").mkdir()
    assert watch.changed()


def test_paths_that_are_no_longer_wanted_are_not_watched(tmp_path: Path, watch: Watch) -> None:
    watch.set_paths([f"{tmp_path}/f"])
    watch.set_paths([])
    watch.changed()
    (tmp_path / "f").write_text("")
    assert not watch.changed()


def event(descriptor: int, mask: int, name: bytes) -> bytes:
    padded = name + b"\0" * (-len(name) % 16)
    return struct.pack("=iIII", descriptor, mask, 0, len(padded)) + padded


def test_relevant() -> None:
    names = {1: {b"f"}}
    assert relevant(event(1, IN_CREATE, b"x") + event(1, IN_CREATE, b"f"), names)
    assert relevant(event(1, IN_DELETE_SELF, b""), names)
    assert relevant(event(-1, IN_Q_OVERFLOW, b""), names)
    assert not relevant(event(1, IN_CREATE, b"x"), names)
    assert not relevant(event(2, IN_DELETE_SELF, b""), names)


@given(st.binary(max_size=200))
def test_garbage_never_raises(data: bytes) -> None:
    assert relevant(data, {}) in (True, False)


def test_a_path_that_does_not_answer_names_what_it_did_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system over the network or in user space whose server is gone."""
    (tmp_path / "good").touch()
    release = threading.Event()
    stat = os.stat

    asked: list[str] = []

    def hanging(path: str) -> os.stat_result:
        asked.append(path)
        if path == "/net/file":
            release.wait(300)
        return stat(path)

    lookup = Lookup(Patience(0.05, 1))
    monkeypatch.setattr(follow.os, "stat", hanging)
    paths = [str(tmp_path / "good"), "/net/file", "/not/there"]
    found = lookup.resolve(paths, {(7, 8): 0b010, (9, 9): 0b001})
    good = (stat(tmp_path / "good").st_ino, kernel_device(stat(tmp_path / "good").st_dev))
    assert found.objects == {good: 0b001, (7, 8): 0b010}
    assert (found.missing, found.silent) == (("/not/there",), ("/net/file",))
    assert lookup.resolve(paths).silent == ("/net/file",)
    assert asked.count("/net/file") == 1, "no second thread for it, and no more waiting"
    release.set()


def test_watches_that_hang_are_no_watches(tmp_path: Path) -> None:
    release = threading.Event()
    watch = Watch(Lookup(Patience(0.02, 1)))
    watch._add = lambda _: release.wait(30) or -1  # type: ignore[method-assign]
    assert watch.set_paths([str(tmp_path / "f")]) is False
    release.set()
    watch.close()
