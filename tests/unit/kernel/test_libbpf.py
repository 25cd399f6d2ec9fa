# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import os
import select
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from bpfence.errors import KernelError
from bpfence.kernel import libbpf
from bpfence.kernel._libbpf import lib
from bpfence.kernel.engine import OBJECT
from bpfence.kernel.libbpf import Drain, KernelBtf, Map, Object
from bpfence.kernel.sharing import OBJECT as SHARED

KERNEL_TYPES = Path("/sys/kernel/btf/vmlinux")

VERIFIER_LOG = """\
libbpf: prog 'file_open__file': BPF program load failed: Permission denied
libbpf: prog 'file_open__file': -- BEGIN PROG LOAD LOG --
0: R1=ctx(off=0,imm=0) R10=fp0
; return *(int *)0x1234;
0: (b7) r1 = 4660
1: (61) r0 = *(u32 *)(r1 +0)
R1 invalid mem access 'scalar'
processed 2 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
-- END PROG LOAD LOG --
libbpf: prog 'file_open__file': failed to load: -13
libbpf: failed to load object 'bpfence'
"""
NO_TARGET_LOG = """\
libbpf: prog 'uring_cmd__system': failed to find kernel BTF type ID of 'bpf_lsm_uring_cmd': -3
libbpf: prog 'uring_cmd__system': failed to prepare load attributes: -3
libbpf: prog 'uring_cmd__system': failed to load: -3
libbpf: failed to load object 'bpfence'
"""
RELOCATION_LOG = """\
libbpf: prog 'path_walk_chunk': relo #3: unresolved relocation, poisoning
libbpf: prog 'sb_umount__system': relo #7: failed to relocate: -22
libbpf: failed to perform CO-RE relocations: -22
"""
MAP_LOG = "libbpf: map 'alerts': failed to create: Invalid argument(-22)\nlibbpf: failed to load object 'bpfence'\n"


def test_verifier_log_names_the_program_and_the_last_lines() -> None:
    failure = libbpf.parse_load_log(-errno.EACCES, VERIFIER_LOG)
    assert failure.program == "file_open__file"
    assert failure.number == errno.EACCES
    assert failure.reason.startswith("EACCES: ")
    assert failure.reason.endswith("R1 invalid mem access 'scalar'")
    assert "processed" not in failure.reason


def test_missing_attach_target_is_blamed_on_its_program() -> None:
    failure = libbpf.parse_load_log(-errno.ESRCH, NO_TARGET_LOG)
    assert failure.program == "uring_cmd__system"
    assert "bpf_lsm_uring_cmd" in failure.reason


def test_failed_relocation_is_blamed_on_its_program() -> None:
    assert libbpf.parse_load_log(-errno.EINVAL, RELOCATION_LOG.splitlines(keepends=True)[1]).program == "sb_umount__system"


def test_failure_without_a_program_blames_none() -> None:
    failure = libbpf.parse_load_log(-errno.EINVAL, MAP_LOG)
    assert failure.program == ""
    assert "map 'alerts'" in failure.reason


@pytest.mark.parametrize("number", sorted(libbpf.ERRORS))
def test_every_known_errno_gives_a_kernel_error_with_its_hint(number: int) -> None:
    error = libbpf.failure(-number, "doing it", "libbpf: last words\n")
    assert str(error).startswith("doing it: ")
    assert "last words" in str(error)
    assert error.hint == libbpf.ERRORS[number].hint
    assert error.exit_code == 3


def test_unknown_errno_keeps_its_name() -> None:
    assert "(EXDEV)" in str(libbpf.failure(errno.EXDEV, "doing it"))


def test_log_in_an_exception_is_its_end_only() -> None:
    text = str(libbpf.failure(errno.EINVAL, "x", "\n".join(f"line {n}." for n in range(100))))
    assert "line 99." in text
    assert f"line {99 - libbpf.LOG_LINES}." not in text


def test_check_passes_results_on() -> None:
    assert libbpf.check(7, "x") == 7
    with pytest.raises(KernelError, match="EBUSY"):
        libbpf.check(-errno.EBUSY, "x")


def test_opening_what_is_no_object_tells_the_file(tmp_path: Path) -> None:
    bad = tmp_path / "bad.o"
    bad.write_bytes(b"not an ELF file at all" * 10)
    with pytest.raises(KernelError, match=r"bad\.o"):
        Object(bad)


def test_object_lists_programs_maps_and_constants(ring_object: Path) -> None:
    with Object(ring_object) as parsed:
        assert set(parsed.programs) == {"write_records", "refused"}
        assert {"alerts", "telemetry", "counters", "table", ".rodata", ".bss"} <= set(parsed.maps)
        assert set(parsed.constants()) == {"have_bpf_loop", "large", "flag", "record_size"}
        assert parsed.section("write_records") == "raw_tp/sys_enter"


