# SPDX-License-Identifier: Apache-2.0
"""The files that macro rows read and the copies of programs that they run."""

from __future__ import annotations

from pathlib import Path

from benchmarks import macro


def test_sources_are_the_same_every_time(tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        macro.write_sources(tmp_path / name)
        found.append({path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()})
    differing = {path for path, data in found[0].items() if found[1][path] != data}
    assert differing == {Path("nginx.conf")}  # it names the folder
    assert len(found[0]) > 2000


def test_a_copy_is_found_where_the_file_was_by_every_link_to_it(tmp_path: Path) -> None:
    shell = Path("/bin/sh")
    for _ in range(2):
        macro.copy(shell, tmp_path)
    copied = tmp_path / "bin" / "sh"
    assert copied.resolve().is_relative_to(tmp_path)
    assert copied.read_bytes() == shell.read_bytes()
    assert copied.is_symlink() is shell.is_symlink()


SCHEDSTAT = """\
version 16
timestamp 4294937216
cpu0 1 0 34 18 123 67 987654321 4321 33
domain0 MC 1 0 0 0
cpu1 0 0 0 0 0 0 5 6 7
"""


def test_processor_time() -> None:
    assert macro.processor_ns(SCHEDSTAT) == 987654321


def test_runs_agree_where_the_two_least_do() -> None:
    assert not macro.agree([])
    assert not macro.agree([1000])
    assert not macro.agree([1010, 1000, 1020])
    assert macro.agree([1010, 1000, 1002])
