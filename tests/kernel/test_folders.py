# SPDX-License-Identifier: Apache-2.0
"""What is kept of a folder's path never decides about another path.

Each test acts on a file of a folder until something is kept of that, changes one thing about the folder or the policies, and acts again.
The twin of each is the first act.
"""

from __future__ import annotations

import functools
import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bpfence.kernel.features import Answer, probe
from tests.kernel.cases import Case
from tests.kernel.harness import TRIGGER, Range, cgroup_folder, enter, go_out, make_files, outside
from tests.kernel.test_uncertain import kernel_map

CASE = Case(
    name="folders",
    event="file.open",
    files={"open/file": "", "open/below/file": "", "followed/below/file": ""},
    rules=[
        {"name": "closed", "on": "file.modify", "match": {"file.path": "{dir}/closed/**"}, "action": "deny", "rate": "100000/s"},
        {"name": "one", "on": "file.modify", "match": {"file.path": "{dir}/open/*denied*"}, "action": "deny", "rate": "100000/s"},
        {"name": "followed", "on": "file.modify", "follow": "object", "match": {"file.path": "{dir}/followed/**"}, "action": "deny"},
    ],
)
FOLDERS = 1024
FOLDER = struct.Struct("<10Q8Q32Q")
"""struct folder of bpf/maps.h."""


def go_in() -> None:
    enter(cgroup_folder(CASE.cgroup))


@pytest.fixture(scope="module")
def inside(shooting: Range) -> Iterator[Path]:
    """The folder of CASE, its policy in force, this process within its scope."""
    with shooting.within(CASE) as folder:
        yield folder


@pytest.fixture
def folder(inside: Path) -> Path:
    """The files as they are at the beginning, something kept of folder `open`."""
    go_out()
    outside("rm", "-rf", *(str(inside / name) for name in ("open", "closed", "other")))
    make_files(CASE)
    (inside / "closed").mkdir()
    go_in()
    for _ in range(3):
        assert writable(inside / "open/file")
        assert writable(inside / "open/below/file")
    return inside


def allowed(act: Callable[[], object]) -> bool:
    try:
        act()
    except PermissionError:
        return False
    return True


def writable(path: Path) -> bool:
    return allowed(lambda: os.close(os.open(path, os.O_WRONLY)))


@functools.cache
def lacking() -> tuple[str, ...]:
    """What keeps anything from being kept of folders: programs cannot follow names by plain loads, or one of an LSM hook can be skipped."""
    features = probe()
    missing = tuple(name for name in ("rdonly_cast", "inode_storage", "lsm_not_skipped") if features.answer(name) is not Answer.YES)
    return missing or (() if features.flavour == "lsm" else ("BPF LSM",))


def skip_where_nothing_is_kept() -> None:
    """With the reason."""
    if lacking():
        pytest.skip(f"kernel: nothing is kept of folders without {', '.join(lacking())}")


def kept() -> list[tuple[int, ...]]:
    """What the kernel's programs keep of folders: one struct folder an entry."""
    with kernel_map("folders") as folders:
        return [FOLDER.unpack(folders.get(struct.pack("<I", index)) or bytes(FOLDER.size)) for index in range(FOLDERS)]


def test_something_is_kept(folder: Path) -> None:
    skip_where_nothing_is_kept()
    assert any(entry[3] and any(entry[10:18]) for entry in kept())


def test_each_name_of_a_folder_is_looked_at(folder: Path) -> None:
    outside("touch", str(folder / "open/denied"), str(folder / "open/other"))
    for _ in range(3):
        assert writable(folder / "open/file")
        assert not writable(folder / "open/denied")
        assert writable(folder / "open/other")


@pytest.mark.parametrize("deeper", ["", "below"])
def test_the_folder_is_renamed(folder: Path, deeper: str) -> None:
    outside("mv", "-T", str(folder / "open"), str(folder / "closed"))
    for _ in range(3):
        assert not writable(folder / "closed" / deeper / "file")
    outside("mv", "-T", str(folder / "closed"), str(folder / "open"))
    for _ in range(3):
        assert writable(folder / "open" / deeper / "file")


def test_folders_change_places(folder: Path) -> None:
    outside("touch", str(folder / "closed/file"))
    assert not writable(folder / "closed/file")
    outside(str(TRIGGER), "exchange", str(folder / "open"), str(folder / "closed"))
    assert not writable(folder / "closed/file")
    assert writable(folder / "open/file")


def test_a_mount_is_made_of_the_folder(folder: Path) -> None:
    outside("mount", "--bind", str(folder / "open"), str(folder / "closed"))
    try:
        for _ in range(3):
            assert not writable(folder / "closed/file")
            assert not writable(folder / "closed/below/file")
            assert writable(folder / "open/file")
    finally:
        outside("umount", str(folder / "closed"))
    assert writable(folder / "open/below/file")


def test_a_mount_is_moved(folder: Path) -> None:
    (folder / "other").mkdir()
    outside("mount", "-t", "tmpfs", "none", str(folder / "other"))
    place = folder / "other"
    try:
        outside("mount", "--make-private", str(place))
        outside("mkdir", str(place / "below"))
        outside("touch", str(place / "file"), str(place / "below/file"))
        assert writable(place / "below/file")
        assert writable(place / "file")
        outside("mount", "--move", str(place), str(folder / "closed"))
        place = folder / "closed"
        assert not writable(place / "below/file")
        assert not writable(place / "file")
    finally:
        outside("umount", str(place))


