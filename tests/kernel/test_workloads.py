# SPDX-License-Identifier: Apache-2.0
"""Who a process works for, as its record in the kernel says."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest

from bpfence import abi
from bpfence.kernel.engine import decode_process_record
from tests.kernel.cases import Case
from tests.kernel.harness import Range, cgroup_folder
from tests.kernel.test_uncertain import forget_word, kernel_map, waiting


@pytest.mark.parametrize("below", ["", "/a/b/c"])
@pytest.mark.parametrize("workload", [7, abi.WORKLOAD_UNKNOWN])
def test_the_class_of_the_cgroup_is_in_the_record(shooting: Range, cases: list[Case], workload: int, below: str) -> None:
    case = next(case for case in cases if case.name == "open-by-path")
    shooting.load_alone(case)
    folder = cgroup_folder(case.cgroup)
    cgroup = struct.pack("<Q", folder.stat().st_ino)
    folder = Path(f"{folder}{below}")
    folder.mkdir(parents=True, exist_ok=True)
    own = folder.stat().st_ino
    with kernel_map("workloads") as workloads, kernel_map("processes") as processes:
        if workload:
            workloads.put(cgroup, abi.WORKLOAD_STRUCT.pack(workload, workload))
        try:
            acts = ["pace", "300", "10", "open", str(case.directory / "secret")]
            with waiting(acts, folder) as process:
                key = struct.pack("<I", process.pid)
                value = bytearray(processes.get(key) or b"")
                struct.pack_into("<I", value, abi.PROCESS_RECORD_OFFSETS["generation"], 0)
                processes.put(key, bytes(value))
                forget_word(process.pid)
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
                found = decode_process_record(bytes(value))
                while not found.generation and process.poll() is None:
                    time.sleep(0.01)
                    found = decode_process_record(processes.get(key) or bytes(value))
        finally:
            for made in (folder, *folder.parents)[: below.count("/")]:
                made.rmdir()
            if workload:
                workloads.delete(cgroup)
    assert (found.workload, found.cgroup) == (workload, own)
    shooting.agent.settle()
