# SPDX-License-Identifier: Apache-2.0
"""What commands list."""

from __future__ import annotations

from pathlib import Path

from bpfence.dialects.tetragon.dialect import TETRAGON
from bpfence.dialects.tetragon.read import words
from bpfence.documents.files import SourceFile
from bpfence.host.links import Links
from tests.unit.dialects.tetragon.texts import kprobe, on, text


def test_types_of_arguments() -> None:
    tools = TETRAGON.tools()
    every = tools.fields("", kernel=False).json["tracing_types"]
    assert [one["type"] for one in every] == list(words.TYPES)
    read = {one["type"] for one in tools.fields("", kernel=True).json["tracing_types"]}
    assert {"file", "path", "int", "int32", "sockaddr", "linux_binprm", "cred", "char_buf"} <= read
    assert not read & {"kiocb", "iov_iter"}


def test_hooks() -> None:
    (hook,) = TETRAGON.tools().events("security_mmap").json["tracing_hooks"]
    assert (hook["section"], hook["event"], list(hook["args"])) == ("kprobes, fentries", "file.mmap", ["0", "1", "2"])


def test_what_has_sensors() -> None:
    listed = TETRAGON.tools().events("any ").json["tracing_hooks"]
    assert [(one["section"], one["event"]) for one in listed] == [
        ("kprobes, fentries", "sensor.kprobe"),
        ("tracepoints", "sensor.tracepoint"),
        ("uprobes", "sensor.uprobe"),
        ("usdts", "sensor.usdt"),
    ]
    assert "sock" in listed[0]["args"]["*"]
    assert "sock" not in listed[1]["args"]["*"]


def test_check_tells_selectors_that_nothing_passes(tmp_path: Path) -> None:
    selectors = [{"matchPIDs": [{"operator": "In", "values": [1]}, {"operator": "In", "values": [2]}]}, on(0, "Equal", "/etc//x")]
    given = text(kprobes=[kprobe(*selectors)])
    found, _ = TETRAGON.tools().check([SourceFile("p.yaml", given.encode())], Links(str(tmp_path)))
    assert sorted(one.code for one in found) == ["never-matches", "unreachable-rule"]
    assert all(one.severity == "warning" and one.location.line for one in found)
