# SPDX-License-Identifier: Apache-2.0
"""Files of seccomp profiles on a node: put in place, kept, and removed. tests/kubernetes has a real API server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bpfence.host.kubelet import SeccompFolder
from bpfence.k8s import install, objects
from bpfence.k8s.install import Installed, Installer
from bpfence.k8s.objects import NodeStatus, PolicyObject
from bpfence.k8s.status import Report
from tests.unit.k8s.server import Answer, FakeServer, until
from tests.unit.k8s.test_profiles import made, profile

KEY = "SeccompProfile shop/web"


class Told:
    """What would be written into statuses."""

    def __init__(self) -> None:
        self.last: dict[str, NodeStatus] = {}

    def put(self, key: str, report: Report) -> None:
        self.last[key] = report.status

    def drop(self, key: str) -> None:
        self.last.pop(key, None)


class Kept:
    """What a keeper would find in the file after an agent was killed, beside the files that there were then."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.is_dirty = False
        self.saved: list[tuple[dict[str, Installed], list[str]]] = []

    def changed(self) -> None:
        self.is_dirty = True

    def save(self) -> None:
        if self.is_dirty:
            self.is_dirty = False
            self.saved.append((self.rig.installer.record(), self.rig.files()))


class Rig:
    def __init__(self, folder: Path, record: dict[str, Installed] | None = None) -> None:
        self.server = FakeServer(lambda _: Answer(503, {"message": "away"}))
        self.said: list[str] = []
        self.kept = Kept(self)
        self.told = Told()
        self.folder = folder
        writer: Any = self.told
        self.installer = Installer(
            self.server.api, "n1", SeccompFolder(folder / "seccomp"), writer, self.kept, self.said.append, pause=0.01
        )
        self.installer.restore(record or {})
        self.installer.start()

    def listed(self, *found: PolicyObject, kind: str = "SeccompProfile") -> None:
        self.installer.profiles.listed_now(kind, list(found))

    def written(self) -> list[str]:
        return sorted(path for path, one in self.installer.record().items() if one.digest)

    def files(self) -> list[str]:
        return SeccompFolder(self.folder / "seccomp").paths() if (self.folder / "seccomp").exists() else []

    def close(self) -> None:
        self.installer.close()
        self.server.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    one = Rig(tmp_path)
    yield one
    one.close()


def test_a_profile_is_put_in_place_and_removed(rig: Rig) -> None:
    rig.listed(made())
    until(lambda: rig.told.last.get(KEY))
    assert (rig.told.last[KEY].observed, rig.told.last[KEY].generation) == (1, 1)
    assert rig.files() == ["bpfence/shop/web.json"]
    assert rig.installer.record().keys() == {"bpfence/shop/web.json"}
    rig.listed()
    until(lambda: not rig.files())
    until(lambda: not rig.installer.record())
    assert KEY not in rig.told.last
    assert rig.kept.is_dirty


def test_what_is_about_to_be_written_is_kept_first(rig: Rig) -> None:
    rig.listed(made())
    until(rig.written)
    rig.installer.profiles.put(made(generation=2, spec=profile("write")))
    until(lambda: rig.told.last[KEY].generation == 2)
    (first, before), (second, there) = rig.kept.saved[:2]
    path = "bpfence/shop/web.json"
    assert (first[path].digest, before) == ("", [])
    assert (second[path].digest, second[path].generation, there) == (first[path].next, 1, [path])
    assert rig.installer.record()[path] == Installed(second[path].next, 2)


@pytest.mark.parametrize("killed", [0, 1], ids=["before", "after"])
@pytest.mark.parametrize("edit", [0, 1], ids=["new", "changed"])
def test_a_file_of_an_agent_that_was_killed_is_removed_with_its_object(tmp_path: Path, killed: int, edit: int) -> None:
    """Killed before or after a file was written, with the record that was kept then."""
    first = Rig(tmp_path)
    file = tmp_path / "seccomp/bpfence/shop/web.json"
    states: list[bytes | None] = [None]
    for generation, call in ((1, "write"), (2, "close")):
        first.installer.profiles.put(made(generation=generation, spec=profile(call)))
        until(lambda generation=generation: KEY in first.told.last and first.told.last[KEY].generation == generation)
        states.append(file.read_bytes())
    first.close()
    state = states[edit + killed]
    file.unlink()
    if state is not None:
        file.write_bytes(state)
    later = Rig(tmp_path, first.kept.saved[edit][0])
    later.listed()
    until(lambda: not later.installer.record())
    assert later.files() == []
    later.close()


