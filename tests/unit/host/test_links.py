# SPDX-License-Identifier: Apache-2.0
"""Links of a tree: chains, roots, loops, directories that do not answer."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfence.conditions.links import Resolution
from bpfence.errors import Location
from bpfence.host.links import MAX_HANGING, Links


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for folder in ("usr/bin", "run", "opt/v2", "proc/self", "etc"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("usr/bin/sleep", "usr/bin/busybox", "usr/bin/python3.11", "opt/v2/tool", "run/sock"):
        (tmp_path / file).touch()
    links = {
        "bin": "usr/bin", "var": "./var-real/..", "usr/bin/python3": "python3.11", "usr/bin/nc": "busybox", "usr/bin/alt": "/etc/alt",
        "etc/alt": "../opt/current/tool", "opt/current": "v2", "loop": "loop2", "loop2": "loop", "out": "../../../../run",
        "fd": "/proc/self/fd", "gone": "/nowhere/x",
    }  # fmt: skip
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    return tmp_path


def found(tree: Path, path: str) -> Resolution:
    links = Links(str(tree))
    links.look_up([path])
    return links.find(path)


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/bin/sleep", ("/usr/bin/sleep",)),
        ("/bin", ("/usr/bin",)),
        ("/bin/python3", ("/usr/bin/python3.11", "/usr/bin/python3")),
        ("/usr/bin/python3", ("/usr/bin/python3.11",)),
        ("/usr/bin/alt", ("/opt/v2/tool",)),
        ("/bin/missing/x", ("/usr/bin/missing/x",)),
        ("/gone", ("/nowhere/x",)),
        ("/out/sock", ("/run/sock",)),  # a tree ends at its root, as a root directory does
        ("/usr/bin/sleep", ()),
        ("/nothing/here", ()),
        ("/loop/x", ()),
        ("/fd/1", ()),
        ("/proc/self/exe", ()),
        ("/bin/sl\0ep", ()),
    ],
)
def test_names(tree: Path, path: str, names: tuple[str, ...]) -> None:
    assert found(tree, path).names == names


def test_links_on_the_way_are_named_in_order(tree: Path) -> None:
    assert found(tree, "/bin/alt").links == (
        ("/bin", "usr/bin"), ("/usr/bin/alt", "/etc/alt"), ("/etc/alt", "../opt/current/tool"), ("/opt/current", "v2"),
    )  # fmt: skip


def test_a_program_of_many_names_is_not_a_name(tree: Path) -> None:
    assert found(tree, "/usr/bin/nc") == Resolution((), (("/usr/bin/nc", "busybox"),), "/usr/bin/busybox")
    assert found(tree, "/bin/nc").names == ("/usr/bin/nc",)
    assert found(tree, "/bin/busybox").names == ("/usr/bin/busybox",)  # it is meant itself


def test_the_name_that_the_kernel_reports(tree: Path) -> None:
    links = Links(str(tree))
    links.look_up(["/bin/python3", "/usr/bin/nc", "/etc/x"])
    assert links.reported("/bin/python3") == "/usr/bin/python3.11"
    assert links.reported("/bin/python3", itself=True) == "/usr/bin/python3"
    assert links.reported("/usr/bin/nc") == "/usr/bin/busybox"
    assert links.reported("/usr/bin/nc", itself=True) == "/usr/bin/nc"
    assert links.reported("/etc/x") == links.reported("/etc/x", itself=True) == "/etc/x"


def test_this_host() -> None:
    links = Links()
    expected = os.path.realpath("/bin/sh")
    links.look_up(["/bin/sh"])
    assert links.reported("/bin/sh") == expected
    assert links.where == "on this host"


def test_a_reload_reads_anew_and_keeps_what_cannot_be_read(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    links = Links(str(tree))
    links.look_up(["/bin/sleep", "/usr/bin/python3"])
    (tree / "usr/bin/python3").unlink()
    (tree / "usr/bin/python3").symlink_to("python3.12")
    links.look_up(["/bin/sleep", "/usr/bin/python3"])
    assert links.find("/usr/bin/python3").names == ("/usr/bin/python3.12",)

    def refuse(_: str) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "readlink", refuse)
    links.look_up(["/bin/sleep", "/usr/bin/alt"])
    assert links.find("/bin/sleep").names == ("/usr/bin/sleep",)
    assert links.find("/usr/bin/alt").names == ()
    assert links.late == ()


class Server:
    """A file system below /dead that does not answer until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tree: Path) -> None:
        self.answer = threading.Event()
        self.asked: list[str] = []
        real = os.readlink

        def readlink(path: str) -> str:
            if path.removeprefix(str(tree)).startswith("/dead"):
                self.asked.append(path)
                self.answer.wait(60)
            return real(path)

        monkeypatch.setattr(os, "readlink", readlink)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tree: Path) -> Iterator[Server]:
    made = Server(monkeypatch, tree)
    yield made
    made.answer.set()


