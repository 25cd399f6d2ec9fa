# SPDX-License-Identifier: Apache-2.0
"""A thread under Landlock writes below the folders that it was left, and nowhere else."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from bpfence.kernel import landlock

needs_landlock = pytest.mark.skipif(not landlock.version(), reason="this kernel lacks Landlock")


def under(folders: list[Path], act: Callable[[], object], removable: tuple[Path, ...] = ()) -> int:
    """The errno of an act on a thread that was restricted first; 0 where it worked. The thread ends, and the restriction with it."""
    found = [0]

    def work() -> None:
        landlock.restrict(folders, removable)
        try:
            act()
        except OSError as error:
            found[0] = error.errno or -1

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return found[0]


@needs_landlock
def test_files_are_written_below_the_folders_alone(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "there").write_text("kept")
    assert under([inside], lambda: (inside / "new").write_text("x")) == 0
    assert under([inside], (inside / "new").unlink) == 0
    assert under([inside], lambda: (outside / "new").write_text("x")) == errno.EACCES
    assert under([inside], lambda: (outside / "there").write_text("x")) == errno.EACCES
    assert under([inside], (outside / "there").unlink) == errno.EACCES
    assert under([inside], (outside / "there").read_text) == 0
    assert (outside / "there").read_text() == "kept"


@needs_landlock
def test_an_empty_folder_may_be_taken_from_where_that_is_allowed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert under([], (tmp_path / "a").rmdir) == errno.EACCES
    assert under([], (tmp_path / "b").rmdir, (tmp_path,)) == 0
    assert under([], lambda: (tmp_path / "c").write_text(""), (tmp_path,)) == errno.EACCES


@needs_landlock
def test_nothing_is_executed(tmp_path: Path) -> None:
    assert under([tmp_path], lambda: subprocess.run([sys.executable, "-c", ""], check=True)) == errno.EACCES


@needs_landlock
def test_folders_that_are_not_there_are_left_out(tmp_path: Path) -> None:
    assert under([tmp_path / "missing", tmp_path], lambda: (tmp_path / "new").write_text("x")) == 0


def test_a_kernel_without_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "version", lambda: 0)
    with pytest.raises(OSError) as caught:
        landlock.restrict([])
    assert caught.value.errno == errno.EOPNOTSUPP