def test_constants_are_found_by_name_and_leave_their_neighbours_alone(ring_object: Path) -> None:
    with Object(ring_object) as parsed:
        assert parsed.constant("have_bpf_loop") == 7
        assert parsed.constant("large") == 0x1122334455667788
        parsed.set_constant("have_bpf_loop", 0xDEADBEEF)
        parsed.set_constant("flag", True)
        assert parsed.constant("have_bpf_loop") == 0xDEADBEEF
        assert parsed.constant("flag") == 1
        assert parsed.constant("large") == 0x1122334455667788
        assert parsed.constant("record_size") == 40


def test_wrong_constants_are_refused(ring_object: Path) -> None:
    with Object(ring_object) as parsed:
        with pytest.raises(KeyError):
            parsed.set_constant("no_such_constant", 1)
        with pytest.raises(OverflowError):
            parsed.set_constant("have_bpf_loop", 1 << 32)


def test_refused_program_is_named(ring_object: Path, needs: Callable[..., None]) -> None:
    needs("cap_bpf", "cap_perfmon")
    with Object(ring_object) as parsed:
        parsed.choose("write_records")
        parsed.choose("refused")
        failure = parsed.load()
    assert failure
    assert failure.program == "refused"
    assert "invalid mem access" in failure.reason


@pytest.fixture
def loaded(ring_object: Path, needs: Callable[..., None]) -> Object:
    needs("cap_bpf", "cap_perfmon", "ring_buffer")
    parsed = Object(ring_object)
    parsed.choose("write_records")
    assert parsed.load() is None
    return parsed


def run(parsed: Object, times: int) -> None:
    assert lib.bpfence_run(parsed.fd("write_records"), times) == 0


def number(record: bytes) -> int:
    return int(struct.unpack_from("<I", record)[0])


def test_drain_takes_alerts_first_and_whole_records(loaded: Object) -> None:
    maps = loaded.take_maps()
    drain = Drain([maps["alerts"], maps["telemetry"]], max_records=100, max_bytes=1 << 16)
    assert drain.read(0) == []
    run(loaded, 1)
    records = drain.read(1000)
    assert [name for name, _ in records] == ["alerts", "telemetry", "telemetry"]
    assert {len(record) for _, record in records} == {40}
    assert drain.read(0) == []
    drain.close()
    loaded.close()


def test_drain_batches_are_bounded_and_lose_nothing(loaded: Object) -> None:
    maps = loaded.take_maps()
    drain = Drain([maps["alerts"], maps["telemetry"]], max_records=4, max_bytes=1 << 16)
    run(loaded, 25)
    seen: dict[str, int] = {"alerts": 0, "telemetry": 0}
    while batch := drain.read(0):
        assert len(batch) <= 4
        for name, _ in batch:
            seen[name] += 1
    assert seen == {"alerts": 25, "telemetry": 50}
    assert drain.failed() == 0
    drain.close()
    loaded.close()


def test_drain_batch_ends_after_max_bytes(loaded: Object) -> None:
    maps = loaded.take_maps()
    drain = Drain([maps["alerts"], maps["telemetry"]], max_records=1000, max_bytes=100)
    run(loaded, 10)
    assert len(drain.read(0)) == 3  # the third record of 40 bytes passes 100
    drain.close()
    loaded.close()


def test_drain_descriptor_becomes_readable(loaded: Object) -> None:
    maps = loaded.take_maps()
    drain = Drain([maps["alerts"], maps["telemetry"]], max_records=100, max_bytes=1 << 16)
    poll = select.poll()
    poll.register(drain.fileno(), select.POLLIN)
    assert poll.poll(0) == []
    run(loaded, 1)
    assert poll.poll(1000)
    drain.close()
    with pytest.raises(ValueError, match="closed"):
        drain.read(0)
    loaded.close()


def test_interpreter_runs_on_while_a_drain_waits(loaded: Object) -> None:
    maps = loaded.take_maps()
    drain = Drain([maps["alerts"], maps["telemetry"]], max_records=100, max_bytes=1 << 16)
    found: list[int] = []
    waiter = threading.Thread(target=lambda: found.append(len(drain.read(20_000))))
    waiter.start()
    run(loaded, 1)  # would never come to pass if the waiting thread held the interpreter
    waiter.join(10)
    assert found
    assert found[0] >= 1
    drain.close()
    loaded.close()


def test_loaded_constants_reach_the_program(ring_object: Path, needs: Callable[..., None]) -> None:
    needs("cap_bpf", "cap_perfmon", "ring_buffer")
    with Object(ring_object) as parsed:
        parsed.set_constant("record_size", 24)
        parsed.choose("write_records")
        assert parsed.load() is None
        drain = Drain([parsed.take_maps()["alerts"]], max_records=10, max_bytes=1 << 16)
        run(parsed, 1)
        assert [len(record) for _, record in drain.read(1000)] == [24]
        drain.close()