def test_a_directory_that_hangs_costs_its_own_paths_and_little_time(tree: Path, server: Server) -> None:
    links = Links(str(tree), seconds=0.2)
    began = time.monotonic()
    links.look_up(["/bin/sleep", "/dead/a", "/dead/b/c", "/usr/bin/python3", "/dead"])
    assert time.monotonic() - began < 20
    assert links.find("/bin/sleep").names == ("/usr/bin/sleep",)
    assert links.find("/usr/bin/python3").names == ("/usr/bin/python3.11",)
    assert sorted(links.late) == ["/dead", "/dead/a", "/dead/b/c"]
    assert len(server.asked) == 1
    [warning] = links.findings(Location("p.yaml"))
    assert (warning.severity, warning.code) == ("warning", "link-unread")
    assert "/dead/a" in warning.message


def test_a_reload_does_not_wait_for_it_again_and_keeps_what_was_known(tree: Path, server: Server) -> None:
    (tree / "dead").symlink_to("usr")
    server.answer.set()
    links = Links(str(tree), seconds=0.2)
    links.look_up(["/dead/bin"])
    assert links.find("/dead/bin").names == ("/usr/bin",)
    server.answer.clear()
    asked = len(server.asked)
    for _ in range(MAX_HANGING + 2):
        links.look_up(["/dead/bin", "/bin/sleep"])
        assert links.find("/dead/bin").names == ("/usr/bin",)
        assert links.find("/bin/sleep").names == ("/usr/bin/sleep",)
    assert len(server.asked) == asked + 1


def test_with_too_many_that_hang_nothing_more_is_begun(tree: Path, server: Server) -> None:
    links = Links(str(tree), seconds=0.1)
    links.look_up([*(f"/dead{n}" for n in range(MAX_HANGING + 3)), "/bin/sleep"])
    assert len(links.late) == MAX_HANGING + 4
    assert len(server.asked) == MAX_HANGING
    assert links.find("/bin/sleep").names == ()


@pytest.mark.parametrize(
    ("first", "interpreter"),
    [
        (b"#!/usr/bin/python3 -E\nx", "/usr/bin/python3"),
        (b"#! /bin/sh", "/bin/sh"),
        (b"#!/usr/bin/env python3\n", "python3"),
        (b"#!/usr/bin/env -S python3 -u\n", "/usr/bin/env"),
        (b"#!\n", ""),
        (b"\x7fELF", ""),
        (b"", ""),
    ],
)
def test_a_script_is_known_by_its_first_line(tmp_path: Path, first: bytes, interpreter: str) -> None:
    tool = tmp_path / "tool"
    tool.write_bytes(first)
    tool.chmod(0o755)
    (tmp_path / "link").symlink_to("tool")
    links = Links(str(tmp_path))
    links.look_up(["/tool", "/link", "/", "/missing"])
    assert links.find("/tool") == Resolution(interpreter=interpreter)
    assert links.find("/link").interpreter == interpreter
    assert links.find("/").directory
    assert links.find("/missing") == Resolution()
    tool.chmod(0o644)
    links.look_up(["/tool"])
    assert links.find("/tool") == Resolution()


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o777)
    links = Links(str(tmp_path))
    links.look_up(["/fifo"])
    assert links.find("/fifo") == Resolution()
    assert not links.late


def test_a_directory_is_looked_at_once_for_all_paths_below(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    readlink = os.readlink
    monkeypatch.setattr(os, "readlink", lambda path: read.append(str(path).removeprefix(str(tree))) or readlink(path))
    links = Links(str(tree))
    links.look_up([f"/bin/{n}" for n in range(50)] + [f"/srv/none/{n}" for n in range(50)])
    assert links.find("/bin/7") == Resolution(("/usr/bin/7",), (("/bin", "usr/bin"),))
    assert links.find("/srv/none/7") == Resolution()
    assert sorted(read) == sorted(["/bin", "/usr", "/usr/bin", "/srv", *(f"/usr/bin/{n}" for n in range(50))])


def test_what_a_link_leads_to_now_counts(tree: Path) -> None:
    links = Links(str(tree))
    links.look_up(["/bin/sleep"])
    (tree / "bin").unlink()
    (tree / "bin").symlink_to("opt")
    links.look_up(["/bin/sleep"])
    assert links.find("/bin/sleep") == Resolution(("/opt/sleep",), (("/bin", "opt"),))
