# SPDX-License-Identifier: Apache-2.0
"""Pins need a BPF file system: these tests mount one in a mount name space of their own, which no one else sees."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from bpfence.errors import KernelError
from bpfence.kernel import pins
from bpfence.kernel.pins import Pins, instances, unload

ROOT = Path(__file__).resolve().parents[3]
PROLOGUE = """\
import os, struct, sys
from pathlib import Path
from bpfence.errors import KernelError
from bpfence.kernel import libbpf, pins
from bpfence.kernel.libbpf import Map
from bpfence.kernel.pins import Pins, instances, link_names, open_map, unload

place = Path(sys.argv[1])
libbpf.mount_bpffs(place)
folder = place / "bpfence"

def array(name, value):
    return Map(name, libbpf.new_page("test", 8, memoryview(struct.pack("<Q", value))))

def value(table):
    return struct.unpack("<Q", table.get(bytes(4)))[0]

def refused(action):
    try:
        action()
    except KernelError as error:
        return str(error)
    raise AssertionError("not refused")
"""


@pytest.fixture
def in_bpffs(tmp_path: Path, needs: Callable[..., None]) -> Callable[[str], None]:
    """Runs statements with `folder` in a BPF file system."""
    needs("cap_bpf", "cap_sys_admin")

    def run(script: str) -> None:
        command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", PROLOGUE + script, str(tmp_path)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr

    return run


def test_maps_come_back(in_bpffs: Callable[[str], None]) -> None:
    in_bpffs("""
mine = Pins.open(folder, "one")
assert mine.maps(["control"]) is None
mine.pin_maps({"control": array("control", 7), ".rodata": array(".rodata", 8)})
mine.close()
again = Pins.open(folder, "one")
maps = again.maps(["control", ".rodata"])
assert (value(maps["control"]), value(maps[".rodata"])) == (7, 8)
assert again.maps(["control", "missing"]) is None
assert again.links() == {}
assert instances(folder) == ("one",)
assert value(open_map(folder, "one", "control")) == 7
assert oct(os.stat(folder).st_mode)[-3:] == oct(os.stat(folder / "one").st_mode)[-3:] == "700"
""")


def test_a_map_in_the_place_of_another(in_bpffs: Callable[[str], None]) -> None:
    in_bpffs("""
mine = Pins.open(folder, "one")
mine.pin_maps({"a": array("a", 1), "b": array("b", 2)})
libbpf.pin(array("a", 9).fd, folder / "one" / "new_map_a")  # of an agent that was killed before it was in place
mine.replace_map(array("a", 3))
assert {name: value(table) for name, table in mine.maps(["a", "b"]).items()} == {"a": 3, "b": 2}
assert sorted(path.name for path in (folder / "one").iterdir()) == ["map_a", "map_b"]
""")


def test_one_agent_at_a_time(in_bpffs: Callable[[str], None]) -> None:
    in_bpffs("""
first = Pins.open(folder, "one")
control = array("control", 4242 << 32 | 3)
first.pin_maps({"control": control})
assert "pid 4242" in refused(lambda: Pins.open(folder, "two"))
assert "in use" in refused(lambda: unload(folder))
first.close()
Pins.open(folder, "two").close()
""")


def test_others_are_removed_and_ours_stays(in_bpffs: Callable[[str], None]) -> None:
    in_bpffs("""
old = Pins.open(folder, "old")
old.pin_maps({"a": array("a", 1)})
old.pin_link("file_open__file", array("link", 0).fd)
assert link_names(folder, "old") == ("file_open__file",)
old.close()
new = Pins.open(folder, "new")
new.pin_maps({"a": array("a", 2)})
assert instances(folder) == ("new", "old")
new.remove_others()
assert instances(folder) == ("new",)
assert value(new.maps(["a"])["a"]) == 2
""")


def test_a_link_that_is_taken_away_while_somebody_looks(in_bpffs: Callable[[str], None]) -> None:
    """As `bpfence status` does, without the lock, beside an agent that is about to have other programs."""
    in_bpffs("""
mine = Pins.open(folder, "one")
mine.pin_maps({"a": array("a", 1)})
for name in ("p", "q"):
    mine.pin_link(name, array("link", 0).fd)
listed = pins.link_names(folder, "one")
(folder / "one" / "link_p").unlink()
pins._names = lambda *_: listed
assert set(pins.pinned_links(folder, "one")) == {"q"}
mine.remove_own()
""")


def test_unload_leaves_nothing(in_bpffs: Callable[[str], None]) -> None:
    in_bpffs("""
for name in ("one", "two"):
    pinned = Pins.open(folder, name)
    pinned.pin_maps({"a": array("a", 1)})
    pinned.close()
assert unload(folder) == ("one", "two")
assert not folder.exists()
assert unload(folder) == ()
""")


def test_links_go_before_what_they_need(in_bpffs: Callable[[str], None]) -> None:
    in_bpffs("""
mine = Pins.open(folder, "one")
mine.pin_maps({"a": array("a", 1), "z": array("z", 1)})
mine.pin_engine("p", array("engine", 0).fd)
mine.pin_link("p", array("link", 0).fd)
assert set(mine.engines()) == {"p"}
order = []
unlink = Path.unlink
def noted(path, missing_ok=False):
    order.append(path.name)
    unlink(path, missing_ok=missing_ok)