@pytest.mark.parametrize("turn", range(5))
def test_a_folder_at_the_same_address(folder: Path, turn: int) -> None:
    """What the kernel makes of a name that is gone may come to lie where that lay."""
    outside("rm", "-r", str(folder / "open/below"))
    outside("mkdir", str(folder / "closed/below"))
    outside("touch", str(folder / "closed/below/file"))
    assert not writable(folder / "closed/below/file")
    outside("rm", "-r", str(folder / "closed/below"))
    outside("mkdir", str(folder / "open/below"))
    outside("touch", str(folder / "open/below/file"))
    assert writable(folder / "open/below/file")


def test_many_folders_that_share_entries(folder: Path) -> None:
    """More than there is room for, allowed and denied in turn."""
    names = [f"{kind}/{number}" for number in range(FOLDERS // 8) for kind in ("open", "closed", "other")]
    go_out()
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "file").touch()
    go_in()
    for _ in range(2):
        found = [name for name in names if not writable(folder / name / "file")]
        assert found == [name for name in names if name.startswith("closed/")]


def test_another_mount_namespace(folder: Path) -> None:
    """There the same folder has another path: it is denied by that one, and by none of the first."""
    writes = f"for n in 1 2 3; do echo x > {folder}/open/file; done"
    script = f"mount --bind {folder}/open {folder}/closed && {writes} && ! echo x > {folder}/closed/file"
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "denied" in done.stderr.lower() or "permitted" in done.stderr.lower()
    assert writable(folder / "open/file")


def test_other_policies_come_into_force(folder: Path, shooting: Range) -> None:
    document = CASE.policy()
    document["spec"]["rules"][0]["match"] = {"file.path": str(folder / "open/**")}
    shooting.agent.write_policy(CASE.name, document)
    shooting.agent.reload()
    assert not writable(folder / "open/file")
    assert not writable(folder / "open/below/file")
    shooting.agent.write_policy(CASE.name, CASE.policy())
    shooting.agent.reload()
    assert writable(folder / "open/file")


def test_what_is_followed_stays_followed(folder: Path) -> None:
    """By its own path, and where the folder is seen under another."""
    for _ in range(3):
        assert not writable(folder / "followed/below/file")
    (folder / "other").mkdir()
    outside("mount", "--bind", str(folder / "followed/below"), str(folder / "other"))
    try:
        for _ in range(3):
            assert not writable(folder / "other/file")
    finally:
        outside("umount", str(folder / "other"))


def test_a_followed_file_among_others(folder: Path, shooting: Range) -> None:
    """It is its own inode that is followed, in a folder that is not."""
    document = CASE.policy()
    document["spec"]["rules"][2]["match"] = {"file.path": str(folder / "open/file")}
    shooting.agent.write_policy(CASE.name, document)
    shooting.agent.reload()
    try:
        outside("ln", str(folder / "open/file"), str(folder / "open/link"))
        outside("touch", str(folder / "open/third"))
        for _ in range(3):
            assert writable(folder / "open/third")
            assert not writable(folder / "open/link")
            assert not writable(folder / "open/file")
    finally:
        shooting.agent.write_policy(CASE.name, CASE.policy())
        shooting.agent.reload()


ACTS: dict[str, Callable[[Path], object]] = {
    "create": lambda name: os.mknod(name / "new"),
    "mkdir": lambda name: (name / "new").mkdir(),
    "symlink": lambda name: (name / "new").symlink_to("nowhere"),
    "link": lambda name: os.link(name / "file", name / "new"),
    "link here": lambda name: os.link(name.parents[1] / "open/source", name / "new"),
    "unlink": lambda name: os.unlink(name / "file"),
    "rename": lambda name: os.rename(name / "file", name / "new"),
    "rename here": lambda name: os.rename(name.parents[1] / "open/source", name / "new"),
    "rmdir": lambda name: os.rmdir(name / "empty"),
    "truncate": lambda name: os.truncate(name / "file", 0),
    "chmod": lambda name: os.chmod(name / "file", 0o600),
    "chown": lambda name: os.chown(name / "file", 1, 1),
    "setxattr": lambda name: os.setxattr(name / "file", "trusted.x", b"1"),
    "utimes": lambda name: os.utime(name / "file", (1, 1)),
}


@pytest.mark.parametrize("act", ACTS)
def test_every_act_in_a_folder(folder: Path, act: str) -> None:
    """As the first one after something else, and when something is kept: allowed and denied in turn."""
    for _ in range(2):
        for name, wanted in (("open/below", True), ("closed/below", False)):
            go_out()
            outside("rm", "-rf", str(folder / name))
            (folder / name / "empty").mkdir(parents=True)
            (folder / name / "file").touch()
            (folder / "open/source").touch()
            go_in()
            assert writable(folder / name / "file") is wanted
            assert allowed(lambda place=folder / name: ACTS[act](place)) is wanted
