# SPDX-License-Identifier: Apache-2.0
"""Policy files of files and directories."""

from __future__ import annotations

import os
from pathlib import Path

from bpfence.documents.files import policy_files, read_bytes
from bpfence.documents.placed import MAX_BYTES
from bpfence.documents.report import Report


def codes(report: Report) -> list[tuple[str, str]]:
    return [(Path(found.location.file).name, found.code) for found in report.diagnostics]


def test_a_directory_is_its_yaml_files_by_name(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yml", ".hidden.yaml", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "deeper.yaml").mkdir()
    report = Report()
    assert [path.name for path in policy_files(tmp_path, report)] == ["a.yml", "b.yaml"]
    assert codes(report) == [(".hidden.yaml", "not-read"), ("deeper.yaml", "not-read"), ("notes.txt", "not-read")]


def test_a_link_that_may_not_be_followed_is_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to("x" * 300)  # ENAMETOOLONG, as EACCES none of those that Path.is_dir passes over
    (tmp_path / "b").symlink_to("x" * 300)
    report = Report()
    assert policy_files(tmp_path, report) == [tmp_path / "a.yaml"]
    assert policy_files(tmp_path / "a.yaml", report) == [tmp_path / "a.yaml"]
    assert read_bytes(tmp_path / "a.yaml", report) is None
    assert codes(report) == [("b", "not-read"), ("a.yaml", "cannot-read")]


def test_an_empty_directory_is_told(tmp_path: Path) -> None:
    report = Report()
    assert policy_files(tmp_path, report) == []
    assert codes(report) == [(tmp_path.name, "no-rules")]


def test_a_file_is_itself_even_where_it_is_not_there(tmp_path: Path) -> None:
    assert policy_files(tmp_path / "none", Report()) == [tmp_path / "none"]


def test_only_regular_files_are_read_and_no_more_than_a_bound(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(b"#" * (MAX_BYTES + 9))
    report = Report()
    assert read_bytes(tmp_path / "fifo", report) is None
    assert read_bytes(tmp_path, report) is None
    assert read_bytes(tmp_path / "none", report) is None
    assert [code for _, code in codes(report)] == ["cannot-read"] * 3
    assert len(read_bytes(tmp_path / "large", report) or b"") == MAX_BYTES + 1