Path.unlink = noted
mine.remove_own()
assert order == ["link_p", "engine_p", "map_a", "map_z"], order
assert instances(folder) == ()
""")


def test_folder_that_others_can_write_is_refused(in_bpffs: Callable[[str], None]) -> None:
    in_bpffs("""
folder.mkdir(mode=0o700)
os.chmod(folder, 0o777)
assert "mode 777" in refused(lambda: Pins.open(folder, "one"))
""")


def test_folder_outside_bpffs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="not in a BPF file system"):
        Pins.open(tmp_path / "bpfence", "one")
    assert not (tmp_path / "bpfence").exists()


def test_relative_folder_is_refused() -> None:
    with pytest.raises(KernelError, match="absolute"):
        Pins.open(Path("bpfence"), "one")


def test_nothing_pinned(tmp_path: Path) -> None:
    assert instances(tmp_path / "missing") == ()
    assert unload(tmp_path / "missing") == ()


def test_removing_what_is_gone_is_no_error(tmp_path: Path) -> None:
    pins.remove_instance(tmp_path / "missing")
    (tmp_path / "there").mkdir()
    pins.remove_instance(tmp_path / "there")
    assert not (tmp_path / "there").exists()


# ---- a BPF file system that refuses ----

FAULTS = (errno.ENOSPC, errno.ENOMEM, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.EMFILE, errno.EIO)
ACTIONS: dict[str, Callable[[Path], object]] = {
    "open": lambda folder: Pins.open(folder, "one"),
    "maps": lambda folder: Pins(folder, "one", -1).maps(["control"]),
    "pin_maps": lambda folder: Pins(folder, "one", -1).pin_maps({"control": SimpleNamespace(fd=0)}),  # type: ignore[dict-item]
    "pin_link": lambda folder: Pins(folder, "one", -1).pin_link("file_open__file", 0),
    "pin_engine": lambda folder: Pins(folder, "one", -1).pin_engine("file_open__file", 0),
    "engines": lambda folder: Pins(folder, "one", -1).engines(),
    "remove_link": lambda folder: Pins(folder, "one", -1).remove_link("file_open__file"),
    "remove_own": lambda folder: Pins(folder, "one", -1).remove_own(),
    "remove_others": lambda folder: Pins(folder, "two", -1).remove_others(),
    "links": lambda folder: Pins(folder, "one", -1).links(),
    "open_map": lambda folder: pins.open_map(folder, "one", "control"),
    "link_names": lambda folder: pins.link_names(folder, "one"),
    "instances": instances,
    "unload": unload,
}


GONE_IS_FINE = ("maps", "remove_link", "remove_own", "remove_others", "instances", "unload")


def _failing(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Every way to the file system gives an errno: the binding's and the operating system's."""

    def fail(*_: object, **__: object) -> object:
        raise OSError(number, os.strerror(number))

    binding = SimpleNamespace(bpf_obj_pin=lambda *_: -number, bpf_obj_get=lambda *_: -number)
    monkeypatch.setattr(pins.libbpf, "lib", binding)
    for owner, names in ((Path, ("mkdir", "unlink", "rmdir", "iterdir")), (pins.os, ("scandir", "open"))):
        for name in names:
            monkeypatch.setattr(owner, name, fail)


@pytest.mark.parametrize("number", FAULTS, ids=errno.errorcode.get)
@pytest.mark.parametrize("action", ACTIONS)
def test_what_the_file_system_refuses_is_told_with_what_helps(
    action: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bpfence"
    (folder / "one").mkdir(parents=True)
    (folder / "one" / "link_file_open__file").touch()
    monkeypatch.setattr(pins.libbpf, "is_bpffs", lambda _: True)
    with monkeypatch.context() as failing:
        _failing(failing, number)
        if number == errno.ENOENT and action in GONE_IS_FINE:
            with contextlib.suppress(KernelError):  # nothing there is no mistake, or nothing that can be locked
                ACTIONS[action](folder)
            return
        with pytest.raises(KernelError) as told:
            ACTIONS[action](folder)
    assert os.strerror(number) in str(told.value)
    assert str(folder) in str(told.value)
    assert "verifier" not in str(told.value)
    helps = {errno.EROFS: "writable", errno.EACCES: "root", errno.EPERM: "root", errno.EMFILE: "ulimit", errno.ENOSPC: "memory"}
    assert helps.get(number, "") in told.value.hint
    assert told.value.hint


def test_a_read_only_file_system(in_bpffs: Callable[[str], None]) -> None:
    in_bpffs("""
import subprocess
first = Pins.open(folder, "one")
first.pin_maps({"a": array("a", 1)})
subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
link = array("link", 0)
for action in (lambda: first.maps(["a"]), lambda: first.pin_link("p", link.fd), lambda: first.pin_maps({"b": array("b", 1)}),
               first.remove_own, lambda: Pins.open(place / "other", "one")):
    assert "Read-only file system" in refused(action)
first.close()
assert "Read-only file system" in refused(lambda: unload(folder))
assert instances(folder) == ("one",)
""")
