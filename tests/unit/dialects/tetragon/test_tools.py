# SPDX-License-Identifier: Apache-2.0
"""What commands list."""

from __future__ import annotations

from bpfence.dialects.tetragon.dialect import TETRAGON
from bpfence.dialects.tetragon.read import words


def test_types_of_arguments() -> None:
    tools = TETRAGON.tools()
    every = tools.fields("", kernel=False).json["tracing_types"]
    assert [one["type"] for one in every] == list(words.TYPES)
    read = {one["type"] for one in tools.fields("", kernel=True).json["tracing_types"]}
    assert {"file", "path", "int", "int32", "sockaddr", "linux_binprm"} <= read
    assert not read & {"skb", "cred", "iov_iter"}


def test_hooks() -> None:
    (hook,) = TETRAGON.tools().events("security_mmap").json["tracing_hooks"]
    assert (hook["section"], hook["event"], list(hook["args"])) == ("kprobes, fentries", "file.mmap", ["0", "1", "2"])