def test_nothing_is_removed_before_everything_is_known(tmp_path: Path) -> None:
    first = Rig(tmp_path)
    first.listed(made())
    first.listed(made(namespace=""), kind="ClusterSeccompProfile")
    until(lambda: len(first.written()) == 2)
    record = first.installer.record()
    first.close()
    later = Rig(tmp_path, record)
    later.listed(kind="ClusterSeccompProfile")
    until(lambda: later.files() == ["bpfence/shop/web.json"])
    later.listed()
    until(lambda: not later.files())
    later.close()


def test_what_is_beyond_the_end_of_a_list_that_is_cut_off_stays(tmp_path: Path) -> None:
    first = Rig(tmp_path)
    first.listed(made())
    until(first.written)
    record = first.installer.record()
    first.close()
    later = Rig(tmp_path, record)
    later.installer.profiles.put(made(name="another"))
    later.installer.profiles.watchers["SeccompProfile"].listed.set()
    until(lambda: len(later.written()) == 2)
    assert later.files() == ["bpfence/shop/another.json", "bpfence/shop/web.json"]
    assert not later.installer.profiles.listed
    later.listed(kind="ClusterSeccompProfile")
    assert later.installer.profiles.listed
    later.close()


def test_a_fault_of_one_object_does_not_end_the_thread(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    put = SeccompFolder.put

    def fail(folder: SeccompFolder, path: str, data: bytes) -> Any:
        if "another" in path:
            raise RuntimeError("a bug\x1b")
        return put(folder, path, data)

    monkeypatch.setattr(SeccompFolder, "put", fail)
    rig.listed(made(name="another"), made())
    until(lambda: rig.written() == ["bpfence/shop/web.json"])
    until(lambda: any("another cannot be seen to" in line for line in rig.said))  # among others, of lists that are away
    assert not any("\x1b" in line for line in rig.said)
    monkeypatch.undo()
    until(lambda: len(rig.written()) == 2)


def test_what_somebody_else_has_put_there_stays(rig: Rig) -> None:
    rig.listed(made())
    until(rig.written)
    file = rig.folder / "seccomp/bpfence/shop/web.json"
    file.write_text("theirs")
    rig.listed()
    until(lambda: not rig.installer.record())
    assert file.read_text() == "theirs"


def test_what_somebody_has_removed_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "AGAIN_SECONDS", 0.05)
    rig = Rig(tmp_path)
    rig.listed(made())
    until(rig.files)
    (rig.folder / "seccomp/bpfence/shop/web.json").unlink()
    until(rig.files)
    rig.close()


def test_a_broken_one_leaves_the_file(rig: Rig) -> None:
    rig.listed(made())
    until(lambda: rig.told.last.get(KEY))
    rig.listed(made({"profile": {"defaultAction": "x"}}, generation=2))
    until(lambda: rig.told.last[KEY].observed == 2)
    assert (rig.told.last[KEY].generation, rig.told.last[KEY].findings[0].path) == (1, "spec.profile.defaultAction")
    assert rig.files() == ["bpfence/shop/web.json"]


def test_a_folder_that_cannot_be_written_is_tried_again(rig: Rig) -> None:
    (rig.folder / "seccomp" / "bpfence").mkdir(parents=True)
    (rig.folder / "elsewhere").mkdir()
    os.symlink(rig.folder / "elsewhere", rig.folder / "seccomp/bpfence/shop")
    rig.listed(made())
    until(lambda: rig.told.last.get(KEY))
    status = rig.told.last[KEY]
    assert (status.generation, status.findings[0].code) == (0, "cannot-install")
    assert len([text for text in rig.said if "put in place" in text]) == 1
    (rig.folder / "seccomp/bpfence/shop").unlink()
    until(lambda: rig.told.last[KEY].generation == 1)
    assert list((rig.folder / "elsewhere").iterdir()) == []


def test_who_has_no_room_is_told(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "MAX_OBJECTS", 1)
    rig.listed(made(), made(profile("write"), name="late"))
    until(lambda: "SeccompProfile shop/late" in rig.told.last)
    status = rig.told.last["SeccompProfile shop/late"]
    assert (status.generation, status.findings[0].code, status.findings[0].path) == (0, "no-room", "metadata")
    until(lambda: rig.files() == ["bpfence/shop/web.json"])