def test_second_object_shares_the_maps_of_the_first(loaded: Object, ring_object: Path) -> None:
    maps = loaded.take_maps()
    with Object(ring_object) as second:
        second.share(maps)
        second.choose("write_records")
        assert second.load() is None
        run(loaded, 2)
        run(second, 3)
    counted = maps["counters"].get_per_cpu(struct.pack("<I", 0))
    assert sum(struct.unpack("<I", value)[0] for value in counted) == 5
    loaded.close()


def test_map_reads_writes_and_deletes(loaded: Object) -> None:
    table = loaded.take_maps()["table"]
    keys = [struct.pack("<Q", n) for n in range(10)]
    assert table.get(keys[0]) is None
    table.put(keys[0], b"abcd")
    assert table.get(keys[0]) == b"abcd"
    table.put_many(b"".join(keys), b"wxyz" * 10)
    assert sorted(table.all_keys()) == keys
    assert table.delete(keys[3])
    assert not table.delete(keys[3])
    table.delete_many(b"".join(keys[:6]))
    assert sorted(table.all_keys()) == keys[6:]
    with pytest.raises(ValueError, match="8 bytes"):
        table.get(b"short")
    with pytest.raises(KernelError, match="E2BIG"):
        table.put_many(b"".join(struct.pack("<Q", n) for n in range(100, 120)), bytes(80))
    loaded.close()


def test_map_closes_once(loaded: Object) -> None:
    table = loaded.take_maps()["table"]
    fd = table.fd
    table.close()
    table.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    loaded.close()


def test_what_is_larger_than_a_page_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        libbpf.new_page("page", 65536, memoryview(bytes(65537)))


def test_a_page_begins_with_its_data(needs: Callable[..., None]) -> None:
    needs("cap_bpf")
    page = Map("page", libbpf.new_page("page", 8192, memoryview(b"a" * 5000)))
    assert page.get(bytes(4)) == b"a" * 5000 + bytes(3192)
    assert page.max_entries == 1
    page.close()


def test_atomic_words() -> None:
    memory = memoryview(bytearray(16))
    libbpf.store_u32(memory, 4, 0x01020304)
    assert bytes(memory) == bytes(4) + b"\x04\x03\x02\x01" + bytes(8)
    assert libbpf.load_u32(memory, 4) == 0x01020304


def test_kernel_types_tell_parameters(needs: Callable[..., None]) -> None:
    needs("kernel_btf")
    with KernelBtf() as btf:
        functions = btf.functions("security_file_")
        assert functions["security_file_open"].parameters == ("file *",)
        assert functions["security_file_permission"].parameters == ("file *", "int")
        assert btf.has_function("security_file_open")
        assert not btf.has_function("security_no_such_thing")
        assert btf.has_structure("task_struct")
        assert not btf.has_structure("no_such_thing")
        assert "BPF_FUNC_map_lookup_elem" in btf.enumerators("bpf_func_id")
        assert btf.enumerators("no_such_enum") == frozenset()
        assert "btf_trace_sched_process_exec" in btf.typedefs("btf_trace_sched_process_")


def test_messages_of_threads_do_not_mix(tmp_path: Path) -> None:
    bad = tmp_path / "bad.o"
    bad.write_bytes(b"\x7fELF" + bytes(100))
    texts: list[str] = []

    def quiet() -> None:
        with libbpf.messages() as log:
            with pytest.raises(KernelError):
                Object(tmp_path / "missing.o")
            texts.append(log.text())

    thread = threading.Thread(target=quiet)
    with libbpf.messages() as log:
        with pytest.raises(KernelError):
            Object(bad)
        thread.start()
        thread.join()
        assert "bad.o" in log.text()
        assert "missing.o" not in log.text()
    assert "missing.o" in texts[0]


def relocations(parsed: Object) -> list[str]:
    """What libbpf says it has found of the kernel's types; this kernel may refuse the programs, which comes after."""
    for program in parsed.programs:
        if not parsed.section(program).startswith("freplace/"):
            parsed.choose(program)
    parsed.load(debug=True)
    return sorted(line for line in libbpf.Messages().text().splitlines() if ": relo #" in line)


def test_in_the_copy_of_the_kernels_types_the_same_is_found_as_in_all_of_them(needs: Callable[..., None]) -> None:
    needs("cap_bpf", "cap_perfmon", "kernel_btf")
    path = OBJECT.with_name(SHARED)
    with Object(path) as parsed:
        assert parsed._types >= 0
        assert os.fstat(parsed._types).st_size < KERNEL_TYPES.stat().st_size
        found = relocations(parsed)
    with Object(path) as parsed:
        os.ftruncate(parsed._types, 0)
        os.pwrite(parsed._types, KERNEL_TYPES.read_bytes(), 0)
        assert relocations(parsed) == found
    assert any("task_struct" in line for line in found)


def test_the_copy_of_the_types_is_closed_with_the_object(ring_object: Path) -> None:
    parsed = Object(ring_object)
    descriptor = parsed._types
    parsed.close()
    if descriptor >= 0:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
